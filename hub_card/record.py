"""The record of a run for the card: a callback writes versions, hardware and hyperparameters to trainer_state.json."""

import datetime
import platform
import time
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import datasets
import torch
from transformers import Seq2SeqTrainingArguments, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from ..data.streams import RowStream
from ..tasks.base import Task
from .secrecy import is_public, known_secrets
from .usage import as_messages, as_text, is_conversation

PACKAGES = ("seqblend", "torch", "transformers", "datasets", "tokenizers", "accelerate")
# Arguments that affect the result. No others are published, because they may hold paths, names and tokens.
HYPERPARAMETERS = (
    *("learning_rate", "per_device_train_batch_size", "max_tokens_per_batch", "gradient_accumulation_steps"),
    *("num_train_epochs", "max_steps", "early_stopping_patience", "average_checkpoints"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "train_sampling_strategy", "bf16", "fp16", "tf32", "torch_compile"),
    *("neftune_noise_alpha", "generation_max_length", "generation_num_beams", "seed"),
    *("data_seed", "full_determinism", "load_best_model_at_end", "metric_for_best_model"),
)
# Shown even with their default values.
ALWAYS_SHOWN = (*HYPERPARAMETERS[:2], "num_train_epochs", "lr_scheduler_type", "optim", "seed")


class RunRecord(TrainerCallback, ExportableState):
    """Records versions, hardware, hyperparameters and time of a run, including all its resumptions.

    It works with any Trainer; BlendTrainer adds it. The record is in trainer_state.json, under `stateful_callbacks`,
    beside the Trainer's log of losses and metrics.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        # Set by BlendTrainer: `best_step` of the facts, if the best model is loaded at the end; the name of the run;
        # and the facts that differ from those of the checkpoint that it is resumed from: step, name, old value, new
        # value.
        self.run: str | None = None
        self.changes: list[tuple[int, str, Any, Any]] = []
        self._start, self._before = time.monotonic(), 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Record the facts known before the first step, and continue the record of an interrupted run."""
        record = (state.stateful_callbacks.get(type(self).__name__) or {}) if state.global_step else {}
        earlier = record.get("attributes", {}).get("facts", {})
        self._start, self._before = time.monotonic(), earlier.get("seconds", 0.0)
        found = state.train_batch_size // max(1, args.n_gpu) if args.auto_find_batch_size else None
        self.facts = {
            "started": earlier.get("started", datetime.datetime.now(datetime.UTC).date().isoformat()),
            "versions": versions(),
            "hardware": hardware(args),
            "hyperparameters": hyperparameters(args, found),
            "changes": [*earlier.get("changes", []), *self.changes],
        }
        if self.run is not None:
            self.facts["run"] = self.run

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the state of the Trainer, so that Trainer.save_state does not write that of the last checkpoint."""
        state.stateful_callbacks[type(self).__name__] = self.state()

    def state(self) -> dict[str, Any]:
        """The content for trainer_state.json; called for every checkpoint."""
        seconds = round(self._before + time.monotonic() - self._start, 1)
        # Before training there are no facts.
        return {"args": {}, "attributes": {"facts": {**self.facts, "seconds": seconds} if self.facts else {}}}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that affect a run."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # seqblend, if its source is used without installation
            continue
    return found


def hardware(args: TrainingArguments) -> str:
    """The hardware of a run, such as `1 × NVIDIA H200` or `2 CPU threads`."""
    if args.device.type == "cuda":
        return f"{args.world_size} × {torch.cuda.get_device_name(args.device)}"
    count = torch.get_num_threads()
    threads = f"{count} CPU thread{'s' * (count > 1)}" if args.device.type == "cpu" else args.device.type
    return threads if args.world_size == 1 else f"{args.world_size} processes of {threads}"


def software_and_hardware(args: TrainingArguments) -> dict[str, str]:
    """The versions of the packages, and the machine, for the results."""
    return {
        "versions": ", ".join(f"{package} {number}" for package, number in versions().items()),
        "machine": hardware(args),
    }


def hyperparameters(args: TrainingArguments, batch_size: int | None = None) -> list[tuple[str, str]]:
    """Hyperparameters that differ from the defaults of transformers, then those of ALWAYS_SHOWN with "(default)".

    The result is a list of pairs, because trainer_state.json sorts the keys of a mapping.

    Args:
        args: of the run.
        batch_size: what auto_find_batch_size has found for per_device_train_batch_size; None without it.
    """
    defaults = {field.name: field.default for field in fields(Seq2SeqTrainingArguments)}
    given = {name: getattr(args, name) for name in HYPERPARAMETERS if hasattr(args, name)}
    if batch_size is not None:
        given["per_device_train_batch_size"] = batch_size
    if args.max_steps > 0:
        # max_steps overrides it.
        given.pop("num_train_epochs")
    if given.get("max_tokens_per_batch") is not None:
        # max_tokens_per_batch replaces it.
        given.pop("per_device_train_batch_size")
    changed = {name: format_value(value) for name, value in given.items() if value not in (defaults.get(name), None)}
    rest = {
        name: f"{format_value(given[name])} (default)"
        for name in ALWAYS_SHOWN
        if name in given and name not in changed
    }
    return [*changed.items(), *rest.items()]


def format_value(value: Any) -> str:
    """A value as on the command line; whole numbers without a point, because transformers may store 2 as 2.0."""
    value = getattr(value, "value", value)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def as_words(value: str | list) -> list[str]:
    """The words of a text, of a sentence that is already a list of words, or of messages."""
    if isinstance(value, str):
        return value.split()
    return as_text(value).split() if is_conversation(value) else value


def select_example(rows: datasets.DatasetDict, task: Task) -> dict[str, str | list[str]]:
    """The example for the card, if there are no predictions for the test split.

    It is the first row of the last split with more than five words: in a text such as "?" there is nothing to mask or
    to continue. If no row has so many, it is the first row. Rows that contain a secret are not selected.

    Returns:
        `{"example": row}`, or an empty dict.
    """
    if "test" in rows and task.has_answers:
        return {}
    split = rows[list(rows)[-1]]
    split = split.head if isinstance(split, RowStream) else split
    inputs, known = [name for name in task.inputs if name in split.column_names], dict(known_secrets(set()))
    found = [[row[name] for name in inputs] for row in split.select(range(min(1000, len(split)))) if row[inputs[0]]]
    found = [row for row in found if is_public(row, known)]
    found = [[as_messages(each) if is_conversation(each) else each for each in row] for row in found]
    example = next((row for row in found if len(as_words(row[0])) > 5), found[0] if found else None)
    return {} if example is None else {"example": example if len(example) > 1 else example[0]}
