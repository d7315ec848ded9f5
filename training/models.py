"""The model of a run: built from a recipe, or loaded from a saved one with every tensor accounted for."""

import logging
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .. import FAMILIES
from ..configuration.base import unknown
from .arguments import ModelArguments, parse_overrides
from .files import InputError
from .tasks import Task

logger = logging.getLogger(__name__)

ARCHITECTURES = {
    config_class.model_type.removeprefix("blend_").replace("_", "-"): config_class for config_class in FAMILIES
}


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of the tokenizer's special tokens, by the name of their config field."""
    names = [f"{kind}_token_id" for kind in ("pad", "bos", "eos", "cls", "sep", "mask")]
    ids = {name: getattr(tokenizer, name, None) for name in names}
    return {name: value for name, value in ids.items() if value is not None}


def known_labels(path: str) -> list[str] | None:
    """The label names of a saved model, in the order of their ids."""
    names = AutoConfig.from_pretrained(path).id2label
    return None if names is None else [names[index] for index in sorted(names)]


def build_config(
    arguments: ModelArguments, task_name: str, task: Task, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> PretrainedConfig:
    """The configuration of a new model.

    Args:
        arguments: architecture, recipe and overrides.
        task_name: for messages.
        task: says which heads will do.
        tokenizer: its size and special tokens become the model's.
        settings: other fields, such as labels.

    Raises:
        InputError: an unknown architecture, or one that has no head for the task.
        ValueError: an unknown recipe or option, or values that do not go together.
    """
    name = arguments.architecture or task.architecture
    if name not in ARCHITECTURES:
        raise InputError(unknown("architecture", name, list(ARCHITECTURES)))
    config_class = ARCHITECTURES[name]
    if task.auto_class not in FAMILIES[config_class]:
        able = [other for other, config in ARCHITECTURES.items() if task.auto_class in FAMILIES[config]]
        raise InputError(f"architecture: {name} has no head for task {task_name}; these have: {', '.join(able)}")
    fields = {"vocab_size": len(tokenizer), **special_tokens(tokenizer), **settings}
    fields = {key: value for key, value in fields.items() if key in config_class.options()}
    overrides = parse_overrides(arguments.config_overrides)
    return config_class.from_recipe(arguments.recipe or "default", **{**fields, **overrides})


def load_model(
    arguments: ModelArguments, task: Task, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> PreTrainedModel:
    """A saved model with the head of the task; a head that is new, or has other labels, starts anew.

    Args:
        arguments: where it is.
        task: which head it gets.
        tokenizer: must not know more tokens than the model.
        settings: fields of the configuration to change, such as labels.

    Raises:
        InputError: it cannot be loaded; a tensor of the base model is missing, unexpected or of another shape; it is
            of another architecture; the tokenizer is too large.
    """
    path = arguments.model_name_or_path
    try:
        config = AutoConfig.from_pretrained(path, **settings)
        name = config.model_type.removeprefix("blend_").replace("_", "-")
        if arguments.architecture not in (None, name):
            raise InputError(f"architecture: {arguments.architecture}, but model_name_or_path {path} is {name}")
        for key, value in parse_overrides(arguments.config_overrides).items():
            if not hasattr(config, key):
                raise InputError(f"config_overrides: {path} has no option {key!r}")
            setattr(config, key, value)
        model, info = task.auto_class.from_pretrained(
            path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except InputError:
        raise
    except Exception as error:  # transformers raises whatever it meets
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(
            f"model_name_or_path: {path!r} cannot be loaded ({type(error).__name__}: {reason})"
        ) from error
    check_loaded(path, model, info)
    vocab_size = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > vocab_size:
        raise InputError(f"model_name_or_path: {path} has vocab_size={vocab_size}, the tokenizer {len(tokenizer)}")
    return model


def check_loaded(path: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Name the tensors of heads that were dropped or start anew.

    Raises:
        InputError: a tensor of the base model is missing, unexpected or of another shape.
    """
    prefix = f"{model.base_model_prefix}."
    parts = {name for name, _ in model.base_model.named_children()}

    def in_base(name: str) -> bool:
        return name.startswith(prefix) or name.split(".")[0] in parts

    new = sorted(info["missing_keys"])
    dropped = sorted(info["unexpected_keys"])
    resized = sorted(key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"])
    for what, names in {"missing": new, "unexpected": dropped, "of another shape": resized}.items():
        if wrong := [name for name in names if in_base(name)]:
            raise InputError(f"model_name_or_path: {path} does not fit; {what}: {', '.join(wrong)}")
    for what, names in {"starts anew": new + resized, "is dropped": dropped}.items():
        if names:
            logger.warning("Of %s, %s: %s", path, what, ", ".join(names))
