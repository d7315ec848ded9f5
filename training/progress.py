"""Progress of a run: a summary at the start, then a line for each log and each evaluation."""

import logging
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Iterable, Iterator, Sized
from contextlib import ExitStack, contextmanager
from typing import Any

import datasets
import numpy as np
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.logging import disable_progress_bar

from ..tasks.splits import PREFIXES
from .arguments import BlendTrainingArguments

logger = logging.getLogger(__name__)

# The most characters of a line.
WIDTH = 80
# What is in the log, and not in its lines: what hardly changes, or is counted for other purposes.
NOT_SHOWN = ("epoch", "total_flos", "num_input_tokens_seen", "grad_norm", "model_preparation_time")
TIMES = ("_runtime", "_per_second", "_preparation_time")
# Where a line is not broken.
NO_BREAK = "\N{NO-BREAK SPACE}"


class WholeWords(logging.Formatter):
    """Messages for a terminal, whose lines are broken between words."""

    def format(self, record: logging.LogRecord) -> str:
        """The message in lines of at most the width of the terminal."""
        width = shutil.get_terminal_size().columns - 1
        options = {"subsequent_indent": "  ", "break_long_words": False, "break_on_hyphens": False}
        lines = super().format(record).split("\n")
        return "\n".join(line if len(line) <= width else textwrap.fill(line, width, **options) for line in lines)


