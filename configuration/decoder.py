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

    pooling: Literal["cls", "mean", "last", "eos"] = "last"
    # Keep keys and values of the tokens read, for the next ones (in evaluation).
    use_cache: bool = True
    # Width of the encoder's output that each block also reads by cross-attention. None: no cross-attention.
    cross_attention_hidden_size: int | None = checked(positive, None)

    def attention_names(self) -> list[str]:
        """As BlendConfig.attention_names, with cross-attention where there is any."""
        return ["self_attn"] if self.cross_attention_hidden_size is None else ["self_attn", "cross_attn"]

    @property
    def base_model_pp_plan(self) -> dict[str, tuple[list[str], list[str]]] | None:
        """What pipeline stages are cut from. None where a stage would add to the states it is sent what the first
        has added to the tokens: each takes them for embeddings.
        """
        adds = self.position_type in ("learned", "sinusoidal") or self.type_vocab_size > 0
        changes = self.embedding_norm or self.scale_embeddings
        if adds or changes or self.cross_attention_hidden_size is not None:
            return None
        return {
            "embed_tokens": (["input_ids"], ["inputs_embeds"]),
            "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
            "norm": (["hidden_states"], ["hidden_states"]),
        }
