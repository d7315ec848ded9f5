"""What people's tables hold: lists, numbers and names of columns are read by one rule, or the row is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import load_data, read_file
from test_data import CLASSIFY, LANGUAGE, PROPERTY, TAG, TEXTS, TRANSLATE, assert_refused, csv_text, write

from seqblend.data.columns import Columns
from seqblend.data.formats import Reading
from seqblend.predict import parse

SEVERAL, NUMBERS = {"problem_type": "multi_label_classification"}, {"problem_type": "regression"}


def labels(tmp_path, cell, reading=None, **options):
    """What is read of a label's cell."""
    path = write(tmp_path / "a.csv", csv_text([{"text": "t", "label": cell}]))
    return read_file(path, CLASSIFY, reading=Reading(**(reading or {})), **options)["label"][0]


# --- Lists ---


@settings(PROPERTY, max_examples=30)
@given(words=st.lists(TEXTS.filter(lambda text: "\x00" not in text), min_size=1, max_size=4))
def test_lists_as_python_and_numpy_print_them_come_back(tmp_path, words):
    """NumPy has spaces between the items, and breaks lines there."""
    cells = [str(words), f"[{' '.join(map(repr, words))}]", "[" + "\n ".join(map(repr, words)) + " ]"]
    rows = [{"tokens": cell, "tags": json.dumps(["O"] * len(words))} for cell in cells]
    assert read_file(write(tmp_path / "a.csv", csv_text(rows)), TAG)["tokens"][:] == [words] * 3


@pytest.mark.parametrize(
    "cell",
    [
        "[EU, rejects]",
        "['a' 'b', 'c']",
        "['a''b']",
        "('a', 'b')",
        "{'a'}",
        "array(['a'])",
        '"[""a""]"',
        "['a' ... 'b']",
    ],
)
def test_what_only_looks_like_a_list_is_refused_with_what_would_be_read(tmp_path, cell):
    """The brackets and commas became words and tags of their own."""
    rows = [{"tokens": "a b", "tags": "O O"}, {"tokens": cell, "tags": cell}]
    words = ["row 2", "'tokens'", "looks like a list", "JSON", "it would be read as " + repr(cell.split(" ")[0])]
    assert_refused(words, read_file, write(tmp_path / "a.csv", csv_text(rows)), TAG)


@pytest.mark.parametrize(
    ("cell", "separator"), [("(B-ORG, O)", ","), ("(B-ORG, I-ORG, O)", ","), ("(B-ORG O)", None), ("(B;O)", ";")]
)
def test_tags_in_parentheses_are_refused(tmp_path, cell, separator):
    """They became parts of the first and the last tag."""
    path = write(tmp_path / "a.csv", csv_text([{"tokens": "a b", "tags": cell}]))
    words = ["row 1", "'tags'", "looks like a list in parentheses"]
    assert_refused(words, read_file, path, TAG, reading=Reading(label_separator=separator))


def test_tags_that_have_parentheses_are_read(tmp_path):
    path = write(tmp_path / "a.csv", csv_text([{"tokens": "a b", "tags": "(a) (b)"}]))
    assert read_file(path, TAG)["tags"][:] == [["(a)", "(b)"]]


@pytest.mark.parametrize(
    "cell, separator, expected",
    [
        ("['b c' 'd']", None, ["b c", "d"]),
        ("[1 2]", None, ["1", "2"]),
        ("C# b", None, ["C#", "b"]),
        ("b; c|d;", ";|", ["b", "c", "d"]),
        ("b,c d", ",", ["b", "c d"]),
        ("b;c d", " ", ["b;c", "d"]),
        ('["b;c"]', ";", ["b;c"]),
    ],
)
def test_what_separates_labels_is_said(tmp_path, cell, separator, expected):
    assert labels(tmp_path, cell, {"label_separator": separator}, **SEVERAL) == expected


@pytest.mark.parametrize("cell, separator", {"b;c": ";", "b, c": ",", "b|c": "|", "b#c": "#"}.items())
def test_a_label_that_looks_like_several_is_refused(tmp_path, cell, separator):
    """They were one label, or a label with a comma at its end."""
    words = ["row 1", "'label'", f"--label_separator {separator!r}", "--label_separator ' '"]
    assert_refused(words, labels, tmp_path, cell, **SEVERAL)
    tags = write(tmp_path / "a.csv", csv_text([{"tokens": "x y", "tags": cell}]))
    assert_refused(["row 1", "'tags'", *words[2:]], read_file, tags, TAG)
    assert read_file(tags, TAG, reading=Reading(label_separator=separator))["tags"][:] == [["b", "c"]]


