"""The pictures of a model card: PNG files, 1500 pixels wide, for a page of 750 pixels.

Only Matplotlib's object API is used, and global settings are restored after each call, except for registered fonts
(`glyphs.py`). With equal fonts, equal input gives equal bytes. Matplotlib before 3.11 neither joins Arabic letters nor
draws them from right to left.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import Image
from seqeval.metrics import sequence_labeling
from sklearn.metrics import precision_recall_fscore_support

from ..scoring.row_metrics import length_bins
from ..scoring.tags import TagScheme, find_scheme
from .glyphs import fonts_for, ignore_font_weights, text_width, visible_text

# --- figures ---------------------------------------------------------------------------------------------------------

# 7.5 inches are 1500 pixels, shown as 750. So the smallest size, 8 points, is shown as 11 points. A letter of that
# size is 0.08 inches wide.
WIDTH, DPI, SMALL_SIZE, LETTER_WIDTH = 7.5, 200, 8, 0.08
# Colours of Okabe and Ito, and the map cividis starting at white: colour-blind readers can distinguish them.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#595959"
FADING = np.linspace(1, 0, 256)[:, None] ** 3
COLOR_MAP = ListedColormap(FADING + (1 - FADING) * colormaps["cividis_r"](np.arange(256)))
SETTINGS = {
    "axes.axisbelow": True,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#E0E0E0",
    "legend.frameon": False,
    "text.parse_math": False,
    "xtick.labelsize": SMALL_SIZE,
    "ytick.labelsize": SMALL_SIZE,
}


@contextmanager
def new_figure(path: Path, *, height: float, title: str, note: str | None, texts: Iterable[str]) -> Iterator[Figure]:
    """An empty figure with a title and a note; it is saved at the end of the block.

    Args:
        path: the PNG file to write.
        height: of the figure without title and note, in inches.
        title: above the figure.
        note: in small letters under the title, or None.
        texts: all other texts that may need special fonts, as returned by visible_text.
    """
    title, notes = visible_text(title, max_width=78), textwrap.wrap(visible_text(note or ""), 105)
    head = 0.38 + 0.16 * len(notes)
    total = round(head + height, 2)
    settings = SETTINGS | {"font.family": fonts_for([*texts, title, *notes])}
    with ignore_font_weights(), style.context(["default", settings]):
        figure = Figure(figsize=(WIDTH, total), dpi=DPI, layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / total))
        figure.text(0.01, 1 - 0.08 / total, title, size=11, va="top")
        figure.text(0.01, 1 - 0.35 / total, "\n".join(notes), size=SMALL_SIZE, va="top", color=GREY)
        canvas = FigureCanvasAgg(figure)
        yield figure
        canvas.draw()
    # 256 colours need a third of the bytes, without a visible difference.
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(method=Image.Quantize.MAXCOVERAGE).save(path, "PNG")


@contextmanager
def heat_map(
    path: Path, shares: np.ndarray, *, rows: list[str], columns: list[str], names: Sequence[str], title: str, note: str
) -> Iterator[Axes]:
    """A figure with a heat map, labels at the left and below, and a colour bar.

    Many cells are nearly square; few cells are wider than high, so that they fill the figure.

    Args:
        path: the PNG file to write.
        shares: (rows, columns), from 0 to 1.
        rows: labels of the rows, as returned by visible_text.
        columns: labels of the columns, as returned by visible_text.
        names: of the rows, the columns and the shares.
        title: above the figure.
        note: under the title.
    """
    left, longest = (LETTER_WIDTH * max(map(text_width, labels)) for labels in (rows, columns))
    available = (WIDTH - 1.7 - left) / len(columns)
    cell = min(available, 6 / len(rows), max(0.42, 2 / len(rows)))
    width = min(available, 2.5 * cell)
    below = longest if longest > width else 2 * LETTER_WIDTH
    height = 0.6 + below + cell * len(rows)
    with new_figure(path, height=height, title=title, note=note, texts=[*rows, *columns]) as figure:
        layout = figure.get_layout_engine()
        layout.set(rect=(0, 0, (1.7 + left + width * len(columns)) / WIDTH, layout.get()["rect"][3]))
        axes = figure.add_subplot(ylabel=names[0], xlabel=names[1])
        axes.grid(False)
        x, y = range(len(columns)), range(len(rows))
        options = {"cmap": COLOR_MAP, "vmin": 0, "vmax": shares.max() or 1, "edgecolors": "#E0E0E0", "linewidth": 0.4}
        cells = axes.pcolormesh(x, y, shares, shading="nearest", **options)
        axes.invert_yaxis()
        axes.set_yticks(y, rows)
        axes.set_xticks(x, columns)
        for label, text in zip(axes.get_xticklabels(), columns, strict=True):
            label.set_rotation(90 if LETTER_WIDTH * text_width(text) > width else 0)
        figure.colorbar(cells, ax=axes, label=names[2], format=lambda share, _: f"{100 * share:.3g} %")
        yield axes


def check_same_length(**sides: Sequence[Any]) -> None:
    """Raises ValueError unless two sequences have the same length, and at least one element."""
    counts = [len(side) for side in sides.values()]
    if counts[0] != counts[1] or counts[0] == 0:
        raise ValueError(f"{' and '.join(sides)} must have the same length, at least 1, but have {counts}")


# --- learning curves -------------------------------------------------------------------------------------------------

LINE_STYLES = {
    "training": {"color": BLUE, "linestyle": "-", "marker": "s", "markersize": 3},
    "validation": {"color": VERMILION, "linestyle": "--", "marker": "o", "markersize": 4},
}
TOKENS = "num_input_tokens_seen"


def logged_points(history: Sequence[Mapping[str, Any]], key: str, *, x: str) -> list[tuple[float, float]]:
    """The finite values logged under a key, as pairs of entry[x] and the value."""
    return [(entry[x], entry[key]) for entry in history if key in entry and math.isfinite(entry[key])]


def draw_learning_curves(
    history: Sequence[Mapping[str, Any]], path: Path, *, metric: str | None = None, note: str | None = None
) -> bool:
    """Draw the losses and one metric over the tokens seen, or over the steps if tokens were not counted.

    Args:
        history: `trainer.state.log_history` of transformers.
        path: the PNG file to write.
        metric: a key of it for a second panel, such as "eval_accuracy"; no panel if nothing was logged under it.
        note: in small letters under the title, such as a difference between the two losses.

    Returns:
        Whether a picture was written: there must be at least two points.
    """
    history = [entry for entry in history if not {"loss", "eval_loss", metric}.isdisjoint(entry)]
    x = TOKENS if all(TOKENS in entry for entry in history) else "step"
    losses = {"training": "loss", "validation": "eval_loss"}
    panels = {"loss": {part: logged_points(history, key, x=x) for part, key in losses.items()}}
    if metric is not None:
        name = visible_text(metric.removeprefix("eval_").replace("_", " "))
        panels[name] = {"validation": logged_points(history, metric, x=x)}
    panels = {name: {part: points for part, points in panel.items() if points} for name, panel in panels.items()}
    panels = {name: panel for name, panel in panels.items() if panel}
    if sum(len(points) for panel in panels.values() for points in panel.values()) < 2:
        return False
    with new_figure(path, height=2.9, title="Learning curves", note=note, texts=panels) as figure:
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw_curves(axes, panels[name], is_share=name != "loss")
            axes.set_xlabel("tokens seen" if x == TOKENS else "optimizer steps")
            axes.set_ylabel(f"{name} (logarithmic)" if axes.get_yscale() == "log" else name)
    return True


def draw_curves(axes: Axes, panel: dict[str, list[tuple[float, float]]], *, is_share: bool) -> None:
    """Draw the curves of one panel.

    The axis is logarithmic if the values differ by a factor of more than 50.

    Args:
        axes: to draw on.
        panel: points (x, y) of each curve, by name.
        is_share: whether values may be shares; if all are from 0 to 1, the axis does not go beyond.
    """
    for part, points in panel.items():
        options = {"markevery": 1 + len(points) // 25, "clip_on": False, **LINE_STYLES[part]}
        axes.plot(*zip(*points, strict=True), label=part, **options)
    axes.legend()
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    values = [value for points in panel.values() for _, value in points]
    if is_share and min(values) >= 0 and max(values) <= 1:
        bottom, top = axes.get_ylim()
        axes.set_ylim(max(bottom, 0), min(top, 1))
    elif min(values) > 0 and max(values) > 50 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


# --- confusion -------------------------------------------------------------------------------------------------------


def most_confused(references: Sequence[str], predictions: Sequence[str], *, max_labels: int) -> list[str]:
    """The labels in the most wrong predictions, on either side; of equal ones, the more frequent. Sorted by name."""
    pairs = list(zip(references, predictions, strict=True))
    wrong = Counter(chain.from_iterable(pair for pair in pairs if pair[0] != pair[1]))
    examples = Counter(references)
    labels = sorted({*references, *predictions}, key=lambda label: (-wrong[label], -examples[label], label))
    return sorted(labels[:max_labels])


def confusion_counts(references: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts of pairs of reference and prediction, (labels, labels + 1); the last column is for other predictions."""
    numbers = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + 1), dtype=int)
    for reference, prediction in zip(references, predictions, strict=True):
        if reference in numbers:
            counts[numbers[reference], numbers.get(prediction, -1)] += 1
    return counts


