"""Read the user's files row by row: nothing guessed, nothing dropped, and every error names the file and the row."""

import contextlib
import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import datasets
import pyarrow as pa
import pyarrow.parquet

GZIP_ERRORS = (gzip.BadGzipFile, EOFError, zlib.error)
JSON_SPACE = re.compile(r"[ \t\r\n]*")
JSON_LIST = re.compile(r'\s*(\{\s*"data"\s*:\s*)?\[')


class InputError(ValueError):
    """The user's input is wrong. The message names file, row, column or field; train.py prints it and stops."""


class FileType(NamedTuple):
    """How one kind of file is read.

    Args:
        rows: from the path as the user wrote it and the open binary stream to one dict a row.
        typed: False if every cell is text, so that lists and numbers are written as text too.
    """

    rows: Callable[[str, IO[bytes]], Iterator[dict[str, Any]]]
    typed: bool


def nearest_first(name: str, names: Iterable[str]) -> list[str]:
    """Order names by how near they are to the one the user wrote."""
    return sorted(names, key=lambda known: -difflib.SequenceMatcher(None, name.lower(), known.lower()).ratio())


def one_of(field: str, value: str, known: Iterable[str]) -> str:
    """Return the value if it is known.

    Raises:
        InputError: it is not; the message lists the known values, nearest first.
    """
    names = list(known)
    if value not in names:
        raise InputError(f"{field}: unknown value {value!r}; valid are {', '.join(nearest_first(str(value), names))}")
    return value


def file_suffix(path: str | Path) -> str:
    """The suffix that says how a file is read: `.jsonl` for `a.jsonl` and for `a.jsonl.gz`.

    Raises:
        InputError: nothing here reads such a file.
    """
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    suffix = "".join(suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:])
    if suffix not in FILE_TYPES:
        known = ", ".join(nearest_first(suffix, FILE_TYPES)) if suffix else ", ".join(FILE_TYPES)
        raise InputError(f"{path}: unknown file extension {suffix!r}; known are {known}, each also with .gz")
    return suffix


def check_file(path: str | Path) -> None:
    """Refuse a file that cannot be read, before any long work.

    Raises:
        InputError: the extension is unknown, or there is no such file, or it is empty.
    """
    file_suffix(path)
    file = Path(path).expanduser()
    if not file.is_file():
        siblings = [entry.name for entry in file.parent.iterdir() if entry.is_file()] if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, siblings, n=3)
        reason = "is a directory" if file.is_dir() else "no such file"
        raise InputError(f"{path}: {reason}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")


