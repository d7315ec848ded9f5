"""Normalization of hidden states, feature by feature of one token."""

from torch import nn
from transformers.configuration_utils import PreTrainedConfig


def build_norm(config: PreTrainedConfig) -> nn.Module:
    """The norm of the config's kind, over its hidden size."""
    return NORMS[config.norm_type](config.hidden_size, eps=config.norm_eps)


# LayerNorm: Ba et al. 2016. RMSNorm: Zhang & Sennrich 2019.
NORMS: dict[str, type[nn.Module]] = {"layernorm": nn.LayerNorm, "rmsnorm": nn.RMSNorm}
