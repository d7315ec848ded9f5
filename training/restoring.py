"""A Trainer that takes from a checkpoint what fits, refuses what does not, and says what the checkpoint decides."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_callback import ExportableState

from ..configuration.base import RecipeConfig
from .files import InputError, in_one_line
from .models import load_config
from .saving import SavingTrainer

logger = logging.getLogger(__name__)


class RestoringTrainer(SavingTrainer):
    """A SavingTrainer into which nothing is loaded by halves.

    Args:
        kwargs: those of SavingTrainer.
    """

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

        Raises:
            InputError: the checkpoint has the state of another optimizer.
        """
        if checkpoint is None or self.is_deepspeed_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        if not any(Path(checkpoint).glob("optimizer*")):
            logger.warning("%s has no state of an optimizer, which begins anew", checkpoint)
        given = settings_of(self.optimizer)
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:
            raise InputError(f"optim: the state in {checkpoint} is of another one: {error}") from error
        kept = settings_of(self.optimizer)
        # What another version of torch has besides does no harm.
        if missing := sorted(given.keys() - kept.keys()):
            raise InputError(f"optim: the state in {checkpoint} is of another one: it has no {', '.join(missing)}")
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


def states_of(callbacks: Iterable[Any]) -> dict[str, dict[str, Any]]:
    """What callbacks that can be kept are made with, and remember, by the names of their classes."""
    return {type(each).__name__: each.state() for each in callbacks if isinstance(each, ExportableState)}
