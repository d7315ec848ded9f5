"""A Trainer whose checkpoints are whole, and that says why it ends before its time, and how to go on."""

import json
import logging
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..checkpoints.faults import STATE, fault_of, files_of
from ..checkpoints.run_directory import clear_run, goes_on
from ..checkpoints.signals import TERMINATED, terminate
from ..checkpoints.store import (
    STAGE,
    RunError,
    by_age,
    checkpoints_in,
    clear_stage,
    commit,
    newest_good,
    remove,
    synchronize,
)
from ..data.errors import InputError, error_line, short_list
from ..data.objects import load_object
from ..data.writing import atomic_writer, write_atomically
from .pushing import PushingTrainer

logger = logging.getLogger(__name__)

# With so many free bytes a disk is full: less is written at a time.
FULL = 2**16
# The signals that end a run, and what Python, or our command line, does with them outside of training.
OUTSIDE: dict[int, tuple] = {
    signal.SIGTERM: (signal.SIG_DFL, terminate),
    signal.SIGINT: (signal.default_int_handler,),
}


def why_not_written(error: BaseException, directory: Path) -> str:
    """What an error of writing says. Of a full disk torch says where it stopped, and not why."""
    told = error_line(error)
    if "No space left" in told or not directory.is_dir() or shutil.disk_usage(directory).free > FULL:
        return told
    return f"No space left on device ({told})"


def results_json(content: dict[str, Any]) -> str:
    """As transformers writes results."""
    return json.dumps(content, indent=4, sort_keys=True)


