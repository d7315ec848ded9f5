"""The kinds of values in columns: each value is checked and converted to a standard form, or refused with a reason."""

import ast
import contextlib
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from .errors import describe
from .files import MAX_ROW_SIZE
from .formats import TOO_MANY_DIGITS, Reading

# A number with a point, a decimal comma or an exponent. "inf" and "nan" are words.
FRACTION = re.compile(r"[+-]?([0-9]+[.,][0-9]*|[.,][0-9]+|[0-9]+(?=[eE]))([eE][+-]?[0-9]+)?")
NUMBER_PATTERN = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
# The loss squares a number, in float32.
LARGEST = float(np.sqrt(np.finfo(np.float32).max))
COMMA_FOR_POINT = str.maketrans(".,", ",.")
# A cell that looks like a list: brackets, perhaps in quotes, or quoted texts in a tuple, a set or an array.
LIKE_LIST = re.compile(r"""\[.*\]|\(\s*['"].*['"]\s*,?\s*\)|\{\s*['"].*['"]\s*\}|array\(.*\)|"\[.*\]\"""", re.DOTALL)
ITEM = r"""(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|""" + NUMBER_PATTERN + ")"
# A list as Python prints it, or an array as NumPy prints it.
PRINTED_LIST = re.compile(rf"\[\s*{ITEM}(?:(?:\s*,\s*{ITEM})*|(?:\s+{ITEM})*)\s*\]")
# The keys of a message, and the role of the messages that are answers.
MESSAGE_KEYS = ("role", "content")
ASSISTANT = "assistant"
# For messages with the keys and roles of ShareGPT.
SHAREGPT_HINT = (
    "; rename the keys from and value to role and content, and the roles human and gpt to user and assistant"
)
# A character that probably separates labels: , ; or | beside a word character, or # between two of them.
SEPARATOR = re.compile(r"(?<=\w)[,;|]|[,;|](?=\w)|(?<=\w)#(?=\w)")
# The items of a row that says of each label whether the row has it, in place of the names of its labels.
MARKS = {"0", "1", "true", "false"}


class Kind(NamedTuple):
    """How the values of one column are checked.

    Args:
        value: converts a typed value to the standard form; raises ValueError with the reason.
        cell: converts the text of a .csv, .tsv or .txt cell, given how files are read; raises ValueError, too.
        type: the Arrow type of the standard values.
    """

    value: Callable[[Any], Any]
    cell: Callable[[str, Reading], Any]
    type: pa.DataType


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"must be a text, but is {describe(value)}")
    if len(value) > MAX_ROW_SIZE:
        raise ValueError(f"has {len(value):,} characters, and the most that is read of one row is {MAX_ROW_SIZE:,}")
    return value


def _list(value: Any, of: str) -> list:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of {of}, but is {describe(value)}")
    return value


def _are_texts(values: list) -> bool:
    """Whether every item is a text. There is no loop, because reading words spends most of its time here."""
    return {*map(type, values)} <= {str}


def _words(value: Any) -> list[str]:
    if type(value) is list and _are_texts(value):
        return value
    for position, word in enumerate(_list(value, "texts"), 1):
        if not isinstance(word, str):
            raise ValueError(f"must be a list of texts, but item {position} is {describe(word)}")
    # A text of NumPy is one, too.
    return [str(word) for word in value]


def _references(value: Any) -> list[str]:
    if isinstance(value, list) and not value:
        raise ValueError("must be a text or a list of references, but is an empty list")
    return _words(value) if isinstance(value, list) else [_text(value)]


def _one_target(value: Any) -> str:
    if isinstance(value, list):
        raise ValueError("a list of references is only for validation and test; in training a target is one text")
    return _text(value)


def _label(value: Any) -> str:
    """A label as text: a whole number becomes its digits, a truth value becomes `true` or `false`, as in JSON."""
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


def _cell_label(cell: str, reading: Reading) -> str:
    """The label of a cell, without a problem_type. Raises ValueError for a cell that may be a number or a list."""
    if FRACTION.fullmatch(cell.strip()):
        comma = " with --decimal ','" if "," in cell else ""
        raise ValueError(
            f"is the number {cell}; use --problem_type regression{comma}, or single_label_classification if it is "
            "a name"
        )
    if LIKE_LIST.fullmatch(cell.strip()):
        raise ValueError(
            f"looks like the list {cell[:40]}; use --problem_type multi_label_classification or regression, or "
            "single_label_classification if it is a name"
        )
    return _label(cell)


def _label_list(value: Any) -> list[str]:
    if type(value) is list and _are_texts(value) and "" not in value:
        return value
    return [_label(item) for item in _list(value, "labels")]


def _several_labels(value: Any) -> list[str]:
    try:
        labels = _label_list(value)
    except ValueError as error:
        raise ValueError(f"{error}, and --problem_type is multi_label_classification") from None
    return _unique(labels)


