"""The sources of rows: one file or several, globs, and pairs of files with parallel lines."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from .errors import InputError, check_choice, printable, short_list
from .files import check_encoding, check_file, expand_globs
from .formats import DEFAULT_READING, Reading, file_type, read_pairs, read_rows

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
        rows: yields the rows and advances the progress bar that it is given.
        size: total of the progress bar, bytes of the files or rows; None if unknown.
        cells: the options for lists and numbers in text cells; None if values have types.
        one_word_a_line: whether the source is a file with one word per line.
        delimited: whether the source is a file with a column delimiter.
        files: the files that are read.
        facts: what the rows depend on besides the contents of the files; a part of the cache key.
    """

    name: str
    rows: Callable[[tqdm], Iterator[dict[str, Any]]]
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
    return Path(path).expanduser().stat().st_size


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
