"""Denoising: an encoder-decoder generates the spans that were cut out of a text, as in T5's pretraining."""

from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from ..data.columns import Schema
from ..data.kinds import TEXT
from .base import Task
from .corruption import Noise, NoisyCollator, cut_spans, sentinel_ids
from .encoding import Row, Rows, Settings, tokenize


class Denoising(Task):
    """Generate the spans that were cut out of a text; each epoch cuts out other spans."""

    name = "denoising"
    auto_class = AutoModelForSeq2SeqLM
    architecture = "encoder-decoder"
    inputs = text_columns = ("text",)
    reference = "text"
    options = ("mask_probability", "mean_span_length")
    has_sentinels = True

    def make_schema(self, problem_type: str | None) -> Schema:
        """A text."""
        return Schema({"text": TEXT})

    def encode(self, batch: Rows, settings: Settings) -> Rows:
        """Texts, and `length`: the number of tokens in source and target together, which batches are made by."""
        features = tokenize(settings, batch["text"], return_special_tokens_mask=True)
        sizes = [(len(mask), *settings.noise.spans_of(mask.count(0))) for mask in features["special_tokens_mask"]]
        return {**features, "length": [length + 2 * num_spans + 1 for length, _, num_spans in sizes]}

    def make_collator(self, settings: Settings) -> Callable[[list[Row]], dict[str, torch.Tensor]]:
        """Cuts out spans and pads rows."""
        return DenoisingCollator(settings.tokenizer, settings.noise)


class DenoisingCollator(NoisyCollator):
    """Cuts spans out of rows. `special_tokens_mask` is 1 for the special tokens around the text."""

    reads = ("special_tokens_mask", "length")

    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise: Noise):
        super().__init__(tokenizer, noise)
        self.sentinels = sentinel_ids(tokenizer)

    def corrupt(self, row: Row, generator: np.random.Generator, for_evaluation: bool = False) -> Row:
        """Cut spans out of a row. The target ends with the end token; T5 has one more sentinel before it."""
        input_ids, is_special = np.asarray(row["input_ids"]), np.asarray(row["special_tokens_mask"], dtype=bool)
        begin = int((~is_special).argmax()) if not is_special.all() else len(input_ids)
        end = begin + int((~is_special).sum())
        source, target = cut_spans(input_ids[begin:end], self.noise, self.sentinels, generator)
        framed = [*input_ids[:begin].tolist(), *source, *input_ids[end:].tolist()]
        changed = {"input_ids": framed, "attention_mask": [1] * len(framed)}
        return {**row, **changed, "labels": [*target, self.tokenizer.eos_token_id]}

    def pad(self, features: list[Row]) -> dict[str, torch.Tensor]:
        """Pad rows to a batch."""
        return DataCollatorForSeq2Seq(self.tokenizer)(features)
