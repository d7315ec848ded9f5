"""The position of a run in its data: counted while it trains, saved in each checkpoint, and restored on resume."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import safe_globals

from ..data.errors import InputError
from ..data.streams import PositionedStream
from .faults import POSITION


def seed_of(args: TrainingArguments) -> int:
    """The seed that the order of the rows follows from."""
    return args.seed if args.data_seed is None else args.data_seed


def read_position(checkpoint: Path) -> dict[str, Any]:
    """The content of position.pt, of which no code runs."""
    with safe_globals():
        return torch.load(checkpoint / POSITION, weights_only=True)


def without_digests(stream: Any, args: TrainingArguments) -> Any:
    """The state of a stream; of a RowStream without the digests of its content, where that is allowed to change."""
    if isinstance(stream, dict) and "read" in stream and "train_dataset" in (args.allow_changed or []):
        return {**stream, "reading": "", "read": {}}
    return stream


class Position(TrainerCallback):
    """Where a run is in its data, and the sums of its losses: what the Trainer does not save, or loses on resume.

    The Trainer derives the epoch and the batch from the number of steps. That is wrong for a stream after its first
    pass, and where steps and batches do not divide evenly. So they are counted here.

    Args:
        trainer: that this is a callback of.

    Attributes:
        epoch: the number of the epoch; of a stream, the number of the pass, however many steps it has.
        batches: how many batches of the epoch this process has trained on.
        ended: whether the epoch has ended, and only its last log, evaluation and checkpoint follow.
        trained: how many batches were trained on since the run was started or resumed.
        sampler: decides the order of the rows; None for a stream.
        stream: what is trained on, if it is a stream that can be resumed in the middle.
        losses: the sums of the losses in the checkpoint that the run was resumed from; None if there are none.
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
        """The sums of the losses that were logged and of those that were not yet, and the step of the last log."""
        trainer = self.trainer
        pending = trainer._tr_loss.detach()
        if trainer.args.world_size > 1:
            # Each process has the losses of its own batches.
            pending = trainer.accelerator.reduce(pending, "mean")
        logged = trainer._globalstep_last_logged
        return {"total": trainer._total_loss_scalar, "pending": pending.cpu(), "logged": logged}

    def start(self, checkpoint: str | None, epoch: int, batches: int, is_over: bool = False) -> None:
        """Start counting.

        Args:
            checkpoint: that the run is resumed from.
            epoch: the first epoch.
            batches: how many batches of it were trained on before.
            is_over: whether the run ends with this epoch.
        """
        self.checkpoint, self.losses = checkpoint, None
        self.epoch, self.batches, self.ended, self.trained = epoch - 1, 0, False, 0
        self._first_step, self._skipped, self._is_over = 0, batches, is_over
        # The batches of an epoch that is resumed in the middle of a stream; and an argument while it is replaced.
        self._rest: Iterator[Any] | None = None
        self._eval_on_start = False

    def resume(self, checkpoint: str, saved: dict[str, Any], is_over: bool, most: int, epochs: int) -> tuple[int, int]:
        """Restore a position.

        Args:
            checkpoint: that the run is resumed from.
            saved: its position.pt.
            is_over: whether no step is left.
            most: the batches of an epoch.
            epochs: of the run.

        Returns:
            The epoch to go on with, and how many of its batches to skip.

        Raises:
            InputError: the run has no such epoch or batch.
        """
        epoch, batches = saved["epoch"], saved["batches"]
        stream = without_digests(saved["stream"], self.trainer.args)
        if not is_over and (epoch >= epochs or batches > most):
            raise InputError(
                f"{Path(checkpoint, POSITION)}: has batch {batches} of epoch {epoch + 1}, but the run has "
                f"{epochs} epochs of {most} batches"
            )
        has_stream = self.stream is not None and stream is not None
        if saved["ended"]:
            epoch, batches = (epochs if is_over else epoch + 1), 0
            if has_stream:
                self.stream.compare_with(stream)
        elif is_over:
            # Skip all: only the last log, evaluation and checkpoint of the epoch follow.
            batches = most
        elif has_stream:
            self.stream.resume(batches, stream)
        self.start(checkpoint, epoch, batches, is_over)
        self.losses = saved.get("losses")
        return epoch, batches

    def batches_left(self, epoch_iterator: Iterator[Any], loader: DataLoader) -> Iterator[Any]:
        """The batches of an epoch that are left to train on.

        Args:
            epoch_iterator: the Trainer's, which would read a resumed stream from its start to skip batches.
            loader: of the training batches.
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

        eval_on_start asks for one evaluation, before the first step. Early stopping would count another one.
        """
        if self.losses is not None:
            self.trainer._total_loss_scalar = self.losses["total"]
            self.trainer._globalstep_last_logged = self.losses["logged"]
            self.trainer._tr_loss = self.losses["pending"].to(args.device)
        if state.global_step:
            self._eval_on_start, args.eval_on_start = args.eval_on_start, False

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Count the epoch, and pass it on.

        To other callbacks: over a stream, state.epoch grows by a part of max_steps in a pass. To the sampler:
        Trainer._run_epoch does not reach it where processes share it and batches are skipped.
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
        """Count a batch. One of the two events follows each batch."""
        self.batches += 1
        self.trained += 1

    on_step_end = on_substep_end

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Mark the end of the epoch; stop a run that had no step left, which the Trainer tests after a step only.

        Where no batch was left, restore the random state: the Trainer does that with the first batch that it reads.

        Raises:
            InputError: a stream has too few batches for a step, which the Trainer would wait for forever.
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
