"""Means of the figures over seeds, with intervals."""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean, stdev

from scipy.stats import linregress, t

from .experiments import Figure

# Without an interval, with one seed, a difference must be this large to count.
LEAST_DIFFERENCE = 0.1


@dataclass(frozen=True)
class Mean:
    """A mean over seeds, with its 95 % interval; of one seed the interval is empty.

    Args:
        value: the mean.
        low: the lower end of the interval.
        high: the upper end.
    """

    value: float
    low: float
    high: float

    def is_above(self, other: "Mean") -> bool:
        """Whether it is larger, beyond both intervals."""
        if self.low == self.high or other.low == other.high:
            return self.value > other.value + LEAST_DIFFERENCE
        return self.low > other.high

    def as_share(self) -> "Mean":
        """The same, of a share: its interval ends at 0 and 1."""
        return Mean(self.value, max(self.low, 0), min(self.high, 1))


class Results:
    """The means of all figures.

    Args:
        figures: of all experiments and seeds.
        logarithmic: names of the experiments whose figures span decades; the mean is that of the logarithms.
    """

    def __init__(self, figures: Iterable[Figure], logarithmic: Iterable[str] = ()):
        values: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        self.parameters: dict[tuple[str, str], int] = {}
        for figure in figures:
            values[figure.experiment, figure.setting][figure.at].append(figure.value)
            self.parameters[figure.experiment, figure.setting] = figure.parameters
        names = set(logarithmic)
        self.means = {
            key: {at: mean_of(each, is_logarithmic=key[0] in names) for at, each in sorted(by_number.items())}
            for key, by_number in values.items()
        }

    def settings(self, experiment: str) -> list[str]:
        """What an experiment compares, in the order of its figures."""
        return [setting for name, setting in self.means if name == experiment]

    def curve(self, experiment: str, setting: str) -> dict[float, Mean]:
        """The means by the number on the horizontal axis."""
        return self.means[experiment, setting]

    def first(self, experiment: str, setting: str) -> Mean:
        """The mean at the smallest number."""
        return next(iter(self.curve(experiment, setting).values()))

    def last(self, experiment: str, setting: str) -> Mean:
        """The mean at the largest number."""
        return list(self.curve(experiment, setting).values())[-1]

    def slope(self, experiment: str, setting: str, numbers: Iterable[float]) -> float:
        """The slope in double-logarithmic axes over some numbers: 1 if twice the number is twice the value."""
        curve = self.curve(experiment, setting)
        points = [(math.log(at), math.log(curve[at].value)) for at in numbers]
        return linregress(*zip(*points, strict=True)).slope

    def factor(self, experiment: str, setting: str) -> float:
        """The factor by which the value changes from one number to the next whole one, on the whole."""
        points = [(at, math.log(each.value)) for at, each in self.curve(experiment, setting).items()]
        return math.exp(linregress(*zip(*points, strict=True)).slope)


def mean_of(values: list[float], *, is_logarithmic: bool = False) -> Mean:
    """Mean and 95 % interval (Student's t), of the values or of their logarithms."""
    if is_logarithmic:
        logarithms = mean_of([math.log(value) for value in values])
        return Mean(*(math.exp(each) for each in (logarithms.value, logarithms.low, logarithms.high)))
    error = 0.0
    if len(values) > 1:
        error = t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return Mean(mean(values), mean(values) - error, mean(values) + error)


def readable(value: float) -> str:
    """A figure with three digits: 0.0123, 12.3, 1,234."""
    # With three digits, 999.5 would be written as 1e+03.
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"
