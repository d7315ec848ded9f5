"""Two processes of `train.py` that share the work equal one that does it all; both run on the CPU, by gloo."""

import json
import os
import signal
from functools import partial
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from two_processes import in_two_processes

from seqblend import train
from seqblend.checkpoints.store import newest_good
from seqblend.train import main
from seqblend.training.trainer import BlendTrainer

TASKS = {
    "sequence-classification": [{"text": "ab" * i, "label": "xyz"[i % 3]} for i in range(1, 9)],
    "token-classification": [
        {"tokens": list("abcde"[: 1 + i % 5]), "tags": ["B-x", "I-x", "O", "B-y", "O"][: 1 + i % 5]} for i in range(8)
    ],
    "seq2seq-lm": [{"source": "abc" * i, "target": "cb" * (8 - i)} for i in range(8)],
}
STREAMED = "seq2seq-lm"
# The last rows of one split are fewer than a batch, those of the other fewer than two batches.
ROWS = {"train": 8, "validation": 7, "test": 5}
SMALL = "hidden_size=16,num_hidden_layers=1,num_attention_heads=2,intermediate_size=16"
# Each process would draw its own.
NO_DROPOUT = "hidden_dropout=0.0,classifier_dropout=0.0"
OPTIONS = {
    **{"config_overrides": f"{SMALL},{NO_DROPOUT}", "tokenizer_type": "char"},
    **{"max_steps": 4, "learning_rate": 1e-2, "logging_steps": 1, "save_strategy": "no"},
    **{"per_device_eval_batch_size": 2, "use_cpu": True, "disable_tqdm": True},
}


def train_task(place, run, task, batch_size, **options):
    """Train, evaluate and predict; the files of the task are in its place."""
    options = {
        **OPTIONS,
        "task": task,
        "per_device_train_batch_size": batch_size,
        "output_dir": place / run,
        **({"max_target_length": 9} if task == "seq2seq-lm" else {}),
        **options,
    }
    options |= {f"{split}_file": place / f"{split}.jsonl" for split in ROWS}
    # What is compared are figures; the card's code would be run.
    with mock.patch("seqblend.training.publisher.write_card"):
        assert main([word for name, value in options.items() for word in (f"--{name}", str(value))]) == 0


def stream(place, run, batch_size, **options):
    """As train_task, from a stream, in two passes and a half."""
    given = {"streaming": True, "max_steps": 5, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 5}
    tokenizer = OPTIONS | {"tokenizer_name_or_path": place / "alone"}
    del tokenizer["tokenizer_type"]
    with mock.patch.dict(OPTIONS, tokenizer, clear=True):
        train_task(place, run, STREAMED, batch_size, **given, **options)


def share_all(folder):
    for task in TASKS:
        train_task(folder / task, "shared", task, 2)
    stream(folder / STREAMED, "streamed, shared", 2)
    checkpoint = folder / STREAMED / "streamed, shared" / "checkpoint-3"
    stream(folder / STREAMED, "resumed", 2, resume_from_checkpoint=checkpoint)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the results of each task, of one process and of two."""
    folder = tmp_path_factory.mktemp("trained")
    for task, rows in TASKS.items():
        (folder / task).mkdir()
        for split, number in ROWS.items():
            (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:number]))
        train_task(folder / task, "alone", task, 4)
    stream(folder / STREAMED, "streamed, alone", 4)
    in_two_processes(share_all, folder)
    return folder


def measures(folder):
    """The losses of the steps, and every figure of an evaluation, but for those of speed."""
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    results = json.loads((folder / "all_results.json").read_text())
    steps = {f"step {entry['step']}": entry["loss"] for entry in history if "loss" in entry}
    figures = {name: value for name, value in results.items() if name.startswith(("eval_", "test_"))}
    # A string tells how a metric was computed.
    speed = {name for name in figures if name.endswith(("_runtime", "_per_second")) or isinstance(figures[name], str)}
    return {**steps, **{name: value for name, value in figures.items() if name not in speed}}


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_measure_what_one_does(task, trained):
    """Where rows are left over, accelerate has the first read once more; they count once."""
    alone = measures(trained / task / "alone")
    assert alone.keys() >= {"step 1", "step 4", "eval_loss", "test_loss"}
    assert measures(trained / task / "shared") == pytest.approx(alone, rel=0, abs=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_two_processes_predict_each_row_once(task, trained):
    paths = [trained / task / run / "predictions.jsonl" for run in ("alone", "shared")]
    alone, shared = ([json.loads(line) for line in path.read_text().splitlines()] for path in paths)
    assert len(alone) == ROWS["test"]
    for name in ("input", "prediction", "reference"):
        assert [row[name] for row in shared] == [row[name] for row in alone]


def test_two_processes_share_a_stream_and_go_on_with_it(trained):
    """Each reads all and keeps its part; the weights after going on are the same bit for bit."""
    place = trained / STREAMED
    alone = measures(place / "streamed, alone")
    assert alone.keys() >= {"step 1", "step 5", "eval_loss"}
    assert measures(place / "streamed, shared") == pytest.approx(alone, rel=0, abs=1e-5)
    whole, resumed = (load_file(place / run / "model.safetensors") for run in ("streamed, shared", "resumed"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


# --- SIGTERM ---


class Terminate(TrainerCallback):
    """Sends SIGTERM to the first of the processes as the third of six steps ends, the first of an epoch."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3 and args.process_index == 0:
            os.kill(os.getpid(), signal.SIGTERM)


ORDERS = {
    "random": {},
    "group_by_length": {"train_sampling_strategy": "group_by_length"},
    "batch_rebalance": {"train_sampling_strategy": "batch_rebalance"},
    "max_tokens_per_batch": {"max_tokens_per_batch": 24},
}


def exit_code(output_dir, options):
    """That of train.py; a run of two epochs, with dropout."""
    task = "sequence-classification"
    options = {
        **{**OPTIONS, "config_overrides": f"{SMALL},hidden_dropout=0.2", "max_steps": -1, "num_train_epochs": 2},
        **{"task": task, "train_file": output_dir.parent / "train.jsonl", "per_device_train_batch_size": 2},
        **{"output_dir": output_dir, **options},
    }
    try:
        with mock.patch("seqblend.training.publisher.write_card"):
            return main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    except SystemExit as done:
        return done.code


def terminated_and_resumed(folder):
    """Of each order the exit codes of a run that is left alone, of one that SIGTERM ends, and of the rest of that."""
    codes = {}
    for name, options in ORDERS.items():
        whole, run = (folder / f"{name}.{each}" for each in ("whole", "run"))
        codes[name] = [exit_code(whole, options)]
        with mock.patch.object(train, "BlendTrainer", partial(BlendTrainer, callbacks=[Terminate()])):
            codes[name].append(exit_code(run, options))
        codes[name] += [newest_good(run), exit_code(run, {**options, "resume": "auto"})]
    return codes


def test_sigterm_to_one_process_ends_both_and_the_run_goes_on_exactly(tmp_path):
    rows = TASKS["sequence-classification"]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for codes in in_two_processes(terminated_and_resumed, tmp_path):
        for name, found in codes.items():
            assert found == [0, 143, str(tmp_path / f"{name}.run" / "checkpoint-3"), 0], name
    for name in ORDERS:
        whole, run = ((tmp_path / f"{name}.{each}" / "model.safetensors").read_bytes() for each in ("whole", "run"))
        assert whole == run, name
