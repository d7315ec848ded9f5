"""The tasks: for each, what becomes of a row, how it is padded, what is predicted from it, and how that is scored."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from datasets.fingerprint import Hasher
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EvalPrediction,
)

from ..data.errors import InputError, check_choice
from ..data.storage import cache_table, map_cached
from ..data.streams import RowStream
from .collation import CausalCollator, DenoisingCollator, Features, MaskingCollator, NoisyCollator
from .corruption import IGNORE
from .encoding import Answer, Encoder, Rows, Settings, encode_blocks, encode_rows
from .language_models import (
    check_documents,
    check_masking,
    encode_causal,
    encode_masked,
    encode_noisy,
    regroup_documents,
)
from .seq2seq import answer_pairs, check_pairs, encode_pairs, score_pairs
from .sequence_classification import answer_sequences, encode_sequences, score_sequences
from .tags import describe_scheme
from .token_classification import answer_words, best_labels, check_words, encode_words, score_words
from .windows import join_logits, join_tokens

logger = logging.getLogger(__name__)

# The prefix that transformers gives the metrics of a split.
PREFIXES = {"eval": "validation", "test": "test"}
# Documents that are regrouped at a time.
DOCUMENTS = 10_000


def nothing_to_check(rows: datasets.Dataset, settings: Settings, split: str) -> None:
    """For tasks that can do with any rows."""


@dataclass(frozen=True)
class Regrouping:
    """What becomes of rows whose bounds do not matter.

    Args:
        rows: the tokens of documents, some at a time, to the columns that the model reads.
        check: refuses documents, as encoded, that there is nothing to learn from.
    """

    rows: Callable[[Iterator[pa.ListArray], Settings], Iterator[pa.RecordBatch]]
    check: Callable[[datasets.Dataset, Settings, str], None]


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        auto_class: transformers' Auto class of its models.
        architecture: the default one.
        inputs: the columns that are read.
        reference: the column that is to be told.
        encode: gives what makes of a batch of rows what the model reads; with windows there may be several sequences
            of a row, and a column `document` says which.
        collator: makes a batch of what the model reads.
        check: refuses rows, or a tokenizer, that nothing can be learnt with, and warns of what can be learnt in part.
        regroup: where it does not matter which row a token is of.
        join: what the model said about windows to what it says about rows; None if the task has no windows.
        answer: what the model said about rows: arrays of predictions and labels, and the rows, to one dict a row.
        score: answers and rows to metrics.
        describe: one line on the labels, to be said before a run.
        reduce: logits and labels to what is kept for `answer`; None keeps the logits.
        generates: whether predictions are generated token by token.
        has_sentinels: whether the tokenizer needs tokens that stand for spans.
    """

    auto_class: type
    architecture: str
    inputs: tuple[str, ...]
    reference: str
    encode: Callable[[Settings], Encoder]
    collator: type
    check: Callable[[datasets.Dataset, Settings, str], None] = nothing_to_check
    regroup: Regrouping | None = None
    join: Callable[[EvalPrediction, np.ndarray], EvalPrediction] | None = None
    answer: Callable[[EvalPrediction, datasets.Dataset, Settings], list[Answer]] | None = None
    score: Callable[[list[Answer], datasets.Dataset, Settings], dict[str, float | str]] | None = None
    describe: Callable[[list[str]], str] | None = None
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    generates: bool = False
    has_sentinels: bool = False


def make_collator(task: Task, settings: Settings) -> Callable[[Features], dict[str, torch.Tensor]]:
    """What makes batches."""
    noise = (settings.noise,) if issubclass(task.collator, NoisyCollator) else ()
    return task.collator(settings.tokenizer, *noise)


# --- From rows to what the model reads ---


def encode_splits(
    task: Task, rows: datasets.DatasetDict, settings: Settings, workers: int | None
) -> datasets.DatasetDict:
    """The splits as the model reads them; of a stream one that is read as it is trained on. See `encode_split`."""
    return datasets.DatasetDict(
        {
            split: encode_stream(task, rows[split], settings)
            if isinstance(rows[split], RowStream)
            else encode_split(task, rows[split], settings, split, workers)
            for split in rows
        }
    )


