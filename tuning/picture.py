"""The picture of a search: the metric of each trial, by its number and by each value that was searched."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator, StrMethodFormatter

from ..hub_card.glyphs import visible_text
from ..hub_card.pictures import BLUE, GREY, VERMILION, new_figure
from .space import Choice, Range, Space
from .trials import Trial

# The most panels beside each other; inches of one.
MOST_COLUMNS, HEIGHT = 3, 2.3


def draw_trials(
    trials: list[Trial], space: Space, best: Trial, path: Path, *, metric: str, greater_is_better: bool
) -> None:
    """Draw the complete trials.

    Args:
        trials: all trials.
        space: what was searched.
        best: the best trial.
        path: the PNG file to write.
        metric: that is compared.
        greater_is_better: whether higher values of it are better.
    """
    complete = [each for each in trials if each.value is not None]
    names = ["trial", *(visible_text(name.replace("_", " ")) for name in space)]
    name, rows = visible_text(metric.replace("_", " ")), -(-len(names) // MOST_COLUMNS)
    better = "higher" if greater_is_better else "lower"
    note = f"Trial {best.number} is the best, {best.value:.4g}; {better} is better. The line is the best so far."
    title = f"{name} of {len(complete)} complete trials"
    with new_figure(path, height=0.2 + HEIGHT * rows, title=title, note=note, texts=[name, *names]) as figure:
        panels = list(panels_of(figure, len(names), rows, name))
        draw_progress(panels[0], complete, best, greater_is_better)
        for axes, option in zip(panels[1:], space, strict=True):
            draw_option(axes, complete, best, option, space[option])
        values = [each.value for each in complete if each.value is not None]
        if min(values) >= 0 and max(values) <= 1:
            bottom, top = panels[0].get_ylim()
            panels[0].set_ylim(max(bottom, 0), min(top, 1))


def panels_of(figure: Figure, count: int, rows: int, name: str) -> Iterator[Axes]:
    """Panels that fill the figure and share the axis of the metric, of which the first in each row has its name."""
    grid, first = figure.add_gridspec(rows, 6), None
    for row, numbers in enumerate(np.array_split(range(count), rows)):
        width = 6 // len(numbers)
        for column in range(len(numbers)):
            axes = figure.add_subplot(grid[row, width * column : width * (column + 1)], sharey=first)
            first = first or axes
            axes.set_ylabel(name if column == 0 else "")
            axes.tick_params(labelleft=column == 0)
            yield axes


def draw_progress(axes: Axes, complete: list[Trial], best: Trial, greater_is_better: bool) -> None:
    """The metric by the number of the trial, and the best one so far."""
    numbers, values = [each.number for each in complete], [each.value for each in complete]
    choose = max if greater_is_better else min
    so_far = [choose(values[: index + 1]) for index in range(len(values))]
    axes.step(numbers, so_far, where="post", color=GREY, linewidth=1)
    mark(axes, numbers, values, best.number, best.value)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def draw_option(axes: Axes, complete: list[Trial], best: Trial, name: str, part: Range | Choice) -> None:
    """The metric by the value of an option; the axis has all values that were searched."""
    values, results = [each.options[name] for each in complete], [each.value for each in complete]
    if isinstance(part, Choice):
        shown = [visible_text(str(value), max_width=12) for value in part.values]
        places = [part.values.index(value) for value in values]
        mark(axes, places, results, part.values.index(best.options[name]), best.value)
        axes.set_xticks(range(len(shown)), shown)
        axes.set_xlim(-0.5, len(shown) - 0.5)
    else:
        mark(axes, values, results, best.options[name], best.value)
        ends = np.array([part.low, part.high], dtype=float)
        if part.log:
            axes.set_xscale("log")
            middle = np.geomspace(*ends, 3)
            ends *= [(ends[0] / ends[1]) ** 0.05, (ends[1] / ends[0]) ** 0.05]
        else:
            middle = np.linspace(*ends, 3)
            ends += (ends[1] - ends[0]) * np.array([-0.05, 0.05])
        axes.set_xlim(*ends)
        axes.xaxis.set_major_locator(FixedLocator(middle))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(name.removeprefix("per_device_").replace("_", " "))


def mark(axes: Axes, x: list[float], y: list[float | None], best_x: float, best_y: float | None) -> None:
    """A point for each trial; the best one has another colour and form."""
    axes.scatter(x, y, s=18, color=BLUE, alpha=0.7, clip_on=False)
    axes.scatter([best_x], [best_y], s=60, color=VERMILION, marker="*", clip_on=False, zorder=3)
