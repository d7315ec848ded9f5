"""Each part alone, and each stack of blocks, equals the mathematics written out in reference.py, in float64."""

import copy
from itertools import product

import pytest
import reference
import torch
from conftest import (
    PAIRWISE,
    RECURRENT,
    SIZES,
    SLIDING,
    assert_close,
    every_kernel,
    every_option,
    fill,
    named,
    tiny_config,
    tiny_model,
)
from torch import nn
from transformers.masking_utils import create_bidirectional_mask

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderModel,
    BlendEncoderConfig,
    BlendEncoderDecoderModel,
    BlendEncoderForMaskedLM,
    BlendEncoderModel,
)
from seqblend.modeling.attention import Attention
from seqblend.modeling.cache import CACHE_NAME
from seqblend.modeling.layers import FEED_FORWARDS, RESIDUALS
from seqblend.modeling.normalization import NORMS
from seqblend.modeling.patterns import PaddedPattern
from seqblend.modeling.positions import POSITIONS, RotaryEmbedding, apply_rotary_pos_emb

HIDDEN, T, S = SIZES["hidden_size"], 5, 7
HEAD_DIM = HIDDEN // SIZES["num_attention_heads"]
POSITION_IDS = torch.tensor([[3, 0, 9, 2, 2]])
MASKS = {"self": BlendEncoderModel.mask_functions, "masked self": BlendDecoderModel.mask_functions}


def states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def weights_of(module: nn.Module, name: str) -> reference.Weights:
    """Brings the module to float64 with no parameter at its default; its weights, as those of a module `name`."""
    fill(module.double().eval(), 0.5)
    return {f"{name}.{key}": value for key, value in module.state_dict().items()}


@pytest.mark.parametrize("eps", [1e-12, 0.1])
@pytest.mark.parametrize("norm_type", NORMS)
def test_norm(norm_type, eps):
    module = NORMS[norm_type](HIDDEN, eps=eps)
    weights, hidden_states = weights_of(module, "norm"), states(T, HIDDEN)
    assert_close(module(hidden_states), reference.norm(hidden_states, weights, "norm", eps, norm_type))


@pytest.mark.parametrize("position_type", POSITIONS)
def test_positions_are_added(position_type):
    module = POSITIONS[position_type](10, HIDDEN)
    weights, embeds = weights_of(module, "positions"), states(2, T, HIDDEN)
    added = {
        "learned": lambda: weights["positions.weight"][POSITION_IDS[0]],
        "sinusoidal": lambda: torch.stack([reference.sinusoids(p, HIDDEN) for p in POSITION_IDS[0].tolist()]),
        "fairseq_sinusoidal": lambda: torch.stack(
            [reference.fairseq_sinusoids(p, HIDDEN) for p in POSITION_IDS[0].tolist()]
        ),
        "rotary": lambda: 0,
        "none": lambda: 0,
    }[position_type]()
    assert_close(module(embeds, POSITION_IDS), embeds + added)


@pytest.mark.parametrize("theta", [10000.0, 50.0])
def test_rotary_frequencies(theta):
    config = tiny_config(BlendEncoderConfig, rope_parameters={"rope_type": "default", "rope_theta": theta})
    expected = torch.tensor(reference.frequencies(HEAD_DIM, theta))
    assert_close(RotaryEmbedding(config).inv_freq, expected, tolerance=torch.finfo(torch.float32).eps)


def test_half_precision_does_not_round_the_angles():
    """A cosine at position 1000 would be off by 0.4."""
    model = tiny_model(BlendDecoderModel).float()
    positions, states = torch.tensor([[1000]]), torch.empty(0)
    expected = model.rotary_emb(states, positions)
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(model).to(dtype)
        assert half.rotary_emb.inv_freq.dtype == torch.float32 and half.dtype == dtype
        assert all(map(torch.equal, half.rotary_emb(states, positions), expected))
    assert copy.deepcopy(model).double().rotary_emb.inv_freq.dtype == torch.float64
    assert copy.deepcopy(model).to("meta").rotary_emb.inv_freq.is_meta


def test_rotary_positions_turn():
    cos, sin = RotaryEmbedding(tiny_config(BlendEncoderConfig)).double()(states(0), POSITION_IDS)
    angles = reference.rounded(reference.frequencies(HEAD_DIM))
    heads = states(1, T, 3, HEAD_DIM)
    expected = [
        reference.rows(lambda head, p=position: reference.rotate(head, p, angles), heads[0, t])
        for t, position in enumerate(POSITION_IDS[0].tolist())
    ]
    assert_close(apply_rotary_pos_emb(heads, cos, sin)[0], torch.stack(expected))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("act", reference.ACTIVATIONS)