def draw_confusion(references: Sequence[str], predictions: Sequence[str], path: Path, *, max_labels: int = 12) -> None:
    """Draw the confusion matrix: counts as numbers, shares of the row as colours.

    Args:
        references: the correct label of each example.
        predictions: the predicted label of each example.
        path: the PNG file to write.
        max_labels: if there are more labels, draw the most confused ones, and all others as one column.

    Raises:
        ValueError: references and predictions differ in length or are empty.
    """
    check_same_length(references=references, predictions=predictions)
    labels, total = most_confused(references, predictions, max_labels=max_labels), len({*references, *predictions})
    rows = [visible_text(label, max_width=16) for label in labels]
    columns = rows if total == len(labels) else [*rows, "(others)"]
    counts = confusion_counts(references, predictions, labels)[:, : len(columns)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    correct = sum(reference == prediction for reference, prediction in zip(references, predictions, strict=True))
    which = f"all {total} labels" if total == len(labels) else f"the {len(labels)} most confused of {total} labels"
    note = f"The numbers are counts of examples. Of all {len(references):,} examples, {correct:,} are correct."
    names = ("reference", "prediction", "share of the row")
    with heat_map(
        path, shares, rows=rows, columns=columns, names=names, title=f"Confusion: {which}", note=note
    ) as axes:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > shares.max() / 2 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", size=SMALL_SIZE, color=color)


# --- labels ----------------------------------------------------------------------------------------------------------


def label_scores(
    references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> dict[str, tuple[float, float, float, int]]:
    """Precision, recall, F1 and number of references of each label; 0 where there is nothing to divide by.

    Args:
        references: the labels of each example.
        predictions: those that were predicted.
    """
    # A row may name a label twice.
    sets = [[{*row} for row in rows] for rows in (references, predictions)]
    expected, predicted = (Counter(chain.from_iterable(rows)) for rows in sets)
    right = Counter(chain.from_iterable(one & other for one, other in zip(*sets, strict=True)))
    return {
        name: (
            right[name] / max(predicted[name], 1),
            right[name] / max(expected[name], 1),
            2 * right[name] / (predicted[name] + expected[name]),
            expected[name],
        )
        for name in {**expected, **predicted}
    }


def draw_label_scores(
    references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], path: Path, *, max_bars: int = 20
) -> None:
    """Draw precision, recall and F1 of each label, the best first.

    Args:
        references: the labels of each example.
        predictions: those that were predicted.
        path: the PNG file to write.
        max_bars: if there are more labels, draw those with the lowest F1.

    Raises:
        ValueError: references and predictions differ in length, or hold no label.
    """
    check_same_length(references=references, predictions=predictions)
    scores = label_scores(references, predictions)
    if not scores:
        raise ValueError("references and predictions hold no label")
    order = sorted(scores, key=lambda name: (-scores[name][2], -scores[name][3], name))
    names, count = order[-max_bars:], len(scores)
    which = f"all {count} labels" if count <= max_bars else f"the {max_bars} of {count} labels with the lowest F1"
    labels = [f"{visible_text(name, max_width=24)} ({scores[name][3]:,})" for name in names]
    note = "In brackets: the number of examples with the label."
    title, places = f"Precision, recall and F1: {which}", range(len(names))
    with new_figure(path, height=1.05 + 0.22 * len(names), title=title, note=note, texts=labels) as figure:
        axes = figure.add_subplot(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="precision, recall and F1")
        precision, recall, f1 = ([scores[name][index] for name in names] for index in range(3))
        axes.barh(places, f1, height=0.7, color=BLUE, alpha=0.35, label="F1")
        options = {"zorder": 3, "clip_on": False, "s": 22}
        axes.scatter(precision, places, marker="^", color=VERMILION, label="precision", **options)
        axes.scatter(recall, places, marker="o", facecolors="none", edgecolors="black", label="recall", **options)
        axes.set_xticks(np.arange(6) / 5)
        axes.set_yticks(places, labels)
        axes.grid(False, axis="y")
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


# --- tags ------------------------------------------------------------------------------------------------------------


def tag_scores(
    references: list[list[str]], predictions: list[list[str]], scheme: TagScheme | None
) -> dict[str, tuple[float, int]]:
    """F1 and number of references of each type of span (computed by seqeval), or of each tag (by scikit-learn)."""
    if scheme is not None:
        sides = [[scheme.to_iobes(row) for row in rows] for rows in (references, predictions)]
        names = {name for rows in sides for name, _, _ in sequence_labeling.get_entities(rows)}
        scores = sequence_labeling.precision_recall_fscore_support(*sides, average=None, zero_division=0)
    else:
        sides = [list(chain.from_iterable(rows)) for rows in (references, predictions)]
        names = {*sides[0], *sides[1]}
        scores = precision_recall_fscore_support(*sides, labels=sorted(names), average=None, zero_division=0.0)
    return {name: (float(f1), int(n)) for name, f1, n in zip(sorted(names), *scores[2:], strict=True)}


def draw_tag_scores(
    references: list[list[str]],
    predictions: list[list[str]],
    path: Path,
    *,
    labels: Iterable[str] = (),
    max_bars: int = 20,
) -> None:
    """Draw the F1 of each type of span, or of each tag if tags do not mark spans, as bars, the best first.

    Args:
        references: rows of tags.
        predictions: rows of the same lengths.
        path: the PNG file to write.
        labels: all tags of the model, which decide whether tags mark spans; default: those that occur.
        max_bars: if there are more types or tags, draw the most frequent ones.

    Raises:
        ValueError: references and predictions differ in length, row by row, or hold no tag.
    """
    flat = [list(chain.from_iterable(rows)) for rows in (references, predictions)]
    check_same_length(references=flat[0], predictions=flat[1])
    if list(map(len, references)) != list(map(len, predictions)):
        raise ValueError("rows of references and predictions must have the same length")
    scheme = find_scheme(labels or {*flat[0], *flat[1]})
    kind, unit = ("tags", "words") if scheme is None else ("types of span", "spans")
    scores = tag_scores(references, predictions, scheme)
    frequent = sorted(scores, key=lambda name: -scores[name][1])[:max_bars]
    names = sorted(frequent, key=lambda name: -scores[name][0])
    count = len(scores)
    which = f"all {count} {kind}" if count <= max_bars else f"the {max_bars} most frequent of {count} {kind}"
    note = f"In brackets: the number of {unit} in the references."
    bar_labels = [f"{visible_text(name, max_width=24)} ({scores[name][1]:,})" for name in names]
    with new_figure(path, height=0.6 + 0.22 * len(names), title=f"F1: {which}", note=note, texts=bar_labels) as figure:
        axes = figure.add_subplot(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="F1")
        bars = axes.barh(range(len(names)), [scores[name][0] for name in names], height=0.7, color=BLUE)
        axes.bar_label(bars, fmt="%.3f", padding=3, size=SMALL_SIZE)
        axes.set_xticks(np.arange(6) / 5)
        axes.set_yticks(range(len(names)), bar_labels)
        axes.grid(False, axis="y")


# --- calibration -----------------------------------------------------------------------------------------------------


def draw_reliability(bins: Mapping[str, Sequence[Mapping[str, float]]], path: Path, *, split: str) -> None:
    """Draw how often probabilities came true: on the diagonal they are true; and how many there are of each.

    Args:
        bins: `before` and `after` calibration; each bin has `count`, `confidence` and `accuracy`.
        path: the PNG file to write.
        split: the name of the split.
    """
    note = "On the line, confidence equals accuracy. The area of a point shows the number of decisions."
    with new_figure(path, height=3.4, title=f"Reliability on {split}", note=note, texts=[]) as figure:
        axes, beside = figure.subplots(1, 2)
        axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        beside.set(xlabel="confidence", ylabel="share of the decisions", xlim=(0, 1), ylim=(0, 1))
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        for name, color in (("before", VERMILION), ("after", BLUE)):
            total = sum(each["count"] for each in bins[name])
            sizes = [20 + 400 * each["count"] / total for each in bins[name]]
            points = ([each[key] for each in bins[name]] for key in ("confidence", "accuracy"))
            axes.scatter(*points, s=sizes, color=color, alpha=0.6, label=name, clip_on=False)
            shares = [each["count"] / total for each in bins[name]]
            places = [each["confidence"] for each in bins[name]]
            beside.plot(places, shares, color=color, marker="o", markersize=4, label=name, clip_on=False)
        legend = axes.legend(loc="upper left")
        for handle in legend.legend_handles:
            handle.set_sizes([40])


# --- lengths ---------------------------------------------------------------------------------------------------------


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share. For a mean of scores between 0 and 1 it is rather too wide.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    z = 1.959964
    scale = 1 + z**2 / count
    center = (mean + z**2 / (2 * count)) / scale
    half = z * math.sqrt(mean * (1 - mean) / count + (z / (2 * count)) ** 2) / scale
    return max(0.0, center - half), min(1.0, center + half)


def draw_score_by_length(
    lengths: Sequence[float], scores: Sequence[float], path: Path, *, length_name: str, score_name: str
) -> None:
    """Draw the mean score of examples by length, with the 95 % interval of Wilson, which is meant for scores 0 and 1.

    Args:
        lengths: of each example.
        scores: of each example, from 0 to 1.
        path: the PNG file to write.
        length_name: the unit of the length, such as "words of the input".
        score_name: the name of the score, such as "accuracy".

    Raises:
        ValueError: lengths and scores differ in number or are empty, or a score is not from 0 to 1.
    """
    check_same_length(lengths=lengths, scores=scores)
    lengths, scores = np.asarray(lengths), np.asarray(scores, dtype=float)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores must be from 0 to 1, got {scores.min()} to {scores.max()}")
    bins = length_bins(lengths)
    means = np.array([scores[numbers].mean() for numbers in bins])
    low, high = np.transpose([wilson_interval(mean, len(bins[i])) for i, mean in enumerate(means)])
    ends = [np.unique([lengths[numbers].min(), lengths[numbers].max()]) for numbers in bins]
    labels = ["–".join(f"{end:g}" for end in pair) + f"\nn = {len(bins[i]):,}" for i, pair in enumerate(ends)]
    length_name, score_name = visible_text(length_name), visible_text(score_name)
    note = "Each mean with its 95 % interval (Wilson); n is the number of examples."
    texts = [f"Mean {score_name} by {length_name}"]
    with new_figure(path, height=2.9, title=texts[0], note=note, texts=texts) as figure:
        axes = figure.add_subplot(xlabel=length_name, ylabel=f"mean {score_name}", xlim=(-0.6, len(bins) - 0.4))
        errors = np.abs([low - means, high - means])
        points = axes.errorbar(range(len(bins)), means, yerr=errors, fmt="o", color=BLUE, capsize=4)
        for artist in points.get_children():
            artist.set_clip_on(False)
        axes.set_xticks(range(len(bins)), labels)
        axes.set_ylim(math.floor(low.min() * 10) / 10, math.ceil(high.max() * 10) / 10)


# --- blending --------------------------------------------------------------------------------------------------------

MAX_TOKENS = 32
AXIS_LABELS = ("attending token (query)", "attended token (key)")


def draw_blending(
    weights: np.ndarray,
    path: Path,
    *,
    queries: Sequence[str],
    keys: Sequence[str],
    title: str,
    names: tuple[str, str] = AXIS_LABELS,
    shown: tuple[Sequence[int], Sequence[int]] | None = None,
) -> None:
    """Draw an attention map, with a row for each query and a column for each key: how each token blends the others.

    At most MAX_TOKENS rows and columns are drawn.

    Args:
        weights: (T, S); each row sums to one.
        path: the PNG file to write.
        queries: the T tokens of the rows.
        keys: the S tokens of the columns.
        title: such as the layer and the head.
        names: of the rows and the columns.
        shown: of the queries and of the keys, the number of tokens before the first one, and of all tokens; None:
            these are all.

    Raises:
        ValueError: the shape of weights does not fit the tokens, or there are none.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(queries), len(keys)) or not weights.size:
        raise ValueError(f"weights have shape {weights.shape}, but there are {len(queries)} queries, {len(keys)} keys")
    rows, columns = (
        [visible_text(token, max_width=14) for token in tokens[:MAX_TOKENS]] for tokens in (queries, keys)
    )
    note = "Each row sums to 100 %."
    parts = list(zip(shown or ((0, len(queries)), (0, len(keys))), (rows, columns), strict=True))
    if any(len(tokens) < total for (_, total), tokens in parts):
        ranges = [f"{start + 1} to {start + len(tokens)} of {total}" for (start, total), tokens in parts]
        # Of self-attention both are the same.
        which = f"tokens {ranges[0]}" if ranges[0] == ranges[1] else "rows {} and columns {}".format(*ranges)
        note = f"Shown are {which}. Each row sums to 100 % over all tokens, including those that are not shown."
    shares, names = weights[:MAX_TOKENS, :MAX_TOKENS], (*names, "attention weight")
    with heat_map(path, shares, rows=rows, columns=columns, names=names, title=title, note=note):
        pass
