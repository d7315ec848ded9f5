"""The specification of CTranslate2 for a model that writes: the same weights under its names.

Its vocabulary is the token ids as texts, so it neither reads nor changes texts.
"""

import math
from typing import Any

import numpy as np
import torch
from ctranslate2.converters.utils import fuse_linear
from ctranslate2.specs import common_spec, model_spec, transformer_spec
from ctranslate2.specs.attention_spec import MultiHeadAttentionSpec, RotaryScalingType
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ..data.errors import InputError
from ..modeling.attention import Attention
from ..modeling.base import Stack
from ..modeling.decoder import BlendDecoderForCausalLM
from ..modeling.encoder_decoder import BlendEncoderDecoderForSeq2SeqLM
from ..modeling.layers import Block
from ..modeling.normalization import ZeroCenteredRMSNorm
from ..modeling.packing import PaddedLayout
from ..modeling.positions import RelativeAttentionBias

Activation = common_spec.Activation
ACTIVATIONS = {
    **{"relu": Activation.RELU, "silu": Activation.SWISH, "swish": Activation.SWISH, "tanh": Activation.Tanh},
    **{"gelu": Activation.GELU, "gelu_python": Activation.GELU, "sigmoid": Activation.Sigmoid},
    **dict.fromkeys(("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh"), Activation.GELUTanh),
    "quick_gelu": Activation.GELUSigmoid,
}
# Its "llama3" is another function than that of transformers.
ROPES = {"default": None, "linear": RotaryScalingType.Linear}
# Sinusoidal and no positions have no limit; CTranslate2 needs a table.
TABLE_LENGTH = 4096


def check_model(model: PreTrainedModel) -> None:
    """Raises InputError for a model that CTranslate2 cannot compute; the message names the options."""
    kind = type(model).__name__
    if not isinstance(model, BlendDecoderForCausalLM | BlendEncoderDecoderForSeq2SeqLM):
        raise InputError(f"{kind}: engine ctranslate2 is for models that write: seq2seq-lm and causal-lm")
    has_encoder = model.config.is_encoder_decoder
    parts = [model.config.encoder, model.config.decoder] if has_encoder else [model.config]
    problems = list(dict.fromkeys(problem for part in parts for problem in problems_of(part)))
    if len({part.norm_eps for part in parts}) > 1:
        problems.append("norm_eps of the encoder other than that of the decoder")
    if has_encoder and any(part.query_key_norm for part in parts):
        problems.append("query_key_norm in an encoder-decoder")
    if not has_encoder and model.config.cross_attention_hidden_size is not None:
        problems.append("cross_attention_hidden_size without an encoder")
    if problems:
        raise InputError(f"{kind}: engine ctranslate2 does not have {', '.join(problems)}")


def problems_of(config: PretrainedConfig) -> list[str]:
    """The options of a stack that CTranslate2 does not have."""
    ropes = list(config.rope_per_layer_type().values()) if config.position_type == "rotary" else []
    unsupported = {
        f"mixer_type={config.mixer_type!r}": config.is_recurrent,
        f"hidden_act={config.hidden_act!r}": config.hidden_act not in ACTIVATIONS,
        "sliding_attention": "sliding_attention" in config.layer_types,
        "first_norm=False": not config.first_norm,
        "embedding_size": config.has_embedding_projection,
        "affix_buckets": getattr(config, "affix_buckets", None) is not None,
        "query_key_norm with layernorm": config.query_key_norm and config.norm_type == "layernorm",
        "norm_position='both'": config.norm_position == "both",
        "RoPE for each layer type": len(ropes) > 1,
        f"relative_attention_num_buckets with position_type={config.position_type!r}": (
            config.relative_attention_num_buckets is not None and config.position_type != "none"
        ),
        "type_vocab_size with rotary positions": bool(config.type_vocab_size) and config.position_type == "rotary",
        **{f"rope_type={rope['rope_type']!r}": rope["rope_type"] not in ROPES for rope in ropes},
    }
    return [option for option, is_unsupported in unsupported.items() if is_unsupported]


