"""Thresholds that are chosen on validation: one for each of several labels, or one below which a model abstains."""

import numpy as np

# The threshold of a label that has none of its own, and one that no probability exceeds.
DEFAULT, NEVER = 0.5, 1.0


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
    if not len(right) or not right[-1]:
        return None
    predicted = np.arange(1, len(ordered) + 1)
    # Rows of equal probability are predicted together.
    is_end = np.append(ordered[1:] != ordered[:-1], True)
    if precision is None:
        scores = 2 * right / (predicted + right[-1])
    else:
        scores = np.where(right / predicted >= precision, right, 0)
    scores = np.where(is_end, scores, 0)
    best = int(scores.argmax())
    return between(ordered, best) if scores[best] > 0 else None


def precision_threshold(confidences: np.ndarray, is_correct: np.ndarray, precision: float) -> float | None:
    """The confidence below which a model abstains, so that this share of its other answers is right.

    Args:
        confidences: the probability of each answer, (N).
        is_correct: whether it is right, (N).
        precision: the share that is asked for.

    Returns:
        The lowest such threshold: the most answers; None if there is none.
    """
    order = np.argsort(-confidences, kind="stable")
    ordered, right = confidences[order], is_correct[order].cumsum()
    is_end = np.append(ordered[1:] != ordered[:-1], True)
    is_enough = is_end & (right >= precision * np.arange(1, len(ordered) + 1))
    return between(ordered, int(np.flatnonzero(is_enough)[-1])) if is_enough.any() else None


def accuracy_threshold(confidences: np.ndarray, is_correct: np.ndarray, most_lost: float) -> float:
    """The confidence below which a model abstains, so that the accuracy falls by at most `most_lost`.

    Args:
        confidences: the probability of each answer to known rows, (N).
        is_correct: whether it is right, (N).
        most_lost: share of all known rows; a row without an answer counts as wrong.

    Returns:
        The middle between the lowest confidence that must not be lost and the next lower one of any row; NEVER if all
        may be lost.
    """
    correct = np.sort(confidences[is_correct])
    lost = int(most_lost * len(confidences))
    if lost >= len(correct):
        return NEVER
    lowest = correct[lost]
    return float((lowest + max(confidences[confidences < lowest], default=0.0)) / 2)


def between(ordered: np.ndarray, last: int) -> float:
    """A number between the last probability that is above the threshold and the next one below it."""
    below = ordered[last + 1] if last + 1 < len(ordered) else 0.0
    return float((ordered[last] + below) / 2)
