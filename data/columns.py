"""The columns that a task reads, and their names in the user's data."""

from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Any, NamedTuple

from .errors import InputError, nearest_first
from .kinds import Kind

# Messages list the columns of nested objects down to this depth.
MAX_DEPTH = 5


@dataclass(frozen=True)
class Columns:
    """The user's name of each standard column; None is the standard name, if the user has not chosen."""

    text: str | None = None
    messages: str | None = None
    text_pair: str | None = None
    label: str = "label"
    tokens: str = "tokens"
    tags: str = "tags"
    source: str = "source"
    target: str = "target"

    def name_of(self, standard: str) -> str:
        """The user's name of a standard column."""
        given = getattr(self, standard)
        return standard if given is None else given


STANDARD_COLUMNS = Columns()
# Hint of an error message: a validation or test row has no label.
UNLABELLED = "; rows without {!r} are for seqblend predict; --{} false leaves this split out"
# The option that uses each split.
STEPS = {"train": "do_train", "validation": "do_eval", "test": "do_predict"}


class Field(NamedTuple):
    """One column to read.

    Args:
        name: the standard one.
        column: the user's name.
        kind: what it may hold.
        optional: whether it may be absent.
        hint: what to do about missing values, for messages.
        is_alternative: whether exactly one of the fields of which this is true is read.
    """

    name: str
    column: str
    kind: Kind
    optional: bool = False
    hint: str = ""
    is_alternative: bool = False


# --- Names of columns ---


def has_column(row: dict[str, Any], column: str) -> bool:
    """Whether `value_of` finds a value."""
    if column in row:
        return True
    first, _, rest = column.partition(".")
    return bool(rest) and isinstance(row.get(first), dict) and has_column(row[first], rest)


def value_of(row: dict[str, Any], column: str) -> Any:
    """The value of a column, or of one inside an object: `translation.en` is `en` of the column `translation`.

    Raises:
        KeyError: there is none.
    """
    if column in row:
        return row[column]
    first, _, rest = column.partition(".")
    if not rest or not isinstance(row.get(first), dict):
        raise KeyError(column)
    return value_of(row[first], rest)


def column_names(row: dict[str, Any], prefix: str = "", depth: int = MAX_DEPTH) -> list[str]:
    """The names of all columns, as `value_of` takes them; columns of objects are listed down to `depth` levels."""
    names = []
    for name, value in row.items():
        inside = column_names(value, f"{prefix}{name}.", depth - 1) if isinstance(value, dict) and depth else []
        names += inside or [f"{prefix}{name}"]
    return names


def present_fields(fields: list[Field], row: dict[str, Any], where: str) -> list[Field]:
    """The fields to read, given the columns of the first row. Raises InputError where one is missing."""
    present = [field for field in fields if has_column(row, field.column)]
    alternatives = [field for field in fields if field.is_alternative]
    found = [field for field in alternatives if field in present]
    if len(found) > 1:
        names = " and ".join(repr(field.column) for field in found)
        flags = " or ".join(f"--{field.name}_column {field.column}" for field in found)
        raise InputError(f"{where}: has the columns {names}; only one can be read, choose it with {flags}")
    if alternatives and not found:
        raise missing_column(alternatives, row, where)
    for field in fields:
        if field not in present and not field.optional:
            raise missing_column([field], row, where)
    return present


def missing_column(fields: list[Field], row: dict[str, Any], where: str) -> InputError:
    """The error for a row that has none of these fields; it lists the columns that are present."""
    names = " or ".join(f"{field.column!r} (--{field.name}_column)" for field in fields)
    present = ", ".join(repr(name) for name in nearest_first(fields[0].column, column_names(row)))
    return InputError(f"{where}: no column {names}{fields[0].hint}; columns present: {present or 'none'}")


# --- The columns of a task ---


@dataclass(frozen=True)
class LabelRule:
    """How the label names of a data set are found.

    Args:
        column: the standard column that holds the labels.
        is_number: the labels are numbers, which are named `LABEL_0` and so on.
        outside_first: the label `O` gets the id 0.
        min_labels: the smallest number of different labels that can be learnt.
        is_set: a row has a set of labels, which may be empty.
    """

    column: str
    is_number: bool = False
    outside_first: bool = False
    min_labels: int = 1
    is_set: bool = False


@dataclass(frozen=True)
class Schema:
    """The columns that a task reads, and their names in the user's data.

    Args:
        kinds: what each standard column holds in the training split.
        evaluation_kinds: the same for validation and test, where it differs.
        prediction_kinds: the same for rows that are predicted, where it differs.
        answers: the columns that only labelled rows have.
        optional: the columns that may be absent.
        alternatives: the columns of which exactly one is read: the one that the user names, or that is there.
        labels: how label names are found; None for a task without labels.
        columns: the user's names.
    """

    kinds: dict[str, Kind]
    evaluation_kinds: dict[str, Kind] = dataclass_field(default_factory=dict)
    prediction_kinds: dict[str, Kind] = dataclass_field(default_factory=dict)
    answers: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    alternatives: tuple[str, ...] = ()
    labels: LabelRule | None = None
    columns: Columns = STANDARD_COLUMNS

    def fields(self, split: str = "train") -> list[Field]:
        """The columns to read from a split, or from rows for `prediction`.

        Raises:
            InputError: the user names two columns of which one is read.
        """
        is_evaluated = split in ("validation", "test")
        kinds = {**self.kinds, **(self.evaluation_kinds if split != "train" else {})}
        kinds |= self.prediction_kinds if split == "prediction" else {}
        named = [name for name in self.alternatives if getattr(self.columns, name) is not None]
        if len(named) > 1:
            raise InputError(f"{named[0]}_column: cannot be combined with {named[1]}_column")
        fields = []
        for name, kind in kinds.items():
            column = self.columns.name_of(name)
            if name in self.alternatives:
                if not named or name in named:
                    fields.append(Field(name, column, kind, optional=not named, is_alternative=not named))
                continue
            # A column that the user named must be there.
            optional = name in self.optional and getattr(self.columns, name) is None
            hint = UNLABELLED.format(name, STEPS[split]) if is_evaluated and name in self.answers else ""
            fields.append(Field(name, column, kind, optional, hint))
        return fields
