"""What holds for every model: padding, causality, kernels, saving, gradients, heads, and the errors at the door."""

import copy
from inspect import signature
from itertools import product
from typing import get_args, get_type_hints

import pytest
import torch
from conftest import (
    DENSE,
    HEADS,
    LABELS,
    SIZES,
    SLIDING,
    VOCAB,
    assert_close,
    assert_equal_gradients,
    draw,
    every_base,
    every_head,
    every_kernel,
    every_model,
    every_option,
    every_pair,
    gradients,
    is_encoder_decoder,
    named,
    output_of,
    padded,
    real_rows,
    tiny_config,
    tiny_model,
)
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.flex_attention import create_block_mask
from transformers import (
    BartForConditionalGeneration,
    BartModel,
    BertForMaskedLM,
    BertModel,
    LlamaForCausalLM,
    LlamaModel,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import find_labels

from seqblend import (
    FAMILIES,
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderForSequenceClassification,
    BlendEncoderDecoderForTokenClassification,
    BlendEncoderDecoderModel,
    BlendEncoderForMaskedLM,
    BlendEncoderModel,
)
from seqblend.modeling.cache import CACHE_NAME
from seqblend.modeling.normalization import Dropout

LENGTHS = [7, 4, 5]
CLASSIFIERS = [model_class for model_class in HEADS if "SequenceClassification" in model_class.__name__]
TAGGERS = [model_class for model_class in HEADS if "TokenClassification" in model_class.__name__]

# Padding.


@every_option
@every_base
@torch.no_grad()
def test_padding_changes_nothing(model_class, options):
    """On either side, more or less of it, dense or flat: each row is as if it were alone."""
    model = tiny_model(model_class, **options, **SLIDING)
    rows = draw(model_class, LENGTHS)
    alone = torch.cat([output_of(model, padded([row])) for row in rows])
    forms = [("right", 0, {}), ("right", 3, {}), ("left", 0, {}), ("left", 3, {}), ("left", 3, DENSE)]
    for side, extra, asked in forms:
        together = output_of(model, padded(rows, side, extra), **asked)
        assert_close(together, alone, what=f"{side} {extra} {asked}:")


@every_head
@every_kernel
@torch.no_grad()
def test_heads_do_not_see_padding(model_class, attention):
    model = tiny_model(model_class, attention)
    rows = draw(model_class, LENGTHS, labels=False)
    alone = torch.cat([output_of(model, padded([row])) for row in rows])
    for side, asked in product(("right", "left"), ({}, DENSE)):
        assert_close(output_of(model, padded(rows, side, extra=2), **asked), alone, what=f"{side} {asked}")


@every_model
@every_kernel
def test_rows_without_a_token(model_class, attention):
    """They give no NaN, neither forward nor backward, and do not change the others."""
    model = tiny_model(model_class, attention)
    rows = draw(model_class, LENGTHS)
    for empty, asked in product(([0], [2], [0, 1, 2]), ({}, DENSE)):
        batch = padded(rows)
        for name, tensor in batch.items():
            if name.endswith("attention_mask"):
                tensor[empty] = 0
        if batch.get("labels", torch.zeros(3)).dim() == 2:
            batch["labels"][empty] = -100
        output = model(**batch, **asked)
        tensors = [tensor for tensor in output.values() if isinstance(tensor, torch.Tensor)]
        model.zero_grad()
        sum(tensor.sum() for tensor in tensors).backward()
        gradient = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        assert all(tensor.isfinite().all() for tensor in tensors + gradient), (empty, asked)
    batch = padded(rows)
    batch.pop("labels", None)
    for name, tensor in batch.items():
        if name.endswith("attention_mask"):
            tensor[0] = 0
    expected = output_of(model, {name: tensor[1:] for name, tensor in batch.items()})
    assert_close(output_of(model, batch)[-len(expected) :], expected)


# Who sees whom.


@every_option
@every_kernel
@torch.no_grad()
def test_decoder_does_not_see_what_comes_after(options, attention):
    """Bitwise, and for the logits of a language model."""
    model = tiny_model(BlendDecoderForCausalLM, attention, **options, **SLIDING)
    input_ids = torch.randint(3, VOCAB, (2, 9))
    before = model(input_ids=input_ids, use_cache=False).logits
    for t in range(8):
        changed = input_ids.clone()
        changed[:, t + 1] = (input_ids[:, t + 1] + 1) % VOCAB
        after = model(input_ids=changed, use_cache=False).logits
        assert torch.equal(after[:, : t + 1], before[:, : t + 1]), t
        assert not torch.equal(after[:, t + 1], before[:, t + 1]), t


@every_pair
@every_kernel
@torch.no_grad()
def test_target_does_not_see_what_comes_after_but_all_of_the_source(options, attention):
    model = tiny_model(BlendEncoderDecoderModel, attention, **options)
    batch = {"input_ids": torch.randint(3, VOCAB, (2, 6)), "decoder_input_ids": torch.randint(3, VOCAB, (2, 7))}
    before = model(**batch, use_cache=False).last_hidden_state
    for name, index, same in [("decoder_input_ids", 4, 4), ("input_ids", 5, 0), ("input_ids", 0, 0)]:
        changed = {**batch, name: batch[name].clone()}
        changed[name][:, index] = (batch[name][:, index] + 1) % VOCAB
        after = model(**changed, use_cache=False).last_hidden_state
        assert torch.equal(after[:, :same], before[:, :same])
        assert (after[:, same:] != before[:, same:]).any(-1).all()


@every_option
@every_kernel
@torch.no_grad()
def test_encoder_does_not_see_a_masked_token(options, attention):
    """Bitwise; the masked token stands between real ones. Every real token is seen by all."""
    model = tiny_model(BlendEncoderModel, attention, **options)
    batch = padded(draw(BlendEncoderModel, [8, 6]))
    batch["attention_mask"][:, 3] = 0
    for asked, (index, same) in product(({}, DENSE), ((3, True), (1, False))):
        changed = {**batch, "input_ids": batch["input_ids"].clone()}
        changed["input_ids"][:, index] = (batch["input_ids"][:, index] + 1) % VOCAB
        before, after = (output_of(model, each, **asked) for each in (batch, changed))
        assert (after == before).all() if same else (after != before).any(-1).all()


@pytest.mark.parametrize("model_class, reach", [(BlendEncoderModel, (2, 2)), (BlendDecoderModel, (1, 0))], ids=named)
@every_kernel
@pytest.mark.parametrize("asked", [{}, DENSE], ids=["flat", "dense"])
def test_sliding_layer_sees_its_window(model_class, reach, attention, asked):
    """Window 2 of one layer: two tokens on either side in the encoder; itself and the one before in the decoder."""
    model = tiny_model(
        model_class, attention, num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=2
    )
    batch = padded(draw(model_class, [9, 5]), "left")
    before = model(**batch, use_cache=False, **asked).last_hidden_state[0]
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, 4] += 1
    after = model(**changed, use_cache=False, **asked).last_hidden_state[0]
    before_it, after_it = reach if model_class is BlendEncoderModel else (0, 1)
    seen = (after != before).any(-1).nonzero().flatten().tolist()
    assert seen == list(range(4 - before_it, 4 + after_it + 1))


