"""From a model of ours back to the checkpoint of the architecture that it was converted from."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig
from transformers.modeling_utils import PreTrainedModel

from ..modeling.families import FAMILIES
from .checkpoint import parsed
from .origin import GENERATION, Origin, origin_of
from .reading import prefix_of, quiet
from .table import ConversionError, Tensors

# Weights as transformers names them, in one piece, in shards, with an index.
WEIGHT_FILES = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "pytorch_model*.bin*")


def to_original(model: PreTrainedModel, directory: str | Path, legacy_keys: bool = False) -> None:
    """Write a model of ours as the checkpoint of the architecture that it was converted from.

    Weights are written in the source's dtype where that changes none, as it is before training, else in the model's
    own. What was kept of the source comes back: its configuration's other keys, its tokenizer, its other tensors.

    Args:
        model: by from_original, or saved and loaded since, trained or not.
        directory: where to write; made if need be.
        legacy_keys: also write keys of config.json that other programs read and transformers no longer writes.

    Raises:
        ConversionError: the model was not converted, or has become what the original cannot say; nothing is written.
    """
    origin = origin_of(model)
    if problems := check(model):
        raise ConversionError("; ".join(problems))
    stock, tensors = stock_model(model, origin)
    if legacy_keys:
        for key, value in origin.architecture.legacy.items():
            setattr(stock.config, key, value)
    directory = Path(directory)
    check_target(directory, origin.architecture.model_type)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".original-") as staged:
        with quiet():
            stock.save_pretrained(staged, state_dict=tensors)
        write_files(model, origin, Path(staged))
        for path in old_weights(directory):
            path.unlink()
        for path in sorted(Path(staged).rglob("*")):
            if path.is_file():
                target = directory / path.relative_to(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)


def check_target(directory: Path, model_type: str) -> None:
    """Raises ConversionError where a model of another kind is in the directory, whose files would stay beside ours."""
    config = directory / "config.json"
    if config.is_file():
        there = parsed(config.read_bytes(), config, dict).get("model_type")
        if there != model_type:
            raise ConversionError(f"{directory} holds a model of model_type {there!r}; give another directory")


def old_weights(directory: Path) -> list[Path]:
    """Weights of an earlier save, which transformers would read in place of new ones that are in other files."""
    return [path for pattern in WEIGHT_FILES for path in directory.glob(pattern)]


def check(model: PreTrainedModel) -> list[str]:
    """What the original format cannot say of a model: a line each; none where it can go back.

    Raises:
        ConversionError: the model was not converted.
    """
    origin = origin_of(model)
    architecture, name = origin.architecture, auto_name(model)
    if name not in architecture.heads:
        return [f"{architecture.model_type} has no stock class for {name}"]
    original, head = origin.their_config(), architecture.heads[name]
    try:
        theirs = architecture.their_config(model.config, original, head)
    except (ValueError, StrictDataclassError) as error:
        return [" ".join(str(error).split())]
    problems = []
    for key in ("vocab_size", "decoder_vocab_size"):
        before, now = getattr(original, key, None), getattr(theirs, key, None)
        if before != now:
            problems.append(f"{key} was {before} and is {now}: the original's tokenizer has no place for that")
    for tensors in architecture.tensors.values():
        if isinstance(tensors, Tensors) and tensors.skipped_rows is not None:
            before, now = tensors.skipped_rows(original), tensors.skipped_rows(theirs)
            if before != now:
                problems.append(f"pad_token_id has moved: positions began at row {before} and would begin at {now}")
    return problems


def auto_name(model: PreTrainedModel) -> str:
    """The name of the Auto class that a model of ours is for."""
    models = FAMILIES[type(model.config)]
    return next(auto.__name__ for auto, model_class in models.items() if type(model) is model_class)


def stock_model(model: PreTrainedModel, origin: Origin) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """The stock model with the weights of ours, and all tensors to be written, also those that it does not have."""
    architecture = origin.architecture
    head = architecture.heads[auto_name(model)]
    config = architecture.their_config(model.config, origin.their_config(), head)
    ours, kept = model.state_dict(), dict(origin.tensors)
    is_lossless = all(unchanged(tensor, origin.dtype) for tensor in ours.values())
    dtype = origin.dtype if is_lossless else model.dtype
    with torch.device("meta"):
        stock = head.stock_class(config)
    state: dict[str, torch.Tensor] = {}
    written: dict[tuple[Any, ...], torch.Tensor] = {}
    for name in stock.state_dict():
        place = architecture.place(name, head, prefix_of(type(model)))
        aside = kept.pop(architecture.base_name(name, head), None)
        if place is not None and not (place[1].is_alias and aside is not None):
            names, operation = place
            rows = aside if operation.skipped_rows is not None else None
            key = (*(ours[each].data_ptr() for each in names), operation.is_row)
            if key not in written:
                written[key] = operation.write([ours[each] for each in names], rows).to(dtype)
                state[name] = written[key]
            else:
                # What is tied stays one tensor under several names, of which one is saved; else each is needed.
                state[name] = written[key] if config.tie_word_embeddings else written[key].clone()
        elif aside is not None:
            state[name] = aside.to(dtype)
    stock.load_state_dict(state, strict=False, assign=True)
    if model.can_generate():
        stock.generation_config = model.generation_config
    # What neither has, such as the pooler of a masked language model that is now a base model, is not made up.
    tensors = {name: tensor for name, tensor in stock.state_dict().items() if not tensor.is_meta}
    body = "" if architecture.is_base(head) else f"{head.stock_class.base_model_prefix}."
    for name, tensor in kept.items():
        if architecture.is_of_other_head(name):
            tensors[name] = tensor
        elif architecture.is_aside(name, head):
            tensors[body + name] = tensor
    return stock, tensors


def unchanged(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether every number of a tensor is one of a dtype."""
    return not tensor.is_floating_point() or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def write_files(model: PreTrainedModel, origin: Origin, directory: Path) -> None:
    """Write what was kept of the source's files; generation_config.json only where the model's is still the same."""
    for path, content in origin.files.items():
        if path == GENERATION and model.can_generate() and not is_same_generation(model, content):
            continue
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


def is_same_generation(model: PreTrainedModel, original: bytes) -> bool:
    """Whether a model's generation settings are those of the original generation_config.json."""

    def settings(config: GenerationConfig) -> dict[str, Any]:
        ignored = ("transformers_version", "_from_model_config")
        return {name: value for name, value in config.to_dict().items() if name not in ignored}

    return settings(model.generation_config) == settings(GenerationConfig.from_dict(json.loads(original)))
