"""Checkpoints on disk: each is written whole or not at all, and looked through before it is used."""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, sort_checkpoints

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
STATE = "trainer_state.json"
# Files that only a BlendTrainer writes: the facts of the run, and its position in the data.
IDENTITY, POSITION = "run.json", "position.pt"
OURS = (IDENTITY, POSITION)
# Files that may hold weights: of a model, of an adapter, of several processes.
WEIGHTS = re.compile(r"\.safetensors$|_model[^/]*\.bin$|\.distcp$|_states\.pt$")
# Beside the checkpoints, so that a rename moves nothing. transformers finds no checkpoint there.
STAGE = "_saving"
REPLACED = "_replaced"


class RunError(Exception):
    """A run that had begun cannot go on, and not for what the user said. The message says how to go on."""


def fault_of(checkpoint: str | Path) -> str | None:
    """What is wrong with a checkpoint; None if nothing is.

    Its files are compared with the manifest, without which no checkpoint of a BlendTrainer is good. One that
    transformers' own Trainer wrote has none: of that, every file is opened.
    """
    checkpoint = Path(checkpoint)
    if not (checkpoint / STATE).is_file():
        return f"{STATE} is missing"
    manifest = checkpoint / MANIFEST
    if not manifest.is_file():
        if any((checkpoint / name).is_file() for name in OURS):
            return f"{MANIFEST} is missing"
        return (
            unreadable(checkpoint) if any(map(WEIGHTS.search, map(str, files_of(checkpoint)))) else "it has no weights"
        )
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))
        if STATE not in expected:
            return f"{MANIFEST} does not name {STATE}"
        return next(filter(None, (difference(checkpoint / name, each) for name, each in expected.items())), None)
    except OSError as error:
        return f"{MANIFEST} cannot be read ({error})"
    except (ValueError, KeyError, TypeError, AttributeError):  # JSON of another form than write_manifest gives it
        return f"{MANIFEST} is not what was written"


def difference(path: Path, expected: dict[str, Any]) -> str | None:
    """How a file differs from what the manifest has; None if it does not."""
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != expected["bytes"]:
        return f"{path.name} has {path.stat().st_size} bytes, not {expected['bytes']}"
    return None if digest(path) == expected["sha256"] else f"{path.name} is not what was written"


def unreadable(checkpoint: Path) -> str | None:
    """Which of a checkpoint's files cannot be opened, and why; None if all can."""
    for path in files_of(checkpoint):
        try:
            READERS.get(path.suffix, Path.stat)(path)
        except Exception as error:  # every format raises its own
            return f"{path.name} cannot be read ({error})"
    return None


def read_header(path: Path) -> None:
    """Raises if a file of tensors is not as long as its header says."""
    with safe_open(path, "pt"):
        pass


def read_zip(path: Path) -> None:
    """Raises if what torch.save wrote is cut off, or a part of it is not what was written."""
    with zipfile.ZipFile(path) as file:
        if file.testzip() is not None:
            raise ValueError(f"{file.testzip()} is damaged")


def read_json(path: Path) -> None:
    """Raises if a file is no JSON."""
    json.loads(path.read_text(encoding="utf-8"))


READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": read_header,
    ".json": read_json,
    **dict.fromkeys((".pt", ".pth", ".bin"), read_zip),
}


def files_of(directory: Path) -> Iterator[Path]:
    """The files of a directory and of those in it, in order."""
    return (path for path in sorted(directory.rglob("*")) if path.is_file())


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def write_manifest(checkpoint: Path, files: Iterable[Path] | None = None) -> None:
    """Note the length and the SHA-256 of every file, or of those given."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    found = {
        path.relative_to(checkpoint).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in (files_of(checkpoint) if files is None else files)
    }
    (checkpoint / MANIFEST).write_text(json.dumps(found, indent=1), encoding="utf-8")


def commit(staged: Path, checkpoint: Path) -> None:
    """Give a checkpoint its place: all of it is on the disk before its name is there.

    Raises:
        OSError: it cannot be written.
        RunError: what stands on the disk cannot be read.
    """
    fault = unreadable(staged)
    if fault is not None:
        raise RunError(fault)
    write_manifest(staged)
    # One after the other, each would wait for the disk by itself.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(synchronize, [staged, *staged.rglob("*")]))
    if checkpoint.exists():
        # Of the same step, from an earlier run or before its evaluation. A directory cannot replace another at once.
        checkpoint.rename(staged.parent / REPLACED)
    staged.rename(checkpoint)
    synchronize(checkpoint.parent)
    shutil.rmtree(staged.parent)


def synchronize(path: Path) -> None:
    """Return when a file, or the names in a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def clear_stage(output_dir: Path) -> None:
    """Take away what a killed run was writing; what it was about to replace gets its place back."""
    replaced = output_dir / STAGE / REPLACED
    if (replaced / STATE).is_file():
        step = json.loads((replaced / STATE).read_text(encoding="utf-8"))["global_step"]
        # Another process may have done it, or the new one stands there.
        with contextlib.suppress(OSError):
            replaced.rename(output_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}")
    shutil.rmtree(output_dir / STAGE, ignore_errors=True)


def good_checkpoints(output_dir: str | Path) -> Iterator[str]:
    """The checkpoints in which nothing is wrong, the last one first; the others are named in warnings."""
    for checkpoint in reversed(sort_checkpoints(str(output_dir))):
        fault = fault_of(checkpoint)
        if fault is None:
            yield checkpoint
        else:
            logger.warning("%s is damaged: %s. The one before it is used.", checkpoint, fault)


def newest_good(output_dir: str | Path) -> str | None:
    """The last checkpoint in which nothing is wrong; those after it are named in warnings."""
    return next(good_checkpoints(output_dir), None)
