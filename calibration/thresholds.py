"""Thresholds that are chosen on validation: one for each of several labels, or one below which a model abstains."""

import math

import numpy as np

# The threshold of a label that has none of its own, and one that no probability exceeds.
DEFAULT, NEVER = 0.5, 1.0
# Scores of the same text in two batches may differ by less than this.
NOISE = 1e-5


def label_threshold(probabilities: np.ndarray, is_correct: np.ndarray, precision: float | None = None) -> float | None:
    """The probability above which a label is predicted.

    Args:
        probabilities: of the label, (N).
        is_correct: whether each row has the label, (N).
        precision: the threshold with the highest recall at this precision or above; None: that with the highest F1.

    Returns:
        A number between two neighbouring probabilities; None if no row has the label, or none reaches the precision.
    """
    order = np.argsort(-probabilities, kind="stable")
    ordered, right = probabilities[order], is_correct[order].cumsum()
    predicted = np.arange(1, len(ordered) + 1)
    is_end = is_last_of_equals(ordered)
    if precision is None:
        scores = 2 * right / (predicted + right[-1])
    else:
        scores = np.where(right / predicted >= precision, right, 0)
    scores = np.where(is_end, scores, 0)
    best = int(scores.argmax())
    return between(ordered, best) if scores[best] > 0 else None


def precision_threshold(scores: np.ndarray, is_correct: np.ndarray, precision: float) -> float | None:
    """The score below which a model abstains, so that this share of its other answers is right.

    Args:
        scores: of the answers, (N).
        is_correct: whether each is right, (N).
        precision: the share that is asked for.

    Returns:
        The lowest such threshold: the most answers; None if there is none.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, right = scores[order], is_correct[order].cumsum()
    is_end = is_last_of_equals(ordered)
    is_enough = is_end & (right / np.arange(1, len(ordered) + 1) >= precision)
    return between(ordered, int(np.flatnonzero(is_enough)[-1])) if is_enough.any() else None


def accuracy_threshold(scores: np.ndarray, is_correct: np.ndarray, most_lost: float) -> float:
    """The score below which a model abstains, so that the accuracy falls by at most `most_lost`.

    Args:
        scores: of the answers to known rows, (N).
        is_correct: whether each is right, (N).
        most_lost: share of all known rows; a row without an answer counts as wrong.

    Returns:
        The middle between the lowest score that must not be lost and the next lower one of any row; above all scores
        if all may be lost.
    """
    correct = np.sort(scores[is_correct])
    lost = int(most_lost * len(scores))
    if lost >= len(correct):
        return above(scores)
    lowest = correct[lost]
    below = scores[scores < lowest - NOISE]
    return float((lowest + below.max()) / 2) if len(below) else float(lowest - NOISE)


def is_last_of_equals(ordered: np.ndarray) -> np.ndarray:
    """Whether a threshold may follow each score (N, descending): it must not stand between scores that are equal."""
    return np.append(ordered[:-1] - ordered[1:] > NOISE, True)


def above(scores: np.ndarray) -> float:
    """The next number above all scores."""
    return float(np.nextafter(scores.max(), math.inf))


def between(ordered: np.ndarray, last: int) -> float:
    """The middle between the last score (N, descending) above the threshold and the next one; if none is, below it."""
    if last + 1 < len(ordered):
        return float((ordered[last] + ordered[last + 1]) / 2)
    return float(ordered[last] - abs(ordered[last]) / 2)
