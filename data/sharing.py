"""Streams that several processes train on together."""

from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

from torch.utils.data import IterableDataset


class SharedStream(IterableDataset):
    """A stream that every process reads whole, and of which it trains on its own part of each batch.

    A `datasets.IterableDataset` itself would be divided by its shards, of which no two need have equally many rows:
    the process that is done first would leave the others waiting (`new_dataset.shard(num_shards=num_processes` of
    accelerate's prepare_data_loader).

    The last batch is filled with rows of its own. accelerate takes the first ones that it has read, and after a run
    was resumed those are others.

    Args:
        source: has the same rows in the same order in every process.
        rows: of a batch, of all processes together.
    """

    def __init__(self, source: Any, rows: int):
        self.source, self.rows = source, rows

    def __iter__(self) -> Iterator[Any]:
        batch: list[Any] = []
        for row in self.source:
            if len(batch) == self.rows:
                batch.clear()
            batch.append(row)
            yield row
        yield from islice(cycle(batch), -len(batch) % self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate, which would call it of the source."""
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)
