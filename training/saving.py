"""A Trainer whose checkpoints are whole, and that says why it ends before its time, and how to go on."""

import logging
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput, rotate_checkpoints

from .checkpoints import STAGE, STATE, RunError, clear_stage, commit, fault_of, newest_good
from .files import InputError, in_one_line
from .pushing import PushingTrainer

logger = logging.getLogger(__name__)

# With so many free bytes a disk is full: less is written at a time.
FULL = 2**16
# What a shell reports of a process that SIGTERM ended.
TERMINATED = 128 + signal.SIGTERM


def why_not_written(error: Exception, directory: Path) -> str:
    """What an error of writing says. Of a full disk torch says where it stopped, and not why."""
    told = in_one_line(error)
    if "No space left" in told or not directory.is_dir() or shutil.disk_usage(directory).free > FULL:
        return told
    return f"No space left on device ({told})"


class SavingTrainer(PushingTrainer):
    """A Seq2SeqTrainer that writes checkpoints whole or not at all, and ends a run in words.

    Args:
        kwargs: those of PushingTrainer.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # Where a checkpoint is being written, and what the last one holds: steps, and entries of the log.
        self._stage: Path | None = None
        self._saved: tuple[int, int] | None = None
        self._terminated = False

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As Trainer.train; after SIGTERM the step is finished and saved, and the process exits with code TERMINATED.

        Raises:
            RunError: the run cannot go on: a loss is not finite, a disk is full, a worker was killed.
        """
        with self.termination_noted(), self.faults_told():
            return super().train(*args, **kwargs)

    # --- What ends a run ---

    @contextmanager
    def termination_noted(self) -> Iterator[None]:
        """Inside, SIGTERM is remembered, unless somebody else listens to it already."""
        self._terminated = False

        def note(*_: Any) -> None:
            self._terminated = True

        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
            yield
            return
        signal.signal(signal.SIGTERM, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def is_terminated(self) -> bool:
        """Whether SIGTERM came to any of the processes, which then end after the same step."""
        if self.args.world_size <= 1:
            return self._terminated
        came = torch.tensor(float(self._terminated), device=self.args.device)
        return bool(self.accelerator.reduce(came, "sum").item())

    @contextmanager
    def faults_told(self) -> Iterator[None]:
        """Raises RunError for what breaks around a run; an error in the code stays as it is."""
        try:
            yield
        except (OSError, EOFError, RuntimeError) as error:
            # One that is killed while it sends a batch breaks the connection first.
            of_worker = "DataLoader worker" in str(error) or isinstance(error, ConnectionError | EOFError)
            if not of_worker and not isinstance(error, OSError):
                raise
            what = "a DataLoader worker has died: " if of_worker and self.args.dataloader_num_workers else ""
            step = self.state.global_step
            raise RunError(f"after step {step}: {what}{in_one_line(error)}; {self.way_on()}") from error

    def way_on(self) -> str:
        """What is safe, and how to go on."""
        checkpoint = newest_good(self.args.output_dir)
        if checkpoint is None:
            return "there is no checkpoint"
        return f"the last checkpoint is whole: {checkpoint}; go on from there with --resume auto"

    def _maybe_log_save_evaluate(
        self, loss: Any, norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As Trainer._maybe_log_save_evaluate, by which every step and every epoch end; then end the run, if asked.

        should_training_stop would not do: transformers then ends the epoch, with an evaluation that was not due.
        """
        super()._maybe_log_save_evaluate(loss, norm, model, trial, *args, **kwargs)
        if not self.is_terminated():
            return
        if self._saved != self.progress():
            self._save_checkpoint(model, trial)
        logger.warning("SIGTERM: step %d is saved; go on with --resume auto", self.state.global_step)
        raise SystemExit(TERMINATED)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As Trainer.training_step; a loss that is not finite ends the run before the optimizer takes it in.

        Raises:
            RunError: it is not; the message names the step and where the batch is.
        """
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not loss.isfinite().all():
            step = self.state.global_step + 1
            path = Path(self.args.output_dir, f"not-finite-{step}-{self.args.process_index}.pt")
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({name: each.cpu() if torch.is_tensor(each) else each for name, each in inputs.items()}, path)
            raise RunError(f"step {step}: the loss is {loss.item()}; its batch is in {path}; {self.way_on()}")
        return loss

    # --- Checkpoints ---

    def progress(self) -> tuple[int, int]:
        """The steps taken and the entries of the log: an evaluation after the last step of an epoch is one."""
        return self.state.global_step, len(self.state.log_history)

    def _get_output_dir(self, trial: Any) -> str:
        """Where checkpoints go; while one is written, the directory beside them that it is written into."""
        return super()._get_output_dir(trial) if self._stage is None else str(self._stage)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside the others, look it through, give it its name, and only then delete older ones.

        Replaces `output_dir = os.path.join(run_dir, checkpoint_folder)` and `rotate_checkpoints(` of
        Trainer._save_checkpoint, which writes into the final place and does not look at it before it deletes others.

        Raises:
            RunError: it could not be written; nothing of it stays.
        """
        run_dir = Path(self._get_output_dir(trial))
        checkpoint = run_dir / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        try:
            if self.args.should_save:
                clear_stage(run_dir)
            self.accelerator.wait_for_everyone()
            self.write_staged(model, trial, run_dir / STAGE / checkpoint.name, checkpoint)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                commit(run_dir / STAGE / checkpoint.name, checkpoint)
        except Exception as error:  # for a full disk, safetensors and torch raise their own
            reason = why_not_written(error, run_dir)
            clear_stage(run_dir)
            raise RunError(f"{checkpoint} cannot be written: {reason}; {self.way_on()}") from error
        self.accelerator.wait_for_everyone()
        self._saved = self.progress()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(run_dir), self.args.save_total_limit, best, use_mtime=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer.save_model.

        Raises:
            RunError: it could not be written.
        """
        try:
            super().save_model(output_dir, _internal_call)
        except Exception as error:  # for a full disk, safetensors and torch raise their own
            if self._stage is not None:
                raise  # _save_checkpoint tells of it
            directory = output_dir or self.args.output_dir
            reason = why_not_written(error, Path(directory))
            raise RunError(f"{directory}: the model is not saved: {reason}; {self.way_on()}") from error

    def write_staged(self, model: Any, trial: Any, staged: Path, checkpoint: Path) -> None:
        """Let transformers write the checkpoint beside where it is going to be; it must not tell of that place."""
        self._stage = staged.parent
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._stage = None
        if self.state.best_model_checkpoint == str(staged):
            self.state.best_model_checkpoint = str(checkpoint)
            if self.args.should_save:
                self.state.save_to_json(str(staged / STATE))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """As PushingTrainer._push_from_checkpoint, once the checkpoint has its place."""
        if self._stage is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _load_best_model(self) -> None:
        """As Trainer._load_best_model, which goes on with the last model where there is no best one.

        Raises:
            InputError: the checkpoint of the best model is damaged, or does not match the model.
        """
        if fault := fault_of(self.state.best_model_checkpoint):
            raise InputError(f"the best model, {self.state.best_model_checkpoint}, is damaged: {fault}")
        super()._load_best_model()
