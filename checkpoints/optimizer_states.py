"""Checking and restoring the states of optimizers and schedules in a checkpoint."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ..data.errors import InputError, describe
from .faults import is_number, is_whole, load_saved
from .identity import CHOICE

logger = logging.getLogger(__name__)

# Arguments that the states of the optimizer and of the schedule in a checkpoint also contain.
OPTIMIZER = {"learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim", "optim_args"}
SCHEDULE = {"learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps"}

# The states that torch's optimizers have for each parameter, in the shape of the parameter.
OF_SHAPE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum")
# The states that Adam needs for each parameter.
OF_ADAM = ("step", "exp_avg", "exp_avg_sq")
# The state of a schedule that follows a metric.
BEST_SO_FAR = ("best", "num_bad_epochs", "num_good_epochs")


def check_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> None:
    """Refuse a state that does not fit: torch loads tensors of any shape, and its kernels then read past their end.

    Args:
        path: of optimizer.pt; the data of its tensors is not read.
        optimizer: of the run.

    Raises:
        InputError: the state does not fit; the message names the file and the fault.
    """
    try:
        content = load_saved(path, mmap=True)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if reason := wrong_groups(content, optimizer) or wrong_tensors(content, optimizer):
        raise InputError(f"{path}: {reason}")


def wrong_groups(content: Any, optimizer: torch.optim.Optimizer) -> str | None:
    """What is wrong with the structure of a state and its numbers, as a message; None if nothing is."""
    if not isinstance(content, dict) or not {"state", "param_groups"} <= content.keys():
        return "is no state of an optimizer"
    groups, state = content["param_groups"], content["state"]
    are_groups = isinstance(groups, list) and all(
        isinstance(group, dict) and isinstance(group.get("params"), list) for group in groups
    )
    if not are_groups or not isinstance(state, dict) or not all(isinstance(each, dict) for each in state.values()):
        return "is no state of an optimizer"
    for group, own in zip(groups, optimizer.param_groups, strict=False):
        for name, value in own.items():
            found = group.get(name, value)
            if is_number(value) and not is_number(found) and not torch.is_tensor(found):
                return f"has {name} that is {describe(found)}, not a number"
    return None


def wrong_tensors(content: dict[str, Any], optimizer: torch.optim.Optimizer) -> str | None:
    """What is wrong with the tensors of the parameters, as a message; None if nothing is.

    Optimizers that are not torch's may have tensors of other shapes.
    """
    if not type(optimizer).__module__.startswith("torch."):
        return None
    numbers = [number for group in content["param_groups"] for number in group["params"]]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    needed = OF_ADAM if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) else ()
    if needed and not content["state"]:
        return "has no state of any parameter"
    # torch checks the number of parameters itself.
    for number, parameter in zip(numbers, parameters, strict=False):
        saved = content["state"].get(number, {})
        if saved and (missing := [name for name in needed if name not in saved]):
            return f"has no {missing[0]} of parameter {number}"
        for name in OF_SHAPE:
            # Some optimizers have None until a state is used.
            if (found := saved.get(name)) is None:
                continue
            if not torch.is_tensor(found):
                return f"has {name} of parameter {number} that is {describe(found)}"
            if found.shape != parameter.shape:
                return f"has {name} of parameter {number} of shape {[*found.shape]}, not {[*parameter.shape]}"
    return None


def check_schedule(path: Path, scheduler: Any) -> None:
    """Refuse a state that is not one of the run's schedule.

    Args:
        path: of scheduler.pt.
        scheduler: of the run.

    Raises:
        InputError: the state does not fit; the message names the file and the fault.
    """
    try:
        content = load_saved(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    own = scheduler.state_dict()
    # Additional fields of another version of torch do no harm, but these are needed.
    needed = ("last_epoch", "lr_lambdas") if "lr_lambdas" in own else ("last_epoch",)
    if not isinstance(content, dict) or not {*needed} <= content.keys() or not is_whole(content["last_epoch"]):
        raise InputError(f"{path}: is no state of a schedule")
    for name in own.keys() & content.keys():
        if not is_like(own[name], content[name]):
            raise InputError(f"{path}: has {name} that is {describe(content[name])}, not {describe(own[name])}")


def is_like(own: Any, found: Any) -> bool:
    """Whether two values are of the same kind; in lists, each pair of items."""
    if own is None or found is None:
        return True
    if isinstance(own, list | tuple):
        is_list = isinstance(found, list | tuple) and len(found) == len(own)
        return is_list and all(map(is_like, own, found))
    return is_number(found) if is_number(own) else isinstance(found, type(own))


def restore_optimizer(trainer: Any, checkpoint: Path, changed: set[str], load: Callable[[], None]) -> None:
    """Restore the optimizer and the schedule of a Trainer; changed arguments override the checkpoint.

    Args:
        trainer: has an optimizer and a schedule that are built, but not used yet.
        checkpoint: may have their states.
        changed: the names of the arguments that differ from those of the checkpoint, and are allowed to.
        load: loads the states as transformers does, which silently replaces the values of the arguments.

    Raises:
        InputError: the checkpoint has the state of another optimizer.
    """
    if not any(checkpoint.glob("optimizer*")):
        logger.warning("%s has no state of an optimizer, which starts without one", checkpoint)
    optimizer, scheduler = trainer.optimizer, trainer.lr_scheduler
    initial = scheduler.state_dict()
    groups = [dict(group) for group in optimizer.param_groups]
    given, is_new_schedule = settings_of(groups), "lr_scheduler_type" in changed
    if (checkpoint / "optimizer.pt").is_file():
        check_optimizer(checkpoint / "optimizer.pt", getattr(optimizer, "optimizer", optimizer))
    if (checkpoint / "scheduler.pt").is_file() and not is_new_schedule:
        check_schedule(checkpoint / "scheduler.pt", scheduler)
    try:
        with skip_schedule_state(trainer) if is_new_schedule else nullcontext():
            load()
    except ValueError as error:
        raise InputError(f"optim: {checkpoint} has the state of another optimizer: {error}") from error
    for group, own in zip(optimizer.param_groups, groups, strict=True):
        # Only some schedules write it into the groups.
        group |= {"initial_lr": own["initial_lr"]} if is_new_schedule and "initial_lr" in own else {}
    restored = settings_of(optimizer.param_groups)
    # Additional settings of another version of torch do no harm.
    if missing := sorted(given.keys() - restored.keys()):
        raise InputError(f"optim: {checkpoint} has the state of another optimizer: it has no {', '.join(missing)}")
    if changed & OPTIMIZER:
        for group, own in zip(optimizer.param_groups, groups, strict=True):
            group.update({name: value for name, value in own.items() if name not in ("params", "lr")})
        restored = settings_of(optimizer.param_groups)
    if changed & SCHEDULE:
        # A schedule that follows a metric keeps its state if only the learning rate has changed.
        restarts = bool(changed & SCHEDULE - {"learning_rate"})
        restart_schedule(scheduler, initial, trainer.state.global_step, [group["lr"] for group in groups], restarts)
    elif isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        # A run that was made longer or shorter has other factors, also for its first step.
        set_rates(scheduler, current_rates(scheduler))
    unseen = {name: initial[name] for name in BEST_SO_FAR if name in initial}
    if unseen and changed & {*CHOICE}:
        # Its best value is that of another metric.
        scheduler.load_state_dict({**scheduler.state_dict(), **unseen})
    overridden = [f"{name} {restored[name]}, not {given[name]}" for name in given if given[name] != restored[name]]
    if overridden:
        logger.warning("The optimizer keeps the settings of %s: %s", checkpoint, "; ".join(overridden))


class NotLoaded:
    """Takes the place of a schedule while the state of another schedule is loaded."""

    def load_state_dict(self, state: Any) -> None:
        """Ignore the state."""


@contextmanager
def skip_schedule_state(trainer: Any) -> Iterator[None]:
    """Inside, loading a state does not change the Trainer's schedule."""
    scheduler, trainer.lr_scheduler = trainer.lr_scheduler, NotLoaded()
    try:
        yield
    finally:
        trainer.lr_scheduler = scheduler


