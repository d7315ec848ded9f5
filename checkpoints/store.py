"""Finding, verifying, committing and deleting checkpoints on disk."""

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

from ..data.errors import printable
from ..data.objects import load_object
from ..data.writing import synchronize
from .faults import MANIFEST, STATE, digest, fault_of, files_of, is_whole, unreadable

logger = logging.getLogger(__name__)

# The whole name of a checkpoint: "checkpoint-3-notes" is a directory of the user.
NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)")
# Beside the checkpoints, so that a rename copies no data. transformers does not search it for checkpoints.
STAGE = "_saving"
REPLACED = "_replaced"


class RunError(Exception):
    """A run cannot continue, for another reason than its options or data. The message says how to resume."""


class NotFinite(RunError):
    """The loss of a batch is not finite."""


# --- Finding checkpoints ---


def checkpoints_in(output_dir: str | Path) -> list[str]:
    """The checkpoints in a directory, in the order of their steps.

    Replaces transformers' sort_checkpoints, whose `re.match(f".*{checkpoint_prefix}-([0-9]+)", path)` also finds
    "checkpoint-3-notes".
    """
    directory = Path(output_dir)
    names = {path.name: path for path in directory.iterdir()} if directory.is_dir() else {}
    steps = {name: int(match[1]) for name in names if (match := NAME.fullmatch(name)) and names[name].is_dir()}
    return [str(names[name]) for name in sorted(steps, key=lambda each: steps[each])]


def step_of(checkpoint: str) -> int:
    """The step after which a checkpoint was written."""
    return int(Path(checkpoint).name.rpartition("-")[2])


def good_checkpoints(output_dir: str | Path) -> Iterator[str]:
    """The checkpoints without a fault, the newest first; a warning names each of the others."""
    for checkpoint in reversed(checkpoints_in(output_dir)):
        fault = fault_of(checkpoint)
        if fault is None:
            yield checkpoint
        else:
            logger.warning("%s is damaged: %s. The one before it is used.", checkpoint, printable(fault))


def newest_good(output_dir: str | Path) -> str | None:
    """The newest checkpoint without a fault; a warning names each newer one."""
    return next(good_checkpoints(output_dir), None)


def resume_hint(output_dir: str | Path) -> str:
    """For a message: the last good checkpoint, and how to resume from it."""
    checkpoint = newest_good(output_dir)
    if checkpoint is None:
        return "there is no checkpoint"
    return f"the last good checkpoint is {checkpoint}; resume with --resume auto"


# --- Writing and deleting them ---


def write_manifest(checkpoint: Path, files: Iterable[Path] | None = None) -> None:
    """Write the length and the SHA-256 of all files of a checkpoint, or of the given ones, into its manifest."""
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    found = {
        path.relative_to(checkpoint).as_posix(): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in (files_of(checkpoint) if files is None else files)
    }
    (checkpoint / MANIFEST).write_text(json.dumps(found, indent=1), encoding="utf-8")


def commit(staged: Path, checkpoint: Path) -> None:
    """Move a checkpoint to its place, once all its files are on the disk and can be read.

    Args:
        staged: where it was written.
        checkpoint: its place.

    Raises:
        OSError: it cannot be written.
        RunError: a file cannot be read again.
    """
    fault = unreadable(staged)
    if fault is not None:
        raise RunError(fault)
    write_manifest(staged)
    # In threads: each call waits for the disk.
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(synchronize, [staged, *staged.rglob("*")]))
    if os.path.lexists(checkpoint):
        # A checkpoint of the same step. A directory cannot replace another one in a single rename.
        checkpoint.rename(staged.parent / REPLACED)
    staged.rename(checkpoint)
    synchronize(checkpoint.parent)
    shutil.rmtree(staged.parent)


def remove(path: Path, ignore_errors: bool = False) -> None:
    """Delete a file or a directory; for a link, only the link.

    Raises:
        OSError: it cannot be deleted, unless errors are ignored.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors)
    else:
        with contextlib.suppress(*[OSError] * ignore_errors):
            path.unlink(missing_ok=True)


def clear_stage(output_dir: Path) -> None:
    """Delete a checkpoint that a killed run was writing, and move back the one that it was replacing.

    If the replaced one is damaged, so that its step is unknown, it is deleted with a warning.
    """
    stage = output_dir / STAGE
    # A link is not followed.
    if not stage.is_symlink() and (stage / REPLACED / STATE).is_file():
        restore(stage / REPLACED, output_dir)
    remove(stage, ignore_errors=True)


def restore(replaced: Path, output_dir: Path) -> None:
    """Move a checkpoint that a killed run was replacing back to its place, if its step is known."""
    step, fault = None, "has no global_step"
    try:
        step = load_object(replaced / STATE).get("global_step")
    except (OSError, ValueError) as error:
        fault = str(error)
    if not is_whole(step):
        # If it does not exist any more, another process has moved it back.
        if replaced.exists():
            logger.warning("%s is damaged: %s %s. It is deleted", replaced, STATE, fault)
        return
    # Fails if another process has moved it, or if the new checkpoint is in its place.
    with contextlib.suppress(OSError):
        replaced.rename(output_dir / f"{PREFIX_CHECKPOINT_DIR}-{step}")
