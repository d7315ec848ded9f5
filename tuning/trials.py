"""The trials of a search: a study of Optuna in SQLite, and their table as CSV and JSON."""

import csv
import io
import itertools
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.identity import FREE, LENGTH, Facts, changes_of
from ..data.errors import InputError
from ..data.writing import write_atomically
from ..training.progress import minutes, readable
from ..training.trainer import BlendTrainer
from .checks import given
from .space import OF_STEPS, Space, as_object

STUDY, TABLES, PICTURE, BEST = "study.db", ("trials.csv", "trials.json"), "trials.png", "best.yaml"
FILES = (STUDY, *TABLES, PICTURE, BEST)
# The name of the study in its file, and its attributes.
NAME, OPTIONS, DIVERGED = "seqblend", "options", "diverged"
# Facts that may change between two starts of a search: what is not evaluated differently.
MAY_CHANGE = FREE - {*LENGTH, "eval_strategy", "eval_steps", "predict_with_generate", "generation_num_beams"}
# What Optuna calls the states of a trial, and what the table does.
INTERRUPTED = "interrupted"
STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": INTERRUPTED, "RUNNING": INTERRUPTED}


@dataclass(frozen=True)
class Trial:
    """A trial.

    Args:
        number: from 1; None if it was interrupted, because another one takes its place.
        state: complete, stopped early, diverged or interrupted.
        value: the metric; None if there is none.
        seconds: that it took; None if it has not ended.
        options: the values that it tried.
    """

    number: int | None
    state: str
    value: float | None
    seconds: float | None
    options: dict[str, Any]

    @property
    def is_done(self) -> bool:
        """Whether the trial is not to be replaced by another one."""
        return self.number is not None


