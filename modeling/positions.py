"""Position encodings: vectors added to the embeddings, rotations of queries and keys (RoPE), or biases of scores."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update


class LearnedPositions(nn.Embedding):
    """Adds a learned vector for each of the first positions."""

    def forward(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """inputs_embeds (B, T, E) and position_ids (B or 1, T) give (B, T, E)."""
        return inputs_embeds + super().forward(position_ids)


class SinusoidalPositions(nn.Module):
    """Adds sines and cosines of the position, at wavelengths from 2π to 10000 · 2π.

    The sines fill the first half of the features and the cosines the second, as in the authors' own code.
    Source: Vaswani et al. 2017, §3.5. They are computed in each forward, so the sequence length has no limit.
    """

    # Position of the first token.
    first_position = 0

    def __init__(self, num_positions: int, hidden_size: int):
        super().__init__()
        self.num_angles = hidden_size // 2
        # The longest wavelength is that of the angle after the last.
        self.num_steps = self.num_angles

    def forward(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        """inputs_embeds (B, T, E) and position_ids (B or 1, T) give (B, T, E)."""
        dtype = torch.promote_types(inputs_embeds.dtype, torch.float32)
        angle = torch.arange(self.num_angles, device=inputs_embeds.device, dtype=dtype)
        positions = (position_ids[..., None] + self.first_position).to(dtype)
        angles = positions * torch.exp(angle * (-math.log(10000.0) / self.num_steps))
        return inputs_embeds + torch.cat((angles.sin(), angles.cos()), dim=-1).to(inputs_embeds.dtype)


class FairseqSinusoidalPositions(SinusoidalPositions):
    """As fairseq computes them (M2M100, NLLB): the last angle has the longest wavelength; positions begin at 2."""

    first_position = 2

    def __init__(self, num_positions: int, hidden_size: int):
        super().__init__(num_positions, hidden_size)
        self.num_steps = self.num_angles - 1


class NoPositions(nn.Module):
    """Adds nothing."""

    def __init__(self, num_positions: int, hidden_size: int):
        super().__init__()

    def forward(self, inputs_embeds: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        return inputs_embeds


class RotaryEmbedding(nn.Module):
    """Cosines and sines of the angles by which queries and keys are rotated (Su et al. 2021, RoFormer, §3.2).

    It takes the whole config because transformers' scaled RoPE types do. PreTrainedModel._init_weights refills the
    buffers, which are not in a checkpoint; it needs the names of this class, of the buffers and of
    `compute_default_rope_parameters`.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        initialize = ROPE_INIT_FUNCTIONS.get(self.rope_type, self.compute_default_rope_parameters)
        inv_freq, self.attention_scaling = initialize(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        """As nn.Module, but half precision does not round the frequencies.

        If they were rounded to bfloat16, a cosine at position 1000 would be off by 0.4.
        """
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, exact in before.items():
            moved = self._buffers[name]
            if exact is not None and moved is not None and moved.itemsize == 2:
                self._buffers[name] = exact.to(moved.device)
        return self

    @staticmethod
    def compute_default_rope_parameters(config: PreTrainedConfig, **kwargs: Any) -> tuple[torch.Tensor, float]:
        """The angle per position for each pair of features (D / 2), and the factor on cosines and sines."""
        feature = torch.arange(0, config.head_dim, 2, dtype=torch.float32)
        return config.rope_parameters["rope_theta"] ** (-feature / config.head_dim), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """position_ids (B or 1, T) give cosines and sines (B or 1, T, D / 2) in the dtype of hidden_states."""
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        angles = position_ids[..., None].to(dtype) * self.inv_freq.to(device=hidden_states.device, dtype=dtype)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)


class RelativeAttentionBias(nn.Embedding):
    """Biases of the scores of self-attention by the distance between query and key (Raffel et al. 2020, T5, §2.1).

    A short distance has a bucket of its own; longer ones share buckets, whose widths grow logarithmically. Each bucket
    has a bias for each head.

    Args:
        num_buckets: number of buckets.
        num_heads: H.
        max_distance: all distances from this one on are in one bucket, in tokens.
        is_bidirectional: whether keys after the query have buckets, too: the second half of them.
    """

    def __init__(self, *, num_buckets: int, num_heads: int, max_distance: int, is_bidirectional: bool):
        super().__init__(num_buckets, num_heads)
        self.max_distance = max_distance
        self.is_bidirectional = is_bidirectional

    def forward(self, distances: torch.Tensor, dtype: torch.dtype, hides_later: bool = True) -> torch.Tensor:
        """Biases of the scores (B, H, T, S).

        Args:
            distances: positions of the keys minus positions of the queries (B, T, S).
            dtype: of the biases.
            hides_later: if it is not bidirectional, the bias of a key after the query is the lowest number, so that
                the query does not see it. False: the mask says which keys a query sees.
        """
        biases = super().forward(self.buckets(distances)).movedim(-1, -3).to(dtype)
        if self.is_bidirectional or not hides_later:
            return biases.contiguous()
        return biases.masked_fill((distances > 0)[:, None], torch.finfo(dtype).min)

    def buckets(self, distances: torch.Tensor) -> torch.Tensor:
        """The bucket of each distance, of any shape."""
        num_buckets, first = self.num_embeddings, torch.zeros_like(distances)
        if self.is_bidirectional:
            num_buckets //= 2
            first, distances = (distances > 0) * num_buckets, distances.abs()
        else:
            distances = (-distances).clamp(min=0)
        num_exact = num_buckets // 2
        ratio = torch.log(distances.clamp(min=num_exact).float() / num_exact) / math.log(self.max_distance / num_exact)
        shared = num_exact + (ratio * (num_buckets - num_exact)).long()
        return first + torch.where(distances < num_exact, distances, shared.clamp(max=num_buckets - 1))


def build_relative_bias(config: PreTrainedConfig) -> RelativeAttentionBias:
    """The biases of one layer, or of all layers that share them."""
    return RelativeAttentionBias(
        num_buckets=config.relative_attention_num_buckets,
        num_heads=config.num_attention_heads,
        max_distance=config.relative_attention_max_distance,
        is_bidirectional=config.is_bidirectional,
    )


def build_rotary(config: PreTrainedConfig) -> nn.Module | None:
    """The rotary embedding, or an nn.ModuleDict with one per layer type; None for other position types."""
    if config.position_type != "rotary":
        return None
    if not config.has_rope_per_layer_type:
        return RotaryEmbedding(config)
    modules = nn.ModuleDict()
    for layer_type, parameters in config.rope_parameters.items():
        type_config = copy.copy(config)
        type_config.rope_parameters = parameters
        modules[layer_type] = RotaryEmbedding(type_config)
    return modules


def apply_rotary_pos_emb(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys (B, T, H, D) by the angles of their positions; cos and sin are (B or 1, T, D / 2).

    Feature i is paired with feature i + D / 2.
    """
    first, second = states.chunk(2, dim=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat(
        (torch.addcmul(first * cos, second, sin, value=-1), torch.addcmul(second * cos, first, sin)), dim=-1
    )


# The module that adds positions to the embeddings, by position_type; rotary positions act in attention instead.
POSITIONS: dict[str, type[nn.Module]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
    "fairseq_sinusoidal": FairseqSinusoidalPositions,
    "rotary": NoPositions,
    "none": NoPositions,
}