def encode_split(
    task: Task, rows: datasets.Dataset, settings: Settings, split: str, workers: int | None = None
) -> datasets.Dataset:
    """A split as the model reads it, from the cache if it was made before.

    Args:
        task: of the run.
        rows: as read.
        settings: of the run.
        split: of what is not the training split, noise is made once and for all.
        workers: how many processes share the work; None is this one alone.

    Raises:
        InputError: there is nothing to learn.
    """
    task.check(rows, settings, split)
    encoded = encode_rows(rows, split, settings, task.encode(settings), workers)
    if task.regroup is not None:
        task.regroup.check(encoded, settings, split)
        documents = (table["input_ids"] for table in encoded.with_format("arrow").iter(DOCUMENTS))
        key = Hasher.hash([encoded._fingerprint, settings.key])
        encoded = cache_table(key, task.regroup.rows(documents, settings))
    if split != "train" and issubclass(task.collator, NoisyCollator):
        encoded = corrupted(encoded, make_collator(task, settings), settings)
    if split == "train":
        check_targets(encoded, settings)
    return encoded


def check_targets(encoded: datasets.Dataset, settings: Settings) -> None:
    """Raises InputError if nothing of the training rows is left to learn."""
    if "labels" in encoded.column_names and not has_targets(encoded):
        raise InputError(f"max_length: {settings.max_length} leaves nothing of the training split to learn")


def encode_stream(task: Task, rows: RowStream, settings: Settings) -> RowStream:
    """The training split as the model reads it, made of each block of rows when that is read.

    Args:
        task: of the run.
        rows: as read; tokens are regrouped in a block, but not across its end.
        settings: of the run.

    Raises:
        InputError: there is nothing to learn in the first rows.
    """
    task.check(rows.head, settings, "train")
    encode = task.encode(settings)
    head = datasets.Dataset.from_dict(encode(rows.head[:]))
    if task.regroup is None:
        check_targets(head, settings)
        return encode_blocks(rows, "train", encode)
    task.regroup.check(head, settings, "train")

    def regroup(block: Rows) -> Rows:
        documents = pa.array(encode(block)["input_ids"], pa.list_(pa.int32()))
        return pa.Table.from_batches(task.regroup.rows(iter([documents]), settings)).to_pydict()

    return encode_blocks(rows, "train", regroup)


def corrupted(encoded: datasets.Dataset, collator: NoisyCollator, settings: Settings) -> datasets.Dataset:
    """Rows corrupted as in training, but for good, so that evaluations can be compared."""

    def corrupt(row: dict[str, Any], index: int) -> dict[str, Any]:
        return collator.corrupt(row, np.random.default_rng((settings.seed, index)), for_good=True)

    unread = [name for name in collator.reads if name in encoded.column_names]
    key = Hasher.hash([encoded._fingerprint, settings.key, "corrupted"])
    return map_cached(encoded, corrupt, key, with_indices=True).remove_columns(unread)


def has_targets(encoded: datasets.Dataset) -> bool:
    """Whether anything is to be told in any row."""
    return any(np.not_equal(row, IGNORE).any() for row in encoded["labels"])


# --- And back ---


def answer_rows(
    task: Task, predicted: EvalPrediction, rows: datasets.Dataset, encoded: datasets.Dataset, settings: Settings
) -> list[Answer]:
    """What the model says about rows; `predicted` is what it said about them as encoded, which may be in windows."""
    if "document" in encoded.column_names:
        predicted = task.join(predicted, np.array(encoded["document"][:]))
    return task.answer(predicted, rows, settings)


