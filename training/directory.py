"""The directory of a run: whether it holds an earlier one, how it is cleared for another, and who writes to it."""

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import sort_checkpoints

from ..hub_card.contents import WEIGHTS
from ..hub_card.verify import REFERENCE
from .checkpoints import STAGE, STATE
from .files import InputError, listed
from .identity import IDENTITY

logger = logging.getLogger(__name__)

RESULTS = [
    *(f"{name}_results.json" for name in ("train", "eval", "test", "run", "all")),
    "predictions.jsonl",
    REFERENCE,
]
# What shows that a run was here, besides checkpoints: patterns of file names.
TRACES = (*RESULTS, STATE, "training_args.bin", *WEIGHTS)
# What it leaves besides, and what would be wrong beside another model.
BESIDE = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "not-finite-*.pt", IDENTITY),
)
# Descriptors of the directories that this process has locked.
LOCKED: dict[Path, int] = {}


def traces_of_run(output_dir: str | Path) -> list[Path]:
    """The checkpoints and files by which an earlier run is recognized; none where there was no run."""
    checkpoints = [Path(each) for each in sort_checkpoints(str(output_dir))]
    return checkpoints + [path for pattern in TRACES for path in sorted(Path(output_dir).glob(pattern))]


def clear_run(output_dir: str | Path) -> None:
    """Delete what an earlier run left, and nothing else: neither the user's files nor the card."""
    traces = traces_of_run(output_dir)
    if not traces:
        return
    beside = [path for pattern in BESIDE for path in Path(output_dir).glob(pattern)]
    for path in (*traces, *beside, Path(output_dir, STAGE)):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def lies_in(path: str | Path, directory: str | Path) -> bool:
    """Whether a path is a directory or something in it."""
    return Path(path).resolve().is_relative_to(Path(directory).resolve())


def goes_on(checkpoint: str | Path | None, output_dir: str | Path) -> bool:
    """Whether a run that is resumed from the checkpoint, or from none, is the one that output_dir holds."""
    return bool(checkpoint) and lies_in(checkpoint, output_dir)


def check_directory(args: TrainingArguments, sources: dict[str, str | None]) -> None:
    """Refuse to train where an earlier run would be lost, or mixed with the new one.

    Args:
        args: of a run that trains; resume_from_checkpoint is a path or None.
        sources: what the run starts from, by the names of their flags.

    Raises:
        InputError: output_dir holds a run, and it is neither gone on with nor to be overwritten; or what the run
            starts from would be deleted.
    """
    found = [path.name for path in traces_of_run(args.output_dir)]
    if not found or args.resume or goes_on(args.resume_from_checkpoint, args.output_dir):
        return
    if not args.overwrite_output_dir:
        raise InputError(
            f"output_dir: {args.output_dir} holds a run already ({listed(found)}); --resume auto goes on with it, "
            "--overwrite_output_dir true deletes it, or give another directory"
        )
    for name, path in sources.items():
        if path and lies_in(path, args.output_dir):
            raise InputError(f"overwrite_output_dir: would delete {name} {path}; give another output_dir")


@contextmanager
def locked(output_dir: str | Path) -> Iterator[None]:
    """Inside, no other process that asks for it writes to the directory, which is made if need be.

    The lock is the kernel's, on the directory itself: it leaves no file, and ends with the process, however that ends.
    Inside of another one of the same process it does nothing. A directory that is made and left empty is deleted.

    Raises:
        InputError: another process has it.
    """
    path = Path(output_dir).absolute()
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    key = path.resolve()
    if key in LOCKED:
        yield
        return
    forget_locks_in_children()
    LOCKED[key] = lock_of(key)
    try:
        yield
    finally:
        os.close(LOCKED.pop(key))
        remove_empty(made)


def lock_of(directory: Path) -> int:
    """A descriptor that holds the lock of a directory. Raises InputError where another process has it."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise InputError(
            f"output_dir: another process writes to {directory}; wait until it has ended, or give another directory"
        ) from error
    except OSError:
        # A file system of the network that knows no locks on directories.
        logger.warning("%s cannot be locked: see to it that no other run writes there", directory)
    return descriptor


@cache
def forget_locks_in_children() -> None:
    """Let processes that are forked from this one, and may live longer, not hold its locks too."""

    def forget() -> None:
        while LOCKED:
            os.close(LOCKED.popitem()[1])

    os.register_at_fork(after_in_child=forget)


def remove_empty(directories: Sequence[Path]) -> None:
    """Delete directories, the innermost first, as far as they are empty."""
    for each in directories:
        with suppress(OSError):
            each.rmdir()
