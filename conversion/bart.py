"""BART, mBART, Pegasus, Marian and M2M100: encoder-decoders with biases everywhere."""

from dataclasses import replace
from typing import Any

from ..configuration.encoder_decoder import BlendEncoderDecoderConfig
from .table import Architecture, Head, TensorMap, in_both_parts

FIELDS: dict[str, str | tuple[str, ...]] = {
    "vocab_size": in_both_parts("vocab_size"),
    "d_model": in_both_parts("hidden_size"),
    "max_position_embeddings": in_both_parts("max_position_embeddings"),
    "activation_function": in_both_parts("hidden_act"),
    "dropout": in_both_parts("hidden_dropout"),
    "attention_dropout": in_both_parts("attention_dropout"),
    "scale_embedding": in_both_parts("scale_embeddings"),
    "init_std": in_both_parts("initializer_range"),
    "encoder_layers": "encoder.num_hidden_layers",
    "encoder_ffn_dim": "encoder.intermediate_size",
    "encoder_attention_heads": "encoder.num_attention_heads",
    "decoder_layers": "decoder.num_hidden_layers",
    "decoder_ffn_dim": "decoder.intermediate_size",
    "decoder_attention_heads": "decoder.num_attention_heads",
    **{
        name: name
        for name in (
            *("tie_word_embeddings", "use_cache", "pad_token_id", "bos_token_id", "eos_token_id"),
            "decoder_start_token_id",
        )
    },
}
CLASSIFIER_DROPOUT = {"classifier_dropout": "classifier_dropout"}


def for_both_parts(**values: Any) -> dict[str, Any]:
    """Fields with the same value in the encoder and the decoder."""
    return {name: value for field, value in values.items() for name in in_both_parts(field)}


FIXED = for_both_parts(
    norm_type="layernorm",
    norm_eps=1e-5,
    feed_forward_type="plain",
    attention_bias=True,
    mlp_bias=True,
    lm_head_bias=True,
    type_vocab_size=0,
    freeze_pad_embedding=True,
)
POST = FIXED | for_both_parts(norm_position="post")
PRE = FIXED | for_both_parts(norm_position="pre")
# A classifier's decoder reads the source shifted right; the label is computed from the last </s>.
CLASSIFIER = {"shift_source": True, "pooling": "eos", "classifier_hidden_act": "tanh"}

LAYER_TENSORS = {
    "self_attn": "self_attn",
    "self_attn.out_proj": "self_attn.o_proj",
    "self_attn_layer_norm": "self_attn_norm",
    "encoder_attn": "cross_attn",
    "encoder_attn.out_proj": "cross_attn.o_proj",
    "encoder_attn_layer_norm": "cross_attn_norm",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
    "final_layer_norm": "mlp_norm",
}
TENSORS: dict[str, str | TensorMap] = {
    # The embedding that encoder, decoder and head share. A checkpoint without sharing has no tensor of this name.
    "shared": TensorMap("encoder.embed_tokens", is_alias=True),
    **{f"{part}.embed_tokens": f"{part}.embed_tokens" for part in ("encoder", "decoder")},
    **{f"{part}.layernorm_embedding": f"{part}.embedding_norm" for part in ("encoder", "decoder")},
    **{f"{part}.layer_norm": f"{part}.norm" for part in ("encoder", "decoder")},
    **{
        f"{part}.layers.*.{original}": f"{part}.layers.*.{name}"
        for part in ("encoder", "decoder")
        for original, name in LAYER_TENSORS.items()
    },
}
LEARNED = {
    f"{part}.embed_positions": TensorMap(f"{part}.embed_positions", skipped_rows=lambda original: 2)
    for part in ("encoder", "decoder")
}
LM_HEAD: dict[str, str | TensorMap] = {
    "lm_head": "lm_head",
    "final_logits_bias": TensorMap("lm_head.bias", is_row=True),
}
CLASSIFICATION_HEAD = {"classification_head.dense": "head.dense", "classification_head.out_proj": "score"}
UNUSED = ("activation_dropout", "encoder_layerdrop", "decoder_layerdrop", "forced_eos_token_id")

