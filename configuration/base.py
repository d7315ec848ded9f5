"""What every stack of Transformer blocks is made of: one typed field per choice, shared by encoder and decoder."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from difflib import get_close_matches
from inspect import get_annotations
from numbers import Integral
from typing import Any, Literal, TypeVar, get_args, get_origin

from huggingface_hub.dataclasses import validated_field
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.configuration_utils import GenerationConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RopeParameters

from .recipes import RECIPES

PROBLEM_TYPES = ["single_label_classification", "multi_label_classification", "regression"]

# What transformers takes besides fields: names that it renames, what it writes into files, and settings of generation.
PASSED = {
    *("torch_dtype", "name_or_path", "output_attentions", "attn_implementation", "experts_implementation", "auto_map"),
    *("rope_theta", "rope_scaling", "partial_rotary_factor", "per_layer_config", "quantization_config"),
    *vars(GenerationConfig()),
}

Config = TypeVar("Config", bound="RecipeConfig")


def positive(value: float | None) -> None:
    """Field validator. Raises ValueError for a number that is not above zero."""
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
    """Field validator. Raises ValueError for a name that transformers has no activation function of."""
    if name is not None and name not in ACT2FN:
        raise ValueError(unknown("activation", name, list(ACT2FN)))


def unknown(kind: str, name: Any, valid: list[str]) -> str:
    """The message for an unknown `name`: it lists the valid ones, the nearest first."""
    nearest = get_close_matches(str(name), valid, n=len(valid), cutoff=0.0)
    return f"unknown {kind} {name!r}; valid, nearest first: {', '.join(nearest)}"


def checked(validator: Callable[[Any], None], default: Any) -> Any:
    """A dataclass field whose value is checked by `validator` whenever it is set."""
    return validated_field(validator, default=default)


class RecipeConfig(PreTrainedConfig):
    """A configuration that can be built from a named recipe."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.check_arguments(kwargs)
        # Not a field, so that its type is not checked.
        if not isinstance(kwargs.get("num_labels", 1), Integral):
            raise ValueError(f"num_labels must be a whole number, got {kwargs['num_labels']!r}")
        super().__post_init__(**kwargs)

    def check_arguments(self, names: Iterable[str]) -> None:
        """Refuse an argument that is no field, nor anything else that transformers takes.

        A configuration that was saved keeps its unknown fields, as in transformers: it says its model_type.

        Raises:
            ValueError: the message lists the valid names, nearest first.
        """
        if "model_type" in names:
            return
        self.check_names(
            [name for name in names if not (name in PASSED or name.startswith("_") or hasattr(type(self), name))],
            self.options(),
        )

    @classmethod
    def from_recipe(cls: type[Config], name: str = "default", **overrides: Any) -> Config:
        """Build a configuration from a recipe: named settings of the option fields.

        Args:
            name: one of the recipes this architecture has; `default` is the class without changes.
            overrides: fields that differ from the recipe.

        Raises:
            ValueError: unknown recipe or field (the message lists the valid ones, nearest first), or a bad value.
        """
        recipe = cls.recipe(name)
        cls.check_names(overrides, cls.options())
        cls.check_choices(overrides)
        settings = {**recipe, **overrides}
        if "layer_types" in recipe and "layer_types" not in overrides:
            # A recipe's pattern of layers goes on for as many as there are; what is no number, the class refuses.
            number = settings["num_hidden_layers"] if isinstance(settings["num_hidden_layers"], int) else 0
            settings["layer_types"] = (recipe["layer_types"] * number)[:number]
        if "sliding_window" in recipe and "sliding_attention" not in (settings["layer_types"] or []):
            # None of the layers that are left slides.
            settings["sliding_window"] = overrides.get("sliding_window")
        return cls(**settings)

    @classmethod
    def own_fields(cls) -> set[str]:
        """The names of the fields that stand in this package, and not in transformers' base class."""
        classes = [each for each in cls.__mro__ if issubclass(each, RecipeConfig)]
        return set().union(*(get_annotations(each) for each in classes)) & {f.name for f in fields(cls)}

    @classmethod
    def options(cls) -> set[str]:
        """The names that from_recipe takes."""
        return {f.name for f in fields(cls)} | {"num_labels"}

    @classmethod
    def recipe(cls, name: str) -> dict[str, Any]:
        """The field values of a recipe. Raises ValueError for one that this architecture does not have."""
        recipes = {recipe: parts[cls.model_type] for recipe, parts in RECIPES.items() if cls.model_type in parts}
        if name not in recipes:
            raise ValueError(unknown(f"recipe of {cls.__name__}", name, list(recipes)))
        return recipes[name]

    @classmethod
    def check_names(cls, names: Iterable[str], valid: set[str]) -> None:
        """Raises ValueError for a name that is not valid, with the valid ones, nearest first."""
        for name in names:
            if name not in valid:
                raise ValueError(unknown(f"option of {cls.__name__}", name, sorted(valid)))

    @classmethod
    def check_choices(cls, settings: dict[str, Any]) -> None:
        """Raises ValueError for a value that is not among a field's alternatives, which it lists nearest first."""
        for f in fields(cls):
            valid = list(get_args(f.type)) if get_origin(f.type) is Literal else []
            if valid and settings.get(f.name, valid[0]) not in valid:
                raise ValueError(unknown(f.name, settings[f.name], valid))


