"""Files and directories that one process writes, and no other touches until it has ended, however it ended."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from .errors import InputError

# What a file system answers that has no locks.
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


def open_locked(path: Path, wait: bool = False) -> IO[bytes] | None:
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
        if is_at(stream.fileno(), path):
            stream.truncate(0)
            return stream
        # It was renamed or deleted before it was locked.
        stream.close()


def clear(path: Path) -> None:
    """Delete a file unless a process writes it."""
    # Somebody else may have done so, or it may be somebody else's.
    with contextlib.suppress(OSError), path.open("r+b") as stream:
        if lock(stream):
            path.unlink()


def lock(stream: IO[bytes] | int, wait: bool = False) -> bool:
    """Lock an open file or directory until it is closed; on a file system without locks, do nothing.

    Args:
        stream: the file, or a descriptor.
        wait: until no other process has it locked.

    Returns:
        False if another process has it locked, and this one does not wait.

    Raises:
        OSError: the lock failed for another reason.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
    return True


def await_writer(stream: IO[bytes]) -> None:
    """Wait until no other process has an open file locked; those that wait are not in each other's way."""
    # A file system may have no locks.
    with contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_SH)


def is_at(descriptor: int, path: Path) -> bool:
    """Whether a name is still that of what is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


# --- Directories ---

# Descriptors of the directories that this process has locked.
LOCKED: dict[Path, int] = {}


@contextlib.contextmanager
def locked(output_dir: str | Path) -> Iterator[None]:
    """Keep other processes that call this from writing to a directory, which is created if needed.

    Nested calls in one process do nothing. A directory that was created and stays empty is deleted.

    Raises:
        InputError: another process holds the lock.
        OSError: the directory cannot be created or locked.
    """
    path = Path(output_dir).absolute()
    made = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    key = path.resolve()
    if key in LOCKED:
        yield
        return
    forget_locks_in_children()
    LOCKED[key] = descriptor = locked_directory(key)
    try:
        yield
    finally:
        for each in made:
            # As far as they are empty. Before the lock is released: afterwards they may be another process's.
            with contextlib.suppress(OSError):
                each.rmdir()
        LOCKED.pop(key, None)
        os.close(descriptor)


def locked_directory(path: Path) -> int:
    """A descriptor that holds the lock of a directory. Raises InputError where another process holds it."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not lock(descriptor):
                raise InputError(
                    f"output_dir: another process writes to {path}; wait until it has ended, or give another directory"
                )
            if is_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # It was deleted before it was locked.
        os.close(descriptor)


@cache
def forget_locks_in_children() -> None:
    """Let processes that are forked from this one, and may live longer, not hold its locks too."""

    def forget() -> None:
        while LOCKED:
            os.close(LOCKED.popitem()[1])

    os.register_at_fork(after_in_child=forget)
