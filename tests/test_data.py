"""What the user's files hold comes back exactly, or an error says which file, row, column or field is wrong."""

import csv
import gzip
import io
import json
import sys
import types
from decimal import Decimal

import datasets
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import load_data, read_file
from tqdm import tqdm

from seqblend.data.columns import Columns
from seqblend.data.formats import Reading
from seqblend.data.sources import sources_of
from seqblend.data.splits import InputError

CLASSIFY, TAG, TRANSLATE, LANGUAGE = "sequence-classification", "token-classification", "seq2seq-lm", "causal-lm"
# One file for all examples of a property: each overwrites it.
PROPERTY = settings(max_examples=20)
TRAPS = [
    "",
    "NA",
    "null",
    "None",
    "nan",
    "N/A",
    "true",
    "0.5",
    "-",
    " ",
    "\u2028",
    "\x85",
    "\x0b",
    "\ufeff",
    "\u200b",
    "e\u0301",
    "ㅋㅋ",
    " two  spaces ",
    "&gt;",
    "😀",
    '"',
    '""',
]
TEXTS = st.one_of(st.sampled_from(TRAPS), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
LINE_TEXTS = TEXTS.map(lambda text: text.replace("\n", "").replace("\r", "").replace("\t", ""))
PACK = {".gz": gzip.compress, ".zst": lambda data: pa.compress(data, "zstd", asbytes=True)}
LABELS = st.sampled_from(["NA", "null", "nan", "가", "b c", "-1"])


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(PACK[path.suffix](data) if path.suffix in PACK else data)
    return path


def write_json_lines(path, rows):
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def csv_text(rows):
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(list(rows[0]))
    writer.writerows([row[name] for name in rows[0]] for row in rows)
    return out.getvalue()


def assert_refused(words, function, *args, **kwargs):
    """The error is ours and its message has every one of the words."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    missing = [word for word in words if word not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


# --- Reading gives back what was written ---


@PROPERTY
@given(
    rows=st.lists(st.fixed_dictionaries({"text": TEXTS, "label": LABELS}), min_size=1, max_size=8),
    escape=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_json_lines_come_back(tmp_path, rows, escape, end):
    path = write(tmp_path / "a.jsonl", "".join(json.dumps(row, ensure_ascii=escape) + end for row in rows))
    assert read_file(path, CLASSIFY).to_list() == rows


@PROPERTY
@given(
    rows=st.lists(st.fixed_dictionaries({"text": TEXTS, "label": LABELS}), min_size=1, max_size=8),
    suffix=st.sampled_from([".csv", ".csv.gz"]),
)
def test_csv_comes_back(tmp_path, rows, suffix):
    path = write(tmp_path / f"a{suffix}", csv_text(rows))
    assert read_file(path, CLASSIFY).to_list() == rows


@PROPERTY
@given(
    rows=st.lists(st.fixed_dictionaries({"text": LINE_TEXTS, "label": LABELS}), min_size=1, max_size=8),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_tsv_comes_back(tmp_path, rows, end):
    lines = ["text\tlabel", *(f"{row['text']}\t{row['label']}" for row in rows)]
    path = write(tmp_path / "a.tsv", end.join(lines) + end)
    assert read_file(path, CLASSIFY).to_list() == rows


@PROPERTY
@given(texts=st.lists(LINE_TEXTS, min_size=1, max_size=8), end=st.sampled_from(["\n", "\r\n"]))
def test_txt_comes_back(tmp_path, texts, end):
    texts[0] = texts[0].lstrip("\ufeff")  # there it is a byte order mark
    path = write(tmp_path / "a.txt", end.join(texts) + end)
    assert read_file(path, LANGUAGE)["text"][:] == texts


@PROPERTY
@given(words=st.lists(st.lists(TEXTS, max_size=5), min_size=1, max_size=5))
def test_lists_in_csv_come_back_as_json(tmp_path, words):
    rows = [{"tokens": tokens, "tags": ["O"] * len(tokens)} for tokens in words]
    path = write(tmp_path / "a.csv", csv_text([{name: json.dumps(row[name]) for name in row} for row in rows]))
    assert read_file(path, TAG).to_list() == rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", '[{"text": "é", "label": 1},\n {"label": 0, "text": ""}]'),
        ("a.json", '{"version": 2, "data": [{"text": "é", "label": "1"}, {"text": "", "label": "0"}]}'),
        ("a.json", '{"text": "é", "label": "1"}\n{"text": "", "label": "0"}\n'),
        ("a.jsonl", '{"text": "é", "label": "1"}\n\n{"text": "", "label": "0"}'),
        ("a.csv", 'text,label\r\n"é",1\r\n\r\n,0'),
        ("a.tsv", "label\ttext\n1\té\n\n0\t"),
    ],
)
@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_every_form_gives_the_same_rows(tmp_path, name, content, packing, mark):
    path = write(tmp_path / (name + packing), mark + content)
    assert read_file(path, CLASSIFY).to_list() == [{"text": "é", "label": "1"}, {"text": "", "label": "0"}]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_parquet_gives_class_names(tmp_path, packing):
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        tags=datasets.List(datasets.ClassLabel(names=["O", "B-x"])),
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["no", "yes"]),
    )
    rows = {"tokens": [["a", "NA"], []], "tags": [[1, 0], []], "text": ["", "null"], "label": [1, 0]}
    plain = tmp_path / "plain.parquet"
    datasets.Dataset.from_dict(rows, features).to_parquet(plain)
    path = write(tmp_path / f"a.parquet{packing}", plain.read_bytes())
    assert read_file(path, TAG).to_dict() == {"tokens": [["a", "NA"], []], "tags": [["B-x", "O"], []]}
    assert read_file(path, CLASSIFY).to_dict() == {"text": ["", "null"], "label": ["yes", "no"]}


def parquet_of(path, columns, features=None):
    """A Parquet file, with what `datasets` writes about its features."""
    table = pa.Table.from_arrays([pa.array(values, kind) for values, kind in columns.values()], [*columns])
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)
    return path


MAP, UNKNOWN = pa.map_(pa.string(), pa.int64()), {"_type": "Hologram"}
READ = {"text": (["a", "b"], pa.string()), "label": ([0, 1], pa.int64())}
NAMES = {"label": {"names": ["no", "yes"], "_type": "ClassLabel"}}
UNREAD = {
    "map": ({"m": ([[("k", 1)], []], MAP)}, {}),
    "unknown feature": ({"x": (["c", "d"], pa.string())}, {"x": UNKNOWN}),
    "duration": ({"d": ([1, 2], pa.duration("s"))}, {}),
    "no text": ({"s": ([b"\xff", b"c"], pa.binary())}, {}),
}


@pytest.mark.parametrize("name", UNREAD)
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_columns_that_are_not_read_may_hold_anything(tmp_path, name, packing):
    """Their types ended the run with a traceback, and their values became objects of Python."""
    columns, features = UNREAD[name]
    plain = parquet_of(tmp_path / "plain.parquet", {**READ, **columns}, {**NAMES, **features})
    path = write(tmp_path / f"a.parquet{packing}", plain.read_bytes())
    assert read_file(path, CLASSIFY).to_dict() == {"text": ["a", "b"], "label": ["no", "yes"]}
    (source,) = sources_of("train", str(path), Reading())
    rows = [*source.rows(tqdm(disable=True), ["text"])]
    assert rows == [{"text": text, "label": None, **dict.fromkeys(columns)} for text in "ab"]
    missing = ["a.parquet", "no column 'words'", *map(repr, [*READ, *columns])]
    assert_refused(missing, read_file, path, CLASSIFY, columns=Columns(text="words"))


def test_decimals_of_parquet_are_numbers(tmp_path):
    columns = {**READ, "label": ([Decimal("1.5"), Decimal("-0.25")], pa.decimal128(5, 2))}
    path = parquet_of(tmp_path / "a.parquet", columns)
    assert read_file(path, CLASSIFY, problem_type="regression")["label"][:] == [1.5, -0.25]
    columns["label"] = ([None, Decimal(1)], pa.decimal128(5, 2))
    parquet_of(path, columns)
    assert_refused(["row 1", "'label'", "null"], read_file, path, CLASSIFY, problem_type="regression")


def test_a_column_name_that_is_there_twice(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], ["x", "x", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet", LANGUAGE)["text"][:] == ["c"]
    given = {"columns": Columns(text="x")}
    assert_refused(["a.parquet", "more than one column 'x'"], read_file, tmp_path / "a.parquet", LANGUAGE, **given)


@pytest.mark.parametrize(
    "column, feature, word",
    [
        ((["a"], pa.string()), UNKNOWN, "Hologram"),
        (([[("k", 1)]], MAP), None, "map"),
        (([b"\xff"], pa.binary()), None, "bytes"),
        (([7], pa.int64()), NAMES["label"], "index"),
    ],
)
def test_a_column_that_cannot_be_read_is_named(tmp_path, column, feature, word):
    features = {"text": feature} if feature else None
    path = parquet_of(tmp_path / "a.parquet", {"text": column}, features)
    assert_refused(["a.parquet", "'text'", word], read_file, path, LANGUAGE)


def test_tsv_keeps_rows_with_bare_quotes(tmp_path):
    """A reader with CSV's quoting joins these three rows into one."""
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"open\t0\nclose"\t1\n"""three\t0\n')
    assert read_file(path, CLASSIFY)["text"][:] == ['"open', 'close"', '"""three']


def test_rows_beyond_one_batch(tmp_path):
    texts = [str(number) for number in range(25_001)]
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    assert read_file(path, LANGUAGE)["text"][:] == texts
    with path.open("a") as file:
        file.write('{"text": 3}\n')
    assert_refused(["row 25002"], read_file, path, LANGUAGE)


def test_long_csv_cell(tmp_path):
    """The csv module refuses cells of 128 KiB by default."""
    path = write(tmp_path / "a.csv", csv_text([{"text": "x" * 300_000}]))
    assert len(read_file(path, LANGUAGE)["text"][0]) == 300_000


def test_words_between_spaces(tmp_path):
    path = write(tmp_path / "a.tsv", "tokens\ttags\n[1] a\u00a0b  [\tX Y  Z\n\t\n")
    assert read_file(path, TAG).to_list() == [
        {"tokens": ["[1]", "a\u00a0b", "["], "tags": ["X", "Y", "Z"]},
        {"tokens": [], "tags": []},
    ]


def test_columns_are_renamed_and_others_dropped(tmp_path):
    path = write_json_lines(
        tmp_path / "a.jsonl", [{"id": [1], "en": "a", "ko": "가", "target": 3}, {"en": "", "ko": ""}]
    )
    read = read_file(path, TRANSLATE, columns=Columns(source="en", target="ko"))
    assert read.to_dict() == {"source": ["a", ""], "target": ["가", ""]}


# --- Labels and targets ---


@pytest.mark.parametrize(
    ("problem_type", "values", "expected"),
    [
        (None, [1, "1", True, "NA"], ["1", "1", "true", "NA"]),
        ("single_label_classification", ["0.5", "a", 2, False], ["0.5", "a", "2", "false"]),
        ("multi_label_classification", [["b", 3, "b"], []], [["b", "3"], []]),
        ("regression", [1, 0.5, [2]], [1.0, 0.5, 2.0]),
        ("regression", [[1, 0.5], [2, -3e5]], [[1.0, 0.5], [2.0, -3e5]]),
    ],
)
def test_labels_by_problem_type(tmp_path, problem_type, values, expected):
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "t", "label": value} for value in values])
    assert read_file(path, CLASSIFY, problem_type=problem_type)["label"][:] == expected


