"""The rows of Arrow tables, which Parquet files and data sets of the Hub hold: only the columns that are read."""

import json
from collections.abc import Collection, Iterator
from itertools import repeat
from typing import Any

import datasets
import pyarrow as pa

from .errors import InputError, error_line


class TableColumns:
    """The columns of a table that are read, which may be few: others may hold images, or types that nobody can read.

    Args:
        schema: of the table.
        columns: the columns to read, as `value_of` takes their names; None: all.
        where: the source, for messages.

    Raises:
        InputError: two of these columns have one name, or the type of one cannot be read.
    """

    def __init__(self, schema: pa.Schema, columns: Collection[str] | None, where: str):
        # A column inside an object is read with the whole object.
        outer = {name for column in columns or () for name in (column, column.partition(".")[0])}
        read = [field for field in schema if columns is None or field.name in outer]
        self.where, self.names = where, [field.name for field in read]
        for name in self.names:
            if self.names.count(name) > 1:
                raise InputError(f"{where}: has more than one column {name!r}")
        self.features = {field.name: self._feature(field, schema.metadata) for field in read}
        self.unread = {field.name: empty_value(field.type) for field in schema if field.name not in self.names}

    def rows(self, table: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any]]:
        """The rows of a table of this schema, or of these columns of it; columns that are not read are empty.

        Class ids are replaced by class names; -1, "no label", by None.

        Raises:
            InputError: a column has a value that is invalid, such as bytes that are no text.
        """
        columns = [self._values(table, name) for name in self.names]
        for cells in zip(*columns, strict=True) if columns else repeat((), table.num_rows):
            yield {**self.unread, **dict(zip(self.names, cells, strict=True))}

    def _values(self, table: pa.RecordBatch | pa.Table, name: str) -> list:
        try:
            return _class_names(self.features[name], table.column(name).to_pylist())
        except (ValueError, IndexError) as error:  # IndexError: a class id without a name
            raise InputError(f"{self.where}: column {name!r} cannot be read ({error_line(error)})") from None

    def _feature(self, field: pa.Field, metadata: dict[bytes, bytes] | None) -> Any:
        """The feature of `datasets`, which has the names of classes."""
        try:
            content = json.loads((metadata or {}).get(b"huggingface", b"{}"))
            known = (content.get("info") or {}).get("features") or {}
            # The types of other columns may be unknown to this version of `datasets`.
            own = {"info": {"features": {name: known[name] for name in known if name == field.name}}}
            schema = pa.schema([field], metadata={"huggingface": json.dumps(own)})
            return datasets.Features.from_arrow_schema(schema)[field.name]
        except (ValueError, AttributeError, TypeError) as error:  # `datasets` checks nothing of the metadata
            raise InputError(f"{self.where}: column {field.name!r} cannot be read ({error_line(error)})") from None


def empty_value(kind: pa.DataType) -> dict[str, Any] | None:
    """An object without values, so that messages can name its columns; None for another type."""
    if not pa.types.is_struct(kind):
        return None
    return {field.name: empty_value(field.type) for field in kind}


def _class_names(feature: Any, values: list) -> list:
    if isinstance(feature, datasets.ClassLabel):
        return [feature.names[value] if value is not None and value >= 0 else None for value in values]
    if isinstance(feature, dict):
        return [value and {name: _class_names(feature[name], [value[name]])[0] for name in value} for value in values]
    inner = getattr(feature, "feature", None)
    if isinstance(inner, datasets.ClassLabel):
        return [_class_names(inner, value) if isinstance(value, list) else value for value in values]
    return values
