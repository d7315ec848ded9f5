"""From rows to padded batches, or flat ones. The model takes the padding out again at its door."""

import abc
import zlib
from itertools import chain
from typing import Any

import numpy as np
import torch
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from .corruption import Noise, cut_spans, mask_tokens, maskable_words, sentinel_ids

Row = dict[str, Any]
Features = list[Row]


class NoisyCollator(TrainerCallback, abc.ABC):
    """Corrupts rows anew in each epoch; rows that have labels were corrupted for good and are only padded.

    The noise follows from the batch and the epoch, so that a resumed run has the same. A random state would not do:
    batches are made ahead of the step that a checkpoint is written after.

    Args:
        tokenizer: pads, and has the tokens that stand for what was taken out.
        noise: how much that is.
    """

    # Columns that no model reads.
    reads: tuple[str, ...] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise: Noise | None = None):
        self.tokenizer = tokenizer
        self.noise = Noise() if noise is None else noise
        self.epoch = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by BlendTrainer, as the other callbacks are."""
        self.epoch = int(state.epoch)

    def __call__(self, features: Features) -> dict[str, torch.Tensor]:
        """Rows with input_ids, and perhaps labels, give a batch of input_ids, attention_mask and labels (B, T)."""
        if "labels" not in features[0]:
            content = np.concatenate([[self.epoch], *(row["input_ids"] for row in features)])
            generator = np.random.default_rng(zlib.crc32(content.tobytes()))
            features = [self.corrupt(row, generator) for row in features]
        return self.pad([{name: row[name] for name in row if name not in self.reads} for row in features])

    @abc.abstractmethod
    def corrupt(self, row: Row, generator: np.random.Generator, for_good: bool = False) -> Row:
        """A row with input_ids that something was taken out of, and labels; `for_good`: it is to be evaluated on."""

    @abc.abstractmethod
    def pad(self, features: Features) -> dict[str, torch.Tensor]:
        """Rows as a batch."""


class MaskingCollator(NoisyCollator):
    """Masks tokens for a masked language model; words whole where rows have `word_ids`, as words_of gives them."""

    reads = ("word_ids",)

    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise: Noise | None = None):
        super().__init__(tokenizer, noise)
        self.special = set(tokenizer.all_special_ids)

    def corrupt(self, row: Row, generator: np.random.Generator, for_good: bool = False) -> Row:
        """For good, one token at least is masked, so that every row counts: in most short rows chance takes none."""
        words = row["word_ids"] if "word_ids" in row else maskable_words(row["input_ids"], None, self.special)
        given = (self.tokenizer, self.noise.probability, generator, for_good)
        masked, labels = mask_tokens(np.asarray(row["input_ids"]), np.asarray(words), *given)
        return {**row, "input_ids": masked.tolist(), "labels": labels.tolist()}

    def pad(self, features: Features) -> dict[str, torch.Tensor]:
        """Rows as a batch."""
        return DataCollatorForTokenClassification(self.tokenizer)(features)


class DenoisingCollator(NoisyCollator):
    """Cuts spans out for an encoder-decoder to write. `special_tokens_mask` has 1 for what frames the text."""

    reads = ("special_tokens_mask", "length")

    def __init__(self, tokenizer: PreTrainedTokenizerBase, noise: Noise | None = None):
        super().__init__(tokenizer, noise)
        self.sentinels = sentinel_ids(tokenizer)

    def corrupt(self, row: Row, generator: np.random.Generator, for_good: bool = False) -> Row:
        """The end token is what ends the target; in T5's there is one more sentinel before it, which tells nothing."""
        input_ids, is_special = np.asarray(row["input_ids"]), np.asarray(row["special_tokens_mask"], dtype=bool)
        begin = int((~is_special).argmax()) if not is_special.all() else len(input_ids)
        end = begin + int((~is_special).sum())
        source, target = cut_spans(input_ids[begin:end], self.noise, self.sentinels, generator)
        framed = [*input_ids[:begin].tolist(), *source, *input_ids[end:].tolist()]
        changed = {"input_ids": framed, "attention_mask": [1] * len(framed)}
        return {**row, **changed, "labels": [*target, self.tokenizer.eos_token_id]}

    def pad(self, features: Features) -> dict[str, torch.Tensor]:
        """Rows as a batch."""
        return DataCollatorForSeq2Seq(self.tokenizer)(features)


class CausalCollator:
    """Pads rows; rows of several documents, which their positions tell, are put one after the other in one row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.pad = DataCollatorForTokenClassification(tokenizer)

    def __call__(self, features: Features) -> dict[str, torch.Tensor]:
        """Rows give a batch (B, T); with position_ids they give (1, N), and no attention_mask."""
        if "position_ids" not in features[0]:
            return self.pad(features)
        return {name: torch.tensor([list(chain.from_iterable(row[name] for row in features))]) for name in features[0]}
