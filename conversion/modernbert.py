"""ModernBERT: a pre-norm encoder with rotary positions and sliding windows (Warner et al. 2024)."""

from typing import Any

from ..configuration.encoder import BlendEncoderConfig
from .table import Architecture, ConversionError, Head, Setting, Tensors


def read_layers(theirs: Any) -> dict[str, Any]:
    """Types of layers, the window and the rotations of each type."""
    types = set(theirs.layer_types)
    rope = {kind: theirs.rope_parameters[kind] for kind in types}
    return {
        "layer_types": theirs.layer_types,
        "sliding_window": theirs.local_attention // 2 if "sliding_attention" in types else None,
        "rope_parameters": rope if len(types) > 1 else rope[theirs.layer_types[0]],
    }


def write_layers(ours: Any) -> dict[str, Any]:
    rope = (
        ours.rope_parameters if ours.has_rope_per_layer_type else dict.fromkeys(ours.layer_types, ours.rope_parameters)
    )
    window = {} if ours.sliding_window is None else {"local_attention": 2 * ours.sliding_window}
    return {"layer_types": ours.layer_types, "rope_parameters": rope, **window}


def read_head(theirs: Any) -> dict[str, Any]:
    """Of the hidden layer that all heads have."""
    return {
        "classifier_hidden_act": theirs.classifier_activation,
        "classifier_hidden_bias": theirs.classifier_bias,
        "pooling": theirs.classifier_pooling,
    }


def write_head(ours: Any) -> dict[str, Any]:
    if ours.pooling not in ("cls", "mean"):
        raise ConversionError(f"a configuration of modernbert cannot say pooling={ours.pooling!r}")
    return {
        "classifier_activation": ours.classifier_hidden_act,
        "classifier_bias": ours.classifier_hidden_bias,
        "classifier_pooling": ours.pooling,
    }


def same_head(theirs: Any) -> None:
    """A masked language model's hidden layer has the activation and the bias of our blocks."""
    for key, of_blocks in {"classifier_activation": "hidden_activation", "classifier_bias": "mlp_bias"}.items():
        if getattr(theirs, key) != getattr(theirs, of_blocks):
            raise ConversionError(
                f"modernbert: {key}={getattr(theirs, key)!r} must be {of_blocks}={getattr(theirs, of_blocks)!r} for a "
                "masked language model"
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
        "layers.*.attn.Wqkv": Tensors(
            ("layers.*.self_attn.q_proj", "layers.*.self_attn.k_proj", "layers.*.self_attn.v_proj")
        ),
        "layers.*.attn.Wo": "layers.*.self_attn.o_proj",
        "layers.*.mlp_norm": "layers.*.mlp_norm",
        "layers.*.mlp.Wi": Tensors(("layers.*.mlp.gate_proj", "layers.*.mlp.up_proj")),
        "layers.*.mlp.Wo": "layers.*.mlp.down_proj",
        "final_norm": "norm",
    },
    heads={
        "AutoModel": Head("ModernBertModel"),
        "AutoModelForMaskedLM": Head("ModernBertForMaskedLM", {"head": "head", "decoder": "lm_head"}, check=same_head),
        "AutoModelForSequenceClassification": Head(
            "ModernBertForSequenceClassification", {"head": "head", "classifier": "score"}
        ),
        "AutoModelForTokenClassification": Head(
            "ModernBertForTokenClassification", {"head": "head", "classifier": "classifier"}
        ),
    },
)
