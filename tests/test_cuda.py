"""What holds on a CPU holds on a GPU: every kernel, both forms of a batch, generation, graphs, memory and training.

`make test` runs each test on a CPU, where a stand-in takes the place of torch's varlen kernel; `pytest -m cuda` runs
them on a GPU. Errors are relative to float64 on a CPU, where the batch is padded and the kernel eager.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from conftest import (
    ATTENTION_PAIRWISE,
    BASES,
    DENSE,
    HEADS,
    SLIDING,
    VOCAB,
    draw,
    every_base,
    every_pairing,
    fill,
    named,
    padded,
    real_rows,
    tiny_model,
)
from test_packing import APART, LENGTHS, OnCuda, by_lengths, by_positions, lengths_in, precise_varlen
from test_train_command import (  # noqa: F401
    CLASSIFY,
    ROWS,
    TAG,
    TRANSLATE,
    files,
    plain_cards,
    quick_and_quiet,
    read,
    run,
)

from seqblend import (
    BlendDecoderForCausalLM,
    BlendDecoderModel,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
    BlendEncoderForTokenClassification,
    BlendEncoderModel,
    Predictor,
)
from seqblend.benchmarks.timing import peak_memory
from seqblend.modeling import attention as kernels
from seqblend.modeling.attention import matmul_dtype
from seqblend.modeling.base import Stack
from seqblend.modeling.cache import CACHE_NAME
from seqblend.modeling.packing import FlatLayout

WINDOWS = {**SLIDING, "max_position_embeddings": 256}
# Some bits of the mantissa less than the dtype has.
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2**-7, torch.bfloat16: 2**-4}
ON_CUDA = pytest.param("cuda", marks=pytest.mark.cuda)


class Setting(NamedTuple):
    """A kernel with the dtype of its queries.

    Args:
        name: attn_implementation.
        dtype: dtype of queries, keys and values.
        autocast: whether the weights stay in float32.
        takes_lengths: whether a flat batch goes to a varlen kernel.
    """

    name: str
    dtype: torch.dtype
    autocast: bool = False
    takes_lengths: bool = False


SETTINGS = {
    "eager": Setting("eager", torch.float32),
    "eager-half": Setting("eager", torch.bfloat16),
    "sdpa": Setting("sdpa", torch.float32),
    "rows-half": Setting("sdpa", torch.bfloat16),
    "varlen": Setting("sdpa", torch.bfloat16, takes_lengths=True),
    "varlen-autocast": Setting("sdpa", torch.bfloat16, autocast=True, takes_lengths=True),
}
FLASH = Setting("flash_attention_2", torch.bfloat16, takes_lengths=True)
if torch.cuda.is_available() and importlib.util.find_spec("flash_attn"):
    SETTINGS["flash"] = FLASH
SHORT_SETTINGS = {name: SETTINGS[name] for name in SETTINGS if name in ("sdpa", "varlen", "flash")}
every_setting = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
every_short_setting = pytest.mark.parametrize("setting", SHORT_SETTINGS.values(), ids=SHORT_SETTINGS)


@pytest.fixture(params=["cpu", ON_CUDA])
def device(request, monkeypatch) -> torch.device:
    """A CPU that chooses kernels as a GPU does, or a GPU."""
    if request.param == "cuda":
        assert torch.cuda.is_available(), "torch sees no GPU; without `-m cuda` these tests run on a CPU"
        torch.cuda.manual_seed_all(0)
    else:
        chosen = Stack.uses_varlen_kernel
        monkeypatch.setattr(kernels, "varlen_attn", precise_varlen)
        monkeypatch.setattr("seqblend.modeling.base.has_flash_attention", lambda device: True)
        monkeypatch.setattr(
            Stack, "uses_varlen_kernel", lambda self, embeds: chosen(self, OnCuda(matmul_dtype(embeds)))
        )
    return torch.device(request.param)


@pytest.fixture
def taken(monkeypatch) -> Iterator[list[Any]]:
    """The calls of torch's varlen kernel."""
    with mock.patch.object(kernels, "varlen_attn", wraps=kernels.varlen_attn) as kernel:
        yield kernel.call_args_list


def to(device: torch.device, batch: dict[str, Any]) -> dict[str, Any]:
    return {name: each.to(device) if isinstance(each, torch.Tensor) else each for name, each in batch.items()}


