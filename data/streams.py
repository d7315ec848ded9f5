"""Streams of rows that can be read on from where a run was stopped."""

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

from .errors import InputError, in_one_line

# Parts of a stream of `datasets` whose state leaves rows out: those in a buffer, and those of a batch.
INEXACT = {"BufferShuffledExamplesIterable", "RebatchedArrowExamplesIterable"}


class RowStream(IterableDataset):
    """Rows that are read anew in each epoch and stored nowhere.

    In an epoch the sources come in random order, and the rows of each block of one change places at random; seed and
    epoch decide it alone. So a state is no more than the number of a block and of a row in it.

    What has been read is compared when it is read again, in a later epoch or by a resumed run.

    Args:
        sources: each gives the blocks of its rows, as columns.
        seed: 0 or more.
        head: the first rows of the first source.
        encode: makes of a block what is told; it may have another number of rows.
        files: name and size in bytes of each source, None where it has none.
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
        # Digests of the sources that were read to their end, and of what was read of the one that is being read.
        self._read: dict[str, str] = {}
        self._reading = ""
        self._expected: str | None = None

    @property
    def column_names(self) -> list[str]:
        """Of the rows as read."""
        return self.head.column_names

    @property
    def size(self) -> int | None:
        """Of the files together, in bytes; None if unknown."""
        sizes = [size for _, size in self.files]
        return None if None in sizes or not sizes else sum(sizes)

    def encoded(self, encode: Callable[[dict[str, list]], dict[str, list]]) -> "RowStream":
        """The same rows, of which `encode` makes something, block by block."""
        return RowStream(self.sources, self.seed, self.head, encode, self.files)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        (self.block, skip), self._start = self._start, (0, 0)
        self.row = skip
        expected, self._expected = self._expected, None
        source = 0
        for number, (source, block) in enumerate(self._blocks()):
            if number < self.block:
                continue
            if expected is not None and self._reading != expected:
                raise self._changed(source)
            expected = None
            columns = self.encode(block)
            count = len(next(iter(columns.values())))
            places = np.random.default_rng((self.seed, self.epoch, number)).permutation(count)
            for row in range(skip, count):
                self.block, self.row = number, row + 1
                yield {name: column[places[row]] for name, column in columns.items()}
            skip = 0
        if expected is not None:
            raise self._changed(source)

    def _blocks(self) -> Iterator[tuple[int, dict[str, list]]]:
        """The blocks of an epoch, each with the number of its source.

        Raises:
            InputError: a source has other rows than when it was read before.
        """
        order = np.random.default_rng((self.seed, self.epoch)).permutation(len(self.sources))
        for source in order.tolist():
            digest = hashlib.sha256()
            for block in self.sources[source]():
                digest.update(json.dumps(block, default=str).encode())
                self._reading = digest.hexdigest()
                yield source, block
            if self._read.setdefault(str(source), digest.hexdigest()) != digest.hexdigest():
                raise self._changed(source)

    def _changed(self, source: int) -> InputError:
        name = self.files[source][0] if source < len(self.files) else f"source {source + 1}"
        return InputError(
            f"{name}: has other rows than when this run read it before; --allow_changed train_dataset resumes anyway"
        )

    def state_dict(self) -> dict[str, Any]:
        """Where it is in this epoch, and what has been read."""
        return {"block": self.block, "row": self.row, "reading": self._reading, "read": self._read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there when rows are asked for next, and from the beginning when that has ended."""
        self._start = (int(state["block"]), int(state["row"]))
        self._expected = state.get("reading") or None
        self.remember(state)

    def remember(self, state: dict[str, Any]) -> None:
        """Compare what is read from now on with what had been read."""
        self._read = dict(state.get("read", {}))

    def set_epoch(self, epoch: int) -> None:
        """Called by PositionedStream."""
        self.epoch = epoch


@contextmanager
def state_of_stream() -> Iterator[None]:
    """Raises InputError for what a source raises of a state that is none of its own."""
    try:
        yield
    except InputError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = in_one_line(error)
        raise InputError(f"resume_from_checkpoint: position.pt has no state of this stream ({reason})") from error


class PositionedStream(IterableDataset):
    """A stream that knows where in its source each of the last batches ended.

    The source has read on by then: a batch is made before it is known to be the last, and another while it is trained
    on.

    Args:
        source: has `state_dict` and `load_state_dict`, as `datasets.IterableDataset`.
        rows: of a batch, of all processes together.
    """

    def __init__(self, source: Any, rows: int):
        self.source, self.rows = source, rows
        self.start = 0
        self.ends: deque[tuple[int, Any]] = deque(maxlen=4)

    def __len__(self) -> int:
        """Raises TypeError, as len does, where the source does not know."""
        return len(self.source)

    def __iter__(self) -> Iterator[Any]:
        batches, self.start = self.start, 0
        self.ends.clear()
        count, rows = 0, iter(self.source)
        if batches:
            # Only now `datasets` looks at the state that it was given.
            with state_of_stream():
                rows = chain(list(islice(rows, 1)), rows)
        for row in rows:
            count += 1
            if count == self.rows:
                batches, count = batches + 1, 0
                self.note(batches)
            yield row
        self.note(batches + (count > 0))

    def note(self, batches: int) -> None:
        """Keep where the source is after so many batches."""
        self.ends.append((batches, copy.deepcopy(self.source.state_dict())))

    def state_after(self, batches: int) -> Any:
        """Where the source was after so many batches of this epoch; None if that is not known any more."""
        return dict(self.ends).get(batches)

    def resume(self, batches: int, state: Any) -> None:
        """Go on after so many batches of an epoch."""
        with state_of_stream():
            self.source.load_state_dict(state)
        self.start = batches

    def remember(self, state: Any) -> None:
        """Begin an epoch after the one that ended in this state."""
        if hasattr(self.source, "remember"):
            self.source.remember(state)

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate, which would call it of the source."""
        if hasattr(self.source, "set_epoch"):
            self.source.set_epoch(epoch)


def is_exact(source: Any) -> bool:
    """Whether a stream has a state from which it goes on with the very next row."""
    return all(hasattr(source, name) for name in ("state_dict", "load_state_dict")) and not INEXACT & parts_of(source)


def parts_of(source: Any) -> set[str]:
    """The names of the classes that a stream of `datasets` is made of. No public name tells of a shuffled buffer."""
    inner = [getattr(source, name, None) for name in ("_ex_iterable", "ex_iterable")]
    inner += getattr(source, "ex_iterables", None) or []
    return {type(source).__name__}.union(*(parts_of(each) for each in inner if each is not None))


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
