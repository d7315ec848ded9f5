"""Caches for generation, in which nothing is copied that stays where it is. Letters as in attention.py."""

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


class RoomyLayer(DynamicLayer):
    """A DynamicLayer that writes new tokens behind the old ones, into a room kept for them.

    DynamicLayer.update copies all keys and values for each token. Where gradients may be asked for, so does this.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # The room of the keys and that of the values, (B, K, space, D); and two to reorder them into.
        self.rooms: list[torch.Tensor] = []
        self.spare_rooms: list[torch.Tensor] = []

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
        if not self.has_space(end):
            self.rooms = [roomy(key_states, end), roomy(value_states, end)]
            self.spare_rooms = []
            if seen:
                for room, states in zip(self.rooms, (self.keys, self.values), strict=True):
                    room[:, :, :seen] = states
        key_room, value_room = self.rooms
        key_room[:, :, seen:end] = key_states
        value_room[:, :, seen:end] = value_states
        self.keys, self.values = key_room[:, :, :end], value_room[:, :, :end]
        return self.keys, self.values

    def has_space(self, end: int) -> bool:
        """Whether keys and values stand at the beginning of their rooms, and there is space up to the token `end`."""
        if not self.rooms:
            return False
        room = self.rooms[0]
        stands_there = self.keys.data_ptr() == room.data_ptr() and len(self.keys) == len(room)
        return stands_there and end <= room.shape[2] and room.is_inference() <= torch.is_inference_mode_enabled()

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Take the rows beam_idx (B) in place of those that are there."""
        end = self.get_seq_length()
        if not self.has_space(end) or len(beam_idx) != len(self.keys):
            super().reorder_cache(beam_idx)
            return
        spare_rooms = self.spare_rooms or [torch.empty_like(room) for room in self.rooms]
        for room, spare in zip(self.rooms, spare_rooms, strict=True):
            # As they lie in memory, (B, space, K, D).
            tokens = room.transpose(1, 2)[:, :end]
            torch.index_select(tokens, 0, beam_idx.to(room.device), out=spare.transpose(1, 2)[:, :end])
        self.rooms, self.spare_rooms = spare_rooms, self.rooms
        self.keys, self.values = (room[:, :, :end] for room in self.rooms)


def roomy(states: torch.Tensor, end: int) -> torch.Tensor:
    """An empty room for states like these (B, K, T, D), up to the token `end` and beyond; token by token in memory."""
    batch, heads, _, width = states.shape
    return states.new_empty(batch, end + max(SPACE, end // 2), heads, width).transpose(1, 2)


class BlendGenerationMixin(GenerationMixin):
    """GenerationMixin with these caches in place of transformers' where it would make dynamic ones."""

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> Any:
        """Replaces GenerationMixin._prepare_cache_for_generation's `DynamicCache(**dynamic_cache_kwargs)`, twice.

        Of the second, the cache of cross-attention, it replaces the layers that slide, too, as in a StaticCache: they
        are the decoder's own, and would forget the beginning of the source.
        """
        is_given = model_kwargs.get("past_key_values") is not None
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get("past_key_values")
        if is_given or cache is None:
            return result
        if isinstance(cache, EncoderDecoderCache):
            source = cache.cross_attention_cache
            if isinstance(source, DynamicCache):
                source.layers = [DynamicLayer() for _ in source.layers]
            elif isinstance(source, StaticCache):
                length = model_kwargs["encoder_outputs"][0].shape[1]
                source.layers = [StaticLayer(max_cache_len=length) for _ in source.layers]
            cache = cache.self_attention_cache
        make_roomy(cache)
        return result

    @staticmethod
    def _reorder_cache(past_key_values: Cache, beam_idx: torch.LongTensor) -> Cache:
        """Replaces, in GenerationMixin._beam_search, `cache.reorder_cache(beam_idx)`.

        Beams of a row have the same source: its keys and values stay where they are.
        """
        is_double = isinstance(past_key_values, EncoderDecoderCache)
        (past_key_values.self_attention_cache if is_double else past_key_values).reorder_cache(beam_idx)
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
        cache.batch_repeat_interleave(copies)
        outputs.logits = outputs.logits.repeat_interleave(copies, dim=0)
        return outputs


def is_empty(cache: Any) -> bool:
    """Whether a cache has no tokens yet, and can be repeated by rows."""
    if isinstance(cache, EncoderDecoderCache):
        return is_empty(cache.self_attention_cache) and is_empty(cache.cross_attention_cache)
    return type(cache) is DynamicCache and not cache.offloading and cache.get_seq_length() == 0


def returns_states(generation_config: GenerationConfig) -> bool:
    """Whether generate() is asked for weights or states, which it gives back for all beams."""
    return bool(generation_config.output_attentions or generation_config.output_hidden_states)


def make_roomy(cache: Cache) -> None:
    """Give a DynamicCache that is empty, and stays where it is, layers with room."""
    if type(cache) is DynamicCache and not cache.offloading:
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
