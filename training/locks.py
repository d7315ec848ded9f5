"""Files that one process writes, and no other touches until it has ended, however it ended."""

import contextlib
import os
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # On Windows an open file cannot be deleted, and two may write it.
    fcntl = None  # type: ignore[assignment]


def take(path: Path, wait: bool = False) -> IO[bytes] | None:
    """Open a file to write it anew, and lock it until it is closed; None if another process has it.

    The kernel takes the lock away when the process ends, so that what a killed one left is taken over.

    Args:
        path: of a file that may be there.
        wait: until no other process has it.

    Raises:
        OSError: it cannot be written.
    """
    while True:
        stream = path.open("ab")
        if not lock(stream, wait):
            stream.close()
            return None
        if is_at(stream, path):
            stream.truncate(0)
            return stream
        # It was renamed or deleted before it was locked.
        stream.close()


def clear(path: Path) -> None:
    """Delete a file unless a process writes it."""
    # Somebody else may have done so, or it may be somebody else's.
    with contextlib.suppress(OSError), path.open("ab") as stream:
        if lock(stream):
            path.unlink()


def lock(stream: IO[bytes], wait: bool = False) -> bool:
    """Lock an open file until it is closed. False if another process has it locked, and this one does not wait."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks.
        return True
    return True


def await_writer(stream: IO[bytes]) -> None:
    """Wait until no other process has an open file locked; those that wait are not in each other's way."""
    if fcntl is not None:
        # Not in a file system without locks.
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_SH)


def is_at(stream: IO[bytes], path: Path) -> bool:
    """Whether a name is still that of an open file."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
