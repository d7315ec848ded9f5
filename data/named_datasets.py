"""Data sets by name: the built-in `dates`, or any that `datasets.load_dataset` takes."""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import datasets
import pyarrow as pa
from datasets.utils import tqdm

from .columns import STEPS, Field, present_fields
from .errors import InputError, error_line
from .formats import table_rows
from .sources import Source

logger = logging.getLogger(__name__)

BATCH_ROWS = 10_000
Rows = datasets.Dataset | datasets.IterableDataset


class Split(NamedTuple):
    """A split of a data set, or a slice of one.

    Args:
        name: as `datasets` writes it, such as `train` or `train[:90%]`.
        rows: the rows of the split.
        fingerprint: equal for equal rows.
    """

    name: str
    rows: Rows
    fingerprint: str


def named_sources(
    name: str,
    config_name: str | None,
    fields: Mapping[str, list[Field]],
    names: Mapping[str, str],
    seed: int,
    streaming: bool,
) -> dict[str, list[Source]]:
    """The sources of the requested splits that exist. The splits that are not read are logged.

    Args:
        name: `dates`, or a name that `datasets.load_dataset` takes.
        config_name: configuration of the data set.
        fields: for each requested split, the columns to read.
        names: the data set's own names of `train`, `validation` and `test`, where they differ.
        seed: of the rows drawn for `dates`.
        streaming: whether to stream the data set instead of downloading it.

    Raises:
        InputError: the data set cannot be loaded, or has no such split.
    """
    found = load_splits(name, config_name, seed, streaming)
    own_names = {split: names.get(split, split) for split in STEPS if split in names or split in found}
    if not own_names:
        flags = ", ".join(f"--{split}_split" for split in STEPS)
        raise InputError(
            f"dataset_name: {name!r} has none of the splits {', '.join(STEPS)}, but {', '.join(found)}; "
            f"choose with {flags}"
        )
    splits = {
        split: found.get(own_names[split]) or load_slice(name, config_name, split, own_names[split], found, streaming)
        for split in fields
        if split in own_names
    }
    read_names = {base for split in splits.values() for base in re.findall(r"[^+\[\]]+(?=\[|\+|$)", split.name)}
    unread = [each for each in found if each not in read_names]
    if unread:
        hint = "; choose with --train_split, --validation_split and --test_split" if {*unread} - {*STEPS} else ""
        logger.warning("%s: not read: split %s%s", name, ", ".join(unread), hint)
    return {split: [_source(read, f"{name}, split {read.name}", fields[split])] for split, read in splits.items()}


def load_splits(name: str, config_name: str | None, seed: int, streaming: bool) -> dict[str, Split]:
    """All splits of a data set. Raises InputError if it cannot be loaded."""
    if name == "dates":
        if config_name is not None:
            raise InputError(f"dataset_config_name: dates has no configurations, but {config_name!r} was given")
        from .dates import load_dates

        return {split: Split(split, rows, rows._fingerprint) for split, rows in load_dates(seed=seed).items()}
    try:
        if streaming:
            builder = datasets.load_dataset_builder(name, config_name)
            # The path of the cache directory holds a hash of the contents. All splits share it.
            cache_dir = builder.cache_dir
            return {
                split: Split(split, rows, f"{cache_dir}/{split}")
                for split, rows in builder.as_streaming_dataset().items()
            }
        loaded = datasets.load_dataset(name, config_name)
        return {split: Split(split, rows, rows._fingerprint) for split, rows in loaded.items()}
    except Exception as error:  # `datasets`: every builder and the network raise their own exceptions
        raise InputError(f"dataset_name: {name!r} cannot be loaded ({error_line(error)})") from error


def load_slice(
    name: str, config_name: str | None, split: str, split_name: str, found: Collection[str], streaming: bool
) -> Split:
    """A slice of a split or several splits: `train[:90%]`, `train+extra`. Raises InputError if it cannot be loaded."""
    reason = f"{split}_split: {split_name!r} is none of the splits of {name}, which are {', '.join(found)}"
    if name == "dates" or streaming:
        raise InputError(f"{reason}; {'streams' if streaming else 'dates'} are read by whole splits")
    try:
        rows = datasets.load_dataset(name, config_name, split=split_name)
    except Exception as error:  # load_dataset: every builder raises its own exceptions
        raise InputError(f"{reason}, and no part such as train[:90%] ({error_line(error)})") from error
    return Split(split_name, rows, rows._fingerprint)


def _source(split: Split, where: str, fields: list[Field]) -> Source:
    dataset = split.rows

    def rows(bar: tqdm) -> Iterator[dict]:
        count = 0
        for table in _tables(dataset, where):
            first = table.slice(0, 1).to_pylist()[0]
            columns = [field.column for field in present_fields(fields, first, where)]
            # A column inside an object is read with the whole object.
            outer = [column if column in first else column.partition(".")[0] for column in columns]
            # The features of a stream may be unknown before it is read.
            features = dataset.features or datasets.Features.from_arrow_schema(table.schema)
            yield from table_rows(table.select(list(dict.fromkeys(outer))), features)
            bar.update(len(table))
            count += len(table)
        if not count:
            raise InputError(f"{where}: holds no rows")

    return Source(where, rows, getattr(dataset, "num_rows", None), cells=None, facts=(split.fingerprint,))


def _tables(dataset: Rows, where: str) -> Iterator[pa.Table]:
    """The rows of a data set in batches. The errors of a stream appear only here."""
    try:
        yield from dataset.with_format("arrow").iter(BATCH_ROWS)
    except Exception as error:  # `datasets` reads a stream here: its builders and the network raise anything
        raise InputError(f"{where}: cannot be read ({error_line(error)})") from error
