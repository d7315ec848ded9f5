"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file beside the one that is to be written, whose place it takes when all is in it and on the disk.

    Raises:
        OSError: it cannot be written; the error names the file, and what stood there before stays.
    """
    # Of a fixed name: what a killed process left there is written over by the next.
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, content: str) -> None:
    """Write a text file. Raises OSError, see replacing."""
    with replacing(path) as file:
        file.write(content)
