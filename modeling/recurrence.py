"""Recurrence: the mixers from before attention, RNN, GRU and LSTM.

A recurrent network reads a sequence in order. At each step it computes a state from the token and the state before
it. So the steps cannot be computed at once, and a token learns of a distant one only through every state between them
(the long-term dependency). The gates of LSTM and GRU let a state pass unchanged.

`Recurrence` has the call of `Attention`, so that a block can have either; `Steps` is its pattern. Shapes as in
attention.py; R features of the states of all directions. A `state` is a tuple of tensors: of an LSTM its hidden and
its cell state, else the hidden state alone.
"""

from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from transformers.cache_utils import Cache
from transformers.configuration_utils import PreTrainedConfig

from .cache import self_attention_cache
from .packing import FlatLayout, Layout

State = tuple[torch.Tensor, ...]


class Recurrence(nn.Module):
    """A recurrent network in place of self-attention.

    Args:
        config: configuration of the stack; its mixer_type is the kind of network.
        layer_idx: index of the layer in the stack, and in the cache.
        role: "self", read in both directions; or "masked self", read from the first token on.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, role: Literal["self", "masked self"]):
        super().__init__()
        self.layer_idx = layer_idx
        num_directions = 2 if role == "self" else 1
        self.network = NETWORKS[config.mixer_type](
            config.hidden_size,
            config.recurrent_size // num_directions,
            batch_first=True,
            bidirectional=num_directions == 2,
        )
        self.o_proj = nn.Linear(config.recurrent_size, config.hidden_size, bias=False)
        self.num_states = 2 if config.mixer_type == "lstm" else 1
        if role == "masked self" and config.reads_last_state:
            self.source_proj = nn.Linear(config.cross_attention_hidden_size, self.num_states * config.recurrent_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor,
        *,
        pattern: "Steps",
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """Read each sequence step by step.

        Args:
            hidden_states: (B, T, E) or (1, N, E).
            key_value_states: the same tensor.
            pattern: the order of the steps, shared by all layers.
            past_key_values: cache of states; see cache.use_recurrent_layers.
            kwargs: arguments of attention, ignored.

        Returns:
            A tensor of the shape of hidden_states, and None for the attention weights.
        """
        cached = None if past_key_values is None else self_attention_cache(past_key_values).layers[self.layer_idx]
        state = None if cached is None else cached.state
        if state is None and pattern.source is not None:
            state = self.first_state(pattern.source)
        # Under autocast the weights stay in float32: a state of many steps loses too much in half precision.
        dtype = self.network.weight_ih_l0.dtype
        with torch.autocast(hidden_states.device.type, enabled=False):
            state = None if state is None else tuple(tensor.to(dtype) for tensor in state)
            outputs, state = pattern.run(self.network, hidden_states.to(dtype), state)
        if cached is not None:
            cached.update_state(state, pattern.layout.shape[1])
        return self.o_proj(outputs), None

    def first_state(self, source: torch.Tensor) -> State:
        """The state before the first token, from a vector of the source (B, width) (Cho et al. 2014, appendix A)."""
        return torch.tanh(self.source_proj(source)).chunk(self.num_states, -1)


class Steps:
    """Which tokens are read together at each step: the pattern of `Recurrence`.

    Of sequences of several lengths, torch's networks take the tokens by steps: the first tokens of all sequences, then
    the second tokens of those that have one, and so on. There is no padding, and no sequence reads another.

    Args:
        layout: layout of the batch.
        source: a vector for each sequence (B, width), from which its first state is computed; None: it is zero.
    """

    def __init__(self, layout: Layout, source: torch.Tensor | None = None):
        self.layout = layout
        self.source = source
        # The layout of the real tokens; None: all tokens of a padded layout are real.
        self.flat: FlatLayout | None = None
        if isinstance(layout, FlatLayout):
            self.flat = layout
        elif layout.is_real is not None and not bool(layout.is_real.all()):
            self.flat = FlatLayout.from_mask(layout.is_real)
        if self.flat is not None:
            # The sequences that have a token, the longest first.
            order = self.flat.lengths.argsort(descending=True, stable=True)
            self.sequences = order[: int((self.flat.lengths > 0).sum())]
            rank = order.argsort()
            # The tokens by step, and for each token its place among them, (N).
            self.tokens = (self.flat.offsets * len(order) + rank[self.flat.sequence_ids]).argsort()
            self.places = self.tokens.argsort()
            # torch wants the number of tokens of each step on the CPU.
            self.sizes = self.flat.offsets.bincount().cpu()

    def run(
        self, network: nn.RNNBase, states: torch.Tensor, state: State | None
    ) -> tuple[torch.Tensor, State]:
        """Outputs of a network.

        Args:
            network: of one layer.
            states: its inputs in the layout's form, (B, T, E) or (1, N, E).
            state: the state before the first token, (B, R) each; None: zero. With one direction only.

        Returns:
            The outputs in the layout's form, (B, T, R) or (1, N, R), zeros for padding; and the state after the last
            token, (B, R) each: for a sequence without a token, that from before.
        """
        if self.flat is None:
            outputs, last = network(states, as_hidden(state))
            return outputs, as_state(last)
        if not self.flat.num_tokens:
            # torch does not take an empty batch.
            size = network.hidden_size * (2 if network.bidirectional else 1)
            return states.new_zeros(*states.shape[:-1], size), state or self.zeros(network, states)
        is_flat = self.flat is self.layout
        inputs = states if is_flat else self.flat.unpad(states)
        assert inputs is not None
        chosen = None if state is None else tuple(tensor[self.sequences] for tensor in state)
        packed = PackedSequence(inputs[0].index_select(0, self.tokens), self.sizes)
        outputs, last = network(packed, as_hidden(chosen))
        outputs = outputs.data.index_select(0, self.places)[None]
        if not network.bidirectional:
            before = state or self.zeros(network, states)
            pairs = zip(before, as_state(last), strict=True)
            state = tuple(old.index_copy(0, self.sequences, new) for old, new in pairs)
        return outputs if is_flat else self.flat.repad(outputs), state or ()

    def zeros(self, network: nn.RNNBase, states: torch.Tensor) -> State:
        """The state before the first token if nothing else is given."""
        number = 2 if isinstance(network, nn.LSTM) else 1
        return (states.new_zeros(self.layout.num_sequences, network.hidden_size),) * number


def as_hidden(state: State | None) -> Any:
    """A state in the form of torch's networks, (1, B, R) each; without the tuple if it is one tensor."""
    if state is None:
        return None
    hidden = tuple(tensor[None].contiguous() for tensor in state)
    return hidden if len(hidden) > 1 else hidden[0]


