"""Write docs/options.md from the parsers, configurations and registries: `python tests/options_page.py FILE`."""

import argparse
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from unittest import mock

from transformers import Seq2SeqTrainingArguments

from seqblend.__main__ import COMMANDS, command_of
from seqblend.configuration.base import BlendConfig
from seqblend.configuration.decoder import BlendDecoderConfig
from seqblend.configuration.encoder import BlendEncoderConfig
from seqblend.configuration.encoder_decoder import BlendEncoderDecoderConfig
from seqblend.configuration.heads import HeadConfig
from seqblend.listing import LISTS
from seqblend.serving.engines import ENGINES, QUANTIZATIONS
from seqblend.training.arguments import CHOSEN
from seqblend.training.command_line import GROUPS, Help, Parser, placeholder, sentence

INTRODUCTION = """# Options

Every command with its flags, every field of a configuration, and the lists of tasks, recipes and architectures. The
other pages explain them; this page is for looking up. `make options` writes it from the code.

```
seqblend train --help all
seqblend predict --help
```

A run of `seqblend train` also takes every field of transformers' `Seq2SeqTrainingArguments` as a flag. In a file of
options (`seqblend train my.yaml`) the flags are written without dashes: `learning_rate: 1.0e-3`.
"""
CONFIGURATIONS = """## Configurations

The fields of `BlendEncoderConfig`, `BlendDecoderConfig` and `BlendEncoderDecoderConfig`, in Python and in
`--config_overrides` ([models.md](models.md#recipes)). All have transformers' own fields, such as `id2label`, too.
"""
CLASSES = {
    "Heads and losses": HeadConfig,
    "Encoder and decoder": BlendConfig,
    "Encoder": BlendEncoderConfig,
    "Decoder": BlendDecoderConfig,
    "Encoder-decoder": BlendEncoderDecoderConfig,
}
# Options of transformers, whose help is long.
THEIRS = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}


class Found(Exception):
    """Carries the parser of a command, when it is asked to parse."""


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command."""
    if name == "train":
        return Parser()

    def found(parser: argparse.ArgumentParser, *given: object, **options: object) -> None:
        raise Found(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", found):
        try:
            command_of(name)([])
        except Found as error:
            return error.args[0]
    raise AssertionError(f"{name} has no parser")


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def in_code(found: re.Match[str]) -> str:
    return code(found[0].strip("'"))


def prose(text: str) -> str:
    """A help text as Markdown, with names in backticks and a capital letter unless it begins with values."""
    parts = text.split("`")
    for index in range(0, len(parts), 2):
        named = re.sub(r"'[^' ]*_[^' ]*'|\w*_\w[\w=]*", in_code, parts[index])
        parts[index] = named.replace("*", "\\*").replace("<", "&lt;")
    text = "`".join(parts)
    return text[:1].upper() + text[1:] if re.match(r"[a-z]+ (?!or |\()", text) else text


def meaning(action: argparse.Action) -> str:
    """The help of an option; of one of transformers, its first sentences."""
    text = " ".join((action.help or "").replace("%(default)s", "").replace("%%", "%").split())
    is_theirs = action.dest in THEIRS
    return prose(sentence(action) if is_theirs or action.choices else text).rstrip(". ")


def described(action: argparse.Action) -> list[str]:
    """The cells of an option: its name with what stands for its value, what it does, and its default."""
    flags = [each for each in action.option_strings if each.startswith("--")]
    if not flags:
        return [code(str(action.metavar or action.dest)), meaning(action), ""]
    value = "" if action.nargs == 0 else placeholder(action)
    default = "true" if action.default is True else action.default
    has_default = default not in (None, False, "", [], argparse.SUPPRESS)
    shown = code(str(default)) if has_default else ""
    return [
        code(f"{flags[0]} {value}".strip()),
        meaning(action),
        prose(CHOSEN[action.dest]) if action.dest in CHOSEN else shown,
    ]


def own(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """The arguments of a parser by their names, without its help."""
    actions: dict[str, argparse.Action] = {}
    for action in parser._actions:
        if not isinstance(action, (argparse._HelpAction, Help)):
            actions.setdefault(action.dest, action)
    return actions


def commands() -> Iterable[str]:
    """A section for each command."""
    for name, (_, purpose) in COMMANDS.items():
        yield f"## seqblend {name}\n\n{purpose[:1].upper()}{purpose[1:]}.\n"
        if name == "data":
            yield "It takes the options of `seqblend train`.\n"
            continue
        actions = own(parser_of(name))
        if name != "train":
            if actions:
                yield table(("argument", "meaning", "default"), map(described, actions.values()))
            continue
        for title, names in GROUPS.items():
            yield f"### {title[:1].upper()}{title[1:]}\n"
            yield table(("flag", "meaning", "default"), (described(actions[each]) for each in names))


def type_name(kind: Any) -> str:
    """The values that a field takes, in words."""
    arguments = get_args(kind)
    if get_origin(kind) is Literal:
        return ", ".join(map(code, arguments))
    if get_origin(kind) is list:
        return f"list of {type_name(arguments[0])}"
    if arguments and get_origin(kind) is not dict:
        return " or ".join(map(type_name, arguments))
    return {type(None): "None", Any: "any"}.get(kind) or getattr(kind, "__name__", str(kind))


def configurations() -> Iterable[str]:
    """The fields of each configuration that this package adds."""
    yield CONFIGURATIONS
    for title, config in CLASSES.items():
        rows = [
            (code(name), type_name(each.type), code(repr(each.default)), prose(each.metadata["help"]))
            for name, each in config.__dataclass_fields__.items()
            if name in inspect.get_annotations(config) and "help" in each.metadata
        ]
        yield f"### {title}\n"
        yield table(("field", "type", "default", "meaning"), rows)


def lists() -> Iterable[str]:
    """Tasks, recipes, converted architectures and engines."""
    for name, listed in LISTS.items():
        head, rows = listed()
        title = {"models": "Architectures of checkpoints"}.get(name, name.capitalize())
        yield f"## {title}\n\n`seqblend {name}` prints this list.\n"
        yield table(head, ((code(row[0]), *row[1:]) for row in rows))
    yield "## Engines\n\nOf `seqblend export --engine` ([serving.md](serving.md)); without an export it is torch.\n"
    rows = [(code(name), ", ".join(packages.split())) for name, (_, packages) in ENGINES.items()]
    yield table(("engine", "packages"), rows)
    yield f"`--quantization` is one of {', '.join(map(code, QUANTIZATIONS))}.\n"


def page() -> str:
    """The text of docs/options.md."""
    return "\n".join([INTRODUCTION, *commands(), *configurations(), *lists()])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
