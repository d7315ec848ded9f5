"""Configurations: round trip, refusal of what cannot be, recipes, parts, and an effect for every option."""

import ast
import functools
import itertools
import json
import re
from dataclasses import fields
from functools import partial
from typing import get_args

import pytest
import torch
from conftest import (
    CONFIGS,
    HEADS,
    SIZES,
    SLIDING,
    VOCAB,
    assert_close,
    draw,
    every_config,
    named,
    padded,
    tiny_config,
    tiny_model,
)
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, PreTrainedConfig

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendDecoderForSequenceClassification,
    BlendDecoderModel,
    BlendEncoderConfig,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderForSequenceClassification,
    BlendEncoderDecoderModel,
    BlendEncoderForMaskedLM,
    BlendEncoderForSequenceClassification,
    BlendEncoderModel,
)
from seqblend.configuration.checks import PROBLEM_TYPES, literal_values
from seqblend.configuration.heads import TagSchemeName
from seqblend.configuration.recipes import RECIPES
from seqblend.modeling.attention import Attention
from seqblend.modeling.cache import CACHE_NAME
from seqblend.modeling.heads import pool
from seqblend.modeling.layers import FEED_FORWARDS, RESIDUALS
from seqblend.modeling.losses import SEQUENCE_LOSSES
from seqblend.modeling.normalization import NORMS
from seqblend.modeling.packing import PaddedLayout
from seqblend.modeling.positions import POSITIONS
from seqblend.modeling.recurrence import KERNELS
from seqblend.scoring.tags import SCHEMES

OF_CLASS = {config_class.model_type: config_class for config_class in CONFIGS.values()}
EVERY_RECIPE = [(OF_CLASS[kind], recipe) for recipe, kinds in RECIPES.items() for kind in kinds]
every_recipe = pytest.mark.parametrize("config_class, recipe", EVERY_RECIPE, ids=named)


def literal(config_class: type, name: str) -> list[str]:
    return literal_values(config_class.__dataclass_fields__[name].type)[0]


