"""The data types that describe an architecture: how its configuration and tensors map to seqblend, in both directions.

"Stock" and "original" name a class of transformers, its configuration and its checkpoint. "Config" without "original"
is a configuration of seqblend.
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

from ..configuration.recipe_config import RecipeConfig

# Fields that affect training or usage, but not the outputs: nothing is lost where the original has no such key.
NOT_COMPUTED = {
    *("class_weights", "label_smoothing", "sparse_prediction", "initializer_range", "use_cache"),
    *("attention_dropout", "hidden_dropout", "classifier_dropout"),
    *("cls_token_id", "sep_token_id", "mask_token_id", "original_model_type"),
    # The tensors show what is tied.
    "tie_lm_head",
    *("tag_scheme", "calibration_temperature", "label_thresholds", "abstain_threshold", "abstain_score"),
}
# Keys of the labels, equal in both configurations.
LABELS = ("id2label", "label2id", "problem_type")
# Keys of other libraries, equal in both configurations: the activation of sentence-transformers' CrossEncoder.
FOREIGN = ("sentence_transformers", "sbert_ce_default_activation_function")


class ConversionError(ValueError):
    """A checkpoint or a model that cannot be converted. The message names the part and the reason."""


@dataclass(frozen=True)
class TensorMap:
    """How one original tensor corresponds to tensors of seqblend.

    Args:
        targets: its name in seqblend, or the names of the equal parts into which its rows are split.
        is_transposed: the original is (in, out), as in Conv1D of transformers; seqblend has (out, in).
        skipped_rows: from the original configuration, how many first rows seqblend does not have.
        is_row: the original is (1, V); seqblend has (V).
        is_alias: the original is tied to another tensor. Where it is not tied, it is unused and preserved unchanged.
    """

    targets: str | tuple[str, ...]
    is_transposed: bool = False
    skipped_rows: Callable[[PreTrainedConfig], int] | None = None
    is_row: bool = False
    is_alias: bool = False

    def convert(self, tensor: torch.Tensor, original: PreTrainedConfig) -> list[torch.Tensor]:
        """The tensors of seqblend, in the order of `targets`, from the original tensor."""
        if self.skipped_rows is not None:
            tensor = tensor[self.skipped_rows(original) :]
        if self.is_row:
            tensor = tensor[0]
        if self.is_transposed and tensor.dim() == 2:
            tensor = tensor.mT
        parts = tensor.chunk(len(as_tuple(self.targets)))
        # A view would keep the whole storage in memory, and save_pretrained would treat the views as tied tensors.
        return [
            part
            if part.numel() == part.untyped_storage().size() // part.itemsize and part.is_contiguous()
            else part.clone(memory_format=torch.contiguous_format)
            for part in parts
        ]

    def restore(self, tensors: list[torch.Tensor], skipped_rows: torch.Tensor | None) -> torch.Tensor:
        """The original tensor from those of seqblend and the preserved rows that seqblend does not have."""
        tensor = torch.cat(tensors) if len(tensors) > 1 else tensors[0]
        if self.is_transposed and tensor.dim() == 2:
            tensor = tensor.mT
        if self.is_row:
            tensor = tensor[None]
        if skipped_rows is not None:
            tensor = torch.cat((skipped_rows.to(tensor), tensor))
        return tensor.contiguous()


@dataclass(frozen=True)
class Setting:
    """Configuration keys that need functions, because they are not equal in both configurations.

    Args:
        keys: the original keys that `write` may set.
        read: returns fields of seqblend from the original configuration. Raises ConversionError for a value that
            seqblend does not support.
        write: returns original keys from a configuration of seqblend. Raises ConversionError for a value that the
            original cannot express.
    """

    keys: tuple[str, ...]
    read: Callable[[Any], dict[str, Any]]
    write: Callable[[Any], dict[str, Any]] = lambda config: {}


@dataclass(frozen=True)
class Head:
    """A stock class with a head.

    Args:
        stock: the name of the class in transformers.
        tensors: of the head, from original names to seqblend's. Unlike those of the body, these include all prefixes.
        required: original keys and the value that they must have for this head.
        check: raises ConversionError for an original configuration that this head does not support.
        dropout: from the original configuration, the dropout before the labels, if this head has its own rule.
    """

    stock: str
    tensors: Mapping[str, str | TensorMap] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Any], None] | None = None
    dropout: Callable[[Any], float] | None = None

    @property
    def stock_class(self) -> type[PreTrainedModel]:
        return getattr(transformers, self.stock)

    @cached_property
    def patterns(self) -> "list[tuple[re.Pattern[str], TensorMap]]":
        return compile_patterns(self.tensors)


@dataclass(frozen=True)
class Architecture:
    """One architecture of transformers, as data.

    Args:
        model_type: its name in config.json.
        config_class: the configuration class of seqblend.
        heads: by the name of the Auto class.
        tensors: of the base model, from original names to seqblend's. `*` stands for the layer number; a suffix such
            as `.weight` is copied.
        fields: from original keys to fields of seqblend with the same value; of an encoder-decoder `encoder.name`.
        fixed: fields of seqblend that have one value for this architecture.
        required: original keys and the only value that seqblend supports.
        unused: original keys that seqblend does not read. They are restored unchanged.
        settings: all other original keys.
        preserved: original tensors of the base model that have no counterpart in seqblend and are restored unchanged.
        preserved_heads: the same for tensors of heads.
        sinusoids: original tables of positions that seqblend computes. They are restored unchanged as well.
        legacy: keys that other programs read and transformers no longer writes, for legacy_keys=True.
        variant: what distinguishes it from another architecture with the same model_type.
    """

    model_type: str
    config_class: type[RecipeConfig]
    heads: Mapping[str, Head]
    tensors: Mapping[str, str | TensorMap]
    fields: Mapping[str, str | tuple[str, ...]]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    required: Mapping[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    settings: tuple[Setting, ...] = ()
    preserved: tuple[str, ...] = ()
    preserved_heads: tuple[str, ...] = ()
    sinusoids: tuple[str, ...] = ()
    legacy: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""

    @property
    def name(self) -> str:
        """Its name in the table of all architectures."""
        return f"{self.model_type}_{self.variant}" if self.variant else self.model_type

    @property
    def original_config_class(self) -> type[PreTrainedConfig]:
        return transformers.CONFIG_MAPPING[self.model_type]

    @property
    def tying_field(self) -> str:
        """The field that is False if the head has a matrix of its own."""
        # T5's encoder and decoder share their embeddings, whatever the head does.
        return "tie_word_embeddings" if "tie_word_embeddings" in self.fields else "tie_lm_head"

    # Configuration.

    def read_config(
        self, original: PreTrainedConfig, head: Head, overrides: Mapping[str, Any] | None = None
    ) -> RecipeConfig:
        """The configuration of seqblend from the original one.

        Args:
            original: a stock configuration.
            head: of the stock class.
            overrides: other values for fields of seqblend, as from_recipe takes them.

        Raises:
            ConversionError: seqblend does not support a value of the original.
            ValueError: an override has an unknown name or a wrong value.
        """
        self.check_required(original, head)
        values: dict[str, Any] = dict(self.fixed)
        for key, names in self.fields.items():
            if hasattr(original, key):
                values |= dict.fromkeys(as_tuple(names), getattr(original, key))
        for setting in self.settings:
            values |= setting.read(original)
        if head.dropout is not None:
            values["classifier_dropout"] = head.dropout(original)
        values |= {name: getattr(original, name) for name in LABELS}
        values |= self.flatten_overrides(overrides or {})
        config = self.config_class(**nest(values), original_model_type=self.model_type)
        copy_foreign(original, config)
        return config

    def flatten_overrides(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Overrides as from_recipe takes them, by field; fields of encoder and decoder as `part.field`.

        Raises:
            ValueError: an unknown name.
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
                values |= {f"{name}.{field}": part_value for field, part_value in value.items()}
            elif name in own:
                values[name] = value
            else:
                values |= {f"{part}.{name}": value for part, fields in parts.items() if name in fields}
        return values

    def check_required(self, original: PreTrainedConfig, head: Head) -> None:
        """Raises ConversionError for an original value that seqblend does not support."""
        for key, value in {**self.required, **head.required}.items():
            given = getattr(original, key, value)
            if given != value:
                raise ConversionError(f"{self.model_type}: {key}={given!r} is not supported, only {value!r}")
        if head.check is not None:
            head.check(original)

    def write_config(self, config: RecipeConfig) -> dict[str, Any]:
        """The original keys and their values from a configuration of seqblend.

        Raises:
            ConversionError: the original cannot express a value.
        """
        values = {key: value_of(config, as_tuple(names)[0]) for key, names in self.fields.items()}
        for setting in self.settings:
            values |= setting.write(config)
        return values | {name: getattr(config, name) for name in LABELS}

    def restore_config(self, config: RecipeConfig, original: PreTrainedConfig, head: Head) -> PreTrainedConfig:
        """The original configuration, with the values that were changed in seqblend since the conversion.

        `use_cache` stays as it was: the Trainer of transformers sets it to False for every model that it trains.

        Raises:
            ConversionError: the original cannot express a value; the message names the fields.
        """
        before = self.write_config(self.read_config(original, head))
        restored = copy.deepcopy(original)
        for key, value in self.write_config(config).items():
            if value != before[key] and key != "use_cache":
                setattr(restored, key, value)
        copy_foreign(config, restored)
        converted = self.read_config(restored, head)
        if config.pooling == "last" and converted.pooling == "last_non_pad":
            # Converted before version 0.14.
            converted.pooling = "last"
        lost = [name for name in computed_fields(config) if value_of(config, name) != value_of(converted, name)]
        if lost:
            values = ", ".join(f"{name}={value_of(config, name)!r}" for name in lost)
            raise ConversionError(f"a configuration of {self.model_type} cannot express {values}")
        return restored

    # Heads.

    def head_for(self, auto_class: str) -> Head:
        """The stock class for an Auto class; the base model's if the architecture lacks that head."""
        return self.heads.get(auto_class, self.heads["AutoModel"])

    def named_head(self, architectures: Any) -> str | None:
        """The name of the Auto class of a checkpoint, see find_named."""
        return find_named({auto_class: head.stock for auto_class, head in self.heads.items()}, architectures)

    # Tensors.

    @cached_property
    def patterns(self) -> list[tuple[re.Pattern[str], TensorMap]]:
        return compile_patterns(self.tensors)

    def is_base(self, head: Head) -> bool:
        """Whether the stock class is the base model, whose tensors have no prefix."""
        return head.stock == self.heads["AutoModel"].stock

    def stock_prefix(self, head: Head) -> str:
        """The prefix of the base model's tensors in the stock class of a head."""
        return "" if self.is_base(head) else f"{head.stock_class.base_model_prefix}."

    def base_name(self, name: str, head: Head) -> str:
        """The name of an original tensor without the prefix of the base model."""
        return name.removeprefix(f"{head.stock_class.base_model_prefix}.")

    def find_targets(self, name: str, head: Head, prefix: str) -> tuple[list[str], TensorMap] | None:
        """The counterparts of an original tensor.

        Args:
            name: of the tensor in the stock class of the head.
            head: of the stock class.
            prefix: of the base model's tensors in the model of seqblend.

        Returns:
            The names in seqblend and the rule of conversion; None if there is no counterpart.
        """
        if found := match(head.patterns, name):
            return found
        found = match(self.patterns, self.base_name(name, head))
        return found and ([prefix + each for each in found[0]], found[1])

    def is_sinusoidal(self, base_name: str) -> bool:
        """Whether a tensor of the base model is a table of sinusoids, which seqblend computes."""
        return any(base_name.startswith(f"{each}.") for each in self.sinusoids)

    def is_preserved(self, name: str, head: Head) -> bool:
        """Whether an original tensor has no counterpart, but is restored unchanged."""
        base_name = self.base_name(name, head)
        return (
            self.is_sinusoidal(base_name)
            or any(base_name.startswith(f"{each}.") for each in self.preserved)
            or self.is_of_preserved_head(name)
        )

    def is_of_preserved_head(self, name: str) -> bool:
        """Whether an original tensor belongs to a head without counterpart that is restored unchanged."""
        return any(name.startswith(f"{each}.") for each in self.preserved_heads)


