"""From rows to padded batches. The model takes the padding out again at its door."""

import zlib
from typing import Any

import numpy as np
import torch
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

Features = list[dict[str, Any]]


class MaskingCollator(TrainerCallback):
    """Masks tokens for a masked language model, anew in each epoch; rows that are masked already stay so.

    The masks follow from the batch and the epoch, so that a resumed run has the same ones. A random state would not
    do: batches are made ahead of the step that a checkpoint is written after.

    Source: Devlin et al. 2019, §3.1: 15 % of the tokens; of these 80 % become [MASK], 10 % another token, 10 % stay.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.pad = DataCollatorForTokenClassification(tokenizer)
        self.mask = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
        self.epoch = 0

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by BlendTrainer, as the other callbacks are."""
        self.epoch = int(state.epoch)

    def __call__(self, features: Features) -> dict[str, torch.Tensor]:
        """Rows with input_ids, and perhaps labels, give a batch of input_ids, attention_mask and labels (B, T)."""
        if "labels" in features[0]:
            return self.pad(features)
        content = np.concatenate([[self.epoch], *(row["input_ids"] for row in features)])
        self.mask.generator = torch.Generator().manual_seed(zlib.crc32(content.tobytes()))
        return self.mask(features)


def mask_once(input_ids: list[int], tokenizer: PreTrainedTokenizerBase, seed: int) -> dict[str, list[int]]:
    """input_ids and labels of one row masked for good, so that evaluations can be compared.

    Where chance takes no token, as in most short rows, one is masked all the same, so that every row counts.
    """
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=True, mlm_probability=0.15)
    # Not by its `seed`: transformers 5.16 takes 0 for none.
    collator.generator = torch.Generator().manual_seed(seed)
    batch = collator([{"input_ids": input_ids}])
    masked, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    special = tokenizer.get_special_tokens_mask(input_ids, already_has_special_tokens=True)
    maskable = [position for position, is_special in enumerate(special) if not is_special]
    if maskable and all(label == -100 for label in labels):
        position = maskable[seed % len(maskable)]
        masked[position], labels[position] = tokenizer.mask_token_id, input_ids[position]
    return {"input_ids": masked, "labels": labels}


# By task.
COLLATORS = {
    "sequence-classification": DataCollatorWithPadding,
    "token-classification": DataCollatorForTokenClassification,
    "seq2seq-lm": DataCollatorForSeq2Seq,
    "causal-lm": DataCollatorForTokenClassification,
    "masked-lm": MaskingCollator,
}
