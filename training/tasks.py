"""The tasks: for each, what becomes of a row, how it is padded, what is predicted from it, and how that is scored."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BatchEncoding,
    EvalPrediction,
    PreTrainedTokenizerBase,
)

from .collation import make_collator
from .corruption import IGNORE, Noise, knows_words, words_of
from .documents import cut_stream, pack_documents
from .files import InputError, one_of
from .metrics import (
    MultiLabelMetric,
    RegressionMetric,
    Seq2SeqMetric,
    SequenceClassificationMetric,
    TokenClassificationMetric,
)
from .windows import Overflow, check_overlap, join_logits, join_tokens, told_tokens

logger = logging.getLogger(__name__)

Rows = dict[str, list]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a task needs to know of this run.

    Args:
        tokenizer: turns texts into tokens and back.
        labels: the label names, in the order of their ids; empty for language models.
        problem_type: of sequence classification.
        max_length: longest sequence in tokens, or block of a causal language model.
        max_source_length: of a source.
        max_target_length: of a target, with its end token.
        token_types: whether the model reads token_type_ids.
        seed: decides what is masked or cut out in evaluation.
        where: the file that each split comes from, for messages.
        overflow: what becomes of a text longer than that: `truncate`, or `window`, several sequences.
        overlap: how many tokens of a text two windows have in common; None is a quarter of max_length.
        noise: what a language model is to put back.
        pack_documents: whether the documents of a causal language model are kept apart.
    """

    tokenizer: PreTrainedTokenizerBase
    labels: list[str]
    problem_type: str | None
    max_length: int
    max_source_length: int
    max_target_length: int
    token_types: bool
    seed: int
    where: dict[str, str] = field(default_factory=dict)
    overflow: str = "truncate"
    overlap: int | None = None
    noise: Noise = field(default_factory=Noise)
    pack_documents: bool = False

    @property
    def label_ids(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.labels)}

    @property
    def stride(self) -> int:
        """What tokenizers call the overlap."""
        return self.max_length // 4 if self.overlap is None else self.overlap

    @property
    def windows(self) -> bool:
        return self.overflow == "window"


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        auto_class: transformers' Auto class of its models.
        architecture: the default one.
        inputs: the columns that are read.
        reference: the column that is to be told.
        encode: rows of a split to the model's inputs; with windows there may be several of a row, and a column
            `document` says which.
        join: what the model said about windows to what it says about rows; None if the task has no windows.
        answer: what the model said about rows: arrays of predictions and labels, and the rows, to one dict a row.
        score: answers and rows to metrics.
        reduce: logits and labels to what is kept for `answer`; None keeps the logits.
        generates: whether predictions are generated token by token.
        has_sentinels: whether the tokenizer needs tokens that stand for spans.
    """

    auto_class: type
    architecture: str
    inputs: tuple[str, ...]
    reference: str
    encode: Callable[[datasets.Dataset, Settings, str], datasets.Dataset]
    join: Callable[[EvalPrediction, np.ndarray], EvalPrediction] | None = None
    answer: Callable[[EvalPrediction, datasets.Dataset, Settings], list[Answer]] | None = None
    score: Callable[[list[Answer], datasets.Dataset, Settings], dict[str, float | str]] | None = None
    reduce: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    generates: bool = False
    has_sentinels: bool = False


def encode_texts(
    rows: datasets.Dataset, split: str, settings: Settings, function: Callable[[Rows], Rows]
) -> datasets.Dataset:
    """Apply `function` to batches of rows; nothing else of the rows stays. What did not fit is told in one line."""

    def encode(batch: Rows, indices: list[int]) -> Rows:
        features = function(batch)
        if "document" in features:
            features = {**features, "document": [indices[row] for row in features["document"]]}
        return features

    encoded = rows.map(encode, batched=True, with_indices=True, remove_columns=rows.column_names, desc="Tokenizing")
    if "cut" not in encoded.column_names:
        return encoded
    overflow = Overflow()
    overflow.add(encoded["document"][:], encoded["cut"][:])
    if overflow.long:
        logger.warning("%s: %s", split, overflow)
    return encoded.remove_columns(["cut"] if settings.windows else ["cut", "document"])


def tokenize(
    settings: Settings, texts: list, pairs: list | None = None, max_length: int | None = None, **kwargs: Any
) -> BatchEncoding:
    """Tokens with the special tokens that the tokenizer adds; where there would be none, the end token alone.

    Returns:
        One sequence for each text, or for each window; `document`, the index of the text that it is of; and `cut`, the
        number of tokens of the text that are in no sequence.
    """
    max_length = max_length or settings.max_length
    inputs = {"text": texts} if pairs is None else {"text": texts, "text_pair": pairs}
    windows = {}
    if settings.windows:
        check_overlap(settings.tokenizer, max_length, settings.stride, pairs is not None)
        windows = {"stride": settings.stride, "return_overflowing_tokens": True}
    features = settings.tokenizer(
        **inputs,
        truncation=True,
        max_length=max_length,
        return_token_type_ids=settings.token_types,
        **windows,
        **kwargs,
    )
    document = features.pop("overflow_to_sample_mapping", list(range(len(texts))))
    cut = [0] * len(document) if windows else cut_off(settings, inputs, features["input_ids"], max_length, **kwargs)
    end = {"input_ids": settings.tokenizer.eos_token_id, "attention_mask": 1, "special_tokens_mask": 1}
    for row in (row for row, ids in enumerate(features["input_ids"]) if not ids):
        for name in features:
            features[name][row] = [end.get(name, 0)]
    features.update(document=document, cut=cut)
    return features


def cut_off(
    settings: Settings, inputs: dict[str, list], kept: list[list[int]], max_length: int, **kwargs: Any
) -> list[int]:
    """How many tokens of each text, or pair of texts, are more than max_length."""
    cut = [0] * len(kept)
    full = [row for row, ids in enumerate(kept) if len(ids) >= max_length]
    if full:
        texts = {name: [values[row] for row in full] for name, values in inputs.items()}
        for row, ids in zip(full, settings.tokenizer(**texts, verbose=False, **kwargs)["input_ids"], strict=True):
            cut[row] = len(ids) - len(kept[row])
    return cut


# --- Sequence classification ---


def encode_sequences(rows: datasets.Dataset, settings: Settings, split: str) -> datasets.Dataset:
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

    return encode_texts(rows, split, settings, encode)


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


# --- Token classification ---


def spell(words: list[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A word of which the tokenizer makes no piece is read as unknown, so that it gets a tag too."""
    pieces = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
    heard, unheard = set(pieces.word_ids()), tokenizer.unk_token or tokenizer.eos_token
    return [word if index in heard else unheard for index, word in enumerate(words)]


