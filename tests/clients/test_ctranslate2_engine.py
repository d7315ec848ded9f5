"""`seqblend export --engine ctranslate2`: what CTranslate2 writes is what the model writes."""

import itertools
import json
import shutil

import pytest
import torch
from conftest import ATTENTION_PAIRWISE, fill, named, tiny_model
from test_prediction import assert_same, model_of, predict, write  # noqa: F401 - model_of is a fixture
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from seqblend import (
    BlendDecoderForCausalLM,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
    Predictor,
)
from seqblend.__main__ import main
from seqblend.conversion.target import check_target
from seqblend.data.errors import InputError, RowError
from seqblend.serving import ctranslate2_engine as engine
from seqblend.serving.engines import EXPORTED
from seqblend.serving.export import NEW_TOKENS, compare_written, export

WRITERS = [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
every_writer = pytest.mark.parametrize("model_class", WRITERS, ids=named)
BIASES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6, "position_type": "none"}
OTHER_OPTIONS = [
    {"attention_bias": True, "mlp_bias": True, "lm_head_bias": True, "attention_out_bias": False},
    {"attention_scaling": 0.7, "embedding_norm": True, "scale_embeddings": True, "head_dim": 16},
    {"norm_type": "layernorm", "norm_bias": False, "tie_word_embeddings": False},
    {"type_vocab_size": 2, "position_type": "sinusoidal"},
    {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0}, "norm_eps": 1e-3},
    *({**BIASES, "relative_attention_per_layer": per_layer} for per_layer in (False, True)),
    {**BIASES, "head_dim": 12, "num_key_value_heads": 4, "attention_scaling": 1.0, "scale_logits": True},
    *({"hidden_act": name} for name in ("relu", "gelu", "gelu_new", "quick_gelu", "silu", "tanh", "sigmoid")),
]
CHOICES = [options for options in ATTENTION_PAIRWISE if options["norm_position"] != "both"]
TEXTS = ["ab c", "c a b", "", "b", "abc" * 5, "서울 a"]
COLUMNS = {"causal-lm": "text", "seq2seq-lm": "source"}


def float32(model_class, **options):
    model = tiny_model(model_class, "eager", **options).float()
    fill(model, 0.2)
    return model


def exported(model, directory, int8=False):
    engine.write(model, directory, int8)
    return engine.load(directory, model.config)


