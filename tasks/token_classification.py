"""Token classification: a tag for each word, at the first of its tokens."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoModelForTokenClassification,
    BatchEncoding,
    DataCollatorForTokenClassification,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.columns import LabelRule, Schema
from ..data.errors import InputError
from ..data.kinds import LABELS, WORDS
from ..tokenization.shortening import CHARACTERS_PER_TOKEN, LONG_FACTOR
from ..tokenization.words import DEFAULT, needs_spaces, read_splitting, with_spaces
from .base import Positions, Task
from .corruption import IGNORE
from .encoding import Answer, Row, Rows, Settings, tokenize
from .tags import OUTSIDE, describe_scheme, find_scheme
from .windows import join_tokens, labelled_positions


def keep_best_label(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The most probable label of each token, (B, T, C) to (B, T). Not all logits of a split may fit into memory."""
    return logits.argmax(-1)


class TokenClassification(Task):
    """A tag for each word of a sentence."""

    name = "token-classification"
    auto_class = AutoModelForTokenClassification
    architecture = "encoder"
    inputs = text_columns = ("tokens",)
    reference = "tags"
    options = ("class_weights",)
    fine_tuning_batch = 32
    reads_words = True
    needs_exact_decoding = False
    reduce_logits = staticmethod(keep_best_label)

    def make_schema(self, problem_type: str | None) -> Schema:
        """Words and their tags; `O` gets the id 0."""
        return Schema(
            {"tokens": WORDS, "tags": LABELS}, answers=("tags",), labels=LabelRule("tags", outside_first=True)
        )

    def check(self, rows: datasets.Dataset, settings: Settings, split: str) -> None:
        """Raises InputError if no row has a word."""
        if not any(rows["tokens"]):
            raise InputError(f"{settings.source_of(split)}: no row has a word")

    def encode(self, batch: Rows, settings: Settings) -> Rows:
        """Words; the label of a word's first token is the id of its tag, other tokens have no label."""
        features = tokenize_words(settings, batch["tokens"])
        labels = [[IGNORE] * len(row) for row in features["input_ids"]]
        labelled = labelled_words(features, settings)
        for row, document, (positions, words) in zip(labels, features["document"], labelled, strict=True):
            for position, word in zip(positions, words, strict=True):
                row[position] = settings.label_ids[batch["tags"][document][word]]
        return {**features, "labels": labels}

    def make_collator(self, settings: Settings) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
        """Pads sequences and labels."""
        return DataCollatorForTokenClassification(settings.tokenizer)

    def join(self, predicted: EvalPrediction, document: np.ndarray) -> EvalPrediction:
        """The predictions of each document's windows, one after the other."""
        return join_tokens(predicted, document)

    def answer(self, predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
        """One tag a word; a word beyond max_length gets `default_label`."""
        answers, default = [], default_label(settings)
        for tags, labels, words in zip(predicted.predictions, predicted.label_ids, rows["tokens"], strict=True):
            names = [settings.labels[tag] for tag in tags[: len(labels)][labels != IGNORE]]
            answers.append({"prediction": names + [default] * (len(words) - len(names))})
        return answers

    def score(self, answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
        """Accuracy, and the metrics of spans or of tags."""
        from .metrics import TokenClassificationMetric

        predictions = [answer["prediction"] for answer in answers]
        return TokenClassificationMetric().compute(
            predictions=predictions, references=list(rows["tags"]), labels=settings.labels
        )

    def describe_labels(self, labels: list[str]) -> str | None:
        """The tag scheme, and how it is scored."""
        return describe_scheme(labels)

    def read_rows(self, rows: list[Row], settings: Settings) -> BatchEncoding:
        """Words; `positions` are the first tokens of words."""
        features = tokenize_words(settings, [row["tokens"] for row in rows])
        features["positions"] = [positions for positions, _ in labelled_words(features, settings)]
        return features

    def run_model(
        self,
        model: PreTrainedModel,
        inputs: BatchEncoding,
        positions: Positions,
        settings: Settings,
        generation: dict[str, Any],
    ) -> list[np.ndarray]:
        """The most probable label and its probability at each position, (n, 2).

        With settings.probabilities, the probabilities of all labels follow them: (n, 2 + C).
        """
        probabilities = model(**inputs).logits.float().softmax(-1)  # (B, T, C)
        best = probabilities.max(-1)
        parts = [best.indices.float()[..., None], best.values[..., None]]
        found = torch.cat([*parts, *([probabilities] if settings.probabilities else [])], -1).cpu().numpy()
        return [row[each] for row, each in zip(found, positions, strict=True)]

    def to_answers(
        self, outputs: list[np.ndarray], document: list[int], rows: list[Row], settings: Settings
    ) -> list[Answer]:
        """One tag a word for a row of words; entities for a text.

        A word that was cut off gets `default_label` and no score.
        """
        groups = itertools.groupby(zip(document, outputs, strict=True), key=lambda pair: pair[0])
        answers = []
        for row, (_, group) in zip(rows, groups, strict=True):
            found = np.concatenate([output for _, output in group])
            missing = len(row["tokens"]) - len(found)
            tags = [settings.labels[int(tag)] for tag in found[:, 0]] + [default_label(settings)] * missing
            scores = found[:, 1].tolist() + [None] * missing
            answer: Answer = {"prediction": tags, "scores": scores}
            if "spans" in row:
                answer = {"entities": entities(tags, scores, row, settings.labels)}
            if settings.probabilities:
                by_label = [dict(zip(settings.labels, each.tolist(), strict=True)) for each in found[:, 2:]]
                by_label += [None] * missing
                more = {"words": words_of_text(row, tags, by_label)} if "spans" in row else {"probabilities": by_label}
                answer |= more
            answers.append(answer)
        return answers

    def answer_options(self, problem_type: str | None) -> tuple[str, ...]:
        """The probabilities of every word."""
        return ("probabilities",)


# --- From words to tokens ---


def replace_empty_words(words: list[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Replace words that tokenize to nothing by the unknown token, so that they get a tag, too."""
    pieces = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
    present, unknown = set(pieces.word_ids()), tokenizer.unk_token or tokenizer.eos_token
    return [word if index in present else unknown for index, word in enumerate(words)]


def tokenize_words(settings: Settings, sentences: list[list[str]]) -> BatchEncoding:
    """As `tokenize`, for words; every word that is not cut off has at least one token."""
    words, shortened = shorten_words(settings, sentences)
    whole = [replace_empty_words(each, settings.tokenizer) for each in words]
    if needs_spaces(settings.tokenizer):
        splitting = read_splitting(settings.tokenizer.init_kwargs)
        rule = DEFAULT if splitting is None else splitting.rule
        whole = [with_spaces(each, rule) for each in whole]
    features = tokenize(settings, whole, is_split_into_words=True)
    features["shortened"] = [shortened[row] for row in features["document"]]
    return features


def shorten_words(settings: Settings, sentences: list[list[str]]) -> tuple[list[list[str]], list[bool]]:
    """Cut sentences far longer than max_length tokens, as each word has at least one token.

    Returns:
        The words, and whether each sentence was cut.
    """
    if settings.windows or settings.tokenizer.truncation_side != "right":
        return sentences, [False] * len(sentences)
    limit = LONG_FACTOR * settings.max_length
    shortened = [len(words) > CHARACTERS_PER_TOKEN * limit for words in sentences]
    return [words[:limit] if cut else words for words, cut in zip(sentences, shortened, strict=True)], shortened


def labelled_words(features: BatchEncoding, settings: Settings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The position of each word's label: its first token, in the window where the word is most central.

    Args:
        features: the result of `tokenize_words`.
        settings: the settings of that call.

    Yields:
        For each sequence two arrays of equal length: positions in it, and the index of the word at each position.
    """
    words = [
        np.array([-1 if word is None else word for word in each.word_ids], dtype=int) for each in features.encodings
    ]
    positions = [np.flatnonzero(each >= 0) for each in words]
    units = [each[position] for each, position in zip(words, positions, strict=True)]
    labelled = labelled_positions(units, features["document"], settings.stride if settings.windows else 0)
    for position, unit, first in zip(positions, units, labelled, strict=True):
        yield position[first], unit[first]


# --- From tags to answers ---


def default_label(settings: Settings) -> str:
    """The tag of a word that the model did not read: the tag outside of spans, or the first label if there is none."""
    return next((name for name in settings.labels if name in OUTSIDE), settings.labels[0])


def entities(tags: list[str], scores: list[float | None], row: Row, labels: list[str]) -> list[dict[str, Any]]:
    """The entities of a text: the spans that the metric counts; if tags mark no spans, each word with a tag but `O`.

    Returns:
        For each entity the label; `start` and `end` in the text, in characters; that part of the text; and the mean
        probability of its words, None if one of them was not read.
    """
    scheme = find_scheme(labels)
    if scheme is not None:
        spans = scheme.spans(tags)
    else:
        spans = [(tag, index, index) for index, tag in enumerate(tags) if tag != "O"]
    found = []
    for label, first, last in spans:
        start, end = row["spans"][first][0], row["spans"][last][1]
        inside = scores[first : last + 1]
        score = None if None in inside else sum(inside) / len(inside)
        found.append({"label": label, "start": start, "end": end, "text": row["text"][start:end], "score": score})
    return found


def words_of_text(row: Row, tags: list[str], probabilities: list[dict[str, float] | None]) -> list[dict[str, Any]]:
    """Every word of a text with its place, its tag and the probability of each label; None if it was not read."""
    return [
        {"start": start, "end": end, "text": row["text"][start:end], "label": tag, "probabilities": each}
        for (start, end), tag, each in zip(row["spans"], tags, probabilities, strict=True)
    ]
