"""The layout inside a stack follows from what is asked for, and never changes a value; what has none is refused."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from conftest import VOCAB, assert_close, every_head, named, tiny_model
from transformers import DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seqblend import (
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderModel,
    BlendEncoderForMaskedLM,
    BlendEncoderModel,
)
from seqblend.modeling.cache import CACHE_NAME

IDS = torch.arange(3, 15).view(2, 6) % VOCAB
RESTARTING = torch.tensor([[0, 1, 2, 0, 1, 2]])
SOURCE_MASK = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
every_stack = pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)


def states(model, **inputs):
    with torch.no_grad():
        return model(**{"input_ids": IDS, **inputs}).last_hidden_state


@every_stack
def test_positions_of_one_row_are_those_of_all_rows(model_class):
    model = tiny_model(model_class)
    found = states(model, position_ids=RESTARTING)
    assert_close(found, states(model, position_ids=RESTARTING.expand(2, -1)))
    assert_close(found[:, 3:], states(model, input_ids=IDS[:, 3:]))


def test_labels_of_one_text_are_not_those_of_the_text_before():
    model = tiny_model(BlendDecoderForCausalLM)
    inputs = {"input_ids": IDS, "labels": IDS}
    loss = model(**inputs, position_ids=RESTARTING).loss
    assert_close(loss, model(**inputs, position_ids=RESTARTING.expand(2, -1)).loss)
    assert_close(loss, model(input_ids=IDS.view(4, 3), labels=IDS.view(4, 3)).loss)


@pytest.mark.parametrize("name", ["flash_attention_2", "flash_attention_4", "kernels-community/flash-attn2"])
@every_stack
def test_every_flash_attention_is_given_the_lengths(model_class, name, monkeypatch):
    """Whatever its name is: transformers has several, and replaces one by another."""
    given = []

    def kernel(module, query, key, value, mask, cu_seq_lens_q, cu_seq_lens_k, **kwargs):
        given.append((cu_seq_lens_q.tolist(), cu_seq_lens_k.tolist()))
        return torch.zeros_like(query).transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, name, kernel)
    model = tiny_model(model_class)
    model.config._attn_implementation = name
    states(model, input_ids=IDS.view(1, 12), position_ids=RESTARTING.repeat(1, 2))
    assert given and set(map(str, given)) == {str(([0, 3, 6, 9, 12],) * 2)}


@every_stack
def test_a_kernel_of_the_user_keeps_packed_sequences_apart(model_class, monkeypatch):
    """With a mask function beside it: without one, the kernel finds out for itself."""
    for table in (ALL_ATTENTION_FUNCTIONS, ALL_MASK_ATTENTION_FUNCTIONS):
        monkeypatch.setitem(table._global_mapping, "mine", table["sdpa"])
    model, batch = tiny_model(model_class), {"input_ids": IDS.view(1, 12), "position_ids": RESTARTING.repeat(1, 2)}
    expected = states(model, **batch)
    model.set_attn_implementation("mine")
    assert_close(states(model, **batch), expected)


@pytest.mark.parametrize("target_mask", [None, torch.tensor([[1] * 6, [1] * 2 + [0] * 4])], ids=["full", "padded"])
def test_a_prepared_mask_of_the_source_counts(target_mask):
    model = tiny_model(BlendEncoderDecoderModel)
    inputs = {"decoder_input_ids": IDS, "decoder_attention_mask": target_mask}
    found = states(model, **inputs, attention_mask=SOURCE_MASK.bool()[:, None, None])
    expected = states(model, **inputs, attention_mask=SOURCE_MASK)
    is_real = torch.ones_like(IDS, dtype=torch.bool) if target_mask is None else target_mask.bool()
    assert_close(found[is_real], expected[is_real])


def test_a_flattened_source_needs_no_flattened_target():
    model = tiny_model(BlendEncoderDecoderModel)
    target = {"decoder_input_ids": IDS[:, :4]}
    source = {"input_ids": IDS[SOURCE_MASK.bool()][None], "position_ids": torch.tensor([[0, 1, 2, 3, 4, 5, 0, 1, 2]])}
    assert_close(states(model, **source, **target), states(model, attention_mask=SOURCE_MASK, **target))
    assert model(**source, **target, use_cache=True).get(CACHE_NAME) is None
    with pytest.raises(ValueError, match="a flattened source needs a flattened target"):
        model(**source, **target, output_hidden_states=True)
    with pytest.raises(ValueError, match="a flattened batch, or one with a flattened source, has no cache"):
        model(**source, **target, cache=model.decoder.new_cache())


@every_stack
def test_what_a_flattened_batch_does_not_have_is_refused(model_class):
    model, lengths = tiny_model(model_class), {"cu_seq_lens_q": torch.tensor([0, 5, 12]), "max_length_q": 7}
    with pytest.raises(ValueError, match="attention_mask has zeros"):
        model(IDS, attention_mask=SOURCE_MASK, **lengths)
    with pytest.raises(ValueError, match="output_hidden_states: a flattened batch must be one row"):
        model(IDS, position_ids=RESTARTING, output_hidden_states=True)
    flat = model(IDS.view(1, 12), position_ids=RESTARTING.repeat(1, 2), output_hidden_states=True)
    assert {tuple(each.shape[:2]) for each in flat.hidden_states} == {(1, 12)}


def test_a_flattened_batch_has_no_cache():
    model = tiny_model(BlendDecoderModel)
    with pytest.raises(ValueError, match="has no cache"):
        model(IDS, position_ids=RESTARTING, cache=DynamicCache(config=model.config))
    cache = model(IDS)[CACHE_NAME]
    with pytest.raises(ValueError, match="cu_seq_lens_q: a flattened batch has no cached tokens"):
        model(IDS, cache=cache, cu_seq_lens_q=torch.tensor([0, 5, 12]), max_length_q=7)


@every_stack
def test_a_window_counts_columns(model_class):
    """Padding between the tokens of a row counts: a cache has no room for another rule."""
    window = {"layer_types": ["sliding_attention"] * 2, "sliding_window": 2}
    model, mask = tiny_model(model_class, **window), torch.tensor([[1, 1, 1, 0, 0, 1], [1] * 6])
    found = states(model, attention_mask=mask)
    assert_close(found[mask.bool()], states(model, attention_mask=mask, output_hidden_states=True)[mask.bool()])
    if model_class is BlendDecoderModel:
        cache = model(IDS[:, :5], attention_mask=mask[:, :5])[CACHE_NAME]
        assert_close(found[:, 5:], states(model, input_ids=IDS[:, 5:], attention_mask=mask, cache=cache))


@pytest.mark.parametrize("begins_at", ["layer", "head"])
@every_head
def test_layers_may_be_on_several_devices(model_class, begins_at):
    """As with device_map: `meta` stands for the second device, on which nothing is computed but all is checked."""
    model = tiny_model(model_class).float()
    model(IDS, attention_mask=SOURCE_MASK)
    stack = model.get_decoder() if model.config.is_encoder_decoder else model.base_model
    late = [stack.layers[1], stack.norm] if begins_at == "layer" else []
    late += [module for name, module in model.named_children() if name != model.base_model_prefix]
    for module in late:
        add_hook_to_module(module.to("meta"), AlignDevicesHook(execution_device="meta"))
    logits = model(IDS, attention_mask=SOURCE_MASK).logits
    assert logits.device.type == "meta" and logits.shape[0] == 2


@every_head
def test_a_model_without_weights_has_the_shapes_of_its_outputs(model_class):
    model = tiny_model(model_class)
    with torch.device("meta"):
        empty = model_class(model.config).eval()
    assert empty(IDS.to("meta")).logits.shape == model(IDS).logits.shape


@pytest.mark.parametrize("positions", [[0, 1, 2, 0, 1, 2], [0, 2, 4, 6, 8, 10]], ids=["restart", "gaps"])
@every_stack
def test_with_a_mask_of_ones_a_row_is_one_sequence(model_class, positions):
    """As in transformers. Only without a mask, position_ids tell where sequences begin."""
    model, mask = tiny_model(model_class), torch.ones(2, 6, dtype=torch.long)
    asked = {"position_ids": torch.tensor([positions] * 2), "attention_mask": mask}
    alone = states(model, **asked)[0]
    assert_close(states(model, **asked, output_hidden_states=True)[0], alone)
    other = mask.clone()
    other[1, 5] = 0
    assert_close(states(model, **{**asked, "attention_mask": other})[0], alone)


def test_a_decoder_without_a_source_has_no_cross_attention():
    assert "cross_attentions" not in tiny_model(BlendDecoderForCausalLM, "eager")(IDS, output_attentions=True)


def test_a_decoder_that_reads_a_source_without_its_encoder_generates():
    model = tiny_model(BlendDecoderForCausalLM, "eager", cross_attention_hidden_size=32)
    source = {"encoder_hidden_states": torch.randn(2, 3, 32, dtype=torch.float64)}
    assert len(model(IDS, **source, output_attentions=True).cross_attentions) == model.config.num_hidden_layers
    for options in ({}, {"num_beams": 2}):
        cached, computed = (
            model.generate(IDS, **source, max_new_tokens=4, min_new_tokens=4, use_cache=use_cache, **options)
            for use_cache in (True, False)
        )
        assert cached.tolist() == computed.tolist()


def test_set_embeddings_are_those_of_both_parts():
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)
    new = torch.nn.Embedding(VOCAB, model.config.encoder.hidden_size)
    model.set_input_embeddings(new)
    assert model.model.decoder.embed_tokens.weight is new.weight


def test_letters_that_no_checkpoint_has_are_unknown(tmp_path):
    tiny_model(BlendEncoderForMaskedLM).save_pretrained(tmp_path)
    # Memory that is given back and handed out again is not zero.
    torch.full((2, VOCAB, 4), 7, dtype=torch.int32)
    model = BlendEncoderForMaskedLM.from_pretrained(tmp_path, affix_buckets=10)
    with pytest.raises(ValueError, match="the letters of the tokens are unknown"):
        model(IDS)
