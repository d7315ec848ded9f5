"""Rows that nobody writes by hand: too deep, too long, too large; each is refused in one line that names its place."""

import gzip
import io
import json

import pyarrow as pa
import pytest
from rows import load_data, read_file
from test_data import CLASSIFY, LANGUAGE, TAG, TRANSLATE, assert_refused, write_plain

from seqblend.data import files, kinds
from seqblend.data.columns import column_names
from seqblend.data.errors import InputError
from seqblend.data.files import Lines, read_all
from seqblend.data.formats import Reading
from seqblend.training.class_weights import parse_weights

DEEP, DIGITS = "[" * 10**5, "9" * 5000
PACKINGS = {"": bytes, ".gz": gzip.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}


# --- Too deep ---


@pytest.mark.parametrize(
    "name, content, row",
    [
        ("a.json", DEEP, 1),
        ("a.json", '[{"text": "a"}, {"text": ' + DEEP + "]" * 10**5 + "}]", 2),
        ("a.json", '{"data": ' + DEEP, 1),
        ("a.jsonl", '{"text": "a"}\n{"text": ' + DEEP + "}", 2),
    ],
)
def test_brackets_in_each_other(name, content, row, tmp_path):
    """The search for the broken object of a .json file ended in a RecursionError of its own."""
    path = write_plain(tmp_path / name, content)
    assert_refused([name, f"row {row}", "nested too deeply"], read_file, path, LANGUAGE)


@pytest.mark.parametrize("suffix, separator", [(".csv", ","), (".tsv", "\t")])
@pytest.mark.parametrize("problem_type", [None, "multi_label_classification", "regression"])
def test_brackets_in_each_other_in_a_cell(suffix, separator, problem_type, tmp_path):
    path = write_plain(tmp_path / f"a{suffix}", f"text{separator}label\na{separator}{DEEP}{']' * 10**5}\n")
    assert_refused(["row 1", "'label'"], read_file, path, CLASSIFY, problem_type=problem_type)


def test_columns_of_objects_in_objects_are_named_in_a_line_that_can_be_read(tmp_path):
    row = {"x": 1}
    for _ in range(10**4):
        row = {"a": row}
    assert column_names(row) == ["a.a.a.a.a.a"]


# --- Too long ---


@pytest.fixture
def short(monkeypatch):
    """A row may have 1 KiB."""
    for module in (files, kinds):
        monkeypatch.setattr(module, "MAX_ROW_SIZE", 1024)
    return "ab" * 400, "ab" * 600


