"""The position of a run in its data: counted while it trains, saved in each checkpoint, and restored on resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import safe_globals
from transformers.trainer_utils import has_length

from ..data.errors import InputError
from ..data.streams import PositionedStream
from .faults import POSITION


def seed_of(args: TrainingArguments) -> int:
    """The seed that the order of the rows follows from."""
    return args.seed if args.data_seed is None else args.data_seed


def read_position(checkpoint: Path) -> dict[str, Any]:
    """The content of position.pt, loaded without running code in it."""
    with safe_globals():
        return torch.load(checkpoint / POSITION, weights_only=True)


def without_digests(stream: Any, args: TrainingArguments) -> Any:
    """The state of a stream; for a RowStream without the digests of its content, if that is allowed to change."""
    if isinstance(stream, dict) and "read" in stream and "train_dataset" in (args.allow_changed or []):
        return {**stream, "reading": "", "read": {}}
    return stream


class Position(TrainerCallback):
    """The position of a run in its data, and the sums of its losses, which the Trainer does not save or restore.

    The Trainer derives the epoch and the batch from the number of steps. That is wrong for a stream after its first
    pass, and where steps and batches do not divide evenly. So they are counted here.

    Args:
        trainer: the Trainer that this is a callback of.

    Attributes:
        epoch: the number of the epoch; for a stream, the number of the pass over it.
        batches: how many batches of the epoch this process has trained on.
        ended: whether the epoch has ended, and only its last log, evaluation and checkpoint follow.
        trained: how many batches were trained on since the run was started or resumed.
        sampler: decides the order of the rows; None for a stream.
        stream: the training rows, if they are a stream that can be resumed in the middle.
        losses: the loss sums of the checkpoint that the run was resumed from; None if it has none.
        summed_from: the step after which the sums of losses begin.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.sampler: Sampler | None = None
        self.stream: PositionedStream | None = None
        self.start(None, 0, 0)

    # --- Save and resume ---

    def write(self, directory: Path) -> None:
        """Write position.pt. Called in all processes; one of them writes."""
        losses = self.loss_sums()
        if not self.trainer.args.should_save:
            return
        content = {
            "epoch": self.epoch,
            "batches": self.batches,
            "ended": self.ended,
            "losses": losses,
            "stream": None if self.stream is None else self.stream.state_after(self.batches),
        }
        torch.save(content, directory / POSITION)

    def loss_sums(self) -> dict[str, Any]:
        """The sum of the losses that were logged and of the others, the step of the last log, and `summed_from`."""
        trainer = self.trainer
        pending = trainer._tr_loss.detach()
        if trainer.args.world_size > 1:
            # Each process has the losses of its own batches.
            pending = trainer.accelerator.reduce(pending, "mean")
        logged = trainer._globalstep_last_logged
        sums = {"total": trainer._total_loss_scalar, "pending": pending.cpu()}
        return {**sums, "logged": logged, "summed_from": self.summed_from}

    def start(
        self,
        checkpoint: str | None,
        epoch: int,
        batches: int,
        losses: dict[str, Any] | None = None,
        is_over: bool = False,
    ) -> None:
        """Start counting.

        Args:
            checkpoint: the checkpoint that the run is resumed from; None for a new run.
            epoch: the first epoch.
            batches: how many batches of this epoch were trained on before.
            losses: the loss sums of the checkpoint, if it has them.
            is_over: whether the run ends with this epoch.
        """
        self.checkpoint, self.losses, self.summed_from = checkpoint, losses, 0
        self.epoch, self.batches, self.ended, self.trained = epoch - 1, 0, False, 0
        self._first_step, self._skipped, self._is_over = 0, batches, is_over
        # The batches left of an epoch that is resumed in the middle of a stream; and the original eval_on_start.
        self._rest: Iterator[Any] | None = None
        self._eval_on_start = False

    def resume(
        self, checkpoint: str, saved: dict[str, Any], is_over: bool, per_epoch: int, epochs: int
    ) -> tuple[int, int]:
        """Restore a position.

        Args:
            checkpoint: the checkpoint that the run is resumed from.
            saved: the content of its position.pt.
            is_over: whether no step is left.
            per_epoch: the number of batches in an epoch.
            epochs: the number of epochs of the run.

        Returns:
            The epoch to continue with, and how many of its batches to skip.

        Raises:
            InputError: the run has no such epoch or batch.
        """
        epoch, batches = saved["epoch"], saved["batches"]
        stream = without_digests(saved["stream"], self.trainer.args)
        if not is_over and (epoch >= epochs or batches > per_epoch):
            raise InputError(
                f"{Path(checkpoint, POSITION)}: has batch {batches} of epoch {epoch + 1}, but the run has "
                f"{epochs} epochs of {per_epoch} batches"
            )
        has_stream = self.stream is not None and stream is not None
        if saved["ended"]:
            epoch, batches = (epochs if is_over else epoch + 1), 0
            if has_stream:
                self.stream.compare_with(stream)
        elif is_over:
            # Skip all: only the last log, evaluation and checkpoint of the epoch follow.
            batches = per_epoch
        elif has_stream:
            self.stream.resume(batches, stream)
        self.start(checkpoint, epoch, batches, saved.get("losses"), is_over)
        return epoch, batches

    def batches_left(self, epoch_iterator: Iterator[Any], loader: DataLoader) -> Iterator[Any]:
        """The batches of an epoch that are left to train on.

        Args:
            epoch_iterator: the Trainer's batches; to skip some, it reads a resumed stream from its start.
            loader: the DataLoader of the training batches.
        """
        if self.stream is not None and self.stream.start:
            loader.set_epoch(self.epoch)
            self._rest = iter(loader)
        return self._rest or epoch_iterator

    # --- The events of a run ---

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the loss sums, which the Trainer has just set to zero; prevent a second evaluation at the start.

        eval_on_start is an evaluation before the first step of a run. Early stopping would count a second one.
        """
        self.summed_from = state.global_step
        if self.losses is not None:
            # Earlier versions did not write it.
            self.summed_from = self.losses.get("summed_from", 0)
            self.trainer._total_loss_scalar = self.losses["total"]
            self.trainer._globalstep_last_logged = self.losses["logged"]
            self.trainer._tr_loss = self.losses["pending"].to(args.device)
        if state.global_step:
            self._eval_on_start, args.eval_on_start = args.eval_on_start, False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the epoch, and set it in the state and in the sampler.

        In the state, because with a stream the Trainer computes state.epoch from max_steps. In the sampler, because
        Trainer._run_epoch does not set it if processes share the batches and some are skipped.
        """
        args.eval_on_start = args.eval_on_start or self._eval_on_start
        self.epoch, self.batches, self.ended = self.epoch + 1, self._skipped, False
        self._skipped, self._first_step, self._rest = 0, state.global_step, None
        state.epoch = max(state.epoch or 0.0, float(self.epoch))
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(self.epoch)
        elif getattr(self.sampler, "generator", None) is not None:
            self.sampler.generator.manual_seed(seed_of(args) + self.epoch)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count a batch. One of the two events follows each batch.

        For rows of unknown number the epoch in the state becomes the number of completed passes, because the Trainer
        divides the number of steps by max_steps.
        """
        self.batches += 1
        self.trained += 1
        if not has_length(kwargs["train_dataloader"]):
            reading = self.trainer.accelerator.gradient_state
            is_complete = reading.end_of_dataloader or not reading.in_dataloader
            state.epoch = float(self.epoch + is_complete)

    on_step_end = on_substep_end

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the end of the epoch; stop a run without a step left, which the Trainer only checks after a step.

        If no batch was left, restore the random state: the Trainer only does so when it reads the first batch.

        Raises:
            InputError: a stream has too few batches for a step; the Trainer would wait forever.
        """
        self.ended = True
        if not self.trained:
            self.trainer._load_rng_state(self.checkpoint)
        needed, stopped = args.gradient_accumulation_steps, control.should_training_stop or control.should_epoch_stop
        if self.batches < needed and state.global_step == self._first_step and not stopped and not self._is_over:
            raise InputError(
                f"gradient_accumulation_steps: {needed} batches make a step, but an epoch has only {self.batches}"
            )
        if self._is_over or state.global_step >= state.max_steps:
            control.should_training_stop = True
