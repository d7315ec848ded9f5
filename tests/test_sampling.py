"""Batches by tokens: every row once, none over the budget, the same for every process, and exact when resumed."""

import functools
from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from conftest import VOCAB, tiny_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rows import collator_of
from transformers import TrainerCallback
from two_processes import in_two_processes

from seqblend import BlendDecoderForCausalLM, BlendEncoderDecoderForSeq2SeqLM, BlendEncoderForMaskedLM
from seqblend.data.errors import InputError
from seqblend.hub_card.record import hyperparameters
from seqblend.tasks.sampling import TokenBatchSampler
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.arguments import BlendTrainingArguments
from seqblend.training.checks import check_batches
from seqblend.training.command_line import parse_arguments
from seqblend.training.trainer import BlendTrainer

# Without the special tokens of a row.
SIZES = [3, 9, 5, 1, 7, 2, 8, 4, 4, 4, 6, 3, 3, 5]
MODELS = {
    "masked-lm": BlendEncoderForMaskedLM,
    "causal-lm": BlendDecoderForCausalLM,
    "seq2seq-lm": BlendEncoderDecoderForSeq2SeqLM,
}
# With which there are five batches.
BUDGETS = {"masked-lm": 22, "causal-lm": 22, "seq2seq-lm": 42}


# --- The batches ---


def batches_of(sampler, epoch=0):
    sampler.on_epoch_begin(None, SimpleNamespace(epoch=float(epoch)), None)
    return list(sampler)


def fewest(lengths, budget):
    """How many batches there are at least, each of rows that follow one another in order of length."""
    count = room = 0
    for length in sorted(lengths):
        if length > room:
            count, room = count + 1, budget
        room -= length
    return count


@st.composite
def problems(draw):
    """Lengths, a budget that every row keeps, and a number of processes."""
    lengths = np.array(draw(st.lists(st.integers(1, 12), min_size=1, max_size=60)))
    budget = draw(st.integers(int(lengths.max()), 80))
    return lengths, budget, draw(st.integers(1, 5))


