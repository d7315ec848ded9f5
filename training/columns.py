"""What a column may hold: each value is checked and brought into one form, or refused with the reason."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from .files import InputError, describe, one_of

# A number with a point or an exponent. "inf" and "nan" are words.
FRACTION = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Columns:
    """What the user's data calls each standard column."""

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    tokens: str = "tokens"
    tags: str = "tags"
    source: str = "source"
    target: str = "target"


STANDARD_COLUMNS = Columns()


class Kind(NamedTuple):
    """How the values of one column are checked.

    Args:
        value: from a typed value to the standard one; raises ValueError with the reason.
        cell: the same from the text of a .csv, .tsv or .txt cell.
        type: the Arrow type of the standard values.
    """

    value: Callable[[Any], Any]
    cell: Callable[[str], Any]
    type: pa.DataType


class Field(NamedTuple):
    """One column to read: its standard name, the user's name, its kind, and whether it may be absent."""

    name: str
    column: str
    kind: Kind
    optional: bool = False


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"must be a text, but is {describe(value)}")
    return value


def _list(value: Any, of: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of {of}, but is {describe(value)}")
    return value


def _are_texts(values: list) -> bool:
    """Whether every item is a text: without a loop, as most of the time in reading words goes here."""
    return {*map(type, values)} <= {str}


def _words(value: Any) -> list[str]:
    if type(value) is list and _are_texts(value):
        return value
    for position, word in enumerate(_list(value, "texts"), 1):
        if type(word) is not str:
            raise ValueError(f"must be a list of texts, but item {position} is {describe(word)}")
    return value


def _references(value: Any) -> list[str]:
    if value == []:
        raise ValueError("must be a text or a list of references, but is an empty list")
    return _words(value) if isinstance(value, list) else [_text(value)]


def _one_target(value: Any) -> str:
    if isinstance(value, list):
        raise ValueError("a list of references is only for validation and test; in training a target is one text")
    return _text(value)


def _label(value: Any) -> str:
    """A whole number stands for its digits, a truth value for `true` or `false`, as JSON writes them."""
    if type(value) is str and value:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    hints = {
        float: "; numbers with a fraction are for --problem_type regression",
        list: "; lists are for --problem_type multi_label_classification or regression",
    }
    raise ValueError(f"must be a label, but is {describe(value)}{hints.get(type(value), '')}")


def _cell_label(cell: str) -> str:
    """Cells do not say whether 0.5 is a number or a name: without a problem_type it is refused."""
    if FRACTION.fullmatch(cell.strip()):
        raise ValueError(
            f"is the number {cell}; use --problem_type regression, or single_label_classification if it is a name"
        )
    return _label(cell)


def _label_list(value: Any) -> list[str]:
    if type(value) is list and _are_texts(value) and "" not in value:
        return value
    return [_label(item) for item in _list(value, "labels")]


def _several(value: Any) -> list[str]:
    try:
        return _label_list(value)
    except ValueError as error:
        raise ValueError(f"{error}, and --problem_type is multi_label_classification") from None


def _numbers(value: Any) -> list[float]:
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise ValueError(f"must be a number for --problem_type regression, but is {describe(item)}")
        if not math.isfinite(item):
            raise ValueError(f"must be a finite number, but is {item}")
    if not items:
        raise ValueError("must be a number or a list of numbers, but is an empty list")
    return [float(item) for item in items]


def _cell_numbers(cell: str) -> list[float]:
    words = cell.strip().removeprefix("[").removesuffix("]").replace(",", " ").split()
    try:
        return _numbers([float(word) for word in words])
    except ValueError:
        raise ValueError(
            f"must be a number, or numbers, for --problem_type regression, but is {cell[:40]!r}"
        ) from None


def _cell_list(cell: str, of: type = str) -> list:
    """A JSON list, or words between spaces (other white space belongs to the words)."""
    if cell.startswith("[") and cell.endswith("]"):
        try:
            value = json.loads(cell)
        except ValueError:
            value = None
        if isinstance(value, list) and all(isinstance(item, of) for item in value):
            return value
        if cell.startswith(('["', "['")):
            raise ValueError(f'looks like a list, but is not JSON such as ["a", "b"]: {cell[:40]}')
    return [word for word in cell.split(" ") if word]


def _cell_labels(cell: str) -> list[str]:
    return _label_list(_cell_list(cell, str | int))


def fields_of(task: str, columns: Columns, problem_type: str | None = None, split: str = "train") -> list[Field]:
    """The columns that a task reads from a split.

    Raises:
        InputError: the task or the problem type is unknown, or they do not go together.
    """
    kinds = dict(TASK_FIELDS[one_of("task", task, TASK_FIELDS)])
    if problem_type is not None:
        one_of("problem_type", problem_type, [name for name in LABEL_KINDS if name is not None])
        if "label" not in kinds:
            raise InputError(f"problem_type: {problem_type!r} is for the task sequence-classification, not {task}")
        kinds["label"] = LABEL_KINDS[problem_type]
    if "target" in kinds and split != "train":
        kinds["target"] = REFERENCES
    # A second text is read where there is one; one that the user named must be there.
    optional = {"text_pair"} if columns.text_pair == Columns.text_pair else set()
    return [Field(name, getattr(columns, name), kind, name in optional) for name, kind in kinds.items()]


TEXT = Kind(_text, _text, pa.string())
WORDS = Kind(_words, _cell_list, pa.list_(pa.string()))
LABELS = Kind(_label_list, _cell_labels, pa.list_(pa.string()))
REFERENCES = Kind(_references, lambda cell: [cell], pa.list_(pa.string()))
ONE_TARGET = Kind(_one_target, _text, pa.string())
LABEL_KINDS: dict[str | None, Kind] = {
    None: Kind(_label, _cell_label, pa.string()),
    "single_label_classification": Kind(_label, _label, pa.string()),
    "multi_label_classification": Kind(_several, _cell_labels, pa.list_(pa.string())),
    "regression": Kind(_numbers, _cell_numbers, pa.list_(pa.float64())),
}
TASK_FIELDS: dict[str, dict[str, Kind]] = {
    "sequence-classification": {"text": TEXT, "text_pair": TEXT, "label": LABEL_KINDS[None]},
    "token-classification": {"tokens": WORDS, "tags": LABELS},
    "seq2seq-lm": {"source": TEXT, "target": ONE_TARGET},
    "causal-lm": {"text": TEXT},
    "masked-lm": {"text": TEXT},
    "denoising": {"text": TEXT},
}
