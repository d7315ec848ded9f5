"""The labels of a data set: their names and ids, and a check that all splits have the same labels."""

import difflib
import re
from collections.abc import Iterator
from decimal import Decimal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .columns import LabelRule
from .errors import InputError, short_list
from .sources import BATCH_ROWS, Origin


def label_names(
    data: dict[str, datasets.Dataset], origins: dict[str, Origin], rule: LabelRule, known: list[str] | None
) -> list[str]:
    """The label names in the order of their ids: those of the training split, or those of a saved model.

    Names that are all whole numbers, in the digits 0 to 9, are sorted as numbers, all others by code point. Where the
    model has the same names as the training split, its order is kept. The numbers of a regression are named `LABEL_0`
    and so on, one name for each number of a row.

    Args:
        data: the splits by name.
        origins: where each split comes from, for messages.
        rule: where the labels are.
        known: the names of a saved model, if there is one.

    Raises:
        InputError: there are too few labels, every row has all of them, or a split has a label that is not among the
            names.
    """
    if rule.is_number:
        return _number_names(data, origins, known)
    reason = "is not a label of the model"
    if "train" in data:
        reason = "does not occur in training"
        names = _sorted_labels(_distinct(data["train"], rule.column), rule)
        if not names:
            raise InputError(f"{origins['train']}: no row has a label")
        if len(names) < rule.min_labels:
            raise InputError(
                f"{origins['train']}: every row has the label {names[0]!r}; at least two labels are needed"
            )
        if rule.is_set and _fewest_labels(data["train"], rule.column) == len(names):
            raise InputError(
                f"{origins['train']}: every row has all labels, {short_list(list(map(repr, names)))}, so there is "
                "nothing to learn; if they are a 0 or 1 for each label, give the names of the labels of the row"
            )
        known = known if known is not None and sorted(known) == sorted(names) else names
    for split in data:
        _check_known(data[split], rule.column, known, origins[split], reason)
    return known


def _number_names(data: dict[str, datasets.Dataset], origins: dict[str, Origin], known: list[str] | None) -> list[str]:
    """One name for each number of a label. Raises InputError where splits have different counts of numbers."""
    widths = {split: np.size(data[split][0]["label"]) for split in data}
    width, owner = (widths["train"], "training") if "train" in data else (len(known), "the model")
    for split, found in widths.items():
        if found != width:
            raise InputError(f"{origins[split]}: labels hold {found} numbers, but those of {owner} hold {width}")
    return [f"LABEL_{index}" for index in range(width)]


def _distinct(dataset: datasets.Dataset, column: str) -> set[str]:
    """The labels that occur."""
    found: set[str] = set()
    # By batches, because rows may have been left out: the table still has them.
    for table in dataset.select_columns(column).with_format("arrow").iter(BATCH_ROWS):
        labels = table[column]
        found |= set(pc.unique(pc.list_flatten(labels) if pa.types.is_list(labels.type) else labels).to_pylist())
    return found


def _fewest_labels(dataset: datasets.Dataset, column: str) -> int:
    """The smallest number of labels in a row with a list of them."""
    tables = dataset.select_columns(column).with_format("arrow").iter(BATCH_ROWS)
    return min(pc.min(pc.list_value_length(table[column])).as_py() for table in tables)


def _labels(dataset: datasets.Dataset, column: str) -> Iterator[list[str]]:
    """The labels of each row, row by row: as a list the column may not fit into memory."""
    for table in dataset.select_columns(column).with_format("arrow").iter(1000):
        for labels in table[column].to_pylist():
            yield labels if isinstance(labels, list) else [labels]


def _sorted_labels(names: set[str], rule: LabelRule) -> list[str]:
    """See `label_names`."""
    if all(re.fullmatch("-?[0-9]+", name) for name in names):
        # Decimal reads any number of digits, int at most 4,300.
        return sorted(names, key=lambda name: (Decimal(name), name))
    return sorted(names, key=lambda name: (rule.outside_first and name != "O", name))


def _check_known(dataset: datasets.Dataset, column: str, names: list[str], origin: Origin, reason: str) -> None:
    """Raises InputError with `reason` for the first row with a label that is not among the names."""
    known = set(names)
    if _distinct(dataset, column) <= known:
        return
    rows = {row: labels for row, labels in enumerate(_labels(dataset, column), 1) if not known.issuperset(labels)}
    unknown = list(dict.fromkeys(name for labels in rows.values() for name in labels if name not in known))
    count = sum(unknown[0] in labels for labels in rows.values())
    others = f", and {len(unknown) - 1} more such labels" if len(unknown) > 1 else ""
    if unknown[0] == "-1":
        others += "; -1 often means that a row has no label: such rows are for seqblend predict"
    near = " or ".join(map(repr, difflib.get_close_matches(unknown[0], names)))
    raise InputError(
        f"{origin.row(next(iter(rows)))}: label {unknown[0]!r} {reason}"
        f" ({count} {'row' if count == 1 else 'rows'} here{others})" + (f"; did you mean {near}?" if near else "")
    )
