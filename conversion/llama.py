"""Llama and those built like it: pre-norm decoders with rotary positions and gated blocks (Touvron et al. 2023)."""

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
# The blocks are our defaults. Theirs have no dropout but that of attention; the classifier is a projection.
FIXED = {"pooling": "last", "score_bias": False, "hidden_dropout": 0.0}
# Keys of RoPE's parameters that stock reads under another name, or never.
UNREAD = {"type", "finetuned"}


def read_rope(theirs: Any) -> dict[str, Any]:
    known = set(RopeParameters.__annotations__)
    for key in theirs.rope_parameters.keys() - known - UNREAD:
        raise ConversionError(f"{theirs.model_type}: rope_parameters has {key!r}, which is not supported")
    return {"rope_parameters": {key: value for key, value in theirs.rope_parameters.items() if key not in UNREAD}}


ROPE = Setting(("rope_parameters",), read_rope, lambda ours: {"rope_parameters": ours.rope_parameters})


def llama(model_type: str, prefix: str, **changes: Any) -> Architecture:
    """Llama, or another of the same build, whose classes begin with `prefix`."""
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

# Jiang et al. 2023: all layers slide, or none.
MISTRAL = llama(
    "mistral",
    "Mistral",
    settings=(
        ROPE,
        Setting(
            ("sliding_window",),
            lambda theirs: {
                "sliding_window": theirs.sliding_window,
                "layer_types": None
                if theirs.sliding_window is None
                else ["sliding_attention"] * theirs.num_hidden_layers,
            },
            lambda ours: {"sliding_window": ours.sliding_window},
        ),
    ),
)


def read_windows(theirs: Any) -> dict[str, Any]:
    slides = "sliding_attention" in theirs.layer_types
    return {"layer_types": theirs.layer_types, "sliding_window": theirs.sliding_window if slides else None}


def write_windows(ours: Any) -> dict[str, Any]:
    slides = ours.sliding_window is not None
    window = {"sliding_window": ours.sliding_window} if slides else {}
    return {"layer_types": ours.layer_types, "use_sliding_window": slides, **window}


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