def tokenize_words(settings: Settings, sentences: list[list[str]]) -> BatchEncoding:
    """As tokenize, of words; every word has a piece if the sequence reaches so far."""
    spelt = [spell(words, settings.tokenizer) for words in sentences]
    return tokenize(settings, spelt, is_split_into_words=True)


def told_words(features: BatchEncoding, settings: Settings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Where a word is told: at its first piece, in the window where it stands most central.

    Args:
        features: of tokenize_words.
        settings: those it was called with.

    Yields:
        For each sequence, of equal length: positions in it, and the index that the word there has in its sentence.
    """
    words = [
        np.array([-1 if word is None else word for word in each.word_ids], dtype=int) for each in features.encodings
    ]
    places = [np.flatnonzero(each >= 0) for each in words]
    units = [each[place] for each, place in zip(words, places, strict=True)]
    told = told_tokens(units, features["document"], settings.stride if settings.windows else 0)
    for place, unit, first in zip(places, units, told, strict=True):
        yield place[first], unit[first]


def encode_words(rows: datasets.Dataset, settings: Settings, split: str) -> datasets.Dataset:
    """Words with the id of their tag where they are told, and no label elsewhere."""
    ids = settings.label_ids
    if not any(rows["tokens"]):
        raise InputError(f"{settings.where.get(split, split)}: no row has a word")

    def encode(batch: Rows) -> Rows:
        features = tokenize_words(settings, batch["tokens"])
        labels = [[IGNORE] * len(row) for row in features["input_ids"]]
        told = told_words(features, settings)
        for row, document, (positions, words) in zip(labels, features["document"], told, strict=True):
            for position, word in zip(positions, words, strict=True):
                row[position] = ids[batch["tags"][document][word]]
        return {**features, "labels": labels}

    encoded = encode_texts(rows, split, settings, encode)
    if split == "train" and not has_targets(encoded):
        raise InputError(f"max_length: {settings.max_length} leaves no word of the training split to learn a tag of")
    return encoded


def has_targets(encoded: datasets.Dataset) -> bool:
    """Whether anything is to be told in any row."""
    return any(np.not_equal(row, IGNORE).any() for row in encoded["labels"])


def unread_label(settings: Settings) -> str:
    """The tag of a word that the model was not shown."""
    return "O" if "O" in settings.labels else settings.labels[0]


def answer_words(predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
    """One tag a word. Words beyond max_length get `O`, or the first label where there is none."""
    answers, beyond = [], unread_label(settings)
    for tags, labels, words in zip(predicted.predictions, predicted.label_ids, rows["tokens"], strict=True):
        names = [settings.labels[tag] for tag in tags[: len(labels)][labels != IGNORE]]
        answers.append({"prediction": names + [beyond] * (len(words) - len(names))})
    return answers


def best_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Keep the most probable label of each token, not all logits: (B, T, C) to (B, T)."""
    return logits.argmax(-1)


def score_words(answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
    predictions = [answer["prediction"] for answer in answers]
    return TokenClassificationMetric().compute(predictions=predictions, references=list(rows["tags"]))


# --- Sequence to sequence ---


def encode_pairs(rows: datasets.Dataset, settings: Settings, split: str) -> datasets.Dataset:
    """Sources, with their targets (of several the first) and the end token as labels."""
    tokenizer = settings.tokenizer

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["source"], max_length=settings.max_source_length)
        texts = {"text_target": [each if isinstance(each, str) else each[0] for each in batch["target"]]}
        room = settings.max_target_length - 1
        targets = tokenizer(**texts, add_special_tokens=False, truncation=True, max_length=room)["input_ids"]
        cut = cut_off(settings, texts, targets, room, add_special_tokens=False)
        features["cut"] = [sum(both) for both in zip(features["cut"], cut, strict=True)]
        return {**features, "labels": [[*ids, tokenizer.eos_token_id] for ids in targets]}

    return encode_texts(rows, split, settings, encode)


def answer_pairs(predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
    """The generated texts."""
    tokenizer = settings.tokenizer
    tokens = np.where(predicted.predictions == IGNORE, tokenizer.pad_token_id, predicted.predictions)
    return [{"prediction": text} for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def score_pairs(answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
    predictions = [answer["prediction"] for answer in answers]
    return Seq2SeqMetric().compute(predictions=predictions, references=list(rows["target"]))


# --- Language models ---


def encode_causal(rows: datasets.Dataset, settings: Settings, split: str) -> datasets.Dataset:
    """Texts, each closed by the end token, as documents that are kept apart or as one stream."""
    tokenizer = settings.tokenizer

    def encode(batch: Rows) -> Rows:
        ids_of_texts = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
        return {"input_ids": [[*ids, tokenizer.eos_token_id] for ids in ids_of_texts]}

    texts = encode_texts(rows, split, settings, encode)
    where = settings.where.get(split, split)
    return (pack_documents if settings.pack_documents else cut_stream)(texts, settings.max_length, where)


def encode_masked(rows: datasets.Dataset, settings: Settings, split: str) -> datasets.Dataset:
    """Texts, to be masked anew in each epoch of training; masked once and for all in the other splits.

    Raises:
        InputError: the tokenizer has no mask token, or knows no words.
    """
    tokenizer, whole = settings.tokenizer, settings.noise.whole_words
    special = set(tokenizer.all_special_ids)
    if tokenizer.mask_token is None:
        raise InputError("tokenizer_name_or_path: the tokenizer has no mask token, which task masked-lm needs")
    if whole and not tokenizer.is_fast:
        raise InputError("mask_whole_words: the tokenizer is not a fast one, and does not tell words")
    if whole and not knows_words(tokenizer, rows["text"]):
        raise InputError("mask_whole_words: the tokenizer takes every text for one word")

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["text"])
        if not whole:
            return {**features}
        # An empty text may be an end token of ours, of which the encoding knows nothing.
        known = [features.word_ids(row) or None for row in range(len(features["input_ids"]))]
        words = [words_of(*row, special) for row in zip(features["input_ids"], known, strict=True)]
        return {**features, "word_ids": words}

    encoded = encode_texts(rows, split, settings, encode)
    return encoded if split == "train" else corrupted(encoded, settings, "masked-lm")


def encode_noisy(rows: datasets.Dataset, settings: Settings, split: str) -> datasets.Dataset:
    """Texts, out of which spans are cut anew in each epoch of training; once and for all in the other splits."""
    noise = settings.noise

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["text"], return_special_tokens_mask=True)
        sizes = [(len(mask), *noise.spans_of(mask.count(0))) for mask in features["special_tokens_mask"]]
        # Of source and target together, by which batches are made.
        return {**features, "length": [length + 2 * num_spans + 1 for length, _, num_spans in sizes]}

    encoded = encode_texts(rows, split, settings, encode)
    return encoded if split == "train" else corrupted(encoded, settings, "denoising")


def corrupted(encoded: datasets.Dataset, settings: Settings, task: str) -> datasets.Dataset:
    """Rows corrupted as in training, but for good, so that evaluations can be compared."""
    collator = make_collator(task, settings.tokenizer, settings.noise)

    def corrupt(row: dict[str, Any], index: int) -> dict[str, Any]:
        return collator.corrupt(row, np.random.default_rng((settings.seed, index)), for_good=True)

    unread = [name for name in collator.reads if name in encoded.column_names]
    return encoded.map(corrupt, with_indices=True).remove_columns(unread)


def answer_rows(
    task: Task, predicted: EvalPrediction, rows: datasets.Dataset, encoded: datasets.Dataset, settings: Settings
) -> list[Answer]:
    """What the model says about rows; `predicted` is what it said about them as encoded, which may be in windows."""
    if "document" in encoded.column_names:
        predicted = task.join(predicted, np.array(encoded["document"][:]))
    return task.answer(predicted, rows, settings)


def without_document(encoded: datasets.Dataset) -> datasets.Dataset:
    """What the model reads of rows as encoded."""
    return encoded.remove_columns("document") if "document" in encoded.column_names else encoded


def as_words(value: str | list[str]) -> list[str]:
    """The words of a text, or of a sentence that is given in words."""
    return value.split() if isinstance(value, str) else value


def shown_example(rows: datasets.DatasetDict, task: Task) -> dict[str, str | list[str]]:
    """A row for the card to show, where there are no predictions to take it from.

    It is the last split's first with some words in it: of "?" there is nothing to mask, and nothing to go on from.
    """
    if "test" in rows and task.answer is not None:
        return {}
    split = rows[list(rows)[-1]]
    inputs = [name for name in task.inputs if name in split.column_names]
    found = [[row[name] for name in inputs] for row in split.select(range(min(1000, len(split)))) if row[inputs[0]]]
    example = next((row for row in found if len(as_words(row[0])) > 5), found[0] if found else None)
    return {} if example is None else {"example": example if len(example) > 1 else example[0]}


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
    one_of("metric_for_best_model", name.removeprefix("eval_"), known)


TASKS = {
    "sequence-classification": Task(
        auto_class=AutoModelForSequenceClassification,
        architecture="encoder",
        inputs=("text", "text_pair"),
        reference="label",
        encode=encode_sequences,
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
        join=join_tokens,
        answer=answer_words,
        score=score_words,
        reduce=best_labels,
    ),
    "seq2seq-lm": Task(
        auto_class=AutoModelForSeq2SeqLM,
        architecture="encoder-decoder",
        inputs=("source",),
        reference="target",
        encode=encode_pairs,
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
    ),
    "masked-lm": Task(
        auto_class=AutoModelForMaskedLM,
        architecture="encoder",
        inputs=("text",),
        reference="text",
        encode=encode_masked,
    ),
    "denoising": Task(
        auto_class=AutoModelForSeq2SeqLM,
        architecture="encoder-decoder",
        inputs=("text",),
        reference="text",
        encode=encode_noisy,
        has_sentinels=True,
    ),
}
