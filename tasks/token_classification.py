"""Token classification: a tag for each word, at the first of its tokens."""

from collections.abc import Iterator

import datasets
import numpy as np
import torch
from transformers import BatchEncoding, EvalPrediction, PreTrainedTokenizerBase

from ..data.errors import InputError
from .corruption import IGNORE
from .encoding import Answer, Encoder, Rows, Settings, tokenize
from .shortening import CHARACTERS_PER_TOKEN, LONG_FACTOR
from .tags import OUTSIDE
from .windows import labelled_positions


def spell(words: list[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """A word of which the tokenizer makes no piece is read as unknown, so that it gets a tag too."""
    pieces = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
    heard, unheard = set(pieces.word_ids()), tokenizer.unk_token or tokenizer.eos_token
    return [word if index in heard else unheard for index, word in enumerate(words)]


def tokenize_words(settings: Settings, sentences: list[list[str]]) -> BatchEncoding:
    """As tokenize, of words; every word has a piece if the sequence reaches so far."""
    words, shortened = shorten_words(settings, sentences)
    spelt = [spell(each, settings.tokenizer) for each in words]
    features = tokenize(settings, spelt, is_split_into_words=True)
    features["shortened"] = [shortened[row] for row in features["document"]]
    return features


def shorten_words(settings: Settings, sentences: list[list[str]]) -> tuple[list[list[str]], list[bool]]:
    """The words that a sequence can reach, as each has a piece, and some more; and whether there are others."""
    if settings.windows or settings.tokenizer.truncation_side != "right":
        return sentences, [False] * len(sentences)
    some = LONG_FACTOR * settings.max_length
    shortened = [len(words) > CHARACTERS_PER_TOKEN * some for words in sentences]
    return [words[:some] if cut else words for words, cut in zip(sentences, shortened, strict=True)], shortened


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
    told = labelled_positions(units, features["document"], settings.stride if settings.windows else 0)
    for place, unit, first in zip(places, units, told, strict=True):
        yield place[first], unit[first]


def check_words(rows: datasets.Dataset, settings: Settings, split: str) -> None:
    """Raises InputError if there is not a word in all rows."""
    if not any(rows["tokens"]):
        raise InputError(f"{settings.where.get(split, split)}: no row has a word")


def encode_words(settings: Settings) -> Encoder:
    """Words with the id of their tag where they are told, and no label elsewhere."""
    ids = settings.label_ids

    def encode(batch: Rows) -> Rows:
        features = tokenize_words(settings, batch["tokens"])
        labels = [[IGNORE] * len(row) for row in features["input_ids"]]
        told = told_words(features, settings)
        for row, document, (positions, words) in zip(labels, features["document"], told, strict=True):
            for position, word in zip(positions, words, strict=True):
                row[position] = ids[batch["tags"][document][word]]
        return {**features, "labels": labels}

    return encode


def unread_label(settings: Settings) -> str:
    """The tag of a word that the model was not shown: outside of spans, or the first label where none is that."""
    return next((name for name in settings.labels if name in OUTSIDE), settings.labels[0])


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
    from .metrics import TokenClassificationMetric

    predictions = [answer["prediction"] for answer in answers]
    return TokenClassificationMetric().compute(
        predictions=predictions, references=list(rows["tags"]), labels=settings.labels
    )
