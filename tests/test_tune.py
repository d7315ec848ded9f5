"""`seqblend tune`: the space, the trials, going on after a kill, and what it writes."""

import contextlib
import copy
import csv
import io
import signal
import sys
from unittest import mock

import pytest
import yaml
from test_resume import trainer_for
from test_train_command import (
    CLASSIFY,
    ROWS,
    SMALL,
    files,
    plain_cards,  # noqa: F401
    quick_and_quiet,  # noqa: F401
    read,
)

from seqblend import tune
from seqblend.checkpoints.store import NotFinite
from seqblend.data.errors import InputError
from seqblend.hub_card.pictures import new_figure
from seqblend.train import main as train
from seqblend.training.command_line import Parser
from seqblend.training.trainer import BlendTrainer
from seqblend.tuning.picture import draw_trials
from seqblend.tuning.space import SEARCHED, Choice, Range, parse_space
from seqblend.tuning.trials import NAME, Study, Trial, first_stop, import_optuna

RATES = {"learning_rate": {"low": "1e-4", "high": 1e-1, "log": True}}
PNG = b"\x89PNG"


def write_plan(directory, **options):
    """A file of a search in a directory; its path."""
    given = {"task": CLASSIFY, "tokenizer_type": "char", "config_overrides": SMALL, "max_length": 16, "max_steps": 4}
    given |= {
        "disable_tqdm": True,
        "use_cpu": True,
        "output_dir": str(directory / "out"),
        "trials": 2,
        "search": RATES,
    }
    given |= {name: str(path) for name, path in files(directory, ROWS[CLASSIFY], ["train", "validation"]).items()}
    path = directory / "my.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in {**given, **options}.items() if value is not None}))
    return path


def rows_of(out):
    with open(out / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


# --- The space ---


def test_numbers_may_be_written_as_yaml_reads_them():
    space = parse_space({**RATES, "per_device_train_batch_size": [8, 16], "warmup_steps": {"low": 0, "high": 0.2}}, ())
    assert space == {
        "learning_rate": Range(1e-4, 1e-1, log=True),
        "per_device_train_batch_size": Choice((8, 16)),
        "warmup_steps": Range(0.0, 0.2),
    }
    assert isinstance(space["warmup_steps"].low, float)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (None, ["search", "mapping"]),
        ({}, ["search", "mapping"]),
        ({"learning_rte": [1, 2]}, ["'learning_rte'", "nearest first: learning_rate"]),
        ({"output_dir": ["a", "b"]}, ["'output_dir'", "may change"]),
        ({"seed": [1, 2]}, ["'seed'"]),
        ({"learning_rate": 1e-3}, ["search.learning_rate", "low and high", "0.001"]),
        ({"learning_rate": {"low": 1e-3}}, ["search.learning_rate", "low and high"]),
        ({"learning_rate": {"low": 1e-3, "high": 1e-4}}, ["search.learning_rate", "low 0.001", "below high 0.0001"]),
        ({"learning_rate": {"low": 1e-3, "high": 1e-3}}, ["search.learning_rate", "below high"]),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, ["search.learning_rate", "log", "above 0"]),
        ({"learning_rate": {"low": 1, "high": 2, "log": "yes"}}, ["search.learning_rate", "log", "'yes'"]),
        ({"learning_rate": {"low": 1, "high": 2, "lag": True}}, ["search.learning_rate", "'lag'", "log"]),
        ({"learning_rate": {"low": 1, "high": 2, "step": 3}}, ["search.learning_rate", "step"]),
        ({"learning_rate": {"low": 1, "high": 2, "step": 0.1, "log": True}}, ["log and step"]),
        ({"learning_rate": {"low": -1, "high": 2}}, ["search.learning_rate", "0 or more", "-1"]),
        ({"learning_rate": ["a", 1]}, ["search.learning_rate", "number", "'a'"]),
        ({"learning_rate": [True, 1]}, ["search.learning_rate", "number", "True"]),
        ({"learning_rate": [1e-3]}, ["search.learning_rate", "two values"]),
        ({"learning_rate": [1e-3, 0.001]}, ["search.learning_rate", "different"]),
        ({"per_device_train_batch_size": [0, 8]}, ["search.per_device_train_batch_size", "1 or more"]),
        ({"per_device_train_batch_size": {"low": 8, "high": 16.5}}, ["whole number", "16.5"]),
        ({"lr_scheduler_type": ["linear", "cosin"]}, ["lr_scheduler_type", "cosine"]),
        ({"lr_scheduler_type": {"low": "a", "high": "b"}}, ["search.lr_scheduler_type", "no order"]),
        ({"lr_scheduler_type": ["linear", "reduce_lr_on_plateau"]}, ["reduce_lr_on_plateau"]),
        ({"label_smoothing_factor": [0, 1]}, ["search.label_smoothing_factor", "below 1"]),
        ({"max_steps": [1, 2], "num_train_epochs": [1, 2]}, ["max_steps", "num_train_epochs"]),
        ({"weight_decay": [0, 0.1]}, ["search.weight_decay", "outside of search"]),
    ],
    ids=str,
)
def test_what_cannot_be_searched(search, words):
    with pytest.raises(InputError) as error:
        parse_space(search, {"weight_decay"})
    assert not [word for word in words if word not in str(error.value)], str(error.value)