def contents(text):
    """A file of one row that holds the text, by its name, and the task that reads it."""
    return {
        "a.txt": (text, LANGUAGE),
        "a.jsonl": (json.dumps({"text": text}), LANGUAGE),
        "a.json": (json.dumps([{"text": text}]), LANGUAGE),
        "a.csv": (f'text\n"{text}"\n', LANGUAGE),
        "lines.csv": ('text\n"{}"\n'.format(text.replace("abababab", "ababab\n")), LANGUAGE),
        "a.tsv": (f"text\n{text}\n", LANGUAGE),
        "a.conll": (text.replace("abababab", "ababab O\n"), TAG),
        "utf16.txt": (text[: len(text) // 2].encode("utf-16"), LANGUAGE),
    }


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("name", contents(""))
def test_a_row_has_an_end(name, packing, short, tmp_path):
    """Of 1 MB that were packed, 1 GiB was read and tokenized, or the memory ended."""
    paths = []
    for text in short:
        content, task = contents(text)[name]
        data = content if isinstance(content, bytes) else content.encode()
        paths.append(write_plain(tmp_path / f"{len(text)}{name}{packing}", PACKINGS[packing](data)))
    fits, long = paths
    assert len(read_file(fits, task)) == 1
    assert_refused([f"{long}: row 1", "most that is read of one row"], read_file, long, task)


def test_no_more_of_a_row_is_read_than_it_may_have(short):
    stream = io.BufferedReader(io.BytesIO(b"a" * 10**6), 16)
    with pytest.raises(InputError, match="standard input: row 1: is longer than 0 MiB"):
        list(Lines("standard input", stream, "utf-8"))
    assert stream.tell() < 2000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_many_rows_may_be_long_together(encoding, short):
    data = ("abc\n" * 5000).encode(encoding)
    lines = Lines("a", io.BufferedReader(io.BytesIO(data)), encoding)
    count = 0
    for _ in lines:
        lines.row += 1
        count += 1
    assert count == 5000


def test_a_packed_file_that_is_read_whole_has_an_end(monkeypatch):
    monkeypatch.setattr(files, "MAX_FILE_SIZE", 10**6)
    assert len(read_all("a.json.gz", io.BytesIO(b"a" * 10**6))) == 10**6
    assert len(read_all("a.json", io.BytesIO(b"a" * 10**7))) == 10**7
    with pytest.raises(InputError, match=r"a\.json\.gz: has more than 1 MiB when decompressed"):
        read_all("a.json.gz", io.BytesIO(b"a" * 10**7))


# --- Too large, and no numbers at all ---


@pytest.mark.parametrize("content", [f'{{"text": "t", "label": {DIGITS}}}', f'{{"text": "t", "label": [{DIGITS}]}}'])
@pytest.mark.parametrize("name", ["a.jsonl", "list.json"])
def test_a_number_of_too_many_digits_is_named(name, content, tmp_path):
    path = write_plain(tmp_path / name, f"[{content}]" if name == "list.json" else content)
    assert_refused([name, "row 1", "more than 4,300 digits; in quotes"], read_file, path, CLASSIFY)


def test_a_number_of_too_many_digits_in_a_list_of_a_cell_is_named(tmp_path):
    path = write_plain(tmp_path / "a.csv", f"text,label\nt,[{DIGITS}]\n")
    words = ["row 1", "'label'", "more than 4,300 digits"]
    assert_refused(words, read_file, path, CLASSIFY, problem_type="multi_label_classification")


def test_names_of_many_digits_are_in_the_order_of_numbers(tmp_path):
    """int reads no more than 4,300 of them."""
    names = [DIGITS, "10", "-" + DIGITS, "9", "-1", "010"]
    path = write_plain(tmp_path / "a.csv", "text,label\n" + "".join(f"t,{name}\n" for name in names))
    expected = ["-" + DIGITS, "-1", "9", "010", "10", DIGITS]
    assert load_data(CLASSIFY, train_file=path).label_names == expected


@pytest.mark.parametrize("name", ["1_0", "１０", "٣", " 9", "nan", "infinity", "0x10", "+1"])
def test_what_only_python_takes_for_a_number_is_a_name(name, tmp_path):
    path = write_plain(tmp_path / "a.csv", f"text,label\nt,{name}\nt,9\nt,10\n")
    assert load_data(CLASSIFY, train_file=path).label_names == sorted([name, "9", "10"])
    if name not in (" 9", "+1"):
        assert_refused(["row 1", repr(name)], read_file, path, CLASSIFY, problem_type="regression")


@pytest.mark.parametrize("number", ["1e39", "-2e19", "1" + "0" * 300])
@pytest.mark.parametrize(
    "name, content", [("a.jsonl", '{"text": "t", "label": NUMBER}'), ("a.csv", "text,label\nt,NUMBER")]
)
def test_a_number_whose_square_is_no_float32_is_refused(name, content, number, tmp_path):
    """The run ended at its first step."""
    path = write_plain(tmp_path / name, content.replace("NUMBER", number))
    words = [f"{name}: row 1", "'label'", "finite number, at most 1.8e+19"]
    assert_refused(words, read_file, path, CLASSIFY, problem_type="regression")


def test_a_data_set_by_name_is_read_by_the_same_rules(tmp_path):
    write_plain(tmp_path / "train.jsonl", '{"text": "t", "label": 1}\n{"text": "t", "label": 1e39}\n')
    words = ["split train: row 2", "'label'", "finite number"]
    assert_refused(words, load_data, CLASSIFY, dataset_name=str(tmp_path), problem_type="regression")


@pytest.mark.parametrize("value", ["1_0", "１０", "nan", "infinity", "1e999", 10**400])
def test_what_only_python_takes_for_a_number_is_no_weight(value):
    with pytest.raises(InputError, match="must be a number above 0"):
        parse_weights([value, 1], ["a", "b"])
    assert parse_weights(" 1.5,2e1", ["a", "b"]) == {"a": 1.5, "b": 20}


def test_a_target_of_brackets_is_a_text(tmp_path):
    path = write_plain(tmp_path / "a.tsv", f"source\ttarget\na\t{DEEP}\n")
    assert read_file(path, TRANSLATE, split="test", reading=Reading())["target"][:] == [DEEP]
