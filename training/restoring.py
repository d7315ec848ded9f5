"""A Trainer that compares a checkpoint with the run before anything of it is loaded."""

import logging
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import ExportableState

from ..checkpoints.faults import MANIFEST, fault_of
from ..checkpoints.identity import (
    CHOICE,
    FREE,
    METRIC,
    WAITING,
    Change,
    Facts,
    changes_of,
    check_allowed,
    facts_of,
    read_facts,
    rows_digest,
)
from ..checkpoints.optimizer_states import (
    WAITED,
    check_optimizer,
    check_schedule,
    restart_schedule,
    schedule_unread,
    settings_of,
)
from ..checkpoints.run_directory import goes_on
from ..checkpoints.store import clear_stage, good_checkpoints
from ..configuration.base import RecipeConfig
from ..data.errors import InputError, error_line
from .loading import load_config
from .saving import SavingTrainer

logger = logging.getLogger(__name__)

# Options that a checkpoint's optimizer and schedule have their own values of.
OPTIMIZER = {"learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"}
# No checkpoint was looked for yet, which is not the same as none.
UNKNOWN: Any = object()
SCHEDULE = {"learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"}


class RestoringTrainer(SavingTrainer):
    """A SavingTrainer that refuses a checkpoint whose facts, weights or optimizer do not match.

    Args:
        kwargs: those of SavingTrainer.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # The facts of this run, and those that differ from the checkpoint that it is resumed from.
        self.facts: Facts = {}
        self.changes: list[Change] = []
        # What find_checkpoint returned, until train() is called with it.
        self._found: Any = UNKNOWN

    # --- Whose checkpoint it is ---

    def collect_facts(self) -> None:
        """Take the facts of the run as they are now.

        Raises:
            InputError: allow_changed names something else.
        """
        parts = (self.processing_class, self.data_collator, self.train_dataset)
        is_chosen = self.args.metric_for_best_model is not None
        self.facts = facts_of(self.model, self.args, *parts, self.computed_from() if is_chosen else None)
        check_allowed(self.args.allow_changed or [], self.facts)

    def computed_from(self) -> Facts:
        """What the metric is computed from by which the best model is chosen; names are among COMPUTED_FROM."""
        return {"eval_dataset": rows_digest(self.eval_dataset)}

    def find_checkpoint(self, given: str | bool | None, required: bool = True) -> str | None:
        """The checkpoint to resume from. Logs what differs from the run that wrote it, one line for each fact.

        Args:
            given: a path; True for the newest good checkpoint of this run in output_dir; None or False for none.
            required: with True, whether there must be one.

        Returns:
            None where output_dir has none, or only those of another run, which overwrite_output_dir deletes.

        Raises:
            InputError: there is none, it is damaged, or of another run; the message names what differs.
        """
        given = given or None
        if self._found is not UNKNOWN and given == self._found:
            return self._found
        if given is True and self.args.should_save:
            clear_stage(Path(self.args.output_dir))
        self.accelerator.wait_for_everyone()
        self.collect_facts()
        self._found = self.newest_own(required) if given is True else given and self.checked(given)
        if self._found is not None and self.args.should_log:
            self.log_changes(self._found)
        # overwrite_output_dir deletes what another process may still be reading.
        self.accelerator.wait_for_everyone()
        return self._found

    def checked(self, checkpoint: str) -> str:
        """The checkpoint, if it is good and of this run. Raises InputError if not."""
        if fault := fault_of(checkpoint):
            raise InputError(f"resume_from_checkpoint: {checkpoint} is damaged: {fault}")
        self.changes = self.changes_since(checkpoint)
        return checkpoint

    def newest_own(self, required: bool) -> str | None:
        """The newest good checkpoint of this run in output_dir; see find_checkpoint."""
        refused: InputError | None = None
        for checkpoint in good_checkpoints(self.args.output_dir):
            try:
                self.changes = self.changes_since(checkpoint)
            except InputError as error:
                refused = refused or error
                continue
            if refused is not None:
                logger.warning("Skipped: %s", refused)
            return checkpoint
        if self.args.overwrite_output_dir:
            return None
        if refused is not None:
            raise refused
        if required:
            raise InputError(f"resume_from_checkpoint: there is no good checkpoint in {self.args.output_dir}")
        return None

    def changes_since(self, checkpoint: str) -> list[Change]:
        """The facts that differ from the run that wrote the checkpoint; empty where those are not known.

        Raises:
            InputError: one of them changes a step, and allow_changed does not name it.
        """
        before = read_facts(Path(checkpoint))
        if before is None:
            return []
        changes = changes_of(before, self.facts)
        refused = [each for each in changes if not self.is_allowed(each)]
        if not refused:
            return changes
        anew = "omit --resume_from_checkpoint"
        if goes_on(checkpoint, self.args.output_dir):
            anew = "give --overwrite_output_dir true, and no --resume"
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} was written by another run: {'; '.join(map(str, refused))}. "
            f"To resume anyway: --allow_changed {' '.join(each.name for each in refused)}. To start over: {anew}"
        )

    def is_allowed(self, change: Change) -> bool:
        """Whether a fact may differ: it changes no step, or allow_changed names it."""
        # To begin or stop choosing a best model changes no step, unless the schedule waits for the metric.
        waits = self.args.lr_scheduler_type in WAITING
        begins = change.name in METRIC and None in (change.before, change.now) and not waits
        return begins or change.name in FREE or change.name in (self.args.allow_changed or [])

    def log_changes(self, checkpoint: str) -> None:
        """Log what differs from the checkpoint, and what cannot be verified."""
        if read_facts(Path(checkpoint)) is None:
            unknown = "belongs" if Path(checkpoint, MANIFEST).is_file() else "is complete and belongs"
            logger.warning(
                "%s: not written by this version's Trainer; cannot verify that it %s to this run", checkpoint, unknown
            )
        if not goes_on(checkpoint, self.args.output_dir):
            logger.warning("%s: the run goes on in another directory, %s", checkpoint, self.args.output_dir)
        for change in self.changes:
            logger.warning("%s: %s", checkpoint, change)

    # --- What is loaded ---

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """As Trainer._load_from_checkpoint.

        Raises:
            InputError: a tensor has another shape, or a later version of this package saved fields of the
                configuration that this one does not know; the message names them.
        """
        saved_config = Path(resume_from_checkpoint, "config.json")
        if isinstance(getattr(model or self.model, "config", None), RecipeConfig) and saved_config.exists():
            load_config(resume_from_checkpoint, "resume_from_checkpoint")
        try:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        except RuntimeError as error:
            if "size mismatch" not in str(error):
                raise
            raise InputError(f"{resume_from_checkpoint} does not match the model: {error_line(error)}") from error

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Refuse a checkpoint that does not match the model, on resume and when the best model is loaded.

        Replaces Trainer._issue_warnings_after_load, which lets a layer stay random with a warning.

        Raises:
            InputError: tensors are missing or unexpected; the message names them.
        """
        tied = set(getattr(self.model, "all_tied_weights_keys", {}))
        missing = sorted(set(load_result.missing_keys) - tied)
        if missing or load_result.unexpected_keys:
            raise InputError(
                f"the checkpoint does not match the model: missing {missing}, "
                f"unexpected {sorted(load_result.unexpected_keys)}"
            )
        # Of an adapter nothing was loaded that is tied, and what stands in place of a tied head can not be.
        if not hasattr(self.model, "peft_config"):
            self.model.tie_weights()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As Trainer._load_optimizer_and_scheduler, which says nothing of the arguments that the checkpoint overrules.

        What allow_changed names is taken from the arguments.

        Raises:
            InputError: the checkpoint has the state of another optimizer.
        """
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if not any(Path(checkpoint).glob("optimizer*")):
            logger.warning("%s has no state of an optimizer, which begins anew", checkpoint)
        schedule = self.lr_scheduler.state_dict()
        groups = [dict(group) for group in self.optimizer.param_groups]
        given = settings_of(groups)
        changed = {change.name for change in self.changes}
        is_other = "lr_scheduler_type" in changed
        if Path(checkpoint, "optimizer.pt").is_file():
            check_optimizer(Path(checkpoint, "optimizer.pt"), getattr(self.optimizer, "optimizer", self.optimizer))
        if Path(checkpoint, "scheduler.pt").is_file() and not is_other:
            check_schedule(Path(checkpoint, "scheduler.pt"), self.lr_scheduler)
        try:
            with schedule_unread(self) if is_other else nullcontext():
                super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            raise InputError(f"optim: the state in {checkpoint} is of another one: {error}") from error
        for group, own in zip(self.optimizer.param_groups, groups, strict=True):
            # Which some schedules write there, and others not.
            group |= {"initial_lr": own["initial_lr"]} if is_other and "initial_lr" in own else {}
        kept = settings_of(self.optimizer.param_groups)
        # What another version of torch has besides does no harm.
        if missing := sorted(given.keys() - kept.keys()):
            raise InputError(f"optim: the state in {checkpoint} is of another one: it has no {', '.join(missing)}")
        if changed & OPTIMIZER:
            for group, own in zip(self.optimizer.param_groups, groups, strict=True):
                group.update({name: value for name, value in own.items() if name not in ("params", "lr")})
            kept = settings_of(self.optimizer.param_groups)
        if changed & SCHEDULE:
            rates = [group["lr"] for group in groups]
            # What waits for a metric goes on waiting, if it did so before.
            begins = bool(changed & SCHEDULE - {"learning_rate"})
            restart_schedule(self.lr_scheduler, schedule, self.state.global_step, rates, begins)
        waited = {name: schedule[name] for name in WAITED if name in schedule}
        if waited and changed & {*CHOICE}:
            # It has seen the best of another metric.
            self.lr_scheduler.load_state_dict({**self.lr_scheduler.state_dict(), **waited})
        if overruled := [f"{name} {kept[name]}, not {given[name]}" for name in given if given[name] != kept[name]]:
            logger.warning("The optimizer goes on as in %s: %s", checkpoint, "; ".join(overruled))

    def _load_callback_state(self) -> None:
        """As Trainer._load_callback_state, of callbacks that are made as the arguments say now.

        Replaces `new_callback = type(callback)(**args)`, with the arguments of the checkpoint. One that it does not
        know would end the run, at `self.state.stateful_callbacks[cb_name]` of Trainer._save_checkpoint.
        """
        for name, state in states_of(self.callback_handler.callbacks).items():
            kept = self.state.stateful_callbacks.setdefault(name, state)
            # Of several of one kind there is a list.
            if isinstance(kept, dict):
                kept["args"] = state["args"]
        super()._load_callback_state()


def states_of(callbacks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """What callbacks that can be kept are made with, and remember, by the names of their classes."""
    return {type(each).__name__: each.state() for each in callbacks if isinstance(each, ExportableState)}
