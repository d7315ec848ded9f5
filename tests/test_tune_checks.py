"""What `seqblend tune` refuses before its first trial, and what it leaves as it is then."""

import contextlib
import os

import pytest
from test_train_command import (
    files,
    plain_cards,  # noqa: F401
    quick_and_quiet,  # noqa: F401
)
from test_tune import rows_of, write_plan

from seqblend import tune
from seqblend.data.locks import open_locked_directory


def assert_refused(words, path, capsys, *flags):
    assert tune.main([str(path), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: ") and not [word for word in words if word not in line], line
    return line


def test_the_directory_of_a_run_is_refused(tmp_path, capsys):
    path = write_plan(tmp_path, overwrite_output_dir=True)
    (tmp_path / "out" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "out" / "all_results.json").write_text("{}")
    line = assert_refused(["output_dir", "all_results.json", "another directory"], path, capsys)
    assert "overwrite" not in line


# --- What a search does not have ---


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"search": {"learning_rte": [1, 2]}}, ["my.yaml", "learning_rte"]),
        ({"trials": 0}, ["trials", "1 or more"]),
        ({"trials": "many"}, ["trials"]),
        ({"push_to_hub": True}, ["push_to_hub", "best.yaml"]),
        ({"early_stopping_patience": 2}, ["early_stopping_patience"]),
        ({"average_checkpoints": 2}, ["average_checkpoints"]),
        ({"resume": "auto"}, ["resume"]),
        ({"resume_from_checkpoint": True}, ["resume_from_checkpoint"]),
        ({"eval_strategy": "no"}, ["eval_strategy", "validation"]),
        ({"validation_file": None}, ["do_eval", "validation"]),
        ({"learning_rat": 1}, ["my.yaml", "learning_rat"]),
        ({"max_steps": "many"}, ["my.yaml", "max_steps"]),
    ],
    ids=str,
)
def test_what_a_search_refuses(given, words, tmp_path, capsys):
    line = assert_refused(words, write_plan(tmp_path, **given), capsys)
    assert "options.yaml" not in line and not (tmp_path / "out" / "study.db").exists()


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"push_to_hub": False}, ["--push_to_hub", "true", "--hub_model_id", "a/b"]),
        ({}, ["--save_original"]),
        ({"average_checkpoints": None}, ["--average_checkpoints=2"]),
    ],
    ids=str,
)
def test_what_a_search_refuses_as_a_flag(given, flags, tmp_path, capsys):
    """A flag counts, not what the file has for the same option."""
    assert_refused([flags[0].removeprefix("--").partition("=")[0]], write_plan(tmp_path, **given), capsys, *flags)


def test_what_a_flag_takes_back_is_not_refused(tmp_path):
    path = write_plan(tmp_path, push_to_hub=True, resume_from_checkpoint="false")
    assert ready(path, "--push_to_hub", "false", "--save_original", "false")


def ready(path, *flags):
    """The search of a file, before its first trial."""
    with contextlib.ExitStack() as stack:
        plan = tune.read_plan([str(path), *flags])
        return tune.Search(plan, tune.prepare_trials(plan, stack))


# --- What has no effect, and what cannot be used ---


@pytest.mark.parametrize(
    ("given", "search", "words"),
    [
        ({}, {"num_train_epochs": [1, 3]}, ["search.num_train_epochs", "max_steps 4"]),
        (
            {"max_tokens_per_batch": 64},
            {"per_device_train_batch_size": [1, 8]},
            ["search.per_device_train_batch_size", "max_tokens_per_batch 64"],
        ),
        (
            {"lr_scheduler_type": "constant"},
            {"warmup_steps": [0, 0.1]},
            ["search.warmup_steps", "lr_scheduler_type constant"],
        ),
        ({"optim": "sgd"}, {"adam_beta1": [0.8, 0.9]}, ["search.adam_beta1", "optim sgd"]),
        (
            {},
            {"optim": ["sgd", "adagrad"], "adam_epsilon": [1e-8, 1e-6]},
            ["search.adam_epsilon", "optim sgd, adagrad"],
        ),
    ],
    ids=str,
)
def test_an_option_without_effect_is_refused(given, search, words, tmp_path, capsys):
    assert_refused([*words, "no effect"], write_plan(tmp_path, search=search, **given), capsys)


def test_a_regression_has_no_label_smoothing(tmp_path, capsys):
    path = write_plan(tmp_path, search={"label_smoothing_factor": [0, 0.1]}, problem_type="regression")
    # In place of the rows of the plan.
    files(tmp_path, [{"text": f"row {i}", "label": i / 2} for i in range(5)], ["train", "validation"])
    assert_refused(["search.label_smoothing_factor", "problem_type regression"], path, capsys)


