"""The flat form: no padding is computed, and nothing else changes, for any head, kernel, norm and position."""

import itertools
from contextlib import ExitStack, suppress

import pytest
import torch
from conftest import (
    BASES,
    CHOICES,
    DENSE,
    HEADS,
    KERNELS,
    SIZES,
    SLIDING,
    assert_close,
    assert_equal_gradients,
    calls_of,
    draw,
    every_base,
    every_head,
    every_kernel,
    every_pairing,
    fill,
    flattened,
    gradients,
    named,
    output_of,
    padded,
    real_rows,
    tiny_model,
)
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from seqblend import (
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderDecoderModel,
    BlendEncoderForMaskedLM,
    BlendEncoderModel,
)
from seqblend.modeling import attention as attention_module
from seqblend.modeling import base as base_module
from seqblend.modeling.attention import eager_attention_forward
from seqblend.modeling.base import Stack
from seqblend.modeling.cache import CACHE_NAME
from seqblend.modeling.packing import FlatLayout, PaddedLayout
from seqblend.modeling.patterns import SHORT_LENGTH, arrange_rows, group_by_length

LENGTHS = [7, 3, 5]
# Of lengths that are not given to a kernel together, one of them longer than two blocks of a window.
APART = [70, 3, 40, 19, 5]
WINDOWS = {**SLIDING, "max_position_embeddings": 128}
NORMS_AND_POSITIONS = [
    {"norm_type": norm, "norm_position": place, "position_type": position}
    for norm in CHOICES["norm_type"]
    for place in CHOICES["norm_position"]
    for position in CHOICES["position_type"]
]
every_norm_and_position = pytest.mark.parametrize("options", NORMS_AND_POSITIONS, ids=named)


def tokens_seen(model, batch, **asked) -> dict[str, tuple[int, ...]]:
    """The shapes [rows, tokens] that reach the feed-forward networks, by stack."""
    stacks = {"": model}
    if model.config.is_encoder_decoder:
        stacks = {"encoder": model.get_encoder(), "decoder": model.get_decoder()}
    mlps = {name: next(part.mlp for part in stack.modules() if hasattr(part, "mlp")) for name, stack in stacks.items()}
    with ExitStack() as spies:
        calls = {name: spies.enter_context(calls_of(mlp)) for name, mlp in mlps.items()}
        model(**batch, **asked)
    return {name: tuple(each[-1].args[0].shape[:2]) for name, each in calls.items()}


@every_head
def test_padding_is_not_computed(model_class):
    model = tiny_model(model_class).train()
    batch = padded(draw(model_class, LENGTHS))
    flat, dense = tokens_seen(model, batch), tokens_seen(model, batch, **DENSE)
    masks = {"encoder": "attention_mask", "decoder": "decoder_attention_mask", "": "attention_mask"}
    for part in flat:
        mask = batch.get(masks[part], batch["attention_mask"])
        assert flat[part] == (1, mask.sum())
        assert dense[part] == tuple(mask.shape)


