"""The user's data as splits: read, checked and renamed to standard column names.

The standard columns of a split are those of the task's `Schema` (data/columns.py), such as `text` and `label`. A
label is a text; a list of texts where a row has several labels; a float, or a list of floats, for regression. Tokens
and tags are lists of texts. A target is a text; if any row of a validation or test split has several references, every
row has a list of them. In .csv and .tsv files every cell is text: docs/training.md says which cells are read as lists.
"""

import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.utils import tqdm

from ..version import __version__
from .columns import STEPS, Field, Schema, has_column, present_fields, value_of
from .errors import InputError, printable
from .formats import DEFAULT_READING, Reading
from .kinds import LABELS, NUMBERS, SEVERAL_LABELS, Kind
from .labels import label_names
from .sources import BATCH_ROWS, Names, Origin, Pairs, Source, check_reading, named_sources, sources_of
from .storage import cache_key, cache_table
from .streams import RowStream

logger = logging.getLogger(__name__)

SPLITS = tuple(STEPS)


@dataclass(frozen=True)
class DataOptions:
    """Which data is read, and how.

    Args:
        files: the files of each split: one or several, or globs, or parallel text.
        reading: how the files are read.
        dataset_name: `dates`, or what `datasets.load_dataset` takes; in place of files.
        dataset_config_name: the configuration of `dataset_name`.
        split_names: the name of each split in `dataset_name`, as in `{"validation": "dev", "train": "train[:90%]"}`.
        splits: the splits to read, where they exist; a warning names those that are not read.
        max_train_samples: keep this many random rows of the training split, in their order.
        max_eval_samples: the same for each of the other splits.
        unknown_label: rows with this label belong to no class; they are put aside.
        streaming: read the training split during training, and store none of it.
        seed: decides which rows are kept, and the split of `dates`.
        data_seed: decides the order of a stream; None is `seed`.
    """

    files: Mapping[str, Names | Pairs] = field(default_factory=dict)
    reading: Reading = DEFAULT_READING
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    split_names: Mapping[str, str] = field(default_factory=dict)
    splits: Collection[str] = SPLITS
    max_train_samples: int | None = None
    max_eval_samples: int | None = None
    unknown_label: str | None = None
    streaming: bool = False
    seed: int = 0
    data_seed: int | None = None


class LabelledData(datasets.DatasetDict):
    """A `DatasetDict` with the label names of its whole training split, also where only some rows were kept.

    Args:
        label_names: those of the training split, or of the model; empty without either.
        streamed_labels: the labels of a streamed training split, as a data set with one column.
        origins: the sources of each split's rows, for messages.
        unknown: the rows of each split that belong to no class.
    """

    label_names: list[str] = []
    unknown: dict[str, datasets.Dataset] = {}
    streamed_labels: datasets.Dataset | None = None
    origins: dict[str, Origin] = {}

    @property
    def labelled_train(self) -> datasets.Dataset:
        """The training rows, or those of a stream in their label column alone."""
        return self["train"] if self.streamed_labels is None else self.streamed_labels


def load_data(schema: Schema, options: DataOptions, known: list[str] | None = None) -> LabelledData:
    """Read, check and standardise a data set from files, from the Hub, or the built-in `dates`.

    Labels are checked before samples are taken, so rows in messages are rows of the user's files.

    The splits are stored in the cache of `datasets`, where the same files are found again. With `streaming` the
    training split is not stored, but read again in each epoch; if it has labels, all rows are read once before, to
    collect them.

    Args:
        schema: the columns to read.
        options: which data is read, and how.
        known: the labels of a saved model; used if there is no training split.

    Returns:
        The splits that exist; `label_names` are those of the whole training split, or of the model. With `streaming`
        `train` is a RowStream.

    Raises:
        InputError: an option, a file, a row, a column or a label is wrong.
    """
    fields = {split: schema.fields(split) for split in SPLITS}
    _check_options(options)
    sources = _sources(options)
    if options.files:
        check_reading(options.reading, [*chain.from_iterable(sources.values())])
        _check_cells(options.reading, [*schema.kinds.values()])
    data, origins = LabelledData(), {}
    for split in sources:
        if split == "train" and options.streaming:
            seed = options.seed if options.data_seed is None else options.data_seed
            data[split] = _stream(sources[split], fields[split], seed)
            origins[split] = Origin([source.name for source in sources[split]], [])
        else:
            data[split], origins[split] = _read(sources[split], fields[split])
    _check_same_columns({str(origins[split]): data[split].column_names for split in data})
    if options.unknown_label is not None and schema.labels is not None:
        data.unknown = _put_aside(data, origins, schema.labels.column, options.unknown_label)
    if schema.labels is not None and ("train" in data or known is not None):
        labels = {split: data[split] for split in data}
        if isinstance(labels.get("train"), RowStream):
            read = _read(sources["train"], fields["train"], schema.labels.column)
            labels["train"], origins["train"] = read
            data.streamed_labels = labels["train"]
        data.label_names = label_names(labels, origins, schema.labels, known)
    for split in data:
        limit = options.max_train_samples if split == "train" else options.max_eval_samples
        if limit is not None and limit < len(data[split]):
            kept = _sample(len(data[split]), limit, options.seed)
            data[split], origins[split] = data[split].select(kept), origins[split].keep(kept)
    data.origins = origins
    return data


