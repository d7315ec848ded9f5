"""Kill training at random moments, resume it, and compare: `python -m seqblend.benchmarks.resume_torture`.

For each task shape, and for a BERT that was converted to a classifier, with a map-style and a streamed dataset, one
reference run is not interrupted. Other runs are killed by SIGKILL in a step, while a checkpoint is written or in an
evaluation, and resumed. The command prints the table of docs/reliability.md; its exit code is 1 if a resumed run ends
differently from the reference run.
"""

import argparse
import contextlib
import gc
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PrinterCallback,
    set_seed,
)
from transformers.utils import logging

from .. import (
    BlendEncoderConfig,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
    from_original,
    to_original,
)
from ..checkpoints.store import clear_stage, newest_good
from ..configuration.checks import unknown_name_message
from ..training.arguments import BlendTrainingArguments
from ..training.trainer import BlendTrainer

CONVERTED = "N21, converted"
SHAPES = ("N21", "N2N", "N2M", CONVERTED)
SOURCES = ("map", "stream")
MOMENTS = ("step", "checkpoint", "evaluation")
# File with the results of a run, which must be the same for every run.
RESULT = "result"
SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
ROWS, STEPS = 20, 10


def model_for(shape: str) -> PreTrainedModel:
    """A small model with dropout and fixed initial weights."""
    set_seed(0)
    if shape == CONVERTED:
        return converted_bert()
    parts = {**SIZES, "num_hidden_layers": 2, "hidden_dropout": 0.2, "pad_token_id": 0}
    if shape == "N2M":
        config = BlendEncoderDecoderConfig.from_recipe("default", decoder_start_token_id=1, **parts)
        return BlendEncoderDecoderForSeq2SeqLM(config)
    heads = {"N21": BlendEncoderForSequenceClassification, "N2N": BlendEncoderForTokenClassification}
    return heads[shape](BlendEncoderConfig.from_recipe("default", num_labels=3, **parts))


def converted_bert() -> PreTrainedModel:
    """A small BERT of transformers, converted to a classifier of this package with dropout."""
    config = BertConfig(num_hidden_layers=2, hidden_dropout_prob=0.2, num_labels=3, **SIZES)
    stock = BertForSequenceClassification(config)
    with tempfile.TemporaryDirectory() as directory:
        stock.save_pretrained(directory)
        return from_original(directory, AutoModelForSequenceClassification)


def rows_for(shape: str) -> datasets.Dataset:
    """Fixed random rows of different lengths."""
    rng = random.Random(0)
    sources = [[rng.randrange(3, 50) for _ in range(rng.randrange(4, 24))] for _ in range(ROWS)]
    labels = {
        "N21": [len(row) % 3 for row in sources],
        "N2N": [[token % 3 for token in row] for row in sources],
        "N2M": [row[::-2] for row in sources],
    }
    labels[CONVERTED] = labels["N21"]
    return datasets.Dataset.from_dict({"input_ids": sources, "labels": labels[shape]})


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A padded batch: input_ids and attention_mask (B, S), labels (B,) or (B, T)."""

    def pad(name: str, value: int) -> torch.Tensor:
        width = max(len(row[name]) for row in rows)
        return torch.tensor([[*row[name], *[value] * (width - len(row[name]))] for row in rows])

    batch = {"input_ids": pad("input_ids", 0)}
    batch["attention_mask"] = batch["input_ids"].ne(0).long()
    is_list = isinstance(rows[0]["labels"], list)
    batch["labels"] = pad("labels", -100) if is_list else torch.tensor([row["labels"] for row in rows])
    return batch


class WatchedTrainer(BlendTrainer):
    """A BlendTrainer that writes the start and end of steps, checkpoints and evaluations to a journal."""

    def __init__(self, journal: Path, **kwargs: Any):
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        super().__init__(scorers={}, **kwargs)

    @contextlib.contextmanager
    def record_moment(self, moment: str) -> Iterator[None]:
        """Write the name of the moment to the journal at its start, and a dash at its end. Moments are not nested."""
        os.write(self.journal, f"{moment} {time.monotonic()}\n".encode())
        yield
        os.write(self.journal, f"- {time.monotonic()}\n".encode())

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.record_moment("step"):
            return super().training_step(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.record_moment("checkpoint"):
            super()._save_checkpoint(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.record_moment("evaluation"):
            return super().evaluate(*args, **kwargs)


def train(shape: str, source: str, directory: Path) -> None:
    """Train to the end, from the newest good checkpoint if there is one, and write the results to RESULT.

    Evaluate and save every second step. A step has two batches, an epoch seven, the last one smaller.
    """
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    rows = rows_for(shape)
    args = BlendTrainingArguments(
        output_dir=str(directory),
        max_steps=STEPS,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=2,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        disable_tqdm=True,
        report_to="none",
        use_cpu=True,
    )
    trainer = WatchedTrainer(
        directory / "journal",
        model=model_for(shape),
        args=args,
        train_dataset=rows if source == "map" else rows.to_iterable_dataset(num_shards=2),
        eval_dataset=rows.select(range(12)),
        data_collator=collate,
    )
    trainer.remove_callback(PrinterCallback)
    clear_stage(directory)
    trainer.train(resume_from_checkpoint=newest_good(directory))
    state = trainer.state
    best = (state.best_global_step, Path(state.best_model_checkpoint or "").name, state.best_metric)
    digests = [digest(trainer.model.state_dict()), digest(last_state(directory)), str(best)]
    if shape == CONVERTED:
        to_original(trainer.model, directory / "original")
        digests.append(digest(load_file(directory / "original" / "model.safetensors")))
    (directory / RESULT).write_text("\n".join(digests))


def last_state(directory: Path) -> dict[str, Any]:
    """State of the optimizer and the scheduler after the last step."""
    folder = directory / f"checkpoint-{STEPS}"
    optimizer = torch.load(folder / "optimizer.pt", weights_only=True)
    states = {f"{i}.{name}": each for i, state in optimizer["state"].items() for name, each in state.items()}
    scheduler = torch.load(folder / "scheduler.pt", weights_only=True)
    return {**states, "rate": torch.tensor(scheduler["_last_lr"], dtype=torch.double)}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the bytes of all tensors."""
    sha = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        sha.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


