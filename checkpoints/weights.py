"""Comparing the weights in a checkpoint with the model, from the headers of their files."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import (
    ADAPTER_SAFE_WEIGHTS_NAME,
    ADAPTER_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
)

from ..data.errors import InputError, error_line
from ..data.objects import load_object
from .faults import load_saved

Shapes = dict[str, list[int]]


def check_weights(checkpoint: str | Path, model: nn.Module) -> None:
    """Compare the tensors of a checkpoint with those of a model, before any of them is loaded.

    If a tensor is missing, the Trainer only logs a warning, and the layer keeps its random weights.

    Args:
        checkpoint: a directory; if it has no weights in one file or in shards (FSDP), nothing is compared.
        model: a model, or an adapter of peft; for an adapter only the shapes are compared.

    Raises:
        InputError: tensors are missing, unexpected or of another shape; the message names them.
    """
    checkpoint = Path(checkpoint)
    if hasattr(model, "peft_config"):
        for directory, adapter in adapters_in(checkpoint, model):
            saved = shapes_in(directory, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)
            check_shapes(checkpoint, saved, adapter_shapes(model, adapter))
        return
    saved = model_shapes_in(checkpoint)
    if not saved:
        return
    own = shapes_of(model.state_dict())
    check_shapes(checkpoint, saved, own)
    tied = getattr(model, "all_tied_weights_keys", {})
    missing, unexpected = sorted(own.keys() - saved.keys() - {*tied}), sorted(saved.keys() - own.keys())
    if missing or unexpected:
        raise InputError(f"{checkpoint} does not match the model: missing {missing}, unexpected {unexpected}")


def check_shapes(checkpoint: Path, saved: Shapes, own: Shapes) -> None:
    """Raises InputError for the tensors that have another shape in the checkpoint than in the model."""
    differing = [name for name in saved if name in own and saved[name] != own[name]]
    if differing:
        found = "; ".join(f"size mismatch for {name}: {saved[name]}, not {own[name]}" for name in differing[:4])
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise InputError(f"{checkpoint} does not match the model: {found}{more}")


def shapes_of(tensors: dict[str, Any]) -> Shapes:
    """The shapes of tensors, by their names; other entries are left out."""
    return {name: [*tensor.shape] for name, tensor in tensors.items() if torch.is_tensor(tensor)}


def model_shapes_in(checkpoint: Path) -> Shapes:
    """The shapes of a model's tensors in a checkpoint, from one file or from shards; empty without either."""
    for index, single in ((SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME), (WEIGHTS_INDEX_NAME, WEIGHTS_NAME)):
        if (checkpoint / single).is_file():
            return shapes_in(checkpoint, single)
        if (checkpoint / index).is_file():
            shards = sorted(set(load_object(checkpoint / index)["weight_map"].values()))
            return {name: shape for shard in shards for name, shape in shapes_in(checkpoint, shard).items()}
    return {}


def shapes_in(directory: Path, *names: str) -> Shapes:
    """The shapes of the tensors in the first of the files that exists; only its header is read."""
    path = next((directory / name for name in names if (directory / name).is_file()), None)
    if path is None:
        return {}
    if path.suffix != ".safetensors":
        return shapes_of(load_saved(path, mmap=True))
    with safe_open(path, "pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def adapters_in(checkpoint: Path, model: Any) -> Iterator[tuple[Path, str]]:
    """The directories with the weights of adapters, as in Trainer._load_from_checkpoint, and the adapters' names."""
    inner = [path for path in sorted(checkpoint.iterdir()) if path.is_dir() and path.name in model.peft_config]
    # A property in models of peft, a method in those of transformers.
    active = model.active_adapters() if callable(model.active_adapters) else model.active_adapters
    yield checkpoint, "default" if inner and "default" in model.peft_config else active[0]
    for path in inner:
        yield path, path.name


def adapter_shapes(model: Any, adapter: str) -> Shapes:
    """The shapes of an adapter's tensors under the names that it is saved with."""
    from peft import get_peft_model_state_dict

    with torch.no_grad():
        return shapes_of(get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False))


@contextmanager
def size_errors(checkpoint: str | None) -> Iterator[None]:
    """Turn torch's error about the shapes of a checkpoint's tensors into an InputError; see check_weights.

    With FSDP and in a trial of a search the shapes are only compared when the tensors are loaded.

    Args:
        checkpoint: the checkpoint that a run is resumed from; None for a new run.

    Raises:
        InputError: a tensor has another shape in the checkpoint than in the model.
    """
    try:
        yield
    except RuntimeError as error:
        if checkpoint is None or "size mismatch for " not in str(error):
            raise
        raise InputError(f"{checkpoint} does not match the model: {error_line(error)}") from error


@contextmanager
def hide_missing_keys() -> Iterator[None]:
    """Inside, the Trainer does not warn about tied weights, which a checkpoint has only once. See check_weights."""
    source = logging.getLogger("transformers.trainer")

    def is_other(record: logging.LogRecord) -> bool:
        return "There were missing keys in the checkpoint model loaded" not in record.getMessage()

    source.addFilter(is_other)
    try:
        yield
    finally:
        source.removeFilter(is_other)
