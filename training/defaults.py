"""Defaults of a training, by its situation: what is trained, on how much data, and what can be evaluated.

Every number is in the tables below. What the user gives always wins, and a resumed run keeps the values of its
beginning. `Defaults` collects the choices, with their reasons, for one table in the log. The
defaults of a new model and its tokenizer are in model_defaults.py.
"""

import logging
import math
import textwrap
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PretrainedConfig
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, has_length

from ..checkpoints.identity import FREE, METRIC, WAITING, Facts, read_defaults
from ..checkpoints.store import checkpoints_in
from ..data.errors import InputError
from ..data.streams import RowStream
from ..tasks.base import Task
from ..tasks.encoding import Settings, count_tokens
from ..tasks.models import part_configs
from ..tasks.splits import EncodedSplit, has_targets
from .arguments import CHOSEN, BlendTrainingArguments, ModelArguments
from .checks import check_stopping
from .run_options import set_metric_direction

logger = logging.getLogger(__name__)

# --- The numbers ---


class Start(NamedTuple):
    """The defaults of a situation.

    Args:
        name: for the log.
        learning_rate: for a model whose hidden_size is `width`.
        width: see above.
        power: of width / hidden_size, by which learning_rate is multiplied. With Adam the best learning rate of a new
            model is inversely proportional to the width (Yang et al. 2021, "Tensor Programs V").
        most: the highest learning rate, of narrow models.
        schedule: lr_scheduler_type; None is transformers' default, linear.
        weight_decay: None is transformers' default, 0.
        epochs: the lowest and the highest number of epochs.
        steps: about the number of steps of a run; the epochs follow from it, within their limits.
    """

    name: str
    learning_rate: float
    width: int
    power: int
    most: float
    schedule: str | None
    weight_decay: float | None
    epochs: tuple[int, int]
    steps: int


FROM_SCRATCH = Start("from scratch", 2e-3, 192, 1, 2e-3, "cosine", 0.1, (3, 50), 3000)
# Published rates fall faster than the width: ELECTRA-small, 256 wide, has 3e-4 (Clark et al. 2020), BERT, 768 wide, at
# most 5e-5 (Devlin et al. 2019). MiniLM with 384 was best with 2e-4, in 5 epochs, on three of our data sets.
FINE_TUNING = Start("for fine-tuning", 5e-5, 768, 2, 5e-4, None, None, (3, 5), 3000)
# With AdamW T5 needs higher rates, 1e-4 to 3e-4 in all sizes, as the documentation of transformers says.
FINE_TUNING_T5 = FINE_TUNING._replace(learning_rate=2e-4, power=1, most=1e-3)
T5 = ("t5", "mt5", "umt5")
# Adapters need about ten times the learning rate (Schulman et al. 2025, "LoRA Without Regret").
LORA_FACTOR = 10
# Part of the steps in which the learning rate rises (Devlin et al. 2019).
WARMUP = 0.1
# Schedules without a warm-up.
UNWARMED = (*WAITING, "constant")

# From scratch: the rows of a batch; it is halved as long as it has more tokens on average, and, down to LEAST_ROWS, as
# long as an epoch has fewer steps.
ROWS, BATCH_TOKENS, LEAST_ROWS, EPOCH_STEPS = 32, 8192, 8, 50
# In fine-tuning: about so many texts of a packed data set form a batch.
DOCUMENTS = 32

# The lines of the log in a run; a tracker gets a point every so many steps at least.
LOG_LINES, TRACKED_STEPS = 20, 500
# A run is evaluated and saved once an epoch; more often if it had fewer evaluations, or more steps between them.
EVALUATIONS, MOST_STEPS = 5, 2000
# Checkpoints that stay: if the last one is damaged, a run is resumed from the one before.
KEPT = 2


# --- The choices ---


class Choice(NamedTuple):
    """A value that the user has not given, and why it was chosen."""

    value: Any
    reason: str