def build_spec(model: PreTrainedModel, start: int) -> model_spec.ModelSpec:
    """The specification with the weights of the model.

    Args:
        model: in float32; see `check_model`.
        start: the token with which an encoder-decoder begins to write.
    """
    spec: Any
    if isinstance(model, BlendEncoderDecoderForSeq2SeqLM):
        encoder, decoder = model.model.encoder, model.model.decoder
        spec = transformer_spec.TransformerSpec(encoder_spec(encoder), decoder_spec(decoder, model.lm_head))
        spec.register_source_vocabulary(token_names(encoder))
        spec.register_target_vocabulary(token_names(decoder))
        spec.config.decoder_start_token = str(start)
    else:
        decoder = model.model
        spec = transformer_spec.TransformerDecoderModelSpec(decoder_spec(decoder, model.lm_head))
        spec.register_vocabulary(token_names(decoder))
    spec.config.layer_norm_epsilon = decoder.config.norm_eps
    # CTranslate2 does not read a source of these tokens alone. The end tokens are given with each call.
    for name in ("unk", "bos", "eos"):
        setattr(spec.config, f"{name}_token", str(model.config.pad_token_id or 0))
    return spec


def token_names(stack: Stack) -> list[str]:
    """The names of the tokens of a vocabulary."""
    return [str(index) for index in range(stack.embed_tokens.num_embeddings)]


def stack_options(config: PretrainedConfig) -> dict[str, Any]:
    """The arguments that the specifications of encoder and decoder share."""
    options = {
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "pre_norm": config.norm_position == "pre",
        "activation": ACTIVATIONS[config.hidden_act],
        "layernorm_embedding": config.embedding_norm,
        "ffn_glu": config.feed_forward_type == "gated",
        "rms_norm": config.norm_type != "layernorm",
        "qk_norm": config.query_key_norm,
        "relative_attention_bias": config.relative_attention_num_buckets is not None,
    }
    # As CTranslate2's own converters do, what follows from the other sizes is not given.
    if config.num_key_value_heads != config.num_attention_heads:
        options["num_heads_kv"] = config.num_key_value_heads
    if config.head_dim * config.num_attention_heads != config.hidden_size:
        options["head_dim"] = config.head_dim
    if config.position_type == "rotary":
        (rope,) = config.rope_per_layer_type().values()
        options |= {
            "rotary_dim": 0,
            "rotary_interleave": False,
            "rotary_base": rope["rope_theta"],
            "rotary_scaling_type": ROPES[rope["rope_type"]],
            "rotary_scaling_factor": rope.get("factor", 1.0),
        }
    return options


def encoder_spec(stack: Stack) -> transformer_spec.TransformerEncoderSpec:
    """The specification of an encoder, with its weights."""
    spec = transformer_spec.TransformerEncoderSpec(**stack_options(stack.config))
    fill_stack(spec, spec.embeddings[0], stack)
    return spec


def decoder_spec(stack: Stack, lm_head: nn.Linear) -> transformer_spec.TransformerDecoderSpec:
    """The specification of a decoder, with its weights and the projection onto the vocabulary."""
    has_source = stack.config.cross_attention_hidden_size is not None
    spec = transformer_spec.TransformerDecoderSpec(**stack_options(stack.config), with_encoder_attention=has_source)
    fill_stack(spec, spec.embeddings, stack)
    fill_linear(spec.projection, lm_head)
    if stack.config.scale_logits:
        spec.scale_outputs = stack.config.logit_scaling
    if has_source:
        for layer_spec, layer in zip(spec.layer, stack.layers, strict=True):
            fill_cross_attention(layer_spec.attention, layer)
    return spec


def fill_stack(spec: Any, embeddings: Any, stack: Stack) -> None:
    """Set the weights of a stack, without cross-attention."""
    config = stack.config
    embeddings.weight = copy_of(stack.embed_tokens.weight)
    spec.scale_embeddings = config.scale_embeddings
    if config.position_type != "rotary" and config.relative_attention_num_buckets is None:
        spec.position_encodings.encodings = position_table(stack)
    if config.embedding_norm:
        fill_norm(spec.layernorm_embedding, stack.embedding_norm)
    if config.norm_position == "pre":
        fill_norm(spec.layer_norm, stack.norm)
    # The blocks may be one, run several times.
    for layer_spec, (_, layer) in zip(spec.layer, stack.blocks(), strict=True):
        fill_self_attention(layer_spec.self_attention, layer, stack.relative_attention_bias)
        fill_feed_forward(layer_spec.ffn, layer)