class BlendConfig(RecipeConfig):
    """The fields of one stack of Transformer blocks. Encoder and decoder add their own.

    Sizes count features, tokens or layers; dropouts are probabilities in [0, 1). Fields that are None when given are
    filled in from others, so that the saved configuration is complete.
    """

    # Sizes.
    vocab_size: int = checked(positive, 32000)
    hidden_size: int = checked(positive, 256)
    num_hidden_layers: int = checked(positive, 4)
    num_attention_heads: int = checked(positive, 4)
    # Grouped-query attention (Ainslie et al. 2023): fewer key-value heads than query heads. None: as many.
    num_key_value_heads: int | None = checked(positive, None)
    # None: hidden_size / num_attention_heads.
    head_dim: int | None = checked(positive, None)
    # None: 4 × hidden_size when plain; 8/3 of it, rounded up to a multiple of 32, when gated (as many parameters).
    intermediate_size: int | None = checked(positive, None)
    # Longest sequence, in tokens. A hard limit for learned positions only.
    max_position_embeddings: int = checked(positive, 2048)

    # Choices.
    norm_type: Literal["layernorm", "rmsnorm"] = "rmsnorm"
    # Where a block normalizes: `pre`, its input (and the stack's output); `post`, the sum of input and output.
    norm_position: Literal["pre", "post"] = "pre"
    norm_eps: int | float = checked(positive, 1e-6)
    # How a token knows its place: a learned or a sinusoidal vector added to its embedding, queries and keys turned
    # by an angle that grows with the position (RoPE), or not at all.
    position_type: Literal["learned", "sinusoidal", "rotary", "none"] = "rotary"
    # RoPE's parameters as transformers writes them, {"rope_type": …, "rope_theta": …}, or such a dict for each layer
    # type (ModernBERT). None: "default", 10000.
    rope_parameters: dict[str, Any] | None = None
    feed_forward_type: Literal["plain", "gated"] = "gated"
    # A name from transformers' activation table.
    hidden_act: str = checked(activation, "silu")
    # What the dot products of queries and keys are multiplied by. None: 1 / √head_dim.
    attention_scaling: int | float | None = checked(positive, None)
    # Per layer, `full_attention` or `sliding_attention`. None: all full.
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = None
    # Reach of a sliding layer, in tokens: a causal query sees itself and sliding_window - 1 before it, a
    # bidirectional one sees sliding_window on either side.
    sliding_window: int | None = checked(positive, None)
    # Biases of the query, key and value projections; of the attention's output projection (None: the same); of the
    # feed-forward matrices; of the language-model head.
    attention_bias: bool = False
    attention_out_bias: bool | None = None
    mlp_bias: bool = False
    lm_head_bias: bool = False
    # Biases of LayerNorm; RMSNorm has none.
    norm_bias: bool = True
    # Normalize the embeddings before the first block (BERT, BART).
    embedding_norm: bool = False
    # Normalize the input of the first block's attention. False where the embeddings are normalized (ModernBERT).
    first_norm: bool = True
    # Normalize each head's queries and keys, before RoPE (Henry et al. 2020; Qwen3).
    query_key_norm: bool = False
    # Kinds of segments that token_type_ids tells apart (0: it is not read).
    type_vocab_size: int = checked(non_negative, 0)
    # Multiply token embeddings by √hidden_size (Vaswani et al. 2017, §3.4).
    scale_embeddings: bool = False
    # Where the padding token is read, its embedding gets no gradient (Marian, whose decoder starts from it).
    freeze_pad_embedding: bool = False
    # The language-model head uses the token embedding's matrix.
    tie_word_embeddings: bool = True

    # Dropouts: of attention weights, of embeddings and block outputs, before a classification projection.
    attention_dropout: int | float = checked(probability, 0.0)
    hidden_dropout: int | float = checked(probability, 0.1)
    classifier_dropout: int | float = checked(probability, 0.1)
    # Standard deviation of the normal distribution that matrices start from.
    initializer_range: int | float = checked(positive, 0.02)

    # The vector of a sequence: its first real token, the mean of its real tokens, its last real token, or its last
    # eos_token_id (the last real token where it has none).
    pooling: Literal["cls", "mean", "last", "eos"] = "cls"
    # A hidden layer before the projection of a sequence's vector onto the labels (BERT's pooler): its activation,
    # None for no such layer, its bias and its norm; and whether token classification has it, too (ModernBERT).
    classifier_hidden_act: str | None = checked(activation, None)
    classifier_hidden_bias: bool = True
    classifier_hidden_norm: bool = False
    token_classifier_hidden: bool = False
    # Bias of the projection of a sequence's vector onto the labels.
    score_bias: bool = True
    # What the loss does in training. One weight a class for sequence and token classification; the share of a
    # target's probability that is spread over all classes.
    class_weights: list[int | float] | None = None
    label_smoothing: int | float = checked(probability, 0.0)

    # The model_type of the architecture that the model was converted from; original_files/ holds what was kept of it.
    original_model_type: str | None = None

    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None:
            self.head_dim = self.width_of_heads()
        if self.intermediate_size is None:
            gated_size = -(-self.hidden_size * 8 // 3 // 32) * 32
            self.intermediate_size = gated_size if self.feed_forward_type == "gated" else 4 * self.hidden_size
        if self.attention_scaling is None:
            self.attention_scaling = self.head_dim**-0.5
        if self.layer_types is None:
            self.layer_types = ["full_attention"] * self.num_hidden_layers
        if self.attention_out_bias is None:
            self.attention_out_bias = self.attention_bias
        super().__post_init__(**kwargs)

    def width_of_heads(self) -> int:
        """What each head has of the hidden size. Raises ValueError where the heads do not divide it."""
        width, rest = divmod(self.hidden_size, self.num_attention_heads)
        if rest:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}"
                " (or give head_dim)"
            )
        return width

    def attention_names(self) -> list[str]:
        """The attentions of each block, by their attributes."""
        return ["self_attn"]

    @property
    def base_model_tp_plan(self) -> dict[str, str]:
        """How tensor parallelism divides embeddings, by tokens, and a block's matrices, by heads and inner features.

        It names what the model has and no more: transformers warns of anything else.
        """
        plan = {"embed_tokens": "embedding_rowwise"}
        for name in self.attention_names():
            plan |= {f"layers.*.{name}.{projection}": "colwise" for projection in ("q_proj", "k_proj", "v_proj")}
            plan |= {f"layers.*.{name}.o_proj": "rowwise"}
        if self.feed_forward_type == "gated":
            plan |= {"layers.*.mlp.gate_proj": "colwise"}
        return plan | {"layers.*.mlp.up_proj": "colwise", "layers.*.mlp.down_proj": "rowwise"}

    @base_model_tp_plan.setter
    def base_model_tp_plan(self, plan: dict[str, str]) -> None:
        """Take the plan that is there, as PreTrainedConfig.__post_init__ of transformers 5.16 sets it."""
        if plan != self.base_model_tp_plan:
            raise AttributeError("base_model_tp_plan follows from the other fields; set the model's tp_plan instead")

    def convert_rope_params_to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """Fill in RoPE's parameters where positions are rotary; where they are not, there are none.

        Replaces RotaryEmbeddingConfigMixin.convert_rope_params_to_dict, which writes them whatever the positions.
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
        given = self.rope_parameters
        return given is not None and len(given) > 0 and all(isinstance(value, dict) for value in given.values())

    def rope_per_layer_type(self) -> dict[str, dict[str, Any]]:
        """RoPE's parameters of each layer type that has some of its own, else of all."""
        parameters = self.rope_parameters or {}
        return parameters if self.has_rope_per_layer_type else {"full_attention": parameters}

    def validate_rope(self) -> None:
        """Check RoPE's parameters where there are any; replaces RotaryEmbeddingConfigMixin.validate_rope likewise."""
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

    def validate_heads(self) -> None:
        """Raises ValueError where key-value heads do not divide the heads, or RoPE's pairs a head."""
        assert self.num_key_value_heads is not None and self.head_dim is not None
        if self.num_key_value_heads > self.num_attention_heads or self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} must divide "
                f"num_attention_heads={self.num_attention_heads}"
            )
        if self.position_type == "rotary" and self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even for position_type='rotary'")

    def validate_norms(self) -> None:
        """Raises ValueError for an option of the norms without effect."""
        if not self.norm_bias and self.norm_type == "rmsnorm":
            raise ValueError("norm_bias=False has no effect: norm_type='rmsnorm' has no bias")
        if not self.first_norm and self.norm_position == "post":
            raise ValueError("first_norm=False needs norm_position='pre'")

    def validate_padding(self) -> None:
        """Raises ValueError where the embedding of no token is to be frozen."""
        if self.freeze_pad_embedding and self.pad_token_id is None:
            raise ValueError("freeze_pad_embedding=True needs pad_token_id")

    def validate_positions(self) -> None:
        """Raises ValueError where the positions do not fit the hidden size."""
        if self.position_type == "sinusoidal" and self.hidden_size % 2:
            raise ValueError(f"hidden_size={self.hidden_size} must be even for position_type='sinusoidal'")

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
        """Raises ValueError for an option of the classifiers without effect."""
        check_classifier(self)


