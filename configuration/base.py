"""The fields that encoder and decoder share: one typed field per choice."""

from collections.abc import Iterable
from dataclasses import fields
from inspect import get_annotations
from numbers import Integral
from typing import Any, ClassVar, Literal, TypeVar

from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.configuration_utils import GenerationConfig

from .checks import (
    activation,
    check_classifier,
    check_labels,
    check_rope,
    checked_field,
    literal_values,
    non_negative,
    positive,
    probability,
    unknown_name_message,
)
from .recipes import RECIPES

# Schemes by which tags mark spans; scoring/tags.py has their rules.
TagSchemeName = Literal["IO", "IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU", "BMES", "BMEWO"]

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


class BlendConfig(RecipeConfig):
    """The fields of a stack of Transformer blocks. Encoder and decoder add their own.

    Sizes are numbers of features, tokens or layers; dropouts are probabilities in [0, 1). If its comment says so, a
    field with None is computed from other fields, and saved with that value.
    """

    # Whether a token also attends to the tokens after it.
    is_bidirectional: ClassVar[bool] = False

    # Sizes.
    vocab_size: int = checked_field(positive, 32000)
    hidden_size: int = checked_field(positive, 256)
    num_hidden_layers: int = checked_field(positive, 4)
    num_attention_heads: int = checked_field(positive, 4)
    # Grouped-query attention (Ainslie et al. 2023): fewer key-value heads than query heads. None: as many.
    num_key_value_heads: int | None = checked_field(positive, None)
    # None: hidden_size / num_attention_heads.
    head_dim: int | None = checked_field(positive, None)
    # None: 4 × hidden_size if plain; 8/3 × hidden_size, rounded up to a multiple of 32, if gated (as many parameters).
    intermediate_size: int | None = checked_field(positive, None)
    # Maximum sequence length in tokens. A hard limit for learned positions only.
    max_position_embeddings: int = checked_field(positive, 2048)

    # Choices.
    # How a block mixes the tokens of a sequence: attention, or a recurrent network in its place, a plain RNN with tanh
    # (Elman 1990), GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997); an encoder reads in both directions.
    mixer_type: Literal["attention", "rnn", "gru", "lstm"] = "attention"
    # Number of features of a recurrent state; in an encoder, of both directions together. None: hidden_size.
    recurrent_size: int | None = checked_field(positive, None)
    norm_type: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    # What a sublayer normalizes: `pre`, its input (and the stack its output); `post`, the sum of input and output.
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: int | float = checked_field(positive, 1e-6)
    # Position encoding: a learned or sinusoidal vector added to the embedding, rotation of queries and keys by an
    # angle proportional to the position (RoPE), or none. `fairseq_sinusoidal` has the wavelengths and the first
    # position of fairseq (M2M100, NLLB).
    # None: `rotary` with attention; `none` with a recurrent mixer, which knows the order of what it reads.
    position_type: Literal["learned", "sinusoidal", "fairseq_sinusoidal", "rotary", "none"] | None = None
    # RoPE's parameters as transformers writes them, {"rope_type": …, "rope_theta": …}, or such a dict for each layer
    # type (ModernBERT). None: "default", 10000.
    rope_parameters: dict[str, Any] | None = None
    # Relative positions (Raffel et al. 2020, T5, §2.1): number of buckets of distances between query and key; each
    # bucket has a learned bias for each head, which self-attention adds to its scores. None: no such bias.
    relative_attention_num_buckets: int | None = checked_field(positive, None)
    # All distances from this one on, in tokens, are in one bucket.
    relative_attention_max_distance: int = checked_field(positive, 128)
    # Whether each layer has its own biases (UMT5), or all layers share them (T5, MPNet).
    relative_attention_per_layer: bool = False
    feed_forward_type: Literal["plain", "gated"] = "gated"
    # A name from transformers' activation table.
    hidden_act: str = checked_field(activation, "silu")
    # Factor on the dot products of queries and keys. None: 1 / √head_dim.
    attention_scaling: int | float | None = checked_field(positive, None)
    # Per layer, `full_attention` or `sliding_attention`. None: all full.
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    # Window of a sliding layer in tokens: a causal query attends to itself and sliding_window - 1 tokens before it, a
    # bidirectional query to itself and sliding_window tokens on each side.
    sliding_window: int | None = checked_field(positive, None)
    # Biases of the query, key and value projections; of the attention's output projection (None: the same); of the
    # feed-forward matrices; of the language-model head.
    attention_bias: bool = False
    attention_out_bias: bool | None = None
    mlp_bias: bool = False
    lm_head_bias: bool = False
    # Divide the logits of the language-model head by √hidden_size (T5). New token embeddings then have the standard
    # deviation 1, so that the logits are as large as without.
    scale_logits: bool = False
    # Biases of LayerNorm; RMSNorm has none.
    norm_bias: bool = True
    # Normalize the embeddings before the first block (BERT, BART).
    embedding_norm: bool = False
    # Normalize the input of the first block's attention. False if the embeddings are normalized already (ModernBERT).
    first_norm: bool = True
    # Normalize each head's queries and keys, before RoPE (Henry et al. 2020; Qwen3).
    query_key_norm: bool = False
    # Number of segment types in token_type_ids. 0: token_type_ids is not used.
    type_vocab_size: int = checked_field(non_negative, 0)
    # Multiply token embeddings by √hidden_size (Vaswani et al. 2017, §3.4).
    scale_embeddings: bool = False
    # The embedding of the padding token gets no gradient (Marian, whose decoder starts with that token).
    freeze_pad_embedding: bool = False
    # The language-model head uses the token embedding's matrix.
    tie_word_embeddings: bool = True

    # Dropout of attention weights; of embeddings and sublayer outputs; before the projection of a classifier.
    attention_dropout: int | float = checked_field(probability, 0.0)
    hidden_dropout: int | float = checked_field(probability, 0.1)
    classifier_dropout: int | float = checked_field(probability, 0.1)
    # Standard deviation of the normal distribution that initializes the matrices, but for those of recurrent networks
    # (Recurrence.init_weights).
    initializer_range: int | float = checked_field(positive, 0.02)

    # Vector of a sequence: that of its first real token, the mean of its real tokens, that of its last real token, or
    # of its last eos_token_id (of the last real token if it has none); `hidden_mean`: the mean of the outputs of the
    # classifier's hidden layer (EuroBERT).
    pooling: Literal["cls", "mean", "last", "eos", "hidden_mean"] = "cls"
    # Hidden layer before the projection of a sequence's vector onto the labels (BERT's pooler): its activation (None:
    # no such layer), its bias, its norm, and whether token classification has the layer, too (ModernBERT).
    classifier_hidden_act: str | None = checked_field(activation, None)
    classifier_hidden_bias: bool = True
    classifier_hidden_norm: bool = False
    token_classifier_hidden: bool = False
    # Bias of the projection of a sequence's vector onto the labels.
    score_bias: bool = True
    # The loss in training: one weight per class for sequence and token classification; the share of a target's
    # probability that is spread over all classes.
    class_weights: list[int | float] | None = None
    label_smoothing: int | float = checked_field(probability, 0.0)
    # How the labels of token classification mark spans, as found in training; None: inferred from their names.
    tag_scheme: TagSchemeName | None = None
    # Fitted after training. The temperature by which the last projection was divided (Guo et al. 2017); for several
    # labels, the probability above which each label is predicted (None: 0.5); for a single label, the score below
    # which a prediction abstains (None: it never does), and the score: the probability of the label, or the logarithm
    # of the sum of the exponentials of all logits (Liu et al. 2020).
    calibration_temperature: int | float | None = checked_field(positive, None)
    label_thresholds: list[int | float] | None = None
    abstain_threshold: int | float | None = None
    abstain_score: Literal["probability", "energy"] = "probability"

    # model_type of the architecture that the model was converted from; original_files/ holds the files kept from it.
    original_model_type: str | None = None

    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.position_type is None:
            self.position_type = "none" if self.is_recurrent else "rotary"
        if self.is_recurrent and self.recurrent_size is None:
            self.recurrent_size = self.hidden_size
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.default_head_dim()
        if self.attention_scaling is None:
            self.attention_scaling = self.head_dim**-0.5
        if self.attention_out_bias is None:
            self.attention_out_bias = self.attention_bias
        if self.intermediate_size is None:
            gated_size = -(-self.hidden_size * 8 // 3 // 32) * 32
            self.intermediate_size = gated_size if self.feed_forward_type == "gated" else 4 * self.hidden_size
        if self.layer_types is None:
            self.layer_types = ["full_attention"] * self.num_hidden_layers
        super().__post_init__(**kwargs)

    @property
    def is_recurrent(self) -> bool:
        """Whether the mixer is a recurrent network."""
        return self.mixer_type != "attention"

    @property
    def has_attention(self) -> bool:
        """Whether a block has attention of any kind."""
        return not self.is_recurrent

    @property
    def embedding_width(self) -> int:
        """Number of features of the embeddings."""
        return self.hidden_size

    @property
    def logit_scaling(self) -> float:
        """Factor on the logits of the language-model head."""
        return self.hidden_size**-0.5 if self.scale_logits else 1.0

    def default_head_dim(self) -> int:
        """hidden_size / num_attention_heads. Raises ValueError if the heads do not divide the hidden size."""
        width, rest = divmod(self.hidden_size, self.num_attention_heads)
        if rest and self.has_attention:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
                " (or give head_dim)"
            )
        return max(1, width)

    def sharded_attention_names(self) -> list[str]:
        """Attribute names of the attention modules of a block that tensor parallelism divides by heads.

        Self-attention with biases is not divided: the biases are those of all heads.
        """
        return [] if self.is_recurrent or self.relative_attention_num_buckets else ["self_attn"]

    @property
    def base_model_tp_plan(self) -> dict[str, str]:
        """Plan of tensor parallelism: embeddings by tokens, the matrices of a block by heads and inner features.

        It has only modules that the model has, because transformers warns about others.
        """
        plan = {"embed_tokens": "embedding_rowwise"}
        for name in self.sharded_attention_names():
            plan |= {f"layers.*.{name}.{projection}": "colwise" for projection in ("q_proj", "k_proj", "v_proj")}
            plan |= {f"layers.*.{name}.o_proj": "rowwise"}
        if self.feed_forward_type == "gated":
            plan |= {"layers.*.mlp.gate_proj": "colwise"}
        return plan | {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}

    @base_model_tp_plan.setter
    def base_model_tp_plan(self, plan: dict[str, str]) -> None:
        """Accept only the current plan, which PreTrainedConfig.__post_init__ of transformers 5.16 sets."""
        if plan != self.base_model_tp_plan:
            raise AttributeError("base_model_tp_plan follows from the other fields; set the model's tp_plan instead")

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Fill in RoPE's parameters if the position type is rotary.

        Replaces RotaryEmbeddingConfigMixin.convert_rope_params_to_dict, which fills them in for any position type.
        """
        if self.position_type != "rotary":
            return kwargs
        if not self.has_rope_per_layer_type:
            return super().convert_rope_params_to_dict(**kwargs)
        for parameters in self.rope_per_layer_type().values():
            parameters.setdefault("rope_type", "default")
            parameters.setdefault("rope_theta", self.default_theta)
        return kwargs

    @property
    def has_rope_per_layer_type(self) -> bool:
        """Whether rope_parameters holds a dict for each layer type."""
        parameters = self.rope_parameters
        return (
            parameters is not None
            and len(parameters) > 0
            and all(isinstance(value, dict) for value in parameters.values())
        )

    def rope_per_layer_type(self) -> dict[str, dict[str, Any]]:
        """RoPE's parameters by layer type; if all layer types share them, under "full_attention"."""
        parameters = self.rope_parameters or {}
        return parameters if self.has_rope_per_layer_type else {"full_attention": parameters}

    def validate_rope(self) -> None:
        """Check RoPE's parameters if the position type is rotary; replaces RotaryEmbeddingConfigMixin.validate_rope.

        Raises:
            ValueError: invalid parameters, or parameters with another position type.
        """
        if self.position_type == "rotary":
            assert self.rope_parameters is not None and self.layer_types is not None
            if self.has_rope_per_layer_type and set(self.rope_parameters) != set(self.layer_types):
                raise ValueError(
                    f"rope_parameters={self.rope_parameters} must have one entry for each of the layer types "
                    f"{sorted(set(self.layer_types))}"
                )
            for parameters in self.rope_per_layer_type().values():
                check_rope(parameters)
            try:
                super().validate_rope()
            except KeyError as error:
                raise ValueError(f"rope_parameters={self.rope_parameters}: {error.args[0]}") from error
        elif self.rope_parameters is not None:
            raise ValueError(f"rope_parameters={self.rope_parameters} needs position_type='rotary'")

    def validate_mixer(self) -> None:
        """Raises ValueError for an option that has no effect with the mixer, or no size of a recurrent state."""
        if not self.is_recurrent and self.recurrent_size is not None:
            raise ValueError(f"recurrent_size={self.recurrent_size} has no effect: mixer_type='attention'")
        if not self.is_recurrent:
            return
        if self.recurrent_size is None:
            raise ValueError(f"mixer_type={self.mixer_type!r} needs recurrent_size, the number of features of a state")
        without_effect = {
            "position_type": self.position_type == "rotary",
            "relative_attention_num_buckets": self.relative_attention_num_buckets is not None,
            "layer_types": "sliding_attention" in (self.layer_types or []),
        }
        if not self.has_attention:
            computed = {
                "num_key_value_heads": self.num_attention_heads,
                "head_dim": self.default_head_dim(),
                "attention_scaling": self.default_head_dim() ** -0.5,
                "attention_out_bias": self.attention_bias,
            }
            usual = {f.name: computed.get(f.name, f.default) for f in fields(self) if f.name in ATTENTION_FIELDS}
            without_effect |= {name: getattr(self, name) != value for name, value in usual.items()}
        for name, is_given in without_effect.items():
            if is_given:
                raise ValueError(
                    f"{name}={getattr(self, name)!r} has no effect: mixer_type={self.mixer_type!r} is no attention"
                )

    def validate_heads(self) -> None:
        """Raises ValueError if num_key_value_heads does not divide num_attention_heads, or RoPE has odd head_dim."""
        assert self.num_key_value_heads is not None and self.head_dim is not None
        if self.num_key_value_heads > self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} must divide "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.position_type == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for position_type='rotary'")

    def validate_norms(self) -> None:
        """Raises ValueError for an option of the norms that has no effect."""
        if not self.norm_bias and self.norm_type == "rmsnorm":
            raise ValueError("norm_bias=False has no effect: norm_type='rmsnorm' has no bias")
        if not self.first_norm and self.norm_position == "post":
            raise ValueError("first_norm=False needs norm_position='pre'")

    def validate_padding(self) -> None:
        """Raises ValueError for freeze_pad_embedding without pad_token_id."""
        if self.freeze_pad_embedding and self.pad_token_id is None:
            raise ValueError("freeze_pad_embedding=True needs pad_token_id")

    def validate_positions(self) -> None:
        """Raises ValueError for sinusoidal positions of an odd or too small number of features."""
        size, smallest = self.embedding_width, {"sinusoidal": 2, "fairseq_sinusoidal": 4}.get(str(self.position_type))
        if smallest is not None and (size % 2 or size < smallest):
            raise ValueError(
                f"hidden_size={size} must be even and at least {smallest} for position_type={self.position_type!r}"
            )

    def validate_relative_attention(self) -> None:
        """Raises ValueError for buckets that do not fit the distances, or options without buckets."""
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets is None:
            defaults = {"relative_attention_max_distance": 128, "relative_attention_per_layer": False}
            for name, default in defaults.items():
                if getattr(self, name) != default:
                    raise ValueError(
                        f"{name}={getattr(self, name)} has no effect: relative_attention_num_buckets is None"
                    )
            return
        # An encoder has half of the buckets for the tokens before the query and half for those after it; half of those
        # of a direction are for one distance each.
        directions = 2 if self.is_bidirectional else 1
        if buckets % (2 * directions):
            raise ValueError(
                f"relative_attention_num_buckets={buckets} must be a multiple of {2 * directions} for a "
                f"{self.model_type}"
            )
        if distance <= buckets // (2 * directions):
            raise ValueError(
                f"relative_attention_max_distance={distance} must be above {buckets // (2 * directions)}, the number "
                f"of distances with a bucket of their own for relative_attention_num_buckets={buckets}"
            )

    def validate_sliding_window(self) -> None:
        """Raises ValueError for a window without sliding layers, or sliding layers without a window."""
        slides = "sliding_attention" in (self.layer_types or [])
        if slides and self.sliding_window is None:
            raise ValueError("layer_types has sliding_attention layers, but sliding_window is None")
        if not slides and self.sliding_window is not None:
            raise ValueError(
                f"sliding_window={self.sliding_window} has no effect: layer_types={self.layer_types} has no "
                "sliding_attention layer"
            )

    def validate_labels(self) -> None:
        """Raises ValueError for an unknown problem type, or class weights that do not fit the labels."""
        check_labels(self)

    def validate_classifier(self) -> None:
        """Raises ValueError for an option of the classifiers that has no effect or needs another."""
        check_classifier(self)
