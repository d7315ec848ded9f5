"""BERT and similar models: post-norm encoders with learned positions (Devlin et al. 2019)."""

from dataclasses import replace
from typing import Any

from ..configuration.encoder import BlendEncoderConfig
from ..configuration.recipes import BERT as RECIPE
from .llama import ROPE
from .table import Architecture, ConversionError, Head, Setting, TensorMap

SIZES = {
    name: name
    for name in (
        *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
        *("type_vocab_size", "initializer_range", "tie_word_embeddings"),
        *("pad_token_id", "bos_token_id", "eos_token_id"),
    )
}
FIELDS = SIZES | {
    "layer_norm_eps": "norm_eps",
    "hidden_dropout_prob": "hidden_dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
# The fields of the recipe that define the type of block, without its sizes.
FIXED = {
    name: RECIPE[name]
    for name in (
        *("norm_type", "norm_position", "position_type", "feed_forward_type", "attention_bias", "mlp_bias"),
        *("embedding_norm", "lm_head_bias"),
    )
}
TENSORS = {
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.token_type_embeddings": "embed_token_types",
    "embeddings.LayerNorm": "embedding_norm",
    "encoder.layer.*.attention.self.query": "layers.*.self_attn.q_proj",
    "encoder.layer.*.attention.self.key": "layers.*.self_attn.k_proj",
    "encoder.layer.*.attention.self.value": "layers.*.self_attn.v_proj",
    "encoder.layer.*.attention.output.dense": "layers.*.self_attn.o_proj",
    "encoder.layer.*.attention.output.LayerNorm": "layers.*.self_attn_norm",
    "encoder.layer.*.intermediate.dense": "layers.*.mlp.up_proj",
    "encoder.layer.*.output.dense": "layers.*.mlp.down_proj",
    "encoder.layer.*.output.LayerNorm": "layers.*.mlp_norm",
}
# Absolute positions only; encoder only.
REQUIRED = {"is_decoder": False, "add_cross_attention": False, "position_embedding_type": "absolute"}
LEGACY = {"position_embedding_type": "absolute"}

CLASSIFIER_DROPOUT = Setting(
    ("classifier_dropout",),
    lambda original: {
        "classifier_dropout": original.hidden_dropout_prob
        if original.classifier_dropout is None
        else original.classifier_dropout
    },
    lambda config: {"classifier_dropout": config.classifier_dropout},
)
MAX_POSITIONS = Setting(
    ("max_position_embeddings",),
    lambda original: {"max_position_embeddings": original.max_position_embeddings},
    lambda config: {"max_position_embeddings": config.max_position_embeddings},
)

BERT = Architecture(
    model_type="bert",
    config_class=BlendEncoderConfig,
    fields=FIELDS,
    fixed=FIXED | {"classifier_hidden_act": "tanh"},
    required=REQUIRED,
    unused=("use_cache",),
    settings=(CLASSIFIER_DROPOUT, MAX_POSITIONS),
    tensors=TENSORS,
    heads={
        "AutoModel": Head("BertModel"),
        "AutoModelForMaskedLM": Head(
            "BertForMaskedLM",
            {
                "cls.predictions.transform.dense": "head.dense",
                "cls.predictions.transform.LayerNorm": "head.norm",
                "cls.predictions.decoder": "lm_head",
                "cls.predictions.bias": TensorMap("lm_head.bias", is_alias=True),
            },
        ),
        "AutoModelForSequenceClassification": Head(
            "BertForSequenceClassification", {"bert.pooler.dense": "head.dense", "classifier": "score"}
        ),
        "AutoModelForTokenClassification": Head("BertForTokenClassification", {"classifier": "classifier"}),
    },
    preserved=("pooler",),
    preserved_heads=("cls.seq_relationship",),
    legacy=LEGACY,
)

# Liu et al. 2019: position ids start at pad_token_id + 1, so the earlier rows of the table are unused.


def first_position(config: Any) -> int:
    """Row of the original position table that belongs to the first token. Raises ConversionError without padding."""
    if config.pad_token_id is None:
        raise ConversionError("pad_token_id is null in config.json, but the table of positions begins behind it")
    return config.pad_token_id + 1


def roberta(model_type: str, prefix: str) -> Architecture:
    """RoBERTa, or a model with the same structure whose class names start with `prefix`."""
    return replace(
        BERT,
        model_type=model_type,
        settings=(
            CLASSIFIER_DROPOUT,
            Setting(
                ("max_position_embeddings",),
                lambda original: {
                    "max_position_embeddings": original.max_position_embeddings - first_position(original)
                },
                lambda config: {"max_position_embeddings": config.max_position_embeddings + first_position(config)},
            ),
        ),
        tensors=TENSORS
        | {"embeddings.position_embeddings": TensorMap("embed_positions", skipped_rows=first_position)},
        heads={
            "AutoModel": Head(f"{prefix}Model"),
            "AutoModelForMaskedLM": Head(
                f"{prefix}ForMaskedLM",
                {
                    "lm_head.dense": "head.dense",
                    "lm_head.layer_norm": "head.norm",
                    "lm_head.decoder": "lm_head",
                    "lm_head.bias": TensorMap("lm_head.bias", is_alias=True),
                },
                # The original head always uses gelu, independent of hidden_act.
                required={"hidden_act": "gelu"},
            ),
            "AutoModelForSequenceClassification": Head(
                f"{prefix}ForSequenceClassification",
                {"classifier.dense": "head.dense", "classifier.out_proj": "score"},
            ),
            "AutoModelForTokenClassification": Head(f"{prefix}ForTokenClassification", {"classifier": "classifier"}),
        },
        preserved_heads=(),
    )


ROBERTA = roberta("roberta", "Roberta")
XLM_ROBERTA = roberta("xlm-roberta", "XLMRoberta")
CAMEMBERT = roberta("camembert", "Camembert")


# Song et al. 2020: T5's biases of attention by distance, in addition to learned positions, and no token types.
MPNET = replace(
    roberta("mpnet", "MPNet"),
    fields={key: name for key, name in FIELDS.items() if key != "type_vocab_size"},
    # The class takes these numbers as fixed, whatever the keys are.
    required=REQUIRED | {"pad_token_id": 1, "relative_attention_num_buckets": 32},
    fixed=FIXED | {"classifier_hidden_act": "tanh", "type_vocab_size": 0, "relative_attention_num_buckets": 32},
    settings=(
        Setting((), lambda original: {"classifier_dropout": original.hidden_dropout_prob}),
        *ROBERTA.settings[1:],
    ),
    unused=(),
    tensors={
        **{key: name for key, name in ROBERTA.tensors.items() if key.startswith("embeddings.")},
        **{f"encoder.layer.*.attention.attn.{each}": f"layers.*.self_attn.{each}_proj" for each in "qkvo"},
        "encoder.layer.*.attention.LayerNorm": "layers.*.self_attn_norm",
        **{
            key: name
            for key, name in TENSORS.items()
            if key.startswith("encoder.layer.*.") and ".attention" not in key
        },
        "encoder.relative_attention_bias": "relative_attention_bias",
    },
    legacy={},
)


# Without a projection, ELECTRA has the key embedding_size with the same value as hidden_size.
EMBEDDING_SIZE = Setting(
    ("embedding_size",),
    lambda original: {
        "embedding_size": None if original.embedding_size == original.hidden_size else original.embedding_size
    },
    lambda config: {"embedding_size": config.embedding_width},
)


# Clark et al. 2020.
ELECTRA = replace(
    BERT,
    model_type="electra",
    tensors=TENSORS | {"embeddings_project": "embedding_proj"},
    fixed=FIXED | {"classifier_hidden_act": "gelu"},
    unused=("use_cache", "summary_type", "summary_use_proj", "summary_activation", "summary_last_dropout"),
    settings=(
        CLASSIFIER_DROPOUT,
        MAX_POSITIONS,
        EMBEDDING_SIZE,
    ),
    heads={
        "AutoModel": Head("ElectraModel"),
        "AutoModelForMaskedLM": Head(
            "ElectraForMaskedLM",
            {
                "generator_predictions.dense": "head.dense",
                "generator_predictions.LayerNorm": "head.norm",
                "generator_lm_head": "lm_head",
            },
            required={"hidden_act": "gelu"},
        ),
        "AutoModelForSequenceClassification": Head(
            "ElectraForSequenceClassification", {"classifier.dense": "head.dense", "classifier.out_proj": "score"}
        ),
        "AutoModelForTokenClassification": Head("ElectraForTokenClassification", {"classifier": "classifier"}),
    },
    preserved=(),
    preserved_heads=("discriminator_predictions",),
)

# Sanh et al. 2019: BERT without token types and pooler.
DISTILBERT = Architecture(
    model_type="distilbert",
    config_class=BlendEncoderConfig,
    fields={
        "vocab_size": "vocab_size",
        "dim": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "hidden_dim": "intermediate_size",
        "activation": "hidden_act",
        "max_position_embeddings": "max_position_embeddings",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
        "tie_word_embeddings": "tie_word_embeddings",
        "pad_token_id": "pad_token_id",
        "bos_token_id": "bos_token_id",
        "eos_token_id": "eos_token_id",
        "seq_classif_dropout": "classifier_dropout",
    },
    fixed=FIXED | {"type_vocab_size": 0, "norm_eps": 1e-12, "classifier_hidden_act": "relu"},
    unused=("sinusoidal_pos_embds", "qa_dropout"),
    tensors={
        "embeddings.word_embeddings": "embed_tokens",
        "embeddings.position_embeddings": "embed_positions",
        "embeddings.LayerNorm": "embedding_norm",
        "transformer.layer.*.attention.q_lin": "layers.*.self_attn.q_proj",
        "transformer.layer.*.attention.k_lin": "layers.*.self_attn.k_proj",
        "transformer.layer.*.attention.v_lin": "layers.*.self_attn.v_proj",
        "transformer.layer.*.attention.out_lin": "layers.*.self_attn.o_proj",
        "transformer.layer.*.sa_layer_norm": "layers.*.self_attn_norm",
        "transformer.layer.*.ffn.lin1": "layers.*.mlp.up_proj",
        "transformer.layer.*.ffn.lin2": "layers.*.mlp.down_proj",
        "transformer.layer.*.output_layer_norm": "layers.*.mlp_norm",
    },
    heads={
        "AutoModel": Head("DistilBertModel"),
        "AutoModelForMaskedLM": Head(
            "DistilBertForMaskedLM",
            {"vocab_transform": "head.dense", "vocab_layer_norm": "head.norm", "vocab_projector": "lm_head"},
        ),
        "AutoModelForSequenceClassification": Head(
            "DistilBertForSequenceClassification", {"pre_classifier": "head.dense", "classifier": "score"}
        ),
        "AutoModelForTokenClassification": Head(
            "DistilBertForTokenClassification",
            {"classifier": "classifier"},
            dropout=lambda original: original.dropout,
        ),
    },
)

# Lan et al. 2020: one layer, run num_hidden_layers times, and smaller embeddings.
ALBERT = replace(
    BERT,
    model_type="albert",
    fields=FIELDS | {"embedding_size": "embedding_size", "classifier_dropout_prob": "classifier_dropout"},
    fixed=FIXED | {"classifier_hidden_act": "tanh", "share_layers": True},
    required=REQUIRED | {"num_hidden_groups": 1, "inner_group_num": 1},
    unused=(),
    settings=(MAX_POSITIONS,),
    tensors={
        **{key: name for key, name in TENSORS.items() if key.startswith("embeddings.")},
        "encoder.embedding_hidden_mapping_in": "embedding_proj",
        **{
            f"encoder.albert_layer_groups.0.albert_layers.0.{original}": f"layers.0.{name}"
            for original, name in {
                **{f"attention.{each}": f"self_attn.{each[0]}_proj" for each in ("query", "key", "value")},
                "attention.dense": "self_attn.o_proj",
                "attention.LayerNorm": "self_attn_norm",
                "ffn": "mlp.up_proj",
                "ffn_output": "mlp.down_proj",
                "full_layer_layer_norm": "mlp_norm",
            }.items()
        },
    },
    heads={
        "AutoModel": Head("AlbertModel"),
        "AutoModelForMaskedLM": Head(
            "AlbertForMaskedLM",
            {
                "predictions.dense": "head.dense",
                "predictions.LayerNorm": "head.norm",
                "predictions.decoder": "lm_head",
                "predictions.bias": TensorMap("lm_head.bias", is_alias=True),
            },
        ),
        "AutoModelForSequenceClassification": Head(
            "AlbertForSequenceClassification", {"albert.pooler": "head.dense", "classifier": "score"}
        ),
        "AutoModelForTokenClassification": Head("AlbertForTokenClassification", {"classifier": "classifier"}),
    },
    preserved=("pooler",),
    preserved_heads=("sop_classifier",),
    legacy={},
)


def check_old_keys(original: Any) -> dict[str, Any]:
    """Raises ConversionError if a size under its old name is not that under the name that transformers reads."""
    sizes = {
        "n_embd": original.hidden_size,
        "n_layer": original.num_hidden_layers,
        "n_head": original.num_attention_heads,
        "n_inner": original.intermediate_size,
        "layer_norm_epsilon": original.layer_norm_eps,
        "rotary_emb_base": original.rope_parameters["rope_theta"],
    }
    for key, value in sizes.items():
        if getattr(original, key, value) != value:
            raise ConversionError(
                f"nomic_bert: {key}={getattr(original, key)!r} is not read by transformers, which takes {value!r}; "
                "write config.json with the names that it reads"
            )
    return {}


# Nussbaum et al. 2024: BERT's post-norm blocks with rotary positions and gated feed-forward networks.
NOMIC_BERT = replace(
    BERT,
    model_type="nomic_bert",
    fields=FIELDS | {"head_dim": "head_dim"},
    fixed={
        "norm_type": "layernorm",
        "norm_position": "post",
        "position_type": "rotary",
        "feed_forward_type": "gated",
        "embedding_norm": True,
        "lm_head_bias": True,
        "lm_head_hidden_bias": True,
        "classifier_hidden_act": "tanh",
    },
    # Keys of the code that came with its checkpoints; transformers does not read them.
    required={
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "prenorm": False,
        "activation_function": "swiglu",
        "causal": False,
        "parallel_block": False,
        "qkv_proj_bias": False,
        "mlp_fc1_bias": False,
        "mlp_fc2_bias": False,
    },
    unused=(),
    settings=(CLASSIFIER_DROPOUT, MAX_POSITIONS, ROPE, Setting((), check_old_keys)),
    tensors={
        **{key: name for key, name in TENSORS.items() if key.startswith("embeddings.") and "position" not in key},
        "layers.*.self_attn": "layers.*.self_attn",
        "layers.*.mlp": "layers.*.mlp",
        "layers.*.post_attention_layernorm": "layers.*.self_attn_norm",
        "layers.*.post_mlp_layernorm": "layers.*.mlp_norm",
    },
    heads={
        "AutoModel": Head("NomicBertModel"),
        "AutoModelForMaskedLM": Head(
            "NomicBertForMaskedLM",
            {
                "cls.predictions.transform.dense": "head.dense",
                "cls.predictions.transform.layer_norm": "head.norm",
                "cls.predictions.decoder": "lm_head",
                "cls.predictions.bias": TensorMap("lm_head.bias", is_alias=True),
            },
        ),
        "AutoModelForSequenceClassification": Head(
            "NomicBertForSequenceClassification", {"nomic_bert.pooler.dense": "head.dense", "classifier": "score"}
        ),
        "AutoModelForTokenClassification": Head("NomicBertForTokenClassification", {"classifier": "classifier"}),
    },
    preserved_heads=(),
    legacy={},
)
