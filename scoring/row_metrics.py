"""Metrics as functions of sums over rows, so that they can be computed for many samples of the rows.

They have the values of `metrics.py`. In each dict of metrics the first one is the main one.
"""

import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .tags import TagScheme


@dataclass(frozen=True)
class RowSums:
    """A metric that is a function of sums over rows, so that it can be computed for many samples of the rows.

    Args:
        counts: what each row adds to the sums, (N, K).
        value: maps sums (..., K) to values of the metric (...).
    """

    counts: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]

    def of_rows(self, weights: np.ndarray) -> np.ndarray:
        """The metric of samples of the rows: (S) for weights (S, N), how often each sample has each row."""
        return self.value(weights @ self.counts)

    @property
    def of_all(self) -> float:
        """The metric of all rows."""
        return float(self.value(self.counts.sum(0)))


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
    """The quotient; 0 where the denominator is 0."""
    return np.divide(
        numerators, denominators, out=np.zeros(np.broadcast(numerators, denominators).shape), where=denominators != 0
    )


def mean_of(counts: Iterable[float]) -> RowSums:
    """The mean of one number per row."""
    column = np.array(list(counts), dtype=float)
    return quotient_of(column, np.ones_like(column))


def quotient_of(numerators: np.ndarray, denominators: np.ndarray) -> RowSums:
    """The sum of one number per row divided by the sum of another."""
    return RowSums(
        np.stack([numerators, denominators], -1).astype(float), lambda sums: ratio(sums[..., 0], sums[..., 1])
    )


@dataclass(frozen=True)
class LabelCounts:
    """Counts of each label in each row.

    Args:
        names: of the labels, or types of spans.
        right: number of right predictions, (N, C).
        predicted: number of predictions, (N, C).
        expected: number of references, (N, C).
    """

    names: list[str]
    right: np.ndarray
    predicted: np.ndarray
    expected: np.ndarray

    def of_all(self) -> "LabelCounts":
        """The counts of all labels together: C is 1."""
        sums = (each.sum(-1, keepdims=True) for each in (self.right, self.predicted, self.expected))
        return LabelCounts(["all"], *sums)

    def f1(self, with_absent: bool = False) -> RowSums:
        """The mean F1 of the labels.

        Args:
            with_absent: a label that is neither predicted nor expected has the F1 0; otherwise it does not count.
        """
        count = self.right.shape[1]

        def value(sums: np.ndarray) -> np.ndarray:
            right, predicted, expected = np.split(sums, 3, axis=-1)
            total = predicted + expected
            present = count if with_absent else (total > 0).sum(-1)
            return ratio(ratio(2 * right, total).sum(-1), np.asarray(present))

        return RowSums(np.concatenate([self.right, self.predicted, self.expected], -1).astype(float), value)

    def of_label(self, index: int) -> dict[str, RowSums]:
        """Precision, recall and F1 of a label."""
        right, predicted, expected = (each[:, index] for each in (self.right, self.predicted, self.expected))
        return {
            "precision": quotient_of(right, predicted),
            "recall": quotient_of(right, expected),
            "f1": quotient_of(2 * right, predicted + expected),
        }


def count_classes(predictions: list[str], references: list[str], names: list[str]) -> LabelCounts:
    """Counts of one label per row."""
    ids = {name: index for index, name in enumerate(names)}
    predicted, expected = (np.eye(len(ids))[[ids[name] for name in side]] for side in (predictions, references))
    return LabelCounts(names, predicted * expected, predicted, expected)


def count_several(predictions: list[list[str]], references: list[list[str]], names: list[str]) -> LabelCounts:
    """Counts of several labels per row."""
    predicted, expected = (
        np.array([[name in row for name in names] for row in side], dtype=float) for side in (predictions, references)
    )
    return LabelCounts(names, predicted * expected, predicted, expected)


