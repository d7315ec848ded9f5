"""Sequence classification: one label, several labels or numbers for a text, or for a pair of texts."""

from typing import Any

import datasets
import numpy as np
from transformers import EvalPrediction

from .encoding import Answer, Encoder, Rows, Settings, tokenize


def encode_sequences(settings: Settings) -> Encoder:
    """Texts, or pairs of texts, with the id of their label, a 0 or 1 for each label, or numbers."""
    ids, kind = settings.label_ids, settings.problem_type

    def label(value: Any) -> int | float | list[float]:
        if kind == "regression":
            return value
        if kind == "multi_label_classification":
            return [float(name in value) for name in settings.labels]
        return ids[value]

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["text"], batch.get("text_pair"))
        return {**features, "labels": [label(batch["label"][row]) for row in features["document"]]}

    return encode


def answer_sequences(predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
    """The most probable label, or every label more probable than not, with probabilities; or numbers."""
    logits = predicted.predictions.astype(np.float64)
    if settings.problem_type == "regression":
        return [{"prediction": row.tolist() if len(row) > 1 else float(row[0])} for row in logits]
    if settings.problem_type == "multi_label_classification":
        scores = 1 / (1 + np.exp(-logits))
        return [
            {
                "prediction": [name for name, score in zip(settings.labels, row, strict=True) if score > 0.5],
                "scores": {name: float(score) for name, score in zip(settings.labels, row, strict=True)},
            }
            for row in scores
        ]
    scores = np.exp(logits - logits.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :5]
    return [
        {
            "prediction": settings.labels[order[0]],
            "scores": {settings.labels[index]: float(row[index]) for index in order},
        }
        for row, order in zip(scores, best, strict=True)
    ]


def score_sequences(answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
    from .metrics import MultiLabelMetric, RegressionMetric, SequenceClassificationMetric

    predictions, references = [answer["prediction"] for answer in answers], list(rows["label"])
    if settings.problem_type == "regression":
        return RegressionMetric().compute(predictions=predictions, references=references)
    ids = settings.label_ids
    if settings.problem_type == "multi_label_classification":
        rows_of = [[[int(name in row) for name in ids] for row in side] for side in (predictions, references)]
        return MultiLabelMetric().compute(predictions=rows_of[0], references=rows_of[1])
    return SequenceClassificationMetric().compute(
        predictions=[ids[name] for name in predictions], references=[ids[name] for name in references]
    )
