"""The model of a run: built from a recipe, or loaded from a saved one with every tensor accounted for."""

import logging
from typing import Any

from transformers import AutoConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from .. import FAMILIES
from ..configuration.base import unknown
from .arguments import ModelArguments, parse_pairs
from .files import InputError
from .tasks import Task

logger = logging.getLogger(__name__)


def architecture_of(config_class: type[PretrainedConfig]) -> str:
    return config_class.model_type.removeprefix("blend_").replace("_", "-")


ARCHITECTURES = {architecture_of(config_class): config_class for config_class in FAMILIES}


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of the tokenizer's special tokens, by the name of their config field."""
    names = [f"{kind}_token_id" for kind in ("pad", "bos", "eos", "cls", "sep", "mask")]
    ids = {name: getattr(tokenizer, name, None) for name in names}
    return {name: value for name, value in ids.items() if value is not None}


def known_labels(path: str) -> list[str]:
    """The label names of a saved model, in the order of their ids."""
    names = load_config(path).id2label or {}
    return [names[index] for index in sorted(names)]


def parts_of(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The configurations of an encoder-decoder's parts; of another model, itself."""
    return [getattr(config, part) for part in config.sub_configs] or [config]


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
    check_head(config_class, task_name, task)
    fields = {"vocab_size": len(tokenizer), **special_tokens(tokenizer), **settings}
    fields = {key: value for key, value in fields.items() if key in config_class.options()}
    config = config_class.from_recipe(arguments.recipe or "default", **{**fields, **overrides_of(arguments)})
    check_vocabulary(config, tokenizer, "config_overrides")
    return config


def load_model(
    arguments: ModelArguments, task_name: str, task: Task, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any]
) -> PreTrainedModel:
    """A saved model with the head of the task; a head that is new, or has other labels, starts anew.

    Args:
        arguments: where it is, and what to override.
        task_name: for messages.
        task: which head it gets.
        tokenizer: must not know more tokens than the model.
        settings: fields of the configuration to change, such as labels.

    Raises:
        InputError: it cannot be loaded; a tensor of the base model is missing, unexpected or of another shape; it is
            of another architecture; the tokenizer is too large.
        ValueError: values of the configuration that do not go together.
    """
    path = arguments.model_name_or_path
    config = load_config(path)
    name = architecture_of(type(config))
    if arguments.architecture not in (None, name):
        raise InputError(f"architecture: {arguments.architecture}, but model_name_or_path {path} is {name}")
    if type(config) in FAMILIES:
        check_head(type(config), task_name, task)
    if getattr(config, "class_weights", None) and settings.get("id2label") != config.id2label:
        logger.warning("Of %s, is dropped: class_weights, which are of other labels", path)
        settings = {"class_weights": None, **settings}
    change_config(config, {**settings, **overrides_of(arguments)})
    check_vocabulary(config, tokenizer, f"model_name_or_path: {path}")
    try:
        model, info = task.auto_class.from_pretrained(
            path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever it meets
        raise cannot_load(path, error) from error
    check_loaded(path, model, info)
    return model


def load_config(path: str) -> PretrainedConfig:
    """The configuration of a saved model. Raises InputError if it cannot be loaded."""
    try:
        return AutoConfig.from_pretrained(path)
    except Exception as error:  # transformers raises whatever it meets
        raise cannot_load(path, error) from error


def cannot_load(path: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return InputError(f"model_name_or_path: {path!r} cannot be loaded ({type(error).__name__}: {reason})")


def overrides_of(arguments: ModelArguments) -> dict[str, Any]:
    """The overrides. Raises InputError for a field that the data decide."""
    overrides = parse_pairs(arguments.config_overrides, "config_overrides")
    for name in ("num_labels", "id2label", "label2id", "problem_type"):
        if name in overrides:
            raise InputError(f"config_overrides: {name} is told by the data and --problem_type")
    return overrides


def change_config(config: PretrainedConfig, changes: dict[str, Any]) -> None:
    """Set fields of a configuration; a field that an encoder-decoder itself has not is set in its parts.

    Raises:
        InputError: there is no such field.
        ValueError: the values do not go together.
    """
    parts = parts_of(config)
    own, of_parts = (set().union(*(set(each.to_dict()) for each in some)) for some in ([config], parts))
    own -= set(config.sub_configs)
    for name, value in changes.items():
        if name not in own | of_parts:
            raise InputError(unknown(f"option of {type(config).__name__}", name, sorted(own | of_parts)))
        for owner in [config] if name in own else parts:
            if hasattr(owner, name):
                setattr(owner, name, value)
    for each in (*parts, config):
        each.validate()


def check_head(config_class: type[PretrainedConfig], task_name: str, task: Task) -> None:
    """Raises InputError if an architecture has no head for the task."""
    if task.auto_class not in FAMILIES[config_class]:
        able = [name for name, config in ARCHITECTURES.items() if task.auto_class in FAMILIES[config]]
        name = architecture_of(config_class)
        raise InputError(f"architecture: {name} has no head for task {task_name}; these have: {', '.join(able)}")


def check_vocabulary(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Raises InputError if the tokenizer knows more tokens than the model."""
    size = min(part.vocab_size for part in parts_of(config))
    if len(tokenizer) > size:
        raise InputError(f"{where}: vocab_size={size} is less than the {len(tokenizer)} entries of the tokenizer")


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
