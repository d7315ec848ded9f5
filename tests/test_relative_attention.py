"""Attention with biases by distance: what holds without them holds with them, and what they do not have is refused.

The imported tests run here once more, with biases in every model.
"""

import conftest
import pytest
import reference
import torch
from conftest import (
    DENSE,
    SLIDING,
    assert_close,
    assert_equal_gradients,
    draw,
    every_base,
    every_config,
    every_kernel,
    gradients,
    named,
    output_of,
    padded,
    tiny_model,
)
from huggingface_hub.errors import StrictDataclassError
from test_export import test_opens_without_the_package_in_every_auto_class_and_again  # noqa: F401
from test_generation import (  # noqa: F401
    test_a_mask_may_be_for_tokens_to_come_too,
    test_a_prompt_may_end_in_padding,
    test_batch_is_one_by_one,
    test_beams_that_begin_as_one_write_the_same,
    test_cache_is_an_argument,
    test_generation_goes_on_from_a_cache,
    test_generation_in_half_precision,
    test_generation_without_a_cache_is_the_same,
    test_greedy_is_argmax,
    test_guessed_tokens_change_nothing,
    test_padding_of_a_prompt_is_not_computed,
    test_rows_of_a_cache_may_be_rearranged,
    test_static_cache_with_windows,
    test_static_cache_writes_the_same,
)
from test_models import (  # noqa: F401
    test_attentions_and_hidden_states,
    test_gradient_checkpointing_changes_no_gradient,
    test_layers_may_be_cut_off,
    test_masks_may_be_added_or_tell_what_is_seen,
    test_masks_may_be_made_beforehand,
    test_one_graph_without_a_break,
    test_parts_may_be_saved_alone,
    test_saved_and_loaded,
    test_sliding_layer_sees_its_window,
)
from test_packing import (  # noqa: F401
    LargestTensor,
    test_a_flattened_batch_is_one_graph,
    test_a_graph_keeps_apart_what_restarts,
    test_as_close_in_bfloat16_as_padded,
    test_autocast_reaches_the_kernel,
    test_flattened_input_equals_padded,
    test_no_gradient_from_one_sequence_to_another,
    test_padding_is_not_computed,
    test_sequences_of_all_lengths,
    test_source_and_target_have_their_own_lengths,
)
from test_trainer import (  # noqa: F401
    test_a_stopped_and_resumed_run_equals_an_uninterrupted_one,
    test_one_step_changes_every_parameter,
)

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderConfig,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
    BlendEncoderModel,
)
from seqblend.modeling.positions import RelativeAttentionBias

# Distances of up to 3 tokens in a decoder, and up to 1 in an encoder, have a bucket of their own.
BIASES = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 6}


@pytest.fixture(autouse=True)
def biases(monkeypatch):
    """The biases of all models of a test; all layers share them."""
    for name, value in BIASES.items():
        monkeypatch.setitem(conftest.SIZES, name, value)


@pytest.fixture(params=[False, True], ids=["shared", "per layer"])
def per_layer(request, biases, monkeypatch):
    """Shared biases, and those of each layer."""
    monkeypatch.setitem(conftest.SIZES, "relative_attention_per_layer", request.param)
    return request.param


@pytest.mark.parametrize("is_bidirectional", [False, True])
@pytest.mark.parametrize("num_buckets, max_distance", [(8, 6), (32, 128), (4, 3), (10, 7), (7, 5)])
def test_buckets(num_buckets, max_distance, is_bidirectional):
    module = RelativeAttentionBias(
        num_buckets=num_buckets, num_heads=2, max_distance=max_distance, is_bidirectional=is_bidirectional
    )
    distances = list(range(-2 * max_distance, 2 * max_distance + 1))
    expected = [reference.bucket(each, num_buckets, max_distance, is_bidirectional) for each in distances]
    assert module.buckets(torch.tensor(distances)).tolist() == expected
    assert max(expected) < num_buckets and expected[0] != expected[-1]


@every_base
@every_kernel
@pytest.mark.parametrize("options", [{}, SLIDING, {"position_type": "learned", "num_key_value_heads": 4}], ids=named)
@torch.no_grad()
def test_equals_the_reference(model_class, options, attention, per_layer):
    model = tiny_model(model_class, attention, **options)
    (row,) = draw(model_class, [9], labels=False)
    actual = output_of(model, padded([row]))
    if model_class in (BlendEncoderModel, BlendDecoderModel):
        causal = model_class is BlendDecoderModel
        expected = reference.stack(row["input_ids"], model.state_dict(), model.config, causal)
    else:
        config = model.config
        states = reference.stack(row["input_ids"], model.encoder.state_dict(), config.encoder, causal=False)
        expected = reference.stack(row["decoder_input_ids"], model.decoder.state_dict(), config.decoder, True, states)
    assert_close(actual, expected)


@every_base
@torch.no_grad()
def test_a_masked_token_between_others_counts_in_no_form(model_class, per_layer):
    """Distances are counted over real tokens: with the token left out, the output is the same."""
    model = tiny_model(model_class)
    rows = draw(model_class, [7, 7], labels=False)
    batch = padded(rows)
    if "decoder_input_ids" in batch:
        del batch["decoder_input_ids"], batch["decoder_attention_mask"]
    batch["attention_mask"][0, 3] = 0
    rest = torch.cat([rows[0]["input_ids"][:3], rows[0]["input_ids"][4:]])[None]
    alone = model(input_ids=rest).last_hidden_state[0]
    for asked in ({}, {"output_hidden_states": True}):
        states = model(**batch, **asked).last_hidden_state[0]
        assert_close(torch.cat([states[:3], states[4:]]), alone)


