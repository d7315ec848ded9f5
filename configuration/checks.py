"""Checks of single fields, and of fields that must fit each other.

The validators of fields raise ValueError; huggingface_hub calls them whenever a field is set.
"""

from collections.abc import Callable
from dataclasses import field, fields
from difflib import get_close_matches
from inspect import cleandoc
from textwrap import wrap
from typing import Any, Literal, TypeVar, get_args, get_origin

from huggingface_hub.dataclasses import validated_field
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

ConfigClass = TypeVar("ConfigClass", bound=PreTrainedConfig)

PROBLEM_TYPES = ["single_label_classification", "multi_label_classification", "regression"]

# The problem type of each kind of threshold.
THRESHOLDS = {"label_thresholds": "multi_label_classification", "abstain_threshold": "single_label_classification"}


def positive(value: float | None) -> None:
    """Field validator. Raises ValueError for a number that is not above 0."""
    if value is not None and not value > 0:
        raise ValueError(f"must be above 0, got {value}")


def non_negative(value: float | None) -> None:
    """Field validator. Raises ValueError for a negative number."""
    if value is not None and not value >= 0:
        raise ValueError(f"must be 0 or above, got {value}")


def probability(value: float | None) -> None:
    """Field validator. Raises ValueError for a number outside [0, 1)."""
    if value is not None and not 0 <= value < 1:
        raise ValueError(f"must be in [0, 1), got {value}")


def activation(name: str | None) -> None:
    """Field validator. Raises ValueError for a name that is not in transformers' activation table."""
    if name is not None and name not in ACT2FN:
        raise ValueError(unknown_name_message("activation", name, list(ACT2FN)))


def unknown_name_message(kind: str, name: Any, valid: list[str]) -> str:
    """The error message for an unknown `name`, which lists the valid names, nearest first."""
    nearest = get_close_matches(str(name), valid, n=len(valid), cutoff=0.0)
    return f"unknown {kind} {name!r}; valid, nearest first: {', '.join(nearest)}"


def literal_values(annotation: Any) -> tuple[list[str], bool]:
    """The values of a field annotated as a Literal (of another field: none), and whether None is one, too."""
    parts = [annotation] if get_origin(annotation) is Literal else list(get_args(annotation))
    return [value for part in parts if get_origin(part) is Literal for value in get_args(part)], type(None) in parts


def option(description: str, default: Any, check: Callable[[Any], None] | None = None) -> Any:
    """A field of a configuration.

    Args:
        description: its meaning and unit, for help(); see `add_field_help`.
        default: its default.
        check: raises ValueError for an invalid value; called whenever the field is set.
    """
    metadata = {"help": description}
    if check is None:
        return field(default=default, metadata=metadata)
    return validated_field(check, default=default, metadata=metadata)


def description_of(config_class: type[PreTrainedConfig], name: str) -> str:
    """The description of a field, for a field of another class with the same meaning."""
    return next(each.metadata["help"] for each in fields(config_class) if each.name == name)


def add_field_help(config_class: type[ConfigClass]) -> type[ConfigClass]:
    """Class decorator: add all fields with a description to the docstring, each with its type, values and default."""
    lines = []
    for each in fields(config_class):
        if "help" in each.metadata:
            rules = [RULES[check] for check in each.metadata.get("validator", [])]
            facts = [type_name(each.type), *rules, f"default {each.default!r}"]
            text = f"{each.name} ({', '.join(facts)}): {each.metadata['help']}"
            lines += wrap(text, 110, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    config_class.__doc__ = "\n".join([cleandoc(config_class.__doc__ or ""), "", "Args:", *lines])
    return config_class


def type_name(annotation: Any) -> str:
    """The type of a field for readers: the values of a Literal, separated by bars, or its name."""
    values, is_optional = literal_values(annotation)
    if values and get_origin(annotation) is not list:
        return " | ".join([*map(repr, values), *(["None"] if is_optional else [])])
    name = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    return name.replace("typing.", "")


# The rules of the validators, for readers.
RULES: dict[Callable[[Any], None], str] = {
    positive: "above 0",
    non_negative: "0 or above",
    probability: "in [0, 1)",
    activation: "a name of transformers.activations.ACT2FN",
}


def check_rope(parameters: dict[str, Any]) -> None:
    """Raises ValueError for RoPE parameters that are unknown or have no effect, or a rope_theta not above 0."""
    names = [name for name in RopeParameters.__annotations__ if name != "mrope_section"]  # for images
    for name in parameters:
        if name not in names:
            raise ValueError(unknown_name_message("key of rope_parameters", name, names))
    kinds = ["default", *ROPE_INIT_FUNCTIONS]
    if parameters["rope_type"] not in kinds:
        raise ValueError(unknown_name_message("rope_type", parameters["rope_type"], kinds))
    theta = parameters["rope_theta"]
    if not (isinstance(theta, int | float) and theta > 0):
        raise ValueError(f"rope_parameters={parameters}: rope_theta must be a number above 0")
    if parameters["rope_type"] != "proportional" and parameters.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"rope_parameters={parameters}: partial_rotary_factor needs rope_type='proportional'")


def check_classifier(config: PreTrainedConfig) -> None:
    """Raises ValueError for options of a missing hidden layer, or pooling="eos" without eos_token_id."""
    if config.classifier_hidden_act is None:
        defaults = {"classifier_hidden_bias": True, "classifier_hidden_norm": False, "token_classifier_hidden": False}
        for name, default in defaults.items():
            if getattr(config, name) != default:
                raise ValueError(f"{name}={getattr(config, name)} has no effect: classifier_hidden_act is None")
    if config.pooling == "hidden_mean" and config.classifier_hidden_act is None:
        raise ValueError("pooling='hidden_mean' needs classifier_hidden_act; without a hidden layer it is 'mean'")
    if config.pooling == "eos" and config.eos_token_id is None:
        raise ValueError("pooling='eos' needs eos_token_id")


def check_labels(config: PreTrainedConfig) -> None:
    """Raises ValueError for no label, an unknown problem type, or class_weights or thresholds that do not fit it."""
    if config.num_labels < 1:
        raise ValueError(f"num_labels={config.num_labels} must be above 0")
    if config.problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(unknown_name_message("problem_type", config.problem_type, PROBLEM_TYPES))
    check_thresholds(config)
    weights = config.class_weights
    if weights is None:
        return
    if len(weights) != config.num_labels:
        raise ValueError(f"class_weights has {len(weights)} values for num_labels={config.num_labels}")
    if not all(weight > 0 for weight in weights):
        raise ValueError(f"class_weights={weights} must all be above 0")
    if config.problem_type == "regression":
        raise ValueError(f"class_weights={weights} has no meaning for problem_type='regression'")


def check_thresholds(config: PreTrainedConfig) -> None:
    """Raises ValueError for thresholds of another problem type, or label_thresholds that are no share per label."""
    thresholds = config.label_thresholds
    for name, problem_type in THRESHOLDS.items():
        if getattr(config, name) is not None and config.problem_type != problem_type:
            raise ValueError(f"{name} needs problem_type={problem_type!r}, and it is {config.problem_type!r}")
    if config.abstain_score != "probability" and config.abstain_threshold is None:
        raise ValueError(f"abstain_score={config.abstain_score!r} has no effect: abstain_threshold is None")
    if thresholds is None:
        return
    if len(thresholds) != config.num_labels:
        raise ValueError(f"label_thresholds has {len(thresholds)} values for num_labels={config.num_labels}")
    if not all(0 <= threshold <= 1 for threshold in thresholds):
        raise ValueError(f"label_thresholds={thresholds} must all be in [0, 1]")
