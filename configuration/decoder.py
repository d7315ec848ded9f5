"""The decoder: a token sees itself and the tokens before it."""

from typing import Literal

from huggingface_hub.dataclasses import strict

from .base import BlendConfig, checked, positive


@strict
class BlendDecoderConfig(BlendConfig):
    """A decoder: a stack of blocks in which a token sees itself and the tokens before it.

    The fields are those of BlendConfig, with the last token as the sequence's vector, and two of its own.
    """

    model_type = "blend_decoder"
    keys_to_ignore_at_inference = ["past_key_values", "hidden_states", "attentions", "cross_attentions"]

    pooling: Literal["cls", "mean", "last"] = "last"
    # Keep keys and values of the tokens read, for the next ones (in evaluation).
    use_cache: bool = True
    # Width of the encoder's output that each block also reads by cross-attention. None: no cross-attention.
    cross_attention_hidden_size: int | None = checked(positive, None)


__all__ = ["BlendDecoderConfig"]