@dataclass
class Tally:
    """Counts of killed runs by moment, and of equal and different results."""

    killed: Counter = field(default_factory=Counter)
    equal: int = 0
    different: int = 0


def start_training(*args: Any) -> Any:
    """Start train(*args) in a new process."""
    run = FORK.Process(target=train, args=args)
    run.start()
    return run


def kill_one(
    shape: str, source: str, moment: str, reference_moments: list[tuple[str, float]], directory: Path
) -> str | None:
    """Start a run and kill it at a random time inside a random occurrence of `moment`.

    Args:
        shape: one of SHAPES.
        source: one of SOURCES.
        moment: one of MOMENTS.
        reference_moments: the moments of the reference run, with their durations in seconds.
        directory: output directory of the run.

    Returns:
        The moment in which the run was killed, or `between`; None if the run ended before.
    """
    index = random.choice([i for i, (name, _) in enumerate(reference_moments) if name == moment])
    delay = random.random() * reference_moments[index][1]
    run = start_training(shape, source, directory)
    while run.is_alive() and len(journal(directory)) <= index:
        time.sleep(0.002)
    time.sleep(delay)
    run.kill()
    run.join()
    if run.exitcode != -signal.SIGKILL:
        return None
    last = (directory / "journal").read_text().splitlines()[-1].split()[0]
    return "between" if last == "-" else last


def journal(directory: Path) -> list[tuple[str, float]]:
    """The moments that a run has started, with their durations in seconds; 0 for one that has not ended."""
    path = directory / "journal"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    begun = [i for i, line in enumerate(lines) if line[0] != "-"]
    return [(lines[i][0], float(lines[min(i + 1, len(lines) - 1)][1]) - float(lines[i][1])) for i in begun]


def train_to_end(shape: str, source: str, directory: Path) -> str:
    """Train until the run ends; returns its results, or the exit code."""
    run = start_training(shape, source, directory)
    run.join()
    return (directory / RESULT).read_text() if run.exitcode == 0 else f"exit code {run.exitcode}"


def compare_killed_runs(shape: str, source: str, kills: int) -> Tally:
    """Kill `kills` runs, resume each, and compare the results with those of a reference run."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "alone")
        reference.mkdir()
        expected, moments = train_to_end(shape, source, reference), journal(reference)
        assert expected == train_to_end(shape, source, reference), (
            "resuming a finished run must not change its results"
        )
        while sum(tally.killed.values()) < kills:
            directory = Path(folder, "killed")
            directory.mkdir()
            killed = kill_one(shape, source, MOMENTS[sum(tally.killed.values()) % 3], moments, directory)
            if killed is not None:
                tally.killed[killed] += 1
                is_equal = train_to_end(shape, source, directory) == expected
                tally.equal, tally.different = tally.equal + is_equal, tally.different + (not is_equal)
            shutil.rmtree(directory)
    return tally


def table_row(*cells: Any) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table row by row; returns 1 if a result differs, else 0."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.benchmarks.resume_torture", description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"one of {', '.join(SHAPES)}; default: all")
    parser.add_argument("--kills", type=int, default=20, help="number of kills per shape and dataset kind")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random times")
    args = parser.parse_args(arguments)
    for shape in args.shapes:
        if shape not in SHAPES:
            parser.error(unknown_name_message("shape", shape, list(SHAPES)))
    random.seed(args.seed)
    # Runs are forked from this process, which has imported everything; forking is safe only without running threads.
    torch.set_num_threads(1)
    # Imported objects are no garbage: the collector of each run need not scan them.
    gc.freeze()
    header = ("shape", "rows", "killed", *(f"in {name}" for name in MOMENTS), "between", "equal", "different")
    print(table_row(*header), table_row(*["---"] * len(header)), sep="\n", flush=True)
    different = 0
    for shape in args.shapes or SHAPES:
        for source in SOURCES:
            tally = compare_killed_runs(shape, source, args.kills)
            places = [tally.killed[name] for name in (*MOMENTS, "between")]
            print(table_row(shape, source, sum(places), *places, tally.equal, tally.different), flush=True)
            different += tally.different
    return int(different > 0)


FORK = multiprocessing.get_context("fork")

if __name__ == "__main__":
    sys.exit(main())
