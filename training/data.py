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
In .csv, .tsv and .txt files every cell is text: a list is written there as JSON, or with spaces between its items.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .columns import STANDARD_COLUMNS, Columns, Field, fields_of
from .files import FILE_TYPES, InputError, check_file, file_suffix, in_one_line, nearest_first, read_rows, table_rows

SPLITS = ("train", "validation", "test")
LABEL_COLUMNS = {"sequence-classification": "label", "token-classification": "tags"}
BATCH_ROWS = 10_000


class LabelledData(datasets.DatasetDict):
    """A `DatasetDict` that remembers the labels of its whole training split, of which samples may have been taken.

    Args:
        label_names: those of the training split, or of the model; none where there is neither.
        where: the file or the data set that each split comes from, for messages.
    """

    label_names: list[str] = []
    where: dict[str, str] = {}


def load_data(
    task: str,
    *,
    train_file: str | Path | None = None,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    columns: Columns = STANDARD_COLUMNS,
    problem_type: str | None = None,
    max_train_samples: int | None = None,
    max_eval_samples: int | None = None,
    seed: int = 0,
    train: bool = True,
    known: list[str] | None = None,
) -> LabelledData:
    """Read, check and standardise a data set from files, from the Hub, or the built-in `dates`.

    Labels are checked before samples are taken, so rows in messages are rows of the user's files.

    Args:
        task: one of `TASK_FIELDS`.
        train_file: with `validation_file` and `test_file`, any of which may be absent.
        validation_file: see `train_file`.
        test_file: see `train_file`.
        dataset_name: `dates`, or what `datasets.load_dataset` takes; instead of files.
        dataset_config_name: the configuration of `dataset_name`.
        columns: the user's column names.
        problem_type: for sequence-classification, one of `LABEL_KINDS`; None is a single label.
        max_train_samples: keep this many random rows of the training split, in their order.
        max_eval_samples: the same for each of the other splits.
        seed: decides which rows are kept, and the split of `dates`.
        train: False leaves the training split out.
        known: the labels of the model; used if there is no training split.

    Returns:
        The splits that exist; `label_names` are those of the whole training split, or of the model.

    Raises:
        InputError: an argument, a file, a row, a column or a label is wrong.
    """
    fields = {split: fields_of(task, columns, problem_type, split) for split in SPLITS}
    files = {"train": train_file, "validation": validation_file, "test": test_file}
    files = {split: str(file) for split, file in files.items() if file is not None}
    _check_source(files, dataset_name, dataset_config_name)
    _check_limits(max_train_samples=max_train_samples, max_eval_samples=max_eval_samples)
    source = files or _load_dataset(dataset_name, dataset_config_name, seed)
    where = files or {split: f"{dataset_name}, split {split}" for split in source}
    if not train:
        source.pop("train", None)
    if not source:
        raise InputError("do_train: is not to be done; do_eval needs a validation split, do_predict a test split")
    read = _read_file if files else _read_dataset
    data = LabelledData({split: read(rows, where[split], fields[split]) for split, rows in source.items()})
    data.where = where
    _check_same_columns(data, where)
    if "train" in data or known is not None:
        data.label_names = _label_names(data, task, problem_type, known)
    for split in data:
        data[split] = _sample(data[split], max_train_samples if split == "train" else max_eval_samples, seed)
    return data


def read_file(
    path: str | Path,
    task: str,
    *,
    columns: Columns = STANDARD_COLUMNS,
    problem_type: str | None = None,
    split: str = "train",
) -> datasets.Dataset:
    """Read one file into the standard columns of a task.

    Args:
        path: a .json, .jsonl, .csv, .tsv, .parquet or .txt file, each also .gz.
        task: one of `TASK_FIELDS`.
        columns: the user's column names.
        problem_type: see `load_data`.
        split: in "train", a target must be one text.

    Raises:
        InputError: the file, a row or a column is wrong.
    """
    return _read_file(path, str(path), fields_of(task, columns, problem_type, split))


# --- From rows to a checked table ---


def _check_source(files: dict[str, str], dataset_name: str | None, dataset_config_name: str | None) -> None:
    """Either files or a named data set, and every file is there."""
    if not files and dataset_name is None:
        raise InputError("no data: give dataset_name, or one or more of train_file, validation_file, test_file")
    if files and dataset_name is not None:
        names = ", ".join(f"{split}_file" for split in files)
        raise InputError(f"dataset_name, {names}: give either a data set or files, not both")
    if files and dataset_config_name is not None:
        raise InputError(f"dataset_config_name: {dataset_config_name!r} is for dataset_name, not for files")
    for file in files.values():
        check_file(file)


