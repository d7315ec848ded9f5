"""Recurrent mixers: what holds for attention holds for them, and what they do not have is refused by name.

The imported tests run here once more, with a recurrent mixer in every model.
"""

import json
import re
from unittest import mock

import conftest
import pytest
import torch
from conftest import (
    SIZES,
    VOCAB,
    assert_close,
    draw,
    named,
    padded,
    tiny_config,
    tiny_model,
)
from huggingface_hub.errors import StrictDataclassError
from test_export import test_opens_without_the_package_in_every_auto_class_and_again  # noqa: F401
from test_generation import (  # noqa: F401
    test_batch_is_one_by_one,
    test_beam_finds_what_is_likelier,
    test_beams_that_begin_as_one_write_the_same,
    test_cache_is_an_argument,
    test_generation_from_embeddings,
    test_generation_goes_on_from_a_cache,
    test_generation_in_half_precision,
    test_generation_without_a_cache_is_the_same,
    test_greedy_is_argmax,
    test_labels_of_tokens_after_those_in_a_cache,
    test_logits_to_keep,
    test_no_cache_in_training_or_with_labels,
    test_rows_of_a_cache_may_be_rearranged,
    test_what_rows_begin_with_is_computed_once,
    test_what_stands_after_the_end_is_padding,
)
from test_losses import test_accumulated_gradients_are_those_of_one_batch  # noqa: F401
from test_models import (  # noqa: F401
    test_dropout_runs,
    test_embeddings_are_called,
    test_embeddings_are_resized,
    test_embeddings_may_stand_for_tokens,
    test_gradient_checkpointing_changes_no_gradient,
    test_heads_do_not_see_padding,
    test_output_shapes,
    test_output_shapes_without_a_head,
    test_parts_may_be_saved_alone,
    test_pooling_reads_real_tokens,
    test_rows_without_a_token,
    test_saved_and_loaded,
    test_tied_weights_are_one_tensor,
)
from test_packing import (  # noqa: F401
    test_as_close_in_bfloat16_as_padded,
    test_encoder_may_have_run_before,
    test_flat_equals_padded_in_single_precision,
    test_flattened_input_equals_padded,
    test_flattened_input_in_evaluation,
    test_no_gradient_from_one_sequence_to_another,
    test_padding_is_not_computed,
    test_source_and_target_have_their_own_lengths,
    test_what_stands_after_the_last_label_is_not_computed,
)
from test_prediction import predict
from test_train_command import CLASSIFY, ROWS, TAG, TRANSLATE, flags, write
from test_trainer import (  # noqa: F401
    test_a_stopped_and_resumed_run_equals_an_uninterrupted_one,
    test_accumulation_changes_neither_gradient_nor_loss,
    test_four_examples_are_learnt_in_thirty_steps,
    test_generate_gives_back_what_was_learnt,
    test_one_step_changes_every_parameter,
    test_the_best_model_comes_back,
)
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.generation.continuous_batching import PagedAttentionCache

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderConfig,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderModel,
)
from seqblend.configuration.recipes import RECIPES
from seqblend.data.errors import InputError
from seqblend.modeling.cache import CACHE_NAME
from seqblend.modeling.packing import FlatLayout
from seqblend.modeling.recurrence import Recurrence, Steps
from seqblend.serving.export import export
from seqblend.tasks.registry import TASKS
from seqblend.train import main as train


@pytest.fixture(params=["gru", "lstm"], autouse=True)
def mixer(request, monkeypatch):
    """The mixer of all models of a test. A plain RNN has the code of a GRU.

    At the first token, which pooling="cls" takes, a network that reads from the left has no state yet.
    """
    monkeypatch.setitem(conftest.SIZES, "mixer_type", request.param)
    monkeypatch.setitem(conftest.SIZES, "pooling", "mean")
    return request.param


# Only the last state.


@pytest.fixture
def without_cross_attention(monkeypatch):
    monkeypatch.setitem(conftest.SIZES, "cross_attention", False)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("asked", [{}, {"output_hidden_states": True}], ids=["flat", "dense"])