@pytest.mark.parametrize(
    ("given", "search"),
    [
        ({}, {"adam_beta1": [0.8, 0.9], "optim": ["sgd", "adamw_torch"]}),
        ({}, {"warmup_steps": [0, 0.1], "lr_scheduler_type": ["constant", "linear"]}),
        ({"max_steps": -1}, {"num_train_epochs": [1, 3]}),
        ({"num_train_epochs": 3, "max_steps": None}, {"max_steps": [2, 3]}),
    ],
    ids=str,
)
def test_an_option_with_an_effect_in_some_trials_is_not_refused(given, search, tmp_path):
    assert ready(write_plan(tmp_path, search=search, **given))


@pytest.mark.parametrize(
    ("given", "search", "words"),
    [
        (
            {},
            {"lr_scheduler_type": ["linear", "cosine_with_min_lr"]},
            ["lr_scheduler_type: cosine_with_min_lr", "min_lr"],
        ),
        ({}, {"optim": ["sgd", "adamw_torch_xla"]}, ["search.optim: adamw_torch_xla"]),
        ({}, {"adam_epsilon": {"low": -1, "high": 1}}, ["search.adam_epsilon: -1.0"]),
        (
            {"dataloader_drop_last": True},
            {"per_device_train_batch_size": [2, 64]},
            ["search.per_device_train_batch_size: 64", "dataloader_drop_last"],
        ),
    ],
    ids=str,
)
def test_a_value_that_cannot_be_used_ends_the_search_before_its_first_trial(given, search, words, tmp_path, capsys):
    path, train_file = write_plan(tmp_path, search=search, **given), tmp_path / "train.jsonl"
    # As many rows as a batch has by default, but not 64.
    train_file.write_text(train_file.read_text() * 2)
    assert_refused(words, path, capsys)
    assert not (tmp_path / "out" / "trials.csv").exists()


# --- Another search in the directory ---


def test_a_search_of_other_options_is_refused_or_starts_over(tmp_path, capsys):
    path = write_plan(tmp_path, trials=1)
    assert tune.main([str(path)]) == 0
    for other in (["--max_steps", "3"], ["--weight_decay", "0.5"]):
        capsys.readouterr()
        assert tune.main([str(path), *other]) == 2
        assert other[0].removeprefix("--") in capsys.readouterr().err
    (tmp_path / "my.yaml").write_text((tmp_path / "my.yaml").read_text().replace("0.1", "0.2"))
    assert tune.main([str(path)]) == 2
    assert "search" in capsys.readouterr().err
    assert tune.main([str(path), "--overwrite_output_dir", "true"]) == 0
    assert len(rows_of(tmp_path / "out")) == 1
    assert "overwrite_output_dir" not in (tmp_path / "out" / "best.yaml").read_text()


@pytest.mark.parametrize("flags", [["--train_file", "none.jsonl"], ["--optim", "adamw_torch_xla"]], ids=str)
def test_a_wrong_option_deletes_nothing(flags, tmp_path, capsys):
    path = write_plan(tmp_path, overwrite_output_dir=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "trials.csv").write_text("before")
    assert_refused([flags[1]] if flags[0] == "--train_file" else ["optim"], path, capsys, *flags)
    assert (tmp_path / "out" / "trials.csv").read_text() == "before"


def test_a_search_that_runs_is_not_deleted(tmp_path, capsys):
    path = write_plan(tmp_path, overwrite_output_dir=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "study.db").write_text("before")
    lock = open_locked_directory(tmp_path / "out")
    assert_refused(["output_dir", "another process"], path, capsys)
    os.close(lock)
    assert (tmp_path / "out" / "study.db").read_text() == "before"


@pytest.mark.parametrize(
    ("given", "flags", "keeps_last"),
    [
        ({}, [], False),
        ({"load_best_model_at_end": False}, [], True),
        ({}, ["--load_best_model_at_end", "false"], True),
        ({}, ["--save_strategy", "no"], True),
        ({"save_strategy": False}, ["--save_strategy", "epoch"], False),
        ({"eval_steps": 2, "save_steps": 3}, [], True),
    ],
    ids=str,
)
def test_the_evaluation_counts_whose_model_a_run_keeps(given, flags, keeps_last, tmp_path):
    assert ready(write_plan(tmp_path, **given), *flags).objective.keeps_last is keeps_last


def test_a_search_does_not_mix_best_and_last_evaluations(tmp_path, capsys):
    path = write_plan(tmp_path)
    assert ready(path)
    assert_refused(["counted_evaluation last, was best"], path, capsys, "--save_strategy", "no")
