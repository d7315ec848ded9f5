"""Streams of rows that a resumed run continues from the row where it stopped."""

import copy
import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, cycle, islice
from typing import Any

import datasets
import numpy as np
from torch.utils.data import IterableDataset

from .errors import InputError, RowError, error_line

# Iterables of `datasets` whose saved state loses rows: those in a shuffle buffer or in a partly read batch.
INEXACT_ITERABLES = {"BufferShuffledExamplesIterable", "RebatchedArrowExamplesIterable"}


class RowStream(IterableDataset):
    """Rows that are read from their sources in every epoch and not stored.

    In each epoch the sources are read in random order, and the rows of each block are shuffled. Both depend on seed
    and epoch only, so the state of a stream is the index of a block and of a row in it.

    Digests of the rows are compared when the rows are read again, in a later epoch or by a resumed run.

    Args:
        sources: each returns an iterator over the blocks of its rows; a block is a dict of columns.
        seed: 0 or more.
        head: the first rows of the first source.
        encode: function of a block; its result may have another number of rows.
        files: name and size in bytes of each source; the size is None where unknown.
    """

    def __init__(
        self,
        sources: Sequence[Callable[[], Iterator[dict[str, list]]]],
        seed: int,
        head: datasets.Dataset,
        encode: Callable[[dict[str, list]], dict[str, list]] = dict,
        files: Sequence[tuple[str, int | None]] = (),
    ):
        self.sources, self.seed, self.head, self.encode, self.files = sources, seed, head, encode, files
        self.epoch = self.block = self.row = 0
        self._start = (0, 0)
        # Digests of the sources that were read to their end, and of the part read so far of the current source.
        self._read: dict[str, str] = {}
        self._reading = ""
        self._expected: str | None = None

    @property
    def column_names(self) -> list[str]:
        """The columns of the rows as read, before `encode`."""
        return self.head.column_names

    @property
    def size(self) -> int | None:
        """Total size of the files in bytes; None if unknown."""
        sizes = [size for _, size in self.files]
        return None if None in sizes or not sizes else sum(sizes)

    def map(self, encode: Callable[[dict[str, list]], dict[str, list]]) -> "RowStream":
        """The same stream with another function `encode`, applied to each block."""
        return RowStream(self.sources, self.seed, self.head, encode, self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        (self.block, skip), self._start = self._start, (0, 0)
        self.row = skip
        expected, self._expected = self._expected, None
        source = 0
        for number, (source, first_row, block) in enumerate(self._blocks()):
            if number < self.block:
                continue
            if expected is not None and self._reading != expected:
                raise self._changed(source)
            expected = None
            try:
                columns = self.encode(block)
            except RowError as error:
                raise InputError(f"{self.name_of(source)}: row {first_row + error.row + 1}: {error.reason}") from None
            count = len(next(iter(columns.values())))
            places = np.random.default_rng((self.seed, self.epoch, number)).permutation(count)
            for row in range(skip, count):
                self.block, self.row = number, row + 1
                yield {name: column[places[row]] for name, column in columns.items()}
            skip = 0
        if expected is not None:
            raise self._changed(source)

    def _blocks(self) -> Iterator[tuple[int, int, dict[str, list]]]:
        """The blocks of an epoch, each with the index of its source and the index of its first row in that.

        Raises:
            InputError: a source has other rows than when it was read before.
        """
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.sources))
        for source in order.tolist():
            digest, count = hashlib.sha256(), 0
            for block in self.sources[source]():
                digest.update(json.dumps(block, default=str).encode())
                self._reading = digest.hexdigest()
                yield source, count, block
                count += len(next(iter(block.values())))
            if self._read.setdefault(str(source), digest.hexdigest()) != digest.hexdigest():
                raise self._changed(source)

    def name_of(self, source: int) -> str:
        """The name of a source, for messages."""
        return self.files[source][0] if source < len(self.files) else f"source {source + 1}"

    def _changed(self, source: int) -> InputError:
        return InputError(
            f"{self.name_of(source)}: has other rows than when this run read it before; --allow_changed train_dataset "
            "resumes anyway"
        )

    def state_dict(self) -> dict[str, Any]:
        """The position in this epoch, and the digests of the rows read so far."""
        return {"block": self.block, "row": self.row, "reading": self._reading, "read": self._read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start the next iteration from this state; the iterations after it start from the beginning."""
        self._start = (int(state["block"]), int(state["row"]))
        self._expected = state.get("reading") or None
        self.compare_with(state)

    def compare_with(self, state: dict[str, Any]) -> None:
        """Compare the rows read from now on with the digests of a state."""
        self._read = dict(state.get("read", {}))

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which decides the order of rows. Called by PositionedStream and SharedStream."""
        self.epoch = epoch


@contextmanager
def stream_state_errors() -> Iterator[None]:
    """Turn the errors that a source raises for an invalid state into InputError."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = error_line(error)
        raise InputError(
            f"resume_from_checkpoint: position.pt has no valid state of this stream ({reason})"
        ) from error


class PositionedStream(IterableDataset):
    """A stream that keeps the state of its source at the end of each of the last batches.

    The current state of the source is too far ahead: the dataloader fetches the next batches while one is trained on.

    Args:
        source: has `state_dict` and `load_state_dict`, as `datasets.IterableDataset`.
        rows: rows of a batch, over all processes.
    """

    def __init__(self, source: Any, rows: int):
        self.source, self.rows = source, rows
        self.start = 0
        self.states: deque[tuple[int, Any]] = deque(maxlen=4)

    def __len__(self) -> int:
        """Length of the source. Raises TypeError, as len does, where it is unknown."""
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        batches, self.start = self.start, 0
        self.states.clear()
        count, rows = 0, iter(self.source)
        if batches:
            # `datasets` checks the loaded state only when it yields the first row.
            with stream_state_errors():
                rows = chain(list(islice(rows, 1)), rows)
        for row in rows:
            count += 1
            if count == self.rows:
                batches, count = batches + 1, 0
                self._record_state(batches)
            yield row
        self._record_state(batches + (count > 0))

    def _record_state(self, batches: int) -> None:
        """Keep the state of the source after this number of batches."""
        self.states.append((batches, copy.deepcopy(self.source.state_dict())))

    def state_after(self, batches: int) -> Any:
        """State of the source after this number of batches of the epoch; None if it is no longer kept."""
        return dict(self.states).get(batches)

    def resume(self, batches: int, state: Any) -> None:
        """Continue an epoch after this number of batches, from the source's state there."""
        with stream_state_errors():
            self.source.load_state_dict(state)
        self.start = batches

    def compare_with(self, state: Any) -> None:
        """Compare the next epoch with the rows of the epoch that ended in this state, if the source can."""
        if hasattr(self.source, "compare_with"):
            self.source.compare_with(state)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate; passed on to the source."""
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)


def is_resumable(source: Any) -> bool:
    """Whether a stream can continue from a saved state with exactly the next row."""
    has_state = all(hasattr(source, name) for name in ("state_dict", "load_state_dict"))
    return has_state and not INEXACT_ITERABLES & class_names(source)


def class_names(source: Any) -> set[str]:
    """The class names of the nested iterables of a `datasets` stream. No public attribute shows a shuffle buffer."""
    inner = [getattr(source, name, None) for name in ("_ex_iterable", "ex_iterable")]
    inner += getattr(source, "ex_iterables", None) or []
    return {type(source).__name__}.union(*(class_names(each) for each in inner if each is not None))


class SharedStream(IterableDataset):
    """A stream that every process reads completely; each process trains on its own part of each batch.

    accelerate would divide a `datasets.IterableDataset` by its shards, which may differ in size: the process that
    finishes first would leave the others waiting (`new_dataset.shard(num_shards=num_processes` in accelerate's
    prepare_data_loader).

    The last batch is filled up with its own rows. accelerate would fill it with the first rows that it read, which are
    different ones in a resumed run.

    Args:
        source: has the same rows in the same order in every process.
        rows: rows of a batch, over all processes.
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
        """Called by accelerate; passed on to the source."""
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)