@torch.no_grad()
def test_the_last_token_of_a_padded_source(side, asked, without_cross_attention):
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)
    rows = draw(BlendEncoderDecoderForSeq2SeqLM, [7, 4, 5], labels=False)
    alone = torch.cat([conftest.output_of(model, padded([row])) for row in rows])
    assert_close(conftest.output_of(model, padded(rows, side, extra=2), **asked), alone)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_from_the_last_state(beams, without_cross_attention):
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)
    batch = padded(draw(BlendEncoderDecoderForSeq2SeqLM, [7, 4, 5]))
    asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "num_beams": beams}
    written = [model.generate(**asked, max_new_tokens=8, use_cache=use_cache) for use_cache in (True, False)]
    assert torch.equal(*written)
    for index, row in enumerate(written[0]):
        source = {name: tensor[index : index + 1] for name, tensor in asked.items() if name != "num_beams"}
        alone = model.generate(**source, num_beams=beams, max_new_tokens=8)[0]
        assert torch.equal(row[: len(alone)], alone)


def test_a_source_of_another_number_of_rows_is_refused(without_cross_attention):
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)
    states = model.get_encoder()(torch.ones(3, 4, dtype=torch.long)).last_hidden_state
    with pytest.raises(ValueError, match="2 target sequences for 3 source sequences"):
        model.get_decoder()(torch.ones(2, 4, dtype=torch.long), encoder_hidden_states=states)