def read_files(split: str, names: Names, fields: list[Field], reading: Reading = DEFAULT_READING) -> datasets.Dataset:
    """Read files of one of the `FILE_TYPES`, perhaps compressed, into standard columns.

    Args:
        split: the name of the option of the files, without `_file`, for messages.
        names: a file, or several files or globs.
        fields: the columns to read.
        reading: how the files are read.

    Raises:
        InputError: a file, a row or a column is wrong.
    """
    return _read(sources_of(split, names, reading), fields)[0]


def read_column(split: str, names: Names, column: str, reading: Reading = DEFAULT_READING) -> list[Any]:
    """The values of a column of files, as read. Raises InputError as `read_files`, and if a row has no such column."""
    values = []
    for source in sources_of(split, names, reading):
        for number, row in enumerate(source.rows(tqdm(disable=True), [column]), 1):
            try:
                values.append(value_of(row, column))
            except KeyError:
                raise InputError(f"{source.name}: row {number}: has no column {column!r}") from None
    return values


# --- Sources and options ---


def _sources(options: DataOptions) -> dict[str, list[Source]]:
    """The sources of each split that is wanted and exists. Raises InputError where there is none."""
    if options.files:
        given = {split: files for split, files in options.files.items() if split in options.splits}
        sources = {split: sources_of(split, files, options.reading) for split, files in given.items()}
        if unread := [f"{split}_file" for split in options.files if split not in options.splits]:
            logger.warning("not read, because no step uses it: %s", ", ".join(unread))
    else:
        sources = named_sources(
            options.dataset_name,
            options.dataset_config_name,
            [split for split in SPLITS if split in options.splits],
            options.split_names,
            options.seed,
            options.streaming,
        )
    if not sources:
        missing = ", ".join(f"{STEPS[split]} needs a {split} split" for split in SPLITS)
        raise InputError(f"there is nothing to do with the data: {missing}")
    return sources


def _check_options(options: DataOptions) -> None:
    """Raises InputError for options that contradict each other, or have no effect."""
    files, reading, name = options.files, options.reading, options.dataset_name
    if not files and name is None:
        raise InputError("no data: give dataset_name, or one or more of train_file, validation_file, test_file")
    if files and name is not None:
        names = ", ".join(f"{split}_file" for split in files)
        raise InputError(f"dataset_name, {names}: give either a data set or files, not both")
    if files and options.dataset_config_name is not None:
        raise InputError(f"dataset_config_name: {options.dataset_config_name!r} is for dataset_name, not for files")
    if files and options.split_names:
        split, given = next(iter(options.split_names.items()))
        raise InputError(f"{split}_split: {given!r} is for dataset_name, not for files")
    if options.streaming and options.unknown_label is not None:
        raise InputError("unknown_label: cannot be combined with streaming")
    if not files and reading != DEFAULT_READING:
        name = next(name for name in Reading._fields if getattr(reading, name) != getattr(DEFAULT_READING, name))
        raise InputError(f"{name}: is for files, not for dataset_name")
    for name in ("max_train_samples", "max_eval_samples"):
        limit = getattr(options, name)
        if limit is not None and limit < 1:
            raise InputError(f"{name}: must be at least 1, not {limit}")


def _check_cells(reading: Reading, kinds: list[Kind]) -> None:
    """Raises InputError for options for numbers or lists if no column has them."""
    if reading.decimal != DEFAULT_READING.decimal and NUMBERS not in kinds:
        raise InputError(f"decimal: {reading.decimal!r} is for problem_type regression")
    if reading.label_separator is None:
        return
    if not any(kind in kinds for kind in (LABELS, SEVERAL_LABELS, NUMBERS)):
        raise InputError("label_separator: is for tags, and for problem_type multi_label_classification or regression")
    if NUMBERS in kinds and reading.decimal in reading.label_separator:
        raise InputError(f"label_separator: {reading.label_separator!r} contains the decimal mark; see --decimal")


