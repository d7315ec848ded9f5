"""The user's data, checked and brought under standard column names before anything else happens.

A data set becomes a `DatasetDict` with some of the splits train, validation and test. The columns of a split:

| task | columns |
|---|---|
| sequence-classification | text, text_pair (if the data has one), label |
| token-classification | tokens, tags |
| seq2seq-lm | source, target |
| causal-lm, masked-lm, denoising | text |

A label is a text; a list of texts for several labels; a float, or a list of floats, for regression. Tokens and tags
are lists of texts. A target is a text; if any row of a split has several references (not in training), a list of them.
In .csv and .tsv files every cell is text: docs/training.md says what of it is a list.
"""

import logging
from collections.abc import Callable, Collection, Iterator, Mapping
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
from .columns import STANDARD_COLUMNS, STEPS, Columns, Field, fields_of, has_column, present_fields, value_of
from .errors import InputError, printable
from .formats import DEFAULT_READING, Reading
from .labels import LABEL_COLUMNS, label_names
from .named_datasets import BATCH_ROWS, named_sources
from .sources import Names, Origin, Pairs, Source, check_reading, sources_of
from .storage import cache_key, cache_table
from .streams import RowStream

logger = logging.getLogger(__name__)

SPLITS = tuple(STEPS)


class LabelledData(datasets.DatasetDict):
    """A `DatasetDict` that remembers the labels of its whole training split, of which samples may have been taken.

    Args:
        label_names: those of the training split, or of the model; none where there is neither.
        streamed_labels: the labels of a training split that is streamed, in the column that they have there.
        where: the files or the data set that each split comes from, for messages.
    """

    label_names: list[str] = []
    streamed_labels: datasets.Dataset | None = None
    where: dict[str, str] = {}


def load_data(
    task: str,
    *,
    train_file: Names | Pairs | None = None,
    validation_file: Names | Pairs | None = None,
    test_file: Names | Pairs | None = None,
    reading: Reading = DEFAULT_READING,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    columns: Columns = STANDARD_COLUMNS,
    problem_type: str | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    seed: int = 0,
    splits: Collection[str] = SPLITS,
    split_names: Mapping[str, str | None] | None = None,
    known: list[str] | None = None,
    streaming: bool = False,
    data_seed: int | None = None,
) -> LabelledData:
    """Read, check and standardise a data set from files, from the Hub, or the built-in `dates`.

    Labels are checked before samples are taken, so rows in messages are rows of the user's files.

    The splits are stored in the cache of `datasets`, where the same files are found again. With `streaming` the
    training split is not, but read anew in each epoch; where it has labels, all rows are read once to learn them.

    Args:
        task: one of `TASK_FIELDS`.
        train_file: one or several, or globs, or parallel text; `validation_file` and `test_file` likewise, and any
            of the three may be absent.
        validation_file: see `train_file`.
        test_file: see `train_file`.
        reading: how the files are read.
        dataset_name: `dates`, or what `datasets.load_dataset` takes; instead of files.
        dataset_config_name: the configuration of `dataset_name`.
        columns: the user's column names.
        problem_type: for sequence-classification, one of `LABEL_KINDS`; None is a single label.
        max_train_samples: keep this many random rows of the training split, in their order.
        max_eval_samples: the same for each of the other splits.
        seed: decides which rows are kept, and the split of `dates`.
        splits: those to read, if they exist; what is left out of the data is said.
        split_names: what these are in `dataset_name`, such as `{"validation": "dev", "train": "train[:90%]"}`.
        known: the labels of the model; used if there is no training split.
        streaming: whether the training split is read as it is trained on.
        data_seed: decides the order of what is streamed; None is `seed`.

    Returns:
        The splits that exist; `label_names` are those of the whole training split, or of the model. With `streaming`
        `train` is a RowStream.

    Raises:
        InputError: an argument, a file, a row, a column or a label is wrong.
    """
    fields = {split: fields_of(task, columns, problem_type, split) for split in SPLITS}
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: given for split, given in files.items() if given is not None}
    names = {split: name for split, name in (split_names or {}).items() if name is not None}
    _check_source(files, dataset_name, dataset_config_name, reading, names)
    _check_limits(max_train_samples=max_train_samples, max_eval_samples=max_eval_samples)
    if files:
        sources = {split: sources_of(split, given, reading) for split, given in files.items() if split in splits}
        if unread := [f"{split}_file" for split in files if split not in splits]:
            logger.warning("not read, as nothing is to be done with it: %s", ", ".join(unread))
    else:
        wanted = {split: fields[split] for split in SPLITS if split in splits}
        sources = named_sources(dataset_name, dataset_config_name, wanted, names, seed, streaming)
    if not sources:
        missing = ", ".join(f"{STEPS[split]} needs a {split} split" for split in SPLITS)
        raise InputError(f"there is nothing to do with the data: {missing}")
    if files:
        check_reading(reading, list(chain.from_iterable(sources.values())))
        _check_cells(reading, task, problem_type)
    data, origins, column = LabelledData(), {}, LABEL_COLUMNS.get(task)
    for split in sources:
        if split == "train" and streaming:
            data[split] = _stream(sources[split], fields[split], seed if data_seed is None else data_seed)
            origins[split] = Origin([source.name for source in sources[split]], [])
        else:
            data[split], origins[split] = _read(sources[split], fields[split])
    data.where = {split: str(origin) for split, origin in origins.items()}
    _check_same_columns({data.where[split]: data[split].column_names for split in data})
    if column is not None and ("train" in data or known is not None):
        labels = {split: data[split] for split in data}
        if isinstance(labels.get("train"), RowStream):
            data.streamed_labels, origins["train"] = _read(sources["train"], fields["train"], column)
            labels["train"] = data.streamed_labels
        data.label_names = label_names(labels, origins, task, problem_type, known)
    for split in data:
        limit = max_train_samples if split == "train" else max_eval_samples
        if limit is not None:
            data[split] = _sample(data[split], limit, seed)
    return data


