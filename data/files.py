"""The user's files: their paths, bytes and lines. Every error names the file and the place in it."""

import codecs
import difflib
import glob
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from tqdm import tqdm

from .errors import InputError

# What reading a broken gzip or zstd file raises.
DECOMPRESSION_ERRORS = (EOFError, OSError, zlib.error)
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
CHUNK_BYTES = 1 << 16
# Limits against decompression bombs (a compressed file of 1 MB may hold a line of 1 GB): bytes of a row or characters
# of a text, and bytes of a compressed file that is read as a whole.
MAX_ROW_SIZE, MAX_FILE_SIZE = 1 << 28, 1 << 32


# --- Paths ---


def expand_globs(flag: str, given: str | Path | Sequence[str | Path]) -> list[str]:
    """The files that paths and globs name, in the given order; the matches of a glob are sorted by name.

    Args:
        flag: the option's name, for messages.
        given: one path or several. The path of an existing file is never read as a glob.

    Raises:
        InputError: a glob matches no file, or a file is given twice, perhaps by two names, so that its rows would
            count twice.
    """
    paths: list[str] = []
    for name in [given] if isinstance(given, str | Path) else given:
        # Path.expanduser fails for a file whose name begins with `~`.
        pattern = Path(os.path.expanduser(name))
        if glob.has_magic(str(pattern)) and not pattern.exists():
            matches = [path for path in sorted(glob.glob(str(pattern), recursive=True)) if Path(path).is_file()]
            if not matches:
                raise InputError(f"{flag}: {name} matches no file")
            paths += matches
        else:
            paths.append(str(name))
    names: dict[Path, str] = {}
    for path in paths:
        # Links are not followed: of two that point to one file, both were made on purpose.
        file = Path(os.path.abspath(os.path.expanduser(path)))
        if file in names:
            also = f", also as {names[file]}" if names[file] != path else ""
            raise InputError(f"{flag}: {path} is given twice{also}")
        names[file] = path
    return paths


