"""Token classification: a tag for each word, at the first of its tokens."""

import itertools
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
from scipy.special import softmax
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
from ..scoring.row_metrics import LabelCounts, RowSums, count_spans, sums_of_tags
from ..scoring.tags import OUTSIDE, TagConstraints, TagScheme, choose_tags, describe_scheme, find_scheme
from ..tokenization.shortening import CHARACTERS_PER_TOKEN, LONG_FACTOR
from ..tokenization.words import DEFAULT, needs_spaces, read_splitting, with_spaces
from .base import Positions, Task
from .corruption import IGNORE
from .encoding import Answer, Row, Rows, Settings, tokenize, with_cut
from .windows import join_tokens, labelled_positions

logger = logging.getLogger(__name__)

# The tag scheme is found from this many rows.
SENTENCES = 10_000
# The most logits of a split that are kept: 1 GiB.
MOST_LOGITS = 2**28


class TokenClassification(Task):
    """A tag for each word of a sentence."""

    name = "token-classification"
    auto_class = AutoModelForTokenClassification
    architecture = "encoder"
    inputs = text_columns = ("tokens",)
    reference = "tags"
    options = ("class_weights", "decode_tags", "calibrate")
    fine_tuning_batch = 32
    reads_words = True
    needs_exact_decoding = False
    tokenizer_type = "wordpiece"
    encoder_fields = {"affix_buckets": 2048}

    def make_schema(self, problem_type: str | None) -> Schema:
        """Words and their tags; `O` gets the id 0."""
        return Schema(
            {"tokens": WORDS, "tags": LABELS}, answers=("tags",), labels=LabelRule("tags", outside_first=True)
        )

    def config_fields_from_rows(self, rows: datasets.Dataset, labels: list[str]) -> dict[str, Any]:
        """The tag scheme of the rows."""
        scheme = find_scheme(labels, sentences=rows.select_columns("tags")[:SENTENCES]["tags"])
        return {"tag_scheme": scheme.name if scheme is not None and scheme.rules is not None else None}

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

    def logits_reducer(
        self, settings: Settings, sequences: int
    ) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None:
        """Chooses the tags of each sequence. The windows of a document are one sequence of tags: logits are kept.

        If all logits would not fit into memory, each window has the best legal tags of its own, and the document may
        have illegal ones where two windows meet.
        """
        if settings.windows and settings.tag_constraints is not None:
            if sequences <= self.max_sequences(MOST_LOGITS, settings):
                return None
            logger.warning("decode_tags: there are too many windows to keep their logits; each is decoded by itself")
        return partial(tags_of_batch, legal=settings.tag_constraints)

    def logits_and_targets(self, predicted: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
        """Logits and targets of words."""
        pairs = list(zip(predicted.predictions, predicted.label_ids, strict=True))
        logits = np.concatenate([found[: len(labels)][labels != IGNORE] for found, labels in pairs])
        return logits, np.concatenate([labels[labels != IGNORE] for _, labels in pairs])

    def max_sequences(self, most_logits: int, settings: Settings) -> int | None:
        """As many as have this many logits if all are of max_length tokens."""
        return max(1, most_logits // (settings.max_length * len(settings.labels)))

    def answer(self, predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
        """One tag a word; a word beyond max_length gets `default_label`."""
        answers, default = [], default_label(settings)
        for found, labels, words in zip(predicted.predictions, predicted.label_ids, rows["tokens"], strict=True):
            found = found[: len(labels)][labels != IGNORE]
            tags = found if found.ndim == 1 else choose_tags(found, settings.tag_constraints)
            names = [settings.labels[tag] for tag in tags]
            answers.append({"prediction": with_cut(names, len(words), default, settings.tokenizer)})
        return answers

    def score(self, answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
        """Accuracy, and the metrics of spans or of tags."""
        from ..scoring.metrics import TokenClassificationMetric

        predictions = [answer["prediction"] for answer in answers]
        return TokenClassificationMetric().compute(
            predictions=predictions, references=list(rows["tags"]), labels=settings.labels
        )

    def main_metric(self, settings: Settings) -> str:
        """F1 of spans, or the accuracy of words."""
        return "accuracy" if settings.scheme is None else "f1"

    def row_sums(self, predictions: list[Any], references: list[Any], settings: Settings) -> dict[str, RowSums]:
        """Accuracy of words and the metrics of spans."""
        counts = self.label_counts(predictions, references, settings)
        return sums_of_tags(counts, predictions, references, settings.scheme is not None)

    def label_counts(self, predictions: list[Any], references: list[Any], settings: Settings) -> LabelCounts:
        """Of the types of spans, or of tags."""
        return count_spans(predictions, references, settings.scheme)

    def describe_labels(self, settings: Settings) -> str | None:
        """The tag scheme, how it is scored, and how tags are chosen."""
        return describe_scheme(settings.labels, settings.scheme, settings.decode_tags)

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
        """The logits (n, C) at each position."""
        logits = model(**inputs).logits.float().cpu().numpy()  # (B, T, C)
        return [row[each] for row, each in zip(logits, positions, strict=True)]

    def to_answers(
        self, outputs: list[np.ndarray], document: list[int], rows: list[Row], settings: Settings
    ) -> list[Answer]:
        """One tag a word for a row of words; entities for a text.

        A word that was cut off gets `default_label` and no score.
        """
        groups = itertools.groupby(zip(document, outputs, strict=True), key=lambda pair: pair[0])
        answers = []
        for row, (_, group) in zip(rows, groups, strict=True):
            logits = np.concatenate([output for _, output in group])
            chosen, probabilities = choose_tags(logits, settings.tag_constraints), softmax(logits, axis=-1)
            scores = np.take_along_axis(probabilities, chosen[:, None], -1)[:, 0].tolist()
            cut = partial(with_cut, count=len(row["tokens"]), tokenizer=settings.tokenizer)
            tags = cut([settings.labels[tag] for tag in chosen], default=default_label(settings))
            scores = cut(scores, default=None)
            answer: Answer = {"prediction": tags, "scores": scores}
            if "spans" in row:
                answer = {"entities": entities(tags, scores, row, settings.scheme)}
            if settings.probabilities:
                by_label = [dict(zip(settings.labels, each.tolist(), strict=True)) for each in probabilities]
                by_label = cut(by_label, default=None)
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
    """As `tokenize`, for words; every word that is not cut off has at least one token.

    Raises:
        InputError: the tokenizer does not say which tokens belong to a word.
    """
    if not settings.tokenizer.is_fast:
        raise InputError(
            "tokenizer_name_or_path: the tokenizer is a slow one, which has no word_ids, and token-classification "
            "needs a fast one"
        )
    words, shortened = words_to_tokenize(settings, sentences)
    features = tokenize(settings, words, is_split_into_words=True)
    features["shortened"] = [shortened[row] for row in features["document"]]
    return features


def words_to_tokenize(settings: Settings, sentences: list[list[str]]) -> tuple[list[list[str]], list[bool]]:
    """The words that the tokenizer gets: none is empty, each has the space before it that the tokenizer may need.

    Returns:
        The words, and whether each sentence was cut.
    """
    words, shortened = shorten_words(settings, sentences)
    whole = [replace_empty_words(each, settings.tokenizer) for each in words]
    if needs_spaces(settings.tokenizer):
        splitting = read_splitting(settings.tokenizer.init_kwargs)
        rule = DEFAULT if splitting is None else splitting.rule
        whole = [with_spaces(each, rule) for each in whole]
    return whole, shortened


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


def tags_of_batch(logits: torch.Tensor, labels: torch.Tensor, legal: TagConstraints | None) -> torch.Tensor:
    """The ids of the tags of a batch, (B, T); those of tokens without a label have no meaning.

    Args:
        logits: (B, T, C).
        labels: (B, T), IGNORE for tokens without a label.
        legal: the legal sequences of tags; None: each token gets its best label.
    """
    if legal is None:
        return logits.argmax(-1)
    scores, is_word = logits.float().cpu().numpy(), labels.ne(IGNORE).cpu().numpy()
    tags = scores.argmax(-1)
    for row, words in enumerate(is_word):
        tags[row, words] = legal.viterbi(scores[row, words])
    return torch.from_numpy(tags).to(logits.device)


def default_label(settings: Settings) -> str:
    """The tag of a word that was not read: that outside of spans, that of a span of one word, or the first."""
    outside = [name for name in settings.labels if name in OUTSIDE]
    alone = (
        []
        if settings.tag_constraints is None
        else [settings.labels[tag] for tag in settings.tag_constraints.repeatable()]
    )
    return [*outside, *alone, settings.labels[0]][0]


def entities(tags: list[str], scores: list[float | None], row: Row, scheme: TagScheme | None) -> list[dict[str, Any]]:
    """The entities of a text: the spans that the metric counts; if tags mark no spans, each word with a tag but `O`.

    Returns:
        For each entity the label; `start` and `end` in the text, in characters; that part of the text; and the mean
        probability of its words, None if one of them was not read.
    """
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