# --- From rows to a checked table ---


def _read(sources: list[Source], fields: list[Field], column: str | None = None) -> tuple[datasets.Dataset, Origin]:
    """Read and store the rows of a split, and check that all its sources have the same columns.

    With `column`, all columns are checked, and only this one is returned.
    """
    parts = [
        cache_table(_key(source, fields, column), _with_progress_bar(source, fields, column)) for source in sources
    ]
    origin = Origin([source.name for source in sources], [len(part) for part in parts])
    _check_same_columns(dict(zip(origin.names, (part.column_names for part in parts), strict=True)))
    plain = _single_item_columns(datasets.concatenate_datasets(parts).data, origin.row)
    return datasets.concatenate_datasets([_unwrap(part, plain) for part in parts]), origin


def _stream(sources: list[Source], fields: list[Field], seed: int) -> RowStream:
    """A split as a stream; its first rows are read at once, to know its columns."""
    head = datasets.Dataset.from_dict(next(_blocks(sources[0], fields)))
    columns = {sources[0].name: head.column_names}
    blocks = [partial(_blocks, source, fields, columns) for source in sources]
    names = [", ".join(Path(file).name for file in source.files) or source.name for source in sources]
    return RowStream(blocks, seed, head, files=list(zip(names, (source.size for source in sources), strict=True)))


def _blocks(source: Source, fields: list[Field], columns: dict[str, list[str]] | None = None) -> Iterator[dict]:
    """The rows of a source in blocks of columns. Raises InputError where `columns`, of another source, differ."""
    count = 0
    for batch in _batches(source, fields, tqdm(disable=True)):
        _check_same_columns({**(columns or {}), source.name: batch.schema.names})
        table = pa.Table.from_batches([batch])
        plain = _single_item_columns(table, lambda row, before=count: f"{source.name}: row {before + row}")
        yield _unwrapped(table, plain).to_pydict()
        count += len(batch)


def _key(source: Source, fields: list[Field], column: str | None) -> str:
    """Cache key of the checked rows of a source. Another version may read the same files differently."""
    return cache_key(source.files, __version__, source.facts, fields, column)


def _with_progress_bar(source: Source, fields: list[Field], column: str | None) -> Iterator[pa.RecordBatch]:
    """The batches of a source, with all columns or one; after a second a progress bar shows rows/s and time left."""
    look = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}{postfix}]"
    count = 0
    desc = f"Reading {printable(source.name)}"
    with tqdm(desc=desc, total=source.size, bar_format=look, delay=1, leave=False) as bar:
        for batch in _batches(source, fields, bar):
            yield batch if column is None else batch.select([column])
            count += len(batch)
            seconds = bar.format_dict["elapsed"]
            bar.set_postfix_str(f"{count:,} rows, {count / seconds if seconds else 0:,.0f} rows/s", refresh=False)


def _batches(source: Source, fields: list[Field], bar: tqdm) -> Iterator[pa.RecordBatch]:
    """The checked rows of a source as record batches. Raises InputError for a row or a column that is wrong."""
    rows, where = source.rows(bar, [field.column for field in fields]), source.name
    first = next(rows)
    present = present_fields(fields, first, where)
    absent = [field.column for field in fields if field not in present]
    rows = chain([first], rows)
    schema = pa.schema([(field.name, field.kind.type) for field in present])
    count = 0
    while batch := list(islice(rows, BATCH_ROWS)):
        for column in absent:
            for number, row in enumerate(batch, count + 1):
                if has_column(row, column):
                    raise InputError(
                        f"{where}: row {number}: has column {column!r}, which the first row does not have"
                    )
        arrays = [convert_column(batch, field, where, count + 1, source.cells) for field in present]
        # More than one batch if a column exceeds the 2 GiB of an Arrow array.
        for table in pa.table(arrays, schema=schema).to_batches():
            _check_lengths(table, where, count, next((field.hint for field in present if field.name == "tags"), ""))
            yield table
            count += len(table)


