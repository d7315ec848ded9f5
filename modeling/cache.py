"""Caches for generation, in which nothing is copied that stays where it is. Letters as in attention.py."""

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.generation import GenerationMixin

# Tokens that a new room has space for beyond those that are there; or half as many as are there, if that is more.
SPACE = 64


class RoomyLayer(DynamicLayer):
    """A DynamicLayer that writes new tokens behind the old ones, into a room [B, space, K, D] kept for them.

    DynamicLayer.update copies all keys and values for each token. Where gradients may be asked for, so does this.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # For `keys` and `values` the room they are in, and one to reorder them into.
        self.rooms: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values of new tokens (B, K, T, D); returns those of all tokens."""
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for name, states in (("keys", key_states), ("values", value_states)):
            seen = getattr(self, name).shape[-2] if getattr(self, name).numel() else 0
            end = seen + states.shape[-2]
            if not self.has_space(name, end):
                self.make_room(name, states, seen, end)
            room = self.rooms[name][0]
            room[:, seen:end] = states.transpose(1, 2)
            setattr(self, name, room[:, :end].transpose(1, 2))
        return self.keys, self.values

    def has_space(self, name: str, end: int) -> bool:
        """Whether the states stand at the beginning of their room, and there is space up to the token `end`."""
        states = getattr(self, name)
        if name not in self.rooms or not states.numel():
            return False
        room = self.rooms[name][0]
        is_head = states.data_ptr() == room.data_ptr() and len(states) == len(room)
        is_open = torch.is_inference_mode_enabled() or not room.is_inference()
        return is_head and is_open and end <= room.shape[1]

    def make_room(self, name: str, states: torch.Tensor, seen: int, end: int) -> None:
        """A new room for states like these, with those that were seen."""
        batch, heads, _, width = states.shape
        rooms = tuple(states.new_empty(batch, end + max(SPACE, end // 2), heads, width) for _ in range(2))
        if seen:
            rooms[0][:, :seen] = getattr(self, name).transpose(1, 2)
        self.rooms[name] = rooms

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Take the rows beam_idx (B) in place of those that are there."""
        for name in ("keys", "values"):
            if not self.has_space(name, 0) or len(beam_idx) != len(getattr(self, name)):
                return super().reorder_cache(beam_idx)
            room, spare = self.rooms[name]
            end = getattr(self, name).shape[-2]
            torch.index_select(room[:, :end], 0, beam_idx.to(room.device), out=spare[:, :end])
            self.rooms[name] = (spare, room)
            setattr(self, name, spare[:, :end].transpose(1, 2))
        return None


class SourceLayer(DynamicLayer):
    """Keys and values of a source, which are the same for all beams of a row: there is nothing to reorder.

    Args:
        num_beams: how many neighbouring rows are of the same source.
    """

    def __init__(self, num_beams: int):
        super().__init__()
        self.num_beams = num_beams

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Take the rows beam_idx (B) in place of those that are there, if they are of other sources."""
        rows = torch.arange(len(beam_idx), device=beam_idx.device)
        if not torch.equal(beam_idx // self.num_beams, rows // self.num_beams):
            super().reorder_cache(beam_idx)


class BlendGenerationMixin(GenerationMixin):
    """GenerationMixin with these caches in place of transformers' where it would make dynamic ones."""

    def _prepare_cache_for_generation(self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any) -> Any:
        """Replaces GenerationMixin._prepare_cache_for_generation's `DynamicCache(**dynamic_cache_kwargs)`, twice.

        Of the second, the cache of cross-attention, it replaces the layers that slide, too: they are the decoder's
        own, and would forget the beginning of the source.
        """
        is_given = model_kwargs.get("past_key_values") is not None
        result = super()._prepare_cache_for_generation(generation_config, model_kwargs, *args)
        cache = model_kwargs.get("past_key_values")
        if is_given or cache is None:
            return result
        if isinstance(cache, EncoderDecoderCache):
            if isinstance(cache.cross_attention_cache, DynamicCache):
                layers = [SourceLayer(generation_config.num_beams) for _ in cache.cross_attention_cache.layers]
                cache.cross_attention_cache.layers = layers
            cache = cache.self_attention_cache
        make_roomy(cache)
        return result


def make_roomy(cache: Cache) -> None:
    """Give a DynamicCache that is empty, and stays where it is, layers with room."""
    if type(cache) is DynamicCache and not cache.offloading:
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
