"""Break what a training run stands on: `python tests/training_faults.py`, by root, who may mount file systems.

Each run is of train.py, in a process of its own, and is resumed by `--resume auto`. The command prints the table of
faults of docs/reliability.md; its exit code is 1 where one of them went otherwise than it should.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import torch
from attacks_on_runs import BASE, FORK
from transformers import TrainerCallback

from seqblend import train
from seqblend.checkpoints.store import fault_of, newest_good
from seqblend.training.trainer import BlendTrainer

# Saved after every second step; the fault comes in the middle.
STEPS, FAULTY_STEP = 8, 5
OPTIONS = {
    **{name: value for name, value in BASE.items() if name != "train_file"},
    "config_overrides": "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,hidden_dropout=0.2",
    "max_steps": STEPS,
}


@dataclass
class Fault:
    """Something that breaks.

    Args:
        name: what breaks.
        code: the exit code that the run then has to have.
        words: what its error, or a warning of the resumed run, has to say.
        strike: breaks it, in the process of the run, given the output directory and the cache of the rows.
        after: breaks or mends it between the run and its resumption, given the output directory.
        disk: of how many checkpoints a file system of its own has room for.
        options: of the run.
    """

    name: str
    code: int
    words: str
    strike: Callable[[Path, Path], Any] = lambda out, cache: None
    after: Callable[[Path], Any] = lambda out: None
    disk: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


def kill_worker(out: Path, cache: Path) -> None:
    """Kill what reads the rows."""
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGKILL)


def remount(*options: str) -> Callable[..., Any]:
    """Change the file system that the output directory is."""
    return lambda out, *_: subprocess.run(["mount", "-o", ",".join(["remount", *options]), str(out)], check=True)


def cut(name: str) -> Callable[[Path], None]:
    """Cut a file of the last checkpoint in half."""

    def act(out: Path) -> None:
        path = out / f"checkpoint-{STEPS}" / name
        os.truncate(path, path.stat().st_size // 2)

    return act


def spoil(out: Path, cache: Path) -> None:
    """Have the next loss be no number."""
    Spoiled.at_step = FAULTY_STEP


FAULTS = [
    Fault(
        "disk full while a checkpoint is written", 1, "No space left on device", after=remount("size=64m"), disk=2.5
    ),
    Fault("disk full while the model is saved", 1, "the model is not saved", after=remount("size=64m"), disk=5.5),
    Fault("output directory read-only from the middle on", 1, "Read-only", remount("ro"), remount("rw"), disk=9),
    Fault("worker that reads rows killed", 1, "DataLoader worker", kill_worker, options={"dataloader_num_workers": 1}),
    Fault("rows' cache deleted in the middle", 0, "", lambda out, cache: shutil.rmtree(cache)),
    Fault("loss not finite", 1, f"step {FAULTY_STEP}: the loss is nan; its batch is in ", spoil),
    Fault("SIGTERM", 143, f"step {FAULTY_STEP} is saved", lambda out, cache: os.kill(os.getpid(), signal.SIGTERM)),
    Fault("SIGKILL", -9, "", lambda out, cache: os.kill(os.getpid(), signal.SIGKILL)),
    *(
        Fault(f"last checkpoint's {name} cut in half", 0, f"is damaged: {name} has ", after=cut(name))
        for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
    ),
    Fault(
        "last checkpoint's manifest cut in half",
        0,
        "is damaged: manifest.json is not what was written",
        after=cut("manifest.json"),
    ),
    Fault(
        "last checkpoint's manifest deleted",
        0,
        "is damaged: manifest.json is missing",
        after=lambda out: (out / f"checkpoint-{STEPS}" / "manifest.json").unlink(),
    ),
    Fault(
        "last checkpoint's weights deleted",
        0,
        "is damaged: model.safetensors is missing",
        after=lambda out: (out / f"checkpoint-{STEPS}" / "model.safetensors").unlink(),
    ),
]


class Striking(TrainerCallback):
    """Strikes as a step begins."""

    def __init__(self, strike: Callable[[], Any]):
        self.strike = strike

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == FAULTY_STEP - 1:
            self.strike()


class Spoiled(BlendTrainer):
    """Reads its rows from a cache on the disk, and may have a step whose loss is no number."""

    at_step: int | None = None

    def compute_loss(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().compute_loss(*args, **kwargs)
        return loss * float("nan") if self.state.global_step + 1 == self.at_step else loss


def command(out: Path, options: dict[str, Any]) -> list[str]:
    """A command line of train.py."""
    rows = out.parent / "train.jsonl"
    rows.write_text(
        "".join(json.dumps({"text": "ab" * i + "c" * (i % 5), "label": "xy"[i % 2]}) + "\n" for i in range(13))
    )
    options = {**OPTIONS, "train_file": rows, "output_dir": out, **options}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def train_in_child(out: Path, strike: Callable[[Path, Path], Any], options: dict[str, Any]) -> None:
    """Run train.py; what it says goes into a file."""
    log = os.open(out.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1), os.dup2(log, 2)
    cache = out.parent / "cache"

    def make(*, train_dataset: datasets.Dataset, **kwargs: Any) -> BlendTrainer:
        train_dataset.save_to_disk(cache)
        callbacks = [Striking(lambda: strike(out, cache))]
        return Spoiled(train_dataset=datasets.load_from_disk(cache), callbacks=callbacks, **kwargs)

    with mock.patch.object(train, "BlendTrainer", make), mock.patch("seqblend.training.publisher.write_card"):
        sys.exit(train.main(command(out, options)))


def run(out: Path, strike: Callable[[Path, Path], Any], options: dict[str, Any]) -> tuple[int, str]:
    """The exit code of a run, and what it said."""
    process = FORK.Process(target=train_in_child, args=(out, strike, options))
    process.start()
    process.join()
    return process.exitcode, (out.parent / "log").read_text()


def break_run(fault: Fault, whole: bytes, size: int, place: Path) -> dict[str, Any]:
    """What comes of a fault.

    Args:
        fault: what breaks.
        whole: the weights of a run in which nothing does.
        size: the bytes of a checkpoint.
        place: an empty directory.
    """
    out = place / "out"
    out.mkdir()
    if fault.disk is not None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(fault.disk * size)}", "tmpfs", out], check=True)
    try:
        code, said = run(out, fault.strike, fault.options)
        checkpoints = sorted(each for each in out.glob("checkpoint-*"))
        intact = bool(checkpoints) and not any(map(fault_of, checkpoints))
        fault.after(out)
        last = newest_good(out)
        resumed, said_then = run(out, lambda out, cache: None, {**fault.options, "resume": "auto"})
        same = resumed == 0 and (out / "model.safetensors").read_bytes() == whole
    finally:
        if fault.disk is not None:
            subprocess.run(["umount", out], check=True)
    return {
        "code": code,
        "named": fault.words in said + said_then,
        "intact": intact,
        "resumed from": Path(last or "").name,
        "same": same,
        "said": said + said_then,
    }


def main() -> int:
    """Print the table."""
    torch.set_num_threads(1)
    failed = 0
    print("| fault | exit code | cause named | checkpoints whole | resumed from | same weights in the end |")
    print("|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        alone = Path(directory, "alone", "out")
        alone.parent.mkdir()
        code, said = run(alone, lambda out, cache: None, {})
        assert code == 0, said
        whole = (alone / "model.safetensors").read_bytes()
        size = sum(path.stat().st_size for path in (alone / "checkpoint-2").iterdir())
        for number, fault in enumerate(FAULTS):
            place = Path(directory, str(number))
            place.mkdir()
            found = break_run(fault, whole, size, place)
            cells = [found["code"], *("yes" if found[key] else "NO" for key in ("named", "intact"))]
            cells += [found["resumed from"], "yes" if found["same"] else "NO"]
            if not fault.words:
                cells[1] = "–"
            print(f"| {fault.name} | {' | '.join(map(str, cells))} |", flush=True)
            if "NO" in cells or found["code"] != fault.code:
                failed += 1
                print(found["said"], file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
