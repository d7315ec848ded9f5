"""EuroBERT: an encoder with the blocks of Llama (Boizard et al. 2025)."""

from typing import Any

from ..configuration.encoder import BlendEncoderConfig
from .llama import FIELDS, LLAMA, ROPE
from .table import Architecture, ConversionError, Head, Setting

# The name of classifier_pooling in the code that came with its checkpoints. transformers does not read it.
OLD_KEY = "clf_pooling"
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
    return dict.fromkeys(("classifier_pooling", OLD_KEY), names[config.pooling])


def check_old_key(original: Any) -> None:
    """Raises ConversionError if the pooling under its old name is not that under the name that transformers reads."""
    pooling = original.classifier_pooling
    old = getattr(original, OLD_KEY, pooling)
    if old != pooling:
        raise ConversionError(
            f"eurobert: {OLD_KEY}={old!r} is not read by transformers, which takes {pooling!r}; write config.json "
            "with the name classifier_pooling"
        )


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
            ("classifier_pooling", OLD_KEY),
            read_pooling,
            write_pooling,
        ),
    ),
    tensors=LLAMA.tensors,
    heads={
        "AutoModel": Head("EuroBertModel"),
        "AutoModelForMaskedLM": Head("EuroBertForMaskedLM", {"lm_head": "lm_head"}),
        "AutoModelForSequenceClassification": Head(
            "EuroBertForSequenceClassification", {"dense": "head.dense", "classifier": "score"}, check=check_old_key
        ),
        "AutoModelForTokenClassification": Head("EuroBertForTokenClassification", {"classifier": "classifier"}),
    },
)
