"""Atomic writes: a file is written completely or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


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