def model_for(model_class: type, setting: Setting, device: torch.device, **options: Any) -> Any:
    """A model whose layers keep the size of their states, on the device; in half precision it is rounded."""
    model = tiny_model(model_class, setting.name, **options)
    fill(model, 0.1)
    return model.to(device, torch.float32 if setting.autocast else setting.dtype)


def outcome(model: Any, batch: dict[str, Any], **asked: Any) -> dict[str, torch.Tensor]:
    """Outputs of the real tokens, and with labels all gradients, in training; in float64 on a CPU."""
    model.train()
    model.zero_grad()
    output = model(**batch, **asked)
    states = output.logits if "logits" in output else output.last_hidden_state
    rows = states if states.dim() == 2 or "attention_mask" not in batch else real_rows(batch, states)
    found = {"outputs": rows.flatten()}
    if "loss" in output:
        output.loss.backward()
        given = [each.grad.flatten() for each in model.parameters() if each.grad is not None]
        found["gradients"] = torch.cat(given)
    return {name: tensor.detach().cpu().double() for name, tensor in found.items()}


def expected(model_class: type, batch: dict[str, Any], setting: Setting, **options: Any) -> dict[str, torch.Tensor]:
    """The same of a padded batch in float64, by the weights that the setting rounds."""
    model = model_for(model_class, setting, torch.device("cpu"), **options).double()
    model.set_attn_implementation("eager")
    return outcome(model, batch, **DENSE)


def computed(model: Any, batch: dict[str, Any], setting: Setting, **asked: Any) -> dict[str, torch.Tensor]:
    """The same on the model's device."""
    device = model.device.type
    context = torch.autocast(device, setting.dtype) if setting.autocast else nullcontext()
    with context:
        return outcome(model, to(model.device, batch), **asked)


def errors(actual: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, float]:
    """The distance of each from what is wanted, in parts of the latter's norm."""
    assert actual.keys() == wanted.keys()
    return {name: float((actual[name] - wanted[name]).norm() / wanted[name].norm()) for name in wanted}


def assert_near(actual: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], setting: Setting) -> None:
    """Not `>`: a NaN is not near."""
    tolerance = TOLERANCES[setting.dtype]
    assert all(error <= tolerance for error in errors(actual, wanted).values()), (errors(actual, wanted), tolerance)


def without_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torch's varlen kernel lacks too much."""
    monkeypatch.setattr("seqblend.modeling.base.has_varlen_kernel", lambda config: False)


# --- Graphs: first, because they take longest ---


@every_pairing(
    model_class=[BlendEncoderForMaskedLM, BlendDecoderForCausalLM],
    flatten=[by_lengths, padded],
    dtype=[torch.float32, torch.bfloat16],
)
def test_compiled_training(model_class, flatten, dtype, device, monkeypatch):
    """One graph for all lengths, forward and backward; its code is compiled on a GPU only, because that takes long."""
    if device.type == "cpu":
        without_varlen(monkeypatch)  # its stand-in reads the lengths, which no graph can
    setting = Setting("sdpa", dtype)
    model = model_for(model_class, setting, device, num_hidden_layers=1, max_position_embeddings=128)
    torch.compiler.reset()
    backend = "inductor" if device.type == "cuda" else "eager"
    compiled = torch.compile(model, backend=backend, dynamic=True, fullgraph=True)
    for lengths in ([40, 7, 19], [6, 33, 9]):
        batch = to(device, flatten(draw(model_class, lengths)))
        losses, gradients = [], []
        for each in (compiled, model):
            model.train().zero_grad()
            loss = each(**batch).loss
            loss.backward()
            losses.append(loss.detach())
            gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
        assert abs(losses[0] - losses[1]) <= TOLERANCES[dtype] * losses[1]
        assert (gradients[0] - gradients[1]).norm() <= TOLERANCES[dtype] * gradients[1].norm()


