"""What a table of an architecture says: configuration, tensors and heads of a stock class and of ours, both ways.

"Theirs" is a stock class of transformers and its checkpoint, "ours" a model of this package.
"""

import copy
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields
from functools import cached_property
from typing import Any

import torch
import transformers
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from ..configuration.base import RecipeConfig

# Fields of ours that say how a model is trained or used, not what it computes: nothing is lost where the stock
# configuration has no place for them.
NOT_COMPUTED = {
    *("class_weights", "label_smoothing", "sparse_prediction", "initializer_range", "use_cache"),
    *("attention_dropout", "hidden_dropout", "classifier_dropout"),
    *("cls_token_id", "sep_token_id", "mask_token_id", "original_model_type"),
}
# What the labels are: the same keys in both configurations.
LABELS = ("id2label", "label2id", "problem_type")


class ConversionError(ValueError):
    """A checkpoint or a model that cannot be converted; the message says what of it and why."""


@dataclass(frozen=True)
class Tensors:
    """Where tensors of theirs stand in ours, and how they differ.

    Args:
        ours: the name, or the names of the parts into which theirs is cut along its rows.
        is_transposed: theirs is (in, out) as in transformers' Conv1D, ours (out, in).
        skipped_rows: how many of their first rows have no place in ours, from their configuration.
        is_row: theirs is (1, V), ours (V).
        is_alias: theirs is tied to another; where it is not, nothing reads it, and it comes back as it was.
    """

    ours: str | tuple[str, ...]
    is_transposed: bool = False
    skipped_rows: Callable[[PreTrainedConfig], int] | None = None
    is_row: bool = False
    is_alias: bool = False

    def read(self, tensor: torch.Tensor, config: PreTrainedConfig) -> list[torch.Tensor]:
        """Ours, from their tensor."""
        if self.skipped_rows is not None:
            tensor = tensor[self.skipped_rows(config) :]
        if self.is_row:
            tensor = tensor[0]
        if self.is_transposed and tensor.dim() == 2:
            tensor = tensor.mT
        parts = tensor.chunk(len(as_tuple(self.ours)))
        # A view would keep the whole alive, and look like one tensor under several names to those who save it.
        return [
            part
            if part.numel() == part.untyped_storage().size() // part.itemsize and part.is_contiguous()
            else part.clone(memory_format=torch.contiguous_format)
            for part in parts
        ]

    def write(self, tensors: list[torch.Tensor], kept: torch.Tensor | None) -> torch.Tensor:
        """Their tensor, from ours and the rows that were kept aside."""
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if self.is_transposed and tensor.dim() == 2:
            tensor = tensor.mT
        if self.is_row:
            tensor = tensor[None]
        if kept is not None:
            tensor = torch.cat((kept.to(tensor), tensor))
        return tensor.contiguous()


@dataclass(frozen=True)
class Setting:
    """A part of a configuration that is not one value in both, with the functions that turn it.

    Args:
        keys: the keys of theirs that `write` may set.
        read: their configuration to values of our fields. Raises ConversionError for what ours cannot compute.
        write: our configuration to values of their keys. Raises ConversionError for what theirs cannot say.
    """

    keys: tuple[str, ...]
    read: Callable[[Any], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]] = lambda ours: {}


@dataclass(frozen=True)
class Head:
    """A stock class with a head.

    Args:
        stock: its name in transformers.
        tensors: of the head: their names to ours. The body's are relative to the base model, these are not.
        required: keys of their configuration with the value that this head must have.
        check: raises ConversionError for a configuration of theirs that this head of ours cannot compute.
        dropout: what their configuration says of the dropout before the labels, where this head has one of its own.
    """

    stock: str
    tensors: Mapping[str, str | Tensors] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Any], None] | None = None
    dropout: Callable[[Any], float] | None = None

    @property
    def stock_class(self) -> type[PreTrainedModel]:
        return getattr(transformers, self.stock)

    @cached_property
    def patterns(self) -> "list[tuple[re.Pattern[str], Tensors]]":
        return compiled(self.tensors)


