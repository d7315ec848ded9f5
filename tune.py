"""Search good values of options: `seqblend tune FILE.yaml [--flag value …]`; `--help` says what the file has."""

import argparse
import contextlib
import copy
import dataclasses
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel

from seqblend.checkpoints.faults import IDENTITY
from seqblend.checkpoints.signals import Terminated, ending
from seqblend.checkpoints.store import NotFinite, RunError, remove
from seqblend.data.errors import InputError, describe, print_error
from seqblend.data.writing import write_atomically
from seqblend.hub_card.contents import PublishError
from seqblend.train import Job, prepare
from seqblend.training.command_line import parse_arguments, read_options
from seqblend.training.progress import LogLines, minutes, only_errors, readable, start_logging
from seqblend.tuning.space import SEARCHED, Space, parse_space
from seqblend.tuning.trials import BEST, FILES, PICTURE, Study, Trial, import_optuna

DESCRIPTION = """Search good values of options of training. The file has the options of seqblend
train and, for example:

  trials: 20
  search:
    learning_rate: {low: 1e-4, high: 3e-3, log: true}
    per_device_train_batch_size: [16, 32, 64]

The trials, their picture and best.yaml, a file for seqblend train, are written into
output_dir. The same command goes on with a search that was interrupted."""
TRIALS = 20
# Options that a search does not have, and why.
REFUSED = {
    "early_stopping_patience": "a search stops bad trials itself",
    "average_checkpoints": "a trial has no checkpoints",
    "resume": "the same command goes on with a search",
    "resume_from_checkpoint": "the same command goes on with a search",
    "push_to_hub": "a search keeps no model; give it to seqblend train with best.yaml",
    "push_original": "a search keeps no model; give it to seqblend train with best.yaml",
    "save_original": "a search keeps no model; give it to seqblend train with best.yaml",
}
# A trial keeps no model, trains, and is evaluated.
FORCED = {"save_strategy": "no", "load_best_model_at_end": "false", "overwrite_output_dir": "false"}
FORCED |= {"do_train": "true", "do_eval": "true", "do_predict": "false"}
# Options that were chosen for the trials, and must be the same in the run with the best values.
KEPT = ("num_train_epochs", "per_device_train_batch_size", "learning_rate", "lr_scheduler_type", "warmup_steps")
KEPT += ("weight_decay", "metric_for_best_model", "eval_strategy", "eval_steps")
# What Optuna says where no trial is complete; the second is of SQLite.
NO_BEST = ("No trials are completed", "Record does not exist")


# --- The options ---


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search as the user wants it.

    Args:
        path: of the file.
        options: the options of training in the file.
        flags: those of the command line, which override the file.
        space: what is searched.
        trials: the number of trials.
    """

    path: str
    options: dict[str, Any]
    flags: list[str]
    space: Space
    trials: int


def read_plan(argv: list[str]) -> Plan:
    """Read the command line and its file. Raises InputError."""
    parser = argparse.ArgumentParser(
        "seqblend tune",
        usage="seqblend tune FILE.yaml [--trials N] [--flag value …]",
        description=DESCRIPTION,
        epilog=f"A trial may change {', '.join(SEARCHED)}.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE.yaml", help="Options of training, and `search`.")
    parser.add_argument("--trials", type=int, help=f"Number of trials; default: that of the file, or {TRIALS}.")
    given, flags = parser.parse_known_args(argv)
    options = read_options(Path(given.file))
    search, trials = options.pop("search", None), options.pop("trials", TRIALS)
    trials = trials if given.trials is None else given.trials
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials: must be a whole number of 1 or more, but is {describe(trials)}")
    names = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in flags if word.startswith("--")}
    names |= {name for name, value in options.items() if value is not None}
    try:
        space = parse_space(search, names)
    except InputError as error:
        raise InputError(f"{given.file}: {error}") from error
    for name, reason in REFUSED.items():
        if name in names and options.get(name) is not False:
            raise InputError(f"{name}: {reason}")
    return Plan(given.file, options, flags, space, trials)


def prepare_trials(plan: Plan, stack: contextlib.ExitStack) -> Job:
    """The run that the trials repeat. Raises InputError, PublishError or OSError as `prepare`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "options.yaml")
        path.write_text(yaml.safe_dump(plan.options), encoding="utf-8")
        words = [str(path), *plan.flags]
        try:
            args = parse_arguments(words)[-1]
            if args.overwrite_output_dir:
                for name in FILES:
                    Path(args.output_dir, name).unlink(missing_ok=True)
            job = prepare([*words, *(f"--{name}={value}" for name, value in FORCED.items())], stack)
        except InputError as error:
            raise InputError(str(error).replace(str(path), plan.path)) from error
    if job.trainer.args.eval_strategy == "no" or job.trainer.args.metric_for_best_model is None:
        raise InputError("eval_strategy: a search compares evaluations of a validation split")
    if job.trainer.args.world_size > 1:
        raise InputError("tune: a search runs in one process; several would each make their own trials")
    return job