@pytest.mark.parametrize("feed_forward_type", FEED_FORWARDS)
def test_feed_forward(feed_forward_type, act, bias):
    module = FEED_FORWARDS[feed_forward_type](hidden_size=HIDDEN, intermediate_size=24, hidden_act=act, bias=bias)
    weights, hidden_states = weights_of(module, "mlp"), states(T, HIDDEN)
    assert_close(module(hidden_states), reference.feed_forward(hidden_states, weights, "mlp", act))


@pytest.mark.parametrize("norm_position", RESIDUALS)
def test_residual(norm_position):
    norm, sublayer, hidden_states = nn.LayerNorm(HIDDEN).double(), nn.Tanh(), states(T, HIDDEN)
    weights = weights_of(norm, "norm")

    def normalize(sequence: torch.Tensor) -> torch.Tensor:
        return reference.norm(sequence, weights, "norm", norm.eps, "layernorm")

    expected = {
        "pre": lambda: hidden_states + normalize(hidden_states).tanh(),
        "post": lambda: normalize(hidden_states + hidden_states.tanh()),
        # The norm of the output is in the sublayer.
        "both": lambda: hidden_states + normalize(hidden_states).tanh(),
    }[norm_position]()
    assert_close(RESIDUALS[norm_position](hidden_states, norm, sublayer, nn.Identity()), expected)


@every_kernel
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
@pytest.mark.parametrize("bias, scaling", [(True, None), (False, 0.9)])
@pytest.mark.parametrize("masked", [None, 2], ids=["all", "but-one"])
@pytest.mark.parametrize("role, window", [*product(MASKS, (None, 2)), ("cross", None)])
def test_attention(role, window, masked, bias, scaling, key_value_heads, attention):
    options = {} if window is None else {"layer_types": ["sliding_attention"] * 2, "sliding_window": window}
    if role == "cross":
        options["cross_attention_hidden_size"] = 24
    config = tiny_config(
        BlendEncoderConfig if role == "self" else BlendDecoderConfig,
        num_key_value_heads=key_value_heads,
        attention_scaling=scaling,
        attention_bias=bias,
        attention_out_bias=not bias,
        **options,
    )
    config._attn_implementation = attention
    module = Attention(config, 0, role)
    weights = weights_of(module, "attn")
    target = states(1, T, HIDDEN)
    source = states(1, S, 24) if role == "cross" else target
    length = source.shape[1]
    real = None if masked is None else torch.arange(length)[None] != masked
    if role == "cross":
        mask = create_bidirectional_mask(config, target, real, encoder_hidden_states=source)
    else:
        mask = MASKS[role][config.layer_types[0]](
            config=config, inputs_embeds=target, attention_mask=real, **{CACHE_NAME: None}
        )
    see = reference.window(role == "masked self", window)
    expected = reference.multi_head(
        target[0],
        source[0],
        weights,
        "attn",
        lambda t, s: see(t, s) and s != masked,
        head_dim=HEAD_DIM,
        scaling=HEAD_DIM**-0.5 if scaling is None else scaling,
    )
    output, _ = module(target, source, pattern=PaddedPattern(mask))
    assert_close(output[0], expected)


def test_prediction_head():
    model = tiny_model(BlendEncoderForMaskedLM, mlp_bias=True, lm_head_bias=True)
    weights, hidden_states = model.state_dict(), states(T, HIDDEN)
    dense = reference.linear(hidden_states, weights, "head.dense").apply_(reference.ACTIVATIONS["silu"])
    expected = reference.norm(dense, weights, "head.norm", model.config.norm_eps, model.config.norm_type)
    assert_close(model.head(hidden_states), expected)


# Whole stacks, of which the second layer slides; no recipe has most of these combinations.
EMBEDDINGS = {"scale_embeddings": True, "type_vocab_size": 2, "embedding_norm": True}


def tokens(length: int) -> torch.Tensor:
    return torch.randint(3, SIZES["vocab_size"], (length,))


@every_option
@pytest.mark.parametrize("model_class, causal", [(BlendEncoderModel, False), (BlendDecoderModel, True)])
def test_stack(model_class, causal, options):
    model = tiny_model(model_class, **options, **SLIDING, **EMBEDDINGS)
    input_ids = tokens(6)
    expected = reference.stack(input_ids, model.state_dict(), model.config, causal)
    assert_close(model(input_ids[None]).last_hidden_state[0], expected)


@pytest.mark.parametrize(
    "options", [*PAIRWISE, *({**options, "cross_attention": False} for options in RECURRENT)], ids=named
)
def test_encoder_decoder(options):
    model = tiny_model(BlendEncoderDecoderModel, **options, num_hidden_layers=1, attention_bias=True)
    source, target = tokens(5), tokens(4)
    states = reference.stack(source, model.encoder.state_dict(), model.encoder.config, causal=False)
    expected = reference.stack(target, model.decoder.state_dict(), model.decoder.config, True, states)
    output = model(input_ids=source[None], decoder_input_ids=target[None])
    assert_close(output.encoder_last_hidden_state[0], states, what="encoder")
    assert_close(output.last_hidden_state[0], expected, what="decoder")
