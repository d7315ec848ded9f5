"""`seqblend errors DIR`: write the error report of a run."""

import argparse
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..data.columns import Columns, has_column, missing_column
from ..data.errors import InputError, print_error
from ..data.formats import DEFAULT_READING
from ..data.sources import sources_of
from ..data.splits import read_column, read_files
from ..tasks.registry import TASKS
from .error_report import make_error_report
from .runs import Run, read_run

# The columns that the tasks with predictions read.
INPUTS = tuple(dict.fromkeys(chain.from_iterable(task.inputs for task in TASKS.values() if task.has_answers)))


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit code is 2 if the run has no predictions, or slices do not fit them."""
    parser = argparse.ArgumentParser(
        "seqblend errors",
        description="Write error_report.md, .json and .html: where the test predictions of a run are wrong.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="DIR", help="The output_dir of a run, with predictions.jsonl.")
    parser.add_argument("--output", metavar="DIR", help="Where the report is written; default: the run's directory.")
    parser.add_argument(
        "--slice_file", nargs="+", metavar="FILE", help="The test files that have the columns slice_column."
    )
    parser.add_argument(
        "--slice_column",
        nargs="+",
        default=[],
        metavar="NAME",
        help="Columns of slice_file; the report has the results by their values.",
    )
    for name in INPUTS:
        parser.add_argument(
            f"--{name}_column", metavar="NAME", help=f"The column {name} of slice_file; default: {name}."
        )
    given = parser.parse_args(argv)
    columns = {name: value for name in INPUTS if (value := getattr(given, f"{name}_column")) is not None}
    try:
        if bool(given.slice_column) != bool(given.slice_file):
            raise InputError("slice_file, slice_column: belong together")
        run = read_run(given.run)
        slices = {name: read_slices(given.slice_file, name, run) for name in given.slice_column}
        if slices:
            check_inputs(given.slice_file, run, columns)
        paths = make_error_report(run, slices).write(Path(os.path.expanduser(given.output or given.run)))
    except (InputError, OSError) as error:
        return print_error(error)
    print("\n".join(map(str, paths)))
    return 0


def read_slices(files: list[str], column: str, run: Run) -> list[Any]:
    """A column of the test files. Raises InputError if they have no such column, or another number of rows."""
    values = read_column("slice", files, column)
    if len(values) != len(run.rows):
        raise InputError(f"slice_file: has {len(values)} rows, but the run has predicted {len(run.rows)}")
    return values


def check_inputs(files: list[str], run: Run, columns: dict[str, str]) -> None:
    """Compare the inputs in the test files with those of the run; a line says so if the files have none.

    Args:
        files: the test files.
        run: has predicted their rows.
        columns: the user's names of input columns.

    Raises:
        InputError: a row has another input, a column that the user named is missing, or the task has no such column.
    """
    if other := sorted(columns.keys() - {*run.task.inputs}):
        raise InputError(f"{other[0]}_column: {run.task.name} reads {' and '.join(run.task.inputs)}")
    sources = sources_of("slice", files, DEFAULT_READING)
    first = next(row for source in sources for row in source.rows(tqdm(disable=True)))
    fields = [
        each for each in run.task.schema(Columns(**columns)).fields("prediction") if each.name in run.task.inputs
    ]
    predicted = run.column("input")
    is_pair = "text_pair" in run.task.inputs and isinstance(predicted[0], list)
    fields = fields[: 1 + is_pair]
    for field in fields:
        if not has_column(first, field.column):
            error = missing_column([field], first, "slice_file")
            if field.name in columns:
                raise error
            print(f"{error}; the rows are not compared with those of {run.name}", file=sys.stderr)
            return
    for number, (row, expected) in enumerate(zip(read_files("slice", files, fields), predicted, strict=True), 1):
        found = [row[field.name] for field in fields]
        if found != (expected if is_pair else [expected]):
            names = " or ".join(field.column for field in fields)
            raise InputError(f"slice_file: row {number} has another {names} than {run.name} has predicted")


if __name__ == "__main__":
    sys.exit(main())
