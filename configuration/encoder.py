"""The encoder: every token sees every token."""

from huggingface_hub.dataclasses import strict

from .base import BlendConfig


@strict
class BlendEncoderConfig(BlendConfig):
    """An encoder: a stack of blocks in which every token sees every token of its sequence.

    The fields are those of BlendConfig and one of its own.
    """

    model_type = "blend_encoder"
    keys_to_ignore_at_inference = ["hidden_states", "attentions"]

    # A masked language model in training projects only the masked tokens onto the vocabulary.
    sparse_prediction: bool = True

    cls_token_id: int | None = None
    sep_token_id: int | None = None
    mask_token_id: int | None = None
