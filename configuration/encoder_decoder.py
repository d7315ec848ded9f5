"""The encoder-decoder: a decoder that also reads an encoder's output."""

import copy
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .base import BlendConfig, RecipeConfig, activation, check_classifier, check_labels, checked, probability
from .decoder import BlendDecoderConfig
from .encoder import BlendEncoderConfig

PARTS: dict[str, type[BlendConfig]] = {"encoder": BlendEncoderConfig, "decoder": BlendDecoderConfig}


@strict
class BlendEncoderDecoderConfig(RecipeConfig):
    """An encoder and a decoder that reads the encoder's output by cross-attention.

    Each part is given as a configuration, as a dict of its fields, or not at all (its defaults), and may have a
    vocabulary of its own. What concerns the model as a whole, its heads and losses, stands here and not in the parts.
    """

    model_type = "blend_encoder_decoder"
    keys_to_ignore_at_inference = [
        "past_key_values",
        "encoder_last_hidden_state",
        "decoder_hidden_states",
        "encoder_hidden_states",
        "decoder_attentions",
        "encoder_attentions",
        "cross_attentions",
    ]
    # transformers 5.23 reads `sub_configs_defaults`, 5.16 reads `sub_configs`.
    sub_configs = PARTS
    sub_configs_defaults = PARTS
    # Each part has a plan of its own.
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {}

    # A configuration, a dict of its fields, or None; always a configuration afterwards.
    encoder: Any = None
    decoder: Any = None
    is_encoder_decoder: bool = True

    # Ties the language-model head to the decoder's token embedding and, where the parts share one vocabulary
    # (share_encoder_decoder_embeddings), the encoder's token embedding too.
    tie_word_embeddings: bool = True
    share_encoder_decoder_embeddings: bool = True

    # As in BlendConfig.
    pooling: Literal["cls", "mean", "last", "eos"] = "last"
    classifier_hidden_act: str | None = checked(activation, None)
    classifier_hidden_bias: bool = True
    classifier_hidden_norm: bool = False
    token_classifier_hidden: bool = False
    score_bias: bool = True
    classifier_dropout: int | float = checked(probability, 0.1)
    class_weights: list[int | float] | None = None
    label_smoothing: int | float = checked(probability, 0.0)
    use_cache: bool = True
    original_model_type: str | None = None

    # Those of the decoder, which are set to these; None: taken from it.
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    # What the decoder reads before it writes the first token. None: bos_token_id.
    decoder_start_token_id: int | None = None
    # What a sequence that is shifted right, for the decoder to read, begins with: decoder_start_token_id, or the
    # sequence's own last token (mBART, where it tells the language).
    shift_start: Literal["start_token", "last_token"] = "start_token"
    # Whether the decoder reads the source shifted right where neither decoder inputs nor labels are given (BART).
    shift_source: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        for name, part in PARTS.items():
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                value = part(**(value or {}))
            if not isinstance(value, PreTrainedConfig):
                raise ValueError(f"{name} must be a configuration, a dict or None, got {value!r}")
            if value.model_type != part.model_type:
                raise ValueError(f"{name} must be a {part.model_type} configuration, got {value.model_type}")
            setattr(self, name, copy.deepcopy(value))
        for name, size in self.sizes().items():
            # As to_dict() has it.
            if kwargs.pop(name, size) != size:
                raise ValueError(f"{name} must be that of the parts, {size}; give it in encoder and decoder")
        if self.decoder.cross_attention_hidden_size is None:
            self.decoder.cross_attention_hidden_size = self.encoder.hidden_size
        # Tools look for them in the decoder's config (PreTrainedConfig.get_text_config), and in this one.
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.decoder, name))
            setattr(self.decoder, name, getattr(self, name))
        if self.encoder.freeze_pad_embedding:
            self.encoder.pad_token_id = self.pad_token_id
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id
        super().__post_init__(**kwargs)

    @classmethod
    def from_recipe(cls, name: str = "default", **overrides: Any) -> "BlendEncoderDecoderConfig":
        """Build a configuration from a recipe; see RecipeConfig.from_recipe.

        An override is a field of the whole, `encoder` or `decoder` with a dict of changes to that part, or a field of
        the parts (`hidden_size=64`), which is set in each part that has it.
        """
        recipe = cls.recipe(name)
        cls.check_names(overrides, cls.options())
        own = super().options()
        cls.check_choices(overrides)
        settings = {key: value for key, value in overrides.items() if key in own}
        of_parts = {key: value for key, value in overrides.items() if key not in own}
        for part, config_class in PARTS.items():
            common = {key: value for key, value in of_parts.items() if key in config_class.options()}
            changes = settings.get(part) or {}
            if not isinstance(changes, dict):
                raise ValueError(f"{part} must be a dict of changes to the recipe, got {type(changes).__name__}")
            config_class.check_names(changes, config_class.options())
            config_class.check_choices({**common, **changes})
            settings[part] = config_class(**{**recipe[part], **common, **changes})
        return cls(**settings)

    @classmethod
    def options(cls) -> set[str]:
        """The names that from_recipe takes: fields of the whole and of the parts."""
        return super().options().union(*(config_class.options() for config_class in PARTS.values()))

    @property
    def hidden_size(self) -> int:
        """Width of what the heads read: the decoder's."""
        return self.decoder.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of the encoder's layers, as in transformers' own encoder-decoders."""
        return self.encoder.num_hidden_layers

    @num_hidden_layers.setter
    def num_hidden_layers(self, value: int) -> None:
        # generate(assistant_early_exit=…) sets and restores it.
        self.encoder.num_hidden_layers = value

    @property
    def num_attention_heads(self) -> int:
        """Heads of each of the encoder's layers, as in transformers' own encoder-decoders."""
        return self.encoder.num_attention_heads

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary that is written: the decoder's; set, where there is only one, for both parts."""
        return self.decoder.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.decoder.vocab_size = value
        if self.share_encoder_decoder_embeddings:
            self.encoder.vocab_size = value

    def to_dict(self) -> dict[str, Any]:
        """As PreTrainedConfig.to_dict, with sizes(), without what a part says of the repository it is from."""
        output = super().to_dict()
        for part in PARTS:
            output[part] |= {"_name_or_path": "", "architectures": None}
            output[part].pop("auto_map", None)
        return output | self.sizes()

    def to_diff_dict(self) -> dict[str, Any]:
        """What is saved: as PreTrainedConfig.to_diff_dict, without sizes()."""
        sizes = self.sizes()
        return {name: value for name, value in super().to_diff_dict().items() if name not in sizes}

    def sizes(self) -> dict[str, int | None]:
        """Sizes of the whole, which follow from the parts. peft looks for them in to_dict()."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        of_decoder = {name: getattr(self.decoder, name) for name in ("num_key_value_heads", "head_dim")}
        return {name: getattr(self, name) for name in names} | of_decoder

    def validate_vocabularies(self) -> None:
        """Raises ValueError where one embedding is asked to serve two vocabularies or widths."""
        sizes = {part: (getattr(self, part).vocab_size, getattr(self, part).hidden_size) for part in PARTS}
        shared = self.tie_word_embeddings and self.share_encoder_decoder_embeddings
        if shared and sizes["encoder"] != sizes["decoder"]:
            raise ValueError(
                f"share_encoder_decoder_embeddings=True needs one vocab_size and hidden_size, got {sizes}; "
                "set it to False for two vocabularies"
            )

    def validate_cross_attention(self) -> None:
        """Raises ValueError where the decoder expects another width than the encoder has."""
        if self.decoder.cross_attention_hidden_size != self.encoder.hidden_size:
            raise ValueError(
                f"decoder.cross_attention_hidden_size={self.decoder.cross_attention_hidden_size} must be "
                f"encoder.hidden_size={self.encoder.hidden_size}"
            )

    def validate_labels(self) -> None:
        """Raises ValueError for an unknown problem type, or class weights that do not fit the labels."""
        check_labels(self)

    def validate_classifier(self) -> None:
        """Raises ValueError for an option of the classifiers without effect."""
        check_classifier(self)
