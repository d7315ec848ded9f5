"""Quantized caches of transformers with our decoder; those of optimum-quanto and hqq where these are installed."""

import pytest
import torch
from conftest import SLIDING, VOCAB, assert_close, padded, tiny_config
from transformers import QuantizedCache

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendEncoderDecoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
)
from seqblend.modeling.cache import CACHE_NAME

GROUPS = {"q_group_size": 32, "residual_length": 16}
# Of each backend the module it needs, its settings, and the largest error in standard deviations of the logits.
BACKENDS = {
    "fp8": ("torch", {}, 0.5),
    "quanto": ("optimum.quanto", {"nbits": 4, **GROUPS}, 1.0),
    "hqq": ("hqq", {"nbits": 8, "axis_key": 1, "axis_value": 1, **GROUPS}, 0.1),
}


def decoder(**options):
    sizes = {"head_dim": 32, "initializer_range": 0.1, "max_position_embeddings": 128, "eos_token_id": None}
    return BlendDecoderForCausalLM(tiny_config(BlendDecoderConfig, **sizes, **options)).eval()


@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_quantized_cache_says_nearly_the_same(backend):
    """Token by token after a padded prompt, beyond what is kept in full precision."""
    module, settings, tolerance = BACKENDS[backend]
    pytest.importorskip(module)
    model = decoder()
    batch = padded([{"input_ids": torch.randint(3, VOCAB, (length,))} for length in (60, 50)], "left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = model(ids, mask, use_cache=False).logits[:, 30:]
    cache = QuantizedCache(backend, model.config, **settings)
    model(ids[:, :30], mask[:, :30], cache=cache)
    steps = [model(ids[:, t : t + 1], mask[:, : t + 1], cache=cache).logits for t in range(30, 60)]
    assert_close(torch.cat(steps, dim=1), expected, tolerance)
    assert not torch.equal(torch.cat(steps, dim=1), expected)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_generation_with_a_quantized_cache(num_beams):
    prompt = padded([{"input_ids": torch.randint(3, VOCAB, (length,))} for length in (9, 5)], "left")
    asked = {"max_new_tokens": 8, "do_sample": False, "num_beams": num_beams, "return_dict_in_generate": True}
    written = decoder().generate(**prompt, **asked, cache_implementation="quantized", cache_config={"backend": "fp8"})
    assert written.sequences.shape == (2, 17)
    assert isinstance(written[CACHE_NAME], QuantizedCache)


def test_what_transformers_does_not_quantize():
    """It says so itself."""
    prompt = {"input_ids": torch.randint(3, VOCAB, (2, 5))}
    asked = {"max_new_tokens": 2, "cache_implementation": "quantized", "cache_config": {"backend": "fp8"}}
    with pytest.raises(ValueError, match="only full attention layers"):
        decoder(**SLIDING).generate(**prompt, **asked)
    with pytest.raises(ValueError, match="does not support the quantized cache"):
        BlendEncoderDecoderForSeq2SeqLM(tiny_config(BlendEncoderDecoderConfig)).generate(**prompt, **asked)
