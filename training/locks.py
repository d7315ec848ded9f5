"""Files and directories that one process writes, and no other touches until it has ended, however it ended."""

import contextlib
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from .files import InputError

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


def lock(stream: IO[bytes] | int, wait: bool = False) -> bool:
    """Lock what is open until it is closed. False if another process has it locked, and this one does not wait."""
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


# --- Directories ---

# Descriptors of the directories that this process has locked.
LOCKED: dict[Path, int] = {}


@contextlib.contextmanager
def locked(output_dir: str | Path) -> Iterator[None]:
    """Inside, no other process that asks for it writes to the directory, which is made if need be.

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
    descriptor = os.open(key, os.O_RDONLY)
    try:
        if not lock(descriptor):
            raise InputError(
                f"output_dir: another process writes to {key}; wait until it has ended, or give another directory"
            )
        LOCKED[key] = descriptor
        yield
    finally:
        LOCKED.pop(key, None)
        os.close(descriptor)
        for each in made:
            # As far as they are empty.
            with contextlib.suppress(OSError):
                each.rmdir()


@cache
def forget_locks_in_children() -> None:
    """Let processes that are forked from this one, and may live longer, not hold its locks too."""

    def forget() -> None:
        while LOCKED:
            os.close(LOCKED.popitem()[1])

    os.register_at_fork(after_in_child=forget)