@every_recipe
def test_round_trip(config_class, recipe, tmp_path):
    config = config_class.from_recipe(recipe, num_labels=3, label_smoothing=0.25, problem_type="regression")
    config.save_pretrained(tmp_path)
    for loaded in (config_class.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is config_class
        assert {**loaded.to_dict(), "_name_or_path": ""} == {**config.to_dict(), "_name_or_path": ""}


@every_recipe
def test_saved_config_is_complete(config_class, recipe, tmp_path):
    """What was None because it follows from other fields is written out."""
    config_class.from_recipe(recipe).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    for part in (saved["encoder"], saved["decoder"]) if "encoder" in saved else (saved,):
        for name in ("num_key_value_heads", "head_dim", "intermediate_size", "attention_scaling", "layer_types"):
            assert part[name] is not None, name


TABLES = {
    "norm_type": NORMS,
    "norm_position": RESIDUALS,
    "position_type": POSITIONS,
    "feed_forward_type": FEED_FORWARDS,
    "mixer_type": {"attention": Attention, **KERNELS},
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_have_the_literals_values(name):
    for config_class in (BlendEncoderConfig, BlendDecoderConfig):
        assert set(TABLES[name]) == set(literal(config_class, name))


def test_problem_types_are_those_of_the_losses():
    assert set(PROBLEM_TYPES) == set(SEQUENCE_LOSSES)
    for config_class in CONFIGS.values():
        for problem_type in PROBLEM_TYPES:
            assert config_class(problem_type=problem_type).problem_type == problem_type


@every_config
def test_poolings_are_those_of_the_literal(config_class):
    states = torch.randn(2, 4, 8)
    layout = PaddedLayout((2, 4), None, states.device)
    is_end = torch.zeros(2, 4, dtype=torch.bool)
    pooled = [pool(states, layout, pooling, nn.Tanh(), is_end) for pooling in literal(config_class, "pooling")]
    assert len(pooled) == 6 and all(vectors.shape == (2, 8) for vectors in pooled)
    with pytest.raises(KeyError):
        pool(states, layout, "max", nn.Tanh())


def test_layer_types_are_those_of_the_mask_functions():
    kinds = get_args(BlendEncoderConfig.__dataclass_fields__["layer_types"].type)[0]
    for model_class in (BlendEncoderModel, BlendDecoderModel):
        assert set(model_class.mask_functions) == set(literal_values(get_args(kinds)[0])[0])


# Wrong values, and what the message must say: field, value, and what is valid.
SLIDE = "sliding_attention"
OF_STACKS = [
    ({"vocab_size": 0}, ["above 0"]),
    ({"hidden_size": -32}, ["above 0"]),
    ({"hidden_size": "wide"}, ["int"]),
    ({"hidden_size": 32.5}, ["int"]),
    ({"num_hidden_layers": 0}, ["above 0"]),
    ({"num_attention_heads": 0}, ["above 0"]),
    ({"num_attention_heads": 5}, ["hidden_size=32", "multiple"]),
    ({"num_key_value_heads": 0}, ["above 0"]),
    ({"num_key_value_heads": 3}, ["num_attention_heads=4", "divide"]),
    ({"num_key_value_heads": 8}, ["num_attention_heads=4", "divide"]),
    ({"head_dim": 0}, ["above 0"]),
    ({"head_dim": 7}, ["even", "rotary"]),
    ({"intermediate_size": 0}, ["above 0"]),
    ({"max_position_embeddings": 0}, ["above 0"]),
    ({"norm_type": "batchnorm"}, ["layernorm", "rmsnorm", "zero_centered_rmsnorm"]),
    ({"norm_position": "middle"}, ["pre", "post", "both"]),
    ({"norm_eps": 0}, ["above 0"]),
    ({"position_type": "alibi"}, ["learned", "sinusoidal", "rotary", "none"]),
    ({"hidden_size": 33, "num_attention_heads": 3, "num_key_value_heads": 3, "position_type": "sinusoidal"}, ["even"]),
    ({"rope_parameters": {"rope_type": "lineer"}}, ["linear", "default"]),
    ({"rope_parameters": {"rope_type": "linear"}}, ["factor"]),
    ({"rope_parameters": {"rope_type": "default", "rope_thet": 5.0}}, ["nearest first: rope_theta, ", "factor"]),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": -1.0}}, ["rope_theta", "above 0"]),
    ({"rope_parameters": {"rope_type": "default", "rope_theta": "far"}}, ["rope_theta", "above 0"]),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, ["proportional"]),
    ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "partial_rotary_factor": 0.5}}, ["proportional"]),
    ({"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}, ["nearest first: ", "rope_theta"]),
    ({"rope_parameters": {"full_attention": {"rope_thet": 5.0}}}, ["nearest first: rope_theta, ", "factor"]),
    ({"rope_parameters": {SLIDE: {"rope_type": "default"}}}, ["one entry for each", "full_attention"]),
    ({"rope_parameters": {"full_attention": {}, SLIDE: {}}}, ["one entry for each", "full_attention"]),
    ({"norm_bias": False}, ["no effect", "rmsnorm"]),
    ({"first_norm": False, "norm_position": "post"}, ["norm_position='pre' or 'both'"]),
    ({"query_key_norm": "yes"}, ["bool"]),
    ({"rope_parameters": {"rope_type": "default"}, "position_type": "none"}, ["position_type", "rotary"]),
    ({"feed_forward_type": "moe"}, ["plain", "gated"]),
    ({"hidden_act": "geluu"}, ["gelu", "silu"]),
    ({"attention_scaling": 0}, ["above 0"]),
    ({"layer_types": ["local", "local"]}, ["full_attention", SLIDE]),
    ({"layer_types": ["full_attention"]}, ["num_hidden_layers", "2", "1"]),
    ({"layer_types": [SLIDE, SLIDE]}, ["sliding_window is None"]),
    ({"sliding_window": 4}, [SLIDE, "layer_types"]),
    ({"sliding_window": 0, "layer_types": [SLIDE, SLIDE]}, ["above 0"]),
    ({"attention_bias": None}, ["bool"]),
    ({"type_vocab_size": -1}, ["0 or above"]),
    ({"tie_word_embeddings": "yes"}, ["bool"]),
    ({"attention_dropout": 1.0}, ["[0, 1)"]),
    ({"hidden_dropout": -0.1}, ["[0, 1)"]),
    ({"initializer_range": 0}, ["above 0"]),
]
OF_MODELS = [
    ({"classifier_dropout": 1.5}, ["[0, 1)"]),
    ({"pooling": "max"}, ["cls", "mean", "last", "eos"]),
    ({"pooling": "eos", "eos_token_id": None}, ["eos_token_id"]),
    ({"classifier_hidden_act": "geluu"}, ["gelu", "silu"]),
    ({"classifier_hidden_bias": False}, ["no effect", "classifier_hidden_act is None"]),
    ({"classifier_hidden_norm": True}, ["no effect", "classifier_hidden_act is None"]),
    ({"token_classifier_hidden": True}, ["no effect", "classifier_hidden_act is None"]),
    ({"score_bias": 1}, ["bool"]),
    ({"class_weights": [1.0, 2.0]}, ["2", "num_labels=3"]),
    ({"class_weights": [1.0, 2.0, -1.0]}, ["above 0"]),
    ({"class_weights": [1.0, 2.0, 3.0], "problem_type": "regression"}, ["regression"]),
    ({"label_smoothing": 1}, ["[0, 1)"]),
    ({"label_smoothing": "much"}, ["float"]),
    ({"problem_type": "ranking"}, PROBLEM_TYPES),
    ({"problem_type": 3}, PROBLEM_TYPES),
    ({"num_labels": 0}, ["num_labels=0", "above 0"]),
    ({"num_labels": None}, ["whole number"]),
    ({"num_labels": 2.5}, ["whole number"]),
    ({"pad_token_id": "[PAD]"}, ["int"]),
]
OF_ONE = [
    (BlendEncoderConfig, {"sparse_prediction": "x"}, ["bool"]),
    (BlendDecoderConfig, {"use_cache": "x"}, ["bool"]),
    (BlendDecoderConfig, {"cross_attention_hidden_size": 0}, ["above 0"]),
    (BlendEncoderDecoderConfig, {"encoder": {"vocab_size": 7}}, ["share_encoder_decoder_embeddings", "99"]),
    (BlendEncoderDecoderConfig, {"decoder": {"cross_attention_hidden_size": 5}}, ["encoder.hidden_size=32"]),
    (BlendEncoderDecoderConfig, {"share_encoder_decoder_embeddings": "x"}, ["bool"]),
    (BlendEncoderDecoderConfig, {"decoder_start_token_id": "x"}, ["int"]),
    (BlendEncoderDecoderConfig, {"shift_start": "first"}, ["start_token", "last_token"]),
    (BlendEncoderDecoderConfig, {"shift_source": "x"}, ["bool"]),
    (BlendEncoderConfig, {"freeze_pad_embedding": True, "pad_token_id": None}, ["pad_token_id"]),
]
WRONG = [(config_class, *case) for config_class in CONFIGS.values() for case in OF_STACKS + OF_MODELS] + OF_ONE


def assert_refused(build, field: str, value: object, valid: list[str]) -> None:
    """Raises what a user may expect; it names the field (or a key in it), the value if it is short, what is valid."""
    with pytest.raises((ValueError, StrictDataclassError)) as caught:
        build()
    text = str(caught.value)
    assert any(name in text for name in (field, *(value if isinstance(value, dict) else ()))), text
    for part in valid if isinstance(value, list | dict) else [str(value), *valid]:
        assert part in text, f"{part!r} is not in: {text}"


@pytest.mark.parametrize("config_class, wrong, valid", WRONG, ids=named)
def test_wrong_values_are_refused(config_class, wrong, valid):
    assert_refused(lambda: tiny_config(config_class, **wrong), *next(iter(wrong.items())), valid)


@pytest.mark.parametrize("part, other", [("encoder", BlendDecoderConfig), ("decoder", BlendEncoderConfig)])
def test_part_of_the_wrong_kind_is_refused(part, other):
    for value in (other(), {"model_type": other.model_type}):
        build = partial(BlendEncoderDecoderConfig, **{part: value})
        assert_refused(build, part, other.model_type, [f"blend_{part}"])


def test_part_that_is_no_config_is_refused():
    assert_refused(lambda: BlendEncoderDecoderConfig(encoder=3), "encoder", 3, ["dict"])


@pytest.mark.parametrize("part", [3, BlendEncoderConfig()], ids=["number", "config"])
def test_changes_to_a_part_are_a_dict(part):
    with pytest.raises(ValueError, match=f"encoder must be a dict.*got {type(part).__name__}"):
        BlendEncoderDecoderConfig.from_recipe(encoder=part)


@pytest.mark.parametrize("field, value", [("hidden_size", 0), ("norm_type", "x"), ("label_smoothing", 2.0)])
def test_wrong_values_are_refused_when_set(field, value):
    config = tiny_config(BlendEncoderConfig)
    assert_refused(lambda: setattr(config, field, value), field, value, [])


@pytest.mark.parametrize(
    "config_class, name, nearest",
    [
        (BlendEncoderConfig, "brt", "bert"),
        (BlendDecoderConfig, "lama", "llama"),
        (BlendDecoderConfig, "gpt-2", "gpt2"),
        (BlendDecoderConfig, None, "default"),
        (BlendEncoderDecoderConfig, "transformers", "transformer"),
        (BlendEncoderDecoderConfig, "bert", "bart"),
    ],
)
def test_unknown_recipe_lists_the_valid_ones(config_class, name, nearest):
    with pytest.raises(ValueError, match=rf"{name}.*nearest first: {nearest}, ") as caught:
        config_class.from_recipe(name)
    listed = str(caught.value).partition("nearest first: ")[2].split(", ")
    assert set(listed) == {recipe for recipe, kinds in RECIPES.items() if config_class.model_type in kinds}


@every_config
def test_unknown_override_lists_the_valid_ones(config_class):
    with pytest.raises(ValueError, match=r"hiden_size.*nearest first: hidden_size, ") as caught:
        config_class.from_recipe(hiden_size=64)
    listed = str(caught.value).partition("nearest first: ")[2].split(", ")
    assert {"hidden_size", "norm_type", "pooling", "num_labels"} <= set(listed)
    assert len(listed) == len(set(listed))


@every_config
def test_an_unknown_argument_is_refused_and_what_transformers_passes_is_not(config_class, tmp_path):
    with pytest.raises(ValueError, match=r"hiden_size.*nearest first: hidden_size, "):
        config_class(hiden_size=64)
    passed = {"dtype": "float32", "torch_dtype": "float32", "attn_implementation": "eager", "output_attentions": True}
    passed |= {"name_or_path": "here", "_name_or_path": "here", "architectures": ["A"], "auto_map": {}, "num_beams": 2}
    config = config_class(**passed, num_labels=3, transformers_version="5.16.0", max_length=20)
    assert config.num_labels == 3
    # What was saved keeps fields that are not known, wherever it is read.
    saved = {**config.to_dict(), "of_later": 1}
    for part in set(saved) & {"encoder", "decoder"}:
        saved[part] = {**saved[part], "of_later": 2}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    for again in (config_class(**saved), config_class.from_dict(saved), config_class.from_pretrained(tmp_path)):
        assert again.of_later == 1


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_an_unknown_argument_of_a_part_is_refused(part):
    with pytest.raises(ValueError, match=r"hiden_size.*nearest first: hidden_size, "):
        BlendEncoderDecoderConfig(**{part: {"hiden_size": 64}})


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_unknown_override_of_a_part_lists_the_valid_ones(part):
    with pytest.raises(ValueError, match=r"hiden_size.*nearest first: hidden_size, "):
        BlendEncoderDecoderConfig.from_recipe(**{part: {"hiden_size": 64}})


@every_recipe
def test_sizes_of_a_recipe_may_be_overridden(config_class, recipe):
    config = config_class.from_recipe(recipe, num_hidden_layers=3, hidden_size=64, num_attention_heads=4)
    for stack in (config.encoder, config.decoder) if config.is_encoder_decoder else (config,):
        assert (stack.num_hidden_layers, stack.hidden_size, stack.head_dim, len(stack.layer_types)) == (3, 64, 16, 3)
        settings = RECIPES[recipe][config_class.model_type]
        for name, value in (settings["encoder"] if config.is_encoder_decoder else settings).items():
            if name not in ("num_hidden_layers", "hidden_size", "num_attention_heads", "layer_types"):
                assert getattr(stack, name) == value, name


def test_heads_need_not_divide_the_hidden_size():
    """A width of heads that is given was refused where it is what division gives, but for the rest."""
    config = tiny_config(BlendEncoderConfig, hidden_size=33, head_dim=8)
    assert BlendEncoderModel(config)(torch.ones(1, 2, dtype=torch.long)).last_hidden_state.shape == (1, 2, 33)


@pytest.mark.parametrize("number", [None, "3", 2.5, -1, True])
@pytest.mark.parametrize("recipe", ["default", "gpt3"])
def test_number_of_a_recipes_layers(recipe, number):
    """Also where the recipe has a pattern of layers, which for None went on for ever."""
    assert_refused(
        lambda: BlendDecoderConfig.from_recipe(recipe, num_hidden_layers=number), "num_hidden_layers", number, []
    )


def test_a_recipe_without_its_sliding_layers_has_no_window():
    for overrides in ({"num_hidden_layers": 1}, {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}):
        assert BlendDecoderConfig.from_recipe("gpt3", **overrides).sliding_window is None
        with pytest.raises((ValueError, StrictDataclassError), match="sliding_window=8 has no effect"):
            BlendDecoderConfig.from_recipe("gpt3", sliding_window=8, **overrides)
    assert BlendDecoderConfig.from_recipe("gpt3", num_hidden_layers=2, sliding_window=8).sliding_window == 8


@every_config
def test_own_fields_are_those_of_this_package(config_class):
    """What transformers' base class declares, and we do not, is not among them."""
    own = config_class.own_fields()
    assert {"pooling", "label_smoothing", "tie_word_embeddings"} <= own < config_class.options()
    assert own.isdisjoint(set(PreTrainedConfig.__dataclass_fields__) - {"tie_word_embeddings", "is_encoder_decoder"})
    assert {f.name for f in fields(config_class)} - own <= set(PreTrainedConfig.__dataclass_fields__)


# Parts of an encoder-decoder.


def test_parts_may_be_configs_dicts_or_missing():
    encoder = BlendEncoderConfig(**SIZES)
    decoder = {"cross_attention_hidden_size": None, **SIZES}
    config = BlendEncoderDecoderConfig(encoder=encoder, decoder=decoder)
    assert config.encoder.to_dict() == encoder.to_dict()
    assert config.decoder.num_key_value_heads == SIZES["num_key_value_heads"]
    assert config.decoder.cross_attention_hidden_size == SIZES["hidden_size"]
    assert BlendEncoderDecoderConfig().encoder.to_dict() == BlendEncoderConfig().to_dict()


def test_sizes_of_the_whole_are_those_of_its_parts(tmp_path):
    """to_dict() has them, as peft looks for them there; a saved config has them in its parts alone."""
    config = tiny_config(BlendEncoderDecoderConfig)
    sizes = {name: getattr(config, name) for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    sizes |= {name: getattr(config.decoder, name) for name in ("num_key_value_heads", "head_dim")}
    assert config.to_dict().items() >= sizes.items()
    assert BlendEncoderDecoderConfig(**config.to_dict()).to_dict() == config.to_dict()
    config.save_pretrained(tmp_path)
    assert not sizes.keys() & json.loads((tmp_path / "config.json").read_text()).keys()
    with pytest.raises(ValueError, match=f"hidden_size must be that of the parts, {config.hidden_size}"):
        BlendEncoderDecoderConfig(**{**config.to_dict(), "hidden_size": 3})


def test_given_parts_are_left_as_they_were():
    """The decoder's config may be that of a model which goes on without an encoder."""
    parts = {"encoder": BlendEncoderConfig(**SIZES), "decoder": BlendDecoderConfig(**SIZES)}
    before = {name: part.to_dict() for name, part in parts.items()}
    BlendEncoderDecoderConfig(**parts)
    assert {name: part.to_dict() for name, part in parts.items()} == before


def test_two_vocabularies():
    config = tiny_config(
        BlendEncoderDecoderConfig,
        encoder={"vocab_size": 50},
        decoder={"vocab_size": 70},
        share_encoder_decoder_embeddings=False,
    )
    assert config.vocab_size == 70
    model = BlendEncoderDecoderForSeq2SeqLM(config)
    assert model.model.encoder.embed_tokens.num_embeddings == 50
    assert model.model.decoder.embed_tokens.num_embeddings == 70
    assert model.lm_head.weight is model.model.decoder.embed_tokens.weight


def test_overrides_are_routed():
    """A field of the whole to the whole; a field of the parts to each that has it; a dict to its part alone."""
    config = tiny_config(
        BlendEncoderDecoderConfig,
        pooling="mean",
        norm_type="layernorm",
        sparse_prediction=False,
        encoder={"num_hidden_layers": 3, "norm_type": "rmsnorm"},
        decoder={"attention_bias": True},
    )
    assert (config.pooling, config.encoder.pooling, config.decoder.pooling) == ("mean", "cls", "last")
    assert (config.encoder.norm_type, config.decoder.norm_type) == ("rmsnorm", "layernorm")
    assert (config.encoder.num_hidden_layers, config.decoder.num_hidden_layers) == (3, 2)
    assert (config.encoder.attention_bias, config.decoder.attention_bias) == (False, True)
    assert config.encoder.sparse_prediction is False
    assert not hasattr(config.decoder, "sparse_prediction")


def test_saved_parts_tell_nothing_of_where_they_came_from(tmp_path):
    for name, model_class in {"encoder": BlendEncoderModel, "decoder": BlendDecoderModel}.items():
        tiny_model(model_class).save_pretrained(tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "modeling.Model"}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    parts = {part: AutoConfig.from_pretrained(tmp_path / part) for part in ("encoder", "decoder")}
    assert all(part._name_or_path for part in parts.values()), "nothing there to be removed"
    BlendEncoderDecoderConfig(**parts).save_pretrained(tmp_path / "whole")
    text = (tmp_path / "whole" / "config.json").read_text()
    saved = json.loads(text)
    assert str(tmp_path) not in text
    for part in ("encoder", "decoder"):
        assert saved[part].keys().isdisjoint({"_name_or_path", "auto_map", "architectures"})
        assert saved[part]["model_type"] == f"blend_{part}"


# Every option has an effect: the field, what else both models have, and the value that differs from the default.

EFFECTS = [
    ("hidden_size", {}, 64),
    ("num_hidden_layers", {}, 3),
    ("num_attention_heads", {"head_dim": 8}, 8),
    ("num_key_value_heads", {}, 4),
    ("head_dim", {}, 16),
    ("intermediate_size", {}, 64),
    ("norm_type", {}, "layernorm"),
    ("norm_type", {}, "zero_centered_rmsnorm"),
    ("norm_position", {}, "post"),
    ("norm_position", {}, "both"),
    ("norm_eps", {}, 0.5),
    ("position_type", {}, "learned"),
    ("position_type", {}, "sinusoidal"),
    ("position_type", {}, "fairseq_sinusoidal"),
    ("position_type", {}, "none"),
    ("relative_attention_num_buckets", {}, 8),
    ("relative_attention_max_distance", {"relative_attention_num_buckets": 8}, 5),
    ("relative_attention_per_layer", {"relative_attention_num_buckets": 8}, True),
    ("rope_parameters", {}, {"rope_type": "default", "rope_theta": 100.0}),
    ("rope_parameters", {}, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}),
    (
        "rope_parameters",
        SLIDING,
        {"full_attention": {"rope_theta": 100.0}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}},
    ),
    ("feed_forward_type", {}, "plain"),
    ("hidden_act", {}, "relu"),
    ("attention_scaling", {}, 0.9),
    ("layer_types", SLIDING, ["sliding_attention", "full_attention"]),
    ("sliding_window", SLIDING, 2),
    ("attention_bias", {"attention_out_bias": False}, True),
    ("attention_out_bias", {}, True),
    ("mlp_bias", {}, True),
    ("norm_bias", {"norm_type": "layernorm"}, False),
    ("first_norm", {}, False),
    ("query_key_norm", {}, True),
    ("embedding_norm", {}, True),
    ("type_vocab_size", {}, 2),
    ("scale_embeddings", {}, True),
]
E, D, WHOLE = BlendEncoderConfig, BlendDecoderConfig, BlendEncoderDecoderConfig
LM = {E: BlendEncoderForMaskedLM, D: BlendDecoderForCausalLM, WHOLE: BlendEncoderDecoderForSeq2SeqLM}
CLASSIFIER = {
    E: BlendEncoderForSequenceClassification,
    D: BlendDecoderForSequenceClassification,
    WHOLE: BlendEncoderDecoderForSequenceClassification,
}
# Fields whose effect is not on the logits of a language model; each is the name of a test here, or its reason.
ELSEWHERE = {
    "vocab_size": "test_two_vocabularies",
    "mixer_type": "test_mixers",
    "recurrent_size": "test_mixers",
    "cross_attention": "test_source_without_cross_attention",
    "max_position_embeddings": "test_max_position_embeddings",
    "lm_head_bias": "test_head_options",
    "scale_logits": "test_head_options",
    "tie_lm_head": "test_head_options",
    "lm_head_hidden": "test_options_of_encoders",
    "lm_head_hidden_bias": "test_options_of_encoders",
    "embedding_size": "test_options_of_encoders",
    "share_layers": "test_options_of_encoders",
    "affix_buckets": "test_options_of_encoders",
    "tie_word_embeddings": "test_head_options",
    "share_encoder_decoder_embeddings": "test_head_options",
    "initializer_range": "test_initializer_range",
    "attention_dropout": "test_dropouts",
    "hidden_dropout": "test_dropouts",
    "classifier_dropout": "test_dropouts",
    "pooling": "test_pooling",
    "classifier_hidden_act": "test_classifier_options",
    "classifier_hidden_bias": "test_classifier_options",
    "classifier_hidden_norm": "test_classifier_options",
    "token_classifier_hidden": "test_classifier_options",
    "score_bias": "test_classifier_options",
    "freeze_pad_embedding": "test_freeze_pad_embedding",
    "shift_start": "test_shifted_sources",
    "shift_source": "test_shifted_sources",
    "original_model_type": "said of where it is from",
    "class_weights": "test_training_options",
    "tag_scheme": "read by prediction",
    "calibration_temperature": "said of the weights",
    "label_thresholds": "test_thresholds",
    "abstain_threshold": "test_thresholds",
    "abstain_score": "test_thresholds",
    "label_smoothing": "test_training_options",
    "sparse_prediction": "test_sparse_prediction",
    "use_cache": "test_use_cache",
    "cross_attention_hidden_size": "test_cross_attention_hidden_size",
    "encoder": "a part",
    "decoder": "a part",
    "decoder_start_token_id": "test_token_ids_of_the_decoder",
    "pad_token_id": "test_token_ids_of_the_decoder",
    "bos_token_id": "read by generate",
    "eos_token_id": "read by generate",
    "is_encoder_decoder": "read by generate",
    "cls_token_id": "said of the vocabulary",
    "sep_token_id": "said of the vocabulary",
    "mask_token_id": "said of the vocabulary",
}