# Kernels.


def seeded(function, *args, **kwargs):
    """The result of a function that draws from a fixed seed."""
    torch.manual_seed(0)
    return function(*args, **kwargs)


@every_model
@pytest.mark.parametrize("lengths", [[6, 6], LENGTHS], ids=["no-padding", "padding"])
@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no-mask"])
@pytest.mark.parametrize("dropout", [0.0, 0.3], ids=["", "dropout"])
def test_eager_equals_sdpa(model_class, lengths, masked, dropout):
    """Forward and gradients, in training; with dropout, from the same seed."""
    batch = padded(draw(model_class, lengths))
    if not masked:
        batch = {name: tensor for name, tensor in batch.items() if not name.endswith("mask")}
    models = [
        tiny_model(model_class, attention, **SLIDING, attention_dropout=dropout, hidden_dropout=dropout).train()
        for attention in ("eager", "sdpa")
    ]
    forward = [seeded(model, **batch) for model in models]
    for name, expected in forward[0].items():
        if isinstance(expected, torch.Tensor):
            assert_close(forward[1][name], expected, what=name)
    if masked or "labels" in batch:
        assert_equal_gradients(*(seeded(gradients, model, batch) for model in models))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_dropout_on_a_cpu(p, dtype):
    """The share of zeros is p within five standard deviations, also at each place of the four that share a draw; the
    other elements are scaled, and the gradient is that of the elements that are left."""
    states = torch.ones(40_000, 4, dtype=dtype, requires_grad=True)
    left = seeded(Dropout(p), states)
    is_zero = left == 0
    for zeros in (is_zero.flatten(), *is_zero.T):
        assert abs(zeros.double().mean() - p) < 5 * (p * (1 - p) / len(zeros)) ** 0.5
    torch.testing.assert_close(left[~is_zero], torch.full_like(left[~is_zero], 1 / (1 - p)), rtol=2**-7, atol=0)
    left.sum().backward()
    assert torch.equal(states.grad, left)
    assert torch.equal(seeded(Dropout(p), states), left)
    assert Dropout(p).eval()(states) is states


@pytest.mark.parametrize("p", [0.0, 1e-6, 1 - 1e-6, 1.0])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,)], ids=str)
def test_dropout_at_its_limits(p, shape):
    """A share that 16 bits cannot tell from none or all, and tensors without a multiple of four elements."""
    left = Dropout(p)(torch.ones(shape))
    assert left.shape == shape
    assert torch.all(left == 1 - round(p)) or 0 < p < 1


def test_dropout_draws_for_each_example_of_vmap():
    states = torch.ones(2, 1000)
    left = torch.func.vmap(Dropout(0.5), randomness="different")(states)
    assert not torch.equal(*left)


@every_model
@every_kernel
def test_dropout_runs(model_class, attention):
    model = tiny_model(
        model_class, attention, attention_dropout=0.3, hidden_dropout=0.3, classifier_dropout=0.3
    ).train()
    gradient = gradients(model, padded(draw(model_class, LENGTHS)))
    assert all(tensor.isfinite().all() for tensor in gradient.values())


def test_layers_that_were_added_need_their_types():
    """Without a word they would not run."""
    model = tiny_model(BlendDecoderModel)
    expected = model(torch.tensor([[3, 4, 5]])).last_hidden_state
    model.layers.append(copy.deepcopy(model.layers[0]))
    with pytest.raises(ValueError, match="the model has 3 layers, and layer_types of its config 2"):
        model(torch.tensor([[3, 4, 5]]))
    model.config.layer_types.append("full_attention")
    model.config.num_hidden_layers = 3
    assert not torch.equal(model(torch.tensor([[3, 4, 5]]), use_cache=False).last_hidden_state, expected)