@dataclass
class Defaults:
    """The options of a run that are chosen here.

    Args:
        args: the options; changed here.
        recorded: the values that the run that is resumed has chosen; None for a new run.
        chosen: those of this run.
    """

    args: BlendTrainingArguments
    recorded: Facts | None = None
    chosen: dict[str, Choice] = field(default_factory=dict)

    def is_given(self, *names: str) -> bool:
        """Whether the user gave one of these options."""
        return bool(self.args.given_options.intersection(names))

    def leaves(self, name: str) -> bool:
        """Whether an option stays as it is: the run that is resumed did not choose it, and it must not change."""
        return self.recorded is not None and name not in self.recorded and name not in CHANGEABLE

    def choose(self, name: str, value: Any, reason: str) -> None:
        """Set an option that the user has not given; that of a resumed run wins."""
        if self.is_given(name) or self.leaves(name):
            return
        value, now = self.record(name, value, reason), getattr(self.args, name)
        setattr(self.args, name, type(now)(value) if isinstance(now, Enum) else value)

    def record(self, name: str, value: Any, reason: str) -> Any:
        """The value of an option, for the table; that of a resumed run wins."""
        if self.recorded is not None and name in self.recorded:
            value, reason = self.recorded[name], "as in the run that is resumed"
        self.chosen[name] = Choice(value, reason)
        self.args.default_options = {each: choice.value for each, choice in self.chosen.items()}
        return value

    def log(self, model_args: ModelArguments) -> None:
        """Log the choices, if there are any."""
        if self.chosen:
            logger.info(self.table(start_of(model_args).name if self.args.do_train else "of the evaluation"))

    def table(self, situation: str) -> str:
        """The choices as a table of at most WIDTH columns."""
        names = [name for name in CHOSEN if name in self.chosen] + [name for name in self.chosen if name not in CHOSEN]
        cells = {name: as_text(self.chosen[name].value) for name in names}
        left, middle = max(map(len, names)), max(map(len, cells.values()))
        lines = [f"defaults {situation}, for options that were not given:"]
        for name in names:
            begin = f"  {name:{left}}  {cells[name]:{middle}}  "
            lines += textwrap.wrap(
                self.chosen[name].reason, WIDTH, initial_indent=begin, subsequent_indent=" " * len(begin)
            )
        return "\n".join(lines)


# The most characters of a line of the table.
WIDTH = 80
# Options that a resumed run may choose, even if the run before did not.
CHANGEABLE = FREE.union(METRIC)


