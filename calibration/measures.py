"""Calibration metrics (ECE, Brier score, NLL), and detection of out-of-scope rows (AUROC, FPR95)."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax, softmax

from ..tasks.sequence_classification import SEVERAL

# The number of bins of the expected calibration error (Guo et al. 2017).
BINS = 15


@dataclass(frozen=True)
class ClassifierOutputs:
    """What a model says of the rows of a split, and what is right.

    Args:
        logits: (N, C): of rows, or of words.
        targets: label ids (N); for several labels 0 or 1 for each, (N, C).
        problem_type: of the model; for words None.
    """

    logits: np.ndarray
    targets: np.ndarray
    problem_type: str | None = None

    @property
    def probabilities(self) -> np.ndarray:
        """(N, C); of several labels each by itself."""
        logits = self.logits.astype(np.float64)
        return expit(logits) if self.problem_type == SEVERAL else softmax(logits, axis=-1)

    def scaled(self, temperature: float) -> "ClassifierOutputs":
        """The same with logits divided by a temperature."""
        return ClassifierOutputs(self.logits / temperature, self.targets, self.problem_type)

    @property
    def decisions(self) -> tuple[np.ndarray, np.ndarray]:
        """The confidence of each decision, and whether it was correct, (M) each.

        Of one label: the most probable label of each row. Of several labels: each label of each row, and whether the
        row has it.
        """
        probabilities = self.probabilities
        if self.problem_type == SEVERAL:
            return probabilities.ravel(), self.targets.ravel().astype(bool)
        return probabilities.max(-1), probabilities.argmax(-1) == self.targets


def reliability_bins(outputs: ClassifierOutputs, bins: int = BINS) -> list[dict[str, float]]:
    """The decisions in bins of equal width, without empty bins.

    Returns:
        For each bin `count`, the number of decisions; `confidence`, its mean; `accuracy`, the share that was correct.
    """
    confidences, is_correct = outputs.decisions
    places = np.minimum((confidences * bins).astype(int), bins - 1)
    found = []
    for place in np.unique(places):
        inside = places == place
        values = {"confidence": float(confidences[inside].mean()), "accuracy": float(is_correct[inside].mean())}
        found.append({"count": int(inside.sum()), **values})
    return found


def expected_calibration_error(outputs: ClassifierOutputs, bins: int = BINS) -> float:
    """The mean difference of confidence and accuracy over bins, weighted by their sizes.

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    found = reliability_bins(outputs, bins)
    total = sum(each["count"] for each in found)
    return sum(each["count"] * abs(each["confidence"] - each["accuracy"]) for each in found) / total


def brier_score(outputs: ClassifierOutputs) -> float:
    """The mean squared difference of probabilities and what is right, summed over the labels of a row.

    Of one label it is 0 to 2, as Brier 1950 defines it; of several labels the mean over the labels, 0 to 1.
    """
    probabilities = outputs.probabilities
    if outputs.problem_type == SEVERAL:
        return float(np.mean((probabilities - outputs.targets) ** 2))
    right = np.zeros_like(probabilities)
    right[np.arange(len(right)), outputs.targets] = 1
    return float(np.mean(((probabilities - right) ** 2).sum(-1)))


def negative_log_likelihood(outputs: ClassifierOutputs) -> float:
    """The mean of - log p of what is right, in nats: over rows, or over the labels of all rows."""
    logits = outputs.logits.astype(np.float64)
    if outputs.problem_type == SEVERAL:
        return float(np.mean(np.logaddexp(0, np.where(outputs.targets > 0, -logits, logits))))
    return float(-log_softmax(logits, axis=-1)[np.arange(len(logits)), outputs.targets].mean())


def calibration_metrics(outputs: ClassifierOutputs) -> dict[str, float]:
    """All three by the names of their metrics."""
    return {
        "expected_calibration_error": expected_calibration_error(outputs),
        "brier_score": brier_score(outputs),
        "negative_log_likelihood": negative_log_likelihood(outputs),
    }


# --- Out-of-scope rows ---


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """The probability that a known row has a higher score than an unknown one; ties count half.

    Args:
        known: scores (N).
        unknown: scores (M).
    """
    ordered = np.sort(unknown)
    below = np.searchsorted(ordered, known, side="left")
    not_above = np.searchsorted(ordered, known, side="right")
    return float((below + not_above).mean() / (2 * len(unknown)))


def false_positives_at_recall(known: np.ndarray, unknown: np.ndarray, recall: float = 0.95) -> float:
    """The share of unknown rows with a score that this share of the known rows reaches, too (FPR95)."""
    threshold = np.sort(known)[::-1][int(np.ceil(recall * len(known))) - 1]
    return float((unknown >= threshold).mean())