@every_base
def test_flat_equals_padded_with_gradients(model_class, per_layer):
    model = tiny_model(model_class, **SLIDING)
    batch = padded(draw(model_class, [9, 4, 7, 40]))
    assert_close(output_of(model, batch), output_of(model, batch, **DENSE))
    assert_equal_gradients(gradients(model, batch), gradients(model, batch, **DENSE))


@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM])
@pytest.mark.parametrize("sliding", [{}, SLIDING], ids=["full", "sliding"])
@pytest.mark.parametrize("lengths", [[7, 4, 5], [6, 6]], ids=["padded", "full"])
def test_all_caches_write_the_same(model_class, lengths, sliding, per_layer):
    model = tiny_model(model_class, **sliding)
    batch = padded(draw(model_class, lengths, labels=False), "left")
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if len(lengths) == 2 and model_class is BlendEncoderDecoderForSeq2SeqLM:
        prompt["decoder_input_ids"] = torch.tensor([[1, 5, 6], [1, 7, 8]])
    asked = {"max_new_tokens": 9, "do_sample": False}
    expected = model.generate(**prompt, **asked, use_cache=False)
    for cache in ("dynamic", "static"):
        assert torch.equal(model.generate(**prompt, **asked, cache_implementation=cache), expected), cache


@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderForMaskedLM])
@torch.no_grad()
def test_logits_may_be_scaled(model_class):
    batch = padded(draw(model_class, [7, 4], labels=False))
    plain, scaled = (
        output_of(tiny_model(model_class, scale_logits=scale, lm_head_bias=False), batch) for scale in (False, True)
    )
    assert_close(scaled, plain / conftest.SIZES["hidden_size"] ** 0.5)


def test_logits_of_an_encoder_decoder_may_be_scaled():
    batch = padded(draw(BlendEncoderDecoderForSeq2SeqLM, [7, 4], labels=False))
    plain, scaled = (
        output_of(tiny_model(BlendEncoderDecoderForSeq2SeqLM, scale_logits=scale), batch) for scale in (False, True)
    )
    assert_close(scaled, plain / conftest.SIZES["hidden_size"] ** 0.5)


def test_a_head_of_its_own_beside_shared_embeddings(tmp_path):
    """tie_lm_head=False: encoder and decoder still have one matrix, in training and after saving and resizing."""
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM, tie_lm_head=False)
    model.save_pretrained(tmp_path)
    model = BlendEncoderDecoderForSeq2SeqLM.from_pretrained(tmp_path)
    model.resize_token_embeddings(conftest.VOCAB + 5)
    encoder, decoder = (part.embed_tokens.weight for part in (model.model.encoder, model.model.decoder))
    assert encoder is decoder and model.lm_head.weight is not encoder
    assert model.lm_head.weight.shape == encoder.shape == (conftest.VOCAB + 5, conftest.SIZES["hidden_size"])


def test_reentrant_checkpointing(per_layer):
    """It finds no gradient for shared biases, and is refused; with biases of each layer it finds them."""
    model = tiny_model(BlendEncoderModel).train()
    batch = padded(draw(BlendEncoderModel, [7, 4]))
    expected = gradients(model, batch)
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    if not per_layer:
        with pytest.raises(ValueError, match="gradient checkpointing with use_reentrant=True"):
            gradients(model, batch)
    else:
        assert_equal_gradients(gradients(model, batch), expected)


@pytest.mark.parametrize("padding", [0, 1])
@every_base
def test_windows_grow_with_the_length_only(model_class, padding, per_layer):
    windows = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 3}
    model = tiny_model(model_class, **windows, max_position_embeddings=2048).train()
    largest = []
    for length in (256, 1024):
        batch = padded(draw(model_class, [length, length - padding]))
        with LargestTensor() as recorded:
            model(**batch).last_hidden_state.sum().backward()
        largest.append(recorded.numel)
    assert largest[1] <= 4.1 * largest[0]


@every_base
def test_other_kernels_are_refused(model_class):
    model = tiny_model(model_class)
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match="relative_attention_num_buckets does not go together with attn_implementat"):
        model(**padded(draw(model_class, [4])))


@every_config
@pytest.mark.parametrize(
    "options, message",
    [
        ({"relative_attention_num_buckets": 3}, "must be 4 or above for a blend_encoder"),
        ({"relative_attention_num_buckets": 1}, "must be . or above"),
        ({"relative_attention_num_buckets": 32, "relative_attention_max_distance": 8}, "must be above"),
        ({"relative_attention_num_buckets": None, "relative_attention_max_distance": 9}, "has no effect"),
        ({"relative_attention_num_buckets": 0}, "must be above 0"),
    ],
)
def test_options_that_do_not_fit(config_class, options, message):
    if config_class is BlendDecoderConfig and options["relative_attention_num_buckets"] == 3:
        return  # one direction needs two
    with pytest.raises((ValueError, StrictDataclassError), match=message):
        config_class.from_recipe(**{"relative_attention_per_layer": False, **options})


def test_a_bidirectional_stack_has_buckets_for_both_sides():
    assert BlendEncoderConfig.is_bidirectional and not BlendDecoderConfig.is_bidirectional


@every_config
def test_a_recurrent_mixer_has_no_biases(config_class):
    if config_class is not BlendEncoderDecoderConfig:
        with pytest.raises(StrictDataclassError, match="has no effect: mixer_type='lstm' is no attention"):
            config_class(mixer_type="lstm", relative_attention_num_buckets=8)
    else:
        config = config_class.from_recipe(decoder={"mixer_type": "lstm"}, relative_attention_num_buckets=8)
        assert config.encoder.relative_attention_num_buckets == 8
        assert config.decoder.relative_attention_num_buckets is None
