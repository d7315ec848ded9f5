"""GPT, GPT-2, GPT-Neo and OPT: decoders with learned positions."""

from typing import Any

from ..configuration.decoder import BlendDecoderConfig
from ..configuration.recipes import GPT1 as RECIPE_1
from ..configuration.recipes import GPT2 as RECIPE_2
from ..configuration.recipes import GPT3 as RECIPE_3
from .table import Architecture, ConversionError, Head, Setting, TensorMap, no_dropout, token_dropout

COMMON = {
    name: name
    for name in (
        *("vocab_size", "initializer_range", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"),
        "use_cache",
    )
}
BLOCK_FIELDS = ("norm_type", "norm_position", "position_type", "feed_forward_type", "attention_bias", "mlp_bias")
# Sequence classifiers: a projection without bias of the last token that is not padding.
CLASSIFIER = {"pooling": "last_non_pad", "score_bias": False}
SUMMARY = (
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout"),
)
# The tanh approximation of gelu: the original name, and the name of the variant that uses torch's kernel.
GELU = {"gelu_new": "gelu_pytorch_tanh"}


def block_fields(recipe: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe that define the type of block, without its sizes."""
    return {name: recipe[name] for name in BLOCK_FIELDS}


def heads(prefix: str, causal_lm: str = "ForCausalLM", **others: Head) -> dict[str, Head]:
    """The stock classes that every decoder has, with names that start with `prefix`, and other heads by Auto class."""
    return {
        "AutoModel": Head(f"{prefix}Model"),
        "AutoModelForCausalLM": Head(f"{prefix}{causal_lm}", {"lm_head": "lm_head"}),
        "AutoModelForSequenceClassification": Head(
            f"{prefix}ForSequenceClassification", {"score": "score"}, dropout=no_dropout
        ),
        **others,
    }


def activation(key: str, names: dict[str, str]) -> Setting:
    """Conversion of an activation; `names` maps original names to seqblend names where they differ."""
    original_names = {name: original for original, name in names.items()}
    return Setting(
        (key,),
        lambda original: {"hidden_act": names.get(getattr(original, key), getattr(original, key))},
        lambda config: {key: original_names.get(config.hidden_act, config.hidden_act)},
    )


def gpt_tensors(tokens: str, positions: str) -> dict[str, str | TensorMap]:
    """Tensors of GPT and GPT-2: matrices are (in, out); queries, keys and values are one matrix."""
    return {
        tokens: "embed_tokens",
        positions: "embed_positions",
        "h.*.ln_1": "layers.*.self_attn_norm",
        "h.*.attn.c_attn": TensorMap(
            ("layers.*.self_attn.q_proj", "layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj"),
            is_transposed=True,
        ),
        "h.*.attn.c_proj": TensorMap("layers.*.self_attn.o_proj", is_transposed=True),
        "h.*.ln_2": "layers.*.mlp_norm",
        "h.*.mlp.c_fc": TensorMap("layers.*.mlp.up_proj", is_transposed=True),
        "h.*.mlp.c_proj": TensorMap("layers.*.mlp.down_proj", is_transposed=True),
    }


GPT_FIELDS = COMMON | {
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "norm_eps",
    "resid_pdrop": "hidden_dropout",
    "attn_pdrop": "attention_dropout",
}

# Radford et al. 2018.
OPENAI_GPT = Architecture(
    model_type="openai-gpt",
    config_class=BlendDecoderConfig,
    fields={key: name for key, name in GPT_FIELDS.items() if key != "use_cache"},
    fixed=block_fields(RECIPE_1) | CLASSIFIER,
    unused=("embd_pdrop", *SUMMARY),
    # Its "gelu" is the tanh approximation as well.
    settings=(activation("afn", {"gelu": "gelu_pytorch_tanh"}),),
    tensors=gpt_tensors("tokens_embed", "positions_embed"),
    heads=heads("OpenAIGPT", "LMHeadModel"),
)

# Radford et al. 2019.
GPT2 = Architecture(
    model_type="gpt2",
    config_class=BlendDecoderConfig,
    fields=GPT_FIELDS,
    fixed=block_fields(RECIPE_2) | CLASSIFIER,
    required={"scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False, "is_decoder": False},
    unused=("embd_pdrop", "reorder_and_upcast_attn", *SUMMARY),
    settings=(
        activation("activation_function", GELU),
        Setting(
            ("n_inner",),
            lambda original: {"intermediate_size": original.n_inner or 4 * original.n_embd},
            lambda config: {"n_inner": config.intermediate_size},
        ),
        Setting(
            ("scale_attn_weights",),
            lambda original: {"attention_scaling": None if original.scale_attn_weights else 1.0},
            lambda config: {"scale_attn_weights": config.attention_scaling != 1.0},
        ),
    ),
    tensors=gpt_tensors("wte", "wpe") | {"ln_f": "norm"},
    heads=heads(
        "GPT2",
        "LMHeadModel",
        AutoModelForTokenClassification=Head(
            "GPT2ForTokenClassification", {"classifier": "classifier"}, dropout=token_dropout
        ),
    ),
)

# Black et al. 2021, after GPT-3.
NEO_TYPES = {"global": "full_attention", "local": "sliding_attention"}


def read_neo_layers(original: Any) -> dict[str, Any]:
    types = [NEO_TYPES[kind] for kind in original.attention_layers]
    return {
        "layer_types": types,
        "sliding_window": original.window_size if "sliding_attention" in types else None,
        "intermediate_size": original.intermediate_size or 4 * original.hidden_size,
    }


def write_neo_layers(config: Any) -> dict[str, Any]:
    original_types = {name: original for original, name in NEO_TYPES.items()}
    layers = [original_types[kind] for kind in config.layer_types]
    window = {} if config.sliding_window is None else {"window_size": config.sliding_window}
    # Pairs of a pattern of layer types and its number of repetitions: one pair per layer.
    types = [[[kind], 1] for kind in layers]
    return {
        "attention_types": types,
        "attention_layers": layers,
        "intermediate_size": config.intermediate_size,
        **window,
    }


GPT_NEO = Architecture(
    model_type="gpt_neo",
    config_class=BlendDecoderConfig,
    fields=COMMON
    | {
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "max_position_embeddings": "max_position_embeddings",
        "layer_norm_epsilon": "norm_eps",
        "resid_dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "classifier_dropout": "classifier_dropout",
    },
    fixed=block_fields(RECIPE_3) | CLASSIFIER | {"attention_scaling": 1.0, "attention_out_bias": True},
    unused=("embed_dropout",),
    settings=(
        activation("activation_function", GELU),
        Setting(
            ("attention_types", "attention_layers", "window_size", "intermediate_size"),
            read_neo_layers,
            write_neo_layers,
        ),
    ),
    tensors={
        "wte": "embed_tokens",
        "wpe": "embed_positions",
        "h.*.ln_1": "layers.*.self_attn_norm",
        "h.*.attn.attention": "layers.*.self_attn",
        "h.*.attn.attention.out_proj": "layers.*.self_attn.o_proj",
        "h.*.ln_2": "layers.*.mlp_norm",
        "h.*.mlp.c_fc": "layers.*.mlp.up_proj",
        "h.*.mlp.c_proj": "layers.*.mlp.down_proj",
        "ln_f": "norm",
    },
    heads=heads(
        "GPTNeo",
        AutoModelForTokenClassification=Head("GPTNeoForTokenClassification", {"classifier": "classifier"}),
    ),
)


def check_no_projection(original: Any) -> dict[str, Any]:
    if original.word_embed_proj_dim != original.hidden_size:
        raise ConversionError(
            f"opt: word_embed_proj_dim={original.word_embed_proj_dim} is not hidden_size={original.hidden_size}; a "
            "projection after the embeddings (OPT-350m) is not supported"
        )
    return {}


# Zhang et al. 2022.
OPT = Architecture(
    model_type="opt",
    config_class=BlendDecoderConfig,
    fields={key: name for key, name in COMMON.items() if key != "initializer_range"}
    | {
        "hidden_size": "hidden_size",
        "num_hidden_layers": "num_hidden_layers",
        "num_attention_heads": "num_attention_heads",
        "ffn_dim": "intermediate_size",
        "max_position_embeddings": "max_position_embeddings",
        "activation_function": "hidden_act",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "init_std": "initializer_range",
    },
    fixed=block_fields(RECIPE_2) | CLASSIFIER | {"norm_eps": 1e-5},
    required={
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    },
    unused=("layerdrop",),
    settings=(
        Setting(
            ("word_embed_proj_dim",), check_no_projection, lambda config: {"word_embed_proj_dim": config.hidden_size}
        ),
    ),
    tensors={
        "decoder.embed_tokens": "embed_tokens",
        "decoder.embed_positions": TensorMap("embed_positions", skipped_rows=lambda original: 2),
        "decoder.layers.*.self_attn": "layers.*.self_attn",
        "decoder.layers.*.self_attn.out_proj": "layers.*.self_attn.o_proj",
        "decoder.layers.*.self_attn_layer_norm": "layers.*.self_attn_norm",
        "decoder.layers.*.fc1": "layers.*.mlp.up_proj",
        "decoder.layers.*.fc2": "layers.*.mlp.down_proj",
        "decoder.layers.*.final_layer_norm": "layers.*.mlp_norm",
        "decoder.final_layer_norm": "norm",
    },
    heads=heads("OPT"),
)
