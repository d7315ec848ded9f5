"""Arrow tables in the cache of `datasets`: written while their rows are read, memory-mapped, and reused."""

import contextlib
import hashlib
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import datasets
import pyarrow as pa
from datasets.fingerprint import Hasher
from datasets.table import MemoryMappedTable

from .errors import InputError, error_line
from .locks import delete_if_unlocked, lock, open_locked, wait_for_writer
from .writing import sync_and_rename

logger = logging.getLogger(__name__)

# Bytes of a file that are read at a time.
BLOCK_BYTES = 2**24
# CRC-32 detects damage, not tampering. It takes a third of the time of a cryptographic hash.
CHECKSUM_PREFIX = b"seqblend crc32 "
CHECKSUM_BYTES = len(CHECKSUM_PREFIX) + 8
# Seconds without a write after which a temporary file of `datasets` counts as abandoned.
ABANDONED_AFTER = 24 * 3600


def cache_key(files: Iterable[str], *facts: Any) -> str:
    """Cache key of a table: a hash of the files' contents and of the facts. The files' paths do not matter."""
    content = hashlib.blake2b()
    for name in files:
        path = Path(os.path.expanduser(name))
        with path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                content.update(block)
        # The sizes tell where one file ends: the same bytes divided otherwise into files are other rows.
        content.update(str(path.stat().st_size).encode())
    return Hasher.hash([content.hexdigest(), *facts])


def cache_directory() -> Path:
    """The directory of all cached tables."""
    return Path(datasets.config.HF_DATASETS_CACHE, "seqblend").expanduser()


@contextmanager
def cache_errors() -> Iterator[None]:
    """Turn errors of reading or writing the cache into InputError."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{cache_directory()}: the data cannot be stored there, or is damaged ({error_line(error)}); "
            "delete its files, or set HF_DATASETS_CACHE to another directory"
        ) from error


def cache_table(key: str, batches: Iterator[pa.RecordBatch]) -> datasets.Dataset:
    """Write batches to the cache and return them as a memory-mapped data set; read no batch if they are cached.

    Args:
        key: cache key, see `cache_key`.
        batches: at least one, all of one schema.

    Raises:
        InputError: the cache cannot be written.
    """
    path = cache_directory() / f"{key}.arrow"
    with cache_errors():
        if not is_cached(path):
            write_table(path, batches)
        return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)


def map_cached(rows: datasets.Dataset, function: Callable, fingerprint: str, **options: Any) -> datasets.Dataset:
    """`rows.map(function, **options)`, whose result is reused if it is in the cache undamaged.

    Args:
        rows: of rows in memory the result is in memory too, and not cached.
        function: see `datasets.Dataset.map`.
        fingerprint: cache key of the result.
        options: see `datasets.Dataset.map`.

    Raises:
        InputError: the cache cannot be written.
    """
    with cache_errors():
        if not rows.cache_files:
            return rows.map(function, new_fingerprint=fingerprint, **options)
        path = cache_directory() / f"cache-{fingerprint}.arrow"
        # With several processes (`num_proc`) each writes a table.
        tables = f"{path.stem}*{path.suffix}"
        intact = {table for table in path.parent.glob(tables) if is_cached(table)}
        delete_abandoned()
        result = rows.map(function, new_fingerprint=fingerprint, cache_file_name=str(path), **options)
        for table in {*path.parent.glob(tables)} - intact:
            # Another process may have deleted it as damaged while it had no checksum.
            with contextlib.suppress(FileNotFoundError):
                add_checksum(table)
        return result


def write_table(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write batches to a file atomically: the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    delete_abandoned()
    # A name that no other process uses. Opened like any file, it gets the usual permissions.
    part = path.with_name(f"{uuid4().hex}.part")
    try:
        # Another process may hold the lock for a moment to check whether the file is abandoned.
        with open_locked(part, wait=True) as stream:
            first = next(batches)
            with pa.ipc.new_stream(stream, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
            stream.flush()
            stream.write(checksum_of(part, part.stat().st_size))
            sync_and_rename(stream, part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def delete_abandoned() -> None:
    """Delete partial files of killed processes: those that no process has locked, and old ones of `datasets`."""
    for part in cache_directory().glob("*.part"):
        delete_if_unlocked(part)
    for file in cache_directory().glob("tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > ABANDONED_AFTER:
                file.unlink()


# --- Checksums: appended to a table when it is written, to detect damage later ---


def is_cached(path: Path) -> bool:
    """Whether a table exists and its checksum is right. A damaged table is deleted, and a warning logged."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        wait_for_writer(file)
        size = os.fstat(file.fileno()).st_size - CHECKSUM_BYTES
        file.seek(max(size, 0))
        if size > 0 and file.read() == checksum_of(path, size):
            return True
    logger.warning("%s is damaged: it is deleted and made again", path)
    path.unlink(missing_ok=True)
    return False


def add_checksum(path: Path) -> None:
    """Append a checksum to a table unless it has one. Readers of Arrow streams stop before it."""
    with path.open("r+b") as file:
        lock(file, wait=True)
        # Another process may have appended it.
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - CHECKSUM_BYTES, 0))
        if not file.read().startswith(CHECKSUM_PREFIX):
            file.write(checksum_of(path, size))


def checksum_of(path: Path, size: int) -> bytes:
    """The checksum, with its prefix, of the first `size` bytes of a file."""
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(min(BLOCK_BYTES, size - file.tell())):
            checksum = zlib.crc32(block, checksum)
    return CHECKSUM_PREFIX + b"%08x" % checksum
