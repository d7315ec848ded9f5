"""Adapters of a converted model in the original format: LoRA of peft for the stock class."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from ..data.writing import SIGNATURE, is_users_card, move_into
from ..version import __version__
from .origin import CARD, origin_of, without_adapter
from .reading import Original, auto_class_of, base_prefix, quiet
from .table import LABELS, Architecture, ConversionError, Head, computed_fields, value_of

# Before the names of the base model's tensors in those of an adapter.
PREFIX = "base_model.model."
MERGE = "merge it instead (--merge_adapter true, or merge_and_unload)"
# Settings of plain LoRA: what is adapted, with which rank and scaling.
SETTINGS = (
    *("task_type", "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "modules_to_save"),
)
# Entries of adapter_config.json that do not change what a trained adapter computes.
DESCRIPTIVE = ("peft_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping", "inference_mode")
# The initializations that leave the weights of the base model as they are; others, such as pissa, change them.
INITIALIZATIONS = (True, False, "gaussian", "eva", "orthogonal")


@dataclass
class LayerLora:
    """The LoRA of one layer: `b @ a`, multiplied by `scaling`, is added to its weight.

    Args:
        a: (rank, in).
        b: (out, rank).
        scaling: the factor.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def write_adapter(adapted: Any, directory: Path) -> None:
    """Write an adapter that was trained on a converted model as an adapter of peft for the original checkpoint.

    An adapter has no configuration, so a short card has the code that opens it with its labels. A card of the user is
    kept.

    A layer that is fused in the original, such as `c_attn` of GPT-2, gets the adapters of its parts side by side: the
    ranks add up, and its matrix B has a block for each part.

    Args:
        adapted: a PeftModel with one adapter of LoRA. Its base model is adopted from the checkpoint that
            base_model_name_or_path names, and unchanged.
        directory: where to write; created if it does not exist.

    Raises:
        ConversionError: the original format cannot express the adapter, or its base model is another checkpoint;
            nothing is written.
    """
    from peft import LoraConfig

    check_adapter(adapted)
    settings, base = settings_of(adapted), without_adapter(adapted)
    architecture = origin_of(base).architecture
    head = architecture.heads[auto_class_of(base).__name__]
    layers, whole = trained_tensors(adapted)
    config = origin_of(base).original_config()
    if (directory / "config.json").exists():
        raise ConversionError(f"{directory} holds a whole model; give another directory")
    changes = changed_settings(base.config, config)
    for name in LABELS:
        setattr(config, name, getattr(base.config, name))
    converted, tensors = convert_adapter(architecture, head, config, base_prefix(type(base)), layers, whole)
    with torch.device("meta"), quiet():
        stock = head.stock_class(config)
    modules = dict(stock.named_modules())
    adapter = LoraConfig(
        task_type=settings.task_type,
        base_model_name_or_path=settings.base_model_name_or_path,
        revision=settings.revision,
        lora_dropout=settings.lora_dropout,
        target_modules=short_names(set(converted), set(modules)),
        modules_to_save=modules_to_save(tensors) or None,
        fan_in_fan_out=any(isinstance(modules[name], Conv1D) for name in converted),
        inference_mode=True,
        **ranks(converted),
    )
    for name, layer in converted.items():
        tensors |= {f"{name}.lora_A.weight": layer.a, f"{name}.lora_B.weight": layer.b}
    tensors = {PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()}
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".original-") as staged:
        save_file(tensors, Path(staged, ADAPTER_SAFE_WEIGHTS_NAME))
        adapter.save_pretrained(staged)
        if not is_users_card(directory / CARD):
            card = adapter_card(head.stock, auto_class_of(base).__name__, changes, settings.revision)
            Path(staged, CARD).write_text(card, encoding="utf-8")
        move_into(Path(staged), directory)


def changed_settings(config: PreTrainedConfig, original: PreTrainedConfig) -> dict[str, Any]:
    """Arguments of from_pretrained that give the original checkpoint the labels and the padding of an adapter."""
    names = [name for name in ("id2label", "problem_type") if getattr(config, name) != getattr(original, name)]
    # Without it, a decoder of transformers classifies no batch.
    if getattr(original, "pad_token_id", None) is None and config.pad_token_id is not None:
        names.append("pad_token_id")
    return {name: getattr(config, name) for name in names}


