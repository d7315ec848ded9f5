"""The tensors of a checkpoint by name, read without building a model."""

import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME, cached_file

from ..data.objects import load_object
from .table import ConversionError

# Floating-point dtypes by their names in safetensors.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Buffers that older versions of transformers and fairseq saved: masks, position ids, frequencies, version markers.
BUFFERS = re.compile(
    r"(^|\.)((position|token_type)_ids|(attn|attention)\.(masked_)?bias|inv_freq|version|_float_tensor)$"
)
# A file of all tensors, or an index of shards. safetensors first: the order in which transformers looks for them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
# Patterns of the files of a whole model's weights: in safetensors, and all.
SAFETENSORS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
WEIGHT_FILES = (*SAFETENSORS, "pytorch_model*.bin*")
# The files of an adapter of peft: beside a whole model, transformers would load them, too.
ADAPTER_FILES = (ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, ADAPTER_WEIGHTS_NAME)


class Checkpoint:
    """The weights in a directory or a repository of the Hub.

    Args:
        source: the directory or the repository.
        options: of cached_file.

    Raises:
        ConversionError: there are no weights, a pickle holds other things than tensors, or a name is in two files.
    """

    def __init__(self, source: str | Path, **options: Any):
        self.source = source
        self.options = options
        # File and dtype of each tensor.
        self.files: dict[str, Path] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        for path in self.paths():
            for name, dtype in dtypes_in(path).items():
                if name in self.files:
                    raise ConversionError(f"{source}: {name!r} is in {self.files[name].name} and in {path.name}")
                self.files[name], self.dtypes[name] = path, dtype

    def paths(self) -> list[Path]:
        """The files that hold the weights."""
        for name in WEIGHTS:
            path = self.path(name)
            if path is not None and name.endswith(".index.json"):
                shards = sorted(set(weight_map(path).values()))
                found = {shard: self.path(shard) for shard in shards}
                if missing := [shard for shard, file in found.items() if file is None]:
                    raise ConversionError(f"{self.source}: {name} names {missing[0]}, which does not exist")
                return [file for file in found.values() if file is not None]
            if path is not None:
                return [path]
        raise ConversionError(f"{self.source} has no weights: none of {', '.join(WEIGHTS)}")

    def path(self, name: str) -> Path | None:
        found = cached_file(self.source, name, _raise_exceptions_for_missing_entries=False, **self.options)
        return None if found is None else Path(found)

    def dtype(self) -> torch.dtype:
        """The smallest dtype that holds all weights without rounding; the dtype in config.json is ignored."""
        floating = {dtype for name, dtype in self.dtypes.items() if dtype.is_floating_point and not is_buffer(name)}
        return functools.reduce(torch.promote_types, floating, torch.bfloat16 if not floating else floating.pop())

    def check_collisions(self, prefix: str) -> None:
        """Raises ConversionError if one tensor has two names: old and new, or with and without the prefix."""
        seen: dict[str, str] = {}
        for name in self.files:
            plain = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)).removeprefix(f"{prefix}.")
            if plain in seen:
                raise ConversionError(f"{self.source}: {seen[plain]!r} and {name!r} are two names of one tensor")
            seen[plain] = name

    def tensors(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors with these names."""
        return {name: read_tensor(self.files[name], name) for name in names}


def is_buffer(name: str) -> bool:
    """Whether a tensor is no weight, but a buffer that older versions saved as well."""
    return BUFFERS.search(name) is not None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ConversionError, which names the file, for other content."""
    try:
        return load_object(path)
    except ValueError as error:
        raise ConversionError(f"{path} {error}") from error


def weight_map(path: Path) -> dict[str, str]:
    """The file of each tensor, from an index of shards. Raises ConversionError if the index is damaged."""
    files = read_json(path).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ConversionError(f"{path}: weight_map does not name files")
    return files


def dtypes_in(path: Path) -> dict[str, torch.dtype]:
    """The dtype of each tensor in a file. Raises ConversionError for a damaged file."""
    if path.suffix != ".safetensors":
        return {name: tensor.dtype for name, tensor in unpickle(path).items()}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: DTYPES.get(file.get_slice(name).get_dtype(), torch.int64) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConversionError(f"{path} is damaged: {error}") from error


def read_tensor(path: Path, name: str) -> torch.Tensor:
    """One tensor from a file."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    return unpickle(path)[name].clone()


def unpickle(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, memory-mapped if possible. Raises ConversionError if it holds other things."""
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # the format before torch 1.6 is not a zip file and cannot be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load and pickle raise errors of any class; the text has many lines
        raise ConversionError(
            f"{path} is not a pickle that holds tensors only; nothing else is unpickled ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ConversionError(f"{path} is not a dict of tensors by name")
    return content