def read_results(path: Path) -> dict[str, Any]:
    """Results that were written before; empty where there are none, or where they are damaged, which is said."""
    try:
        return load_object(path) if path.exists() else {}
    except ValueError as error:
        logger.warning("%s is damaged (%s) and written anew", path, error)
        return {}


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
        # The signal that asked the run to end.
        self._signal: int | None = None
        # Checkpoints of an earlier run in output_dir.
        self._earlier: set[str] = set()

    def train(self, resume_from_checkpoint: str | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As Trainer.train; after SIGTERM or Ctrl-C the step is finished and saved.

        Args:
            resume_from_checkpoint: a checkpoint. One of output_dir goes on with the run there; else an earlier run
                there is deleted where overwrite_output_dir says so, and otherwise its checkpoints are left alone.
            args: with kwargs, those of Trainer.train.
            kwargs: see args.

        Raises:
            RunError: the run cannot go on: a loss is not finite, a disk is full, a worker was killed.
            SystemExit: SIGTERM came; the code is TERMINATED.
            KeyboardInterrupt: Ctrl-C came.
        """
        self.settle_directory(resume_from_checkpoint)
        with self.signals_noted(), self.faults_told():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def settle_directory(self, checkpoint: str | None) -> None:
        """Make sure that an earlier run in output_dir is not mixed with the one that begins."""
        directory, self._earlier = self.args.output_dir, set()
        if goes_on(checkpoint, directory):
            return
        if self.args.overwrite_output_dir:
            if self.args.should_save:
                clear_run(directory)
            self.accelerator.wait_for_everyone()
        earlier = checkpoints_in(directory)
        self._earlier = set(earlier)
        if self._earlier and self.args.should_log:
            logger.warning(
                "%s holds checkpoints of an earlier run: %s. They stay, but for those of the same steps; "
                "overwrite_output_dir deletes the earlier run",
                directory,
                short_list([Path(each).name for each in earlier]),
            )

    # --- What ends a run ---

    @contextmanager
    def signals_noted(self) -> Iterator[None]:
        """Inside, SIGTERM and the first Ctrl-C are noted, unless somebody else listens to them already."""
        self._signal, process = None, os.getpid()

        def note(number: int, *_: Any) -> None:
            if os.getpid() != process:
                return  # A DataLoader's worker, which has the handlers too, is ended by this process.
            if self._signal == number == signal.SIGINT:
                raise KeyboardInterrupt
            self._signal = number
            if number == signal.SIGINT and self.args.should_log:
                logger.warning("Ctrl-C: this step is finished and saved; a second Ctrl-C ends the run at once")

        is_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in OUTSIDE} if is_main else {}
        ours = [number for number, handler in before.items() if handler in OUTSIDE[number]]
        for number in ours:
            signal.signal(number, note)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, before[number])
        if self._signal is not None:
            # It came when no step was left to finish.
            signal.raise_signal(self._signal)

    def signal_of_any(self) -> int | None:
        """The signal that came to any of the processes, which then end after the same step; None if none came."""
        if self.args.world_size <= 1:
            return self._signal
        came = torch.zeros(len(OUTSIDE), device=self.args.device)
        if self._signal is not None:
            came[list(OUTSIDE).index(self._signal)] = 1
        found = self.accelerator.reduce(came, "sum").tolist()
        return next((number for number, count in zip(OUTSIDE, found, strict=True) if count), None)

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
            raise RunError(f"after step {step}: {what}{error_line(error)}; {self.way_on()}") from error

    def way_on(self) -> str:
        """What is safe, and how to go on."""
        checkpoint = newest_good(self.args.output_dir)
        if checkpoint is None:
            return "there is no checkpoint"
        return f"the last good checkpoint is {checkpoint}; resume with --resume auto"

    def _maybe_log_save_evaluate(
        self, loss: Any, norm: Any, model: Any, trial: Any, *args: Any, **kwargs: Any
    ) -> None:
        """As Trainer._maybe_log_save_evaluate, by which every step and every epoch end; then end the run, if asked.

        should_training_stop would not do: transformers then ends the epoch, with an evaluation that was not due.
        """
        super()._maybe_log_save_evaluate(loss, norm, model, trial, *args, **kwargs)
        came = self.signal_of_any()
        if came is None:
            return
        if self._saved != self.progress():
            self._save_checkpoint(model, trial)
        name = "Ctrl-C" if came == signal.SIGINT else "SIGTERM"
        logger.warning("%s: step %d is saved; resume with --resume auto", name, self.state.global_step)
        raise KeyboardInterrupt(name) if came == signal.SIGINT else SystemExit(TERMINATED)

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
        except BaseException as error:  # for a full disk, safetensors and torch raise their own; a second Ctrl-C
            reason = why_not_written(error, run_dir)
            clear_stage(run_dir)
            if not isinstance(error, Exception):
                raise
            raise RunError(f"{checkpoint} cannot be written: {reason}; {self.way_on()}") from error
        self.accelerator.wait_for_everyone()
        self._saved = self.progress()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        if self.args.should_save:
            self._earlier.discard(str(checkpoint))
            self.rotate(run_dir)

    def rotate(self, run_dir: Path) -> None:
        """Delete the oldest checkpoints of this run but for the last and the best, until save_total_limit are left.

        Replaces transformers' rotate_checkpoints, which counts and deletes those of an earlier run too, and what has a
        longer name: see checkpoints_in.
        """
        limit, best = self.args.save_total_limit or 0, self.state.best_model_checkpoint
        if limit <= 0:
            return
        own = [each for each in by_age(checkpoints_in(run_dir)) if each not in self._earlier]
        needed = {own[-1]} if best is None else {own[-1], str(Path(best))}
        surplus = max(0, len(own) - max(limit, len(needed)))
        for checkpoint in [each for each in own if each not in needed][:surplus]:
            remove(Path(checkpoint), ignore_errors=True)

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

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """As PushingTrainer._save; outside of a checkpoint, a model is written beside its place, then moved there."""
        if self._stage is not None:
            super()._save(output_dir, state_dict)
            return
        directory = Path(output_dir or self.args.output_dir)
        stage = directory / STAGE / "model"
        if not self.args.should_save:
            # Where each process has a part of the weights, all take part; one of them writes.
            super()._save(str(stage), state_dict)
            return
        try:
            super()._save(str(stage), state_dict)
            for path in files_of(stage):
                synchronize(path)
            for path in files_of(stage):
                place = directory / path.relative_to(stage)
                place.parent.mkdir(exist_ok=True)
                path.replace(place)
        finally:
            # Not what an earlier run, which was killed, was replacing.
            shutil.rmtree(stage, ignore_errors=True)
            with suppress(OSError):
                stage.parent.rmdir()

    def save_state(self) -> None:
        """As Trainer.save_state, whole or not at all."""
        if self.is_world_process_zero():
            with atomic_writer(Path(self.args.output_dir, STATE)) as file:
                self.state.save_to_json(file.name)

    def save_metrics(self, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
        """As Trainer.save_metrics, each file whole or not at all; an all_results.json that is damaged begins anew."""
        if not self.is_world_process_zero():
            return
        directory = Path(self.args.output_dir)
        write_atomically(directory / f"{split}_results.json", results_json(metrics))
        if combined:
            path = directory / "all_results.json"
            write_atomically(path, results_json({**read_results(path), **metrics}))

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
