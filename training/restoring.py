"""A Trainer that takes from a checkpoint what fits, refuses what does not, and says what the checkpoint decides."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import ExportableState

from ..configuration.base import RecipeConfig
from .checkpoints import MANIFEST, fault_of, good_checkpoints
from .directory import goes_on
from .files import InputError, in_one_line
from .identity import CHOICE, FREE, WAITING, Change, Facts, changes_of, check_allowed, facts_of, read_facts
from .loading import load_config
from .saving import SavingTrainer

logger = logging.getLogger(__name__)

# Options that a checkpoint's optimizer and schedule have their own values of.
OPTIMIZER = {"learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"}
SCHEDULE = {"learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"}


class RestoringTrainer(SavingTrainer):
    """A SavingTrainer into which nothing is loaded by halves.

    Args:
        kwargs: those of SavingTrainer.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        # What decides the steps of this run, and what of it is otherwise than in the checkpoint that it goes on from.
        self.facts: Facts = {}
        self.changes: list[Change] = []
        # The checkpoint that was found, before train() is called with it.
        self._found: str | None = None

    # --- Whose checkpoint it is ---

    def take_facts(self) -> None:
        """Note what decides the steps of the run, as it is now.

        Raises:
            InputError: allow_changed names something else.
        """
        parts = (self.processing_class, self.data_collator, self.train_dataset, self.eval_dataset)
        self.facts = facts_of(self.model, self.args, *parts)
        check_allowed(self.args.allow_changed or [], self.facts)

    def find_checkpoint(self, given: str | bool | None) -> str | None:
        """The checkpoint that the run goes on from; what is otherwise now than in it is said, a line for each.

        Args:
            given: a path; True for the newest good checkpoint of this run in output_dir; None or False for none.

        Returns:
            None where output_dir has none, or only checkpoints of another run, which overwrite_output_dir deletes.

        Raises:
            InputError: the checkpoint is damaged, or of another run; the message names what differs.
        """
        if given and given == self._found:
            return str(given)
        self.take_facts()
        self.changes = []
        if not given:
            return None
        if given is not True:
            if fault := fault_of(given):
                raise InputError(f"resume_from_checkpoint: {given} is damaged: {fault}")
            self.changes = self.changes_since(given)
            return self.said(given)
        refused: InputError | None = None
        for checkpoint in good_checkpoints(self.args.output_dir):
            try:
                self.changes = self.changes_since(checkpoint)
            except InputError as error:
                refused = refused or error
                continue
            if refused is not None:
                logger.warning("Passed over: %s", refused)
            return self.said(checkpoint)
        if refused is not None and not self.args.overwrite_output_dir:
            raise refused
        return None

    def changes_since(self, checkpoint: str) -> list[Change]:
        """What is otherwise now than in the run that wrote the checkpoint.

        Raises:
            InputError: something that changes a step, and allow_changed does not name it.
        """
        before = read_facts(Path(checkpoint))
        if before is None:
            return []
        changes = changes_of(before, self.facts)
        refused = [each for each in changes if not self.may_be(each)]
        if not refused:
            return changes
        begin = "leave it out to begin"
        if goes_on(checkpoint, self.args.output_dir):
            begin = "--overwrite_output_dir true without --resume deletes it and begins"
        raise InputError(
            f"resume_from_checkpoint: {checkpoint} is of another run: {'; '.join(map(str, refused))}. "
            f"--allow_changed {' '.join(each.name for each in refused)} goes on all the same; {begin} anew"
        )

    def may_be(self, change: Change) -> bool:
        """Whether a resumed run may have this otherwise: it changes no step, or is allowed."""
        # A best model that was not chosen before, or is not any more; a schedule may wait for it.
        waits = self.args.lr_scheduler_type in WAITING
        begins = change.name in CHOICE and None in (change.before, change.now) and not waits
        return begins or change.name in FREE or change.name in (self.args.allow_changed or [])

    def said(self, checkpoint: str) -> str:
        """The checkpoint, once it is said what is otherwise now, and what of it nobody can tell."""
        self._found = checkpoint
        if not self.args.should_log:
            return checkpoint
        if read_facts(Path(checkpoint)) is None:
            unknown = (
                "whether it is of this run"
                if Path(checkpoint, MANIFEST).is_file()
                else "whether it is whole, and of this run,"
            )
            logger.warning("%s: not written by this version's Trainer; %s is not verified", checkpoint, unknown)
        if not goes_on(checkpoint, self.args.output_dir):
            logger.warning("%s: the run goes on in another directory, %s", checkpoint, self.args.output_dir)
        for change in self.changes:
            logger.warning("%s: %s", checkpoint, change)
        return checkpoint

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
            raise InputError(f"{resume_from_checkpoint} does not match the model: {in_one_line(error)}") from error

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
        given, schedule = settings_of(self.optimizer), self.lr_scheduler.state_dict()
        groups = [{**group, "params": None} for group in self.optimizer.param_groups]
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            raise InputError(f"optim: the state in {checkpoint} is of another one: {error}") from error
        kept = settings_of(self.optimizer)
        # What another version of torch has besides does no harm.
        if missing := sorted(given.keys() - kept.keys()):
            raise InputError(f"optim: the state in {checkpoint} is of another one: it has no {', '.join(missing)}")
        changed = {change.name for change in self.changes}
        if changed & OPTIMIZER:
            for group, own in zip(self.optimizer.param_groups, groups, strict=True):
                group.update({name: value for name, value in own.items() if name not in ("params", "lr")})
            kept = settings_of(self.optimizer)
        if changed & SCHEDULE:
            rates = [group["lr"] for group in groups]
            # What waits for a metric goes on waiting, if it did so before.
            begins = bool(changed & SCHEDULE - {"learning_rate"})
            restart_schedule(self.lr_scheduler, schedule, self.state.global_step, rates, begins)
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


def settings_of(optimizer: Any) -> dict[str, Any]:
    """What an optimizer was built with, by the names of the arguments where those have others.

    Of several groups the first counts: transformers' second one has no weight decay. The learning rate is that before
    a scheduler changed it.
    """
    group = optimizer.param_groups[0]
    names = {"initial_lr": "learning_rate"}
    return {names.get(name, name): value for name, value in group.items() if name not in ("params", "lr")}


def restart_schedule(scheduler: Any, state: dict[str, Any], steps: int, rates: list[float], begins: bool) -> None:
    """Bring a schedule to where it would be after so many steps, in place of what was loaded into it.

    Args:
        scheduler: of the run.
        state: that of the scheduler before any step.
        steps: taken so far.
        rates: learning rates of the optimizer's groups, as the arguments have them.
        begins: whether a schedule that does not follow from the steps is a new one, and not at other rates alone.
    """
    if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        scheduler.load_state_dict(state)
        scheduler.last_epoch = steps
        factors = [factor(steps) for factor in scheduler.lr_lambdas]
        rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    elif begins:
        scheduler.load_state_dict(state)
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    # What logs tell.
    scheduler._last_lr = rates


def states_of(callbacks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """What callbacks that can be kept are made with, and remember, by the names of their classes."""
    return {type(each).__name__: each.state() for each in callbacks if isinstance(each, ExportableState)}
