"""The rows to predict: checked, with standard column names, and texts for a tagger split into words."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..data.columns import Columns, Field, has_column, present_fields
from ..data.errors import InputError
from ..data.formats import Reading
from ..data.kinds import TEXT
from ..data.splits import convert_column
from ..tasks.base import Task
from ..tasks.encoding import Row
from ..tokenization.settings import NEEDS_PAIR
from ..tokenization.words import split_text


@dataclass
class RowReader:
    """Checks rows and gives their columns the standard names. The first row decides which columns are read.

    Args:
        task: the task, which has the columns.
        columns: their names in the rows.
        word_rule: gives the rule that splits texts into words; it is asked when the first text must be split.
        needs_pair: whether a second text must be there, because the model was trained on pairs.
    """

    task: Task
    columns: Columns
    word_rule: Callable[[], str]
    needs_pair: bool = False
    present: list[Field] = field(default_factory=list, init=False)
    absent: set[str] = field(default_factory=set, init=False)

    @property
    def used(self) -> list[str]:
        """The columns that may be read, as `value_of` takes their names."""
        fields = self.task.schema(self.columns).fields("prediction")
        inputs = [field.column for field in fields if field.name in self.task.inputs]
        return [*inputs, self.columns.name_of("text")]

    def read(self, row: dict[str, Any], where: str, number: int, cells: Reading | None) -> Row:
        """The row as the task reads it.

        Args:
            row: as read.
            where: the source, for messages.
            number: the number of the row in its source.
            cells: how cells are read, where every value is text; None where values have types.

        Raises:
            InputError: a column is missing, or a value is wrong; the message names source and row.
        """
        if not self.present:
            wanted = fields_for(self.task, self.columns, row)
            if self.needs_pair:
                required = {"optional": False, "hint": NEEDS_PAIR}
                wanted = [each._replace(**required) if each.name == "text_pair" else each for each in wanted]
            self.present = present_fields(wanted, row, where)
            self.absent = {each.column for each in wanted if each not in self.present}
        if any(has_column(row, name) for name in self.absent):
            reason = f"has column {min(self.absent)!r}, which the first row does not have"
            raise InputError(f"{where}: row {number}: {reason}")
        checked = {
            each.name: convert_column([row], each, where, number, cells).to_pylist()[0] for each in self.present
        }
        is_text = "text" in checked and self.task.reads_words
        return split_text(checked["text"], self.word_rule()) if is_text else checked


def fields_for(task: Task, columns: Columns, row: Row) -> list[Field]:
    """The input columns of the task; if the row has no source or words, or the user names a text, its text instead."""
    first, *others = [field for field in task.schema(columns).fields("prediction") if field.name in task.inputs]
    text = columns.name_of("text")
    is_chosen = columns.text is not None or not has_column(row, first.column)
    if "text" not in task.inputs and is_chosen and has_column(row, text):
        return [Field("text" if first.name == "tokens" else first.name, text, TEXT)]
    return [first, *others]
