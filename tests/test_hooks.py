"""Hooks: whoever reads what passes through a module sees a padded batch; who only moves modules costs nothing."""

import functools
from contextlib import contextmanager

import pytest
import torch
from accelerate import dispatch_model
from conftest import (
    DENSE,
    SLIDING,
    assert_close,
    calls_of,
    draw,
    every_head,
    every_model,
    gradients,
    named,
    padded,
    real_rows,
    tiny_model,
)
from torch import nn
from torch.distributed import HashStore, destroy_process_group, init_process_group
from torch.distributed.fsdp import fully_shard
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode
from transformers.debug_utils import DebugUnderflowOverflow
from transformers.integrations.neftune import activate_neftune

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForTokenClassification

LENGTHS = [3, 6, 2]
ALPHA = 5.0


def batch_for(model_class, lengths=LENGTHS, side="right"):
    return padded(draw(model_class, lengths), side)


def parts_of(model):
    """The last part of each class and name, but for those that run nothing themselves."""
    parts = {(type(part), name.split(".")[-1]): name for name, part in model.named_modules() if name}
    idle = (nn.ModuleList, nn.Identity)
    return [name for (kind, last), name in parts.items() if kind not in idle and last != "attention_dropout"]


def shown(model, names, batch):
    """What forward hooks on parts are shown in one forward, if it is of tokens."""
    seen = {name: [] for name in names}

    def see(name, output):
        states = output[0] if isinstance(output, tuple) else getattr(output, "last_hidden_state", output)
        seen[name].append(states.detach())

    handles = [
        model.get_submodule(name).register_forward_hook(lambda module, args, output, name=name: see(name, output))
        for name in names
    ]
    model(**batch)
    for handle in handles:
        handle.remove()
    return seen


def rows_in_layers(model, batch):
    """The shape [rows, tokens] that the activation function of the last layer reads."""
    activation = [part for name, part in model.named_modules() if name.endswith("act_fn")][-1]
    with calls_of(activation) as calls:
        model(**batch)
    return tuple(calls[0].args[0].shape[:2])


def is_flat(model, batch):
    real = batch.get("decoder_attention_mask", batch["attention_mask"])
    shape = rows_in_layers(model, batch)
    assert shape in ((1, real.sum()), tuple(real.shape))
    return shape == (1, real.sum())


# What somebody's hooks see


@every_model
def test_a_hook_on_any_part_sees_the_padded_batch(model_class):
    """The values too are those of the padded form, at real tokens."""
    model, batch = tiny_model(model_class), batch_for(model_class, side="left")
    batch.pop("labels", None)
    names = parts_of(model)
    expected = shown(model, names, {**batch, **DENSE})
    for name in names:
        for seen, other in zip(shown(model, [name], batch)[name], expected[name], strict=True):
            assert seen.shape == other.shape and seen.equal(other), name
    assert is_flat(model, batch), "no hook is left"


