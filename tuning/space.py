"""The space of a search: which options its trials may change, and between which values."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from ..checkpoints.identity import WAITING
from ..data.errors import NEAREST, InputError, describe, nearest_first
from ..training.checks import NUMBERS
from ..training.command_line import Parser

# The options that a trial may change, and the types of their values.
SEARCHED: dict[str, type] = {
    **dict.fromkeys(("learning_rate", "weight_decay", "warmup_steps", "num_train_epochs", "max_grad_norm"), float),
    **dict.fromkeys(("label_smoothing_factor", "adam_beta1", "adam_beta2", "adam_epsilon"), float),
    **dict.fromkeys(("per_device_train_batch_size", "gradient_accumulation_steps", "max_steps"), int),
    **dict.fromkeys(("lr_scheduler_type", "optim"), str),
}
# Shares: from 0, below 1.
SHARES = ("label_smoothing_factor", "adam_beta1", "adam_beta2")
# If one of these is searched, the steps of two trials cannot be compared.
OF_STEPS = {"num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps"}
KEYS = ("low", "high", "log", "step")


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included.

    Args:
        low: the smallest.
        high: the largest.
        log: whether each order of magnitude is as probable as another.
        step: the difference of two neighbouring values; None for any.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def values(self) -> tuple[float, float]:
        """Its ends."""
        return self.low, self.high

    def suggest(self, trial: Any, name: str) -> float:
        """A value for a trial of Optuna."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]

    def suggest(self, trial: Any, name: str) -> Any:
        """A value for a trial of Optuna."""
        return trial.suggest_categorical(name, self.values)


Space = dict[str, Range | Choice]


def parse_space(search: Any, given: Collection[str]) -> Space:
    """The space of `search` in a file of options.

    Args:
        search: a mapping from names of options to a list of values, or to `low`, `high` and optionally `log`, `step`.
        given: the names of the options that have a value already.

    Raises:
        InputError: an option may not be searched, or its values are wrong; the message names it.
    """
    if not isinstance(search, dict) or not search:
        raise InputError(
            "search: must be a mapping of options to their values, as in "
            "learning_rate: {low: 1e-4, high: 3e-3, log: true}"
        )
    space: Space = {}
    for name, values in search.items():
        if name not in SEARCHED:
            nearest = ", ".join(nearest_first(str(name), SEARCHED)[:NEAREST])
            raise InputError(
                f"search: {name!r} is no option that a trial may change; those are, nearest first: {nearest}"
            )
        if name in given:
            raise InputError(f"search.{name}: has a value outside of search, too; give one of the two")
        space[name] = parse_choice(name, values) if isinstance(values, list) else parse_range(name, values)
    if "max_steps" in space and "num_train_epochs" in space:
        raise InputError("search.max_steps: decides the length of a run, and so does search.num_train_epochs")
    return space


def count_combinations(space: Space) -> float:
    """The number of combinations of values; infinite with a range."""
    return math.prod(len(part.values) if isinstance(part, Choice) else math.inf for part in space.values())


def parse_choice(name: str, values: list[Any]) -> Choice:
    """A list of values. Raises InputError for a wrong one, and for fewer than two."""
    found = tuple(parse_value(name, value) for value in values)
    if len(set(found)) < 2 or len(set(found)) < len(found):
        raise InputError(f"search.{name}: must have two values or more, all different, got {values}")
    return Choice(found)


def parse_range(name: str, values: Any) -> Range:
    """A mapping with `low` and `high`. Raises InputError for a wrong one."""
    if not isinstance(values, dict) or not {"low", "high"} <= values.keys():
        raise InputError(f"search.{name}: must be a list of values, or have low and high, but is {describe(values)}")
    if unknown := [str(key) for key in values if key not in KEYS]:
        raise InputError(f"search.{name}: has no {unknown[0]!r}; valid are {', '.join(KEYS)}")
    if SEARCHED[name] is str:
        raise InputError(f"search.{name}: its values have no order; give a list of them")
    low, high = (parse_value(name, values[key]) for key in ("low", "high"))
    log, step = values.get("log", False), values.get("step")
    if not low < high:
        raise InputError(f"search.{name}: low {low} must be below high {high}")
    if not isinstance(log, bool):
        raise InputError(f"search.{name}: log must be true or false, got {log!r}")
    if log and low <= 0:
        raise InputError(f"search.{name}: with log, low must be above 0, got {low}")
    if log and step is not None:
        raise InputError(f"search.{name}: log and step do not go together")
    if step is not None:
        step = number(f"search.{name}: step", step, SEARCHED[name])
        if not 0 < step <= high - low:
            raise InputError(f"search.{name}: step must be above 0 and at most high - low, got {step}")
    return Range(low, high, log, step)


def parse_value(name: str, value: Any) -> Any:
    """A value of an option. Raises InputError if the option cannot have it."""
    where, kind = f"search.{name}", SEARCHED[name]
    if kind is not str:
        value = number(where, value, kind)
    elif not isinstance(value, str):
        raise InputError(f"{where}: must be texts, got {value!r}")
    try:
        Parser().parse_args([f"--{name}={value}"])
    except InputError as error:
        raise InputError(f"search: {error}") from error
    if value in WAITING:
        raise InputError(f"{where}: {value} follows the evaluations of a run and cannot be compared with others")
    for rule, holds, names in NUMBERS:
        if name in names and not holds(value):
            raise InputError(f"{where}: must be {rule}, got {value}")
    if name in SHARES and not 0 <= value < 1:
        raise InputError(f"{where}: must be 0 or more and below 1, got {value}")
    if name == "max_steps" and value < 1:
        raise InputError(f"{where}: must be 1 or more, got {value}")
    return value


def number(where: str, value: Any, kind: type) -> Any:
    """A number of a type; also of a text, because YAML reads 1e-4 as one. Raises InputError for anything else."""
    try:
        found = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found):
        raise InputError(f"{where}: must be a number, got {value!r}")
    if kind is int and found != int(found):
        raise InputError(f"{where}: must be a whole number, got {value!r}")
    return kind(found)


def as_object(space: Space) -> dict[str, Any]:
    """The space for JSON."""
    return {name: list(part.values) if isinstance(part, Choice) else dict(vars(part)) for name, part in space.items()}