def test_parts_may_have_different_mixers(mixer):
    """Attention reads what a recurrent network has read, and the other way round; each part has its own options."""
    sizes = {name: size for name, size in SIZES.items() if name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    recurrent = {"mixer_type": mixer, "recurrent_size": 40}
    attention = {"mixer_type": "attention", "num_attention_heads": 2, "position_type": "learned"}
    for encoder, decoder in ((recurrent, attention), (attention, recurrent), (attention, attention)):
        config = BlendEncoderDecoderConfig.from_recipe(**sizes, encoder=encoder, decoder=decoder)
        model = BlendEncoderDecoderForSeq2SeqLM(config)
        assert model._is_stateful == (decoder is recurrent)
        found = [
            isinstance(stack.layers[0].self_attn, Recurrence) for stack in (model.model.encoder, model.model.decoder)
        ]
        assert found == [encoder is recurrent, decoder is recurrent]
        again = BlendEncoderDecoderConfig.from_dict(config.to_dict())
        assert again.to_dict() == config.to_dict()


# Parameters.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_initial_weights(mixer, dtype):
    """Each gate by itself: the recurrent matrix of a gate is orthogonal, and an LSTM begins by remembering."""
    config = tiny_config(BlendEncoderConfig, recurrent_size=24)
    for layer in BlendEncoderModel._from_config(config, dtype=dtype).layers:
        for name, parameter in layer.self_attn.named_parameters(recurse=False):
            assert parameter.dtype == dtype
            for index, gate in enumerate(parameter.float().split(12)):
                if name.startswith("weight_hh"):
                    torch.testing.assert_close(gate @ gate.T, torch.eye(12), atol=1e-2, rtol=0)
                elif name.startswith("weight_ih"):
                    assert 0.5 < gate.std() / (2 / (32 + 12)) ** 0.5 < 1.5
                else:
                    is_forget = mixer == "lstm" and name.startswith("bias_ih") and index == 1
                    assert (gate == float(is_forget)).all()


def test_what_a_checkpoint_lacks_is_initialized(tmp_path):
    """from_pretrained builds a model without memory; a layer more than was saved must not be what memory held."""
    BlendDecoderModel(tiny_config(BlendDecoderConfig)).save_pretrained(tmp_path)
    config = tiny_config(BlendDecoderConfig, num_hidden_layers=3)
    mixer = BlendDecoderModel.from_pretrained(tmp_path, config=config).layers[2].self_attn
    for gate in mixer.weight_hh.split(mixer.state_size):
        torch.testing.assert_close(gate @ gate.T, torch.eye(len(gate)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("network", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("is_bidirectional", [True, False])
def test_parameters_are_those_of_the_modules_of_torch(network, is_bidirectional):
    """Read in, they give what those modules give."""
    mixer_type = network.__name__.lower()
    config_class, role = (BlendEncoderConfig, "self") if is_bidirectional else (BlendDecoderConfig, "masked self")
    config = tiny_config(config_class, mixer_type=mixer_type, recurrent_size=24)
    mixer = Recurrence(config, 0, role)
    other = network(32, mixer.state_size, batch_first=True, bidirectional=is_bidirectional)
    mixer.load_state_dict(
        {name.replace("_l0", ""): tensor for name, tensor in other.state_dict().items()}, strict=False
    )
    states = torch.randn(3, 5, 32)
    torch.testing.assert_close(mixer.run_kernel(states, None)[0], other(states)[0])


@pytest.mark.parametrize("role", ["self", "masked self"])
@pytest.mark.parametrize("has_state", [False, True])
@pytest.mark.parametrize("lengths", [[5, 0, 40, 90, 5], [1, 1, 7], [30, 30, 30], [0, 0]])
def test_rows_and_steps_give_the_same(mixer, role, has_state, lengths):
    """States and gradients of sequences of any lengths, which are read in rows, or step by step."""
    config_class = BlendEncoderConfig if role == "self" else BlendDecoderConfig
    network = Recurrence(tiny_config(config_class, mixer_type=mixer), 0, role)
    network.init_weights()
    pattern = Steps(FlatLayout.from_mask(torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]))
    inputs = torch.randn(1, sum(lengths), 32, requires_grad=True)
    given = role == "masked self" and has_state
    first = tuple(torch.randn(len(lengths), network.state_size, requires_grad=True) for _ in range(network.num_states))
    found = []
    for outputs in (
        pattern.read(network, inputs, first if given else None),
        pattern.read_steps(network, inputs, first if given else None)[0],
    ):
        wanted = [inputs, *network.parameters(), *(first if given else ())]
        weights = torch.arange(outputs.numel()).view_as(outputs).cos()
        gradients = torch.autograd.grad((outputs * weights).sum(), wanted, allow_unused=True) if sum(lengths) else ()
        found.append([outputs, *(each for each in gradients if each is not None)])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_mixed_precision_keeps_states_in_float32(mixer):
    """Of many steps in half precision a state would lose most of its digits."""
    model = BlendDecoderModel(tiny_config(BlendDecoderConfig, initializer_range=0.02)).eval()
    ids = torch.randint(3, VOCAB, (2, 30))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        cache = model(ids, use_cache=True)[CACHE_NAME]
    assert all(state.dtype == torch.float32 for layer in cache.layers for state in layer.state)


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"position_type": "rotary"}, ["position_type='rotary'", "no effect"]),
        (
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 3, "num_hidden_layers": 2},
            ["layer_types=", "no effect"],
        ),
        ({"num_attention_heads": 8}, ["num_attention_heads=8", "no effect"]),
        ({"num_key_value_heads": 2}, ["num_key_value_heads=2", "no effect"]),
        ({"head_dim": 16}, ["head_dim=16", "no effect"]),
        ({"attention_scaling": 0.5}, ["attention_scaling=0.5", "no effect"]),
        ({"attention_dropout": 0.1}, ["attention_dropout=0.1", "no effect"]),
        ({"attention_bias": True}, ["attention_bias=True", "no effect"]),
        ({"attention_out_bias": True}, ["attention_out_bias=True", "no effect"]),
        ({"query_key_norm": True}, ["query_key_norm=True", "no effect"]),
        ({"recurrent_size": 0}, ["recurrent_size", "above 0"]),
        ({"mixer_type": "attention", "recurrent_size": 8}, ["recurrent_size=8", "no effect"]),
        ({"mixer_type": "lstn"}, ["lstn", "lstm"]),
    ],
    ids=str,
)
@pytest.mark.parametrize("config_class", [BlendEncoderConfig, BlendDecoderConfig], ids=named)
def test_options_without_effect_are_refused(config_class, options, words, mixer):
    with pytest.raises((ValueError, StrictDataclassError)) as error:
        config_class.from_recipe(**{"mixer_type": mixer, **options})
    assert not [word for word in words if word not in str(error.value)]