def read_file(
    path: str | Path,
    task: str,
    *,
    columns: Columns = STANDARD_COLUMNS,
    problem_type: str | None = None,
    split: str = "train",
    reading: Reading = DEFAULT_READING,
) -> datasets.Dataset:
    """Read one file into the standard columns of a task.

    Args:
        path: of one of the `FILE_TYPES`, perhaps packed.
        task: one of `TASK_FIELDS`.
        columns: the user's column names.
        problem_type: see `load_data`.
        split: in "train", a target must be one text.
        reading: how the file is read.

    Raises:
        InputError: the file, a row or a column is wrong.
    """
    return _read(sources_of(split, path, reading), fields_of(task, columns, problem_type, split))[0]


# --- From rows to a checked table ---


def _check_source(
    files: dict[str, Names | Pairs],
    dataset_name: str | None,
    dataset_config_name: str | None,
    reading: Reading,
    split_names: dict[str, str],
) -> None:
    """Either files, which may be read in one way or another, or a named data set, of which splits may be chosen."""
    if not files and dataset_name is None:
        raise InputError("no data: give dataset_name, or one or more of train_file, validation_file, test_file")
    if files and dataset_name is not None:
        names = ", ".join(f"{split}_file" for split in files)
        raise InputError(f"dataset_name, {names}: give either a data set or files, not both")
    if files and dataset_config_name is not None:
        raise InputError(f"dataset_config_name: {dataset_config_name!r} is for dataset_name, not for files")
    if files and split_names:
        split = next(iter(split_names))
        raise InputError(f"{split}_split: {split_names[split]!r} is for dataset_name, not for files")
    if not files and reading != DEFAULT_READING:
        name = next(name for name in Reading._fields if getattr(reading, name) != getattr(DEFAULT_READING, name))
        raise InputError(f"{name}: is for files, not for dataset_name")


def _check_cells(reading: Reading, task: str, problem_type: str | None) -> None:
    """Refuse what is said of numbers and lists where a task reads none."""
    if reading.decimal != DEFAULT_READING.decimal and problem_type != "regression":
        raise InputError(f"decimal: {reading.decimal!r} is for problem_type regression")
    if reading.label_separator is None:
        return
    if task != "token-classification" and problem_type not in ("regression", "multi_label_classification"):
        raise InputError("label_separator: is for tags, and for problem_type multi_label_classification or regression")
    if problem_type == "regression" and reading.decimal in reading.label_separator:
        raise InputError(f"label_separator: {reading.label_separator!r} has the decimal mark in it; see --decimal")


