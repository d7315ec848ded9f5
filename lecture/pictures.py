"""One picture for each claim: a curve with intervals for each setting."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter, StrMethodFormatter

from ..hub_card.pictures import GREY, new_figure
from .experiments import LEARNING
from .results import Results
from .verdicts import Claim, shown_curve

# Colours of Okabe and Ito, and markers, so that the curves differ without colours, too. The sizes fall, so that of
# markers on top of each other each can be seen.
STYLES = (("#0072B2", "o", 9), ("#D55E00", "s", 6), ("#009E73", "^", 5), ("#CC79A7", "D", 2.5), ("#E69F00", "v", 2))


def draw(claim: Claim, results: Results, path: Path) -> None:
    """Write the picture of a claim as a PNG file."""
    settings = results.settings(claim.experiment)
    texts = [*settings, claim.x, claim.y]
    with new_figure(path, height=2.9, title=claim.title, note="Mean and its 95 % interval", texts=texts) as figure:
        axes = figure.add_subplot(xlabel=claim.x, ylabel=claim.y)
        numbers = list(results.curve(claim.experiment, settings[0]))
        if len(numbers) == 1:
            draw_bars(axes, claim, results, settings)
        else:
            draw_curves(axes, claim, results, settings)
        task = LEARNING[claim.experiment].task if claim.experiment in LEARNING else None
        if task is not None and task.guess is not None:
            values = [task.guess(int(number)) for number in numbers]
            at = numbers if len(numbers) > 1 else (-0.5, len(settings) - 0.5)
            values *= 2 if len(numbers) == 1 else 1
            axes.plot(at, values, color=GREY, linestyle=":", label=task.guess_name)
        if claim.is_logarithmic:
            axes.set_yscale("log")
            # At least two decades, so that there are labels, and that what hardly changes looks like it.
            low, high = axes.get_ylim()
            middle = (low * high) ** 0.5
            axes.set_ylim(min(low, middle / 10), max(high, middle * 10))
            # Matplotlib's own labels are formulas, which are not drawn here.
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(-0.05 if len(numbers) > 1 else 0, 1.05)
        # Beside the axes: curves of what is solved and what is lost run along the upper and the lower edge.
        figure.legend(fontsize=8, loc="outside right upper")


def draw_curves(axes: Axes, claim: Claim, results: Results, settings: list[str]) -> None:
    """A line for each setting, its interval as a band."""
    for setting, (color, marker, size) in zip(settings, STYLES, strict=False):
        curve = shown_curve(claim, results, setting)
        numbers, means = list(curve), list(curve.values())
        values = [mean.value for mean in means]
        axes.plot(numbers, values, color=color, marker=marker, markersize=size, label=setting)
        low, high = ([getattr(mean, end) for mean in means] for end in ("low", "high"))
        axes.fill_between(numbers, low, high, color=color, alpha=0.15, linewidth=0)
    if not claim.is_linear_x:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xticks(numbers)
    axes.xaxis.set_major_formatter(ScalarFormatter())


def draw_bars(axes: Axes, claim: Claim, results: Results, settings: list[str]) -> None:
    """A bar for each setting, where there is but one number."""
    means = [mean for setting in settings for mean in shown_curve(claim, results, setting).values()]
    values = np.array([mean.value for mean in means])
    errors = [values - [mean.low for mean in means], [mean.high for mean in means] - values]
    axes.bar(settings, values, 0.5, yerr=errors, capsize=4, color=STYLES[0][0])
    axes.set_xlabel("")
