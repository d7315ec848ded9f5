"""Attention: blending the elements of a sequence into each other.

Each query meets a set of material vectors. It responds to each of them more or less (the dot product with its key),
and takes more of those it responds to (a weighted mean of their values). The one class here plays three roles:

    self         queries, keys and values come from one sequence; every token attends to every token
    masked self  the same, but a token attends only to itself and the tokens before it
    cross        queries come from the target, keys and values from the source

Shapes, here and in all of `modeling`: B batch, T target or query length, S source or key length, H query heads,
K key-value heads, D head dimension, E hidden size, V vocabulary size, N tokens of a flat batch. Batches are padded,
[B, T], or flat, [1, N] (see packing.py).
"""

from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import logging
from transformers.utils.generic import is_flash_attention_requested

from .cache import update_paged_cache
from .normalization import Dropout, apply_dropout, build_norm
from .patterns import Kernel, Pattern, SourcePattern, VarlenPattern
from .positions import apply_rotary_pos_emb, build_relative_bias

Role = Literal["self", "masked self", "cross"]

logger = logging.get_logger(__name__)
# What torch's varlen kernel takes. A model on the Hub may be loaded with an older torch than this package needs, whose
# kernel has no windows, or no grouped keys.
VARLEN_OPTIONS = frozenset(signature(varlen_attn).parameters)
# Kernels that take padded rows and a mask. Those of flash attention take a flat batch and its lengths.
ROW_KERNELS = ("eager", "sdpa", "flex_attention")


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, §3.2), with grouped key-value heads (Ainslie et al. 2023).

    Args:
        config: configuration of the stack that the queries come from.
        layer_idx: index of the layer in the stack, and in the cache.
        role: kind of attention, see the module docstring.
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
        # It is not called, but libraries switch dropout off by setting p of every nn.Dropout to 0.
        self.attention_dropout = Dropout(config.attention_dropout)
        self.sliding_window = None
        if role != "cross" and config.layer_types[layer_idx] == "sliding_attention":
            # Kernels count the query itself in the window. In a bidirectional config sliding_window is the number of
            # tokens on each side, without the query.
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
        # Biases that all layers share are in the stack.
        has_bias = role != "cross" and config.relative_attention_num_buckets and config.relative_attention_per_layer
        self.relative_attention_bias = build_relative_bias(config) if has_bias else None

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        *,
        pattern: Pattern,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        cache: Cache | PagedAttentionCache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Blend `key_value_states` into `hidden_states`, or these into themselves.

        Args:
            hidden_states: input of the queries, (B, T, E) or (1, N, E).
            key_value_states: input of the keys and values, (B, S, E) or (1, N, E); None: self-attention.
            pattern: attention pattern, shared by all layers of one type.
            position_embeddings: cosines and sines of RoPE, (B or 1, T, D / 2) each; None: no RoPE.
            cache: the keys and values of this call are added to it.
            kwargs: passed to the kernel; the cache of a server changes them.

        Returns:
            The attention output, with the shape of hidden_states, and the attention weights (B, H, T, S), or None
            where the kernel does not return them.
        """
        material = hidden_states if key_value_states is None else key_value_states
        query_states = self.queries(hidden_states, position_embeddings)  # (B, H, T, D)
        key_states, value_states = self.keys_and_values(
            material, pattern, position_embeddings, cache
        )  # (B, K, S, D) each
        if isinstance(cache, PagedAttentionCache):
            key_states, value_states = update_paged_cache(cache, self.layer_idx, key_states, value_states, kwargs)

        if self.relative_attention_bias is not None:
            assert not isinstance(pattern, VarlenPattern | SourcePattern)  # a stack with biases has neither
            pattern = pattern.with_bias(self.relative_attention_bias, query_states.dtype)
        dropout = self.attention_dropout.p if self.training else 0.0
        kernel = partial(
            select_kernel(self.config, query_states, pattern, dropout),
            self,
            dropout=dropout,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
            **kwargs,
        )
        blended, weights = pattern.blend(kernel, query_states, key_states, value_states)
        # The kernel of a server may return (N, H · D). With tensor parallelism this device has only some of the heads.
        width = query_states.shape[1] * self.head_dim
        return self.o_proj(blended.reshape(*hidden_states.shape[:-1], width)), weights

    def split_heads(self, states: torch.Tensor) -> torch.Tensor:
        """Split the features into heads, (B, T, H · D) to (B, T, H, D)."""
        return states.unflatten(-1, (-1, self.head_dim))

    def queries(
        self, states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Project `states` (B, T, E) to queries (B, H, T, D)."""
        query_states = self.split_heads(self.q_proj(states))  # (B, T, H, D)
        # Autocast on a GPU normalizes in float32, and kernels take one dtype.
        query_states = self.q_norm(query_states).to(query_states.dtype)
        if position_embeddings is not None:
            query_states = apply_rotary_pos_emb(query_states, *position_embeddings)
        return query_states.transpose(1, 2)

    def keys_and_values(
        self,
        states: torch.Tensor,
        pattern: Pattern,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        cache: Cache | PagedAttentionCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Project `states` (B, S, E) to keys and values (B, K, S, D), and update the cache.

        Self-attention returns the cached tokens, too. Cross-attention projects the source once, and then reads the
        cache.
        """
        # Cross-attention only: for each layer, whether the source is in the cache.
        is_updated: dict[int, bool] = {}
        if isinstance(cache, EncoderDecoderCache) and self.is_cross_attention:
            is_updated, cache = cache.is_updated, cache.cross_attention_cache
        elif isinstance(cache, EncoderDecoderCache):
            cache = cache.self_attention_cache
        if is_updated.get(self.layer_idx):
            assert isinstance(cache, Cache)
            cached = cache.layers[self.layer_idx]
            return cached.keys, cached.values

        key_states = self.split_heads(self.k_proj(states))  # (B, S, K, D)
        key_states = self.k_norm(key_states).to(key_states.dtype)
        value_states = self.split_heads(self.v_proj(states))
        if position_embeddings is not None:
            key_states = apply_rotary_pos_emb(key_states, *position_embeddings)
        key_states, value_states = key_states.transpose(1, 2), value_states.transpose(1, 2)
        if isinstance(cache, Cache):
            key_states, value_states = pattern.update_cache(cache, self.layer_idx, key_states, value_states)
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
    """Attention in plain PyTorch (Vaswani et al. 2017, equation 1): the kernel for attn_implementation="eager".

    Args:
        module: the attention layer.
        query: (B, H, T, D).
        key: (B, K, S, D).
        value: (B, K, S, D).
        attention_mask: (B or 1, 1 or H, T or 1, S), a float that is added to the scores or a bool, True = attend;
            None: every query attends to every key.
        scaling: factor on the scores.
        dropout: dropout probability of the attention weights.
        kwargs: arguments of other kernels, ignored.

    Returns:
        The blended values (B, T, H, D) and the attention weights (B, H, T, S).
    """
    key, value = (repeat_heads(states, module.num_key_value_groups) for states in (key, value))
    scores = query @ key.transpose(2, 3) * scaling  # (B, H, T, S)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    if dropout > 0:
        weights = apply_dropout(weights, dropout)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def repeat_heads(states: torch.Tensor, num_groups: int) -> torch.Tensor:
    """Keys or values of each query head, (B, H, S, D), from those of the key-value heads, (B, K, S, D)."""
    # repeat_interleave copies for one group, too.
    return states.repeat_interleave(num_groups, dim=1) if num_groups > 1 else states


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
    """Attention of a flat batch with torch.nn.attention.varlen: flash attention without another package or dropout.

    Args:
        module: the attention layer.
        query: (1, H, N, D).
        key: (1, K, M, D).
        value: (1, K, M, D).
        attention_mask: None; the lengths replace it.
        scaling: factor on the scores.
        sliding_window: number of tokens that a query attends to on each side, including itself; None: no limit.
        cu_seq_lens_q: start of each sequence among the queries, then the number of queries, int32.
        cu_seq_lens_k: start of each sequence among the keys, then the number of keys, int32.
        max_length_q: number of queries of the longest sequence.
        max_length_k: number of keys of the longest sequence.
        kwargs: arguments of other kernels, ignored.

    Returns:
        The blended values (1, N, H, D), and None for the weights.
    """
    reach = -1 if sliding_window is None else sliding_window - 1
    grouped = {"enable_gqa": True} if module.num_key_value_groups > 1 else {}
    if grouped and "enable_gqa" not in VARLEN_OPTIONS:
        grouped = {}
        key, value = (repeat_heads(states, module.num_key_value_groups) for states in (key, value))
    blended = varlen_attn(
        *(states[0].transpose(0, 1) for states in (query, key, value)),
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=(reach, 0 if module.is_causal else reach),
        **grouped,
    )
    return blended[None], None


def has_varlen_kernel(config: PreTrainedConfig) -> bool:
    """Whether torch's varlen kernel can compute the attention of a config.

    What the kernel of this torch lacks is named once, with what replaces it.
    """
    has_windows = {"scale", "window_size"} <= VARLEN_OPTIONS
    lacks = None
    if not has_windows:
        lacks = "windows and no scale: SDPA computes padded rows instead"
    elif config.num_key_value_heads < config.num_attention_heads and "enable_gqa" not in VARLEN_OPTIONS:
        lacks = "grouped keys: they are repeated for each query head"
    # Logging would break the graph.
    if lacks is not None and not torch.compiler.is_compiling():
        logger.warning_once(f"varlen_attn of torch {torch.__version__} has no {lacks}")
    return has_windows


def has_flash_attention(device: torch.device) -> bool:
    """Whether torch has flash attention, of which its varlen kernel is a part, for this GPU: Ampere or later."""
    return torch.backends.cuda.is_flash_attention_available() and torch.cuda.get_device_capability(device) >= (8, 0)


def dropout_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA with dropout on a CPU. Arguments as in eager_attention_forward.

    Torch computes it with the same operations, but its dropout takes three times as long.
    """
    if attention_mask is None and module.is_causal and query.shape[2] > 1:
        attention_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    return eager_attention_forward(module, query, key, value, attention_mask, **kwargs)[0], None


def float32_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """SDPA computed in float32, for training in half precision on a CPU. Arguments as in eager_attention_forward.

    The backward pass of torch's CPU kernel is three times as slow in half precision as in float32.
    """
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        states = (query.float(), key.float(), value.float())
        kernel = dropout_sdpa_forward if kwargs["dropout"] > 0 else ALL_ATTENTION_FUNCTIONS["sdpa"]
        blended, _ = kernel(module, *states, attention_mask, **kwargs)
    return blended.to(query.dtype), None


def select_kernel(config: PreTrainedConfig, query: torch.Tensor, pattern: Pattern, dropout: float) -> Kernel:
    """The attention function of the config; for "sdpa", a faster one where there is one."""
    if has_stock_sdpa(config):
        is_on_cpu = query.device.type == "cpu"
        if isinstance(pattern, VarlenPattern):
            return varlen_attention_forward
        if is_on_cpu and query.requires_grad and query.dtype.itemsize == 2:
            return float32_sdpa_forward
        if is_on_cpu and dropout > 0:
            return dropout_sdpa_forward
    return ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)


def has_stock_sdpa(config: PreTrainedConfig) -> bool:
    """Whether the attention function is "sdpa" of transformers, and not one that the user has put in its place."""
    return config._attn_implementation == "sdpa" and ALL_ATTENTION_FUNCTIONS["sdpa"] is sdpa_attention_forward


def has_known_kernel(config: PreTrainedConfig) -> bool:
    """Whether the kernel of attention is one of transformers' own. Another one may be that of a server."""
    return config._attn_implementation in ROW_KERNELS or is_flash_attention_requested(config)


def matmul_dtype(states: torch.Tensor) -> torch.dtype:
    """Dtype of the product of such states with a matrix: their own, or that of autocast."""
    device = states.device.type
    if device == "meta":
        return states.dtype
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