class Wrapped(nn.Module):
    """A layer inside another module, as quantizers put it there while they record its inputs."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, *args, **kwargs):
        return self.layer(*args, **kwargs)


@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
def test_layers_may_be_wrapped(model_class):
    model, ids = tiny_model(model_class, **SLIDING), torch.tensor([[3, 4, 5, 6, 7]])
    expected = model(ids).last_hidden_state
    model.layers = nn.ModuleList(Wrapped(layer) for layer in model.layers)
    assert torch.equal(model(ids).last_hidden_state, expected)


@pytest.mark.parametrize("with_mask", [False, True])
def test_a_trace_with_positions(with_mask):
    model, ids = tiny_model(BlendEncoderModel), torch.tensor([[3, 4, 5], [6, 7, 8]])
    batch = {"input_ids": ids, "position_ids": torch.arange(3).expand(2, 3)}
    batch |= {"attention_mask": torch.ones_like(ids)} if with_mask else {}
    traced = torch.jit.trace(model, example_kwarg_inputs=batch, strict=False)
    assert_close(traced(**batch)["last_hidden_state"], model(**batch).last_hidden_state)


def test_another_loss_is_refused():
    """It would not be computed."""
    with pytest.raises(AttributeError, match="BlendEncoderForMaskedLM computes its own loss"):
        tiny_model(BlendEncoderForMaskedLM).loss_function = torch.nn.functional.cross_entropy


@every_head
def test_the_trainer_finds_one_argument_of_labels(model_class):
    """A batch without one of them would have no loss in evaluation."""
    assert find_labels(model_class) == ["labels"]


def test_shifted_labels_of_a_collator():
    """They are the targets; those that follow from the labels give the loss of the labels."""
    model = tiny_model(BlendDecoderForCausalLM)
    batch = padded(draw(BlendDecoderForCausalLM, [6, 3], labels=False))
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    expected = model(**batch, labels=labels)
    assert torch.equal(model(**batch, labels=labels, shift_labels=shifted).loss, expected.loss)
    target = shifted.masked_fill(torch.arange(shifted.shape[1]) != 1, -100)
    loss = model(**batch, labels=labels, shift_labels=target).loss
    by_hand = torch.nn.functional.cross_entropy(expected.logits[:, 1], target[:, 1])
    assert_close(loss, by_hand)


@pytest.mark.parametrize("model_class", [BlendEncoderForMaskedLM, BlendDecoderForCausalLM], ids=named)
def test_no_value_of_a_fake_tensor_is_read(model_class):
    """As tools that estimate memory do."""
    model = tiny_model(model_class)
    batch = padded(draw(model_class, LENGTHS, labels=False))
    expected = model(**batch).logits.shape
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert model(**{name: mode.from_tensor(tensor) for name, tensor in batch.items()}).logits.shape == expected


@pytest.mark.parametrize("dtype, dropout", [(torch.float64, 0.5), (torch.bfloat16, 0.0)], ids=str)
def test_a_function_in_place_of_sdpa_is_called(dtype, dropout, monkeypatch):
    """Also where a faster one would be: in training with dropout, and in half precision."""
    calls, own = [], ALL_ATTENTION_FUNCTIONS["sdpa"]

    def replaced(*args, **kwargs):
        calls.append(kwargs["dropout"])
        return own(*args, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", replaced)
    model = tiny_model(BlendDecoderModel, "sdpa", attention_dropout=dropout).to(dtype).train()
    model(torch.tensor([[3, 4, 5]]))
    assert calls == [dropout] * SIZES["num_hidden_layers"]


@pytest.mark.parametrize("model_class", [BlendEncoderForMaskedLM, *CLASSIFIERS[:1], BlendDecoderModel], ids=named)
def test_one_graph_without_a_break(model_class):
    """As _can_compile_fullgraph says: generate compiles on a GPU where a cache is static."""
    assert model_class._can_compile_fullgraph
    model = tiny_model(model_class, num_hidden_layers=1)
    batch = padded(draw(model_class, LENGTHS, labels=False))
    expected = output_of(model, batch)
    torch.compiler.reset()
    model.forward = torch.compile(model.forward, backend="eager", fullgraph=True)
    assert_close(output_of(model, batch), expected)


@every_base
def test_layers_may_be_cut_off(model_class):
    """As of transformers' own models: what is left computes what it computed before."""
    model = tiny_model(model_class)
    batch = padded(draw(model_class, LENGTHS, labels=False))
    stack = model.get_decoder() if model.config.is_encoder_decoder else model
    states = model(**batch, output_hidden_states=True)
    before_last = (states.decoder_hidden_states if model.config.is_encoder_decoder else states.hidden_states)[-2]
    stack.layers = stack.layers[:-1]
    stack.norm = torch.nn.Identity()
    assert_close(real_rows(batch, model(**batch).last_hidden_state), real_rows(batch, before_last))


# Saving and loading.


@every_model
def test_saved_and_loaded(model_class, tmp_path):
    """Same tensors, with the buffers that no checkpoint holds, and same outputs."""
    model = tiny_model(model_class, **SLIDING)
    model.save_pretrained(tmp_path)
    loaded, told = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training
    for tensors in ("named_parameters", "named_buffers"):
        before, after = dict(getattr(model, tensors)()), dict(getattr(loaded, tensors)())
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            assert torch.equal(after[name].double(), tensor), name
    batch = padded(draw(model_class, LENGTHS, labels=False))
    assert_close(output_of(loaded, batch), output_of(model, batch), 1e-12)


def test_parts_may_be_saved_alone(tmp_path):
    """An encoder-decoder's parts are models of the other two families."""
    model = tiny_model(BlendEncoderDecoderModel)
    batch = padded(draw(BlendEncoderDecoderModel, LENGTHS))
    expected = model(**batch)
    model.encoder.save_pretrained(tmp_path / "encoder")
    model.decoder.save_pretrained(tmp_path / "decoder")
    encoder = BlendEncoderModel.from_pretrained(tmp_path / "encoder")
    decoder = BlendDecoderModel.from_pretrained(tmp_path / "decoder")
    source = encoder(batch["input_ids"], batch["attention_mask"]).last_hidden_state
    assert_close(source, expected.encoder_last_hidden_state, 1e-12)
    written = decoder(
        batch["decoder_input_ids"],
        batch["decoder_attention_mask"],
        encoder_hidden_states=source,
        encoder_attention_mask=batch["attention_mask"],
    )
    assert_close(written.last_hidden_state, expected.last_hidden_state, 1e-12)


ROPES = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0},
    "longrope": {
        "short_factor": [1.0, 1.5, 2.0, 2.5],
        "long_factor": [2.0, 3.0, 4.0, 5.0],
        "factor": 4.0,
        "original_max_position_embeddings": 8,
    },
    "proportional": {"partial_rotary_factor": 0.5},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8,
    },
}


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_rotary_positions_are_saved_and_loaded(kind, tmp_path):
    """Their buffers are told from the config alone, and differ from the default kind's."""
    model = tiny_model(BlendEncoderModel, rope_parameters={"rope_type": kind, "rope_theta": 10000.0} | ROPES[kind])
    model.save_pretrained(tmp_path)
    loaded = BlendEncoderModel.from_pretrained(tmp_path)
    batch = padded(draw(BlendEncoderModel, [40, 9]))
    assert_close(output_of(loaded, batch), output_of(model, batch), 1e-12)
    assert not torch.equal(output_of(tiny_model(BlendEncoderModel), batch), output_of(model, batch))
    batch["attention_mask"][:] = 0
    assert (model(**batch).last_hidden_state == 0).all()