def flat_and_padded(model, batch) -> list[tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """Loss, logits of the real tokens and gradients, in training, of both forms."""
    model.train()
    runs = []
    for asked in ({}, DENSE):
        model.zero_grad()
        output = model(**batch, **asked)
        output.loss.backward()
        logits = output.logits if output.logits.dim() == 2 else real_rows(batch, output.logits)
        runs.append((output.loss, logits, {name: parameter.grad for name, parameter in model.named_parameters()}))
    return runs


def assert_flat_equals_padded(model, batch) -> None:
    flat, dense = flat_and_padded(model, batch)
    assert_close(flat[0], dense[0], what="loss")
    assert_close(flat[1], dense[1], what="logits")
    assert_equal_gradients(flat[2], dense[2])


@every_norm_and_position
@every_kernel
@every_head
def test_flat_equals_padded(model_class, attention, options):
    batch = padded(draw(model_class, LENGTHS), "left" if attention == "sdpa" else "right", extra=1)
    assert_flat_equals_padded(tiny_model(model_class, attention, **options, **SLIDING), batch)


@every_pairing(model_class=HEADS, window=[1, 3, 31, 33], side=["left", "right"], attention=KERNELS)
def test_sequences_of_all_lengths(model_class, attention, side, window):
    """In several groups, the longest in blocks: windows as wide as a block and narrower, and wider."""
    options = {**WINDOWS, "sliding_window": window}
    assert_flat_equals_padded(tiny_model(model_class, attention, **options), padded(draw(model_class, APART), side))


@every_kernel
@every_head
def test_flat_equals_padded_in_single_precision(model_class, attention):
    """The difference of logits, and of all gradients, is within 1e-5 of their norm."""
    model = tiny_model(model_class, attention, **WINDOWS).float()
    fill(model, 0.1)  # each layer keeps the size of the states, as in a model of hundreds of features
    runs = flat_and_padded(model, padded(draw(model_class, APART)))
    for flat, dense in zip(
        *((logits.flatten(), torch.cat([grad.flatten() for grad in grads.values()])) for _, logits, grads in runs),
        strict=True,
    ):
        assert (flat - dense).norm() <= 1e-5 * dense.norm()


@every_base
def test_long_sequences_without_padding_are_cut_into_blocks_too(model_class):
    model = tiny_model(model_class, **WINDOWS).train()
    batch = padded(draw(model_class, [70, 70]))
    flat, dense = model(**batch), model(**batch, **DENSE)
    assert_close(flat.last_hidden_state, dense.last_hidden_state)


class LargestTensor(TorchDispatchMode):
    """Remembers how many values the largest tensor had that was made."""

    numel = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().size() // tensor.itemsize)
        return result


@pytest.mark.parametrize("padding", [0, 1])
@every_base
def test_nothing_grows_with_the_square_of_the_length(model_class, padding):
    """No mask and no score of all tokens by all tokens, in full layers or sliding ones, forward or backward."""
    model = tiny_model(model_class, **{**WINDOWS, "max_position_embeddings": 2048}).train()
    largest = []
    for length in (256, 1024):
        batch = padded(draw(model_class, [length, length - padding]))
        if padding and model_class is not BlendDecoderModel:
            batch = {name: torch.cat((tensor, tensor)) for name, tensor in batch.items()}
        with LargestTensor() as recorded:
            model(**batch).last_hidden_state.sum().backward()
        largest.append(recorded.numel)
    assert largest[1] <= 4.1 * largest[0]


def lengths_in(rows: list[dict[str, torch.Tensor]], name: str) -> torch.Tensor:
    return torch.tensor([0, *(len(row[name]) for row in rows)]).cumsum(0).int()


def by_positions(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return flattened(rows)


def by_lengths(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """As DataCollatorWithFlattening says it: where sequences begin; `q` of the target and `k` of the source."""
    batch = {name: tensor for name, tensor in flattened(rows).items() if not name.endswith("position_ids")}
    target = "decoder_input_ids" if "decoder_input_ids" in rows[0] else "input_ids"
    for letter, name in {"q": target, "k": "input_ids"}.items():
        starts = lengths_in(rows, name)
        batch |= {f"cu_seq_lens_{letter}": starts, f"max_length_{letter}": int(starts.diff().max())}
    return batch


def by_both(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return by_positions(rows) | by_lengths(rows)


WAYS = [by_positions, by_lengths, by_both]
every_way = pytest.mark.parametrize("flatten", WAYS, ids=named)
every_flattened = every_pairing(model_class=BASES + HEADS, flatten=WAYS, lengths=[LENGTHS, APART], attention=KERNELS)


@every_flattened
def test_flattened_input_equals_padded(model_class, lengths, attention, flatten):
    """A batch that the caller has flattened to [1, N]: forward and gradients, in training."""
    model = tiny_model(model_class, attention, **WINDOWS).train()
    rows = draw(model_class, lengths)
    flat, batch = flatten(rows), padded(rows)
    output, expected = model(**flat), model(**batch)
    for name in ("logits", "last_hidden_state", "encoder_last_hidden_state"):
        if name in expected:
            tensor, wanted = output[name], expected[name]
            if tensor.dim() == 3:
                side = {"attention_mask": batch["attention_mask"]} if name.startswith("encoder") else batch
                tensor, wanted = tensor[0], real_rows(side, wanted)
            assert_close(tensor, wanted, what=name)
    if "labels" in batch:
        assert_close(output.loss, expected.loss, what="loss")
        assert_equal_gradients(gradients(model, flat), gradients(model, batch))


@every_pairing(model_class=BASES + HEADS, flatten=WAYS, asked=[{}, DENSE])
def test_flattened_input_in_evaluation(model_class, asked, flatten):
    """With nothing said about a cache, which by default a decoder makes; and with all hidden states."""
    model = tiny_model(model_class)
    rows = draw(model_class, LENGTHS, labels=False)
    output = model(**flatten(rows), **asked)
    tensor = output.logits if "logits" in output else output.last_hidden_state
    assert_close(tensor if tensor.dim() == 2 else tensor[0], output_of(model, padded(rows)))


@every_flattened
def test_no_gradient_from_one_sequence_to_another(model_class, lengths, attention, flatten):
    """Exactly zero, in the caller's flattened batch and in our own."""
    model = tiny_model(model_class, attention, **WINDOWS).train()
    rows = draw(model_class, lengths, labels=False)
    for batch, is_flat in ((flatten(rows), True), (padded(rows), False)):
        embeds = {}
        for name in ("input_ids", "decoder_input_ids"):
            if name in batch:
                stack = model.get_decoder() if name.startswith("decoder") else model
                embeds[name] = stack.get_input_embeddings()(batch.pop(name)).detach().requires_grad_()
                batch[name.replace("input_ids", "inputs_embeds")] = embeds[name]
        output = model(**batch)
        tensor = output.logits if "logits" in output else output.last_hidden_state
        target = "decoder_input_ids" if "decoder_input_ids" in rows[0] else "input_ids"
        if tensor.dim() == 2:
            tensor[1].sum().backward()
        elif is_flat:
            start, end = lengths_in(rows, target)[1:3]
            tensor[0, start:end].sum().backward()
        else:
            tensor[1, : len(rows[1][target])].sum().backward()
        for name, tensor in embeds.items():
            gradient = tensor.grad[0].split([len(row[name]) for row in rows]) if is_flat else tensor.grad
            assert [bool((each != 0).any()) for each in gradient] == [row == 1 for row in range(len(rows))], name


# A kernel that is told where the sequences are, as flash attention is, and given no rows and no mask.


def varlen_kernel(
    module,
    query,
    key,
    value,
    attention_mask,
    *,
    scaling,
    sliding_window,
    cu_seq_lens_q,
    cu_seq_lens_k,
    max_length_q,
    max_length_k,
    **kwargs,
):
    """Each sequence on its own; a window counts the query's own place."""
    assert attention_mask is None
    key, value = (states.repeat_interleave(module.num_key_value_groups, dim=1) for states in (key, value))
    assert (max_length_q, max_length_k) == (cu_seq_lens_q.diff().max(), cu_seq_lens_k.diff().max())
    blended = []
    for queries, keys in zip(cu_seq_lens_q.unfold(0, 2, 1), cu_seq_lens_k.unfold(0, 2, 1), strict=True):
        scores = query[:, :, slice(*queries)] @ key[:, :, slice(*keys)].mT * scaling
        distance = torch.arange(scores.shape[-2])[:, None] - torch.arange(scores.shape[-1])
        hidden = distance < 0 if module.is_causal else torch.zeros_like(distance, dtype=torch.bool)
        if sliding_window is not None:
            hidden |= distance.abs() >= sliding_window
        blended.append(scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value[:, :, slice(*keys)])
    return torch.cat(blended, dim=2).transpose(1, 2), None


def torch_varlen(query, key, value, starts_q, starts_k, longest_q, longest_k, *, scale, window_size, enable_gqa=False):
    """What torch.nn.attention.varlen.varlen_attn says that it does, and has no kernel for on a CPU."""
    assert enable_gqa == (query.shape[1] != key.shape[1])
    left, right = window_size
    assert right in (0, left)

    class Layer:
        num_key_value_groups = query.shape[1] // key.shape[1]
        is_causal = (right == 0 and left != 0) or (left, right) == (-1, 0)

    blended, _ = varlen_kernel(
        *(Layer, *(states.transpose(0, 1)[None] for states in (query, key, value)), None),
        scaling=scale,
        sliding_window=None if left == -1 else left + 1,
        cu_seq_lens_q=starts_q,
        cu_seq_lens_k=starts_k,
        max_length_q=longest_q,
        max_length_k=longest_k,
    )
    return blended[0]


def precise_varlen(query, key, value, *lengths, **options):
    """torch's varlen kernel keeps its sums in float32."""
    return torch_varlen(query.float(), key.float(), value.float(), *lengths, **options).to(query.dtype)


@every_pairing(
    model_class=BASES + HEADS, flatten=[padded, by_positions, by_lengths], kernel=["flash_attention_2", "sdpa"]
)
def test_varlen_kernel_equals_sdpa(model_class, flatten, kernel, monkeypatch):
    """Flash attention, and torch's own kernel, which on CUDA takes the place of SDPA."""
    rows = draw(model_class, LENGTHS)
    expected = tiny_model(model_class, **SLIDING).train()(**padded(rows))
    model = tiny_model(model_class, **SLIDING).train()
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", varlen_kernel)
    monkeypatch.setattr("seqblend.modeling.attention.varlen_attn", torch_varlen)
    monkeypatch.setattr(Stack, "uses_varlen_kernel", lambda self, embeds: True)
    for config in (model.config, *(getattr(model.config, part) for part in model.config.sub_configs)):
        config._attn_implementation_internal = kernel  # set_attn_implementation asks for the library
    output = model(**flatten(rows))
    if "labels" in rows[0]:
        assert_close(output.loss, expected.loss)
    else:
        tensor, wanted = output.last_hidden_state, real_rows(padded(rows), expected.last_hidden_state)
        assert_close(real_rows(padded(rows), tensor) if flatten is padded else tensor[0], wanted)


def flash_attention(module, query, key, value, attention_mask, **options):
    """transformers' flash attention of padded rows: with a mask, it removes the same columns from queries and keys."""
    if options.get("cu_seq_lens_q") is not None:
        return varlen_kernel(module, query, key, value, None, **options)
    hidden = torch.zeros(query.shape[2], key.shape[2], dtype=torch.bool)
    if module.is_causal:
        hidden = torch.ones_like(hidden).triu(1 + key.shape[2] - query.shape[2])
    if attention_mask is not None:
        assert query.shape[2] == 1 or not module.is_cross_attention
        hidden = hidden | ~attention_mask.bool()[:, None, None]
    mask = torch.zeros(hidden.shape, dtype=query.dtype).masked_fill(hidden, torch.finfo(query.dtype).min)
    return eager_attention_forward(module, query, key, value, mask, options["scaling"])[0], None


@torch.no_grad()
def test_flash_attention_reads_a_padded_source(monkeypatch):
    """Also where the target stays padded: for hidden states, and for several tokens after cached ones."""
    rows = draw(BlendEncoderDecoderForSeq2SeqLM, LENGTHS, labels=False)
    batch = padded(rows)
    mask, target = batch["attention_mask"], batch["decoder_input_ids"]
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)

    def outputs() -> list[torch.Tensor]:
        hidden = model(**batch, output_hidden_states=True, use_cache=False).logits
        source = {"encoder_outputs": model.get_encoder()(batch["input_ids"], mask), "attention_mask": mask}
        cache = model(**source, decoder_input_ids=target[:, :1], use_cache=True)[CACHE_NAME]
        return [real_rows(batch, hidden), model(**source, decoder_input_ids=target[:, 1:], cache=cache).logits]

    expected = outputs()
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash_attention)
    for config in (model.config, model.config.encoder, model.config.decoder):
        config._attn_implementation_internal = "flash_attention_2"
    for found, wanted in zip(outputs(), expected, strict=True):
        assert_close(found, wanted)


class OnCuda:
    """What Stack.uses_varlen_kernel reads of the embeddings."""

    device = torch.device("cuda")

    def __init__(self, dtype: torch.dtype):
        self.dtype = dtype


def test_which_kernel_is_told_the_lengths(monkeypatch):
    """torch's own varlen kernel has no dropout, no float32 and no heads of odd or great width."""
    half, single = OnCuda(torch.bfloat16), OnCuda(torch.float32)
    model = tiny_model(BlendDecoderModel, attention_dropout=0.1)
    assert not model.uses_varlen_kernel(half), "this machine has no GPU with flash attention"
    monkeypatch.setattr(base_module, "has_flash_attention", lambda device: True)
    assert model.uses_varlen_kernel(half)
    assert not model.uses_varlen_kernel(single)
    assert not model.uses_varlen_kernel(torch.empty(1, dtype=torch.bfloat16))
    assert not model.train().uses_varlen_kernel(half)
    assert tiny_model(BlendDecoderModel).train().uses_varlen_kernel(half)
    assert not tiny_model(BlendDecoderModel, head_dim=12).uses_varlen_kernel(half)
    assert not tiny_model(BlendDecoderModel, head_dim=264).uses_varlen_kernel(half)
    assert not tiny_model(BlendDecoderModel, "eager").uses_varlen_kernel(half)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    assert model.eval().uses_varlen_kernel(single)


def test_an_older_varlen_kernel_is_made_do(monkeypatch):
    """Without grouped keys they are repeated; without windows it is not used. Each is said once, and only then."""
    said = []
    monkeypatch.setattr(attention_module.logger, "warning_once", said.append)
    monkeypatch.setattr(base_module, "has_flash_attention", lambda device: True)
    half, model = OnCuda(torch.bfloat16), tiny_model(BlendDecoderModel, **SLIDING)
    alike = tiny_model(BlendDecoderModel, num_key_value_heads=SIZES["num_attention_heads"])
    assert model.uses_varlen_kernel(half) and not said
    monkeypatch.setattr(attention_module, "VARLEN_OPTIONS", {"scale", "window_size"})
    assert alike.uses_varlen_kernel(half) and not said
    assert model.uses_varlen_kernel(half)
    assert "no grouped keys: they are repeated for each query head" in said.pop()
    batch = padded(draw(BlendDecoderModel, LENGTHS))
    expected = model(**batch).last_hidden_state
    with monkeypatch.context() as patch:
        # It is asked for no grouped keys, and gets as many heads of keys as of queries.
        patch.setattr(attention_module, "varlen_attn", torch_varlen)
        patch.setattr(Stack, "uses_varlen_kernel", lambda self, embeds: True)
        assert_close(real_rows(batch, model(**batch, use_cache=False).last_hidden_state), real_rows(batch, expected))
    monkeypatch.setattr(attention_module, "VARLEN_OPTIONS", {"is_causal", "enable_gqa"})
    assert not model.uses_varlen_kernel(half)
    assert "no windows and no scale: SDPA computes padded rows instead" in said.pop() and not said


@pytest.mark.parametrize(
    "model_class", [BlendEncoderForMaskedLM, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
)
def test_a_flattened_batch_is_one_graph(model_class):
    """For batches of whatever lengths the same, without a break."""
    # Tracing takes seconds a layer: both kinds of layers are in the graph of one model.
    one = {"num_hidden_layers": 1, "layer_types": ["sliding_attention"], "sliding_window": 3}
    model = tiny_model(model_class, **(SLIDING if model_class is BlendDecoderForCausalLM else one)).train()
    torch.compiler.reset()
    graphs = CompileCounter()
    compiled = torch.compile(model, backend=graphs, dynamic=True, fullgraph=True)
    for lengths in ([7, 8, 5], [6, 9, 9], [12, 5, 8, 5], [9, 9]):
        batch = by_lengths(draw(model_class, lengths))
        assert_close(compiled(**batch).loss, model(**batch).loss)
    assert graphs.frame_count == 1


@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
def test_a_graph_keeps_apart_what_restarts(model_class):
    """Positions alone tell the sequences; all were one, where a mask was for both directions or a cache was made."""
    model = tiny_model(model_class, **SLIDING)
    batch = by_positions(draw(model_class, LENGTHS))
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(**batch).last_hidden_state, model(**batch).last_hidden_state)


def test_a_graph_is_told_source_and_target():
    model = tiny_model(BlendEncoderDecoderModel, num_hidden_layers=1)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="whether they restart"):
        compiled(**by_positions(draw(BlendEncoderDecoderModel, LENGTHS)))


def test_a_graph_must_be_told_the_longest_sequence():
    model = tiny_model(BlendDecoderForCausalLM)
    batch = by_lengths(draw(BlendDecoderForCausalLM, LENGTHS))
    del batch["max_length_q"]
    with pytest.raises(Exception, match="give both"):
        torch.compile(model, backend="eager", fullgraph=True)(**batch)


@pytest.mark.parametrize("starts", [[0, 7, 10], [1, 7, 15], [0, 9, 7, 15]])
def test_lengths_that_do_not_fit_the_tokens(starts):
    model = tiny_model(BlendDecoderForCausalLM)
    batch = by_lengths(draw(BlendDecoderForCausalLM, LENGTHS)) | {"cu_seq_lens_q": torch.tensor(starts).int()}
    with pytest.raises(ValueError, match="must rise from 0 to 15"):
        model(**batch)


def error_in_bfloat16(model, batch, asked, autocast) -> torch.Tensor:
    """How far loss and gradients are from those in float32, in parts of the latter's length."""
    tensors = []
    for dtype in (torch.float32, torch.bfloat16):
        model.to(torch.float32 if autocast else dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.bfloat16):
            loss = model(**batch, **asked).loss
        gradient = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        values = [loss.detach(), *(each for each in gradient if each is not None)]
        tensors.append(torch.cat([each.flatten().float() for each in values]))
    return (tensors[1] - tensors[0]).norm() / tensors[0].norm()


@pytest.mark.parametrize("autocast", [True, False], ids=["autocast", "bfloat16"])
@every_head
def test_as_close_in_bfloat16_as_padded(model_class, autocast):
    model = tiny_model(model_class, **WINDOWS).train()
    fill(model, 0.02)
    model.to(torch.bfloat16)
    batch = padded(draw(model_class, APART))
    flat, dense = (error_in_bfloat16(model, batch, asked, autocast) for asked in ({}, DENSE))
    # Of eight bits of mantissa.
    assert 0 < flat < 2**-5
    assert flat < 1.5 * dense


@every_base
def test_autocast_reaches_the_kernel(model_class, monkeypatch):
    """Queries, keys and values are in half precision, turned or not."""
    model = tiny_model(model_class).float().train()
    seen = set()

    def kernel(module, query, key, value, *args, **kwargs):
        seen.update((query.dtype, key.dtype, value.dtype))
        return eager_attention_forward(module, query, key, value, *args, **kwargs)

    monkeypatch.setattr("seqblend.modeling.attention.select_kernel", lambda *args: kernel)
    with torch.autocast("cpu", torch.bfloat16):
        model(**padded(draw(model_class, LENGTHS)))
    assert seen == {torch.bfloat16}


# Source and target.


@pytest.mark.parametrize("source", [[6, 6, 6], [7, 3, 5]], ids=["full-source", "padded-source"])
@pytest.mark.parametrize("target", [[4, 4, 4], [1, 6, 3]], ids=["full-target", "padded-target"])
@every_kernel
def test_source_and_target_have_their_own_lengths(source, target, attention):
    model = tiny_model(BlendEncoderDecoderModel, attention).train()
    rows = [
        {"input_ids": torch.randint(3, SIZES["vocab_size"], (s,)), "decoder_input_ids": torch.randint(3, 50, (t,))}
        for s, t in zip(source, target, strict=True)
    ]
    batch = padded(rows)
    alone = torch.cat([output_of(model, padded([row])) for row in rows])
    for asked in ({}, DENSE):
        assert_close(output_of(model, batch, **asked), alone)
    unmasked = {name: tensor for name, tensor in batch.items() if not (name.endswith("mask") and tensor.all())}
    assert_close(real_rows(batch, model(**unmasked).last_hidden_state), alone)


@pytest.mark.parametrize("given", ["decoder_input_ids", "labels"])
def test_what_stands_after_the_last_label_is_not_computed(given):
    """The target's padding is told from the labels; a place without a label between others is still read."""
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM).train()
    batch = padded(draw(BlendEncoderDecoderForSeq2SeqLM, LENGTHS), extra=2)
    everything = torch.ones_like(batch.pop("decoder_attention_mask"))
    batch["labels"][0, 1] = -100
    if given == "labels":
        del batch["decoder_input_ids"]
    seen = tokens_seen(model, batch)
    assert seen["decoder"] == (1, sum(max(1, n - 2) for n in LENGTHS))
    output, expected = model(**batch), model(**batch, decoder_attention_mask=everything)
    has_label = batch["labels"] != -100
    assert_close(output.loss, expected.loss)
    assert_close(output.logits[has_label], expected.logits[has_label])


