"""Errors of the user's input, and how messages name values, files and choices."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any

# A message lists at most this many valid names, the most similar to the wrong one first.
NEAREST = 10


class InputError(ValueError):
    """The user's input is wrong. The message names file, row, column or field; train.py prints it and stops."""


class RowError(InputError):
    """A row cannot be used. Whoever knows where the row comes from names its place in place of its index.

    Args:
        row: the index of the row in its batch.
        reason: what is wrong.
    """

    def __init__(self, row: int, reason: str):
        super().__init__(f"row {row + 1}: {reason}")
        self.row, self.reason = row, reason


def nearest_first(name: str, names: Iterable[str]) -> list[str]:
    """Sort the names by similarity to the one the user wrote, most similar first."""
    return sorted(names, key=lambda known: -difflib.SequenceMatcher(None, name.lower(), known.lower()).ratio())


def check_choice(field: str, value: str, known: Iterable[str]) -> str:
    """Return the value if it is one of the known values.

    Raises:
        InputError: the value is unknown. The message lists the known values, most similar first.
    """
    names = list(known)
    if value not in names:
        raise InputError(f"{field}: unknown value {value!r}; valid are {', '.join(nearest_first(str(value), names))}")
    return value


def describe(value: Any) -> str:
    """Describe a value in a few words, for messages: "the number 3", "null", "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return {list: "a list", dict: "an object"}.get(type(value), f"a {type(value).__name__}")


def error_line(error: BaseException) -> str:
    """Type and message of an exception, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def printable(text: str) -> str:
    """The text with line ends and invisible characters escaped as in Python, so that a message stays one line."""
    return text if text.isprintable() else "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def print_error(error: Exception, code: int = 2) -> int:
    """Print the error to stderr, in one line, and return the exit code."""
    print("error:", printable(" ".join(str(error).split())), file=sys.stderr)
    return code


def loading_error_line(error: Exception) -> str:
    """One line for an error of `from_pretrained`. For remote code it says that we never run it."""
    # Only the message of transformers has the backticks; the messages of hub_card/versions.py do not.
    if "`trust_remote_code=True`" in str(error):
        return "its configuration names code of its own, which is never run"
    return error_line(error)


def short_list(names: Sequence[str]) -> str:
    """The names for a message: all of them up to four, else the first one and the number of the others."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} and {len(names) - 1} more"
