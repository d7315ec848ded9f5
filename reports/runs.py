"""Runs: the predictions of a test split, and what is needed to score them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..data.errors import InputError
from ..hub_card.saved import read_saved
from ..scoring.row_metrics import LabelCounts, RowSums
from ..tasks.base import Task
from ..tasks.encoding import Settings
from ..tasks.registry import TASKS


@dataclass(frozen=True)
class Run:
    """The test predictions of a model.

    Args:
        name: of the run, its directory.
        task: of the model.
        settings: the labels, their problem type and their tag scheme.
        rows: the rows of predictions.jsonl.
    """

    name: str
    task: Task
    settings: Settings
    rows: list[dict[str, Any]]

    def column(self, name: str) -> list[Any]:
        """A column of the predictions. Raises InputError if a row lacks it."""
        missing = next((number for number, row in enumerate(self.rows, 1) if name not in row), None)
        if missing is not None:
            raise InputError(f"{self.name}: predictions.jsonl: row {missing} has no {name}")
        return [row[name] for row in self.rows]

    @cached_property
    def sums(self) -> dict[str, RowSums]:
        """The metrics that are functions of sums over rows; the first is the main one.

        Raises:
            InputError: predictions or references are not those of the model's labels.
        """
        return self._scored(self.task.row_sums)

    @cached_property
    def counts(self) -> LabelCounts | None:
        """Counts of each label; None for a task without labels. Raises InputError as `sums`."""
        return self._scored(self.task.label_counts)

    def _scored(self, score: Any) -> Any:
        try:
            return score(self.column("prediction"), self.column("reference"), self.settings)
        except (KeyError, TypeError, ValueError, AttributeError) as error:  # of values of another task
            raise InputError(f"{self.name}: predictions.jsonl does not fit the model: {error!r:.200}") from error


def read_run(directory: str | Path) -> Run:
    """Read the directory of a run. Raises InputError if it holds no model of this package, or no predictions."""
    try:
        saved = read_saved(Path(os.path.expanduser(directory)))
    except ValueError as error:
        raise InputError(str(error)) from error
    if not saved.predictions:
        raise InputError(f"{directory}: has no predictions.jsonl, which seqblend train writes for a test split")
    name = saved.results.get("task")
    if name not in TASKS:
        raise InputError(f"{directory}: all_results.json names no task")
    settings = Settings.for_scoring(saved.labels, saved.config.get("problem_type"), saved.config.get("tag_scheme"))
    return Run(str(saved.directory), TASKS[name], settings, saved.predictions)


def check_same_rows(runs: Sequence[Run]) -> None:
    """Raises InputError if the runs are of several tasks or label sets, have predicted other rows, or repeat."""
    first, *others = runs
    places = [Path(run.name).resolve() for run in runs]
    twice = next((run.name for run, place in zip(runs, places, strict=True) if places.count(place) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: is given twice; each run may be compared once")
    for other in others:
        if other.task is not first.task:
            raise InputError(f"{other.name} is of {other.task.name}, but {first.name} of {first.task.name}")
        if {*other.settings.labels} != {*first.settings.labels}:
            label = min({*other.settings.labels} ^ {*first.settings.labels})
            raise InputError(f"{other.name} and {first.name} have different labels: only one of them has {label!r}")
        counts = [len(run.rows) for run in (first, other)]
        if counts[0] != counts[1]:
            raise InputError(f"{other.name} has predicted {counts[1]} rows, but {first.name} {counts[0]}")
        for number, rows in enumerate(zip(first.rows, other.rows, strict=True), 1):
            for name in ("input", "reference"):
                if rows[0].get(name) != rows[1].get(name):
                    raise InputError(f"{other.name}: row {number} has another {name} than in {first.name}")
