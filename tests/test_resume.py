"""Whatever ends a run, it goes on as if it had not been ended; what is damaged is named, and what is whole stays.

benchmarks/resume_torture.py kills for real, training_faults.py breaks file systems for real.
"""

import logging
import os
import shutil
import signal
from copy import deepcopy
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.data_loader import IterableDatasetShard
from conftest import VOCAB, tiny_model
from rows import collator_of
from transformers import EarlyStoppingCallback, Seq2SeqTrainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from seqblend import BlendDecoderForCausalLM
from seqblend.checkpoints.store import (
    RunError,
    fault_of,
    newest_good,
)
from seqblend.data.errors import InputError
from seqblend.data.streams import SharedStream
from seqblend.tokenization.training import train_tokenizer
from seqblend.training.arguments import BlendTrainingArguments
from seqblend.training.trainer import BlendTrainer

TEXTS = ["abc" * size for size in (3, 1, 5, 2, 4, 2, 6, 1, 3, 2)]
TOKENIZER = train_tokenizer(TEXTS, "char", VOCAB)
ROWS = [{"input_ids": ids, "labels": ids} for ids in TOKENIZER(TEXTS)["input_ids"]]
MODEL = tiny_model(BlendDecoderForCausalLM, hidden_dropout=0.2, num_hidden_layers=1).float()
# Two batches a step, five an epoch.
OPTIONS = {"max_steps": 5, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "save_steps": 1}
OPTIONS |= {"save_strategy": "steps", "disable_tqdm": True, "use_cpu": True, "report_to": "none", "logging_steps": 2}


def stream(rows=ROWS):
    return datasets.Dataset.from_list(rows).to_iterable_dataset(num_shards=2)


# The third cannot tell where it is: what is in its buffer is in no state. The fourth ends with a step.
SOURCES = {
    "set": lambda: ROWS,
    "stream": stream,
    "shuffled": lambda: stream().shuffle(seed=1, buffer_size=4),
    "two steps": lambda: stream(ROWS[:8]),
}


class At(TrainerCallback):
    """Does something when a step has ended, before it is saved."""

    def __init__(self, step, act):
        self.step, self.act = step, act

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.act()


class Killed(BaseException):
    """Nothing catches it."""


def kill():
    raise Killed


def trainer_for(output_dir, rows=ROWS, callbacks=(), scores=None, evaluated=ROWS[:2], **options):
    values = iter(scores or [])

    def score(predicted):
        value = next(values)
        return {"score": value, "other": value}

    return BlendTrainer(
        model=deepcopy(MODEL),
        args=BlendTrainingArguments(output_dir=str(output_dir), **{**OPTIONS, **options}),
        train_dataset=rows,
        eval_dataset=evaluated,
        data_collator=collator_of("causal-lm", TOKENIZER),
        callbacks=list(callbacks),
        scorers={} if scores is None else {"eval": score},
    )


def assert_same(one, other):
    """Weights, the optimizer's state, and what is known of the best model."""
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], tensor), name
    states = [each.optimizer.state_dict()["state"] for each in (one, other)]
    for number, state in states[0].items():
        assert all(torch.equal(states[1][number][name], tensor) for name, tensor in state.items())
    assert one.lr_scheduler.state_dict() == other.lr_scheduler.state_dict()
    assert one.state.best_metric == other.state.best_metric
    assert one.state.best_global_step == other.state.best_global_step


def logged_losses(trainer):
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


# --- Going on ---


@pytest.fixture(scope="module", params=SOURCES)
def whole(request, tmp_path_factory):
    trainer = trainer_for(tmp_path_factory.mktemp("whole"), SOURCES[request.param]())
    trainer.train()
    return request.param, trainer


def test_a_run_that_is_killed_twice_ends_as_one_that_is_not(whole, tmp_path):
    """An epoch's last batch makes the third step of a set; of a stream, the third step is the second pass's first."""
    name, expected = whole
    for stop in (2, 3):
        trainer = trainer_for(tmp_path, SOURCES[name](), [At(stop + 1, kill)])
        with pytest.raises(Killed):
            trainer.train(newest_good(tmp_path))
    assert newest_good(tmp_path).endswith("checkpoint-3")
    trainer = trainer_for(tmp_path, SOURCES[name]())
    output = trainer.train(True)
    assert trainer.state.epoch == expected.state.epoch
    assert_same(trainer, expected)
    # Of all steps, though the last one alone was taken now.
    assert output.training_loss == expected.state.log_history[-1]["train_loss"]
    assert logged_losses(trainer) == logged_losses(expected)