def as_text(value: Any) -> str:
    """A value as a flag has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def recorded_defaults(args: BlendTrainingArguments, wanted: str | bool | None) -> Facts | None:
    """The values that the run that is resumed has chosen; None for a new run.

    Args:
        args: the options.
        wanted: the checkpoint to resume from; True for the newest of output_dir; None for none.

    Raises:
        InputError: what the named checkpoint records cannot be read.
    """
    if wanted is not True:
        return None if wanted is None else read_defaults(Path(str(wanted)))
    for checkpoint in checkpoints_in(args.output_dir)[::-1]:
        # A damaged one is skipped here, and named when it is verified.
        with suppress(InputError):
            if (found := read_defaults(Path(checkpoint))) is not None:
                return found
    return None


def with_recorded(error: InputError, recorded: dict[str, Any]) -> InputError:
    """The error; if it is about an option that was not given, it says that the value is that of the resumed run."""
    name = str(error).partition(":")[0]
    if name not in recorded:
        return error
    return InputError(f"{error}; {name} is as in the run that is resumed, {recorded[name]}")


def is_from_scratch(model_args: ModelArguments) -> bool:
    """Whether a new model is trained, no part of which was saved before."""
    return not (model_args.model_name_or_path or model_args.encoder_name_or_path)


def start_of(model_args: ModelArguments) -> Start:
    """What the training of a model starts from."""
    return FROM_SCRATCH if is_from_scratch(model_args) else FINE_TUNING


# --- Before the rows are encoded; see model_defaults.py, too ---


def resolve_evaluates(defaults: Defaults, splits: Collection[str]) -> None:
    """Evaluate during training where there is a validation split; `resolve_times` decides how often.

    Raises:
        InputError: the learning rate or the best model follows evaluations, and there is no validation split.
    """
    args = defaults.args
    if not args.do_train:
        return
    if not defaults.is_given("eval_strategy"):
        is_refused = defaults.is_given("do_eval") and not args.do_eval
        evaluates = "validation" in splits and not is_refused
        args.eval_strategy = IntervalStrategy.EPOCH if evaluates else IntervalStrategy.NO
    if args.eval_strategy != "no":
        return
    check_stopping(args)
    if args.load_best_model_at_end:
        raise InputError("load_best_model_at_end: needs evaluations of a validation split")
    if args.lr_scheduler_type in WAITING:
        raise InputError(
            f"lr_scheduler_type: {args.lr_scheduler_type.value} follows the evaluations of the validation split, and "
            "there are none; validation_file or validation_split names one"
        )


# --- Before the Trainer is made ---


def resolve_training(
    defaults: Defaults,
    model_args: ModelArguments,
    config: PretrainedConfig,
    task: Task,
    settings: Settings,
    splits: dict[str, EncodedSplit],
) -> None:
    """Choose the learning rate, its schedule, the weight decay, the rows of a batch, and the metric.

    Args:
        defaults: changed here.
        model_args: say what is trained.
        config: of the model; its width decides the learning rate.
        task: of the run.
        settings: of the run.
        splits: of the run.

    Raises:
        InputError: greater_is_better is given, and is not the direction of the metric.
    """
    split = splits["train"]
    start, width = start_of(model_args), part_configs(config)[-1].hidden_size
    if config.original_model_type in T5:
        start = FINE_TUNING_T5
    if model_args.lora_rank is not None:
        start = start._replace(power=1)
    rate = start.learning_rate * (start.width / width) ** start.power
    factor = f"{start.width} / hidden_size {width}"
    reason = f"{start.learning_rate:g} × {factor if start.power == 1 else f'({factor})²'}"
    if rate > start.most:
        rate, reason = start.most, f"the most, for hidden_size {width}"
    if model_args.lora_rank is not None:
        rate, reason = LORA_FACTOR * rate, f"{LORA_FACTOR} × ({reason}), for LoRA"
    defaults.choose("learning_rate", float(f"{rate:.1e}"), reason)
    if start.schedule is not None:
        defaults.choose("lr_scheduler_type", start.schedule, f"{start.name}, down to 0")
    if start.weight_decay is not None:
        defaults.choose("weight_decay", start.weight_decay, start.name)
    if defaults.args.max_tokens_per_batch is None:
        choice = rows_of_batch(defaults.args, split) if start is FROM_SCRATCH else packed_rows(task, split)
        defaults.choose("per_device_train_batch_size", *choice)
    rows = defaults.args.per_device_train_batch_size
    if rows > defaults.args.per_device_eval_batch_size and "validation" in splits:
        defaults.choose("per_device_eval_batch_size", rows, "as in training")
    resolve_metric(defaults, task, settings, splits)


def packed_rows(task: Task, split: EncodedSplit) -> Choice:
    """The rows of a batch in fine-tuning: fewer than those of the task if a row holds several texts."""
    rows, reason = task.fine_tuning_batch, f"for {task.name}"
    if isinstance(split.features, RowStream) or len(split.features) >= len(split.rows):
        return Choice(rows, reason)
    per_row = len(split.rows) / len(split.features)
    fewer = max(1, round(DOCUMENTS / per_row))
    return Choice(fewer, f"a row holds about {per_row:.0f} texts") if fewer < rows else Choice(rows, reason)


def rows_of_batch(args: BlendTrainingArguments, split: EncodedSplit) -> Choice:
    """The rows of a batch from scratch: fewer if they are long, or if there are few."""
    rows, reason = ROWS, "from scratch"
    if isinstance(split.features, RowStream):
        return Choice(rows, reason)
    has_tokens = "input_ids" in split.features.column_names
    tokens = count_tokens(split.features, ("input_ids",)).mean() if has_tokens else 0
    while rows > 1 and rows * tokens > BATCH_TOKENS:
        rows, reason = rows // 2, f"rows have about {tokens:.0f} tokens"
    together = args.world_size * max(1, args.n_gpu) * args.gradient_accumulation_steps
    while rows > LEAST_ROWS and len(split.features) / (rows * together) < EPOCH_STEPS:
        rows, reason = rows // 2, f"there are {len(split.features):,} rows"
    return Choice(rows, reason)


def resolve_metric(defaults: Defaults, task: Task, settings: Settings, splits: dict[str, EncodedSplit]) -> None:
    """Choose the metric of the best model: that of the task, with its direction.

    Raises:
        InputError: greater_is_better is given, and is not the direction of the metric.
    """
    args, validation = defaults.args, splits.get("validation")
    # Averaging takes the last models, not the best one.
    if not args.do_train or args.eval_strategy == "no" or validation is None or args.average_checkpoints is not None:
        return
    if args.lr_scheduler_type in WAITING:
        # transformers has set it.
        name, reason = args.metric_for_best_model or "loss", "the learning rate follows it"
    elif task.has_answers and not args.prediction_loss_only:
        name, reason = task.main_metric(settings), f"of {task.name}"
    else:
        name, reason = "loss", f"of {task.name}"
    if name == "loss" and not has_targets(validation.features, settings):
        return
    if not defaults.is_given("metric_for_best_model"):
        args.greater_is_better = args.greater_is_better if defaults.is_given("greater_is_better") else None
        defaults.choose("metric_for_best_model", name, reason)
    set_metric_direction(args, default=None)


# --- When the number of steps is known ---


def resolve_times(defaults: Defaults, model_args: ModelArguments, trainer: Any) -> None:
    """Choose the length of the run, and when it warms up, logs, evaluates and saves.

    Args:
        defaults: changed here.
        model_args: say what is trained.
        trainer: knows the batches.

    Raises:
        InputError: options of evaluating and saving do not go together, or eval_delay leaves no evaluation.
    """
    args, loader = defaults.args, trainer.get_train_dataloader()
    of_epoch = trainer.set_initial_training_values(args, loader)[1] if has_length(loader) else None
    if args.max_steps <= 0 and of_epoch is not None:
        start = start_of(model_args)
        (least, most), wanted = start.epochs, math.ceil(start.steps / of_epoch)
        epochs = max(least, min(most, wanted))
        reason = f"about {start.steps:,} steps, {of_epoch:,} in each" if epochs == wanted else f"{start.name}, "
        if epochs != wanted:
            reason += f"at least {least}" if epochs == least and least != most else f"at most {most}"
        defaults.choose("num_train_epochs", float(epochs), reason)
    steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * (of_epoch or 1))
    # The first step of a warm-up has the learning rate 0.
    if steps >= 1 / WARMUP and args.lr_scheduler_type not in UNWARMED:
        defaults.choose("warmup_steps", WARMUP, f"this part of {steps:,} steps")
    check_delay(args, steps, of_epoch)
    if args.logging_strategy == "steps":
        most = TRACKED_STEPS if args.report_to else steps
        reason = f"about {LOG_LINES} lines in the log" if steps // LOG_LINES <= most else "for " + args.report_to[0]
        defaults.choose("logging_steps", max(1, min(steps // LOG_LINES, most)), reason)
    resolve_evaluations(defaults, of_epoch, steps)
    resolve_saving(defaults)
    check_stopping(args)


def check_delay(args: BlendTrainingArguments, steps: int, of_epoch: int | None) -> None:
    """Raises InputError if the first evaluation would be after the last step; eval_delay has the strategy's unit."""
    by_epoch = args.eval_strategy == "epoch"
    end = steps / of_epoch if by_epoch and of_epoch else steps
    if args.eval_strategy != "no" and args.eval_delay > end:
        raise InputError(
            f"eval_delay: {args.eval_delay:g} {'epochs' if by_epoch else 'steps'}, but the run has {end:g}"
        )