HOOKS = {
    "before": lambda part, see: part.register_forward_pre_hook(lambda module, args: see(args[0])),
    "after": lambda part, see: part.register_forward_hook(lambda module, args, output: see(output)),
    "gradient": lambda part, see: part.register_full_backward_hook(lambda module, to, of: see(of[0])),
    "gradient before": lambda part, see: part.register_full_backward_pre_hook(lambda module, of: see(of[0])),
    "everywhere": lambda part, see: register_module_forward_hook(
        lambda module, args, output: see(output) if module is part else None
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("options", [{}, {**SLIDING, "max_position_embeddings": 128}], ids=named)
def test_every_way_to_hook(hook, options):
    """Long texts without padding, too, which are cut into windows."""
    model = tiny_model(BlendEncoderForTokenClassification, **options)
    batch = batch_for(type(model), [70, 70] if options else LENGTHS)
    seen = []
    handle = HOOKS[hook](model.model.layers[1].mlp, lambda states: seen.append(tuple(states.shape[:2])))
    model(**batch).loss.backward()
    handle.remove()
    assert seen == [tuple(batch["input_ids"].shape)]


@every_head
def test_steering_a_token_steers_that_token(model_class):
    """A hook that adds a vector to one column of a layer's output has the gradients that it has in the padded form."""
    model, batch = tiny_model(model_class), batch_for(model_class, side="left")

    def steer(module, args, output):
        return output + (torch.arange(output.shape[1]) == output.shape[1] - 2)[:, None]

    plain = gradients(model, batch)
    layer = [part for name, part in model.named_modules() if name.endswith("layers.0")][-1]
    layer.register_forward_hook(steer)
    steered, expected = gradients(model, batch), gradients(model, batch, **DENSE)
    for name, gradient in expected.items():
        assert_close(steered[name], gradient, 1e-8, what=name)
    assert any((steered[name] - plain[name]).abs().max() > 1e-3 * plain[name].abs().max() for name in plain)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_a_hook_on_one_stack_changes_nothing_in_the_other(stack):
    """Called by the base model, one of them is padded then; the source of the other is brought into its form."""
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM).model
    batch = batch_for(BlendEncoderDecoderForSeq2SeqLM)
    del batch["labels"]
    expected = real_rows(batch, model(**batch).last_hidden_state)
    source = model.encoder(batch["input_ids"], batch["attention_mask"], repad=stack == "encoder")
    target = {name.removeprefix("decoder_"): tensor for name, tensor in batch.items() if name.startswith("decoder_")}
    getattr(model, stack).layers[0].register_forward_hook(lambda *_: None)
    layout = {} if stack == "encoder" else {"encoder_layout": source.layout}
    output = model.decoder(
        **target,
        encoder_hidden_states=source.last_hidden_state,
        encoder_attention_mask=batch["attention_mask"],
        **layout,
    )
    assert_close(real_rows(batch, output.last_hidden_state), expected)


class Recorder:
    """An object in place of a module's forward, as nnsight has it."""

    def __init__(self, module, see):
        self.forward, self.see = module.forward, see
        functools.update_wrapper(self, type(module).forward)

    def __call__(self, states, **kwargs):
        self.see(states)
        return self.forward(states, **kwargs)


def wrapper(module, see):
    """A function with the name and the __module__ of the forward that it wraps."""
    forward = module.forward

    @functools.wraps(forward)
    def recorded(states):
        see(states)
        return forward(states)

    return recorded


def function(module, see):
    forward = module.forward
    return torch.no_grad()(lambda states: see(states) or forward(states))


@pytest.mark.parametrize("replace", [Recorder, wrapper, function], ids=named)
def test_a_forward_in_place_of_its_own_reads_the_padded_batch(replace):
    model = tiny_model(BlendEncoderForTokenClassification)
    batch, mlp, seen = batch_for(type(model)), model.model.layers[1].mlp, []
    mlp.forward = replace(mlp, lambda states: seen.append(tuple(states.shape[:2])))
    model(**batch)
    assert seen == [tuple(batch["input_ids"].shape)]
    del mlp.forward
    assert is_flat(model, batch)


@every_head
def test_the_debugger_of_transformers_reads_every_module(model_class):
    """It takes the minimum of each tensor, so none may be empty."""
    model = tiny_model(model_class)
    debugger = DebugUnderflowOverflow(model)
    model(**batch_for(model_class))
    assert debugger.batch_number == 1


# Whose hooks cost nothing


@contextmanager
def after_recording(model):
    """transformers' hooks that record states stay on the layers."""
    model(torch.ones(1, 2, dtype=torch.long), output_hidden_states=True, output_attentions=True)
    assert model.model.layers[0]._forward_hooks
    yield


@contextmanager
def gradient_checkpointing(model):
    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    assert model.get_input_embeddings()._forward_hooks
    yield


@contextmanager
def gradients_for_adapters(model):
    """As peft, trl and others have it, each in a module of its own."""

    def make_inputs_require_grad(module, input, output):
        output.requires_grad_(True)

    model.get_input_embeddings().register_forward_hook(make_inputs_require_grad)
    yield


@contextmanager
def dispatched(model):
    dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True)
    assert hasattr(model.model.layers[0], "_hf_hook") or hasattr(model, "_hf_hook")
    yield


