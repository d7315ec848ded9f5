"""Locks of files and directories, so that only one process writes to them. The kernel releases them at its end."""

import contextlib
import errno
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

from .errors import InputError

try:
    import fcntl
except ModuleNotFoundError as error:
    raise ImportError(
        "seqblend needs Linux or macOS; on Windows use WSL. A saved model does not need seqblend: load it with "
        "trust_remote_code=True"
    ) from error

# Errors of a file system without lock support.
NO_LOCK_SUPPORT = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EBADF)


def open_locked(path: Path, wait: bool = False) -> IO[bytes] | None:
    """Open a file for writing, empty, and lock it until it is closed.

    The kernel releases the lock when the process ends, so the file of a killed process can be taken over.

    Args:
        path: the file, which may exist.
        wait: wait until no other process has it locked.

    Returns:
        The file, or None if another process has it locked and `wait` is false.

    Raises:
        OSError: the file cannot be written.
    """
    while True:
        stream = path.open("ab")
        if not lock(stream, wait):
            stream.close()
            return None
        if is_same_file(stream.fileno(), path):
            stream.truncate(0)
            return stream
        # It was renamed or deleted before it was locked.
        stream.close()


def delete_if_unlocked(path: Path) -> None:
    """Delete a file unless a process has it locked."""
    # Another process may have deleted it, or it may belong to another user.
    with contextlib.suppress(OSError), path.open("r+b") as stream:
        if lock(stream):
            path.unlink()


def lock(stream: IO[bytes] | int, wait: bool = False) -> bool:
    """Lock an open file or directory until it is closed; on a file system without locks, do nothing.

    Args:
        stream: the file, or its descriptor.
        wait: wait until no other process has it locked.

    Returns:
        False if another process has it locked and `wait` is false.

    Raises:
        OSError: the lock failed for another reason.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCK_SUPPORT:
            raise
    return True


def wait_for_writer(stream: IO[bytes]) -> None:
    """Wait until no process has an open file locked for writing. Waiting processes share the lock."""
    # A file system may have no lock support.
    with contextlib.suppress(OSError):
        fcntl.flock(stream, fcntl.LOCK_SH)


def is_same_file(descriptor: int, path: Path) -> bool:
    """Whether a path still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


# --- Directories ---

# Directories that this process has locked, with their descriptors.
LOCKED_DIRECTORIES: dict[Path, int] = {}


@contextlib.contextmanager
def lock_directory(output_dir: str | Path) -> Iterator[None]:
    """Lock a directory against other processes that call this; create it if needed.

    Nested calls in one process do nothing. Directories created here are deleted at the end if they are empty.

    Raises:
        InputError: another process holds the lock.
        OSError: the directory cannot be created or locked.
    """
    path = Path(output_dir).absolute()
    created = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True, exist_ok=True)
    key = path.resolve()
    if key in LOCKED_DIRECTORIES:
        yield
        return
    release_locks_in_children()
    LOCKED_DIRECTORIES[key] = descriptor = open_locked_directory(key)
    try:
        yield
    finally:
        for each in created:
            # Only if empty, and before the lock is released: afterwards another process may use them.
            with contextlib.suppress(OSError):
                each.rmdir()
        LOCKED_DIRECTORIES.pop(key, None)
        os.close(descriptor)


def open_locked_directory(path: Path) -> int:
    """Open and lock a directory; return its descriptor. Raises InputError if another process has it locked."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            if not lock(descriptor):
                raise InputError(
                    f"output_dir: another process writes to {path}; wait until it has ended, or give another directory"
                )
            if is_same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # It was deleted before it was locked.
        os.close(descriptor)


@cache
def release_locks_in_children() -> None:
    """Close the locks in forked child processes, which may live longer than this one."""

    def release() -> None:
        while LOCKED_DIRECTORIES:
            os.close(LOCKED_DIRECTORIES.popitem()[1])

    os.register_at_fork(after_in_child=release)
