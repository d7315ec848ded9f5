"""Predict: `seqblend predict DIR --input FILE|- [--output FILE]`; `--help` lists all flags."""

import argparse
import contextlib
import dataclasses
import logging
import os
import sys
import time
import typing
from collections.abc import Iterator

from tqdm import tqdm

from seqblend.checkpoints.signals import Terminated, ending, terminable
from seqblend.data.errors import InputError, RowError, print_error, printable
from seqblend.data.files import expand_globs
from seqblend.data.formats import FILE_TYPES, Reading
from seqblend.data.sources import Origin, Source, check_reading, sources_of
from seqblend.serving.options import OF_TRAINING, PredictionOptions
from seqblend.serving.output import FORMATS, Output, check_output
from seqblend.serving.predictor import Predictor
from seqblend.tasks.encoding import Row
from seqblend.training.progress import hide_bars, only_errors, start_logging

logger = logging.getLogger(__name__)

DESCRIPTION = "Predict texts, files or pipes of any size with a saved model, or with an ensemble of several."
STANDARD_INPUT, GIVEN = "standard input", "text"


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("seqblend predict", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "model",
        metavar="DIR",
        nargs="+",
        help="A saved model, with its tokenizer; with several models, the mean of their probabilities is used.",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        help="Files of the types that seqblend train reads; or - for standard input, one text per line, which is the "
        "default if something is piped into the command.",
    )
    parser.add_argument(
        "--text", nargs="+", help="Texts to predict, in place of --input; if one begins with a dash: --text=-5."
    )
    parser.add_argument(
        "--output", help=f"The file to write, of one of the types {', '.join(FORMATS)}; default: standard output."
    )
    parser.add_argument("--overwrite_output", action="store_true", help="Replace the output file if it exists.")
    parser.add_argument("--quiet", action="store_true", help="Print only errors and answers.")
    reading = (OF_TRAINING[name] for name in Reading._fields)
    for field in (*dataclasses.fields(PredictionOptions), *reading):
        if field.type is bool:
            parser.add_argument(f"--{field.name}", action="store_true", help=field.metadata["help"])
            continue
        types = (field.type, *typing.get_args(field.type))
        kind = next((each for each in (int, float) if each in types), str)
        parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=field.metadata["help"])
    given = parser.parse_args(argv)
    # A shell does not expand `~` after a `=`.
    given.output = None if given.output in (None, "-") else os.path.expanduser(given.output)
    if given.input is not None and given.text is not None:
        parser.error("give --input or --text, not both")
    if given.input is None and given.text is None:
        if sys.stdin is None or sys.stdin.isatty():
            parser.error("give --input, --text, or a pipe")
        given.input = ["-"]
        if not given.quiet:
            logger.info("reading standard input")
    return given


def options_of(given: argparse.Namespace) -> PredictionOptions:
    """The options of prediction. Raises InputError for a value out of range."""
    return PredictionOptions(
        **{field.name: getattr(given, field.name) for field in dataclasses.fields(PredictionOptions)}
    )


# --- The rows ---


def input_sources(given: argparse.Namespace) -> list[Source]:
    """The sources of the input; none for given texts.

    Raises:
        InputError: a file does not exist or has an unknown type, or an option of reading has no effect.
    """
    reading = Reading.from_options(given)
    sources: list[Source] = []
    if given.input == ["-"]:
        lines = FILE_TYPES[".txt"].rows(STANDARD_INPUT, sys.stdin.buffer, reading)
        sources = [Source(STANDARD_INPUT, lambda bar, columns: lines, None, cells=reading)]
    elif given.input:
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
        for number, row in enumerate(source.rows(tqdm(disable=True), reader.used), 1):
            read.counts[-1] = number
            yield reader.read(row, source.name, number, source.cells)


# --- The run ---


@contextlib.contextmanager
def report_signals(output: Output) -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C end the run with a line on what was written."""
    try:
        with terminable():
            yield
    except (KeyboardInterrupt, Terminated) as end:
        logger.error("%s: %s", ending(end)[0], output.progress())
        raise


def run(given: argparse.Namespace) -> None:
    """Answer the rows of the input.

    Args:
        given: the command line.

    Raises:
        InputError: an option or an input is wrong; the message names it.
        OSError: the answers cannot be written; the message names the output.
        Terminated: SIGTERM was received.
    """
    options = options_of(given)
    check_output(given.output, given.overwrite_output)
    output = Output(given.output, given.overwrite_output, has_bar=not given.quiet)
    name = GIVEN if given.text else STANDARD_INPUT if given.input == ["-"] else printable(" ".join(given.input))
    with report_signals(output), output.open() as file:
        sources = input_sources(given)
        predictor = Predictor(given.model, options)
        if given.text:
            sources = [Source(GIVEN, lambda bar, columns: map(predictor.row_of, given.text), None, cells=None)]
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
    start_logging()
    if not sys.stderr.isatty():
        hide_bars()
    given = parse(sys.argv[1:] if argv is None else argv)
    try:
        with only_errors() if given.quiet else contextlib.nullcontext():
            run(given)
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
