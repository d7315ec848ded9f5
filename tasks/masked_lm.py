"""Masked language models: predict masked tokens."""

import re
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoModelForMaskedLM,
    BatchEncoding,
    DataCollatorForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..data.columns import Schema
from ..data.errors import InputError, RowError
from ..data.kinds import TEXT
from .base import Positions, Task
from .corruption import Noise, NoisyCollator, mask_tokens, maskable_words, splits_words
from .encoding import Answer, Row, Rows, Settings, tokenize, with_cut


class MaskedLM(Task):
    """Predict masked tokens; each epoch masks other tokens."""

    name = "masked-lm"
    auto_class = AutoModelForMaskedLM
    architecture = "encoder"
    inputs = text_columns = ("text",)
    reference = "text"
    options = ("mask_probability", "mask_whole_words")

    def make_schema(self, problem_type: str | None) -> Schema:
        """A text."""
        return Schema({"text": TEXT})

    def check(self, rows: datasets.Dataset, settings: Settings, split: str) -> None:
        """Raises InputError for a tokenizer without a mask token, or, with mask_whole_words, without words."""
        tokenizer, whole = settings.tokenizer, settings.noise.whole_words
        if tokenizer.mask_token is None:
            raise InputError("tokenizer_name_or_path: the tokenizer has no mask token, which task masked-lm needs")
        if whole and not tokenizer.is_fast:
            raise InputError("mask_whole_words: needs a fast tokenizer, because a slow one has no word_ids")
        if whole and not splits_words(tokenizer, rows["text"]):
            raise InputError("mask_whole_words: the tokenizer takes every text for one word")

    def encode(self, batch: Rows, settings: Settings) -> Rows:
        """Texts; with `word_ids`, the word of each token, where whole words are masked."""
        features = tokenize(settings, batch["text"])
        if not settings.noise.whole_words:
            return {**features}
        special = set(settings.tokenizer.all_special_ids)
        # For an empty text, `tokenize` may have added an end token, which is not in the encoding's words.
        known = [features.word_ids(row) or None for row in range(len(features["input_ids"]))]
        words = [maskable_words(*row, special) for row in zip(features["input_ids"], known, strict=True)]
        return {**features, "word_ids": words}

    def make_collator(self, settings: Settings) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
        """Masks and pads rows."""
        return MaskingCollator(settings.tokenizer, settings.noise)

    def answer_options(self, problem_type: str | None) -> tuple[str, ...]:
        """The number of tokens for a mask."""
        return ("top_k",)

    def check_rows(self, rows: list[Row], settings: Settings) -> None:
        """Raises RowError for a text without a mask."""
        token = settings.tokenizer.mask_token
        for index, row in enumerate(rows):
            if token not in row["text"]:
                raise RowError(index, f"the text has no mask token {token!r}, so there is nothing to predict")

    def read_rows(self, rows: list[Row], settings: Settings) -> BatchEncoding:
        """Texts with masks; `positions` are the masks.

        Raises:
            RowError: the tokenizer reads another number of masks, as a normalizer may change "［MASK］" to "[MASK]".
        """
        features, token = tokenize(settings, [row["text"] for row in rows]), settings.tokenizer.mask_token
        mask = settings.tokenizer.mask_token_id
        features["positions"] = [np.flatnonzero(np.equal(ids, mask)) for ids in features["input_ids"]]
        for index, (row, positions, cut) in enumerate(zip(rows, features["positions"], features["cut"], strict=True)):
            count = row["text"].count(token)
            if len(positions) > count or (len(positions) < count and not cut):
                reason = f"the tokenizer reads {len(positions)} masks, but the text has the mask token {token!r}"
                raise RowError(index, f"{reason} {count} times")
        return features

    def run_model(
        self,
        model: PreTrainedModel,
        inputs: BatchEncoding,
        positions: Positions,
        settings: Settings,
        generation: dict[str, Any],
    ) -> list[tuple[list[list[int]], list[list[float]]]]:
        """The most probable tokens at each position and their probabilities, each (n, top_k)."""
        found = []
        for logits, masks in zip(model(**inputs).logits, positions, strict=True):
            at_masks = logits[torch.from_numpy(masks).to(logits.device)]
            best = at_masks.float().softmax(-1).topk(min(settings.top_k, logits.shape[-1]))
            found.append((best.indices.tolist(), best.values.tolist()))
        return found

    def to_answers(
        self, outputs: list[tuple], document: list[int], rows: list[Row], settings: Settings
    ) -> list[Answer]:
        """For each mask of a text the most probable tokens; none for a mask that was cut off."""
        tokenizer, answers = settings.tokenizer, []
        for row, (tokens, scores) in zip(rows, outputs, strict=True):
            places = [match.span() for match in re.finditer(re.escape(tokenizer.mask_token), row["text"])]
            best = [[*zip(*each, strict=True)] for each in zip(tokens, scores, strict=True)]
            masks = []
            for (start, end), pairs in zip(places, with_cut(best, len(places), [], tokenizer), strict=True):
                predictions = [
                    {"text": tokenizer.decode([token]), "token": token, "score": score} for token, score in pairs
                ]
                masks.append({"start": start, "end": end, "predictions": predictions})
            answers.append({"masks": masks})
        return answers


class MaskingCollator(NoisyCollator):
    """Masks tokens; whole words if rows have `word_ids`, from `maskable_words`."""

    reads = ("word_ids",)

    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise: Noise):
        super().__init__(tokenizer, noise)
        self.special = set(tokenizer.all_special_ids)

    def corrupt(self, row: Row, generator: np.random.Generator, for_evaluation: bool = False) -> Row:
        """Mask a row. For evaluation at least one token is masked, so that even a short row counts."""
        words = row["word_ids"] if "word_ids" in row else maskable_words(row["input_ids"], None, self.special)
        given = (self.tokenizer, self.noise.probability, generator, for_evaluation)
        masked, labels = mask_tokens(np.asarray(row["input_ids"]), np.asarray(words), *given)
        return {**row, "input_ids": masked.tolist(), "labels": labels.tolist()}

    def pad(self, features: list[Row]) -> dict[str, torch.Tensor]:
        """Pad rows to a batch."""
        return DataCollatorForTokenClassification(self.tokenizer)(features)
