"""Two processes that train together, however they share the work, have the losses of one that does it all.

accelerate has no FSDP and no tensor parallelism for processes that share a CPU. Here it is told that each has a GPU,
and then does on the CPU what it would do there.
"""

import dataclasses

import datasets
import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from conftest import SIZES, draw, named, output_of, padded, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM, Seq2SeqTrainingArguments, TrainerCallback
from two_processes import in_two_processes

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForTokenClassification
from seqblend.data.errors import InputError
from seqblend.training.trainer import BlendTrainer

HEADS = [BlendEncoderForTokenClassification, BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM]
# The class of each model, and its options.
MODELS = {
    **{head.__name__: (head, {}) for head in HEADS},
    "gru": (BlendDecoderForCausalLM, {"mixer_type": "gru"}),
    "lstm": (BlendEncoderDecoderForSeq2SeqLM, {"mixer_type": "lstm"}),
}
every_model = pytest.mark.parametrize("name", MODELS)
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
    """The losses of each model's run, from the models that are in the folder.

    The trained model is saved, beside what it answers while it is still shared.
    """
    losses = {}
    for name, (head, _) in MODELS.items():
        begin, end = (folder / moment / name for moment in ("begin", "end"))
        trainer = trainer_for(head, opened(head, begin, **loading), end, **options)
        losses[name] = losses_of(trainer)
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
    for name, (head, fields) in MODELS.items():
        tiny_model(head, **fields).save_pretrained(folder / "begin" / name)
    return folder, in_two_processes(request.param, folder)


@every_model
def test_two_processes_train_as_one(name, shared, tmp_path):
    (folder, losses), head = shared, MODELS[name][0]
    alone = losses_of(trainer_for(head, opened(head, folder / "begin" / name), tmp_path))
    assert len(alone) == STEPS + 1
    for each in losses:
        assert each[name] == pytest.approx(alone, rel=0, abs=1e-5)


@every_model
def test_what_two_processes_saved_opens_in_one(name, shared):
    (folder, _), head = shared, MODELS[name][0]
    answer = answer_of(opened(head, folder / "end" / name), head)
    assert (answer - torch.load(folder / "end" / name / "answer.pt")).abs().max() < 1e-9
    before = answer_of(opened(head, folder / "begin" / name), head)
    assert (answer - before).abs().max() > 1e-2, "nothing was learnt"


# --- FSDP2 by transformers itself ---

CASES = {
    f"{model_class.__name__}-{tied}": (model_class, tied == "tied")
    for model_class in (LlamaForCausalLM, BlendDecoderForCausalLM)
    for tied in ("tied", "untied")
}


def decoder_of(model_class, tied):
    if model_class is BlendDecoderForCausalLM:
        return tiny_model(model_class, tie_word_embeddings=tied)
    names = {field.name for field in dataclasses.fields(LlamaConfig)}
    sizes = {name: value for name, value in SIZES.items() if name in names}
    return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=tied)).double()


def decoder_losses(case, folder, processes=1, **loading):
    model = opened(CASES[case][0], folder / case, **loading)
    trainer = trainer_for(BlendDecoderForCausalLM, model, folder / "run", processes)
    return losses_of(trainer)


def fsdp2_by_transformers(folder):
    return {case: decoder_losses(case, folder, 2, distributed_config={"fsdp_size": 2}) for case in CASES}


@pytest.fixture(scope="module")
def shared_by_transformers(tmp_path_factory):
    """The folder, and the losses of each case in either process."""
    folder = tmp_path_factory.mktemp("by_transformers")
    for case, (model_class, tied) in CASES.items():
        decoder_of(model_class, tied).save_pretrained(folder / case)
    return folder, in_two_processes(fsdp2_by_transformers, folder)


