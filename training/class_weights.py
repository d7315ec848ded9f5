"""The weight of each class in the loss: balanced over the training split, or given by the user."""

import logging
import math
import re
from collections import Counter
from itertools import chain
from typing import Any

import datasets
from transformers import TrainingArguments

from ..data.errors import InputError, printable
from ..data.kinds import NUMBER_PATTERN
from ..data.splits import LabelledData
from ..tasks.base import Task
from .arguments import DataArguments
from .command_line import parse_pairs

logger = logging.getLogger(__name__)


def class_weights(
    data_args: DataArguments, args: TrainingArguments, task: Task, rows: LabelledData
) -> dict[str, list[float]]:
    """The weights that --class_weights asks for, in the order of the label ids; they are logged in one line.

    Returns:
        The field of the model's configuration; empty without the option.

    Raises:
        InputError: nothing is trained; or see `balanced_weights` and `parse_weights`.
    """
    given, labels = data_args.class_weights, rows.label_names
    if given is None:
        return {}
    if not args.do_train:
        raise InputError("class_weights: are only for training, and nothing is trained")
    if data_args.problem_type == "regression":
        raise InputError("class_weights: a regression has no classes")
    if given == "balanced":
        weights = balanced_weights(rows.labelled_train, task.schema().labels.column, labels)
    else:
        weights = parse_weights(given, labels)
    logger.info("class_weights: %s", ", ".join(f"{printable(name)} {weights[name]:.4g}" for name in labels))
    return {"class_weights": [weights[name] for name in labels]}


def balanced_weights(rows: datasets.Dataset, column: str, labels: list[str]) -> dict[str, float]:
    """Weights n / (classes × count), with a mean of 1 over the n labels of the rows; each tag of a word counts as one.

    Raises:
        InputError: a label does not occur.
    """
    counts: Counter[str] = Counter()
    # In batches: row by row, ten million rows would take a minute.
    for batch in rows.select_columns(column).iter(1000):
        values = batch[column]
        counts.update(chain.from_iterable(values) if isinstance(values[0], list) else values)
    if missing := [name for name in labels if not counts[name]]:
        raise InputError(
            f"class_weights: balanced, but the training split has no {', '.join(map(repr, missing))}; "
            "give weights, or more rows"
        )
    return {name: counts.total() / (len(labels) * counts[name]) for name in labels}


def parse_weights(given: str | list | dict[str, Any], labels: list[str]) -> dict[str, float]:
    """One weight per label: numbers in the order of the labels, or LABEL=NUMBER in any order.

    Args:
        given: the value from the command line, or a list or a mapping from a file.
        labels: the labels in the order of their ids.

    Raises:
        InputError: there is not one number above 0 for each label; the message names the labels in their order.
    """
    if isinstance(given, str) and "=" not in given:
        given = given.split(",")
    order = f"the labels are {', '.join(map(printable, labels))}, in this order"
    if isinstance(given, list):
        if len(given) != len(labels):
            many = f"{len(given)} weight{'s' * (len(given) != 1)} for {len(labels)} labels"
            raise InputError(f"class_weights: must be balanced, or a number for each label; got {many}; {order}")
        given = dict(zip(labels, given, strict=True))
    weights = {str(name): value for name, value in parse_pairs(given, "class_weights").items()}
    for name in labels:
        if name not in weights:
            raise InputError(f"class_weights: no weight for label {name!r}; {order}")
    for name, value in weights.items():
        if name not in labels:
            raise InputError(f"class_weights: {name!r} is no label; {order}")
        if not is_weight(value):
            raise InputError(f"class_weights: must be a number above 0, got {value!r} for {name!r}; {order}")
    return {name: float(value) for name, value in weights.items()}


def is_weight(value: Any) -> bool:
    """Whether a value is a finite number above 0, or a text of one."""
    if isinstance(value, str) and not re.fullmatch(NUMBER_PATTERN, value.strip()):
        return False
    try:
        return not isinstance(value, bool) and 0 < float(value) < math.inf
    except (OverflowError, TypeError, ValueError):
        return False
