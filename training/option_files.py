"""Reading options in YAML and JSON: files of options, and flags of the form NAME=VALUE,NAME=VALUE."""

import json
from pathlib import Path
from typing import Any

import yaml

from ..data.errors import InputError, describe


def unique_pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """The pairs as a dict. Raises InputError for a duplicate key, of which a dict would lose one value."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} is given twice")
    return dict(pairs)


class UniqueLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses duplicate keys of a mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As SafeConstructor.construct_mapping, which would keep the last of two values."""
        unique_pairs([(self.construct_object(key, deep=True), None) for key, _ in node.value])
        return super().construct_mapping(node, deep)


def from_yaml(text: str) -> Any:
    """Parse YAML. Raises InputError for a duplicate key, and yaml.YAMLError for invalid YAML."""
    return yaml.load(text, UniqueLoader)


def from_json(text: str) -> Any:
    """Parse JSON. Raises InputError for a duplicate key, and ValueError for invalid JSON."""
    return json.loads(text, object_pairs_hook=unique_pairs)


def read_options(path: Path) -> dict[str, Any]:
    """The options in a YAML or JSON file. Raises InputError if it cannot be read or is not a mapping of names."""
    readers = {".yaml": from_yaml, ".yml": from_yaml, ".json": from_json}
    if path.suffix not in readers:
        raise InputError(f"{path}: a file of options must end in {', '.join(readers)}")
    try:
        options = readers[path.suffix](path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path}: must hold options and their values")
    for name in options:
        if not isinstance(name, str):
            raise InputError(f"{path}: the name of an option must be a text, but {name!r} is {describe(name)}")
    return options


def parse_pairs(text: str | list | dict[str, Any] | None, flag: str) -> dict[str, Any]:
    """Parse `hidden_size=256,layer_types=[full_attention]` to a dict; values are YAML.

    Args:
        text: from the command line, or a mapping from a file, which is returned as it is.
        flag: name of the option, for messages.

    Raises:
        InputError: the text is not a list of NAME=VALUE.
    """
    if text is None or isinstance(text, dict):
        return text or {}
    if isinstance(text, list):
        raise InputError(f"{flag}: must be a mapping of names to values, but is a list")
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
        return unique_pairs([(name.strip(), from_yaml(value)) for name, value in pairs])
    except (RecursionError, yaml.YAMLError) as error:
        raise InputError(message) from error
    except InputError as error:
        raise InputError(f"{flag}: {error}") from error