@dataclass(frozen=True)
class SplitScorer:
    """Turns predictions of a split into metrics.

    Args:
        task: has a score.
        split: its name.
        rows: the split as read.
        encoded: the split as the model reads it.
        settings: of the run.
    """

    task: Task
    split: str
    rows: datasets.Dataset
    encoded: datasets.Dataset
    settings: Settings
    said: set[str] = field(default_factory=set)

    def __call__(self, predicted: EvalPrediction) -> dict[str, float | str]:
        answers = answer_rows(self.task, predicted, self.rows, self.encoded, self.settings)
        metrics = self.task.score(answers, self.rows, self.settings)
        # Not at every evaluation anew.
        if (note := metrics.get("bleu_note")) and note not in self.said:
            logger.warning("%s: BLEU is 0: %s", self.split, note)
            self.said.add(note)
        return metrics

    @property
    def references(self) -> datasets.Dataset:
        """What the answers are compared with; of a text there may be several."""
        return self.rows.select_columns(self.task.reference)


def scorers_of(
    task: Task, rows: datasets.DatasetDict, encoded: datasets.DatasetDict, settings: Settings
) -> dict[str, SplitScorer]:
    """What turns predictions into metrics, for each split that is evaluated, by the prefix of its metrics.

    Args:
        task: of the run; one without a score has none of these.
        rows: the splits as read.
        encoded: the splits as the model reads them.
        settings: of the run.
    """
    if task.score is None:
        return {}
    return {
        prefix: SplitScorer(task, split, rows[split], encoded[split], settings)
        for prefix, split in PREFIXES.items()
        if split in rows
    }


def without_document(encoded: datasets.Dataset | RowStream) -> datasets.Dataset | RowStream:
    """What the model reads of rows as encoded; a stream has nothing else."""
    is_stored = isinstance(encoded, datasets.Dataset)
    return encoded.remove_columns("document") if is_stored and "document" in encoded.column_names else encoded


def check_metric(name: str, task: Task, rows: datasets.Dataset, encoded: datasets.Dataset, settings: Settings) -> None:
    """Refuse to choose the best model by a metric that evaluating the rows, as read and as encoded, will not give.

    Raises:
        InputError: there is none of this name; the message lists those there are, nearest first.
    """
    known = ["loss", "perplexity"] if task.score is None else ["loss"]
    if not has_targets(encoded):
        known = []
    if task.score is not None:
        right = (row[0] if task.generates and isinstance(row, list) else row for row in rows[task.reference])
        answers = [{"prediction": row} for row in right]
        known += [key for key, value in task.score(answers, rows, settings).items() if isinstance(value, float)]
    check_choice("metric_for_best_model", name.removeprefix("eval_"), known)


TASKS = {
    "sequence-classification": Task(
        auto_class=AutoModelForSequenceClassification,
        architecture="encoder",
        inputs=("text", "text_pair"),
        reference="label",
        encode=encode_sequences,
        collator=DataCollatorWithPadding,
        join=join_logits,
        answer=answer_sequences,
        score=score_sequences,
    ),
    "token-classification": Task(
        auto_class=AutoModelForTokenClassification,
        architecture="encoder",
        inputs=("tokens",),
        reference="tags",
        encode=encode_words,
        collator=DataCollatorForTokenClassification,
        check=check_words,
        join=join_tokens,
        answer=answer_words,
        score=score_words,
        describe=describe_scheme,
        reduce=best_labels,
    ),
    "seq2seq-lm": Task(
        auto_class=AutoModelForSeq2SeqLM,
        architecture="encoder-decoder",
        inputs=("source",),
        reference="target",
        encode=encode_pairs,
        collator=DataCollatorForSeq2Seq,
        check=check_pairs,
        answer=answer_pairs,
        score=score_pairs,
        generates=True,
    ),
    "causal-lm": Task(
        auto_class=AutoModelForCausalLM,
        architecture="decoder",
        inputs=("text",),
        reference="text",
        encode=encode_causal,
        collator=CausalCollator,
        regroup=Regrouping(regroup_documents, check_documents),
    ),
    "masked-lm": Task(
        auto_class=AutoModelForMaskedLM,
        architecture="encoder",
        inputs=("text",),
        reference="text",
        encode=encode_masked,
        collator=MaskingCollator,
        check=check_masking,
    ),
    "denoising": Task(
        auto_class=AutoModelForSeq2SeqLM,
        architecture="encoder-decoder",
        inputs=("text",),
        reference="text",
        encode=encode_noisy,
        collator=DenoisingCollator,
        has_sentinels=True,
    ),
}