def _check_limits(**limits: int | None) -> None:
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise InputError(f"{name}: must be at least 1, not {limit}")


def _read_file(path: str | Path, where: str, fields: list[Field]) -> datasets.Dataset:
    return _standardise(read_rows(path), where, fields, FILE_TYPES[file_suffix(path)].typed)


def _read_dataset(dataset: datasets.Dataset, where: str, fields: list[Field]) -> datasets.Dataset:
    if len(dataset) == 0:
        raise InputError(f"{where}: holds no rows")
    _present(fields, dataset.column_names, where)
    wanted = [field.column for field in fields if field.column in dataset.column_names]
    tables = dataset.select_columns(wanted).with_format("arrow").iter(BATCH_ROWS)
    rows = chain.from_iterable(table_rows(table, dataset.features) for table in tables)
    return _standardise(rows, where, fields, typed=True)


def _present(fields: list[Field], columns: Iterable[str], where: str) -> list[Field]:
    """The fields to read, given the columns that are there."""
    columns = list(columns)
    for field in fields:
        if field.column not in columns and not field.optional:
            present = ", ".join(repr(name) for name in nearest_first(field.column, columns))
            raise InputError(
                f"{where}: no column {field.column!r} (--{field.name}_column); columns present: {present or 'none'}"
            )
    return [field for field in fields if field.column in columns]


def _standardise(rows: Iterator[dict], where: str, fields: list[Field], typed: bool) -> datasets.Dataset:
    first = next(rows)
    present = _present(fields, first, where)
    absent = [field.column for field in fields if field not in present]
    rows = chain([first], rows)
    schema = pa.schema([(field.name, field.kind.type) for field in present])
    batches, count = [], 0
    while batch := list(islice(rows, BATCH_ROWS)):
        for column in absent:
            for number, row in enumerate(batch, count + 1):
                if column in row:
                    raise InputError(f"{where}: row {number}: has column {column!r}, which the first row has not")
        arrays = [_convert(batch, field, where, count + 1, typed) for field in present]
        batches.append(pa.record_batch(arrays, schema=schema))
        count += len(batch)
    table = pa.Table.from_batches(batches, schema)
    _check_lengths(table, where)
    return datasets.Dataset(_unwrap(table, where))


def _convert(rows: list[dict], field: Field, where: str, first_row: int, typed: bool) -> pa.Array:
    convert = field.kind.value if typed else field.kind.cell
    values = []
    for number, row in enumerate(rows, first_row):
        try:
            values.append(convert(row[field.column]))
        except KeyError:
            raise InputError(f"{where}: row {number}: has no column {field.column!r}") from None
        except (ValueError, OverflowError) as error:
            raise InputError(f"{where}: row {number}: column {field.column!r}: {error}") from None
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


def _check_lengths(table: pa.Table, where: str) -> None:
    """Every token has one tag. A row without tokens is kept."""
    if "tags" not in table.column_names:
        return
    tokens, tags = (pc.list_value_length(table[name]).to_pylist() for name in ("tokens", "tags"))
    for row, (n_tokens, n_tags) in enumerate(zip(tokens, tags, strict=True), 1):
        if n_tokens != n_tags:
            raise InputError(f"{where}: row {row}: {n_tokens} tokens, but {n_tags} tags")


def _unwrap(table: pa.Table, where: str) -> pa.Table:
    """Turn lists into plain values where every row has one: references into texts, numbers into a float."""
    for index, name in enumerate(table.column_names):
        column = table[name]
        if name not in ("target", "label") or not pa.types.is_list(column.type):
            continue
        lengths = pc.list_value_length(column)
        is_number = pa.types.is_floating(column.type.value_type)
        if pc.min_max(lengths).as_py() == {"min": 1, "max": 1} and (is_number or name == "target"):
            table = table.set_column(index, name, pc.list_flatten(column))
        elif is_number:
            expected = lengths[0].as_py()
            row = next((n for n, length in enumerate(lengths.to_pylist(), 1) if length != expected), None)
            if row is not None:
                found = lengths[row - 1].as_py()
                raise InputError(f"{where}: row {row}: {found} numbers in the label, but the first row has {expected}")
    return table


