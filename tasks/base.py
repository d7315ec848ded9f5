"""The base class of tasks: columns, encoding of rows, and conversion of predictions to answers and metrics."""

import abc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow as pa
import torch
from transformers import BatchEncoding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from ..data.columns import STANDARD_COLUMNS, Columns, Schema
from ..data.errors import InputError
from ..data.streams import RowStream
from ..scoring.row_metrics import LabelCounts, RowSums
from .encoding import Answer, Row, Rows, Settings

# Positions of the tokens that a prediction is about, one array a sequence.
Positions = list[np.ndarray]


# Optional methods of a task: it defines all of a group, or none.
METHOD_GROUPS = (("answer", "score"), ("read_rows", "run_model", "to_answers"))


class Task(abc.ABC):
    """A task: everything that differs from other tasks. A task has no state.

    The attributes without a default and the abstract methods must be defined. The other methods are optional. `answer`
    and `score` add metrics and predictions.jsonl; `read_rows`, `run_model` and `to_answers` add `seqblend predict`.

    Attributes:
        name: its value of the option `task`.
        auto_class: the Auto class of transformers for its models.
        architecture: the default architecture.
        inputs: the standard columns that the model predicts from.
        reference: the standard column that predictions are compared with.
        text_columns: the standard columns that the tokenizer is trained on.
        options: its fields of DataArguments, without those that every task has.
        reads_words: whether `text_columns` hold lists of words, not texts.
        generates: whether predictions are generated token by token.
        adds_special_tokens: whether its tokenizer puts special tokens around a text; False if texts are continued.
        needs_exact_decoding: whether its tokenizer must restore texts exactly.
        has_sentinels: whether its tokenizer needs sentinels, which replace spans.
        truncation_side: the side on which prediction cuts a long text; None is the tokenizer's.
        padding_side: the side on which prediction pads a short sequence.
        generation: default arguments of `model.generate` in prediction; None if the model does not generate.
        fine_tuning_batch: number of rows in a batch when a saved model is trained, if the user gives none.
        tokenizer_type: the type of a new tokenizer, if the user gives none.
        encoder_fields: fields of the configuration of a new encoder that differ from their defaults, if the user gives
            none: what was best in measurements.
    """

    name: ClassVar[str]
    auto_class: ClassVar[type]
    architecture: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]]
    reference: ClassVar[str]
    text_columns: ClassVar[tuple[str, ...]]
    options: ClassVar[tuple[str, ...]] = ()
    reads_words: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    adds_special_tokens: ClassVar[bool] = True
    needs_exact_decoding: ClassVar[bool] = True
    has_sentinels: ClassVar[bool] = False
    truncation_side: ClassVar[str | None] = None
    padding_side: ClassVar[str] = "right"
    generation: ClassVar[dict[str, int] | None] = None
    fine_tuning_batch: ClassVar[int] = 8
    tokenizer_type: ClassVar[str] = "byte-bpe"
    encoder_fields: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a task that lacks a method of a group or of an option. Raises TypeError that names what it lacks."""
        super().__init_subclass__(**kwargs)
        for group in METHOD_GROUPS:
            missing = [name for name in group if getattr(cls, name) is getattr(Task, name)]
            if 0 < len(missing) < len(group):
                raise TypeError(
                    f"{cls.__name__}: {', '.join(group)} belong together, but it lacks {', '.join(missing)}"
                )
        if "calibrate" in cls.options and cls.logits_and_targets is Task.logits_and_targets:
            raise TypeError(f"{cls.__name__}: the option calibrate needs logits_and_targets")

    # --- Columns ---

    def schema(self, columns: Columns = STANDARD_COLUMNS, problem_type: str | None = None) -> Schema:
        """The columns to read.

        Args:
            columns: their names in the user's data.
            problem_type: the problem type of sequence classification.

        Raises:
            InputError: the problem type is unknown, or the task has none.
        """
        if problem_type is not None and "problem_type" not in self.options:
            raise InputError(
                f"problem_type: {problem_type!r} is for the task sequence-classification, not {self.name}"
            )
        return replace(self.make_schema(problem_type), columns=columns)

    @abc.abstractmethod
    def make_schema(self, problem_type: str | None) -> Schema:
        """The columns to read, under their standard names."""

    def config_fields(self, problem_type: str | None) -> dict[str, Any]:
        """The fields of a model's configuration that follow from the task."""
        return {}

    def resolve_problem_type(self, given: str | None) -> str | None:
        """The given problem type of sequence classification, or its default; None for other tasks."""
        return given or self.config_fields(None).get("problem_type")

    def config_fields_from_rows(self, rows: datasets.Dataset, labels: list[str]) -> dict[str, Any]:
        """The fields of a model's configuration that follow from training rows, or from their label column alone."""
        return {}

    # --- From rows to batches ---

    def check(self, rows: datasets.Dataset, settings: Settings, split: str) -> None:
        """Warn about rows that can only partly be learnt.

        Raises:
            InputError: nothing can be learnt from these rows, or with this tokenizer.
        """
        return

    @abc.abstractmethod
    def encode(self, batch: Rows, settings: Settings) -> Rows:
        """Convert columns of rows to columns of model inputs.

        If a text may become several windows, a column `document` has the index of each sequence's row.
        """

    def regroup(self, documents: Iterator[pa.Table], settings: Settings) -> Iterator[pa.RecordBatch] | None:
        """Convert encoded documents to rows of another length; None if rows stay as they are."""
        return None

    def check_documents(self, documents: datasets.Dataset, settings: Settings, split: str) -> None:
        """As `check`, for encoded documents before they are regrouped."""
        return

    @abc.abstractmethod
    def make_collator(self, settings: Settings) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
        """The function that makes a batch from encoded rows."""

    def end_tokens(self, rows: datasets.Dataset | RowStream, settings: Settings) -> list[int]:
        """Ids of the tokens that end an answer in the training rows; generation must stop at them, too."""
        return []

    # --- From predictions to metrics ---

    @property
    def has_answers(self) -> bool:
        """Whether predictions become answers; a language model has its loss only."""
        return type(self).answer is not Task.answer

    @property
    def has_windows(self) -> bool:
        """Whether a long text may be read in several windows."""
        return type(self).join is not Task.join

    def logits_and_targets(self, predicted: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
        """Logits (N, C) and targets, (N) or (N, C), of what is classified: of rows or words."""
        raise NotImplementedError

    def max_sequences(self, most_logits: int, settings: Settings) -> int | None:
        """The number of sequences that have at most this many logits; None for any number."""
        return None

    def join(self, predicted: EvalPrediction, document: np.ndarray) -> EvalPrediction:
        """Combine predictions of windows to predictions of documents; `document` (W,) is each window's document."""
        raise NotImplementedError

    def answer(self, predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
        """Convert predictions and labels, as arrays, to one answer per row."""
        raise NotImplementedError

    def score(self, answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
        """The metrics of answers, compared with the rows' references."""
        raise NotImplementedError

    def logits_reducer(
        self, settings: Settings, sequences: int
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
        """The function that maps logits and labels of a batch to the predictions that `answer` reads.

        None keeps the logits; those of all `sequences` of a split may not fit into memory.
        """
        return None

    def main_metric(self, settings: Settings) -> str:
        """The metric that says which of two models is better; the loss, if there are no answers."""
        return "loss"

    def row_sums(self, predictions: list[Any], references: list[Any], settings: Settings) -> dict[str, RowSums]:
        """The metrics that are functions of sums over rows, for intervals; the first is the main one."""
        return {}

    def label_counts(self, predictions: list[Any], references: list[Any], settings: Settings) -> LabelCounts | None:
        """Counts of each label in each row; None for a task without labels."""
        return None

    def describe_labels(self, settings: Settings) -> str | None:
        """A line about the labels for the log; None if there is nothing to say."""
        return None

    # --- Prediction of rows without labels ---

    def default_generation(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, int] | None:
        """Default arguments of `model.generate` in prediction; None if the model does not generate."""
        return self.generation

    def answer_options(self, problem_type: str | None) -> tuple[str, ...]:
        """The options of answers that have an effect: `top_k`, `probabilities`, `threshold`, `num_answers`."""
        return ()

    @property
    def can_predict(self) -> bool:
        """Whether `seqblend predict` supports its models."""
        return type(self).read_rows is not Task.read_rows

    def check_rows(self, rows: list[Row], settings: Settings) -> None:
        """Raises RowError for a row in which there is nothing to predict."""
        return

    def read_rows(self, rows: list[Row], settings: Settings) -> BatchEncoding:
        """Convert rows to model inputs; `positions` has the positions to predict at, if these are not all."""
        raise NotImplementedError

    def run_model(
        self,
        model: PreTrainedModel,
        inputs: BatchEncoding,
        positions: Positions,
        settings: Settings,
        generation: dict[str, Any],
    ) -> list[Any]:
        """Run the model on a batch (B, T). Returns one output per sequence."""
        raise NotImplementedError

    def to_answers(self, outputs: list[Any], document: list[int], rows: list[Row], settings: Settings) -> list[Answer]:
        """Convert the outputs of sequences to one answer per row; `document` has the row of each sequence."""
        raise NotImplementedError


# --- Generated sequences ---

# The most logits that are held at a time to compute scores: 256 MiB in float32.
MAX_LOGITS = 2**26


# A generated sequence of tokens, and the geometric mean of their probabilities.
Written = tuple[list[int], float]


def generate(
    model: PreTrainedModel, inputs: BatchEncoding, generation: dict[str, Any]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Generate sequences, one per row, or as many as `num_return_sequences` in `generation`, the best first.

    Returns:
        The sequences (N, T), those of a row together; and the inputs, with a row for each sequence.

    Raises:
        InputError: settings do not go together.
    """
    arguments = {"num_return_sequences": 1, **generation, "return_dict_in_generate": False}
    try:
        sequences = model.generate(**inputs, **arguments)
    except ValueError as error:  # transformers checks generation_config.json only here
        raise InputError(f"generation_config: {error}") from error
    count = generation.get("num_return_sequences", 1)
    return sequences, {name: values.repeat_interleave(count, 0) for name, values in inputs.items()}


def written_answers(outputs: list[Written | list[Written]], tokenizer: PreTrainedTokenizerBase) -> list[Answer]:
    """The answers of what was written: a text with its score, and if there are several, all under `answers`.

    Args:
        outputs: what was written for each row; a list if several were asked for.
        tokenizer: of the model.
    """
    found = []
    for output in outputs:
        several = output if isinstance(output, list) else [output]
        texts = tokenizer.batch_decode([tokens for tokens, _ in several], skip_special_tokens=True)
        answer: Answer = {"prediction": texts[0], "score": several[0][1]}
        if isinstance(output, list):
            answer["answers"] = [
                {"text": text, "score": score} for text, (_, score) in zip(texts, several, strict=True)
            ]
        found.append(answer)
    return found


def row_slices(count: int, logits_per_row: int) -> Iterator[slice]:
    """Slices of rows with at most MAX_LOGITS logits each, but at least one row."""
    size = max(1, MAX_LOGITS // logits_per_row)
    return (slice(start, start + size) for start in range(0, count, size))


def mean_probabilities(logits: torch.Tensor, tokens: torch.Tensor, ends: int | list[int] | None) -> list[float]:
    """The geometric mean of the probabilities of generated tokens, up to and including the first end token.

    Args:
        logits: the logits that each token was chosen from, (B, T, V).
        tokens: the generated tokens (B, T).
        ends: the ids of the end tokens.
    """
    chosen = logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]  # (B, T)
    real = until_end(tokens, ends)
    return ((chosen * real).sum(-1) / real.sum(-1)).exp().tolist()


def until_end(tokens: torch.Tensor, ends: int | list[int] | None) -> torch.Tensor:
    """Mask (B, T) of generated tokens, True up to and including the first end token."""
    is_end = torch.isin(tokens, torch.as_tensor([] if ends is None else ends, device=tokens.device))
    return is_end.cumsum(-1) - is_end.long() == 0
