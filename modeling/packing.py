"""Layouts of a batch: padded, [B, T], or flat, the N real tokens of all sequences in one row [1, N].

Most modules work on each token separately and accept both forms. Only operations across tokens use the layout:
positions, pooling, and attention, which uses a pattern (patterns.py).

Z sequences of at most L tokens; in the padded form Z = B and L = T. Other shapes as in attention.py.
"""

import copy
import math
from typing import Any, TypeVar

import torch
from torch.nn import functional
from torch.utils._pytree import tree_map
from transformers.utils import is_tracing

Moved = TypeVar("Moved", bound="Movable")


class Movable:
    """An object that holds tensors. With a device_map, accelerate moves it to the device of each layer, like a tensor.

    Args:
        device: device of its tensors, if it is known.
    """

    device: torch.device | None = None

    def to(self: Moved, device: torch.device | str | int, **kwargs: Any) -> Moved:
        """A copy with all tensors on the device, or the object itself. accelerate calls it like Tensor.to."""
        if self.device == torch.device(device):
            return self

        def move(value: Any) -> Any:
            if isinstance(value, torch.device):
                return torch.device(device)
            return value.to(device) if hasattr(value, "to") else value

        moved = copy.copy(self)
        vars(moved).update(tree_map(move, vars(self)))
        return moved


