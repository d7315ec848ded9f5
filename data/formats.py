"""Read the user's files row by row. Nothing is guessed or dropped, and every error names the file and the row."""

import contextlib
import csv
import io
import json
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet
from tqdm import tqdm

from .arrow import TableColumns
from .conll import CONLL, CONLL_U, WordColumns, read_sentences
from .errors import InputError, describe, nearest_first
from .files import (
    CHUNK_BYTES,
    DECOMPRESSION_ERRORS,
    Lines,
    check_file,
    compression_of,
    file_suffix,
    open_binary,
    read_all,
    strip_line_end,
)

JSON_SPACE = re.compile(r"[ \t\r\n]*")
JSON_LIST = re.compile(r'\s*(\{\s*"data"\s*:\s*)?\[')
# Python's limit, as the time to read a number grows with the square of its digits.
TOO_MANY_DIGITS = "a number has more than 4,300 digits; in quotes it is a text"
# Delimiters that other files use, to recognize a header with the wrong one.
DELIMITERS = (";", "\t", "|", ",")
SEPARATOR_LINE = re.compile(r'("?)sep=(.)\1', re.IGNORECASE)


class Reading(NamedTuple):
    """The user's options for reading files.

    Args:
        encoding: encoding of text files.
        token_column_index: column of the words in files with one word per line; None is the format's default.
        tag_column_index: column of the tags, likewise.
        delimiter: column delimiter of .csv and .tsv files; None is a comma for .csv and a tab for .tsv.
        decimal: decimal mark of numbers in cells, a point or a comma.
        label_separator: the characters that separate the labels of a cell; None is a space.
    """

    encoding: str = "utf-8"
    token_column_index: int | None = None
    tag_column_index: int | None = None
    delimiter: str | None = None
    decimal: str = "."
    label_separator: str | None = None

    @classmethod
    def from_options(cls, options: Any) -> "Reading":
        r"""From attributes of the same names. The delimiter may be written `\t`: a tab is hard to type in a shell."""
        reading = cls(**{name: getattr(options, name) for name in cls._fields})
        return reading._replace(delimiter="\t") if reading.delimiter == r"\t" else reading

    @property
    def has_columns(self) -> bool:
        """Whether a column index is given, so that .tsv and .txt files are read as one word per line."""
        return self.token_column_index is not None or self.tag_column_index is not None


DEFAULT_READING = Reading()
Rows = Iterator[dict[str, Any]]


class FileType(NamedTuple):
    """How one kind of file is read.

    Args:
        rows: function of the path as the user wrote it, the binary stream and the options; yields one dict per row.
        typed: whether values have types; False if every cell is text, lists and numbers too.
        selects: whether `rows` also takes the `columns` to read, and leaves others empty.
        one_word_a_line: whether `token_column_index` and `tag_column_index` apply.
        delimited: whether `delimiter` applies.
    """

    rows: Callable[..., Rows]
    typed: bool
    selects: bool = False
    one_word_a_line: bool = False
    delimited: bool = False


def file_type(path: str | Path, reading: Reading) -> FileType:
    """The FileType of a file, by its suffix.

    Raises:
        InputError: the suffix is unknown.
    """
    suffix = file_suffix(path)
    if suffix not in FILE_TYPES:
        known = ", ".join(nearest_first(suffix, FILE_TYPES) if suffix else FILE_TYPES)
        raise InputError(f"{path}: unknown file extension {suffix!r}; known are {known}, each also with .gz or .zst")
    return FILE_TYPES[".conll" if reading.has_columns and suffix in (".tsv", ".txt") else suffix]


def read_rows(path: str, reading: Reading, bar: tqdm | None = None, columns: Collection[str] | None = None) -> Rows:
    """Yield the rows of a file of one of the `FILE_TYPES`, which may be compressed as .gz or .zst.

    Lines end in LF or CRLF. Rows are counted from 1; the header of a .csv or .tsv file and blank lines between rows
    are not counted. A row of a .conll or .conllu file is a sentence.

    Args:
        path: as the user wrote it.
        reading: options for reading.
        bar: progress bar, in bytes.
        columns: the columns that are used, as `value_of` takes their names; others may be empty. None: all.

    Raises:
        InputError: the file or one of its rows cannot be read, or the file has no rows.
    """
    check_file(path)
    kind = file_type(path, reading)
    used = {"columns": columns} if kind.selects else {}
    rows = rows_of_file(path, lambda stream: kind.rows(path, stream, reading, **used), bar)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path}: the file holds no rows")
    yield first
    yield from rows