@pytest.mark.parametrize(
    "before, after, first", [({}, {"ignore_data_skip": True}, 1), ({"save_only_model": True}, {}, 3)], ids=str
)
def test_the_mean_loss_is_that_of_the_steps_whose_losses_are_known(before, after, first, tmp_path):
    """Without a saved position the losses before are lost. A run that goes on once more knows from which step on."""
    trainer_for(tmp_path, max_steps=2, logging_steps=1, **before).train()
    trainer_for(tmp_path, max_steps=4, logging_steps=1, **after).train(str(tmp_path / "checkpoint-2"))
    trainer = trainer_for(tmp_path, logging_steps=1)
    output = trainer.train(str(tmp_path / "checkpoint-4"))
    losses = [loss for step, loss in logged_losses(trainer) if step >= first]
    assert output.training_loss == pytest.approx(sum(losses) / len(losses))


def test_a_run_that_was_over_takes_no_step_more(whole, tmp_path):
    name, expected = whole
    trainer = trainer_for(tmp_path, SOURCES[name]())
    trainer.train(str(Path(expected.args.output_dir, "checkpoint-5")))
    assert trainer.state.global_step == 5
    assert_same(trainer, expected)


ORDERS = {
    "by length": {"train_sampling_strategy": "group_by_length"},
    "by the random state": {"accelerator_config": {"use_seedable_sampler": False}},
    "workers that stay": {"dataloader_num_workers": 1, "dataloader_persistent_workers": True},
}


@pytest.mark.parametrize("options", ORDERS.values(), ids=ORDERS)
def test_the_order_of_the_rows_is_that_of_the_epoch(options, tmp_path):
    """Of two epochs, that before the kill was begun with a random state that is in no checkpoint."""
    whole = trainer_for(tmp_path / "whole", **options)
    whole.train()
    for stop in (2, 4):
        trainer = trainer_for(tmp_path / "run", callbacks=[At(stop + 1, kill)], **options)
        with pytest.raises(Killed):
            trainer.train(newest_good(tmp_path / "run"))
    assert newest_good(tmp_path / "run").endswith("checkpoint-4")
    resumed = trainer_for(tmp_path / "run", **options)
    resumed.train(True)
    assert_same(resumed, whole)