def check_rope(parameters: dict[str, Any]) -> None:
    """Raises ValueError for parameters of RoPE that are unknown or without effect, or a rope_theta not above 0."""
    names = [name for name in RopeParameters.__annotations__ if name != "mrope_section"]  # of images
    for name in parameters:
        if name not in names:
            raise ValueError(unknown("key of rope_parameters", name, names))
    kinds = ["default", *ROPE_INIT_FUNCTIONS]
    if parameters["rope_type"] not in kinds:
        raise ValueError(unknown("rope_type", parameters["rope_type"], kinds))
    theta = parameters["rope_theta"]
    if not (isinstance(theta, int | float) and theta > 0):
        raise ValueError(f"rope_parameters={parameters}: rope_theta must be a number above 0")
    if parameters["rope_type"] != "proportional" and parameters.get("partial_rotary_factor", 1) != 1:
        raise ValueError(f"rope_parameters={parameters}: partial_rotary_factor needs rope_type='proportional'")


def check_classifier(config: PreTrainedConfig) -> None:
    """Raises ValueError for options of a hidden layer that is not there, or pooling by a token that is not known."""
    if config.classifier_hidden_act is None:
        defaults = {"classifier_hidden_bias": True, "classifier_hidden_norm": False, "token_classifier_hidden": False}
        for name, default in defaults.items():
            if getattr(config, name) != default:
                raise ValueError(f"{name}={getattr(config, name)} has no effect: classifier_hidden_act is None")
    if config.pooling == "eos" and config.eos_token_id is None:
        raise ValueError("pooling='eos' needs eos_token_id")


def check_labels(config: PreTrainedConfig) -> None:
    """Raises ValueError for no label, an unknown problem type, or class weights that are not one above 0 a label."""
    if config.num_labels < 1:
        raise ValueError(f"num_labels={config.num_labels} must be above 0")
    if config.problem_type not in (None, *PROBLEM_TYPES):
        raise ValueError(unknown("problem_type", config.problem_type, PROBLEM_TYPES))
    weights = config.class_weights
    if weights is None:
        return
    if len(weights) != config.num_labels:
        raise ValueError(f"class_weights has {len(weights)} values for num_labels={config.num_labels}")
    if not all(weight > 0 for weight in weights):
        raise ValueError(f"class_weights={weights} must all be above 0")
    if config.problem_type == "regression":
        raise ValueError(f"class_weights={weights} has no meaning for problem_type='regression'")