@torch.inference_mode()
def differences(model, other):
    model.generation_config.eos_token_id = None
    other.generation_config.eos_token_id = 98
    rows = [torch.randint(3, 99, (1, length)) for length in (1, 7, 12)]
    inputs = [{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows]
    found = [compare_written(model, other, each, False) for each in inputs]
    assert [len(each) for each in found] == [NEW_TOKENS] * len(rows)
    return torch.cat(found)


@every_writer
@pytest.mark.parametrize("options", [*CHOICES, *OTHER_OPTIONS], ids=named)
def test_probabilities_are_those_of_the_model(model_class, options, tmp_path):
    model = float32(model_class, max_position_embeddings=64, **options)
    assert differences(model, exported(model, tmp_path)).abs().max() < 1e-4


def test_an_encoder_whose_layers_are_one(tmp_path):
    model = float32(WRITERS[1], encoder={"share_layers": True})
    assert differences(model, exported(model, tmp_path)).abs().max() < 1e-4


def test_parts_of_other_sizes_and_vocabularies(tmp_path):
    encoder = {
        "hidden_size": 48,
        "num_attention_heads": 6,
        "num_hidden_layers": 3,
        "vocab_size": 120,
        "norm_eps": 1e-6,
    }
    options = {"share_encoder_decoder_embeddings": False, "encoder": encoder, "decoder": {"norm_eps": 1e-6}}
    model = float32(WRITERS[1], **options)
    assert differences(model, exported(model, tmp_path)).abs().max() < 1e-4


@every_writer
def test_int8_is_near(model_class, tmp_path):
    model = float32(model_class)
    found = differences(model, exported(model, tmp_path, int8=True))
    assert 1e-6 < found.square().mean().sqrt() < 0.1


SETTINGS = [
    {},
    {"num_beams": 3, "length_penalty": 0.5},
    {"bad_words_ids": [[7]], "suppress_tokens": [10]},
    {"min_new_tokens": 5},
    {"eos_token_id": [3, 9]},
    {"do_sample": True, "top_k": 1, "temperature": 0.5},
    {"forced_eos_token_id": 3},
    {"min_new_tokens": 30},
]
# transformers also reads the prompt, and the start token, which is not written here.
OF_SEQUENCES = [{"no_repeat_ngram_size": 2, "suppress_tokens": [2]}, {"bad_words_ids": [[7], [8, 9], [3]]}]


@pytest.mark.parametrize(
    ("name", "settings"),
    [*itertools.product(COLUMNS, SETTINGS), *itertools.product(["seq2seq-lm"], OF_SEQUENCES)],
    ids=str,
)
def test_settings_of_generation_are_those_of_transformers(name, settings, model_of, tmp_path):  # noqa: F811
    """Written by the command, from the settings that are saved with the model."""
    auto_class = {"causal-lm": AutoModelForCausalLM, "seq2seq-lm": AutoModelForSeq2SeqLM}[name]
    shutil.copytree(model_of(name), tmp_path / "model")
    model = auto_class.from_pretrained(tmp_path / "model")
    saved = {**model.generation_config.to_dict(), **settings}
    GenerationConfig.from_dict(saved).save_pretrained(tmp_path / "model")
    rows = write(tmp_path / "rows.jsonl", [{COLUMNS[name]: text} for text in TEXTS])
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--engine", "ctranslate2"]) == 0
    more = ["--max_new_tokens", 7]
    expected = predict(tmp_path / "model", rows, tmp_path / "expected.jsonl", *more)
    actual = predict(tmp_path / "out", rows, tmp_path / "actual.jsonl", *more)
    assert_same(actual, expected)
    assert any(answer["prediction"] for answer in actual)


def test_beams_are_ranked_by_what_is_left(tmp_path, caplog):
    """Where tokens are forbidden, as transformers does with renormalize_logits; without it, a warning says so."""
    model = float32(WRITERS[1])
    settings = {"num_beams": 4, "no_repeat_ngram_size": 2, "bad_words_ids": [[1], [5]], "max_new_tokens": 8}
    settings |= {"decoder_start_token_id": 1, "forced_eos_token_id": 2, "eos_token_id": 2, "pad_token_id": 1}
    ids = torch.randint(3, 99, (16, 6))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = {}
    for renormalizes in (True, False):
        model.generation_config = GenerationConfig.from_dict(settings | {"renormalize_logits": renormalizes})
        expected[renormalizes] = model.generate(**inputs)[:, 1:].tolist()
        (tmp_path / str(renormalizes)).mkdir()
        other = exported(model, tmp_path / str(renormalizes))
        assert ("with bad_words_ids, no_repeat_ngram_size, beams are" in caplog.text) is not renormalizes
        written = [tokens for tokens, _ in other.write(inputs, {})]
        assert written == [row[: len(tokens)] for row, tokens in zip(expected[True], written, strict=True)]
    assert expected[True] != expected[False]


@every_writer
def test_a_beam_search_ends_as_in_transformers(model_class, tmp_path, monkeypatch):
    """With `early_stopping` where it does; without it nearly: both look further than the first that have ended."""
    model = float32(model_class)
    ids = torch.randint(4, 99, (48, 6))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    settings = {"num_beams": 4, "max_new_tokens": 10, "eos_token_id": list(range(4, 20)), "pad_token_id": 1}
    settings |= {"decoder_start_token_id": 2, "bos_token_id": 2}

    def share(name, stops_early):
        model.generation_config = GenerationConfig.from_dict(settings | {"early_stopping": stops_early})
        expected = model.generate(**inputs)[:, 1 if model.config.is_encoder_decoder else 6 :].tolist()
        (tmp_path / name).mkdir()
        written = [tokens for tokens, _ in exported(model, tmp_path / name).write(inputs, {})]
        same = [row[: len(tokens)] == tokens for row, tokens in zip(expected, written, strict=True)]
        return sum(same) / len(same)

    assert share("early", True) == 1
    assert share("late", False) > 0.95
    monkeypatch.setattr(engine, "PATIENCE", 1)
    assert share("other", False) < 0.8


def test_settings_that_are_off_are_not_refused(tmp_path):
    model = float32(WRITERS[0])
    off = {"repetition_penalty": 1.0, "typical_p": 1.0, "num_beam_groups": 1, "encoder_no_repeat_ngram_size": 0}
    off |= {"remove_invalid_values": False, "forced_decoder_ids": None, "guidance_scale": 1}
    model.generation_config = GenerationConfig.from_dict(model.generation_config.to_dict() | off)
    exported(model, tmp_path)


@pytest.mark.parametrize("settings", [{"forced_bos_token_id": 6}, {"min_length": 6}, {"max_length": 4}], ids=str)
def test_settings_of_an_encoder_decoder(settings, model_of, tmp_path):  # noqa: F811
    shutil.copytree(model_of("seq2seq-lm"), tmp_path / "model")
    saved = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps({**saved, **settings}))
    export(tmp_path / "model", tmp_path / "out", "ctranslate2")
    check_target(tmp_path / "out", tmp_path / "model", overwrite=True, others=EXPORTED)
    columns = {"source": TEXTS}
    assert_same(Predictor(tmp_path / "out")(columns), Predictor(tmp_path / "model")(columns))