@pytest.mark.parametrize("number", range(9))
def test_processes_share_all_rows_of_a_stream_and_end_together(number):
    """And the last batch is the same if those before it were read in another run."""

    def parts(rows):
        shared = SharedStream(rows, 4)
        shards = [IterableDatasetShard(shared, batch_size=2, num_processes=2, process_index=rank) for rank in (0, 1)]
        return [list(shard) for shard in shards]

    rows = list(range(number))
    first, second = parts(rows)
    assert len(first) == len(second) and {*first, *second} == set(rows)
    assert [part[-2:] for part in parts(rows[4 * ((number - 1) // 4) :])] == [first[-2:], second[-2:]]


class Counted(torch.utils.data.IterableDataset):
    """A stream with a state of its own that notes what it gives."""

    def __init__(self):
        self.at, self.given = 0, []

    def __iter__(self):
        while self.at < len(ROWS):
            self.at += 1
            self.given.append(self.at - 1)
            yield ROWS[self.at - 1]
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def test_a_stream_that_knows_where_it_is_is_not_read_again(tmp_path):
    trainer_for(tmp_path, Counted(), max_steps=1).train()
    rows = Counted()
    trainer_for(tmp_path, rows, max_steps=2).train(str(tmp_path / "checkpoint-1"))
    # A step has four rows; one batch is read ahead.
    assert rows.given == [4, 5, 6, 7, 8, 9]


BY_EPOCH = {"eval_strategy": "epoch", "save_strategy": "epoch", "metric_for_best_model": "score"}
BY_EPOCH |= {"load_best_model_at_end": True, "greater_is_better": True, "num_train_epochs": 2, "max_steps": -1}


@pytest.fixture(scope="module")
def whole_by_epoch(tmp_path_factory):
    trainer = trainer_for(tmp_path_factory.mktemp("whole"), scores=[1.0, 3.0], **BY_EPOCH)
    trainer.train()
    return trainer


@pytest.mark.parametrize("step", [2, 3])
def test_sigterm_saves_the_step_and_evaluates_nothing_that_is_not_due(step, whole_by_epoch, tmp_path):
    """Three steps an epoch: one that the epoch ends with is evaluated when the run goes on."""
    terminate = At(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    # transformers' own way, if it has one, would save what a run cannot go on from.
    own = {"enable_jit_checkpoint": True} if hasattr(TrainingArguments, "enable_jit_checkpoint") else {}
    stopped = trainer_for(tmp_path / "run", callbacks=[terminate], scores=[1.0, 3.0], **BY_EPOCH, **own)
    with pytest.raises(SystemExit) as exit_code:
        stopped.train()
    assert exit_code.value.code == 143 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not any("eval_score" in entry for entry in stopped.state.log_history)
    assert newest_good(tmp_path / "run").endswith(f"checkpoint-{step}")
    resumed = trainer_for(tmp_path / "run", scores=[1.0, 3.0], **BY_EPOCH)
    resumed.train(True)
    assert Path(resumed.state.best_model_checkpoint) == tmp_path / "run" / "checkpoint-6"
    assert_same(resumed, whole_by_epoch)


def test_sigterm_saves_a_step_that_is_not_the_best(tmp_path):
    """Of the steps that are evaluated, save_strategy=best saves the best alone."""
    terminate = At(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    options = {**PATIENT, "early_stopping_patience": 3, "save_strategy": "best"}
    stopped = trainer_for(tmp_path, callbacks=[terminate], scores=[2.0, 1.0], **options)
    with pytest.raises(SystemExit):
        stopped.train()
    assert newest_good(tmp_path).endswith("checkpoint-2") and stopped.state.best_global_step == 1
    assert stopped.args.save_strategy == "best"
    assert torch.load(tmp_path / "checkpoint-2" / "training_args.bin", weights_only=False).save_strategy == "best"


@pytest.mark.parametrize("event", ["on_evaluate", "on_save"])
def test_a_signal_during_an_evaluation_or_a_checkpoint_ends_the_run_behind_it(event, tmp_path):
    """No step more is taken, and an evaluation that was due is in the checkpoint."""

    class Terminate(TrainerCallback):
        pass

    setattr(Terminate, event, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2 if event == "on_save" else 10}
    stopped = trainer_for(tmp_path, callbacks=[Terminate()], scores=[1.0], **options)
    with pytest.raises(SystemExit):
        stopped.train()
    assert newest_good(tmp_path).endswith("checkpoint-2") and stopped.state.global_step == 2
    assert "eval_score" in Path(tmp_path, "checkpoint-2", "trainer_state.json").read_text()


def test_a_second_ctrl_c_ends_a_step_at_once(tmp_path):
    def interrupt_twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    stopped = trainer_for(tmp_path, callbacks=[At(2, interrupt_twice)])
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert newest_good(tmp_path) is None or not newest_good(tmp_path).endswith("-2")


def test_workers_leave_ctrl_c_to_the_run(tmp_path):
    """A terminal sends it to all processes of a run; what a worker is reading is still trained on."""
    workers = []

    def interrupt_all():
        workers.extend(torch.multiprocessing.active_children())
        for process in (*workers, torch.multiprocessing.current_process()):
            os.kill(process.pid, signal.SIGINT)

    stopped = trainer_for(tmp_path, callbacks=[At(2, interrupt_all)], dataloader_num_workers=1)
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert workers and newest_good(tmp_path).endswith("checkpoint-2")


# --- An earlier run in the directory ---


def test_checkpoints_of_an_earlier_run_are_told_of_and_left_alone_by_rotation(tmp_path, caplog):
    trainer_for(tmp_path, max_steps=3).train()
    trainer_for(tmp_path, max_steps=5, save_steps=2, save_total_limit=1).train()
    (told,) = [message for message in caplog.messages if "earlier run" in message]
    assert "checkpoint-1, checkpoint-2, checkpoint-3" in told and "overwrite_output_dir" in told
    found = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert found == {"checkpoint-1", "checkpoint-3", "checkpoint-5"}


def test_rotation_deletes_the_earliest_steps_also_of_a_copy(tmp_path):
    """A copy may have its checkpoints' times in another order."""
    trainer_for(tmp_path, max_steps=2).train()
    os.utime(tmp_path / "checkpoint-1", (2e9, 2e9))
    trainer_for(tmp_path, max_steps=3, save_total_limit=2).train(True)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}


def test_rotation_deletes_abandoned_steps_first(tmp_path):
    trainer_for(tmp_path, max_steps=4).train()
    trainer_for(tmp_path, max_steps=3, save_total_limit=2).train(str(tmp_path / "checkpoint-2"))
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-3"}


def test_in_python_too_an_earlier_run_may_be_deleted(tmp_path):
    trainer_for(tmp_path, max_steps=3).train()
    trainer_for(tmp_path, max_steps=1, overwrite_output_dir=True).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-1"]
    trainer_for(tmp_path, max_steps=2, overwrite_output_dir=True).train(True)
    assert {path.name for path in tmp_path.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


def test_a_whole_model_replaces_the_adapter_of_an_earlier_run(tmp_path, caplog):
    """transformers would load it into the model."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_notes.txt"):
        (tmp_path / name).write_text("{}")
    trainer_for(tmp_path).save_model()
    assert [path.name for path in tmp_path.glob("adapter*")] == ["adapter_notes.txt"]
    assert "deleted the adapter of an earlier run: adapter_config.json, adapter_model.safetensors" in caplog.text


def test_evaluating_changes_nothing_of_the_training(tmp_path):
    """A DataLoader draws from the random state that dropout draws from, however it orders its rows."""
    often = {"eval_strategy": "steps", "eval_steps": 1}
    one, other = trainer_for(tmp_path / "one"), trainer_for(tmp_path / "other", **often)
    for trainer in (one, other):
        torch.manual_seed(0)
        trainer.train()
    assert_same(one, other)


# --- Early stopping ---

PATIENT = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "score", "greater_is_better": True}
PATIENT |= {"load_best_model_at_end": True, "early_stopping_patience": 1}
PATIENT |= {"restore_callback_states_from_checkpoint": True}


def test_a_run_that_was_stopped_early_takes_no_step_more_unless_patience_grows(tmp_path):
    trainer_for(tmp_path, scores=[1.0, 0.5], **PATIENT).train()
    for patience, steps in {1: 2, 2: 3}.items():
        resumed = trainer_for(tmp_path, scores=[0.5], **{**PATIENT, "early_stopping_patience": patience})
        resumed.train(str(tmp_path / "checkpoint-2"))
        assert resumed.state.global_step == steps


def test_early_stopping_goes_on_counting_though_no_states_of_callbacks_are_restored(tmp_path):
    options = {**PATIENT, "early_stopping_patience": 2, "restore_callback_states_from_checkpoint": False}
    trainer_for(tmp_path, scores=[1.0, 0.5], max_steps=2, **options).train()
    resumed = trainer_for(tmp_path, scores=[0.4], **options)
    resumed.train(True)
    assert resumed.state.global_step == 3


class Counter(TrainerCallback, ExportableState):
    """Counts the steps of a run, in all its resumptions."""

    def __init__(self, limit):
        self.limit, self.steps = limit, 0

    def on_step_end(self, args, state, control, **kwargs):
        self.steps += 1

    def state(self):
        return {"args": {"limit": self.limit}, "attributes": {"steps": self.steps}}


class SecondStop(EarlyStoppingCallback):
    """Has its own entry in the state of a run, and is an EarlyStoppingCallback, too."""


@pytest.mark.parametrize("restores", [True, False])
def test_a_callback_is_restored_with_the_arguments_of_the_run(restores, tmp_path):
    """The order of callbacks stays, although transformers replaces some: those that are early stopping, too."""
    options = {**PATIENT, "early_stopping_patience": 9, "restore_callback_states_from_checkpoint": restores}
    first = [SecondStop(8), Counter(1), EarlyStoppingCallback(7), Counter(2)]
    trainer_for(tmp_path, callbacks=first, scores=[3.0, 2.0], max_steps=2, **options).train()
    second = [SecondStop(6), Counter(3), EarlyStoppingCallback(5), Counter(4)]
    resumed = trainer_for(tmp_path, callbacks=second, scores=[1.0], **{**options, "early_stopping_patience": 4})
    resumed.args.max_steps = 3
    resumed.train(True)
    kinds = (Counter, EarlyStoppingCallback)
    assert [each for each in resumed.callback_handler.callbacks if isinstance(each, kinds)][:4] == second
    stops = [each for each in resumed.callback_handler.callbacks if isinstance(each, EarlyStoppingCallback)]
    assert [each.early_stopping_patience for each in stops] == [6, 5, 4]
    assert [each.early_stopping_patience_counter for each in stops] == [2, 2, 2]
    steps = 3 if restores else 1
    assert [(each.limit, each.steps) for each in second[1::2]] == [(3, steps), (4, steps)]


def test_what_is_evaluated_at_the_start_is_not_evaluated_again(tmp_path):
    """It would be no better than it was, which early stopping would count."""
    options = {**PATIENT, "early_stopping_patience": 2, "eval_on_start": True}
    trainer_for(tmp_path, scores=[1.0, 1.0], max_steps=1, **{**options, "load_best_model_at_end": False}).train()
    resumed = trainer_for(tmp_path, scores=[0.5, 0.5], **options)
    resumed.train(True)
    assert resumed.state.global_step == 3 and resumed.args.eval_on_start


def test_a_checkpoint_that_knows_no_early_stopping_goes_on_with_it(tmp_path):
    options = {name: value for name, value in PATIENT.items() if name != "early_stopping_patience"}
    trainer_for(tmp_path, scores=[1.0], max_steps=1, **options).train()
    resumed = trainer_for(tmp_path, scores=[0.5], **PATIENT)
    resumed.train(True)
    assert resumed.state.global_step == 2


# --- The best model ---

BY_STEP = {**BY_EPOCH, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "max_steps": 3}


def test_the_best_model_is_found_where_the_directory_was_moved_to(tmp_path):
    trainer = trainer_for(tmp_path / "old", callbacks=[At(3, kill)], scores=[3.0, 2.0], **BY_STEP)
    with pytest.raises(Killed):
        trainer.train()
    (tmp_path / "old").rename(tmp_path / "new")
    resumed = trainer_for(tmp_path / "new", scores=[1.0], save_total_limit=2, **BY_STEP)
    resumed.train(True)
    assert Path(resumed.state.best_model_checkpoint) == tmp_path / "new" / "checkpoint-1"
    assert fault_of(tmp_path / "new" / "checkpoint-1") is None
    # Not the last one in its place.
    shutil.rmtree(tmp_path / "new" / "checkpoint-1")
    with pytest.raises(InputError, match=r"the best model, .*checkpoint-1, does not exist any more"):
        trainer_for(tmp_path / "new", scores=[1.0], **BY_STEP).train(str(tmp_path / "new" / "checkpoint-3"))


# What is done between the evaluations of 9.0 and those of 3.0 and 2.0: another metric is asked for, in the same run or
# after a run without one, or other rows are evaluated.
OTHERWISE = {
    "another metric": [{"metric_for_best_model": "other", "allow_changed": ["metric_for_best_model"]}],
    "a run without": [{"metric_for_best_model": None, "load_best_model_at_end": False}, {}],
    "other rows": [{"evaluated": ROWS[:1], "allow_changed": ["eval_dataset"]}],
}


@pytest.mark.parametrize("then", OTHERWISE.values(), ids=OTHERWISE)
def test_the_best_model_is_chosen_anew_where_its_metric_is_another(then, tmp_path, caplog):
    trainer_for(tmp_path, scores=[9.0], **{**BY_STEP, "max_steps": 1}).train()
    for steps, between in enumerate(then[:-1], 2):
        trainer_for(tmp_path, scores=[8.0], **{**BY_STEP, **between, "max_steps": steps}).train(True)
    options = {**BY_STEP, **then[-1]}
    resumed = trainer_for(tmp_path, scores=[3.0, 2.0], **{**options, "max_steps": len(then) + 2})
    resumed.train(True)
    assert resumed.state.best_metric == 3.0
    assert Path(resumed.state.best_model_checkpoint).name == f"checkpoint-{len(then) + 1}"
    assert sum("the best model so far was chosen otherwise" in line for line in caplog.messages) == 1
    caplog.clear()
    trainer_for(tmp_path, scores=[1.0], **{**options, "max_steps": len(then) + 3}).train(True)
    assert "chosen otherwise" not in caplog.text


def test_what_waits_for_a_metric_waits_anew_where_it_is_another(tmp_path):
    """Early stopping and the learning rate: what was seen of the metric before cannot be reached by the new one."""
    options = {**PATIENT, "early_stopping_patience": 2, "lr_scheduler_type": "reduce_lr_on_plateau"}
    trainer_for(tmp_path, scores=[9.0, 8.0], **{**options, "max_steps": 2}).train()
    other = {"metric_for_best_model": "other", "allow_changed": ["metric_for_best_model"]}
    resumed = trainer_for(tmp_path, scores=[1.0, 0.5], **{**options, **other, "max_steps": 4})
    resumed.train(True)
    assert resumed.state.global_step == 4 and resumed.lr_scheduler.best == 1.0


# --- What ends a run ---


def test_a_loss_that_is_not_finite_ends_the_run_and_its_batch_is_kept(tmp_path):
    def spoil():
        trainer.model.model.embed_tokens.weight.data.fill_(float("inf"))

    trainer = trainer_for(tmp_path, callbacks=[At(2, spoil)])
    with pytest.raises(RunError, match=r"step 3: the loss is nan; its batch is in .*checkpoint-2; resume") as error:
        trainer.train()
    path = tmp_path / "not-finite-3-0.pt"
    assert str(path) in str(error.value)
    assert {"input_ids", "labels", "attention_mask"} <= set(torch.load(path, weights_only=True))


def test_an_error_in_the_code_stays_as_it_is(tmp_path):
    def fail():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        trainer_for(tmp_path, callbacks=[At(1, fail)]).train()


# --- A search of hyperparameters, and sharded models ---


@pytest.mark.parametrize("trial", [None, {"learning_rate": 1e-3}])
def test_missing_weights_are_reported_unless_they_were_compared(trial, tmp_path, monkeypatch):
    trainer_for(tmp_path, max_steps=1).train()
    seen = []

    def load(*args, **kwargs):
        seen.extend(logging.getLogger("transformers.trainer").filters)
        raise Killed

    monkeypatch.setattr(Seq2SeqTrainer, "train", load)
    with pytest.raises(Killed):
        trainer_for(tmp_path, max_steps=1).train(True, trial)
    assert bool(seen) == (trial is None)


def test_weights_that_do_not_fit_when_they_are_loaded_are_named(tmp_path, monkeypatch):
    """With FSDP they are not compared before."""
    trainer_for(tmp_path, max_steps=1).train()
    messages = ["Error(s) in loading: size mismatch for layers.0: copying a param", "size mismatch, got input"]

    def load(*args, **kwargs):
        raise RuntimeError(messages.pop(0))

    monkeypatch.setattr(Seq2SeqTrainer, "train", load)
    with pytest.raises(InputError, match=r"checkpoint-1 does not match the model: .*size mismatch for layers\.0"):
        trainer_for(tmp_path, max_steps=1).train(True)
    with pytest.raises(RuntimeError, match="got input"):
        trainer_for(tmp_path, max_steps=1).train(True)


def test_each_part_uses_the_accelerator_of_a_trial(tmp_path, monkeypatch):
    trainer = trainer_for(tmp_path)
    before = trainer.accelerator
    trainer.create_accelerator_and_postprocess()
    assert trainer.accelerator is not before and trainer.accelerator.dataloader_config.dispatch_batches is False
    calls = []
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: calls.append("new"))
    monkeypatch.setattr(before, "wait_for_everyone", lambda: calls.append("old"))
    trainer.resumption.find(None)
    with pytest.raises(RunError):
        trainer.writer.write(tmp_path / "checkpoint-1", lambda staged: staged.stat())
    assert calls and set(calls) == {"new"}


def test_no_process_waits_alone_where_another_cannot_save(tmp_path, monkeypatch):
    """With DeepSpeed each process may write a part, and all wait for the last one."""
    trainer, calls = trainer_for(tmp_path), []

    def save(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(Seq2SeqTrainer, "save_model", save)
    monkeypatch.setattr(trainer.accelerator, "wait_for_everyone", lambda: calls.append("waits"))
    trainer.is_deepspeed_enabled = True
    with pytest.raises(RunError, match="No space left"):
        trainer.save_model()
    assert calls == ["waits"]