# --- Generation ---


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "mixer, cache",
    [("attention", "dynamic"), ("attention", "static"), ("attention", "static compiled"), ("lstm", "dynamic")],
)
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
def test_generation_writes_what_a_cpu_writes(model_class, mixer, cache, beams, device):
    """generate() compiles a model with a static cache by itself on a GPU."""
    options = SLIDING if mixer == "attention" else {"mixer_type": mixer}
    model = tiny_model(model_class, **options)
    batch = padded(draw(model_class, [7, 4, 5], labels=False), "left")
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask")}
    asked = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False}
    wanted = model.generate(**prompt, **asked)
    written = model.to(device, torch.float32).generate(
        **to(device, prompt),
        **asked,
        cache_implementation=cache.split()[0],
        disable_compile=cache != "static compiled",
    )
    assert torch.equal(written.cpu(), wanted)


@every_short_setting
@pytest.mark.parametrize("model_class", [BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM], ids=named)
@torch.no_grad()
def test_a_prompt_is_flat_and_the_next_token_is_not(model_class, setting, device, taken):
    """The first forward of generation, and the second, from the cache that it leaves."""
    batch = padded(draw(model_class, [7, 4, 5], labels=False), "left")
    target = "decoder_" if model_class is BlendEncoderDecoderForSeq2SeqLM else ""
    wanted, actual = (
        two_steps(model, to(model.device, batch), target)
        for model in (
            model_for(model_class, setting, torch.device("cpu"), **SLIDING).double(),
            model_for(model_class, setting, device, **SLIDING),
        )
    )
    assert_near(actual, wanted, setting)
    assert bool(taken) == (setting.takes_lengths and setting.name == "sdpa")


def two_steps(model: Any, batch: dict[str, torch.Tensor], target: str) -> dict[str, torch.Tensor]:
    """Logits of the last token, and of the next one after it, which is 5 in every row."""
    model.eval()
    first = model(**batch, use_cache=True)
    ids, mask = f"{target}input_ids", f"{target}attention_mask"
    token = torch.full_like(batch[ids][:, :1], 5)
    seen = torch.cat((batch[mask], torch.ones_like(token)), dim=1)
    second = model(**{**batch, ids: token, mask: seen}, cache=first[CACHE_NAME])
    logits = {"outputs": first.logits[:, -1], "next": second.logits[:, -1]}
    return {name: tensor.cpu().double() for name, tensor in logits.items()}


# --- Each kernel, in both forms ---


@every_pairing(model_class=HEADS, setting=list(SETTINGS), options=ATTENTION_PAIRWISE)
def test_flat_equals_padded(model_class, setting, options, device, taken, monkeypatch):
    """Forward and gradients of every head, with grouped keys and a sliding layer; the kernel is the one meant."""
    if setting == "rows-half":
        without_varlen(monkeypatch)
    setting, options = SETTINGS[setting], {**WINDOWS, **options}
    batch = padded(draw(model_class, APART), "left", extra=1)
    wanted = expected(model_class, batch, setting, **options)
    model = model_for(model_class, setting, device, **options)
    dense = computed(model, batch, setting, **DENSE)
    assert not taken
    flat = computed(model, batch, setting)
    assert bool(taken) == (setting.takes_lengths and setting.name == "sdpa")
    assert_near(dense, wanted, setting)
    assert_near(flat, wanted, setting)
    # The flat form is no less accurate: its error is not twice that of the padded one.
    slack = TOLERANCES[setting.dtype] / 8
    for name, error in errors(flat, wanted).items():
        assert error <= 2 * errors(dense, wanted)[name] + slack, name


@every_pairing(
    model_class=[head for head in HEADS if head.__name__.endswith("LM")],
    window=[1, 3, 31, 33, 100],
    heads=[(4, 4, 8), (4, 2, 16), (4, 1, 64), (6, 2, 128), (2, 1, 256), (3, 3, 40)],
    setting=list(SHORT_SETTINGS),
)
def test_windows_heads_and_groups_of_every_size(model_class, window, heads, setting, device):
    """Causal and not; an encoder-decoder has cross-attention of two layouts besides."""
    setting = SETTINGS[setting]
    names = ("num_attention_heads", "num_key_value_heads", "head_dim")
    options = {**WINDOWS, "sliding_window": window, **dict(zip(names, heads, strict=True))}
    batch = padded(draw(model_class, [70, 3, 128, 19, 5, 1]))
    wanted = expected(model_class, batch, setting, **options)
    assert_near(computed(model_for(model_class, setting, device, **options), batch, setting), wanted, setting)