@torch.no_grad()
def position_table(stack: Stack) -> torch.Tensor:
    """The vectors that are added to the token embeddings at each position (positions, E): type 0 has a part in it."""
    config = stack.config
    length = config.max_position_embeddings
    if config.position_type != "learned":
        length = max(length, TABLE_LENGTH)
    layout = PaddedLayout((1, length), None, torch.device("cpu"))
    table = stack.embed_positions(torch.zeros(1, length, config.hidden_size), layout.position_ids())[0]
    return table if stack.embed_token_types is None else table + stack.embed_token_types.weight[0]


def copy_of(weight: torch.Tensor) -> torch.Tensor:
    """A copy, because CTranslate2 quantizes in place."""
    return weight.detach().clone()


def fill_linear(spec: Any, module: nn.Linear) -> None:
    """Set the weights of a linear layer."""
    spec.weight = copy_of(module.weight)
    if module.bias is not None:
        spec.bias = module.bias


def fused(spec: Any, modules: list[nn.Linear]) -> None:
    """Set the weights of several linear layers with the same input."""
    parts = [common_spec.LinearSpec() for _ in modules]
    for part, module in zip(parts, modules, strict=True):
        fill_linear(part, module)
    fuse_linear(spec, parts)


def fill_norm(spec: Any, module: Any) -> None:
    """Set the weights of a norm."""
    spec.gamma = 1 + module.weight.detach() if isinstance(module, ZeroCenteredRMSNorm) else module.weight
    if isinstance(module, nn.LayerNorm):
        spec.beta = torch.zeros_like(module.weight) if module.bias is None else module.bias


def fill_attention(spec: MultiHeadAttentionSpec, attention: Attention, norm: nn.Module) -> None:
    """Set what all kinds of attention have."""
    fill_norm(spec.layer_norm, norm)
    if not math.isclose(attention.scaling, attention.head_dim**-0.5, rel_tol=1e-6):
        spec.queries_scale = attention.scaling
    if attention.config.query_key_norm:
        fill_norm(spec.q_norm, attention.q_norm)
        fill_norm(spec.k_norm, attention.k_norm)


def fill_self_attention(spec: MultiHeadAttentionSpec, layer: Block, shared_bias: RelativeAttentionBias | None) -> None:
    """Set the weights of self-attention: queries, keys and values in one matrix, the output, and biases if any."""
    attention = layer.self_attn
    bias = attention.relative_attention_bias if shared_bias is None else shared_bias
    if bias is not None:
        spec.relative_attention_bias = copy_of(bias.weight)
        spec.relative_attention_max_distance = np.int32(bias.max_distance)
    fill_attention(spec, attention, layer.self_attn_norm)
    fused(spec.linear[0], [attention.q_proj, attention.k_proj, attention.v_proj])
    fill_linear(spec.linear[1], attention.o_proj)


def fill_cross_attention(spec: MultiHeadAttentionSpec, layer: Any) -> None:
    """Set the weights of cross-attention: queries; keys and values in one matrix; the output."""
    attention = layer.cross_attn
    fill_attention(spec, attention, layer.cross_attn_norm)
    fill_linear(spec.linear[0], attention.q_proj)
    fused(spec.linear[1], [attention.k_proj, attention.v_proj])
    fill_linear(spec.linear[2], attention.o_proj)


def fill_feed_forward(spec: Any, layer: Block) -> None:
    """Set the weights of the feed-forward network."""
    fill_norm(spec.layer_norm, layer.mlp_norm)
    mlp: Any = layer.mlp
    if layer.self_attn.config.feed_forward_type == "gated":
        fill_linear(spec.linear_0, mlp.gate_proj)
        fill_linear(spec.linear_0_noact, mlp.up_proj)
    else:
        fill_linear(spec.linear_0, mlp.up_proj)
    fill_linear(spec.linear_1, mlp.down_proj)
