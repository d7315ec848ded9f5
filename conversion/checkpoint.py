"""The tensors of a checkpoint by their names, before and without a model."""

import functools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from .table import ConversionError

# Of floating-point numbers, as safetensors names them.
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# A file of all tensors, or one that tells which file each is in; safetensors first, as transformers looks for them.
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


class Checkpoint:
    """The weights of a directory or a repository of the Hub.

    Args:
        source: where they are.
        options: of cached_file.

    Raises:
        ConversionError: there are none; a pickle of more than tensors; a name is in two files.
    """

    def __init__(self, source: str | Path, **options: Any):
        self.source = source
        self.options = options
        # Of each tensor, its file and its dtype.
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
                    raise ConversionError(f"{self.source}: {name} names {missing[0]}, which is not there")
                return [file for file in found.values() if file is not None]
            if path is not None:
                return [path]
        raise ConversionError(f"{self.source} has no weights: none of {', '.join(WEIGHTS)}")

    def path(self, name: str) -> Path | None:
        found = cached_file(self.source, name, _raise_exceptions_for_missing_entries=False, **self.options)
        return None if found is None else Path(found)

    def dtype(self) -> torch.dtype:
        """The dtype in which none of the weights is rounded, whatever config.json says."""
        floating = {dtype for dtype in self.dtypes.values() if dtype.is_floating_point}
        return functools.reduce(torch.promote_types, floating, torch.bfloat16 if not floating else floating.pop())

    def check_collisions(self, prefix: str) -> None:
        """Raises ConversionError where two names stand for one tensor: old and new, or with and without the prefix."""
        seen: dict[str, str] = {}
        for name in self.files:
            plain = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name)).removeprefix(f"{prefix}.")
            if plain in seen:
                raise ConversionError(f"{self.source}: {seen[plain]!r} and {name!r} are two names of one tensor")
            seen[plain] = name

    def tensors(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The tensors of these names."""
        return {name: read(self.files[name], name) for name in names}


def parsed(content: bytes, name: str | Path, kind: type) -> Any:
    """A JSON object or list. Raises ConversionError, with the file's name, for anything else."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConversionError(f"{name} is not JSON") from error
    if not isinstance(value, kind):
        raise ConversionError(f"{name} holds no {kind.__name__}")
    return value


def weight_map(path: Path) -> dict[str, str]:
    """Of each tensor the file, as an index says. Raises ConversionError for one that does not."""
    files = parsed(path.read_bytes(), path, dict).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(file, str) for file in files.values()):
        raise ConversionError(f"{path}: weight_map does not name files")
    return files


def dtypes_in(path: Path) -> dict[str, torch.dtype]:
    """The names of the tensors in a file, and their dtypes. Raises ConversionError for a damaged file."""
    if path.suffix != ".safetensors":
        return {name: tensor.dtype for name, tensor in unpickled(path).items()}
    try:
        with safe_open(path, framework="pt") as file:
            return {name: DTYPES.get(file.get_slice(name).get_dtype(), torch.int64) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ConversionError(f"{path} is damaged: {error}") from error


def read(path: Path, name: str) -> torch.Tensor:
    """A tensor from a file."""
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)
    return unpickled(path)[name].clone()


def unpickled(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a pickle, in place where its form allows. Raises ConversionError for anything but tensors."""
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError:  # from before torch 1.6: not a zip file, which alone can be mapped
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickles of every kind; torch explains over many lines
        raise ConversionError(
            f"{path} is no pickle of tensors alone, and nothing else is unpickled ({type(error).__name__})"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ConversionError(f"{path} holds more than tensors by name")
    return content
