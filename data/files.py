"""The user's files: which ones are meant, their bytes and their lines; every error names the file and the place."""

import codecs
import difflib
import glob
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from tqdm import tqdm

from .errors import InputError

# What a broken gzip or zstd file raises.
BROKEN_PACKING = (EOFError, OSError, zlib.error)
PACKED = {".gz": "gzip", ".zst": "zstd"}
CHUNK_BYTES = 1 << 16
# The most bytes of a row, or characters of a text: a packed file of 1 MB may hold a line of 1 GB. And the most of a
# packed file that is read whole.
LONGEST_ROW, LONGEST_FILE = 1 << 28, 1 << 32


# --- Which files ---


def expand(flag: str, given: str | Path | Sequence[str | Path]) -> list[str]:
    """The files that names and globs stand for, in the order given; those of a glob are sorted by name.

    Args:
        flag: for messages.
        given: one name or several; a name that is a file is no glob.

    Raises:
        InputError: a glob matches no file, or a file is named twice, whose rows would then count twice.
    """
    paths: list[str] = []
    for name in [given] if isinstance(given, str | Path) else given:
        pattern = Path(name).expanduser()
        if glob.has_magic(str(pattern)) and not pattern.exists():
            matches = [path for path in sorted(glob.glob(str(pattern), recursive=True)) if Path(path).is_file()]
            if not matches:
                raise InputError(f"{flag}: {name} matches no file")
            paths += matches
        else:
            paths.append(str(name))
    for path, count in Counter(paths).items():
        if count > 1:
            raise InputError(f"{flag}: {path} is named twice")
    return paths


