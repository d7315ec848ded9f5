"""T5, mT5 and UMT5: encoder-decoders with biases of attention by distance (Raffel et al. 2020)."""

from dataclasses import replace
from typing import Any

from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from .bart import CLASSIFICATION_HEAD, CLASSIFIER, CLASSIFIER_DROPOUT, for_both_parts
from .table import Architecture, Head, Setting, TensorMap, in_both_parts

FIELDS: dict[str, str | tuple[str, ...]] = {
    "vocab_size": in_both_parts("vocab_size"),
    "d_model": in_both_parts("hidden_size"),
    "d_kv": in_both_parts("head_dim"),
    "d_ff": in_both_parts("intermediate_size"),
    "num_layers": "encoder.num_hidden_layers",
    "num_decoder_layers": "decoder.num_hidden_layers",
    "num_heads": in_both_parts("num_attention_heads"),
    "relative_attention_num_buckets": in_both_parts("relative_attention_num_buckets"),
    "relative_attention_max_distance": in_both_parts("relative_attention_max_distance"),
    "dropout_rate": (*in_both_parts("hidden_dropout"), *in_both_parts("attention_dropout")),
    "layer_norm_epsilon": in_both_parts("norm_eps"),
    **{name: name for name in ("use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")},
}
# The embeddings of encoder and decoder are always one matrix. Reading the weights shows whether the head shares it.
FIXED = (
    for_both_parts(
        norm_type="rmsnorm",
        norm_position="pre",
        position_type="none",
        attention_scaling=1.0,
        type_vocab_size=0,
    )
    | CLASSIFIER
    | {"tie_word_embeddings": True, "share_encoder_decoder_embeddings": True}
)


def read_feed_forward(original: Any) -> dict[str, Any]:
    """The kind of feed-forward network and its activation, which are one key in the original."""
    kind = "gated" if original.is_gated_act else "plain"
    return for_both_parts(feed_forward_type=kind, hidden_act=original.dense_act_fn)


def write_feed_forward(config: Any) -> dict[str, Any]:
    part = config.decoder
    is_gated = part.feed_forward_type == "gated"
    # "gated-gelu" names the tanh approximation.
    name = {"gelu_new": "gelu"}.get(part.hidden_act, part.hidden_act) if is_gated else part.hidden_act
    keys = {"is_gated_act": is_gated, "dense_act_fn": part.hidden_act}
    return {"feed_forward_proj": f"gated-{name}" if is_gated else name, **keys}


FEED_FORWARD = Setting(("feed_forward_proj", "is_gated_act", "dense_act_fn"), read_feed_forward, write_feed_forward)


FEED_FORWARDS = {"wi": "up_proj", "wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}


def blocks(part: str, sublayers: dict[int, tuple[str, str, str]]) -> dict[str, str]:
    """The tensors of the blocks of a part; of each sublayer the original name, ours, and that of the norm."""
    block, layer = f"{part}.block.*", f"{part}.layers.*"
    tensors = {}
    for number, (original, name, norm) in sublayers.items():
        tensors[f"{block}.layer.{number}.layer_norm"] = f"{layer}.{norm}"
        projections = {each: f"{each}_proj" for each in "qkvo"} if original.endswith("Attention") else FEED_FORWARDS
        for projection, ours in projections.items():
            tensors[f"{block}.layer.{number}.{original}.{projection}"] = f"{layer}.{name}.{ours}"
    return tensors


SELF = ("SelfAttention", "self_attn", "self_attn_norm")
CROSS = ("EncDecAttention", "cross_attn", "cross_attn_norm")
DENSE = ("DenseReluDense", "mlp", "mlp_norm")
TENSORS: dict[str, str | TensorMap] = {
    "shared": TensorMap("encoder.embed_tokens", is_alias=True),
    **{f"{part}.embed_tokens": f"{part}.embed_tokens" for part in ("encoder", "decoder")},
    **{f"{part}.final_layer_norm": f"{part}.norm" for part in ("encoder", "decoder")},
    **blocks("encoder", {0: SELF, 1: DENSE}),
    **blocks("decoder", {0: SELF, 1: CROSS, 2: DENSE}),
}
BIAS = "relative_attention_bias"


def t5(model_type: str, prefix: str, **changes: Any) -> Architecture:
    """T5, or a model with the same structure whose class names start with `prefix`."""
    architecture = Architecture(
        model_type=model_type,
        config_class=BlendEncoderDecoderConfig,
        fields=FIELDS | CLASSIFIER_DROPOUT,
        fixed=FIXED,
        required={"is_encoder_decoder": True, "is_decoder": False},
        # transformers sets tie_word_embeddings to True, whatever config.json says.
        unused=("initializer_factor", "tie_word_embeddings"),
        settings=(FEED_FORWARD,),
        tensors=TENSORS
        | {f"{part}.block.0.layer.0.SelfAttention.{BIAS}": f"{part}.{BIAS}" for part in ("encoder", "decoder")},
        heads={
            "AutoModel": Head(f"{prefix}Model"),
            "AutoModelForSeq2SeqLM": Head(f"{prefix}ForConditionalGeneration", {"lm_head": "lm_head"}),
            "AutoModelForSequenceClassification": Head(f"{prefix}ForSequenceClassification", CLASSIFICATION_HEAD),
        },
    )
    return replace(architecture, **changes)


# T5 of 2020 divides its logits by √d_model; T5 v1.1, Flan-T5 and ByT5, whose config.json says that the head is untied,
# do not.
T5 = t5(
    "t5",
    "T5",
    settings=(
        FEED_FORWARD,
        Setting(
            ("scale_decoder_outputs",),
            lambda original: {"decoder.scale_logits": original.scale_decoder_outputs},
            lambda config: {"scale_decoder_outputs": config.decoder.scale_logits},
        ),
    ),
)
# Xue et al. 2021.
MT5 = t5("mt5", "MT5")
# Chung et al. 2023: each layer has its own biases.
UMT5 = t5(
    "umt5",
    "UMT5",
    fixed=FIXED | for_both_parts(relative_attention_per_layer=True),
    settings=(
        FEED_FORWARD,
        # transformers divides the logits, whatever config.json says.
        Setting((), lambda original: {"decoder.scale_logits": original.tie_word_embeddings}),
    ),
    tensors=TENSORS
    | {
        f"{part}.block.*.layer.0.SelfAttention.{BIAS}": f"{part}.layers.*.self_attn.{BIAS}"
        for part in ("encoder", "decoder")
    },
)
