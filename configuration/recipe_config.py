"""Configurations that can be built from a named recipe, and the documentation of their fields."""

from collections.abc import Iterable
from dataclasses import fields
from inspect import get_annotations
from numbers import Integral
from typing import Any, TypeVar

from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.configuration_utils import GenerationConfig

from .checks import literal_values, unknown_name_message
from .recipes import RECIPES

# Fields that only attention reads.
ATTENTION_FIELDS = (
    *("num_attention_heads", "num_key_value_heads", "head_dim", "attention_scaling", "attention_dropout"),
    *("attention_bias", "attention_out_bias", "query_key_norm"),
)

# Fields that only self-attention reads.
SELF_ATTENTION_FIELDS = (
    *("layer_types", "sliding_window", "rope_parameters"),
    *("relative_attention_num_buckets", "relative_attention_max_distance", "relative_attention_per_layer"),
)

# Arguments that transformers accepts besides fields: renamed fields, entries of saved files, generation settings.
OTHER_ARGUMENTS = {
    *("torch_dtype", "name_or_path", "output_attentions", "attn_implementation", "experts_implementation", "auto_map"),
    *("rope_theta", "rope_scaling", "partial_rotary_factor", "per_layer_config", "quantization_config"),
    *vars(GenerationConfig()),
}

Config = TypeVar("Config", bound="RecipeConfig")


class RecipeConfig(PreTrainedConfig):
    """A configuration that can be built from a named recipe."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.check_arguments(kwargs)
        # num_labels is not a field, so its type is not checked otherwise.
        if not isinstance(kwargs.get("num_labels", 1), Integral):
            raise ValueError(f"num_labels must be a whole number, got {kwargs['num_labels']!r}")
        super().__post_init__(**kwargs)

    def check_arguments(self, names: Iterable[str]) -> None:
        """Check that each argument is a field or another argument that transformers accepts.

        A saved configuration, which has a model_type, keeps its unknown fields, as in transformers.

        Raises:
            ValueError: unknown argument; the message lists the valid names, nearest first.
        """
        if "model_type" in names:
            return
        self.check_names(
            [
                name
                for name in names
                if not (name in OTHER_ARGUMENTS or name.startswith("_") or hasattr(type(self), name))
            ],
            self.options(),
        )

    @classmethod
    def from_recipe(cls: type[Config], name: str = "default", **overrides: Any) -> Config:
        """Build a configuration from a recipe, a named set of field values.

        Args:
            name: name of a recipe of this architecture; `default` is the class without changes.
            overrides: field values that replace those of the recipe.

        Raises:
            ValueError: unknown recipe or field (the message lists the valid names, nearest first), or invalid value.
        """
        cls.check_names(overrides, cls.options())
        cls.check_choices(overrides)
        reads_encoder = overrides.get("cross_attention_hidden_size") is not None
        recipe = fit_mixer(cls.recipe(name), overrides, reads_encoder=reads_encoder)
        settings = {**recipe, **overrides}
        if "layer_types" in recipe and "layer_types" not in overrides:
            # Repeat or cut the recipe's layer types to the number of layers; the class checks the type of the number.
            number = settings["num_hidden_layers"] if isinstance(settings["num_hidden_layers"], int) else 0
            settings["layer_types"] = (recipe["layer_types"] * number)[:number]
        if "sliding_window" in recipe and "sliding_attention" not in (settings["layer_types"] or []):
            # No sliding layer is left.
            settings["sliding_window"] = overrides.get("sliding_window")
        return cls(**settings)

    @classmethod
    def own_fields(cls) -> set[str]:
        """Names of the fields that this package adds to those of transformers' base class."""
        classes = [each for each in cls.__mro__ if issubclass(each, RecipeConfig)]
        return set().union(*(get_annotations(each) for each in classes)) & {f.name for f in fields(cls)}

    @classmethod
    def options(cls) -> set[str]:
        """Names of the overrides that from_recipe accepts."""
        return {f.name for f in fields(cls)} | {"num_labels"}

    @classmethod
    def recipe(cls, name: str) -> dict[str, Any]:
        """The field values of a recipe. Raises ValueError if this architecture does not have that recipe."""
        recipes = {recipe: parts[cls.model_type] for recipe, parts in RECIPES.items() if cls.model_type in parts}
        if name not in recipes:
            raise ValueError(unknown_name_message(f"recipe of {cls.__name__}", name, list(recipes)))
        return recipes[name]

    @classmethod
    def check_names(cls, names: Iterable[str], valid: set[str]) -> None:
        """Raises ValueError for a name that is not valid; the message lists the valid names, nearest first."""
        for name in names:
            if name not in valid:
                raise ValueError(unknown_name_message(f"option of {cls.__name__}", name, sorted(valid)))

    @classmethod
    def check_choices(cls, settings: dict[str, Any]) -> None:
        """Raises ValueError for a value that a Literal field does not have; the message lists the valid ones."""
        for f in fields(cls):
            valid, is_optional = literal_values(f.type)
            if valid and f.name in settings and settings[f.name] not in (*valid, *([None] if is_optional else [])):
                raise ValueError(unknown_name_message(f.name, settings[f.name], valid))


def fit_mixer(recipe: dict[str, Any], overrides: dict[str, Any], *, reads_encoder: bool) -> dict[str, Any]:
    """The field values of a recipe, without those that have no effect if the overrides choose a recurrent mixer."""
    if not is_recurrent(overrides):
        return recipe
    without_effect = set(SELF_ATTENTION_FIELDS)
    if not has_attention(overrides, reads_encoder=reads_encoder):
        without_effect |= set(ATTENTION_FIELDS)
    return {field: value for field, value in recipe.items() if field not in without_effect}


def is_recurrent(fields: dict[str, Any]) -> bool:
    """Whether field values choose a recurrent mixer."""
    return fields.get("mixer_type", "attention") != "attention"


def has_attention(fields: dict[str, Any], *, reads_encoder: bool) -> bool:
    """Whether a stack of these field values has attention of any kind."""
    return not is_recurrent(fields) or (reads_encoder and fields.get("cross_attention", True))