# Lewis et al. 2020.
BART = Architecture(
    model_type="bart",
    config_class=BlendEncoderDecoderConfig,
    fields=FIELDS | CLASSIFIER_DROPOUT,
    fixed=POST | for_both_parts(position_type="learned", embedding_norm=True) | CLASSIFIER,
    required={"is_encoder_decoder": True, "is_decoder": False},
    unused=UNUSED,
    tensors=TENSORS | LEARNED,
    heads={
        "AutoModel": Head("BartModel"),
        "AutoModelForSeq2SeqLM": Head("BartForConditionalGeneration", LM_HEAD),
        "AutoModelForSequenceClassification": Head("BartForSequenceClassification", CLASSIFICATION_HEAD),
    },
    legacy={"normalize_before": False, "normalize_embedding": True, "add_final_layer_norm": False},
)

# Liu et al. 2020: the last token of a sentence is its language code; the decoder starts with it.
MBART = replace(
    BART,
    model_type="mbart",
    fixed=PRE
    | for_both_parts(position_type="learned", embedding_norm=True)
    | CLASSIFIER
    | {"shift_start": "last_token"},
    heads={
        "AutoModel": Head("MBartModel"),
        "AutoModelForSeq2SeqLM": Head("MBartForConditionalGeneration", LM_HEAD),
        "AutoModelForSequenceClassification": Head("MBartForSequenceClassification", CLASSIFICATION_HEAD),
    },
    legacy={"normalize_before": True, "normalize_embedding": True, "add_final_layer_norm": True},
)

SINUSOIDS = ("encoder.embed_positions", "decoder.embed_positions")

# Zhang et al. 2020.
PEGASUS = Architecture(
    model_type="pegasus",
    config_class=BlendEncoderDecoderConfig,
    fields=FIELDS,
    fixed=PRE | for_both_parts(position_type="sinusoidal"),
    required={"is_encoder_decoder": True, "is_decoder": False},
    unused=UNUSED,
    tensors=TENSORS,
    heads={
        "AutoModel": Head("PegasusModel"),
        "AutoModelForSeq2SeqLM": Head("PegasusForConditionalGeneration", LM_HEAD),
    },
    sinusoids=SINUSOIDS,
    legacy={"normalize_before": True, "normalize_embedding": False, "add_final_layer_norm": True},
)

# Junczys-Dowmunt et al. 2018: Vaswani et al. 2017 in C++, with one vocabulary or two.
MARIAN = replace(
    PEGASUS,
    model_type="marian",
    fields={key: name for key, name in FIELDS.items() if key != "vocab_size"}
    | {
        "vocab_size": "encoder.vocab_size",
        "decoder_vocab_size": "decoder.vocab_size",
        "share_encoder_decoder_embeddings": "share_encoder_decoder_embeddings",
    },
    fixed=POST | for_both_parts(position_type="sinusoidal"),
    heads={"AutoModel": Head("MarianModel"), "AutoModelForSeq2SeqLM": Head("MarianMTModel", LM_HEAD)},
    legacy={"normalize_before": False, "normalize_embedding": False, "add_final_layer_norm": False},
)

# Fan et al. 2021; NLLB (Costa-jussà et al. 2022) has the same classes.
M2M100 = replace(
    PEGASUS,
    model_type="m2m_100",
    fixed=PRE | for_both_parts(position_type="fairseq_sinusoidal", lm_head_bias=False),
    sinusoids=(),
    preserved=SINUSOIDS,
    # Its positions begin at the token after the padding token.
    required={**PEGASUS.required, "pad_token_id": 1},
    heads={
        "AutoModel": Head("M2M100Model"),
        "AutoModelForSeq2SeqLM": Head("M2M100ForConditionalGeneration", {"lm_head": "lm_head"}),
    },
)
