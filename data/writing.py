"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any


def part_of(path: Path) -> Path:
    """The name of a file until it is whole: a hidden one, as a user's own `.part` would be lost.

    It is fixed, so that the next process writes over what a killed one left there.
    """
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file beside the one that is to be written, whose place it takes when all is in it and on the disk.

    Raises:
        OSError: it cannot be written; the error names the file, and what stood there before stays.
    """
    part = part_of(path)
    try:
        # A link of that name would be written through.
        part.unlink(missing_ok=True)
        with part.open("x", encoding="utf-8") as file:
            yield file
            put_in_place(file, part, path)
    except OSError as error:
        # One of something else that the body does has its own name, or no number.
        if error.errno is None or error.filename not in (None, str(part)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_whole(path: Path, content: str) -> None:
    """Write a text file. Raises OSError, see replacing."""
    with replacing(path) as file:
        file.write(content)


def put_in_place(file: IO[Any], part: Path, path: Path) -> None:
    """Give an open file its name, once all that was written to it is on the disk.

    Args:
        file: the file.
        part: its name until now.
        path: its name from now on; what stood there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    file.flush()
    os.fsync(file.fileno())
    part.replace(path)
