"""Attention patterns: which tokens attend to which, in the form that the attention kernel takes.

A pattern is built once per forward and layer type, and shared by all layers of that type. A kernel is a function of
transformers' attention interface with all arguments bound but queries, keys, values and mask. A flat batch is padded
again only here, for kernels that need rows.

Shapes as in attention.py; R rows of L slots: a slot is the place of a token or of padding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from .cache import CACHE_NAME
from .packing import FlatLayout, Movable, PaddedLayout, scatter_tokens
from .positions import RelativeAttentionBias

Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
MaskFunction = Callable[..., Any]

# Sequences of up to this length are not grouped by length: their padding costs too little.
SHORT_LENGTH = 16
# Minimum number of tokens of a block of a sliding window: many small products are slower than a few larger ones.
MIN_BLOCK_SIZE = 32


class PaddedPattern(Movable):
    """Pattern of a padded batch, which the kernel takes unchanged.

    Args:
        mask: mask in the kernel's form, from transformers' mask functions.
        layout: layout of the batch, for the distances between its tokens; None for cross-attention.
        is_biased: whether the mask also adds biases.
    """

    def __init__(self, mask: Any, layout: PaddedLayout | None = None, is_biased: bool = False):
        self.mask = mask
        self.layout = layout
        self.is_biased = is_biased

    def with_bias(self, bias: RelativeAttentionBias, dtype: torch.dtype) -> "PaddedPattern":
        """The pattern whose mask also adds a bias, in the dtype of the queries, to the scores."""
        biases = bias(self.distances(), dtype, hides_later=self.mask is None)
        return PaddedPattern(add_bias(self.mask, biases), self.layout, is_biased=True)

    def distances(self) -> torch.Tensor:
        """Positions of the keys minus positions of the queries, (B or 1, T, S), counted over the real tokens.

        The mask tells which tokens are real: no query attends to padding, or to the room of a static cache for later
        tokens. A token of another sequence that stands between two tokens, with a mask of the caller, is counted, too.
        """
        assert self.layout is not None
        past_length, num_queries = self.layout.past_length, self.layout.shape[1]
        columns = torch.arange(num_queries, device=self.layout.device) + past_length
        if self.mask is None:
            return (torch.arange(past_length + num_queries, device=self.layout.device) - columns[:, None])[None]
        is_seen = self.mask if self.mask.dtype == torch.bool else self.mask > torch.finfo(self.mask.dtype).min / 2
        positions = is_seen[:, 0].any(-2).cumsum(-1)  # (B or 1, S)
        # The cache of a sliding layer has the last tokens only.
        first_key = past_length + num_queries - self.mask.shape[-1]
        first_key = first_key.clamp(min=0) if isinstance(first_key, torch.Tensor) else max(first_key, 0)
        return positions[:, None] - positions[:, columns - first_key, None]

    def blend(
        self, kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (B, H, T, D), keys and values (B, K, S, D) give (B, T, H, D) and the kernel's weights or None."""
        mask = self.mask
        if self.is_biased and (room := key.shape[2] - mask.shape[-1]):
            # A static cache has room for later tokens. Where there is no padding, the mask was not made for them.
            mask = functional.pad(mask, (0, room), value=torch.finfo(mask.dtype).min)
        return kernel(query, key, value, mask)

    def update_cache(
        self, cache: Cache, layer_idx: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add new keys and values (B, K, S, D) to a cache; returns those that the mask covers.

        A sliding layer that keeps more for assisted decoding returned all in older versions of transformers.
        """
        keys, values = cache.update(key, value, layer_idx)
        # The layers of a cache of the user may be empty.
        layer = cache.layers[layer_idx] if layer_idx < len(cache.layers) else None
        window = getattr(layer, "sliding_window", None)
        if window is None:
            return keys, values
        visible = window - 1 + key.shape[-2]
        return keys[:, :, -visible:], values[:, :, -visible:]


class FlatPattern(Movable):
    """Base class of the patterns of flat batches.

    Args:
        layout: layout of the keys.
    """

    def __init__(self, layout: FlatLayout):
        self.layout = layout

    def update_cache(
        self, cache: Cache, layer_idx: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values (1, K, N, D) to an empty cache, as padded rows; returns them unchanged, flat."""
        rows = (self.layout.repad(states.transpose(1, 2)).transpose(1, 2) for states in (key, value))
        cache.update(*rows, layer_idx)
        return key, value


class VarlenPattern(FlatPattern):
    """Pattern of a flat batch for kernels that take the lengths of the sequences."""

    def __init__(self, queries: FlatLayout, keys: FlatLayout):
        super().__init__(keys)
        self.lengths = {
            "cu_seq_lens_q": queries.cu_seq_lens,
            "cu_seq_lens_k": keys.cu_seq_lens,
            "max_length_q": queries.max_length,
            "max_length_k": keys.max_length,
        }

    def blend(
        self, kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (1, H, N, D), keys and values (1, K, M, D) give (1, N, H, D) and the kernel's weights or None."""
        if not query.shape[2]:
            # All rows are padding, and flash attention takes no empty tensors.
            return query.transpose(1, 2), None
        return kernel(query, key, value, None, **self.lengths)


class SourcePattern(Movable):
    """Pattern of a padded target and a padded source, for kernels that take the lengths of the sequences.

    With a mask of the source, transformers' flash attention would remove the same columns from the target.

    Args:
        shape: B and T of the target.
        source: layout of the real tokens of the source.
    """

    def __init__(self, shape: tuple[int, int], source: FlatLayout):
        self.source = source
        batch, length = shape
        self.lengths = {
            "cu_seq_lens_q": torch.arange(batch + 1, dtype=torch.int32, device=source.device) * length,
            "cu_seq_lens_k": source.cu_seq_lens,
            "max_length_q": length,
            "max_length_k": source.max_length,
        }

    def blend(
        self, kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (B, H, T, D), keys and values (B, K, S, D) give (B, T, H, D) and the kernel's weights or None."""
        queries = query.transpose(1, 2)
        sources: list[Any] = [self.source.unpad(states.transpose(1, 2)) for states in (key, value)]
        flat = (states.transpose(1, 2) for states in (queries.flatten(0, 1)[None], *sources))
        blended, weights = kernel(*flat, None, **self.lengths)
        return blended.reshape(*queries.shape), weights

    def update_cache(
        self, cache: Cache, layer_idx: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of the source (B, K, S, D) to a cache; returns them."""
        keys, values = cache.update(key, value, layer_idx)
        return keys, values


@dataclass
class RowGroup:
    """Rows of equal length, for one call of the kernel.

    Args:
        num_rows: R.
        length: L.
        has_blocks: whether the rows are blocks of longer sequences; the keys of a block include the neighbour blocks.
    """

    num_rows: int
    length: int
    has_blocks: bool = False


class Rows(Movable):
    """Where the tokens of a flat batch are in padded rows, for kernels that need rows.

    Args:
        layout: layout of the flat batch.
        starts: slot of the first token of each sequence, counted over all rows of all groups, (Z).
        row_groups: the groups of rows of equal length.
    """

    def __init__(self, layout: FlatLayout, starts: torch.Tensor, row_groups: list[RowGroup]):
        self.layout = layout
        self.row_groups = row_groups
        self.num_slots = sum(row_group.num_rows * row_group.length for row_group in row_groups)
        # The slot of each token, (N), and the sequence index of each slot, -1 for padding.
        slots = starts[layout.sequence_ids] + layout.offsets
        self.slot_sequences = starts.new_full((self.num_slots,), -1).index_copy(0, slots, layout.sequence_ids)
        # One group keeps the order of the sequences: without padding, no token has to be moved. While compiling, the
        # sizes are unknown.
        self.is_full = layout.sizes is not None and self.num_slots == layout.num_tokens
        self.slots = None if self.is_full and len(row_groups) == 1 else slots

    def to_rows(self, states: torch.Tensor) -> list[torch.Tensor]:
        """Convert the flat batch (1, N, …) to the row groups, (R, L, …) each, zeros for padding."""
        return self.split_groups(scatter_tokens(states, self.slots, (self.num_slots,)))

    def split_groups(self, states: torch.Tensor) -> list[torch.Tensor]:
        """Split a tensor over all slots, (num_slots, …), into the row groups, (R, L, …) each."""
        row_groups = states.split([row_group.num_rows * row_group.length for row_group in self.row_groups])
        return [
            rows.unflatten(0, (-1, row_group.length))
            for rows, row_group in zip(row_groups, self.row_groups, strict=True)
        ]

    def to_flat(self, row_groups: list[torch.Tensor]) -> torch.Tensor:
        """Convert the row groups, (R, L, …) each, to the flat batch (1, N, …)."""
        states = torch.cat([rows.flatten(0, 1) for rows in row_groups])
        return (states if self.slots is None else states.index_select(0, self.slots))[None]


class RowPattern(FlatPattern):
    """Pattern of a flat batch for kernels that take rows: one call per row group.

    Args:
        queries: rows of the queries.
        keys: rows of the keys, with as many rows in each group.
        masks: one mask per group, in the kernel's form.
        neighbours: number of blocks before and after a block whose keys it also attends to.
    """

    def __init__(self, queries: Rows, keys: Rows, masks: list[Any], neighbours: tuple[int, int] = (0, 0)):
        super().__init__(keys.layout)
        self.queries = queries
        self.keys = keys
        self.masks = masks
        self.neighbours = neighbours

    def with_bias(self, bias: RelativeAttentionBias, dtype: torch.dtype) -> "RowPattern":
        """The pattern whose masks also add a bias, in the dtype of the queries, to the scores."""
        masks = []
        for row_group, mask in zip(self.keys.row_groups, self.masks, strict=True):
            before, after = self.neighbours if row_group.has_blocks else (0, 0)
            length, device = row_group.length, self.layout.lengths.device
            queries = torch.arange(length, device=device)
            keys = torch.arange(-before * length, (1 + after) * length, device=device)
            masks.append(add_bias(mask, bias((keys - queries[:, None])[None], dtype)))
        return RowPattern(self.queries, self.keys, masks, self.neighbours)

    def blend(
        self, kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (1, H, N, D), keys and values (1, K, M, D) give (1, N, H, D), and None for the weights."""
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        blended = []
        row_groups = zip(
            self.keys.row_groups,
            self.queries.to_rows(query),
            self.keys.to_rows(key),
            self.keys.to_rows(value),
            strict=True,
        )
        for (row_group, queries, keys, values), mask in zip(row_groups, self.masks, strict=True):  # (R, L, H, D)
            if row_group.has_blocks:
                keys, values = (with_neighbours(states, *self.neighbours) for states in (keys, values))
            blended.append(kernel(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask)[0])
        return self.queries.to_flat(blended) if blended else query, None


Pattern = PaddedPattern | VarlenPattern | SourcePattern | RowPattern


def add_bias(mask: torch.Tensor | None, biases: torch.Tensor) -> torch.Tensor:
    """One float mask of both: a mask (R or 1, 1, T or 1, S), bool or float, or None; and biases (R or 1, H, T, S)."""
    if mask is None:
        return biases
    lowest = torch.finfo(biases.dtype).min
    if mask.dtype == torch.bool:
        return torch.where(mask, biases, lowest)
    return (mask + biases).clamp(min=lowest)


def with_neighbours(rows: torch.Tensor, before: int, after: int, fill: int = 0) -> torch.Tensor:
    """Concatenate each row (R, L, …) with its neighbour rows: (R, (before + 1 + after) · L, …); `fill` at the ends."""
    others = (0, 0) * (rows.dim() - 1)
    padded = functional.pad(rows, (*others, before, after), value=fill)
    numbers = torch.arange(len(rows), device=rows.device)[:, None]
    indices = numbers + torch.arange(before + 1 + after, device=rows.device)
    return padded.index_select(0, indices.flatten()).unflatten(0, indices.shape).flatten(1, 2)


def self_pattern(
    config: PreTrainedConfig,
    layout: FlatLayout,
    embeds: torch.Tensor,
    mask_function: MaskFunction,
    *,
    is_causal: bool,
    window: int | None,
) -> RowPattern:
    """The pattern of self-attention of a flat batch in rows.

    Args:
        config: configuration of the stack, with the name of the kernel.
        layout: layout of the flat batch.
        embeds: a tensor with the dtype and device of the batch.
        mask_function: transformers' mask function for this layer type.
        is_causal: whether a token attends only to itself and the tokens before it.
        window: the config's sliding_window; None: full attention.
    """
    block = None if window is None else max(window, MIN_BLOCK_SIZE)
    rows = arrange_rows(layout, group_by_length(layout.sizes), block)
    neighbours = (1, 0) if is_causal else (1, 1)
    masks = []
    for row_group, slot_sequences in zip(rows.row_groups, rows.split_groups(rows.slot_sequences), strict=True):
        if row_group.has_blocks:
            assert window is not None
            masks.append(block_mask(config, slot_sequences, embeds, window, neighbours))
        elif window is None and not is_causal:
            masks.append(padding_mask(config, slot_sequences, slot_sequences, embeds))
        else:
            # Padding is on the right, so a causal mask hides it from real tokens already.
            is_real = None if is_causal or rows.is_full else slot_sequences >= 0
            states = embeds.new_empty(*slot_sequences.shape, 0)
            arguments = {"inputs_embeds": states, "attention_mask": is_real, CACHE_NAME: None}
            masks.append(mask_function(config=config, **arguments))
    return RowPattern(rows, rows, masks, neighbours)


def cross_pattern(
    config: PreTrainedConfig, target: FlatLayout, source: FlatLayout, embeds: torch.Tensor
) -> RowPattern:
    """The pattern of cross-attention in rows: every target token attends to every token of its source."""
    sizes = None
    if target.sizes is not None and source.sizes is not None:
        sizes = [max(pair) for pair in zip(target.sizes, source.sizes, strict=True)]
    groups = group_by_length(sizes)
    queries, keys = arrange_rows(target, groups), arrange_rows(source, groups)
    slot_sequences = zip(
        queries.split_groups(queries.slot_sequences), keys.split_groups(keys.slot_sequences), strict=True
    )
    return RowPattern(queries, keys, [padding_mask(config, *each, embeds) for each in slot_sequences])


def padding_mask(
    config: PreTrainedConfig, query_sequences: torch.Tensor, key_sequences: torch.Tensor, embeds: torch.Tensor
) -> Any:
    """The mask of rows with full bidirectional attention: only padding is masked.

    Every query of a row has the same mask, so it is built for one query only, unless the kernel is flex attention.

    Args:
        config: configuration of the stack, with the name of the kernel.
        query_sequences: sequence index of each query slot, (R, T), -1 for padding.
        key_sequences: sequence index of each key slot, (R, S), -1 for padding.
        embeds: a tensor with the dtype and device of the batch.
    """
    num_queries = query_sequences.shape[1] if config._attn_implementation == "flex_attention" else 1
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=embeds.new_empty(len(query_sequences), num_queries, 0),
        attention_mask=key_sequences >= 0,
        encoder_hidden_states=embeds.new_empty(*key_sequences.shape, 0),
    )


def block_mask(
    config: PreTrainedConfig,
    slot_sequences: torch.Tensor,
    embeds: torch.Tensor,
    window: int,
    neighbours: tuple[int, int],
) -> Any:
    """The mask of blocks: a token attends to the tokens of its sequence inside the window.

    Args:
        config: configuration of the stack, with the name of the kernel.
        slot_sequences: sequence index of each slot, (R, L), -1 for padding.
        embeds: a tensor with the dtype and device of the batch.
        window: the config's sliding_window.
        neighbours: number of blocks before and after a block that its keys include.
    """
    before, after = neighbours
    first_key = -before * slot_sequences.shape[1]
    # A causal window includes the token itself, as Mistral's does; a bidirectional one does not.
    reach = window if after else window - 1

    def in_window(batch: Any, head: Any, query: Any, key: Any) -> Any:
        distance = query - (first_key + key)
        return (distance <= reach) & (distance >= -reach * after)

    keys = with_neighbours(slot_sequences, before, after, fill=-1)
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=embeds.new_empty(*slot_sequences.shape, 0),
        attention_mask=keys == slot_sequences[:, :1],
        encoder_hidden_states=embeds.new_empty(*keys.shape, 0),
        and_mask_function=in_window,
    )


def group_by_length(sizes: list[int] | None) -> list[list[int]] | None:
    """Group sequence indices by length: in a group, the longest is at most twice as long as the shortest.

    Sequences of up to SHORT_LENGTH tokens may share a group whatever their lengths. Empty sequences are in no group.
    Returns None if the lengths are unknown (`sizes` is None): one group for all.
    """
    if sizes is None:
        return None
    groups: list[list[int]] = []
    min_length = float("inf")
    for sequence in sorted((s for s, size in enumerate(sizes) if size), key=lambda s: -sizes[s]):
        if sizes[sequence] < min_length:
            groups.append([])
            min_length = sizes[sequence] / 2 if sizes[sequence] > SHORT_LENGTH else 0
        groups[-1].append(sequence)
    # Keep the order of the batch inside a group: if all lengths are equal, no token has to be moved.
    return [sorted(group) for group in groups]


def arrange_rows(layout: FlatLayout, groups: list[list[int]] | None, block: int | None = None) -> Rows:
    """Assign each sequence of a group one row, or one row per block if the longest has more than two blocks.

    Args:
        layout: layout of the flat batch.
        groups: sequence indices of each group; None: one group for all.
        block: number of tokens of a block; None: no blocks.
    """
    if groups is None or layout.sizes is None:
        starts = torch.arange(layout.num_sequences, device=layout.lengths.device) * layout.max_length
        return Rows(layout, starts, [RowGroup(layout.num_sequences, layout.max_length)])
    starts, end, row_groups = [0] * layout.num_sequences, 0, []
    for group in groups:
        group_start, longest = end, max(1, *(layout.sizes[sequence] for sequence in group))
        length = longest if block is None or longest <= 2 * block else block
        for sequence in group:
            starts[sequence] = end
            end += length * max(1, -(-layout.sizes[sequence] // length))
        row_groups.append(RowGroup((end - group_start) // length, length, has_blocks=length < longest))
    return Rows(layout, torch.tensor(starts, device=layout.lengths.device), row_groups)
