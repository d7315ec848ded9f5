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

import torch
from tqdm import tqdm
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from seqblend import FAMILIES
from seqblend.checkpoints.signals import Terminated, ending, terminable
from seqblend.data.columns import TEXT, Columns, Field, has_column, present_fields
from seqblend.data.errors import InputError, RowError, check_choice, print_error, printable
from seqblend.data.files import expand_globs
from seqblend.data.formats import FILE_TYPES, Reading
from seqblend.data.locks import open_locked
from seqblend.data.objects import json_line, read_object
from seqblend.data.sources import Origin, Source, check_reading, sources_of
from seqblend.data.splits import convert_column
from seqblend.data.writing import partial_path, sync_and_rename
from seqblend.serving.prediction import Predictor, split_text
from seqblend.tasks.base import Task
from seqblend.tasks.encoding import Row, Settings
from seqblend.tasks.registry import TASKS
from seqblend.tokenization.words import DEFAULT, WORDS, WordSplitting, read_splitting, set_splitting
from seqblend.training.arguments import DataArguments, ModelArguments
from seqblend.training.checks import check_overflow
from seqblend.training.loading import load_config
from seqblend.training.models import check_position_limit, load_model, position_limit, reads_token_types
from seqblend.training.progress import hide_bars
from seqblend.training.tokenizers import load_tokenizer

logger = logging.getLogger(__name__)