def find_named(classes: Mapping[str, str], architectures: Any) -> str | None:
    """The Auto class of the first known class that config.json names.

    Args:
        classes: the names of the known classes, by the name of the Auto class.
        architectures: the value in config.json.

    Returns:
        The name of the Auto class; None if config.json names no known class.
    """
    known = {name: auto_class for auto_class, name in classes.items()}
    named = architectures if isinstance(architectures, list) else []
    return next((known[each] for each in named if isinstance(each, str) and each in known), None)


def compile_patterns(tensors: Mapping[str, str | TensorMap]) -> list[tuple[re.Pattern[str], TensorMap]]:
    """One pattern for each name and any suffix of it, the longest name first."""
    rules = {name: TensorMap(rule) if isinstance(rule, str) else rule for name, rule in tensors.items()}
    return [
        (re.compile(re.escape(name).replace(r"\*", r"(\d+)") + r"((?:\..+)?)"), rules[name])
        for name in sorted(rules, key=len, reverse=True)
    ]


def match(patterns: list[tuple[re.Pattern[str], TensorMap]], name: str) -> tuple[list[str], TensorMap] | None:
    """The names in seqblend of an original tensor and the rule of conversion; None if no pattern matches."""
    for pattern, rule in patterns:
        if found := pattern.fullmatch(name):
            *numbers, suffix = found.groups()
            names = [each.replace("*", "{}").format(*numbers) + suffix for each in as_tuple(rule.targets)]
            return names, rule
    return None


