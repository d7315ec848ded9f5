"""From rows to padded batches. The model takes the padding out again at its door."""

from typing import Any

import torch
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
)

Features = list[dict[str, Any]]


class MaskingCollator:
    """Masks tokens for a masked language model, anew each time a row comes; rows that are masked already stay so.

    Source: Devlin et al. 2019, §3.1: 15 % of the tokens; of these 80 % become [MASK], 10 % another token, 10 % stay.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.pad = DataCollatorForTokenClassification(tokenizer)
        self.mask = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)

    def __call__(self, features: Features) -> dict[str, torch.Tensor]:
        """Rows with input_ids, and perhaps labels, give a batch of input_ids, attention_mask and labels (B, T)."""
        return self.pad(features) if "labels" in features[0] else self.mask(features)


def mask_once(input_ids: list[int], tokenizer: PreTrainedTokenizerBase, seed: int) -> dict[str, list[int]]:
    """input_ids and labels of one row masked for good, so that evaluations can be compared."""
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15, seed=seed)
    batch = collator([{"input_ids": input_ids}])
    return {name: batch[name][0].tolist() for name in ("input_ids", "labels")}


# By task.
COLLATORS = {
    "sequence-classification": DataCollatorWithPadding,
    "token-classification": DataCollatorForTokenClassification,
    "seq2seq-lm": DataCollatorForSeq2Seq,
    "causal-lm": DataCollatorForTokenClassification,
    "masked-lm": MaskingCollator,
}
