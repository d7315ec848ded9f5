"""How much of an answer came from each token: attention rollout, and gradient × input."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from transformers import BatchEncoding, PreTrainedModel

from ..modeling.base import Stack
from ..modeling.heads import is_end_token
from .recording import Layer, Recording


def pooled_share(config: Any, ids: list[int]) -> torch.Tensor:
    """How much each output vector counts in the vector that is classified, (T); see `pooling` of the config."""
    share = torch.zeros(len(ids))
    if config.pooling in ("mean", "hidden_mean"):
        return share + 1 / len(ids)
    place = 0 if config.pooling == "cls" else -1
    is_end = is_end_token(torch.tensor(ids), config)
    if is_end is not None and is_end.any():
        place = int(is_end.nonzero().max())
    share[place] = 1
    return share


def rollout(recording: Recording, share: torch.Tensor, target: str) -> dict[str, torch.Tensor]:
    """How much of a mixture of output vectors came from each input token, by attention rollout.

    A block is taken as half its input and half what its attention, the mean over heads, takes from other tokens. So
    the shares of all tokens sum to one. What feed-forward networks and value vectors do is left out.

    Args:
        recording: of a model without recurrent layers.
        share: of each output vector in the mixture, (T).
        target: the stack of these vectors, by the kind of its self-attention.

    Returns:
        The share of each token of each stack.

    Source: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", §3.
    """
    shares = {target: share.to(torch.float64)}

    def half_from(layer: Layer, queries: str, keys: str) -> None:
        half = shares[queries] / 2
        shares[queries] = half
        shares[keys] = shares.get(keys, 0) + half @ layer.mean_weights.double()

    # Each list is empty where there are no such layers.
    crossing, own = recording.of("cross"), recording.of(target)  # type: ignore[arg-type]
    for index in reversed(range(len(own))):
        if crossing:
            half_from(crossing[index], target, "self")
        half_from(own[index], target, target)
    for layer in reversed(recording.of("self") if crossing else []):
        half_from(layer, "self", "self")
    return shares


def gradient_times_input(model: PreTrainedModel, inputs: BatchEncoding, classes: list[int]) -> dict[str, torch.Tensor]:
    """The gradient of the logit of each class with respect to a token's embedding, times the embedding.

    It is what the logit would lose if the embedding were set to zero, were the model linear.

    Args:
        model: for sequence classification, in evaluation mode.
        inputs: one row.
        classes: the indices of C classes.

    Returns:
        For each stack, by the kind of its self-attention, (C, T): positive for tokens that raise the logit.

    Source: Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences", §1.
    """
    embeddings: dict[str, torch.Tensor] = {}

    def hook(role: str) -> Any:
        def replace(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            embeddings[role] = output.detach().requires_grad_()
            return embeddings[role]

        return replace

    with ExitStack() as stack, torch.enable_grad():
        for module in model.modules():
            if isinstance(module, Stack):
                handle = module.embed_tokens.register_forward_hook(hook(module.layer_class.role))
                stack.callback(handle.remove)
        logits = model(**inputs).logits[0].float()
        # Each class needs a backward pass of its own.
        states = [*embeddings.values()]
        gradients = [torch.autograd.grad(logits[index], states, retain_graph=True) for index in classes]
    return {
        role: torch.stack([(each[place] * embedded).sum(-1)[0] for each in gradients]).detach().cpu().double()
        for place, (role, embedded) in enumerate(embeddings.items())
    }
