"""Adapters: LoRA by peft on a saved model, trained, opened again, and merged (Hu et al. 2022)."""

import copy
import importlib.metadata
import logging
import warnings
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.errors import StrictDataclassError
from packaging.version import Version
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, GENERATION_CONFIG_NAME
from transformers.utils.hub import cached_file, extract_commit_hash

from ..checkpoints.loading import load_base, loading_error
from ..checkpoints.run_directory import MODEL_CONFIG
from ..checkpoints.weights import adapter_shapes, check_shapes, shapes_in
from ..configuration.checks import unknown_name_message
from ..conversion.adapters import PREFIX, SETTINGS, unsupported_settings
from ..conversion.origin import without_adapter
from ..conversion.reading import quiet
from ..conversion.table import ConversionError
from ..data.errors import InputError, error_line, short_list
from ..data.objects import read_object
from ..data.writing import SIGNATURE, write_atomically
from ..hub_card.card import METRICS, SPLITS, CardData
from ..version import __version__
from .arguments import ModelArguments

logger = logging.getLogger(__name__)

PEFT = "0.21"
ALL_LINEAR = "all-linear"
# peft's name of the task, by the Auto class; it has none for a masked language model.
TASK_TYPES = {
    AutoModelForSequenceClassification: "SEQ_CLS",
    AutoModelForTokenClassification: "TOKEN_CLS",
    AutoModelForSeq2SeqLM: "SEQ_2_SEQ_LM",
    AutoModelForCausalLM: "CAUSAL_LM",
}
# Initialized with zeros, so equal wherever the base model is loaded.
CONSTANT = {"lm_head.bias"}


def import_peft(flag: str) -> ModuleType:
    """The package peft. Raises InputError if it is missing or too old."""
    try:
        if Version(importlib.metadata.version("peft")) < Version(PEFT):
            raise ImportError
        import peft
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        raise InputError(f"{flag}: needs peft {PEFT} or later: pip install 'peft>={PEFT}'") from error
    return peft


# --- Training ---


def add_lora(model: PreTrainedModel, arguments: ModelArguments, auto_class: Any, new: set[str]) -> Any:
    """Wrap a saved model for training with LoRA; its own weights are frozen, except the head of a classifier.

    Args:
        model: loaded from `model_name_or_path`.
        arguments: the options of LoRA.
        auto_class: with which the model was loaded.
        new: names of the tensors that the checkpoint does not have.

    Returns:
        The PeftModel. Its save_pretrained also writes the configuration of the adapted model.

    Raises:
        InputError: a name in lora_target is no linear layer of the blocks; the checkpoint lacks a head that would stay
            random.
    """
    peft = import_peft("lora_rank")
    path, rank = arguments.model_name_or_path, arguments.lora_rank
    model.name_or_path = path
    config = peft.LoraConfig(
        task_type=TASK_TYPES.get(auto_class),
        r=rank,
        lora_alpha=2 * rank if arguments.lora_alpha is None else arguments.lora_alpha,
        target_modules=target_names(model, arguments.lora_target or [ALL_LINEAR]),
        modules_to_save=modules_to_save(model, path, new) or None,
        revision=commit_of(path),
    )
    adapted = inject(peft, model, config)
    adapted.save_pretrained = partial(save_adapter, adapted, adapted.save_pretrained)
    logger.info("LoRA: rank %d, alpha %g, on %s", rank, config.lora_alpha, ", ".join(sorted(config.target_modules)))
    return adapted