def _check_same_columns(splits: dict[str, datasets.Dataset], where: dict[str, str]) -> None:
    """A text_pair is in every split or in none."""
    first, *others = splits
    for split in others:
        for name in {*splits[first].column_names} ^ {*splits[split].column_names}:
            having, lacking = (first, split) if name in splits[first].column_names else (split, first)
            raise InputError(f"{where[lacking]}: no column {name!r}, which {where[having]} has")


def _load_dataset(name: str, config_name: str | None, seed: int) -> dict[str, datasets.Dataset]:
    if name == "dates":
        if config_name is not None:
            raise InputError(f"dataset_config_name: dates has no configurations, but {config_name!r} was given")
        from .dates import load_dates

        return dict(load_dates(seed=seed))
    try:
        loaded = datasets.load_dataset(name, config_name)
    except Exception as error:  # every builder and every network layer raises its own
        raise InputError(f"dataset_name: {name!r} cannot be loaded ({in_one_line(error)})") from error
    splits = {split: loaded[split] for split in SPLITS if split in loaded}
    if not splits:
        raise InputError(f"dataset_name: {name!r} has none of the splits {', '.join(SPLITS)}, but {', '.join(loaded)}")
    return splits


def _sample(dataset: datasets.Dataset, limit: int | None, seed: int) -> datasets.Dataset:
    if limit is None or limit >= len(dataset):
        return dataset
    chosen = np.random.default_rng(seed).choice(len(dataset), size=limit, replace=False)
    return dataset.select(np.sort(chosen))


# --- Labels ---


def _label_names(data: LabelledData, task: str, problem_type: str | None, known: list[str] | None) -> list[str]:
    """The label names of the training split, or those that are known, in the order of their ids.

    Names that are all whole numbers are sorted as numbers, all others by code point; of tags, `O` comes first; where
    the same ones are known, their order stays. Regression has names too: `LABEL_0` and so on, one for each number of a
    row. Language models and seq2seq have none.
    """
    if task not in LABEL_COLUMNS:
        return []
    if problem_type == "regression":
        return _regression_names(data, known)
    columns = {split: _column(data[split], LABEL_COLUMNS[task]) for split in data}
    lacking = "is none of the model's"
    if "train" in data:
        lacking = "does not occur in training"
        names = _sorted_labels(set(chain.from_iterable(map(_as_list, columns["train"]))), task)
        if not names:
            raise InputError(f"{data.where['train']}: no row has a label")
        if len(names) == 1 and task == "sequence-classification" and problem_type != "multi_label_classification":
            raise InputError(
                f"{data.where['train']}: every row has the label {names[0]!r}; classes are told apart from two"
            )
        known = known if known is not None and sorted(known) == sorted(names) else names
    for split, column in columns.items():
        _check_known(column, known, data.where[split], lacking)
    return known


def _regression_names(data: LabelledData, known: list[str] | None) -> list[str]:
    """One name for each number of a label; every split has as many."""
    widths = {split: np.size(data[split][0]["label"]) for split in data}
    width, whose = (widths["train"], "training") if "train" in data else (len(known), "the model")
    for split, found in widths.items():
        if found != width:
            raise InputError(f"{data.where[split]}: labels hold {found} numbers, but those of {whose} {width}")
    return [f"LABEL_{index}" for index in range(width)]


def _column(dataset: datasets.Dataset, name: str) -> list:
    return dataset.select_columns(name).with_format("arrow")[:][name].to_pylist()


def _as_list(labels: str | list[str]) -> list[str]:
    return labels if isinstance(labels, list) else [labels]


def _sorted_labels(names: set[str], task: str) -> list[str]:
    """See `_label_names`."""
    if all(re.fullmatch(r"-?\d+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names, key=lambda name: (task == "token-classification" and name != "O", name))


def _check_known(column: list, names: list[str], where: str, lacking: str) -> None:
    known = set(names)
    rows = [row for row, labels in enumerate(column, 1) if not known.issuperset(_as_list(labels))]
    if not rows:
        return
    unknown = list(dict.fromkeys(n for row in rows for n in _as_list(column[row - 1]) if n not in known))
    count = sum(unknown[0] in _as_list(column[row - 1]) for row in rows)
    others = f", and {len(unknown) - 1} more such labels" if len(unknown) > 1 else ""
    near = " or ".join(map(repr, difflib.get_close_matches(unknown[0], names)))
    raise InputError(
        f"{where}: row {rows[0]}: label {unknown[0]!r} {lacking}"
        f" ({count} {'row' if count == 1 else 'rows'} here{others})" + (f"; did you mean {near}?" if near else "")
    )
