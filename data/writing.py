"""Atomic writes: a file, or a directory, is written completely or not at all; a card of the user is not replaced."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

# Marks a card (README.md) that this package wrote and may replace.
SIGNATURE = "Made with seqblend"


def is_users_card(path: Path) -> bool:
    """Whether somebody has written a card, or edited one of this package and deleted its last line."""
    return path.exists() and SIGNATURE not in path.read_text(encoding="utf-8", errors="replace")


def partial_path(path: Path) -> Path:
    """The temporary path of a file while it is written. It is hidden, so that no `.part` file of the user is lost.

    It is always the same for a file, so that the next process overwrites what a killed process left.
    """
    return path.with_name(f".{path.name}.part")


@contextmanager
def atomic_writer(path: Path) -> Iterator[IO[str]]:
    """Open a temporary text file that replaces `path` at the end, once its content is on the disk.

    Raises:
        OSError: the file cannot be written. The error names `path`, whose old content stays.
    """
    part = partial_path(path)
    try:
        # A symbolic link of that name would be written through.
        part.unlink(missing_ok=True)
        with part.open("x", encoding="utf-8") as file:
            yield file
            sync_and_rename(file, part, path)
    except OSError as error:
        # Other errors of the caller's block name another file, or have no errno.
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_atomically(path: Path, content: str) -> None:
    """Write a text file atomically. Raises OSError, see `atomic_writer`."""
    with atomic_writer(path) as file:
        file.write(content)


def sync_and_rename(file: IO[Any], part: Path, path: Path) -> None:
    """Flush an open file to the disk and rename it.

    Args:
        file: the open file.
        part: its current path.
        path: its new path; an existing file is replaced.

    Raises:
        OSError: the file cannot be written or renamed.
    """
    file.flush()
    os.fsync(file.fileno())
    part.replace(path)


def synchronize(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into(staged: Path, directory: Path) -> None:
    """Wait until all files of a directory are on the disk, then move them into another one, where they replace others.

    Raises:
        OSError: a file cannot be moved.
    """
    files = [path for path in sorted(staged.rglob("*")) if path.is_file()]
    for path in files:
        synchronize(path)
    for path in files:
        place = directory / path.relative_to(staged)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that replaces `path` at the end, once its content is on the disk.

    Missing directories above it are created, and removed again after an error. A link is followed, not replaced.

    A directory cannot replace another one in a single rename. So a process that is killed at that moment may leave no
    `path`, but never one with only a part of its files; the next call restores the old one.

    Raises:
        OSError: it cannot be written. The old content stays.
    """
    path = path.resolve()
    part = partial_path(path)
    old = part.with_suffix(".old")
    if old.exists() and not path.exists():
        old.rename(path)
    for each in (part, old):
        shutil.rmtree(each, ignore_errors=True)
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        part.mkdir(parents=True)
        yield part
        for each in (part, *part.rglob("*")):
            synchronize(each)
        if path.exists():
            path.rename(old)
        part.rename(path)
        synchronize(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        for each in (part, old):
            shutil.rmtree(each, ignore_errors=True)
        if not path.exists():
            with suppress(OSError):  # another process may have written there
                for parent in missing:
                    parent.rmdir()