def convert_column(rows: list[dict], field: Field, where: str, first_row: int, cells: Reading | None) -> pa.Array:
    """Check the values of a column and convert them to the standard form.

    Args:
        rows: as read.
        field: the column.
        where: the source, for messages.
        first_row: the number of the first row, for messages.
        cells: how cells are read, where every value is text; None where values have types.

    Raises:
        InputError: a value is wrong; the message names its row.
    """
    kind, column, values = field.kind, field.column, []
    convert = kind.value if cells is None else partial(kind.cell, reading=cells)
    get = itemgetter(column) if column in rows[0] else partial(value_of, column=column)
    for number, row in enumerate(rows, first_row):
        try:
            values.append(convert(get(row)))
        except KeyError:
            raise InputError(f"{where}: row {number}: has no column {column!r}{field.hint}") from None
        except (ValueError, OverflowError) as error:
            value = get(row)
            # Of pandas' NA no comparison is true or false.
            is_missing = value is None or (isinstance(value, str | list) and not value)
            hint = field.hint if is_missing else ""
            raise InputError(f"{where}: row {number}: column {column!r}: {error}{hint}") from None
    try:
        return pa.array(values, field.kind.type)
    except UnicodeEncodeError:
        number = next(n for n, value in enumerate(values, first_row) if not _is_encodable(value))
        reason = "holds half of a surrogate pair, which is no character"
        raise InputError(f"{where}: row {number}: column {field.column!r}: {reason}") from None


def _is_encodable(value: str | list) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_lengths(batch: pa.RecordBatch, where: str, before: int, hint: str) -> None:
    """Raises InputError for a row with a different number of tokens and tags, with `hint` where it has no tags."""
    if "tags" not in batch.schema.names:
        return
    tokens, tags = (pc.list_value_length(batch[name]).to_numpy() for name in ("tokens", "tags"))
    for row in np.flatnonzero(tokens != tags)[:1]:
        reason = f"{tokens[row]} tokens, but {tags[row]} tags{hint if not tags[row] else ''}"
        raise InputError(f"{where}: row {before + row + 1}: {reason}")


def _single_item_columns(table: datasets.table.Table | pa.Table, place: Callable[[int], str]) -> list[str]:
    """The columns of references or numbers that have exactly one item in every row."""
    plain = []
    for name in {"target", "label"} & {*table.column_names}:
        column = table[name]
        if not pa.types.is_list(column.type):
            continue
        lengths = pc.list_value_length(column)
        is_number = pa.types.is_floating(column.type.value_type)
        if pc.min_max(lengths).as_py() == {"min": 1, "max": 1} and (is_number or name == "target"):
            plain.append(name)
        elif is_number:
            expected = lengths[0].as_py()
            row = next((n for n, length in enumerate(lengths.to_pylist(), 1) if length != expected), None)
            if row is not None:
                found = lengths[row - 1].as_py()
                raise InputError(f"{place(row)}: {found} numbers in the label, but the first row has {expected}")
    return plain


def _unwrap(dataset: datasets.Dataset, names: list[str]) -> datasets.Dataset:
    """Replace one-item lists by their items in one part of a split, as concatenated tables cannot replace a column."""
    return datasets.Dataset(_unwrapped(dataset.data, names), fingerprint=dataset._fingerprint)


def _unwrapped(table: Any, names: list[str]) -> Any:
    for name in names:
        table = table.set_column(table.column_names.index(name), name, pc.list_flatten(table[name]))
    return table


def _check_same_columns(columns: dict[str, list[str]]) -> None:
    """Raises InputError if a source has a column, such as text_pair, that another one lacks."""
    first, *others = columns
    for other in others:
        for name in {*columns[first]} ^ {*columns[other]}:
            having, lacking = (first, other) if name in columns[first] else (other, first)
            raise InputError(f"{lacking}: no column {name!r}, but {having} has it")


def _put_aside(data: LabelledData, origins: dict[str, Origin], column: str, label: str) -> dict[str, datasets.Dataset]:
    """Take the rows with a label out of all splits. Raises InputError if no row has it, or all rows of a split."""
    unknown = {}
    for split, rows in data.items():
        labels = rows.with_format("arrow")[:][column]
        if not pa.types.is_string(labels.type):
            raise InputError("unknown_label: is for rows with a single label")
        is_unknown = pc.equal(labels, label).to_numpy()
        kept = np.flatnonzero(~is_unknown)
        if not len(kept):
            raise InputError(f"unknown_label: all rows of {origins[split]} have the label {label!r}")
        unknown[split] = rows.select(np.flatnonzero(is_unknown))
        data[split], origins[split] = rows.select(kept), origins[split].keep(kept)
    if not any(map(len, unknown.values())):
        raise InputError(f"unknown_label: no row has the label {label!r}")
    counts = ", ".join(f"{len(rows):,} of {split}" for split, rows in unknown.items() if len(rows))
    logger.info("unknown_label: rows of no class are put aside: %s", counts)
    return unknown


def _sample(count: int, limit: int, seed: int) -> np.ndarray:
    """The indices, in order, of `limit` random rows among `count`."""
    return np.sort(np.random.default_rng(seed).choice(count, size=limit, replace=False))
