"""Gemma: Llama with zero-centered norms and scaled embeddings (Gemma Team 2024).

Gemma 3 also normalizes the output of each sublayer, and most of its layers have a sliding window (Gemma Team 2025).
"""

from dataclasses import replace
from typing import Any

from ..configuration.base import BlendConfig
from ..configuration.decoder import BlendDecoderConfig
from ..configuration.encoder import BlendEncoderConfig
from .llama import FIELDS, FIXED, LLAMA, ROPE, llama, used_rope
from .table import Architecture, ConversionError, Head, Setting, no_dropout

# The variant of an architecture that is an encoder, with the model_type of a decoder.
ENCODER = "encoder"

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


def write_scaling(config: BlendConfig) -> dict[str, Any]:
    assert config.attention_scaling is not None
    return {"query_pre_attn_scalar": round(config.attention_scaling**-2)}


def windows(distance: int) -> Setting:
    """The setting of sliding windows.

    Args:
        distance: from the window of seqblend to that of the original. That of an encoder counts the query, too.
    """

    def read(original: Any) -> dict[str, Any]:
        slides = "sliding_attention" in original.layer_types
        window = original.sliding_window - distance if slides else None
        return {"layer_types": original.layer_types, "sliding_window": window}

    def write(config: BlendConfig) -> dict[str, Any]:
        window = {} if config.sliding_window is None else {"sliding_window": config.sliding_window + distance}
        return {"layer_types": config.layer_types, **window}

    return Setting(("layer_types", "sliding_window"), read, write)


SETTINGS = (
    Setting(("rope_parameters",), read_ropes, lambda config: {"rope_parameters": config.rope_parameters}),
    Setting(("query_pre_attn_scalar",), read_scaling, write_scaling),
)

GEMMA3 = Architecture(
    model_type="gemma3_text",
    config_class=BlendDecoderConfig,
    fields={key: name for key, name in FIELDS.items() if key != "hidden_act"}
    | ATTENTION_BIAS
    | {"hidden_activation": "hidden_act"},
    fixed=FIXED_GEMMA | {"norm_position": "both", "query_key_norm": True},
    required={"final_logit_softcapping": None, "attn_logit_softcapping": None},
    # registry.architecture_of reads use_bidirectional_attention.
    unused=("_sliding_window_pattern", "use_bidirectional_attention"),
    settings=(*SETTINGS, windows(0)),
    tensors={
        **LLAMA.tensors,
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

# EmbeddingGemma (Vera et al. 2025): the same without a causal mask.
GEMMA3_ENCODER = replace(
    GEMMA3,
    variant=ENCODER,
    config_class=BlendEncoderConfig,
    fields={key: name for key, name in GEMMA3.fields.items() if key != "use_cache"},
    unused=(*GEMMA3.unused, "use_cache"),
    settings=(*SETTINGS, windows(1)),
    heads={name: GEMMA3.heads[name] for name in ("AutoModel", "AutoModelForSequenceClassification")},
)