def resolve_evaluations(defaults: Defaults, of_epoch: int | None, steps: int) -> None:
    """Choose when a run is evaluated.

    Args:
        defaults: changed here.
        of_epoch: the steps of an epoch; None if they are unknown.
        steps: the steps of the run.

    Raises:
        InputError: eval_steps is neither a number of steps nor a part of the run.
    """
    args = defaults.args
    if args.eval_strategy == "no":
        return
    interval, reason = interval_of(of_epoch, steps)
    if not defaults.is_given("eval_strategy"):
        by_steps = interval != of_epoch
        if defaults.is_given("eval_steps"):
            by_steps, reason = True, "eval_steps is given"
        elif defaults.is_given("save_steps") and args.save_strategy == "steps":
            by_steps, interval, reason = True, args.save_steps, "as save_steps"
        elif defaults.is_given("save_strategy") and args.save_strategy in ("epoch", "steps"):
            by_steps, reason = args.save_strategy == "steps", "as save_strategy"
        defaults.choose("eval_strategy", "steps" if by_steps else "epoch", reason)
    # For eval_strategy=steps alone, transformers takes logging_steps, if that is given.
    is_logged = defaults.is_given("eval_strategy") and defaults.is_given("logging_steps")
    if args.eval_strategy == "steps" and not is_logged:
        defaults.choose("eval_steps", interval, reason)
    if args.eval_strategy == "steps" and args.eval_steps >= 1:
        if args.eval_steps != int(args.eval_steps):
            raise InputError(
                f"eval_steps: must be a whole number, or a part of the run below 1, got {args.eval_steps}"
            )
        args.eval_steps = int(args.eval_steps)