@pytest.mark.parametrize(
    ("model_class", "options", "words"),
    [
        (BlendEncoderForMaskedLM, {}, ["BlendEncoderForMaskedLM", "models that write"]),
        (WRITERS[0], {"hidden_act": "mish"}, ["hidden_act='mish'"]),
        (WRITERS[0], {"mixer_type": "gru"}, ["mixer_type='gru'"]),
        (WRITERS[1], {"mixer_type": "lstm"}, ["mixer_type='lstm'"]),
        (
            WRITERS[0],
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3},
            ["sliding_attention"],
        ),
        (WRITERS[1], {"encoder": {"embedding_size": 16}, "tie_word_embeddings": False}, ["embedding_size"]),
        (WRITERS[0], {"query_key_norm": True, "norm_type": "layernorm"}, ["query_key_norm with layernorm"]),
        (WRITERS[0], {"norm_position": "both"}, ["norm_position='both'"]),
        (WRITERS[1], {"query_key_norm": True}, ["query_key_norm in an encoder-decoder"]),
        (WRITERS[1], {"encoder": {"norm_eps": 1e-3}}, ["norm_eps of the encoder"]),
        (WRITERS[1], {**BIASES, "position_type": "learned"}, ["relative_attention_num_buckets with position_type"]),
        (WRITERS[0], {"type_vocab_size": 2, "position_type": "rotary"}, ["type_vocab_size with rotary positions"]),
    ],
    ids=str,
)
def test_options_that_it_does_not_have_are_named(model_class, options, words, tmp_path):
    with pytest.raises(InputError) as error:
        engine.write(float32(model_class, **options), tmp_path, False)
    assert not [word for word in words if word not in str(error.value)] and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"guidance_scale": 2.0}, "guidance_scale"),
        ({"num_beams": 2, "do_sample": True}, "do_sample with num_beams"),
        ({"typical_p": 0.5, "do_sample": True}, "typical_p"),
        ({"eos_token_id": None}, "a model without eos_token_id"),
        ({"repetition_penalty": 1.3}, "repetition_penalty"),
        ({"no_repeat_ngram_size": 1}, "no_repeat_ngram_size=1"),
        *((settings, "which reads the prompt") for settings in (*OF_SEQUENCES, {"min_length": 3})),
    ],
)
def test_settings_that_it_does_not_have_are_named(settings, words, tmp_path):
    model = float32(WRITERS[0])
    model.generation_config = GenerationConfig.from_dict({**model.generation_config.to_dict(), **settings})
    with pytest.raises(InputError, match=f"does not have .*{words}"):
        engine.write(model, tmp_path, False)
    assert not list(tmp_path.iterdir())


