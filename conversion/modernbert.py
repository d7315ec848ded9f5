"""ModernBERT: a pre-norm encoder with rotary positions and sliding windows (Warner et al. 2024)."""

from typing import Any

from ..configuration.encoder import BlendEncoderConfig
from .table import Architecture, ConversionError, Head, Setting, TensorMap


def read_layers(original: Any) -> dict[str, Any]:
    """Layer types, the sliding window, and the RoPE parameters of each layer type."""
    types = set(original.layer_types)
    rope = {kind: original.rope_parameters[kind] for kind in types}
    return {
        "layer_types": original.layer_types,
        "sliding_window": original.local_attention // 2 if "sliding_attention" in types else None,
        "rope_parameters": rope if len(types) > 1 else rope[original.layer_types[0]],
    }


def write_layers(config: Any) -> dict[str, Any]:
    rope = (
        config.rope_parameters
        if config.has_rope_per_layer_type
        else dict.fromkeys(config.layer_types, config.rope_parameters)
    )
    window = {} if config.sliding_window is None else {"local_attention": 2 * config.sliding_window}
    return {"layer_types": config.layer_types, "rope_parameters": rope, **window}


def read_head(original: Any) -> dict[str, Any]:
    """Fields of the hidden layer in the heads."""
    return {
        "classifier_hidden_act": original.classifier_activation,
        "classifier_hidden_bias": original.classifier_bias,
        "pooling": original.classifier_pooling,
    }


def write_head(config: Any) -> dict[str, Any]:
    if config.pooling not in ("cls", "mean"):
        raise ConversionError(f"a configuration of modernbert cannot express pooling={config.pooling!r}")
    return {
        "classifier_activation": config.classifier_hidden_act,
        "classifier_bias": config.classifier_hidden_bias,
        "classifier_pooling": config.pooling,
    }


def check_masked_lm_head(original: Any) -> None:
    """Raises ConversionError unless the head has the activation and the bias of the blocks, as seqblend requires."""
    for key, block_key in {"classifier_activation": "hidden_activation", "classifier_bias": "mlp_bias"}.items():
        if getattr(original, key) != getattr(original, block_key):
            raise ConversionError(
                f"modernbert: {key}={getattr(original, key)!r} must be {block_key}={getattr(original, block_key)!r} "
                "for a masked language model"
            )


MODERNBERT = Architecture(
    model_type="modernbert",
    config_class=BlendEncoderConfig,
    fields={
        **{
            name: name
            for name in (
                *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
                *("max_position_embeddings", "initializer_range", "norm_eps", "norm_bias", "attention_dropout"),
                *("attention_bias", "mlp_bias", "classifier_dropout", "sparse_prediction", "tie_word_embeddings"),
                *("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"),
            )
        },
        "hidden_activation": "hidden_act",
        "mlp_dropout": "hidden_dropout",
        "decoder_bias": "lm_head_bias",
    },
    fixed={
        "norm_type": "layernorm",
        "norm_position": "pre",
        "position_type": "rotary",
        "feed_forward_type": "gated",
        "type_vocab_size": 0,
        "embedding_norm": True,
        "first_norm": False,
        "classifier_hidden_norm": True,
        "token_classifier_hidden": True,
    },
    required={"sparse_pred_ignore_index": -100},
    unused=("embedding_dropout", "initializer_cutoff_factor", "deterministic_flash_attn"),
    settings=(
        Setting(("layer_types", "local_attention", "rope_parameters"), read_layers, write_layers),
        Setting(("classifier_activation", "classifier_bias", "classifier_pooling"), read_head, write_head),
    ),
    tensors={
        "embeddings.tok_embeddings": "embed_tokens",
        "embeddings.norm": "embedding_norm",
        "layers.*.attn_norm": "layers.*.self_attn_norm",
        "layers.*.attn.Wqkv": TensorMap(
            ("layers.*.self_attn.q_proj", "layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj")
        ),
        "layers.*.attn.Wo": "layers.*.self_attn.o_proj",
        "layers.*.mlp_norm": "layers.*.mlp_norm",
        "layers.*.mlp.Wi": TensorMap(("layers.*.mlp.gate_proj", "layers.*.mlp.up_proj")),
        "layers.*.mlp.Wo": "layers.*.mlp.down_proj",
        "final_norm": "norm",
    },
    heads={
        "AutoModel": Head("ModernBertModel"),
        "AutoModelForMaskedLM": Head(
            "ModernBertForMaskedLM", {"head": "head", "decoder": "lm_head"}, check=check_masked_lm_head
        ),
        "AutoModelForSequenceClassification": Head(
            "ModernBertForSequenceClassification", {"head": "head", "classifier": "score"}
        ),
        "AutoModelForTokenClassification": Head(
            "ModernBertForTokenClassification", {"head": "head", "classifier": "classifier"}
        ),
    },
)