def adapter_card(stock: str, auto_class: str, changes: dict[str, Any], revision: str | None) -> str:
    """A card with the code that opens an adapter on its original checkpoint.

    Args:
        stock: the stock class.
        auto_class: the name of its Auto class.
        changes: from changed_settings.
        revision: of the checkpoint.
    """
    arguments = [f"{name}={value!r}" for name, value in changes.items() if name != "id2label"]
    labels = []
    if "id2label" in changes:
        labels = [f"id2label = {changes['id2label']!r}"]
        # The checkpoint may have a head for other labels; that of the adapter replaces it.
        arguments += ["id2label=id2label", "label2id={label: i for i, label in id2label.items()}"]
        arguments += ["ignore_mismatched_sizes=True"]
    if revision is not None:
        arguments.append("revision=settings.revision")
    code = [
        "from peft import PeftConfig, PeftModel",
        f"from transformers import {auto_class}",
        "",
        'adapter = "."  # this directory',
        "settings = PeftConfig.from_pretrained(adapter)",
        *labels,
        f"base = {auto_class}.from_pretrained(",
        *(f"    {each}," for each in ("settings.base_model_name_or_path", *arguments)),
        ")",
        "model = PeftModel.from_pretrained(base, adapter)",
    ]
    text = f"A LoRA adapter for {stock}. Its base model is named in `{ADAPTER_CONFIG_NAME}`."
    lines = [f"# Adapter for {stock}", "", text, "", "```python", *code, "```", "", f"{SIGNATURE} {__version__}."]
    return "\n".join(lines) + "\n"


def check_adapter(adapted: Any) -> None:
    """Check whether write_adapter can write an adapter, before or after its training.

    Raises:
        ConversionError: see write_adapter.
    """
    settings, base = settings_of(adapted), without_adapter(adapted)
    architecture = origin_of(base).architecture
    head = architecture.heads[auto_class_of(base).__name__]
    check_config(architecture, base, origin_of(base).original_config(), head)
    check_base(base, settings, set(trained_tensors(adapted)[1]))


def settings_of(adapted: Any) -> Any:
    """The LoraConfig of the adapter. Raises ConversionError if there are several, or it is no plain LoRA."""
    if len(adapted.peft_config) > 1:
        names = ", ".join(adapted.peft_config)
        raise ConversionError(f"the model has several adapters ({names}); keep only the one named default")
    if "default" not in adapted.peft_config:
        raise ConversionError(f"the adapter is named {', '.join(adapted.peft_config)}; name it default")
    settings = adapted.peft_config["default"]
    kind = getattr(settings.peft_type, "value", settings.peft_type)
    if kind != "LORA":
        raise ConversionError(f"an adapter of type {kind} cannot be converted; {MERGE}")
    for name, value in unsupported_settings(settings.to_dict()).items():
        raise ConversionError(f"an adapter with {name}={value!r} cannot be converted; {MERGE}")
    return settings


def unsupported_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The entries of adapter_config.json that are not those of plain LoRA, and do not have the default of peft.

    Some of peft's settings name packages to import.
    """
    from peft import LoraConfig

    defaults = LoraConfig().to_dict()

    def is_plain(name: str, value: Any) -> bool:
        is_default = value == defaults.get(name) or value in (None, False, [], {})
        is_known = name in (*SETTINGS, *DESCRIPTIVE) or (name == "init_lora_weights" and value in INITIALIZATIONS)
        return is_known or is_default

    return {name: value for name, value in settings.items() if not is_plain(name, value)}


def trained_tensors(adapted: Any) -> tuple[dict[str, LayerLora], dict[str, torch.Tensor]]:
    """The LoRA of each layer, by its name in the base model, and the tensors that were trained whole.

    Raises:
        ConversionError: the adapter holds other tensors.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    state = {name.removeprefix(PREFIX): tensor.detach().cpu() for name, tensor in state.items()}
    modules = dict(without_adapter(adapted).named_modules())
    layers = {}
    for name in [name for name in state if name.endswith(".lora_A.weight")]:
        layer = name.removesuffix(".lora_A.weight")
        a, b = state.pop(name), state.pop(f"{layer}.lora_B.weight")
        layers[layer] = LayerLora(a, b, modules[layer].scaling["default"])
    if other := [name for name in state if ".lora_" in name]:
        raise ConversionError(f"{other[0]} of the adapter cannot be converted; {MERGE}")
    return layers, state


