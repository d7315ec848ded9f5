"""Weights of transformers' models by our names, so that a model of a recipe can be compared with its original."""

from collections.abc import Collection

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

# What is replaced in their names to make ours, in this order. A joint projection `qkv_proj` is cut into its thirds.
BERT_NAMES = {
    "bert.": "model.",
    "embeddings.word_embeddings": "embed_tokens",
    "embeddings.position_embeddings": "embed_positions",
    "embeddings.token_type_embeddings": "embed_token_types",
    "embeddings.LayerNorm": "embedding_norm",
    "encoder.layer.": "layers.",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "attention.output.LayerNorm": "self_attn_norm",
    "intermediate.dense": "mlp.up_proj",
    "output.dense": "mlp.down_proj",
    "output.LayerNorm": "mlp_norm",
    "cls.predictions.transform.dense": "head.dense",
    "cls.predictions.transform.LayerNorm": "head.norm",
    "cls.predictions.decoder": "lm_head",
}
GPT_NAMES = {
    "tokens_embed": "embed_tokens",
    "wte": "embed_tokens",
    "positions_embed": "embed_positions",
    "wpe": "embed_positions",
    "transformer.h.": "model.layers.",
    "transformer.ln_f": "model.norm",
    "transformer.": "model.",
    "attn.attention.": "attn.",
    "attn.c_attn": "attn.qkv_proj",
    "attn.c_proj": "attn.o_proj",
    "attn.out_proj": "attn.o_proj",
    ".attn.": ".self_attn.",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
    "ln_1": "self_attn_norm",
    "ln_2": "mlp_norm",
}
MARIAN_NAMES = {
    "self_attn_layer_norm": "self_attn_norm",
    "encoder_attn_layer_norm": "cross_attn_norm",
    "encoder_attn.": "cross_attn.",
    "out_proj": "o_proj",
    "fc1": "mlp.up_proj",
    "fc2": "mlp.down_proj",
    "final_layer_norm": "mlp_norm",
    "layernorm_embedding": "embedding_norm",
    "final_logits_bias": "lm_head.bias",
}
LLAMA_NAMES = {"input_layernorm": "self_attn_norm", "post_attention_layernorm": "mlp_norm"}


def our_weights(
    theirs: nn.Module, names: dict[str, str], unused: Collection[str] = (), offset: int = 0
) -> dict[str, torch.Tensor]:
    """Their weights by our names.

    Args:
        theirs: a model of transformers.
        names: what is replaced in their names, in this order.
        unused: tensors of theirs that have no counterpart.
        offset: what their learned positions begin with.
    """
    transposed = {name for name, module in theirs.named_modules() if isinstance(module, Conv1D)}
    weights: dict[str, torch.Tensor] = {}
    for their_name, tensor in theirs.state_dict().items():
        if their_name in unused:
            continue
        name = their_name
        for old, new in names.items():
            name = name.replace(old, new)
        if their_name.rpartition(".")[0] in transposed and tensor.dim() == 2:
            tensor = tensor.mT
        if name == "lm_head.bias":
            tensor = tensor.flatten()
        if "embed_positions" in name:
            tensor = tensor[offset:]
        joint = "qkv_proj" in name
        parts = zip("qkv", tensor.chunk(3), strict=True) if joint else [("", tensor)]
        for part, values in parts:
            our_name = name.replace("qkv_proj", f"{part}_proj")
            assert our_name not in weights, f"{our_name} is set twice"
            weights[our_name] = values
    return weights