def test_encoder_may_have_run_before():
    """Its output padded, with and without its layout, or as a tuple."""
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM).train()
    batch = padded(draw(BlendEncoderDecoderForSeq2SeqLM, LENGTHS))
    expected = model(**batch)
    source = {name: batch.pop(name) for name in ("input_ids", "attention_mask")}
    for repad in (True, False):
        encoder_outputs = model.get_encoder()(**source, repad=repad)
        output = model(**batch, attention_mask=source["attention_mask"], encoder_outputs=encoder_outputs)
        assert_close(output.loss, expected.loss)
    states = model.get_encoder()(**source).last_hidden_state
    output = model(**batch, attention_mask=source["attention_mask"], encoder_outputs=(states,))
    assert_close(output.loss, expected.loss)


@every_way
def test_flattened_labels_begin_anew(flatten):
    """Where the decoder reads the labels, each sequence has its own start token; or such a batch is refused."""
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM).train()
    rows = draw(BlendEncoderDecoderForSeq2SeqLM, LENGTHS)
    flat, batch = flatten(rows), padded(rows)
    for name in ("decoder_input_ids", "decoder_attention_mask"):
        flat.pop(name, None)
        batch.pop(name)
    with suppress(ValueError):
        assert_close(model(**flat).loss, model(**batch).loss)


