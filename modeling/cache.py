"""Caches for generation, in which nothing is copied that stays where it is. Letters as in attention.py."""

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
from transformers.modeling_outputs import ModelOutput

# Tokens that a new room has space for beyond those that are there; or half as many as are there, if that is more.
SPACE = 64


@dataclass
class Room:
    """Space for more keys and values than there are, (B, K, space, D) each, of which `length` tokens are written."""

    keys: torch.Tensor
    values: torch.Tensor
    length: int = 0

    @classmethod
    def like(cls, states: torch.Tensor, end: int) -> "Room":
        """Room for states like these (B, K, T, D), up to the token `end` and beyond; token by token in memory."""
        batch, heads, _, width = states.shape
        size = (batch, end + max(SPACE, end // 2), heads, width)
        return cls(states.new_empty(size).transpose(1, 2), states.new_empty(size).transpose(1, 2))

    def write(self, begin: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put keys and values (B, K, T, D) at the token `begin`, the last that are written."""
        self.length = begin + keys.shape[-2]
        self.keys[:, :, begin : self.length] = keys
        self.values[:, :, begin : self.length] = values

    def written(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (B, K, length, D)."""
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]


class RoomyLayer(DynamicLayer):
    """A DynamicLayer that writes new tokens behind the old ones, into a room kept for them.

    DynamicLayer.update copies all keys and values for each token. Where gradients may be asked for, so does this. As
    there, keys and values that somebody has taken never change: nothing is written where something was before.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.room: Room | None = None
        # Of beam search alone: the room to reorder into.
        self.spare_room: Room | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values of new tokens (B, K, T, D); returns those of all tokens."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        end = seen + key_states.shape[-2]
        room = self.room_up_to(end)
        if room is None:
            room = self.room = Room.like(key_states, end)
            self.spare_room = None
            if seen:
                room.write(0, self.keys, self.values)
        room.write(seen, key_states, value_states)
        self.keys, self.values = room.written()
        return self.keys, self.values

    def room_up_to(self, end: int) -> Room | None:
        """The room, if it begins with keys and values, has no more, and has space up to the token `end`; or None."""
        room = self.room
        if room is None or self.keys.data_ptr() != room.keys.data_ptr() or len(self.keys) != len(room.keys):
            return None
        # What was cropped off is in the room still, and so is what a copy of this layer has added.
        is_last = room.length == self.get_seq_length()
        may_write = room.keys.is_inference() <= torch.is_inference_mode_enabled()
        return room if is_last and may_write and end <= room.keys.shape[2] else None

    def leave_room(self) -> None:
        """Write no more where keys and values are now: somebody may have taken them."""
        self.room = self.spare_room = None

    def reorder_beams(self, beam_idx: torch.LongTensor) -> None:
        """As reorder_cache, takes the rows beam_idx (B); but what was taken two times before is written over."""
        room = self.room_up_to(self.get_seq_length())
        if room is None or len(beam_idx) != len(self.keys):
            self.reorder_cache(beam_idx)
            return
        spare = self.spare_room or Room(torch.empty_like(room.keys), torch.empty_like(room.values))
        spare.length = room.length
        for states, reordered in zip(room.written(), spare.written(), strict=True):
            # As they lie in memory, (B, length, K, D).
            torch.index_select(states.transpose(1, 2), 0, beam_idx.to(states.device), out=reordered.transpose(1, 2))
        self.room, self.spare_room = spare, room
        self.keys, self.values = spare.written()


class BlendGenerationMixin(GenerationMixin):
    """GenerationMixin with these caches in place of transformers' where it would make dynamic ones."""

    @wraps(GenerationMixin.generate)
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        # EarlyExitCandidateGenerator.get_candidates lowers the number of layers while it drafts, and does not restore
        # it where that is interrupted: each later forward would leave out layers without a word.
        config = self.base_model.config
        num_hidden_layers = config.num_hidden_layers
        try:
            return super().generate(*args, **kwargs)
        finally:
            if config.num_hidden_layers != num_hidden_layers:
                config.num_hidden_layers = num_hidden_layers

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> Any:
        """Replaces GenerationMixin._prepare_cache_for_generation's `DynamicCache(**dynamic_cache_kwargs)`, twice.

        Where it is not called, generation is slower, and a compiled first forward drops the beginning of a source that
        is longer than a window; otherwise the decoder calls keep_whole_source.
        """
        is_given = model_kwargs.get("past_key_values") is not None
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get("past_key_values")
        if cache is None:
            return result
        if is_given:
            leave_rooms(self_attention_cache(cache))
            return result
        if "encoder_outputs" in model_kwargs:
            keep_whole_source(cache, model_kwargs["encoder_outputs"][0].shape[1])
        make_roomy(self_attention_cache(cache))
        return result

    @staticmethod
    def _reorder_cache(past_key_values: Cache, beam_idx: torch.LongTensor) -> Cache:
        """Replaces, in GenerationMixin._beam_search, `cache.reorder_cache(beam_idx)`.

        Beams of a row have the same source: its keys and values stay where they are.
        """
        cache = self_attention_cache(past_key_values)
        if type(cache) is not DynamicCache:
            cache.reorder_cache(beam_idx)
            return past_key_values
        for layer in cache.layers:
            reorder = layer.reorder_beams if isinstance(layer, RoomyLayer) else layer.reorder_cache
            reorder(beam_idx)
        return past_key_values

    def _prefill(
        self, input_ids: torch.Tensor, generation_config: GenerationConfig, model_kwargs: dict[str, Any], **kwargs: Any
    ) -> ModelOutput:
        """Replaces GenerationMixin._prefill's `self(**model_inputs)` where generate() has repeated each row.

        All beams of a row begin with the same tokens: one of them is computed, and its keys and values repeated.
        """
        copies = max(generation_config.num_beams, generation_config.num_return_sequences)
        cache: Any = model_kwargs.get("past_key_values")
        if copies == 1 or not is_empty(cache) or returns_states(generation_config):
            return super()._prefill(input_ids, generation_config, model_kwargs, **kwargs)

        def once(values: dict[str, Any]) -> dict[str, Any]:
            return {name: value[::copies] if torch.is_tensor(value) else value for name, value in values.items()}

        first_kwargs = once(model_kwargs)
        if "encoder_outputs" in model_kwargs:
            encoder_outputs = model_kwargs["encoder_outputs"]
            first_kwargs["encoder_outputs"] = type(encoder_outputs)(**once(encoder_outputs))
        outputs = super()._prefill(input_ids[::copies], generation_config, first_kwargs, **kwargs)
        # Not always the cache that was given: peft's prefix tuning puts another in its place.
        outputs.past_key_values.batch_repeat_interleave(copies)
        outputs.logits = outputs.logits.repeat_interleave(copies, dim=0)
        return outputs


def self_attention_cache(past_key_values: Any) -> Any:
    """The part of the cache that the decoder's own tokens are in."""
    if isinstance(past_key_values, EncoderDecoderCache):
        return past_key_values.self_attention_cache
    return past_key_values


def keep_whole_source(cache: Cache | None, length: int) -> None:
    """Replace the sliding layers of an empty cross-attention cache: they would drop the beginning of the source.

    transformers makes them by the decoder's layer_types, in dynamic and in static caches.

    Args:
        cache: of an encoder-decoder; others have no cross-attention.
        length: of the source, S.
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
    """Whether a cache has no tokens yet, and can be repeated by rows."""
    if isinstance(cache, EncoderDecoderCache):
        return is_empty(cache.self_attention_cache) and is_empty(cache.cross_attention_cache)
    return type(cache) is DynamicCache and not cache.offloading and cache.get_seq_length() == 0


def returns_states(generation_config: GenerationConfig) -> bool:
    """Whether generate() is asked for weights or states, which it gives back for all beams."""
    return bool(generation_config.output_attentions or generation_config.output_hidden_states)


def leave_rooms(cache: Cache) -> None:
    """What somebody has taken from a cache before it comes to generate() stays as it is."""
    for layer in cache.layers:
        if isinstance(layer, RoomyLayer):
            layer.leave_room()


def make_roomy(cache: Cache) -> None:
    """Give a DynamicCache that is empty, and stays where it is, layers with room."""
    if type(cache) is DynamicCache and not cache.offloading:
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