# --- The search ---


class Objective:
    """The metric of a trial: of its best evaluation, or of its last one if a run keeps its last model.

    Args:
        metric: its name, without the prefix of the split.
        greater_is_better: whether higher values are better.
        keeps_last: whether the last evaluation counts.
    """

    def __init__(self, metric: str, greater_is_better: bool, keeps_last: bool):
        self.name, self.choose, self.keeps_last = f"eval_{metric}", max if greater_is_better else min, keeps_last
        self.value: float | None = None

    def __call__(self, metrics: dict[str, float]) -> float:
        """The value after an evaluation."""
        now = metrics[self.name]
        self.value = now if self.keeps_last or self.value is None else self.choose(now, self.value)
        return self.value


class Search:
    """A search: trials of a run, one after the other.

    Args:
        plan: the search as the user wants it.
        job: the run.

    Raises:
        InputError: Optuna is missing, or output_dir holds another search.
    """

    def __init__(self, plan: Plan, job: Job):
        self.plan, self.trainer, args = plan, job.trainer, job.trainer.args
        self.directory = Path(args.output_dir)
        self.directory.mkdir(parents=True, exist_ok=True)
        metric = args.metric_for_best_model.removeprefix("eval_")
        for name in plan.space:
            # transformers converts values to the type of the value before, which may be a whole number.
            if SEARCHED[name] is float:
                setattr(args, name, float(getattr(args, name)))
        keeps_last = plan.options.get("save_strategy") in ("no", False)
        keeps_last = keeps_last or plan.options.get("load_best_model_at_end") is False
        self.objective = Objective(metric, args.greater_is_better, keeps_last)
        self.study = Study(self.directory, plan.space, metric, args.greater_is_better, args.seed)
        self.study.check(self.trainer.collect_facts())
        names = [name for name in KEPT if name in (args.default_options or ()) and name not in plan.space]
        self.chosen = {name: plain(getattr(args, name)) for name in names}
        self.model = copy.deepcopy(self.trainer.model).cpu()
        self.trainer.model_init = self.new_model
        self.trainer.remove_callback(LogLines)

    def new_model(self) -> PreTrainedModel:
        """The model as it was before the first trial; label smoothing is a field of its configuration."""
        model = copy.deepcopy(self.model)
        if "label_smoothing_factor" in self.plan.space:
            args = self.trainer.args
            model.config.label_smoothing, args.label_smoothing_factor = args.label_smoothing_factor, 0.0
        return model

    def values_of(self, trial: Any) -> dict[str, Any]:
        """The values of a trial, with which it begins."""
        self.objective.value = None
        return {name: part.suggest(trial, name) for name, part in self.plan.space.items()}

    def run(self) -> None:
        """Run the trials that are left, and write the results after each."""
        self.study.end_interrupted()
        done = sum(each.is_done for each in self.study.trials())
        if done:
            print(f"{done} of {self.plan.trials} trials are done", flush=True)
        for number in range(done, self.plan.trials):
            self.run_trial()
            self.write()
            trials, best = self.study.trials(), self.study.best()
            print(trial_line(trials[-1], number + 1, self.plan.trials, self.study.metric, best), flush=True)
        best = self.study.best()
        if best is None:
            raise RunError(f"no trial is complete; {self.directory / 'trials.csv'} says what was tried")
        self.write()
        print(f"best: {self.study.metric} {readable(best.value)}, {options_text(best)}")
        print(f"train with it: seqblend train {self.directory / BEST}", flush=True)

    def run_trial(self) -> None:
        """Run one trial."""
        try:
            with only_errors():
                self.trainer.hyperparameter_search(
                    hp_space=self.values_of,
                    compute_objective=self.objective,
                    n_trials=1,
                    direction=self.study.direction,
                    backend="optuna",
                    catch=(NotFinite, torch.OutOfMemoryError),
                    **self.study.arguments,
                )
        except ValueError as error:
            # Of Optuna, which looks for the best trial, and none is complete yet.
            if not any(text in str(error) for text in NO_BEST):
                raise
        finally:
            self.remove_leftovers()
        last = self.study.study.get_trials(deepcopy=False)[-1]
        if last.state == self.study.optuna.trial.TrialState.FAIL:
            self.study.mark_diverged()

    def remove_leftovers(self) -> None:
        """Remove what trials leave in output_dir: batches whose loss is not finite, facts of the run."""
        for path in (*self.directory.glob("not-finite-*.pt"), self.directory / IDENTITY):
            remove(path)

    def write(self) -> None:
        """Write the table, and, if a trial is complete, the picture and best.yaml."""
        self.study.write_tables()
        best = self.study.best()
        if best is None:
            return
        from seqblend.tuning.picture import draw_trials

        names = {"metric": self.study.metric, "greater_is_better": self.study.greater_is_better}
        draw_trials(self.study.trials(), self.plan.space, best, self.directory / PICTURE, **names)
        head = f"# The best of {len(self.study.trials())} trials: {self.study.metric} {readable(best.value)}.\n"
        options = {**self.best_options(best), "output_dir": str(self.directory / "best")}
        text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
        write_atomically(self.directory / BEST, head + text)

    def best_options(self, best: Trial) -> dict[str, Any]:
        """The options of a run with the best values: of the file, of the flags, chosen, and searched."""
        found = {name: value for name, value in self.plan.options.items() if value is not None}
        flags = [word for word in self.plan.flags if word.startswith("--")]
        names = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in flags}
        parsed = parse_arguments(["--output_dir", str(self.directory), *self.plan.flags]) if names else ()
        for kind in parsed:
            found |= {name: plain(value) for name, value in vars(kind).items() if name in names}
        found.pop("overwrite_output_dir", None)
        return {**found, **self.chosen, **best.options}