@pytest.mark.parametrize("source", [[6, 6, 6], [7, 3, 5], [90, 1, 40]], ids=["full", "padded", "long"])
@pytest.mark.parametrize("target", [[4, 4, 4], [1, 6, 3], [2, 80, 9]], ids=["to full", "to padded", "to long"])
@every_short_setting
def test_source_and_target_have_their_own_lengths(source, target, setting, device):
    model_class, options = BlendEncoderDecoderForSeq2SeqLM, {"max_position_embeddings": 128}
    rows = [
        {"input_ids": torch.randint(3, VOCAB, (s,)), "labels": torch.randint(3, VOCAB, (t,))}
        for s, t in zip(source, target, strict=True)
    ]
    batch = padded(rows)
    batch["decoder_attention_mask"] = (batch["labels"] != -100).long()
    wanted = expected(model_class, batch, setting, **options)
    assert_near(computed(model_for(model_class, setting, device, **options), batch, setting), wanted, setting)


@every_pairing(model_class=BASES + HEADS, flatten=[by_positions, by_lengths], setting=list(SHORT_SETTINGS))
def test_a_batch_that_the_caller_has_flattened(model_class, flatten, setting, device):
    setting = SETTINGS[setting]
    rows = draw(model_class, APART)
    wanted = expected(model_class, padded(rows), setting, **WINDOWS)
    actual = computed(model_for(model_class, setting, device, **WINDOWS), flatten(rows), setting)
    assert_near(actual, wanted, setting)


@every_base
@torch.no_grad()
def test_half_of_the_other_kind(model_class, device, taken):
    """float16, where gradients of tiny models would underflow."""
    setting = Setting("sdpa", torch.float16, takes_lengths=True)
    batch = padded(draw(model_class, APART))
    wanted = expected(model_class, batch, setting, **WINDOWS)
    assert_near(computed(model_for(model_class, setting, device, **WINDOWS), batch, setting), wanted, setting)
    assert taken


@every_base
@every_short_setting
@torch.no_grad()
def test_a_row_without_a_token(model_class, setting, device):
    """It is in no sequence of the others, and gives no NaN."""
    batch = padded(draw(model_class, LENGTHS, labels=False))
    model = model_for(model_class, setting, device, **WINDOWS)
    full = to(device, batch)
    states = real_rows(full, model(**full).last_hidden_state)
    empty = {name: torch.cat((tensor[:1] * ("mask" not in name), tensor)) for name, tensor in full.items()}
    output = model(**empty).last_hidden_state
    assert bool(output.isfinite().all())
    error = (real_rows(empty, output) - states).norm() / states.norm()
    assert error <= TOLERANCES[setting.dtype]


@pytest.mark.parametrize("options", [{}, {"query_key_norm": True}], ids=["plain", "query_key_norm"])
@every_base
def test_autocast_reaches_the_varlen_kernel(model_class, options, device, taken):
    """The weights are in float32; queries, keys and values in half precision."""
    setting = SETTINGS["varlen-autocast"]
    computed(model_for(model_class, setting, device, **options), padded(draw(model_class, LENGTHS)), setting)
    assert {states.dtype for call in taken for states in call.args[:3]} == {torch.bfloat16}


# --- No sequence reads another ---


@every_pairing(model_class=BASES, is_flat=[True, False], setting=list(SHORT_SETTINGS))
def test_no_gradient_from_one_sequence_to_another(model_class, is_flat, setting, device):
    """Exactly zero, in the caller's flattened batch and in our own."""
    setting = SETTINGS[setting]
    model = model_for(model_class, setting, device, **WINDOWS).train()
    rows = draw(model_class, APART, labels=False)
    batch, embeds = to(device, by_lengths(rows) if is_flat else padded(rows)), {}
    for name in ("input_ids", "decoder_input_ids"):
        if name in batch:
            stack = model.get_decoder() if name.startswith("decoder") else model
            embeds[name] = stack.get_input_embeddings()(batch.pop(name)).detach().requires_grad_()
            batch[name.replace("input_ids", "inputs_embeds")] = embeds[name]
    states = model(**batch).last_hidden_state
    target = "decoder_input_ids" if "decoder_input_ids" in rows[0] else "input_ids"
    start, end = lengths_in(rows, target)[1:3] if is_flat else (0, len(rows[1][target]))
    states[0 if is_flat else 1, start:end].float().sum().backward()
    for name, tensor in embeds.items():
        gradient = tensor.grad[0].split([len(row[name]) for row in rows]) if is_flat else tensor.grad
        assert [bool((each != 0).any()) for each in gradient] == [row == 1 for row in range(len(rows))], name