def open_binary(path: str | Path) -> IO[bytes]:
    """Open a file for reading bytes, unpacked if its name ends in .gz."""
    file = Path(path).expanduser()
    try:
        return gzip.open(file, "rb") if file.suffix.lower() == ".gz" else file.open("rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a .json, .jsonl, .csv, .tsv, .parquet or .txt file, each also .gz.

    Text is UTF-8, a byte order mark is skipped, lines end in LF or CRLF. Rows are counted from 1; the header of
    a .csv or .tsv file and blank lines between rows are not counted.

    Raises:
        InputError: the file or one of its rows cannot be read, or there is no row at all.
    """
    check_file(path)
    empty = True
    with open_binary(path) as stream:
        try:
            for row in FILE_TYPES[file_suffix(path)].rows(str(path), stream):
                empty = False
                yield row
        except GZIP_ERRORS as error:
            raise InputError(f"{path}: is not a complete gzip file ({error})") from None
    if empty:
        raise InputError(f"{path}: the file holds no rows")


def _broken(path: str, row: int, line: int, reason: object) -> InputError:
    """The error of one row; the line is added where it differs from the row."""
    return InputError(f"{path}: row {row}{f' (line {line})' if line != row else ''}: {reason}")


def _decode(raw: bytes, path: str, row: int, line: int) -> str:
    try:
        return raw.decode("utf-8-sig" if line == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise _broken(path, row, line, f"not valid UTF-8 (byte {error.start + 1} of the line)") from None


def _check_object(value: Any, path: str, row: int, line: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _broken(path, row, line, f'not an object such as {{"text": "…"}} but {describe(value)}')
    return value


def describe(value: Any) -> str:
    """Say what was found, in a few words: "the number 3", "null", "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return {list: "a list", dict: "an object"}.get(type(value), f"a {type(value).__name__}")


def in_one_line(error: Exception) -> str:
    """What an error of a library says, and what kind it is."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _json_lines(path: str, stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """One object a line. A line ends at LF only: U+2028 and its like are text."""
    row = 0
    for line, raw in enumerate(stream, 1):
        text = _decode(raw, path, row + 1, line)
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            if JSON_SPACE.fullmatch(text):
                continue
            raise _broken(path, row + 1, line, f"not valid JSON ({_first_line(error)})") from None
        row += 1
        yield value if type(value) is dict else _check_object(value, path, row, line)


def _json_document(path: str, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """A list of objects, an object with such a list in `data`, or JSON lines."""
    data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}: line {row}: not valid UTF-8 (byte {error.start + 1} of the file)") from None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{") and str(error).startswith("Extra data"):
            yield from _json_lines(path, io.BytesIO(data))
            return
        raise _broken_document(path, text, error) from None
    if isinstance(value, dict):
        value = value["data"] if isinstance(value.get("data"), list) else [value]
    if not isinstance(value, list):
        raise InputError(f"{path}: must hold a list of objects, but holds {describe(value)}")
    for row, item in enumerate(value, 1):
        yield item if type(item) is dict else _check_object(item, path, row, row)


def _broken_document(path: str, text: str, error: Exception) -> InputError:
    """The error of a broken .json file: which object of its list is the broken one."""
    reason = f"not valid JSON ({_first_line(error)})"
    start = JSON_LIST.match(text)
    if start is None or not isinstance(error, json.JSONDecodeError):
        return InputError(f"{path}: {reason}")
    decoder, at, row = json.JSONDecoder(), start.end(), 1
    with contextlib.suppress(ValueError):
        while True:
            _, at = decoder.raw_decode(text, JSON_SPACE.match(text, at).end())
            at = JSON_SPACE.match(text, at).end()
            if text[at : at + 1] != ",":
                break
            at, row = at + 1, row + 1
    return InputError(f"{path}: row {row} (line {error.lineno}): {reason}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _header(path: str, names: list[str]) -> list[str]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}: the header names column {twice[0]!r} more than once")
    return names


def _csv(path: str, stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Comma-separated with a header; double quotes protect commas, quotes and line ends. Every cell is text."""
    row = line = 0

    def lines() -> Iterator[str]:
        for number, raw in enumerate(stream, 1):
            yield _decode(raw, path, max(row, 1), number)

    reader = csv.reader(lines(), strict=True)
    # A cell may be a whole document. The csv module has one limit for the whole process; 128 KiB by default.
    csv.field_size_limit(2**31 - 1)
    header: list[str] | None = None
    try:
        for cells in reader:
            start, line = line + 1, reader.line_num
            if header is None:
                header, row = _header(path, cells), 1
            elif cells:
                if len(cells) != len(header):
                    raise _broken(path, row, start, f"{len(cells)} columns, but the header has {len(header)}")
                yield dict(zip(header, cells, strict=True))
                row += 1
    except csv.Error as error:
        reason = "a quote is never closed" if "end of data" in str(error) else f"not valid CSV ({error})"
        raise _broken(path, max(row, 1), line + 1, reason) from None


def _tsv(path: str, stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Tab-separated with a header. Quotes are plain characters, so a cell holds neither tab nor line end."""
    header: list[str] | None = None
    row = 0
    for line, raw in enumerate(stream, 1):
        text = _strip_line_end(_decode(raw, path, max(row + 1, 1), line))
        cells = text.split("\t")
        if header is None:
            header = _header(path, cells)
        elif text or len(header) == 1:
            row += 1
            if len(cells) != len(header):
                raise _broken(path, row, line, f"{len(cells)} columns, but the header has {len(header)}")
            yield dict(zip(header, cells, strict=True))


def _txt(path: str, stream: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """One text a line, without its line end; an empty line is an empty text."""
    for line, raw in enumerate(stream, 1):
        yield {"text": _strip_line_end(_decode(raw, path, line, line))}


def _strip_line_end(text: str) -> str:
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")


def _parquet(path: str, stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    # Parquet is read from its end: a stream that has to be unpacked first is held in memory.
    source = pa.BufferReader(stream.read()) if path.lower().endswith(".gz") else stream
    try:
        file = pyarrow.parquet.ParquetFile(source)
        features = datasets.Features.from_arrow_schema(file.schema_arrow)
        for batch in file.iter_batches(batch_size=10_000):
            yield from table_rows(batch, features)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: not a valid Parquet file ({_first_line(error)})") from None


def table_rows(batch: pa.RecordBatch | pa.Table, features: datasets.Features) -> Iterator[dict[str, Any]]:
    """Yield the rows of an Arrow table, class numbers turned into their names (-1, "no label", into None)."""
    columns = [_class_names(features[name], batch.column(name).to_pylist()) for name in batch.schema.names]
    for cells in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, cells, strict=True))


def _class_names(feature: Any, values: list) -> list:
    if isinstance(feature, datasets.ClassLabel):
        return [feature.names[value] if value is not None and value >= 0 else None for value in values]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return [_class_names(inner, value) if isinstance(value, list) else value for value in values]
    return values


FILE_TYPES: dict[str, FileType] = {
    ".json": FileType(_json_document, typed=True),
    ".jsonl": FileType(_json_lines, typed=True),
    ".csv": FileType(_csv, typed=False),
    ".tsv": FileType(_tsv, typed=False),
    ".parquet": FileType(_parquet, typed=True),
    ".txt": FileType(_txt, typed=False),
}
