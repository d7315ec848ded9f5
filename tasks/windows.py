"""Long documents as overlapping windows: which window labels which token, and joining the windows' predictions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from ..data.errors import InputError

OVERFLOW_STRATEGIES = ("truncate", "window")


@dataclass
class OverflowCounts:
    """Counts of what did not fit into one sequence.

    Args:
        rows: all rows.
        long: rows that did not fit.
        windows: windows made of those rows.
        cut: tokens that are in no sequence.
        is_lower_bound: whether `cut` is a lower bound, as some texts were shortened before tokenizing.
    """

    rows: int = 0
    long: int = 0
    windows: int = 0
    cut: int = 0
    is_lower_bound: bool = False

    def add(self, document: Sequence[int], cut: Sequence[int], shortened: Sequence[bool]) -> None:
        """Add the counts of a batch. The arguments are columns of `tokenize`, with one entry per sequence (W,)."""
        sequences = np.unique(np.asarray(document), return_counts=True)[1]
        self.rows += len(sequences)
        self.long += int((sequences > 1).sum() + np.greater(cut, 0).sum())
        self.windows += int(sequences[sequences > 1].sum())
        self.cut += int(np.sum(cut))
        self.is_lower_bound |= bool(np.any(shortened))

    def __str__(self) -> str:
        cut = f"{'at least ' if self.is_lower_bound else ''}{self.cut} tokens were cut off"
        result = f"{self.windows} windows were made of them" if self.windows else cut
        return f"{self.long} of {self.rows} rows are too long for one sequence; {result}"


def check_overlap(tokenizer: PreTrainedTokenizerBase, max_length: int, overlap: int, pair: bool) -> None:
    """Check that windows can be made: an overlap that is too large makes the tokenizer panic.

    Raises:
        InputError: the overlap fills a whole window, or the tokenizer is slow or truncates at the left.
    """
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        raise InputError("overflow: window needs a fast tokenizer with truncation_side=right")
    room = max_length - tokenizer.num_special_tokens_to_add(pair)
    of_text = room // 2 if pair else room
    if overlap >= of_text:
        kind = "each text of a pair" if pair else "text"
        raise InputError(
            f"overlap: {overlap} must be less than the {max(of_text, 0)} tokens that a window has of {kind}"
        )


def window_bounds(sizes: Sequence[int], document: Sequence[int], overlap: int) -> list[tuple[int, int]]:
    """Start and end of each window in its document, in tokens without special tokens.

    Args:
        sizes: number of tokens of each window (W,).
        document: index of the document of each window, ascending (W,).
        overlap: number of tokens that a window shares with the previous one.
    """
    found: list[tuple[int, int]] = []
    for index, size in enumerate(sizes):
        follows = index > 0 and document[index] == document[index - 1]
        start = found[-1][1] - overlap if follows else 0
        found.append((start, start + size))
    return found


def most_central(first: np.ndarray, last: np.ndarray, windows: list[tuple[int, int]]) -> np.ndarray:
    """For each unit the window with most context around it: where it is farthest from the nearer end of the window.

    Of equally good windows the first is chosen. The ends of the document, where no context is cut off, need no
    exception: a unit that is nearer to such an end than to the other end of the window is even nearer to an end of
    any other window.

    Args:
        first: index of the first token of each unit, ascending (N,).
        last: index of its last token (N,).
        windows: start and end of each window of the document.

    Returns:
        Indices of windows, ascending (N,); each window contains the first token of its unit.
    """
    owner, best = np.zeros(len(first), dtype=np.int64), np.full(len(first), -np.inf)
    for index, (start, stop) in enumerate(windows):
        inside = slice(*np.searchsorted(first, (start, stop)))
        margin = np.minimum(first[inside] - start, stop - 1 - last[inside])
        better = margin > best[inside]
        owner[inside][better], best[inside][better] = index, margin[better]
    return owner


def labelled_positions(units: list[np.ndarray], document: Sequence[int], overlap: int) -> list[np.ndarray]:
    """Positions that carry a label: the first token of each unit (word), in the window where it is most central.

    Args:
        units: for each window the unit, 0 or more, of each token (n,); adjacent tokens of the same unit form one.
        document: index of the document of each window, ascending (W,).
        overlap: number of tokens that a window shares with the previous one.

    Returns:
        For each window ascending indices into its units. Each unit of a document is labelled in exactly one window.
    """
    spans = window_bounds([len(each) for each in units], document, overlap)
    positions: list[np.ndarray] = []
    for _, group in itertools.groupby(range(len(units)), key=document.__getitem__):
        indices = list(group)
        positions += _labelled_in_document([units[index] for index in indices], [spans[index] for index in indices])
    return positions


def _labelled_in_document(units: list[np.ndarray], windows: list[tuple[int, int]]) -> list[np.ndarray]:
    """As labelled_positions, for the windows of one document."""
    ends = [0, *(stop for _, stop in windows)]
    new = [each[end - start :] for each, (start, _), end in zip(units, windows, ends, strict=False)]
    tokens = np.concatenate(new)
    first = np.flatnonzero(np.diff(tokens, prepend=-1))
    last = np.append(first, len(tokens))[1:] - 1
    owner = most_central(first, last, windows)
    return [first[owner == index] - start for index, (start, _) in enumerate(windows)]


def join_logits(predicted: EvalPrediction, document: np.ndarray) -> EvalPrediction:
    """The mean of the logits (W, C) over each document's windows, (D, C), with the labels of its first window."""
    first = np.flatnonzero(np.diff(document, prepend=-1))
    counts = np.diff(np.append(first, len(document)))
    means = np.add.reduceat(predicted.predictions.astype(np.float64), first) / counts[:, None]
    return EvalPrediction(predictions=means, label_ids=predicted.label_ids[first])


def join_tokens(predicted: EvalPrediction, document: np.ndarray) -> EvalPrediction:
    """The predictions (W, T) or (W, T, C) and labels (W, T) of each document's windows: D arrays of any length."""
    starts = np.flatnonzero(np.diff(document, prepend=-1))[1:]
    width = predicted.label_ids.shape[1]
    sides = (predicted.predictions[:, :width], predicted.label_ids)
    predictions, labels = ([part.reshape(-1, *side.shape[2:]) for part in np.split(side, starts)] for side in sides)
    return EvalPrediction(predictions=predictions, label_ids=labels)