def read_pairs(
    source: str, target: str, reading: Reading, bar: tqdm | None = None, columns: Collection[str] | None = None
) -> Rows:
    """Yield line i of the source file with line i of the target file, each without its line end only.

    `columns` is an argument of every source of rows; here both columns are read.

    Raises:
        InputError: a file cannot be read, or the two files differ in their number of lines.
    """
    sides = []
    for path in (source, target):
        check_file(path)
        sides.append(rows_of_file(path, lambda stream, path=path: _txt(path, stream, reading), bar))
    count = 0
    for one, other in zip_longest(*sides):
        if one is None or other is None:
            counts = [count + (side is not None) for side in (one, other)]
            counts = [number + sum(1 for _ in side) for number, side in zip(counts, sides, strict=True)]
            raise InputError(f"{source} has {counts[0]} lines, but {target} has {counts[1]}: line i goes with line i")
        yield {"source": one["text"], "target": other["text"]}
        count += 1
    if count == 0:
        raise InputError(f"{source} with {target}: the files hold no rows")


def rows_of_file(path: str, rows: Callable[[IO[bytes]], Rows], bar: tqdm | None) -> Rows:
    """Open a file and yield its rows. Raises InputError if it cannot be read or decompressed."""
    with open_binary(path, bar) as stream:
        try:
            yield from rows(stream)
        except DECOMPRESSION_ERRORS as error:
            compression = compression_of(path)
            reason = f"is not a complete {compression} file" if compression else "cannot be read"
            raise InputError(f"{path}: {reason} ({error})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- JSON ---


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is given twice in an object")
    return value


# Python's default decoder keeps the last of two values with the same name.
JSON = json.JSONDecoder(object_pairs_hook=_unique_pairs)


def _json_error_text(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "not valid JSON (nested too deeply)"
    return TOO_MANY_DIGITS if "integer string conversion" in str(error) else f"not valid JSON ({_first_line(error)})"


def _check_object(value: Any, lines: Lines) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise lines.error(f'not an object such as {{"text": "…"}} but {describe(value)}')
    return value


def _json_lines(path: str, stream: IO[bytes], reading: Reading) -> Rows:
    """JSON Lines: one object per line."""
    lines, decode = Lines(path, stream, reading.encoding), JSON.decode
    for text in lines:
        try:
            value = decode(text)
        except (ValueError, RecursionError) as error:
            if JSON_SPACE.fullmatch(text):
                continue
            raise lines.error(_json_error_text(error)) from None
        yield value if type(value) is dict else _check_object(value, lines)
        lines.row += 1


def _json_document(path: str, stream: IO[bytes], reading: Reading) -> Rows:
    """A list of objects, an object with such a list in `data`, or JSON Lines."""
    data = read_all(path, stream)
    lines = Lines(path, io.BufferedReader(io.BytesIO(data)), reading.encoding)
    lines.row = None
    text = "".join(lines)
    try:
        value = JSON.decode(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and str(error).startswith("Extra data"):
            yield from _json_lines(path, io.BufferedReader(io.BytesIO(data)), reading)
            return
        raise _document_error(path, text, error) from None
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    if not isinstance(value, list):
        raise InputError(f"{path}: must hold a list of objects, but holds {describe(value)}")
    for row, item in enumerate(value, 1):
        if type(item) is not dict:
            raise InputError(f'{path}: row {row}: not an object such as {{"text": "…"}} but {describe(item)}')
        yield item


def _document_error(path: str, text: str, error: Exception) -> InputError:
    """The error for an invalid .json file. It names the row of the list, and the line, where the error is."""
    reason = _json_error_text(error)
    start = JSON_LIST.match(text)
    if start is None:
        return InputError(f"{path}: {reason}")
    line = f" (line {error.lineno})" if isinstance(error, json.JSONDecodeError) else ""
    at, row = start.end(), 1
    with contextlib.suppress(ValueError, RecursionError):
        while True:
            _, at = JSON.raw_decode(text, JSON_SPACE.match(text, at).end())
            at = JSON_SPACE.match(text, at).end()
            if text[at : at + 1] != ",":
                break
            at, row = at + 1, row + 1
    return InputError(f"{path}: row {row}{line}: {reason}")


# --- Delimited text ---


def _header(path: str, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the header names column {twice[0]!r} more than once")
    return names


def _find_delimiter(lines: Lines, reading: Reading, default: str) -> tuple[str, Iterator[str]]:
    """The delimiter, and the lines from the header on.

    A first line such as `sep=;`, as Excel reads and writes it, sets the delimiter.

    Raises:
        InputError: such a line contradicts `--delimiter`, or the header has no delimiter except those of other files.
    """
    rows = iter(lines)
    first = next(rows, "")
    separator = SEPARATOR_LINE.fullmatch(strip_line_end(first))
    if separator is None:
        if reading.delimiter is None:
            _check_header(lines, first, default)
        return reading.delimiter or default, chain([first] if first else [], rows)
    if reading.delimiter not in (None, separator[2]):
        raise lines.error(f"says {separator[0]}, but --delimiter is {reading.delimiter!r}")
    return separator[2], rows


def _check_header(lines: Lines, first: str, default: str) -> None:
    """Raises InputError for a header without the default delimiter but with another one."""
    other = next((each for each in DELIMITERS if each in first), None)
    if default not in first and other is not None:
        shown = {each: repr(each) for each in (other, default)}
        raise InputError(
            f"{lines.path}: the header {strip_line_end(first)[:60]!r} has no {shown[default]} and would be one "
            f"column; give --delimiter {shown[other]} if that separates the columns, or {shown[default]} if it is one"
        )


def _csv(path: str, stream: IO[bytes], reading: Reading) -> Rows:
    """Comma-separated, with a header. Double quotes enclose cells with commas, quotes or line ends. Cells are text."""
    lines, line = Lines(path, stream, reading.encoding), 0
    delimiter, texts = _find_delimiter(lines, reading, ",")
    reader = csv.reader(texts, strict=True, delimiter=delimiter)
    # A cell may be a whole document. The csv module has one limit per process, 128 KiB by default.
    csv.field_size_limit(2**31 - 1)
    header: list[str] | None = None
    try:
        for cells in reader:
            start, line = line + 1, lines.line
            if header is None:
                header = _header(path, cells)
            elif cells:
                if len(cells) != len(header):
                    raise lines.error(f"{len(cells)} columns, but the header has {len(header)}", start)
                yield dict(zip(header, cells, strict=True))
                lines.row += 1
    except csv.Error as error:
        reason = "a quote is never closed" if "end of data" in str(error) else f"not valid CSV ({error})"
        if "new-line character" in str(error):
            reason = "a CR stands outside of quotes and ends no line"
        raise lines.error(reason, line + 1) from None


def _tsv(path: str, stream: IO[bytes], reading: Reading) -> Rows:
    """Tab-separated, with a header. Quotes are plain characters, so a cell has neither tabs nor line ends."""
    lines = Lines(path, stream, reading.encoding)
    delimiter, texts = _find_delimiter(lines, reading, "\t")
    header: list[str] | None = None
    for text in map(strip_line_end, texts):
        cells = text.split(delimiter)
        if header is None:
            header = _header(path, cells)
        elif text or len(header) == 1:
            if len(cells) != len(header):
                raise lines.error(f"{len(cells)} columns, but the header has {len(header)}")
            yield dict(zip(header, cells, strict=True))
            lines.row += 1


def _txt(path: str, stream: IO[bytes], reading: Reading) -> Rows:
    """One text per line, without its line end; an empty line is an empty text."""
    lines = Lines(path, stream, reading.encoding)
    for text in map(strip_line_end, lines):
        yield {"text": text}
        lines.row += 1


# --- One word per line ---


def _conll(
    path: str,
    stream: IO[bytes],
    reading: Reading,
    columns: Collection[str] | None = None,
    defaults: WordColumns = CONLL,
) -> Rows:
    indices = defaults.replace_with(reading.token_column_index, reading.tag_column_index)
    if columns is not None and "tags" not in columns:
        indices = indices._replace(tag=None)
    return read_sentences(Lines(path, stream, reading.encoding), indices)


# --- Parquet ---


def _parquet(path: str, stream: IO[bytes], reading: Reading, columns: Collection[str] | None = None) -> Rows:
    # Parquet is read from its end, so a compressed file is decompressed into memory first.
    source = pa.BufferReader(read_all(path, stream)) if compression_of(path) else stream
    try:
        # By default Arrow reads a whole row group at once, which may be the whole file.
        file = pyarrow.parquet.ParquetFile(source, buffer_size=CHUNK_BYTES, pre_buffer=False)
        read = TableColumns(file.schema_arrow, columns, path)
        for batch in file.iter_batches(batch_size=1_000, columns=read.names):
            yield from read.rows(batch)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a valid Parquet file ({_first_line(error)})") from None


FILE_TYPES: dict[str, FileType] = {
    ".json": FileType(_json_document, typed=True),
    ".jsonl": FileType(_json_lines, typed=True),
    ".csv": FileType(_csv, typed=False, delimited=True),
    ".tsv": FileType(_tsv, typed=False, delimited=True),
    ".parquet": FileType(_parquet, typed=True, selects=True),
    ".txt": FileType(_txt, typed=False),
    ".conll": FileType(_conll, typed=True, selects=True, one_word_a_line=True),
    ".conllu": FileType(partial(_conll, defaults=CONLL_U), typed=True, selects=True, one_word_a_line=True),
}
