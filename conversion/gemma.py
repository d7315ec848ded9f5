"""Gemma: Llama with zero-centered norms and scaled embeddings (Gemma Team 2024).

Gemma 3 also normalizes the output of each sublayer, and most of its layers have a sliding window (Gemma Team 2025).
"""

from typing import Any

from ..configuration.decoder import BlendDecoderConfig
from .llama import FIELDS, FIXED, LLAMA, ROPE, llama, used_rope
from .table import Architecture, ConversionError, Head, Setting, no_dropout

ATTENTION_BIAS = {"attention_bias": ("attention_bias", "attention_out_bias")}
FIXED_GEMMA = FIXED | {"norm_type": "zero_centered_rmsnorm", "scale_embeddings": True}


def read_direction(original: Any) -> dict[str, Any]:
    if original.use_bidirectional_attention:
        raise ConversionError("gemma: use_bidirectional_attention=True is not supported")
    return {}


GEMMA = llama(
    "gemma",
    "Gemma",
    fields=FIELDS | ATTENTION_BIAS,
    fixed=FIXED_GEMMA,
    settings=(ROPE, Setting(("use_bidirectional_attention",), read_direction)),
)


def read_ropes(original: Any) -> dict[str, Any]:
    ropes = original.rope_parameters
    return {"rope_parameters": {name: used_rope(original.model_type, ropes[name]) for name in original.layer_types}}


def read_scaling(original: Any) -> dict[str, Any]:
    return {"attention_scaling": original.query_pre_attn_scalar**-0.5}


def write_scaling(config: BlendDecoderConfig) -> dict[str, Any]:
    assert config.attention_scaling is not None
    return {"query_pre_attn_scalar": round(config.attention_scaling**-2)}


def read_windows(original: Any) -> dict[str, Any]:
    has_window = "sliding_attention" in original.layer_types
    return {"layer_types": original.layer_types, "sliding_window": original.sliding_window if has_window else None}


def write_windows(config: BlendDecoderConfig) -> dict[str, Any]:
    window = {} if config.sliding_window is None else {"sliding_window": config.sliding_window}
    return {"layer_types": config.layer_types, **window}


GEMMA3 = Architecture(
    model_type="gemma3_text",
    config_class=BlendDecoderConfig,
    fields={key: name for key, name in FIELDS.items() if key != "hidden_act"}
    | ATTENTION_BIAS
    | {"hidden_activation": "hidden_act"},
    fixed=FIXED_GEMMA | {"norm_position": "both", "query_key_norm": True},
    required={"final_logit_softcapping": None, "attn_logit_softcapping": None, "use_bidirectional_attention": False},
    unused=("_sliding_window_pattern",),
    settings=(
        Setting(("rope_parameters",), read_ropes, lambda config: {"rope_parameters": config.rope_parameters}),
        Setting(("query_pre_attn_scalar",), read_scaling, write_scaling),
        Setting(("layer_types", "sliding_window"), read_windows, write_windows),
    ),
    tensors=LLAMA.tensors
    | {
        "layers.*.post_attention_layernorm": "layers.*.self_attn_output_norm",
        "layers.*.pre_feedforward_layernorm": "layers.*.mlp_norm",
        "layers.*.post_feedforward_layernorm": "layers.*.mlp_output_norm",
    },
    heads={
        "AutoModel": Head("Gemma3TextModel"),
        "AutoModelForCausalLM": Head("Gemma3ForCausalLM", {"lm_head": "lm_head"}),
        "AutoModelForSequenceClassification": Head(
            "Gemma3TextForSequenceClassification", {"score": "score"}, dropout=no_dropout
        ),
    },
)