# Layouts.

MASKS = {
    "right": [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]],
    "left": [[0, 0, 1, 1, 1], [0, 0, 0, 0, 1], [1, 1, 1, 1, 1]],
    "holes": [[0, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0]],
    "empty": [[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]],
}


@given(st.lists(st.integers(0, 200)))
def test_similar_sequences_go_together(sizes):
    """Each that has tokens in one group, none less than half as long as another, but for those of a few tokens."""
    groups = group_by_length(sizes)
    assert sorted(sequence for group in groups for sequence in group) == [s for s, size in enumerate(sizes) if size]
    for group in groups:
        assert group == sorted(group)
        lengths = [sizes[sequence] for sequence in group]
        assert 2 * min(lengths) >= max(lengths) or max(lengths) <= SHORT_LENGTH
    longest = [max(sizes[sequence] for sequence in group) for group in groups]
    assert all(2 * after < before for before, after in itertools.pairwise(longest))


@pytest.mark.parametrize("rows", MASKS.values(), ids=MASKS.keys())
def test_layouts_agree(rows):
    mask = torch.tensor(rows).bool()
    padded_layout, flat_layout = PaddedLayout((3, 5), mask, mask.device), FlatLayout.from_mask(mask)
    states = torch.randn(3, 5, 4).double()
    flat = flat_layout.unpad(states)
    assert torch.equal(flat[0], states[mask])
    assert torch.equal(flat_layout.repad(flat), states * mask[..., None])
    rows = arrange_rows(flat_layout, group_by_length(flat_layout.sizes))
    assert torch.equal(rows.to_flat(rows.to_rows(flat)), flat)
    assert torch.equal(flat_layout.position_ids()[0], padded_layout.position_ids()[mask])
    labels = torch.arange(15).view(3, 5)
    assert torch.equal(flat_layout.shift_left(labels, -1)[0], padded_layout.shift_left(labels, -1)[mask])
    for pooled in ("first", "last", "mean"):
        expected = getattr(padded_layout, pooled)(states)
        assert (expected[~mask.any(1)] == 0).all()
        assert_close(getattr(flat_layout, pooled)(flat), expected, 1e-14, what=pooled)


