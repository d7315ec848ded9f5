"""Tables that need not fit into memory: written to the cache as they are read, and found there again."""

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

from .errors import InputError, in_one_line
from .locks import await_writer, clear, lock, open_locked
from .writing import put_in_place

logger = logging.getLogger(__name__)

# Bytes of a file that are hashed at a time.
BLOCK = 2**24
# Against damage, not against malice: a third of the time of a hash of the other kind.
SEAL = b"seqblend crc32 "
SEAL_BYTES = len(SEAL) + 8
# Seconds after which a file that `datasets` has not written to is nobody's.
ABANDONED = 24 * 3600


def key_of(files: Iterable[str], *facts: Any) -> str:
    """What a table made of these files is called: equal for equal contents and facts, wherever the files are."""
    content = hashlib.blake2b()
    for name in files:
        path = Path(name).expanduser()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                content.update(block)
        # The same bytes in other files are other rows.
        content.update(str(path.stat().st_size).encode())
    return Hasher.hash([content.hexdigest(), *facts])


def directory() -> Path:
    """Where everything is stored."""
    return Path(datasets.config.HF_DATASETS_CACHE, "seqblend").expanduser()


@contextmanager
def caching() -> Iterator[None]:
    """Inside something is stored, or found again. Raises InputError where the cache cannot be read or written."""
    try:
        yield
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{directory()}: the data cannot be stored there, or is damaged ({in_one_line(error)}); "
            "delete what is there, or HF_DATASETS_CACHE names another directory"
        ) from error


def stored(key: str, batches: Iterator[pa.RecordBatch]) -> datasets.Dataset:
    """The rows of the batches, on disk. Where they have been stored before, nothing is read of the batches.

    Args:
        key: tells what the batches are made of.
        batches: at least one, of one schema.

    Raises:
        InputError: the cache cannot be written.
    """
    path = directory() / f"{key}.arrow"
    with caching():
        if not is_stored(path):
            write(path, batches)
        return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)


def mapped(rows: datasets.Dataset, function: Callable, fingerprint: str, **options: Any) -> datasets.Dataset:
    """As rows.map; where its tables have been stored before, and are whole, nothing is computed.

    Args:
        rows: what is held in memory stays there.
        function: see `datasets.Dataset.map`.
        fingerprint: tells what the result is made of.
        options: as function.

    Raises:
        InputError: the cache cannot be written.
    """
    with caching():
        if not rows.cache_files:
            return rows.map(function, new_fingerprint=fingerprint, **options)
        path = directory() / f"cache-{fingerprint}.arrow"
        # Of several processes each makes a table.
        tables = f"{path.stem}*{path.suffix}"
        whole = {table for table in path.parent.glob(tables) if is_stored(table)}
        clear_abandoned()
        result = rows.map(function, new_fingerprint=fingerprint, cache_file_name=str(path), **options)
        for table in {*path.parent.glob(tables)} - whole:
            # Another process may have taken it for damaged, without a seal as it was.
            with contextlib.suppress(FileNotFoundError):
                seal(table)
        return result


def write(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write the batches to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_abandoned()
    # Of another name than what any other process writes, and with the rights that files have here.
    part = path.with_name(f"{uuid4().hex}.part")
    try:
        # Another process may look for a moment whether it is abandoned.
        with open_locked(part, wait=True) as stream:
            first = next(batches)
            with pa.ipc.new_stream(stream, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
            stream.flush()
            stream.write(seal_of(part, part.stat().st_size))
            put_in_place(stream, part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def clear_abandoned() -> None:
    """Delete what killed processes left half written: what none has locked, or, of `datasets`, what is old."""
    for part in directory().glob("*.part"):
        clear(part)
    for file in directory().glob("tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()


# --- Seals: a sum over what a file held when it was written, by which it is seen to be damaged ---


def is_stored(path: Path) -> bool:
    """Whether a table is there and whole; one that is damaged is deleted, and a line says so."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        await_writer(file)
        size = os.fstat(file.fileno()).st_size - SEAL_BYTES
        file.seek(max(size, 0))
        if size > 0 and file.read() == seal_of(path, size):
            return True
    logger.warning("%s is damaged and is passed over: what it held is made anew", path)
    path.unlink(missing_ok=True)
    return False


def seal(path: Path) -> None:
    """Put a seal behind the end of a table, where nobody reads on, unless it has one."""
    with path.open("r+b") as file:
        lock(file, wait=True)
        # Another process may have done it.
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - SEAL_BYTES, 0))
        if not file.read().startswith(SEAL):
            file.write(seal_of(path, size))


def seal_of(path: Path, size: int) -> bytes:
    """What stands behind so many bytes of a file."""
    sum_of_all = 0
    with path.open("rb") as file:
        while block := file.read(min(BLOCK, size - file.tell())):
            sum_of_all = zlib.crc32(block, sum_of_all)
    return SEAL + b"%08x" % sum_of_all
