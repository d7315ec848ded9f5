"""`seqblend tasks`, `recipes` and `models` list what there is; `seqblend init TASK` prints a file of options."""

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial

import yaml
from transformers import AutoModel

from seqblend.configuration.recipes import RECIPES
from seqblend.conversion.registry import ARCHITECTURES as CONVERTED
from seqblend.data.errors import InputError, check_choice, print_error
from seqblend.modeling.families import FAMILIES
from seqblend.tasks.base import Task
from seqblend.tasks.models import part_configs
from seqblend.tasks.registry import TASKS, tasks_with
from seqblend.training.arguments import CHOSEN
from seqblend.training.command_line import GROUPS, Parser, sentence
from seqblend.training.models import ARCHITECTURES, architecture_of


def tasks() -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """The tasks: their columns, and the architectures that have a head for them, the default first."""
    rows = []
    for task in TASKS.values():
        able = [name for name, config in ARCHITECTURES.items() if task.auto_class in FAMILIES[config]]
        able.sort(key=lambda name, task=task: name != task.architecture)
        columns = dict.fromkeys([*task.inputs, *task.schema().kinds])
        rows.append((task.name, ", ".join(columns), ", ".join(able)))
    return ("task", "columns", "architectures"), rows


def recipes() -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """The recipes of each architecture, with the number and the size of their layers, which may be overridden."""
    names = {config.model_type: name for name, config in ARCHITECTURES.items()}
    rows = []
    for recipe, by_model in RECIPES.items():
        for model_type in by_model:
            config = ARCHITECTURES[names[model_type]].from_recipe(recipe)
            sizes = [f"{part.num_hidden_layers} × {part.hidden_size}" for part in part_configs(config)]
            rows.append((recipe, names[model_type], " and ".join(sizes)))
    return ("recipe", "architecture", "layers × hidden_size"), rows


def models() -> tuple[Sequence[str], Iterable[Sequence[str]]]:
    """The architectures of transformers whose checkpoints can be loaded and written back, with their heads."""
    rows = [
        (each.model_type, architecture_of(each.config_class), ", ".join(heads_of(each.heads)))
        for each in CONVERTED.values()
    ]
    return ("model_type", "architecture", "heads"), rows


def heads_of(names: Iterable[str]) -> list[str]:
    """The names of heads, without that of the base model and the beginning that all have."""
    return [name.removeprefix("AutoModelFor") for name in names if name != AutoModel.__name__]


LISTS = {"tasks": tasks, "recipes": recipes, "models": models}


def print_list(name: str, argv: list[str]) -> int:
    """Print a list as a table. Returns the exit code 0."""
    listed = LISTS[name]
    description = (listed.__doc__ or "").strip()
    argparse.ArgumentParser(f"seqblend {name}", description=description, allow_abbrev=False).parse_args(argv)
    head, rows = listed()
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    for row in table:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


# --- A file of options ---

# What a run needs, with values to replace.
NEEDED = {"train_file": "train.jsonl", "validation_file": "validation.jsonl", "output_dir": "runs/my-run"}


def template(task: Task) -> str:
    """A YAML file of the options of a task: what is needed, then all others with their defaults, as comments."""
    actions: dict[str, argparse.Action] = {}
    for action in Parser()._actions:
        actions.setdefault(action.dest, action)
    lines = [f"# {task.name}: seqblend train FILE.yaml; a flag overrides what stands here.", f"task: {task.name}"]
    lines += [f"{name}: {value}" for name, value in NEEDED.items()]
    for title, names in GROUPS.items():
        shown = [name for name in names if name not in ("task", *NEEDED) and concerns(name, task)]
        if shown:
            lines += ["", f"# --- {title} ---"]
        for name in shown:
            by_run = f"; default: {CHOSEN[name]}" if name in CHOSEN else ""
            lines += ["", *textwrap.wrap(sentence(actions[name]) + by_run, 100, **COMMENT)]
            lines.append(f"# {name}: {'' if name in CHOSEN else as_yaml(actions[name].default)}".rstrip())
    return "\n".join(lines) + "\n"


COMMENT = {"initial_indent": "# ", "subsequent_indent": "# "}


def concerns(name: str, task: Task) -> bool:
    """Whether an option has an effect for a task."""
    columns = dict.fromkeys([*task.inputs, *task.schema().kinds])
    if name.endswith("_column"):
        return name.removesuffix("_column") in columns
    if name in ("max_source_length", "max_target_length") or name.endswith(("_source_file", "_target_file")):
        return task.generates
    able = tasks_with(name)
    return not able or task.name in able


def as_yaml(value: object) -> str:
    """A default as YAML; nothing for None."""
    return "" if value is None else yaml.safe_dump(value).removesuffix("...\n").strip()


def init(argv: list[str]) -> int:
    """Print the template of a task. Returns the exit code: 0, or 2 for an unknown task."""
    parser = argparse.ArgumentParser(
        "seqblend init",
        description="Print a file of options for a task, with their defaults: seqblend init TASK > my.yaml",
        allow_abbrev=False,
    )
    parser.add_argument("task", metavar="TASK", help=", ".join(TASKS))
    given = parser.parse_args(argv)
    try:
        print(template(TASKS[check_choice("task", given.task, TASKS)]), end="")
    except InputError as error:
        return print_error(error)
    return 0


# As the other commands have it.
COMMANDS = {"init": init, **{name: partial(print_list, name) for name in LISTS}}
