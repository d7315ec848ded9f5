"""Predict: `python predict.py DIR --input FILE|- [--output FILE.jsonl]`, one object a line; `--help` for all flags."""

import argparse
import contextlib
import dataclasses
import gzip
import logging
import os
import sys
import time
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from seqblend.checkpoints.signals import Terminated, ending, terminable
from seqblend.data.errors import InputError, RowError, print_error, printable
from seqblend.data.files import expand_globs
from seqblend.data.formats import FILE_TYPES, Reading
from seqblend.data.locks import open_locked
from seqblend.data.objects import json_line
from seqblend.data.sources import Origin, Source, check_reading, sources_of
from seqblend.data.writing import partial_path, sync_and_rename
from seqblend.serving.options import OF_TRAINING, PredictionOptions
from seqblend.serving.predictor import Predictor
from seqblend.tasks.encoding import Row
from seqblend.training.progress import hide_bars

logger = logging.getLogger(__name__)

DESCRIPTION = "Predict files or pipes of any size with a saved model; answers are JSON, one object per line."
STANDARD_INPUT = "standard input"


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("seqblend predict", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "model",
        metavar="DIR",
        nargs="+",
        help="A saved model, with its tokenizer; of several the answers are those of their mean probabilities.",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="Files of the types that train.py reads; or - for standard input, one text per line.",
    )
    parser.add_argument("--output", help="The file to write, .jsonl or .jsonl.gz; default: standard output.")
    parser.add_argument("--overwrite_output", action="store_true", help="Replace the output file if it exists.")
    reading = (OF_TRAINING[name] for name in Reading._fields)
    for field in (*dataclasses.fields(PredictionOptions), *reading):
        if field.type is bool:
            parser.add_argument(f"--{field.name}", action="store_true", help=field.metadata["help"])
            continue
        kind = int if int in (field.type, *typing.get_args(field.type)) else str
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=field.metadata["help"])
    return parser.parse_args(argv)


def options_of(given: argparse.Namespace) -> PredictionOptions:
    """The options of prediction. Raises InputError for a value out of range."""
    return PredictionOptions(
        **{field.name: getattr(given, field.name) for field in dataclasses.fields(PredictionOptions)}
    )


# --- The rows ---


def input_sources(given: argparse.Namespace) -> list[Source]:
    """The sources of the input. Raises InputError for a file that does not exist, or of an unknown type."""
    reading = Reading.from_options(given)
    if given.input == ["-"]:
        lines = FILE_TYPES[".txt"].rows(STANDARD_INPUT, sys.stdin.buffer, reading)
        sources = [Source(STANDARD_INPUT, lambda bar: lines, None, cells=reading)]
    else:
        paths = expand_globs("input", given.input)
        sources = [source for path in paths for source in sources_of("input", path, reading)]
    check_reading(reading, sources)
    return sources


def input_rows(predictor: Predictor, sources: list[Source], read: Origin) -> Iterator[Row]:
    """The rows of the input, checked one by one, with standard column names.

    Args:
        predictor: has the columns.
        sources: of the rows.
        read: gets the name of each source and the number of rows that were read of it.

    Raises:
        InputError: a file or one of its rows cannot be read; the message names both.
    """
    reader = predictor.make_reader()
    for source in sources:
        read.names.append(source.name)
        read.counts.append(0)
        for number, row in enumerate(source.rows(tqdm(disable=True)), 1):
            read.counts[-1] = number
            yield reader.read(row, source.name, number, source.cells)


# --- The answers ---


def check_output(path: str | None, overwrite: bool) -> None:
    """Raises InputError for a file that exists already, or without a directory."""
    if path is None:
        return
    if Path(path).exists() and not (overwrite and Path(path).is_file()):
        raise InputError(f"output: {path} exists already; --overwrite_output replaces a file")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"output: the directory {Path(path).absolute().parent} does not exist")


@dataclasses.dataclass
class Output:
    """The output of answers: a file, which gets its name when it is complete, or standard output.

    Args:
        path: the path of the file; None is standard output.
        overwrite: whether an existing file is replaced.
        rows: the number of answers that were written.
    """

    path: str | None
    overwrite: bool
    rows: int = 0

    @contextlib.contextmanager
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
            with contextlib.suppress(OSError):
                file.close()

    def write(self, answers: Iterable[dict[str, Any]], file: IO[bytes] | None) -> None:
        """Write one line per answer, with a progress bar. Raises OSError if the output cannot be written."""
        stream = self.text(file)
        try:
            for answer in tqdm(answers, unit="rows", unit_scale=True, disable=None, file=sys.stderr):
                with self.naming_errors():
                    stream.write(json_line(answer))
                self.rows += 1
        finally:
            with self.naming_errors():
                stream.close()

    def text(self, file: IO[bytes] | None) -> IO[str]:
        """A stream that encodes, and compresses for .gz; closing it writes the rest, but does not close the file."""
        if file is not None and self.path.endswith(".gz"):
            return gzip.open(file, "wt", encoding="utf-8")
        number = sys.stdout.fileno() if file is None else file.fileno()
        return open(number, "w", encoding="utf-8", closefd=False)

    @contextlib.contextmanager
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


# --- The run ---


@contextlib.contextmanager
def report_signals(output: Output) -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C end the run with a line on what was written."""
    try:
        with terminable():
            yield
    except (KeyboardInterrupt, Terminated) as end:
        logger.warning("%s: %s", ending(end)[0], output.progress())
        raise


def run(argv: list[str]) -> None:
    """Answer the rows of the input.

    Raises:
        InputError: an option or an input is wrong; the message names it.
        OSError: the answers cannot be written; the message names the output.
        Terminated: SIGTERM was received.
    """
    given = parse(argv)
    options = options_of(given)
    check_output(given.output, given.overwrite_output)
    output = Output(given.output, given.overwrite_output)
    name = STANDARD_INPUT if given.input == ["-"] else printable(" ".join(given.input))
    with report_signals(output), output.open() as file:
        sources = input_sources(given)
        predictor = Predictor(given.model, options)
        begin, read = time.monotonic(), Origin([], [])
        rows = input_rows(predictor, sources, read)
        try:
            output.write(predictor.answers(rows), file)
        except RowError as error:
            raise InputError(f"{read.row(error.row + 1)}: {error.reason}") from error
    seconds, overflow = time.monotonic() - begin, predictor.overflow
    if overflow.long:
        logger.warning("%s: %s", name, overflow)
    logger.info("%s: %d rows in %.1f s, %.1f rows/s", name, overflow.rows, seconds, overflow.rows / seconds)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 1 if the answers cannot be written; 2 if the input is wrong; 130 after Ctrl-C. After
        SIGTERM it is 143.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if not sys.stderr.isatty():
        hide_bars()
    try:
        run(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        return print_error(error, 2)
    except BrokenPipeError:
        # The reader of the output has ended. The rest of the buffers is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return print_error(error, 1)
    except (KeyboardInterrupt, Terminated) as end:
        return ending(end)[1]
    return 0


if __name__ == "__main__":
    sys.exit(main())