def check_config(architecture: Architecture, base: PreTrainedModel, original: PreTrainedConfig, head: Head) -> None:
    """Raises ConversionError for a field that was changed since the conversion: an adapter has no configuration."""
    before = architecture.read_config(original, head)
    for name in computed_fields(base.config):
        was, now = value_of(before, name), value_of(base.config, name)
        # The padding is that of the tokenizer, which the Trainer reads.
        if was != now and not name.endswith("_token_id"):
            raise ConversionError(
                f"{name} was {was!r} at the conversion and is {now!r} now; an adapter does not store the "
                f"configuration; {MERGE}"
            )


def check_base(base: PreTrainedModel, settings: Any, whole: set[str]) -> None:
    """Compare the weights under an adapter with the original checkpoint that it is to be an adapter of.

    Args:
        base: the base model, with the adapter in its layers.
        settings: name the checkpoint.
        whole: names of the tensors that the adapter replaces.

    Raises:
        ConversionError: there is no such checkpoint, or its weights are other ones.
    """
    name = settings.base_model_name_or_path
    try:
        with quiet():
            auto_class, checkpoint = auto_class_of(base), Original.open(name, revision=settings.revision)
            original = checkpoint.convert(auto_class, checkpoint.convert_config(auto_class))[0].state_dict()
    except (ConversionError, OSError, ValueError) as error:
        raise ConversionError(
            f"base_model_name_or_path of the adapter, {name!r}, must be the original checkpoint: {error}; {MERGE}"
        ) from error
    own = base.state_dict()
    for key, tensor in original.items():
        layer, _, kind = key.rpartition(".")
        found = own.get(f"{layer}.base_layer.{kind}", own.get(key))
        if key not in whole and (found is None or not torch.equal(found.cpu(), tensor.to(found.dtype))):
            raise ConversionError(f"{key} differs from that in {name}, the base model of the adapter; {MERGE}")


def convert_adapter(
    architecture: Architecture,
    head: Head,
    config: PreTrainedConfig,
    prefix: str,
    layers: dict[str, LayerLora],
    whole: dict[str, torch.Tensor],
) -> tuple[dict[str, LayerLora], dict[str, torch.Tensor]]:
    """The LoRA of each layer of the stock class, and its tensors that were trained whole.

    Args:
        architecture: of the stock class.
        head: of the stock class.
        config: of the stock class.
        prefix: of the base model's tensors in the model of seqblend.
        layers: the LoRA of each layer in seqblend.
        whole: tensors by the names of seqblend.

    Raises:
        ConversionError: one of them has no counterpart.
    """
    with torch.device("meta"), quiet():
        shapes = {name: tensor.shape for name, tensor in head.stock_class(config).state_dict().items()}
    converted, tensors, used = {}, {}, set()
    for name in shapes:
        found = architecture.find_targets(name, head, prefix)
        if found is None or found[1].is_alias:
            continue
        targets, rule = found
        parts = [layers.get(each.removesuffix(".weight")) if each.endswith(".weight") else None for each in targets]
        if any(parts):
            rows = shapes[name][1 if rule.is_transposed else 0] // len(parts)
            converted[name.removesuffix(".weight")] = stack(parts, rows)
            used |= {each.removesuffix(".weight") for each in targets}
        elif targets[0] in whole and rule.skipped_rows is None:
            tensors[name] = rule.restore([whole[each] for each in targets], None)
            used |= {*targets}
    if missing := sorted({*layers, *whole} - used):
        raise ConversionError(f"{architecture.model_type} has no counterpart of {missing[0]}; {MERGE}")
    return converted, tensors


def stack(parts: list[LayerLora | None], rows: int) -> LayerLora:
    """The LoRA of a layer that is made of several ones, one above the other, each with `rows` outputs."""
    given = [part for part in parts if part is not None]
    scaling = given[0].scaling
    if len(parts) == 1:
        return given[0]
    blocks = [torch.empty(rows, 0) if part is None else part.b * (part.scaling / scaling) for part in parts]
    return LayerLora(torch.cat([part.a for part in given]), torch.block_diag(*blocks).to(given[0].b), scaling)


def ranks(layers: dict[str, LayerLora]) -> dict[str, Any]:
    """The settings of LoraConfig for the rank and the scaling of each layer; exceptions by the layer's full name."""
    own = {name: (len(layer.a), layer.scaling * len(layer.a)) for name, layer in layers.items()}
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


def modules_to_save(tensors: dict[str, torch.Tensor]) -> list[str]:
    """The modules of tensors that were trained whole.

    peft saves `classifier` and `score` of a classifier whole, so none of their parts is named.
    """
    names = {name.rpartition(".")[0] for name in tensors}
    return sorted({first if (first := name.split(".")[0]) in ("classifier", "score") else name for name in names})