def file_suffix(path: str | Path) -> str:
    """The suffix of the file's format: `.jsonl` for `a.jsonl`, `a.jsonl.gz` and `a.jsonl.zst`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return "".join(suffixes[-2:-1] if suffixes and suffixes[-1] in COMPRESSIONS else suffixes[-1:])


def check_file(path: str | Path) -> None:
    """Check that a file exists and is not empty, before any long work.

    Raises:
        InputError: the file does not exist, or is empty.
    """
    file = Path(os.path.expanduser(path))
    if not file.is_file():
        siblings = [entry.name for entry in file.parent.iterdir() if entry.is_file()] if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, siblings, n=3)
        reason = "is a directory" if file.is_dir() else "no such file"
        raise InputError(f"{path}: {reason}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")


# --- Bytes ---


def compression_of(path: str | Path) -> str | None:
    """`gzip`, `zstd` or None, by the last suffix of the path."""
    return COMPRESSIONS.get(Path(path).suffix.lower())


class ProgressFile(io.FileIO):
    """A file that advances a progress bar by the bytes that are read from it."""

    def __init__(self, path: Path, bar: tqdm):
        super().__init__(path)
        self.bar = bar

    def readinto(self, buffer: Any) -> int | None:
        """Called by the BufferedReader around this file."""
        count = super().readinto(buffer)
        self.bar.update(count or 0)
        return count


@contextmanager
def open_binary(path: str | Path, bar: tqdm | None = None) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes, decompressed if its name ends in .gz or .zst.

    Args:
        path: the file.
        bar: progress bar, in bytes of the file on disk (compressed bytes).

    Raises:
        InputError: the file cannot be opened.
    """
    file, compression = Path(os.path.expanduser(path)), compression_of(path)
    try:
        stream = file.open("rb") if bar is None else io.BufferedReader(ProgressFile(file, bar), CHUNK_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with stream:
        if compression == "gzip":
            yield gzip.GzipFile(fileobj=stream)
        elif compression == "zstd":
            yield io.BufferedReader(decompress_zstd(stream, path))
        else:
            yield stream


def read_all(path: str | Path, stream: IO[bytes]) -> bytes:
    """All bytes of a file. Raises InputError for a compressed file of more than MAX_FILE_SIZE bytes."""
    if compression_of(path) is None:
        return stream.read()
    parts, size = [], 0
    while part := stream.read(CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_FILE_SIZE:
            limit = mebibytes(MAX_FILE_SIZE)
            raise InputError(f"{path}: has more than {limit} when decompressed; decompress it yourself to read it")
    return b"".join(parts)


def mebibytes(size: int) -> str:
    """A number of bytes, for messages."""
    return f"{size / 2**20:,.0f} MiB"


def decompress_zstd(stream: IO[bytes], path: str | Path) -> pa.NativeFile:
    """The decompressed bytes. Raises InputError where Arrow was built without zstd; its wheels have it."""
    try:
        return pa.CompressedInputStream(stream, "zstd")
    except NotImplementedError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


# --- Lines ---

ENCODING_HINT = "give its encoding by --encoding, such as cp949, latin-1 or utf-16"
# UTF-32 first: its little-endian mark begins with that of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Two or more ASCII characters in UTF-16: every second byte is NUL.
LOOKS_LIKE_UTF16 = re.compile("(?:[\x01-\x7f]\0){2,}\n?$|(?:\0[\x01-\x7f]){2,}$")


def check_encoding(name: str) -> None:
    """Raises InputError for a name that is no text encoding of Python."""
    try:
        "\n".encode(name)
    except (LookupError, ValueError) as error:
        raise InputError(f"encoding: {name!r} is no encoding of text ({error}); utf-8 is the default") from None


class Lines:
    r"""The lines of a text file, decoded one by one, each with its line end. It tracks the position for messages.

    A line ends at LF only: U+2028 and similar characters are text. A byte order mark is dropped; one of UTF-16 or
    UTF-32 overrides UTF-8, as no UTF-8 text begins with it. Refused are a file whose lines end in CR alone, and a row
    of more than MAX_ROW_SIZE bytes. Neither check applies where `row` is None.

    Args:
        path: as the user wrote it.
        stream: the bytes, buffered.
        encoding: see `check_encoding`.

    Attributes:
        row: the number of the current row, from 1. The caller increments it, or sets None to read a whole document.
        line: the number of the last line read, from 1.
    """

    def __init__(self, path: str, stream: Any, encoding: str):
        self.path, self.stream, self.encoding = path, stream, encoding
        self.row: int | None = 1
        self.line = 0

    def __iter__(self) -> Iterator[str]:
        encoding, row, size = self._skip_byte_order_mark(), self.row, 0
        newline, most = "\n".encode(encoding), MAX_ROW_SIZE
        raw_lines = split_lines(newline, self.stream)
        if newline == b"\n":
            # readline is by far the fastest.
            raw_lines = iter(partial(self.stream.readline, most + 1), b"")
        for raw in raw_lines:
            self.line += 1
            # A row may have many lines.
            row, size = self.row, len(raw) + (size if row == self.row else 0)
            if size > most and row is not None:
                raise self.error(f"is longer than {mebibytes(most)}, the most that is read of one row")
            try:
                text = raw.decode(encoding)
            except UnicodeError as error:
                at = f" (byte {error.start + 1} of the line)" if isinstance(error, UnicodeDecodeError) else ""
                raise self.error(f"not valid {self.encoding.upper()}{at}; {ENCODING_HINT}") from None
            if self.line == 1:
                text = self._check_first_line(text.removeprefix("\ufeff"))
            yield text

    def _check_first_line(self, first: str) -> str:
        """Return the first line. Raises InputError if it shows a wrong encoding or lines that end in CR alone."""
        if LOOKS_LIKE_UTF16.match(first):
            raise self.error(f"every second character is NUL, as of UTF-16 read as another encoding; {ENCODING_HINT}")
        # In a whole document line ends do not matter.
        if self.row is not None and "\r" in first and not first.endswith("\n"):
            raise self.error("lines end in CR alone, as in files of old Macs; save the file with LF or CRLF")
        return first

    def _skip_byte_order_mark(self) -> str:
        """Skip a byte order mark of UTF-16 or UTF-32, and return the exact encoding of the rest.

        Raises:
            InputError: the encoding is UTF-16 or UTF-32 without byte order, and the file has no byte order mark.
        """
        name = codecs.lookup(self.encoding).name
        if name == "utf-8":
            name = self._detect_utf16_or_utf32() or name
        marks = {f"{name}-le": codecs.BOM_UTF16_LE, f"{name}-be": codecs.BOM_UTF16_BE}
        if name == "utf-32":
            marks = {f"{name}-le": codecs.BOM_UTF32_LE, f"{name}-be": codecs.BOM_UTF32_BE}
        elif name != "utf-16":
            return {"utf-8-sig": "utf-8"}.get(name, name)
        first = self.stream.read(len(marks[f"{name}-le"]))
        for exact, mark in marks.items():
            if first == mark:
                return exact
        raise InputError(
            f"{self.path}: line 1: has no byte order mark; give the byte order, --encoding {' or '.join(marks)}"
        )

    def _detect_utf16_or_utf32(self) -> str | None:
        """`utf-16` or `utf-32` if the stream begins with its byte order mark, else None."""
        first = self.stream.peek(4)
        return next((name for mark, name in BYTE_ORDER_MARKS.items() if first.startswith(mark)), None)

    def error(self, reason: object, line: int | None = None) -> InputError:
        """An InputError that names the file, the current row and the line.

        Args:
            reason: what is wrong.
            line: the line number; None is the last line read.
        """
        line = self.line if line is None else line
        where = f"row {self.row}" + (f" (line {line})" if line != self.row else "") if self.row else f"line {line}"
        return InputError(f"{self.path}: {where}: {reason}")


def split_lines(newline: bytes, stream: IO[bytes]) -> Iterator[bytes]:
    """Split at the encoded line end of UTF-16 or UTF-32, where the byte 10 may be a part of another character."""
    width, rest = len(newline), b""
    # Each read at least doubles the rest, so that a long line is copied few times.
    while len(rest) <= MAX_ROW_SIZE and (chunk := stream.read(max(CHUNK_BYTES, len(rest)))):
        # The rest was already searched, except for an incomplete character at its end.
        start, at = 0, len(rest) - len(rest) % width
        rest += chunk
        while (at := rest.find(newline, at)) >= 0:
            if at % width:
                at += 1
                continue
            at += width
            yield rest[start:at]
            start = at
        rest = rest[start:]
    if rest:
        yield rest


def strip_line_end(text: str) -> str:
    """The line without its LF or CRLF; other whitespace is text."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