def test_a_row_that_is_too_long_is_refused(model_of, tmp_path):  # noqa: F811
    model = float32(WRITERS[0], position_type="learned", max_position_embeddings=10)
    other = exported(model, tmp_path)
    ids = torch.ones(1, 8, dtype=torch.long)
    with pytest.raises(RowError, match="row 1: needs 11 positions, and the model has 10"):
        other.write({"input_ids": ids, "attention_mask": ids}, {"max_new_tokens": 3})
    assert len(other.write({"input_ids": ids, "attention_mask": ids}, {"max_new_tokens": 2})[0][0]) <= 2


def test_settings_are_checked_again_in_prediction(model_of, tmp_path):  # noqa: F811
    """The user's flags, and a file that was changed."""
    shutil.copytree(model_of("causal-lm"), tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "do_sample": True}))
    export(tmp_path / "model", tmp_path / "out", "ctranslate2")
    with pytest.raises(InputError, match="do_sample with num_beams"):
        Predictor(tmp_path / "out", num_beams=2)({"text": ["ab"]})
    for changed, words in ({"typical_p": 0.5}, "typical_p"), ({"do_sample": True, "top_p": 3.0}, "topp"):
        path = tmp_path / "out" / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
        with pytest.raises(InputError, match=f"generation_config: .*{words}"):
            Predictor(tmp_path / "out")({"text": ["ab"]})
        path.write_text(json.dumps({**json.loads(path.read_text()), **dict.fromkeys(changed)}))


@pytest.mark.parametrize("top_k", [None, 10**6])
def test_a_vocabulary_may_be_smaller_than_top_k(top_k, model_of, tmp_path):  # noqa: F811
    """By default transformers samples from the 50 most probable tokens; a vocabulary of characters may have fewer."""
    export(model_of("causal-lm"), tmp_path / "out", "ctranslate2")
    predictor = Predictor(tmp_path / "out", max_new_tokens=5)
    assert predictor.rows.model.vocab_size < 50
    predictor.rows.generation.update({"do_sample": True, "temperature": 0.5, "top_k": top_k})
    assert predictor({"text": ["ab"]})["prediction"]


@every_writer
def test_logits_of_a_batch_are_bounded(model_class, tmp_path, monkeypatch):
    """Scored in parts, the probabilities are the same."""
    other = exported(float32(model_class), tmp_path)
    rows, written = [["5", "6"], ["7"]], [["8", "9", "10"], ["11", "12"]]
    whole = other.log_probabilities(rows, written)
    monkeypatch.setattr(engine, "MAX_LOGITS", 1)
    parts = other.log_probabilities(rows, written)
    assert [each == pytest.approx(one, abs=1e-5) for each, one in zip(parts, whole, strict=True)] == [True, True]


def test_an_engine_that_writes_something_else_is_refused(model_of, tmp_path, monkeypatch):  # noqa: F811
    search = engine.CTranslate2Model.search

    def reversed_search(self, rows, settings):
        written, means = search(self, rows, settings)
        return [row[::-1] for row in written], means

    monkeypatch.setattr(engine.CTranslate2Model, "search", reversed_search)
    with pytest.raises(InputError, match="ctranslate2 writes other tokens than the model; nothing was written"):
        export(model_of("seq2seq-lm"), tmp_path / "out", "ctranslate2")
    assert not list(tmp_path.iterdir())
