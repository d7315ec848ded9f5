"""Where the tokens of a batch are: padded, [B, T], or flat, the N real tokens of all sequences in one row [1, N].

Everything between the door of a model and its outputs works on either form without asking which. Only what looks
across tokens does ask its layout: positions, pooling, and attention, by way of a pattern (patterns.py).

S sequences of at most L tokens; in the padded form S = B and L = T. Other letters as in attention.py.
"""

import math
from typing import Any

import torch
from torch.nn import functional


class PaddedLayout:
    """Sequences as rows [B, T], real tokens marked by a mask.

    Args:
        shape: B and T.
        attention_mask: (B, S) with 1 for real tokens, S ≥ T where there are some in a cache or to come; None: all are.
        device: where the batch is.
        seen: tokens before these, in a cache.
    """

    is_rows = True

    def __init__(
        self,
        shape: tuple[int, int],
        attention_mask: torch.Tensor | None,
        device: torch.device,
        seen: int | torch.Tensor = 0,
    ):
        self.shape = shape
        self.device = device
        self.seen = seen
        self.num_sequences = shape[0]
        self.mask = None if attention_mask is None else attention_mask.bool()
        # Of the tokens given, which are real; None: all.
        self._real = None if self.mask is None else self._given(self.mask)

    @property
    def has_padding(self) -> bool:
        """Whether there are places without a token."""
        return self.mask is not None and not bool(self.mask.all())

    @property
    def ends_in_tokens(self) -> bool:
        """Whether there is no padding in the last column."""
        return self._real is None or bool(self._real[:, -1].all())

    @property
    def max_length(self) -> int:
        """Tokens of the longest sequence, with those in the cache."""
        return self.shape[1] if self.mask is None else int(self.mask.sum(-1).max())

    def _given(self, columns: torch.Tensor) -> torch.Tensor:
        """Of all columns of the mask (B, S) those of the tokens given, (B, T)."""
        if isinstance(self.seen, int):
            return columns[:, self.seen : self.seen + self.shape[1]]
        return columns.index_select(1, self.seen + torch.arange(self.shape[1], device=self.device))

    def position_ids(self) -> torch.Tensor:
        """Positions (B or 1, T) after the tokens of a cache: counted over real tokens, wherever padding is."""
        if self.mask is None:
            return torch.arange(self.shape[1], device=self.device)[None] + self.seen
        return self._given(self.mask.long().cumsum(-1) - 1).clamp(min=0)

    def unpad(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """From the caller's form to the model's: the same."""
        return tensor

    def repad(self, tensor: torch.Tensor) -> torch.Tensor:
        """From the model's form to the caller's: the same."""
        return tensor

    def following(self, tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """For each token of the caller's (B, T) what stands after it, `fill` at the end and for padding."""
        after = functional.pad(tensor[:, 1:], (0, 1), value=fill)
        return after if self._real is None else after.masked_fill(~self._real, fill)

    def first(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The first real token of each sequence: (B, T, E) to (B, E), zeros where there is none."""
        if self._real is None:
            return hidden_states[:, 0]
        return self._pick(hidden_states, self._real.int().argmax(-1))

    def last(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The last real token of each sequence: (B, T, E) to (B, E), zeros where there is none."""
        if self._real is None:
            return hidden_states[:, -1]
        return self._pick(hidden_states, self.shape[1] - 1 - self._real.flip(-1).int().argmax(-1))

    def last_marked(self, hidden_states: torch.Tensor, is_marked: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence that is marked in (B, T), or the last of all: (B, T, E) to (B, E)."""
        is_marked = is_marked if self._real is None else is_marked & self._real
        index = self.shape[1] - 1 - is_marked.flip(-1).int().argmax(-1)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        return torch.where(is_marked.any(-1, keepdim=True), hidden_states[rows, index], self.last(hidden_states))

    def mean(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The mean over the real tokens of each sequence: (B, T, E) to (B, E), zeros where there is none."""
        if self._real is None:
            return hidden_states.mean(1)
        weights = self._real.to(hidden_states.dtype)
        return torch.einsum("bte,bt->be", hidden_states, weights) / weights.sum(-1, keepdim=True).clamp(min=1)

    def _pick(self, hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        assert self._real is not None
        # Not len(), which would fix the number in a graph that is to hold for others.
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        return hidden_states[rows, index] * self._real.any(-1, keepdim=True).to(hidden_states.dtype)


class FlatLayout:
    """The real tokens of S sequences one after the other in one row [1, N].

    Args:
        lengths: tokens of each sequence, (S).
        max_length: the greatest of them, L.
        shape: B and T of the caller's form.
        num_tokens: their sum, N.
        indices: (N), each token's place in the caller's B · T; None where the caller's tokens are all real.
        sizes: the lengths as numbers; None in a graph that is to hold for others, too.
        is_rows: each sequence is a row of the caller's.
    """

    def __init__(
        self,
        lengths: torch.Tensor,
        max_length: int,
        shape: tuple[int, int],
        num_tokens: int,
        indices: torch.Tensor | None = None,
        sizes: list[int] | None = None,
        is_rows: bool = False,
    ):
        self.is_rows = is_rows
        self.lengths = lengths
        self.max_length = max_length
        self.shape = shape
        self.num_tokens = num_tokens
        self.indices = indices
        self.sizes = sizes
        self.num_sequences = len(lengths)
        # Where each sequence begins, and N, (S + 1): int32, as the kernels want it.
        self.cu_seq_lens = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        # Of each token, (N): its sequence and its place in that.
        names = torch.arange(len(lengths), device=lengths.device)
        self.sequence_ids = names.repeat_interleave(lengths, output_size=num_tokens)
        self.offsets = torch.arange(num_tokens, device=lengths.device) - self.cu_seq_lens[self.sequence_ids]

    @classmethod
    def from_padded(cls, layout: PaddedLayout) -> "FlatLayout":
        """The layout of the real tokens of a padded batch."""
        everything = torch.ones(layout.shape, dtype=torch.bool, device=layout.device)
        return cls.from_mask(everything if layout.mask is None else layout.mask)

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor) -> "FlatLayout":
        """The layout of the real tokens of a padded batch; attention_mask (B, T) has True for them."""
        lengths = attention_mask.sum(-1)
        sizes = lengths.tolist()
        full = sum(sizes) == attention_mask.numel()
        indices = None if full else attention_mask.flatten().nonzero().flatten()
        return cls(lengths, max(sizes), tuple(attention_mask.shape), sum(sizes), indices, sizes, is_rows=True)

    @classmethod
    def from_cu_seq_lens(
        cls, cu_seq_lens: torch.Tensor, max_length: int | None, shape: tuple[int, int]
    ) -> "FlatLayout":
        """The layout of rows (B, T) without padding in which sequences begin at cu_seq_lens (S + 1).

        Raises:
            ValueError: they are of other tokens; or the longest is not told in a graph that is to hold for others.
        """
        lengths, num_tokens = torch.diff(cu_seq_lens).long(), shape[0] * shape[1]
        if torch.compiler.is_compiling():
            if max_length is None:
                raise ValueError("a compiled model cannot tell max_length_q from cu_seq_lens_q: give both")
            return cls(lengths, max_length, shape, num_tokens)
        sizes = lengths.tolist()
        if sum(sizes) != num_tokens or min(sizes) < 0 or cu_seq_lens[0] != 0:
            raise ValueError(
                f"cu_seq_lens_q={cu_seq_lens.tolist()} must rise from 0 to {num_tokens}, the tokens given"
            )
        return cls(lengths, max(sizes), shape, num_tokens, None, sizes)

    @classmethod
    def from_position_ids(cls, position_ids: torch.Tensor) -> "FlatLayout":
        """The layout of rows (B, T) without padding in which a sequence begins where positions do not go on."""
        begins = torch.ones_like(position_ids, dtype=torch.bool)
        begins[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
        begin = begins.flatten().nonzero().flatten()
        cu_seq_lens = torch.cat((begin, begin.new_tensor([position_ids.numel()])))
        return cls.from_cu_seq_lens(cu_seq_lens, None, tuple(position_ids.shape))

    def position_ids(self) -> torch.Tensor:
        """Positions (1, N). There is no flat form with tokens in a cache."""
        return self.offsets[None]

    def unpad(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """From the caller's form (B or 1, T, …) to the model's (1, N, …).

        Raises:
            ValueError: it has another shape.
        """
        if tensor is None:
            return None
        if tuple(tensor.shape[:2]) not in (self.shape, (1, self.shape[1])):
            raise ValueError(
                f"labels, token_type_ids and position_ids have the input's shape {self.shape}, "
                f"got {tuple(tensor.shape)}"
            )
        tokens = tensor.expand(self.shape[0], *tensor.shape[1:]).flatten(0, 1)
        return (tokens if self.indices is None else tokens.index_select(0, self.indices))[None]

    def repad(self, tensor: torch.Tensor) -> torch.Tensor:
        """From the model's form (1, N, …) to the caller's (B, T, …), zeros for padding."""
        return scatter(tensor, self.indices, self.shape)

    def following(self, tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """For each token of the caller's (B, T) what stands after it, `fill` at a sequence's end; (1, N)."""
        after = self.unpad(functional.pad(tensor[:, 1:], (0, 1), value=fill))
        assert after is not None
        is_last = self.offsets + 1 == self.lengths[self.sequence_ids]
        return after.masked_fill(is_last, fill)

    def first(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The first token of each sequence: (1, N, E) to (S, E), zeros where there is none."""
        return self._pick(hidden_states, self.cu_seq_lens[:-1].long())

    def last(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence: (1, N, E) to (S, E), zeros where there is none."""
        return self._pick(hidden_states, self.cu_seq_lens[1:].long() - 1)

    def last_marked(self, hidden_states: torch.Tensor, is_marked: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence that is marked in (1, N), or the last of all: (1, N, E) to (S, E)."""
        places = torch.arange(self.num_tokens, device=is_marked.device).masked_fill(~is_marked[0], -1)
        index = places.new_full((self.num_sequences,), -1).scatter_reduce(0, self.sequence_ids, places, "amax")
        return self._pick(hidden_states, torch.where(index < 0, self.cu_seq_lens[1:] - 1, index))

    def mean(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of each sequence: (1, N, E) to (S, E), zeros where there is none."""
        sums = hidden_states.new_zeros(self.num_sequences, hidden_states.shape[-1])
        sums = sums.index_add(0, self.sequence_ids, hidden_states[0])
        return sums / self.lengths.clamp(min=1)[:, None].to(hidden_states.dtype)

    def _pick(self, hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        if not self.num_tokens:
            return hidden_states.new_zeros(self.num_sequences, hidden_states.shape[-1])
        index = index.clamp(min=0, max=self.num_tokens - 1)
        return hidden_states[0, index] * (self.lengths > 0)[:, None].to(hidden_states.dtype)


Layout = PaddedLayout | FlatLayout


def is_traced() -> bool:
    """Whether a graph is being made, that is to hold for other values: they cannot be looked at."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def padding_of(attention_mask: Any) -> torch.Tensor | None:
    """A mask (B, S) of real tokens as it is; None for none, and for one that the mask functions made.

    Raises:
        ValueError: a tensor that is of neither two dimensions nor four.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dim() == 4:
        return None
    if attention_mask.dim() != 2:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, not (B, S) or (B, 1, T, S)")
    return attention_mask


def scatter(tensor: torch.Tensor, places: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor:
    """Put the tokens (1, N, …) at their places (N) in (*shape, …), zeros elsewhere; None: they fill it in order."""
    tokens = tensor[0]
    if places is not None:
        # In place: index_copy would copy all the zeros first.
        tokens = tokens.new_zeros(math.prod(shape), *tokens.shape[1:]).index_copy_(0, places, tokens)
    return tokens.view(*shape, *tokens.shape[1:])
