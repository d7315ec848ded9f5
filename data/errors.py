"""Errors of the user's input, and how messages name values, files and choices."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# The number of valid names that a message lists, nearest to the wrong one first.
NEAREST = 10


class InputError(ValueError):
    """The user's input is wrong. The message names file, row, column or field; train.py prints it and stops."""


def nearest_first(name: str, names: Iterable[str]) -> list[str]:
    """Order names by how near they are to the one the user wrote."""
    return sorted(names, key=lambda known: -difflib.SequenceMatcher(None, name.lower(), known.lower()).ratio())


def one_of(field: str, value: str, known: Iterable[str]) -> str:
    """Return the value if it is known.

    Raises:
        InputError: it is not; the message lists the known values, nearest first.
    """
    names = list(known)
    if value not in names:
        raise InputError(f"{field}: unknown value {value!r}; valid are {', '.join(nearest_first(str(value), names))}")
    return value


def describe(value: Any) -> str:
    """Say what was found, in a few words: "the number 3", "null", "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return {list: "a list", dict: "an object"}.get(type(value), f"a {type(value).__name__}")


def in_one_line(error: BaseException) -> str:
    """What an error of a library says, and what kind it is."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def one_line(text: str) -> str:
    """A name for a line of a message: what would break the line, or cannot be seen, is escaped as Python writes it."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def refuse(error: Exception, code: int = 2) -> int:
    """Print what is wrong, in one line, and return the exit code."""
    print("error:", one_line(" ".join(str(error).split())), file=sys.stderr)
    return code


def why_not_loaded(error: Exception) -> str:
    """What an error of from_pretrained says; of code that it would ask for, what is true of us: nobody is asked."""
    # In backticks only transformers asks for it; hub_card/versions.py speaks of it as well.
    if "`trust_remote_code=True`" in str(error):
        return "it names code of its own, which is not run"
    return in_one_line(error)


def listed(names: Sequence[str]) -> str:
    """The names for a reader: all of a few, of many the first and how many more there are."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more"