@every_config
def test_every_field_has_its_test(config_class):
    of_library = {f.name for f in fields(PreTrainedConfig)} - {"is_encoder_decoder"}
    own = {f.name for f in fields(config_class)} - of_library
    assert own - {name for name, *_ in EFFECTS} - set(ELSEWHERE) == set()
    assert {reason for reason in ELSEWHERE.values() if reason.startswith("test_")} <= set(globals())


@every_config
def test_help_describes_every_field(config_class):
    """Its meaning, what is valid, and the default."""
    described = {
        line.split(" (")[0].strip(): line for line in config_class.__doc__.split("\n") if line.startswith("    ")
    }
    for each in fields(config_class):
        if each.name in config_class.own_fields() - {"is_encoder_decoder"}:
            assert each.metadata["help"].endswith("."), each.name
            assert each.name in described, each.name
    text = " ".join(config_class.__doc__.split())
    assert "pooling ('cls' | 'mean' | 'last' | 'last_non_pad' | 'eos' | 'hidden_mean', default" in text
    assert "classifier_dropout (int | float, in [0, 1), default 0.1): Dropout before" in text
    assert "class_weights (list[int | float] | None, default None)" in text


def outputs(model_class: type, train: bool = False, **options) -> torch.Tensor:
    """Logits, or in training the loss, of the same tokens."""
    return outputs_of(model_class, train, repr(options))


