"""Options as YAML and JSON write them: whole files, and the values of flags that hold names and their values."""

import json
from pathlib import Path
from typing import Any

import yaml

from ..data.errors import InputError, describe


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The pairs as a dict. Raises InputError for a key that stands twice, of which one would be lost."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice")
    return dict(pairs)


class UniqueLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice in a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeConstructor.construct_mapping, which keeps the last of two."""
        unique([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def from_yaml(text: str) -> Any:
    """What YAML says. Raises InputError for a key that stands twice, and yaml.YAMLError."""
    return yaml.load(text, UniqueLoader)


def from_json(text: str) -> Any:
    """What JSON says. Raises InputError for a key that stands twice, and ValueError."""
    return json.loads(text, object_pairs_hook=unique)


def read_settings(path: Path) -> dict[str, Any]:
    """The options that a YAML or JSON file sets."""
    readers = {".yaml": from_yaml, ".yml": from_yaml, ".json": from_json}
    if path.suffix not in readers:
        raise InputError(f"{path}: a file of options ends in {', '.join(readers)}")
    try:
        settings = readers[path.suffix](path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path}: must hold options and their values")
    for name in settings:
        if not isinstance(name, str):
            raise InputError(f"{path}: the name of an option is a text, but {name!r} is {describe(name)}")
    return settings


def parse_pairs(text: str | list | dict[str, Any] | None, flag: str) -> dict[str, Any]:
    """`hidden_size=256,layer_types=[full_attention]` as a dict; values are written as in YAML.

    Args:
        text: of the command line, or a mapping of a file.
        flag: for messages.

    Raises:
        InputError: it is not a list of NAME=VALUE.
    """
    if text is None or isinstance(text, dict):
        return text or {}
    if isinstance(text, list):
        raise InputError(f"{flag}: must hold names and their values, but is a list")
    message = f"{flag}: {text!r:.200} is not NAME=VALUE,NAME=VALUE …"
    parts: list[str] = []
    for part in text.split(","):
        # A comma inside brackets belongs to the value.
        if parts and parts[-1].count("[") + parts[-1].count("{") > parts[-1].count("]") + parts[-1].count("}"):
            parts[-1] += "," + part
        else:
            parts.append(part)
    pairs = [part.split("=", 1) for part in parts]
    if not all(len(pair) == 2 and pair[0].strip() for pair in pairs):
        raise InputError(message)
    try:
        return unique([(name.strip(), from_yaml(value)) for name, value in pairs])
    except (RecursionError, yaml.YAMLError) as error:
        raise InputError(message) from error
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error