@given(problems(), st.integers(0, 3))
@settings(max_examples=100)
def test_every_row_comes_once_in_batches_that_can_be_dealt_out(problem, epoch):
    lengths, budget, processes = problem
    expected = -(-fewest(lengths, budget) // processes) * processes
    assume(expected <= len(lengths))
    sampler = TokenBatchSampler(lengths, budget, num_processes=processes)
    batches = batches_of(sampler, epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert len(batches) == len(sampler) == expected and all(batches)
    tokens = [int(lengths[batch].sum()) for batch in batches]
    assert max(tokens) <= budget and sorted(tokens) == sorted(sampler.tokens.tolist())
    # Each batch is a piece of the rows in order of length.
    ends = sorted((int(lengths[batch].min()), int(lengths[batch].max())) for batch in batches)
    assert all(before[1] <= after[0] for before, after in pairwise(ends))


@given(problems())
@settings(max_examples=100)
def test_the_largest_batch_is_as_small_as_it_can_be(problem):
    """No smaller budget would do with as many batches."""
    lengths, budget, _ = problem
    largest = int(TokenBatchSampler(lengths, budget).tokens.max())
    assert largest == lengths.max() or fewest(lengths, largest - 1) > fewest(lengths, budget)


def test_batches_of_rows_that_are_all_alike_are_split_for_the_processes():
    """With twenty tokens there are five batches, with nineteen ten: for six, one is split."""
    sampler = TokenBatchSampler(np.full(10, 10), 20, num_processes=6)
    assert sorted(sampler.tokens.tolist()) == [10, 10, 20, 20, 20, 20]


def test_seed_and_epoch_alone_decide_the_order():
    lengths = np.random.default_rng(0).integers(1, 9, 100)
    make = functools.partial(TokenBatchSampler, lengths, 40)
    orders = {(seed, epoch): batches_of(make(seed=seed), epoch) for seed in (0, 1, 2) for epoch in (0, 1, 2)}
    for (seed, epoch), order in orders.items():
        np.random.seed(epoch), torch.manual_seed(epoch)
        assert batches_of(make(seed=seed), epoch) == order
    assert len({str(order) for order in orders.values()}) == len(orders)
    # It is not that of length, and not the batches' order alone: rows of the same length come into other batches.
    assert len({str(lengths[order[0]]) for order in orders.values()}) > 1
    contents = {str(sorted(sorted(batch) for batch in order)) for order in orders.values()}
    assert len(contents) == len(orders)


# --- In a Trainer ---


def rows_for(task):
    """Rows of a task, and the collator that pads them."""
    texts = [("abc" * size)[:size] for size in SIZES]
    tokenizer = train_tokenizer(texts, "char", VOCAB)
    rows = [{"input_ids": ids} for ids in tokenizer(texts)["input_ids"]]
    for row, target in zip(rows, rows[::-1], strict=True):
        if task != "masked-lm":
            row["labels"] = (target if task == "seq2seq-lm" else row)["input_ids"]
    return rows, collator_of(task, tokenizer)


class Watch(TrainerCallback):
    """Keeps the gradients of the first step; saves and stops after some steps."""

    def __init__(self, stop=None):
        self.stop, self.gradients = stop, {}

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        if not self.gradients:
            self.gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.stop:
            control.should_save = control.should_training_stop = True


def arguments(output_dir, **options):
    fixed = {"save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "max_grad_norm": 0.0, "report_to": "none"}
    return BlendTrainingArguments(output_dir=str(output_dir), **{**fixed, **options})


def trainer_for(task, output_dir, model=None, watch=None, rows=None, **options):
    drawn, collator = rows_for(task)
    return BlendTrainer(
        model=tiny_model(MODELS[task]) if model is None else deepcopy(model),
        args=arguments(output_dir, **options),
        train_dataset=drawn if rows is None else rows,
        data_collator=collator,
        callbacks=[] if watch is None else [watch],
        scorers={},
    )


def assert_same_weights(one, other):
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor), name


@pytest.mark.parametrize("task", MODELS)
def test_no_batch_of_the_trainer_is_over_the_budget(task, tmp_path):
    """What a decoder is to write counts too."""
    budget = 26 if task == "seq2seq-lm" else 16
    trainer = trainer_for(task, tmp_path, max_tokens_per_batch=budget)
    tokens = []
    for batch in trainer.get_train_dataloader():
        written = batch["labels"].ne(-100).sum() if task == "seq2seq-lm" else 0
        tokens.append(int(batch["attention_mask"].sum() + written))
    expected = sum(len(row["input_ids"]) for row in rows_for(task)[0])
    # Its targets are the sources in another order.
    assert sum(tokens) == expected * (2 if task == "seq2seq-lm" else 1)
    assert max(tokens) <= budget and len(tokens) == len(trainer.get_train_dataloader())


def test_accumulated_batches_have_the_gradient_of_one_large_batch(tmp_path):
    model = tiny_model(BlendEncoderDecoderForSeq2SeqLM)
    number = len(trainer_for("seq2seq-lm", tmp_path, max_tokens_per_batch=30).get_train_dataloader())
    taken, losses = [], []
    for budget, accumulation in ((1000, 1), (30, number)):
        watch = Watch()
        options = {"max_tokens_per_batch": budget, "gradient_accumulation_steps": accumulation, "max_steps": 1}
        losses.append(trainer_for("seq2seq-lm", tmp_path, model, watch, **options).train().training_loss)
        taken.append(watch.gradients)
    assert number > 2 and losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, gradient in taken[0].items():
        assert (taken[1][name] - gradient).abs().max() < 1e-9 * gradient.abs().max(), name


@pytest.mark.parametrize("task, stop", [("masked-lm", 1), ("masked-lm", 3), ("seq2seq-lm", 2), ("seq2seq-lm", 5)])
def test_a_resumed_run_equals_an_uninterrupted_one(task, stop, tmp_path):
    """Two batches a step; the third of an epoch's steps has one."""
    options = {"max_tokens_per_batch": BUDGETS[task], "gradient_accumulation_steps": 2}
    options |= {"num_train_epochs": 2, "learning_rate": 1e-3, "seed": 3}
    model = tiny_model(MODELS[task], hidden_dropout=0.2).float()
    whole = trainer_for(task, tmp_path / "whole", model, **options)
    whole.train()
    assert len(whole.get_train_dataloader()) == 5 and whole.state.global_step == 6
    trainer_for(task, tmp_path / "run", model, Watch(stop), **options).train()
    resumed = trainer_for(task, tmp_path / "run", model, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{stop}"))
    assert_same_weights(whole, resumed)


@pytest.mark.parametrize("steps", [{"num_train_epochs": 3}, {"max_steps": 9}], ids=str)
def test_steps_and_speed_count_the_batches_there_are(steps, tmp_path):
    trainer = trainer_for("causal-lm", tmp_path, max_tokens_per_batch=22, **steps)
    metrics = trainer.train().metrics
    batches = len(trainer.get_train_dataloader())
    assert trainer.state.max_steps == steps.get("max_steps", 3 * batches)
    rows = trainer.state.max_steps * len(SIZES) / batches
    assert metrics["train_samples_per_second"] * metrics["train_runtime"] == pytest.approx(rows, rel=0.1)


def test_the_order_is_that_of_data_seed_and_else_of_seed(tmp_path):
    seeds = [{"seed": 1}, {"seed": 2}, {"seed": 1, "data_seed": 2}, {"seed": 3, "data_seed": 2}]
    trainers = [trainer_for("causal-lm", tmp_path, max_tokens_per_batch=22, **each) for each in seeds]
    orders = [list(trainer.loaders.batches) for trainer in trainers]
    assert orders[0] != orders[1] == orders[2] == orders[3]


def test_workers_read_the_batches_too(tmp_path):
    loaders = [
        trainer_for("causal-lm", tmp_path, max_tokens_per_batch=22, dataloader_num_workers=workers)
        for workers in (0, 1)
    ]
    batches = [list(trainer.get_train_dataloader()) for trainer in loaders]
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(*batches, strict=True))


def test_the_run_begins_with_what_the_batches_are(tmp_path, caplog):
    caplog.set_level("INFO")
    trainer = trainer_for("causal-lm", tmp_path, max_tokens_per_batch=22, max_steps=1)
    tokens = trainer.loaders.batches.tokens
    trainer.train()
    expected = f"max_tokens_per_batch: {len(tokens)} batches an epoch, of {tokens.min()} to {tokens.max()} tokens"
    assert caplog.messages.count(expected) == 1


# --- Two processes ---

SHARED_OPTIONS = {"max_tokens_per_batch": 18, "num_train_epochs": 3, "learning_rate": 1e-2}


def share_batches(out):
    """A run, and one that is stopped in its second epoch and resumed: the batches that this process reads.

    The weights that they end with are saved.
    """
    model = tiny_model(BlendDecoderForCausalLM)
    runs, seen = {}, {}
    for name, stop in {"whole": None, "stopped": 5, "resumed": None}.items():
        runs[name] = trainer_for("causal-lm", out / name, model, Watch(stop), **SHARED_OPTIONS)
        seen[name] = []
        watch_rows(runs[name], seen[name])
        checkpoint = str(out / "stopped" / "checkpoint-5") if name == "resumed" else None
        runs[name].train(resume_from_checkpoint=checkpoint)
    if runs["whole"].is_world_process_zero():
        torch.save({name: runs[name].model.state_dict() for name in ("whole", "resumed")}, out / "weights.pt")
    return seen


def watch_rows(trainer, seen):
    """Note the epoch and the rows of every batch that this process reads."""
    pad = trainer.data_collator
    trainer.train_dataset = [{**row, "number": number} for number, row in enumerate(trainer.train_dataset)]
    trainer.args.remove_unused_columns = False

    def collate(rows):
        seen.append([trainer.loaders.batches.epoch, [row["number"] for row in rows]])
        return pad([{name: value for name, value in row.items() if name != "number"} for row in rows])

    trainer.data_collator = collate


def test_two_processes_share_the_batches(tmp_path):
    seen = in_two_processes(share_batches, tmp_path)
    orders = []
    for epoch in range(3):
        shares = [[rows for each, rows in side["whole"] if each == epoch] for side in seen]
        assert len(shares[0]) == len(shares[1]) == 4
        assert sorted(row for share in shares for rows in share for row in rows) == list(range(len(SIZES)))
        orders.append(str(shares))
    assert len(set(orders)) == 3
    # From the second batch of the second epoch on: those that are skipped are not read.
    for side in seen:
        assert side["resumed"] == side["whole"][5:]
    weights = torch.load(tmp_path / "weights.pt")
    # One process that accumulates over the same two batches.
    options = {**SHARED_OPTIONS, "max_tokens_per_batch": 16}
    alone = trainer_for("causal-lm", tmp_path / "alone", gradient_accumulation_steps=2, **options)
    assert len(alone.loaders.batches) == 8
    alone.train()
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(weights["whole"][name], weights["resumed"][name]), name
        assert (weights["whole"][name] - tensor).abs().max() < 1e-9, name


# --- What is said of them ---


def test_a_row_that_fits_into_no_batch_is_named(tmp_path):
    with pytest.raises(InputError, match=r"max_tokens_per_batch: 10, but row 2 of the 14 .* has 11 tokens"):
        trainer_for("masked-lm", tmp_path, max_tokens_per_batch=10)


def test_a_stream_is_refused(tmp_path):
    stream = datasets.Dataset.from_dict({"input_ids": [[5, 6]]}).to_iterable_dataset()
    with pytest.raises(InputError, match="max_tokens_per_batch: the lengths of the rows of a stream are unknown"):
        trainer_for("causal-lm", tmp_path, rows=stream, max_steps=1, max_tokens_per_batch=10)


@pytest.mark.parametrize("options", [{"max_tokens_per_batch": 9}, {"train_sampling_strategy": "group_by_length"}])
@pytest.mark.parametrize("column", [[[5, 6], [5]], [1.0, 2.0], ["5", "6"]], ids=str)
def test_lengths_that_are_none_are_refused(column, options, tmp_path):
    rows = datasets.Dataset.from_dict({"input_ids": [[5, 6], [5]], "size": column})
    with pytest.raises(InputError, match="length_column_name: column 'size' must hold whole numbers"):
        trainer_for("causal-lm", tmp_path, rows=rows, length_column_name="size", **options)


def test_rows_that_are_too_few_for_the_processes_are_refused():
    with pytest.raises(
        InputError, match=r"max_tokens_per_batch: 5 makes 4 batches for 4 processes, .* 3 training rows"
    ):
        TokenBatchSampler(np.array([5, 5, 5]), 5, num_processes=4)


def test_gpus_of_one_process_are_refused(tmp_path):
    args = arguments(tmp_path, max_tokens_per_batch=10)
    args._n_gpu = 2
    with pytest.raises(InputError, match=r"max_tokens_per_batch: .* 2 GPUs; .* torchrun"):
        check_batches(args)


def test_a_card_tells_the_budget_in_place_of_a_size_without_effect(tmp_path):
    told = dict(hyperparameters(arguments(tmp_path, max_tokens_per_batch=4096, per_device_train_batch_size=3)))
    assert told["max_tokens_per_batch"] == "4096" and "per_device_train_batch_size" not in told
    told = dict(hyperparameters(arguments(tmp_path)))
    assert "max_tokens_per_batch" not in told and told["per_device_train_batch_size"] == "8 (default)"


def test_a_file_of_options_may_set_it(tmp_path):
    (tmp_path / "run.yaml").write_text("max_tokens_per_batch: 512\nuse_cpu: true\n")
    assert parse_arguments([str(tmp_path / "run.yaml")])[2].max_tokens_per_batch == 512