@pytest.mark.parametrize("rows", [MASKS["right"], MASKS["left"]], ids=["right", "left"])
def test_what_follows_a_token(rows):
    """Of each sequence's tokens the next, and nothing after its last; also where sequences share a row."""
    mask = torch.tensor(rows).bool()
    tokens = torch.arange(1, 16).view(3, 5)
    expected = torch.cat(
        [torch.cat((row[real][1:], torch.tensor([-1]))) for row, real in zip(tokens, mask, strict=True)]
    )
    layout = FlatLayout.from_mask(mask)
    assert torch.equal(layout.shift_left(tokens, -1)[0], expected)
    positions = layout.position_ids()
    assert torch.equal(FlatLayout.from_position_ids(positions).shift_left(tokens[mask][None], -1)[0], expected)
    full = PaddedLayout((3, 5), None, mask.device).shift_left(tokens, -1)
    assert torch.equal(full, torch.cat((tokens[:, 1:], torch.full((3, 1), -1)), dim=1))


def test_sequences_are_told_from_positions():
    """Also where rows are cut: a sequence that goes on in the next row is another one."""
    positions = torch.tensor([[0, 1, 2, 0, 0, 1], [2, 3, 4, 0, 1, 2]])
    layout = FlatLayout.from_position_ids(positions)
    assert layout.cu_seq_lens.tolist() == [0, 3, 4, 6, 9, 12]
    assert layout.max_length == 3


