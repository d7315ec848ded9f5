"""The model as a graph of the real tokens of a batch, for engines that do not run Python.

All layers work on the N tokens of the batch in one row. Only attention needs to know the sequences: it gathers queries
and keys into padded rows and gathers the result back. The indices are inputs of the graph, so one graph serves every
number of tokens, rows, and length. Sliding windows are gathered in blocks, each with its neighbours, so they cost as
much as in our own forward.
"""

import copy
import itertools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.export import Dim
from transformers import PretrainedConfig, PreTrainedModel

from ..configuration.decoder import BlendDecoderConfig
from ..data.errors import InputError
from ..modeling.base import Stack
from ..modeling.decoder import BlendDecoderModel
from ..modeling.encoder import BlendEncoderForMaskedLM, BlendEncoderModel
from ..modeling.heads import ForSequenceClassification, ForTokenClassification, is_end_token, pool, scale
from ..modeling.patterns import MIN_BLOCK_SIZE, Kernel, add_bias
from ..modeling.positions import RelativeAttentionBias

SLIDING = "sliding_attention"
# Kinds of RoPE whose angles depend on the length of the sequence.
LENGTH_DEPENDENT = ("dynamic", "longrope")
# Projections of the same states, by their names in a module.
JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
Arrays = dict[str, np.ndarray]


# --- The indices ---


class RowIndices(NamedTuple):
    """Where attention finds the tokens of a batch.

    Args:
        queries: the token at each place of each row (R, L); any token where there is none.
        keys: the token at each place of the keys of each row (R, S).
        mask: whether a query attends to a key (R, 1, L or 1, S).
        places: for each token its place among the R · L queries, (N).
    """

    queries: np.ndarray
    keys: np.ndarray
    mask: np.ndarray
    places: np.ndarray


def whole_rows(lengths: np.ndarray, is_causal: bool) -> RowIndices:
    """Each sequence is a row.

    Args:
        lengths: number of tokens of each sequence (R), at least one in all.
        is_causal: whether a token attends only to itself and the tokens before it.
    """
    starts, longest = lengths.cumsum() - lengths, int(lengths.max())
    offsets = np.arange(longest)
    rows = np.minimum(starts[:, None] + offsets, lengths.sum() - 1)
    mask = (offsets < lengths[:, None])[:, None, None]
    if is_causal:
        mask = mask & (offsets <= offsets[:, None])
    return RowIndices(rows, rows, mask, np.arange(len(lengths)).repeat(lengths) * longest + token_offsets(lengths))