@pytest.mark.parametrize(
    ("problem_type", "cells", "expected"),
    [
        (None, ["1", "NA", "e5", "inf", "nan", "1.2.3"], ["1", "NA", "e5", "inf", "nan", "1.2.3"]),
        ("single_label_classification", ["0.5", "2"], ["0.5", "2"]),
        ("multi_label_classification", ["b 3 b", "", '["b c"]', "[1, 2]"], [["b", "3"], [], ["b c"], ["1", "2"]]),
        ("regression", ["1", " -0.5 ", "1e-3"], [1.0, -0.5, 0.001]),
        ("regression", ["1 2", "[0.5, 3]"], [[1.0, 2.0], [0.5, 3.0]]),
    ],
)
def test_labels_in_cells(tmp_path, problem_type, cells, expected):
    path = write(tmp_path / "a.csv", csv_text([{"text": "t", "label": cell} for cell in cells]))
    assert read_file(path, CLASSIFY, problem_type=problem_type)["label"][:] == expected


def test_references(tmp_path):
    one = write_json_lines(tmp_path / "one.jsonl", [{"source": "a", "target": "b"}, {"source": "a", "target": ["c"]}])
    many = write_json_lines(
        tmp_path / "many.jsonl", [{"source": "a", "target": "b"}, {"source": "a", "target": ["c", ""]}]
    )
    data = load_data(TRANSLATE, validation_file=one, test_file=many)
    assert data["validation"]["target"][:] == ["b", "c"]
    assert data["test"]["target"][:] == [["b"], ["c", ""]]
    assert data.label_names == []
    assert_refused(["many.jsonl", "row 2", "'target'", "references"], read_file, many, TRANSLATE)


