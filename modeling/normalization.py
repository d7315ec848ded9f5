"""Normalization over the features of each token."""

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm whose weight is cast to the dtype of the input, which is half precision under autocast."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states (..., E) give (..., E)."""
        weight = self.weight.to(hidden_states.dtype)
        return nn.functional.rms_norm(hidden_states, self.normalized_shape, weight, self.eps)


def build_norm(config: PreTrainedConfig, size: int | None = None) -> nn.Module:
    """The norm of the config's norm_type, over `size` features; None: config.hidden_size."""
    bias = {} if config.norm_bias else {"bias": False}
    return NORMS[config.norm_type](config.hidden_size if size is None else size, eps=config.norm_eps, **bias)


# LayerNorm: Ba et al. 2016. RMSNorm: Zhang & Sennrich 2019.
NORMS: dict[str, type[nn.Module]] = {"layernorm": nn.LayerNorm, "rmsnorm": RMSNorm}
