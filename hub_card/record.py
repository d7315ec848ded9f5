"""What a run was made with: a callback keeps it in trainer_state.json, from where the card takes it."""

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

PACKAGES = ("seqblend", "torch", "transformers", "datasets", "tokenizers", "accelerate")
# What decides a result. Nothing else of the arguments is told: others hold paths, names and tokens.
HYPERPARAMETERS = (
    *("learning_rate", "per_device_train_batch_size", "max_tokens_per_batch", "gradient_accumulation_steps"),
    *("num_train_epochs", "max_steps", "early_stopping_patience"),
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "optim", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "train_sampling_strategy", "bf16", "fp16", "tf32", "torch_compile"),
    *("neftune_noise_alpha", "generation_max_length", "generation_num_beams", "seed"),
    *("data_seed", "full_determinism"),
)
# What a reader looks for first, even where it is the default.
ALWAYS = (*HYPERPARAMETERS[:2], "num_train_epochs", "lr_scheduler_type", "optim", "seed")


class RunRecord(TrainerCallback, ExportableState):
    """Keeps the versions, the hardware, the hyperparameters and the time of a run, over all its resumptions.

    It works with any Trainer; BlendTrainer has one. What it keeps stands in trainer_state.json, under
    `stateful_callbacks`, beside the log of losses and metrics that the Trainer itself keeps there.
    """

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        # Set by BlendTrainer: the name of the run, and the facts that differ from the checkpoint that it is resumed
        # from, as step, name, and the value before and after it.
        self.run: str | None = None
        self.changes: list[tuple[int, str, Any, Any]] = []
        self._start, self._before = time.monotonic(), 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note what is known before the first step; what an interrupted run had kept goes on."""
        kept = (state.stateful_callbacks.get(type(self).__name__) or {}) if state.global_step else {}
        earlier = kept.get("attributes", {}).get("facts", {})
        self._start, self._before = time.monotonic(), earlier.get("seconds", 0.0)
        self.facts = {
            "started": earlier.get("started", datetime.datetime.now(datetime.timezone.utc).date().isoformat()),
            "versions": versions(),
            "hardware": hardware(args),
            "hyperparameters": hyperparameters(args),
            "changes": [*earlier.get("changes", []), *self.changes],
        }
        if self.run is not None:
            self.facts["run"] = self.run

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave it to Trainer.save_state, which writes what the last checkpoint had."""
        state.stateful_callbacks[type(self).__name__] = self.state()

    def state(self) -> dict[str, Any]:
        """What goes into trainer_state.json; called for every checkpoint."""
        seconds = round(self._before + time.monotonic() - self._start, 1)
        # Before training there is nothing to keep.
        return {"args": {}, "attributes": {"facts": {**self.facts, "seconds": seconds} if self.facts else {}}}


def versions() -> dict[str, str]:
    """The packages that made a run."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # seqblend, where it runs from a repository's code
            continue
    return found


def hardware(args: TrainingArguments) -> str:
    """What a run used, as `1 × NVIDIA H200` or `2 CPU threads`."""
    if args.device.type == "cuda":
        return f"{args.world_size} × {torch.cuda.get_device_name(args.device)}"
    count = torch.get_num_threads()
    threads = f"{count} CPU thread{'s' * (count > 1)}" if args.device.type == "cpu" else args.device.type
    return threads if args.world_size == 1 else f"{args.world_size} processes of {threads}"


def hyperparameters(args: TrainingArguments) -> list[tuple[str, str]]:
    """Those that differ from transformers' defaults, then others that readers look for, with "(default)".

    Pairs, because trainer_state.json sorts the keys of a mapping.
    """
    defaults = {field.name: field.default for field in fields(Seq2SeqTrainingArguments)}
    given = {name: getattr(args, name) for name in HYPERPARAMETERS if hasattr(args, name)}
    if args.max_steps > 0:
        # Which overrides it.
        given.pop("num_train_epochs")
    if given.get("max_tokens_per_batch") is not None:
        # Which it stands in for.
        given.pop("per_device_train_batch_size")
    changed = {name: shown(value) for name, value in given.items() if value not in (defaults.get(name), None)}
    rest = {name: f"{shown(given[name])} (default)" for name in ALWAYS if name in given and name not in changed}
    return [*changed.items(), *rest.items()]


def shown(value: Any) -> str:
    """A value as the command line has it; a whole number, which transformers may keep as 2.0, without its point."""
    value = getattr(value, "value", value)
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def as_words(value: str | list[str]) -> list[str]:
    """The words of a text, or of a sentence that is given in words."""
    return value.split() if isinstance(value, str) else value


def shown_example(rows: datasets.DatasetDict, task: Task) -> dict[str, str | list[str]]:
    """A row for the card to show, where there are no predictions to take it from.

    It is the last split's first with some words in it: of "?" there is nothing to mask, and nothing to go on from. A
    row that holds what looks like a secret is not shown.
    """
    if "test" in rows and task.has_answers:
        return {}
    split = rows[list(rows)[-1]]
    split = split.head if isinstance(split, RowStream) else split
    inputs, known = [name for name in task.inputs if name in split.column_names], dict(known_secrets(set()))
    found = [[row[name] for name in inputs] for row in split.select(range(min(1000, len(split)))) if row[inputs[0]]]
    found = [row for row in found if is_public(row, known)]
    example = next((row for row in found if len(as_words(row[0])) > 5), found[0] if found else None)
    return {} if example is None else {"example": example if len(example) > 1 else example[0]}