# --- Dropout ---

COPIES = 512


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layer", [0, 1], ids=["full", "sliding"])
@pytest.mark.parametrize("model_class", [BlendEncoderModel, BlendDecoderModel], ids=named)
@torch.no_grad()
def test_dropout_of_attention_keeps_the_mean(model_class, layer, dtype, device, taken):
    """Of copies of a sequence, and of another one among them; torch's varlen kernel has no dropout."""
    setting = Setting("sdpa", dtype)
    model = model_for(model_class, setting, device, attention_dropout=0.3, **WINDOWS)
    attention, layer_type = model.layers[layer].self_attn, model.config.layer_types[layer]
    attention.o_proj = torch.nn.Identity()
    sequences = [torch.randn(length, model.config.hidden_size) for length in (9, 4)]
    lengths = [9] * COPIES + [4]
    starts = torch.tensor([0, *lengths]).cumsum(0).int().to(device)
    states = torch.cat([sequences[0].repeat(COPIES, 1), sequences[1]])[None].to(device, dtype)
    layout = FlatLayout.from_cu_seq_lens(starts, 9, (1, len(states[0])))
    blended = {}
    for is_training in (True, False):
        model.train(is_training)
        pattern = model.patterns(layout, None, states)[layer_type]
        output, _ = attention(states, states, pattern=pattern)
        blended[is_training] = output[0, : 9 * COPIES].float().unflatten(0, (COPIES, 9))
    assert len(taken) == (dtype == torch.bfloat16), "in evaluation, where there is no dropout"
    dropped, spread = blended[True], blended[True].std(0)
    # A causal model's first token attends to itself only.
    assert bool((spread[1:] > 0).all())
    error = (dropped.mean(0) - blended[False][0]).abs()
    assert bool((error <= 6 * spread / COPIES**0.5 + 2e-2 * blended[False].std()).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("model_class", [BlendEncoderForMaskedLM, BlendDecoderForCausalLM], ids=named)
def test_dropout_is_that_of_the_seed(model_class, dtype, device):
    """Another seed drops others."""
    setting = Setting("sdpa", dtype)
    model = model_for(model_class, setting, device, attention_dropout=0.2, hidden_dropout=0.2, **WINDOWS)
    batch, found = padded(draw(model_class, LENGTHS)), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(computed(model, batch, setting))
    assert torch.equal(found[0]["outputs"], found[1]["outputs"])
    assert errors(found[0], found[1])["gradients"] <= TOLERANCES[dtype]
    assert errors(found[0], found[2])["outputs"] > 1e-2


# --- Affixes of words, biases by distance, and recurrent mixers ---


@every_short_setting
@pytest.mark.parametrize("side", ["left", "right"])
def test_affixes_of_words(side, setting, device):
    options = {**WINDOWS, "affix_buckets": 16}
    batch = padded(draw(BlendEncoderForTokenClassification, APART), side)
    wanted = expected(BlendEncoderForTokenClassification, batch, setting, **options)
    model = model_for(BlendEncoderForTokenClassification, setting, device, **options)
    assert_near(computed(model, batch, setting), wanted, setting)


@every_pairing(
    model_class=[head for head in HEADS if head.__name__.endswith("LM")],
    per_layer=[False, True],
    setting=["sdpa", "varlen", "varlen-autocast"],
)
def test_biases_by_distance(model_class, per_layer, setting, device, taken):
    """They need rows, in half precision, too."""
    setting = SETTINGS[setting]
    options = {
        **WINDOWS,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 6,
        "relative_attention_per_layer": per_layer,
    }
    batch = padded(draw(model_class, APART))
    wanted = expected(model_class, batch, setting, **options)
    assert_near(computed(model_for(model_class, setting, device, **options), batch, setting), wanted, setting)
    assert not taken


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mixer", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("model_class", [head for head in HEADS if head.__name__.endswith("LM")], ids=named)
def test_recurrent_mixers(model_class, mixer, dtype, device, monkeypatch):
    """torch's kernels on a GPU are cuDNN's, which would round float32 to ten bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    setting = Setting("sdpa", dtype)
    batch = padded(draw(model_class, APART))
    options = {"mixer_type": mixer, "max_position_embeddings": 128}
    wanted = expected(model_class, batch, setting, **options)
    assert_near(computed(model_for(model_class, setting, device, **options), batch, setting), wanted, setting)


# --- Memory ---


@pytest.mark.parametrize("padding", [0, 1], ids=["full", "padded"])
@pytest.mark.parametrize(
    "device, setting",
    [
        # The stand-in for the varlen kernel keeps all scores.
        pytest.param("cpu", SETTINGS["sdpa"], id="cpu-sdpa"),
        *(
            pytest.param("cuda", setting, id=f"cuda-{name}", marks=pytest.mark.cuda)
            for name, setting in SHORT_SETTINGS.items()
        ),
    ],
    indirect=["device"],
)
@every_base
def test_memory_is_linear_in_the_tokens(model_class, padding, setting, device):
    """Of two sequences that are four times as long, in full layers and sliding ones, forward and backward."""
    lengths = (256, 1024) if device.type == "cpu" else (2048, 8192)
    options = {**WINDOWS, "sliding_window": 32, "max_position_embeddings": lengths[1]}
    model, peaks = model_for(model_class, setting, device, **options).train(), []
    for length in lengths:
        batch = to(device, padded(draw(model_class, [length, length - padding], labels=False)))
        work = backward_of(model, batch)
        work()
        peaks.append(peak_memory(work, device))
    assert peaks[1] <= 4.4 * peaks[0]


def backward_of(model: Any, batch: dict[str, torch.Tensor]) -> Callable[[], None]:
    """Forward and backward, which leave nothing behind."""

    def work() -> None:
        model(**batch).last_hidden_state.float().sum().backward()
        model.zero_grad(set_to_none=True)

    return work


# --- Saved models and whole runs ---


@every_pairing(model_class=BASES, position=["learned", "sinusoidal", "rotary"])
@torch.no_grad()
def test_loaded_on_the_device(model_class, position, device, tmp_path):
    """What is not in a checkpoint is there, too."""
    model = tiny_model(model_class, position_type=position).float()
    model.save_pretrained(tmp_path)
    batch = padded(draw(model_class, LENGTHS, labels=False))
    wanted = model(**batch).last_hidden_state
    loaded = model_class.from_pretrained(tmp_path, device_map=str(device), dtype=torch.float32)
    assert loaded.device.type == device.type
    states = loaded(**to(device, batch)).last_hidden_state.cpu()
    assert (real_rows(batch, states - wanted)).norm() <= 1e-4 * real_rows(batch, wanted).norm()


@pytest.mark.parametrize("half", [True, False], ids=["bf16", "float32"])
@pytest.mark.parametrize("task", [CLASSIFY, TAG, TRANSLATE, "causal-lm", "masked-lm"])
def test_a_run_of_the_command(task, half, device, tmp_path):
    """Training with evaluations, resumed from a checkpoint; scores, a card, and answers of the saved model."""
    options = {
        **files(tmp_path, ROWS[task]),
        "task": task,
        "use_cpu": True if device.type == "cpu" else None,
        "bf16": half,
        "max_steps": 4,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "gradient_checkpointing": half,
        "max_length": None if task == TRANSLATE else 16,
    }
    output = run(tmp_path / "run", **options)
    results = read(output / "all_results.json")
    assert 0 < results["train_loss"] < 100 and 0 < results["eval_loss"] < 100
    shutil.rmtree(output / "checkpoint-4")
    resumed = read(run(output, resume_from_checkpoint=True, **options) / "all_results.json")
    assert resumed["eval_loss"] == pytest.approx(results["eval_loss"], rel=2e-2 if half else 1e-4)
    if task in (CLASSIFY, TAG, TRANSLATE):
        column = {CLASSIFY: "text", TAG: "tokens", TRANSLATE: "source"}[task]
        answers = Predictor(output)({column: [row[column] for row in ROWS[task]]})
        assert {len(values) for values in answers.values()} == {len(ROWS[task])}