def same_tensor(model: nn.Module, *names: str) -> bool:
    """Whether what is written to the first is read from the others."""
    first, *others = (model.get_parameter(name) for name in names)
    with torch.no_grad():
        first[3, 4] = 12345.0
    return all(other[3, 4] == 12345.0 for other in others)


LM_HEAD, SOURCE, TARGET = "lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
TIED = [
    (BlendEncoderForMaskedLM, {}, ["model.embed_tokens.weight", LM_HEAD]),
    (BlendDecoderForCausalLM, {}, ["model.embed_tokens.weight", LM_HEAD]),
    (BlendEncoderDecoderForSeq2SeqLM, {}, [SOURCE, TARGET, LM_HEAD]),
    (BlendEncoderDecoderForSeq2SeqLM, {"share_encoder_decoder_embeddings": False}, [TARGET, LM_HEAD]),
    (BlendEncoderDecoderModel, {}, ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    (BlendEncoderDecoderForSequenceClassification, {}, [SOURCE, TARGET]),
    (BlendEncoderDecoderForTokenClassification, {}, [SOURCE, TARGET]),
]
every_tie = pytest.mark.parametrize("model_class, options, names", TIED, ids=named)


def all_parameters(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters(remove_duplicate=False)]


@every_tie
def test_tied_weights_are_one_tensor(model_class, options, names, tmp_path):
    """As built, as loaded, and only where the config says so."""
    model = tiny_model(model_class, **options)
    model.save_pretrained(tmp_path)
    assert same_tensor(model, *names)
    assert same_tensor(model_class.from_pretrained(tmp_path), *names)
    untied = tiny_model(model_class, **options, tie_word_embeddings=False)
    untied.save_pretrained(tmp_path)
    for model in (untied, model_class.from_pretrained(tmp_path)):
        assert len({model.get_parameter(name).data_ptr() for name in names}) == len(names)


@every_tie
def test_what_the_config_ties_no_more_is_saved_under_each_name(model_class, options, names, tmp_path):
    """Only one name was saved, as if the config still tied them, and the others were random when opened."""
    model = tiny_model(model_class, **options)
    model.config.tie_word_embeddings = False
    for state_dict in (None, model.state_dict()):
        model.save_pretrained(tmp_path, state_dict=state_dict)
        loaded, told = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not told["missing_keys"]
        for name in all_parameters(model):
            assert torch.equal(loaded.get_parameter(name), model.get_parameter(name)), name
        assert len({loaded.get_parameter(name).data_ptr() for name in names}) == len(names)
    assert same_tensor(model, *names), "saving has changed the model"


@pytest.mark.parametrize("model_class, options, names", [tie for tie in TIED if not tie[1]], ids=named)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_embeddings_are_resized(model_class, options, names, tied, tmp_path):
    """Every vocabulary that goes with the input's grows, tied weights stay tied, and the result can be saved."""
    model = tiny_model(model_class, **options, tie_word_embeddings=tied, lm_head_bias=True)
    rows = draw(model_class, LENGTHS, labels=False)
    before = output_of(model, padded(rows))
    model.resize_token_embeddings(VOCAB + 7)
    assert model.get_input_embeddings().weight.shape[0] == VOCAB + 7
    assert model.get_input_embeddings().num_embeddings == VOCAB + 7
    assert_close(output_of(model, padded(rows))[:, : before.shape[1]], before)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    assert_close(output_of(loaded, padded(rows)), output_of(model, padded(rows)), 1e-12)
    if tied:
        assert same_tensor(model, *names)
        assert same_tensor(loaded, *names)


def test_one_of_two_vocabularies_is_not_resized_unasked():
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM, share_encoder_decoder_embeddings=False)
    with pytest.raises(ValueError, match="share_encoder_decoder_embeddings=False"):
        model.resize_token_embeddings(VOCAB + 7)


# Gradients.


def reachable(name: str, options: dict[str, str]) -> bool:
    """A key's bias adds the same to all scores of a query, unless positions turn it: no gradient reaches it."""
    return not name.endswith("k_proj.bias") or (options["position_type"] == "rotary" and "self_attn" in name)


BIASES = {"attention_bias": True, "mlp_bias": True, "lm_head_bias": True}


@every_pair
@every_head
def test_every_parameter_gets_a_gradient(model_class, options):
    # At the first token, which pooling="cls" takes, a network that reads from the left has no state yet.
    pooling = {"pooling": "mean"} if "mixer_type" in options else {}
    model = tiny_model(model_class, **options, **BIASES, **pooling, type_vocab_size=2, embedding_norm=True).train()
    gradient = gradients(model, padded(draw(model_class, LENGTHS)))
    for name, tensor in gradient.items():
        if reachable(name, options):
            assert tensor is not None and tensor.abs().max() > 1e-10, name


@every_model
def test_gradient_checkpointing_changes_no_gradient(model_class):
    batch = padded(draw(model_class, LENGTHS))
    models = [tiny_model(model_class, **SLIDING).train() for _ in range(2)]
    # The name since transformers 5.23, and before.
    enable = getattr(models[1], "activation_checkpointing_enable", models[1].gradient_checkpointing_enable)
    enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in models[1].modules())
    runs = []
    for model in models:
        calls = []
        layer = next(module for module in model.modules() if type(module).__name__.endswith("Layer"))
        layer.mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        runs.append((gradients(model, batch), len(calls)))
    assert_equal_gradients(runs[1][0], runs[0][0])
    assert (runs[0][1], runs[1][1]) == (1, 2), "the layers were not computed again"


# Heads.


def test_the_family_has_nine_heads():
    assert len(HEADS) == 9
    for config_class, models in FAMILIES.items():
        for auto_class, model_class in models.items():
            assert type(auto_class.from_config(tiny_config(config_class))) is model_class