def _unique(labels: list[str]) -> list[str]:
    """The labels without repeats: one that is named twice counts once. Raises ValueError for a 0 or 1 a label."""
    unique = list(dict.fromkeys(labels))
    if len(unique) < len(labels) and {label.lower() for label in unique} <= MARKS:
        raise ValueError("looks like a 0 or 1 for each label; give the names of the labels of the row")
    return unique


def _numbers(value: Any) -> list[float]:
    items = value if isinstance(value, list) else [value]
    # Parquet has numbers in decimal digits, too.
    items = [float(item) if isinstance(item, Decimal) else item for item in items]
    for item in items:
        if isinstance(item, bool) or not isinstance(item, int | float):
            raise ValueError(f"must be a number for --problem_type regression, but is {describe(item)}")
        # "not" also refuses nan.
        if not abs(item) <= LARGEST:
            raise ValueError(
                f"must be a finite number, at most {LARGEST:.1e} (the loss squares it), but is {str(item)[:40]}"
            )
    if not items:
        raise ValueError("must be a number or a list of numbers, but is an empty list")
    return [float(item) for item in items]


# --- Conversations ---


def _message(number: int, value: Any) -> dict[str, str]:
    """A message of a conversation. Raises ValueError for anything but the texts of a role and a content."""
    if not isinstance(value, dict):
        raise ValueError(f"message {number} must be an object with role and content, but is {describe(value)}")
    others = [name for name, each in value.items() if name not in MESSAGE_KEYS and each not in (None, "", [], {})]
    if others:
        names = ", ".join(map(repr, others))
        hint = SHAREGPT_HINT if "from" in others else ""
        raise ValueError(f"message {number} has {names}, but only role and content are read{hint}")
    for key in MESSAGE_KEYS:
        if type(value.get(key)) is not str:
            found = describe(value[key]) if key in value else "missing"
            raise ValueError(f"{key} of message {number} must be a text, but is {found}")
    if not value["role"]:
        raise ValueError(f"role of message {number} is empty")
    return {key: _text(value[key]) for key in MESSAGE_KEYS}


def _messages(value: Any) -> list[dict[str, str]]:
    if isinstance(value, list) and not value:
        raise ValueError("must be a list of messages, but is an empty list")
    return [_message(number, each) for number, each in enumerate(_list(value, "messages"), 1)]


def _conversation(value: Any) -> list[dict[str, str]]:
    """Messages with an answer to learn."""
    messages = _messages(value)
    roles = list(dict.fromkeys(message["role"] for message in messages))
    if ASSISTANT not in roles:
        raise ValueError(f"has no answer: no role is {ASSISTANT!r}, but {', '.join(map(repr, roles))}")
    if roles[0] == ASSISTANT:
        raise ValueError(f"begins with an answer (role {ASSISTANT!r}), but a message must come before it")
    return messages


def _question(value: Any) -> list[dict[str, str]]:
    """Messages to answer; an answer after them, which a row with a reference has, is not read."""
    messages = _messages(value)
    while messages and messages[-1]["role"] == ASSISTANT:
        messages.pop()
    if not messages:
        raise ValueError(f"has no message to answer: every role is {ASSISTANT!r}")
    return messages


def _cell_messages(cell: str, reading: Reading) -> list[dict[str, str]]:
    raise ValueError("conversations are read from .json, .jsonl and .parquet files, not from cells of text")


# --- Lists and numbers in cells of text ---


def _quoted_list(cell: str) -> list | None:
    """Parse a list in brackets, as JSON, Python or NumPy writes it. Returns None for any other text."""
    with contextlib.suppress(ValueError, RecursionError):
        return _list(json.loads(cell), "items")
    if not PRINTED_LIST.fullmatch(cell):
        return None
    try:
        return [_parse_item(item) for item in re.findall(ITEM, cell)]
    except SyntaxError:
        return None


def _parse_item(item: str) -> str | int | float:
    """Parse an item of a printed list: a text in quotes, or a number."""
    if item[0] in "'\"":
        return ast.literal_eval(item)
    if not item.lstrip("+-").isdigit():
        return float(item)
    try:
        return int(item)
    except ValueError:
        raise ValueError(TOO_MANY_DIGITS) from None


