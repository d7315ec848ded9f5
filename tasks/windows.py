"""Long documents as overlapping windows: which window tells what of its document, and how the parts become whole."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ..data.errors import InputError

OVERFLOWS = ("truncate", "window")


@dataclass
class Overflow:
    """How much did not fit into one sequence.

    Args:
        rows: all there are.
        long: those that did not fit.
        windows: what those became, where they became windows.
        cut: tokens that are in no sequence.
        is_lower_bound: whether `cut` is one, as some texts were not tokenized whole.
    """

    rows: int = 0
    long: int = 0
    windows: int = 0
    cut: int = 0
    is_lower_bound: bool = False

    def add(self, document: Sequence[int], cut: Sequence[int], shortened: Sequence[bool]) -> None:
        """Count what `tokenize` tells of some rows, each by the sequences made of it (W,)."""
        sequences = np.unique(np.asarray(document), return_counts=True)[1]
        self.rows += len(sequences)
        self.long += int((sequences > 1).sum() + np.greater(cut, 0).sum())
        self.windows += int(sequences[sequences > 1].sum())
        self.cut += int(np.sum(cut))
        self.is_lower_bound |= bool(np.any(shortened))

    def __str__(self) -> str:
        cut = f"{'at least ' if self.is_lower_bound else ''}{self.cut} tokens were cut off"
        became = f"{self.windows} windows were made of them" if self.windows else cut
        return f"{self.long} of {self.rows} rows are too long for one sequence; {became}"


def check_overlap(tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int, pair: bool) -> None:
    """Refuse what the tokenizer would panic at, or would cut otherwise than from the beginning on.

    Raises:
        InputError: an overlap that leaves a window nothing of its own, or a tokenizer that cuts at the left or slowly.
    """
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        raise InputError("overflow: window needs a fast tokenizer whose truncation_side is right")
    room = max_length - tokenizer.num_special_tokens_to_add(pair)
    of_text = room // 2 if pair else room
    if overlap >= of_text:
        kind = "each text of a pair" if pair else "text"
        raise InputError(
            f"overlap: {overlap} must be less than the {max(of_text, 0)} tokens that a window has of {kind}"
        )


def bounds(sizes: Sequence[int], document: Sequence[int], overlap: int) -> list[tuple[int, int]]:
    """From where to where each window reaches in its document, in tokens without special ones.

    Args:
        sizes: the tokens of each window (W,).
        document: what document each window is of, in order (W,).
        overlap: how many tokens a window has in common with the one before it.
    """
    found: list[tuple[int, int]] = []
    for index, size in enumerate(sizes):
        follows = index > 0 and document[index] == document[index - 1]
        start = found[-1][1] - overlap if follows else 0
        found.append((start, start + size))
    return found


def most_central(first: np.ndarray, last: np.ndarray, windows: list[tuple[int, int]]) -> np.ndarray:
    """For each unit the window that shows most of what stands around it: where it is farthest from the nearer cut.

    The two ends of the document are no cuts. Of equally good windows the first is taken.

    Args:
        first: the first token of each unit, rising (N,).
        last: its last one (N,).
        windows: from where to where each window of the document reaches.

    Returns:
        Indices of windows, rising (N,); each holds the first token of its unit.
    """
    owner, best = np.zeros(len(first), dtype=np.int64), np.full(len(first), -np.inf)
    for index, (start, stop) in enumerate(windows):
        inside = slice(*np.searchsorted(first, (start, stop)))
        before = first[inside] - start if index > 0 else np.inf
        after = stop - 1 - last[inside] if index < len(windows) - 1 else np.inf
        margin = np.broadcast_to(np.minimum(before, after), best[inside].shape)
        better = margin > best[inside]
        owner[inside][better], best[inside][better] = index, margin[better]
    return owner


def told_tokens(units: list[np.ndarray], document: Sequence[int], overlap: int) -> list[np.ndarray]:
    """Which tokens of each window tell of something: the first of every unit, in the unit's most central window.

    Args:
        units: of each window a number, 0 or more, for each token (n,); neighbours with the same are one unit.
        document: what document each window is of, in order (W,).
        overlap: how many tokens a window has in common with the one before it.

    Returns:
        Of each window indices into its units, rising. Over a document's windows every unit is there exactly once.
    """
    spans = bounds([len(each) for each in units], document, overlap)
    told: list[np.ndarray] = []
    for _, group in itertools.groupby(range(len(units)), key=document.__getitem__):
        indices = list(group)
        told += _told_of_one([units[index] for index in indices], [spans[index] for index in indices])
    return told


def _told_of_one(units: list[np.ndarray], windows: list[tuple[int, int]]) -> list[np.ndarray]:
    """As told_tokens, of one document."""
    ends = [0, *(stop for _, stop in windows)]
    new = [each[end - start :] for each, (start, _), end in zip(units, windows, ends, strict=False)]
    whole = np.concatenate(new)
    first = np.flatnonzero(np.diff(whole, prepend=-1))
    last = np.append(first, len(whole))[1:] - 1
    owner = most_central(first, last, windows)
    return [first[owner == index] - start for index, (start, _) in enumerate(windows)]


def join_logits(predicted: EvalPrediction, document: np.ndarray) -> EvalPrediction:
    """The mean of the logits (W, C) of each document's windows, (D, C), and the labels of its first."""
    first = np.flatnonzero(np.diff(document, prepend=-1))
    counts = np.diff(np.append(first, len(document)))
    means = np.add.reduceat(predicted.predictions.astype(np.float64), first) / counts[:, None]
    return EvalPrediction(predictions=means, label_ids=predicted.label_ids[first])


def join_tokens(predicted: EvalPrediction, document: np.ndarray) -> EvalPrediction:
    """The predictions and labels (W, T) of each document's windows, one after the other: D arrays of any length."""
    starts = np.flatnonzero(np.diff(document, prepend=-1))[1:]
    width = predicted.label_ids.shape[1]
    sides = (predicted.predictions[:, :width], predicted.label_ids)
    predictions, labels = ([part.reshape(-1) for part in np.split(side, starts)] for side in sides)
    return EvalPrediction(predictions=predictions, label_ids=labels)