@functools.cache  # what options are compared with is the same for many of them
@torch.no_grad()
def outputs_of(model_class: type, train: bool, options: str) -> torch.Tensor:
    """The same, of options that are written as Python writes them."""
    torch.manual_seed(0)
    batch = padded(draw(model_class, [9, 6]))
    model = tiny_model(model_class, **ast.literal_eval(options)).train(train)
    for name in ("input_ids", "decoder_input_ids", "labels"):
        if name in batch:
            batch[name] = batch[name].clamp(max=70)
    output = model(**batch)
    return output.loss if train else output.logits


def differ(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape != right.shape or not torch.allclose(left, right, rtol=1e-3, atol=1e-3)


@every_config
def test_mixers(config_class):
    """Each computes something else, and so does each size of its state."""
    options = [{}, *({"mixer_type": mixer} for mixer in KERNELS), {"mixer_type": "gru", "recurrent_size": 48}]
    logits = [outputs(LM[config_class], position_type="none", **each) for each in options]
    assert all(differ(left, right) for left, right in itertools.combinations(logits, 2))


def test_source_without_cross_attention():
    """Of the source, the target then reads the last token alone; of that, through the encoder, all others."""
    assert differ(*(outputs(LM[WHOLE], mixer_type="lstm", cross_attention=value) for value in (True, False)))
    config = tiny_config(WHOLE, mixer_type="lstm", cross_attention=False)
    assert not any("cross_attn" in name for name, _ in LM[WHOLE](config).named_modules())


@pytest.mark.parametrize("field, base, value", EFFECTS, ids=str)
@pytest.mark.parametrize(
    "config_class, part", [(E, None), (D, None), (WHOLE, "encoder"), (WHOLE, "decoder")], ids=named
)
def test_every_option_has_an_effect(config_class, part, field, base, value):
    before, after = base, {**base, field: value}
    if part is not None:
        unshared = {"share_encoder_decoder_embeddings": False}
        before, after = ({**unshared, part: options} for options in (before, after))
    default, changed = (outputs(LM[config_class], **options) for options in (before, after))
    assert differ(default, changed)


def test_max_position_embeddings():
    short = tiny_model(BlendEncoderModel, position_type="learned", max_position_embeddings=5)
    assert short.embed_positions.num_embeddings == 5


@pytest.mark.parametrize(
    "config_class, option",
    [
        *((config_class, {"lm_head_bias": True}) for config_class in LM),
        *((config_class, {"tie_word_embeddings": False}) for config_class in LM),
        *((config_class, {"scale_logits": True}) for config_class in LM),
        (WHOLE, {"tie_lm_head": False}),
        (WHOLE, {"share_encoder_decoder_embeddings": False}),
    ],
    ids=str,
)
def test_head_options(config_class, option):
    assert differ(outputs(LM[config_class]), outputs(LM[config_class], **option))


@pytest.mark.parametrize(
    "options",
    [
        {"embedding_size": 24},
        {"embedding_size": SIZES["hidden_size"]},
        {"share_layers": True},
        {"affix_buckets": 16},
        {"lm_head_hidden": False},
        {"lm_head_hidden_bias": True},
    ],
    ids=str,
)
def test_options_of_encoders(options):
    assert differ(outputs(LM[E]), outputs(LM[E], **options))


@torch.no_grad()
def test_a_shared_layer_is_each_layer():
    """The same outputs and states as of layers with equal weights."""
    shared = tiny_model(BlendEncoderModel, share_layers=True, num_hidden_layers=3)
    apart = tiny_model(BlendEncoderModel, num_hidden_layers=3)
    weights = {name: tensor for name, tensor in shared.state_dict().items() if not name.startswith("layers.")}
    for name, tensor in shared.layers[0].state_dict().items():
        weights |= {f"layers.{index}.{name}": tensor for index in range(3)}
    apart.load_state_dict(weights)
    batch = padded(draw(BlendEncoderModel, [9, 6]))
    for asked in ({}, {"output_hidden_states": True}):
        one, other = shared(**batch, **asked), apart(**batch, **asked)
        assert_close(one.last_hidden_state, other.last_hidden_state)
    assert len(one.hidden_states) == len(other.hidden_states) == 4
    for left, right in zip(one.hidden_states, other.hidden_states, strict=True):
        assert_close(left, right)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"share_layers": True, **SLIDING}, "share_layers=True needs one type of layer"),
        ({"share_layers": True, "first_norm": False}, "first_norm=False does not go together with share_layers=True"),
        ({"embedding_size": 15, "position_type": "sinusoidal"}, "embedding_size=15 must be even"),
        ({"lm_head_hidden": False, "lm_head_hidden_bias": True}, "lm_head_hidden_bias=True has no effect"),
        ({"lm_head_hidden": False, "embedding_size": 24}, "embedding_size=24 other than hidden_size=32 needs"),
        ({"embedding_size": 0}, "must be above 0"),
        ({"affix_buckets": 0}, "must be above 0"),
        ({"embedding_size": 7, "position_type": "sinusoidal"}, "must be even and at least 2"),
        ({"pooling": "hidden_mean"}, "pooling='hidden_mean' needs classifier_hidden_act"),
    ],
    ids=str,
)
def test_options_of_encoders_that_do_not_fit(options, message):
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        tiny_config(BlendEncoderConfig, **options)


