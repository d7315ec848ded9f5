"""Checkpoints on disk: each is written whole or not at all, and looked through before it is used."""

import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.errors import one_line
from ..data.objects import load_object
from .faults import MANIFEST, STATE, digest, fault_of, files_of, is_whole, unreadable

logger = logging.getLogger(__name__)

# What transformers calls a checkpoint, and nothing that begins so: "checkpoint-3-notes" is the user's.
NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)")
# Beside the checkpoints, so that a rename moves nothing. transformers finds no checkpoint there.
STAGE = "_saving"
REPLACED = "_replaced"


class RunError(Exception):
    """A run that had begun cannot go on, and not for what the user said. The message says how to go on."""


# --- Which there are ---


def checkpoints_in(output_dir: str | Path) -> list[str]:
    """The checkpoints of a directory, by their steps.

    In place of transformers' sort_checkpoints, whose `re.match(f".*{checkpoint_prefix}-([0-9]+)", path)` takes
    "checkpoint-3-notes" for one.
    """
    directory = Path(output_dir)
    names = {path.name: path for path in directory.iterdir()} if directory.is_dir() else {}
    steps = {name: int(match[1]) for name in names if (match := NAME.fullmatch(name)) and names[name].is_dir()}
    return [str(names[name]) for name in sorted(steps, key=lambda each: steps[each])]


def by_age(checkpoints: Iterable[str]) -> list[str]:
    """Checkpoints in the order that they were written in; the steps decide where a file system has no times."""
    return sorted(checkpoints, key=lambda each: Path(each).stat().st_mtime_ns)


def good_checkpoints(output_dir: str | Path) -> Iterator[str]:
    """The checkpoints in which nothing is wrong, the last one first; the others are named in warnings."""
    for checkpoint in reversed(checkpoints_in(output_dir)):
        fault = fault_of(checkpoint)
        if fault is None:
            yield checkpoint
        else:
            logger.warning("%s is damaged: %s. The one before it is used.", checkpoint, one_line(fault))


def newest_good(output_dir: str | Path) -> str | None:
    """The last checkpoint in which nothing is wrong; those after it are named in warnings."""
    return next(good_checkpoints(output_dir), None)


def resume_hint(output_dir: str | Path) -> str:
    """For a message: which checkpoint is good, and how to resume from it."""
    checkpoint = newest_good(output_dir)
    if checkpoint is None:
        return "there is no checkpoint"
    return f"the last good checkpoint is {checkpoint}; resume with --resume auto"


# --- How they come and go ---


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
    if os.path.lexists(checkpoint):
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


def remove(path: Path, ignore_errors: bool = False) -> None:
    """Delete a file or a directory; of a link the link alone.

    Raises:
        OSError: it cannot be deleted, unless errors are ignored.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors)
    else:
        with contextlib.suppress(*[OSError] * ignore_errors):
            path.unlink(missing_ok=True)


def clear_stage(output_dir: Path) -> None:
    """Take away what a killed run was writing; what it was about to replace gets its place back.

    Where that is damaged, so that nobody knows its step, a warning says so.
    """
    stage = output_dir / STAGE
    # Not where a link leads to.
    if not stage.is_symlink() and (stage / REPLACED / STATE).is_file():
        restore(stage / REPLACED, output_dir)
    remove(stage, ignore_errors=True)


def restore(replaced: Path, output_dir: Path) -> None:
    """Give what a killed run was about to replace its place back, if its step is known."""
    step, fault = None, "has no global_step"
    try:
        step = load_object(replaced / STATE).get("global_step")
    except (OSError, ValueError) as error:
        fault = str(error)
    if not is_whole(step):
        # Where it is not there any more, another process has given it its place.
        if replaced.exists():
            logger.warning("%s is damaged: %s %s. It is deleted", replaced, STATE, fault)
        return
    # Another process may have done it, or the new one stands there.
    with contextlib.suppress(OSError):
        replaced.rename(output_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}")
