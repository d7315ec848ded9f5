"""The JSON objects that a run and a saved model leave: each is read by one function, and named where it is none."""

import json
from pathlib import Path
from typing import Any

UNICODE_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}

# The most bytes that are read: a log of a million steps has a quarter of it.
LARGEST = 2**30
# The most digits of a whole number: more are no float, and take long to read.
DIGITS = 300


def whole_number(digits: str) -> int:
    """A whole number of JSON. Raises ValueError for one that no float can be near to."""
    if len(digits) > DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ValueError: it holds something else; the message says what, and leaves it to the caller to name the file.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError("is no file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"is no JSON of ours (it has {path.stat().st_size} bytes)")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error
    return parse_object(text)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError if it holds something else."""
    try:
        content = json.loads(text, parse_int=whole_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"must hold an object, but is a {type(content).__name__}")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file.

    Raises:
        ValueError: it holds something else; the message names the file.
        OSError: it cannot be read.
    """
    if not path.exists():
        return {}
    try:
        return load_object(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def json_line(value: Any) -> str:
    """A value as one line of JSON, also for those who take U+0085, U+2028 and U+2029 for line ends."""
    return json.dumps(value, ensure_ascii=False).translate(UNICODE_LINE_ENDS) + "\n"
