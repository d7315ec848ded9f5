"""Sequence classification: one label, several labels or numbers for a text, or for a pair of texts."""

from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
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
    options = ("problem_type", "class_weights")
    fine_tuning_batch = 32
    needs_exact_decoding = False

    def make_schema(self, problem_type: str | None) -> Schema:
        """A text, perhaps a second one, and a label. Raises InputError for an unknown problem type."""
        if problem_type is not None:
            check_choice("problem_type", problem_type, LABEL_KINDS)
        kind = UNKNOWN_LABEL if problem_type is None else LABEL_KINDS[problem_type]
        return Schema(
            {"text": TEXT, "text_pair": TEXT, "label": kind},
            answers=("label",),
            optional=("text_pair",),
            labels=LabelRule("label", is_number=kind is NUMBERS, min_labels=1 if kind is SEVERAL_LABELS else 2),
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

    def answer(self, predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
        """The most probable label, or all labels above a probability of 0.5, with probabilities; or numbers."""
        return answer_logits(predicted.predictions.astype(np.float64), settings)

    def score(self, answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
        """The metrics of the problem type."""
        from .metrics import MultiLabelMetric, RegressionMetric, SequenceClassificationMetric

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

    def answer_options(self, problem_type: str | None) -> tuple[str, ...]:
        """Of one label; with several labels an answer has all scores, and numbers have none."""
        return () if problem_type in (REGRESSION, SEVERAL) else ("top_k", "probabilities")

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
        return [
            {
                "prediction": [name for name, score in zip(settings.labels, row, strict=True) if score > 0.5],
                "scores": {name: float(score) for name, score in zip(settings.labels, row, strict=True)},
            }
            for row in 1 / (1 + np.exp(-logits))
        ]
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    best = np.argsort(-scores, axis=-1, kind="stable")
    best = best if settings.probabilities else best[:, : settings.top_k]
    return [
        {
            "prediction": settings.labels[order[0]],
            "scores": {settings.labels[index]: float(row[index]) for index in order},
        }
        for row, order in zip(scores, best, strict=True)
    ]
