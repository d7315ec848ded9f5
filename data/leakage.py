"""Leakage: rows of validation and test that are also in training, where a model may have memorized them."""

import logging
from collections.abc import Iterator, Sequence

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .splits import BATCH_ROWS, LabelledData
from .streams import RowStream

logger = logging.getLogger(__name__)

# Separates the texts of a row: the control character "unit separator", which texts do not have.
SEPARATOR = "\x1f"


def warn_about_leakage(data: LabelledData, inputs: Sequence[str]) -> dict[str, str]:
    """Log for each other split how many of its rows equal a training row in the columns that the model reads.

    Args:
        data: the splits.
        inputs: the columns that the model reads.

    Returns:
        The message of each split for the card, without the path of its file.
    """
    train, messages = data.get("train"), {}
    for split in data if train is not None else ():
        source = str(data.origins[split])
        if split == "train":
            continue
        if isinstance(train, RowStream):
            reason = "is trained on" if source == str(data.origins["train"]) else "is not compared with a stream"
            logger.warning("%s: %s %s", split, source, reason)
            messages[split] = f"{split}: the split {reason}"
            continue
        columns = [name for name in inputs if name in train.column_names]
        if count := count_shared_rows(data[split], train, columns):
            rows, verb = f"{len(data[split]):,} rows", "is" if count == 1 else "are"
            found = f"{count:,} {verb} also in training, by {' and '.join(columns)}"
            logger.warning("%s: of %s (%s) %s", split, rows, source, found)
            messages[split] = f"{split}: of {rows} {found}"
    return messages


def count_shared_rows(rows: datasets.Dataset, others: datasets.Dataset, columns: list[str]) -> int:
    """Number of rows that equal one of the other rows in these columns; needs 8 bytes of memory per row."""
    hashes, counts = np.unique(np.concatenate([*row_hashes(rows, columns)]), return_counts=True)
    is_in_both = np.zeros(len(hashes), bool)
    for found in row_hashes(others, columns) if len(hashes) else ():
        places = np.searchsorted(hashes, found).clip(max=len(hashes) - 1)
        is_in_both[places[hashes[places] == found]] = True
    return int(counts[is_in_both].sum())


def row_hashes(rows: datasets.Dataset, columns: list[str]) -> Iterator[np.ndarray]:
    """Hashes of the rows' texts in these columns, batch by batch; empty rows are skipped."""
    for table in rows.select_columns(columns).with_format("arrow").iter(BATCH_ROWS):
        texts = pc.binary_join_element_wise(*(join_items(table[name]) for name in columns), SEPARATOR)
        texts = texts.filter(pc.greater(pc.binary_length(texts), len(columns) - 1))
        # Python's hash is the same within one process, which is enough here.
        yield np.fromiter(map(hash, texts.to_pylist()), np.int64, len(texts))


def join_items(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The items of each list, or the fields of each object in it, joined into one text; texts stay as they are."""
    if not pa.types.is_list(column.type):
        return column
    if pa.types.is_struct(column.type.value_type):
        objects = pc.list_flatten(column)
        fields = [pc.struct_field(objects, index) for index in range(column.type.value_type.num_fields)]
        offsets = np.concatenate([[0], pc.list_value_length(column).to_numpy().cumsum()])
        texts = pc.binary_join_element_wise(*fields, SEPARATOR).combine_chunks()
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)
    return pc.binary_join(column, SEPARATOR)
