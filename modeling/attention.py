"""Attention: blending the elements of a sequence into each other.

Each query meets a set of material vectors. It responds to each of them more or less (the dot product with its key),
and takes more of those it responds to (a weighted mean of their values). The one class here plays three roles:

    self         queries, keys and values come from one sequence, and every token sees every token
    masked self  the same, but a token sees only itself and the tokens before it
    cross        queries come from the target, keys and values from the source

Shapes, here and in all of `modeling`: B batch, T target or query length, S source or key length, H query heads,
K key-value heads, D features of a head, E hidden size, V vocabulary. Batches are padded, [B, T], or flat, [1, N]
(see packing.py).
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .normalization import build_norm
from .patterns import Kernel, Pattern, VarlenPattern
from .positions import apply_rotary_pos_emb

Role = Literal["self", "masked self", "cross"]


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2), with grouped key-value heads (Ainslie et al. 2023).

    Args:
        config: of the stack that the queries belong to.
        layer_idx: which layer of the stack this is; the cache keeps keys and values by it.
        role: what it blends into what.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, role: Role):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = role == "masked self"
        self.is_cross_attention = role == "cross"
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.attention_scaling
        self.attention_dropout = config.attention_dropout
        self.sliding_window = None
        if role != "cross" and config.layer_types[layer_idx] == "sliding_attention":
            # Kernels count a query's own place in the window; ours is the reach on either side when bidirectional.
            self.sliding_window = config.sliding_window + (0 if self.is_causal else 1)

        query_size = config.num_attention_heads * config.head_dim
        key_size = config.num_key_value_heads * config.head_dim
        source_size = config.cross_attention_hidden_size if role == "cross" else config.hidden_size
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.k_proj = nn.Linear(source_size, key_size, bias=config.attention_bias)
        self.v_proj = nn.Linear(source_size, key_size, bias=config.attention_bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.attention_out_bias)
        self.q_norm = build_norm(config, self.head_dim) if config.query_key_norm else nn.Identity()
        self.k_norm = build_norm(config, self.head_dim) if config.query_key_norm else nn.Identity()

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor,
        *,
        pattern: Pattern,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Blend `key_value_states` into `hidden_states`.

        Args:
            hidden_states: what asks, (B, T, E) or flat.
            key_value_states: what is blended, (B, S, E) or flat; the same tensor for self-attention.
            pattern: what each of the ones may see of the others, made once for all layers by the stack.
            position_embeddings: cosines and sines to turn queries and keys by, (B or 1, T, D / 2) each.
            past_key_values: keys and values of earlier calls; those of this call are added.
            kwargs: go to the kernel untouched.

        Returns:
            What each query took, of the shape of hidden_states, and the weights (B, H, T, S) if the kernel tells them.
        """
        query_states = self.q_norm(self.heads_of(self.q_proj(hidden_states)))  # (B, T, H, D)
        if position_embeddings is not None:
            query_states = apply_rotary_pos_emb(query_states, *position_embeddings)
        query_states = query_states.transpose(1, 2)  # (B, H, T, D)
        key_states, value_states = self.keys_and_values(
            key_value_states, pattern, position_embeddings, past_key_values
        )  # (B, K, S, D) each

        kernel = partial(
            kernel_for(self.config, query_states, pattern),
            self,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        blended, weights = pattern.blend(kernel, query_states, key_states, value_states)
        # A server's kernel may give (N, H · D); and a part of the heads, where they are shared out among devices.
        width = query_states.shape[1] * self.head_dim
        return self.o_proj(blended.reshape(*hidden_states.shape[:-1], width)), weights

    def heads_of(self, states: torch.Tensor) -> torch.Tensor:
        """Divide features among heads, (B, T, H · D) to (B, T, H, D)."""
        return states.unflatten(-1, (-1, self.head_dim))

    def keys_and_values(
        self,
        states: torch.Tensor,
        pattern: Pattern,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        past_key_values: Cache | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, K, S, D) of `states` (B, S, E), with those of the cache; a source is projected once."""
        # Of cross-attention, the layers whose source is in the cache.
        is_updated: dict[int, bool] = {}
        if isinstance(past_key_values, EncoderDecoderCache) and self.is_cross_attention:
            is_updated, past_key_values = past_key_values.is_updated, past_key_values.cross_attention_cache
        elif isinstance(past_key_values, EncoderDecoderCache):
            past_key_values = past_key_values.self_attention_cache
        if past_key_values is not None and is_updated.get(self.layer_idx):
            cached = past_key_values.layers[self.layer_idx]
            return cached.keys, cached.values

        key_states = self.k_norm(self.heads_of(self.k_proj(states)))  # (B, S, K, D)
        value_states = self.heads_of(self.v_proj(states))
        if position_embeddings is not None:
            key_states = apply_rotary_pos_emb(key_states, *position_embeddings)
        key_states, value_states = key_states.transpose(1, 2), value_states.transpose(1, 2)
        if past_key_values is not None:
            key_states, value_states = pattern.remember(past_key_values, self.layer_idx, key_states, value_states)
            is_updated[self.layer_idx] = True
        return key_states, value_states


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out (Vaswani et al. 2017, equation 1); the kernel for attn_implementation="eager".

    Args:
        module: the attention layer.
        query: (B, H, T, D).
        key: (B, K, S, D).
        value: (B, K, S, D).
        attention_mask: added to the scores, or True for what may be seen, (B or 1, 1, T, S); None when all may be.
        scaling: what the scores are multiplied by.
        dropout: probability of leaving out a weight.
        kwargs: what other kernels take.

    Returns:
        The blended values (B, T, H, D) and the weights (B, H, T, S).
    """
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, T, S)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def varlen_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    sliding_window: int | None,
    cu_seq_lens_q: torch.Tensor,
    cu_seq_lens_k: torch.Tensor,
    max_length_q: int,
    max_length_k: int,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a flat batch by torch's own kernel, which comes with torch but has no dropout; as flash attention.

    Args:
        module: the attention layer.
        query: (1, H, N, D).
        key: (1, K, M, D).
        value: (1, K, M, D).
        attention_mask: none; the lengths say all.
        scaling: what the scores are multiplied by.
        sliding_window: tokens that a query sees on one side, itself among them; None: all.
        cu_seq_lens_q: where each sequence begins among the queries, (S + 1), int32.
        cu_seq_lens_k: where each sequence begins among the keys, (S + 1), int32.
        max_length_q: queries of the longest sequence.
        max_length_k: keys of the longest sequence.
        kwargs: what other kernels take.

    Returns:
        The blended values (1, N, H, D) and None.
    """
    reach = -1 if sliding_window is None else sliding_window - 1
    blended = varlen_attn(
        *(states[0].transpose(0, 1) for states in (query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=(reach, 0 if module.is_causal else reach),
        enable_gqa=module.num_key_value_groups > 1,
    )
    return blended[None], None


def float32_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA in float32; arguments as in eager_attention_forward. For the CPU, where the backward pass of torch's
    kernel is three times as slow in half precision as it is in float32.
    """
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        states = (query.float(), key.float(), value.float())
        blended, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, *states, attention_mask, **kwargs)
    return blended.to(query.dtype), None


def kernel_for(config: PreTrainedConfig, query: torch.Tensor, pattern: Pattern) -> Kernel:
    """The function that blends: the config's, or what is better in place of SDPA."""
    name = config._attn_implementation
    if name == "sdpa" and isinstance(pattern, VarlenPattern):
        return varlen_attention_forward
    if name == "sdpa" and query.requires_grad and query.device.type == "cpu" and query.dtype.itemsize == 2:
        return float32_sdpa_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