def test_sizes_that_do_not_fit_are_refused(mixer):
    with pytest.raises(StrictDataclassError, match="recurrent_size=33 must be even"):
        BlendEncoderConfig(mixer_type=mixer, recurrent_size=33)
    assert BlendDecoderConfig(mixer_type=mixer, recurrent_size=33, hidden_size=30).recurrent_size == 33
    with pytest.raises(StrictDataclassError, match="cross_attention=False needs a recurrent mixer_type"):
        BlendEncoderDecoderConfig(decoder={"cross_attention": False})


def test_options_of_cross_attention_are_kept(mixer):
    """In a decoder with cross-attention they have an effect, from wherever it gets its encoder."""
    options = {"num_attention_heads": 8, "attention_dropout": 0.1, "mixer_type": mixer}
    for decoder in (options, BlendDecoderConfig(mixer_type=mixer)):
        config = BlendEncoderDecoderConfig(decoder=decoder, encoder={"mixer_type": mixer})
        heads = config.decoder.num_attention_heads
        assert (config.decoder.head_dim, config.decoder.num_key_value_heads) == (256 // heads, heads)
    with pytest.raises(StrictDataclassError, match="num_attention_heads=8 has no effect"):
        BlendEncoderDecoderConfig(decoder={**options, "cross_attention": False}, encoder={"mixer_type": mixer})


IDS = torch.ones(2, 3, dtype=torch.long)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"output_attentions": True}, "output_attentions"),
        ({"attention_mask": torch.ones(2, 1, 3, 3)}, r"an attention mask that is not \(B, S\)"),
        ({"attention_mask": {"full_attention": None}}, r"an attention mask that is not \(B, S\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
def test_what_the_forward_does_not_have_is_named(model_class, asked, message, mixer):
    with pytest.raises(ValueError, match=f"mixer_type='{mixer}' does not have {message}"):
        tiny_model(model_class)(IDS, **asked)


@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
def test_graphs_are_refused(model_class):
    model = tiny_model(model_class).float()
    message = r"does not have a graph \(torch.compile, torch.export, torch.jit.trace\)"
    with pytest.raises(ValueError, match=message):
        torch.jit.trace(lambda ids: model(ids, use_cache=False).last_hidden_state, IDS)
    torch.compiler.reset()
    with pytest.raises(ValueError, match=message):
        torch.compile(model, backend="eager")(IDS, use_cache=False)
    with pytest.raises(Exception, match=message):
        torch.export.export(model, (IDS,), {"use_cache": False})
    assert not model._can_compile_fullgraph


def test_a_packed_batch_has_no_cache():
    model = tiny_model(BlendDecoderForCausalLM)
    with pytest.raises(ValueError, match="a flattened batch, or one with a flattened source, has no cache"):
        model(IDS[:1], position_ids=torch.tensor([[0, 1, 0]]), cache=DynamicCache())


def test_a_source_mask_of_four_dimensions(without_cross_attention):
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM).get_decoder()
    with pytest.raises(ValueError, match="encoder_attention_mask must be"):
        mask = torch.zeros(2, 1, 3, 4)
        model(IDS, encoder_hidden_states=torch.zeros(2, 4, 32).double(), encoder_attention_mask=mask)


@pytest.fixture
def streams(monkeypatch):
    """An offloaded cache makes a stream, which torch for CUDA cannot make without a GPU."""
    monkeypatch.setattr(torch, "Stream", mock.Mock())


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize(
    ("new_cache", "message"),
    [
        (lambda config: StaticCache(config, max_cache_len=9), "DynamicCache without offloading, got StaticCache"),
        (lambda config: DynamicCache(config=config, offloading=True), "without offloading"),
        (
            lambda config: PagedAttentionCache.__new__(PagedAttentionCache),
            "got .*PagedAttentionCache",
        ),
        (lambda config: DynamicCache([(torch.ones(2, 4, 1, 8),) * 2] * 2), "the cache holds keys and values"),
    ],
    ids=["static", "offloading", "paged", "keys and values"],
)
def test_caches_of_another_kind_are_refused(new_cache, message):
    model = tiny_model(BlendDecoderForCausalLM)
    with pytest.raises(ValueError, match=message):
        model(IDS, cache=new_cache(model.config))