def plain(value: Any) -> Any:
    """A value of an option as YAML has it."""
    return value.value if isinstance(value, Enum) else value


def trial_line(trial: Trial, number: int, total: int, metric: str, best: Trial | None) -> str:
    """A line about a trial that has ended."""
    result = trial.state if trial.value is None else f"{metric} {readable(trial.value)}"
    time = "" if trial.seconds is None else f"  {minutes(trial.seconds)}"
    is_best = best is not None and best.number == trial.number
    return f"{number:>{len(str(total))}}/{total}  {result}  {options_text(trial)}{time}{'  best' * is_best}"


def options_text(trial: Trial) -> str:
    """The values of a trial, by the names of their options."""
    return "  ".join(f"{name} {readable(value)}" for name, value in trial.options.items())


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM end the trial at once: it is made again, so there is nothing to save."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGINT, signal.SIGTERM) if is_main else ()
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code: 0; 1 if the search could not continue; 2 if the input is wrong; 130 after Ctrl-C and 143 after
        SIGTERM, after which the same command goes on.
    """
    start_logging()
    with contextlib.ExitStack() as stack:
        try:
            plan = read_plan(sys.argv[1:] if argv is None else argv)
            import_optuna()
            with interruptible():
                Search(plan, prepare_trials(plan, stack)).run()
        except (InputError, PublishError) as error:
            return print_error(error)
        except (RunError, OSError) as error:
            return print_error(error, 1)
        except (KeyboardInterrupt, Terminated) as error:
            name, code = ending(error)
            print(f"{name}: the trial is lost; the same command goes on with the search", file=sys.stderr)
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