@every_config
def test_initializer_range(config_class):
    model = LM[config_class](tiny_config(config_class, initializer_range=0.3))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            assert 0.25 < parameter.std() < 0.35, name


@every_config
@pytest.mark.parametrize("field", ["attention_dropout", "hidden_dropout", "classifier_dropout"])
def test_dropouts(config_class, field):
    """In training every call leaves out something else; in evaluation nothing is left out."""
    model_class = CLASSIFIER[config_class]
    batch = padded(draw(model_class, [9, 6], labels=False))
    without, model = tiny_model(model_class), tiny_model(model_class, **{field: 0.5})
    assert torch.equal(model(**batch).logits, without(**batch).logits)
    assert torch.equal(without.train()(**batch).logits, without.eval()(**batch).logits)
    first, second = (model.train()(**batch).logits for _ in range(2))
    assert differ(first, second)


@every_config
def test_every_dropout_acts(config_class):
    """Each on its own: of embeddings, of each block's output, of attention weights, before the projection."""
    options = dict.fromkeys(("hidden_dropout", "attention_dropout", "classifier_dropout"), 0.5)
    model = tiny_model(CLASSIFIER[config_class], **options).train()
    batch = padded(draw(CLASSIFIER[config_class], [9, 6], labels=False))
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    num_attentions = sum(isinstance(module, Attention) for module in model.modules())
    num_stacks = 2 if config_class is WHOLE else 1
    assert len(dropouts) == 1 + (1 + SIZES["num_hidden_layers"]) * num_stacks + num_attentions
    for acting in dropouts:
        for dropout in dropouts:
            dropout.p = 0.5 if dropout is acting else 0.0
        assert differ(model(**batch).logits, model(**batch).logits)
    acting.p = 0.0
    assert torch.equal(model(**batch).logits, model.eval()(**batch).logits)


