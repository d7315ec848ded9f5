"""Caches change nothing, and generate() writes what the model says, one token after the other."""

import copy
import warnings
from contextlib import ExitStack
from inspect import signature
from unittest import mock

import pytest
import torch
from conftest import (
    KERNELS,
    PAIRWISE,
    SLIDING,
    VOCAB,
    assert_close,
    calls_of,
    every_base,
    every_kernel,
    every_pair,
    every_pairing,
    is_encoder_decoder,
    named,
    padded,
    real_rows,
    tiny_config,
    tiny_model,
)
from torch import nn
from transformers import CompileConfig, ContinuousBatchingConfig, GenerationConfig
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache, StaticCache

from seqblend import (
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderModel,
)
from seqblend.modeling import heads
from seqblend.modeling.cache import CACHE_NAME, RecurrentLayer, self_attention_cache
from seqblend.modeling.heads import VOCABULARY_CHUNK, project

SOURCES, TARGETS = [7, 4], [10, 6]
WINDOW = SLIDING["sliding_window"]
ONE_BY_ONE, CHUNKS = [1] * 10, [4, 1, 3, 2]

GENERATORS = [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
WINDOWS = [{}, SLIDING, {"layer_types": ["sliding_attention"] * 2, "sliding_window": WINDOW}]
every_generator = pytest.mark.parametrize("model_class", GENERATORS, ids=named)
every_window = pytest.mark.parametrize("sliding", WINDOWS, ids=["full", "mixed", "sliding"])


def rows_of(*lengths: int) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": torch.randint(3, VOCAB, (length,))} for length in lengths]


def source_of(model_class: type, side: str = "right") -> dict[str, torch.Tensor]:
    """What an encoder-decoder reads besides the target, longer than the window of a sliding layer."""
    return padded(rows_of(*SOURCES), side) if is_encoder_decoder(model_class) else {}


def as_target(model_class: type, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "decoder_" if is_encoder_decoder(model_class) else ""
    return {f"{prefix}{name}": tensor for name, tensor in batch.items()}


def step(
    model: nn.Module, source: dict, target: dict, start: int, size: int, cache: Cache | None
) -> tuple[torch.Tensor, Cache]:
    """Logits of `size` tokens of the target from `start`, with what a cache says of those before."""
    now = {
        "input_ids": target["input_ids"][:, start : start + size],
        "attention_mask": target["attention_mask"][:, : start + size],
    }
    output = model(**source, **as_target(type(model), now), cache=cache, use_cache=True)
    return output.logits, output[CACHE_NAME]


def select(batch: dict[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: tensor[rows] for name, tensor in batch.items()}


def without_cache(model: nn.Module, source: dict, target: dict) -> torch.Tensor:
    return model(**source, **as_target(type(model), target), use_cache=False).logits


@every_pairing(model_class=GENERATORS, options=PAIRWISE, sliding=WINDOWS, attention=KERNELS)
@torch.no_grad()
def test_cached_equals_uncached(model_class, options, sliding, attention):
    """With padding on the left of the target, where it stands in generation; one by one, and in chunks."""
    sizes = ONE_BY_ONE if attention == "eager" else CHUNKS
    model = tiny_model(model_class, attention, **options, **sliding)
    source, target = source_of(model_class), padded(rows_of(*TARGETS), "left")
    expected = without_cache(model, source, target)
    logits, cache, start = [], None, 0
    for size in sizes:
        chunk, cache = step(model, source, target, start, size, cache)
        logits.append(chunk)
        start += size
    real = target["attention_mask"].bool()
    assert_close(torch.cat(logits, dim=1)[real], expected[real])


@pytest.mark.parametrize("new_cache", [DynamicCache, lambda config: StaticCache(config, max_cache_len=10)])
@pytest.mark.parametrize("position_type", ["learned", "rotary"])
@torch.no_grad()
def test_a_mask_may_be_for_tokens_to_come_too(position_type, new_cache):
    """Learned positions were those of the mask's last tokens."""
    model = tiny_model(BlendDecoderForCausalLM, position_type=position_type)
    target = padded(rows_of(*TARGETS), "left")
    expected = without_cache(model, {}, target)
    cache, logits = new_cache(config=model.config), []
    for tokens in target["input_ids"].split(CHUNKS, dim=1):
        logits.append(model(tokens, attention_mask=target["attention_mask"], cache=cache).logits)
    real = target["attention_mask"].bool()
    assert_close(torch.cat(logits, dim=1)[real], expected[real])


@every_generator
@torch.no_grad()
def test_a_mask_must_be_for_tokens_in_the_cache_too(model_class):
    """One for the new tokens alone was taken for one of the first."""
    model = tiny_model(model_class)
    source, target = source_of(model_class), padded(rows_of(*TARGETS), "left")
    _, cache = step(model, source, target, 0, 6, None)
    new = as_target(model_class, {name: tensor[:, 6:] for name, tensor in target.items()})
    with pytest.raises(ValueError, match=r"\(2, 4\), the input \(2, 4\) after 6 tokens"):
        model(**source, **new, cache=cache)


@every_generator
@torch.no_grad()
def test_labels_of_tokens_after_those_in_a_cache(model_class):
    """The loss is that of these tokens; an encoder-decoder took their labels for the mask of all."""
    model = tiny_model(model_class)
    source, target = source_of(model_class), padded(rows_of(10, 10))
    _, cache = step(model, source, target, 0, 6, None)
    logits = without_cache(model, source, target)[:, 6:]
    new = as_target(model_class, {"input_ids": target["input_ids"][:, 6:]})
    labels = target["input_ids"][:, 6:]
    output = model(**source, **new, cache=cache, labels=labels)
    assert_close(output.logits, logits)
    if model_class is BlendDecoderForCausalLM:
        logits, labels = logits[:, :-1], labels[:, 1:]
    assert_close(output.loss, nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))


REARRANGED = {
    "reorder": (lambda cache: cache.reorder_cache(torch.tensor([1, 0])), [1, 0]),
    "select": (lambda cache: cache.batch_select_indices(torch.tensor([1])), [1]),
    "repeat": (lambda cache: cache.batch_repeat_interleave(2), [0, 0, 1, 1]),
}


@every_generator
@every_window
@pytest.mark.parametrize("change, order", REARRANGED.values(), ids=REARRANGED.keys())
@torch.no_grad()
def test_rows_of_a_cache_may_be_rearranged(model_class, sliding, change, order):
    """As beam search does it."""
    model = tiny_model(model_class, **sliding)
    source, target = source_of(model_class), padded(rows_of(*TARGETS), "left")
    _, cache = step(model, source, target, 0, 6, None)
    change(cache)
    source, target = (select(batch, torch.tensor(order)) for batch in (source, target))
    logits, _ = step(model, source, target, 6, 4, cache)
    assert_close(logits, without_cache(model, source, target)[:, 6:])


@every_generator
@torch.no_grad()
def test_cache_is_an_argument(model_class):
    """Two caches in turn do not touch each other: nothing is kept in the model."""
    model = tiny_model(model_class)
    source = source_of(model_class)
    targets = [padded(rows_of(*TARGETS), "left") for _ in range(2)]
    caches = [step(model, source, target, 0, 6, None)[1] for target in targets]
    for target, cache in zip(targets, caches, strict=True):
        logits, _ = step(model, source, target, 6, 4, cache)
        assert_close(logits, without_cache(model, source, target)[:, 6:])


def test_caches_are_those_of_transformers():
    decoder = tiny_model(BlendDecoderForCausalLM, **SLIDING)(input_ids=torch.ones(1, 3, dtype=torch.long))
    assert isinstance(decoder[CACHE_NAME], DynamicCache)
    assert decoder[CACHE_NAME].is_sliding == [False, True]
    whole = tiny_model(BlendEncoderDecoderForSeq2SeqLM, **SLIDING)(
        input_ids=torch.ones(1, 5, dtype=torch.long), decoder_input_ids=torch.ones(1, 3, dtype=torch.long)
    )
    assert isinstance(whole[CACHE_NAME], EncoderDecoderCache)
    assert whole[CACHE_NAME].cross_attention_cache.get_seq_length() == 5


class Lists(Cache):
    """A cache that keeps its tensors itself, as some libraries' do."""

    is_sliding, is_compileable = [False], False

    def __init__(self):
        super().__init__(layers=[])
        self.states = {}

    def update(self, keys, values, layer_idx, *args, **kwargs):
        before = self.states.get(layer_idx, (keys[:, :, :0], values[:, :, :0]))
        self.states[layer_idx] = tuple(torch.cat(pair, dim=-2) for pair in zip(before, (keys, values), strict=True))
        return self.states[layer_idx]

    def get_seq_length(self, layer_idx=0):
        return self.states[layer_idx][0].shape[-2] if layer_idx in self.states else 0

    def get_mask_sizes(self, query_length, layer_idx=0):
        return self.get_seq_length(layer_idx) + query_length, 0


@torch.no_grad()
def test_a_cache_without_layers():
    model = tiny_model(BlendDecoderForCausalLM)
    target = padded(rows_of(*TARGETS), "left")
    cache = step(model, {}, target, 0, 6, Lists())[1]
    assert_close(step(model, {}, target, 6, 4, cache)[0], without_cache(model, {}, target)[:, 6:])


@pytest.mark.parametrize("model_class", [*GENERATORS, BlendDecoderModel, BlendEncoderDecoderModel], ids=named)
@torch.no_grad()
def test_a_cache_has_two_names(model_class):
    """transformers calls it past_key_values before 5.24; what was written for that version still runs."""
    model = tiny_model(model_class)
    batch = source_of(model_class) | as_target(model_class, padded(rows_of(4, 4)))
    caches = [model(**batch)[CACHE_NAME] for _ in range(2)]
    batch = source_of(model_class) | as_target(model_class, {"input_ids": torch.ones(2, 1, dtype=torch.long)})
    new, old = model(**batch, cache=caches[0]), model(**batch, past_key_values=caches[1])
    assert torch.equal(new[0], old[0])
    assert new[CACHE_NAME] is caches[0] and old[CACHE_NAME] is caches[1]
    assert caches[1].get_seq_length() == 5
    with pytest.raises(ValueError, match="cache and past_key_values are two names"):
        model(**batch, cache=caches[0], past_key_values=caches[1])


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
@every_generator
def test_generation_takes_a_cache_by_two_names(model_class, name):
    """generate() of the installed transformers knows one of them, or warns of the other."""
    model, prompt = generator(model_class), prompt_of(model_class)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if is_encoder_decoder(model_class) else DynamicCache()
    with warnings.catch_warnings(action="error"):
        written = model.generate(**prompt, max_new_tokens=4, do_sample=False, **{name: cache})
    assert torch.equal(written, model.generate(**prompt, max_new_tokens=4, do_sample=False))
    assert cache.get_seq_length() == written.shape[1] - 1
    with pytest.raises(ValueError, match="cache and past_key_values are two names"):
        model.generate(**prompt, max_new_tokens=4, cache=cache, past_key_values=cache)


@every_base
def test_a_cache_by_another_name_is_refused(model_class):
    """It was ignored, and the model read the last token only: so did all models when transformers 5.24 renamed it."""
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache()) if is_encoder_decoder(model_class) else DynamicCache()
    batch = source_of(model_class) | as_target(model_class, padded(rows_of(3)))
    names = ["states"] if "cache" in signature(model_class.forward).parameters else ["cache", "past_key_values"]
    for name in names:
        with pytest.raises(ValueError, match=f"takes no cache by the name '{name}'"):
            tiny_model(model_class)(**batch, **{name: cache})


@every_generator
def test_gradient_checkpointing_and_a_cache(model_class):
    """Together they are refused in training; without gradients, training mode changes nothing of what is written."""
    model, prompt = generator(model_class), prompt_of(model_class)
    expected = model.generate(**prompt, max_new_tokens=5, do_sample=False)
    model.train().gradient_checkpointing_enable()
    assert torch.equal(model.generate(**prompt, max_new_tokens=5, do_sample=False), expected)
    batch = source_of(model_class) | as_target(model_class, padded(rows_of(4, 4)))
    empty = EncoderDecoderCache(DynamicCache(), DynamicCache()) if is_encoder_decoder(model_class) else DynamicCache()
    with pytest.raises(ValueError, match="gradient checkpointing runs each layer twice"):
        model(**batch, cache=empty)


@every_generator
def test_no_cache_in_training_or_with_labels(model_class):
    """Unless it is asked for. An encoder-decoder has none with labels, as BART: it does not compute their padding."""
    model = tiny_model(model_class)
    batch = source_of(model_class) | as_target(model_class, padded(rows_of(*TARGETS)))
    labels = torch.ones_like(batch.get("decoder_input_ids", batch["input_ids"]))
    assert model(**batch, labels=labels).get(CACHE_NAME) is None
    asked = model(**batch, labels=labels, use_cache=True).get(CACHE_NAME)
    assert (asked is None) == is_encoder_decoder(model_class)
    expected = model(**batch, use_cache=True)
    assert model.train()(**batch).get(CACHE_NAME) is None
    found = model(**batch, use_cache=True)
    caches = (self_attention_cache(each[CACHE_NAME]).layers for each in (found, expected))
    for layer, other in zip(*caches, strict=True):
        if isinstance(layer, RecurrentLayer):
            assert_close(layer.state[0], other.state[0])
        else:
            assert_close(layer.keys, other.keys)


@every_generator
@pytest.mark.parametrize("keep", [1, 3, torch.tensor([2, 5])], ids=["last", "three", "chosen"])
@pytest.mark.parametrize("use_cache", [True, False])
def test_logits_to_keep(model_class, keep, use_cache):
    model = tiny_model(model_class)
    batch = source_of(model_class) | as_target(model_class, padded(rows_of(*TARGETS), "left"))
    expected = model(**batch, use_cache=use_cache).logits
    expected = expected[:, -keep:] if isinstance(keep, int) else expected[:, keep]
    assert_close(model(**batch, use_cache=use_cache, logits_to_keep=keep).logits, expected)


# generate()


def generator(model_class: type, attention: str = "sdpa", **options) -> nn.Module:
    """A model that does not stop before it is told to."""
    return tiny_model(model_class, attention, eos_token_id=None, **options)


def prompt_of(model_class: type, side: str = "left") -> dict[str, torch.Tensor]:
    return source_of(model_class, side) or padded(rows_of(5, 3), side)


@torch.no_grad()
def by_argmax(model: nn.Module, prompt: dict[str, torch.Tensor], count: int) -> torch.Tensor:
    """Greedy decoding written out, without a cache."""
    target, source = dict(prompt), {}
    if isinstance(model, BlendEncoderDecoderForSeq2SeqLM):
        source = prompt
        start = torch.full((len(prompt["input_ids"]), 1), model.config.decoder_start_token_id)
        target = {"input_ids": start, "attention_mask": torch.ones_like(start)}
    for _ in range(count):
        best = without_cache(model, source, target)[:, -1:].argmax(-1)
        target["input_ids"] = torch.cat((target["input_ids"], best), dim=1)
        target["attention_mask"] = torch.cat((target["attention_mask"], torch.ones_like(best)), dim=1)
    return target["input_ids"]


@every_generator
@every_window
@every_kernel
def test_greedy_is_argmax(model_class, sliding, attention):
    """Rows padded on the left, and more tokens than a window has."""
    model = generator(model_class, attention, **sliding)
    prompt = prompt_of(model_class)
    written = model.generate(**prompt, max_new_tokens=4 * WINDOW, do_sample=False)
    assert torch.equal(written, by_argmax(model, prompt, 4 * WINDOW))


@every_generator
@every_pair
def test_greedy_is_argmax_with_every_option(model_class, options):
    model = generator(model_class, **options)
    prompt = prompt_of(model_class)
    assert torch.equal(model.generate(**prompt, max_new_tokens=5, do_sample=False), by_argmax(model, prompt, 5))


WAYS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "beam": {"do_sample": False, "num_beams": 3},
    "beam-sampling": {"do_sample": True, "num_beams": 3},
}


