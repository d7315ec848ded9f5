"""From a model of ours back to the checkpoint of the architecture that it was converted from."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel
from transformers.modeling_utils import PreTrainedModel

from ..modeling.families import FAMILIES
from .origin import GENERATION, Origin, origin_of
from .reading import quiet
from .table import ConversionError


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
    stock, extra = stock_model(model, origin)
    if legacy_keys:
        for key, value in origin.architecture.legacy.items():
            setattr(stock.config, key, value)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".original-") as staged:
        with quiet():
            stock.save_pretrained(staged, state_dict=stock.state_dict() | extra)
        write_files(model, origin, Path(staged))
        for path in sorted(Path(staged).rglob("*")):
            if path.is_file():
                target = directory / path.relative_to(staged)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)


def check(model: PreTrainedModel) -> list[str]:
    """What the original format cannot say of a model: a line each; none where it can go back.

    Raises:
        ConversionError: the model was not converted.
    """
    origin = origin_of(model)
    architecture = origin.architecture
    if origin.head_name != auto_name(model):
        return [f"{architecture.model_type} has no stock class for {auto_name(model)}"]
    original = origin.their_config()
    problems = []
    try:
        architecture.their_config(model.config, original, origin.head)
    except ConversionError as error:
        problems.append(str(error))
    sizes = {"vocab_size": original.vocab_size, "decoder_vocab_size": getattr(original, "decoder_vocab_size", None)}
    theirs = architecture.write_config(model.config)
    for key, size in sizes.items():
        if theirs.get(key, size) != size:
            problems.append(f"{key} was {size} and is {theirs[key]}: the original's tokenizer has no place for that")
    return problems


def auto_name(model: PreTrainedModel) -> str:
    """The name of the Auto class that a model of ours is for."""
    models = FAMILIES[type(model.config)]
    return next(auto.__name__ for auto, model_class in models.items() if type(model) is model_class)


def stock_model(model: PreTrainedModel, origin: Origin) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """The stock model with the weights of ours, and their tensors that it does not have."""
    architecture, head = origin.architecture, origin.head
    config = architecture.their_config(model.config, origin.their_config(), head)
    ours = model.state_dict()
    is_lossless = all(unchanged(tensor, origin.dtype) for tensor in ours.values())
    dtype = origin.dtype if is_lossless else model.dtype
    with torch.device("meta"):
        stock = head.stock_class(config)
    our_prefix = "" if type(model) is FAMILIES[type(model.config)][AutoModel] else f"{model.base_model_prefix}."
    kept = dict(origin.tensors)
    state = {}
    for name in stock.state_dict():
        place = architecture.place(name, head, our_prefix)
        aside = kept.pop(architecture.base_name(name, head), None)
        if place is None:
            assert aside is not None, name
            state[name] = aside
            continue
        names, operation = place
        if operation.is_alias and aside is not None:
            state[name] = aside
        else:
            state[name] = operation.write([ours[each] for each in names], aside).to(dtype)
    stock.load_state_dict(state, strict=True, assign=True)
    stock.tie_weights()
    if model.can_generate():
        stock.generation_config = model.generation_config
    prefix = "" if architecture.is_base(head) else f"{head.stock_class.base_model_prefix}."
    extra = {
        (name if any(name.startswith(f"{each}.") for each in architecture.aside_heads) else prefix + name): tensor
        for name, tensor in kept.items()
    }
    return stock.to(dtype), extra


def unchanged(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether every number of a tensor is one of a dtype."""
    return not tensor.is_floating_point() or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def write_files(model: PreTrainedModel, origin: Origin, directory: Path) -> None:
    """Write what was kept of the source's files; generation_config.json only where the model's is still the same."""
    for path, content in origin.files.items():
        if path == GENERATION and (directory / path).exists() and not is_same_generation(directory / path, content):
            continue
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


def is_same_generation(written: Path, original: bytes) -> bool:
    """Whether a generation_config.json says what the original one says, whoever wrote it."""

    def settings(content: bytes) -> dict[str, Any]:
        return {key: value for key, value in json.loads(content).items() if key != "transformers_version"}

    return settings(written.read_bytes()) == settings(original)
