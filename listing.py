"""`seqblend tasks`, `seqblend recipes` and `seqblend models`: what there is, one a line."""

import argparse
from collections.abc import Iterable, Sequence
from functools import partial

from transformers import AutoModel

from seqblend.configuration.recipes import RECIPES
from seqblend.conversion.registry import ARCHITECTURES as CONVERTED
from seqblend.modeling.families import FAMILIES
from seqblend.tasks.models import part_configs
from seqblend.tasks.registry import TASKS
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


# As the other commands have it.
COMMANDS = {name: partial(print_list, name) for name in LISTS}