HIDDEN_LAYER = {"classifier_hidden_act": "tanh"}


@every_config
def test_pooling(config_class):
    # Without a padding token inside a text, last_non_pad is last.
    poolings, ends = set(literal(config_class, "pooling")) - {"last_non_pad"}, list(range(3, 20))
    vectors = [
        outputs(CLASSIFIER[config_class], pooling=pooling, eos_token_id=ends, **HIDDEN_LAYER) for pooling in poolings
    ]
    for index, left in enumerate(vectors):
        for right in vectors[index + 1 :]:
            assert differ(left, right)


@every_config
def test_pooling_by_the_last_end_of_sequence(config_class):
    """The last one of each row, whatever stands after it; a row without one is asked at its last token."""
    model = tiny_model(CLASSIFIER[config_class], pooling="eos")
    last = tiny_model(CLASSIFIER[config_class], pooling="last")
    rows = draw(CLASSIFIER[config_class], [6, 5], labels=False)
    rows[0]["input_ids"][[1, 3]] = 2
    if config_class is BlendDecoderConfig:
        cut = [{"input_ids": rows[0]["input_ids"][:4]}, rows[1]]  # it does not see what comes after
        for side in ("right", "left"):
            assert_close(model(**padded(rows, side)).logits, last(**padded(cut, side)).logits)
    for asked in ({}, {"output_hidden_states": True}):
        both = model(**padded(rows), **asked).logits
        assert_close(both, model(**padded(rows, "left", extra=2), **asked).logits)
        assert differ(both[0], last(**padded(rows)).logits[0]) and not differ(both[1], last(**padded(rows)).logits[1])
    if config_class is WHOLE:
        with pytest.raises(ValueError, match=r"looks in input_ids \(2, 6\), and the decoder's inputs are \(2, 3\)"):
            model(**padded(rows), decoder_input_ids=torch.ones(2, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="pooling='eos' needs input_ids"):
        model(inputs_embeds=torch.zeros(1, 2, SIZES["hidden_size"]).double())


@every_config
def test_pooling_by_the_last_token_that_is_not_padding(config_class):
    """Also where the padding token ends a text; without one inside a text, or without input_ids, as `last`."""
    model = tiny_model(CLASSIFIER[config_class], pooling="last_non_pad", pad_token_id=1)
    last = tiny_model(CLASSIFIER[config_class], pooling="last", pad_token_id=1)
    rows = draw(CLASSIFIER[config_class], [6, 5], labels=False)
    expected = last(**padded(rows)).logits
    for asked in ({}, {"output_hidden_states": True}):
        assert_close(model(**padded(rows), **asked).logits, expected)
    if config_class is BlendDecoderConfig:
        # It does not see what comes after.
        longer = [
            {"input_ids": torch.cat([row["input_ids"], torch.tensor([1] * (1 + index))])}
            for index, row in enumerate(rows)
        ]
        for side in ("right", "left"):
            for asked in ({}, {"output_hidden_states": True}):
                assert_close(model(**padded(longer, side), **asked).logits, expected)
        embeds = {"inputs_embeds": model.get_input_embeddings()(longer[0]["input_ids"][None])}
        assert_close(model(**embeds).logits, last(**embeds).logits)
        assert differ(model(input_ids=longer[0]["input_ids"][None]).logits, last(**embeds).logits)


@pytest.mark.parametrize("model_class", [head for head in HEADS if "Classification" in head.__name__], ids=named)
def test_classifier_options(model_class):
    """For sequences; for tokens only where token_classifier_hidden says so."""
    of_tokens = "Token" in model_class.__name__
    base = HIDDEN_LAYER | ({"token_classifier_hidden": True} if of_tokens else {})
    assert differ(outputs(model_class), outputs(model_class, **base))
    changes = [{"classifier_hidden_act": "relu"}, {"classifier_hidden_bias": False}, {"classifier_hidden_norm": True}]
    for change in changes:
        assert differ(outputs(model_class, **base), outputs(model_class, **base | change)), change
    assert differ(outputs(model_class), outputs(model_class, score_bias=False)) != of_tokens
    if of_tokens:
        assert torch.equal(outputs(model_class), outputs(model_class, **HIDDEN_LAYER))


@every_config
def test_freeze_pad_embedding(config_class):
    """The padding token's embedding learns nothing where it is read as a token."""
    for frozen in (True, False):
        model = tiny_model(LM[config_class], freeze_pad_embedding=frozen, pad_token_id=5, tie_word_embeddings=False)
        batch = padded(draw(LM[config_class], [6, 5]))
        batch["input_ids"][:, 1] = 5
        model(**batch).loss.backward()
        row = model.get_input_embeddings().weight.grad[5]
        assert (row == 0).all() == frozen


def test_shifted_sources():
    """What the decoder reads where it is told nothing: the source, or the source shifted right, wherever it stands."""
    model_class = BlendEncoderDecoderModel
    rows = [{"input_ids": torch.randint(3, VOCAB, (length,))} for length in (6, 4)]
    starts = {"start_token": lambda ids: torch.tensor([1]), "last_token": lambda ids: ids[-1:]}
    for start, begin in starts.items():
        model = tiny_model(model_class, shift_source=True, shift_start=start)
        told = [
            {**row, "decoder_input_ids": torch.cat((begin(row["input_ids"]), row["input_ids"][:-1]))} for row in rows
        ]
        expected = [model(**padded([row])).last_hidden_state[0] for row in told]
        for side in ("right", "left"):
            batch = padded(rows, side, extra=1)
            states = model(**batch).last_hidden_state[batch["attention_mask"].bool()]
            assert_close(states, torch.cat(expected))
    with pytest.raises(ValueError, match="shift_source=True reads padded input_ids"):
        model(inputs_embeds=torch.zeros(1, 2, SIZES["hidden_size"]).double())


# The classes of a language model have no weights.
TRAINING_OPTIONS = [
    (model_class, option)
    for option in ({"label_smoothing": 0.3}, {"class_weights": [1.0, 2.0, 3.0]})
    for model_class in HEADS
    if "label_smoothing" in option or "Classification" in model_class.__name__
]


@pytest.mark.parametrize("model_class, option", TRAINING_OPTIONS, ids=named)
def test_training_options(model_class, option):
    assert differ(outputs(model_class, train=True), outputs(model_class, train=True, **option))
    assert torch.equal(outputs(model_class), outputs(model_class, **option))


def test_sparse_prediction():
    """In training only the masked tokens are projected, with the same loss; in evaluation all are."""
    batch = padded(draw(BlendEncoderForMaskedLM, [9, 6]))
    models = [tiny_model(BlendEncoderForMaskedLM, sparse_prediction=sparse) for sparse in (True, False)]
    sparse, full = (model.train()(**batch) for model in models)
    masked = batch["labels"] != -100
    assert sparse.logits.shape == (masked.sum(), SIZES["vocab_size"])
    assert_close(sparse.logits, full.logits[masked])
    assert_close(sparse.loss, full.loss)
    assert torch.equal(*(model.eval()(**batch).logits for model in models))


@pytest.mark.parametrize("model_class", [LM[D], LM[WHOLE], BlendDecoderModel, BlendEncoderDecoderModel], ids=named)
def test_use_cache(model_class):
    batch = padded(draw(model_class, [6, 6], labels=False))
    for use_cache in (True, False):
        model = tiny_model(model_class, use_cache=use_cache)
        assert (model(**batch).get(CACHE_NAME) is not None) == use_cache
        assert (model(**batch, use_cache=not use_cache).get(CACHE_NAME) is not None) == (not use_cache)
        assert model.train()(**batch).get(CACHE_NAME) is None


def test_cross_attention_hidden_size():
    batch = padded(draw(BlendDecoderModel, [6, 6]))
    model = tiny_model(BlendDecoderModel, cross_attention_hidden_size=24)
    one, other = (
        model(**batch, encoder_hidden_states=torch.randn(2, 5, 24).double()).last_hidden_state for _ in range(2)
    )
    assert differ(one, other)


@pytest.mark.parametrize("field", ["decoder_start_token_id", "pad_token_id"])
def test_token_ids_of_the_decoder(field):
    """What the decoder reads before the first label, and where there is none."""
    batch = padded(draw(LM[WHOLE], [9, 8]))
    del batch["decoder_input_ids"], batch["decoder_attention_mask"]
    batch["labels"][:, 2] = -100
    one, other = (tiny_model(LM[WHOLE], **{field: token})(**batch).logits for token in (5, 6))
    assert differ(one, other)


@pytest.mark.parametrize("shared", [True, False])
def test_sizes_of_an_encoder_decoder_as_a_whole(shared):
    """Of layers and heads the encoder's, of the vocabulary the decoder's, which is the encoder's if they share one."""
    parts = {"encoder": {"num_hidden_layers": 3, "num_attention_heads": 2}}
    config = BlendEncoderDecoderConfig.from_recipe(share_encoder_decoder_embeddings=shared, **parts)
    assert (config.num_hidden_layers, config.num_attention_heads) == (3, 2)
    before = config.encoder.vocab_size
    config.vocab_size = 7
    assert (config.vocab_size, config.decoder.vocab_size) == (7, 7)
    assert config.encoder.vocab_size == (7 if shared else before)


def test_a_part_can_be_loaded_from_the_whole(tmp_path):
    """And says the same as within it."""
    config = tiny_config(BlendEncoderDecoderConfig)
    config.save_pretrained(tmp_path)
    for name, part in (("encoder", BlendEncoderConfig), ("decoder", BlendDecoderConfig)):
        alone = part.from_pretrained(tmp_path).to_dict()
        assert alone.pop("transformers_version")
        within = config.to_dict()[name]
        within.pop("transformers_version", None)
        assert alone == within


@every_config
@pytest.mark.parametrize(
    "options, message",
    [
        ({"label_thresholds": [0.5, 0.5]}, "label_thresholds needs problem_type='multi_label_classification'"),
        ({"abstain_threshold": 0.5}, "abstain_threshold needs problem_type='single_label_classification'"),
        (
            {"label_thresholds": [0.5], "problem_type": "multi_label_classification", "num_labels": 2},
            "label_thresholds has 1 values for num_labels=2",
        ),
        (
            {"label_thresholds": [0.5, 1.5], "problem_type": "multi_label_classification", "num_labels": 2},
            "must all be in",
        ),
        ({"abstain_score": "energy"}, "abstain_score='energy' has no effect: abstain_threshold is None"),
        ({"abstain_score": "margin"}, "abstain_score"),
        ({"calibration_temperature": 0.0}, "calibration_temperature"),
        ({"tag_scheme": "IOB3"}, "tag_scheme"),
    ],
)
def test_thresholds(config_class, options, message):
    with pytest.raises((ValueError, StrictDataclassError), match=re.escape(message)):
        config_class(**options)


def test_the_schemes_of_tags_are_those_with_rules():
    assert set(get_args(TagSchemeName)) == set(SCHEMES)


@pytest.mark.parametrize("options", [{}, {"share_layers": True}], ids=str)
def test_more_layers_than_types_are_refused(options, tmp_path):
    """A shared layer would be run as often as there are types, whatever the number of layers says."""
    tiny_model(BlendEncoderModel, **options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="layer_types has 2 values for num_hidden_layers=5"):
        BlendEncoderModel.from_pretrained(tmp_path, num_hidden_layers=5)


def test_embeddings_of_another_width_are_refused():
    model = tiny_model(BlendEncoderModel, embedding_size=16)
    with pytest.raises(ValueError, match="inputs_embeds have 32 features, the embeddings 16"):
        model(inputs_embeds=torch.zeros(1, 2, 32).double())
