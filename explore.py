"""Explore: `seqblend explore DIR --text TEXT` writes a page that shows the answer and the attention behind it."""

import argparse
import logging
import math
import sys
import typing
from pathlib import Path

from seqblend.data.errors import InputError, print_error
from seqblend.data.writing import write_atomically
from seqblend.explorer.explorer import Limits
from seqblend.serving.options import PredictionOptions
from seqblend.serving.output import check_path
from seqblend.serving.predictor import Predictor
from seqblend.training.progress import hide_bars, start_logging

logger = logging.getLogger(__name__)

DESCRIPTION = (
    "Write a page that shows what a saved model answers to a text, and what its attention blends for it: one HTML "
    "file that opens in a browser, without a server and without the network."
)
MEGABYTE = 1_000_000
# The options of prediction that change an answer to one text.
OPTIONS = ("words", "max_new_tokens", "num_beams", "decode_tags", "max_length")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("seqblend explore", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", metavar="DIR", help="A saved model, with its tokenizer.")
    parser.add_argument("--text", required=True, help="The text; for a model with a chat template, a message.")
    parser.add_argument("--text_pair", help="The second text of a pair.")
    parser.add_argument("--output", default="explore.html", help="The file to write; default: explore.html.")
    parser.add_argument("--overwrite_output", action="store_true", help="Replace the output file if it exists.")
    parser.add_argument(
        "--max_tokens",
        type=int,
        default=Limits.tokens,
        help=f"Maximum number of tokens of a sequence that are shown; default: {Limits.tokens}.",
    )
    parser.add_argument(
        "--max_size",
        type=float,
        default=Limits.size / MEGABYTE,
        help=f"Maximum size of weights and vectors, in megabytes; default: {Limits.size / MEGABYTE:g}.",
    )
    fields = PredictionOptions.__dataclass_fields__
    for name in OPTIONS:
        kind = int if int in typing.get_args(fields[name].type) else str
        parser.add_argument(f"--{name}", type=kind, help=fields[name].metadata["help"])
    return parser.parse_args(argv)


def run(argv: list[str]) -> None:
    """Write the page.

    Raises:
        InputError: an option or the text is wrong, or the model cannot be explored.
        OSError: the page cannot be written.
    """
    given = parse(argv)
    options = PredictionOptions(**{name: getattr(given, name) for name in OPTIONS})
    if not 0 <= given.max_size < math.inf:
        raise InputError(f"max_size: must be a number of megabytes, 0 or more, got {given.max_size}")
    limits = {"tokens": given.max_tokens, "size": int(given.max_size * MEGABYTE)}
    Limits(**limits)
    check_path(given.output, given.overwrite_output)
    predictor = Predictor(given.model, options)
    content = predictor.explore(predictor.row_of(given.text, given.text_pair), **limits)
    write_atomically(Path(given.output), content)
    logger.info("%s: %.2f MB; open it in a browser", given.output, len(content.encode()) / MEGABYTE)


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0; 1 if the page cannot be written; 2 if the input is wrong."""
    start_logging()
    if not sys.stderr.isatty():
        hide_bars()
    try:
        run(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        return print_error(error)
    except OSError as error:
        return print_error(error, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
