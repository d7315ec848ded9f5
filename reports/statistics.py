"""Intervals and tests: the bootstrap over rows, the spread over seeds, and McNemar's test."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..scoring.row_metrics import RowSums
from .tables import ROUNDING

# The level of intervals and tests.
LEVEL = 0.95
SAMPLES = 1000
# The most weights of rows that are held at a time.
MOST_WEIGHTS = 2**24


def bootstrap(metrics: Sequence[RowSums], samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """The metrics of samples of the rows, drawn with replacement; the same rows for every metric.

    Args:
        metrics: of the same rows.
        samples: number of samples.
        seed: of the generator.

    Returns:
        (samples, number of metrics).

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 6.
    """
    rng, count = np.random.default_rng(seed), len(metrics[0].counts)
    found, size = [], max(1, MOST_WEIGHTS // count)
    for start in range(0, samples, size):
        number = min(size, samples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=number)
        weights = weights.astype(np.float64)
        found.append(np.stack([metric.of_rows(weights) for metric in metrics], -1))
    return np.concatenate(found)


@dataclass(frozen=True)
class Difference:
    """The difference of a metric between two groups of runs, B minus A.

    Args:
        values: the metric of each run of A, and of each run of B.
        low: lower end of the interval.
        high: upper end.
        p_value: the probability of a difference at least as large, either way, if the groups are equally good.
    """

    values: tuple[list[float], list[float]]
    low: float
    high: float
    p_value: float

    @property
    def means(self) -> tuple[float, float]:
        """The mean of each group."""
        first, second = (float(np.mean(values)) for values in self.values)
        return first, second

    @property
    def mean(self) -> float:
        """The mean of B minus the mean of A."""
        return self.means[1] - self.means[0]

    @property
    def is_significant(self) -> bool:
        """Whether the p-value is below 1 - LEVEL; then 0 is outside of the interval."""
        return self.p_value < 1 - LEVEL


def compare_groups(first: Sequence[RowSums], second: Sequence[RowSums], seed: int = 0) -> Difference:
    """Compare a metric between two groups of runs on the same rows.

    Two variances add up: that over rows, from a bootstrap that draws the same rows for all runs; and that over seeds,
    from the runs of each group, as in Welch's test. A group of one run has no variance over seeds.

    Args:
        first: the metric of each run of A.
        second: the metric of each run of B.
        seed: of the bootstrap.

    Source: Welch 1947, "The generalization of Student's problem when several different population variances are
    involved"; Bouthillier et al. 2021, "Accounting for Variance in Machine Learning Benchmarks".
    """
    samples = bootstrap([*first, *second], seed=seed)
    of_rows = samples[:, len(first) :].mean(-1) - samples[:, : len(first)].mean(-1)
    groups = [[metric.of_all for metric in group] for group in (first, second)]
    mean = float(np.mean(groups[1]) - np.mean(groups[0]))
    of_seeds = [np.var(values, ddof=1) / len(values) if len(values) > 1 else 0.0 for values in groups]
    variance = float(of_rows.var(ddof=1) + sum(of_seeds))
    if abs(mean) < ROUNDING * max(1.0, abs(float(np.mean(groups[0])))) and variance < ROUNDING**2:
        # Means of different numbers of equal values differ by rounding.
        mean = variance = 0.0
    if variance == 0:
        # All rows differ alike, or none: as in a sign test.
        return Difference((groups[0], groups[1]), mean, mean, 1.0 if mean == 0 else 2 * 0.5 ** len(first[0].counts))
    rests = [part**2 / (len(values) - 1) for part, values in zip(of_seeds, groups, strict=True) if len(values) > 1]
    freedom = variance**2 / sum(rests) if sum(rests) else math.inf
    # It takes half a second to load.
    from scipy import stats

    deviation = math.sqrt(variance)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * deviation
    p_value = float(2 * stats.t.sf(abs(mean) / deviation, freedom))
    return Difference((groups[0], groups[1]), mean - half, mean + half, p_value)


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of two runs.

    Args:
        only_first: rows that only the first run has right.
        only_second: rows that only the second run has right.
    """

    only_first: int
    only_second: int

    @property
    def p_value(self) -> float:
        """Two-sided, from the binomial distribution; 1 if the runs are right in the same rows."""
        from scipy import stats

        total = self.only_first + self.only_second
        return float(stats.binomtest(self.only_first, total).pvalue) if total else 1.0


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Compare whether two runs are right in each row, (N) each.

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
    """
    return McNemar(int((first & ~second).sum()), int((second & ~first).sum()))


def percentile_interval(samples: np.ndarray) -> tuple[float, float]:
    """The percentile interval of bootstrap samples (S)."""
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
