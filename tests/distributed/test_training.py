"""Two processes that train together, however they share the work, have the losses of one that does it all.

accelerate has no FSDP and no tensor parallelism for processes that share a CPU. Here it is told that each has a GPU,
and then does on the CPU what it would do there.
"""

import os
import signal

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from conftest import draw, named, output_of, padded, tiny_model
from transformers import Seq2SeqTrainingArguments
from two_processes import in_two_processes

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForTokenClassification
from seqblend.training.trainer import BlendTrainer

HEADS = [BlendEncoderForTokenClassification, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
STEPS, ROWS = 20, 8
# Some rows have no target, and so has a process in some steps: the first token of a row is not told.
LENGTHS = [3, 9, 5, 1, 7, 2, 8, 4, 1, 1, 6, 3, 3, 5, 9, 2]
# Of which two processes read one twice.
EVALUATED = [7, 4, 5]


def opened(head, folder, **loading):
    return head.from_pretrained(folder, dtype=torch.float64, **loading)


def trainer_for(head, model, folder, processes=1, **options):
    """A Trainer of so many steps, each of so many rows, however many processes read them."""
    args = Seq2SeqTrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS,
        logging_steps=1,
        learning_rate=1e-2,
        per_device_train_batch_size=ROWS // processes,
        per_device_eval_batch_size=2,
        seed=3,
        save_strategy="no",
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **options,
    )
    if args.fsdp or model.tp_size:
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    torch.manual_seed(0)
    rows, evaluated = draw(head, LENGTHS), draw(head, EVALUATED)
    return BlendTrainer(
        model=model, args=args, train_dataset=rows, eval_dataset=evaluated, data_collator=padded, scorers={}
    )


def losses_of(trainer):
    """That of each step, and that of an evaluation at the end."""
    trainer.train()
    trainer.evaluate()
    return [entry[name] for name in ("loss", "eval_loss") for entry in trainer.state.log_history if name in entry]


def answer_of(model, head):
    torch.manual_seed(1)
    return output_of(model.eval(), padded(draw(head, EVALUATED))).detach()


def train_each(folder, loading, **options):
    """The losses of each head's run, from the models that are in the folder.

    The trained model is saved, beside what it answers while it is still shared.
    """
    losses = {}
    for head in HEADS:
        begin, end = (folder / name / head.__name__ for name in ("begin", "end"))
        trainer = trainer_for(head, opened(head, begin, **loading), end, **options)
        losses[head.__name__] = losses_of(trainer)
        trainer.save_model(str(end))
        answer = answer_of(trainer.model, head)
        if trainer.is_world_process_zero():
            torch.save(answer, end / "answer.pt")
    return losses


def ddp(folder):
    return train_each(folder, {}, processes=2)


def fsdp2(folder):
    return train_each(folder, {}, processes=2, fsdp=True, fsdp_config={"version": 2})


def tensor_parallel(folder):
    return train_each(folder, {"distributed_config": {"tp_size": 2}})


@pytest.fixture(scope="module", params=[ddp, fsdp2, tensor_parallel], ids=named)
def shared(request, tmp_path_factory):
    """The folder of a way to share the work, and the losses that either process had."""
    folder = tmp_path_factory.mktemp(request.param.__name__)
    for head in HEADS:
        tiny_model(head).save_pretrained(folder / "begin" / head.__name__)
    return folder, in_two_processes(request.param, folder)


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_two_processes_train_as_one(head, shared, tmp_path):
    folder, losses = shared
    alone = losses_of(trainer_for(head, opened(head, folder / "begin" / head.__name__), tmp_path))
    assert len(alone) == STEPS + 1
    for each in losses:
        assert each[head.__name__] == pytest.approx(alone, rel=0, abs=1e-5)


@pytest.mark.parametrize("head", HEADS, ids=named)
def test_what_two_processes_saved_opens_in_one(head, shared):
    folder, _ = shared
    answer = answer_of(opened(head, folder / "end" / head.__name__), head)
    assert (answer - torch.load(folder / "end" / head.__name__ / "answer.pt")).abs().max() < 1e-9
    before = answer_of(opened(head, folder / "begin" / head.__name__), head)
    assert (answer - before).abs().max() > 1e-2, "nothing was learnt"


def wait_in_vain(folder):
    (folder / f"{os.getpid()}.pid").touch()
    signal.pause()


def test_processes_that_wait_in_vain_are_ended_and_say_where(tmp_path):
    """So no test of two processes can hang."""
    with pytest.raises(AssertionError, match="in wait_in_vain"):
        in_two_processes(wait_in_vain, tmp_path, timeout=60)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)