def as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by `field` or `part.field` as arguments of a configuration: one dict for each part."""
    result: dict[str, Any] = {}
    for name, value in values.items():
        part, _, part_field = name.rpartition(".")
        (result.setdefault(part, {}) if part else result)[part_field] = copy.deepcopy(value)
    return result


def value_of(config: PreTrainedConfig, name: str) -> Any:
    """The value of `field` or `part.field`."""
    part, _, part_field = name.rpartition(".")
    return getattr(getattr(config, part) if part else config, part_field)


def computed_fields(config: RecipeConfig) -> Iterable[str]:
    """The fields of a configuration and of its parts that affect the outputs of a model."""
    for name in sorted(config.own_fields() - NOT_COMPUTED - set(config.sub_configs)):
        yield name
    for part in config.sub_configs:
        for name in sorted(getattr(config, part).own_fields() - NOT_COMPUTED):
            yield f"{part}.{name}"


def in_both_parts(name: str) -> tuple[str, str]:
    """The field of the encoder and of the decoder."""
    return f"encoder.{name}", f"decoder.{name}"


def copy_foreign(source: PreTrainedConfig, target: PreTrainedConfig) -> None:
    """Copy the keys of other libraries that a configuration has."""
    for name in FOREIGN:
        if (value := getattr(source, name, None)) is not None:
            setattr(target, name, copy.deepcopy(value))


def no_dropout(original: Any) -> float:
    """Dropout of stock sequence classifiers that have none."""
    return 0.0


def token_dropout(original: Any) -> float:
    """Dropout of stock token classifiers: the first key that is set, else their default."""
    for key in ("classifier_dropout", "hidden_dropout"):
        if getattr(original, key, None) is not None:
            return float(getattr(original, key))
    return 0.1