@every_pairing(model_class=GENERATORS, sliding=WINDOWS, way=list(WAYS.values()))
def test_generation_without_a_cache_is_the_same(model_class, sliding, way):
    model = generator(model_class, **sliding)
    prompt = prompt_of(model_class)
    written = []
    for use_cache in (True, False):
        torch.manual_seed(1)
        written.append(model.generate(**prompt, max_new_tokens=8, use_cache=use_cache, **way))
    assert torch.equal(*written)


@every_generator
@every_window
@pytest.mark.parametrize("way", ["greedy", "beam"])
def test_batch_is_one_by_one(model_class, sliding, way):
    model = generator(model_class, **sliding)
    prompt = prompt_of(model_class)
    asked = {"max_new_tokens": 8, **WAYS[way]}
    together = model.generate(**prompt, **asked)
    for index, real in enumerate(prompt["attention_mask"].bool()):
        alone = model.generate(input_ids=prompt["input_ids"][index, real][None], **asked)
        assert torch.equal(alone[0, -8:], together[index, -8:])


def tokens_thought_about(model: nn.Module, prompt: dict[str, torch.Tensor], **asked) -> list[int]:
    """How many tokens reach the decoder's first feed-forward network, forward by forward."""
    mlp = (model.model.decoder if model.config.is_encoder_decoder else model.model).layers[0].mlp
    with calls_of(mlp) as calls:
        model.generate(**prompt, max_new_tokens=3, **asked)
    return [call.args[0].shape[:2].numel() for call in calls]


