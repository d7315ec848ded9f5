"""SIGTERM and Ctrl-C: as exceptions that end a command, and as the end of a training run after its next checkpoint."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SaveStrategy

logger = logging.getLogger(__name__)

# The exit codes of a process that SIGTERM or Ctrl-C ended.
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


class Terminated(BaseException):
    """SIGTERM was received. Like KeyboardInterrupt, it is not caught by `except Exception`."""


def terminate(number: int, frame: Any) -> None:
    """Handle SIGTERM. Raises Terminated."""
    raise Terminated


# The signals that end a training run, and their handlers outside of training: Python's, or our command line's.
HANDLERS: dict[int, tuple] = {
    signal.SIGTERM: (signal.SIG_DFL, terminate),
    signal.SIGINT: (signal.default_int_handler,),
}


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, unless another handler is installed already."""
    is_main = threading.current_thread() is threading.main_thread()
    is_default = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if is_default:
        restore_handlers_in_children()
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if is_default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ending(error: BaseException) -> tuple[str, int]:
    """The name of the signal behind Terminated or KeyboardInterrupt, and the exit code of the process."""
    return ("SIGTERM", TERMINATED) if isinstance(error, Terminated) else ("Ctrl-C", INTERRUPTED)


@cache
def restore_handlers_in_children() -> None:
    """Let SIGTERM end processes that are forked from this one, such as workers, without a traceback."""

    def restore() -> None:
        if signal.getsignal(signal.SIGTERM) == terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=restore)


class StopOnSignal(TrainerCallback):
    """Saves a checkpoint after the current step and ends the run, once SIGTERM or Ctrl-C was received.

    control.should_training_stop is not used: transformers would end the epoch with an additional evaluation. The
    callback has to be the last one, so that `on_save` of all others is called before it ends the run.

    Args:
        trainer: has the arguments of the run, and the accelerator, which combines the signals of all processes.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.args = trainer, trainer.args
        # Whether signals are recorded; and the signal that this process has received.
        self.is_listening = False
        self.received: int | None = None
        # The save_strategy of the run, while another one is in its place.
        self._save_strategy: SaveStrategy | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Inside, SIGTERM and the first Ctrl-C are recorded, unless other handlers are installed already."""
        self.received, process = None, os.getpid()

        def record(number: int, *_: Any) -> None:
            if os.getpid() != process:
                return  # A worker of a DataLoader inherits the handler; this process ends it.
            if self.received == number == signal.SIGINT:
                raise KeyboardInterrupt
            self.received = number
            if number == signal.SIGINT and self.args.should_log:
                logger.error("Ctrl-C: this step is finished and saved; a second Ctrl-C ends the run at once")

        is_main = threading.current_thread() is threading.main_thread()
        before = {number: signal.getsignal(number) for number in HANDLERS} if is_main else {}
        ours = [number for number, handler in before.items() if handler in HANDLERS[number]]
        for number in ours:
            signal.signal(number, record)
        self.is_listening = True
        try:
            yield
        finally:
            self.is_listening = False
            self.restore_save_strategy()
            for number in ours:
                signal.signal(number, before[number])
        if self.received is not None:
            # The signal came after the last step.
            signal.raise_signal(self.received)

    def received_by_any(self) -> int | None:
        """The signal that any of the processes has received, so that all end after the same step; None if none has."""
        if not self.is_listening:
            return None
        if self.args.world_size <= 1:
            return self.received
        counts = torch.zeros(len(HANDLERS), device=self.args.device)
        if self.received is not None:
            counts[list(HANDLERS).index(self.received)] = 1
        totals = self.trainer.accelerator.reduce(counts, "sum").tolist()
        return next((number for number, count in zip(HANDLERS, totals, strict=True) if count), None)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint."""
        if self.received_by_any() is None:
            return
        control.should_save = True
        if args.save_strategy == SaveStrategy.BEST:
            # With BEST, the Trainer only saves a step that is the best.
            self._save_strategy, args.save_strategy = args.save_strategy, SaveStrategy.STEPS

    on_epoch_end = on_evaluate = on_step_end

    def restore_save_strategy(self) -> None:
        """Restore the save_strategy that `on_step_end` has replaced."""
        if self._save_strategy is not None:
            self.args.save_strategy, self._save_strategy = self._save_strategy, None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the run.

        Raises:
            SystemExit: SIGTERM was received; the code is TERMINATED.
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        received = self.received_by_any()
        if received is None:
            return
        name = "Ctrl-C" if received == signal.SIGINT else "SIGTERM"
        logger.error("%s: step %d is saved; resume with --resume auto", name, state.global_step)
        raise KeyboardInterrupt(name) if received == signal.SIGINT else SystemExit(TERMINATED)