@every_head
def test_output_shapes(model_class):
    model = tiny_model(model_class)
    batch = padded(draw(model_class, LENGTHS))
    logits = model(**batch).logits
    if "SequenceClassification" in model_class.__name__:
        assert logits.shape == (3, LABELS)
    elif "TokenClassification" in model_class.__name__:
        assert logits.shape == (3, 7, LABELS)
    else:
        assert logits.shape == (*batch["labels"].shape, VOCAB)
    as_tuple = model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[1], logits)


@pytest.mark.parametrize("model_class", [each for each in HEADS if "Sequence" not in each.__name__], ids=named)
@pytest.mark.parametrize("lengths", [[5, 5, 5], LENGTHS], ids=["equal", "padded"])
def test_labels_of_tokens_have_the_shape_of_the_input(model_class, lengths):
    """Those of one row were those of every row, if there was padding."""
    model, batch = tiny_model(model_class), padded(draw(model_class, lengths))
    with pytest.raises(ValueError, match="shape"):
        model(**{**batch, "labels": batch["labels"][:1]})


@every_head
def test_labels_of_any_integer_type(model_class):
    """An encoder-decoder made its decoder's inputs of 64 bits only."""
    model, batch = tiny_model(model_class), padded(draw(model_class, LENGTHS))
    batch.pop("decoder_input_ids", None)
    expected = model(**batch).loss
    assert torch.equal(model(**{**batch, "labels": batch["labels"].int()}).loss, expected)


@every_model
def test_forward_is_annotated_with_what_comes_out(model_class):
    """sentence-transformers reads from there which outputs a model has."""
    annotated = get_type_hints(model_class.forward)["return"]
    output = tiny_model(model_class)(**padded(draw(model_class, LENGTHS)))
    assert type(output) in (get_args(annotated) or (annotated,))


@pytest.mark.parametrize(
    "model_class, stock_class",
    [
        (BlendEncoderModel, BertModel),
        (BlendEncoderForMaskedLM, BertForMaskedLM),
        (BlendDecoderModel, LlamaModel),
        (BlendDecoderForCausalLM, LlamaForCausalLM),
        (BlendEncoderDecoderModel, BartModel),
        (BlendEncoderDecoderForSeq2SeqLM, BartForConditionalGeneration),
    ],
    ids=named,
)
def test_positional_arguments_have_the_order_of_stock_models(model_class, stock_class):
    theirs = [name for name in signature(stock_class.forward).parameters if name not in ("kwargs", "logits_to_keep")]
    theirs = ["cache" if name == "past_key_values" else name for name in theirs]
    # BERT may be a decoder.
    theirs = theirs[: theirs.index("encoder_hidden_states")] if "encoder_hidden_states" in theirs else theirs
    assert [*signature(model_class.forward).parameters][: len(theirs)] == theirs


@every_model
def test_output_may_be_a_tuple(model_class):
    """Asked for in the call, or in the config and those of the parts."""
    model = tiny_model(model_class, "eager")
    batch = padded(draw(model_class, LENGTHS))
    expected = [type(value) for value in model(**batch, output_attentions=True).to_tuple()]
    assert [type(value) for value in model(**batch, output_attentions=True, return_dict=False)] == expected
    for config in (model.config, *(getattr(model.config, part) for part in model.config.sub_configs)):
        config.return_dict = False
    assert [type(value) for value in model(**batch, output_attentions=True)] == expected


@every_base
def test_output_shapes_without_a_head(model_class):
    batch = padded(draw(model_class, LENGTHS))
    output = tiny_model(model_class)(**batch)
    length = batch.get("decoder_input_ids", batch["input_ids"]).shape[1]
    assert output.last_hidden_state.shape == (3, length, SIZES["hidden_size"])
    if is_encoder_decoder(model_class):
        assert output.encoder_last_hidden_state.shape == (3, 7, SIZES["hidden_size"])


SEVERAL = "multi_label_classification"
PROBLEMS = [
    (None, LABELS, torch.tensor([0, 2, 1]), "single_label_classification"),
    (None, LABELS, torch.tensor([[0.0, 1, 1], [1, 0, 0], [0, 0, 0]]), SEVERAL),
    (None, 1, torch.tensor([0.5, -1, 2]), "regression"),
    ("regression", 1, torch.tensor([[0.5], [-1], [2]]), "regression"),
    ("regression", 2, torch.tensor([[0.5, 1], [-1, 3], [2, 0]]), "regression"),
    (
        "multi_label_classification",
        LABELS,
        torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0]]),
        "multi_label_classification",
    ),
]


@pytest.mark.parametrize("model_class", CLASSIFIERS, ids=named)
@pytest.mark.parametrize("given, num_labels, labels, problem_type", PROBLEMS)
def test_problem_types(model_class, given, num_labels, labels, problem_type):
    """What is not given is told from the labels, as in transformers, and the config is left as it was."""
    batch = padded(draw(model_class, LENGTHS, labels=False)) | {"labels": labels}
    model = tiny_model(model_class, num_labels=num_labels, problem_type=given)
    output = model(**batch)
    assert output.logits.shape == (3, num_labels)
    assert model.config.problem_type == given
    expected = tiny_model(model_class, num_labels=num_labels, problem_type=problem_type)(**batch)
    assert torch.equal(output.loss, expected.loss)


@pytest.mark.parametrize("model_class", CLASSIFIERS, ids=named)
@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("asked", [{}, DENSE], ids=["flat", "dense"])
def test_pooling_reads_real_tokens(model_class, pooling, side, asked):
    """The first, all or the last of the tokens of each row, as its base model gives them."""
    model = tiny_model(model_class, pooling=pooling)
    batch = padded(draw(model_class, LENGTHS, labels=False), side, extra=2)
    states = model.model(**batch, **asked).last_hidden_state
    pick = {"cls": lambda row: row[0], "mean": lambda row: row.mean(0), "last": lambda row: row[-1]}[pooling]
    real = batch["attention_mask"].bool()
    pooled = torch.stack([pick(row[mask]) for row, mask in zip(states, real, strict=True)])
    assert_close(model(**batch, **asked).logits, model.score(pooled))