@pytest.mark.parametrize("value", [[0, 0, 0, 1], [1, 1], [True, False, False], ["0", "1", "0"]])
def test_a_zero_or_one_for_each_label_is_refused(tmp_path, value):
    """They became the labels "0" and "1" of every row, which a model learns without learning anything."""
    words = ["row 2", "'label'", "looks like a 0 or 1 for each label"]
    rows = [{"text": "t", "label": ["a"]}, {"text": "t", "label": value}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert_refused(words, read_file, path, CLASSIFY, **SEVERAL)
    for cell in (json.dumps(value), " ".join(map(str, value))):
        path = write(tmp_path / "a.csv", csv_text([{"text": "t", "label": "a"}, {"text": "t", "label": cell}]))
        assert_refused(words, read_file, path, CLASSIFY, **SEVERAL)


@pytest.mark.parametrize("batch", [1, 1000])
def test_a_zero_or_one_for_each_of_two_labels_is_refused(batch, tmp_path, monkeypatch):
    """Alone each row could have the labels "0" and "1"; every row had both, and nothing said so."""
    monkeypatch.setattr("seqblend.data.labels.BATCH_ROWS", batch)
    rows = [{"text": "t", "label": [1, 0]}, {"text": "t", "label": [0, 1]}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    words = ["a.jsonl: every row has all labels, '0', '1'", "a 0 or 1 for each label"]
    assert_refused(words, load_data, CLASSIFY, train_file=path, **SEVERAL)
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, [*rows, {"text": "t", "label": ["0"]}])))
    assert load_data(CLASSIFY, train_file=path, **SEVERAL).label_names == ["0", "1"]


def test_labels_that_are_named_zero_and_one_are_read(tmp_path):
    assert [labels(tmp_path, cell, **SEVERAL) for cell in ("0 1", "1", "2 1 2")] == [["0", "1"], ["1"], ["2", "1"]]


def test_tags_of_punctuation_are_tags(tmp_path):
    path = write(tmp_path / "a.csv", csv_text([{"tokens": "a , b ;", "tags": "N , N :"}]))
    assert read_file(path, TAG)["tags"][:] == [["N", ",", "N", ":"]]


def test_references_in_a_cell(tmp_path):
    """In training a target is one text; lines of parallel text are texts whatever their brackets."""
    cells = ["['b', 'c']", '["d"]', "[e]", "[1, 2]"]
    path = write(tmp_path / "a.csv", csv_text([{"source": "a", "target": cell} for cell in cells]))
    read = load_data(TRANSLATE, test_file=path)["test"]["target"][:]
    assert read == [["b", "c"], ["d"], ["[e]"], ["[1, 2]"]]
    assert_refused(["row 1", "'target'", "references"], read_file, path, TRANSLATE)


@pytest.mark.parametrize("cell", ["['b']", "[b, c]", "0,5"])
def test_a_label_that_is_no_name_is_refused(tmp_path, cell):
    assert_refused(["row 1", "'label'", cell, "--problem_type"], labels, tmp_path, cell)
    assert labels(tmp_path, cell, problem_type="single_label_classification") == cell


# --- Numbers ---


@pytest.mark.parametrize(
    "cell, reading, expected",
    [
        ("0,05", {"decimal": ","}, 0.05),
        ("-1,5e-3", {"decimal": ","}, -0.0015),
        ("[0,5 3]", {"decimal": ","}, [0.5, 3]),
        ("0,5;3", {"decimal": ",", "label_separator": ";"}, [0.5, 3]),
        ("[0.5 3.\n 1]", {}, [0.5, 3, 1]),
        ("0.5,3", {"label_separator": ","}, [0.5, 3]),
    ],
)
def test_numbers_in_cells(tmp_path, cell, reading, expected):
    assert labels(tmp_path, cell, reading, **NUMBERS) == expected


@pytest.mark.parametrize(
    "cell, reading, words",
    [
        ("0,05", {}, ["--decimal ,", "--label_separator ,"]),
        ("1,000.5", {}, []),
        ("1.000,5", {"decimal": ","}, []),
        ("1.5", {"decimal": ","}, []),
        ("1_000", {}, []),
    ],
)
def test_a_number_that_could_be_another_is_refused(tmp_path, cell, reading, words):
    """`0,05` was two numbers."""
    assert_refused(["row 1", "'label'", repr(cell), *words], labels, tmp_path, cell, reading, **NUMBERS)


# --- What separates columns ---

TABLE = [{"text": "a; b", "label": "x"}, {"text": "c, d", "label": "y"}]


def table(delimiter, first="", end="\r\n"):
    lines = ["text|label", *(f'"{row["text"]}"|{row["label"]}' for row in TABLE)]
    return first + "".join(line.replace("|", delimiter) + end for line in lines)


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_columns_between_other_delimiters(tmp_path, delimiter):
    path = write(tmp_path / "a.csv", table(delimiter))
    assert_refused([str(path), "header", f"--delimiter {delimiter!r}"], read_file, path, CLASSIFY)
    assert read_file(path, CLASSIFY, reading=Reading(delimiter=delimiter)).to_list() == TABLE
    said = write(tmp_path / "b.csv", table(delimiter, f"\ufeffsep={delimiter}\r\n"))
    assert read_file(said, CLASSIFY).to_list() == TABLE
    assert_refused(["b.csv", "says sep=", "'&'"], read_file, said, CLASSIFY, reading=Reading(delimiter="&"))


