"""Recurrence: the mixers from before attention, RNN, GRU and LSTM.

A recurrent network reads a sequence in order. At each step it computes a state from the token and the state before
it. So the steps cannot be computed at once, and a token learns of a distant one only through every state between them
(the long-term dependency). The gates of LSTM and GRU let a state pass unchanged.

`Recurrence` has the call of `Attention`, so that a block can have either; `Steps` is its pattern. Shapes as in
attention.py; F features of the state of one direction. A `State` is the hidden state; that of an LSTM also has the
cell state.
"""

from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig

from .cache import self_attention_cache
from .packing import FlatLayout, Layout, Movable
from .patterns import Rows, arrange_rows, group_by_length

# (B, F) each.
State = tuple[torch.Tensor, ...]

# torch's kernels, as nn.RNN, nn.GRU and nn.LSTM call them; and the number of gates of each, which have a matrix each.
KERNELS: dict[str, Any] = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}
NUM_GATES = {"rnn": 1, "gru": 3, "lstm": 4}
# Parameters of one direction, in the order of the kernels.
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Recurrence(nn.Module):
    """A recurrent network in place of self-attention.

    The parameters of the network are those of nn.RNN, nn.GRU or nn.LSTM; those of the backward direction end in
    `_reverse`. torch's modules are not used, because they keep a second list of their parameters, which becomes wrong
    where a library replaces parameters (sharding, offloading).

    Args:
        config: configuration of the stack; its mixer_type is the kind of network.
        layer_idx: index of the layer in the stack, and in the cache.
        role: "self", read in both directions; or "masked self", read from the first token on.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, role: str):
        super().__init__()
        self.layer_idx = layer_idx
        self.mixer_type = config.mixer_type
        self.directions = ("", "_reverse") if role == "self" else ("",)
        self.state_size = config.recurrent_size // len(self.directions)
        self.num_states = 2 if config.mixer_type == "lstm" else 1
        rows = NUM_GATES[config.mixer_type] * self.state_size
        shapes = ((rows, config.hidden_size), (rows, self.state_size), (rows,), (rows,))
        for direction in self.directions:
            for name, shape in zip(NAMES, shapes, strict=True):
                self.register_parameter(name + direction, nn.Parameter(torch.empty(shape)))
        self.o_proj = nn.Linear(config.recurrent_size, config.hidden_size, bias=False)
        if role == "masked self" and config.reads_source_ends:
            source_size = 2 * config.cross_attention_hidden_size
            self.source_proj = nn.Linear(source_size, self.num_states * config.recurrent_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        pattern: "Steps",
        cache: Cache | None = None,
        source_state: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Read each sequence step by step.

        Args:
            hidden_states: (B, T, E) or (1, N, E).
            pattern: the order of the steps, shared by all layers.
            cache: the states of the tokens before; see cache.use_recurrent_layers.
            source_state: a vector of each source (B, 2 · width), from which the first state is computed; None: that
                is zero.
            kwargs: arguments of attention, ignored.

        Returns:
            A tensor of the shape of hidden_states, and None for the attention weights.
        """
        cached = None if cache is None else self_attention_cache(cache).layers[self.layer_idx]
        state = None if cached is None else cached.state
        if state is None and source_state is not None:
            state = torch.tanh(self.source_proj(source_state)).chunk(self.num_states, -1)
        # Under autocast, too, in the dtype of the weights: a state of many steps loses too much in half precision.
        dtype = self.weight_ih.dtype
        with torch.autocast(hidden_states.device.type, enabled=False):
            state = None if state is None else tuple(tensor.to(dtype) for tensor in state)
            if cached is not None:
                outputs, last = pattern.read_steps(self, hidden_states.to(dtype), state)
                cached.update_state(last, pattern.layout.shape[1])
            else:
                outputs = pattern.read(self, hidden_states.to(dtype), state)
        return self.o_proj(outputs), None

    def run_kernel(
        self,
        inputs: torch.Tensor,
        state: State | None,
        sizes: torch.Tensor | None = None,
        directions: tuple[str, ...] | None = None,
    ) -> tuple[torch.Tensor, State]:
        """Call torch's kernel.

        Args:
            inputs: (B, T, E); or with `sizes` the tokens by step, (N, E).
            state: the state before the first token; None: zero. Given for one direction only.
            sizes: number of tokens of each step, on the CPU; None: B each.
            directions: the directions whose weights are used; None: all. One direction reads from the first token on.

        Returns:
            The states of these directions at each token, in the form of the inputs; and the last state, of the first
            direction.
        """
        directions = self.directions if directions is None else directions
        rows = len(inputs) if sizes is None else int(sizes[0])
        if state is None:
            zeros = inputs.new_zeros(len(directions), rows, self.state_size)
            hidden = (zeros,) * self.num_states
        else:
            hidden = tuple(tensor[None].contiguous() for tensor in state)
        weights = [getattr(self, name + direction) for direction in directions for name in NAMES]
        # has_biases, number of layers, dropout, whether a backward pass may follow (cuDNN), bidirectional
        options = (True, 1, 0.0, torch.is_grad_enabled(), len(directions) > 1)
        start = hidden if self.num_states > 1 else hidden[0]
        kernel = KERNELS[self.mixer_type]
        if sizes is None:
            outputs, *last = kernel(inputs, start, weights, *options, True)
        else:
            outputs, *last = kernel(inputs, sizes, start, weights, *options)
        return outputs, tuple(tensor[0] for tensor in last)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initialize the parameters of the network that were not loaded, each gate by itself.

        Xavier for the inputs; orthogonal matrices for the states, so that gradients neither vanish nor explode at once
        (Saxe et al. 2014); a bias of 1 for the forget gate of an LSTM, so that it begins by remembering (Gers et al.
        2000).
        """
        for name, parameter in self.named_parameters(recurse=False):
            # Set by from_pretrained. transformers' own functions look for it, but take whole parameters.
            if getattr(parameter, "_is_hf_initialized", False):
                continue
            for index, gate in enumerate(parameter.split(self.state_size)):
                # torch has no orthogonal matrices in half precision.
                values = torch.zeros_like(gate, dtype=torch.promote_types(gate.dtype, torch.float32))
                if name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(values)
                elif name.startswith("weight_hh"):
                    nn.init.orthogonal_(values)
                elif name.startswith("bias_ih") and self.mixer_type == "lstm" and index == 1:
                    values += 1
                gate.copy_(values)


class Steps(Movable):
    """How the sequences of a batch are read: the pattern of `Recurrence`. No sequence reads another.

    Sequences of several lengths are read in one of two ways:

    - In padded rows of similar length: on the CPU, where torch has a fast kernel for rows only, and where the backward
      pass of the other way takes time that grows with the square of the length.
    - By steps: the first tokens of all sequences, then the second tokens of those that have one, and so on, without
      padding. On CUDA, where cuDNN does this; and everywhere for a cache, which needs the state after the last token.

    Args:
        layout: layout of the batch.
    """

    def __init__(self, layout: Layout):
        self.layout = layout
        # The layout of the real tokens; None: all tokens of a padded layout are real.
        self.flat: FlatLayout | None = None
        if isinstance(layout, FlatLayout):
            self.flat = layout
        elif layout.is_real is not None and not bool(layout.is_real.all()):
            self.flat = FlatLayout.from_mask(layout.is_real)

    def read(self, network: Recurrence, states: torch.Tensor, state: State | None) -> torch.Tensor:
        """Let a network read each sequence.

        Args:
            network: computes the states.
            states: inputs in the layout's form, (B, T, E) or (1, N, E).
            state: the state before the first token, (Z, F) each; None: zero.

        Returns:
            The states at each token in the layout's form, zeros for padding.
        """
        if self.flat is None or not self.flat.num_tokens or states.is_cuda:
            return self.read_steps(network, states, state)[0]
        inputs = self._to_flat(states)
        outputs = []
        for direction in network.directions:
            # The backward direction reads each sequence from its last token on.
            tokens = inputs.index_select(1, self.mirrored) if direction else inputs
            blocks = [
                network.run_kernel(rows, self._of_rows(state, sequences), directions=(direction,))[0]
                for rows, sequences in zip(self.rows.to_rows(tokens), self.row_sequences, strict=True)
            ]
            read = self.rows.to_flat(blocks)
            outputs.append(read.index_select(1, self.mirrored) if direction else read)
        return self._to_layout(torch.cat(outputs, -1))

    def read_steps(self, network: Recurrence, states: torch.Tensor, state: State | None) -> tuple[torch.Tensor, State]:
        """Let a network read each sequence, step by step if the lengths differ.

        Args:
            network: computes the states.
            states: inputs in the layout's form, (B, T, E) or (1, N, E).
            state: the state before the first token, (Z, F) each; None: zero.

        Returns:
            The states at each token in the layout's form, zeros for padding; and the state after the last token: for
            a sequence without a token, that from before.
        """
        if self.flat is None:
            return network.run_kernel(states, state)
        zeros = states.new_zeros(self.layout.num_sequences, network.state_size)
        before = (zeros,) * network.num_states if state is None else state
        if not self.flat.num_tokens:
            # The kernels do not take an empty batch.
            return states.new_zeros(*states.shape[:-1], network.o_proj.in_features), before
        order = self.flat.lengths.argsort(descending=True, stable=True)
        # The sequences that have a token, the longest first.
        sequences = order[: int((self.flat.lengths > 0).sum())]
        # The tokens by step; and for each token its place among them, (N).
        tokens = (self.flat.offsets * len(order) + order.argsort()[self.flat.sequence_ids]).argsort()
        places = tokens.argsort()
        sizes = self.flat.offsets.bincount().cpu()
        inputs = self._to_flat(states)[0].index_select(0, tokens)
        outputs, last = network.run_kernel(inputs, self._of_rows(state, sequences), sizes)
        after = tuple(old.index_copy(0, sequences, new) for old, new in zip(before, last, strict=True))
        return self._to_layout(outputs.index_select(0, places)[None]), after

    @cached_property
    def rows(self) -> Rows:
        """The rows of the sequences."""
        assert self.flat is not None
        return arrange_rows(self.flat, group_by_length(self.flat.sizes))

    @cached_property
    def row_sequences(self) -> list[torch.Tensor]:
        """The sequence of each row, (R), for each group of rows."""
        return [slots[:, 0] for slots in self.rows.split_groups(self.rows.slot_sequences)]

    @cached_property
    def mirrored(self) -> torch.Tensor:
        """For each token the one as far from the end of its sequence as this one is from its start, (N)."""
        assert self.flat is not None
        ends = self.flat.cu_seq_lens[1:].long()
        return ends[self.flat.sequence_ids] - 1 - self.flat.offsets

    def _of_rows(self, state: State | None, sequences: torch.Tensor) -> State | None:
        return None if state is None else tuple(tensor.index_select(0, sequences) for tensor in state)

    def _to_flat(self, states: torch.Tensor) -> torch.Tensor:
        """Convert from the layout's form to (1, N, …)."""
        assert self.flat is not None
        inputs = states if isinstance(self.layout, FlatLayout) else self.flat.unpad(states)
        assert inputs is not None
        return inputs

    def _to_layout(self, states: torch.Tensor) -> torch.Tensor:
        """Convert from (1, N, …) to the layout's form, zeros for padding."""
        assert self.flat is not None
        return states if isinstance(self.layout, FlatLayout) else self.flat.repad(states)