@pytest.mark.parametrize("cross_attention", [True, False])
def test_a_cache_of_a_pair(cross_attention, monkeypatch):
    """An empty one, as a user makes it, is as good as none."""
    monkeypatch.setitem(conftest.SIZES, "cross_attention", cross_attention)
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)
    batch = {"input_ids": IDS, "decoder_input_ids": IDS}
    expected = model(**batch).logits
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    assert_close(model(**batch, cache=cache).logits, expected)
    assert cache.get_seq_length() == 3
    with pytest.raises(ValueError, match="DynamicCache without offloading, got StaticCache"):
        static = EncoderDecoderCache(StaticCache(model.config.decoder, max_cache_len=9), DynamicCache())
        model(**batch, cache=static)


def test_a_cache_cannot_be_cropped():
    cache = tiny_model(BlendDecoderForCausalLM)(IDS)[CACHE_NAME]
    with pytest.raises(ValueError, match="recurrent mixer cannot be cropped"):
        cache.crop(-1)
    assert cache.get_seq_length() == 3


@pytest.mark.usefixtures("streams")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"prompt_lookup_num_tokens": 2}, "assisted generation is not supported with stateful models"),
        ({"assistant_early_exit": 1}, "assisted generation is not supported with stateful models"),
        ({"cache_implementation": "static"}, "DynamicCache without offloading, got StaticCache"),
        ({"cache_implementation": "offloaded"}, "without offloading"),
    ],
    ids=str,
)
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
def test_generation_that_needs_earlier_states_is_refused(model_class, asked, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(model_class).generate(input_ids=IDS[:1], max_new_tokens=4, **asked)


def test_cross_attentions_of_a_recurrent_decoder(monkeypatch):
    """They are what Bahdanau et al. (2015) drew: where the decoder looks while it writes."""
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM, "eager")
    output = model(input_ids=IDS, decoder_input_ids=IDS[:, :2], output_attentions=True)
    assert [weights.shape for weights in output.cross_attentions] == [(2, 4, 2, 3)] * 2
    assert not output.encoder_attentions and not output.decoder_attentions
    written = model.generate(
        input_ids=IDS, max_new_tokens=2, min_new_tokens=2, output_attentions=True, return_dict_in_generate=True
    )
    assert [weights.shape for weights in written.cross_attentions[1]] == [(2, 4, 1, 3)] * 2
    monkeypatch.setitem(conftest.SIZES, "cross_attention", False)
    with pytest.raises(ValueError, match="neither the encoder nor the decoder has attention"):
        tiny_model(BlendEncoderDecoderForSeq2SeqLM)(input_ids=IDS, decoder_input_ids=IDS, output_attentions=True)


# From a recipe, and by changes.


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_with_another_mixer(recipe, mixer):
    """One changed field is enough: what only attention reads is left out."""
    for model_type in RECIPES[recipe]:
        config_class = next(each for each in conftest.CONFIGS.values() if each.model_type == model_type)
        config = config_class.from_recipe(recipe, mixer_type=mixer)
        parts = [config.encoder, config.decoder] if config.is_encoder_decoder else [config]
        assert all(part.mixer_type == mixer and part.position_type != "rotary" for part in parts)


def test_options_of_attention_go_to_the_part_that_has_it(mixer):
    config = BlendEncoderDecoderConfig.from_recipe(mixer_type=mixer, num_attention_heads=8)
    assert (config.encoder.num_attention_heads, config.decoder.num_attention_heads) == (4, 8)
    with pytest.raises(StrictDataclassError, match="num_attention_heads=8 has no effect"):
        BlendEncoderDecoderConfig.from_recipe(mixer_type=mixer, num_attention_heads=8, cross_attention=False)
    with pytest.raises(StrictDataclassError, match="num_attention_heads=8 has no effect"):
        BlendEncoderDecoderConfig.from_recipe(mixer_type=mixer, encoder={"num_attention_heads": 8})


