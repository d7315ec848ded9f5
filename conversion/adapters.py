"""Adapters of a converted model in the original format: LoRA of peft for the stock class."""

import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .origin import origin_of
from .reading import base_prefix, from_original, quiet
from .table import LABELS, Architecture, ConversionError, Head, computed_fields, value_of

# Before the names of the base model's tensors in those of an adapter.
PREFIX = "base_model.model."
MERGE = "merge it instead (--merge_adapter true, or merge_and_unload)"
# Settings of LoRA that change what it computes, and the only values that are converted.
PLAIN = {"use_dora": False, "bias": "none", "lora_bias": False, "trainable_token_indices": None}


@dataclass
class Pair:
    """The LoRA of one layer: `b @ a`, multiplied by `scaling`, is added to its weight.

    Args:
        a: (rank, in).
        b: (out, rank).
        scaling: the factor.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def write_adapter(adapted: Any, auto_class: type, head: Head, directory: Path) -> None:
    """Write an adapter that was trained on a converted model as an adapter of peft for the original checkpoint.

    A layer that is fused in the original, such as `c_attn` of GPT-2, gets the adapters of its parts side by side: the
    ranks add up, and its matrix B has a block for each part.

    Args:
        adapted: a PeftModel with one adapter of LoRA. Its base model is adopted from the checkpoint that
            base_model_name_or_path names, and unchanged.
        auto_class: of the base model.
        head: of the stock class.
        directory: where to write; created if it does not exist.

    Raises:
        ConversionError: the original format cannot express the adapter, or its base model is another checkpoint;
            nothing is written.
    """
    settings, base = settings_of(adapted), adapted.get_base_model()
    architecture = origin_of(base).architecture
    pairs, whole = trained_tensors(adapted, settings)
    config = origin_of(base).original_config()
    check_config(architecture, base, config, head)
    check_base(base, auto_class, settings, set(whole))
    if (directory / "config.json").exists():
        raise ConversionError(f"{directory} holds a whole model; give another directory")
    for name in LABELS:
        setattr(config, name, getattr(base.config, name))
    converted, tensors = convert(architecture, head, config, base_prefix(type(base)), pairs, whole)
    with torch.device("meta"), quiet():
        stock = head.stock_class(config)
    modules = dict(stock.named_modules())
    adapter = importlib.import_module("peft").LoraConfig(
        task_type=settings.task_type,
        base_model_name_or_path=settings.base_model_name_or_path,
        revision=settings.revision,
        lora_dropout=settings.lora_dropout,
        target_modules=short_names(set(converted), set(modules)),
        modules_to_save=whole_modules(tensors) or None,
        fan_in_fan_out=any(isinstance(modules[name], Conv1D) for name in converted),
        inference_mode=True,
        **ranks(converted),
    )
    for name, pair in converted.items():
        tensors |= {f"{name}.lora_A.weight": pair.a, f"{name}.lora_B.weight": pair.b}
    with tempfile.TemporaryDirectory() as staged:
        # What is on the disk is complete, or is not there.
        save_file({PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}, Path(staged, "adapter"))
        directory.mkdir(parents=True, exist_ok=True)
        adapter.save_pretrained(str(directory))
        (directory / "adapter_model.safetensors").write_bytes(Path(staged, "adapter").read_bytes())


def settings_of(adapted: Any) -> Any:
    """The LoraConfig of the adapter. Raises ConversionError if there are several, or it is no plain LoRA."""
    if [*adapted.peft_config] != ["default"]:
        raise ConversionError(f"the model has adapters {', '.join(adapted.peft_config)}; one is converted at a time")
    settings = adapted.peft_config["default"]
    kind = getattr(settings.peft_type, "value", settings.peft_type)
    if kind != "LORA":
        raise ConversionError(f"an adapter of type {kind} cannot be converted; {MERGE}")
    for name, value in PLAIN.items():
        if getattr(settings, name, value) != value:
            raise ConversionError(f"an adapter with {name}={getattr(settings, name)!r} cannot be converted; {MERGE}")
    return settings


def trained_tensors(adapted: Any, settings: Any) -> tuple[dict[str, Pair], dict[str, torch.Tensor]]:
    """The LoRA of each layer, by its name in the base model, and the tensors that were trained whole.

    Raises:
        ConversionError: the adapter holds other tensors.
    """
    state = importlib.import_module("peft").get_peft_model_state_dict(adapted, save_embedding_layers=False)
    state = {name.removeprefix(PREFIX): tensor.detach().cpu() for name, tensor in state.items()}
    modules = dict(adapted.get_base_model().named_modules())
    pairs = {}
    for name in [name for name in state if name.endswith(".lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        a, b = state.pop(name), state.pop(f"{layer}.lora_B.weight")
        pairs[layer] = Pair(a, b, modules[layer].scaling["default"])
    if other := [name for name in state if ".lora_" in name]:
        raise ConversionError(f"{other[0]} of the adapter cannot be converted; {MERGE}")
    return pairs, state


def check_config(architecture: Architecture, base: PreTrainedModel, original: PreTrainedConfig, head: Head) -> None:
    """Raises ConversionError for a field that was changed since the conversion: an adapter has no configuration."""
    before = architecture.read_config(original, head)
    for name in computed_fields(base.config):
        was, now = value_of(before, name), value_of(base.config, name)
        # The padding is that of the tokenizer, which the Trainer reads.
        if was != now and not name.endswith("_token_id"):
            raise ConversionError(f"{name} was {was!r} and is {now!r}, which an adapter cannot say; {MERGE}")


def check_base(base: PreTrainedModel, auto_class: type, settings: Any, whole: set[str]) -> None:
    """Compare the weights under an adapter with the original checkpoint that it is to be an adapter of.

    Args:
        base: the base model, with the adapter in its layers.
        auto_class: of the base model.
        settings: name the checkpoint.
        whole: names of the tensors that the adapter replaces.

    Raises:
        ConversionError: there is no such checkpoint, or its weights are other ones.
    """
    name = settings.base_model_name_or_path
    try:
        with quiet():
            original = from_original(name, auto_class, revision=settings.revision).state_dict()
    except (ConversionError, OSError, ValueError) as error:
        raise ConversionError(
            f"base_model_name_or_path of the adapter, {name!r}, must be the original checkpoint: {error}; {MERGE}"
        ) from error
    own = base.state_dict()
    for key, tensor in original.items():
        layer, _, kind = key.rpartition(".")
        found = own.get(f"{layer}.base_layer.{kind}", own.get(key))
        if key not in whole and (found is None or not torch.equal(found.cpu(), tensor.to(found.dtype))):
            raise ConversionError(f"the adapter was trained on another {key} than that of {name}; {MERGE}")


def convert(
    architecture: Architecture,
    head: Head,
    config: PreTrainedConfig,
    prefix: str,
    pairs: dict[str, Pair],
    whole: dict[str, torch.Tensor],
) -> tuple[dict[str, Pair], dict[str, torch.Tensor]]:
    """The LoRA of each layer of the stock class, and its tensors that were trained whole.

    Args:
        architecture: of the stock class.
        head: of the stock class.
        config: of the stock class.
        prefix: of the base model's tensors in the model of seqblend.
        pairs: the LoRA of each layer in seqblend.
        whole: tensors by the names of seqblend.

    Raises:
        ConversionError: one of them has no counterpart.
    """
    with torch.device("meta"), quiet():
        shapes = {name: tensor.shape for name, tensor in head.stock_class(config).state_dict().items()}
    layers, tensors, used = {}, {}, set()
    for name in shapes:
        found = architecture.find_targets(name, head, prefix)
        if found is None or found[1].is_alias:
            continue
        targets, rule = found
        parts = [pairs.get(each.removesuffix(".weight")) if each.endswith(".weight") else None for each in targets]
        if any(parts):
            rows = shapes[name][1 if rule.is_transposed else 0] // len(parts)
            layers[name.removesuffix(".weight")] = join(parts, rows)
            used |= {each.removesuffix(".weight") for each in targets}
        elif targets[0] in whole and rule.skipped_rows is None:
            tensors[name] = rule.restore([whole[each] for each in targets], None)
            used |= {*targets}
    if missing := sorted({*pairs, *whole} - used):
        raise ConversionError(f"{architecture.model_type} has no counterpart of {missing[0]}; {MERGE}")
    return layers, tensors


def join(parts: list[Pair | None], rows: int) -> Pair:
    """The LoRA of a layer that is made of several ones, one above the other, each with `rows` outputs."""
    given = [part for part in parts if part is not None]
    scaling = given[0].scaling
    if len(parts) == 1:
        return given[0]
    blocks = [torch.empty(rows, 0) if part is None else part.b * (part.scaling / scaling) for part in parts]
    return Pair(torch.cat([part.a for part in given]), torch.block_diag(*blocks).to(given[0].b), scaling)


def ranks(layers: dict[str, Pair]) -> dict[str, Any]:
    """The settings of LoraConfig for the rank and the scaling of each layer; exceptions by the layer's full name."""
    own = {name: (len(pair.a), pair.scaling * len(pair.a)) for name, pair in layers.items()}
    rank, alpha = min(own.values())
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {name: each for name, (each, _) in own.items() if each != rank},
        "alpha_pattern": {name: each for name, (_, each) in own.items() if each != alpha},
    }


def short_names(targets: set[str], modules: set[str]) -> list[str]:
    """The last parts of the names of layers, if no other module of the model has them; else the full names."""
    short = {name.rpartition(".")[2] for name in targets}
    return sorted(short if {name for name in modules if name.rpartition(".")[2] in short} == targets else targets)


def whole_modules(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The modules of tensors that were trained whole.

    peft saves `classifier` and `score` of a classifier whole, so none of their parts is named.
    """
    names = {name.rpartition(".")[0] for name in tensors}
    return sorted({first if (first := name.split(".")[0]) in ("classifier", "score") else name for name in names})
