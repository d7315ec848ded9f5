"""Keys and values that somebody has taken from a cache of generate() never change, whatever is done with it then."""

import copy

import pytest
import torch
from conftest import VOCAB, named, padded, tiny_model

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM
from seqblend.modeling.cache import CACHE_NAME, BufferedLayer, self_attention_cache

TURNED = torch.tensor([1, 0])


def prompt_of(lengths):
    return padded([{"input_ids": torch.randint(3, VOCAB, (length,))} for length in lengths], "left")


def write(model, prompt, **asked):
    """The output of generate(), with its cache."""
    asked = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, **asked}
    return model.generate(**prompt, **asked)


@torch.no_grad()
def go_on(model, cache, count=2):
    """Let a model read some tokens after those in a cache; returns the last logits."""
    rows = len(self_attention_cache(cache).layers[0].keys)
    ids = torch.randint(3, VOCAB, (rows, count))
    if model.config.is_encoder_decoder:
        source = torch.ones(rows, 3, dtype=torch.long)
        return model(input_ids=source, decoder_input_ids=ids, cache=cache).logits
    return model(ids, cache=cache).logits


def crop(model, cache):
    cache.crop(-2)
    go_on(model, cache)


def slice_by_hand(model, cache):
    for layer in self_attention_cache(cache).layers:
        layer.keys, layer.values = layer.keys[..., :-2, :], layer.values[..., :-2, :]
    go_on(model, cache)


def reorder_twice(model, cache):
    for _ in range(2):
        cache.reorder_cache(TURNED)
        go_on(model, cache, 1)
    cache.reorder_cache(TURNED)


def crop_and_reorder(model, cache):
    cache.crop(-1)
    reorder_twice(model, cache)


def append(model, cache):
    go_on(model, cache)
    go_on(model, cache, 100)


LATER = [crop, slice_by_hand, reorder_twice, crop_and_reorder, append]


@pytest.mark.parametrize("later", LATER, ids=named)
@pytest.mark.parametrize("num_beams", [1, 2])
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
def test_what_was_taken_stays(model_class, num_beams, later):
    model = tiny_model(model_class, eos_token_id=None)
    cache = write(model, prompt_of([5, 3]), num_beams=num_beams, num_return_sequences=num_beams)[CACHE_NAME]
    own = self_attention_cache(cache)
    assert all(isinstance(layer, BufferedLayer) for layer in own.layers)
    if num_beams > 1:
        cache.batch_select_indices(torch.tensor([0, 2]))
    taken = [states for layer in own.layers for states in (layer.keys, layer.values[:1])]
    before = [states.clone() for states in taken]
    later(model, cache)
    assert all(map(torch.equal, taken, before))


def test_what_was_taken_stays_when_beams_go_on():
    """Beam search changes places between two rooms, of which one was the taker's."""
    model, prompt = tiny_model(BlendDecoderForCausalLM, eos_token_id=None), prompt_of([5])
    output = write(model, prompt, num_beams=3, num_return_sequences=3)
    cache = output[CACHE_NAME]
    taken = [states for layer in cache.layers for states in (layer.keys, layer.values)]
    before = [states.clone() for states in taken]
    write(model, {"input_ids": output.sequences[:1]}, num_beams=3, max_new_tokens=6, **{CACHE_NAME: cache})
    assert all(map(torch.equal, taken, before))


@pytest.mark.parametrize("how", ["shallow", "deep"])
def test_copies_of_a_cache_go_on_alone(how):
    """A prompt that is read once, and what follows it in two ways."""
    model = tiny_model(BlendDecoderForCausalLM, eos_token_id=None)
    cache = write(model, prompt_of([5]))[CACHE_NAME]
    twin = copy.deepcopy(cache) if how == "deep" else copy.copy(cache)
    if how == "shallow":
        twin.layers = [copy.copy(layer) for layer in cache.layers]
    expected = copy.deepcopy(cache)
    go_on(model, cache)
    first = [layer.keys.clone() for layer in cache.layers]
    torch.manual_seed(1)
    logits = go_on(model, twin)
    assert all(map(torch.equal, first, [layer.keys for layer in cache.layers]))
    torch.manual_seed(1)
    assert torch.equal(logits, go_on(model, expected))
