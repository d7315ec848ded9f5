"""How much each class counts in the loss: balanced over the training split, or as the user says."""

import logging
import math
import re
from collections import Counter
from itertools import chain
from typing import Any

import datasets
from transformers import TrainingArguments

from ..data.columns import NUMBER_PATTERN
from ..data.errors import InputError, printable
from ..data.splits import LabelledData
from ..tasks.base import Task
from .arguments import DataArguments
from .option_files import parse_pairs

logger = logging.getLogger(__name__)


def class_weights(
    data_args: DataArguments, args: TrainingArguments, task: Task, rows: LabelledData
) -> list[float] | None:
    """The weights that --class_weights asks for, in the order of the label ids; they are logged in one line.

    Raises:
        InputError: nothing is trained; or see `balanced` and `weights_given`.
    """
    given, labels = data_args.class_weights, rows.label_names
    if given is None:
        return None
    if not args.do_train:
        raise InputError("class_weights: act in training alone, and nothing is trained")
    if data_args.problem_type == "regression":
        raise InputError("class_weights: a regression has no classes")
    if given == "balanced":
        labelled = rows["train"] if rows.streamed_labels is None else rows.streamed_labels
        weights = balanced(labelled, task.schema().labels.column, labels)
    else:
        weights = weights_given(given, labels)
    logger.info("class_weights: %s", ", ".join(f"{printable(name)} {weights[name]:.4g}" for name in labels))
    return [weights[name] for name in labels]


def balanced(rows: datasets.Dataset, column: str, labels: list[str]) -> dict[str, float]:
    """Weights n / (classes × count), whose mean over the n labels of the rows is 1; of tags each word has one.

    Raises:
        InputError: a label does not occur.
    """
    counts: Counter[str] = Counter()
    # By single rows it would take a minute for ten million.
    for batch in rows.select_columns(column).iter(1000):
        values = batch[column]
        counts.update(chain.from_iterable(values) if isinstance(values[0], list) else values)
    if missing := [name for name in labels if not counts[name]]:
        raise InputError(
            f"class_weights: balanced, but the training split has no {', '.join(map(repr, missing))}; "
            "give weights, or more rows"
        )
    return {name: counts.total() / (len(labels) * counts[name]) for name in labels}


def weights_given(given: str | list | dict[str, Any], labels: list[str]) -> dict[str, float]:
    """One weight a label: numbers in the order of the labels, or LABEL=NUMBER in any order.

    Args:
        given: of the command line, or a list or a mapping of a file.
        labels: in the order of their ids.

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
            raise InputError(f"class_weights: none for label {name!r}; {order}")
    for name, value in weights.items():
        if name not in labels:
            raise InputError(f"class_weights: {name!r} is no label; {order}")
        if not is_weight(value):
            raise InputError(f"class_weights: must be a number above 0, got {value!r} for {name!r}; {order}")
    return {name: float(value) for name, value in weights.items()}


def is_weight(value: Any) -> bool:
    """Whether it is a finite number above 0, or reads as one, as in a cell of a file."""
    if isinstance(value, str) and not re.fullmatch(NUMBER_PATTERN, value.strip()):
        return False
    try:
        return not isinstance(value, bool) and 0 < float(value) < math.inf
    except (OverflowError, TypeError, ValueError):
        return False