@every_window
def test_padding_of_a_prompt_is_not_computed(sliding):
    model = generator(BlendDecoderForCausalLM, **sliding)
    prompt = prompt_of(BlendDecoderForCausalLM)
    assert tokens_thought_about(model, prompt, do_sample=False) == [8, 2, 2]


@every_generator
@pytest.mark.parametrize("way", [*WAYS, "several"])
def test_what_rows_begin_with_is_computed_once(model_class, way):
    """Beams of a row, or several samples of it, differ from its second new token on."""
    model = generator(model_class)
    asked = {"do_sample": True, "num_return_sequences": 3} if way == "several" else WAYS[way]
    copies = max(asked.get("num_beams", 1), asked.get("num_return_sequences", 1))
    first = 8 if model_class is BlendDecoderForCausalLM else 2
    assert tokens_thought_about(model, prompt_of(model_class), **asked) == [first, 2 * copies, 2 * copies]


@every_generator
@every_window
@pytest.mark.parametrize("way", ["beam", "beam-sampling"])
def test_beams_that_begin_as_one_write_the_same(model_class, sliding, way):
    """As where weights or states are asked for, which are computed for all beams."""
    model = generator(model_class, **sliding)
    prompt = prompt_of(model_class)
    asked = {"max_new_tokens": 8, "num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True}
    outputs = []
    for states in (False, True):
        torch.manual_seed(1)
        outputs.append(model.generate(**prompt, **asked, **WAYS[way], output_hidden_states=states))
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert_close(outputs[0].sequences_scores, outputs[1].sequences_scores, 1e-5)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (1, 1), (1, 2), (5, 1), (128, 1), (43, 3)], ids=str)
@pytest.mark.parametrize("columns", [heads.COLUMNS, heads.COLUMNS_ON_AMD], ids=["", "AMD"])
@torch.no_grad()
def test_tokens_are_projected_alike_however_few(shape, bias, columns, monkeypatch):
    monkeypatch.setattr(heads, "columns_range", lambda: columns)
    lm_head = nn.Linear(16, VOCABULARY_CHUNK + 3, bias=bias)
    states = torch.randn(*shape, 16)
    projected = project(lm_head, states)
    assert projected.shape == (*shape, VOCABULARY_CHUNK + 3) and projected.is_contiguous()
    assert torch.allclose(projected, nn.functional.linear(states, lm_head.weight, lm_head.bias), atol=1e-6)