def window_rows(lengths: np.ndarray, window: int, is_causal: bool) -> RowIndices:
    """Each row is a block of a sequence; its keys are the block and its neighbours, of which the window is a part.

    Args:
        lengths: number of tokens of each sequence, at least one in all.
        window: the config's sliding_window.
        is_causal: whether a token attends only to itself and the tokens before it.
    """
    block = block_size(window)
    before, after = (1, 0) if is_causal else (1, 1)
    counts = -(-lengths // block)
    sequences = np.arange(len(lengths)).repeat(counts)
    # The first token of each block, and of its keys, counted from the start of its sequence.
    first = (np.arange(counts.sum()) - (counts.cumsum() - counts).repeat(counts)) * block
    starts, last = (lengths.cumsum() - lengths)[sequences], lengths.sum() - 1
    queries = first[:, None] + np.arange(block)
    keys = first[:, None] + np.arange(-before * block, (1 + after) * block)
    distance = queries[:, :, None] - keys[:, None]
    # A causal window includes the token itself, a bidirectional one does not.
    reach = window - 1 if is_causal else window
    is_key = (keys >= 0) & (keys < lengths[sequences][:, None])
    mask = is_key[:, None] & (distance <= reach) & (distance >= (0 if is_causal else -reach))
    blocks_before = (counts.cumsum() - counts).repeat(lengths)
    places = blocks_before * block + token_offsets(lengths)
    return RowIndices(
        np.clip(starts[:, None] + queries, 0, last),
        np.clip(starts[:, None] + keys, 0, last),
        mask[:, None],
        places,
    )


def block_size(window: int) -> int:
    """The number of tokens of a block."""
    return max(window, MIN_BLOCK_SIZE)


def token_offsets(lengths: np.ndarray) -> np.ndarray:
    """The position of each token in its sequence, (N)."""
    return np.arange(lengths.sum()) - (lengths.cumsum() - lengths).repeat(lengths)


def flat_arrays(
    config: PretrainedConfig, lengths: np.ndarray, is_pooled: bool, input_ids: np.ndarray, token_type_ids: np.ndarray
) -> Arrays:
    """The inputs of the graph by name.

    Args:
        config: configuration of the model.
        lengths: number of tokens of each sequence (R), at least one in all.
        is_pooled: whether the output is one vector per sequence.
        input_ids: the tokens of all sequences (N).
        token_type_ids: their segments (N); not used if the model has none.
    """
    is_causal = isinstance(config, BlendDecoderConfig)
    arrays = {"input_ids": input_ids, "position_ids": token_offsets(lengths)}
    if config.type_vocab_size:
        arrays["token_type_ids"] = token_type_ids
    whole = whole_rows(lengths, is_causal)
    if is_pooled:
        arrays |= {"rows": whole.queries, "lengths": lengths}
    is_end = is_end_token(torch.from_numpy(input_ids), config) if is_pooled else None
    if is_end is not None:
        arrays["is_end"] = is_end.numpy()
    for layer_type in sorted(set(config.layer_types)):
        is_sliding = layer_type == SLIDING
        indices = window_rows(lengths, config.sliding_window, is_causal) if is_sliding else whole
        arrays |= {f"{layer_type}_{name}": value for name, value in indices._asdict().items()}
    return arrays


def dynamic_shapes(arrays: Arrays) -> tuple[dict[int, Dim], ...]:
    """The dimensions of the inputs that vary from batch to batch."""
    tokens, rows, length, blocks = (Dim(name) for name in ("tokens", "rows", "length", "blocks"))
    whole = {0: rows, 1: length}
    known = {"rows": whole, "lengths": {0: rows}, "queries": whole, "keys": whole, "mask": {0: rows, 3: length}}
    shapes = []
    for name, array in arrays.items():
        kind = name.removeprefix(f"{SLIDING}_")
        if kind != name and kind != "places":
            shapes.append({0: blocks})
            continue
        shape = known.get(name.removeprefix("full_attention_"), {0: tokens})
        # Only a causal mask has a row for each query.
        shapes.append(shape | {2: length} if name.endswith("mask") and array.shape[2] > 1 else shape)
    return tuple(shapes)


# --- The graph ---


class GatherPattern:
    """An attention pattern whose rows are gathered by indices.

    Args:
        first_key: the first key of a row, counted from its first query.
        queries: the token at each place of each row, (R, L).
        keys: the token at each place of the keys of each row, (R, S).
        mask: whether a query attends to a key, (R, 1, L or 1, S).
        places: for each token its place among the R · L queries, (N).
    """

    def __init__(
        self, first_key: int, queries: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor, places: torch.Tensor
    ):
        self.first_key = first_key
        self.queries, self.keys, self.places = queries, keys, places
        # Adding is faster than selecting, in every layer.
        self.mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
        self.heads: dict[tuple[int, int], torch.Tensor] = {}

    def with_bias(self, bias: RelativeAttentionBias, dtype: torch.dtype) -> "GatherPattern":
        """The pattern whose mask also adds a bias to the scores."""
        queries = torch.arange(self.queries.shape[1])
        keys = torch.arange(self.keys.shape[1]) + self.first_key
        biased = copy.copy(self)
        biased.mask = add_bias(self.mask, bias((keys - queries[:, None])[None], dtype))
        return biased

    def blend(
        self, kernel: Kernel, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """Queries (1, H, N, D), keys and values (1, K, N, D) give (1, N, H, D), and None for the weights."""
        rows = (self.gather(states, which) for states, which in ((query, 0), (key, 1), (value, 1)))
        blended, _ = kernel(*rows, self.mask.to(query.dtype))
        return blended.flatten(0, 1).index_select(0, self.places)[None], None

    def gather(self, states: torch.Tensor, which: int) -> torch.Tensor:
        """The rows of queries (which = 0) or keys (1), (R, H, L, D), of states (1, H, N, D).

        One gather for each token and head, by indices that all layers share: gathering tokens would need a transpose.
        """
        heads = states.shape[1]
        if (which, heads) not in self.heads:
            tokens = (self.queries, self.keys)[which]
            self.heads[which, heads] = tokens[:, None] * heads + torch.arange(heads)[:, None]  # (R, H, L)
        indices = self.heads[which, heads]
        return states[0].transpose(0, 1).flatten(0, 1).index_select(0, indices.flatten()).unflatten(0, indices.shape)


class GraphLayout:
    """Pooling in the graph; the same functions as a FlatLayout has.

    Args:
        rows: the token at each place of each sequence (R, L).
        lengths: number of tokens of each sequence (R).
    """

    def __init__(self, rows: torch.Tensor, lengths: torch.Tensor):
        self.rows, self.lengths = rows, lengths
        self.is_real = torch.arange(rows.shape[1]) < lengths[:, None]

    def first(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The first token of each sequence: (1, N, E) to (R, E), zeros for an empty sequence."""
        return self.pick(hidden_states, torch.zeros_like(self.lengths))

    def last(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence."""
        return self.pick(hidden_states, self.lengths - 1)

    def last_marked(self, hidden_states: torch.Tensor, is_marked: torch.Tensor) -> torch.Tensor:
        """The last token of each sequence with is_marked (1, N), or its last token."""
        offsets = torch.arange(self.rows.shape[1])
        marked = torch.where(is_marked[0][self.rows] & self.is_real, offsets, -1).amax(1)
        return self.pick(hidden_states, torch.where(marked < 0, self.lengths - 1, marked))

    def mean(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The mean over the tokens of each sequence."""
        weights = self.is_real.to(hidden_states.dtype)[:, :, None]
        sums = (hidden_states[0][self.rows] * weights).sum(1)
        return sums / self.lengths.clamp(min=1)[:, None].to(hidden_states.dtype)

    def pick(self, hidden_states: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """The token at an offset (R) of each sequence."""
        tokens = self.rows.gather(1, offsets.clamp(min=0)[:, None])[:, 0]
        return hidden_states[0][tokens] * (self.lengths > 0)[:, None].to(hidden_states.dtype)


class TokenRow:
    """The layout of the stack's inputs in the graph: they are flat already.

    Args:
        positions: of the tokens in their sequences, (1, N).
    """

    def __init__(self, positions: torch.Tensor):
        self.positions = positions

    def is_first(self) -> torch.Tensor:
        """Whether a token is the first of its sequence, (1, N)."""
        return self.positions == 0

    @staticmethod
    def unpad(tensor: torch.Tensor) -> torch.Tensor:
        """No change."""
        return tensor


class LastProduct:
    """The last input of a joined projection, and its output."""

    states: torch.Tensor | None = None
    outputs: torch.Tensor | None = None


class ProjectionSlice(nn.Module):
    """Some of the outputs of a joined projection, which is computed once for all of its slices.

    Args:
        joined: the projection.
        outputs: which of its outputs.
        last: shared by all slices of the projection.
    """

    def __init__(self, joined: nn.Linear, outputs: slice, last: LastProduct):
        super().__init__()
        self.joined = joined
        self.outputs = outputs
        self.last = last

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(..., E) to (..., number of outputs)."""
        if self.last.states is not states:
            self.last.states, self.last.outputs = states, self.joined(states)
        return self.last.outputs[..., self.outputs]


def join_projections(model: nn.Module) -> None:
    """Make one matrix of all projections that read the same states: one product is faster, above all of few tokens."""
    for names in JOINED:
        for module in [each for each in model.modules() if all(hasattr(each, name) for name in names)]:
            projections = [getattr(module, name) for name in names]
            joined = join(projections)
            last, ends = LastProduct(), itertools.accumulate(each.out_features for each in projections)
            for name, projection, end in zip(names, projections, ends, strict=True):
                outputs = slice(end - projection.out_features, end)
                setattr(module, name, ProjectionSlice(joined, outputs, last))


@torch.no_grad()
def join(projections: list[nn.Linear]) -> nn.Linear:
    """One projection with the outputs of several, all with a bias or all without."""
    first, size = projections[0], sum(each.out_features for each in projections)
    joined = nn.Linear(first.in_features, size, bias=first.bias is not None, dtype=first.weight.dtype)
    joined.weight.copy_(torch.cat([each.weight for each in projections]))
    if first.bias is not None:
        joined.bias.copy_(torch.cat([each.bias for each in projections]))
    return joined


class FlatGraph(nn.Module):
    """The forward of a model that reads, on the real tokens of a batch.

    Args:
        model: an encoder or a decoder with attn_implementation="eager"; see `check_model`. It is not changed.
        names: of the inputs, as `flat_arrays` has them.
    """

    def __init__(self, model: PreTrainedModel, names: list[str]):
        super().__init__()
        self.model = copy.deepcopy(model)
        self.names = names
        join_projections(self.model)

    def forward(self, *arrays: torch.Tensor) -> torch.Tensor:
        """Logits of the tokens (N, C) or of the sequences (R, C); states (N, E) without a head.

        Args:
            arrays: as `flat_arrays` names them, in this order.
        """
        given = dict(zip(self.names, arrays, strict=True))
        model, input_ids = self.model, given["input_ids"][None]
        hidden_states = self.run_stack(model.base_model, input_ids, given)
        if isinstance(model, ForSequenceClassification):
            is_end = given["is_end"][None] if "is_end" in given else None
            layout: Any = GraphLayout(given["rows"], given["lengths"])
            return model.score(pool(hidden_states, layout, model.config.pooling, model.head, is_end))
        if isinstance(model, ForTokenClassification):
            return model.classifier(model.head(hidden_states))[0]
        if isinstance(model, BlendEncoderForMaskedLM):
            return model.lm_head(scale(model.head(hidden_states), model.config.logit_scaling))[0]
        return hidden_states[0]

    @staticmethod
    def run_stack(stack: Stack, input_ids: torch.Tensor, given: dict[str, torch.Tensor]) -> torch.Tensor:
        """The last hidden states (1, N, E)."""
        positions = given["position_ids"][None]
        token_types = given["token_type_ids"][None] if "token_type_ids" in given else None
        layout: Any = TokenRow(positions)
        hidden_states = stack.embed(layout, input_ids, None, token_types, positions)
        position_embeddings = stack.position_embeddings(hidden_states, positions)
        patterns = {
            layer_type: GatherPattern(
                # The keys of a block begin with those of the block before it.
                -block_size(stack.config.sliding_window) if layer_type == SLIDING else 0,
                *(given[f"{layer_type}_{name}"] for name in RowIndices._fields),
            )
            for layer_type in position_embeddings
        }
        patterns = stack.add_shared_biases(patterns, hidden_states)
        for layer_type, layer in stack.blocks():
            pattern: Any = patterns[layer_type]
            hidden_states = layer(hidden_states, pattern=pattern, position_embeddings=position_embeddings[layer_type])
        return stack.norm(hidden_states)


def check_model(model: PreTrainedModel) -> None:
    """Raises InputError for a model that cannot be such a graph; the message says why."""
    kind, config = type(model).__name__, model.config
    heads = (ForSequenceClassification, ForTokenClassification, BlendEncoderForMaskedLM, Stack)
    if not isinstance(model, heads) or not isinstance(model.base_model, BlendEncoderModel | BlendDecoderModel):
        raise InputError(f"{kind}: engine onnx is for encoders and decoders that classify, tag, fill masks or embed")
    if getattr(config, "cross_attention_hidden_size", None) is not None:
        raise InputError(f"{kind}: engine onnx is not for a decoder with cross-attention")
    if config.is_recurrent:
        raise InputError(f"{kind}: engine onnx is not for mixer_type={config.mixer_type!r}")
    ropes = config.rope_parameters or {}
    for rope in ropes.values() if config.has_rope_per_layer_type else [ropes]:
        if rope and rope["rope_type"] in LENGTH_DEPENDENT:
            raise InputError(f"{kind}: engine onnx is not for rope_type={rope['rope_type']!r}, which reads the length")
