"""Sequence to sequence: a text to another, which is generated token by token."""

import datasets
import numpy as np
from transformers import EvalPrediction

from .corruption import IGNORE
from .encoding import Answer, Encoder, Rows, Settings, cut_off, tokenize
from .metrics import Seq2SeqMetric


def encode_pairs(settings: Settings) -> Encoder:
    """Sources, with their targets (of several the first) and the end token as labels."""
    tokenizer = settings.tokenizer

    def encode(batch: Rows) -> Rows:
        features = tokenize(settings, batch["source"], max_length=settings.max_source_length)
        texts = {"text_target": [each if isinstance(each, str) else each[0] for each in batch["target"]]}
        room = settings.max_target_length - 1
        targets = tokenizer(**texts, add_special_tokens=False, truncation=True, max_length=room)
        cut = cut_off(settings, texts, targets, room, add_special_tokens=False)
        features["cut"] = [sum(both) for both in zip(features["cut"], cut, strict=True)]
        return {**features, "labels": [[*ids, tokenizer.eos_token_id] for ids in targets["input_ids"]]}

    return encode


def answer_pairs(predicted: EvalPrediction, rows: datasets.Dataset, settings: Settings) -> list[Answer]:
    """The generated texts."""
    tokenizer = settings.tokenizer
    tokens = np.where(predicted.predictions == IGNORE, tokenizer.pad_token_id, predicted.predictions)
    return [{"prediction": text} for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def score_pairs(answers: list[Answer], rows: datasets.Dataset, settings: Settings) -> dict[str, float | str]:
    predictions = [answer["prediction"] for answer in answers]
    return Seq2SeqMetric().compute(
        predictions=predictions, references=list(rows["target"]), bleu_tokenize=settings.bleu_tokenize
    )