wrong_where_tied = pytest.mark.xfail(strict=True, reason="transformers trains tied embeddings wrongly, its own too")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=wrong_where_tied if tied else ()) for case, (_, tied) in CASES.items()]
)
def test_transformers_own_fsdp2_trains_as_one(case, shared_by_transformers):
    folder, losses = shared_by_transformers
    alone = decoder_losses(case, folder)
    for each in losses:
        assert each[case] == pytest.approx(alone, rel=0, abs=1e-5)


# --- Streams ---


def streams(rows):
    """Streams of rows of several lengths: with shards of several sizes, one of them shuffled; one of workers."""
    plain = datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=3)
    return {"plain": (plain, 0), "shuffled": (plain.shuffle(seed=1, buffer_size=3), 0), "by workers": (plain, 1)}


def stream_trainer(folder, name, callbacks=()):
    """A run of two passes and a half: seven rows are two batches of two processes."""
    torch.manual_seed(0)
    rows = [{key: value.tolist() for key, value in row.items()} for row in draw(BlendDecoderForCausalLM, LENGTHS[:7])]
    stream, workers = streams(rows)[name]
    args = Seq2SeqTrainingArguments(
        output_dir=str(folder / name),
        max_steps=5,
        per_device_train_batch_size=2,
        dataloader_num_workers=workers,
        logging_steps=1,
        save_steps=1,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    model = tiny_model(BlendDecoderForCausalLM, hidden_dropout=0.2)
    return BlendTrainer(
        model=model, args=args, train_dataset=stream, data_collator=padded_lists, callbacks=list(callbacks)
    )


def padded_lists(rows):
    return padded([{name: torch.tensor(values) for name, values in row.items()} for row in rows])


class Stop(TrainerCallback):
    """Stops after the third step, in the middle of a pass."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step == 3


def read_streams(folder):
    """Whether the weights of a run that was stopped and resumed are those of one that was not, of each stream."""
    same = {}
    for name in streams([{"input_ids": [1]}] * 3):
        whole = stream_trainer(folder / "whole", name)
        whole.train()
        stream_trainer(folder / "run", name, [Stop()]).train()
        resumed = stream_trainer(folder / "run", name)
        resumed.train(str(folder / "run" / name / "checkpoint-3"))
        pairs = zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True)
        same[name] = all(torch.equal(one, other) for one, other in pairs)
    with pytest.raises(
        InputError, match="eval_dataset: is a stream, and 2 processes would count some of its rows twice"
    ):
        whole.evaluate(streams([{"input_ids": [1]}] * 3)["plain"][0])
    return same


def test_two_processes_read_a_stream_and_go_on_exactly(tmp_path):
    for same in in_two_processes(read_streams, tmp_path):
        assert same == {"plain": True, "shuffled": True, "by workers": True}


# --- One process that reads for all ---


def dispatched_losses(folder, processes=1):
    """That of an evaluation of a data set and of a stream, of seven rows of one length, which one process reads."""
    torch.manual_seed(0)
    head = BlendDecoderForCausalLM
    rows = [{name: each.tolist() for name, each in row.items()} for row in draw(head, [6] * 7)]
    args = Seq2SeqTrainingArguments(
        output_dir=str(folder / "run"),
        per_device_eval_batch_size=4 // processes,
        accelerator_config={"dispatch_batches": processes > 1},
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    trainer = BlendTrainer(model=opened(head, folder / "begin"), args=args, data_collator=padded_lists)
    stored = datasets.Dataset.from_list(rows)
    return [trainer.evaluate(each)["eval_loss"] for each in (stored, stored.to_iterable_dataset())]


def dispatched_to_two(folder):
    return dispatched_losses(folder, processes=2)


def test_a_row_that_is_dispatched_twice_counts_once(tmp_path):
    """accelerate fills the last batch with the first rows."""
    tiny_model(BlendDecoderForCausalLM).save_pretrained(tmp_path / "begin")
    alone = dispatched_losses(tmp_path)
    for each in in_two_processes(dispatched_to_two, tmp_path):
        assert each == pytest.approx(alone, rel=0, abs=1e-7)
