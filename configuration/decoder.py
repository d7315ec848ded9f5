"""The decoder: a token attends to itself and the tokens before it."""

from huggingface_hub.dataclasses import strict

from .base import BlendConfig
from .checks import add_field_help, description_of, option, positive
from .heads import Pooling


@add_field_help
@strict
class BlendDecoderConfig(BlendConfig):
    """A decoder: a stack of blocks in which a token attends to itself and the tokens before it.

    It has the fields of BlendConfig, with pooling="last" by default, and three of its own.
    """

    model_type = "blend_decoder"
    keys_to_ignore_at_inference = ["cache", "past_key_values", "hidden_states", "attentions", "cross_attentions"]

    pooling: Pooling = option(description_of(BlendConfig, "pooling"), "last")
    use_cache: bool = option(
        "Return the keys and values of the input, or the recurrent states after it, for the next tokens. In training "
        "only forward(use_cache=True) returns them.",
        True,
    )
    cross_attention_hidden_size: int | None = option(
        "Number of features of the encoder's output. None: there is no encoder.", None, positive
    )
    cross_attention: bool = option(
        "Each block reads the encoder's output by cross-attention. False, with a recurrent mixer only: the first "
        "states are computed from the outputs at the last and the first source token, where the two directions of a "
        "recurrent encoder end (Sutskever et al. 2014; Cho et al. 2014).",
        True,
    )

    @property
    def has_cross_attention(self) -> bool:
        """Whether each block reads the encoder's output by cross-attention."""
        return self.cross_attention_hidden_size is not None and self.cross_attention

    @property
    def reads_source_ends(self) -> bool:
        """Whether the first recurrent states are computed from the last and the first source token."""
        return self.cross_attention_hidden_size is not None and not self.cross_attention

    @property
    def has_attention(self) -> bool:
        """Whether a block has attention of any kind."""
        return not self.is_recurrent or self.has_cross_attention

    def sharded_attention_names(self) -> list[str]:
        """As BlendConfig.sharded_attention_names, with cross-attention if the decoder has it."""
        return [*super().sharded_attention_names(), *(["cross_attn"] if self.has_cross_attention else [])]

    def validate_cross_attention(self) -> None:
        """Raises ValueError for cross_attention=False without a recurrent mixer."""
        if not self.cross_attention and not self.is_recurrent:
            raise ValueError("cross_attention=False needs a recurrent mixer_type: attention has no first state")

    @property
    def base_model_pp_plan(self) -> dict[str, tuple[list[str], list[str]]] | None:
        """Plan of pipeline parallelism; None for options that it does not support.

        A stage reads the hidden states of the stage before it as inputs_embeds, so it must not change its inputs: it
        would add positions or token types, or scale or normalize, a second time.
        """
        adds = self.position_type in ("learned", "sinusoidal", "fairseq_sinusoidal") or self.type_vocab_size > 0
        changes = self.embedding_norm or self.scale_embeddings
        # The layers of all stages would read one table.
        shares = self.relative_attention_num_buckets is not None and not self.relative_attention_per_layer
        if adds or changes or shares or self.cross_attention_hidden_size is not None:
            return None
        return {
            "embed_tokens": (["input_ids"], ["inputs_embeds"]),
            "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
            "norm": (["hidden_states"], ["hidden_states"]),
        }
