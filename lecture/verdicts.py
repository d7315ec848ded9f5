"""A claim of the lecture that is measured, and whether it is confirmed."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from .models import MIXERS
from .results import Mean, Results, readable

RECURRENT = MIXERS[1:]
# What is at least right if something is solved, and at most if it is lost.
SOLVED, LOST = 0.99, 0.05
# What is as good as guessing is right by less than so many times as often.
AS_GUESSING = 1.5
# What is as good as can be known is right as often, up to this.
AS_KNOWN = 0.05


@dataclass(frozen=True)
class Verdict:
    """Whether a claim is confirmed.

    Args:
        confirmed: whether it is.
        because: the figures that decide it.
    """

    confirmed: bool
    because: str


@dataclass(frozen=True)
class Claim:
    """A claim and its experiment.

    Args:
        numbers: of the claim in the lecture, or `for recurrence`.
        experiment: whose figures test it.
        title: of the section.
        text: what is claimed, and how it is tested.
        x: label of the horizontal axis.
        y: label of the vertical axis.
        judge: reads the figures.
        is_logarithmic: whether the vertical axis is.
        is_linear_x: whether the horizontal axis is linear, not logarithmic.
    """

    numbers: str
    experiment: str
    title: str
    text: str
    x: str
    y: str
    judge: Callable[[Results], Verdict]
    is_logarithmic: bool = False
    is_linear_x: bool = False


def listed(values: dict[str, float]) -> str:
    """`attention 0.99, rnn 0.12`."""
    return ", ".join(f"{setting} {readable(value)}" for setting, value in values.items())


def values_at(results: Results, experiment: str, at: float) -> dict[str, float]:
    """The mean of each setting at a number."""
    return {setting: results.curve(experiment, setting)[at].value for setting in results.settings(experiment)}


def shown_curve(claim: Claim, results: Results, setting: str) -> dict[float, Mean]:
    """The means of a setting as the page and the picture show them; what is not logarithmic is a share."""
    curve = results.curve(claim.experiment, setting)
    return curve if claim.is_logarithmic else {at: mean.as_share() for at, mean in curve.items()}


def lowest(results: Results, experiment: str, setting: str, numbers: Iterable[float]) -> float:
    """The lowest mean of a setting at some numbers."""
    return min(results.curve(experiment, setting)[at].value for at in numbers)


def highest(results: Results, experiment: str, setting: str, numbers: Iterable[float]) -> float:
    """The highest mean of a setting at some numbers."""
    return max(results.curve(experiment, setting)[at].value for at in numbers)
