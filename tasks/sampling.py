"""Training batches by their number of tokens: the models skip padding, so the cost of a batch is its tokens."""

import logging
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers import TrainerCallback

from ..data.errors import InputError
from .encoding import fill

logger = logging.getLogger(__name__)


class TokenBatchSampler(Sampler[list[int]], TrainerCallback):
    """Batches of rows of similar length, as few as a budget of tokens allows, and filled evenly.

    The rows, sorted by length, are divided into batches once, so that all epochs have the same number of batches. In
    each epoch rows of the same length are shuffled, and so are the batches, by the seed and the epoch alone.

    transformers' BatchRebalanceSampler is not used: it fills a step with a number of rows, not of tokens, counts
    padding as cost, has no seed, and repeats rows where the last step is not full.

    Args:
        lengths: the tokens of each row (N,).
        max_tokens: the most tokens in a batch.
        num_processes: the number of processes that share the batches. The number of batches is a multiple of it, so
            that accelerate, which assigns them in turn, neither drops nor repeats one. Every process iterates over all
            batches.
        seed: 0 or more.

    Raises:
        InputError: a row is longer than max_tokens, or there are too few rows for all processes.
    """

    def __init__(self, lengths: np.ndarray, max_tokens: int, *, num_processes: int = 1, seed: int = 0):
        check_lengths(lengths, max_tokens)
        self.lengths, self.seed, self.epoch = lengths, seed, 0
        self.starts = divide(np.sort(lengths), max_tokens, num_processes)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Log the number of the batches and their tokens."""
        if state.is_world_process_zero:
            low, high = self.tokens.min(), self.tokens.max()
            logger.info("max_tokens_per_batch: %d batches an epoch, of %d to %d tokens", len(self), low, high)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch: accelerate's set_epoch does not reach the sampler when a resumed run skips batches."""
        self.epoch = int(state.epoch)

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = np.lexsort((generator.random(len(self.lengths)), self.lengths))
        batches = np.split(order, self.starts[1:])
        for index in generator.permutation(len(batches)):
            yield batches[index].tolist()

    @property
    def tokens(self) -> np.ndarray:
        """The tokens of each batch (number of batches,), sorted by row length; the same in every epoch."""
        return np.add.reduceat(np.sort(self.lengths), self.starts)


def check_lengths(lengths: np.ndarray, max_tokens: int) -> None:
    """Raises InputError for a row that is longer than a batch; the message names the longest row."""
    longest = int(lengths.argmax())
    if lengths[longest] > max_tokens:
        raise InputError(
            f"max_tokens_per_batch: {max_tokens}, but row {longest + 1} of the {len(lengths)} training rows has "
            f"{lengths[longest]} tokens; give at least as many, or cut rows by max_length"
        )


def divide(lengths: np.ndarray, max_tokens: int, num_processes: int) -> list[int]:
    """The first row of each batch, among rows sorted by length. Raises InputError if batches outnumber rows."""
    totals = lengths.cumsum()
    number = -(-len(fill(totals, max_tokens)) // num_processes) * num_processes
    if number > len(lengths):
        raise InputError(
            f"max_tokens_per_batch: {max_tokens} makes {number} batches for {num_processes} processes, "
            f"but there are {len(lengths)} training rows; give more tokens, or use fewer processes"
        )
    # The smallest budget that needs no more batches fills them most evenly.
    budgets = range(int(lengths[-1]), max_tokens + 1)
    starts = fill(totals, budgets[bisect_left(budgets, True, key=lambda budget: len(fill(totals, budget)) <= number)])
    while len(starts) < number:
        rows = np.diff([*starts, len(lengths)])
        largest = int(np.where(rows > 1, np.add.reduceat(lengths, starts), -1).argmax())
        starts.insert(largest + 1, starts[largest] + int(rows[largest]) // 2)
    return starts