@contextmanager
def sharded(model):
    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)
        assert model.model.layers[0]._forward_pre_hooks
        yield
    finally:
        destroy_process_group()


@contextmanager
def counted(model):
    with FlopCounterMode(display=False):
        yield


@contextmanager
def watched_from_outside(model):
    """What goes in and out of the whole model has the caller's form anyway; trackers of experiments hook it there."""
    model.register_forward_hook(lambda *_: None)
    yield


@contextmanager
def compiled_in_place(model):
    mlp = model.model.layers[0].mlp
    mlp.forward = torch.compile(mlp.forward, backend="eager")
    yield


QUIET = [
    after_recording,
    gradient_checkpointing,
    gradients_for_adapters,
    dispatched,
    sharded,
    counted,
    compiled_in_place,
    watched_from_outside,
]


@pytest.mark.parametrize("way", QUIET, ids=named)
def test_hooks_that_read_no_tokens_leave_the_batch_flat(way):
    model = tiny_model(BlendDecoderForCausalLM).train()
    batch = batch_for(type(model))
    with way(model):
        assert is_flat(model, batch)


# NEFTune


@pytest.mark.parametrize("lengths", [[70, 5, 8], [70, 70], [70]], ids=["padded", "full", "one"])
@pytest.mark.parametrize("options", [{}, SLIDING], ids=named)
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderForTokenClassification], ids=named)
def test_noise_of_neftune_depends_on_the_padded_length(model_class, options, lengths):
    """It is uniform up to alpha / sqrt(T E), as in every other model; the layers leave out padding all the same."""
    model = tiny_model(model_class, **{**options, "max_position_embeddings": 128}).train()
    nn.init.zeros_(model.get_input_embeddings().weight)
    batch = batch_for(model_class, lengths)
    handle = activate_neftune(model, ALPHA)
    with calls_of(model.model.embedding_norm) as embedded, calls_of(model.model.layers[0].mlp) as calls:
        model(**batch)
    handle.remove()
    largest = ALPHA / (70 * model.config.hidden_size) ** 0.5
    noise = embedded[0].args[0]
    assert 0.99 * largest < noise.abs().max() <= largest
    assert_close(noise.std(), torch.tensor(largest / 3**0.5).double(), 0.05)
    assert noise.shape[:2].numel() == calls[0].args[0].shape[:2].numel() == sum(lengths)


class SoftPrompt(nn.Module):
    """A token embedding whose first two vectors of each row are learned."""

    def __init__(self, embedding: nn.Embedding):
        super().__init__()
        self.embedding = embedding
        self.learned = nn.Parameter(torch.randn(2, embedding.embedding_dim, dtype=embedding.weight.dtype))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.cat((self.learned.expand(len(input_ids), -1, -1), self.embedding(input_ids[:, 2:])), dim=1)


@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderForTokenClassification], ids=named)
def test_a_module_in_place_of_the_embedding_reads_rows(model_class):
    """The layers still compute no padding."""
    model = tiny_model(model_class)
    model.set_input_embeddings(SoftPrompt(model.get_input_embeddings()))
    batch = batch_for(model_class)
    expected = model(**batch, **DENSE)
    with calls_of(model.model.layers[0].mlp) as calls:
        found = model(**batch)
    assert calls[0].args[0].shape[:2] == (1, sum(LENGTHS))
    assert_close(*(real_rows(batch, output.logits) for output in (found, expected)))
    assert_close(found.loss, expected.loss)
