"""`seqblend compare A1,A2,A3 B1,B2,B3`: whether two settings differ, over the seeds of their runs and test rows."""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.errors import InputError, print_error
from ..data.writing import write_atomically
from .error_report import is_all_or_nothing
from .runs import Run, check_same_rows, read_run
from .statistics import LEVEL, Difference, McNemar, compare_groups, mcnemar
from .tables import markdown_cell, markdown_table, number_text

FILES = ("comparison.md", "comparison.json", "comparison.png")
# Digits after the point, which tell runs on thousands of rows apart.
DIGITS = 4
# Metrics whose rows McNemar's test may count.
PER_ROW_METRICS = ("accuracy", "exact_match", "subset_accuracy")


@dataclass(frozen=True)
class Comparison:
    """Two groups of runs on the same test rows.

    Args:
        groups: the runs of A and of B.
        differences: by metric.
        test: McNemar's test; None if a group has several runs, or rows are not right or wrong as a whole.
    """

    groups: tuple[list[Run], list[Run]]
    differences: dict[str, Difference]
    test: McNemar | None

    @property
    def single_runs(self) -> list[str]:
        """The sides that have one run only, so that their spread over seeds is not known."""
        return [side for side, group in zip("AB", self.groups, strict=True) if len(group) == 1]

    def lines(self) -> list[str]:
        """The comparison in Markdown."""
        head = ["metric", "A", "B", "B - A", f"{LEVEL:.0%} interval", "p", "different?"]
        rows = []
        for name, each in self.differences.items():
            mean, low, high = (number_text(value, DIGITS, "+") for value in (each.mean, each.low, each.high))
            decision = "yes" if each.is_significant else "not shown"
            rows.append([name, *map(describe, each.values), mean, f"{low} to {high}", f"{each.p_value:.2g}", decision])
        sides = zip("AB", self.groups, strict=True)
        lines = [
            *(f"{side}: {', '.join(markdown_cell(run.name) for run in group)}  " for side, group in sides),
            "",
            *markdown_table(head, rows),
            "",
            f"On {len(self.groups[0][0].rows):,} test rows. The intervals include the variation over rows, from a "
            f"paired bootstrap{'' if len(self.single_runs) == 2 else ', and the variation over the runs of a side'}.",
        ]
        if self.single_runs:
            lines.append(
                f"A single run for {' and '.join(self.single_runs)}: the intervals do not include how its results "
                "vary with the seed."
            )
        if self.test is not None:
            lines.append(
                f"McNemar's exact test: only A is right in {self.test.only_first} rows, only B in "
                f"{self.test.only_second}; p = {self.test.p_value:.2g}."
            )
        return lines

    def as_object(self) -> dict[str, Any]:
        """The comparison for JSON."""
        return {
            "runs": [[run.name for run in group] for group in self.groups],
            "metrics": {
                name: {
                    "values": each.values,
                    "difference": each.mean,
                    "interval": [each.low, each.high],
                    "p_value": each.p_value,
                    "is_different": each.is_significant,
                }
                for name, each in self.differences.items()
            },
            "mcnemar": None if self.test is None else {**vars(self.test), "p_value": self.test.p_value},
        }


def describe(values: list[float]) -> str:
    """The mean of a metric, and its standard deviation over several runs."""
    spread = f" ± {number_text(float(np.std(values, ddof=1)), DIGITS)}" if len(values) > 1 else ""
    return f"{number_text(float(np.mean(values)), DIGITS)}{spread}"


def compare(first: list[Run], second: list[Run]) -> Comparison:
    """Compare two groups of runs. Raises InputError if they have predicted other rows, or have no such metrics."""
    runs = [*first, *second]
    check_same_rows(runs)
    names = list(runs[0].sums)
    if not names:
        raise InputError(f"{runs[0].name}: the task {runs[0].task.name} has no metrics of single rows")
    differences = {
        name: compare_groups(*([run.sums[name] for run in group] for group in (first, second))) for name in names
    }
    counted = next((name for name in PER_ROW_METRICS if name in names), None)
    test = None
    if len(runs) == 2 and counted is not None and is_all_or_nothing(runs[0].sums[counted]):
        test = mcnemar(*(run.sums[counted].counts[:, 0].astype(bool) for run in runs))
    return Comparison((first, second), differences, test)


def draw_differences(differences: dict[str, Difference], path: Path) -> None:
    """Draw the difference of each metric with its interval; those that are shown to differ in another colour.

    Args:
        differences: by metric.
        path: the PNG file to write.
    """
    # It loads Matplotlib.
    from ..hub_card.pictures import BLUE, GREY, VERMILION, new_figure

    names = [name.replace("_", " ") for name in differences]
    note = f"Each difference with its {LEVEL:.0%} interval; blue: different, grey: not shown to be different."
    height = 0.7 + 0.32 * len(names)
    with new_figure(path, height=height, title="B minus A, by metric", note=note, texts=names) as figure:
        axes = figure.add_subplot(xlabel="difference", ylim=(len(names) - 0.4, -0.6))
        axes.axvline(0, color=VERMILION, linewidth=1)
        for place, difference in enumerate(differences.values()):
            color = BLUE if difference.is_significant else GREY
            ends = np.array([[difference.mean - difference.low], [difference.high - difference.mean]])
            axes.errorbar([difference.mean], [place], xerr=ends, fmt="o", color=color, capsize=4)
        axes.set_yticks(range(len(names)), names)
        axes.grid(False, axis="y")


def write(comparison: Comparison, directory: Path) -> None:
    """Write the comparison as Markdown with a picture, and as JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    text, content, picture = (directory / name for name in FILES)
    write_atomically(content, json.dumps(comparison.as_object(), indent=1) + "\n")
    draw_differences(comparison.differences, picture)
    write_atomically(text, "\n".join([*comparison.lines(), "", f"![the differences]({picture.name})", ""]))


def names_of(side: str) -> list[str]:
    """The directories of a side; the name of a single one may have commas."""
    is_directory = "," in side and os.path.isdir(os.path.expanduser(side))
    return [side] if is_directory else [name for name in side.split(",") if name]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 if a run cannot be compared."""
    parser = argparse.ArgumentParser(
        "seqblend compare",
        description="Compare the test predictions of two settings, each of one or more runs with other seeds.",
        allow_abbrev=False,
    )
    parser.add_argument("first", metavar="A1,A2,…", help="Directories of the runs of A, with predictions.jsonl.")
    parser.add_argument("second", metavar="B1,B2,…", help="Directories of the runs of B.")
    parser.add_argument("--output", metavar="DIR", help="Also write the comparison there: .md, .json and .png.")
    given = parser.parse_args(argv)
    try:
        groups = [[read_run(name) for name in names_of(side)] for side in (given.first, given.second)]
        if not all(groups):
            raise InputError("compare: each side needs at least one directory")
        comparison = compare(*groups)
        if given.output is not None:
            write(comparison, Path(os.path.expanduser(given.output)))
    except (InputError, OSError) as error:
        return print_error(error)
    print("\n".join(comparison.lines()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
