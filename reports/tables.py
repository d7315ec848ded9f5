"""Tables of a report: cells for people in Markdown and HTML, values for programs in JSON."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

# Characters with a meaning in Markdown; inside a word an underscore has none.
MARKS = re.compile(r"[\\|*`~\[\]]|(?<![^\W_])_|_(?![^\W_])")
# Numbers below are due to rounding.
ROUNDING = 1e-12


def number_text(value: float, digits: int = 3, sign: str = "") -> str:
    """A number with so many digits after the point; a small one with two significant digits, so that it is not 0.

    Args:
        value: the number.
        digits: after the point.
        sign: `+` to show that of a positive number, too.
    """
    is_small = ROUNDING < abs(value) < 10.0 ** (1 - digits)
    return f"{value:{sign}.2g}" if is_small else f"{value:{sign}.{digits}f}"


@dataclass(frozen=True)
class Figure:
    """A metric with its interval.

    Args:
        value: of all rows.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        value, low, high = map(number_text, (self.value, self.low, self.high))
        return f"{value} ({low} to {high})"


@dataclass(frozen=True)
class Table:
    """A table of a report.

    Args:
        title: above it.
        note: under the title; may be empty.
        head: the names of the columns.
        rows: the cells: texts, numbers, figures, or lists of texts.
    """

    title: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def as_object(self) -> dict[str, Any]:
        """The table for JSON: one object per row."""
        rows = [dict(zip(self.head, row, strict=True)) for row in self.rows]
        plain = [
            {name: asdict(cell) if isinstance(cell, Figure) else cell for name, cell in row.items()} for row in rows
        ]
        return {"title": self.title, "note": self.note, "rows": plain}

    def markdown(self) -> list[str]:
        """The table as lines of Markdown, with its title as a heading."""
        note = [self.note, ""] if self.note else []
        return [f"## {markdown_cell(self.title)}", "", *note, *markdown_table(self.head, self.rows), ""]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """A table as lines of Markdown; columns of numbers are aligned at the right."""
    numeric = [bool(rows) and all(isinstance(row[index], int | float) for row in rows) for index in range(len(head))]
    rule = "".join("---:|" if is_numeric else "---|" for is_numeric in numeric)
    lines = [f"| {' | '.join(map(markdown_cell, row))} |" for row in (head, *rows)]
    return [lines[0], f"|{rule}", *lines[1:]]


def markdown_cell(cell: Any) -> str:
    """A cell in one line, without characters that have a meaning in Markdown tables or HTML."""
    text = MARKS.sub(r"\\\g<0>", " ".join(cell_text(cell).split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def cell_text(cell: Any) -> str:
    """A cell as a person reads it."""
    if isinstance(cell, bool | str):
        return str(cell)
    if isinstance(cell, float):
        return number_text(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, list) and all(isinstance(each, str) for each in cell):
        return " ".join(cell)
    return json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | dict) else str(cell)