def _cell_list(cell: str, separators: str = " ") -> tuple[list, bool]:
    """The items of a cell, and whether the cell is a list in brackets. Raises ValueError for an unreadable list.

    Args:
        cell: a list in brackets, or items between separators; white space other than spaces belongs to the items.
        separators: the characters that separate items.
    """
    if separators == " ":
        items = [item for item in cell.split(" ") if item]
    else:
        parts = re.split(f"[{re.escape(separators)}]", cell)
        items = [item for item in (part.strip(" ") for part in parts) if item]
    # A fast test first: few cells begin like a list.
    if cell.strip()[:1] not in ("[", "(", "{", "a", '"') or not LIKE_LIST.fullmatch(cell.strip()):
        return items, False
    value = _quoted_list(cell.strip())
    if value is None:
        split = ", ".join(map(repr, items[:3])) + ", …" * (len(items) > 3)
        raise ValueError(
            f"looks like a list, but is not JSON such as [\"a\", \"b\"], nor ['a', 'b'] or ['a' 'b'] as Python writes "
            f"it: {cell[:40]!r}; split at {separators!r} it would be read as {split}"
        )
    return value, True


def _cell_words(cell: str, reading: Reading) -> list[str]:
    return _words(_cell_list(cell)[0])


def _cell_labels(cell: str, reading: Reading) -> list[str]:
    """The labels of a cell. Raises ValueError for a probable separator in a label, without a label_separator."""
    items, in_brackets = _cell_list(cell, reading.label_separator or " ")
    if not in_brackets and len(items) > 1 and is_split_inside(items[0], items[-1]):
        raise ValueError(
            f"looks like a list in parentheses: {cell[:40]!r} would be read as {items[0]!r} … {items[-1]!r}; remove "
            "the parentheses"
        )
    needs_check = reading.label_separator is None and not in_brackets and SEPARATOR.search(cell)
    for item in items if needs_check else ():
        if found := SEPARATOR.search(item):
            raise ValueError(
                f"would be read as the label {item[:40]!r}; give --label_separator {found[0]!r} if that separates "
                "labels, or --label_separator ' ' if not"
            )
    return _label_list(items)


def is_split_inside(first: str, last: str) -> bool:
    """Whether the first item opens a parenthesis that only the last one closes, as in `(a, b)`."""
    return first.startswith("(") and ")" not in first and last.endswith(")") and "(" not in last


def _cell_references(cell: str, reading: Reading) -> list[str]:
    """The references of a cell: several for a list of quoted texts, otherwise one, even if it has brackets."""
    text = cell.strip()
    value = _quoted_list(text) if text.startswith(('["', "['")) and text.endswith("]") else None
    return value if value and _are_texts(value) else [cell]


def _cell_target(cell: str, reading: Reading) -> str:
    if _cell_references(cell, reading) != [cell]:
        raise ValueError(
            f"is a list of references, which are only for validation and test: {cell[:40]!r}; to read it as one text, "
            "use .jsonl"
        )
    return cell


def _cell_numbers(cell: str, reading: Reading) -> list[float]:
    """The numbers of a cell, separated by spaces; in brackets also by commas, if the decimal mark is a point."""
    text, separators = cell.strip(), reading.label_separator or " "
    if text.startswith("[") and text.endswith("]"):
        text, separators = text[1:-1], f"{separators} \n" + ("," if reading.decimal == "." else "")
    words = [word for word in re.split(f"[{re.escape(separators)}]", text) if word]
    if reading.decimal == ",":
        # A point would separate thousands. It becomes a comma, so that the number is refused.
        words = [word.translate(COMMA_FOR_POINT) for word in words]
    if not words or not all(re.fullmatch(NUMBER_PATTERN, word) for word in words):
        hint = "; --decimal , reads a decimal comma, --label_separator , several numbers" if "," in cell else ""
        raise ValueError(
            f"must be a number, or numbers, for --problem_type regression, but is {cell[:40]!r}"
            + (hint if reading.decimal == "." else "")
        )
    return _numbers([float(word) for word in words])


# --- The kinds ---

TEXT = Kind(_text, lambda cell, reading: cell, pa.string())
WORDS = Kind(_words, _cell_words, pa.list_(pa.string()))
LABELS = Kind(_label_list, _cell_labels, pa.list_(pa.string()))
REFERENCES = Kind(_references, _cell_references, pa.list_(pa.string()))
ONE_TARGET = Kind(_one_target, _cell_target, pa.string())
# A label without a problem_type: a cell that could be a number or a list is refused.
UNKNOWN_LABEL = Kind(_label, _cell_label, pa.string())
ONE_LABEL = Kind(_label, lambda cell, reading: _label(cell), pa.string())
SEVERAL_LABELS = Kind(
    _several_labels, lambda cell, reading: _unique(_cell_labels(cell, reading)), pa.list_(pa.string())
)
NUMBERS = Kind(_numbers, _cell_numbers, pa.list_(pa.float64()))
MESSAGE_TYPE = pa.list_(pa.struct([(key, pa.string()) for key in MESSAGE_KEYS]))
CONVERSATION = Kind(_conversation, _cell_messages, MESSAGE_TYPE)
QUESTION = Kind(_question, _cell_messages, MESSAGE_TYPE)
