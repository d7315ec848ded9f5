"""The encoder-decoder: a decoder that also attends to an encoder's output."""

import copy
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

from .base import BlendConfig
from .checks import add_field_help, description_of, option
from .decoder import BlendDecoderConfig
from .encoder import BlendEncoderConfig
from .heads import HeadConfig, Pooling
from .recipe_config import (
    ATTENTION_FIELDS,
    SELF_ATTENTION_FIELDS,
    fit_mixer,
    has_attention,
    is_recurrent,
)

PARTS: dict[str, type[BlendConfig]] = {"encoder": BlendEncoderConfig, "decoder": BlendDecoderConfig}


@add_field_help
@strict
class BlendEncoderDecoderConfig(HeadConfig):
    """An encoder and a decoder that reads the encoder's output, by cross-attention or its two ends alone.

    Each part is a configuration, a dict of its fields, or None (its defaults), and may have its own vocabulary. The
    fields of the heads and losses are here, not in the parts; BlendEncoderConfig and BlendDecoderConfig describe those
    of the parts.
    """

    model_type = "blend_encoder_decoder"
    keys_to_ignore_at_inference = [
        "cache",
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
    # Each part has its own plan.
    base_model_fsdp_plan: ClassVar[dict[str, str]] = {}

    # __post_init__ makes the parts configurations.
    encoder: Any = option("Configuration of the encoder, or a dict of its fields. None: the defaults.", None)
    decoder: Any = option("Configuration of the decoder, or a dict of its fields. None: the defaults.", None)
    is_encoder_decoder: bool = True

    tie_word_embeddings: bool = option(
        "Tie the language-model head to the decoder's token embedding and, if the parts share one vocabulary "
        "(share_encoder_decoder_embeddings), to the encoder's.",
        True,
    )
    share_encoder_decoder_embeddings: bool = option(
        "Encoder and decoder share one vocabulary and its embeddings.", True
    )
    tie_lm_head: bool = option(
        "False: the head has its own matrix, although encoder and decoder share their embeddings (T5 v1.1).", True
    )

    pooling: Pooling = option(description_of(BlendConfig, "pooling"), "last")
    use_cache: bool = option(description_of(BlendDecoderConfig, "use_cache"), True)

    # Copied to the decoder.
    pad_token_id: int | None = option("Padding token. None: that of the decoder.", None)
    bos_token_id: int | None = option("Token before a text. None: that of the decoder.", None)
    eos_token_id: int | list[int] | None = option(
        "Token after a text, or several such tokens. None: that of the decoder.", None
    )
    decoder_start_token_id: int | None = option(
        "First input token of the decoder in generation. None: bos_token_id.", None
    )
    shift_start: Literal["start_token", "last_token"] = option(
        "First token of decoder inputs that are shifted right: decoder_start_token_id, or the sequence's own last "
        "token (mBART: the language token).",
        "start_token",
    )
    shift_source: bool = option(
        "The decoder reads the source shifted right if neither decoder inputs nor labels are given (BART).", False
    )

    def __post_init__(self, **kwargs: Any) -> None:
        for name, part in PARTS.items():
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                width = {} if name == "encoder" else {"cross_attention_hidden_size": self.encoder.hidden_size}
                value = part(**{**width, **(value or {})})
            if not isinstance(value, PreTrainedConfig):
                raise ValueError(f"{name} must be a configuration, a dict or None, got {value!r}")
            if value.model_type != part.model_type:
                raise ValueError(f"{name} must be a {part.model_type} configuration, got {value.model_type}")
            setattr(self, name, copy.deepcopy(value))
        for name, size in self.sizes().items():
            # to_dict() contains the sizes, so they may come back as arguments.
            if kwargs.pop(name, size) != size:
                raise ValueError(f"{name} must be that of the parts, {size}; set it in encoder and decoder")
        if self.decoder.cross_attention_hidden_size is None:
            self.decoder.cross_attention_hidden_size = self.encoder.hidden_size
            if self.decoder.is_recurrent and self.decoder.has_attention:
                # Its heads have an effect only now, and were not compared with its size before.
                self.decoder.default_head_dim()
        # Libraries read these from the decoder's config (PreTrainedConfig.get_text_config) or from this one.
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

        An override is a field of this class, `encoder` or `decoder` with a dict of changes to that part, or a field of
        the parts (`hidden_size=64`), which is set in each part that has it.
        """
        recipe = cls.recipe(name)
        cls.check_names(overrides, cls.options())
        own = super().options()
        cls.check_choices(overrides)
        settings = {key: value for key, value in recipe.items() if key not in PARTS}
        settings |= {key: value for key, value in overrides.items() if key in own}
        part_fields = {key: value for key, value in overrides.items() if key not in own}
        given: dict[str, dict[str, Any]] = {}
        for part, config_class in PARTS.items():
            common = {key: value for key, value in part_fields.items() if key in config_class.options()}
            changes = settings.get(part) or {}
            if not isinstance(changes, dict):
                raise ValueError(f"{part} must be a dict of changes to the recipe, got {type(changes).__name__}")
            config_class.check_names(changes, config_class.options())
            config_class.check_choices({**common, **changes})
            given[part] = {**common, **changes}
        reads_encoder = {"encoder": False, "decoder": True}
        attends = {part: has_attention(given[part], reads_encoder=reads_encoder[part]) for part in PARTS}
        for part, fields in given.items():
            # A field of attention that is given for both parts is meant for the one that has attention.
            meant_for_other: set[str] = set()
            if any(attends.values()) and not attends[part]:
                meant_for_other |= set(ATTENTION_FIELDS)
            if is_recurrent(fields) and not all(map(is_recurrent, given.values())):
                meant_for_other |= set(SELF_ATTENTION_FIELDS)
                meant_for_other |= {"position_type"} if fields.get("position_type") == "rotary" else set()
            meant_for_other -= (settings.get(part) or {}).keys()
            fields = {key: each for key, each in fields.items() if key not in meant_for_other}
            settings[part] = {**fit_mixer(recipe[part], fields, reads_encoder=reads_encoder[part]), **fields}
        return cls(**settings)

    @classmethod
    def options(cls) -> set[str]:
        """Names of the overrides that from_recipe accepts: fields of this class and of the parts."""
        return super().options().union(*(config_class.options() for config_class in PARTS.values()))

    @property
    def is_recurrent(self) -> bool:
        """Whether a part has a recurrent mixer."""
        return self.encoder.is_recurrent or self.decoder.is_recurrent

    @property
    def hidden_size(self) -> int:
        """Hidden size of the decoder, whose output the heads read."""
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
        """Number of heads of the encoder's layers, as in transformers' own encoder-decoders."""
        return self.encoder.num_attention_heads

    @property
    def vocab_size(self) -> int:
        """Vocabulary size of the decoder. Setting it also sets the encoder's if the parts share one vocabulary."""
        return self.decoder.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.decoder.vocab_size = value
        if self.share_encoder_decoder_embeddings:
            self.encoder.vocab_size = value

    def to_dict(self) -> dict[str, Any]:
        """As PreTrainedConfig.to_dict, plus sizes(), minus the repository fields of the parts."""
        output = super().to_dict()
        for part in PARTS:
            output[part] |= {"_name_or_path": "", "architectures": None}
            output[part].pop("auto_map", None)
        return output | self.sizes()

    def to_diff_dict(self) -> dict[str, Any]:
        """The content of config.json: as PreTrainedConfig.to_diff_dict, without sizes()."""
        sizes = self.sizes()
        return {name: value for name, value in super().to_diff_dict().items() if name not in sizes}

    def sizes(self) -> dict[str, int | None]:
        """Sizes of the model, computed from the parts. peft reads them from to_dict()."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads")
        decoder_sizes = {name: getattr(self.decoder, name) for name in ("num_key_value_heads", "head_dim")}
        return {name: getattr(self, name) for name in names} | decoder_sizes

    def validate_vocabularies(self) -> None:
        """Raises ValueError if shared embeddings have two vocabulary sizes or hidden sizes."""
        sizes = {part: (getattr(self, part).vocab_size, getattr(self, part).embedding_width) for part in PARTS}
        shared = self.tie_word_embeddings and self.share_encoder_decoder_embeddings
        if shared and sizes["encoder"] != sizes["decoder"]:
            raise ValueError(
                f"share_encoder_decoder_embeddings=True needs one vocab_size and hidden_size, got {sizes}; "
                "set it to False for two vocabularies"
            )

    def validate_cross_attention(self) -> None:
        """Raises ValueError if cross_attention_hidden_size of the decoder is not hidden_size of the encoder."""
        if self.decoder.cross_attention_hidden_size != self.encoder.hidden_size:
            raise ValueError(
                f"decoder.cross_attention_hidden_size={self.decoder.cross_attention_hidden_size} must be "
                f"encoder.hidden_size={self.encoder.hidden_size}"
            )