def start_logging() -> None:
    """Set up what a command prints on stderr: messages alone, without the bars of transformers for single files."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    disable_progress_bar()
    for name in ("huggingface_hub", "datasets"):
        # With their own handlers their messages are printed twice.
        logging.getLogger(name).handlers.clear()
    for handler in logging.getLogger().handlers if sys.stderr.isatty() else ():
        if getattr(handler, "stream", None) is sys.stderr:
            handler.setFormatter(WholeWords("%(message)s"))


def hide_bars() -> None:
    """Hide the progress bars of datasets and transformers; disable_tqdm hides only those of the Trainer."""
    datasets.disable_progress_bars()
    disable_progress_bar()


@contextmanager
def only_errors() -> Iterator[None]:
    """Inside, nothing below an error is logged, by this package or by those that it uses, and nothing warns."""
    loggers = [logging.getLogger(name) for name in ("seqblend", "transformers", "datasets", "accelerate")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


def limit_output(args: BlendTrainingArguments, stack: ExitStack | None) -> None:
    """Hide progress bars if stderr is no terminal, let only the main process log, and a quiet run only errors.

    Args:
        args: changed here.
        stack: ends what is quiet; None: a quiet run still logs.
    """
    if stack is not None and args.quiet:
        stack.enter_context(only_errors())
    if args.quiet or (not sys.stderr.isatty() and "disable_tqdm" not in args.given_options):
        args.disable_tqdm = True
    if args.disable_tqdm or not sys.stderr.isatty():
        hide_bars()
    if not args.should_log:
        logging.getLogger("seqblend").setLevel(logging.ERROR)


class Progress(TrainerCallback):
    """Logs a summary when training begins, and computes the speed and the remaining time for each line of the log.

    Tokens are counted by the Trainer, from the attention mask, without padding. A step only measures its time.

    Args:
        lengths: the number of tokens in each training row (N,), without padding; source and target together.

    Attributes:
        first_step: the step after which training began, or was resumed.
    """

    def __init__(self, lengths: Any = ()):
        self.lengths = lengths
        self._begin = self._last = 0.0
        self._seconds = 0.0
        self._tokens = 0
        self.first_step = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Log the summary."""
        self._begin = self._last = time.perf_counter()
        self._seconds, self._tokens, self.first_step = 0.0, state.num_input_tokens_seen, state.global_step
        if state.is_world_process_zero:
            logger.info(self.summary(args, state, kwargs["model"], kwargs["train_dataloader"]))

    def summary(self, args: TrainingArguments, state: TrainerState, model: PreTrainedModel, batches: Sized) -> str:
        """Four lines: the model, the data, the steps, and the output; `batches` are those of one process."""
        data, of_epoch = "rows that are not counted", ""
        # As Loaders.row_lengths counts them; the Trainer's count in the log has the source only.
        both = " of source and target" if model.config.is_encoder_decoder and model.can_generate() else ""
        if len(self.lengths):
            tokens, steps = int(np.sum(self.lengths)), -(-len(batches) // args.gradient_accumulation_steps)
            data = f"{len(self.lengths):,} rows and {tokens:,} tokens{both} an epoch, without padding"
            of_epoch = f"; {steps:,} an epoch, {tokens / steps:,.0f} tokens each on average"
        done = f", of which {state.global_step:,} are done" if state.global_step else ""
        trained, total = model.num_parameters(only_trainable=True), model.num_parameters()
        of_trained = f", of which {trained:,} are trained" if trained < total else ""
        reporters = f", logs also to {', '.join(args.report_to)}" if args.report_to else ""
        return "\n".join(
            [
                f"model: {type(model).__name__}, {total:,} parameters{of_trained}",
                f"data: {data}",
                f"steps: {state.max_steps:,}{done}{of_epoch}",
                f"output: {args.output_dir}{reporters}",
            ]
        )

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Add the time since the last step, evaluation or checkpoint."""
        now = time.perf_counter()
        self._seconds, self._last = self._seconds + now - self._last, now

    def on_evaluate(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Exclude the time of an evaluation."""
        self._last = time.perf_counter()

    def on_save(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Exclude the time of saving."""
        self._last = time.perf_counter()

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Log at which step a run was stopped, if it was."""
        if state.is_world_process_zero and state.global_step < state.max_steps:
            logger.info("stopped after %d of %d steps", state.global_step, state.max_steps)

    def speed(self, state: TrainerState) -> dict[str, float]:
        """For a line of the log: tokens per second since the last line, and the remaining seconds.

        The remaining time is estimated from the whole run so far, with its evaluations.
        """
        tokens, self._tokens = state.num_input_tokens_seen - self._tokens, state.num_input_tokens_seen
        seconds, self._seconds = self._seconds, 0.0
        elapsed, steps = time.perf_counter() - self._begin, state.global_step - self.first_step
        figures = {}
        if tokens and seconds:
            figures["train_tokens_per_second"] = round(tokens / seconds, 1)
        if steps:
            figures["seconds_left"] = round(elapsed / steps * (state.max_steps - state.global_step), 1)
        return figures


class Bar(ProgressCallback):
    """The progress bar of transformers, which leaves the log to LogLines, and no bar when it has ended."""

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin the bar of training."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.training_bar is not None:
            self.training_bar.leave = False

    def on_prediction_step(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Begin or advance the bar of an evaluation."""
        super().on_prediction_step(args, state, control, **kwargs)
        if self.prediction_bar is not None:
            self.prediction_bar.leave = False

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Nothing."""


class LogLines(PrinterCallback):
    """Prints a line for each log, of at most WIDTH characters, in place of the mapping that transformers prints.

    It is a PrinterCallback, so that `remove_callback(PrinterCallback)` removes it.
    """

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print the line. It stands above the bar, if there is one."""
        if state.is_local_process_zero and logs:
            tqdm.write(log_line(logs, state, self.is_best(logs, args, state), args.metric_for_best_model))
            # A file is read while the run goes on.
            sys.stdout.flush()

    @staticmethod
    def is_best(logs: dict[str, Any], args: TrainingArguments, state: TrainerState) -> bool:
        """Whether an evaluation is better than all before it; False without metric_for_best_model.

        The untrained model, which eval_on_start evaluates, is never kept.
        """
        name = args.metric_for_best_model
        value = None if name is None else logs.get(f"eval_{name.removeprefix('eval_')}")
        if value is None or not state.global_step:
            return False
        best = state.best_metric
        return best is None or (value > best if args.greater_is_better else value < best)


def log_line(logs: dict[str, Any], state: TrainerState, is_best: bool = False, metric: str | None = None) -> str:
    """One line: the step, the epoch, and as many of the logged numbers as fit: the loss, `metric`, and others."""
    if "train_runtime" in logs:
        loss = f", mean loss {readable(logs['train_loss'])}" if "train_loss" in logs else ""
        return f"{state.global_step:,} steps in {minutes(logs['train_runtime'])}{loss}"
    total = f"{state.max_steps:,}"
    # Without training there are no steps.
    line = f"{state.global_step:>{len(total)},}/{total}  {logs.get('epoch', 0):5.2f} " if state.max_steps else ""
    shown = {name: value for name, value in logs.items() if name not in NOT_SHOWN and not name.endswith(TIMES)}
    speed, left = logs.get("train_tokens_per_second"), shown.pop("seconds_left", None)
    if any(name.startswith("eval_") for name in shown):
        line += " eval"
        shown = {name.removeprefix("eval_"): value for name, value in shown.items()}
    names = in_order(shown, (metric or "").removeprefix("eval_"))
    end = "  best" if is_best else ""
    if speed is not None:
        end += f"  {speed:,.0f} tokens/s"
    if left is not None:
        end += f"  {minutes(left)} left"
    for name in names:
        part = f" {name.replace('learning_rate', 'lr')} {readable(shown[name])} "
        if len(line) + len(part) + len(end) <= WIDTH:
            line += part
    return (line.rstrip() + end).strip() if not state.max_steps else (line.rstrip() + end).rstrip()


def in_order(names: Iterable[str], metric: str | None) -> list[str]:
    """The loss first, then the metric that chooses the best model, then the others in the order of the task."""
    return sorted(names, key=lambda name: (name != "loss", name != metric))


def result_lines(prefix: str, metrics: dict[str, Any], metric: str | None = None) -> str:
    """The numbers of an evaluation, without times, in lines of at most WIDTH characters.

    Args:
        prefix: of the names of the metrics: `eval` or `test`.
        metrics: the metrics of a split.
        metric: the one that chooses the best model.
    """
    own = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items() if name.startswith(f"{prefix}_")}
    numbers = [
        f"{name} {readable(own[name])}".replace(" ", NO_BREAK)
        for name in in_order(own, (metric or "").removeprefix("eval_"))
        if isinstance(own[name], int | float) and name != "samples" and not f"_{name}".endswith(TIMES)
    ]
    begin = f"{PREFIXES[prefix]}, {own['samples']:,} rows:"
    options = {"subsequent_indent": "  ", "break_on_hyphens": False, "break_long_words": False}
    return textwrap.fill(f"{begin} {'  '.join(numbers)}", WIDTH, **options).replace(NO_BREAK, " ")


def readable(value: Any) -> str:
    """A number with four digits, also where the last are zeros; other values as they are."""
    if isinstance(value, float):
        return f"{value:,.1f}" if 9999.5 <= abs(value) < 1e15 else f"{value:#.4g}".rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


def minutes(seconds: float) -> str:
    """Seconds as 4:05 or 1:04:05."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
