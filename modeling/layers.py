"""The blocks of a stack: blend the sequence, then transform each token with a feed-forward network."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import Attention, Role
from .normalization import Dropout, build_norm, build_output_norm
from .patterns import Pattern
from .recurrence import Recurrence, Steps


class PlainFeedForward(nn.Module):
    """Two matrices with an activation between them (Vaswani et al. 2017, §3.3)."""

    def __init__(self, *, hidden_size: int, intermediate_size: int, hidden_act: str, bias: bool):
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)
        self.act_fn = ACT2FN[hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states (..., E) give (..., E)."""
        return self.down_proj(self.act_fn(self.up_proj(hidden_states)))


class GatedFeedForward(nn.Module):
    """As PlainFeedForward, but each inner feature is multiplied by an activated gate (Shazeer 2020, GLU variants)."""

    def __init__(self, *, hidden_size: int, intermediate_size: int, hidden_act: str, bias: bool):
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=bias)
        self.act_fn = ACT2FN[hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states (..., E) give (..., E)."""
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


def build_feed_forward(config: PreTrainedConfig) -> nn.Module:
    """The feed-forward network of the config's feed_forward_type."""
    return FEED_FORWARDS[config.feed_forward_type](
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        hidden_act=config.hidden_act,
        bias=config.mlp_bias,
    )


FEED_FORWARDS: dict[str, type[nn.Module]] = {"plain": PlainFeedForward, "gated": GatedFeedForward}


Sublayer = Callable[[torch.Tensor], torch.Tensor]


def pre_norm(hidden_states: torch.Tensor, norm: nn.Module, sublayer: Sublayer, dropout: nn.Module) -> torch.Tensor:
    """Residual connection around a sublayer whose input is normalized (Radford et al. 2019)."""
    return hidden_states + dropout(sublayer(norm(hidden_states)))


def post_norm(hidden_states: torch.Tensor, norm: nn.Module, sublayer: Sublayer, dropout: nn.Module) -> torch.Tensor:
    """Residual connection around a sublayer; the sum is normalized (Vaswani et al. 2017, §3.1)."""
    return norm(hidden_states + dropout(sublayer(hidden_states)))


# "both": the norm of a sublayer's output belongs to the sublayer (Block).
RESIDUALS = {"pre": pre_norm, "post": post_norm, "both": pre_norm}


class Block(GradientCheckpointingLayer):
    """A mixer, which is self-attention or recurrent, and a feed-forward network, each with a residual connection."""

    role: Role

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__()
        self.residual = RESIDUALS[config.norm_position]
        self.dropout = Dropout(config.hidden_dropout)
        # One name for both, because all around it is the same.
        self.self_attn = (Recurrence if config.is_recurrent else Attention)(config, layer_idx, self.role)
        self.self_attn_norm = build_norm(config) if config.first_norm or layer_idx else nn.Identity()
        self.self_attn_output_norm = build_output_norm(config)
        self.mlp = build_feed_forward(config)
        self.mlp_norm = build_norm(config)
        self.mlp_output_norm = build_output_norm(config)

    def blend(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The mixer: blend the sequence (B, T, E) into itself."""

        def mixer(states: torch.Tensor) -> torch.Tensor:
            return self.self_attn_output_norm(self.self_attn(states, **kwargs)[0])

        return self.residual(hidden_states, self.self_attn_norm, mixer, self.dropout)

    def feed_forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Transform each token of (B, T, E) with the feed-forward network."""

        def mlp(states: torch.Tensor) -> torch.Tensor:
            return self.mlp_output_norm(self.mlp(states))

        return self.residual(hidden_states, self.mlp_norm, mlp, self.dropout)


class EncoderLayer(Block):
    """The encoder's block: every token attends to every token."""

    role = "self"

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """hidden_states (B, T, E) give (B, T, E); the keyword arguments are those of Attention.forward."""
        return self.feed_forward(self.blend(hidden_states, **kwargs))


class DecoderLayer(Block):
    """The decoder's block: a token attends to itself and the tokens before it, then to the source, if any."""

    role = "masked self"

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.reads_source_ends = config.reads_source_ends
        if config.has_cross_attention:
            self.cross_attn = Attention(config, layer_idx, "cross")
            self.cross_attn_norm = build_norm(config)
            self.cross_attn_output_norm = build_output_norm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        *,
        pattern: Pattern | Steps,
        cross_pattern: Pattern | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """hidden_states (B, T, E), and encoder_hidden_states if given, give (B, T, E).

        encoder_hidden_states are (B, S, width) for cross-attention; else (B, 2 · width), the source_state of
        Recurrence.forward, which is given in the same place because gradient checkpointing and device maps follow
        positional tensors only. The other arguments are those of Attention.forward.
        """
        mixer_kwargs: dict[str, Any] = {"pattern": pattern, "position_embeddings": position_embeddings}
        if self.reads_source_ends:
            mixer_kwargs["source_state"], encoder_hidden_states = encoder_hidden_states, None
        hidden_states = self.blend(hidden_states, **mixer_kwargs, **kwargs)

        def attention(states: torch.Tensor) -> torch.Tensor:
            blended = self.cross_attn(states, encoder_hidden_states, pattern=cross_pattern, **kwargs)[0]
            return self.cross_attn_output_norm(blended)

        if encoder_hidden_states is not None:
            hidden_states = self.residual(hidden_states, self.cross_attn_norm, attention, self.dropout)
        return self.feed_forward(hidden_states)
