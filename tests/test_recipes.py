"""Each recipe equals the transformers model it is named after: same weights, same logits."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import assert_close, padded, real_rows
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForMaskedLM
from seqblend.configuration.recipes import RECIPES
from seqblend.conversion.tensors import convert_state_dict

VOCAB, TARGET_VOCAB, POSITIONS, WINDOW = 99, 89, 32, 4
TOLERANCE = 1e-5
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}
INNER = {"intermediate_size": 48}
GROUPED = {"num_key_value_heads": 2}
GPT_SIZES = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2}
MARIAN_SIZES = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "max_position_embeddings": POSITIONS,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    **{
        f"{part}_{name}": size
        for part in ("encoder", "decoder")
        for name, size in {"layers": 2, "attention_heads": 4, "ffn_dim": 48}.items()
    },
}


@dataclass
class Parity:
    """A recipe, and the transformers class it is held to.

    Args:
        unused: tensors of theirs that never reach the logits once weights are untied, or that are constants.
        counts_positions: theirs takes position_ids, so that padding may stand on the left.
        spread: standard deviation of the random weights. Dot products that are not scaled are larger, and with them
            the rounding errors of their norms, which are computed in float32.
    """

    ours: type
    theirs: type
    their_config: Any
    overrides: dict[str, Any] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    counts_positions: bool = True
    spread: float = 0.3


PARITIES = {
    "bert": Parity(
        BlendEncoderForMaskedLM,
        BertForMaskedLM,
        BertConfig(**SIZES, **INNER),
        INNER,
        unused={"cls.predictions.bias"},
    ),
    "gpt1": Parity(BlendDecoderForCausalLM, OpenAIGPTLMHeadModel, OpenAIGPTConfig(**GPT_SIZES)),
    "gpt2": Parity(BlendDecoderForCausalLM, GPT2LMHeadModel, GPT2Config(**GPT_SIZES, **SPECIAL)),
    "gpt3": Parity(
        BlendDecoderForCausalLM,
        GPTNeoForCausalLM,
        GPTNeoConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            max_position_embeddings=POSITIONS,
            attention_types=[[["global", "local"], 1]],
            window_size=WINDOW,
            **INNER,
            **SPECIAL,
        ),
        INNER | {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": WINDOW},
    ),
    "transformer": Parity(
        BlendEncoderDecoderForSeq2SeqLM,
        MarianMTModel,
        MarianConfig(
            **MARIAN_SIZES,
            **SPECIAL,
            decoder_vocab_size=TARGET_VOCAB,
            share_encoder_decoder_embeddings=False,
            activation_function="relu",
            scale_embedding=True,
        ),
        INNER | {"decoder": {"vocab_size": TARGET_VOCAB}},
        unused={"model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"},
        counts_positions=False,
    ),
    "bart": Parity(
        BlendEncoderDecoderForSeq2SeqLM,
        BartForConditionalGeneration,
        BartConfig(**MARIAN_SIZES, **SPECIAL),
        INNER,
        unused={"model.shared.weight"},
        counts_positions=False,
    ),
    "t5": Parity(
        BlendEncoderDecoderForSeq2SeqLM,
        T5ForConditionalGeneration,
        T5Config(
            vocab_size=VOCAB,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=6,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            # This tells version 1.1, and not whether something is tied.
            tie_word_embeddings=False,
        ),
        INNER | {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6},
        unused={"shared.weight"},
        counts_positions=False,
        spread=0.15,
    ),
    "llama": Parity(
        BlendDecoderForCausalLM,
        LlamaForCausalLM,
        LlamaConfig(**SIZES, **INNER, **GROUPED),
        INNER | GROUPED,
    ),
}


def random_theirs(parity: Parity) -> nn.Module:
    """Their model, with no tensor left as it was initialized, but for constants."""
    parity.their_config.tie_word_embeddings = False
    theirs = parity.theirs._from_config(parity.their_config, attn_implementation="eager").eval()
    constants = {name for name, parameter in theirs.named_parameters() if not parameter.requires_grad}
    for name, tensor in theirs.state_dict().items():
        if name not in constants:
            tensor.normal_(1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0, parity.spread)
    return theirs


def build(recipe: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """Ours and theirs, with the same weights; loading is strict, so that each tensor of both has its counterpart."""
    parity = PARITIES[recipe]
    theirs = random_theirs(parity)
    config = parity.ours.config_class.from_recipe(recipe, **SIZES, **parity.overrides, tie_word_embeddings=False)
    ours = parity.ours(config).eval()
    ours.set_attn_implementation("eager")
    ours.load_state_dict(convert_state_dict(theirs), strict=True)
    return ours.to(dtype), theirs.to(dtype)


def inputs(recipe: str, lengths: tuple[int, ...], side: str = "right") -> dict[str, torch.Tensor]:
    rows = [{"input_ids": torch.randint(3, VOCAB, (length,))} for length in lengths]
    if PARITIES[recipe].ours is BlendEncoderDecoderForSeq2SeqLM:
        for row, length in zip(rows, reversed(lengths), strict=True):
            row["decoder_input_ids"] = torch.randint(3, TARGET_VOCAB, (length - 1,))
    if recipe == "bert":
        for row in rows:
            row["token_type_ids"] = torch.randint(2, row["input_ids"].shape)
    batch = padded(rows, side)
    if recipe == "bert":
        batch["token_type_ids"] *= batch["attention_mask"]
    return batch


# On the left in float32 only: in float64 their eager attention makes NaN of a query that sees nothing (Llama).
CASES = [
    (recipe, lengths, side, dtype)
    for recipe, parity in PARITIES.items()
    for lengths, side in [((7, 7), "right"), ((12, 5), "right"), ((12, 5), "left")]
    for dtype in (torch.float32, torch.float64)
    if side == "right" or (parity.counts_positions and dtype is torch.float32)
]


@pytest.mark.parametrize("recipe, lengths, side, dtype", CASES)
@torch.no_grad()
def test_logits_are_equal(recipe, lengths, side, dtype):
    ours, theirs = build(recipe, dtype)
    batch = inputs(recipe, lengths, side)
    counted = {"position_ids": (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)} if side == "left" else {}
    expected = real_rows(batch, theirs(**batch, **counted).logits)
    for path, asked in {"flat": {}, "dense": {"output_hidden_states": True}}.items():
        logits = ours(**batch, use_cache=False, **asked).logits
        assert_close(real_rows(batch, logits), expected, TOLERANCE, what=f"{recipe}, {path}:")


@pytest.mark.parametrize("recipe", PARITIES)
def test_every_tensor_is_used(recipe):
    """What is not copied is what does not reach their logits; and what is copied reaches ours.

    A key's bias adds the same to all scores of a query and so never reaches them.
    """
    ours, theirs = build(recipe, torch.float64)
    batch = inputs(recipe, (12, 5))
    for model in (ours, theirs):
        logits = model(**batch).logits
        (logits * torch.randn_like(logits)).sum().backward()
    reached = {name for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    assert reached.isdisjoint(PARITIES[recipe].unused)
    for name, parameter in ours.named_parameters():
        if not name.endswith("k_proj.bias"):
            assert parameter.grad.abs().max() > 1e-6, name


def test_every_recipe_is_held_to_a_model():
    assert set(PARITIES) == set(RECIPES) - {"default"}