@pytest.mark.parametrize("model_class", TAGGERS, ids=named)
@pytest.mark.parametrize("asked", [{}, DENSE], ids=["flat", "dense"])
def test_each_output_is_projected_onto_the_classes(model_class, asked):
    """Those of the base model; in an encoder-decoder those of the decoder, which reads the source."""
    model = tiny_model(model_class)
    batch = padded(draw(model_class, LENGTHS, labels=False), extra=2)
    source = {name: tensor for name, tensor in batch.items() if not name.startswith("decoder")}
    states = model.model(**source, **asked, **model.model_kwargs).last_hidden_state
    real = batch["attention_mask"].bool()
    assert_close(model(**source, **asked).logits[real], model.classifier(states[real]))


@pytest.mark.parametrize(
    "model_class",
    [
        BlendEncoderDecoderForSequenceClassification,
        BlendEncoderDecoderForTokenClassification,
        BlendEncoderDecoderModel,
    ],
    ids=named,
)
def test_decoder_reads_the_source_if_it_is_given_nothing(model_class):
    model = tiny_model(model_class)
    batch = padded(draw(model_class, LENGTHS, labels=False), "left")
    batch = {name: tensor for name, tensor in batch.items() if not name.startswith("decoder")}
    twice = {f"decoder_{name}": tensor for name, tensor in batch.items()}
    assert torch.equal(output_of(model, batch), output_of(model, batch | twice))


@pytest.mark.parametrize(
    "model_class", [model_class for model_class in HEADS if "Classification" in model_class.__name__], ids=named
)
def test_classifiers_take_use_cache(model_class):
    """Callers say so to any decoder; there is nothing to cache for here."""
    batch = padded(draw(model_class, LENGTHS, labels=False))
    model = tiny_model(model_class)
    for use_cache in (True, False):
        assert torch.equal(model(**batch, use_cache=use_cache).logits, model(**batch).logits)


@every_head
def test_embeddings_may_stand_for_tokens(model_class):
    model = tiny_model(model_class)
    batch = padded(draw(model_class, LENGTHS))
    embedded = dict(batch)
    embedded["inputs_embeds"] = model.get_input_embeddings()(embedded.pop("input_ids"))
    if "decoder_input_ids" in batch:
        embed_tokens = model.get_decoder().embed_tokens
        embedded["decoder_inputs_embeds"] = embed_tokens(embedded.pop("decoder_input_ids"))
    expected, output = model(**batch), model(**embedded)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(output.loss, expected.loss)


@every_model
def test_embeddings_are_called(model_class):
    """Where the rest is frozen, peft asks for gradients by a hook on them."""
    model, called = tiny_model(model_class), set()
    tables = {module for name, module in model.named_modules() if name.endswith("embed_tokens")}
    for table in tables:
        table.register_forward_hook(lambda module, inputs, output: called.add(module))
    model(**padded(draw(model_class, LENGTHS)))
    assert called == tables


# Weights and states of every layer.


@every_model
@pytest.mark.parametrize("lengths", [[6, 6], LENGTHS], ids=["no-padding", "padding"])
def test_attentions_and_hidden_states(model_class, lengths):
    batch = padded(draw(model_class, lengths))
    output = tiny_model(model_class, "eager")(**batch, output_attentions=True, output_hidden_states=True)
    layers, heads, width = SIZES["num_hidden_layers"], SIZES["num_attention_heads"], SIZES["hidden_size"]
    source = batch["attention_mask"].bool()
    target = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
    stacks = {"": (target, target)}
    if is_encoder_decoder(model_class):
        stacks = {"encoder_": (source, source), "decoder_": (target, target), "cross_": (target, source)}
    for stack, (queries, keys) in stacks.items():
        attentions = output[f"{stack}attentions"]
        assert len(attentions) == layers
        for weights in attentions:
            assert weights.shape == (len(lengths), heads, queries.shape[1], keys.shape[1])
            by_query = weights.transpose(1, 2)  # (B, T, H, S)
            assert (by_query.sum(-1)[queries] - 1).abs().max() < 1e-12
            to_padding = by_query * ~keys[:, None, None]
            assert (to_padding[queries] == 0).all()
        if stack != "cross_":
            states = output[f"{stack}hidden_states"]
            assert [tuple(tensor.shape) for tensor in states] == [(*queries.shape, width)] * (layers + 1)


@every_model
def test_states_may_be_asked_for_in_the_config(model_class):
    batch = padded(draw(model_class, LENGTHS))
    model = tiny_model(model_class, "eager")
    expected = model(**batch, output_hidden_states=True)
    model.config.output_hidden_states = True
    output = model(**batch)
    name = "decoder_hidden_states" if is_encoder_decoder(model_class) else "hidden_states"
    assert torch.equal(output[name][-1], expected[name][-1])


# The door.

IDS = torch.randint(3, VOCAB, (2, 6))
EMBEDS = torch.randn(2, 6, SIZES["hidden_size"]).double()
RAGGED = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
RESTARTING = torch.arange(6).repeat(1, 2)
SHORT = {"position_type": "learned", "max_position_embeddings": 5}


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel, BlendEncoderDecoderModel], ids=named)
@pytest.mark.parametrize(
    "options, batch, message",
    [
        ({}, {}, "exactly one of input_ids and inputs_embeds"),
        ({}, {"input_ids": IDS, "inputs_embeds": EMBEDS}, "exactly one of input_ids and inputs_embeds"),
        ({}, {"input_ids": IDS[0]}, r"input_ids are \(B, T\).*got \(6,\)"),
        ({}, {"inputs_embeds": EMBEDS[0]}, r"inputs_embeds \(B, T, E\), got \(6, 32\)"),
        ({}, {"input_ids": IDS, "attention_mask": torch.ones(2, 5)}, r"\(2, 5\).*\(2, 6\)"),
        ({}, {"input_ids": IDS, "attention_mask": torch.ones(3, 6)}, r"\(3, 6\).*\(2, 6\)"),
        ({}, {"input_ids": IDS, "attention_mask": torch.ones(2, 6, 6)}, r"\(2, 6, 6\), not \(B, S\)"),
        (
            {},
            {"input_ids": IDS, "attention_mask": RAGGED, "position_ids": torch.arange(8)[None]},
            r"shape \(2, 6\), got \(1, 8\)",
        ),
        (
            {},
            {"input_ids": IDS, "attention_mask": RAGGED, "position_ids": torch.arange(6)},
            r"shape \(2, 6\), got \(6,\)",
        ),
        (SHORT, {"input_ids": IDS}, "6 tokens.*max_position_embeddings=5"),
        (SHORT, {"input_ids": IDS.view(1, 12), "position_ids": RESTARTING}, "6 tokens.*max_position_embeddings=5"),
    ],
    ids=[
        "neither",
        "both",
        "no-rows",
        "no-rows-of-embeddings",
        "mask-length",
        "mask-rows",
        "mask-dimensions",
        "positions-length",
        "positions-dimensions",
        "too-long",
        "too-long-flattened",
    ],
)
def test_the_door_refuses(model_class, options, batch, message, use_cache):
    model = tiny_model(model_class, **options)
    with pytest.raises(ValueError, match=message):
        model(**batch, use_cache=use_cache)


