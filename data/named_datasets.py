"""Data sets by name, the built-in `dates` or what `datasets.load_dataset` takes, and their splits."""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import datasets
import pyarrow as pa
from datasets.utils import tqdm

from .columns import STEPS, Field, present_fields
from .errors import InputError, in_one_line
from .formats import table_rows
from .sources import Source

logger = logging.getLogger(__name__)

BATCH_ROWS = 10_000
Rows = datasets.Dataset | datasets.IterableDataset


class Split(NamedTuple):
    """A split of a data set, or a part of one.

    Args:
        name: as the data set has it, such as `train` or `train[:90%]`.
        rows: of it.
        fact: equal where the rows are equal.
    """

    name: str
    rows: Rows
    fact: str


def named_sources(
    name: str,
    config_name: str | None,
    fields: Mapping[str, list[Field]],
    names: Mapping[str, str],
    seed: int,
    streaming: bool,
) -> dict[str, list[Source]]:
    """The sources of the splits that are to be read and exist; what else the data set has is said.

    Args:
        name: `dates`, or what `datasets.load_dataset` takes.
        config_name: its configuration.
        fields: for each split that is to be read, its columns.
        names: what `train`, `validation` and `test` are called, where not so.
        seed: decides the split of `dates`.
        streaming: whether nothing of it is to be stored.

    Raises:
        InputError: it cannot be loaded, or has no such split.
    """
    found = load_splits(name, config_name, seed, streaming)
    called = {split: names.get(split, split) for split in STEPS if split in names or split in found}
    if not called:
        flags = ", ".join(f"--{split}_split" for split in STEPS)
        raise InputError(
            f"dataset_name: {name!r} has none of the splits {', '.join(STEPS)}, but {', '.join(found)}; {flags} choose"
        )
    splits = {
        split: found.get(called[split]) or part(name, config_name, split, called[split], found, streaming)
        for split in fields
        if split in called
    }
    read = {base for split in splits.values() for base in re.findall(r"[^+\[\]]+(?=\[|\+|$)", split.name)}
    unread = [each for each in found if each not in read]
    if unread:
        hint = "; --train_split, --validation_split and --test_split choose" if {*unread} - {*STEPS} else ""
        logger.warning("%s: not read: split %s%s", name, ", ".join(unread), hint)
    return {split: [_source(*splits[split], f"{name}, split {splits[split].name}", fields[split])] for split in splits}


def load_splits(name: str, config_name: str | None, seed: int, streaming: bool) -> dict[str, Split]:
    """All splits of a data set. Raises InputError where it cannot be loaded."""
    if name == "dates":
        if config_name is not None:
            raise InputError(f"dataset_config_name: dates has no configurations, but {config_name!r} was given")
        from .dates import load_dates

        return {split: Split(split, rows, rows._fingerprint) for split, rows in load_dates(seed=seed).items()}
    try:
        if streaming:
            builder = datasets.load_dataset_builder(name, config_name)
            # The directory that it would be stored in, which all splits share, is named by its contents.
            place = builder.cache_dir
            return {
                split: Split(split, rows, f"{place}/{split}") for split, rows in builder.as_streaming_dataset().items()
            }
        loaded = datasets.load_dataset(name, config_name)
        return {split: Split(split, rows, rows._fingerprint) for split, rows in loaded.items()}
    except Exception as error:  # every builder and every network layer raises its own
        raise InputError(f"dataset_name: {name!r} cannot be loaded ({in_one_line(error)})") from error


def part(
    name: str, config_name: str | None, split: str, called: str, found: Collection[str], streaming: bool
) -> Split:
    """A part of a split, or several splits: `train[:90%]`, `train+extra`. Raises InputError for anything else."""
    reason = f"{split}_split: {called!r} is none of the splits of {name}, which are {', '.join(found)}"
    if name == "dates" or streaming:
        raise InputError(f"{reason}; {'streams' if streaming else 'dates'} are read by whole splits")
    try:
        rows = datasets.load_dataset(name, config_name, split=called)
    except Exception as error:  # every builder raises its own
        raise InputError(f"{reason}, and no part such as train[:90%] ({in_one_line(error)})") from error
    return Split(called, rows, rows._fingerprint)


def _source(_: str, dataset: Rows, fact: str, where: str, fields: list[Field]) -> Source:
    def rows(bar: tqdm) -> Iterator[dict]:
        count = 0
        for table in _tables(dataset, where):
            first = table.slice(0, 1).to_pylist()[0]
            wanted = [field.column for field in present_fields(fields, first, where)]
            # A column inside an object is read with all of it.
            whole = [column if column in first else column.partition(".")[0] for column in wanted]
            # Of a stream nobody may know them before it is read.
            features = dataset.features or datasets.Features.from_arrow_schema(table.schema)
            yield from table_rows(table.select(list(dict.fromkeys(whole))), features)
            bar.update(len(table))
            count += len(table)
        if not count:
            raise InputError(f"{where}: holds no rows")

    return Source(where, rows, getattr(dataset, "num_rows", None), cells=None, facts=(fact,))


def _tables(dataset: Rows, where: str) -> Iterator[pa.Table]:
    """The rows of a data set, some at a time. Of a stream what is wrong with them is found only here."""
    try:
        yield from dataset.with_format("arrow").iter(BATCH_ROWS)
    except Exception as error:  # every builder and every network layer raises its own
        raise InputError(f"{where}: cannot be read ({in_one_line(error)})") from error
