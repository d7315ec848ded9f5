"""Conversion of a model back to a checkpoint of its original architecture."""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from huggingface_hub.errors import StrictDataclassError
from transformers import GenerationConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME

from ..data.writing import is_users_card, move_into
from .adapters import write_adapter
from .checkpoint import ADAPTER_FILES, WEIGHT_FILES, read_json
from .modules import is_module_file, transformer_class
from .origin import CARD, GENERATION, Origin, origin_of, without_adapter
from .reading import auto_class_of, base_prefix, quiet
from .table import ConversionError, TensorMap
from .tensors import sinusoids


def to_original(model: Any, directory: str | Path, legacy_keys: bool = False) -> None:
    """Write a converted model as a checkpoint of its original architecture, or its adapter as one for the original.

    Weights are written in the dtype of the original checkpoint if that rounds none of them (so before training), else
    in the dtype of the model. The preserved parts are written as well: other configuration keys, tokenizer, tensors.

    Args:
        model: from from_original, or loaded from a save of such a model, trained or not. Of a PeftModel around such a
            model, only the adapter is written, for peft and the checkpoint that its base_model_name_or_path names.
            It may be compiled, or wrapped for several devices.
        directory: where to write; created if it does not exist.
        legacy_keys: also write keys of config.json that other programs read and transformers no longer writes.

    Raises:
        ConversionError: the model was not converted, or the original format cannot express it; nothing is written.
    """
    model = extract_model_from_parallel(model, keep_torch_compile=False)
    whole = without_adapter(model)
    origin = origin_of(whole)
    if problems := check(whole):
        raise ConversionError("; ".join(problems))
    if whole is not model:
        write_adapter(model, Path(directory))
        return
    stock, tensors = stock_model(model, origin)
    if legacy_keys:
        for key, value in origin.architecture.legacy.items():
            setattr(stock.config, key, value)
    directory = Path(directory)
    check_model_type(directory, origin.architecture.model_type)
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".original-") as staged:
        with quiet():
            stock.save_pretrained(staged, state_dict=tensors)
        write_files(model, origin, Path(staged))
        for path in old_weights(directory):
            path.unlink()
        move_into(Path(staged), directory)


def check_model_type(directory: Path, model_type: str) -> None:
    """Raises ConversionError if the directory holds a model of another model_type, whose files would remain."""
    config = directory / "config.json"
    if config.is_file():
        found = read_json(config).get("model_type")
        if found != model_type:
            raise ConversionError(f"{directory} holds a model of model_type {found!r}; give another directory")


def old_weights(directory: Path) -> list[Path]:
    """Weights and adapter of an earlier save, which transformers could load instead of the new ones, or into them.

    Its card goes with an adapter, except that of the user.
    """
    card = directory / CARD
    cards = [card] if (directory / ADAPTER_CONFIG_NAME).exists() and card.exists() and not is_users_card(card) else []
    return [path for pattern in (*WEIGHT_FILES, *ADAPTER_FILES) for path in directory.glob(pattern)] + cards


def check(model: PreTrainedModel) -> list[str]:
    """Check whether to_original can write a model.

    Returns:
        One line for each thing that the original format cannot express; empty if the model can be written.

    Raises:
        ConversionError: the model was not converted.
    """
    origin = origin_of(model)
    architecture, name = origin.architecture, auto_class_of(model).__name__
    if name not in architecture.heads:
        return [f"{architecture.model_type} has no stock class for {name}"]
    original, head = origin.original_config(), architecture.heads[name]
    try:
        restored = architecture.restore_config(model.config, original, head)
    except (ValueError, StrictDataclassError) as error:
        return [" ".join(str(error).split())]
    problems = []
    for key in ("vocab_size", "decoder_vocab_size"):
        before, now = getattr(original, key, None), getattr(restored, key, None)
        if before != now:
            problems.append(f"{key} was {before} and is {now}: the original tokenizer has another vocabulary size")
    for rule in architecture.tensors.values():
        if isinstance(rule, TensorMap) and rule.skipped_rows is not None:
            before, now = rule.skipped_rows(original), rule.skipped_rows(restored)
            if before != now:
                problems.append(f"pad_token_id has changed: positions started at row {before}, now at row {now}")
    return problems


def stock_model(model: PreTrainedModel, origin: Origin) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """The stock model with the weights of a model, and all tensors to write, including those that it does not have."""
    architecture = origin.architecture
    head = architecture.heads[auto_class_of(model).__name__]
    config = architecture.restore_config(model.config, origin.original_config(), head)
    weights, preserved = model.state_dict(), dict(origin.tensors)
    is_lossless = all(fits(tensor, origin.dtype) for tensor in weights.values())
    dtype = origin.dtype if is_lossless else model.dtype
    with torch.device("meta"):
        stock = head.stock_class(config)
    state: dict[str, torch.Tensor] = {}
    restored: dict[tuple[Any, ...], torch.Tensor] = {}
    for name in stock.state_dict():
        found = architecture.find_targets(name, head, base_prefix(type(model)))
        tensor = preserved.pop(architecture.base_name(name, head), None)
        if found is not None and not (found[1].is_alias and tensor is not None):
            names, rule = found
            rows = tensor if rule.skipped_rows is not None else None
            key = (*(weights[each].data_ptr() for each in names), rule.is_row)
            if key not in restored:
                restored[key] = rule.restore([weights[each] for each in names], rows).to(dtype)
                state[name] = restored[key]
            else:
                # Tied names share one tensor, which is saved once; untied names each need their own.
                state[name] = restored[key] if config.tie_word_embeddings else restored[key].clone()
        elif tensor is not None:
            # Half precision has rounded it, and a trained model is written as it computes.
            is_rounded = architecture.is_sinusoidal(architecture.base_name(name, head)) and dtype != origin.dtype
            state[name] = (sinusoids(*tensor.shape) if is_rounded else tensor).to(dtype)
    stock.load_state_dict(state, strict=False, assign=True)
    if model.can_generate():
        stock.generation_config = model.generation_config
    # Tensors without any source are not written, such as the pooler of a base model that came from a masked LM.
    tensors = {name: tensor for name, tensor in stock.state_dict().items() if not tensor.is_meta}
    prefix = architecture.stock_prefix(head)
    for name, tensor in preserved.items():
        if architecture.is_of_preserved_head(name):
            tensors[name] = tensor
        elif architecture.is_preserved(name, head):
            tensors[prefix + name] = tensor
    return stock, tensors


def fits(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor can be cast to a dtype without rounding."""
    return not tensor.is_floating_point() or torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


def write_files(model: PreTrainedModel, origin: Origin, directory: Path) -> None:
    """Write the preserved files; generation_config.json only if the model's settings have not changed.

    The modules of sentence-transformers are written only with the class that they load, or that they were saved with:
    with modules.json a classifier would be opened as a model of embeddings.
    """
    name, named = auto_class_of(model).__name__, origin.config.get("architectures") or []
    has_modules = origin.architecture.heads[name].stock in named or name == transformer_class(origin.files)
    for path, content in origin.files.items():
        if is_module_file(path) and not has_modules:
            continue
        if path == GENERATION and model.can_generate() and not is_same_generation(model, content):
            continue
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)


def is_same_generation(model: PreTrainedModel, original: bytes) -> bool:
    """Whether the generation settings of a model equal those of the original generation_config.json."""

    def settings(config: GenerationConfig) -> dict[str, Any]:
        ignored = ("transformers_version", "_from_model_config")
        return {name: value for name, value in config.to_dict().items() if name not in ignored}

    return settings(model.generation_config) == settings(GenerationConfig.from_dict(json.loads(original)))
