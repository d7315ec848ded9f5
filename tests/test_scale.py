"""More than one plain device: plans that fit every model, offloading, checkpointing, half precision, compilation.

What several processes do is in distributed/
"""

import re

import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from conftest import (
    HEADS,
    SLIDING,
    assert_close,
    assert_equal_gradients,
    draw,
    every_head,
    every_model,
    gradients,
    named,
    output_of,
    padded,
    tiny_config,
    tiny_model,
)
from torch import nn
from transformers import Seq2SeqTrainingArguments, Trainer

from seqblend import (
    BlendDecoderConfig,
    BlendDecoderForCausalLM,
    BlendEncoderConfig,
    BlendEncoderDecoderForSeq2SeqLM,
    BlendEncoderForMaskedLM,
    BlendEncoderForTokenClassification,
)

LENGTHS = [7, 4, 5]
OPTIONS = [{}, {"feed_forward_type": "plain", "norm_position": "post", "position_type": "learned"}]
COMPILED = [BlendEncoderForTokenClassification, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
every_kind = pytest.mark.parametrize("options", OPTIONS, ids=named)

# Plans.


def wildcards(names):
    """Names as plans have them, with a star for the number of a layer."""
    return {re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names}


@every_kind
@every_model
def test_plans_name_what_the_model_has(model_class, options):
    """transformers warns of a rule that names nothing, and divides no more than what is named."""
    model = tiny_model(model_class, **options)
    modules = wildcards(name for name, _ in model.named_modules())
    assert set(model.tp_plan) <= modules and set(model.fsdp_plan) <= modules
    matrices = wildcards(
        name for name, module in model.named_modules() if name.endswith("_proj") and isinstance(module, nn.Linear)
    )
    assert matrices <= set(model.tp_plan)
    embeddings = {name for name in modules if name.endswith("embed_tokens")}
    assert embeddings <= set(model.tp_plan) and embeddings <= set(model.fsdp_plan)


@pytest.mark.parametrize("config_class", [BlendEncoderConfig, BlendDecoderConfig], ids=named)
def test_the_plan_of_a_config_follows_from_its_fields(config_class):
    """transformers 5.16 sets the plan of every config with tied embeddings, to what it is with them in it."""
    config = tiny_config(config_class)
    config.base_model_tp_plan = {**config.base_model_tp_plan, "embed_tokens": "embedding_rowwise"}
    with pytest.raises(AttributeError, match="base_model_tp_plan follows from the other fields"):
        config.base_model_tp_plan = {}


@every_model
def test_blocks_are_what_is_not_split(model_class):
    """accelerate refuses a name of a class that the model has not."""
    model = tiny_model(model_class)
    blocks = {type(layer).__name__ for name, layer in model.named_modules() if re.search(r"layers\.\d+$", name)}
    assert set(model._no_split_modules) == blocks


@pytest.mark.parametrize(
    "options",
    [
        {"position_type": "learned"},
        {"position_type": "sinusoidal"},
        {"type_vocab_size": 2},
        {"embedding_norm": True},
        {"scale_embeddings": True},
        {"cross_attention_hidden_size": 32},
    ],
    ids=named,
)
def test_pipelines_are_for_models_whose_embedding_is_their_tokens(options):
    """A stage takes the states it is sent for embeddings, and would do to them what is done to embeddings."""
    assert tiny_config(BlendDecoderConfig, **options).base_model_pp_plan is None
    plan = BlendDecoderForCausalLM(tiny_config(BlendDecoderConfig)).pp_plan
    assert list(plan) == ["lm_head", "model.embed_tokens", "model.layers", "model.norm"]


# Offloading.

OFFLOADS = {
    "cpu": lambda model, folder: cpu_offload(model, "cpu"),
    "disk": lambda model, folder: disk_offload(model, folder, "cpu"),
    "dispatched": lambda model, folder: dispatch_model(model, {"": "cpu"}, main_device="cpu", force_hooks=True),
}


@pytest.mark.parametrize("offload", OFFLOADS.values(), ids=OFFLOADS.keys())
@every_head
def test_offloaded_weights_give_the_same_output(model_class, offload, tmp_path):
    model, batch = tiny_model(model_class, **SLIDING), padded(draw(model_class, LENGTHS))
    expected = output_of(model, batch)
    offload(model, tmp_path)
    assert any(hasattr(module, "_hf_hook") for module in model.modules())
    assert_close(output_of(model, batch), expected)


# infer_auto_device_map looks for a module's name anywhere in the names of tied parameters
# (`any(name + "." in k + "." for k in tied_group)`), finds `head.` in `lm_head.weight`, and stops with an IndexError.
MISTAKEN = pytest.mark.xfail(raises=IndexError, strict=True)
PLACED = [
    pytest.param(model_class, marks=MISTAKEN) if model_class is BlendEncoderForMaskedLM else model_class
    for model_class in HEADS
]


@pytest.mark.parametrize("model_class", PLACED, ids=named)
def test_what_does_not_fit_into_memory_is_read_from_disk(model_class, tmp_path):
    model, batch = tiny_model(model_class), padded(draw(model_class, LENGTHS))
    model.save_pretrained(tmp_path / "saved")
    # Room for the embeddings, which may be tied, and one block.
    memory = {"cpu": sum(p.numel() * p.element_size() for p in model.parameters()) * 2 // 3}
    loaded = model_class.from_pretrained(
        *(tmp_path / "saved",), device_map="auto", max_memory=memory, offload_folder=tmp_path / "disk"
    )
    assert {"cpu", "disk"} == set(loaded.hf_device_map.values())
    assert_close(output_of(loaded.eval(), batch), output_of(model, batch))


@pytest.mark.parametrize("layers", ["cpu", "disk"])
def test_a_masked_language_model_goes_where_a_map_says(layers, tmp_path):
    model, batch = tiny_model(BlendEncoderForMaskedLM), padded(draw(BlendEncoderForMaskedLM, LENGTHS))
    model.save_pretrained(tmp_path / "saved")
    devices = {f"model.{name}": "cpu" for name, _ in model.model.named_children()}
    devices |= {"model.layers": layers, "head": "cpu", "lm_head": "cpu"}
    loaded = BlendEncoderForMaskedLM.from_pretrained(
        *(tmp_path / "saved",), device_map=devices, offload_folder=tmp_path / "disk"
    )
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert_close(output_of(loaded.eval(), batch), output_of(model, batch))


# Memory and speed.


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not-reentrant"])
@every_head
def test_both_kinds_of_checkpointing_change_no_gradient(model_class, reentrant):
    """Reentrant checkpointing needs the states by position: what is given by name gets no gradient."""
    batch = padded(draw(model_class, LENGTHS))
    plain, checkpointed = (tiny_model(model_class, **SLIDING).train() for _ in range(2))
    # The name since transformers 5.23, and before.
    enable = getattr(checkpointed, "activation_checkpointing_enable", checkpointed.gradient_checkpointing_enable)
    enable({"use_reentrant": reentrant})
    assert_equal_gradients(gradients(checkpointed, batch), gradients(plain, batch))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@every_head
def test_autocast_is_as_exact_as_its_dtype(model_class, dtype):
    """The loss within 8 of the dtype's last bits, every gradient finite and in float32."""
    model, batch = tiny_model(model_class, initializer_range=0.1).float().train(), padded(draw(model_class, LENGTHS))
    expected = model(**batch).loss
    with torch.autocast("cpu", dtype):
        loss = model(**batch).loss
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=8 * torch.finfo(dtype).eps)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("model_class", COMPILED, ids=named)
def test_compiled_by_the_trainer(model_class, tmp_path):
    """By way of TrainingArguments, with batches of several lengths; `eager` only traces, which is quick."""
    rows, losses = draw(model_class, [*LENGTHS, 3, 6, 2]), []
    for compiled in (False, True):
        torch.compiler.reset()
        options = {"torch_compile": True, "torch_compile_backend": "eager"} if compiled else {}
        args = Seq2SeqTrainingArguments(
            *(str(tmp_path),),
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            seed=3,
            **options,
        )
        trainer = Trainer(tiny_model(model_class, num_hidden_layers=1), args, train_dataset=rows, data_collator=padded)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=1e-6)