@dataclass(frozen=True)
class Architecture:
    """One architecture of transformers, as data.

    Args:
        model_type: its name in config.json.
        config_class: the configuration of ours that computes the same.
        heads: by the name of the Auto class.
        tensors: of the base model, their names to ours; `*` is the number of a layer, and what follows the name stays.
        fields: their keys to the fields of ours that have the same value; an encoder-decoder's as `encoder.name`.
        fixed: our fields that have one value for this architecture.
        required: their keys with the one value that ours can compute.
        unused: their keys that ours does not read. They come back as they were.
        settings: what is neither of these.
        aside: their tensors that have no place in ours and come back as they were; of the base model,
        aside_heads: and of heads.
        sinusoids: tables of theirs for what ours computes; they too come back as they were.
        legacy: keys that other programs look for and transformers no longer writes, for legacy_keys=True.
    """

    model_type: str
    config_class: type[RecipeConfig]
    heads: Mapping[str, Head]
    tensors: Mapping[str, str | Tensors]
    fields: Mapping[str, str | tuple[str, ...]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    aside: tuple[str, ...] = ()
    aside_heads: tuple[str, ...] = ()
    sinusoids: tuple[str, ...] = ()
    legacy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def their_config_class(self) -> type[PreTrainedConfig]:
        return transformers.CONFIG_MAPPING[self.model_type]

    # Configuration.

    def read_config(
        self, theirs: PreTrainedConfig, head: Head, overrides: Mapping[str, Any] | None = None
    ) -> RecipeConfig:
        """Our configuration from theirs.

        Args:
            theirs: a stock configuration.
            head: of the stock class.
            overrides: fields of ours that differ, as from_recipe takes them.

        Raises:
            ConversionError: ours cannot compute what theirs says.
            ValueError: an override that is no field, or has a wrong value.
        """
        self.check_required(theirs, head)
        values: dict[str, Any] = dict(self.fixed)
        for key, names in self.fields.items():
            if hasattr(theirs, key):
                values |= dict.fromkeys(as_tuple(names), getattr(theirs, key))
        for setting in self.settings:
            values |= setting.read(theirs)
        if head.dropout is not None:
            values["classifier_dropout"] = head.dropout(theirs)
        values |= {name: getattr(theirs, name) for name in LABELS}
        values |= self.placed(overrides or {})
        return self.config_class(**nested(values), original_model_type=self.model_type)

    def placed(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Values by field, a field of the parts as `part.field`, from what from_recipe takes.

        Raises:
            ValueError: a name that is no field.
        """
        options = self.config_class.options() - {"original_model_type"}
        self.config_class.check_names(overrides, options)
        own = {each.name for each in dataclass_fields(self.config_class)}
        values: dict[str, Any] = {}
        for name, value in overrides.items():
            parts = {
                part: {each.name for each in dataclass_fields(config_class)}
                for part, config_class in self.config_class.sub_configs.items()
            }
            if name in parts:
                self.config_class.sub_configs[name].check_names(value, parts[name])
                values |= {f"{name}.{field}": of_part for field, of_part in value.items()}
            elif name in own:
                values[name] = value
            else:
                values |= {f"{part}.{name}": value for part, fields in parts.items() if name in fields}
        return values

    def check_required(self, theirs: PreTrainedConfig, head: Head) -> None:
        """Raises ConversionError for a value of theirs that ours cannot compute."""
        for key, value in {**self.required, **head.required}.items():
            given = getattr(theirs, key, value)
            if given != value:
                raise ConversionError(f"{self.model_type}: {key}={given!r} is not supported, only {value!r}")
        if head.check is not None:
            head.check(theirs)

    def write_config(self, ours: RecipeConfig) -> dict[str, Any]:
        """The values of their keys that our configuration says. Raises ConversionError for what theirs cannot say."""
        values = {key: value_of(ours, as_tuple(names)[0]) for key, names in self.fields.items()}
        for setting in self.settings:
            values |= setting.write(ours)
        return values | {name: getattr(ours, name) for name in LABELS}

    def their_config(self, ours: RecipeConfig, original: PreTrainedConfig, head: Head) -> PreTrainedConfig:
        """Their configuration: the original one, with what has changed in ours since.

        Raises:
            ConversionError: it cannot say what ours has now; the message names the fields.
        """
        then = self.write_config(self.read_config(original, head))
        theirs = copy.deepcopy(original)
        for key, value in self.write_config(ours).items():
            if value != then[key]:
                setattr(theirs, key, value)
        again = self.read_config(theirs, head)
        lost = [name for name in computed_fields(ours) if value_of(ours, name) != value_of(again, name)]
        if lost:
            values = ", ".join(f"{name}={value_of(ours, name)!r}" for name in lost)
            raise ConversionError(f"a configuration of {self.model_type} cannot say {values}")
        return theirs

    # Tensors.

    @cached_property
    def patterns(self) -> list[tuple[re.Pattern[str], Tensors]]:
        return compiled(self.tensors)

    def is_base(self, head: Head) -> bool:
        """Whether the stock class is the base model, whose tensors have no prefix."""
        return head.stock == self.heads["AutoModel"].stock

    def base_name(self, name: str, head: Head) -> str:
        """The name in the base model of a tensor of theirs, with or without the base model's prefix."""
        return name.removeprefix(f"{head.stock_class.base_model_prefix}.")

    def place(self, name: str, head: Head, our_prefix: str) -> tuple[list[str], Tensors] | None:
        """Where a tensor of theirs stands in ours.

        Args:
            name: of theirs, in the head's stock class.
            head: of the stock class.
            our_prefix: of the base model in ours.

        Returns:
            The names in ours and the operation; None where it has no place.
        """
        if found := match(head.patterns, name):
            return found
        found = match(self.patterns, self.base_name(name, head))
        return found and ([our_prefix + each for each in found[0]], found[1])

    def is_sinusoidal(self, base_name: str) -> bool:
        """Whether a tensor of the base model is a table that ours computes."""
        return any(base_name.startswith(f"{each}.") for each in self.sinusoids)

    def is_aside(self, name: str, head: Head) -> bool:
        """Whether a tensor of theirs has no place in ours, but comes back."""
        base_name = self.base_name(name, head)
        return (
            self.is_sinusoidal(base_name)
            or any(base_name.startswith(f"{each}.") for each in self.aside)
            or self.is_of_other_head(name)
        )

    def is_of_other_head(self, name: str) -> bool:
        """Whether a tensor of theirs is of a head that ours does not have, but comes back."""
        return any(name.startswith(f"{each}.") for each in self.aside_heads)


def compiled(tensors: Mapping[str, str | Tensors]) -> list[tuple[re.Pattern[str], Tensors]]:
    """A pattern for each name, longest first; it takes what follows the name, too."""
    rules = {name: Tensors(ours) if isinstance(ours, str) else ours for name, ours in tensors.items()}
    return [
        (re.compile(re.escape(name).replace(r"\*", r"(\d+)") + r"((?:\..+)?)"), rules[name])
        for name in sorted(rules, key=len, reverse=True)
    ]


def match(patterns: list[tuple[re.Pattern[str], Tensors]], name: str) -> tuple[list[str], Tensors] | None:
    """The names in ours of a tensor, and the operation; None where no pattern takes it."""
    for pattern, tensors in patterns:
        if found := pattern.fullmatch(name):
            *numbers, rest = found.groups()
            names = [each.replace("*", "{}").format(*numbers) + rest for each in as_tuple(tensors.ours)]
            return names, tensors
    return None


def as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by field, those of a part in a dict of its own."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        part, _, of_part = name.rpartition(".")
        (result.setdefault(part, {}) if part else result)[of_part] = copy.deepcopy(value)
    return result


def value_of(config: PreTrainedConfig, name: str) -> Any:
    """The value of a field, of a part as `part.name`."""
    part, _, of_part = name.rpartition(".")
    return getattr(getattr(config, part) if part else config, of_part)


def computed_fields(ours: RecipeConfig) -> Iterable[str]:
    """The fields of a configuration, and of its parts, that say what a model computes."""
    for name in sorted(ours.own_fields() - NOT_COMPUTED - set(ours.sub_configs)):
        yield name
    for part in ours.sub_configs:
        for name in sorted(getattr(ours, part).own_fields() - NOT_COMPUTED):
            yield f"{part}.{name}"


def both(name: str) -> tuple[str, str]:
    """A field of the encoder and of the decoder."""
    return f"encoder.{name}", f"decoder.{name}"


def no_dropout(theirs: Any) -> float:
    """Their classifiers of sequences project the last token as it is."""
    return 0.0


def token_dropout(theirs: Any) -> float:
    """What their classifiers of tokens look for, the default where the configuration says nothing."""
    for key in ("classifier_dropout", "hidden_dropout"):
        if getattr(theirs, key, None) is not None:
            return float(getattr(theirs, key))
    return 0.1