class PaddedLayout(Movable):
    """Sequences as rows [B, T], with a mask of the real tokens.

    Args:
        shape: B and T.
        attention_mask: (B, S), 1 for real tokens; None: all are real. S > T if it also covers cached or later tokens.
        device: device of the batch.
        past_length: number of cached tokens before the input.
    """

    is_rows = True

    def __init__(
        self,
        shape: tuple[int, int],
        attention_mask: torch.Tensor | None,
        device: torch.device,
        past_length: int | torch.Tensor = 0,
    ):
        self.shape = shape
        self.device = device
        self.past_length = past_length
        self.num_sequences = shape[0]
        self.mask = None if attention_mask is None else attention_mask.bool()
        # (B, T), True for the real tokens of the input; None: all are real.
        self.is_real = None if self.mask is None else self._current_columns(self.mask)

    @property
    def has_padding(self) -> bool:
        """Whether there is padding."""
        return self.mask is not None and not bool(self.mask.all())

    @property
    def last_column_is_real(self) -> bool:
        """Whether the last column has no padding."""
        return self.is_real is None or bool(self.is_real[:, -1].all())

    @property
    def is_contiguous(self) -> bool:
        """Whether no padding stands between two real tokens of a row."""
        if self.mask is None:
            return True
        begins = self.mask & ~functional.pad(self.mask[:, :-1], (1, 0))
        return bool((begins.sum(-1) <= 1).all())

    @property
    def max_length(self) -> int:
        """Number of tokens of the longest sequence, including cached ones."""
        return self.shape[1] if self.mask is None else int(self.mask.sum(-1).max())

    def _current_columns(self, columns: torch.Tensor) -> torch.Tensor:
        """The columns of the input, (B, T), from all columns of the mask, (B, S)."""
        if isinstance(self.past_length, int):
            return columns[:, self.past_length : self.past_length + self.shape[1]]
        return columns.index_select(1, self.past_length + torch.arange(self.shape[1], device=self.device))

    def position_ids(self) -> torch.Tensor:
        """Positions (B or 1, T), counted over the real tokens, including cached ones."""
        if self.mask is None:
            return torch.arange(self.shape[1], device=self.device)[None] + self.past_length
        return self._current_columns(self.mask.long().cumsum(-1) - 1).clamp(min=0)

    def is_first(self) -> torch.Tensor:
        """Whether a token is the first of its sequence, or padding: (B or 1, T)."""
        is_first = self.position_ids() == 0
        return is_first if self.is_real is None else is_first | ~self.is_real

    def unpad(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """Convert from the caller's form to the layout's: no change."""
        return tensor

    def repad(self, tensor: torch.Tensor) -> torch.Tensor:
        """Convert from the layout's form to the caller's: no change."""
        return tensor

    def shift_left(self, tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """The next value for each token of `tensor` (B, T); `fill` at the end of each sequence. (B, T)."""
        shifted = functional.pad(self.fill_padding(tensor, fill)[:, 1:], (0, 1), value=fill)
        return self.fill_padding(shifted, fill)

    def fill_padding(self, tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """Convert labels from the caller's form (B, T) to the layout's, with `fill` for padding.

        Raises:
            ValueError: the labels have another shape.
        """
        check_label_shape(tensor, self.shape)
        tensor = tensor.to(self.device)
        return tensor if self.is_real is None else tensor.masked_fill(~self.is_real, fill)

    def first(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The first real token of each sequence: (B, T, E) to (B, E), zeros for an empty sequence."""
        if self.is_real is None:
            return hidden_states[:, 0]
        return self._pick(hidden_states, self.is_real.int().argmax(-1))

    def last(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The last real token of each sequence: (B, T, E) to (B, E), zeros for an empty sequence."""
        if self.is_real is None:
            return hidden_states[:, -1]
        return self._pick(hidden_states, self.shape[1] - 1 - self.is_real.flip(-1).int().argmax(-1))

    def last_marked(self, hidden_states: torch.Tensor, is_marked: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence with is_marked (B, T), or the last real one: (B, T, E) to (B, E)."""
        is_marked = is_marked if self.is_real is None else is_marked & self.is_real
        index = self.shape[1] - 1 - is_marked.flip(-1).int().argmax(-1)
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        return torch.where(is_marked.any(-1, keepdim=True), hidden_states[rows, index], self.last(hidden_states))

    def mean(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The mean over the real tokens of each sequence: (B, T, E) to (B, E), zeros for an empty sequence."""
        if self.is_real is None:
            return hidden_states.mean(1)
        # In half precision a sum may be too large, or lose small terms.
        states = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32))
        weights = self.is_real.to(states.dtype)
        means = torch.einsum("bte,bt->be", states, weights) / weights.sum(-1, keepdim=True).clamp(min=1)
        return means.to(hidden_states.dtype)

    def _pick(self, hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        assert self.is_real is not None
        # len() would make the batch size a constant in a compiled graph with dynamic shapes.
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        return hidden_states[rows, index] * self.is_real.any(-1, keepdim=True).to(hidden_states.dtype)


class FlatLayout(Movable):
    """The real tokens of Z sequences, concatenated in one row [1, N].

    Args:
        lengths: number of tokens of each sequence, (Z).
        max_length: the maximum of lengths, L.
        shape: B and T of the caller's form.
        num_tokens: the sum of lengths, N.
        indices: (N), index of each token in the flattened B · T of the caller; None if there is no padding.
        sizes: lengths as a list of ints; None while compiling, where the lengths are dynamic.
        is_rows: whether each sequence is a row of the caller's batch.
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
        self.device = lengths.device
        self.lengths = lengths
        self.max_length = max_length
        self.shape = shape
        self.num_tokens = num_tokens
        self.indices = indices
        self.sizes = sizes
        self.num_sequences = len(lengths)
        # Start of each sequence, and N at the end, (Z + 1): int32, as the kernels require.
        self.cu_seq_lens = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
        # For each token, (N): the index of its sequence, and its offset in that sequence.
        sequence_numbers = torch.arange(len(lengths), device=lengths.device)
        self.sequence_ids = sequence_numbers.repeat_interleave(lengths, output_size=num_tokens)
        self.offsets = torch.arange(num_tokens, device=lengths.device) - self.cu_seq_lens[self.sequence_ids]

    @classmethod
    def from_padded(cls, layout: PaddedLayout) -> "FlatLayout":
        """The layout of the real tokens of a padded batch."""
        all_real = torch.ones(layout.shape, dtype=torch.bool, device=layout.device)
        return cls.from_mask(all_real if layout.mask is None else layout.mask)

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor) -> "FlatLayout":
        """The layout of the real tokens of a padded batch; attention_mask (B, T) is True for them."""
        lengths = attention_mask.sum(-1)
        sizes = lengths.tolist()
        is_full = sum(sizes) == attention_mask.numel()
        indices = None if is_full else attention_mask.flatten().nonzero().flatten()
        return cls(lengths, max(sizes), tuple(attention_mask.shape), sum(sizes), indices, sizes, is_rows=True)

    @classmethod
    def from_cu_seq_lens(
        cls, cu_seq_lens: torch.Tensor, max_length: int | None, shape: tuple[int, int]
    ) -> "FlatLayout":
        """The layout of rows (B, T) without padding, with sequences that start at cu_seq_lens (Z + 1).

        Raises:
            ValueError: cu_seq_lens does not fit the number of tokens; or max_length is None while compiling.
        """
        lengths, num_tokens = torch.diff(cu_seq_lens).long(), shape[0] * shape[1]
        if torch.compiler.is_compiling():
            if max_length is None:
                raise ValueError("a compiled model cannot compute max_length_q from cu_seq_lens_q: give both")
            return cls(lengths, max_length, shape, num_tokens)
        sizes = lengths.tolist()
        if sum(sizes) != num_tokens or min(sizes) < 0 or cu_seq_lens[0] != 0:
            raise ValueError(
                f"cu_seq_lens_q={cu_seq_lens.tolist()} must rise from 0 to {num_tokens}, the tokens given"
            )
        return cls(lengths, max(sizes), shape, num_tokens, None, sizes)

    @classmethod
    def from_position_ids(cls, position_ids: torch.Tensor) -> "FlatLayout":
        """The layout of rows (B, T) without padding; a sequence starts where a position is not the previous + 1."""
        is_start = torch.ones_like(position_ids, dtype=torch.bool)
        is_start[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
        starts = is_start.flatten().nonzero().flatten()
        cu_seq_lens = torch.cat((starts, starts.new_tensor([position_ids.numel()])))
        return cls.from_cu_seq_lens(cu_seq_lens, None, tuple(position_ids.shape))

    def position_ids(self) -> torch.Tensor:
        """Positions (1, N). With cached tokens, a batch is never flat."""
        return self.offsets[None]

    def is_first(self) -> torch.Tensor:
        """Whether a token is the first of its sequence: (1, N)."""
        return self.position_ids() == 0

    def unpad(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """Convert from the caller's form (B or 1, T, …) to the layout's (1, N, …).

        Raises:
            ValueError: the tensor has another shape.
        """
        if tensor is None:
            return None
        if tuple(tensor.shape[:2]) not in (self.shape, (1, self.shape[1])):
            raise ValueError(
                f"labels, token_type_ids and position_ids must have the input's shape {self.shape}, "
                f"got {tuple(tensor.shape)}"
            )
        tokens = tensor.to(self.device).expand(self.shape[0], *tensor.shape[1:]).flatten(0, 1)
        return (tokens if self.indices is None else tokens.index_select(0, self.indices))[None]

    def repad(self, tensor: torch.Tensor) -> torch.Tensor:
        """Convert from the layout's form (1, N, …) to the caller's (B, T, …), zeros for padding."""
        return scatter_tokens(tensor, self.indices, self.shape)

    def fill_padding(self, tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """Convert labels from the caller's form (B, T) to the layout's (1, N), which has no padding to fill.

        Raises:
            ValueError: the labels have another shape.
        """
        check_label_shape(tensor, self.shape)
        tokens = self.unpad(tensor)
        assert tokens is not None
        return tokens

    def shift_left(self, tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """The next value for each token of `tensor` (B, T); `fill` at the end of each sequence. (1, N)."""
        check_label_shape(tensor, self.shape)
        tensor = tensor.to(self.device)
        if self.indices is not None:
            # Padding between the tokens of a row has no label.
            tokens = tensor.flatten().index_select(0, self.indices)
            tensor = tensor.new_full((tensor.numel(),), fill).index_copy_(0, self.indices, tokens).view(self.shape)
        shifted = self.unpad(functional.pad(tensor[:, 1:], (0, 1), value=fill))
        assert shifted is not None
        is_last = self.offsets + 1 == self.lengths[self.sequence_ids]
        return shifted.masked_fill(is_last, fill)

    def first(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The first token of each sequence: (1, N, E) to (Z, E), zeros for an empty sequence."""
        return self._pick(hidden_states, self.cu_seq_lens[:-1].long())

    def last(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence: (1, N, E) to (Z, E), zeros for an empty sequence."""
        return self._pick(hidden_states, self.cu_seq_lens[1:].long() - 1)

    def last_marked(self, hidden_states: torch.Tensor, is_marked: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence with is_marked (1, N), or its last token: (1, N, E) to (Z, E)."""
        indices = torch.arange(self.num_tokens, device=is_marked.device).masked_fill(~is_marked[0], -1)
        index = indices.new_full((self.num_sequences,), -1).scatter_reduce(0, self.sequence_ids, indices, "amax")
        return self._pick(hidden_states, torch.where(index < 0, self.cu_seq_lens[1:] - 1, index))

    def mean(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of each sequence: (1, N, E) to (Z, E), zeros for an empty sequence."""
        # In half precision a sum may be too large, or lose small terms.
        states = hidden_states[0].to(torch.promote_types(hidden_states.dtype, torch.float32))
        sums = states.new_zeros(self.num_sequences, states.shape[-1]).index_add(0, self.sequence_ids, states)
        return (sums / self.lengths.clamp(min=1)[:, None]).to(hidden_states.dtype)

    def _pick(self, hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        if not self.num_tokens:
            return hidden_states.new_zeros(self.num_sequences, hidden_states.shape[-1])
        index = index.clamp(min=0, max=self.num_tokens - 1)
        return hidden_states[0, index] * (self.lengths > 0)[:, None].to(hidden_states.dtype)


Layout = PaddedLayout | FlatLayout


def is_traced(tensor: torch.Tensor | None = None) -> bool:
    """Whether Python code cannot depend on tensor values, because the model is compiled, traced or captured.

    Args:
        tensor: of the batch, to recognize a FakeTensor, which has no values.
    """
    # First what torch.compile knows to be true; the rest of is_tracing may break its graph.
    return torch.compiler.is_compiling() or bool(is_tracing(tensor))


def as_padding_mask(attention_mask: Any) -> torch.Tensor | None:
    """The attention mask if it is a mask of real tokens (B, S); None for no mask or one from the mask functions.

    Raises:
        ValueError: a tensor with neither two nor four dimensions.
    """
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dim() == 4:
        return None
    if attention_mask.dim() != 2:
        raise ValueError(f"attention_mask has shape {tuple(attention_mask.shape)}, not (B, S) or (B, 1, T, S)")
    return attention_mask


def check_label_shape(labels: torch.Tensor, shape: tuple[int, int]) -> None:
    """Raises ValueError for labels of another shape than (B, T): those of one row would be those of every row."""
    if tuple(labels.shape) != tuple(shape):
        raise ValueError(f"labels must have the input's shape {tuple(shape)}, got {tuple(labels.shape)}")


def scatter_tokens(tensor: torch.Tensor, indices: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor:
    """Write tokens (1, N, …) to their indices (N) in zeros (*shape, …); indices None: they fill the shape in order."""
    tokens = tensor[0]
    if indices is not None:
        # In place, because index_copy would first copy the zeros.
        tokens = tokens.new_zeros(math.prod(shape), *tokens.shape[1:]).index_copy_(0, indices, tokens)
    return tokens.view(*shape, *tokens.shape[1:])