def interval_of(of_epoch: int | None, steps: int) -> Choice:
    """The steps between two evaluations, and why: an epoch, or an equal part of it, if that would be too long."""
    most = max(1, min(math.ceil(steps / EVALUATIONS), MOST_STEPS))
    if of_epoch is None:
        return Choice(most, f"at least {EVALUATIONS} in a run")
    if of_epoch <= most or (of_epoch <= MOST_STEPS and 3 * of_epoch <= steps):
        return Choice(of_epoch, "once an epoch")
    parts = math.ceil(of_epoch / most)
    return Choice(math.ceil(of_epoch / parts), f"{parts} times an epoch")


def resolve_saving(defaults: Defaults) -> None:
    """Choose when a run is saved, how many checkpoints it keeps, and whether it ends with the best model.

    Raises:
        InputError: load_best_model_at_end is given, and what it needs is not.
    """
    args = defaults.args
    evaluates = args.eval_strategy != "no"
    if evaluates and not defaults.is_given("save_strategy", "save_steps"):
        defaults.choose("save_strategy", args.eval_strategy.value, "as eval_strategy")
    if evaluates and args.save_strategy == args.eval_strategy == "steps":
        defaults.choose("save_steps", args.eval_steps, "as eval_steps")
    problem = problem_of_best(args)
    if not defaults.is_given("load_best_model_at_end"):
        if problem is None and args.average_checkpoints is None:
            defaults.choose("load_best_model_at_end", True, "the best, not the last model")
    elif args.load_best_model_at_end and problem is not None:
        raise InputError(f"load_best_model_at_end: {problem}")
    if args.save_strategy == "no":
        return
    if args.average_checkpoints is not None:
        kept = args.average_checkpoints + (args.metric_for_best_model is not None)
        defaults.choose("save_total_limit", kept, "those that are averaged")
    else:
        kept = "the best and the last stay" if args.load_best_model_at_end else "the last ones stay"
        defaults.choose("save_total_limit", KEPT, kept)


def problem_of_best(args: BlendTrainingArguments) -> str | None:
    """Why a run cannot end with the best model; None if it can. transformers demands the same."""
    if args.metric_for_best_model is None:
        return "needs metric_for_best_model"
    if args.save_strategy == SaveStrategy.BEST:
        return None
    if args.save_strategy != args.eval_strategy:
        return f"needs checkpoints of the evaluated models, but eval_strategy is {args.eval_strategy.value} and " + (
            f"save_strategy {args.save_strategy.value}"
        )
    # Both may be parts of the run; 1e6 as in transformers.
    if args.eval_strategy == "steps" and (
        (args.save_steps < 1) != (args.eval_steps < 1) or round(args.save_steps * 1e6) % round(args.eval_steps * 1e6)
    ):
        return f"save_steps {args.save_steps} must be a multiple of eval_steps {args.eval_steps}"
    return None
