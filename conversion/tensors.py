"""From the tensors of a stock model to ours, and what of them has no place."""

from collections.abc import Collection

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from ..configuration.base import RecipeConfig
from ..modeling.positions import SinusoidalPositions
from .registry import ARCHITECTURES
from .table import Architecture, ConversionError, Head

Tensors = dict[str, torch.Tensor]

# A table of sinusoids in half precision is rounded by no more.
SINUSOID_ERROR = 0.01


def our_weights(stock: PreTrainedModel) -> Tensors:
    """The weights of a stock model by our names, for a model of ours that computes the same.

    Raises:
        ConversionError: its class is in no table.
    """
    for architecture in ARCHITECTURES.values():
        for head in architecture.heads.values():
            if type(stock) is head.stock_class:
                our_prefix = "" if architecture.is_base(head) else "model."
                return our_tensors(architecture, head, stock.state_dict(), stock.config, our_prefix)[0]
    raise ConversionError(f"{type(stock).__name__} is not supported; see python -m seqblend.conversion --list")


def our_tensors(
    architecture: Architecture,
    head: Head,
    tensors: Tensors,
    config: PreTrainedConfig,
    our_prefix: str,
    missing: Collection[str] = (),
    dtype: torch.dtype | None = None,
) -> tuple[Tensors, Tensors]:
    """Our tensors from those of a stock model, and those that have no place in ours.

    Args:
        architecture: of the stock model.
        head: of the stock model.
        tensors: theirs, by their names; emptied on the way, so that a tensor of which ours is a copy is let go.
        config: their configuration.
        our_prefix: of the base model's tensors in ours.
        missing: the names that were not in the checkpoint.
        dtype: of ours; None: as theirs.

    Returns:
        Ours by our names, and what is kept aside by their names in the base model.

    Raises:
        ConversionError: a tensor has no place, two have one, or a table of sinusoids holds something else.
    """
    ours: Tensors = {}
    kept: Tensors = {}
    sources: dict[str, tuple[str, int]] = {}
    places = {name: architecture.place(name, head, our_prefix) for name in tensors}
    # What may be tied comes last, so that it is known to what.
    aliases = {name for name, place in places.items() if place is not None and place[1].is_alias}
    for name in sorted(places, key=aliases.__contains__):
        tensor, place, base_name = tensors.pop(name), places[name], architecture.base_name(name, head)
        if place is None:
            check_aside(architecture, head, name, tensor)
            # A table of sinusoids is made by the stock class where the checkpoint has none.
            if name not in missing or architecture.is_sinusoidal(base_name):
                kept[base_name] = tensor.clone()
            continue
        names, operation = place
        if operation.skipped_rows is not None:
            kept[base_name] = tensor[: operation.skipped_rows(config)].clone()
        for our_name, part in zip(names, operation.read(tensor, config), strict=True):
            # Tied tensors are one under several names.
            other, pointer = sources.setdefault(our_name, (name, tensor.data_ptr()))
            if pointer == tensor.data_ptr():
                ours[our_name] = part if dtype is None else part.to(dtype)
            elif operation.is_alias:
                kept[base_name] = tensor.clone()
            else:
                raise ConversionError(f"{other!r} and {name!r} differ, and ours has one tensor for both: {our_name}")
    return ours, kept


def check_aside(architecture: Architecture, head: Head, name: str, tensor: torch.Tensor) -> None:
    """Raises ConversionError for a tensor without a place that is not kept aside, or for sinusoids unlike ours."""
    if not architecture.is_aside(name, head):
        raise ConversionError(f"{name!r} has no place in ours")
    if architecture.is_sinusoidal(architecture.base_name(name, head)):
        check_sinusoids(name, tensor)


def check_sinusoids(name: str, table: torch.Tensor) -> None:
    """Raises ConversionError where a table of positions (P, E) is not what ours computes, but for rounding."""
    rows, width = table.shape
    positions = torch.arange(rows)[None]
    computed = SinusoidalPositions(rows, width)(torch.zeros(1, rows, width), positions)[0]
    difference = (computed - table.float()).abs().max().item()
    if difference > SINUSOID_ERROR:
        raise ConversionError(f"{name!r} differs from the sinusoids that ours computes, by up to {difference:.3g}")


def check_complete(
    our_class: type[PreTrainedModel], config: RecipeConfig, tensors: Tensors, head: Head | None
) -> None:
    """Compare tensors with those of a model of this configuration.

    Args:
        our_class: of the model.
        config: of the model.
        tensors: by our names.
        head: the stock head that they are of; None where ours has a head that theirs does not have.

    Raises:
        ConversionError: a tensor has another shape, has no place, or is missing in the body or the head.
    """
    with torch.device("meta"):
        wanted = our_class(config).state_dict()
    for name, tensor in tensors.items():
        if name not in wanted:
            raise ConversionError(f"{name} is in the checkpoint, and in no model of this configuration")
        if wanted[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, by the configuration {tuple(wanted[name].shape)}"
            raise ConversionError(f"{name} has the shape {shapes}: an override changes it")
    missing = wanted.keys() - tensors.keys()
    if head is None:
        missing = {name for name in missing if name.startswith(f"{our_class.base_model_prefix}.")}
    if missing:
        raise ConversionError(f"{min(missing)} is in a model of this configuration, and not in the checkpoint")
