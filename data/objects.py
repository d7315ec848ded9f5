"""Reading the JSON objects that a run and a saved model contain, and writing JSON lines."""

import json
from pathlib import Path
from typing import Any

from .errors import InputError

UNICODE_LINE_ENDS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}

# The largest file that is read, in bytes. The log of a million steps has a quarter of it.
MAX_BYTES = 2**30
# A whole number with more digits is too large for a float, and slow to read.
MAX_DIGITS = 300


def parse_whole_number(digits: str) -> int:
    """Parse a whole number of JSON. Raises ValueError for one beyond the range of a float."""
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number has {len(digits)} digits")
    return int(digits)


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, which must exist.

    Raises:
        ValueError: the file holds something else. The message does not name the file; the caller does.
        OSError: the file cannot be read.
    """
    if not path.is_file():
        raise ValueError("is no file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"is too large for a JSON file of ours ( {path.stat().st_size} bytes)")
    try:
        text = path.read_text(encoding="utf-8")
    except ValueError as error:
        raise ValueError(f"is no JSON ({error})") from error
    return parse_object(text)


def parse_object(text: str) -> dict[str, Any]:
    """The JSON object in a text. Raises ValueError if the text is anything else."""
    try:
        content = json.loads(text, parse_int=parse_whole_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is no JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"must hold an object, but is a {type(content).__name__}")
    return content


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; an empty dict if the file does not exist.

    Raises:
        InputError: the file holds something else. The message names the file.
        OSError: the file cannot be read.
    """
    if not path.exists():
        return {}
    try:
        return load_object(path)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def json_line(value: Any) -> str:
    """A value as one line of JSON. U+0085, U+2028 and U+2029, which some readers take for line ends, are escaped."""
    return json.dumps(value, ensure_ascii=False).translate(UNICODE_LINE_ENDS) + "\n"
