"""After training: fit a temperature and thresholds on the validation split, and measure them there and on test."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import datasets
import numpy as np
from transformers import EvalPrediction

from ..data.errors import InputError, printable
from ..data.splits import LabelledData, read_files
from ..tasks.base import Task
from ..tasks.encoding import OVERFLOW_COLUMNS, Settings
from ..tasks.sequence_classification import answer_scores
from ..tasks.splits import EncodedSplit
from ..training.arguments import F1, DataArguments
from ..training.trainer import BlendTrainer
from .measures import (
    ClassifierOutputs,
    auroc,
    calibration_metrics,
    expected_calibration_error,
    false_positives_at_recall,
    reliability_bins,
)
from .temperature import divide_logits, fit_temperature
from .thresholds import DEFAULT, NEVER, above, accuracy_threshold, label_threshold, precision_threshold

logger = logging.getLogger(__name__)

# With out-of-scope rows and without --abstain_precision, abstaining lowers the accuracy on validation by at most this.
MAX_ACCURACY_LOSS = 0.01
# The scores by which a model may abstain; see answer_scores.
ABSTAIN_SCORES = ("probability", "energy")
# The most logits of words that are read for a fit: 256 MiB in double precision.
MOST_LOGITS = 2**25


class Calibrator:
    """Fits what --calibrate, --label_thresholds, --abstain_precision and out-of-scope rows ask for.

    Args:
        trainer: of the run; its model, the model's configuration and the scorers' settings get what is fitted.
        task: of the run.
        splits: its data.
        unknown: rows of none of the classes, by split.
        options: of the run.
        settings: of the task.

    Attributes:
        temperature: by which the logits were divided; None if they were not.
        outputs: of the trained model, by split, after that.
    """

    def __init__(
        self,
        trainer: BlendTrainer,
        task: Task,
        splits: dict[str, EncodedSplit],
        unknown: dict[str, datasets.Dataset],
        options: DataArguments,
        settings: Settings,
    ):
        self.trainer, self.task, self.splits, self.unknown = trainer, task, splits, unknown
        self.options, self.settings = options, settings
        self.temperature: float | None = None
        self.outputs: dict[str, ClassifierOutputs] = {}
        self._unknown_logits: dict[str, np.ndarray] = {}

    @property
    def abstains(self) -> bool:
        """Whether a threshold of abstaining is fitted."""
        return self.options.abstain_precision is not None or "validation" in self.unknown

    @property
    def is_needed(self) -> bool:
        """Whether anything is fitted."""
        return self.options.calibrate or self.options.label_thresholds is not None or self.abstains

    # --- Fitting ---

    def fit(self) -> None:
        """Fit on the validation split."""
        config = self.trainer.model.config
        if self.options.calibrate:
            self.fit_temperature()
        if self.options.label_thresholds is not None:
            config.label_thresholds = self.fit_label_thresholds(config.id2label)
        if self.abstains:
            for name, value in self.fit_abstain_threshold().items():
                setattr(config, name, value)
        names = ("label_thresholds", "abstain_threshold", "abstain_score")
        fitted = {name: getattr(config, name) for name in names}
        for scorer in self.trainer.scorers.values():
            scorer.settings = replace(scorer.settings, **fitted)

    def fit_temperature(self) -> None:
        """Divide the model's logits by the temperature that is best on the validation split."""
        outputs = self.outputs_of("validation")
        self.temperature = fit_temperature(outputs)
        if self.temperature is None:
            logger.warning(
                "calibrate: no temperature is best on the validation split, because the model makes no error there or "
                "knows nothing; the probabilities stay as they are"
            )
            return
        divide_logits(self.trainer.model, self.temperature)
        self.outputs["validation"] = outputs.scaled(self.temperature)
        before, after = (expected_calibration_error(each) for each in (outputs, self.outputs["validation"]))
        logger.info(
            "calibrate: temperature %.4g; expected calibration error on validation %.4f, before %.4f",
            *(self.temperature, after, before),
        )

    def fit_label_thresholds(self, names: dict[int, str]) -> list[float]:
        """The threshold of each of several labels; a warning names labels for which there is none."""
        outputs, given = self.outputs_of("validation"), self.options.label_thresholds
        precision = None if given == F1 else float(given)
        columns = zip(outputs.probabilities.T, outputs.targets.T.astype(bool), strict=True)
        found = [label_threshold(probabilities, is_correct, precision) for probabilities, is_correct in columns]
        has_rows = outputs.targets.any(0)
        absent = [name for index, name in names.items() if not has_rows[index]]
        weak = [name for index, name in names.items() if has_rows[index] and found[index] is None]
        if absent:
            given = ", ".join(map(printable, absent))
            logger.warning("label_thresholds: %g for %s: no validation row has the label", DEFAULT, given)
        if weak:
            given = ", ".join(map(printable, weak))
            logger.warning("label_thresholds: never predicted, for want of a precision of %g: %s", precision, given)
        default = [NEVER if is_there else DEFAULT for is_there in has_rows]
        return [default[index] if threshold is None else threshold for index, threshold in enumerate(found)]

    def fit_abstain_threshold(self) -> dict[str, Any]:
        """The score by which the model abstains, and its threshold, as fields of the configuration."""
        outputs, unknown = self.outputs_of("validation"), self.unknown_logits("validation")
        kind = better_score(outputs.logits, unknown)
        known_scores, unknown_scores = (answer_scores(logits, kind) for logits in (outputs.logits, unknown))
        is_correct = outputs.logits.argmax(-1) == outputs.targets
        precision = self.options.abstain_precision
        if precision is None:
            threshold: float | None = accuracy_threshold(known_scores, is_correct, MAX_ACCURACY_LOSS)
        else:
            scores = np.concatenate([known_scores, unknown_scores])
            threshold = precision_threshold(scores, np.append(is_correct, np.zeros(len(unknown), bool)), precision)
            if threshold is None:
                logger.warning(
                    "abstain_precision: %g is more than the surest answers on validation have; the model answers only "
                    "where it is surer than in any of them",
                    precision,
                )
                threshold = above(scores)
        logger.info("abstain_threshold: %.4f, of the score %s", threshold, kind)
        return {"abstain_threshold": threshold, "abstain_score": kind}

    # --- Measuring ---

    def metrics(self, split: str) -> dict[str, float]:
        """The metrics of probabilities and of abstaining on a split, as far as there is something to measure."""
        found: dict[str, float] = {}
        if self.temperature is not None:
            outputs = self.outputs_of(split)
            before = calibration_metrics(outputs.scaled(1 / self.temperature))
            found |= calibration_metrics(outputs) | {f"{name}_before": value for name, value in before.items()}
        config = self.trainer.model.config
        threshold = getattr(config, "abstain_threshold", None)
        if threshold is not None or split in self.unknown:
            outputs, kind = self.outputs_of(split), config.abstain_score
            scores = (answer_scores(logits, kind) for logits in (outputs.logits, self.unknown_logits(split)))
            is_correct = outputs.logits.argmax(-1) == outputs.targets
            found |= abstention_metrics(*scores, is_correct, -np.inf if threshold is None else threshold)
        return found

    def reliability(self) -> dict[str, Any]:
        """The bins of the reliability picture, by split; empty without a temperature."""
        if self.temperature is None:
            return {}
        return {
            split: {
                "before": reliability_bins(outputs.scaled(1 / self.temperature)),
                "after": reliability_bins(outputs),
            }
            for split, outputs in self.outputs.items()
        }

    # --- The model's outputs ---

    def outputs_of(self, split: str) -> ClassifierOutputs:
        """The outputs for a split; for words those of the first sequences, if all would not fit into memory."""
        if split in self.outputs:
            return self.outputs[split]
        features, document = self.splits[split].features, self.splits[split].document
        most = self.task.max_sequences(MOST_LOGITS, self.settings)
        if most is not None and most < len(features):
            logger.info("%s: probabilities are measured on the first %d sequences", split, most)
            features, document = features.select(range(most)), None if document is None else document[:most]
        predicted = self.predict_logits(features)
        if document is not None:
            predicted = self.task.join(predicted, document)
        logits, targets = self.task.logits_and_targets(predicted)
        found = self.outputs[split] = ClassifierOutputs(logits, targets, self.settings.problem_type)
        return found

    def unknown_logits(self, split: str) -> np.ndarray:
        """The logits of the rows of none of the classes, (M, C)."""
        if split not in self.unknown:
            return np.empty((0, len(self.settings.labels)))
        if split not in self._unknown_logits:
            encoded = self.task.read_rows(self.unknown[split].to_list(), self.settings)
            document = np.asarray(encoded["document"])
            columns = {name: encoded[name] for name in encoded if name not in OVERFLOW_COLUMNS}
            logits = self.predict_logits(datasets.Dataset.from_dict(columns)).predictions
            self._unknown_logits[split] = self.task.join(EvalPrediction(logits, document), document).predictions
        return self._unknown_logits[split]

    def predict_logits(self, features: datasets.Dataset) -> EvalPrediction:
        """Logits and labels of encoded rows, from all processes."""
        with without_metrics(self.trainer):
            loader = self.trainer.get_test_dataloader(features)
            output = self.trainer.evaluation_loop(loader, "Calibration", False, metric_key_prefix="calibration")
        return EvalPrediction(output.predictions, output.label_ids)