@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
def test_causality_is_the_stacks_own(model_class):
    """Another was heeded for batches without padding only; it may stand in the config, too."""
    model = tiny_model(model_class)
    is_causal = model_class is BlendDecoderModel
    assert_close(model(IDS, is_causal=is_causal).last_hidden_state, model(IDS).last_hidden_state)
    with pytest.raises(ValueError, match=f"is_causal={not is_causal}, but that of {model_class.__name__}"):
        model(IDS, is_causal=not is_causal)
    model.config.is_causal = not is_causal
    with pytest.raises(ValueError, match=f"is_causal={not is_causal}"):
        model(IDS)


def test_a_decoder_reads_no_source_of_another_vocabulary():
    two = {"share_encoder_decoder_embeddings": False, "decoder": {"vocab_size": 30}}
    model = tiny_model(BlendEncoderDecoderForTokenClassification, **two)
    with pytest.raises(ValueError, match="another vocabulary than the decoder: give decoder_input_ids"):
        model(IDS)
    assert model(IDS, decoder_input_ids=IDS % 30).logits.shape == (2, 6, LABELS)


def test_a_flattened_batch_has_no_weights():
    with pytest.raises(ValueError, match="output_attentions: a flattened batch"):
        tiny_model(BlendEncoderModel)(IDS.view(1, 12), position_ids=RESTARTING, output_attentions=True)


@pytest.mark.parametrize("model_class", [head for head in HEADS if "Sequence" not in head.__name__], ids=named)
def test_labels_of_another_length_are_refused(model_class):
    """Of a padded batch, wrong ones were taken for a token's."""
    batch = padded(draw(model_class, LENGTHS))
    batch["labels"] = torch.cat((batch["labels"], batch["labels"]), dim=1)
    with pytest.raises(ValueError, match=r"\(3, 14\)|\(3, 10\)"):
        tiny_model(model_class)(**batch)


def test_padding_does_not_count_towards_the_longest_sequence():
    model = tiny_model(BlendEncoderModel, **SHORT)
    rows = draw(BlendEncoderModel, [5, 3])
    assert_close(output_of(model, padded(rows, extra=4)), output_of(model, padded(rows)))


@pytest.mark.parametrize("position_type", ["learned", "sinusoidal", "rotary"])
@pytest.mark.parametrize("asked", [{}, DENSE], ids=["flat", "dense"])
@every_base
def test_positions_may_be_given(model_class, position_type, asked):
    """As they would be counted, or others; one row for all, or one each."""
    model = tiny_model(model_class, position_type=position_type)
    batch = padded(draw(model_class, LENGTHS), "left")
    given = {
        name.replace("attention_mask", "position_ids"): (mask.cumsum(-1) - 1).clamp(min=0)
        for name, mask in batch.items()
        if name.endswith("mask")
    }
    expected = output_of(model, batch, **asked)
    assert_close(output_of(model, batch | given, **asked), expected)
    scaled = {name: 2 * positions for name, positions in given.items()}
    assert (output_of(model, batch | scaled, **asked) != expected).any()
    unpadded = padded(draw(model_class, [6, 6]))
    one = {
        name.replace("attention_mask", "position_ids"): torch.arange(mask.shape[1])[None]
        for name, mask in unpadded.items()
        if name.endswith("mask")
    }
    assert_close(output_of(model, unpadded | one, **asked), output_of(model, unpadded, **asked))


def test_a_source_must_fit_the_decoder():
    with pytest.raises(ValueError, match=r"cross_attention_hidden_size=32.*needs encoder_hidden_states"):
        tiny_model(BlendDecoderModel, cross_attention_hidden_size=32)(input_ids=IDS)
    with pytest.raises(ValueError, match=r"encoder_hidden_states given.*cross_attention_hidden_size is None"):
        tiny_model(BlendDecoderModel)(input_ids=IDS, encoder_hidden_states=EMBEDS)
    cache = tiny_model(BlendDecoderModel)(input_ids=IDS)[CACHE_NAME]
    with pytest.raises(ValueError, match=r"must be an EncoderDecoderCache, got DynamicCache"):
        tiny_model(BlendDecoderModel, cross_attention_hidden_size=32)(
            input_ids=IDS, encoder_hidden_states=EMBEDS, cache=cache
        )
    for mask in (torch.ones(2, 1), torch.ones(3, 6)):
        with pytest.raises(
            ValueError, match=rf"encoder_attention_mask has shape \({len(mask)}, .*the source \(2, 6\)"
        ):
            tiny_model(BlendDecoderModel, cross_attention_hidden_size=32)(
                input_ids=IDS, encoder_hidden_states=EMBEDS, encoder_attention_mask=mask
            )
    with pytest.raises(ValueError, match=r"2 target.*3 source"):
        tiny_model(BlendEncoderDecoderModel)(
            input_ids=torch.ones(3, 4, dtype=torch.long), decoder_input_ids=IDS, use_cache=False
        )


def test_there_must_be_something_to_start_from():
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM, decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(ValueError, match="decoder_start_token_id is None"):
        model(input_ids=IDS, labels=IDS)


