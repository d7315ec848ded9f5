"""The texts of a causal language model as rows: one stream cut into blocks, or documents that are kept apart."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .corruption import IGNORE
from .encoding import fill


def cut_stream(documents: Iterable[pa.ListArray], max_length: int) -> Iterator[pa.RecordBatch]:
    """All documents in one stream, cut into blocks of max_length tokens; the last one may be shorter.

    Args:
        documents: their tokens, some documents at a time.
        max_length: of a block.
    """
    rest = np.empty(0, dtype=np.int32)
    for some in documents:
        stream = np.concatenate([rest, pc.list_flatten(some).to_numpy()])
        whole = len(stream) // max_length * max_length
        if whole:
            yield blocks_of(stream[:whole], max_length)
        rest = stream[whole:]
    if len(rest):
        yield blocks_of(rest, max_length)


def blocks_of(stream: np.ndarray, max_length: int) -> pa.RecordBatch:
    starts = range(0, len(stream), max_length)
    return rows_of([*starts, len(stream)], input_ids=stream, labels=stream)


def pack_documents(documents: Iterable[pa.ListArray], max_length: int) -> Iterator[pa.RecordBatch]:
    """Rows of one or more documents of at most max_length tokens together, in their order.

    Positions begin anew with each document, by which the model knows that it begins. Its first token is no label:
    nothing is before it to tell it from. A longer document is cut into pieces, which do not see each other either.

    Args:
        documents: their tokens, some documents at a time.
        max_length: of a row.
    """
    tokens, lengths = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
    for some in documents:
        tokens = np.concatenate([tokens, pc.list_flatten(some).to_numpy()])
        lengths = np.concatenate([lengths, lengths_of_pieces(pc.list_value_length(some).to_numpy(), max_length)])
        # The last row may have room for what comes.
        last = fill(lengths.cumsum(), max_length)[-1]
        size = lengths[:last].sum()
        if last:
            yield packed(tokens[:size], lengths[:last], max_length)
        tokens, lengths = tokens[size:], lengths[last:]
    yield packed(tokens, lengths, max_length)


def lengths_of_pieces(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """The tokens of each piece of documents of so many tokens, at least one each."""
    counts = -(-lengths // max_length)
    pieces = np.full(counts.sum(), max_length)
    pieces[counts.cumsum() - 1] = lengths - (counts - 1) * max_length
    return pieces


def packed(tokens: np.ndarray, lengths: np.ndarray, max_length: int) -> pa.RecordBatch:
    """As many pieces in each row as fit; tokens are of one piece after the other, of so many tokens each."""
    starts = lengths.cumsum() - lengths
    positions = np.arange(len(tokens)) - starts.repeat(lengths)
    labels = np.where(positions == 0, IGNORE, tokens)
    bounds = [*starts[fill(lengths.cumsum(), max_length)], len(tokens)]
    return rows_of(bounds, input_ids=tokens, position_ids=positions, labels=labels)


def rows_of(bounds: list[int], **columns: np.ndarray) -> pa.RecordBatch:
    """Rows that begin and end at these bounds of the columns (N,)."""
    offsets = pa.array(bounds, pa.int32())
    return pa.record_batch(
        {name: pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32())) for name, values in columns.items()}
    )
