"""Caches for generation: keys and values, appended without copying the old ones, or recurrent states.

Shapes as in attention.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    DynamicCache,
    DynamicLayer,
    EncoderDecoderCache,
    StaticCache,
    StaticLayer,
)
from transformers.generation import GenerationConfig, GenerationMixin
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.modeling_outputs import BaseModelOutputWithPast, ModelOutput
from transformers.modeling_utils import PreTrainedModel

# Name of the cache in transformers' arguments and outputs: `past_key_values` before 5.24.
CACHE_NAME = "cache" if "cache" in BaseModelOutputWithPast.__dataclass_fields__ else "past_key_values"
# A new buffer has room for this many more tokens, or for half of the current number, whichever is more.
MIN_FREE_TOKENS = 64


@dataclass
class KeyValueBuffer:
    """Preallocated keys and values, (B, K, capacity, D) each; the first `length` tokens are in use."""

    keys: torch.Tensor
    values: torch.Tensor
    length: int = 0

    @classmethod
    def allocate(cls, states: torch.Tensor, end: int) -> "KeyValueBuffer":
        """An empty buffer for more than `end` tokens, with the sizes of `states` (B, K, T, D).

        The memory order is (B, capacity, K, D).
        """
        batch, heads, _, width = states.shape
        size = (batch, end + max(MIN_FREE_TOKENS, end // 2), heads, width)
        return cls(states.new_empty(size).transpose(1, 2), states.new_empty(size).transpose(1, 2))

    def write(self, begin: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write keys and values (B, K, T, D) from token `begin` on, and set `length` to the end of them."""
        self.length = begin + keys.shape[-2]
        self.keys[:, :, begin : self.length] = keys
        self.values[:, :, begin : self.length] = values

    def contents(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Views of the keys and values in use, (B, K, length, D)."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class BufferedLayer(DynamicLayer):
    """A DynamicLayer that appends new tokens to a preallocated buffer.

    DynamicLayer.update copies all keys and values for each token. So does this class while gradients are enabled or
    the model is compiled. As in DynamicLayer, keys and values that a caller holds never change: except in
    reorder_beams, which is for generate() only, no memory is written twice.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.buffer: KeyValueBuffer | None = None
        # For beam search: the buffer that the next reordering writes to.
        self.spare_buffer: KeyValueBuffer | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append keys and values of new tokens (B, K, T, D); returns those of all tokens."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past_length = self.get_seq_length()
        end = past_length + key_states.shape[-2]
        buffer = self.writable_buffer(end)
        if buffer is None:
            buffer = self.buffer = KeyValueBuffer.allocate(key_states, end)
            self.spare_buffer = None
            if past_length:
                buffer.write(0, self.keys, self.values)
        buffer.write(past_length, key_states, value_states)
        self.keys, self.values = buffer.contents()
        return self.keys, self.values

    def writable_buffer(self, end: int) -> KeyValueBuffer | None:
        """The buffer, if it holds exactly the current keys and values and has room for `end` tokens; else None."""
        buffer = self.buffer
        if buffer is None or not (is_start(self.keys, buffer.keys) and is_start(self.values, buffer.values)):
            return None
        # After cropping, or if a copy of this layer has appended tokens, the buffer holds more than this layer.
        is_last = buffer.length == self.get_seq_length()
        may_write = buffer.keys.is_inference() <= torch.is_inference_mode_enabled()
        return buffer if is_last and may_write and end <= buffer.keys.shape[2] else None

    def release_buffers(self) -> None:
        """Stop writing to the current buffers: a caller may hold views of them."""
        self.buffer = self.spare_buffer = None

    def reorder_beams(self, beam_idx: torch.LongTensor) -> None:
        """As reorder_cache, select the rows beam_idx (B), but in two buffers in turn.

        The keys and values from before the last reordering are overwritten.
        """
        buffer = self.writable_buffer(self.get_seq_length())
        if buffer is None or len(beam_idx) != len(self.keys):
            self.reorder_cache(beam_idx)
            return
        spare = self.spare_buffer or KeyValueBuffer(torch.empty_like(buffer.keys), torch.empty_like(buffer.values))
        spare.length = buffer.length
        for states, reordered in zip(buffer.contents(), spare.contents(), strict=True):
            # In memory order, (B, length, K, D).
            torch.index_select(states.transpose(1, 2), 0, beam_idx.to(states.device), out=reordered.transpose(1, 2))
        self.buffer, self.spare_buffer = spare, buffer
        self.keys, self.values = spare.contents()


def is_start(states: torch.Tensor, buffer: torch.Tensor) -> bool:
    """Whether keys or values (B, K, T, D) are a view of the first tokens of a buffer (B, K, capacity, D)."""
    return states.data_ptr() == buffer.data_ptr() and len(states) == len(buffer)


class RecurrentLayer(DynamicLayer):
    """The state of a recurrent mixer after the tokens of the cache; of an earlier token it holds nothing.

    A tensor that a caller holds never changes, as in DynamicLayer.
    """

    is_croppable = False

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # Tensors (B, F), see recurrence.py; None: no token was read.
        self.state: tuple[torch.Tensor, ...] | None = None
        self.length = 0

    def update_state(self, state: tuple[torch.Tensor, ...], num_tokens: int) -> None:
        """Replace the state with that after `num_tokens` more tokens."""
        self.state, self.length, self.is_initialized = state, self.length + num_tokens, True

    def get_seq_length(self) -> int:
        """Number of tokens that were read."""
        return self.length

    def update(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Raises ValueError: there are no keys and values."""
        raise ValueError("a recurrent mixer has no keys and values to cache")

    def crop(self, *args: Any, **kwargs: Any) -> None:
        """Raises ValueError: the state of an earlier token is gone."""
        raise ValueError("the cache of a recurrent mixer cannot be cropped: it has no states of earlier tokens")

    def map_state(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Replace each tensor of the state."""
        if self.state is not None:
            self.state = tuple(function(tensor) for tensor in self.state)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Select the rows beam_idx."""
        self.map_state(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row."""
        self.map_state(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the rows."""
        self.map_state(lambda tensor: tensor[indices])

    def reset(self) -> None:
        """Forget all tokens."""
        self.state, self.length, self.is_initialized = None, 0, False


class BlendGenerationMixin(GenerationMixin):
    """GenerationMixin with BufferedLayer in place of DynamicLayer in the caches that generate() creates."""

    @wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        # EarlyExitCandidateGenerator.get_candidates lowers num_hidden_layers while it drafts, and does not restore it
        # after an exception: each later forward would silently skip layers.
        config = self.base_model.config
        num_hidden_layers = config.num_hidden_layers
        try:
            return super().generate(*args, **rename_cache(kwargs, CACHE_NAME))
        finally:
            if config.num_hidden_layers != num_hidden_layers:
                config.num_hidden_layers = num_hidden_layers

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> Any:
        """Replaces both `DynamicCache(**dynamic_cache_kwargs)` of GenerationMixin._prepare_cache_for_generation.

        If transformers no longer calls it, generation is slower, and a compiled first forward drops the beginning of a
        source that is longer than a sliding window; without compilation the decoder calls keep_whole_source.
        """
        is_given = model_kwargs.get(CACHE_NAME) is not None
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get(CACHE_NAME)
        if cache is None:
            return result
        if is_given:
            release_cache_buffers(self_attention_cache(cache))
            return result
        drop_unused_layers(cache, self.config.get_text_config(decoder=True).num_hidden_layers)
        if "encoder_outputs" in model_kwargs:
            keep_whole_source(cache, model_kwargs["encoder_outputs"][0].shape[1])
        use_buffered_layers(self_attention_cache(cache))
        return result

    @staticmethod
    def _reorder_cache(cache: Cache, beam_idx: torch.LongTensor) -> Cache:
        """Replaces, in GenerationMixin._beam_search, `cache.reorder_cache(beam_idx)`.

        All beams of a row have the same source, so the cache of cross-attention is not reordered.
        """
        self_cache = self_attention_cache(cache)
        if type(self_cache) is not DynamicCache:
            self_cache.reorder_cache(beam_idx)
            return cache
        for layer in self_cache.layers:
            reorder = layer.reorder_beams if isinstance(layer, BufferedLayer) else layer.reorder_cache
            reorder(beam_idx)
        return cache

    def _prefill(
        self, input_ids: torch.Tensor, generation_config: GenerationConfig, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> ModelOutput:
        """Replaces `self(**model_inputs)` of GenerationMixin._prefill if generate() has repeated each row.

        All beams of a row start with the same tokens: one beam is computed, and its keys and values are repeated.
        """
        rows_per_prompt = max(generation_config.num_beams, generation_config.num_return_sequences)
        cache: Any = model_kwargs.get(CACHE_NAME)
        if rows_per_prompt == 1 or not is_empty(cache) or returns_states(generation_config):
            return super()._prefill(input_ids, generation_config, model_kwargs, **kwargs)

        def first_copies(values: dict[str, Any]) -> dict[str, Any]:
            tensors = {name: value for name, value in values.items() if torch.is_tensor(value)}
            return {**values, **{name: tensor[::rows_per_prompt] for name, tensor in tensors.items()}}

        first_kwargs = first_copies(model_kwargs)
        if "encoder_outputs" in model_kwargs:
            encoder_outputs = model_kwargs["encoder_outputs"]
            first_kwargs["encoder_outputs"] = type(encoder_outputs)(**first_copies(encoder_outputs))
        outputs = super()._prefill(input_ids[::rows_per_prompt], generation_config, first_kwargs, **kwargs)
        # The cache of the outputs, not the one given: peft's prefix tuning replaces it.
        outputs[CACHE_NAME].batch_repeat_interleave(rows_per_prompt)
        outputs.logits = outputs.logits.repeat_interleave(rows_per_prompt, dim=0)
        return outputs


def rename_cache(kwargs: dict[str, Any], name: str) -> dict[str, Any]:
    """Keyword arguments with the cache by one name, whichever of its two names it was given.

    Args:
        kwargs: keyword arguments of forward or generate; not changed.
        name: "cache" or "past_key_values".

    Raises:
        ValueError: there is a cache by each name.
    """
    others = {each: value for each, value in kwargs.items() if each not in ("cache", "past_key_values")}
    cache, older = kwargs.get("cache"), kwargs.get("past_key_values")
    if cache is not None and older is not None:
        raise ValueError(
            "cache and past_key_values are two names of one argument, and both are given; peft before 0.22 gives a "
            "prefix by the old name, which transformers 5.24 no longer does"
        )
    given = older if cache is None else cache
    return others if given is None else {**others, name: given}


def accept_past_key_values(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a forward with an argument `cache`: accepts it also by the name past_key_values.

    transformers before 5.24 gives it that name, as does code that was written for it.
    """

    @wraps(forward)
    def renamed(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **rename_cache(kwargs, "cache"))

    return renamed


def no_cache_in_training(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator of a forward with an argument use_cache: in training its default is False, whatever the config says.

    It is outside of merge_with_config_defaults, which replaces None by the config's value.
    """

    @wraps(forward)
    def with_default(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
        if model.training and kwargs.get("use_cache") is None:
            kwargs["use_cache"] = False
        return forward(model, *args, **kwargs)

    return with_default


def self_attention_cache(cache: Any) -> Any:
    """The cache of self-attention: a part of an EncoderDecoderCache, else the cache itself."""
    return cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache


def update_paged_cache(
    cache: PagedAttentionCache, layer_idx: int, keys: torch.Tensor, values: torch.Tensor, kwargs: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add keys and values (1, K, N, D) to the cache of a server; returns those that the kernel reads.

    Args:
        cache: the paged cache of transformers' continuous batching.
        layer_idx: index of the layer.
        keys: keys of the tokens of all requests in the batch.
        values: their values.
        kwargs: arguments of the kernel; changed in place.
    """
    if CACHE_NAME == "past_key_values":
        # The kernels of these versions add them.
        kwargs["cache"] = cache
        return keys, values
    updated: tuple[torch.Tensor, torch.Tensor] = cache.update(keys, values, layer_idx, kwargs=kwargs)
    return updated


def with_source_cache(cache: Cache) -> EncoderDecoderCache:
    """An empty cache with another one for cross-attention; generate() makes none for a decoder without its encoder."""
    return cache if isinstance(cache, EncoderDecoderCache) else EncoderDecoderCache(cache, DynamicCache())


def drop_unused_layers(cache: Cache, num_hidden_layers: int) -> None:
    """Keep as many layers in an empty cache as the model runs.

    transformers before 5.23 creates one for each of the config's layer_types, more than run in an early exit: cropping
    fails for a layer without tokens.
    """
    is_pair = isinstance(cache, EncoderDecoderCache)
    for part in (cache.self_attention_cache, cache.cross_attention_cache) if is_pair else (cache,):
        del part.layers[num_hidden_layers:]


def use_recurrent_layers(cache: Cache | None, num_hidden_layers: int) -> None:
    """Replace the layers of an empty cache with RecurrentLayer.

    Args:
        cache: of the caller; None: nothing is done.
        num_hidden_layers: number of layers that the model runs.

    Raises:
        ValueError: the cache is not a plain DynamicCache, or holds keys and values.
    """
    if cache is None:
        return
    cache = self_attention_cache(cache)
    if type(cache) is not DynamicCache or cache.offloading:
        raise ValueError(f"a recurrent mixer keeps its states in a DynamicCache without offloading, got {cache}")
    for index, layer in enumerate(cache.layers):
        if not isinstance(layer, RecurrentLayer):
            if layer.get_seq_length():
                raise ValueError("the cache holds keys and values, and a recurrent mixer has states")
            cache.layers[index] = RecurrentLayer()
    cache.layers += [RecurrentLayer() for _ in range(num_hidden_layers - len(cache.layers))]


def keep_whole_source(cache: Cache | None, length: int) -> None:
    """Replace the sliding layers of an empty cross-attention cache, which would drop the beginning of the source.

    transformers creates the layers from the decoder's layer_types, in dynamic and in static caches.

    Args:
        cache: of an encoder-decoder; other caches have no cross-attention and are left alone.
        length: the length of the source, S.
    """
    if not isinstance(cache, EncoderDecoderCache):
        return
    source = cache.cross_attention_cache
    if any(cache.is_updated.values()) or not any(getattr(layer, "is_sliding", False) for layer in source.layers):
        return
    if isinstance(source, DynamicCache):
        source.layers = [DynamicLayer() for _ in source.layers]
    elif isinstance(source, StaticCache):
        source.layers = [StaticLayer(max_cache_len=length) for _ in source.layers]


def is_empty(cache: Any) -> bool:
    """Whether a cache is a DynamicCache (or two) without tokens, whose rows can be repeated."""
    if isinstance(cache, EncoderDecoderCache):
        return is_empty(cache.self_attention_cache) and is_empty(cache.cross_attention_cache)
    return type(cache) is DynamicCache and not cache.offloading and cache.get_seq_length() == 0


def returns_states(generation_config: GenerationConfig) -> bool:
    """Whether generate() returns attention weights or hidden states, which it needs for every beam."""
    return bool(generation_config.output_attentions or generation_config.output_hidden_states)


def release_cache_buffers(cache: Cache) -> None:
    """Stop writing to the buffers of a cache that the caller gives to generate(): it may hold views of them."""
    for layer in cache.layers:
        if isinstance(layer, BufferedLayer):
            layer.release_buffers()


def use_buffered_layers(cache: Cache) -> None:
    """Replace the layers of an empty DynamicCache that is not offloaded with BufferedLayer."""
    if type(cache) is DynamicCache and not cache.offloading:
        cache.layers = [BufferedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