def test_text_pair_is_read_where_there_is_one(tmp_path):
    rows = [{"text": "a", "text_pair": "b", "label": "x"}, {"text": "c", "text_pair": "", "label": "y"}]
    pairs = write_json_lines(tmp_path / "pairs.jsonl", rows)
    single = write_json_lines(tmp_path / "single.jsonl", [{"text": "a", "label": "x"}])
    late = write_json_lines(tmp_path / "late.jsonl", [{"text": "a", "label": "x"}, *rows])
    assert read_file(pairs, CLASSIFY).to_list() == rows
    assert read_file(single, CLASSIFY).column_names == ["text", "label"]
    assert_refused(["late.jsonl", "row 2", "'text_pair'"], read_file, late, CLASSIFY)
    for name in ("second", "text_pair"):
        assert_refused(["single.jsonl", repr(name)], read_file, single, CLASSIFY, columns=Columns(text_pair=name))
    assert_refused(
        ["single.jsonl", "'text_pair'", "pairs.jsonl"], load_data, CLASSIFY, train_file=pairs, test_file=single
    )


@pytest.mark.parametrize(
    ("task", "problem_type", "labels", "expected"),
    [
        (CLASSIFY, None, ["10", "9", "-1"], ["-1", "9", "10"]),
        (CLASSIFY, None, ["b", "10", "B"], ["10", "B", "b"]),
        (CLASSIFY, "multi_label_classification", [["b"], [], ["a", "O"]], ["O", "a", "b"]),
        (CLASSIFY, "regression", [1, 2], ["LABEL_0"]),
        (CLASSIFY, "regression", [[1, 2, 3]], ["LABEL_0", "LABEL_1", "LABEL_2"]),
        (TAG, None, [["I-a", "B-a"], ["O"], []], ["O", "B-a", "I-a"]),
    ],
)
def test_label_order(tmp_path, task, problem_type, labels, expected):
    rows = [{"text": "t", "label": label, "tokens": label, "tags": label} for label in labels]
    data = load_data(task, train_file=write_json_lines(tmp_path / "a.jsonl", rows), problem_type=problem_type)
    assert data.label_names == expected


