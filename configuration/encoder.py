"""The encoder: every token attends to every token."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from .base import BlendConfig


@strict
class BlendEncoderConfig(BlendConfig):
    """An encoder: a stack of blocks in which every token attends to every token of its sequence.

    It has the fields of BlendConfig, sparse_prediction and three more special tokens.
    """

    model_type = "blend_encoder"
    is_bidirectional: ClassVar[bool] = True
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    # In training, a masked language model projects only the masked tokens onto the vocabulary.
    sparse_prediction: bool = True

    cls_token_id: int | None = None
    sep_token_id: int | None = None
    mask_token_id: int | None = None

    def validate_recurrent_size(self) -> None:
        """Raises ValueError if recurrent_size is odd: it is divided between two directions."""
        if self.recurrent_size is not None and self.recurrent_size % 2:
            raise ValueError(f"recurrent_size={self.recurrent_size} must be even: an encoder reads in two directions")
