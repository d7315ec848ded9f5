"""Kill training at random moments, resume it, and compare: `python -m seqblend.benchmarks.resume_torture`.

For each task shape, with rows in a set and rows in a stream, one run is left alone. Others are killed by SIGKILL in a
step, in the write of a checkpoint or in an evaluation, and resumed. The command prints a table of docs/reliability.md;
its exit code is 1 where a run ended otherwise than the one that was left alone.
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
from transformers import PreTrainedModel, PrinterCallback, set_seed
from transformers.utils import logging

from .. import (
    BlendEncoderConfig,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
)
from ..checkpoints.store import clear_stage, newest_good
from ..configuration.base import unknown
from ..training.arguments import BlendTrainingArguments
from ..training.trainer import BlendTrainer

SHAPES = ("N21", "N2N", "N2M")
SOURCES = ("map", "stream")
MOMENTS = ("step", "checkpoint", "evaluation")
# What a run leaves behind that must be the same.
RESULT = "result"
SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
ROWS, STEPS = 20, 10


def model_for(shape: str) -> PreTrainedModel:
    """A small model with dropout, always the same one."""
    set_seed(0)
    parts = {**SIZES, "num_hidden_layers": 2, "hidden_dropout": 0.2, "pad_token_id": 0}
    if shape == "N2M":
        config = BlendEncoderDecoderConfig.from_recipe("default", decoder_start_token_id=1, **parts)
        return BlendEncoderDecoderForSeq2SeqLM(config)
    heads = {"N21": BlendEncoderForSequenceClassification, "N2N": BlendEncoderForTokenClassification}
    return heads[shape](BlendEncoderConfig.from_recipe("default", num_labels=3, **parts))


def rows_for(shape: str) -> datasets.Dataset:
    """Rows of different lengths, always the same ones."""
    draw = random.Random(0)
    sources = [[draw.randrange(3, 50) for _ in range(draw.randrange(4, 24))] for _ in range(ROWS)]
    labels = {
        "N21": [len(row) % 3 for row in sources],
        "N2N": [[token % 3 for token in row] for row in sources],
        "N2M": [row[::-2] for row in sources],
    }
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
    """A BlendTrainer that writes down when it begins and ends what it may be killed in."""

    def __init__(self, journal: Path, **kwargs: Any):
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        super().__init__(scorers={}, **kwargs)

    @contextlib.contextmanager
    def noted(self, moment: str) -> Iterator[None]:
        """Inside, the last line of the journal is the moment, and a dash after it. Moments are not nested."""
        os.write(self.journal, f"{moment} {time.monotonic()}\n".encode())
        yield
        os.write(self.journal, f"- {time.monotonic()}\n".encode())

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with self.noted("step"):
            return super().training_step(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with self.noted("checkpoint"):
            super()._save_checkpoint(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.noted("evaluation"):
            return super().evaluate(*args, **kwargs)


def train(shape: str, source: str, directory: Path) -> None:
    """Train to the end, from the newest good checkpoint if there is one, and write what must be the same.

    Every second step is evaluated and saved. Two batches make a step, seven an epoch, the last of them not full.
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
    digests = [digest(trainer.model.state_dict()), digest(last_weights(directory)), str(best)]
    (directory / RESULT).write_text("\n".join(digests))


def last_weights(directory: Path) -> dict[str, Any]:
    """Model and optimizer after the last step, before the best model came back."""
    place = directory / f"checkpoint-{STEPS}"
    optimizer = torch.load(place / "optimizer.pt", weights_only=True)
    states = {f"{i}.{name}": each for i, state in optimizer["state"].items() for name, each in state.items()}
    scheduler = torch.load(place / "scheduler.pt", weights_only=True)
    return {**states, "rate": torch.tensor(scheduler["_last_lr"], dtype=torch.double)}


