"""Feed-forward networks: the part of a block that transforms each token separately."""

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig


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
