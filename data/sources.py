"""From what the user names to rows: files, several of them, globs, and pairs of files whose lines go together."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from .errors import InputError, listed, one_line, one_of
from .files import check_encoding, check_file, expand
from .formats import DEFAULT_READING, Reading, file_type, read_pairs, read_rows

Names = str | Path | Sequence[str | Path]
# What a reading says of files with a header.
OF_CELLS = ("delimiter", "decimal", "label_separator")


class Pairs(NamedTuple):
    """Parallel text: line i of a source file goes with line i of the target file in the same place."""

    source: Names
    target: Names


class Source(NamedTuple):
    """Rows that are read one by one, and counted from 1 in messages.

    Args:
        name: where they come from, for messages.
        rows: gives them, and tells a bar how far it is.
        size: what the bar goes up to: bytes of the files, or rows; None if nobody knows.
        cells: how lists and numbers are written, where every cell is text; None if values have types.
        one_word_a_line: whether the rows come from a file of one word a line.
        delimited: whether they come from a file whose columns a delimiter separates.
        files: that are read.
        facts: what the rows depend on besides the files' contents.
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
    """Where the rows of a split come from, as messages say it.

    Args:
        names: of the sources, one after the other.
        counts: how many rows each has.
    """

    names: list[str]
    counts: list[int]

    def __str__(self) -> str:
        return one_line(listed(self.names))

    def row(self, number: int) -> str:
        """Row `number` of the split, from 1, by its source and its number there."""
        for name, count in zip(self.names, self.counts, strict=True):
            if number <= count:
                return f"{name}: row {number}"
            number -= count
        raise AssertionError(f"{self} has no row so far on")


def sources_of(split: str, given: Names | Pairs, reading: Reading) -> list[Source]:
    """The sources of a split; every file is there, and of a kind that can be read.

    Raises:
        InputError: a file is missing, or of an unknown kind, or has no other to go with.
    """
    if isinstance(given, Pairs):
        return [_pair_source(source, target, reading) for source, target in _pairs(split, given)]
    return [_file_source(path, reading) for path in expand(f"{split}_file", given)]


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
    """In bytes, packed as it is."""
    return Path(path).expanduser().stat().st_size


def _pairs(split: str, given: Pairs) -> list[tuple[str, str]]:
    """The first source file with the first target file, and so on."""
    sources, targets = (expand(f"{split}_{side}_file", names) for side, names in given._asdict().items())
    if len(sources) != len(targets):
        counts = f"{len(sources)} ({listed(sources)}) and {len(targets)} ({listed(targets)})"
        raise InputError(f"{split}_source_file, {split}_target_file: must name equally many files, but name {counts}")
    return list(zip(sources, targets, strict=True))


def check_reading(reading: Reading, sources: list[Source]) -> None:
    """Refuse what has no effect or no meaning.

    Raises:
        InputError: the encoding is unknown, a column is named where no file holds one word a line, or what separates
            columns, numbers or labels is impossible, or said where there is no file with a header.
    """
    check_encoding(reading.encoding)
    if reading.delimiter is not None and (len(reading.delimiter) != 1 or reading.delimiter in '"\r\n'):
        raise InputError(f"delimiter: must be one character such as ';' or '\\t', not {reading.delimiter!r}")
    one_of("decimal", reading.decimal, [".", ","])
    if reading.label_separator == "":
        raise InputError("label_separator: is empty; give one or more characters")
    said = [name for name in OF_CELLS if getattr(reading, name) != getattr(DEFAULT_READING, name)]
    if said and not any(source.delimited for source in sources):
        raise InputError(f"{said[0]}: is for .csv and .tsv files with a header, of which there is none")
    if reading.has_columns and not any(source.one_word_a_line for source in sources):
        flag = "tag_column_index" if reading.token_column_index is None else "token_column_index"
        kinds = ".conll, .conllu, .tsv and .txt"
        raise InputError(f"{flag}: is for files of one word a line, {kinds}, of which there is none")