@contextmanager
def without_metrics(trainer: BlendTrainer) -> Iterator[None]:
    """Inside, an evaluation returns the logits, and computes no metrics of them."""
    names = ("compute_metrics", "preprocess_logits_for_metrics")
    before = {name: getattr(trainer, name) for name in names}
    for name in names:
        setattr(trainer, name, None)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(trainer, name, value)


def better_score(known: np.ndarray, unknown: np.ndarray) -> str:
    """The score that tells known rows better from unknown ones.

    Args:
        known: logits (N, C).
        unknown: logits of rows of none of the classes, (M, C); without any it is the probability.
    """
    if not len(unknown):
        return ABSTAIN_SCORES[0]
    return max(ABSTAIN_SCORES, key=lambda kind: auroc(answer_scores(known, kind), answer_scores(unknown, kind)))


def abstention_metrics(
    known: np.ndarray, unknown: np.ndarray, is_correct: np.ndarray, threshold: float
) -> dict[str, float]:
    """The metrics of a model that abstains below a threshold.

    Args:
        known: scores of the answers to known rows, (N).
        unknown: scores of the answers to rows of none of the classes, (M); may be empty.
        is_correct: whether each answer to a known row is right, (N).
        threshold: minus infinity if it never abstains.
    """
    is_answered, is_missed = known >= threshold, unknown >= threshold
    answers = int(is_answered.sum() + is_missed.sum())
    correct = int((is_correct & is_answered).sum())
    found = {
        "known_accuracy": correct / len(known),
        "coverage": float(is_answered.mean()),
        "selective_precision": correct / answers if answers else 0.0,
    }
    if len(unknown):
        found |= {
            "unknown_recall": float(1 - is_missed.mean()),
            "unknown_auroc": auroc(known, unknown),
            "unknown_fpr95": false_positives_at_recall(known, unknown),
        }
    return found


def read_unknown(options: DataArguments, task: Task, rows: LabelledData) -> dict[str, datasets.Dataset]:
    """The rows of none of the classes, by split: those that were put aside by their label, and those of files.

    Raises:
        InputError: they cannot be read, or have other columns than the split.
    """
    unknown = {}
    for split in [name for name in ("validation", "test") if name in rows]:
        columns = [name for name in rows[split].column_names if name in task.inputs]
        parts = [rows.unknown[split].select_columns(columns)] if rows.unknown.get(split) else []
        if (names := getattr(options, f"{split}_unknown_file")) is not None:
            fields = [each for each in task.schema(options.columns()).fields(split) if each.name in task.inputs]
            parts.append(read_files(f"{split}_unknown", names, fields, options.reading()))
            if (found := parts[-1].column_names) != columns:
                raise InputError(
                    f"{split}_unknown_file: its columns are {', '.join(found)}, those of {split} {', '.join(columns)}"
                )
        if parts:
            unknown[split] = datasets.concatenate_datasets(parts)
    return unknown
