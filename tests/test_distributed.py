"""Two processes that share the work equal one that does it all; both run on the CPU, by gloo.

They are started once for all of this file. accelerate has no FSDP and no tensor parallelism for processes that share a
CPU; here it is told that each has a GPU, and then does on the CPU what it would do there.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from conftest import HEADS, draw, gradients, named, output_of, padded, tiny_model
from transformers import Seq2SeqTrainingArguments

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForTokenClassification
from seqblend.training.trainer import BlendTrainer

pytestmark = pytest.mark.distributed

TRAINED = [BlendEncoderForTokenClassification, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
STEPS, ROWS = 20, 8
# Some rows have no target, and so has a process in some steps: the first token of a row is not told.
LENGTHS = [3, 9, 5, 1, 7, 2, 8, 4, 1, 1, 6, 3, 3, 5, 9, 2]
# How the work is shared: what the model is loaded with, what the Trainer is told, and in how many parts a batch is.
WAYS = {
    "ddp": ({}, {}, 2),
    "tensor-parallel": ({"tp_size": 2}, {}, 1),
    # The last: it sets variables of the environment that tensor parallelism does not go with.
    "fsdp": ({}, {"fsdp": True, "fsdp_config": {"version": 2}}, 2),
}
EVERYTHING = {
    **{"feed_forward_type": "plain", "norm_type": "layernorm", "norm_position": "post", "position_type": "learned"},
    **{"attention_bias": True, "mlp_bias": True, "lm_head_bias": True, "tie_word_embeddings": False},
}
# Grouped queries, gated and tied; or all biases, plain and untied. Both for the heads that are trained.
DIVIDED = [(head, [{}, EVERYTHING][index % 2]) for index, head in enumerate(HEADS)]
DIVIDED += [(head, options) for head in TRAINED for options in ({}, EVERYTHING) if (head, options) not in DIVIDED]
# What each of the two processes does.


def trainer_for(head, model, output_dir, parts=1, **options):
    args = Seq2SeqTrainingArguments(
        output_dir=str(output_dir),
        max_steps=STEPS,
        logging_steps=1,
        learning_rate=1e-2,
        per_device_train_batch_size=ROWS // parts,
        seed=3,
        save_strategy="no",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    if args.fsdp or getattr(model, "_tp_size", None):
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    torch.manual_seed(0)
    rows = draw(head, LENGTHS)
    return BlendTrainer(model=model, args=args, train_dataset=rows, data_collator=padded, scorers={})


def losses_of(trainer):
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def batch_for(head):
    torch.manual_seed(1)
    return padded(draw(head, [7, 4, 5]))


def saved_model(head, folder, **options):
    """A tiny model, saved by one process for both."""
    model = tiny_model(head, **options)
    if PartialState().is_main_process:
        model.save_pretrained(folder)
    PartialState().wait_for_everyone()
    return model


def divided(head, folder, **loading):
    return head.from_pretrained(folder, distributed_config=loading, dtype=torch.float64).eval()


def errors_when_divided(head, options, folder):
    """The largest errors of outputs and gradients of a model whose matrices two processes share."""
    whole, batch = saved_model(head, folder, **options), batch_for(head)
    parts = divided(head, folder, tp_size=2)
    output = (output_of(parts, batch) - output_of(whole, batch)).abs().max().item()
    expected, actual = gradients(whole, batch), gradients(parts, batch)
    full = {name: getattr(each, "full_tensor", lambda each=each: each)() for name, each in actual.items()}
    return output, max((full[name] - each).abs().max().item() for name, each in expected.items())


def error_in_a_pipeline(folder):
    whole, batch = saved_model(BlendDecoderForCausalLM, folder), batch_for(BlendDecoderForCausalLM)
    parts = divided(BlendDecoderForCausalLM, folder, pp_size=2)
    batch.pop("labels")
    with torch.no_grad():
        return (output_of(parts, batch) - output_of(whole, batch)).abs().max().item()


def train(way, head, folder):
    """The losses of a run that is shared, whose model is saved."""
    loading, options, parts = WAYS[way]
    model = saved_model(head, folder / "begin")
    if loading:
        model = divided(head, folder / "begin", **loading)
    trainer = trainer_for(head, model, folder, parts, **options)
    losses = losses_of(trainer)
    trainer.save_model(str(folder / "end"))
    output = output_of(trainer.model.eval(), batch_for(head)).detach()
    if PartialState().is_main_process:
        torch.save(output, folder / "output.pt")
    return losses


def share(out):
    """All that the two processes do, and the figures of it."""
    PartialState(cpu=True)
    figures = {}
    figures["divided"] = [
        errors_when_divided(head, options, out / str(i)) for i, (head, options) in enumerate(DIVIDED)
    ]
    figures["pipeline"] = error_in_a_pipeline(out / "pipeline")
    for way in WAYS:
        figures[way] = [train(way, head, out / way / head.__name__) for head in TRAINED]
    return figures


SCRIPT = f"""
import faulthandler, json, sys
from pathlib import Path

# One that waits for the other in vain says where.
faulthandler.dump_traceback_later(200, exit=True)
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
import test_distributed

out = Path(sys.argv[1])
figures = test_distributed.share(out)
if torch.distributed.get_rank() == 0:
    (out / "figures.json").write_text(json.dumps(figures))
torch.distributed.destroy_process_group()
"""

# What must hold.


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder and the figures of the two processes."""
    out = tmp_path_factory.mktemp("shared")
    (out / "script.py").write_text(SCRIPT)
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        out / "script.py",
        out,
    ]
    done = subprocess.run(
        words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, cwd=out
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return out, json.loads((out / "figures.json").read_text())


@pytest.mark.parametrize("head", TRAINED, ids=named)
def test_two_processes_train_as_one(head, shared, tmp_path):
    alone = losses_of(trainer_for(head, tiny_model(head), tmp_path))
    assert len(alone) == STEPS
    for way in WAYS:
        assert shared[1][way][TRAINED.index(head)] == pytest.approx(alone, rel=0, abs=1e-5), way


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("head", TRAINED, ids=named)
def test_what_two_processes_saved_opens_in_one(head, way, shared):
    folder = shared[0] / way / head.__name__
    model = head.from_pretrained(folder / "end", dtype=torch.float64).eval()
    output = output_of(model, batch_for(head))
    assert (output - torch.load(folder / "output.pt")).abs().max() < 1e-9
    begin = head.from_pretrained(folder / "begin", dtype=torch.float64).eval()
    assert (output - output_of(begin, batch_for(head))).abs().max() > 1e-2, "nothing was learnt"


@pytest.mark.parametrize("index", range(len(DIVIDED)), ids=[f"{named(h)}-{named(o)}" for h, o in DIVIDED])
def test_matrices_that_are_divided_give_the_same(index, shared):
    assert max(shared[1]["divided"][index]) < 1e-9


def test_a_pipeline_gives_the_same(shared):
    assert shared[1]["pipeline"] < 1e-9