def settings_of(groups: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings of an optimizer with these parameter groups, by the names of the arguments.

    The first group is read, because the second group of transformers has no weight decay. The learning rate is the
    initial one, before a schedule changed it.
    """
    group = groups[0]
    names = {"initial_lr": "learning_rate"}
    return {names.get(name, name): value for name, value in group.items() if name not in ("params", "lr")}


def restart_schedule(scheduler: Any, state: dict[str, Any], steps: int, rates: list[float], restarts: bool) -> None:
    """Set a schedule to its state after this many steps, in place of the state that was loaded into it.

    Args:
        scheduler: the schedule of the run.
        state: the initial state of the schedule.
        steps: the number of steps so far.
        rates: the initial learning rates of the optimizer's groups, from the arguments.
        restarts: whether a schedule that follows a metric restarts; if not, it only gets the rates.
    """
    if isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR):
        scheduler.load_state_dict(state)
        scheduler.last_epoch = steps
        rates = current_rates(scheduler)
    elif restarts:
        scheduler.load_state_dict(state)
    set_rates(scheduler, rates)


def current_rates(scheduler: torch.optim.lr_scheduler.LambdaLR) -> list[float]:
    """The learning rates of the optimizer's groups at the current step of a schedule."""
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    return [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]


def set_rates(scheduler: Any, rates: list[float]) -> None:
    """Set the learning rates of the optimizer's groups."""
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    # The Trainer logs these rates.
    scheduler._last_lr = rates
