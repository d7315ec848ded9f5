"""`seqblend errors DIR`: write the error report of a run."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..data.errors import InputError, print_error
from ..data.splits import read_column
from .error_report import make_error_report
from .runs import Run, read_run


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
    given = parser.parse_args(argv)
    try:
        if bool(given.slice_column) != bool(given.slice_file):
            raise InputError("slice_file, slice_column: belong together")
        run = read_run(given.run)
        slices = {name: read_slices(given.slice_file, name, run) for name in given.slice_column}
        paths = make_error_report(run, slices).write(Path(given.output or given.run).expanduser())
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


if __name__ == "__main__":
    sys.exit(main())
