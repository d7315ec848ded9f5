"""Record what attention does in a forward pass: weights, queries, keys and values of every layer."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..modeling.attention import Attention, Role, eager_attention_forward
from ..modeling.base import Stack

# The sequence that the queries, and that the keys of each kind of attention come from: named by its self-attention.
SEQUENCES: dict[Role, tuple[Role, Role]] = {
    "self": ("self", "self"),
    "masked self": ("masked self", "masked self"),
    "cross": ("masked self", "self"),
}


@dataclass(frozen=True)
class Layer:
    """One attention layer in one forward pass of one row. Shapes as in modeling/attention.py, without B.

    Args:
        role: the kind of attention.
        weights: (H, t, s), for the visible tokens.
        mean_weights: (T, S), the mean over heads, for all tokens.
        queries: (H, t, D), as the kernel gets them.
        keys: (K, s, D).
        values: (K, s, D).
        log_sums: (H, t), the logarithm of the sum of the exponentials of all scores of a query.
        scaling: factor on the scores.
        biases: (H, t + s - 1), what is added to a score by the distance from the query to the key, from the last query
            and the first key to the first query and the last key; None if nothing is.
    """

    role: Role
    weights: torch.Tensor
    mean_weights: torch.Tensor
    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    log_sums: torch.Tensor
    scaling: float
    biases: torch.Tensor | None


@dataclass
class Recording:
    """A forward pass of one row.

    Args:
        layers: in the order in which they were computed.
        ids: the tokens that each stack has read, by the kind of its self-attention.
    """

    layers: list[Layer] = field(default_factory=list)
    ids: dict[Role, list[int]] = field(default_factory=dict)

    def of(self, role: Role) -> list[Layer]:
        """The layers of one kind of attention, from the first to the last."""
        return [layer for layer in self.layers if layer.role == role]


@contextmanager
def record(model: PreTrainedModel, visible: Mapping[Role, slice]) -> Iterator[Recording]:
    """Inside, one forward pass of one row is recorded. It is computed in plain PyTorch, attn_implementation="eager".

    Args:
        model: in evaluation mode.
        visible: the tokens to record of each stack, by the kind of its self-attention.
    """
    recording = Recording()

    def attention_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        recording.layers.append(recorded_layer(module, args, kwargs, output[1], visible))

    def embedding_hook(role: Role) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> None:
            recording.ids[role] = args[0].flatten().tolist()

        return hook

    implementation = model.config._attn_implementation
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, Attention):
                handle = module.register_forward_hook(attention_hook, with_kwargs=True)
                stack.callback(handle.remove)
            elif isinstance(module, Stack):
                handle = module.embed_tokens.register_forward_hook(embedding_hook(module.layer_class.role))
                stack.callback(handle.remove)
        model.set_attn_implementation("eager")
        stack.callback(model.set_attn_implementation, implementation)
        yield recording


def recorded_layer(
    module: Attention,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    weights: torch.Tensor,
    visible: Mapping[Role, slice],
) -> Layer:
    """What a layer has computed, from the arguments of its forward, and the weights (1, H, T, S) that it returned."""
    role: Role = "cross" if module.is_cross_attention else "masked self" if module.is_causal else "self"
    rows, columns = (visible[sequence] for sequence in SEQUENCES[role])
    place, pattern = kwargs.get("position_embeddings"), kwargs["pattern"]
    # Cross-attention has the source as its second argument.
    states = (module.queries(args[0], place), *module.keys_and_values(args[-1], pattern, place))
    if module.relative_attention_bias is not None:
        pattern = pattern.with_bias(module.relative_attention_bias, args[0].dtype)
    if weights.dtype.itemsize == 2:
        # The eager kernel rounds the scores to half precision, by which weights change by some percent; the kernels
        # that answer do not.
        kernel = partial(eager_attention_forward, module, scaling=module.scaling)
        _, weights = pattern.blend(kernel, *(each.float() for each in states))
    queries, keys, values = (each[0].float() for each in states)
    queries, weights = queries[:, rows], weights[0].float()
    # The score of the key with the highest weight, less the logarithm of its weight.
    best = weights[:, rows].max(-1)
    groups = module.num_key_value_groups
    best_keys = keys.repeat_interleave(groups, 0).take_along_dim(best.indices[..., None], 1)
    log_sums = (queries * best_keys).sum(-1) * module.scaling - best.values.log()
    biases = None
    if role != "cross" and module.config.relative_attention_num_buckets is not None:
        added = pattern.mask[0, :, rows].float()
        log_sums = log_sums + added.take_along_dim(best.indices[..., None], -1)[..., 0]
        added = added[..., columns]
        biases = torch.cat((added[..., 0].flip(-1), added[:, 0, 1:]), dim=-1).cpu()
    return Layer(
        role,
        *(each.cpu() for each in (weights[:, rows, columns], weights.mean(0), queries)),
        *(each[:, columns].cpu() for each in (keys, values)),
        log_sums=log_sums.cpu(),
        scaling=module.scaling,
        biases=biases,
    )
