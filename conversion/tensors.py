"""Conversion of the tensors of a stock model, and the checks that every tensor has a counterpart."""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from ..configuration.recipe_config import RecipeConfig
from ..modeling.positions import SinusoidalPositions
from .registry import ARCHITECTURES
from .table import Architecture, ConversionError, Head

Tensors = dict[str, torch.Tensor]

# The largest rounding error of a table of sinusoids in half precision.
SINUSOID_ERROR = 0.01


def convert_state_dict(stock: PreTrainedModel) -> Tensors:
    """The weights of a stock model under the names of seqblend, for a model that computes the same.

    Raises:
        ConversionError: its class is in no table.
    """
    for architecture in ARCHITECTURES.values():
        for head in architecture.heads.values():
            if type(stock) is head.stock_class:
                prefix = "" if architecture.is_base(head) else "model."
                return TensorConverter(architecture, head, stock.config, prefix).convert(stock.state_dict())[0]
    raise ConversionError(f"{type(stock).__name__} is not supported; see seqblend convert --list")


@dataclass(frozen=True)
class TensorConverter:
    """Converts the tensors of one stock model.

    Args:
        architecture: of the stock model.
        head: of the stock model.
        config: of the stock model.
        prefix: of the base model's tensors in the model of seqblend.
        missing: names of tensors that the checkpoint does not have.
        dtype: of the converted tensors; None: as the original.
    """

    architecture: Architecture
    head: Head
    config: PreTrainedConfig
    prefix: str
    missing: Collection[str] = ()
    dtype: torch.dtype | None = None

    def convert(self, tensors: Tensors) -> tuple[Tensors, Tensors]:
        """Convert all tensors.

        Args:
            tensors: by original names. Emptied, so that the memory of a tensor is free as soon as it is copied.

        Returns:
            The converted tensors by the names of seqblend, and the preserved tensors by their original names in the
            base model.

        Raises:
            ConversionError: a tensor has no counterpart, two different tensors have the same one, or a table of
                sinusoids has other values.
        """
        architecture, head = self.architecture, self.head
        converted: Tensors = {}
        preserved: Tensors = {}
        # For each name in seqblend the original name, and the address by which tied tensors are recognized.
        sources: dict[str, tuple[str, int]] = {}
        targets = {name: architecture.find_targets(name, head, self.prefix) for name in tensors}
        # Aliases last, after the tensors that they may be tied to.
        aliases = {name for name, found in targets.items() if found is not None and found[1].is_alias}
        for name in sorted(targets, key=aliases.__contains__):
            tensor, found, base_name = tensors.pop(name), targets[name], architecture.base_name(name, head)
            if found is None:
                check_preserved(architecture, head, name, tensor)
                # The stock class creates a table of sinusoids if the checkpoint has none.
                if name not in self.missing or architecture.is_sinusoidal(base_name):
                    preserved[base_name] = tensor.clone()
                continue
            names, rule = found
            if rule.skipped_rows is not None:
                preserved[base_name] = tensor[: rule.skipped_rows(self.config)].clone()
            for target, part in zip(names, rule.convert(tensor, self.config), strict=True):
                other, pointer = sources.setdefault(target, (name, tensor.data_ptr()))
                if pointer == tensor.data_ptr():
                    converted[target] = part if self.dtype is None else part.to(self.dtype)
                elif rule.is_alias:
                    preserved[base_name] = tensor.clone()
                else:
                    raise ConversionError(f"{other!r} and {name!r} differ, but seqblend has one tensor: {target}")
        return converted, preserved


def check_preserved(architecture: Architecture, head: Head, name: str, tensor: torch.Tensor) -> None:
    """Check an original tensor without counterpart.

    Raises:
        ConversionError: it is not one of those that are preserved, or a table of sinusoids has other values.
    """
    if not architecture.is_preserved(name, head):
        raise ConversionError(f"{name!r} has no counterpart in seqblend")
    if architecture.is_sinusoidal(architecture.base_name(name, head)):
        check_sinusoids(name, tensor)


def sinusoids(rows: int, width: int) -> torch.Tensor:
    """The table of positions (rows, width) that seqblend computes."""
    return SinusoidalPositions(rows, width)(torch.zeros(1, rows, width), torch.arange(rows)[None])[0]


def check_sinusoids(name: str, table: torch.Tensor) -> None:
    """Raises ConversionError if a table of positions (P, E) differs from the computed one by more than rounding."""
    difference = (sinusoids(*table.shape) - table.float()).abs().max().item()
    if difference > SINUSOID_ERROR:
        raise ConversionError(f"{name!r} differs from the computed sinusoids by up to {difference:.3g}")


def check_complete(
    model_class: type[PreTrainedModel], config: RecipeConfig, tensors: Tensors, head: Head | None
) -> list[str]:
    """Compare names and shapes of tensors with those of a model of this configuration.

    Args:
        model_class: of the model.
        config: of the model.
        tensors: by the names of seqblend.
        head: the stock head that they belong to; None if the architecture does not have the head of the model.

    Returns:
        The names of tensors of the head that are missing, which the architecture does not have.

    Raises:
        ConversionError: a tensor has another shape or an unknown name, or one of the body or the head is missing.
    """
    with torch.device("meta"):
        expected = model_class(config).state_dict()
    for name, tensor in tensors.items():
        if name not in expected:
            raise ConversionError(f"{name} is in the checkpoint, but not in a model of this configuration")
        if expected[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, by the configuration {tuple(expected[name].shape)}"
            raise ConversionError(f"{name} has the shape {shapes}: an override changes it")
    missing = expected.keys() - tensors.keys()
    new = {name for name in missing if head is None and not name.startswith(f"{model_class.base_model_prefix}.")}
    if missing := missing - new:
        raise ConversionError(f"{min(missing)} is in a model of this configuration, but not in the checkpoint")
    return sorted(new)