def test_labels_without_training_split(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "t", "label": label} for label in "abca"])
    assert load_data(CLASSIFY, test_file=path, known=["c", "b", "a"]).label_names == ["c", "b", "a"]
    words = ["a.jsonl", "row 3", "'c'", "1 row", "the model"]
    assert_refused(words, load_data, CLASSIFY, test_file=path, known=["a", "b"], max_eval_samples=1)


def test_labels_that_are_known_keep_their_order(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "t", "label": label} for label in "abca"])
    for known, expected in {"cba": "cba", "ab": "abc"}.items():
        assert load_data(CLASSIFY, train_file=path, known=list(known)).label_names == list(expected)


def test_a_training_split_may_be_left_out(tmp_path):
    train, test = (write_json_lines(tmp_path / name, [{"text": "t"}]) for name in ("a.jsonl", "b.jsonl"))
    wanted = ["validation", "test"]
    assert list(load_data(LANGUAGE, train_file=train, test_file=test, splits=wanted)) == ["test"]
    words = ["nothing to do", "do_eval needs a validation split", "do_predict needs a test split"]
    assert_refused(words, load_data, LANGUAGE, train_file=train, splits=wanted)


# --- Samples and sources ---


def test_samples_are_random_but_keep_order_and_labels(tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": f"{n:03}", "label": str(n)} for n in range(200)])

    def load(seed):
        return load_data(
            CLASSIFY, train_file=path, test_file=path, max_train_samples=20, max_eval_samples=5, seed=seed
        )

    data = load(0)
    texts = data["train"]["text"][:]
    assert (len(data["train"]), len(data["test"])) == (20, 5)
    assert texts == sorted(set(texts)) and texts != [f"{n:03}" for n in range(20)]
    assert texts == load(0)["train"]["text"][:] != load(1)["train"]["text"][:]
    assert len(data.label_names) == 200


def test_dates_are_the_built_in_data(monkeypatch):
    columns = {"text": ["a", "b"], "label": ["x", "y"], "tokens": [["a"], ["b"]], "tags": [["O"], ["O"]]}
    seeds = []

    def load_dates(seed=0):
        seeds.append(seed)
        return datasets.DatasetDict(train=datasets.Dataset.from_dict(columns))

    fake = types.SimpleNamespace(load_dates=load_dates)
    monkeypatch.setitem(sys.modules, "seqblend.data.dates", fake)
    data = load_data(CLASSIFY, dataset_name="dates", seed=7)
    assert data["train"].to_dict() == {"text": ["a", "b"], "label": ["x", "y"]}
    assert seeds == [7]
    assert_refused(["dataset_config_name", "'full'"], load_data, TAG, dataset_name="dates", dataset_config_name="full")


def test_a_data_set_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "data"
    path.mkdir()
    features = datasets.Features(sentence=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    rows = {"sentence": ["NA", "", "b"], "label": [1, 0, 1]}
    datasets.Dataset.from_dict(rows, features).to_parquet(path / "train.parquet")
    data = load_data(CLASSIFY, dataset_name=str(path), columns=Columns(text="sentence"))
    assert data["train"].to_dict() == {"text": ["NA", "", "b"], "label": ["pos", "neg", "pos"]}
    assert data.label_names == ["neg", "pos"]
    assert_refused(["split train", "'text'", "'sentence'"], load_data, CLASSIFY, dataset_name=str(path))
    unlabelled = datasets.Dataset.from_dict({"sentence": ["a"], "label": [-1]}, features)
    unlabelled.to_parquet(path / "test.parquet")
    columns = Columns(text="sentence")
    words = ["split test", "row 1", "'label'", "null"]
    assert_refused(words, load_data, CLASSIFY, dataset_name=str(path), columns=columns)


def test_a_data_set_in_the_home_directory(tmp_path, monkeypatch):
    """A shell does not expand `~` in a file of options; the files of a split were found, but no data set."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my data").mkdir()
    write_json_lines(tmp_path / "my data/train.jsonl", [{"text": "a"}])
    assert load_data(LANGUAGE, dataset_name="~/my data")["train"].to_dict() == {"text": ["a"]}


def test_a_file_whose_name_begins_with_a_tilde(tmp_path, monkeypatch):
    """As copies of some editors. pathlib took it for the home directory of a user, whom it did not find."""
    monkeypatch.chdir(tmp_path)
    write_json_lines(tmp_path / "~a.jsonl", [{"text": "a"}])
    assert read_file("~a.jsonl", LANGUAGE)["text"][:] == ["a"]
    assert_refused(["~b.jsonl: no such file; did you mean ~a.jsonl?"], read_file, "~b.jsonl", LANGUAGE)


def test_a_data_set_that_is_broken_says_why(tmp_path, monkeypatch):
    """The error was only that an error had occurred."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "train.jsonl", '{"text": "a"}\n{"text": b}\n')
    words = [f"dataset_name: {str(tmp_path)!r} cannot be loaded", "JSON parse error"]
    assert_refused(words, load_data, LANGUAGE, dataset_name=str(tmp_path))


# --- What is refused ---

TRAIN = '{"text": "t", "label": "a"}\n{"text": "t", "label": "b"}\n'
BROKEN_FILES = [
    ("a.jsonl", "", LANGUAGE, ["a.jsonl", "empty"]),
    ("a.jsonl", "\n \n", LANGUAGE, ["a.jsonl", "no rows"]),
    ("a.csv", "text\n", LANGUAGE, ["a.csv", "no rows"]),
    ("a.json", "[]", LANGUAGE, ["a.json", "no rows"]),
    ("a.xlsx", "x", LANGUAGE, ["a.xlsx", "'.xlsx'", ".json, .jsonl", ".parquet"]),
    ("a.gz", "x", LANGUAGE, ["a.gz", "extension", ".csv"]),
    ("a", "x", LANGUAGE, ["extension", ".txt"]),
    ("a.jsonl", '{"text": ""}\n\n{"text": "}\n', LANGUAGE, ["a.jsonl", "row 2 (line 3)", "JSON"]),
    ("a.jsonl", '{"text": ""}\n["x"]\n', LANGUAGE, ["row 2", "not an object", "a list"]),
    ("a.jsonl", b'{"text": ""}\n{"text": "\xff"}\n', LANGUAGE, ["row 2", "UTF-8", "byte 11"]),
    ("a.jsonl", '{"text": "\\ud83d"}\n', LANGUAGE, ["row 1", "'text'", "surrogate"]),
    ("a.jsonl", "[" * 100_000, LANGUAGE, ["row 1", "JSON"]),
    ("a.json", '[{"text": ""},\n{"text": "x"}, {"text"}]', LANGUAGE, ["row 3 (line 2)", "JSON"]),
    ("a.json", '{"data": [{"text": ""}, {"text": 1x}]}', LANGUAGE, ["row 2", "JSON"]),
    ("a.json", '{"text": ""}\n{"text": }\n', LANGUAGE, ["row 2", "JSON"]),
    ("a.json", '{"tokens": ["a" "b"]}\n', TAG, ["line 1", "JSON"]),
    ("a.jsonl", '{"text": ""}\n{"text": "a", "text": "b"}\n', LANGUAGE, ["row 2", "JSON", "'text' is given twice"]),
    ("a.json", '[{"text": ""}, {"text": "a", "text": "b"}]', LANGUAGE, ["row 2", "JSON", "'text' is given twice"]),
    ("a.json", '[{"text": ""}, 3]', LANGUAGE, ["row 2", "the number 3"]),
    ("a.json", '"text"', LANGUAGE, ["a.json", "list of objects", "the text 'text'"]),
    ("a.csv", "text,b\nx,y\n\nx\n", LANGUAGE, ["row 2 (line 4)", "1 columns", "has 2"]),
    ("a.csv", 'text,b\n"x\n\n",y\nx,y,z\n', LANGUAGE, ["row 2 (line 5)", "3 columns"]),
    ("a.csv", 'text\nx\n"never\nclosed\n', LANGUAGE, ["row 2 (line 3)", "quote"]),
    ("a.csv", 'text\n"x"y\n', LANGUAGE, ["row 1 (line 2)", "CSV"]),
    ("a.csv", b"text\nx\n\xe9\n", LANGUAGE, ["row 2 (line 3)", "UTF-8"]),
    ("a.csv", "text,text\nx,y\n", LANGUAGE, ["'text'", "more than once"]),
    ("a.tsv", "text\tb\nx\ty\nx y\n", LANGUAGE, ["row 2 (line 3)", "1 columns"]),
    ("a.tsv", b"text\nx\n\xe9\n", LANGUAGE, ["row 2 (line 3)", "UTF-8"]),
    ("a.txt", b"x\n\xe9\n", LANGUAGE, ["row 2", "UTF-8"]),
    ("a.parquet", "text", LANGUAGE, ["a.parquet", "Parquet"]),
    ("a.csv", "sentence,labels\nx,y\n", CLASSIFY, ["a.csv", "'text'", "--text_column", "'sentence'", "'labels'"]),
    ("a.csv", "text,id,labels\nx,1,y\n", CLASSIFY, ["'label'", "columns present: 'labels', "]),
    ("a.jsonl", '{"text": "a"}\n{"txt": "a"}\n', LANGUAGE, ["row 2", "no column 'text'"]),
    ("a.jsonl", '{"text": "a"}\n{"text": null}\n', LANGUAGE, ["row 2", "'text'", "null"]),
    ("a.jsonl", '{"text": 12}\n', LANGUAGE, ["row 1", "'text'", "the number 12"]),
    ("a.jsonl", '{"tokens": "a b", "tags": []}\n', TAG, ["row 1", "'tokens'", "list", "'a b'"]),
    ("a.jsonl", '{"tokens": ["a", null], "tags": ["O", "O"]}\n', TAG, ["row 1", "'tokens'", "item 2", "null"]),
    ("a.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"], "tags": []}\n', TAG, ["row 2", "1 token", "0 "]),
    ("a.jsonl", '{"tokens": ["a"], "tags": [""]}\n', TAG, ["row 1", "'tags'", "label"]),
    ("a.csv", 'tokens,tags\n"[""a"", b]",O O\n', TAG, ["row 1", "'tokens'", "JSON"]),
    ("a.jsonl", '{"source": "a", "target": null}\n', TRANSLATE, ["row 1", "'target'", "null"]),
    ("a.jsonl", TRAIN + '{"text": "t", "label": 0.5}\n', CLASSIFY, ["row 3", "'label'", "0.5", "regression"]),
    ("a.csv", "text,label\nt,1\nt,0.5\n", CLASSIFY, ["row 2", "'label'", "0.5", "--problem_type regression"]),
    *(
        ("a.csv", f"text,label\nt,{cell}\n", CLASSIFY, ["row 1", "'label'", cell, "--problem_type regression"])
        for cell in (".5", "2.", "1e-3", "2e5", "-1.5E+3")
    ),
    ("a.jsonl", '{"text": "t", "label": ["a"]}\n', CLASSIFY, ["row 1", "a list", "multi_label_classification"]),
    ("a.jsonl", '{"text": "t", "label": ""}\n', CLASSIFY, ["row 1", "'label'"]),
    ("a.jsonl", '{"text": "t", "label": null}\n', CLASSIFY, ["row 1", "'label'", "null"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "task", "words"), BROKEN_FILES)
def test_broken_file(tmp_path, name, content, task, words):
    assert_refused([str(tmp_path), *words], load_data, task, train_file=write_plain(tmp_path / name, content))


def write_plain(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("problem_type", "label", "words"),
    [
        ("regression", '"high"', ["row 2", "'high'", "number"]),
        ("regression", "NaN", ["row 2", "finite", "nan"]),
        ("regression", "1e400", ["row 2", "finite", "inf"]),
        ("regression", "1" + "0" * 400, ["row 2", "'label'"]),
        ("regression", "true", ["row 2", "true"]),
        ("regression", "[]", ["row 2", "empty list"]),
        ("regression", "[1, 2]", ["row 2", "2 numbers", "has 1"]),
        ("multi_label_classification", '"a"', ["row 1", "list of labels", "--problem_type"]),
        ("single_label_classification", "0.5", ["row 2", "0.5"]),
    ],
)
def test_label_does_not_fit_the_problem_type(tmp_path, problem_type, label, words):
    path = write(tmp_path / "a.jsonl", f'{{"text": "t", "label": 1}}\n{{"text": "t", "label": {label}}}\n')
    assert_refused(["a.jsonl", *words], read_file, path, CLASSIFY, problem_type=problem_type)


@pytest.mark.parametrize("cell", ["", "high", "nan", "1 x"])
def test_cell_is_no_number(tmp_path, cell):
    path = write(tmp_path / "a.csv", f"text,label\nt,1\nt,{cell}\n")
    assert_refused(["a.csv", "row 2", "'label'", repr(cell)], read_file, path, CLASSIFY, problem_type="regression")


def test_regression_has_as_many_numbers_everywhere(tmp_path):
    one = write(tmp_path / "one.jsonl", '{"text": "t", "label": 1}')
    two = write(tmp_path / "two.jsonl", '{"text": "t", "label": [1, 2]}')
    words = ["two.jsonl", "2 numbers", "training hold 1"]
    assert_refused(words, load_data, CLASSIFY, train_file=one, test_file=two, problem_type="regression")


def test_label_that_training_never_had(tmp_path):
    train = write(tmp_path / "train.jsonl", TRAIN)
    rows = [{"text": "t", "label": label} for label in ["a", "oos", "aa", "b", "oos"]]
    other = write_json_lines(tmp_path / "other.jsonl", rows)
    words = ["other.jsonl", "row 2", "'oos'", "2 rows", "1 more"]
    assert_refused(words, load_data, CLASSIFY, train_file=train, validation_file=other, max_eval_samples=1)
    tags = write_json_lines(tmp_path / "tags.jsonl", [{"tokens": ["a", "b"], "tags": ["O", "B-per"]}])
    unseen = write_json_lines(tmp_path / "unseen.jsonl", [{"tokens": ["a", "b"], "tags": ["O", "B-pers"]}])
    words = ["unseen.jsonl", "row 1", "'B-pers'", "1 row ", "did you mean 'B-per'"]
    assert_refused(words, load_data, TAG, train_file=tags, test_file=unseen)


@pytest.mark.parametrize(
    ("task", "problem_type", "row", "words"),
    [
        (CLASSIFY, None, {"text": "t", "label": "a"}, ["a.jsonl", "every row", "'a'"]),
        (CLASSIFY, "multi_label_classification", {"text": "t", "label": []}, ["a.jsonl", "no row has a label"]),
        (TAG, None, {"tokens": [], "tags": []}, ["a.jsonl", "no row has a label"]),
    ],
)
def test_nothing_to_learn(tmp_path, task, problem_type, row, words):
    path = write_json_lines(tmp_path / "a.jsonl", [row, row])
    assert_refused(words, load_data, task, train_file=path, problem_type=problem_type)


def test_missing_file_is_found_before_the_others_are_read(tmp_path):
    broken = write(tmp_path / "train.jsonl", "{")
    missing = tmp_path / "trian.jsonl"
    assert_refused(
        [str(missing), "no such file", "train.jsonl"], load_data, LANGUAGE, train_file=broken, test_file=missing
    )
    (tmp_path / "folder.csv").mkdir()
    assert_refused(["folder.csv", "directory"], load_data, LANGUAGE, train_file=tmp_path / "folder.csv")


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize(
    "suffix, content", {".jsonl": b'{"text": "a"}\n', ".csv": b"text\n", ".json": b"{}\n", ".parquet": b"PAR1"}.items()
)
def test_broken_packing(tmp_path, packing, suffix, content):
    packed = PACK[packing](content * 1000)
    for content in (b"plain", packed[:-8], packed + b"junk"):
        path = write_plain(tmp_path / f"a{suffix}{packing}", content)
        assert_refused([str(path), {".gz": "gzip", ".zst": "zstd"}[packing]], load_data, LANGUAGE, train_file=path)


def test_zstd_that_arrow_was_built_without_is_refused_by_name(tmp_path, monkeypatch):
    def lacks(stream, codec):
        raise pa.lib.ArrowNotImplementedError(f"Support for codec '{codec}' not built")

    path = write_plain(tmp_path / "a.txt.zst", PACK[".zst"](b"a\n"))
    monkeypatch.setattr("seqblend.data.files.pa.CompressedInputStream", lacks)
    assert_refused([f"{path}: cannot be read", "'zstd' not built"], load_data, LANGUAGE, train_file=path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"problem_type": "regresion"}, ["problem_type", "'regresion'", "valid are regression, "]),
        ({"task": TAG, "problem_type": "regression"}, ["problem_type", TAG]),
        ({"train_file": None}, ["dataset_name", "train_file", "test_file"]),
        ({"dataset_name": "dates"}, ["dataset_name", "train_file", "not both"]),
        ({"dataset_config_name": "x"}, ["dataset_config_name", "'x'"]),
        ({"max_train_samples": 0}, ["max_train_samples", "0"]),
        ({"max_eval_samples": -3}, ["max_eval_samples", "-3"]),
        ({"train_file": None, "dataset_name": "/no/such/set"}, ["dataset_name", "/no/such/set"]),
    ],
)
def test_wrong_argument(tmp_path, arguments, words):
    arguments = {"task": CLASSIFY, "train_file": write(tmp_path / "a.jsonl", TRAIN), **arguments}
    assert_refused(words, load_data, **arguments)
