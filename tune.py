"""Search for good values of options: `seqblend tune FILE.yaml [--flag value …]`; `--help` says what the file has."""

import argparse
import contextlib
import copy
import dataclasses
import signal
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers.trainer_utils import SaveStrategy

from seqblend.checkpoints.faults import IDENTITY
from seqblend.checkpoints.run_directory import traces_of_run
from seqblend.checkpoints.signals import Terminated, ending
from seqblend.checkpoints.store import NotFinite, RunError, remove
from seqblend.data.errors import InputError, describe, print_error, short_list
from seqblend.data.writing import write_atomically
from seqblend.hub_card.contents import PublishError
from seqblend.train import Job, prepare
from seqblend.training.command_line import WIDTH, flag_values, parse_arguments, read_options
from seqblend.training.progress import LogLines, only_errors, readable, start_logging
from seqblend.tuning.best import best_text, chosen_options
from seqblend.tuning.checks import check_refused, check_trials
from seqblend.tuning.space import SEARCHED, Space, count_combinations, parse_space
from seqblend.tuning.trials import BEST, FILES, PICTURE, Study, first_stop, import_optuna, options_text, trial_line

DESCRIPTION = """Search for good values of training options. The file has the options of
seqblend train and, for example:

  trials: 20
  search:
    learning_rate: {low: 1e-4, high: 3e-3, log: true}
    per_device_train_batch_size: [16, 32, 64]

The trials, their picture and best.yaml, a file for seqblend train, are written
into output_dir. The same command continues an interrupted search."""
TRIALS = 20
# A trial trains and is evaluated. Search.__init__ keeps it from saving: defaults follow from how a run is saved.
FORCED = ("--do_train=true", "--do_eval=true", "--do_predict=false", "--overwrite_output_dir=false")
# It is measured with the test split, which no trial predicts.
OF_PREDICTION = "test_unknown_file"
# What Optuna says where no trial is complete; the second is of SQLite.
NO_BEST = ("No trials are completed", "Record does not exist")


# --- The options ---


@dataclasses.dataclass(frozen=True)
class Plan:
    """A search as the user wants it.

    Args:
        path: of the file.
        options: the options of training in the file, overridden by those of the command line.
        space: what is searched.
        trials: the number of trials.
    """

    path: str
    options: dict[str, Any]
    space: Space
    trials: int


def read_plan(argv: list[str]) -> Plan:
    """Read the command line and its file. Raises InputError."""
    parser = argparse.ArgumentParser(
        "seqblend tune",
        usage="seqblend tune FILE.yaml [--trials N] [--flag value …]",
        description=DESCRIPTION,
        epilog=textwrap.fill(f"A trial may change {', '.join(SEARCHED)}.", WIDTH),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE.yaml", help="A file with options of training, and `search`.")
    parser.add_argument("--trials", type=int, help=f"Number of trials; default: that of the file, or {TRIALS}.")
    given, flags = parser.parse_known_args(argv)
    options = read_options(Path(given.file))
    search, trials = options.pop("search", None), options.pop("trials", TRIALS)
    trials = trials if given.trials is None else given.trials
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials: must be a whole number of 1 or more, but is {describe(trials)}")
    options = {name: value for name, value in {**options, **flag_values(flags)}.items() if value is not None}
    try:
        space = parse_space(search, options)
    except InputError as error:
        raise InputError(f"{given.file}: {error}") from error
    return Plan(given.file, options, space, trials)


def prepare_trials(plan: Plan, stack: contextlib.ExitStack) -> Job:
    """The run that the trials repeat. Raises InputError, PublishError or OSError as `prepare`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "options.yaml")
        options = {name: value for name, value in plan.options.items() if name != OF_PREDICTION}
        path.write_text(yaml.safe_dump(options), encoding="utf-8")
        try:
            args = parse_arguments([str(path)])[-1]
            check_refused(args)
            if found := [path.name for path in traces_of_run(args.output_dir)]:
                holds = f"holds a run of seqblend train ({short_list(found)})"
                raise InputError(f"output_dir: {args.output_dir} {holds}; give another directory")
            job = prepare([str(path), *FORCED], stack)
        except InputError as error:
            raise InputError(str(error).replace(str(path), plan.path)) from error
    check_trials(plan.space, job.trainer)
    # Only now, when the search can start, and no other process is in output_dir.
    for name in FILES if args.overwrite_output_dir else ():
        Path(args.output_dir, name).unlink(missing_ok=True)
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
        self.objective = Objective(metric, args.greater_is_better, keeps_last=not args.load_best_model_at_end)
        args.save_strategy, args.load_best_model_at_end = SaveStrategy.NO, False
        # The untrained model is none that a run may keep.
        args.eval_on_start = False
        stop = first_stop(self.trainer, plan.space)
        self.study = Study(self.directory, plan.space, metric, args.greater_is_better, stop, args.seed)
        self.study.check(self.trainer.collect_facts(), "last" if self.objective.keeps_last else "best")
        self.chosen = chosen_options(args, {*plan.options, *plan.space})
        # Each trial begins with the model as it is now.
        model = copy.deepcopy(self.trainer.model).cpu()
        self.trainer.model_init = lambda: copy.deepcopy(model)
        self.trainer.remove_callback(LogLines)

    def values_of(self, trial: Any) -> dict[str, Any]:
        """The values of a trial, with which it begins; transformers has made its model, and sets the options."""
        self.objective.value = None
        values = {name: part.suggest(trial, name) for name, part in self.plan.space.items()}
        if "label_smoothing_factor" in values:
            # It is a field of the configuration, as in seqblend train.
            self.trainer.model.config.label_smoothing = values.pop("label_smoothing_factor")
        return values

    def run(self) -> None:
        """Run the trials that are left, and write the results after each."""
        self.study.end_interrupted()
        combinations = count_combinations(self.plan.space)
        total = int(min(self.plan.trials, combinations))
        if total < self.plan.trials:
            self.tell(f"search: has {total} combinations of values, so there are {total} trials")
        done = sum(each.is_done for each in self.study.trials())
        if done:
            self.tell(f"{done} of {total} trials are done")
        for _ in range(done, total):
            if total == combinations:
                self.study.choose_untried()
            self.run_trial()
            self.write()
            self.tell(trial_line(self.study.trials()[-1], total, self.study.metric, self.study.best()))
        best = self.study.best()
        if best is None:
            raise RunError(f"no trial is complete; {self.directory / 'trials.csv'} says what was tried")
        self.write()
        print(f"best: {self.study.metric} {readable(best.value)}, {options_text(best)}", flush=True)
        self.tell(f"train with it: seqblend train {self.directory / BEST}")

    def tell(self, line: str) -> None:
        """Print a line, unless the search is quiet."""
        if not self.trainer.args.quiet:
            print(line, flush=True)

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
        write_atomically(self.directory / BEST, best_text(self.study, {**self.plan.options, **self.chosen}))


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
