"""Progress of a run in the log: a summary at the start, then the speed and the remaining time."""

import logging
import time
from collections.abc import Sized
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedModel, TrainerCallback, TrainerState, TrainingArguments
from transformers.utils.logging import disable_progress_bar

logger = logging.getLogger(__name__)


def hide_bars() -> None:
    """Hide the progress bars of datasets and transformers; disable_tqdm hides only those of the Trainer."""
    datasets.disable_progress_bars()
    disable_progress_bar()


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