def test_each_option_that_may_be_searched_is_one_of_the_trainer():
    assert set(SEARCHED) <= {action.dest for action in Parser()._actions}


# --- A search ---


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The directory of a search of three options by the loss, and what it printed."""
    directory = tmp_path_factory.mktemp("searched")
    search = {**RATES, "per_device_train_batch_size": [2, 4], "label_smoothing_factor": [0, 0.2]}
    path = write_plan(directory, search=search, trials=4, eval_steps=1, metric_for_best_model="loss")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert tune.main([str(path)]) == 0
    return directory, printed.getvalue()


def test_the_table_has_every_trial_and_the_best_one_is_the_best(searched):
    out = searched[0] / "out"
    rows, content = rows_of(out), read(out / "trials.json")
    assert [row["trial"] for row in rows] == ["1", "2", "3", "4"] and {row["state"] for row in rows} == {"complete"}
    assert len({row["learning_rate"] for row in rows}) == 4
    assert all(1e-4 <= float(row["learning_rate"]) <= 1e-1 for row in rows)
    assert {row["per_device_train_batch_size"] for row in rows} <= {"2", "4"}
    values = [row["loss"] for row in content["trials"]]
    assert content["metric"] == "loss" and not content["greater_is_better"]
    assert len(set(values)) == 4 and content["best"] == 1 + values.index(min(values))


def test_nothing_but_the_results_stays(searched):
    out = searched[0] / "out"
    assert {path.name for path in out.iterdir()} == {
        *("study.db", "trials.csv", "trials.json", "trials.png", "best.yaml")
    }
    assert (out / "trials.png").read_bytes().startswith(PNG)


def test_a_line_for_each_trial(searched):
    printed = searched[1].splitlines()
    lines = [line for line in printed if line[0].isdigit()]
    assert [line.partition("  ")[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert all("loss" in line and "learning_rate" in line for line in lines)
    assert printed[-1].endswith("best.yaml")


def test_the_run_with_the_best_values_has_the_result_of_the_trial(searched, capsys):
    """The file is taken as it is; batches, steps and evaluations are those of the trial."""
    out = searched[0] / "out"
    assert train([str(out / "best.yaml")]) == 0
    state, best = read(out / "best" / "trainer_state.json"), read(out / "trials.json")
    (row,) = [each for each in best["trials"] if each["trial"] == best["best"]]
    assert state["best_metric"] == row["loss"]
    options = yaml.safe_load((out / "best.yaml").read_text())
    assert (out / "best.yaml").read_text().startswith("# The best of 4 complete trials: loss ")
    assert options["learning_rate"] == row["learning_rate"] and "search" not in options and "trials" not in options
    assert read(out / "best" / "config.json")["label_smoothing"] == row["label_smoothing_factor"]


def test_a_search_goes_on_until_it_has_its_trials(tmp_path, capsys):
    path = write_plan(tmp_path, trials=1)
    assert tune.main([str(path)]) == 0
    first = rows_of(tmp_path / "out")
    assert tune.main([str(path), "--trials", "3"]) == 0
    rows = rows_of(tmp_path / "out")
    assert rows[0] == first[0] and len(rows) == 3 and len({row["learning_rate"] for row in rows}) == 3
    assert "1 of 3 trials are done" in capsys.readouterr().out
    # Nothing is left to do.
    assert tune.main([str(path), "--trials", "3"]) == 0
    assert rows_of(tmp_path / "out") == rows


@pytest.mark.parametrize("name", ["a b", "a%20b", "a?b", "a?x=1", "a#b", "가@b:c"])
def test_a_study_is_in_its_directory_whatever_that_is_called(name, tmp_path):
    """What follows a question mark was lost, and %20 was a space: the file was in another directory."""
    directory = tmp_path / name
    directory.mkdir()
    Study(directory, parse_space(RATES, ()), "loss", False, 1, 0)
    assert [path.name for path in directory.iterdir()] == ["study.db"] and len([*tmp_path.iterdir()]) == 1


@contextlib.contextmanager
def killed_at(step):
    """Inside, SIGTERM comes at this step of training, of all trials together."""
    steps, original = [], BlendTrainer.training_step

    def kill(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == step:
            signal.raise_signal(signal.SIGTERM)
        return original(self, *args, **kwargs)

    with mock.patch.object(BlendTrainer, "training_step", kill):
        yield


def test_a_search_that_was_killed_goes_on(tmp_path, capsys):
    """The trial that was running is not counted, and another one takes its place and its number."""
    path = write_plan(tmp_path, trials=2)
    with killed_at(6):
        assert tune.main([str(path)]) == 128 + signal.SIGTERM
    assert tune.main([str(path)]) == 0
    rows = [(row["trial"], row["state"]) for row in rows_of(tmp_path / "out")]
    assert rows == [("1", "complete"), ("", "interrupted"), ("2", "complete")]
    assert [line[:3] for line in capsys.readouterr().out.splitlines() if "/2  " in line] == ["1/2", "2/2"]
    assert (tmp_path / "out" / "best.yaml").read_text().startswith("# The best of 2 complete trials")


def test_each_combination_of_lists_is_tried_once(tmp_path, capsys):
    """Also that of a trial that was interrupted."""
    search = {"per_device_train_batch_size": [2, 4], "learning_rate": [1e-3, 1e-2]}
    path = write_plan(tmp_path, search=search, trials=9)
    with killed_at(6):
        assert tune.main([str(path)]) == 128 + signal.SIGTERM
    assert tune.main([str(path)]) == 0
    assert "search: has 4 combinations of values, so there are 4 trials" in capsys.readouterr().out
    rows = [row for row in rows_of(tmp_path / "out") if row["state"] == "complete"]
    tried = [(float(row["learning_rate"]), int(row["per_device_train_batch_size"])) for row in rows]
    assert len(tried) == 4 and set(tried) == {(1e-3, 2), (1e-3, 4), (1e-2, 2), (1e-2, 4)}


def test_a_trial_that_diverges_counts_without_a_result(tmp_path, capsys, monkeypatch):
    original, trials = BlendTrainer.training_step, []

    def diverge(self, *args, **kwargs):
        loss = original(self, *args, **kwargs)
        if self.state.global_step == 0:
            trials.append(1)
        if len(trials) == 1:
            raise NotFinite("step 1: the loss is nan")
        return loss

    monkeypatch.setattr(BlendTrainer, "training_step", diverge)
    assert tune.main([str(write_plan(tmp_path))]) == 0
    assert [row["state"] for row in rows_of(tmp_path / "out")] == ["diverged", "complete"]
    assert "1/2  diverged  learning_rate" in capsys.readouterr().out


def test_a_higher_accuracy_is_better(tmp_path):
    path = write_plan(tmp_path, trials=3, eval_steps=1)
    assert tune.main([str(path)]) == 0
    content = read(tmp_path / "out" / "trials.json")
    values = [row["accuracy"] for row in content["trials"]]
    assert content["greater_is_better"] and len(set(values)) > 1
    # The first of equal ones.
    assert content["best"] == 1 + values.index(max(values))


def test_a_trial_worse_than_the_median_is_stopped_early(tmp_path, monkeypatch):
    """Not before five others are complete, and not in the warm-up, in which a trial says little."""

    class Worse(tune.Objective):
        """Each trial is worse than the one before."""

        trials = 0

        def __call__(self, metrics):
            if self.value is None:
                self.value = Worse.trials = Worse.trials + 1
            return self.value

    monkeypatch.setattr(tune, "Objective", Worse)
    options = {"metric_for_best_model": "loss", "warmup_steps": 3, "max_steps": 5, "eval_steps": 1}
    assert tune.main([str(write_plan(tmp_path, trials=6, **options))]) == 0
    assert [row["state"] for row in rows_of(tmp_path / "out")] == [*["complete"] * 5, "stopped early"]
    storage = f"sqlite:///{tmp_path / 'out' / 'study.db'}"
    reported = import_optuna().load_study(study_name=NAME, storage=storage).trials[-1].intermediate_values
    assert list(reported) == [1, 2, 3]


@pytest.mark.parametrize(
    ("warm_up", "step"),
    [({}, 4), ({"warmup_steps": 7}, 7), ({"search": {"warmup_steps": [0, 0.6]}}, 6)],
    ids=["none", "given", "searched"],
)
def test_a_third_of_the_steps_and_the_longest_warm_up_are_waited_for(warm_up, step, tmp_path):
    options = {"max_steps": 10, "lr_scheduler_type": "linear", **({"warmup_steps": 0, **warm_up})}
    if "search" in warm_up:
        del options["warmup_steps"]
    plan = tune.read_plan([str(write_plan(tmp_path, **options))])
    with contextlib.ExitStack() as stack:
        assert first_stop(tune.prepare_trials(plan, stack).trainer, plan.space) == step


@pytest.mark.parametrize("flags", [["--quiet", "true"], []], ids=["flag", "file"])
def test_a_quiet_search_prints_its_result(flags, tmp_path, capsys):
    assert tune.main([str(write_plan(tmp_path, trials=1, quiet=not flags)), *flags]) == 0
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert line.startswith("best: accuracy ") and "learning_rate" in line and not printed.err


def test_with_the_last_model_the_last_evaluation_counts():
    best, last = (tune.Objective("accuracy", True, keeps_last) for keeps_last in (False, True))
    for value in (0.5, 0.9, 0.7):
        found = [objective({"eval_accuracy": value}) for objective in (best, last)]
    assert found == [0.9, 0.7]
    assert [tune.Objective("loss", False, False)({"eval_loss": value}) for value in (2, 1)] == [2, 1]


def test_no_trial_has_the_result_of_the_untrained_model(tmp_path):
    """With --eval_on_start a trial that spoilt the model had the loss from before, and was the best."""
    search = {"learning_rate": [1.0, 2.0]}
    options = {"eval_steps": 1, "max_steps": 2, "eval_on_start": True, "metric_for_best_model": "loss"}
    assert tune.main([str(write_plan(tmp_path, search=search, trials=1, **options))]) == 0
    (row,) = rows_of(tmp_path / "out")
    assert train([str(tmp_path / "out" / "best.yaml")]) == 0
    assert read(tmp_path / "out" / "best" / "trainer_state.json")["best_metric"] == float(row["loss"]) > 1


@pytest.mark.parametrize("strategy", [{"eval_steps": 3}, {"eval_strategy": "epoch", "max_steps": None}], ids=str)
def test_the_last_evaluation_is_of_the_final_model(strategy, tmp_path, monkeypatch):
    """Also where evaluations do not divide the run."""
    steps, original = [], BlendTrainer.evaluate

    def spy(self, *args, **kwargs):
        steps.append((self.state.global_step, self.state.max_steps))
        return original(self, *args, **kwargs)

    monkeypatch.setattr(BlendTrainer, "evaluate", spy)
    options = {"save_strategy": False, "num_train_epochs": 2.5, "per_device_train_batch_size": 2, **strategy}
    assert tune.main([str(write_plan(tmp_path, trials=1, **options))]) == 0
    assert steps[-1][0] == steps[-1][1] > steps[-2][0]


def test_without_optuna_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert tune.main([str(write_plan(tmp_path))]) == 2
    assert "needs optuna; pip install -c constraints.txt '.[tune]'" in capsys.readouterr().err


def test_trials_draw_their_values_from_the_space_of_the_file():
    search = {
        "learning_rate": {"low": "1e-4", "high": 0.1, "log": True},
        "weight_decay": {"low": 0, "high": 0.3, "step": 0.1},
        "num_train_epochs": {"low": 1, "high": 4},
        "per_device_train_batch_size": {"low": 4, "high": 32, "step": 4},
        "gradient_accumulation_steps": {"low": 1, "high": 8, "log": True},
        "label_smoothing_factor": [0, 0.1],
    }
    optuna = import_optuna()
    trial, space = optuna.create_study().ask(), parse_space(search, ())
    values = {name: part.suggest(trial, name) for name, part in space.items()}
    of = optuna.distributions
    assert trial.params == values and trial.distributions == {
        "learning_rate": of.FloatDistribution(1e-4, 0.1, log=True),
        "weight_decay": of.FloatDistribution(0, 0.3, step=0.1),
        "num_train_epochs": of.FloatDistribution(1, 4),
        "per_device_train_batch_size": of.IntDistribution(4, 32, step=4),
        "gradient_accumulation_steps": of.IntDistribution(1, 8, log=True),
        "label_smoothing_factor": of.CategoricalDistribution((0, 0.1)),
    }


def test_a_picture_of_any_number_of_options(tmp_path, monkeypatch):
    """A panel for the trials and one for each option; in each the complete trials, and the best one as a star."""
    figures = []

    @contextlib.contextmanager
    def spy(path, **options):
        with new_figure(path, **options) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr("seqblend.tuning.picture.new_figure", spy)
    search = {"weight_decay": [0, 0.1], "max_steps": {"low": 1, "high": 9}, "adam_beta1": [0, 0.9]}
    space = parse_space({**RATES, **search}, ())
    best, other = (
        {"learning_rate": rate, "weight_decay": 0.1, "max_steps": 4, "adam_beta1": 0} for rate in (0.01, 0.1)
    )
    trials = [Trial(1, "complete", 0.4, 1.0, other), Trial(2, "diverged", None, 1.0, other)]
    trials += [Trial(None, "interrupted", None, None, other), Trial(3, "complete", 0.5, 1.0, best)]
    # The values of a list are at its indices.
    places = {"trial": [1, 3], "learning rate": [0.1, 0.01], "weight decay": [1, 1], "max steps": [4, 4]}
    places["adam beta1"] = [0, 0]
    for count in range(1, 5):
        part = {name: space[name] for name in list(space)[:count]}
        path = tmp_path / f"{count}.png"
        draw_trials(trials, part, trials[-1], path, metric="f1", greater_is_better=True)
        assert path.read_bytes().startswith(PNG)
        axes = figures[-1].axes
        assert [each.get_xlabel() for each in axes] == list(places)[: 1 + count]
        for each in axes:
            points, star = ([tuple(point) for point in part.get_offsets()] for part in each.collections)
            x = places[each.get_xlabel()]
            assert points == list(zip(x, [0.4, 0.5], strict=True)) and star == [(x[1], 0.5)]
        for each, searched in zip(axes[1:], part.values(), strict=True):
            low, high = each.get_xlim()
            if isinstance(searched, Choice):
                labels = [label.get_text() for label in each.get_xticklabels()]
                assert labels == list(map(str, searched.values)) and (low, high) == (-0.5, len(labels) - 0.5)
            else:
                assert low < searched.low < searched.high < high < 2 * searched.high
                middle = (searched.low * searched.high) ** 0.5 if searched.log else (searched.low + searched.high) / 2
                assert each.get_xticks().tolist() == pytest.approx([searched.low, middle, searched.high])
                assert each.get_xscale() == ("log" if searched.log else "linear")
    assert [line.get_ydata().tolist() for line in figures[-1].axes[0].lines] == [[0.4, 0.5]]
    draw_trials(trials, part, trials[0], path, metric="loss", greater_is_better=False)
    assert [line.get_ydata().tolist() for line in figures[-1].axes[0].lines] == [[0.4, 0.4]]
    assert "Trial 1 is the best, 0.4; lower is better." in figures.pop().texts[1].get_text()
    assert "Trial 3 is the best, 0.5; higher is better." in figures[-1].texts[1].get_text()


def test_a_search_in_python_has_several_trials(tmp_path):
    """transformers releases the model of a trial before the next one."""
    trainer = trainer_for(tmp_path, max_steps=1, save_strategy="no", eval_strategy="steps", eval_steps=1)
    original = copy.deepcopy(trainer.model)
    trainer.model_init = lambda: copy.deepcopy(original)
    losses = []

    def loss_of(metrics):
        losses.append(metrics["eval_loss"])
        return losses[-1]

    best = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2)},
        n_trials=2,
        backend="optuna",
        compute_objective=loss_of,
    )
    assert len(set(losses)) == 2
    assert (best.run_id, best.objective) == (str(losses.index(min(losses))), min(losses))
