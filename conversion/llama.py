"""Llama and similar models: pre-norm decoders with rotary positions and gated MLPs (Touvron et al. 2023)."""

from dataclasses import replace
from typing import Any

from transformers.modeling_rope_utils import RopeParameters

from ..configuration.decoder import BlendDecoderConfig
from .table import Architecture, ConversionError, Head, Setting, no_dropout, token_dropout

FIELDS = {
    **{
        name: name
        for name in (
            *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
            *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "initializer_range"),
            *("attention_dropout", "tie_word_embeddings", "use_cache"),
            *("pad_token_id", "bos_token_id", "eos_token_id"),
        )
    },
    "rms_norm_eps": "norm_eps",
}
# The blocks have the defaults of BlendDecoderConfig. The only dropout is attention_dropout.
FIXED = {"pooling": "last_non_pad", "score_bias": False, "hidden_dropout": 0.0}
# Keys of rope_parameters that transformers reads under another name, or never.
UNUSED_ROPE_KEYS = {"type", "finetuned"}


def used_rope(model_type: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """RoPE's parameters without unused keys. Raises ConversionError for a key that is not supported."""
    for key in parameters.keys() - set(RopeParameters.__annotations__) - UNUSED_ROPE_KEYS:
        raise ConversionError(f"{model_type}: rope_parameters has {key!r}, which is not supported")
    return {key: value for key, value in parameters.items() if key not in UNUSED_ROPE_KEYS}


ROPE = Setting(
    ("rope_parameters",),
    lambda original: {"rope_parameters": used_rope(original.model_type, original.rope_parameters)},
    lambda config: {"rope_parameters": config.rope_parameters},
)


def llama(model_type: str, prefix: str, **changes: Any) -> Architecture:
    """Llama, or a model with the same structure whose class names start with `prefix`."""
    llama = Architecture(
        model_type=model_type,
        config_class=BlendDecoderConfig,
        fields=FIELDS,
        fixed=FIXED,
        settings=(ROPE,),
        tensors={
            "embed_tokens": "embed_tokens",
            "layers.*.self_attn": "layers.*.self_attn",
            "layers.*.mlp": "layers.*.mlp",
            "layers.*.input_layernorm": "layers.*.self_attn_norm",
            "layers.*.post_attention_layernorm": "layers.*.mlp_norm",
            "norm": "norm",
        },
        heads={
            "AutoModel": Head(f"{prefix}Model"),
            "AutoModelForCausalLM": Head(f"{prefix}ForCausalLM", {"lm_head": "lm_head"}),
            "AutoModelForSequenceClassification": Head(
                f"{prefix}ForSequenceClassification", {"score": "score"}, dropout=no_dropout
            ),
            "AutoModelForTokenClassification": Head(
                f"{prefix}ForTokenClassification",
                {"score": "classifier"},
                required={"token_classification_bias": True},
                dropout=token_dropout,
            ),
        },
    )
    return replace(llama, **changes)


LLAMA = llama(
    "llama",
    "Llama",
    fields=FIELDS | {"attention_bias": ("attention_bias", "attention_out_bias"), "mlp_bias": "mlp_bias"},
    unused=("pretraining_tp",),
)

# Jiang et al. 2023: sliding windows in all layers, or in none.
MISTRAL = llama(
    "mistral",
    "Mistral",
    settings=(
        ROPE,
        Setting(
            ("sliding_window",),
            lambda original: {
                "sliding_window": original.sliding_window,
                "layer_types": None
                if original.sliding_window is None
                else ["sliding_attention"] * original.num_hidden_layers,
            },
            lambda config: {"sliding_window": config.sliding_window},
        ),
    ),
)


def read_windows(original: Any) -> dict[str, Any]:
    has_window = "sliding_attention" in original.layer_types
    return {"layer_types": original.layer_types, "sliding_window": original.sliding_window if has_window else None}


def write_windows(config: Any) -> dict[str, Any]:
    has_window = config.sliding_window is not None
    window = {"sliding_window": config.sliding_window} if has_window else {}
    return {"layer_types": config.layer_types, "use_sliding_window": has_window, **window}


WINDOWS = Setting(("layer_types", "use_sliding_window", "sliding_window"), read_windows, write_windows)

# Yang et al. 2024.
QWEN2 = llama(
    "qwen2",
    "Qwen2",
    fixed=FIXED | {"attention_bias": True, "attention_out_bias": False},
    unused=("max_window_layers",),
    settings=(ROPE, WINDOWS),
)
# Yang et al. 2025.
QWEN3 = llama(
    "qwen3",
    "Qwen3",
    fields=FIELDS | {"attention_bias": ("attention_bias", "attention_out_bias")},
    fixed=FIXED | {"query_key_norm": True},
    unused=("max_window_layers",),
    settings=(ROPE, WINDOWS),
)
