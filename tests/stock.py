"""Small stock models of every architecture that can be converted, and batches for them."""

from pathlib import Path

import torch
import transformers
from torch import nn

from seqblend import BlendEncoderDecoderConfig
from seqblend.conversion.registry import ARCHITECTURES

VOCAB, LABELS, HIDDEN, PAD, END, LANGUAGE = 99, 3, 32, 1, 2, 7
LENGTHS, TARGETS = (7, 4, 5), (5, 6, 3)
OF_BERT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
OF_ROBERTA = OF_BERT | {"type_vocab_size": 1, "layer_norm_eps": 1e-5}
OF_GPT = {
    "vocab_size": VOCAB,
    "n_embd": HIDDEN,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 40,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
OF_LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 40,
    "head_dim": 8,
}
OF_GEMMA3 = OF_LLAMA | {
    "query_pre_attn_scalar": 5,
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 3,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 8.0},
    },
}
OF_BART = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 40,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
# Distances of more than two tokens share a bucket, those of more than four all.
OF_T5 = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "d_kv": 6,
    "d_ff": 48,
    # transformers' cache has no room for more layers in the decoder.
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 5,
    "dropout_rate": 0.0,
}
# Small stock models in which every option that a table reads has an effect.
STOCK = {
    "bert": OF_BERT,
    "roberta": OF_ROBERTA,
    "xlm-roberta": OF_ROBERTA,
    "camembert": OF_ROBERTA,
    "electra": OF_BERT | {"embedding_size": 20},
    "albert": OF_BERT | {"embedding_size": 20, "num_hidden_layers": 3, "classifier_dropout_prob": 0.0},
    "nomic_bert": OF_BERT | {"head_dim": 6},
    "distilbert": {
        "vocab_size": VOCAB,
        "dim": HIDDEN,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 48,
        "max_position_embeddings": 40,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "seq_classif_dropout": 0.0,
    },
    "mpnet": OF_BERT,
    "modernbert": {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 40,
        "local_attention": 4,
        "cls_token_id": 3,
        "sep_token_id": END,
    },
    "eurobert": OF_LLAMA | {"mlp_bias": True},
    "openai-gpt": OF_GPT,
    "gpt2": OF_GPT | {"n_inner": 48},
    "gpt_neo": {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 40,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 3,
        "classifier_dropout": 0.0,
    },
    "opt": {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 48,
        "max_position_embeddings": 40,
        "dropout": 0.0,
    },
    "llama": OF_LLAMA
    | {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 50.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "mistral": OF_LLAMA | {"sliding_window": 3},
    "qwen2": {key: value for key, value in OF_LLAMA.items() if key != "head_dim"}
    | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    "qwen3": OF_LLAMA | {"tie_word_embeddings": True},
    "gemma": OF_LLAMA,
    "gemma3_text": OF_GEMMA3,
    # The window of transformers is half of this and one more: two tokens on each side.
    "gemma3_text_encoder": OF_GEMMA3 | {"use_bidirectional_attention": True, "sliding_window": 4},
    "bart": OF_BART,
    "mbart": OF_BART | {"scale_embedding": True},
    "marian": OF_BART | {"scale_embedding": True, "activation_function": "relu"},
    "pegasus": OF_BART | {"scale_embedding": True, "activation_function": "relu"},
    "m2m_100": OF_BART | {"scale_embedding": True, "activation_function": "relu"},
    "t5": OF_T5,
    "mt5": OF_T5 | {"feed_forward_proj": "gated-gelu"},
    "umt5": OF_T5 | {"feed_forward_proj": "gated-silu"},
}
SPECIAL = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": END}
STARTED = {
    "bart": {"decoder_start_token_id": END},
    "marian": {"decoder_start_token_id": PAD},
    "pegasus": {"decoder_start_token_id": PAD},
    "m2m_100": {"decoder_start_token_id": END},
    **{name: {"decoder_start_token_id": PAD} for name in ("t5", "mt5", "umt5")},
}
# Stock attention makes NaN there for a query of padding; it is compared in float32.
FLOAT32 = {"mistral"}

# Dot products that are not scaled are larger, and with them the rounding errors of stock norms, which are in float32.
UNSCALED = {"t5", "mt5", "umt5"}

ALL = [(name, head) for name, architecture in ARCHITECTURES.items() for head in architecture.heads]


def auto(head: str) -> type:
    return getattr(transformers, head)


def dtype_of(model_type: str) -> torch.dtype:
    return torch.float32 if model_type in FLOAT32 else torch.float64


def stock_model(model_type: str, head: str, dtype: torch.dtype | None = None, **options) -> nn.Module:
    """A stock model in which no tensor is as it was initialized, but for constants."""
    architecture = ARCHITECTURES[model_type]
    labels = {"num_labels": LABELS} if "Classification" in head else {}
    given = STOCK[model_type] | SPECIAL | STARTED.get(model_type, {}) | labels | options
    config = architecture.original_config_class(**given)
    model = architecture.heads[head].stock_class(config).eval()
    spread = 0.15 if model_type in UNSCALED else 0.3
    constants = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name not in constants:
                tensor.normal_(1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0, spread)
    return model.to(dtype or dtype_of(model_type))


def is_encoder_decoder(model_type: str) -> bool:
    return issubclass(ARCHITECTURES[model_type].config_class, BlendEncoderDecoderConfig)


def has_target(model_type: str, head: str) -> bool:
    return is_encoder_decoder(model_type) and "Classification" not in head


def rows(model_type: str, head: str) -> list[dict[str, torch.Tensor]]:
    """Rows of random tokens; those of encoder-decoders end as their tokenizers have it."""
    made = []
    for length, target in zip(LENGTHS, TARGETS, strict=True):
        row = {"input_ids": torch.randint(8, VOCAB, (length,))}
        if is_encoder_decoder(model_type):
            ends = [END, LANGUAGE] if model_type == "mbart" else [END]
            row["input_ids"][-len(ends) :] = torch.tensor(ends)
        if has_target(model_type, head):
            row["decoder_input_ids"] = torch.randint(8, VOCAB, (target,))
        made.append(row)
    return made


def padded(made: list[dict[str, torch.Tensor]], side: str = "right") -> dict[str, torch.Tensor]:
    """A batch with masks, padded by the padding token, which some architectures look for."""
    batch = {}
    for name in made[0]:
        column = [row[name] for row in made]
        width = max(map(len, column)) + 1
        batch[name] = torch.full((len(column), width), PAD)
        mask = torch.zeros_like(batch[name])
        for index, values in enumerate(column):
            where = slice(width - len(values), width) if side == "left" else slice(len(values))
            batch[name][index, where] = values
            mask[index, where] = 1
        batch[name.replace("input_ids", "attention_mask")] = mask
    return batch


def outputs(model: nn.Module, batch: dict[str, torch.Tensor], **asked) -> torch.Tensor:
    """Logits or states of the real tokens (N, …), or of the rows."""
    result = model(**batch, **asked)
    tensor = result.logits if "logits" in result else result.last_hidden_state
    return tensor if tensor.dim() == 2 else tensor[batch.get("decoder_attention_mask", batch["attention_mask"]).bool()]


# Files of a checkpoint that come back byte by byte; and some that are none of ours.
KEPT = {
    "tokenizer.json": b'{"version":  "1.0"}',
    "tokenizer_config.json": b'{"add_prefix_space":true}',
    "special_tokens_map.json": b"{}\n\n",
    "vocab.txt": b"[PAD]\r\n",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tools.jinja": b"{{ tools }}",
    "modules.json": b'[{"path": ""},\n {"path": "1_Pooling"}]',
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "sentence_bert_config.json": b'{"max_seq_length": 256}',
}
LEFT = {"README.md": b"# card", "training_args.bin": b"\x80", "notes.txt": b"mine"}


def write_files(directory: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(content)
