"""Rows of validation and test that also stand in training, where a model may have learnt them by heart."""

import logging
from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .splits import BATCH_ROWS, LabelledData
from .streams import RowStream

logger = logging.getLogger(__name__)

# What no text has, between those of a row.
BETWEEN = "\x1f"


def warn_of_leakage(data: LabelledData, inputs: Sequence[str]) -> dict[str, str]:
    """Say of each other split how many of its rows have what a training row has in the columns that a model reads.

    Returns:
        For the card, what was said of a split, without where its file is.
    """
    train, said = data.get("train"), {}
    for split in data if train is not None else ():
        where = data.where[split]
        if split == "train":
            continue
        if isinstance(train, RowStream):
            reason = "is trained on" if where == data.where["train"] else "is not compared with a stream"
            logger.warning("%s: %s %s", split, where, reason)
            said[split] = f"{split}: the split {reason}"
            continue
        columns = [name for name in inputs if name in train.column_names]
        if count := rows_in_both(data[split], train, columns):
            rows, stand = f"{len(data[split]):,} rows", "stands" if count == 1 else "stand"
            found = f"{count:,} also {stand} in training, by {' and '.join(columns)}"
            logger.warning("%s: of %s (%s) %s", split, rows, where, found)
            said[split] = f"{split}: of {rows} {found}"
    return said


def rows_in_both(rows: datasets.Dataset, others: datasets.Dataset, columns: list[str]) -> int:
    """How many of the rows have the same values in these columns as one of the others; 8 bytes a row are held."""
    hashes, counts = np.unique(np.concatenate([*row_hashes(rows, columns)]), return_counts=True)
    is_in_both = np.zeros(len(hashes), bool)
    for found in row_hashes(others, columns) if len(hashes) else ():
        places = np.searchsorted(hashes, found).clip(max=len(hashes) - 1)
        is_in_both[places[hashes[places] == found]] = True
    return int(counts[is_in_both].sum())


def row_hashes(rows: datasets.Dataset, columns: list[str]) -> Iterator[np.ndarray]:
    """A hash of each row's texts in these columns, some rows at a time; empty rows are left out."""
    for table in rows.select_columns(columns).with_format("arrow").iter(BATCH_ROWS):
        texts = pc.binary_join_element_wise(*(as_texts(table[name]) for name in columns), BETWEEN)
        texts = texts.filter(pc.greater(pc.binary_length(texts), len(columns) - 1))
        # Python's own hash differs from process to process, but not within one.
        yield np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))


def as_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The items of a list as one text."""
    return pc.binary_join(column, BETWEEN) if pa.types.is_list(column.type) else column