@pytest.mark.parametrize("way", ["hook", "pre-hook", "forward"])
@torch.no_grad()
def test_what_watches_or_replaces_the_head_is_asked(way):
    lm_head, seen = nn.Linear(4, 9), []
    if way == "hook":
        lm_head.register_forward_hook(lambda module, inputs, output: seen.append(way))
    elif way == "pre-hook":
        lm_head.register_forward_pre_hook(lambda module, inputs: seen.append(way))
    else:  # as accelerate does
        forward = lm_head.forward
        lm_head.forward = lambda states: seen.append(way) or forward(states)
    project(lm_head, torch.randn(9, 4))
    assert seen == [way]


@every_generator
@torch.no_grad()
def test_dynamic_quantization_finds_every_matrix(model_class):
    """It replaces layers whose type is nn.Linear and no subclass: the head stayed in float32."""
    model = generator(model_class).float()
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    types = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert set(types.values()) == {nn.Linear} and "lm_head" in types
    assert not any(isinstance(quantized.get_submodule(name), nn.Linear) for name in types)
    states = torch.randn(2, 3, model.lm_head.in_features)
    assert_close(quantized.lm_head(states), model.lm_head(states), 0.1)
    prompt = prompt_of(model_class)
    assert torch.equal(quantized.generate(**prompt, max_new_tokens=1), quantized.generate(**prompt, max_new_tokens=1))


