"""The output of answers: standard output or a file, whose ending decides its format."""

import csv
import gzip
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ..data.errors import InputError, printable
from ..data.locks import open_locked
from ..data.objects import json_line
from ..data.writing import partial_path, sync_and_rename

# Answers of a Parquet file that are converted together, and the bytes of a row group of it, before compression: Arrow
# needs far less memory for answers than Python.
CONVERTED, ROW_GROUP = 100, 2**25
LABEL = pa.struct([("label", pa.string()), ("score", pa.float64())])
PLACE = [("start", pa.int64()), ("end", pa.int64()), ("text", pa.string())]
# The types of the keys of an answer that have one type.
ARROW_TYPES = {
    "score": pa.float64(),
    "abstains": pa.bool_(),
    "answers": pa.list_(pa.struct([("text", pa.string()), ("score", pa.float64())])),
    "entities": pa.list_(pa.struct([("label", pa.string()), *PLACE, ("score", pa.float64())])),
    "words": pa.list_(pa.struct([*PLACE, ("label", pa.string()), ("probabilities", pa.list_(LABEL))])),
    "probabilities": pa.list_(pa.list_(LABEL)),
    "masks": pa.list_(
        pa.struct(
            [
                *PLACE[:2],
                (
                    "predictions",
                    pa.list_(pa.struct([("text", pa.string()), ("token", pa.int64()), ("score", pa.float64())])),
                ),
            ]
        )
    ),
}

Answers = Iterable[dict[str, Any]]


@contextmanager
def text_stream(file: IO[bytes]) -> Iterator[IO[str]]:
    """The file as a stream of text; at the end, also after an error, all of it is in the file."""
    stream = io.TextIOWrapper(io.BufferedWriter(file), "utf-8", newline="")  # type: ignore[type-var]
    try:
        yield stream
    finally:
        stream.detach().detach()


def write_lines(answers: Answers, file: IO[bytes]) -> None:
    """One object of JSON a line."""
    with text_stream(file) as stream:
        for answer in answers:
            stream.write(json_line(answer))


def write_compressed(answers: Answers, file: IO[bytes]) -> None:
    """As write_lines, compressed."""
    with gzip.open(file, "wb") as inner:
        write_lines(answers, inner)


def write_table(answers: Answers, file: IO[bytes]) -> None:
    """As CSV (RFC 4180), with a row of names; what is no text is written as JSON, and None as nothing."""
    with text_stream(file) as stream:
        table = csv.writer(stream)
        for number, answer in enumerate(answers):
            if number == 0:
                table.writerow(answer)
            table.writerow(map(as_cell, answer.values()))


