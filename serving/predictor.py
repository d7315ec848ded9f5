"""`seqblend.Predictor`: a saved model that answers columns of texts in Python."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from ..data.errors import InputError, RowError, describe
from ..explorer.explorer import DEFAULT_LIMITS, Explorer, Limits
from ..explorer.page import page
from ..explorer.registry import SHAPES
from ..tasks.base import Task
from ..tasks.encoding import Answer, Row
from ..tasks.windows import OverflowCounts
from ..tokenization.settings import reads_text_pairs
from .ensemble import together
from .loading import load_predictor, word_rule
from .options import PredictionOptions
from .rows import RowReader

BATCH = "the batch"


class Predictor:
    """A saved model that predicts: the same answers as `seqblend predict`.

    Args:
        directory: of the model with its tokenizer, or the name of a repository on the Hub; or a list of several, which
            answer together, by the mean of their probabilities. No code of them is run.
        options: how texts are read and answered; default: as without flags.
        fields: fields of `PredictionOptions`, in place of `options`.

    Raises:
        InputError: the model cannot be loaded, or an option is wrong.
        TypeError: there is no such option.
    """

    def __init__(
        self,
        directory: str | Path | Sequence[str | Path],
        options: PredictionOptions | None = None,
        **fields: Any,
    ):
        given = [directory] if isinstance(directory, str | Path) else directory
        self.directories = [os.path.expanduser(each) for each in given]
        if not self.directories:
            raise InputError("DIR: is an empty list")
        self.options = replace(options, **fields) if options is not None else PredictionOptions(**fields)
        members = [load_predictor(each, self.options) for each in self.directories]
        has_threshold = self.options.threshold is not None
        self.rows = members[0] if len(members) == 1 else together(self.directories, members, has_threshold)

    @property
    def directory(self) -> str:
        """That of the only model, or of the first one."""
        return self.directories[0]

    @property
    def task(self) -> Task:
        """The task of the model."""
        return self.rows.task

    @property
    def overflow(self) -> OverflowCounts:
        """Counts of the rows that were too long."""
        return self.rows.overflow

    @cached_property
    def word_rule(self) -> str:
        """The rule that splits texts into words for a tagger."""
        return word_rule(self.directory, self.options.words, self.rows.settings.tokenizer)

    def __call__(self, batch: Mapping[str, Sequence[Any] | np.ndarray]) -> dict[str, list[Any]]:
        """Predict a batch, as for `Dataset.map(batched=True)` and `ray.data.Dataset.map_batches`.

        Args:
            batch: columns of equal length, which have the names of the training data. Other columns are ignored.

        Returns:
            The keys of an answer (docs/prediction.md), each with one value per row; empty for a batch without rows.
            Labels with their scores are lists of {"label", "score"}, because a column of Arrow has the same fields in
            all rows.

        Raises:
            InputError: a column is missing, or a value is wrong; the message names the row, counted from 1.
        """
        reader = self.make_reader()
        rows = [reader.read(row, BATCH, number, None) for number, row in enumerate(rows_of(batch, reader.used), 1)]
        try:
            answers = list(self.rows.answers(rows))
        except RowError as error:
            raise InputError(f"{BATCH}: {error}") from error
        keys = [key for key in answers[0] if key != "input"] if answers else []
        return {key: [as_list(answer[key]) for answer in answers] for key in keys}

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads the model itself. The files are named, so that caches notice another model."""
        files = [file for each in self.directories for file in sorted(Path(each).glob("*")) if file.is_file()]
        stamps = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return load, (self.directories, self.options, stamps)

    def make_reader(self) -> RowReader:
        """A reader of rows with the user's column names."""
        needs_pair = reads_text_pairs(self.rows.settings.tokenizer)
        return RowReader(self.task, self.options.columns, lambda: self.word_rule, needs_pair)

    def row_of(self, text: str, text_pair: str | None = None) -> dict[str, Any]:
        """The row of a text, or of two; for a model with a chat template, a message.

        Raises:
            InputError: there are two texts, and the task reads one.
        """
        columns = self.options.columns
        if text_pair is not None:
            if "text_pair" not in self.task.inputs:
                raise InputError(f"text_pair: {self.task.name} reads one text")
            return {columns.name_of("text"): text, columns.name_of("text_pair"): text_pair}
        if "messages" in self.task.inputs and self.rows.settings.tokenizer.chat_template is not None:
            return {columns.name_of("messages"): [{"role": "user", "content": text}]}
        return {columns.name_of("text"): text}

    @property
    def can_be_explored(self) -> bool:
        """Whether `explorer` supports the model: one model of torch, of a task that it knows."""
        return isinstance(self.rows.model, PreTrainedModel) and self.task.name in SHAPES

    def explorer(
        self, limits: Limits = DEFAULT_LIMITS, name: str | None = None, generation: dict[str, Any] | None = None
    ) -> Explorer:
        """The explorer of the model.

        Args:
            limits: how much a page shows.
            name: of the model on the page; default: that of its directory.
            generation: arguments of `model.generate`; default: as in prediction.

        Raises:
            InputError: the model cannot be explored.
        """
        place, rows = Path(self.directory), self.rows
        default = place.absolute().name if place.is_dir() else str(self.directory)
        # A page shows one answer.
        own = {name: value for name, value in rows.generation.items() if name != "num_return_sequences"}
        given = own if generation is None else generation
        return Explorer(rows.model, rows.task, rows.settings, given, default if name is None else name, limits)

    def explore(self, row: Mapping[str, Any], **limits: Any) -> str:
        """An HTML page that shows the answer to a row and the attention behind it; it needs no network.

        Args:
            row: columns with the names of the training data, as in `{"text": "…"}`.
            limits: `tokens`, the most tokens of each sequence (64), and `size`, the most bytes of the data (900,000).

        Raises:
            InputError: a column is missing, a value is wrong, or the model cannot be explored.
        """
        read = self.make_reader().read(dict(row), "the row", 1, None)
        try:
            return page(self.explorer(Limits(**limits)).explore(read))
        except RowError as error:
            raise InputError(f"the row: {error.reason}") from error

    def answers(self, rows: Iterable[Row]) -> Iterator[Answer]:
        """One answer per row of a reader, in their order. Raises RowError if a row cannot be read."""
        return self.rows.answers(rows)