def count_spans(predictions: list[list[str]], references: list[list[str]], scheme: TagScheme | None) -> LabelCounts:
    """Counts of spans by type; without a scheme, of words by tag."""

    def read(tags: list[str]) -> set[tuple[str, int, int]]:
        if scheme is None:
            return {(tag, index, index) for index, tag in enumerate(tags)}
        return set(scheme.spans(tags))

    sides = [[read(row) for row in side] for side in (predictions, references)]
    both = [one & other for one, other in zip(*sides, strict=True)]
    names = sorted({kind for side in sides for row in side for kind, *_ in row})
    ids = {name: index for index, name in enumerate(names)}
    counts = []
    for side in (both, *sides):
        count = np.zeros((len(side), len(names)))
        for row, spans in zip(count, side, strict=True):
            np.add.at(row, [ids[kind] for kind, *_ in spans], 1)
        counts.append(count)
    return LabelCounts(names, *counts)


def sums_of_classes(counts: LabelCounts) -> dict[str, RowSums]:
    """Accuracy and macro F1 of one class per row, as in SequenceClassificationMetric."""
    return {"accuracy": mean_of(counts.right.sum(-1)), "macro_f1": counts.f1()}


def sums_of_several(counts: LabelCounts) -> dict[str, RowSums]:
    """The metrics of MultiLabelMetric."""
    is_right = (counts.predicted == counts.expected).all(-1)
    return {
        "micro_f1": counts.of_all().f1(),
        "macro_f1": counts.f1(with_absent=True),
        "subset_accuracy": mean_of(is_right),
    }


def sums_of_tags(
    counts: LabelCounts, predictions: list[list[str]], references: list[list[str]], has_spans: bool
) -> dict[str, RowSums]:
    """The metrics of TokenClassificationMetric: of spans and words, or of words alone."""
    pairs = zip(predictions, references, strict=True)
    hits = np.array([sum(one == other for one, other in zip(*pair, strict=True)) for pair in pairs])
    accuracy = quotient_of(hits, np.array([len(row) for row in references]))
    if not has_spans:
        return {"accuracy": accuracy, "macro_f1": counts.f1()}
    of_spans = counts.of_all().of_label(0)
    return {**{name: of_spans[name] for name in ("f1", "precision", "recall")}, "accuracy": accuracy}


def sums_of_texts(predictions: list[str], references: list[str | list[str]]) -> dict[str, RowSums]:
    """Exact match and error rates, as in Seq2SeqMetric; BLEU and chrF are no such sums."""
    # They load the metric libraries.
    import jiwer

    from .metrics import count_edits

    texts = [unicodedata.normalize("NFC", text) for text in predictions]
    lists = [[row] if isinstance(row, str) else row for row in references]
    lists = [[unicodedata.normalize("NFC", text) for text in row] for row in lists]
    found = {"exact_match": mean_of(text in row for text, row in zip(texts, lists, strict=True))}
    for name, process in (
        ("word_error_rate", jiwer.process_words),
        ("character_error_rate", jiwer.process_characters),
    ):
        edits = np.array([count_edits(process, *pair) for pair in zip(texts, lists, strict=True)], dtype=float)
        found[name] = RowSums(edits, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))
    return found


def sums_of_numbers(predictions: list, references: list) -> dict[str, RowSums]:
    """The mean squared error, as in RegressionMetric; correlations are no such sums."""
    predicted, expected = (np.array(side, dtype=float).reshape(len(side), -1) for side in (predictions, references))
    return {"mse": mean_of(((predicted - expected) ** 2).mean(-1))}


def length_bins(lengths: np.ndarray, *, max_bins: int = 8) -> list[np.ndarray]:
    """Indices of the examples in bins of about equal size, the shortest first; equal lengths are in the same bin."""
    edges = np.quantile(lengths, np.arange(1, max_bins) / max_bins, method="inverted_cdf")
    bins = np.searchsorted(np.unique(edges), lengths)
    return [np.flatnonzero(bins == number) for number in np.unique(bins)]