DESCRIPTION = "Predict files or pipes of any size with a saved model; answers are JSON, one object per line."
STANDARD_INPUT = "standard input"
COLUMNS = tuple(f"{name}_column" for name in ("text", "messages", "text_pair", "tokens", "source"))
# Flags with the same meaning as in training.
SHARED = (*COLUMNS, *Reading._fields, "max_length", "overflow", "overlap")


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line. Raises InputError for values out of range."""
    parser = argparse.ArgumentParser("seqblend predict", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("model", metavar="DIR", help="A saved model, with its tokenizer.")
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        help="Files of the types that train.py reads; or - for standard input, one text per line.",
    )
    parser.add_argument("--output", help="The file to write, .jsonl or .jsonl.gz; default: standard output.")
    parser.add_argument("--overwrite_output", action="store_true", help="Replace the output file if it exists.")
    parser.add_argument(
        "--words",
        help="How a tagger splits texts into words: words, spaces or characters; default: as in its training data.",
    )
    parser.add_argument(
        "--max_tokens_per_batch", type=int, default=4096, help="Maximum number of tokens in a batch; default: 4096."
    )
    parser.add_argument(
        "--max_new_tokens", type=int, help="Maximum number of tokens to generate; default: the model's, or 64."
    )
    parser.add_argument("--num_beams", type=int, help="Number of beams in generation; default: the model's.")
    parser.add_argument(
        "--top_k", type=int, help="Number of labels, or of tokens for a mask, with scores in an answer; default: 5."
    )
    parser.add_argument(
        "--probabilities",
        action="store_true",
        help="Give the probability of every label; for a tagger, for each word.",
    )
    for field in dataclasses.fields(DataArguments):
        if field.name in SHARED:
            default = None if field.name == "max_length" else field.default
            kind = int if int in (field.type, *typing.get_args(field.type)) else str
            parser.add_argument(f"--{field.name}", type=kind, default=default, help=field.metadata["help"])
    given = parser.parse_args(argv)
    least = {"max_length": 2, "overlap": 0, "max_tokens_per_batch": 1, "max_new_tokens": 1, "num_beams": 1, "top_k": 1}
    for name, least_value in least.items():
        value = getattr(given, name)
        if value is not None and value < least_value:
            raise InputError(f"{name}: must be {least_value} or more, got {value}")
    return given


# --- The model ---


def task_of(config: PretrainedConfig, path: str) -> Task:
    """The task of a saved model, from its class. Raises InputError for a model without a head."""
    saved = (config.architectures or [""])[0]
    heads = FAMILIES[type(config)]
    for task in TASKS.values():
        if task.can_predict and task.auto_class in heads and heads[task.auto_class].__name__ == saved:
            return task
    raise InputError(f"{path}: {saved or 'the model'} has no head, so it cannot predict anything")


def make_predictor(given: argparse.Namespace) -> Predictor:
    """Load the named model for prediction.

    Raises:
        InputError: it cannot be loaded, or an option does not go with its task.
    """
    config = load_config(given.model, "DIR")
    task = task_of(config, given.model)
    tokenizer = load_tokenizer(given.model)
    generation = generation_of(given, task, config, tokenizer)
    check_overflow(task, given.overflow, given.overlap)
    if given.words is not None and not task.reads_words:
        able = ", ".join(name for name, each in TASKS.items() if each.reads_words)
        raise InputError(f"words: is for {able}, but {given.model} is of {task.name}")
    for name in ("top_k", "probabilities"):
        if getattr(given, name) and name not in task.answer_options(config.problem_type):
            able = ", ".join(each.name for each in TASKS.values() if name in each.answer_options(None))
            kind = f" and {config.problem_type}" if "problem_type" in task.options else ""
            raise InputError(f"{name}: is for {able}, but {given.model} is of {task.name}{kind}")
    model = load_model(ModelArguments(model_name_or_path=given.model), task, tokenizer, {}, False)
    if "max_new_tokens" in generation:
        # max_new_tokens replaces the model's own max_length.
        model.generation_config.max_length = None
    if task.truncation_side is not None:
        tokenizer.truncation_side = task.truncation_side
    length = max_length_of(given, config, generation.get("max_new_tokens", 0) if continues(task) else 0)
    settings = Settings(
        tokenizer=tokenizer,
        labels=[config.id2label[index] for index in sorted(config.id2label or {})],
        problem_type=config.problem_type,
        max_length=length,
        max_source_length=length,
        max_target_length=length,
        token_types=reads_token_types(config) and not continues(task),
        seed=0,
        overflow=given.overflow,
        overlap=given.overlap,
        top_k=given.top_k or Settings.top_k,
        probabilities=given.probabilities,
    )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return Predictor(task, model.eval().to(device), settings, given.max_tokens_per_batch, generation)


def continues(task: Task) -> bool:
    """Whether the model continues its input, in the same sequence."""
    return task.generation is not None and not task.generates


def generation_of(
    given: argparse.Namespace, task: Task, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, int]:
    """The arguments of `generate`. Raises InputError for a flag of generation if the model does not generate."""
    flags = {name: getattr(given, name) for name in ("max_new_tokens", "num_beams")}
    flags = {name: value for name, value in flags.items() if value is not None}
    if task.generation is None and flags:
        raise InputError(f"{next(iter(flags))}: is for models that generate, but {given.model} is of {task.name}")
    generation = dict(task.default_generation(tokenizer) or {})
    if "max_new_tokens" in generation:
        # A number that the user has not chosen leaves room for a prompt.
        generation["max_new_tokens"] = int(min(generation["max_new_tokens"], max(1, position_limit(config) / 2)))
    generation |= flags
    if "max_new_tokens" in generation:
        # At least one token of the prompt must also fit.
        check_position_limit(config, {"max_new_tokens": generation["max_new_tokens"] + continues(task)})
    return generation


def max_length_of(given: argparse.Namespace, config: PretrainedConfig, new_tokens: int) -> int:
    """The maximum length of a sequence: the flag, or that of the model's training, or the default of training.

    Args:
        given: the command line.
        config: the configuration of the model.
        new_tokens: the number of tokens to generate after the input.

    Raises:
        InputError: the flag exceeds the learned positions.
    """
    if given.max_length is not None:
        check_position_limit(config, {"max_length": given.max_length + new_tokens})
        return given.max_length
    results = Path(given.model, "all_results.json")
    length = read_object(results).get("max_length")
    of_run = length if isinstance(length, int) and 1 < length <= sys.maxsize else DataArguments.max_length
    return int(min(of_run, position_limit(config) - new_tokens))


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


def word_rule(given: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> str:
    """The rule that splits texts into words: the flag, or that of training. A warning says if they may differ.

    If the tokenizer has no rule, it gets this one.
    """
    trained = read_splitting(tokenizer.init_kwargs)
    if trained is None:
        rule = given.words or DEFAULT
        if given.words is None:
            message = "%s has no record of how its training words were split; --words is taken as %s"
            logger.warning(message, given.model, rule)
        set_splitting(tokenizer, WordSplitting(rule, 1.0))
        return rule
    rule = given.words or trained.rule
    if (rule, 1) != trained:
        logger.warning("words: texts are split by %r, but for %s %s", rule, given.model, trained)
    return rule


def input_rows(
    given: argparse.Namespace, sources: list[Source], task: Task, tokenizer: PreTrainedTokenizerBase, read: Origin
) -> Iterator[Row]:
    """The rows of the input, checked one by one, with standard column names.

    Args:
        given: the command line.
        sources: of the rows.
        task: of the model.
        tokenizer: of the model.
        read: gets the name of each source and the number of rows that were read of it.

    Raises:
        InputError: a file or one of its rows cannot be read; the message names both.
    """
    columns = Columns(**{name.removesuffix("_column"): getattr(given, name) for name in COLUMNS})
    present: list[Field] = []
    absent: set[str] = set()
    rule: str | None = None
    for source in sources:
        read.names.append(source.name)
        read.counts.append(0)
        for number, row in enumerate(source.rows(tqdm(disable=True)), 1):
            read.counts[-1] = number
            if not present:
                wanted = fields_for(task, columns, row)
                present = present_fields(wanted, row, source.name)
                absent = {field.column for field in wanted if field not in present}
            if any(has_column(row, name) for name in absent):
                reason = f"has column {min(absent)!r}, which the first row does not have"
                raise InputError(f"{source.name}: row {number}: {reason}")
            checked = {
                field.name: convert_column([row], field, source.name, number, source.cells).to_pylist()[0]
                for field in present
            }
            is_text = "text" in checked and task.reads_words
            if is_text and rule is None:
                rule = word_rule(given, tokenizer)
            yield split_text(checked["text"], rule) if is_text else checked


def fields_for(task: Task, columns: Columns, row: Row) -> list[Field]:
    """The input columns of the task; if the row has no source or words, its `text` instead."""
    first, *others = [field for field in task.schema(columns).fields("prediction") if field.name in task.inputs]
    text = columns.name_of("text")
    if "text" not in task.inputs and not has_column(row, first.column) and has_column(row, text):
        return [Field("text" if first.name == "tokens" else first.name, text, TEXT)]
    return [first, *others]


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
    if given.words is not None:
        check_choice("words", given.words, WORDS)
    check_output(given.output, given.overwrite_output)
    output = Output(given.output, given.overwrite_output)
    name = STANDARD_INPUT if given.input == ["-"] else printable(" ".join(given.input))
    with report_signals(output), output.open() as file:
        sources = input_sources(given)
        predictor = make_predictor(given)
        begin, read = time.monotonic(), Origin([], [])
        rows = input_rows(given, sources, predictor.task, predictor.settings.tokenizer, read)
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
