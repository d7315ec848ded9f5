"""Recipes: well-known models as named sets of field values, by architecture.

A recipe has only the fields in which its model differs from the defaults. Sizes are those of the published model and
can be overridden. A test compares each recipe with transformers' implementation, up to floating-point error.
"""

from typing import Any

# Common to the models of 2017 to 2020.
CLASSIC: dict[str, Any] = {
    "norm_type": "layernorm",
    "norm_eps": 1e-5,
    "position_type": "learned",
    "feed_forward_type": "plain",
    "hidden_act": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.1,
}

# Devlin et al. 2019 (reference: BertForMaskedLM).
BERT = CLASSIC | {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "norm_position": "post",
    "norm_eps": 1e-12,
    "type_vocab_size": 2,
    "embedding_norm": True,
    "lm_head_bias": True,
}

# Radford et al. 2018 (reference: OpenAIGPTLMHeadModel). Its "gelu" is the tanh approximation, for which torch has one
# kernel.
GPT1 = CLASSIC | {
    "vocab_size": 40478,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 512,
    "norm_position": "post",
    "hidden_act": "gelu_pytorch_tanh",
    "pad_token_id": None,
}

# Radford et al. 2019 (reference: GPT2LMHeadModel): the norms are at the input of each sublayer.
GPT2 = GPT1 | {"vocab_size": 50257, "max_position_embeddings": 1024, "norm_position": "pre"}

# Brown et al. 2020 (reference: GPTNeoForCausalLM): full and local attention alternate. GPT-Neo does not scale the dot
# products and has no bias on queries, keys and values.
GPT3 = GPT2 | {
    "max_position_embeddings": 2048,
    "layer_types": ["full_attention", "sliding_attention"],
    "sliding_window": 256,
    "attention_scaling": 1.0,
    "attention_bias": False,
    "attention_out_bias": True,
}

# Vaswani et al. 2017 (reference: MarianMTModel: sines in the first half of the features, cosines in the second).
TRANSFORMER = CLASSIC | {
    "vocab_size": 37000,
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "max_position_embeddings": 1024,
    "norm_position": "post",
    "position_type": "sinusoidal",
    "hidden_act": "relu",
    "scale_embeddings": True,
    "lm_head_bias": True,
    "attention_dropout": 0.0,
}

# Lewis et al. 2020 (reference: BartForConditionalGeneration).
BART = CLASSIC | {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "max_position_embeddings": 1024,
    "norm_position": "post",
    "embedding_norm": True,
    "lm_head_bias": True,
}

# Raffel et al. 2020, in its version 1.1 (reference: T5ForConditionalGeneration): the feed-forward networks are gated,
# and the head has a matrix of its own.
T5: dict[str, Any] = {
    "vocab_size": 32128,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "position_type": "none",
    "relative_attention_num_buckets": 32,
    "hidden_act": "gelu_new",
    "attention_scaling": 1.0,
    "attention_dropout": 0.1,
}

# Touvron et al. 2023 (reference: LlamaForCausalLM): the defaults, but with an untied head.
LLAMA: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "hidden_dropout": 0.0,
    "tie_word_embeddings": False,
    "pad_token_id": None,
}

# Recipe → model_type → field values; for an encoder-decoder, the field values of each part.
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "blend_encoder": {},
        "blend_decoder": {},
        "blend_encoder_decoder": {"encoder": {}, "decoder": {}},
    },
    "bert": {"blend_encoder": BERT},
    "gpt1": {"blend_decoder": GPT1},
    "gpt2": {"blend_decoder": GPT2},
    "gpt3": {"blend_decoder": GPT3},
    "transformer": {"blend_encoder_decoder": {"encoder": TRANSFORMER, "decoder": TRANSFORMER}},
    "bart": {"blend_encoder_decoder": {"encoder": BART, "decoder": BART}},
    "t5": {"blend_encoder_decoder": {"encoder": T5, "decoder": T5, "tie_lm_head": False}},
    "llama": {"blend_decoder": LLAMA},
}
