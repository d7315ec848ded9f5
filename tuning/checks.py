"""Checks of a search before its first trial: what it does not have, what cannot be built, and what has no effect."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any

from ..data.errors import InputError
from ..tasks.sequence_classification import REGRESSION
from ..training.arguments import BlendTrainingArguments
from ..training.defaults import UNWARMED
from ..training.run_options import dry_run, restored
from ..training.trainer import BlendTrainer
from .space import Space

# Options that a search does not have, and why.
REFUSED = {
    "early_stopping_patience": "a search stops bad trials itself",
    "average_checkpoints": "a trial has no checkpoints",
    "resume": "the same command goes on with a search",
    "resume_from_checkpoint": "the same command goes on with a search",
    "push_to_hub": "a search keeps no model; give it to seqblend train with best.yaml",
    "push_original": "a search keeps no model; give it to seqblend train with best.yaml",
    "save_original": "a search keeps no model; give it to seqblend train with best.yaml",
}
# Options that some optimizers do not read.
OF_ADAM = ("adam_beta1", "adam_beta2", "adam_epsilon")


def check_refused(args: BlendTrainingArguments) -> None:
    """Raises InputError for an option that a search does not have."""
    for name, reason in REFUSED.items():
        # resume_from_checkpoint is a text.
        if getattr(args, name) not in (None, False, "false", "False"):
            raise InputError(f"{name}: {reason}")


def check_trials(space: Space, trainer: BlendTrainer) -> None:
    """Check that trials can run, and can differ.

    Args:
        space: what is searched.
        trainer: of the run that the trials repeat.

    Raises:
        InputError: trials cannot be compared, a value cannot be used, or an option has no effect.
    """
    args = trainer.args
    if args.eval_strategy == "no" or args.metric_for_best_model is None:
        raise InputError("eval_strategy: a search compares evaluations of a validation split")
    if args.world_size > 1:
        raise InputError("tune: a search runs in one process; several would each make their own trials")
    for name, part in space.items():
        for value in part.values:
            check_value(trainer, name, value)
    for name, reason in without_effect(space, trainer).items():
        raise InputError(f"search.{name}: has no effect with {reason}; leave one of the two out")


def check_value(trainer: BlendTrainer, name: str, value: Any) -> None:
    """Raises InputError if the batches, the optimizer or the schedule cannot be built with a value of an option."""
    with given(trainer.args, {name: value}), restored(trainer, "_train_batch_size"):
        # transformers does the same for each trial.
        trainer._train_batch_size = trainer.args.train_batch_size
        try:
            dry_run(trainer)
        except InputError as error:
            raise InputError(f"search.{name}: {value} cannot be used ({error})") from error


def without_effect(space: Space, trainer: BlendTrainer) -> dict[str, str]:
    """The options that have no effect in any trial, each with the option that is why, and its value."""
    args, found = trainer.args, {}
    if args.max_steps > 0:
        found["num_train_epochs"] = f"max_steps {args.max_steps}"
    if args.max_tokens_per_batch is not None:
        found["per_device_train_batch_size"] = f"max_tokens_per_batch {args.max_tokens_per_batch}"
    if trainer.model.config.problem_type == REGRESSION:
        found["label_smoothing_factor"] = f"problem_type {REGRESSION}"
    schedules, optimizers = (
        space[name].values if name in space else (getattr(args, name).value,)
        for name in ("lr_scheduler_type", "optim")
    )
    reasons = dict.fromkeys(OF_ADAM, f"optim {', '.join(optimizers)}")
    if set(schedules) <= set(UNWARMED):
        reasons["warmup_steps"] = f"lr_scheduler_type {', '.join(schedules)}"
    for name in space.keys() & reasons.keys():
        if all(len(optimizer_settings(trainer, each, name, space[name].values)) == 1 for each in optimizers):
            found[name] = reasons[name]
    return {name: reason for name, reason in found.items() if name in space}


def optimizer_settings(trainer: BlendTrainer, optimizer: str, name: str, values: tuple[Any, ...]) -> set[str]:
    """The different settings that an optimizer has with these values of an option; as texts, some hold weights."""
    found = set()
    for value in values:
        with given(trainer.args, {"optim": optimizer, name: value}):
            found.add(str(trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)[1]))
    return found


@contextmanager
def given(args: BlendTrainingArguments, values: dict[str, Any]) -> Iterator[None]:
    """Inside, options have these values."""
    with restored(args, *values):
        for name, value in values.items():
            now = getattr(args, name)
            setattr(args, name, type(now)(value) if isinstance(now, Enum) else value)
        yield
