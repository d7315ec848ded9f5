"""Tables that need not fit into memory: written to the cache as they are read, and found there again."""

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.fingerprint import Hasher
from datasets.table import MemoryMappedTable

from .files import InputError

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


def stored(key: str, batches: Iterator[pa.RecordBatch]) -> datasets.Dataset:
    """The rows of the batches, on disk. Where they have been stored before, nothing is read of the batches.

    Args:
        key: tells what the batches are made of.
        batches: at least one, of one schema.

    Raises:
        InputError: the cache cannot be written.
    """
    path = Path(datasets.config.HF_DATASETS_CACHE, "seqblend", f"{key}.arrow").expanduser()
    if not path.exists():
        try:
            write(path, batches)
        except OSError as error:
            raise InputError(
                f"{path.parent}: the data cannot be stored there ({error.strerror or error}); "
                "HF_DATASETS_CACHE names another directory"
            ) from error
    return datasets.Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=key)


def write(path: Path, batches: Iterator[pa.RecordBatch]) -> None:
    """Write the batches to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(file, "wb") as stream:
            first = next(batches)
            with pa.ipc.new_stream(stream, first.schema) as writer:
                writer.write_batch(first)
                for batch in batches:
                    writer.write_batch(batch)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