class Study:
    """A study of Optuna in a directory.

    Args:
        directory: of the search.
        space: what is searched.
        metric: that is compared.
        greater_is_better: whether higher values of it are better.
        first_stop: the step from which on a bad trial may be stopped.
        seed: of the sampler.

    Raises:
        InputError: Optuna is not installed, or the file of the study cannot be read.
    """

    def __init__(
        self, directory: Path, space: Space, metric: str, greater_is_better: bool, first_stop: int, seed: int
    ):
        self.optuna = import_optuna()
        # Optuna needs it.
        from sqlalchemy import URL

        self.directory, self.space, self.metric = directory, space, metric
        self.greater_is_better, self.seed = greater_is_better, seed
        # A path may have characters with a meaning in a URL.
        storage = URL.create("sqlite", database=str(directory / STUDY)).render_as_string()
        sampler = self.optuna.samplers.TPESampler
        # Trials with another number of steps cannot be compared before their ends.
        pruners = self.optuna.pruners
        pruner = pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=first_stop)
        if OF_STEPS & space.keys():
            pruner = pruners.NopPruner()
        self.arguments = {"storage": storage, "study_name": NAME, "load_if_exists": True, "pruner": pruner}
        direction = "maximize" if greater_is_better else "minimize"
        try:
            self.study = self.optuna.create_study(direction=direction, **self.arguments)
        except Exception as error:  # SQLAlchemy and Optuna raise their own
            raise InputError(f"output_dir: {directory / STUDY} cannot be read ({error})") from error
        self.direction = direction
        # Another start must not draw the same values again.
        self.arguments["sampler"] = sampler(seed=seed + len(self.study.trials))

    def check(self, facts: Facts, counted: str) -> None:
        """Record the options of the search, and which evaluation of a trial counts, `best` or `last`.

        Raises:
            InputError: the trials in the file had others.
        """
        fixed = {name: value for name, value in facts.items() if name not in self.space}
        compared = {"metric": self.metric, "counted_evaluation": counted, "search": as_object(self.space)}
        now = json.loads(json.dumps({**fixed, **compared}))
        before = self.study.user_attrs.get(OPTIONS)
        if before is None:
            self.study.set_user_attr(OPTIONS, now)
            return
        changes = [each for each in changes_of(before, now) if each.name not in MAY_CHANGE]
        if changes:
            raise InputError(
                f"output_dir: {self.directory} holds a search with other options: {'; '.join(map(str, changes))}. "
                "Give another directory, or --overwrite_output_dir true"
            )

    def trials(self) -> list[Trial]:
        """All trials, in their order."""
        diverged = self.study.user_attrs.get(DIVERGED, [])
        found: list[Trial] = []
        numbers = itertools.count(1)
        for each in self.study.get_trials(deepcopy=False):
            state = "diverged" if each.number in diverged else STATES.get(each.state.name, INTERRUPTED)
            seconds = each.duration.total_seconds() if each.duration is not None else None
            value = each.value if state == "complete" else None
            number = None if state == INTERRUPTED else next(numbers)
            found.append(Trial(number, state, value, seconds, dict(each.params)))
        return found

    def best(self) -> Trial | None:
        """The best complete trial; the first of equal ones."""
        complete = [each for each in self.trials() if each.value is not None]
        sign = -1 if self.greater_is_better else 1
        return min(complete, key=lambda each: sign * each.value, default=None)

    def mark_diverged(self) -> None:
        """Mark the last trial as one whose values cannot be trained with."""
        marked = self.study.user_attrs.get(DIVERGED, [])
        self.study.set_user_attr(DIVERGED, [*marked, self.study.get_trials(deepcopy=False)[-1].number])

    def choose_untried(self) -> None:
        """Let the next trial try a combination of values that no trial has tried; the space has lists only."""
        trials = self.study.get_trials(deepcopy=False)
        if any(each.state == self.optuna.trial.TrialState.WAITING for each in trials):
            # Chosen by a process that was killed before the trial began.
            return
        tried = [each.options for each in self.trials() if each.is_done]
        every = itertools.product(*(part.values for part in self.space.values()))
        left = [each for each in (dict(zip(self.space, values, strict=True)) for values in every) if each not in tried]
        self.study.enqueue_trial(random.Random(self.seed + len(tried)).choice(left))

    def end_interrupted(self) -> None:
        """End the trials of a process that was killed."""
        for each in self.study.get_trials(deepcopy=False):
            if each.state == self.optuna.trial.TrialState.RUNNING:
                self.study.tell(each.number, state=self.optuna.trial.TrialState.FAIL)

    def write_tables(self) -> None:
        """Write trials.csv and trials.json."""
        rows = [
            {"trial": each.number, "state": each.state, self.metric: each.value, "seconds": each.seconds}
            | {name: each.options.get(name) for name in self.space}
            for each in self.trials()
        ]
        text = io.StringIO()
        table = csv.DictWriter(text, ["trial", "state", self.metric, "seconds", *self.space])
        table.writeheader()
        table.writerows(rows)
        best = self.best()
        content = {
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "search": as_object(self.space),
            "best": None if best is None else best.number,
            "trials": rows,
        }
        for name, each in zip(TABLES, (text.getvalue(), json.dumps(content, indent=1) + "\n"), strict=True):
            write_atomically(self.directory / name, each)


def trial_line(trial: Trial, total: int, metric: str, best: Trial | None) -> str:
    """A line about a trial that has ended."""
    result = trial.state if trial.value is None else f"{metric} {readable(trial.value)}"
    time = "" if trial.seconds is None else f"  {minutes(trial.seconds)}"
    is_best = best is not None and best.number == trial.number
    return f"{trial.number:>{len(str(total))}}/{total}  {result}  {options_text(trial)}{time}{'  best' * is_best}"


def options_text(trial: Trial) -> str:
    """The values of a trial, by the names of their options."""
    return "  ".join(f"{name} {readable(value)}" for name, value in trial.options.items())


def first_stop(trainer: BlendTrainer, space: Space) -> int:
    """The step from which on a bad trial may be stopped: after the longest warm-up, and a third of the steps."""
    args = trainer.args
    steps = trainer.set_initial_training_values(args, trainer.get_train_dataloader())[-1]
    found = [math.ceil(steps / 3)]
    for value in space["warmup_steps"].values if "warmup_steps" in space else (args.warmup_steps,):
        with given(args, {"warmup_steps": value}):
            found.append(args.get_warmup_steps(steps))
    return max(found)


def import_optuna() -> Any:
    """The package optuna. Raises InputError that says how to install it."""
    try:
        import optuna
        import sqlalchemy  # noqa: F401 - Optuna imports it where the study is opened
    except ImportError as error:
        raise InputError(f"tune: needs {error.name}; pip install -c constraints.txt '.[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
