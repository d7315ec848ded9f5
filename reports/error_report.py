"""The error report: where a trained model is wrong, from the predictions of its test split."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ..data.errors import InputError
from ..data.writing import write_atomically
from ..scoring.row_metrics import RowSums, length_bins
from ..tasks.splits import greater_is_better
from .runs import Run
from .statistics import LEVEL, SAMPLES, bootstrap, percentile_interval
from .tables import Figure, Table, cell_text, markdown_cell

NAME = "error_report"
# The most rows that are read, the most of each list of errors, and the most labels and slices of a table.
MOST_TEST_ROWS, MOST_ROWS, MOST_LABELS, MOST_SLICES = 100_000, 50, 200, 30
# The most products of a bootstrap, about a minute; for more counts fewer samples are drawn.
MOST_PRODUCTS, LEAST_SAMPLES = 2e11, 100
# Metrics that a row may have in part; the worst rows are found by the first of them.
GRADED = ("character_error_rate", "mse", "accuracy")


@dataclass(frozen=True)
class ErrorReport:
    """The tables of a run.

    Args:
        name: of the run.
        rows: number of test rows that were read, the first ones.
        total: number of all test rows.
        tables: in their order.
    """

    name: str
    rows: int
    total: int
    tables: list[Table]

    def as_object(self) -> dict[str, Any]:
        """The report for JSON."""
        counts = {"rows": self.rows, "total": self.total}
        return {"name": self.name, **counts, "tables": [table.as_object() for table in self.tables]}

    @property
    def size(self) -> str:
        """The number of rows in words."""
        return f"{self.total:,} test rows" + (f", of which the first {self.rows:,}" if self.rows < self.total else "")

    def markdown(self) -> str:
        """The report in Markdown."""
        lines = [f"# Errors of {markdown_cell(self.name)}", "", f"{self.size}.", ""]
        return "\n".join([*lines, *(line for table in self.tables for line in table.markdown())])

    def html(self) -> str:
        """The report as one page that loads no other file."""
        environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
        environment.filters["text"] = cell_text
        environment.tests["numeric"] = lambda cell: isinstance(cell, int | float | Figure)
        template = Path(__file__).with_name("errors.html").read_text(encoding="utf-8")
        return environment.from_string(template).render(report=self)

    def write(self, directory: Path) -> list[Path]:
        """Write the report as .md, .json and .html. Returns the paths."""
        directory.mkdir(parents=True, exist_ok=True)
        texts = {
            ".md": self.markdown() + "\n",
            ".json": json.dumps(self.as_object(), indent=1, ensure_ascii=False) + "\n",
            ".html": self.html(),
        }
        paths = [directory / f"{NAME}{ending}" for ending in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            write_atomically(path, text)
        return paths


def make_error_report(run: Run, slices: dict[str, list[Any]] | None = None) -> ErrorReport:
    """Read the predictions of a run.

    Args:
        run: the run.
        slices: other columns of the test rows, by which the main metric is split.
    """
    total = len(run.rows)
    if total > MOST_TEST_ROWS:
        run = replace(run, rows=run.rows[:MOST_TEST_ROWS])
        slices = {name: values[:MOST_TEST_ROWS] for name, values in (slices or {}).items()}
    tables = [confident_errors(run), worst_rows(run)]
    if run.sums:
        by_column = [by_slice(run, name, values) for name, values in (slices or {}).items()]
        tables = [overall(run), by_label(run), by_length(run), *by_column, *tables]
    tables = [each for each in tables if each is not None]
    return ErrorReport(Path(run.name).absolute().name, len(run.rows), total, tables)


# --- The tables ---


def figures(metrics: Sequence[RowSums]) -> list[Figure]:
    """Metrics of the same rows, each with its interval from a bootstrap over rows."""
    samples = bootstrap(metrics, count_samples(metrics))
    return [
        Figure(metric.of_all, *percentile_interval(column)) for metric, column in zip(metrics, samples.T, strict=True)
    ]


def count_samples(metrics: Sequence[RowSums]) -> int:
    """The number of samples of a bootstrap; fewer for many rows and labels, where intervals are narrow."""
    size = sum(metric.counts.size for metric in metrics)
    return max(LEAST_SAMPLES, min(SAMPLES, int(MOST_PRODUCTS / max(size, 1))))


def overall(run: Run) -> Table:
    """The metrics of all rows."""
    samples = count_samples([*run.sums.values()])
    note = f"Each metric with its {LEVEL:.0%} interval, from a bootstrap over rows with {samples:,} samples."
    rows = [list(pair) for pair in zip(run.sums, figures([*run.sums.values()]), strict=True)]
    return Table("Metrics", note, ["metric", "value"], rows)


def by_label(run: Run) -> Table | None:
    """Precision, recall and F1 of each label; the weakest first."""
    counts = run.counts
    if counts is None or not counts.names:
        return None
    occurs = np.flatnonzero(counts.expected.sum(0) + counts.predicted.sum(0))
    if not len(occurs):
        return None
    order = occurs[np.argsort(-counts.expected.sum(0)[occurs], kind="stable")][:MOST_LABELS]
    metrics = [counts.of_label(index) for index in order]
    found = iter(figures([each for of_label in metrics for each in of_label.values()]))
    rows = []
    for index, of_label in zip(order, metrics, strict=True):
        support, predicted = (int(each[:, index].sum()) for each in (counts.expected, counts.predicted))
        rows.append([counts.names[index], support, predicted, *(next(found) for _ in of_label)])
    rows.sort(key=lambda row: row[-1].value)
    note = "The labels with the lowest F1 come first; support is the number of occurrences in the references."
    if len(occurs) > MOST_LABELS:
        note += f" Only the {MOST_LABELS} most frequent of {len(occurs)} labels."
    if absent := len(counts.names) - len(occurs):
        note += f" Labels that neither occur nor are predicted are left out: {absent}."
    return Table("By label", note, ["label", "support", "predicted", *metrics[0]], rows)


def by_length(run: Run) -> Table:
    """The main metric by the length of the input."""
    inputs = [[value] if isinstance(value, str) else value for value in run.column("input")]
    counts = map(len, inputs) if run.task.reads_words else (sum(len(text.split()) for text in row) for row in inputs)
    lengths, unit = np.array(list(counts)), "words"
    if lengths.min() == lengths.max():
        # Single words, or texts without spaces.
        lengths, unit = np.array([sum(map(len, row)) for row in inputs]), "characters"
    bins = length_bins(lengths)
    ends = [np.unique([lengths[rows].min(), lengths[rows].max()]) for rows in bins]
    names = ["–".join(map(str, pair)) for pair in ends]
    return parts_table(run, "By length", f"Length of the input in {unit}.", unit, dict(zip(names, bins, strict=True)))


def by_slice(run: Run, name: str, values: list[Any]) -> Table:
    """The main metric by a column of the rows; the largest slices."""
    places: dict[tuple[str, bool], list[int]] = {}
    for index, value in enumerate(values):
        # The number 1 is another value than the text "1".
        places.setdefault((value_text(value), isinstance(value, str)), []).append(index)
    largest = sorted(places, key=lambda key: -len(places[key]))[:MOST_SLICES]
    note = "" if len(places) <= MOST_SLICES else f"The {MOST_SLICES} largest of {len(places)}."
    parts = {
        json.dumps(text, ensure_ascii=False) if is_text and (text, False) in places else text: np.array(rows)
        for (text, is_text), rows in ((key, places[key]) for key in largest)
    }
    # The table has two other columns.
    column = f"value of {name}" if name in ("rows", next(iter(run.sums))) else name
    return parts_table(run, f"By {name}", note, column, parts)


def value_text(value: Any) -> str:
    """A value of any column as a text: a number with all its digits, and a list or an object as JSON."""
    is_json = value is None or isinstance(value, bool | list | dict)
    return json.dumps(value, ensure_ascii=False, default=str) if is_json else str(value)


def parts_table(run: Run, title: str, note: str, column: str, parts: dict[str, np.ndarray]) -> Table:
    """The main metric of parts of the rows, given by their indices."""
    metric, sums = next(iter(run.sums.items()))
    rows = []
    for name, indices in parts.items():
        (figure,) = figures([RowSums(sums.counts[indices], sums.value)])
        rows.append([name, len(indices), figure])
    if metric.endswith("f1") and not all(sums.counts[indices].any() for indices in parts.values()):
        note = f"{note} Where nothing is expected or predicted, {metric} is 0.".strip()
    return Table(title, note, [column, "rows", metric], rows)


def confident_errors(run: Run) -> Table | None:
    """The wrong answers with the highest confidence: the model is wrong, or the label is. Raises InputError."""
    found = []
    for number, row in enumerate(run.rows, 1):
        scores, prediction = row.get("scores"), row["prediction"]
        if isinstance(scores, dict) and isinstance(prediction, str) and prediction != row["reference"]:
            score = scores.get(prediction)
            if not isinstance(score, int | float):
                raise InputError(f"{run.name}: predictions.jsonl: row {number} has no score for its prediction")
            found.append([number, row["input"], prediction, row["reference"], score])
    if not found:
        return None
    found.sort(key=lambda each: -each[-1])
    note = f"The {min(MOST_ROWS, len(found))} most confident of {len(found)} errors: candidates for wrong labels."
    head = ["row", "input", "prediction", "reference", "confidence"]
    return Table("Confident errors", note, head, found[:MOST_ROWS])


def worst_rows(run: Run) -> Table | None:
    """The rows with the worst value of a metric that a row may have in part, such as an error rate."""
    name = next((name for name in GRADED if name in run.sums), None)
    if name is None or is_all_or_nothing(run.sums[name]):
        return None
    sums = run.sums[name]
    # Of a row without words there is no accuracy.
    values, is_measured = sums.value(sums.counts), sums.counts.any(1)
    best = 1.0 if greater_is_better(name) else 0.0
    wrong = np.flatnonzero(is_measured & (values != best))
    if not len(wrong):
        return None
    # What is no number is worst.
    distances = np.nan_to_num(np.abs(values[wrong] - best), nan=np.inf)
    order = wrong[np.argsort(-distances, kind="stable")][:MOST_ROWS]
    columns = ("input", "prediction", "reference")
    rows = [[int(index) + 1, *(run.rows[index][each] for each in columns), float(values[index])] for index in order]
    return Table("Worst rows", f"By {name}.", ["row", *columns, name], rows)


def is_all_or_nothing(sums: RowSums) -> bool:
    """Whether each row is right or wrong as a whole: it adds 0 or 1 to a sum that is divided by the number of rows."""
    return bool(np.isin(sums.counts[:, 0], (0, 1)).all() and (sums.counts[:, 1] == 1).all())