def digest(tensors: dict[str, torch.Tensor]) -> str:
    """The SHA-256 of all of their bits."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


@dataclass
class Tally:
    """What came of the kills of one kind of run."""

    killed: Counter = field(default_factory=Counter)
    equal: int = 0
    different: int = 0


def start(*args: Any) -> Any:
    """A process of its own that trains."""
    run = FORK.Process(target=train, args=args)
    run.start()
    return run


def kill_one(shape: str, source: str, moment: str, whole: list[tuple[str, float]], directory: Path) -> str | None:
    """Start a run and kill it inside a moment, drawn from those that the whole run had.

    Args:
        shape: with source, which run.
        source: see shape.
        moment: one of MOMENTS.
        whole: the moments of the run that was left alone, and how long they took.
        directory: of the run.

    Returns:
        Where it was when it was killed: a moment, or `between`; None if it was too late.
    """
    drawn = random.choice([i for i, (name, _) in enumerate(whole) if name == moment])
    delay = random.random() * whole[drawn][1]
    run = start(shape, source, directory)
    while run.is_alive() and len(journal(directory)) <= drawn:
        time.sleep(0.002)
    time.sleep(delay)
    run.kill()
    run.join()
    if run.exitcode != -signal.SIGKILL:
        return None
    last = (directory / "journal").read_text().splitlines()[-1].split()[0]
    return "between" if last == "-" else last


def journal(directory: Path) -> list[tuple[str, float]]:
    """The moments that a run has begun, and how long they took; for the last, perhaps none."""
    path = directory / "journal"
    lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    begun = [i for i, line in enumerate(lines) if line[0] != "-"]
    return [(lines[i][0], float(lines[min(i + 1, len(lines) - 1)][1]) - float(lines[i][1])) for i in begun]


def finish(shape: str, source: str, directory: Path) -> str:
    """Train until the run ends by itself; what it left behind."""
    run = start(shape, source, directory)
    run.join()
    return (directory / RESULT).read_text() if run.exitcode == 0 else f"exit code {run.exitcode}"


def torture(shape: str, source: str, kills: int) -> Tally:
    """Kill so many runs, resume each, and compare it with one that was left alone."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as place:
        alone = Path(place, "alone")
        alone.mkdir()
        expected, moments = finish(shape, source, alone), journal(alone)
        assert expected == finish(shape, source, alone), "a run that is over is not to change"
        while sum(tally.killed.values()) < kills:
            directory = Path(place, "killed")
            directory.mkdir()
            killed = kill_one(shape, source, MOMENTS[sum(tally.killed.values()) % 3], moments, directory)
            if killed is not None:
                tally.killed[killed] += 1
                is_equal = finish(shape, source, directory) == expected
                tally.equal, tally.different = tally.equal + is_equal, tally.different + (not is_equal)
            shutil.rmtree(directory)
    return tally


def line(*cells: Any) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as it grows."""
    parser = argparse.ArgumentParser(prog="python -m seqblend.benchmarks.resume_torture", description=__doc__)
    parser.add_argument("shapes", nargs="*", metavar="SHAPE", help=f"of {', '.join(SHAPES)}; all where none is given")
    parser.add_argument("--kills", type=int, default=20, help="of each kind of run")
    parser.add_argument("--seed", type=int, default=0, help="decides when they are killed")
    args = parser.parse_args(arguments)
    for shape in args.shapes:
        if shape not in SHAPES:
            parser.error(unknown("shape", shape, list(SHAPES)))
    random.seed(args.seed)
    # Processes are forked from this one, which has imported everything; a fork must not find threads at work.
    torch.set_num_threads(1)
    # What was imported is no garbage, and need not be looked through in each of them.
    gc.freeze()
    header = ("shape", "rows", "killed", *(f"in {name}" for name in MOMENTS), "between", "equal", "different")
    print(line(*header), line(*["---"] * len(header)), sep="\n", flush=True)
    different = 0
    for shape in args.shapes or SHAPES:
        for source in SOURCES:
            tally = torture(shape, source, args.kills)
            places = [tally.killed[name] for name in (*MOMENTS, "between")]
            print(line(shape, source, sum(places), *places, tally.equal, tally.different), flush=True)
            different += tally.different
    return int(different > 0)


FORK = multiprocessing.get_context("fork")

if __name__ == "__main__":
    sys.exit(main())
