"""The flat graph of the ONNX engine, run in torch, gives the outputs of the model, whatever the lengths."""

import numpy as np
import pytest
import torch
from conftest import SIZES, SLIDING, assert_close, every_attention_pair, named, tiny_model
from hypothesis import given
from hypothesis import strategies as st

from seqblend import (
    BlendDecoderForCausalLM,
    BlendDecoderForSequenceClassification,
    BlendDecoderForTokenClassification,
    BlendDecoderModel,
    BlendEncoderDecoderForTokenClassification,
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
)
from seqblend.configuration.recipes import RECIPES
from seqblend.data.errors import InputError
from seqblend.modeling.heads import ForSequenceClassification
from seqblend.serving.flat_graph import FlatGraph, check_model, flat_arrays, whole_rows, window_rows

READERS = [
    BlendEncoderModel,
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderForTokenClassification,
    BlendDecoderModel,
    BlendDecoderForSequenceClassification,
    BlendDecoderForTokenClassification,
]
every_reader = pytest.mark.parametrize("model_class", READERS, ids=named)
LENGTHS = [[5, 3, 9], [1], [0, 7, 0], [100, 1, 70, 33]]
END = 2


def sequences_of(lengths):
    """Tokens, with an end token here and there, and segments: (N) each."""
    generator = np.random.default_rng(0)
    ids = generator.integers(3, 99, sum(lengths))
    ids[::4] = END
    return ids, generator.integers(0, 2, sum(lengths))


def expected_of(model, lengths, ids, types):
    """Each sequence alone, without padding; for an empty one a padded row."""
    found = []
    for row_ids, row_types in zip(*(np.split(each, np.cumsum(lengths)[:-1]) for each in (ids, types)), strict=True):
        inputs = {"input_ids": torch.from_numpy(row_ids)[None], "token_type_ids": torch.from_numpy(row_types)[None]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if not len(row_ids):
            inputs = {name: torch.zeros(1, 1, dtype=torch.long) for name in inputs}
        output = next(iter(model(**inputs).values()))[0]
        found.append(output[None] if isinstance(model, ForSequenceClassification) else output[: len(row_ids)])
    return torch.cat(found)


BIASES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}


@torch.no_grad()
def assert_graph_equals(model):
    check_model(model)
    for lengths in LENGTHS:
        ids, types = sequences_of(lengths)
        is_pooled = isinstance(model, ForSequenceClassification)
        arrays = flat_arrays(model.config, np.array(lengths), is_pooled, ids, types)
        actual = FlatGraph(model, list(arrays))(*map(torch.from_numpy, arrays.values()))
        assert_close(actual, expected_of(model, lengths, ids, types), 1e-9, what=f"{lengths}")


def eager_model(model_class, **options):
    return tiny_model(model_class, "eager", max_position_embeddings=128, eos_token_id=END, **options)


@every_reader
@pytest.mark.parametrize(
    "options",
    [{}, SLIDING, {"type_vocab_size": 2}, {**SLIDING, **BIASES}, {**BIASES, "relative_attention_per_layer": True}],
    ids=["full", "sliding", "types", "biases", "biases per layer"],
)
def test_every_head_that_reads(model_class, options):
    assert_graph_equals(eager_model(model_class, **options))


@pytest.mark.parametrize("model_class", READERS[:4], ids=named)
@pytest.mark.parametrize(
    "options",
    [
        {"embedding_size": 24},
        {"share_layers": True},
        {"affix_buckets": 16},
        {"pooling": "hidden_mean", "classifier_hidden_act": "gelu"},
    ],
    ids=named,
)
def test_options_of_encoders(model_class, options):
    assert_graph_equals(eager_model(model_class, **options))


@every_attention_pair
@pytest.mark.parametrize("model_class", [BlendEncoderForTokenClassification, BlendDecoderModel], ids=named)
def test_every_two_options(model_class, options):
    assert_graph_equals(eager_model(model_class, **options, **SLIDING))


@pytest.mark.parametrize("pooling", ["cls", "mean", "last", "last_non_pad", "eos"])
@pytest.mark.parametrize("model_class", [READERS[2], READERS[5]], ids=named)
def test_every_pooling(model_class, pooling):
    sliding = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 3}
    # A token that also occurs inside texts.
    assert_graph_equals(eager_model(model_class, pooling=pooling, **sliding, pad_token_id=5))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe):
    for model_class in (BlendEncoderForSequenceClassification, BlendDecoderForTokenClassification):
        if model_class.config_class.model_type in RECIPES[recipe]:
            sizes = {**SIZES, "max_position_embeddings": 128, "eos_token_id": END}
            known = {name: size for name, size in sizes.items() if name != "initializer_range"}
            model = model_class(model_class.config_class.from_recipe(recipe, **known)).double().eval()
            model.set_attn_implementation("eager")
            assert_graph_equals(model)


@given(
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=5).filter(any),
    window=st.integers(1, 70),
    is_causal=st.booleans(),
)
def test_windows_in_blocks_see_what_whole_rows_see(lengths, window, is_causal):
    """For each token, the same set of tokens as from the distances, and itself at its place."""
    lengths = np.array(lengths)
    sequence, offset = np.arange(len(lengths)).repeat(lengths), np.concatenate([np.arange(n) for n in lengths])
    distance = offset[:, None] - offset
    reach = window - 1 if is_causal else window
    expected = (sequence[:, None] == sequence) & (distance <= reach) & (distance >= (0 if is_causal else -reach))
    for rows, visible in (
        (window_rows(lengths, window, is_causal), expected),
        (whole_rows(lengths, is_causal), (sequence[:, None] == sequence) & (distance >= 0 if is_causal else True)),
    ):
        row, place = np.divmod(rows.places, rows.queries.shape[1])
        assert (rows.queries[row, place] == np.arange(lengths.sum())).all()
        mask = np.broadcast_to(rows.mask, (*rows.mask.shape[:2], rows.queries.shape[1], rows.mask.shape[3]))
        found = np.zeros((lengths.sum(), lengths.sum()), dtype=int)
        for token in range(lengths.sum()):
            np.add.at(found[token], rows.keys[row[token]][mask[row[token], 0, place[token]]], 1)
        assert (found == visible).all()


@pytest.mark.parametrize(
    ("model_class", "options", "message"),
    [
        (BlendDecoderForCausalLM, {}, "BlendDecoderForCausalLM: engine onnx is for"),
        (
            BlendEncoderDecoderForTokenClassification,
            {},
            "ForTokenClassification: engine onnx is for",
        ),
        (BlendDecoderModel, {"cross_attention_hidden_size": 32}, "cross-attention"),
        (
            BlendEncoderModel,
            {"position_type": "rotary", "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rope_type='dynamic'",
        ),
    ],
)
def test_what_cannot_be_a_graph_is_refused(model_class, options, message):
    with pytest.raises(InputError, match=message):
        check_model(eager_model(model_class, **options))
