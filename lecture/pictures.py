"""One picture for each claim: a curve with intervals for each setting."""

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter, ScalarFormatter, StrMethodFormatter

from ..hub_card.pictures import GREY, new_figure
from .claims import Claim, Results

# Colours of Okabe and Ito, and markers, so that the curves differ without colours, too. The sizes fall, so that of
# markers on top of each other each can be seen.
STYLES = (("#0072B2", "o", 9), ("#D55E00", "s", 6), ("#009E73", "^", 5), ("#CC79A7", "D", 2.5))


def draw(claim: Claim, results: Results, path: Path) -> None:
    """Write the picture of a claim as a PNG file."""
    settings = results.settings(claim.experiment)
    note = "Mean of the seeds, with its 95 % interval." if has_intervals(claim, results) else None
    texts = [*settings, claim.x, claim.y]
    with new_figure(path, height=2.9, title=claim.title, note=note, texts=texts) as figure:
        axes = figure.add_subplot(xlabel=claim.x, ylabel=claim.y)
        numbers = sorted({at for setting in settings for at in results.curve(claim.experiment, setting)})
        if len(numbers) == 1:
            draw_bars(axes, claim, results, settings)
        else:
            draw_curves(axes, claim, results, settings, numbers)
        if claim.chance is not None:
            axes.axhline(claim.chance, color=GREY, linestyle=":", label="guessing")
        if claim.is_logarithmic:
            axes.set_yscale("log")
            # Matplotlib's own labels are formulas, which are not drawn here.
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            axes.set_ylim(-0.02, 1.02)
        if len(numbers) > 1 or claim.chance is not None:
            axes.legend(fontsize=8)


def has_intervals(claim: Claim, results: Results) -> bool:
    """Whether there is more than one seed."""
    return any(
        not math.isnan(each.error)
        for setting in results.settings(claim.experiment)
        for each in results.curve(claim.experiment, setting).values()
    )


def draw_curves(axes: Axes, claim: Claim, results: Results, settings: list[str], numbers: list[float]) -> None:
    """A line for each setting, its interval as a band."""
    for setting, (color, marker, size) in zip(settings, STYLES, strict=False):
        curve = results.curve(claim.experiment, setting)
        values = [each.value for each in curve.values()]
        errors = [0 if math.isnan(each.error) else each.error for each in curve.values()]
        axes.plot(list(curve), values, color=color, marker=marker, markersize=size, label=setting)
        # On a logarithmic axis there is nothing below zero.
        least = [value / 10 if claim.is_logarithmic else 0 for value in values]
        low, high = np.maximum(np.subtract(values, errors), least), np.add(values, errors)
        axes.fill_between(list(curve), low, high, color=color, alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_bars(axes: Axes, claim: Claim, results: Results, settings: list[str]) -> None:
    """A bar for each setting, where there is but one number."""
    means = [next(iter(results.curve(claim.experiment, setting).values())) for setting in settings]
    errors = [0 if math.isnan(each.error) else each.error for each in means]
    axes.bar(settings, [each.value for each in means], 0.5, yerr=errors, capsize=4, color=STYLES[0][0])
    axes.set_xlabel("")
