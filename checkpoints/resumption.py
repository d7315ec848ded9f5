"""Resuming a run: finding the checkpoint, and comparing the run with the one that wrote it."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerState
from transformers.trainer_callback import ExportableState

from ..data.errors import InputError
from ..data.writing import write_atomically
from ..hub_card.record import RunRecord
from .faults import IDENTITY, MANIFEST, POSITION, STATE, fault_of
from .identity import (
    BATCHES,
    CHOICE,
    FREE,
    LENGTH,
    METRIC,
    WAITING,
    Change,
    Facts,
    changes_of,
    identity_of,
    read_facts,
)
from .position import read_position
from .run_directory import is_inside
from .store import clear_stage, good_checkpoints

logger = logging.getLogger(__name__)

# The value of `found` before a checkpoint is looked for; None means that there is none.
NOT_SEARCHED: Any = object()


class Resumption:
    """The checkpoint that a run is resumed from, if any, and its comparison with the run.

    Args:
        trainer: has the arguments, the accelerator, which synchronizes the processes, and the facts of the run.

    Attributes:
        facts: the facts of this run.
        changes: the facts that differ from the run that wrote the checkpoint.
    """

    def __init__(self, trainer: Any):
        self.trainer, self.args = trainer, trainer.args
        self.facts: Facts = {}
        self.changes: list[Change] = []
        # The result of `find`, until training begins.
        self._found: Any = NOT_SEARCHED

    @property
    def changed(self) -> set[str]:
        """The names of the facts in `changes`."""
        return {change.name for change in self.changes}

    # --- Finding the checkpoint ---

    def find(self, given: str | bool | None, required: bool = True) -> str | None:
        """The checkpoint to resume from. Logs the facts that differ from the run that wrote it, one line each.

        Args:
            given: a path; True for the newest good checkpoint of this run in output_dir; None or False for none.
            required: with True, whether there must be one.

        Returns:
            None if output_dir has no checkpoint, or only those of another run, which overwrite_output_dir deletes.

        Raises:
            InputError: there is no checkpoint, it is damaged, or it is of another run; the message lists what differs.
        """
        given = given or None
        if self._found is not NOT_SEARCHED and given == self._found:
            return self._found
        if given is True and self.args.should_save:
            clear_stage(Path(self.args.output_dir))
        self.trainer.accelerator.wait_for_everyone()
        self.facts = self.trainer.collect_facts()
        self._found = self._newest_of_run(required) if given is True else given and self._checked(given)
        if self._found is not None and self.args.should_log:
            self._log_changes(self._found)
        # overwrite_output_dir deletes what another process may still be reading.
        self.trainer.accelerator.wait_for_everyone()
        return self._found

    def reset(self) -> None:
        """Let the next call of `find` search again. Called when training begins, because it writes new checkpoints."""
        self._found = NOT_SEARCHED

    def _checked(self, checkpoint: str) -> str:
        """The checkpoint, if it is good and of this run. Raises InputError if not."""
        if fault := fault_of(checkpoint):
            raise InputError(f"resume_from_checkpoint: {checkpoint} is damaged: {fault}")
        self.changes = self._changes_since(checkpoint)
        return checkpoint

    def _newest_of_run(self, required: bool) -> str | None:
        """The newest good checkpoint of this run in output_dir; see `find`."""
        refused: InputError | None = None
        for checkpoint in good_checkpoints(self.args.output_dir):
            try:
                self.changes = self._changes_since(checkpoint)
            except InputError as error:
                refused = refused or error
                continue
            if refused is not None:
                logger.warning("Skipped: %s", refused)
            return checkpoint
        if self.args.overwrite_output_dir:
            if refused is not None and self.args.should_log:
                logger.warning("This run starts over, and overwrite_output_dir deletes the earlier one. %s", refused)
            return None
        if refused is not None:
            raise refused
        if required:
            raise InputError(f"resume_from_checkpoint: there is no good checkpoint in {self.args.output_dir}")
        return None

    # --- Comparing the runs ---

    def _changes_since(self, checkpoint: str) -> list[Change]:
        """The facts that differ from the run that wrote the checkpoint; empty if that run's facts are unknown.

        Raises:
            InputError: one of them changes the steps of the run, and allow_changed does not name it.
        """
        before = read_facts(Path(checkpoint))
        if before is None:
            return []
        changes = changes_of(before, self.facts)
        refused = [each for each in changes if not self._is_allowed(each)]
        if not refused:
            return changes
        start_over = "omit --resume_from_checkpoint"
        if is_inside(checkpoint, self.args.output_dir):
            start_over = "give --overwrite_output_dir true, and no --resume"
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} was written by another run: {'; '.join(map(str, refused))}. "
            f"To resume anyway: --allow_changed {' '.join(each.name for each in refused)}. To start over: {start_over}"
        )

    def _is_allowed(self, change: Change) -> bool:
        """Whether a fact may differ: it does not change the steps of the run, or allow_changed names it."""
        # Choosing a best model from now on, or no longer, changes no step, unless the schedule follows the metric.
        waits = self.args.lr_scheduler_type in WAITING
        begins = change.name in METRIC and None in (change.before, change.now) and not waits
        return begins or change.name in FREE or change.name in (self.args.allow_changed or [])

    def _log_changes(self, checkpoint: str) -> None:
        """Log the differences from the checkpoint, and what cannot be verified."""
        if read_facts(Path(checkpoint)) is None:
            unknown = "belongs" if Path(checkpoint, MANIFEST).is_file() else "is complete and belongs"
            logger.warning(
                "%s: not written by this version's Trainer; cannot verify that it %s to this run", checkpoint, unknown
            )
        if not is_inside(checkpoint, self.args.output_dir):
            logger.warning("%s: the run continues in another directory, %s", checkpoint, self.args.output_dir)
        for change in self.changes:
            logger.warning("%s: %s", checkpoint, change)

    # --- The facts on disk, and on the card ---

    def write_facts(self, directory: Path) -> None:
        """Write run.json: the name of the run, its facts, and the values that the command line has chosen."""
        content: dict[str, Any] = {"run": identity_of(self.facts), "facts": self.facts}
        chosen = getattr(self.args, "default_options", None)
        if chosen is not None:
            content["defaults"] = chosen
        write_atomically(directory / IDENTITY, json.dumps(content, indent=1))

    def record(self, step: int, callbacks: Iterable[Any]) -> None:
        """Write run.json to output_dir, and pass the name of the run and the changed facts to the RunRecord.

        Args:
            step: the step after which the changed facts hold.
            callbacks: the callbacks of the run.
        """
        if self.args.should_save:
            self.write_facts(Path(self.args.output_dir))
        changes = [(step, *each) for each in self.changes if each.name not in FREE or each.name in LENGTH]
        for callback in callbacks:
            if isinstance(callback, RunRecord):
                callback.run, callback.changes = identity_of(self.facts), changes

    # --- Restoring from a checkpoint ---

    def position_in(self, checkpoint: Path) -> dict[str, Any] | None:
        """The content of position.pt; None if another Trainer or an earlier version, with unknown facts, wrote it."""
        is_ours = (checkpoint / POSITION).is_file() and read_facts(checkpoint) is not None
        return read_position(checkpoint) if is_ours else None

    def has_same_batches(self, checkpoint: Path) -> bool:
        """Whether the run goes on with the next batch: no fact that decides the rows of a batch has changed."""
        if self.args.ignore_data_skip:
            return False
        others = [str(change) for change in self.changes if change.name in BATCHES]
        if others and self.args.should_log:
            logger.warning(
                "Batches hold other rows than in %s: %s. The run continues after the same number of steps, "
                "not after the same rows",
                checkpoint,
                "; ".join(others),
            )
        return not others

    def restore_best(self, checkpoint: str, state: TrainerState, callbacks: Iterable[Any]) -> None:
        """Restore the path of the best model, also if output_dir was moved; or reset it, if the metric has changed.

        Replaces `self.state.best_model_checkpoint = None` of Trainer._init_training_state, which loses the path. After
        a change of the metric, or of the facts that it is computed from, the old figure cannot be compared with new
        ones.

        Raises:
            InputError: it does not exist, and load_best_model_at_end needs it.
        """
        if not self.changed & {*CHOICE}:
            state.best_model_checkpoint = self._best_model(Path(checkpoint))
            return
        if state.best_metric is not None and self.args.should_log:
            now = "none is chosen now" if self.args.metric_for_best_model is None else "it is chosen again"
            logger.warning("%s: the best model so far was chosen otherwise; %s", checkpoint, now)
        state.best_metric = state.best_model_checkpoint = state.best_global_step = None
        for callback in early_stopping(callbacks):
            callback.early_stopping_patience_counter = 0

    def _best_model(self, checkpoint: Path) -> str | None:
        """The checkpoint of the best model, beside the given one or in output_dir. Raises InputError."""
        best = TrainerState.load_from_json(str(checkpoint / STATE)).best_model_checkpoint
        if best is None:
            return None
        places = [Path(self.args.output_dir, Path(best).name), checkpoint.parent / Path(best).name]
        found = next((str(place) for place in places if place.is_dir()), None)
        if found is None and self.args.load_best_model_at_end:
            raise InputError(f"load_best_model_at_end: the best model, {best}, does not exist any more")
        return found


def early_stopping(callbacks: Iterable[Any]) -> list[EarlyStoppingCallback]:
    """The callbacks that stop a run early."""
    return [each for each in callbacks if isinstance(each, EarlyStoppingCallback)]


def is_stopped(callbacks: Iterable[Any]) -> bool:
    """Whether early stopping had ended the run when the checkpoint was written."""
    return any(
        each.early_stopping_patience_counter >= each.early_stopping_patience for each in early_stopping(callbacks)
    )


def restore_callbacks(callbacks: list[Any], state: TrainerState, all_kinds: bool) -> None:
    """Restore the attributes of callbacks, such as counters of early stopping, and give each an entry in the state.

    The arguments of a callback stay those of this run. By default the Trainer restores nothing; otherwise it replaces
    the callbacks by new ones with the checkpoint's arguments. Without an entry, saving fails at
    `self.state.stateful_callbacks[cb_name]` of Trainer._save_checkpoint.

    Args:
        callbacks: the callbacks of the run.
        state: the state in the checkpoint.
        all_kinds: whether callbacks of all classes are restored; otherwise only early stopping is.
    """
    by_name: dict[str, list[Any]] = {}
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            by_name.setdefault(type(callback).__name__, []).append(callback)
    for name, own in by_name.items():
        saved = state.stateful_callbacks.get(name, [])
        # For several callbacks of a class, each checkpoint appends their states to the list.
        entries = saved[-len(own) :] if isinstance(saved, list) else [saved]
        for callback, entry in zip(own, entries, strict=False):
            if all_kinds or isinstance(callback, EarlyStoppingCallback):
                for attribute, value in entry.get("attributes", {}).items():
                    setattr(callback, attribute, value)
        current = [callback.state() for callback in own]
        if len(own) > 1:
            state.stateful_callbacks[name] = current
        else:
            state.stateful_callbacks.setdefault(name, current[0])
