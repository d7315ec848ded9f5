"""Sequence to sequence: a text to another, which is generated token by token."""

import logging
from typing import Any

import datasets
import numpy as np
from transformers import BatchEncoding, EvalPrediction, PreTrainedTokenizerBase

from .corruption import IGNORE
from .encoding import Answer, Encoder, Rows, Settings, cut_off, is_trained_here, tokenize
from .shortening import shorten

logger = logging.getLogger(__name__)


def check_pairs(rows: datasets.Dataset, settings: Settings, split: str) -> None:
    """Warn of targets that the tokenizer does not give back as they are: no prediction can match them.

    Of far too long ones only the beginning counts, as the rest is not learnt.
    """
    tokenizer, changed, example = settings.tokenizer, 0, ("", "")
    for batch in rows.select_columns("target").iter(1000):
        texts, _ = shorten_targets(tokenizer, first_targets(batch["target"]), settings.max_target_length)
        given_back = decode(tokenizer, encode_targets(tokenizer, texts, verbose=False)["input_ids"])
        different = [pair for pair in zip(texts, given_back, strict=True) if pair[0] != pair[1]]
        example = different[0] if different and not changed else example
        changed += len(different)
    if changed:
        where, message = settings.where.get(split, split), "%s: the tokenizer changes %d of %d targets: %r becomes %r"
        logger.warning(message, where, changed, len(rows), *example)


def encode_pairs(settings: Settings) -> Encoder:
    """Sources, with their targets (of several the first) and the end token as labels."""
    tokenizer = settings.tokenizer

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["source"], max_length=settings.max_source_length)
        room = settings.max_target_length - 1
        texts, shortened = shorten_targets(tokenizer, first_targets(batch["target"]), room)
        targets = encode_targets(tokenizer, texts, truncation=True, max_length=room)
        cut = cut_off(settings, {"text_target": texts}, targets, room, add_special_tokens=False)
        features["cut"] = [sum(both) for both in zip(features["cut"], cut, strict=True)]
        features["shortened"] = [any(both) for both in zip(features["shortened"], shortened, strict=True)]
        return {**features, "labels": [[*ids, tokenizer.eos_token_id] for ids in targets["input_ids"]]}

    return encode


def first_targets(targets: list[str | list[str]]) -> list[str]:
    """The target of each row; of several the first."""
    return [each if isinstance(each, str) else each[0] for each in targets]


def encode_targets(tokenizer: PreTrainedTokenizerBase, texts: list[str], **kwargs: Any) -> BatchEncoding:
    """The tokens of targets, without an end.

    With a tokenizer trained here a target may spell a special token, "[SEP]", which is text then: decoding leaves out
    special tokens. With other tokenizers it is the special token, as people put those there on purpose.
    """
    as_text = is_trained_here(tokenizer)
    return tokenizer(text_target=texts, add_special_tokens=False, split_special_tokens=as_text, **kwargs)


def shorten_targets(tokenizer: PreTrainedTokenizerBase, texts: list[str], room: int) -> tuple[list[str], list[bool]]:
    """As shorten, of what encode_targets reads."""
    return shorten(tokenizer, texts, room, split_special_tokens=is_trained_here(tokenizer))


def decode(tokenizer: PreTrainedTokenizerBase, tokens: list[list[int]] | np.ndarray) -> list[str]:
    """The texts of tokens (B, T)."""
    return tokenizer.batch_decode(tokens, skip_special_tokens=True)


def answer_pairs(predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
    """The generated texts."""
    tokenizer = settings.tokenizer
    tokens = np.where(predicted.predictions == IGNORE, tokenizer.pad_token_id, predicted.predictions)
    return [{"prediction": text} for text in decode(tokenizer, tokens)]


def score_pairs(answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
    from .metrics import Seq2SeqMetric

    predictions = [answer["prediction"] for answer in answers]
    return Seq2SeqMetric().compute(
        predictions=predictions, references=list(rows["target"]), bleu_tokenize=settings.bleu_tokenize
    )