def as_cell(value: Any) -> str:
    """A value as the cell of a table."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def write_parquet(answers: Answers, file: IO[bytes]) -> None:
    """A table of Arrow; labels with their scores are lists of {label, score}."""
    remaining = iter(answers)
    first = next(remaining, None)
    schema = pa.schema([(key, arrow_type(key, value)) for key, value in (first or {"input": ""}).items()])
    rows = chain([] if first is None else [first], remaining)
    with pq.ParquetWriter(file, schema) as writer:
        tables, size = [], 0
        while chunk := list(islice(rows, CONVERTED)):
            columns = [[to_arrow(row[field.name], field.type) for row in chunk] for field in schema]
            tables.append(pa.table(columns, schema=schema))
            size += tables[-1].nbytes
            if size >= ROW_GROUP:
                writer.write_table(pa.concat_tables(tables))
                tables, size = [], 0
        if tables:
            writer.write_table(pa.concat_tables(tables))


def arrow_type(key: str, value: Any) -> pa.DataType:
    """The type of a column of answers, of which one value is given."""
    if key in ARROW_TYPES:
        return ARROW_TYPES[key]
    if key == "scores":
        return pa.list_(LABEL) if isinstance(value, dict) else pa.list_(pa.float64())
    if isinstance(value, list) and value and isinstance(value[0], dict):  # messages
        return pa.list_(pa.struct([(name, pa.string()) for name in value[0]]))
    if isinstance(value, list):
        return pa.list_(pa.float64() if value and isinstance(value[0], float) else pa.string())
    return pa.float64() if isinstance(value, float) else pa.string()


def to_arrow(value: Any, kind: pa.DataType) -> Any:
    """A value for a column of a type: labels with their scores become a list, inside other values, too."""
    if value is None:
        return None
    if pa.types.is_list(kind):
        items = value
        if isinstance(value, dict):
            items = [{"label": label, "score": score} for label, score in value.items()]
        return [to_arrow(item, kind.value_type) for item in items]
    if pa.types.is_struct(kind):
        return {field.name: to_arrow(value[field.name], field.type) for field in kind}
    return value


# --- The file ---

# By the ending of the file.
FORMATS = {
    ".jsonl": write_lines,
    ".jsonl.gz": write_compressed,
    ".csv": write_table,
    ".parquet": write_parquet,
}


def check_output(path: str | None, overwrite: bool) -> None:
    """Raises InputError for an unknown ending; and see check_path."""
    if path is not None:
        format_of(path)
        check_path(path, overwrite)


def check_path(path: str, overwrite: bool) -> None:
    """Raises InputError for a file that exists already, or without a directory."""
    if Path(path).exists() and not (overwrite and Path(path).is_file()):
        raise InputError(f"output: {path} exists already; --overwrite_output replaces a file")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"output: the directory {Path(path).absolute().parent} does not exist")


def format_of(path: str | None) -> Callable[[Answers, IO[bytes]], None]:
    """The function that writes answers to a file; without an ending, and to standard output, lines of JSON.

    Raises:
        InputError: the file has another ending.
    """
    if path is None or not Path(path).suffix:
        return write_lines
    for ending in FORMATS:
        if path.endswith(ending):
            return FORMATS[ending]
    raise InputError(f"output: {path} must end in {', '.join(FORMATS)}")


@dataclass
class Output:
    """The output of answers: a file, which gets its name when it is complete, or standard output.

    Args:
        path: the path of the file; None is standard output.
        overwrite: whether an existing file is replaced.
        has_bar: whether a terminal gets a progress bar.
        rows: the number of answers that were written.
    """

    path: str | None
    overwrite: bool
    has_bar: bool = True
    rows: int = 0

    @contextmanager
    def open(self) -> Iterator[IO[bytes] | None]:
        """The file, under a temporary name until it is complete; it is locked for other processes.

        If the path is a link, the link stays, and the file that it points to is replaced.

        Raises:
            InputError: another process writes the file, or it exists and must not be replaced.
            OSError: it cannot be written.
        """
        if self.path is None:
            yield None
            return
        place = Path(os.path.realpath(self.path))
        part = partial_path(place)
        with self.naming_errors():
            file = open_locked(part)
        if file is None:
            raise InputError(f"output: {self.path} is being written by another process, into {part}")
        try:
            # Another process may have just written it.
            check_output(self.path, self.overwrite)
            yield file
            with self.naming_errors():
                sync_and_rename(file, part, place)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        finally:
            # The rest of the buffer could not be written before.
            with suppress(OSError):
                file.close()

    def write(self, answers: Answers, file: IO[bytes] | None) -> None:
        """Write the answers, with a progress bar. Raises OSError if the output cannot be written."""
        # Answers that are read on the terminal would be written into the bar.
        has_bar = self.has_bar and not (file is None and sys.stdout.isatty())
        options = {"disable": None if has_bar else True, "leave": False, "file": sys.stderr}
        counted = tqdm(self.count(answers), unit="rows", unit_scale=True, **options)
        if file is not None:
            format_of(self.path)(counted, NamedFile(file, self))
            return
        with open(sys.stdout.fileno(), "wb", buffering=0, closefd=False) as stream:
            format_of(None)(counted, NamedFile(stream, self))

    def count(self, answers: Answers) -> Iterator[dict[str, Any]]:
        """The answers; each counts when the next one is asked for."""
        for answer in answers:
            yield answer
            self.rows += 1

    @contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Inside, an OSError names the output; a BrokenPipeError, from a reader that has ended, is unchanged."""
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(f"output: {self} cannot be written ({error.strerror or error})") from error

    def __str__(self) -> str:
        return printable(self.path or "standard output")

    def progress(self) -> str:
        """For a message: what the output has if the run ends now."""
        return f"{self.rows} rows were written to {self}" if self.path is None else f"{self} was not written"


class NamedFile(io.RawIOBase):
    """A file whose errors name the output, while errors of what is written stay as they are."""

    def __init__(self, file: IO[bytes], output: Output):
        self.file, self.output = file, output

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, content: Any) -> int:
        """Write all bytes. Raises OSError that names the output."""
        with self.output.naming_errors():
            return self.file.write(content)

    def flush(self) -> None:
        """Write what is buffered. Raises OSError that names the output."""
        with self.output.naming_errors():
            self.file.flush()
