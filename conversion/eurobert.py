"""EuroBERT: an encoder with the blocks of Llama (Boizard et al. 2025)."""

from typing import Any

from ..configuration.encoder import BlendEncoderConfig
from .llama import FIELDS, LLAMA, ROPE
from .table import Architecture, ConversionError, Head, Setting

# What is pooled: hidden states, or, for `late`, the outputs of the hidden layer (stock takes the mean of the logits,
# which is the same).
POOLINGS = {"bos": "cls", "mean": "mean", "late": "hidden_mean"}


def read_pooling(original: Any) -> dict[str, str]:
    pooling = original.classifier_pooling
    if pooling not in POOLINGS:
        raise ConversionError(f"eurobert: classifier_pooling={pooling!r} is not one of {', '.join(POOLINGS)}")
    return {"pooling": POOLINGS[pooling]}


def write_pooling(config: BlendEncoderConfig) -> dict[str, str]:
    names = {name: original for original, name in POOLINGS.items()}
    if config.pooling not in names:
        raise ConversionError(f"a configuration of eurobert cannot express pooling={config.pooling!r}")
    return {"classifier_pooling": names[config.pooling]}


EUROBERT = Architecture(
    model_type="eurobert",
    config_class=BlendEncoderConfig,
    fields={key: name for key, name in FIELDS.items() if key != "use_cache"}
    | {
        "attention_bias": ("attention_bias", "attention_out_bias"),
        "mlp_bias": ("mlp_bias", "lm_head_bias"),
        "mask_token_id": "mask_token_id",
    },
    # The classifiers have no dropout.
    fixed={
        "hidden_dropout": 0.0,
        "classifier_dropout": 0.0,
        "type_vocab_size": 0,
        "lm_head_hidden": False,
        "classifier_hidden_act": "gelu",
    },
    unused=("pretraining_tp", "use_cache"),
    settings=(
        ROPE,
        Setting(
            ("classifier_pooling",),
            read_pooling,
            write_pooling,
        ),
    ),
    tensors=LLAMA.tensors,
    heads={
        "AutoModel": Head("EuroBertModel"),
        "AutoModelForMaskedLM": Head("EuroBertForMaskedLM", {"lm_head": "lm_head"}),
        "AutoModelForSequenceClassification": Head(
            "EuroBertForSequenceClassification", {"dense": "head.dense", "classifier": "score"}
        ),
        "AutoModelForTokenClassification": Head("EuroBertForTokenClassification", {"classifier": "classifier"}),
    },
)