@every_generator
@torch.no_grad()
def test_beam_finds_what_is_likelier(model_class):
    """Its score is that of the tokens, and with enough beams no pair of tokens is likelier."""
    model = generator(model_class)
    prompt = {name: tensor[:1] for name, tensor in prompt_of(model_class).items()}
    output = model.generate(
        **prompt,
        max_new_tokens=2,
        num_beams=VOCAB,
        do_sample=False,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    target, source = prompt, {}
    if model_class is BlendEncoderDecoderForSeq2SeqLM:
        target, source = {"input_ids": torch.tensor([[1]]), "attention_mask": torch.tensor([[1]])}, prompt
    first = without_cache(model, source, target)[0, -1].log_softmax(-1)
    many = {name: tensor.expand(VOCAB, -1) for name, tensor in target.items()}
    many = {
        "input_ids": torch.cat((many["input_ids"], torch.arange(VOCAB)[:, None]), dim=1),
        "attention_mask": torch.cat((many["attention_mask"], torch.ones(VOCAB, 1, dtype=torch.long)), dim=1),
    }
    second = without_cache(model, {name: tensor.expand(VOCAB, -1) for name, tensor in source.items()}, many)
    scores = first[:, None] + second[:, -1].log_softmax(-1)
    best = divmod(scores.argmax().item(), VOCAB)
    assert tuple(output.sequences[0, -2:].tolist()) == best
    assert_close(output.sequences_scores[0].double(), scores.max(), 1e-6)


@every_generator
@pytest.mark.parametrize("compiled", [False, True], ids=["uncompiled", "compiled"])
def test_static_cache_writes_the_same(model_class, compiled):
    """Compiled, without a break in the graph, as generate does unasked on a GPU."""
    model = generator(model_class, num_hidden_layers=1)
    prompt = prompt_of(model_class)
    asked = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(**prompt, **asked)
    if compiled:
        asked["compile_config"] = CompileConfig(fullgraph=True, backend="eager")
        asked["compile_config"]._compile_all_devices = True
        torch.compiler.reset()
    assert torch.equal(model.generate(**prompt, **asked, cache_implementation="static"), expected)


@every_generator
@every_window
def test_static_cache_with_windows(model_class, sliding):
    """A layer that slides forgets tokens of the target that its window has left, and none of the source."""
    model = generator(model_class, **sliding)
    prompt = prompt_of(model_class)
    asked = {"max_new_tokens": 4 * WINDOW, "do_sample": False}
    expected = model.generate(**prompt, **asked)
    assert torch.equal(model.generate(**prompt, **asked, cache_implementation="static"), expected)


@every_window
def test_a_prompt_may_end_in_padding(sliding):
    """What is written goes on from the last column, as with a static cache, which keeps the padding."""
    model = generator(BlendDecoderForCausalLM, **sliding)
    prompt = prompt_of(BlendDecoderForCausalLM, "right")
    assert not prompt["attention_mask"][:, -1].all()
    asked = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(**prompt, **asked, cache_implementation="static")
    assert torch.equal(model.generate(**prompt, **asked), expected)


@every_generator
@every_window
@pytest.mark.parametrize("way", ["assisted", "prompt lookup", "early exit"])
def test_guessed_tokens_change_nothing(model_class, sliding, way):
    """Whoever guesses, what is written is what the model says alone."""
    model = generator(model_class, **sliding)
    prompt = {name: tensor[:1] for name, tensor in prompt_of(model_class).items()}
    assistant = generator(model_class, num_hidden_layers=1)
    guessers = {
        "assisted": {"assistant_model": assistant},
        "prompt lookup": {"prompt_lookup_num_tokens": 2},
        "early exit": {"assistant_early_exit": 1},
    }
    asked = {"max_new_tokens": 4 * WINDOW, "do_sample": False}
    assert torch.equal(model.generate(**prompt, **asked, **guessers[way]), model.generate(**prompt, **asked))


@every_generator
def test_an_early_exit_that_is_interrupted_leaves_the_model_as_it_was(model_class):
    """Each later forward would leave out layers without a word."""
    model, prompt = generator(model_class), {"input_ids": torch.ones(1, 3, dtype=torch.long)}

    def interrupt(input_ids, scores):
        if model.model.config.num_hidden_layers == 1:
            raise KeyboardInterrupt
        return scores

    with pytest.raises(KeyboardInterrupt):
        model.generate(**prompt, max_new_tokens=4, assistant_early_exit=1, logits_processor=[interrupt])
    assert model.model.config.num_hidden_layers == 2


@every_base
@every_window
def test_as_many_layers_run_as_the_config_says(model_class, sliding):
    """As in transformers' models; the cache has no more layers either."""
    model = tiny_model(model_class, **sliding)
    batch = padded(rows_of(7, 4))
    states = model(**batch, output_hidden_states=True)
    (stack, layers) = (
        (model.decoder, "decoder_hidden_states") if is_encoder_decoder(model_class) else (model, "hidden_states")
    )
    stack.config.num_hidden_layers = 1
    output = model(**batch)
    assert_close(real_rows(batch, output.last_hidden_state), real_rows(batch, stack.norm(states[layers][1])))
    assert len(model(**batch, output_hidden_states=True)[layers]) == 2
    if CACHE_NAME in output:
        assert len(self_attention_cache(output[CACHE_NAME]).layers) == 1


def test_beams_of_a_cache_that_another_library_puts_in_place():
    """peft's prefix tuning does so in the first forward: that cache is repeated, not the one it was given."""
    model = generator(BlendDecoderForCausalLM)
    prefix, prepare = padded(rows_of(3)), model.prepare_inputs_for_generation

    def prepare_with_prefix(input_ids, is_first_iteration=False, **kwargs):
        inputs = prepare(input_ids, is_first_iteration=is_first_iteration, **kwargs)
        if is_first_iteration:
            rows = {name: tensor.expand(len(input_ids), -1) for name, tensor in prefix.items()}
            inputs[CACHE_NAME] = model(**rows, use_cache=True)[CACHE_NAME]
        inputs["attention_mask"] = nn.functional.pad(inputs["attention_mask"], (3, 0), value=1)
        inputs["position_ids"] = None
        return inputs

    prompt = prompt_of(BlendDecoderForCausalLM)
    whole = {name: torch.cat((prefix[name].expand(2, -1), tensor), dim=1) for name, tensor in prompt.items()}
    for asked in ({"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}):
        expected = model.generate(**whole, max_new_tokens=5, do_sample=False, **asked)
        with mock.patch.object(model, "prepare_inputs_for_generation", prepare_with_prefix):
            written = model.generate(**prompt, max_new_tokens=5, do_sample=False, **asked)
        assert torch.equal(written[:, 5:], expected[:, 8:])


@every_generator
def test_generation_from_embeddings(model_class):
    """What the first forward reads may be given as embeddings."""
    model = generator(model_class)
    prompt = prompt_of(model_class)
    asked = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(**prompt, **asked)[:, -6:]
    embeds = model.get_input_embeddings()(prompt.pop("input_ids"))
    assert torch.equal(model.generate(inputs_embeds=embeds, **prompt, **asked)[:, -6:], expected)


@every_generator
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
def test_generation_in_half_precision(model_class, dtype):
    """The logits of what is written are as close to those in double precision as without a cache."""
    model, prompt = generator(model_class).to(dtype), prompt_of(model_class)
    asked = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    written = model.generate(**prompt, max_new_tokens=6, **asked)
    target = {"input_ids": written.sequences, "attention_mask": torch.ones_like(written.sequences)}
    source = prompt if model_class is BlendEncoderDecoderForSeq2SeqLM else {}
    if not source:
        target["attention_mask"][:, : prompt["attention_mask"].shape[1]] = prompt["attention_mask"]
    uncached = without_cache(model, source, target)[:, -7:-1]
    exact = without_cache(model.double(), source, target)[:, -7:-1]
    error = (torch.stack(written.logits, dim=1) - exact).std()
    assert 0 < error < 2 * (uncached - exact).std()


def test_generation_tells_scores_and_states():
    """For each token a tuple of the layers' tensors, in the shapes that GenerateDecoderOnlyOutput documents."""
    model = generator(BlendDecoderForCausalLM, "eager")
    prompt = prompt_of(BlendDecoderForCausalLM)
    told = {f"output_{name}": True for name in ("scores", "logits", "attentions", "hidden_states")}
    output = model.generate(**prompt, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, **told)
    assert [scores.shape for scores in output.scores + output.logits] == [(2, VOCAB)] * 6
    for index in range(3):
        queries, keys = (1 if index else 5), 5 + index
        assert [weights.shape for weights in output.attentions[index]] == [(2, 4, queries, keys)] * 2
        assert [states.shape for states in output.hidden_states[index]] == [(2, queries, 32)] * 3


def test_generation_of_an_encoder_decoder_tells_states():
    """Those of the source once, those of the target for each token, as GenerateEncoderDecoderOutput documents."""
    model = generator(BlendEncoderDecoderForSeq2SeqLM, "eager")
    told = {f"output_{name}": True for name in ("scores", "attentions", "hidden_states")}
    prompt = prompt_of(BlendEncoderDecoderForSeq2SeqLM)
    output = model.generate(**prompt, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, **told)
    assert [scores.shape for scores in output.scores] == [(2, VOCAB)] * 3
    assert [weights.shape for weights in output.encoder_attentions] == [(2, 4, 7, 7)] * 2
    assert [states.shape for states in output.encoder_hidden_states] == [(2, 7, 32)] * 3
    for index in range(3):
        assert [weights.shape for weights in output.decoder_attentions[index]] == [(2, 4, 1, index + 1)] * 2
        assert [weights.shape for weights in output.cross_attentions[index]] == [(2, 4, 1, 7)] * 2
        assert [states.shape for states in output.decoder_hidden_states[index]] == [(2, 1, 32)] * 3


@every_window
def test_continuous_batching_writes_the_same(sliding):
    """Requests of several lengths in one flat batch, with keys and values in pages."""
    model = generator(BlendDecoderForCausalLM, **sliding).float()
    prompts = [row["input_ids"] for row in rows_of(9, 4, 6)]
    asked = GenerationConfig(max_new_tokens=2 * WINDOW, do_sample=False, eos_token_id=-1, pad_token_id=0)
    # Without it the pages take what memory there is.
    pages = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64)
    written = model.generate_batch([prompt.tolist() for prompt in prompts], asked, pages, warmup=False)
    assert [request.error for request in written.values()] == [None] * len(prompts)
    tokens = {tuple(request.prompt_ids): request.generated_tokens for request in written.values()}
    for prompt in prompts:
        alone = model.generate(input_ids=prompt[None], max_new_tokens=2 * WINDOW, do_sample=False)[0, len(prompt) :]
        assert tokens[tuple(prompt.tolist())] == alone.tolist()


def test_generation_goes_on_from_a_cache():
    """Not for an encoder-decoder: there GenerationMixin gives other tokens for transformers' own models too."""
    model = generator(BlendDecoderForCausalLM, **SLIDING)
    prompt = prompt_of(BlendDecoderForCausalLM)
    asked = {"do_sample": False, "return_dict_in_generate": True}
    once = model.generate(**prompt, **asked, max_new_tokens=8).sequences
    first = model.generate(**prompt, **asked, max_new_tokens=5)
    mask = torch.cat((prompt["attention_mask"], torch.ones(2, 5, dtype=torch.long)), dim=1)
    so_far = {"input_ids": first.sequences, "attention_mask": mask, CACHE_NAME: first[CACHE_NAME]}
    assert torch.equal(model.generate(**so_far, **asked, max_new_tokens=3).sequences, once)


@pytest.mark.parametrize("edited", [("keys",), ("values",), ("keys", "values")])
def test_a_cache_of_generate_may_be_edited(edited):
    model = generator(BlendDecoderForCausalLM)
    first = model.generate(**prompt_of(BlendDecoderForCausalLM), max_new_tokens=5, return_dict_in_generate=True)
    cache = copy.deepcopy(first[CACHE_NAME])
    for layer in first[CACHE_NAME].layers:
        for name in edited:
            setattr(layer, name, getattr(layer, name) * 0.3)
    plain = DynamicCache()
    for index, layer in enumerate(cache.layers):
        states = {name: getattr(layer, name) * (0.3 if name in edited else 1) for name in ("keys", "values")}
        plain.update(states["keys"], states["values"], index)
    following = first.sequences[:, -1:]
    assert_close(model(following, cache=first[CACHE_NAME]).logits, model(following, cache=plain).logits)


@every_generator
def test_what_stands_after_the_end_is_padding(model_class):
    """A row that has ended is filled up, and does not disturb the others."""
    endless = generator(model_class)
    prompt = prompt_of(model_class)
    written = endless.generate(**prompt, max_new_tokens=8, do_sample=False)
    begin = written.shape[1] - 8
    written = written[:, begin:]
    end = written[0, 2].item()
    model = tiny_model(model_class, eos_token_id=end, pad_token_id=0)
    # It is shorter where all rows have ended before.
    stopped = model.generate(**prompt, max_new_tokens=8, do_sample=False)[:, begin:]
    for row, full in zip(stopped, written, strict=True):
        ends = (full == end).nonzero().flatten().tolist()
        length = ends[0] + 1 if ends else len(full)
        assert torch.equal(row[:length], full[:length])
        assert (row[length:] == 0).all()


@every_generator
def test_more_than_the_learned_positions_is_refused(model_class):
    """Also when it is generation that comes to their end."""
    model = generator(model_class, position_type="learned", max_position_embeddings=8)
    prompt = {name: tensor[:, :5] for name, tensor in prompt_of(model_class).items()}
    with pytest.raises(ValueError, match="max_position_embeddings=8"):
        model.generate(**prompt, max_new_tokens=12, do_sample=False)


@pytest.mark.parametrize("way", ["greedy", "beam"])
def test_the_source_is_read_once(way):
    """The encoder runs once, and each layer projects its output once, whatever is written."""
    model = generator(BlendEncoderDecoderForSeq2SeqLM)
    attentions = [layer.cross_attn for layer in model.get_decoder().layers]
    counted = [model.get_encoder(), *(part for each in attentions for part in (each.k_proj, each.v_proj))]
    with ExitStack() as spies:
        calls = [spies.enter_context(calls_of(module)) for module in counted]
        model.generate(**source_of(BlendEncoderDecoderForSeq2SeqLM), max_new_tokens=6, **WAYS[way])
    assert [len(each) for each in calls] == [1] * len(counted)


def test_pairs_that_were_learnt_are_given_back():
    """To loss < 0.05, then greedily, padded together: a doubled shift of the labels cannot."""
    config = tiny_config(BlendEncoderDecoderForSeq2SeqLM.config_class, initializer_range=0.05)
    model = BlendEncoderDecoderForSeq2SeqLM(config).train()
    rows = rows_of(3, 6, 4, 7, 5, 8, 2, 6)
    targets = [
        torch.cat((torch.randint(3, VOCAB, (length,)), torch.tensor([2]))) for length in (5, 2, 7, 4, 3, 6, 1, 4)
    ]
    for row, target in zip(rows, targets, strict=True):
        row["labels"] = target
    batch = padded(rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    for _ in range(300):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    assert loss < 0.05
    labels = batch.pop("labels")
    written = model.eval().generate(**batch, max_new_tokens=labels.shape[1], do_sample=False)[:, 1:]
    assert torch.equal(written, labels.masked_fill(labels == -100, 0))
