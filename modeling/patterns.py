"""Who attends to whom in a batch, and how a kernel is told: the only place where padding comes back, in q, k and v.

A pattern is made once in a forward for each type of layer and handed to all layers. A kernel is a function of
transformers' attention interface with everything filled in but queries, keys, values and mask. Letters as in
attention.py; R rows of L places.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask

from .packing import FlatLayout, scatter

Kernel = Callable[..., tuple[torch.Tensor, torch.Tensor | None]]
MaskFunction = Callable[..., Any]

# Sequences of no more tokens than this are not told apart by length: what their padding costs is too little.
SHORT = 16
# A window is cut into blocks of no fewer tokens than this: many small products are slower than a few larger ones.
SMALLEST_BLOCK = 32


class PaddedPattern:
    """A padded batch is given to the kernel as it is.

    Args:
        mask: in the kernel's own form, from transformers' mask functions.
    """

    def __init__(self, mask: Any):
        self.mask = mask

    def blend(
        self, kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (B, H, T, D), keys and values (B, K, S, D) give (B, T, H, D) and, if the kernel does, weights."""
        return kernel(query, key, value, self.mask)

    def remember(
        self, cache: Cache, layer_idx: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add new keys and values (B, K, S, D) to a cache; returns those to blend, all that are in it."""
        return cache.update(key, value, layer_idx)


class FlatPattern:
    """What the patterns of flat batches share.

    Args:
        layout: of the keys.
    """

    def __init__(self, layout: FlatLayout):
        self.layout = layout

    def remember(
        self, cache: Cache, layer_idx: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the first keys and values (1, K, N, D) to a cache, as rows; returns those to blend, as they are."""
        rows = (self.layout.repad(states.transpose(1, 2)).transpose(1, 2) for states in (key, value))
        cache.update(*rows, layer_idx)
        return key, value


class VarlenPattern(FlatPattern):
    """A flat batch is given as it is to a kernel that is told the sequences' lengths."""

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
        """Queries (1, H, N, D), keys and values (1, K, M, D) give (1, N, H, D) and, if the kernel does, weights."""
        return kernel(query, key, value, None, **self.lengths)


@dataclass
class Piece:
    """Rows of equal length that a kernel is given at once.

    Args:
        num_rows: R.
        length: L.
        is_cut: they are blocks of longer sequences, each of which has its neighbours as keys, too.
    """

    num_rows: int
    length: int
    is_cut: bool = False


class Rows:
    """The tokens of a flat batch in rows, for kernels that know no other form.

    Args:
        layout: of the flat batch.
        begins: where each sequence begins among all places of all rows, (S).
        pieces: the rows.
    """

    def __init__(self, layout: FlatLayout, begins: torch.Tensor, pieces: list[Piece]):
        self.layout = layout
        self.pieces = pieces
        self.num_places = sum(piece.num_rows * piece.length for piece in pieces)
        # Of each token its place, (N), and of each place the sequence it is of, -1 for padding.
        places = begins[layout.sequence_ids] + layout.offsets
        self.owners = begins.new_full((self.num_places,), -1).index_copy(0, places, layout.sequence_ids)
        # One piece keeps the order of the sequences: without padding there is nothing to move. A graph that is to
        # hold for other lengths does not ask.
        self.is_full = layout.sizes is not None and self.num_places == layout.num_tokens
        self.places = None if self.is_full and len(pieces) == 1 else places

    def spread(self, states: torch.Tensor) -> list[torch.Tensor]:
        """From the batch (1, N, …) to the pieces (R, L, …), zeros for padding."""
        return self.divide(scatter(states, self.places, (self.num_places,)))

    def divide(self, states: torch.Tensor) -> list[torch.Tensor]:
        """From all places, one after the other, to the pieces (R, L, …)."""
        pieces = states.split([piece.num_rows * piece.length for piece in self.pieces])
        return [rows.unflatten(0, (-1, piece.length)) for rows, piece in zip(pieces, self.pieces, strict=True)]

    def collect(self, pieces: list[torch.Tensor]) -> torch.Tensor:
        """From the pieces (R, L, …) to the batch (1, N, …)."""
        states = torch.cat([rows.flatten(0, 1) for rows in pieces])
        return (states if self.places is None else states.index_select(0, self.places))[None]


class RowPattern(FlatPattern):
    """A flat batch is given to the kernel in rows, piece by piece.

    Args:
        queries: their rows.
        keys: their rows, as many in each piece.
        masks: one a piece, in the kernel's own form.
        neighbours: how many blocks before and after a block are its keys, too.
    """

    def __init__(self, queries: Rows, keys: Rows, masks: list[Any], neighbours: tuple[int, int] = (0, 0)):
        super().__init__(keys.layout)
        self.queries = queries
        self.keys = keys
        self.masks = masks
        self.neighbours = neighbours

    def blend(
        self, kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Queries (1, H, N, D), keys and values (1, K, M, D) give (1, N, H, D), and no weights."""
        query, key, value = (states.transpose(1, 2) for states in (query, key, value))
        blended = []
        pieces = zip(
            self.keys.pieces, self.queries.spread(query), self.keys.spread(key), self.keys.spread(value), strict=True
        )
        for (piece, queries, keys, values), mask in zip(pieces, self.masks, strict=True):  # (R, L, H, D)
            if piece.is_cut:
                keys, values = (with_neighbours(states, *self.neighbours) for states in (keys, values))
            blended.append(kernel(queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2), mask)[0])
        return self.queries.collect(blended) if blended else query, None


Pattern = PaddedPattern | VarlenPattern | RowPattern


def with_neighbours(rows: torch.Tensor, before: int, after: int, fill: int = 0) -> torch.Tensor:
    """Each row (R, L, …) between those before and after it, (R, (before + 1 + after) · L, …); `fill` at the ends."""
    others = (0, 0) * (rows.dim() - 1)
    padded = functional.pad(rows, (*others, before, after), value=fill)
    numbers = torch.arange(len(rows), device=rows.device)[:, None]
    wanted = numbers + torch.arange(before + 1 + after, device=rows.device)
    return padded.index_select(0, wanted.flatten()).unflatten(0, wanted.shape).flatten(1, 2)


def self_pattern(
    config: PreTrainedConfig,
    layout: FlatLayout,
    embeds: torch.Tensor,
    mask_function: MaskFunction,
    *,
    is_causal: bool,
    window: int | None,
) -> RowPattern:
    """The pattern of self-attention in rows.

    Args:
        config: of the stack; it names the kernel.
        layout: of the flat batch.
        embeds: of the batch's dtype and device.
        mask_function: transformers' own for this type of layer.
        is_causal: a token sees only itself and those before it.
        window: how far it sees, as the config says it; None: to the ends of its sequence.
    """
    block = None if window is None else max(window, SMALLEST_BLOCK)
    rows = arranged(layout, similar(layout.sizes), block)
    neighbours = (1, 0) if is_causal else (1, 1)
    masks = []
    for piece, owners in zip(rows.pieces, rows.divide(rows.owners), strict=True):
        if piece.is_cut:
            assert window is not None
            masks.append(block_mask(config, owners, embeds, window, neighbours))
        elif window is None and not is_causal:
            masks.append(padding_mask(config, owners, owners, embeds))
        else:
            # Padding stands after the tokens: what is masked anyway where a token sees only those before it.
            is_real = None if is_causal or rows.is_full else owners >= 0
            states = embeds.new_empty(*owners.shape, 0)
            arguments = {"inputs_embeds": states, "attention_mask": is_real, "past_key_values": None}
            masks.append(mask_function(config=config, **arguments))
    return RowPattern(rows, rows, masks, neighbours)


def cross_pattern(
    config: PreTrainedConfig, target: FlatLayout, source: FlatLayout, embeds: torch.Tensor
) -> RowPattern:
    """The pattern of cross-attention in rows: every token of a target sees every token of its source."""
    sizes = None
    if target.sizes is not None and source.sizes is not None:
        sizes = [max(pair) for pair in zip(target.sizes, source.sizes, strict=True)]
    groups = similar(sizes)
    queries, keys = arranged(target, groups), arranged(source, groups)
    owners = zip(queries.divide(queries.owners), keys.divide(keys.owners), strict=True)
    return RowPattern(queries, keys, [padding_mask(config, *each, embeds) for each in owners])


def padding_mask(config: PreTrainedConfig, asking: torch.Tensor, asked: torch.Tensor, embeds: torch.Tensor) -> Any:
    """What rows that see all of a sequence may see; asking (R, T) and asked (R, S) are the sequences of their places.

    All queries of a row see the same, so that where the kernel allows it the mask is made for one of them.
    """
    num_queries = asking.shape[1] if config._attn_implementation == "flex_attention" else 1
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=embeds.new_empty(len(asking), num_queries, 0),
        attention_mask=asked >= 0,
        encoder_hidden_states=embeds.new_empty(*asked.shape, 0),
    )


def block_mask(
    config: PreTrainedConfig, owners: torch.Tensor, embeds: torch.Tensor, window: int, neighbours: tuple[int, int]
) -> Any:
    """What blocks may see of themselves and their neighbours; owners (R, L) are the sequences of their places."""
    before, after = neighbours
    first_key = -before * owners.shape[1]
    # A causal window counts the token itself, as Mistral's does, a bidirectional one does not.
    reach = window if after else window - 1

    def in_window(batch: Any, head: Any, query: Any, key: Any) -> Any:
        distance = query - (first_key + key)
        return (distance <= reach) & (distance >= -reach * after)

    keys = with_neighbours(owners, before, after, fill=-1)
    return create_bidirectional_mask(
        config=config,
        inputs_embeds=embeds.new_empty(*owners.shape, 0),
        attention_mask=keys == owners[:, :1],
        encoder_hidden_states=embeds.new_empty(*keys.shape, 0),
        and_mask_function=in_window,
    )


def similar(sizes: list[int] | None) -> list[list[int]] | None:
    """Sequences in groups in which none has less than half of the tokens of another, but for the short ones.

    A sequence without tokens is in no group. None: the lengths are not known, and all go together.
    """
    if sizes is None:
        return None
    groups: list[list[int]] = []
    least = float("inf")
    for sequence in sorted((s for s, size in enumerate(sizes) if size), key=lambda s: -sizes[s]):
        if sizes[sequence] < least:
            groups.append([])
            least = sizes[sequence] / 2 if sizes[sequence] > SHORT else 0
        groups[-1].append(sequence)
    # Inside a group as in the batch: where all have one length, nothing has to be moved.
    return [sorted(group) for group in groups]


def arranged(layout: FlatLayout, groups: list[list[int]] | None, block: int | None = None) -> Rows:
    """Give each sequence of a group a row; or, where the longest has more than two blocks, blocks as rows."""
    if groups is None or layout.sizes is None:
        begins = torch.arange(layout.num_sequences, device=layout.lengths.device) * layout.max_length
        return Rows(layout, begins, [Piece(layout.num_sequences, layout.max_length)])
    starts, end, pieces = [0] * layout.num_sequences, 0, []
    for group in groups:
        begin, longest = end, max(1, *(layout.sizes[sequence] for sequence in group))
        length = longest if block is None or longest <= 2 * block else block
        for sequence in group:
            starts[sequence] = end
            end += length * max(1, -(-layout.sizes[sequence] // length))
        pieces.append(Piece((end - begin) // length, length, is_cut=length < longest))
    return Rows(layout, torch.tensor(starts, device=layout.lengths.device), pieces)