def test_a_mean_in_half_precision_is_that_of_float32():
    """A sum of 4,096 vectors is too large for float16, and loses small terms in bfloat16."""
    mask = torch.ones(2, 4096, dtype=torch.bool)
    mask[1, 4000:] = False
    for dtype in (torch.float16, torch.bfloat16):
        states = (torch.rand(2, 4096, 3) + 30).to(dtype)
        expected = torch.stack([row[real].float().mean(0) for row, real in zip(states, mask, strict=True)])
        flat = FlatLayout.from_mask(mask)
        for pooled in (flat.mean(flat.unpad(states)), PaddedLayout((2, 4096), mask, mask.device).mean(states)):
            assert pooled.dtype == dtype
            torch.testing.assert_close(pooled, expected.to(dtype))


def test_flash_attention_is_not_asked_for_a_batch_of_padding(monkeypatch):
    model = tiny_model(BlendEncoderModel)
    monkeypatch.setattr("seqblend.modeling.attention.varlen_attn", None)
    monkeypatch.setattr(Stack, "uses_varlen_kernel", lambda self, embeds: True)
    empty = torch.zeros(2, 3, dtype=torch.long)
    assert not model(empty, attention_mask=empty).last_hidden_state.any()


def test_normalized_queries_and_keys_have_the_dtype_of_values():
    """Autocast on a GPU normalizes in float32, and the kernels take one dtype."""
    attention = tiny_model(BlendDecoderModel, query_key_norm=True).bfloat16().layers[0].self_attn
    attention.q_norm.float(), attention.k_norm.float()
    attention.q_norm.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    attention.k_norm.register_forward_pre_hook(lambda module, args: (args[0].float(),))
    states = torch.randn(1, 3, SIZES["hidden_size"], dtype=torch.bfloat16)
    keys, values = attention.keys_and_values(states, pattern=None)
    assert attention.queries(states).dtype == keys.dtype == values.dtype == torch.bfloat16


class FirstAndLast(torch.nn.Module):
    """Pools a padded batch."""

    def forward(self, hidden_states, mask):
        layout = PaddedLayout(tuple(hidden_states.shape[:2]), mask, hidden_states.device)
        return layout.first(hidden_states), layout.last(hidden_states)


def test_a_graph_of_pooling_holds_for_any_number_of_rows():
    """It was bound to the number it was traced with."""
    rows, mask = torch.randn(3, 5, 2), torch.tensor(MASKS["right"]).bool()
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    program = torch.export.export(FirstAndLast(), (rows, mask), dynamic_shapes=(dims, dims)).module()
    for pooled, expected in zip(program(rows[:2], mask[:2]), FirstAndLast()(rows[:2], mask[:2]), strict=True):
        assert torch.equal(pooled, expected)
