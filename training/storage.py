"""Tables that need not fit into memory: written to the cache as they are read, and found there again."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import datasets
import pyarrow as pa
from datasets.fingerprint import Hasher
from datasets.table import MemoryMappedTable

from .files import InputError, in_one_line

# Bytes of a file that are hashed at a time.
BLOCK = 2**24


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
    """Inside something is stored, or found again. Raises InputError where the cache is damaged or unwritable."""
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
        InputError: the cache cannot be written, or is damaged.
    """
    path = directory() / f"{key}.arrow"
    with caching():
        if not path.exists():
            write(path, batches)
        return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)


def write(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write the batches to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Of another name than what any other process writes, and with the rights that files have here.
    part = path.with_name(f"{uuid4().hex}.part")
    try:
        with part.open("xb") as stream:
            first = next(batches)
            with pa.ipc.new_stream(stream, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