def test_options_of_self_attention_go_to_the_part_that_has_it(mixer):
    layers = {"layer_types": ["sliding_attention"] * 4, "sliding_window": 8, "position_type": "rotary"}
    for part, other in (("encoder", "decoder"), ("decoder", "encoder")):
        config = BlendEncoderDecoderConfig.from_recipe(**layers, **{part: {"mixer_type": mixer}})
        assert getattr(config, part).position_type == "none" and getattr(config, part).sliding_window is None
        assert getattr(config, other).layer_types == layers["layer_types"]
        with pytest.raises(StrictDataclassError, match="position_type='rotary' has no effect"):
            BlendEncoderDecoderConfig.from_recipe(**{part: {"mixer_type": mixer, "position_type": "rotary"}})


def test_a_mixer_that_is_changed_needs_a_size(mixer):
    config = BlendDecoderConfig(mixer_type="attention", position_type="none")
    config.mixer_type = mixer
    with pytest.raises(ValueError, match="needs recurrent_size"):
        config.validate_mixer()
    config.recurrent_size = 12
    config.validate_mixer()


def test_cross_attention_may_be_switched_off(mixer):
    config = BlendEncoderDecoderConfig.from_recipe(mixer_type=mixer)
    config.decoder.cross_attention = False
    config.decoder.validate_mixer()
    assert "cross_attn" not in str(BlendEncoderDecoderForSeq2SeqLM(config))


# Training.


def test_reentrant_checkpointing_reads_the_source_once(without_cross_attention):
    batch = padded(draw(BlendEncoderDecoderForSeq2SeqLM, [7, 4, 5]))
    models = [tiny_model(BlendEncoderDecoderForSeq2SeqLM).train() for _ in range(2)]
    models[1].gradient_checkpointing_enable({"use_reentrant": True})
    conftest.assert_equal_gradients(*(conftest.gradients(model, batch) for model in models))


# The command line.


@pytest.mark.parametrize("task", [CLASSIFY, TAG, TRANSLATE, "causal-lm", "masked-lm"])
def test_trained_described_saved_and_asked(task, mixer, tmp_path, forked):
    """`seqblend train` with another mixer: the card has its size and no heads, and the model is asked like others."""
    rows = write(tmp_path / "rows.jsonl", ROWS[task])
    options = {
        "task": task,
        "train_file": rows,
        "test_file": rows,
        "config_overrides": f"mixer_type={mixer},hidden_size=16,num_hidden_layers=2,recurrent_size=12",
        "output_dir": tmp_path / "run",
    }
    assert train(flags(options.pop("output_dir"), options)) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    parts = [config[part] for part in ("encoder", "decoder") if part in config] or [config]
    assert [(part["mixer_type"], part["recurrent_size"]) for part in parts] == [(mixer, 12)] * len(parts)
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert re.search(rf"\| `mixer_type` \| {mixer} ", card) and re.search(r"\| `recurrent_size` \| 12 ", card)
    # Only in the encoder-decoder is there a part with heads, and an attention map.
    is_pair = len(parts) > 1
    assert ("`num_attention_heads` | – | 4" in card) == is_pair and ("`num_attention_heads`" in card) == is_pair
    assert bool(list((tmp_path / "run").glob("*/blending.png"))) == is_pair
    column = TASKS[task].inputs[0]
    # A masked language model is asked about masks.
    mask = " [MASK]" if task == "masked-lm" else ""
    asked = write(
        tmp_path / "asked.jsonl", [{column: row[column] + mask if mask else row[column]} for row in ROWS[task]]
    )
    answers = predict(tmp_path / "run", asked, tmp_path / "answers.jsonl")
    assert len(answers) == len(ROWS[task])
    if not TASKS[task].generates and task != "causal-lm":  # tests/clients has CTranslate2
        with pytest.raises(InputError, match=f"mixer_type='{mixer}'"):
            export(tmp_path / "run", tmp_path / "out", "onnx")


def test_compiled_training_is_refused_before_it_begins(mixer, tmp_path, capsys):
    rows = write(tmp_path / "rows.jsonl", ROWS[CLASSIFY])
    options = {"train_file": rows, "config_overrides": f"mixer_type={mixer},hidden_size=16", "torch_compile": True}
    assert train(flags(tmp_path / "run", options)) == 2
    assert "torch_compile: a recurrent mixer_type has no graph" in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.json").exists()
