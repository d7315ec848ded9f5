"""The sources of rows: files and globs, pairs of files with parallel lines, and data sets by name."""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from datasets.utils import tqdm

from .arrow import TableColumns
from .columns import STEPS
from .errors import InputError, check_choice, error_line, printable, short_list
from .files import check_encoding, check_file, expand_globs
from .formats import DEFAULT_READING, Reading, file_type, read_pairs, read_rows

logger = logging.getLogger(__name__)

BATCH_ROWS = 10_000
Rows = datasets.Dataset | datasets.IterableDataset
Names = str | Path | Sequence[str | Path]
# Options of `Reading` for files with a header.
CELL_OPTIONS = ("delimiter", "decimal", "label_separator")


class Pairs(NamedTuple):
    """Parallel text: line i of the n-th source file belongs to line i of the n-th target file."""

    source: Names
    target: Names


class Source(NamedTuple):
    """A source of rows. Messages count its rows from 1.

    Args:
        name: of the source, for messages.
        rows: function of a progress bar, which it advances, and of the columns that are used, as `value_of` takes
            their names (None: all); yields the rows, in which other columns may be empty.
        size: total of the progress bar, bytes of the files or rows; None if unknown.
        cells: the options for lists and numbers in text cells; None if values have types.
        one_word_a_line: whether the source is a file with one word per line.
        delimited: whether the source is a file with a column delimiter.
        files: the files that are read.
        facts: what the rows depend on besides the contents of the files; a part of the cache key.
    """

    name: str
    rows: Callable[[tqdm, Collection[str] | None], Iterator[dict[str, Any]]]
    size: int | None
    cells: Reading | None
    one_word_a_line: bool = False
    delimited: bool = False
    files: tuple[str, ...] = ()
    facts: tuple[Any, ...] = ()


class Origin(NamedTuple):
    """The sources of a split's rows, for messages.

    Args:
        names: of the sources, in order.
        counts: number of rows of each source.
        kept: indices of the rows that were kept, if the others were left out.
    """

    names: list[str]
    counts: list[int]
    kept: np.ndarray | None = None

    def __str__(self) -> str:
        return printable(short_list(self.names))

    def keep(self, indices: np.ndarray) -> "Origin":
        """The origin of some of the rows, given by their indices, in order."""
        return self._replace(kept=indices if self.kept is None else self.kept[indices])

    def row(self, number: int) -> str:
        """Name row `number` of the split (from 1) by its source and its number in that source."""
        number = number if self.kept is None else int(self.kept[number - 1]) + 1
        for name, count in zip(self.names, self.counts, strict=True):
            if number <= count:
                return f"{name}: row {number}"
            number -= count
        raise AssertionError(f"{self} has fewer rows")


def sources_of(split: str, given: Names | Pairs, reading: Reading) -> list[Source]:
    """The sources of a split, one for each file or pair of files.

    Raises:
        InputError: a file is missing, empty or of an unknown type, or source and target files differ in number.
    """
    if isinstance(given, Pairs):
        return [_pair_source(source, target, reading) for source, target in _pairs(split, given)]
    return [_file_source(path, reading) for path in expand_globs(f"{split}_file", given)]


def _file_source(path: str, reading: Reading) -> Source:
    kind = file_type(path, reading)
    check_file(path)
    facts = (Path(path).suffixes, reading)
    rows = partial(read_rows, path, reading)
    cells = None if kind.typed else reading
    return Source(path, rows, size_of(path), cells, kind.one_word_a_line, kind.delimited, (path,), facts)


def _pair_source(source: str, target: str, reading: Reading) -> Source:
    check_file(source)
    check_file(target)
    rows = partial(read_pairs, source, target, reading)
    facts = (Path(source).suffixes, Path(target).suffixes, reading)
    size = size_of(source) + size_of(target)
    return Source(f"{source} with {target}", rows, size, cells=None, files=(source, target), facts=facts)


def size_of(path: str) -> int:
    """Size of a file on disk, in bytes."""
    return os.path.getsize(os.path.expanduser(path))