def test_a_header_may_have_one_column(tmp_path):
    path = write(tmp_path / "a.csv", "a;b\nx\n")
    assert read_file(path, LANGUAGE, columns=Columns(text="a;b"), reading=Reading(delimiter=","))["text"][:] == ["x"]
    commas = write(tmp_path / "a.tsv", "text,label\nx,y\n")
    assert_refused(["a.tsv", "--delimiter ','"], read_file, commas, CLASSIFY)


def test_flags_of_reading_are_those_of_prediction():
    given = ["--delimiter", r"\t", "--decimal", ",", "--label_separator", ";|", "--token_column_index", "3"]
    expected = Reading(delimiter="\t", decimal=",", label_separator=";|", token_column_index=3)
    assert Reading.from_options(parse(["model", "--input", "a", *given])) == expected


@pytest.mark.parametrize(
    "reading, options, words",
    [
        ({"delimiter": ";;"}, {}, ["delimiter", "one character"]),
        ({"delimiter": '"'}, {}, ["delimiter"]),
        ({"decimal": ";"}, NUMBERS, ["decimal", "';'"]),
        ({"decimal": ","}, {}, ["decimal", "regression"]),
        ({"label_separator": ""}, SEVERAL, ["label_separator", "empty"]),
        ({"label_separator": ";"}, {}, ["label_separator", "multi_label_classification"]),
        ({"decimal": ",", "label_separator": ","}, NUMBERS, ["label_separator", "decimal"]),
    ],
)
def test_what_is_said_of_cells_has_an_effect(tmp_path, reading, options, words):
    path = write(tmp_path / "a.csv", table(","))
    assert_refused(words, load_data, CLASSIFY, train_file=path, reading=Reading(**reading), **options)
    lines = write(tmp_path / "a.jsonl", '{"text": "a", "label": "b"}')
    assert_refused([next(iter(reading))], load_data, CLASSIFY, train_file=lines, reading=Reading(**reading), **options)


# --- Bytes ---


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding, packing):
    content = {"a.csv": table(","), "a.json": json.dumps(TABLE), "a.jsonl": "\n".join(map(json.dumps, TABLE))}
    for name, text in content.items():
        path = write(tmp_path / (name + packing), text.encode(encoding))
        assert read_file(path, CLASSIFY).to_list() == TABLE


@pytest.mark.parametrize("name, text", {"a.txt": "가나\nab\n", "a.csv": "text\nab\n가나\n"}.items())
@pytest.mark.parametrize("encoding", ["cp949", "utf-16-le", "utf-16-be"])
def test_another_encoding_names_the_flag(tmp_path, encoding, name, text):
    path = write(tmp_path / name, text.encode(encoding))
    assert_refused([str(path), "row", "--encoding"], read_file, path, LANGUAGE)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.conll", "a.jsonl"])
def test_lines_that_end_in_cr_alone_are_refused(tmp_path, name):
    """A .txt file of them was one text."""
    path = write(tmp_path / name, "text,label\ra,b\rc,d\r")
    assert_refused([str(path), "row 1", "CR alone"], read_file, path, TAG if name == "a.conll" else LANGUAGE)


# --- Columns inside objects ---

NESTED = [{"translation": {"en": f"one {i}", "fr": {"text": f"un {i}"}}, "a.b": "flat"} for i in range(2)]
INSIDE = Columns(source="translation.en", target="translation.fr.text")


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "by name"])
def test_a_column_inside_an_object(tmp_path, name, monkeypatch):
    path = tmp_path / "a.jsonl"
    if name == "a.jsonl":
        write(path, "\n".join(map(json.dumps, NESTED)))
    else:
        path = tmp_path / "data" / "train.parquet"
        path.parent.mkdir()
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    where = {"dataset_name": str(path.parent)} if name == "by name" else {"train_file": path}
    data = load_data(TRANSLATE, columns=INSIDE, **where)["train"]
    assert data.to_list() == [{"source": f"one {i}", "target": f"un {i}"} for i in range(2)]
    assert load_data(LANGUAGE, columns=Columns(text="a.b"), **where)["train"]["text"][:] == ["flat"] * 2
    words = ["'translation.de'", "'translation.en', ", "'translation.fr.text'"]
    assert_refused(words, load_data, LANGUAGE, columns=Columns(text="translation.de"), **where)


def test_an_object_that_is_missing_is_named_with_its_row(tmp_path):
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, [*NESTED, {"translation": None}])))
    assert_refused(["row 3", "no column 'translation.en'"], read_file, path, TRANSLATE, columns=INSIDE)
