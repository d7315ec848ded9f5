"""Where the tokens of a batch are: padded, [B, T], or flat, the N real tokens of all sequences in one row [1, N].

Everything between the door of a model and its outputs works on either form without asking which. Only what looks
across tokens does ask its layout: positions, attention and pooling.

S sequences of at most L tokens; in the padded form S = B and L = T. Other letters as in attention.py.
"""

from typing import Any

import torch
from torch.nn import functional


class PaddedLayout:
    """Sequences as rows [B, T], real tokens marked by a mask.

    Args:
        shape: B and T.
        attention_mask: (B, S) with 1 for real tokens, S ≥ T where a cache holds earlier ones; None when all are real.
        device: where the batch is.
    """

    is_flat = False
    varlen_kernel = False

    def __init__(self, shape: tuple[int, int], attention_mask: torch.Tensor | None, device: torch.device):
        self.shape = shape
        self.device = device
        self.row_mask = None if attention_mask is None else attention_mask.bool()
        self.row_shape = shape
        # Of the tokens given, without those in the cache, which are real; None: all.
        self._real = None if self.row_mask is None else self.row_mask[:, -shape[1] :]

    def position_ids(self, seen: int | torch.Tensor) -> torch.Tensor:
        """Positions (B or 1, T) after the `seen` tokens of a cache: counted over real tokens, wherever padding is."""
        if self.row_mask is None:
            return torch.arange(self.shape[1], device=self.device)[None] + seen
        positions = self.row_mask.long().cumsum(-1) - 1
        return positions[:, -self.shape[1] :].clamp(min=0)

    def unpad(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """From the caller's form to the model's: the same."""
        return tensor

    def repad(self, tensor: torch.Tensor) -> torch.Tensor:
        """From the model's form to the caller's: the same."""
        return tensor

    def to_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """From the model's form to one row a sequence: the same."""
        return tensor

    def from_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """From one row a sequence to the model's form: the same."""
        return tensor

    def attention_kwargs(self, key_layout: "Layout") -> dict[str, Any]:
        """What a kernel needs to know besides the mask: nothing."""
        return {}

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

    def mean(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The mean over the real tokens of each sequence: (B, T, E) to (B, E), zeros where there is none."""
        if self._real is None:
            return hidden_states.mean(1)
        weights = self._real.to(hidden_states.dtype)
        return torch.einsum("bte,bt->be", hidden_states, weights) / weights.sum(-1, keepdim=True).clamp(min=1)

    def _pick(self, hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        assert self._real is not None
        rows = torch.arange(len(hidden_states), device=hidden_states.device)
        return hidden_states[rows, index] * self._real.any(-1, keepdim=True).to(hidden_states.dtype)


class FlatLayout:
    """The real tokens of S sequences one after the other in one row [1, N].

    Args:
        cu_seq_lens: (S + 1), where each sequence begins, and N.
        max_length: the longest sequence, L.
        shape: B and T of the caller's form.
        indices: (N), each token's place in the caller's B · T; None where the caller's tokens are all real.
        varlen_kernel: the attention kernel finds the sequences by `cu_seq_lens`; others are given rows.
    """

    is_flat = True

    def __init__(
        self,
        cu_seq_lens: torch.Tensor,
        max_length: int,
        shape: tuple[int, int],
        indices: torch.Tensor | None = None,
        varlen_kernel: bool = False,
    ):
        self.cu_seq_lens = cu_seq_lens
        self.max_length = max_length
        self.shape = shape
        self.indices = indices
        self.varlen_kernel = varlen_kernel
        self.row_shape = (len(cu_seq_lens) - 1, max_length)
        # Tokens of each sequence, (S); of each token, (N): its sequence, its place in it, and its place in S · L.
        self.lengths = torch.diff(cu_seq_lens)
        device = cu_seq_lens.device
        self.sequence_ids = torch.arange(len(self.lengths), device=device).repeat_interleave(self.lengths)
        self._offsets = torch.arange(len(self.sequence_ids), device=device) - cu_seq_lens[self.sequence_ids].long()
        self._slots: torch.Tensor | None = self.sequence_ids * max_length + self._offsets
        # Real tokens of the rows, (S, L). Where every sequence fills its row there is nothing to mask or to move.
        self.row_mask: torch.Tensor | None = torch.arange(max_length, device=device) < self.lengths[:, None]
        if len(self._slots) == self.row_shape[0] * max_length:
            self._slots = self.row_mask = None

    @classmethod
    def from_mask(cls, attention_mask: torch.Tensor, varlen_kernel: bool = False) -> "FlatLayout":
        """The layout of the real tokens of a padded batch; attention_mask (B, T) has 1 for them."""
        lengths = attention_mask.sum(-1, dtype=torch.int32)
        indices = attention_mask.flatten().nonzero().flatten()
        return cls(starts(lengths), int(lengths.max()), tuple(attention_mask.shape), indices, varlen_kernel)

    @classmethod
    def from_position_ids(cls, position_ids: torch.Tensor, varlen_kernel: bool = False) -> "FlatLayout":
        """The layout of rows (B, T) without padding in which a sequence begins where positions do not go on."""
        begins = torch.ones_like(position_ids, dtype=torch.bool)
        begins[:, 1:] = position_ids[:, 1:] != position_ids[:, :-1] + 1
        begin = begins.flatten().nonzero().flatten()
        lengths = torch.diff(begin, append=begin.new_tensor([position_ids.numel()])).int()
        return cls(starts(lengths), int(lengths.max()), tuple(position_ids.shape), None, varlen_kernel)

    def position_ids(self, seen: int | torch.Tensor) -> torch.Tensor:
        """Positions (1, N). There is no flat form with a cache: `seen` is 0."""
        return self._offsets[None]

    def unpad(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        """From the caller's form (B or 1, T, …) to the model's (1, N, …)."""
        if tensor is None:
            return None
        tokens = tensor.expand(self.shape[0], *tensor.shape[1:]).flatten(0, 1)
        return (tokens if self.indices is None else tokens[self.indices])[None]

    def repad(self, tensor: torch.Tensor) -> torch.Tensor:
        """From the model's form (1, N, …) to the caller's (B, T, …), zeros for padding."""
        return scatter(tensor, self.indices, self.shape)

    def to_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """From the model's form (1, N, …) to one row a sequence (S, L, …), unless the kernel needs no rows."""
        return tensor if self.varlen_kernel else scatter(tensor, self._slots, self.row_shape)

    def from_rows(self, tensor: torch.Tensor) -> torch.Tensor:
        """From one row a sequence (S, L, …) to the model's form (1, N, …)."""
        if self.varlen_kernel:
            return tensor
        tokens = tensor.flatten(0, 1)
        return (tokens if self._slots is None else tokens[self._slots])[None]

    def attention_kwargs(self, key_layout: "Layout") -> dict[str, Any]:
        """What a kernel needs to know besides the mask, when keys and values have the layout `key_layout`."""
        if not self.varlen_kernel:
            return {}
        assert isinstance(key_layout, FlatLayout)
        return {
            "cu_seq_lens_q": self.cu_seq_lens,
            "cu_seq_lens_k": key_layout.cu_seq_lens,
            "max_length_q": self.max_length,
            "max_length_k": key_layout.max_length,
        }

    def following(self, tensor: torch.Tensor, fill: int) -> torch.Tensor:
        """For each token of the caller's (B, T) what stands after it, `fill` at a sequence's end; (1, N)."""
        after = self.unpad(functional.pad(tensor[:, 1:], (0, 1), value=fill))
        assert after is not None
        is_last = self._offsets + 1 == self.lengths[self.sequence_ids]
        return after.masked_fill(is_last, fill)

    def first(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The first token of each sequence: (1, N, E) to (S, E), zeros where there is none."""
        return self._pick(hidden_states, self.cu_seq_lens[:-1].long())

    def last(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence: (1, N, E) to (S, E), zeros where there is none."""
        return self._pick(hidden_states, self.cu_seq_lens[1:].long() - 1)

    def mean(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of each sequence: (1, N, E) to (S, E), zeros where there is none."""
        sums = hidden_states.new_zeros(self.row_shape[0], hidden_states.shape[-1])
        sums = sums.index_add(0, self.sequence_ids, hidden_states[0])
        return sums / self.lengths.clamp(min=1)[:, None].to(hidden_states.dtype)

    def _pick(self, hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        index = index.clamp(min=0, max=hidden_states.shape[1] - 1)
        return hidden_states[0, index] * (self.lengths > 0)[:, None].to(hidden_states.dtype)


Layout = PaddedLayout | FlatLayout


def starts(lengths: torch.Tensor) -> torch.Tensor:
    """Lengths (S) to cu_seq_lens (S + 1), int32 as the kernels want them."""
    return functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def scatter(tensor: torch.Tensor, places: torch.Tensor | None, shape: tuple[int, int]) -> torch.Tensor:
    """Put the tokens (1, N, …) at their places (N) in (*shape, …), zeros elsewhere; None: they fill it in order."""
    tokens = tensor[0]
    if places is None:
        return tokens.view(*shape, *tokens.shape[1:])
    empty = tokens.new_zeros(shape[0] * shape[1], *tokens.shape[1:])
    return empty.index_copy(0, places, tokens).view(*shape, *tokens.shape[1:])
