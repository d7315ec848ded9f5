"""The fields that encoder and decoder share: one typed field per choice."""

from dataclasses import fields
from typing import Any, ClassVar, Literal

from .checks import activation, check_rope, non_negative, option, positive, probability
from .heads import HeadConfig
from .recipe_config import ATTENTION_FIELDS


class BlendConfig(HeadConfig):
    """The fields of a stack of Transformer blocks. Encoder and decoder add their own.

    If its description says so, a field with None is computed from other fields, and saved with that value.
    """

    # Whether a token also attends to the tokens after it.
    is_bidirectional: ClassVar[bool] = False

    # Sizes.
    vocab_size: int = option("Number of tokens in the vocabulary.", 32000, positive)
    hidden_size: int = option("Number of features of a token's vector.", 256, positive)
    num_hidden_layers: int = option("Number of blocks.", 4, positive)
    num_attention_heads: int = option("Number of query heads.", 4, positive)
    num_key_value_heads: int | None = option(
        "Number of key-value heads. If there are fewer than num_attention_heads, this is grouped-query attention "
        "(Ainslie et al. 2023). None: as many as num_attention_heads.",
        None,
        positive,
    )
    head_dim: int | None = option(
        "Number of features of a head. None: hidden_size / num_attention_heads.", None, positive
    )
    intermediate_size: int | None = option(
        "Number of inner features of a feed-forward network. None: 4 × hidden_size if plain; 8/3 × hidden_size, "
        "rounded up to a multiple of 32, if gated, so that both have about the same number of parameters.",
        None,
        positive,
    )
    max_position_embeddings: int = option(
        "Maximum sequence length in tokens. A hard limit for learned positions only.", 2048, positive
    )

    # Choices.
    mixer_type: Literal["attention", "rnn", "gru", "lstm"] = option(
        "How a block mixes the tokens of a sequence: by attention, or by a recurrent network: a plain RNN with tanh "
        "(Elman 1990), GRU (Cho et al. 2014) or LSTM (Hochreiter & Schmidhuber 1997). In an encoder, a recurrent "
        "network reads in both directions.",
        "attention",
    )
    recurrent_size: int | None = option(
        "Number of features of a recurrent state; in an encoder, of both directions together. None: hidden_size.",
        None,
        positive,
    )
    norm_type: Literal["layernorm", "rmsnorm", "zero_centered_rmsnorm"] = option(
        "The normalization of a token's features. `zero_centered_rmsnorm`: RMSNorm with a weight that starts at 0, to "
        "which 1 is added (Gemma).",
        "rmsnorm",
    )
    norm_position: Literal["pre", "post", "both"] = option(
        "What is normalized. `pre`: the input of each sublayer, and the output of the stack. `post`: the sum of input "
        "and output of each sublayer. `both`: as `pre`, and the output of each sublayer before it is added (Gemma 3).",
        "pre",
    )
    norm_eps: int | float = option("Added to the variance in a norm.", 1e-6, positive)
    position_type: Literal["learned", "sinusoidal", "fairseq_sinusoidal", "rotary", "none"] | None = option(
        "Position encoding: a learned or sinusoidal vector added to the embedding, rotation of queries and keys by "
        "an angle proportional to the position (RoPE), or none. `fairseq_sinusoidal` has the wavelengths and the "
        "first position of fairseq (M2M100, NLLB). None: `rotary` with attention; `none` with a recurrent mixer, "
        "which reads the tokens in order.",
        None,
    )
    rope_parameters: dict[str, Any] | None = option(
        "RoPE's parameters as transformers writes them, {'rope_type': …, 'rope_theta': …}, or such a dict for each "
        "layer type (ModernBERT). None: 'default', 10000.",
        None,
    )
    relative_attention_num_buckets: int | None = option(
        "Relative positions (Raffel et al. 2020, T5, §2.1): number of buckets of distances between query and key; "
        "each bucket has a learned bias for each head, which self-attention adds to its scores. None: no such bias.",
        None,
        positive,
    )
    relative_attention_max_distance: int = option(
        "All distances of at least this many tokens are in one bucket.", 128, positive
    )
    relative_attention_per_layer: bool = option(
        "Each layer has its own biases (UMT5); otherwise all layers share them (T5, MPNet).", False
    )
    feed_forward_type: Literal["plain", "gated"] = option(
        "`plain`: two matrices with an activation between them. `gated`: additionally a gate, a third matrix (Shazeer "
        "2020).",
        "gated",
    )
    hidden_act: str = option("Activation of the feed-forward networks.", "silu", activation)
    attention_scaling: int | float | None = option(
        "Factor on the dot products of queries and keys. None: 1 / √head_dim.", None, positive
    )
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = option(
        "For each layer `full_attention` or `sliding_attention`. None: all full.", None
    )
    sliding_window: int | None = option(
        "Window of a sliding layer in tokens: a causal query attends to itself and sliding_window - 1 tokens before "
        "it, a bidirectional query to itself and sliding_window tokens on each side.",
        None,
        positive,
    )
    attention_bias: bool = option("Biases of the query, key and value projections.", False)
    attention_out_bias: bool | None = option(
        "Bias of the attention's output projection. None: as attention_bias.", None
    )
    mlp_bias: bool = option("Biases of the feed-forward matrices.", False)
    lm_head_bias: bool = option("Bias of the language-model head.", False)
    scale_logits: bool = option(
        "Divide the hidden states before the language-model head by √hidden_size (T5 of 2020).", False
    )
    norm_bias: bool = option("Biases of LayerNorm; RMSNorm has none.", True)
    embedding_norm: bool = option("Normalize the embeddings before the first block (BERT, BART).", False)
    first_norm: bool = option(
        "Normalize the input of the first block's attention. False if the embeddings are normalized already "
        "(ModernBERT).",
        True,
    )
    query_key_norm: bool = option(
        "Normalize each head's queries and keys, before RoPE (Henry et al. 2020; Qwen3).", False
    )
    type_vocab_size: int = option(
        "Number of segment types in token_type_ids. 0: token_type_ids is not used.", 0, non_negative
    )
    scale_embeddings: bool = option("Multiply token embeddings by √hidden_size (Vaswani et al. 2017, §3.4).", False)
    freeze_pad_embedding: bool = option(
        "The embedding of the padding token gets no gradient (Marian, whose decoder starts with that token).", False
    )
    tie_word_embeddings: bool = option("The language-model head uses the token embedding's matrix.", True)

    # Dropout and initialization.
    attention_dropout: int | float = option("Dropout of attention weights.", 0.0, probability)
    hidden_dropout: int | float = option("Dropout of embeddings and sublayer outputs.", 0.1, probability)
    initializer_range: int | float = option(
        "Standard deviation of the normal distribution that initializes the matrices, except those of recurrent "
        "networks (Recurrence.init_weights).",
        0.02,
        positive,
    )

    pad_token_id: int | None = option("Padding token.", 0)
    bos_token_id: int | None = option("Token before a text.", None)
    eos_token_id: int | list[int] | None = option("Token after a text, or several such tokens.", None)

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
    def has_embedding_projection(self) -> bool:
        """Whether the embeddings are projected to hidden_size."""
        return False

    @property
    def shares_layers(self) -> bool:
        """Whether all layers are one."""
        return False

    @property
    def embedding_width(self) -> int:
        """Number of features of the embeddings."""
        return self.hidden_size

    @property
    def logit_scaling(self) -> float:
        """Factor on the hidden states before the language-model head."""
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
        if not self.norm_bias and self.norm_type != "layernorm":
            raise ValueError(f"norm_bias=False has no effect: norm_type={self.norm_type!r} has no bias")
        if not self.first_norm and self.norm_position == "post":
            raise ValueError("first_norm=False needs norm_position='pre' or 'both'")

    def validate_padding(self) -> None:
        """Raises ValueError for freeze_pad_embedding without pad_token_id."""
        if self.freeze_pad_embedding and self.pad_token_id is None:
            raise ValueError("freeze_pad_embedding=True needs pad_token_id")

    def validate_positions(self) -> None:
        """Raises ValueError for sinusoidal positions of an odd or too small number of features."""
        size, smallest = self.embedding_width, {"sinusoidal": 2, "fairseq_sinusoidal": 4}.get(str(self.position_type))
        if smallest is not None and (size % 2 or size < smallest):
            name = "embedding_size" if self.has_embedding_projection else "hidden_size"
            raise ValueError(
                f"{name}={size} must be even and at least {smallest} for position_type={self.position_type!r}"
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
        if buckets < 2 * directions:
            raise ValueError(
                f"relative_attention_num_buckets={buckets} must be {2 * directions} or above for a {self.model_type}"
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
