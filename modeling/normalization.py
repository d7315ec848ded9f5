"""Normalization over the features of each token, and dropout."""

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig

from .packing import is_traced

# Random bits of an element in dropout.
BITS = 16


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm whose weight is cast to the dtype of the input, which is half precision under autocast."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states (..., E) give (..., E)."""
        weight = self.weight.to(hidden_states.dtype)
        return nn.functional.rms_norm(hidden_states, self.normalized_shape, weight, self.eps)


class ZeroCenteredRMSNorm(nn.RMSNorm):
    """RMSNorm whose weight starts at 0, and is increased by 1: weight decay draws the factor to 1 (Gemma 2024)."""

    def reset_parameters(self) -> None:
        """Set the weight to 0."""
        nn.init.zeros_(self.weight)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """hidden_states (..., E) give (..., E)."""
        # In half precision the sum would lose most of a small weight.
        states = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        weight = 1 + self.weight.to(states.dtype)
        return nn.functional.rms_norm(states, self.normalized_shape, weight, self.eps).to(hidden_states.dtype)


def build_norm(config: PreTrainedConfig, size: int | None = None) -> nn.Module:
    """The norm of the config's norm_type, over `size` features; None: config.hidden_size."""
    bias = {} if config.norm_bias else {"bias": False}
    return NORMS[config.norm_type](config.hidden_size if size is None else size, eps=config.norm_eps, **bias)


def build_output_norm(config: PreTrainedConfig) -> nn.Module:
    """The norm of a sublayer's output before it is added to its input; only with norm_position="both"."""
    return build_norm(config) if config.norm_position == "both" else nn.Identity()


# LayerNorm: Ba et al. 2016. RMSNorm: Zhang & Sennrich 2019.
NORMS: dict[str, type[nn.Module]] = {
    "layernorm": nn.LayerNorm,
    "rmsnorm": RMSNorm,
    "zero_centered_rmsnorm": ZeroCenteredRMSNorm,
}


class Dropout(nn.Dropout):
    """nn.Dropout that takes a third of its time on a CPU."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The states, of any shape; in training some of their elements are left out."""
        return apply_dropout(states, self.p) if self.training else states


def apply_dropout(states: torch.Tensor, p: float) -> torch.Tensor:
    """Set each element to 0 with probability p, and scale the others by 1 / (1 - p) (Srivastava et al. 2014).

    On a CPU, torch draws one random number after the other, and this takes longer than all other elementwise
    operations of a layer together. Here one draw of 64 bits is for four elements, so p is rounded to a multiple of
    2^-16.
    """
    dropped = round(p * 2**BITS)
    if states.device.type != "cpu" or is_traced() or not 0 < dropped < 2**BITS:
        return nn.functional.dropout(states, p)
    draws = states.new_empty(-(-states.numel() * BITS // 64), dtype=torch.int64).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: states.numel()].view(states.shape)  # -2^15 to 2^15 - 1
    is_kept = bits >= dropped - 2 ** (BITS - 1)
    return states * is_kept.to(states.dtype).mul_(2**BITS / (2**BITS - dropped))
