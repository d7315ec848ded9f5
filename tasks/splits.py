"""Splits of a run: rows as read, encoded rows, and answers with their metrics."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from datasets.fingerprint import Hasher
from transformers import EvalPrediction

from ..data.errors import InputError, RowError, check_choice
from ..data.storage import cache_table, map_cached
from ..data.streams import RowStream
from .base import Task
from .corruption import IGNORE, NoisyCollator
from .encoding import OVERFLOW_COLUMNS, Answer, Rows, Settings, encoding_key
from .sequence_classification import REGRESSION
from .windows import OverflowCounts

# All metrics that evaluations of this package report.
GREATER_IS_BETTER = {
    **dict.fromkeys(("loss", "perplexity", "mse", "word_error_rate", "character_error_rate"), False),
    **dict.fromkeys(("accuracy", "macro_f1", "micro_f1", "subset_accuracy", "matthews_correlation"), True),
    **dict.fromkeys(("precision", "recall", "f1", "pearson", "spearman", "bleu", "chrf", "exact_match"), True),
}

logger = logging.getLogger(__name__)

# The prefix that transformers gives the metrics of a split.
PREFIXES = {"eval": "validation", "test": "test"}
# The number of documents that are regrouped at a time.
DOCUMENTS = 10_000


@dataclass(frozen=True)
class EncodedSplit:
    """A split of the data, as read and encoded.

    Args:
        name: the name of the split.
        rows: the rows as read, under standard column names.
        features: the rows encoded for the model: one sequence per row, or several windows.
        document: the index of each sequence's row (W,); None if every row is one sequence, and for streams.
    """

    name: str
    rows: datasets.Dataset | RowStream
    features: datasets.Dataset | RowStream
    document: np.ndarray | None = None


# --- Encoding ---


def encode_splits(
    task: Task, rows: datasets.DatasetDict, settings: Settings, workers: int | None = None
) -> dict[str, EncodedSplit]:
    """Encode every split; see `encode_split` and `encode_stream`."""
    return {
        name: EncodedSplit(name, rows[name], encode_stream(task, rows[name], settings))
        if isinstance(rows[name], RowStream)
        else encode_split(task, rows[name], settings, name, workers)
        for name in rows
    }


def encode_split(
    task: Task, rows: datasets.Dataset, settings: Settings, split: str, workers: int | None = None
) -> EncodedSplit:
    """Encode a split, or take it from the cache if it was encoded before.

    Args:
        task: the task of the run.
        rows: the rows as read.
        settings: the settings of the run.
        split: the name of the split. A split other than `train` is corrupted once, not in each epoch.
        workers: the number of processes that share the work; None uses this process only.

    Raises:
        InputError: there is nothing to learn.
    """
    task.check(rows, settings, split)
    key, collator = encoding_key(settings), task.make_collator(settings)
    encoded = encode_rows(task, rows, split, settings, key, workers)
    document = np.array(encoded["document"][:]) if "document" in encoded.column_names else None
    features = encoded if document is None else encoded.remove_columns("document")
    task.check_documents(features, settings, split)
    regrouped = task.regroup(features.with_format("arrow").iter(DOCUMENTS), settings)
    if regrouped is not None:
        features = cache_table(Hasher.hash([features._fingerprint, key]), regrouped)
    if split != "train" and isinstance(collator, NoisyCollator):
        features = corrupt_rows(features, collator, settings, key)
    if split == "train":
        check_targets(features, settings)
    return EncodedSplit(split, rows, features, document)


def encode_rows(
    task: Task, rows: datasets.Dataset, split: str, settings: Settings, key: str, workers: int | None
) -> datasets.Dataset:
    """Encode rows in batches; their own columns are removed. A warning counts the rows that did not fit.

    Raises:
        InputError: a row cannot be encoded.
    """

    def encode(batch: Rows, indices: list[int]) -> Rows:
        try:
            features = task.encode(batch, settings)
        except RowError as error:
            raise InputError(f"{settings.place_of(split, indices[error.row])}: {error.reason}") from None
        if "document" in features:
            features = {**features, "document": [indices[row] for row in features["document"]]}
        return features

    encoded = map_cached(
        rows,
        encode,
        # The fingerprint that datasets computes would change whenever the tokenizer is called.
        Hasher.hash([rows._fingerprint, task.name, key, OVERFLOW_COLUMNS]),
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        num_proc=workers,
        desc=f"Tokenizing {split}",
    )
    if "cut" not in encoded.column_names:
        return encoded
    overflow = OverflowCounts()
    overflow.add(**encoded.select_columns(OVERFLOW_COLUMNS).with_format("numpy")[:])
    if overflow.long:
        logger.warning("%s: %s", split, overflow)
    return encoded.remove_columns([name for name in OVERFLOW_COLUMNS if name != "document" or not settings.windows])


def encode_stream(task: Task, rows: RowStream, settings: Settings) -> RowStream:
    """The training split as a stream that encodes each block of rows when it is read.

    Args:
        task: the task of the run.
        rows: the rows as read. Documents are regrouped within a block, not across blocks.
        settings: the settings of the run.

    Raises:
        InputError: there is nothing to learn in the first rows, or one of them cannot be encoded.
    """
    task.check(rows.head, settings, "train")
    try:
        head = datasets.Dataset.from_dict(task.encode(rows.head[:], settings))
    except RowError as error:
        raise InputError(f"{rows.name_of(0)}: {error}") from None
    if task.regroup(iter(()), settings) is None:
        check_targets(head, settings)
        return rows.map(block_encoder(task, settings))
    task.check_documents(head, settings, "train")

    def regroup(block: Rows) -> Rows:
        documents = pa.table(task.encode(block, settings))
        return pa.Table.from_batches(task.regroup(iter([documents]), settings)).to_pydict()

    return rows.map(regroup)


def block_encoder(task: Task, settings: Settings) -> Any:
    """A function that encodes blocks of the training split, and sometimes warns about rows that did not fit."""
    overflow, blocks = OverflowCounts(), 0

    def encode(block: Rows) -> Rows:
        nonlocal blocks
        features = task.encode(block, settings)
        if "cut" not in features:
            return features
        blocks += 1
        overflow.add(**{name: features[name] for name in OVERFLOW_COLUMNS})
        # After 1, 2, 4, 8, … blocks.
        if overflow.long and blocks & (blocks - 1) == 0:
            logger.warning("train, so far: %s", overflow)
        return {name: column for name, column in features.items() if name not in OVERFLOW_COLUMNS}

    return encode


def corrupt_rows(
    features: datasets.Dataset, collator: NoisyCollator, settings: Settings, key: str
) -> datasets.Dataset:
    """Corrupt rows as in training, but once, so that evaluations can be compared."""

    def corrupt(row: dict[str, Any], index: int) -> dict[str, Any]:
        return collator.corrupt(row, np.random.default_rng((settings.seed, index)), for_evaluation=True)

    unread = [name for name in collator.reads if name in features.column_names]
    fingerprint = Hasher.hash([features._fingerprint, key, "corrupted"])
    return map_cached(features, corrupt, fingerprint, with_indices=True).remove_columns(unread)


def check_targets(features: datasets.Dataset, settings: Settings) -> None:
    """Raises InputError if no training row has a label after truncation."""
    if "labels" in features.column_names and not has_targets(features, settings):
        raise InputError(f"max_length: {settings.max_length} leaves nothing of the training split to learn")


def has_targets(features: datasets.Dataset, settings: Settings) -> bool:
    """Whether any row has a label; of a regression, -100 is one."""
    is_regression = settings.problem_type == REGRESSION
    return is_regression or any(np.not_equal(row, IGNORE).any() for row in features["labels"])


# --- From predictions to answers and metrics ---


class SplitScorer:
    """Computes the metrics of a split, and stores the answers that they were computed from.

    Args:
        task: a task with answers.
        split: the split.
        settings: the settings of the run.

    Attributes:
        answers: one answer per row, from the last predictions.
    """

    def __init__(self, task: Task, split: EncodedSplit, settings: Settings):
        self.task, self.split, self.settings = task, split, settings
        self.answers: list[Answer] = []
        # Warnings that were logged, so that evaluations do not repeat them.
        self._warned: set[str] = set()

    def __call__(self, predicted: EvalPrediction) -> dict[str, float | str]:
        if self.split.document is not None:
            predicted = self.task.join(predicted, self.split.document)
        self.answers = self.task.answer(predicted, self.split.rows, self.settings)
        metrics = self.task.score(self.answers, self.split.rows, self.settings)
        if (note := metrics.get("bleu_note")) and note not in self._warned:
            logger.warning("%s: BLEU is 0: %s", self.split.name, note)
            self._warned.add(note)
        return metrics

    @property
    def references(self) -> datasets.Dataset:
        """The column that answers are compared with; a text may have several references."""
        return self.split.rows.select_columns(self.task.reference)


def make_scorers(task: Task, splits: dict[str, EncodedSplit], settings: Settings) -> dict[str, SplitScorer]:
    """A scorer for each evaluated split, by the prefix of its metrics; empty for a task without answers."""
    if not task.has_answers:
        return {}
    return {prefix: SplitScorer(task, splits[name], settings) for prefix, name in PREFIXES.items() if name in splits}


def check_metric(name: str, task: Task, split: EncodedSplit, settings: Settings) -> None:
    """Raises InputError if the evaluation of a split has no metric of this name, to choose the best model by."""
    known = ["loss"] if task.has_answers else ["loss", "perplexity"]
    if not has_targets(split.features, settings):
        known = []
    if task.has_answers:
        references = split.rows[task.reference]
        best = (row[0] if task.generates and isinstance(row, list) else row for row in references)
        answers = [{"prediction": row} for row in best]
        metrics = task.score(answers, split.rows, settings)
        known += [key for key, value in metrics.items() if isinstance(value, float)]
    check_choice("metric_for_best_model", name.removeprefix("eval_"), known)


def greater_is_better(name: str) -> bool | None:
    """Whether higher values of a metric are better; None for a metric of another package.

    Args:
        name: with or without the prefix of its split, as in `f1`, `eval_f1` and `eval_german_f1`.
    """
    known = (better for metric, better in GREATER_IS_BETTER.items() if f"_{name}".endswith(f"_{metric}"))
    return next(known, None)


def perplexity(loss: float) -> float:
    """Perplexity of a mean cross-entropy in nats; infinite where it exceeds the range of a float."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