def inject(peft: ModuleType, model: PreTrainedModel, config: Any) -> Any:
    """As get_peft_model, without the warnings of transformers about names that peft reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return peft.get_peft_model(model, config)


def target_names(model: PreTrainedModel, given: list[str]) -> list[str]:
    """The names of the layers that get adapters, as peft takes them: of `layers.0.self_attn.q_proj` any last part.

    Raises:
        InputError: a name is no linear layer of the blocks.
    """
    linear = [name for name, module in model.base_model.named_modules() if isinstance(module, nn.Linear)]
    short = sorted({name.rpartition(".")[2] for name in linear})
    if given == [ALL_LINEAR]:
        return short
    for name in given:
        if not any(f".{each}".endswith(f".{name}") for each in linear):
            raise InputError(
                "lora_target: " + unknown_name_message("linear layer of the blocks", name, [ALL_LINEAR, *short])
            )
    return sorted(set(given))


def modules_to_save(model: PreTrainedModel, path: str, new: set[str]) -> list[str]:
    """The modules of the head that are trained whole, besides the last one of a classifier, which peft finds itself.

    They are the hidden layer of a classifier; of a language model only what its checkpoint lacks.

    Args:
        model: loaded from the checkpoint.
        path: of the checkpoint, for the message.
        new: names of the tensors that the checkpoint does not have.

    Raises:
        InputError: the checkpoint has no lm_head.
    """
    head = getattr(model, "head", None)
    # Longer names than `head`, which peft would also find in lm_head.
    hidden = [f"head.{name}" for name, part in head.named_children() if [*part.parameters()]] if head else []
    if model.get_output_embeddings() is None:
        return hidden
    if "lm_head.weight" in new:
        raise InputError(
            f"lora_rank: {path} has no lm_head, which would stay random under LoRA; train without --lora_rank"
        )
    return hidden if new - CONSTANT else []


def commit_of(path: str) -> str | None:
    """The commit of a repository on the Hub whose files were just loaded; None for a directory."""
    return None if Path(path).exists() else extract_commit_hash(cached_file(path, "config.json"), None)


def save_adapter(
    model: Any, save: Any, save_directory: str | Path, is_main_process: bool = True, **kwargs: Any
) -> None:
    """As PeftModel.save_pretrained, with the configuration of the adapted model, and without peft's card of blanks.

    Embeddings are never saved: peft would look for the vocabulary of the base model on the Hub.

    Args:
        model: the PeftModel.
        save: its own save_pretrained.
        save_directory: where to write.
        is_main_process: whether this process writes.
        kwargs: those of save_pretrained.
    """
    card = Path(save_directory, "README.md")
    has_card = card.exists()
    save(str(save_directory), is_main_process=is_main_process, **{"save_embedding_layers": False, **kwargs})
    if not is_main_process:
        return
    if not has_card:
        card.unlink(missing_ok=True)
    base = without_adapter(model)
    config = copy.deepcopy(base.config)
    config.architectures = [type(base).__name__]
    # Nothing is loaded from the code of the base model.
    vars(config).pop("auto_map", None)
    config.to_json_file(Path(save_directory, MODEL_CONFIG))
    # The Trainer changes that of the wrapper.
    if (generation := getattr(model, "generation_config", None)) is not None:
        generation.save_pretrained(save_directory)


def merge(trainer: Any) -> None:
    """Replace the adapter that a Trainer has trained by the whole model, with the adapter added to its weights."""
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    generation = getattr(adapted, "generation_config", None)
    model = adapted.merge_and_unload()
    if generation is not None:
        # The Trainer changes that of the wrapper.
        model.generation_config = generation
    # Otherwise evaluation would not prepare the new model, as for half precision.
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = model


# --- Opening a saved adapter ---


def load_adapter(auto_class: Any, path: str, config: PretrainedConfig) -> PreTrainedModel:
    """The base model with a saved adapter in its layers, for prediction. No code is run, no pickle is read.

    Args:
        auto_class: selects the head.
        path: directory of the adapter.
        config: of the adapted model.

    Raises:
        InputError: the adapter or its base model cannot be loaded, or they do not fit each other.
    """
    peft = import_peft(path)
    saved = read_object(Path(path, ADAPTER_CONFIG_NAME))
    settings = lora_settings(peft, saved, path)
    base, revision = saved.get("base_model_name_or_path"), saved.get("revision")
    if not isinstance(base, str) or not isinstance(revision, str | None):
        raise InputError(f"{path}: {ADAPTER_CONFIG_NAME} names no base model (base_model_name_or_path)")
    if not Path(path, ADAPTER_SAFE_WEIGHTS_NAME).is_file():
        raise InputError(f"{path}: {ADAPTER_SAFE_WEIGHTS_NAME} is missing")
    try:
        with quiet():
            model, new = load_base(auto_class, base, revision, config)
    except InputError as error:
        raise InputError(f"{path}: base_model_name_or_path in {ADAPTER_CONFIG_NAME}: {error}") from error
    except (ConversionError, OSError, StrictDataclassError, ValueError) as error:
        reason = loading_error(base, error, "base_model_name_or_path")
        raise InputError(f"{path}: {reason}") from error
    try:
        adapted = inject(peft, model, settings)
    except ValueError as error:
        raise InputError(f"{path}: does not fit its base model {base} ({error_line(error)})") from error
    names = shapes_in(Path(path), ADAPTER_SAFE_WEIGHTS_NAME)
    own = adapter_shapes(adapted, "default")
    check_shapes(Path(path), names, own)
    if differing := sorted(names.keys() ^ own.keys()):
        raise InputError(f"{path}: does not fit its base model {base}: {short_list(differing)}")
    if random := sorted(new - CONSTANT - {name.removeprefix(PREFIX) for name in names}):
        raise InputError(f"{path}: {short_list(random)} are neither in the adapter nor in its base model {base}")
    peft.set_peft_model_state_dict(adapted, load_file(Path(path, ADAPTER_SAFE_WEIGHTS_NAME)))
    model = without_adapter(adapted)
    if Path(path, GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_dict(read_object(Path(path, GENERATION_CONFIG_NAME)))
    return model


def lora_settings(peft: ModuleType, saved: dict[str, Any], path: str) -> Any:
    """The LoraConfig of an adapter.

    Raises:
        InputError: it is of another kind than LoRA, or has a setting beyond plain LoRA.
    """
    if saved.get("peft_type") != "LORA":
        raise InputError(f"{path}: the adapter has the type {saved.get('peft_type')}; only LORA is supported")
    for name, value in unsupported_settings(saved).items():
        raise InputError(
            f"{path}: {ADAPTER_CONFIG_NAME} has {name}={value!r:.60}, which seqblend does not support; open the "
            "adapter with peft"
        )
    try:
        return peft.LoraConfig(**{name: saved[name] for name in SETTINGS if name in saved})
    except Exception as error:  # peft checks nothing, and raises whatever it meets
        raise InputError(f"{path}: {ADAPTER_CONFIG_NAME}: {error_line(error)}") from error


# --- The card ---


def write_adapter_card(adapted: Any, directory: str | Path, given: CardData) -> None:
    """Write a short card of an adapter: what it is, its base model, and its results.

    Args:
        adapted: the PeftModel.
        directory: where it is saved, with the results of its run.
        given: facts of the user.
    """
    directory, settings = Path(directory).absolute(), adapted.active_peft_config
    results = read_object(directory / "all_results.json")
    facts = CardData(**{**(results.get("card_data") or {}), **{k: v for k, v in vars(given).items() if v is not None}})
    # A path of this machine is no name on the Hub.
    path = str(settings.base_model_name_or_path)
    base = facts.base_model or (None if Path(path).exists() else path)
    of_hub = {name: getattr(facts, name) for name in ("language", "license", "datasets")}
    metadata = ModelCardData(
        **of_hub, library_name="peft", tags=["seqblend", "lora", *(facts.tags or [])], base_model=base
    )
    name, targets = type(without_adapter(adapted)).__name__, ", ".join(sorted(settings.target_modules))
    rows = [
        f"| {split} | {METRICS[metric][1]} | {results[f'{prefix}_{metric}']:.4f} |"
        for prefix, split in SPLITS.items()
        for metric in METRICS
        if isinstance(results.get(f"{prefix}_{metric}"), float)
    ]
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {facts.title or directory.name}",
        *([facts.summary] if facts.summary else []),
        f"A LoRA adapter for {name}, rank {settings.r}, alpha {settings.lora_alpha:g}, on {targets}. "
        f"Its base model is {base or f'named in `{ADAPTER_CONFIG_NAME}`'}.\n"
        f"`seqblend predict {directory.name} --input texts.txt` opens both.",
        "## Results",
        "\n".join(["| split | metric | value |", "|---|---|---|", *rows]) if rows else "Not measured.",
        f"{SIGNATURE} {__version__}.\n",
    ]
    write_atomically(directory / "README.md", "\n\n".join(parts))