@every_kernel
@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
def test_masks_may_be_made_beforehand(model_class, attention):
    """As a dict of layer types, or for all layers alike as one tensor (B, 1, T, T)."""
    model = tiny_model(model_class, attention)
    batch = padded(draw(model_class, LENGTHS), "left")
    expected = output_of(model, batch)
    positions = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    (pattern,) = model.patterns(
        model.choose_layout(batch["input_ids"], None, batch["attention_mask"], None, {}, keep_padded=True),
        batch["attention_mask"],
        EMBEDS.new_empty(3, 7, 0),
    ).values()
    mask = pattern.mask
    for made in (mask, {"full_attention": mask}):
        output = model(input_ids=batch["input_ids"], attention_mask=made, position_ids=positions, use_cache=False)
        assert_close(real_rows(batch, output.last_hidden_state), expected)


def test_a_mask_of_blocks_goes_to_the_kernel_as_it_is():
    """Flex attention's own, which was left out."""
    model = tiny_model(BlendDecoderModel, "flex_attention")
    mask = create_block_mask(lambda batch, head, query, key: query >= key, 2, None, 6, 6, device="cpu")
    (pattern,) = model.patterns(model.choose_layout(IDS, None, mask, None, {}), mask, EMBEDS).values()
    assert pattern.mask is mask


def attend_backwards(dtype: torch.dtype) -> torch.Tensor:
    """A mask (1, 1, 6, 6) by which a token sees itself and those after it."""
    seen = torch.ones(1, 1, 6, 6).triu().bool()
    return seen if dtype is torch.bool else torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -1e4)


@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
def test_masks_may_be_added_or_tell_what_is_seen(model_class):
    """To either kernel. A mask of truth values was added to the scores."""
    output = {
        (attention, dtype): tiny_model(model_class, attention)(IDS, attend_backwards(dtype)).last_hidden_state
        for attention in ("eager", "sdpa")
        for dtype in (torch.bool, torch.float64)
    }
    first, *others = output.values()
    assert (first != tiny_model(model_class)(IDS).last_hidden_state).any()
    for other in others:
        assert_close(other, first)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_mask_that_is_added_goes_with_training_in_half_precision(dtype):
    model = tiny_model(BlendDecoderForCausalLM).to(torch.bfloat16).train()
    expected = model(IDS, attend_backwards(torch.bool), labels=IDS).loss
    model(IDS, attend_backwards(dtype), labels=IDS).loss.backward()
    assert torch.equal(model(IDS, attend_backwards(dtype), labels=IDS).loss, expected)


# Names of parameters are a file format.

BLOCK = [
    "self_attn.q_proj.weight",
    "self_attn.q_proj.bias",
    "self_attn.k_proj.weight",
    "self_attn.k_proj.bias",
    "self_attn.v_proj.weight",
    "self_attn.v_proj.bias",
    "self_attn.o_proj.weight",
    "self_attn.o_proj.bias",
    "self_attn_norm.weight",
    "self_attn_norm.bias",
    "mlp.gate_proj.weight",
    "mlp.gate_proj.bias",
    "mlp.up_proj.weight",
    "mlp.up_proj.bias",
    "mlp.down_proj.weight",
    "mlp.down_proj.bias",
    "mlp_norm.weight",
    "mlp_norm.bias",
]
CROSS = [
    "cross_attn.q_proj.weight",
    "cross_attn.q_proj.bias",
    "cross_attn.k_proj.weight",
    "cross_attn.k_proj.bias",
    "cross_attn.v_proj.weight",
    "cross_attn.v_proj.bias",
    "cross_attn.o_proj.weight",
    "cross_attn.o_proj.bias",
    "cross_attn_norm.weight",
    "cross_attn_norm.bias",
]
OUTSIDE = [
    "embed_tokens.weight",
    "embed_positions.weight",
    "embed_token_types.weight",
    "embedding_norm.weight",
    "embedding_norm.bias",
    "norm.weight",
    "norm.bias",
]
STACK = OUTSIDE + [f"layers.0.{name}" for name in BLOCK]
SOURCE_READING_STACK = STACK + [f"layers.0.{name}" for name in CROSS]
WHOLE = [f"encoder.{name}" for name in STACK] + [f"decoder.{name}" for name in SOURCE_READING_STACK]
MASKED_LM_HEAD = [
    "head.dense.weight",
    "head.dense.bias",
    "head.norm.weight",
    "head.norm.bias",
    "lm_head.weight",
    "lm_head.bias",
]
NAMES = {
    "BlendEncoderModel": (STACK, []),
    "BlendDecoderModel": (STACK, []),
    "BlendEncoderDecoderModel": (WHOLE, []),
    "BlendEncoderForMaskedLM": (STACK, MASKED_LM_HEAD),
    "BlendEncoderForSequenceClassification": (STACK, ["score.weight", "score.bias"]),
    "BlendEncoderForTokenClassification": (STACK, ["classifier.weight", "classifier.bias"]),
    "BlendDecoderForCausalLM": (STACK, ["lm_head.weight", "lm_head.bias"]),
    "BlendDecoderForSequenceClassification": (STACK, ["score.weight", "score.bias"]),
    "BlendDecoderForTokenClassification": (STACK, ["classifier.weight", "classifier.bias"]),
    "BlendEncoderDecoderForSeq2SeqLM": (WHOLE, ["lm_head.weight", "lm_head.bias"]),
    "BlendEncoderDecoderForSequenceClassification": (WHOLE, ["score.weight", "score.bias"]),
    "BlendEncoderDecoderForTokenClassification": (WHOLE, ["classifier.weight", "classifier.bias"]),
}


@every_model
def test_names_of_parameters(model_class):
    model = tiny_model(
        model_class,
        **BIASES,
        num_hidden_layers=1,
        norm_type="layernorm",
        position_type="learned",
        type_vocab_size=2,
        embedding_norm=True,
    )
    base, head = NAMES[model_class.__name__]
    prefix = "model." if model_class in HEADS else ""
    assert set(model.state_dict()) == {*(prefix + name for name in base), *head}
