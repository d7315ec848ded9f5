"""Pictures that stand beside a model card and are shown in it: PNG files, 1500 pixels wide for a page of 750.

Matplotlib's object API only; settings end with the call, but for the fonts that were found (`glyphs.py`). With equal
fonts, equal input gives equal bytes. Before 3.11, Matplotlib neither joins Arabic letters nor draws them from right to
left.
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

from ..tasks.tags import TagScheme, find_scheme
from .glyphs import fonts_for, letters, of_any_weight, shown

# --- sheets ----------------------------------------------------------------------------------------------------------

# 7.5 inches are 1500 pixels, shown as 750; so 8 points, the smallest letters, are shown as 11, each 0.08 inches wide.
WIDTH, DPI, SMALL, LETTER = 7.5, 200, 8, 0.08
# Of Okabe and Ito's colours, which the colour-blind can tell apart; and their map, cividis, that begins at white.
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
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}


@contextmanager
def sheet(path: Path, *, height: float, title: str, note: str | None, texts: Iterable[str]) -> Iterator[Figure]:
    """An empty figure under a title and a note in small letters, `height` inches without them, to draw on.

    It is written when the block ends. `texts` are those drawn that may need other fonts, as `shown` gives them.
    """
    title, notes = shown(title, most=78), textwrap.wrap(shown(note or ""), 105)
    head = 0.38 + 0.16 * len(notes)
    total = round(head + height, 2)
    settings = SETTINGS | {"font.family": fonts_for([*texts, title, *notes])}
    with of_any_weight(), style.context(["default", settings]):
        figure = Figure(figsize=(WIDTH, total), dpi=DPI, layout="constrained")
        figure.get_layout_engine().set(rect=(0, 0, 1, 1 - head / total))
        figure.text(0.01, 1 - 0.08 / total, title, size=11, va="top")
        figure.text(0.01, 1 - 0.35 / total, "\n".join(notes), size=SMALL, va="top", color=GREY)
        canvas = FigureCanvasAgg(figure)
        yield figure
        canvas.draw()
    # 256 colours are a third of the bytes, and none is off by a shade that could be seen.
    pixels = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    pixels.quantize(method=Image.Quantize.MAXCOVERAGE).save(path, "PNG")


@contextmanager
def grid(
    path: Path, shares: np.ndarray, *, rows: list[str], columns: list[str], names: Sequence[str], title: str, note: str
) -> Iterator[Axes]:
    """A sheet with a map of cells, (rows, columns), labels at the left and below, and a colour bar.

    Cells are nearly square where there are many; few are wider than high, so that they fill the sheet.

    `names` say what rows, columns and shares are; labels are as `shown` gives them.
    """
    beside, longest = (LETTER * max(map(letters, labels)) for labels in (rows, columns))
    room = (WIDTH - 1.7 - beside) / len(columns)
    cell = min(room, 6 / len(rows), max(0.42, 2 / len(rows)))
    width = min(room, 2.5 * cell)
    below = longest if longest > width else 2 * LETTER
    height = 0.6 + below + cell * len(rows)
    with sheet(path, height=height, title=title, note=note, texts=[*rows, *columns]) as figure:
        layout = figure.get_layout_engine()
        layout.set(rect=(0, 0, (1.7 + beside + width * len(columns)) / WIDTH, layout.get()["rect"][3]))
        axes = figure.add_subplot(ylabel=names[0], xlabel=names[1])
        axes.grid(False)
        x, y = range(len(columns)), range(len(rows))
        look = {"cmap": COLOR_MAP, "vmin": 0, "vmax": shares.max() or 1, "edgecolors": "#E0E0E0", "linewidth": 0.4}
        cells = axes.pcolormesh(x, y, shares, shading="nearest", **look)
        axes.invert_yaxis()
        axes.set_yticks(y, rows)
        axes.set_xticks(x, columns)
        for label, text in zip(axes.get_xticklabels(), columns, strict=True):
            label.set_rotation(90 if LETTER * letters(text) > width else 0)
        figure.colorbar(cells, ax=axes, label=names[2], format=lambda share, _: f"{100 * share:.3g} %")
        yield axes


def check_pairs(**sides: Sequence[Any]) -> None:
    counts = [len(side) for side in sides.values()]
    if counts[0] != counts[1] or counts[0] == 0:
        raise ValueError(f"{' and '.join(sides)} must be as many and at least one, got {counts}")


# --- learning curves -------------------------------------------------------------------------------------------------

LOOKS = {
    "training": {"color": BLUE, "linestyle": "-", "marker": "s", "markersize": 3},
    "validation": {"color": VERMILION, "linestyle": "--", "marker": "o", "markersize": 4},
}
TOKENS = "num_input_tokens_seen"


def curve(history: Sequence[Mapping[str, Any]], key: str, *, at: str) -> list[tuple[float, float]]:
    """Where a finite number was logged under a key, and the number."""
    return [(entry[at], entry[key]) for entry in history if key in entry and math.isfinite(entry[key])]


def draw_learning_curves(
    history: Sequence[Mapping[str, Any]], path: Path, *, metric: str | None = None, note: str | None = None
) -> bool:
    """Draw how the losses and one metric went, against tokens seen, or against steps where tokens were not counted.

    Args:
        history: what transformers' `trainer.state.log_history` has.
        path: the PNG file to write.
        metric: a key of it for a second panel, such as "eval_accuracy"; left out where nothing was logged under it.
        note: small letters under the title, such as what keeps the two losses from being compared.

    Returns:
        Whether there was anything to draw, two points at least; if not, nothing is written.
    """
    history = [entry for entry in history if not {"loss", "eval_loss", metric}.isdisjoint(entry)]
    at = TOKENS if all(TOKENS in entry for entry in history) else "step"
    panels = {"loss": {"training": curve(history, "loss", at=at), "validation": curve(history, "eval_loss", at=at)}}
    if metric is not None:
        name = shown(metric.removeprefix("eval_").replace("_", " "))
        panels[name] = {"validation": curve(history, metric, at=at)}
    panels = {name: {part: points for part, points in panel.items() if points} for name, panel in panels.items()}
    panels = {name: panel for name, panel in panels.items() if panel}
    if sum(len(points) for panel in panels.values() for points in panel.values()) < 2:
        return False
    with sheet(path, height=2.9, title="Learning curves", note=note, texts=panels) as figure:
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            draw_curves(axes, panels[name], is_share=name != "loss")
            axes.set_xlabel("tokens seen" if at == TOKENS else "optimizer steps")
            axes.set_ylabel(f"{name} (logarithmic)" if axes.get_yscale() == "log" else name)
    return True


def draw_curves(axes: Axes, panel: dict[str, list[tuple[float, float]]], *, is_share: bool) -> None:
    """Draw curves, on a logarithmic axis where they fall so far that a linear one would hide the end.

    What may be a share, and is from 0 to 1 throughout, has an axis that ends there.
    """
    for part, points in panel.items():
        look = {"markevery": 1 + len(points) // 25, "clip_on": False, **LOOKS[part]}
        axes.plot(*zip(*points, strict=True), label=part, **look)
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


def most_confused(references: Sequence[str], predictions: Sequence[str], *, most: int) -> list[str]:
    """The labels in most wrong predictions, on either side; of equals, those with more examples. In sorted order."""
    pairs = list(zip(references, predictions, strict=True))
    wrong = Counter(chain.from_iterable(pair for pair in pairs if pair[0] != pair[1]))
    examples = Counter(references)
    labels = sorted({*references, *predictions}, key=lambda label: (-wrong[label], -examples[label], label))
    return sorted(labels[:most])


def confusion_counts(references: Sequence[str], predictions: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """How often each label was taken for each, (labels, labels + 1): the last column is for all others."""
    numbers = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + 1), dtype=int)
    for reference, prediction in zip(references, predictions, strict=True):
        if reference in numbers:
            counts[numbers[reference], numbers.get(prediction, -1)] += 1
    return counts


def draw_confusion(references: Sequence[str], predictions: Sequence[str], path: Path, *, most: int = 12) -> None:
    """Draw which labels are taken for which: counts as numbers, their shares of the row as colours.

    Args:
        references: the right label of each example.
        predictions: the predicted one.
        path: the PNG file to write.
        most: draw so many labels at most; of more, those most confused, and all others as one column.

    Raises:
        ValueError: the two sides differ in length or are empty.
    """
    check_pairs(references=references, predictions=predictions)
    labels, total = most_confused(references, predictions, most=most), len({*references, *predictions})
    rows = [shown(label, most=16) for label in labels]
    columns = rows if total == len(labels) else [*rows, "(others)"]
    counts = confusion_counts(references, predictions, labels)[:, : len(columns)]
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = sum(reference == prediction for reference, prediction in zip(references, predictions, strict=True))
    which = f"all {total} labels" if total == len(labels) else f"the {len(labels)} most confused of {total} labels"
    note = f"Numbers count examples. Of all {len(references):,} examples, {right:,} are right."
    names = ("reference", "prediction", "share of the row")
    with grid(path, shares, rows=rows, columns=columns, names=names, title=f"Confusion: {which}", note=note) as axes:
        for row, column in np.argwhere(counts):
            color = "white" if shares[row, column] > shares.max() / 2 else "black"
            axes.text(column, row, counts[row, column], ha="center", va="center", size=SMALL, color=color)


# --- tags ------------------------------------------------------------------------------------------------------------


def tag_scores(
    references: list[list[str]], predictions: list[list[str]], scheme: TagScheme | None
) -> dict[str, tuple[float, int]]:
    """F1 of each type of span, by seqeval, or else of each tag, by scikit-learn; and how many the references have."""
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
    most: int = 20,
) -> None:
    """Draw the F1 of each type of span, or of each tag where tags mark no spans, as bars, the best first.

    Args:
        references: rows of tags.
        predictions: rows of the same lengths.
        path: the PNG file to write.
        labels: all tags that the model knows, which say whether tags mark spans; none given: those of both sides.
        most: draw so many at most; of more, those that the references have most of.

    Raises:
        ValueError: the two sides differ in length, row by row, or hold no tag.
    """
    flat = [list(chain.from_iterable(rows)) for rows in (references, predictions)]
    check_pairs(references=flat[0], predictions=flat[1])
    if list(map(len, references)) != list(map(len, predictions)):
        raise ValueError("rows of references and predictions must be equally long")
    scheme = find_scheme(labels or {*flat[0], *flat[1]})
    what, counted = ("tags", "words") if scheme is None else ("types of span", "spans")
    scores = tag_scores(references, predictions, scheme)
    frequent = sorted(scores, key=lambda name: -scores[name][1])[:most]
    names = sorted(frequent, key=lambda name: -scores[name][0])
    which = f"all {len(scores)} {what}" if len(scores) <= most else f"the {most} most frequent of {len(scores)} {what}"
    note = f"In brackets, how many {counted} the references have."
    bar_labels = [f"{shown(name, most=24)} ({scores[name][1]:,})" for name in names]
    with sheet(path, height=0.6 + 0.22 * len(names), title=f"F1: {which}", note=note, texts=bar_labels) as figure:
        axes = figure.add_subplot(xlim=(0, 1.08), ylim=(len(names) - 0.4, -0.6), xlabel="F1")
        bars = axes.barh(range(len(names)), [scores[name][0] for name in names], height=0.7, color=BLUE)
        axes.bar_label(bars, fmt="%.3f", padding=3, size=SMALL)
        axes.set_xticks(np.arange(6) / 5)
        axes.set_yticks(range(len(names)), bar_labels)
        axes.grid(False, axis="y")


# --- lengths ---------------------------------------------------------------------------------------------------------


def length_bins(lengths: np.ndarray, *, most: int = 8) -> list[np.ndarray]:
    """The numbers of the examples in bins of about equal size, the shortest first; equal lengths share a bin."""
    edges = np.quantile(lengths, np.arange(1, most) / most, method="inverted_cdf")
    bins = np.searchsorted(np.unique(edges), lengths)
    return [np.flatnonzero(bins == number) for number in np.unique(bins)]


def wilson_interval(mean: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share. It is too wide, if anything, for a mean of scores between 0 and 1.

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
    """Draw the mean score of short to long examples with its 95 % interval: Wilson's, made for scores of 0 and 1.

    Args:
        lengths: of each example.
        scores: of each example, from 0 to 1.
        path: the PNG file to write.
        length_name: what the length counts, such as "words of the input".
        score_name: what the score is, such as "accuracy".

    Raises:
        ValueError: the two sides differ in length or are empty, or a score is not from 0 to 1.
    """
    check_pairs(lengths=lengths, scores=scores)
    lengths, scores = np.asarray(lengths), np.asarray(scores, dtype=float)
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores must be from 0 to 1, got {scores.min()} to {scores.max()}")
    bins = length_bins(lengths)
    means = np.array([scores[numbers].mean() for numbers in bins])
    low, high = np.transpose([wilson_interval(mean, len(bins[i])) for i, mean in enumerate(means)])
    ends = [np.unique([lengths[numbers].min(), lengths[numbers].max()]) for numbers in bins]
    labels = ["–".join(f"{end:g}" for end in pair) + f"\nn = {len(bins[i]):,}" for i, pair in enumerate(ends)]
    length_name, score_name = shown(length_name), shown(score_name)
    note = "With the 95 % interval (Wilson) of each mean; n is its number of examples."
    texts = [f"Mean {score_name} by {length_name}"]
    with sheet(path, height=2.9, title=texts[0], note=note, texts=texts) as figure:
        axes = figure.add_subplot(xlabel=length_name, ylabel=f"mean {score_name}", xlim=(-0.6, len(bins) - 0.4))
        errors = np.abs([low - means, high - means])
        points = axes.errorbar(range(len(bins)), means, yerr=errors, fmt="o", color=BLUE, capsize=4)
        for artist in points.get_children():
            artist.set_clip_on(False)
        axes.set_xticks(range(len(bins)), labels)
        axes.set_ylim(math.floor(low.min() * 10) / 10, math.ceil(high.max() * 10) / 10)


# --- blending --------------------------------------------------------------------------------------------------------

MOST_TOKENS = 32
SIDES = ("token that takes (query)", "token that is taken (key)")


def draw_blending(
    weights: np.ndarray,
    path: Path,
    *,
    queries: Sequence[str],
    keys: Sequence[str],
    title: str,
    names: tuple[str, str] = SIDES,
) -> None:
    """Draw one attention map: what share each token, a row, takes of each, a column; the first 32 of both.

    Args:
        weights: (T, S); each row sums to one.
        path: the PNG file to write.
        queries: the T tokens that take.
        keys: the S tokens that are taken.
        title: which layer and head, say.
        names: what the two are.

    Raises:
        ValueError: there are not as many weights as tokens, or none.
    """
    weights = np.asarray(weights, dtype=float)
    if weights.shape != (len(queries), len(keys)) or not weights.size:
        raise ValueError(f"weights have shape {weights.shape}, but there are {len(queries)} queries, {len(keys)} keys")
    rows, columns = ([shown(token, most=14) for token in tokens[:MOST_TOKENS]] for tokens in (queries, keys))
    note = "Each row sums to 100 %."
    if cut := sorted({len(tokens) for tokens in (queries, keys) if len(tokens) > MOST_TOKENS}):
        title = f"{title} (first {MOST_TOKENS} of {' and '.join(map(str, cut))} tokens)"
        note = "Each row sums to 100 % over all tokens, those not shown among them."
    shares, names = weights[:MOST_TOKENS, :MOST_TOKENS], (*names, "share taken")
    with grid(path, shares, rows=rows, columns=columns, names=names, title=title, note=note):
        pass