def _check_limits(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise InputError(f"{name}: must be at least 1, not {limit}")


def _read(sources: list[Source], fields: list[Field], column: str | None = None) -> tuple[datasets.Dataset, Origin]:
    """The rows of a split, of which every source has the same columns; all are checked, though one column is kept."""
    parts = [cache_table(_key(source, fields, column), _watched(source, fields, column)) for source in sources]
    origin = Origin([source.name for source in sources], [len(part) for part in parts])
    _check_same_columns(dict(zip(origin.names, (part.column_names for part in parts), strict=True)))
    plain = _plain_columns(datasets.concatenate_datasets(parts).data, origin.row)
    return datasets.concatenate_datasets([_unwrap(part, plain) for part in parts]), origin


def _stream(sources: list[Source], fields: list[Field], seed: int) -> RowStream:
    """The rows of a split, of which the first are read to know what they look like."""
    head = datasets.Dataset.from_dict(next(_blocks(sources[0], fields)))
    columns = {sources[0].name: head.column_names}
    blocks = [partial(_blocks, source, fields, columns) for source in sources]
    names = [", ".join(Path(file).name for file in source.files) or source.name for source in sources]
    return RowStream(blocks, seed, head, files=list(zip(names, (source.size for source in sources), strict=True)))


def _blocks(source: Source, fields: list[Field], columns: dict[str, list[str]] | None = None) -> Iterator[dict]:
    """The rows of a source, some at a time as columns, which must be those that another source has."""
    count = 0
    for batch in _batches(source, fields, tqdm(disable=True)):
        _check_same_columns({**(columns or {}), source.name: batch.schema.names})
        table = pa.Table.from_batches([batch])
        plain = _plain_columns(table, lambda row, before=count: f"{source.name}: row {before + row}")
        yield _unwrapped(table, plain).to_pydict()
        count += len(batch)


def _key(source: Source, fields: list[Field], column: str | None) -> str:
    # Another version may read the same files in another way.
    return cache_key(source.files, __version__, source.facts, fields, column)


def _watched(source: Source, fields: list[Field], column: str | None) -> Iterator[pa.RecordBatch]:
    """One column of a source or all; if that takes long, a bar shows how fast rows come and how much time is left."""
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
    rows, where = source.rows(bar), source.name
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
                    raise InputError(f"{where}: row {number}: has column {column!r}, which the first row has not")
        arrays = [convert_column(batch, field, where, count + 1, source.cells) for field in present]
        # Several where a column has more than the 2 GiB that Arrow holds in one.
        for table in pa.table(arrays, schema=schema).to_batches():
            _check_lengths(table, where, count, next((field.hint for field in present if field.name == "tags"), ""))
            yield table
            count += len(table)


def convert_column(rows: list[dict], field: Field, where: str, first_row: int, cells: Reading | None) -> pa.Array:
    """The standard values of a column; `cells` is as in Source. Raises InputError for one that is wrong."""
    kind, column, values = field.kind, field.column, []
    convert = kind.value if cells is None else partial(kind.cell, reading=cells)
    get = itemgetter(column) if column in rows[0] else partial(value_of, column=column)
    for number, row in enumerate(rows, first_row):
        try:
            values.append(convert(get(row)))
        except KeyError:
            raise InputError(f"{where}: row {number}: has no column {column!r}{field.hint}") from None
        except (ValueError, OverflowError) as error:
            hint = field.hint if get(row) in (None, "", []) else ""
            raise InputError(f"{where}: row {number}: column {column!r}: {error}{hint}") from None
    try:
        return pa.array(values, field.kind.type)
    except UnicodeEncodeError:
        number = next(n for n, value in enumerate(values, first_row) if not _is_encodable(value))
        reason = "holds half of a surrogate pair, which is no character"
        raise InputError(f"{where}: row {number}: column {field.column!r}: {reason}") from None


def _is_encodable(value: str | list[str]) -> bool:
    try:
        "".join(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_lengths(batch: pa.RecordBatch, where: str, before: int, hint: str) -> None:
    """Every token has one tag. A row without tokens is kept. `hint` is said where there are no tags."""
    if "tags" not in batch.schema.names:
        return
    tokens, tags = (pc.list_value_length(batch[name]).to_numpy() for name in ("tokens", "tags"))
    for row in np.flatnonzero(tokens != tags)[:1]:
        reason = f"{tokens[row]} tokens, but {tags[row]} tags{hint if not tags[row] else ''}"
        raise InputError(f"{where}: row {before + row + 1}: {reason}")


def _plain_columns(table: datasets.table.Table | pa.Table, place: Callable[[int], str]) -> list[str]:
    """The columns of lists that have one item in every row: of references, or of numbers."""
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
    """Turn the lists of these columns into their only items. Of a table in several parts no column can be replaced."""
    return datasets.Dataset(_unwrapped(dataset.data, names), fingerprint=dataset._fingerprint)


def _unwrapped(table: Any, names: list[str]) -> Any:
    for name in names:
        table = table.set_column(table.column_names.index(name), name, pc.list_flatten(table[name]))
    return table


def _check_same_columns(columns: dict[str, list[str]]) -> None:
    """A text_pair is everywhere, or nowhere."""
    first, *others = columns
    for other in others:
        for name in {*columns[first]} ^ {*columns[other]}:
            having, lacking = (first, other) if name in columns[first] else (other, first)
            raise InputError(f"{lacking}: no column {name!r}, which {having} has")


def _sample(dataset: datasets.Dataset, limit: int, seed: int) -> datasets.Dataset:
    if limit >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).choice(len(dataset), size=limit, replace=False)
    return dataset.select(np.sort(chosen))
