"""best.yaml of `seqblend tune`: a run with it repeats the best trial, and has what the user gave."""

import pytest
import yaml
from test_train_command import (
    CLASSIFY,
    ROWS,
    files,
    plain_cards,  # noqa: F401
    quick_and_quiet,  # noqa: F401
    read,
)
from test_tune import write_plan

from seqblend import tune
from seqblend.train import main as train
from seqblend.train import prepare
from seqblend.training.command_line import flag_values
from seqblend.tuning.space import SEARCHED

TIMES = ("eval_strategy", "eval_steps", "save_strategy", "save_steps", "load_best_model_at_end", "warmup_steps")


def searched(directory, *flags, **options):
    """The path of best.yaml after a search of one trial."""
    assert tune.main([str(write_plan(directory, trials=1, **options)), *flags]) == 0
    return directory / "out" / "best.yaml"


@pytest.mark.parametrize(
    "options",
    [
        {"save_steps": 2},
        {"save_strategy": "epoch", "load_best_model_at_end": True},
        {"save_strategy": "steps", "max_steps": 12},
        {"save_strategy": "best"},
        {"save_strategy": "no"},
        {"eval_steps": 2, "save_steps": 3},
        {"load_best_model_at_end": False},
    ],
    ids=str,
)
def test_it_is_evaluated_and_saved_as_without_a_search(options, tmp_path):
    path = searched(tmp_path, metric_for_best_model="loss", **options)
    given = yaml.safe_load((tmp_path / "my.yaml").read_text())
    plain = tmp_path / "plain.yaml"
    plain.write_text(yaml.safe_dump({name: each for name, each in given.items() if name not in ("trials", "search")}))
    one, other = (prepare([str(each), f"--output_dir={tmp_path / 'other'}"]).trainer.args for each in (path, plain))
    assert {name: getattr(one, name) for name in TIMES} == {name: getattr(other, name) for name in TIMES}


def test_it_ends_with_the_model_of_the_trial(tmp_path):
    """With save_steps, evaluations follow them, in the trial and in the run."""
    path = searched(tmp_path, metric_for_best_model="loss", save_steps=2, search={"learning_rate": [0.05, 0.06]})
    assert train([str(path)]) == 0
    state = read(tmp_path / "out" / "best" / "trainer_state.json")
    assert [each["step"] for each in state["log_history"] if "eval_loss" in each] == [2, 4]
    assert state["best_metric"] == read(tmp_path / "out" / "trials.json")["trials"][0]["loss"]


def test_each_option_has_its_effect_in_the_trial(tmp_path):
    """A run with the values of a trial has its losses, whatever the trial before has changed."""
    search = {"learning_rate": [0.05, 0.03], "weight_decay": [1.0, 2.0], "warmup_steps": [0.3, 0.5]}
    search |= {"num_train_epochs": [2, 3], "max_grad_norm": [0.1, 0.2], "label_smoothing_factor": [0.2, 0.4]}
    search |= {"adam_beta1": [0.5, 0.7], "adam_beta2": [0.5, 0.7], "adam_epsilon": [0.1, 0.2]}
    search |= {"per_device_train_batch_size": [1, 2], "gradient_accumulation_steps": [1, 2]}
    search |= {"lr_scheduler_type": ["linear", "polynomial"], "optim": ["adamw_torch", "adamw_torch_fused"]}
    assert set(search) == SEARCHED.keys() - {"max_steps"}
    options = {"metric_for_best_model": "loss", "eval_steps": 1, "max_steps": None, "trials": 2}
    assert tune.main([str(write_plan(tmp_path, search=search, **options))]) == 0
    rows = read(tmp_path / "out" / "trials.json")["trials"]
    assert len({row["loss"] for row in rows}) == 2
    for row in rows:
        flags = [f"--{name}={row[name]}" for name in search]
        assert (
            train([str(tmp_path / "out" / "best.yaml"), *flags, f"--output_dir={tmp_path / str(row['trial'])}"]) == 0
        )
        assert read(tmp_path / str(row["trial"]) / "trainer_state.json")["best_metric"] == row["loss"]


def test_a_run_with_more_steps_has_the_warm_up_of_the_trial(tmp_path):
    """Of the trials 2 steps are planned, too few for a warm-up; with the best values it are 10."""
    search = {"per_device_train_batch_size": {"low": 1, "high": 2, "step": 1}}
    path = searched(tmp_path, search=search, max_steps=None, num_train_epochs=2)
    args = prepare([str(path), "--per_device_train_batch_size", "1"]).trainer.args
    assert args.warmup_steps == 0


def test_it_has_the_flags(tmp_path):
    flags = ["--max_steps", "3", "--lr_scheduler_type=linear", "--no_remove_unused_columns"]
    flags += ["--accelerator_config", '{"split_batches": true}', "--hub_token", "hf_secret"]
    path = searched(tmp_path, *flags, remove_unused_columns=True, hub_model_id="a/b")
    options = yaml.safe_load(path.read_text())
    assert (options["max_steps"], options["lr_scheduler_type"]) == (3, "linear")
    assert options["remove_unused_columns"] is False and options["hub_model_id"] == "a/b"
    assert "hf_secret" not in path.read_text() and "hub_token" not in options
    args = prepare([str(path)]).trainer.args
    assert args.accelerator_config.split_batches and not args.remove_unused_columns


def test_flags_have_values_of_a_file():
    flags = ["--no_remove_unused_columns", "--fp16", "--learning-rate", "1e-4", "--eval_strategy=no"]
    flags += ["--train_file", "a", "b", "--debug", "underflow_overflow", "--generation_config", "g", "--bf16", "false"]
    values = flag_values(flags)
    assert yaml.safe_load(yaml.safe_dump(values)) == {
        **{"remove_unused_columns": False, "fp16": True, "learning_rate": 1e-4, "eval_strategy": "no", "bf16": False},
        **{"train_file": ["a", "b"], "debug": ["underflow_overflow"], "generation_config": "g"},
    }


def test_a_secret_of_the_file_is_not_copied(tmp_path):
    assert "hf_secret" not in searched(tmp_path, hub_token="hf_secret").read_text()


@pytest.mark.parametrize("as_flag", [False, True], ids=["file", "flag"])
def test_rows_of_no_class_are_for_the_run(as_flag, tmp_path):
    """They are measured with the test split, which no trial predicts."""
    paths = files(tmp_path, ROWS[CLASSIFY], ["test", "unknown"])
    unknown = str(paths["unknown_file"])
    given = {"flags": ["--test_unknown_file", unknown]} if as_flag else {"test_unknown_file": [unknown]}
    path = searched(tmp_path, *given.pop("flags", []), test_file=str(paths["test_file"]), **given)
    assert yaml.safe_load(path.read_text())["test_unknown_file"] == [unknown]
    assert prepare([str(path)]).trainer.args.do_predict