def as_state(hidden: Any) -> State:
    """The reverse of as_hidden. The directions of a bidirectional network are not kept apart: it has no cache."""
    tensors = hidden if isinstance(hidden, tuple) else (hidden,)
    return tuple(tensor[0] for tensor in tensors)


@torch.no_grad()
def init_recurrent_weights(network: nn.RNNBase) -> None:
    """Initialize the parameters that were not loaded, each gate by itself.

    Xavier for the inputs; orthogonal matrices for the states, so that gradients neither vanish nor explode at once
    (Saxe et al. 2014); a bias of 1 for the forget gate of an LSTM, so that it begins by remembering (Gers et al. 2000).
    """
    for name, parameter in network.named_parameters():
        # Set by from_pretrained; transformers' own functions look for it, but take whole parameters.
        if getattr(parameter, "_is_hf_initialized", False):
            continue
        for index, gate in enumerate(parameter.split(network.hidden_size)):
            # torch has no orthogonal matrices in half precision.
            values = torch.zeros_like(gate, dtype=torch.promote_types(gate.dtype, torch.float32))
            if name.startswith("weight"):
                initialize = nn.init.orthogonal_ if name.startswith("weight_hh") else nn.init.xavier_uniform_
                initialize(values)
            elif name.startswith("bias_ih") and isinstance(network, nn.LSTM) and index == 1:
                values += 1
            gate.copy_(values)


NETWORKS: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