def file_suffix(path: str | Path) -> str:
    """The suffix that says how a file is read: `.jsonl` for `a.jsonl`, `a.jsonl.gz` and `a.jsonl.zst`."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes]
    return "".join(suffixes[-2:-1] if suffixes and suffixes[-1] in PACKED else suffixes[-1:])


def check_file(path: str | Path) -> None:
    """Refuse a file that is not there, before any long work.

    Raises:
        InputError: there is no such file, or it is empty.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        siblings = [entry.name for entry in file.parent.iterdir() if entry.is_file()] if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, siblings, n=3)
        reason = "is a directory" if file.is_dir() else "no such file"
        raise InputError(f"{path}: {reason}" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if file.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty")


# --- Their bytes ---


def packing_of(path: str | Path) -> str | None:
    """Gzip or zstd, by the last suffix of a name."""
    return PACKED.get(Path(path).suffix.lower())


class WatchedFile(io.FileIO):
    """A file that tells a bar how many bytes were read of it."""

    def __init__(self, path: Path, bar: tqdm):
        super().__init__(path)
        self.bar = bar

    def readinto(self, buffer: Any) -> int | None:
        """Called by the buffer that stands before it."""
        count = super().readinto(buffer)
        self.bar.update(count or 0)
        return count


@contextmanager
def open_binary(path: str | Path, bar: tqdm | None = None) -> Iterator[IO[bytes]]:
    """A file opened for reading bytes, unpacked if its name ends in .gz or .zst.

    Args:
        path: of the file.
        bar: is told how much of the file was read, packed as it is.

    Raises:
        InputError: it cannot be opened.
    """
    file, packing = Path(path).expanduser(), packing_of(path)
    try:
        stream = file.open("rb") if bar is None else io.BufferedReader(WatchedFile(file, bar), CHUNK_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    with stream:
        if packing == "gzip":
            yield gzip.GzipFile(fileobj=stream)
        elif packing == "zstd":
            yield io.BufferedReader(unpacked_zstd(stream, path))
        else:
            yield stream


def read_whole(path: str | Path, stream: IO[bytes]) -> bytes:
    """All bytes of a file. Raises InputError where it was packed and has more than LONGEST_FILE."""
    if packing_of(path) is None:
        return stream.read()
    parts, size = [], 0
    while part := stream.read(CHUNK_BYTES):
        parts.append(part)
        size += len(part)
        if size > LONGEST_FILE:
            raise InputError(f"{path}: unpacked, has more than {mebibytes(LONGEST_FILE)}; unpack it, if that is meant")
    return b"".join(parts)


def mebibytes(size: int) -> str:
    """As a message says a number of bytes."""
    return f"{size / 2**20:,.0f} MiB"


def unpacked_zstd(stream: IO[bytes], path: str | Path) -> pa.NativeFile:
    """The bytes that were packed. Raises InputError where Arrow was built without zstd, which its wheels have."""
    try:
        return pa.CompressedInputStream(stream, "zstd")
    except NotImplementedError as error:
        raise InputError(f"{path}: cannot be read ({error})") from None


# --- Their lines ---

ENCODING_HINT = "--encoding says what it is, as cp949, latin-1 or utf-16"
# That of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Two or more characters of ASCII in UTF-16.
MISREAD = re.compile("(?:[\x01-\x7f]\0){2,}\n?$|(?:\0[\x01-\x7f]){2,}$")


def check_encoding(name: str) -> None:
    """Raises InputError for an encoding that Python does not know, or that is not one of text."""
    try:
        "\n".encode(name)
    except (LookupError, ValueError) as error:
        raise InputError(f"encoding: {name!r} is no encoding of text ({error}); utf-8 is the default") from None


class Lines:
    r"""The lines of a text file, decoded one by one, each with its line end, and the place that a message names.

    A line ends at LF only: U+2028 and its like are text. A byte order mark is no text; one of UTF-16 or UTF-32 wins
    over UTF-8, in which no text begins so. A file in which CR alone ends lines is refused, and so is a row of more
    than LONGEST_ROW bytes; but for a document.

    Args:
        path: as the user wrote it.
        stream: the bytes, buffered.
        encoding: see `check_encoding`.

    Attributes:
        row: the number of the row that is being read, from 1, which the reader counts; None where it cannot.
        line: the number of the line that was read last.
    """

    def __init__(self, path: str, stream: Any, encoding: str):
        self.path, self.stream, self.encoding = path, stream, encoding
        self.row: int | None = 1
        self.line = 0

    def __iter__(self) -> Iterator[str]:
        encoding, row, size = self._without_mark(), self.row, 0
        newline, most = "\n".encode(encoding), LONGEST_ROW
        raw_lines = split_at(newline, self.stream)
        if newline == b"\n":
            # By far the fastest to give lines.
            raw_lines = iter(partial(self.stream.readline, most + 1), b"")
        for raw in raw_lines:
            self.line += 1
            # A row may be of many lines.
            row, size = self.row, len(raw) + (size if row == self.row else 0)
            if size > most and row is not None:
                raise self.broken(f"is longer than {mebibytes(most)}, the most that is read of one row")
            try:
                text = raw.decode(encoding)
            except UnicodeError as error:
                at = f" (byte {error.start + 1} of the line)" if isinstance(error, UnicodeDecodeError) else ""
                raise self.broken(f"not valid {self.encoding.upper()}{at}; {ENCODING_HINT}") from None
            if self.line == 1:
                text = self._checked(text.removeprefix("\ufeff"))
            yield text

    def _checked(self, first: str) -> str:
        """The first line. Raises InputError for one that shows that the file's lines were not told apart."""
        if MISREAD.match(first):
            raise self.broken(f"every second character is NUL, as of UTF-16 read as another encoding; {ENCODING_HINT}")
        # The lines of a document do not matter.
        if self.row is not None and "\r" in first and not first.endswith("\n"):
            raise self.broken("lines end in CR alone, as in files of old Macs; save the file with LF or CRLF")
        return first

    def _without_mark(self) -> str:
        """The encoding of the lines by themselves: that of UTF-16 and UTF-32 is told by the first bytes."""
        name = codecs.lookup(self.encoding).name
        if name == "utf-8":
            name = self._marked() or name
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
            f"{self.path}: line 1: has no byte order mark; say which it is, --encoding {' or '.join(marks)}"
        )

    def _marked(self) -> str | None:
        """UTF-16 or UTF-32, where the stream begins with its byte order mark, with which no UTF-8 does."""
        first = self.stream.peek(4)
        return next((name for mark, name in MARKS.items() if first.startswith(mark)), None)

    def broken(self, reason: object, line: int | None = None) -> InputError:
        """The error of the row that is being read.

        Args:
            reason: what is wrong.
            line: where; None is the line that was read last.
        """
        line = self.line if line is None else line
        where = f"row {self.row}" + (f" (line {line})" if line != self.row else "") if self.row else f"line {line}"
        return InputError(f"{self.path}: {where}: {reason}")


def split_at(newline: bytes, stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of an encoding whose line end is not the byte 10, which may be a part of another character there."""
    width, rest = len(newline), b""
    # As much again as is left over: of a long line nothing is copied often.
    while len(rest) <= LONGEST_ROW and (chunk := stream.read(max(CHUNK_BYTES, len(rest)))):
        # What is left over was searched but for a character that is not whole.
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


def without_line_end(text: str) -> str:
    """The line without its LF or CR LF; other white space is text."""
    return text[:-2] if text.endswith("\r\n") else text.removesuffix("\n")
