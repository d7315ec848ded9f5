"""Sequence classification: one label, several labels or numbers for a text, or for a pair of texts."""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from scipy.special import expit, logsumexp, softmax
from transformers import (
    AutoModelForSequenceClassification,
    BatchEncoding,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
)

from ..data.columns import LabelRule, Schema
from ..data.errors import check_choice
from ..data.kinds import NUMBERS, ONE_LABEL, SEVERAL_LABELS, TEXT, UNKNOWN_LABEL
from ..scoring.row_metrics import (
    LabelCounts,
    RowSums,
    count_classes,
    count_several,
    sums_of_classes,
    sums_of_numbers,
    sums_of_several,
)
from .base import Positions, Task
from .encoding import Answer, Row, Rows, Settings, tokenize
from .windows import join_logits

REGRESSION, SEVERAL, ONE = "regression", "multi_label_classification", "single_label_classification"
LABEL_KINDS = {ONE: ONE_LABEL, SEVERAL: SEVERAL_LABELS, REGRESSION: NUMBERS}


class SequenceClassification(Task):
    """A label for a text or a pair of texts. With windows, the logits of a text are the mean over its windows."""

    name = "sequence-classification"
    auto_class = AutoModelForSequenceClassification
    architecture = "encoder"
    inputs = text_columns = ("text", "text_pair")
    reference = "label"
    options = (
        *("problem_type", "class_weights", "calibrate", "label_thresholds", "abstain_precision"),
        *("unknown_label", "validation_unknown_file", "test_unknown_file"),
    )
    fine_tuning_batch = 32
    needs_exact_decoding = False
    tokenizer_type = "wordpiece"
    encoder_fields = {"pooling": "mean"}

    def make_schema(self, problem_type: str | None) -> Schema:
        """A text, perhaps a second one, and a label. Raises InputError for an unknown problem type."""
        if problem_type is not None:
            check_choice("problem_type", problem_type, LABEL_KINDS)
        kind = UNKNOWN_LABEL if problem_type is None else LABEL_KINDS[problem_type]
        return Schema(
            {"text": TEXT, "text_pair": TEXT, "label": kind},
            answers=("label",),
            optional=("text_pair",),
            labels=LabelRule(
                "label",
                is_number=kind is NUMBERS,
                min_labels=1 if kind is SEVERAL_LABELS else 2,
                is_set=kind is SEVERAL_LABELS,
            ),
        )

    def config_fields(self, problem_type: str | None) -> dict[str, Any]:
        """The problem type, which decides the loss of the model."""
        return {"problem_type": problem_type or ONE}

    def encode(self, batch: Rows, settings: Settings) -> Rows:
        """Texts, or pairs of texts, with the id of their label, a 0 or 1 for each label, or numbers."""
        features = tokenize(settings, batch["text"], batch.get("text_pair"))
        labels = [encode_label(value, settings) for value in batch["label"]]
        return {**features, "labels": [labels[row] for row in features["document"]]}

    def make_collator(self, settings: Settings) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
        """Pads sequences."""
        return DataCollatorWithPadding(settings.tokenizer)

    def join(self, predicted: EvalPrediction, document: np.ndarray) -> EvalPrediction:
        """The mean of the logits of each document's windows."""
        return join_logits(predicted, document)

    def logits_and_targets(self, predicted: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
        """Logits and targets of rows."""
        return predicted.predictions, predicted.label_ids

    def answer(self, predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
        """The most probable label, or all labels above their thresholds, with probabilities; or numbers."""
        return answer_logits(predicted.predictions.astype(np.float64), settings)

    def score(self, answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
        """The metrics of the problem type."""
        from ..scoring.metrics import MultiLabelMetric, RegressionMetric, SequenceClassificationMetric

        predictions, references = [answer["prediction"] for answer in answers], list(rows["label"])
        if settings.problem_type == REGRESSION:
            return RegressionMetric().compute(predictions=predictions, references=references)
        ids = settings.label_ids
        if settings.problem_type == SEVERAL:
            sides = [[[int(name in row) for name in ids] for row in side] for side in (predictions, references)]
            return MultiLabelMetric().compute(predictions=sides[0], references=sides[1])
        return SequenceClassificationMetric().compute(
            predictions=[ids[name] for name in predictions], references=[ids[name] for name in references]
        )

    def main_metric(self, settings: Settings) -> str:
        """That of the problem type."""
        return {REGRESSION: "mse", SEVERAL: "micro_f1"}.get(settings.problem_type, "accuracy")

    def row_sums(self, predictions: list[Any], references: list[Any], settings: Settings) -> dict[str, RowSums]:
        """Those of the problem type."""
        if settings.problem_type == REGRESSION:
            return sums_of_numbers(predictions, references)
        sums_of = sums_of_several if settings.problem_type == SEVERAL else sums_of_classes
        return sums_of(self.label_counts(predictions, references, settings))

    def label_counts(self, predictions: list[Any], references: list[Any], settings: Settings) -> LabelCounts | None:
        """Of one label or several labels; None for numbers."""
        if settings.problem_type == REGRESSION:
            return None
        count = count_several if settings.problem_type == SEVERAL else count_classes
        return count(predictions, references, settings.labels)

    def answer_options(self, problem_type: str | None) -> tuple[str, ...]:
        """With several labels an answer has all scores, and numbers have none."""
        if problem_type == REGRESSION:
            return ()
        return ("threshold",) if problem_type == SEVERAL else ("top_k", "probabilities", "threshold")

    def read_rows(self, rows: list[Row], settings: Settings) -> BatchEncoding:
        """Texts, or pairs of texts."""
        pairs = [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
        return tokenize(settings, [row["text"] for row in rows], pairs)

    def run_model(
        self,
        model: PreTrainedModel,
        inputs: BatchEncoding,
        positions: Positions,
        settings: Settings,
        generation: dict[str, Any],
    ) -> list[np.ndarray]:
        """The logits (C,) of each sequence."""
        return list(model(**inputs).logits.float().cpu().numpy())

    def to_answers(
        self, outputs: list[np.ndarray], document: list[int], rows: list[Row], settings: Settings
    ) -> list[Answer]:
        """As in training; a row in windows gets the mean of their logits."""
        predicted = EvalPrediction(predictions=np.stack(outputs), label_ids=np.asarray(document))
        return answer_logits(join_logits(predicted, np.asarray(document)).predictions.astype(np.float64), settings)


def encode_label(value: Any, settings: Settings) -> int | float | list[float]:
    """The id of a label; for several labels, a 0 or 1 for each known label; numbers are unchanged."""
    if settings.problem_type == REGRESSION:
        return value
    if settings.problem_type == SEVERAL:
        return [float(name in value) for name in settings.labels]
    return settings.label_ids[value]


def answer_logits(logits: np.ndarray, settings: Settings) -> list[Answer]:
    """Convert logits (B, C) to answers."""
    if settings.problem_type == REGRESSION:
        return [{"prediction": row.tolist() if len(row) > 1 else float(row[0])} for row in logits]
    if settings.problem_type == SEVERAL:
        return [several_labels(row, settings) for row in expit(logits)]
    scores, abstains = softmax(logits, axis=-1), [None] * len(logits)
    if settings.abstain_threshold is not None:
        abstains = (answer_scores(logits, settings.abstain_score) < settings.abstain_threshold).tolist()
    best = np.argsort(-scores, axis=-1, kind="stable")
    best = best if settings.probabilities else best[:, : settings.top_k]
    rows = zip(scores, best, abstains, strict=True)
    return [one_label(row, order, settings.labels, abstains) for row, order, abstains in rows]


def answer_scores(logits: np.ndarray, kind: str) -> np.ndarray:
    """How sure the answers to rows are, (N), of logits (N, C).

    Args:
        logits: of a single label.
        kind: `probability`, that of the best label; or `energy`, the logarithm of the sum of the exponentials of the
            logits, which is high only if some logit is high.

    Source: Liu et al. 2020, "Energy-based Out-of-distribution Detection", equation 4, with the other sign.
    """
    logits = logits.astype(np.float64)
    return softmax(logits, axis=-1).max(-1) if kind == "probability" else logsumexp(logits, axis=-1)


def several_labels(scores: np.ndarray, settings: Settings) -> Answer:
    """The answer of a row with several labels: those with a probability (C) above their threshold, in their order."""
    thresholds = settings.label_thresholds or [0.5] * len(scores)
    named = list(zip(settings.labels, scores.tolist(), strict=True))
    above = [name for (name, score), threshold in zip(named, thresholds, strict=True) if score > threshold]
    return {"prediction": above, "scores": dict(sorted(named, key=lambda pair: -pair[1]))}


def one_label(scores: np.ndarray, order: np.ndarray, labels: list[str], abstains: bool | None) -> Answer:
    """The answer of a row with one label.

    Args:
        scores: probabilities (C).
        order: labels in the answer, the most probable one first.
        labels: the names of all labels.
        abstains: whether the answer abstains; None if the model has no threshold.
    """
    named = {labels[index]: float(scores[index]) for index in order}
    answer: Answer = {"prediction": labels[order[0]], "scores": named}
    return answer if abstains is None else {**answer, "abstains": abstains}