def load(directories: list[str], options: PredictionOptions, stamps: list[Any]) -> Predictor:
    """A pickled Predictor; see `Predictor.__reduce__`."""
    return Predictor(directories, options)


def as_list(value: Any) -> Any:
    """The scores of labels as a list; other values as they are."""
    if not isinstance(value, dict):
        return value
    return [{"label": label, "score": score} for label, score in value.items()]


def rows_of(batch: Mapping[str, Sequence[Any] | np.ndarray], used: Collection[str]) -> list[dict[str, Any]]:
    """The rows of columns, in which those that are not used are empty: `datasets` would decode images and sounds.

    Args:
        batch: the columns.
        used: the names of the columns that are used, as `value_of` takes them.

    Raises:
        InputError: the batch is anything else, or the columns differ in length.
    """
    if not isinstance(batch, Mapping):
        raise InputError(
            f"{BATCH}: must be columns, as in {{'text': ['one text', 'another']}}, but is {describe(batch)}"
        )
    columns, unread = {}, dict.fromkeys(batch)
    for name in {each: None for column in used for each in (column, column.partition(".")[0]) if each in batch}:
        values = batch[name]
        column = plain(values)
        if not isinstance(column, list) or isinstance(values, Set):
            raise InputError(f"{BATCH}: column {name!r} must be a list of values, but is {describe(values)}")
        columns[name] = [plain(each) for each in column]
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        described = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"{BATCH}: its columns have different lengths: {described}")
    if not columns and unread:
        # Its reader says which column is missing.
        return [unread]
    return [{**unread, **dict(zip(columns, values, strict=True))} for values in zip(*columns.values(), strict=True)]


def plain(value: Any) -> Any:
    """A value of NumPy, pandas or Arrow as objects of Python; other iterables that are no texts as lists."""
    for convert in ("to_pylist", "as_py", "tolist"):
        if hasattr(value, convert):
            return getattr(value, convert)()
    return list(value) if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping) else value