def _pairs(split: str, given: Pairs) -> list[tuple[str, str]]:
    """Pair the n-th source file with the n-th target file. Raises InputError if their numbers differ."""
    sources, targets = (expand_globs(f"{split}_{side}_file", names) for side, names in given._asdict().items())
    if len(sources) != len(targets):
        counts = f"{len(sources)} ({short_list(sources)}) and {len(targets)} ({short_list(targets)})"
        raise InputError(f"{split}_source_file, {split}_target_file: must name as many files each, but name {counts}")
    return list(zip(sources, targets, strict=True))


def check_reading(reading: Reading, sources: list[Source]) -> None:
    """Check the reading options.

    Raises:
        InputError: the encoding is unknown; a delimiter, decimal mark or label separator is invalid, or given without
            a file with a header; or a column index is given without a file of one word per line.
    """
    check_encoding(reading.encoding)
    if reading.delimiter is not None and (len(reading.delimiter) != 1 or reading.delimiter in '"\r\n'):
        raise InputError(f"delimiter: must be one character such as ';' or '\\t', not {reading.delimiter!r}")
    check_choice("decimal", reading.decimal, [".", ","])
    if reading.label_separator == "":
        raise InputError("label_separator: is empty; give one or more characters")
    given = [name for name in CELL_OPTIONS if getattr(reading, name) != getattr(DEFAULT_READING, name)]
    if given and not any(source.delimited for source in sources):
        raise InputError(f"{given[0]}: is for .csv and .tsv files with a header, but there are none")
    if reading.has_columns and not any(source.one_word_a_line for source in sources):
        flag = "tag_column_index" if reading.token_column_index is None else "token_column_index"
        kinds = ".conll, .conllu, .tsv and .txt"
        raise InputError(f"{flag}: is for files of one word per line, {kinds}, but there are none")


# --- Data sets by name ---


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
    wanted: Collection[str],
    names: Mapping[str, str],
    seed: int,
    streaming: bool,
) -> dict[str, list[Source]]:
    """The sources of the requested splits that exist. The splits that are not read are logged.

    Args:
        name: `dates`, or a name that `datasets.load_dataset` takes.
        config_name: configuration of the data set.
        wanted: the requested splits.
        names: the data set's own names of `train`, `validation` and `test`, where they differ.
        seed: of the rows drawn for `dates`.
        streaming: whether to stream the data set instead of downloading it.

    Raises:
        InputError: the data set cannot be loaded, or has no such split.
    """
    # A shell does not expand `~` in a YAML file.
    name = os.path.expanduser(name)
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
        for split in wanted
        if split in own_names
    }
    read_names = {base for split in splits.values() for base in re.findall(r"[^+\[\]]+(?=\[|\+|$)", split.name)}
    unread = [each for each in found if each not in read_names]
    if unread:
        hint = "; choose with --train_split, --validation_split and --test_split" if {*unread} - {*STEPS} else ""
        logger.warning("%s: not read: split %s%s", name, ", ".join(unread), hint)
    return {split: [_source(read, f"{name}, split {read.name}")] for split, read in splits.items()}


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
        raise InputError(f"dataset_name: {name!r} cannot be loaded ({reason_of(error)})") from error


def reason_of(error: Exception) -> str:
    """Why a data set cannot be loaded, in one line. The error of a broken file says so only in its cause."""
    hides_cause = type(error) is datasets.exceptions.DatasetGenerationError and error.__cause__ is not None
    return error_line(error.__cause__ if hides_cause else error)


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
        raise InputError(f"{reason}, and no part such as train[:90%] ({reason_of(error)})") from error
    return Split(split_name, rows, rows._fingerprint)


def _source(split: Split, where: str) -> Source:
    dataset = split.rows

    def rows(bar: tqdm, columns: Collection[str] | None) -> Iterator[dict]:
        # The features of a stream may be unknown before it is read.
        known = dataset.features and TableColumns(dataset.features.arrow_schema, columns, where)
        count = 0
        for table in _tables(dataset.select_columns(known.names) if known and known.names else dataset, where):
            yield from (known or TableColumns(table.schema, columns, where)).rows(table)
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
