"""CoNLL, parallel text, several files, encodings: what was written comes back, and what is malformed is named."""

import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rows import load_data, read_file
from test_data import (
    CLASSIFY,
    LABELS,
    LANGUAGE,
    LINE_TEXTS,
    PROPERTY,
    TAG,
    TEXTS,
    TRANSLATE,
    assert_refused,
    csv_text,
    write,
    write_json_lines,
)

from seqblend.data.formats import FILE_TYPES, Reading, read_rows
from seqblend.data.sources import Pairs
from seqblend.data.splits import InputError
from seqblend.training.command_line import parse_arguments

FEW = settings(PROPERTY, max_examples=12)
# What may crash a reader is rarer than what it reads wrongly.
MORE = settings(PROPERTY, max_examples=25)
# Between tabs a word may be anything, between spaces it has none.
WORDS = {"\t": LINE_TEXTS, " ": LINE_TEXTS.map(lambda text: text.replace(" ", "_") or "_")}
WORDS["  \t "] = WORDS[" "]  # but in the first line of a sentence: what has a tab there has tabs alone
TAGS = st.sampled_from(["O", "B-per", "가", "#", "-1"])


def sentences(words):
    """Sentences of words and tags: what `read_file` gives of them."""
    sentence = st.lists(st.tuples(words, TAGS), min_size=1, max_size=4)
    rows = sentence.map(lambda pairs: {"tokens": [word for word, _ in pairs], "tags": [tag for _, tag in pairs]})
    return st.lists(rows, min_size=1, max_size=4)


def is_plain(rows):
    """No word is what would be a byte order mark, or a line between documents."""
    words = [word for row in rows for word in row["tokens"]]
    return not words[0].startswith("\ufeff") and not any(word.startswith("-DOCSTART-") for word in words)


def one_word_a_line(rows, line, end, between=""):
    """Each word as `line` writes it with its number; `between` sentences a line, and then an empty one."""
    blocks = []
    for row in rows:
        words = enumerate(zip(row["tokens"], row["tags"], strict=True), 1)
        blocks.append("".join(line(number, word, tag) + end for number, (word, tag) in words))
    return (between + end + end).join(blocks)


# --- One word a line ---


@pytest.mark.parametrize("separator", WORDS)
@FEW
@given(
    data=st.data(),
    name=st.sampled_from(["a.conll", "a.conll.gz", "a.tsv", "a.txt.zst"]),
    end=st.sampled_from(["\n", "\r\n"]),
    between=st.sampled_from(["", "\t", " ", "\n", "\n-DOCSTART- -X- O", "-DOCSTART-"]),
    places=st.sampled_from([(0, -1), (0, 1), (1, 2), (-1, 0), (2, -3)]),
)
def test_conll_comes_back(tmp_path, separator, data, name, end, between, places):
    """In two or three columns, the third of which is not read."""
    rows = data.draw(sentences(WORDS[separator]).filter(is_plain))

    def line(number, word, tag):
        cells = ["X"] * (3 if 2 in places else 2)
        cells[places[0]], cells[places[1]] = word, tag
        return (" " if number == 1 and separator != "\t" else separator).join(cells)

    assume(separator != "\t" or end != "\r\n" or not any("\r" in word for row in rows for word in row["tokens"]))
    path = write(tmp_path / name, one_word_a_line(rows, line, end, between))
    indexes = (None, None) if places == (0, -1) and ".conll" in name else places
    assert read_file(path, TAG, reading=Reading("utf-8", *indexes)).to_list() == rows


def universal(number, word, tag, other="_"):
    return "\t".join([str(number), word, "lemma", tag, other, "_", "0", "root", "_", "_"])


@FEW
@given(rows=sentences(LINE_TEXTS), end=st.sampled_from(["\n", "\r\n"]), parts=st.booleans())
def test_conll_u_comes_back(tmp_path, rows, end, parts):
    """Without comments, multiword tokens and empty nodes; the tags are in the column that was named."""

    def line(number, word, tag):
        lines = [f"# text = {word}"] if number == 1 else []
        lines += [universal(f"{number}-{number + 1}", "don't", "_"), universal(f"{number}.1", "went", "X")] * parts
        return end.join([*lines, universal(number, word, tag, f"x{tag}")])

    path = write(tmp_path / "a.conllu", "\ufeff" + one_word_a_line(rows, line, end))
    assert read_file(path, TAG).to_list() == rows
    others = [{**row, "tags": [f"x{tag}" for tag in row["tags"]]} for row in rows]
    assert read_file(path, TAG, reading=Reading(tag_column_index=4)).to_list() == others


@pytest.mark.parametrize(
    "name, content, reading, words",
    [
        ("a.conll", "a\tO\n\nb O\n", {}, ["row 2 (line 3)", "1 columns between tabs", "0 and -1"]),
        ("a.conll", "a O\nb\n", {}, ["row 1 (line 2)", "1 columns between white space"]),
        ("a.conll", "a\n", {}, ["row 1", "1 columns"]),
        ("a.conll", "a X O\n\n\nb O\n", {}, ["row 2 (line 4)", "2 columns", "the first line has 3"]),
        ("a.conll", "a\tO\n\t\nb\t\n", {}, ["row 2 (line 3)", "the tag of 'b' is ''"]),
        ("a.conll", "a\tO \n", {}, ["row 1", "the tag of 'a' is 'O '"]),
        ("a.conll", "a O\n", {"tag_column_index": 0}, ["row 1", "columns 0 and 0 of 2 columns are the same"]),
        ("a.conll", "a O\n", {"token_column_index": 1}, ["row 1", "columns 1 and -1 of 2 columns are the same"]),
        ("a.conll", "a O\n", {"tag_column_index": 2}, ["row 1", "2 columns", "columns 0 and 2 are needed"]),
        ("a.conll", "a O\n", {"tag_column_index": -3}, ["row 1", "2 columns", "columns 0 and -3 are needed"]),
        ("a.conll", "-DOCSTART- O\n\n", {}, ["no rows"]),
        ("a.conll", b"a O\n\nb O\n\xff O\n", {}, ["row 2 (line 4)", "UTF-8"]),
        ("a.conllu", "1\ta\t_\tX\n", {}, ["row 1", "4 columns between tabs", "has 10"]),
        ("a.conllu", f"{universal(1, 'a', 'X')}\n{universal(1, 'b', 'X')}", {}, ["row 1 (line 2)", "'1'", "number 2"]),
        ("a.conllu", "\n" + universal("x", "a", "X"), {}, ["row 1 (line 2)", "'x'", "number 1"]),
        ("a.conllu", universal(1, "a", ""), {}, ["row 1", "the tag of 'a' is ''"]),
        ("a.conllu", universal(1, "a", "X"), {"tag_column_index": 10}, ["row 1", "10 columns", "1 and 10 are needed"]),
        ("a.tsv", "a\tO\n\nb\n", {"tag_column_index": 1}, ["row 2 (line 3)", "1 columns"]),
        ("a.jsonl", "{}", {"token_column_index": 1}, ["token_column_index", ".conllu"]),
        ("a.csv", "a", {"tag_column_index": 1}, ["tag_column_index", ".conllu"]),
    ],
)  # fmt: skip
def test_broken_words(tmp_path, name, content, reading, words):
    path = write(tmp_path / name, content)
    words = words if "column_index" in words[0] else [str(path), *words]
    assert_refused(words, load_data, TAG, train_file=path, reading=Reading(**reading))


def test_columns_may_be_more_in_some_lines_where_they_are_counted_from_the_first(tmp_path):
    """As where each verb of a sentence has a column, in CoNLL-2005."""
    path = write(tmp_path / "a.conll", "a X O\nb Y O O\n")
    assert read_file(path, TAG, reading=Reading(tag_column_index=1)).to_list() == [
        {"tokens": ["a", "b"], "tags": ["X", "Y"]}
    ]


# --- Documents ---


@FEW
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXTS, "label": LABELS}), min_size=1, max_size=8))
def test_documents_and_parquet_come_back(tmp_path, rows):
    document = write(tmp_path / "a.json", json.dumps(rows, indent=1))
    table = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert read_file(document, CLASSIFY).to_list() == read_file(table, CLASSIFY).to_list() == rows


def test_a_parquet_file_is_read_in_parts(tmp_path):
    """Of one with a single row group the whole file was held."""
    rows, size = 10_000, 4_000
    texts = [np.random.default_rng(row).bytes(size // 2).hex() for row in range(rows)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=rows)
    before, most = pa.total_allocated_bytes(), 0
    for row, found in enumerate(read_rows(str(tmp_path / "a.parquet"), Reading())):
        assert found["text"] == texts[row]
        if row % 100 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert row == rows - 1 and most < rows * size / 2


# --- Parallel text ---


@FEW
@given(pairs=st.lists(st.tuples(LINE_TEXTS, LINE_TEXTS), min_size=1, max_size=6), ends=st.permutations(["\n", "\r\n"]))
@pytest.mark.parametrize("names", [("a.en", "a.ko"), ("en", "a.b.txt.gz"), ("a.jsonl.zst", "a.conll")])
def test_lines_of_two_files_come_back(tmp_path, names, pairs, ends):
    assume(not any(text.startswith("\ufeff") for text in pairs[0]))
    sides = [write(tmp_path / names[i], "".join(pair[i] + ends[i] for pair in pairs)) for i in (0, 1)]
    data = load_data(TRANSLATE, train_file=Pairs(*sides))
    assert data["train"].to_list() == [{"source": source, "target": target} for source, target in pairs]


def test_several_pairs_go_together_in_order(tmp_path):
    for name in ("b.en", "a.en", "a.ko", "b.ko"):
        write(tmp_path / name, f"{name} 1\n{name} 2")
    data = load_data(TRANSLATE, train_file=Pairs(tmp_path / "*.en", [tmp_path / "a.ko", tmp_path / "b.ko"]))
    assert data["train"]["source"][:] == ["a.en 1", "a.en 2", "b.en 1", "b.en 2"]
    assert data["train"]["target"][:] == ["a.ko 1", "a.ko 2", "b.ko 1", "b.ko 2"]


@pytest.mark.parametrize(
    "source, target, words",
    [
        ("a\nb\n", "a\n", ["x.en has 2 lines", "x.ko has 1"]),
        ("a\n", "a\n\n\n\n", ["x.en has 1 lines", "x.ko has 4"]),
        ("", "a", ["x.en: the file is empty"]),
        ("a\nb", b"a\n\xff", ["x.ko: row 2", "UTF-8"]),
        (None, "a", ["x.en: no such file"]),
    ],
)
def test_broken_pair(tmp_path, source, target, words):
    for name, content in {"x.en": source, "x.ko": target}.items():
        if content is not None:
            write(tmp_path / name, content)
    assert_refused(words, load_data, TRANSLATE, train_file=Pairs(tmp_path / "x.en", tmp_path / "x.ko"))


def test_a_pair_without_lines_is_refused(tmp_path):
    """A packed file of nothing is not empty itself."""
    sides = [write(tmp_path / f"{name}.gz", "") for name in ("a", "b")]
    assert_refused([*map(str, sides), "no rows"], load_data, TRANSLATE, train_file=Pairs(*sides))


def test_each_source_file_needs_a_target_file(tmp_path):
    one, two = (write(tmp_path / name, "x") for name in ("one", "two"))
    words = ["train_source_file, train_target_file", f"2 ({one}, {two})", f"1 ({one})"]
    assert_refused(words, load_data, TRANSLATE, train_file=Pairs([one, two], one))


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--train_source_file a", ["train_target_file: is missing"]),
        ("--test_target_file a b", ["test_source_file: is missing"]),
        ("--train_file a --train_source_file a --train_target_file b", ["train_file", "not go together"]),
    ],
)
def test_both_files_of_a_pair_are_named_and_nothing_else(flags, words):
    arguments = parse_arguments(["--task", TRANSLATE, "--output_dir", "out", *flags.split()])[1]
    assert_refused(words, lambda: [arguments.files(split) for split in ("train", "test")])


# --- Several files ---


def test_several_files_and_globs(tmp_path):
    """A glob is sorted and may go down; a name that is a file is no glob, and what is no file matches none."""
    for name in ("b.jsonl", "a.jsonl", "[a].jsonl"):
        write_json_lines(tmp_path / name, [{"text": name}])
    (tmp_path / "c.jsonl").mkdir()
    write(tmp_path / "c.jsonl" / "d.csv", "text\nd\n")

    def texts(*names):
        return load_data(LANGUAGE, train_file=[str(tmp_path / name) for name in names])["train"]["text"][:]

    assert texts("b.jsonl", "a.jsonl") == ["b.jsonl", "a.jsonl"]
    assert texts("?.jsonl", "**/*.csv") == ["a.jsonl", "b.jsonl", "d"]
    assert texts("[a].jsonl") == ["[a].jsonl"]
    assert texts("[ab].jsonl") == ["a.jsonl", "b.jsonl"]
    assert_refused(["train_file", "z*.jsonl", "no file"], texts, "a.jsonl", "z*.jsonl")
    assert_refused(["train_file", "a.jsonl is given twice"], texts, "a.jsonl", "?.jsonl")
    assert_refused(["train_file", "a.jsonl is given twice"], texts, *["a.jsonl"] * 2)


def test_a_file_by_two_names_is_given_twice(tmp_path, monkeypatch):
    """Its rows counted twice."""
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    monkeypatch.chdir(tmp_path)
    for other in ("./a.jsonl", str(path), f"../{tmp_path.name}/a.jsonl"):
        words = ["train_file", f"{other} is given twice, also as a.jsonl"]
        assert_refused(words, load_data, LANGUAGE, train_file=["a.jsonl", other])


def test_a_link_is_a_file_of_its_own(tmp_path):
    """In the cache of the Hub, equal files of a data set are links to one."""
    path = write_json_lines(tmp_path / "a.jsonl", [{"text": "a"}])
    (tmp_path / "b.jsonl").symlink_to(path)
    assert len(load_data(LANGUAGE, train_file=[path, tmp_path / "b.jsonl"])["train"]) == 2


def test_many_files_are_not_all_listed(tmp_path):
    files = [write_json_lines(tmp_path / f"{number:03}.jsonl", [{"text": "a"}]) for number in range(120)]
    assert str(load_data(LANGUAGE, train_file=files).origins["train"]) == f"{files[0]} and 119 more"


def two_files(tmp_path, first, second):
    return [write_json_lines(tmp_path / name, rows) for name, rows in {"a.jsonl": first, "b.jsonl": second}.items()]


@pytest.mark.parametrize(
    "task, problem_type, good, bad, words",
    [
        (CLASSIFY, None, {"text": "t", "label": "x"}, {"text": 3, "label": "x"}, ["'text'", "the number 3"]),
        (CLASSIFY, None, {"text": "t", "label": "x"}, {"text": "t", "label": "z"}, ["label 'z'"]),
        (CLASSIFY, "regression", {"text": "t", "label": 1}, {"text": "t", "label": [1, 2]}, ["2 numbers"]),
        (TAG, None, {"tokens": ["a"], "tags": ["x"]}, {"tokens": ["a", "b"], "tags": ["x"]}, ["2 tokens"]),
    ],
)
def test_rows_are_counted_in_their_own_file(tmp_path, task, problem_type, good, bad, words):
    files = two_files(tmp_path, [good] * 3, [good, bad])
    other = dict(good, **({"tags": ["y"]} if task == TAG else {"label": "y" if problem_type is None else 2}))
    train = write_json_lines(tmp_path / "train.jsonl", [good, other])
    words = [f"{tmp_path / 'b.jsonl'}: row 2", *words]
    assert_refused(words, load_data, task, train_file=train, test_file=files, problem_type=problem_type)


@pytest.mark.parametrize(
    "task, column, values, expected",
    [
        (TRANSLATE, "target", [["a"], "b"], ["a", "b"]),
        (TRANSLATE, "target", ["a", ["b", "c"]], [["a"], ["b", "c"]]),
        (CLASSIFY, "label", [1, [0.5]], [1.0, 0.5]),
        (CLASSIFY, "label", [[1, 2], [3, 4]], [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_lists_of_one_are_plain_where_they_are_in_all_files(tmp_path, task, column, values, expected):
    files = two_files(tmp_path, *([{"source": "s", "text": "t", column: value}] for value in values))
    options = {"problem_type": "regression", "known": ["LABEL_0"] * np.size(expected[0])} if task == CLASSIFY else {}
    assert load_data(task, test_file=files, **options)["test"][column][:] == expected


def test_files_of_a_split_have_the_same_columns(tmp_path):
    row = {"text": "a", "label": "x"}
    files = two_files(tmp_path, [row], [{**row, "text_pair": "b"}])
    assert_refused(["a.jsonl", "'text_pair'", "b.jsonl"], load_data, CLASSIFY, train_file=files)
    mixed = [files[0], write(tmp_path / "c.csv", "text,label\nb,y\n")]
    assert load_data(CLASSIFY, train_file=mixed)["train"].to_list() == [row, {"text": "b", "label": "y"}]


@pytest.mark.parametrize("value", ["a.jsonl", ["a.jsonl", "b/*.csv"]])
def test_files_may_be_a_list_in_a_file_of_options(tmp_path, value):
    path = write(tmp_path / "run.json", json.dumps({"task": LANGUAGE, "output_dir": "out", "train_file": value}))
    data = parse_arguments([str(path)])[1]
    assert data.files("train") == ([value] if isinstance(value, str) else value)
    assert data.facts()["dataset"] == ("a.jsonl" if isinstance(value, str) else "a.jsonl, *.csv")
    for wrong in ({"a": "b"}, ["a", 1], []):
        write(path, json.dumps({"train_file": wrong}))
        assert_refused([str(path), "train_file", "a list of names"], parse_arguments, [str(path)])


# --- Encodings ---

ENCODINGS = [
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-32",
    "utf-32-be",
    "cp949",
    "gb18030",
    "latin-1",
    "cp037",
    "utf-7",
]


@pytest.mark.parametrize("encoding", ENCODINGS)
@settings(PROPERTY, max_examples=5)
@given(rows=st.lists(st.fixed_dictionaries({"text": TEXTS, "label": LABELS}), min_size=1, max_size=8))
def test_every_encoding_comes_back(tmp_path, encoding, rows):
    """U+0A0D and U+0D0A have the bytes of line ends in UTF-16."""
    rows = [{name: value.encode(encoding, "ignore").decode(encoding) for name, value in row.items()} for row in rows]
    assume(all(row["label"] for row in rows))
    if encoding.startswith(("utf", "gb")):
        rows.append({"text": "\u0a0d\u0d0a", "label": "x"})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    for name, text in {
        "a.jsonl": lines,
        "a.json": json.dumps(rows, ensure_ascii=False),
        "a.csv": csv_text(rows),
    }.items():
        path = write(tmp_path / name, text.encode(encoding))
        assert read_file(path, CLASSIFY, reading=Reading(encoding)).to_list() == rows


def test_lines_longer_than_what_is_read_at_once(tmp_path):
    texts = ["가" * 50_000, "", "나" * 70_001]
    path = write(tmp_path / "a.txt", "\n".join(texts).encode("utf-16"))
    assert read_file(path, LANGUAGE, reading=Reading("utf-16"))["text"][:] == texts


@pytest.mark.parametrize(
    "encoding, content, words",
    [
        ("utf8x", b"x", ["encoding: 'utf8x'", "utf-8"]),
        ("base64", b"x", ["encoding: 'base64'"]),
        ("", b"x", ["encoding: ''"]),
        ("a\0b", b"x", ["encoding"]),
        ("cp949", b"x\n\xb0\xa1\n\xff\n", ["a.txt: row 3", "CP949", "byte 1"]),
        ("ascii", "x\né".encode(), ["a.txt: row 2", "ASCII"]),
        ("utf-8", "x\né".encode("latin-1"), ["a.txt: row 2", "UTF-8"]),
        ("utf-16", "x".encode("utf-16-le"), ["a.txt", "byte order mark", "utf-16-le or utf-16-be"]),
        ("utf-16-le", "x\ny".encode("utf-16-le") + b"z", ["a.txt: row 2", "UTF-16-LE"]),
    ],
)
def test_wrong_encoding(tmp_path, encoding, content, words):
    path = write(tmp_path / "a.txt", content)
    assert_refused(words, load_data, LANGUAGE, train_file=path, reading=Reading(encoding))


def test_what_is_for_files_is_not_for_a_data_set_by_name():
    for reading in ({"encoding": "cp949"}, {"tag_column_index": 1}):
        assert_refused([*reading, "dataset_name"], load_data, TAG, dataset_name="dates", reading=Reading(**reading))


# --- Whatever a file holds ---

GOOD = {
    ".jsonl": b'{"text": "a", "label": "x"}',
    ".json": b'{"text": "a", "label": "x"}',
    ".csv": b"a,x",
    ".tsv": b"a\tx",
    ".txt": b"a",
    ".conll": b"a\tO",
    ".conllu": universal(1, "a", "X").encode(),
}
# What stands before the rows, between them and after them.
AROUND = {
    ".json": (b"[", b",\n", b"]"),
    ".csv": (b"text,label\n", b"\n", b"\n"),
    ".tsv": (b"text\tlabel\n", b"\n", b"\n"),
    ".conll": (b"", b"\n\n", b"\n"),
    ".conllu": (b"", b"\n\n", b"\n"),
}
UNNUMBERED = GOOD[".conllu"][1:]
TASKS = {".txt": LANGUAGE, ".conll": TAG, ".conllu": TAG}
CUT_OBJECTS = st.integers(1, len(GOOD[".jsonl"]) - 1).map(lambda length: GOOD[".jsonl"][:length])
NO_TEXTS = st.none() | st.booleans() | st.integers() | st.floats() | st.lists(st.just("a")) | st.just({})
NO_ROWS = st.fixed_dictionaries({"text": NO_TEXTS, "label": st.just("x")}) | NO_TEXTS.filter(lambda value: value != {})
OBJECTS = CUT_OBJECTS | NO_ROWS.map(lambda value: json.dumps(value).encode())
NO_UTF_8 = st.sampled_from([b"\xff", b"a\xc3", b"\xed\xa0\x80"])
MALFORMED = {
    ".jsonl": OBJECTS | NO_UTF_8 | st.sampled_from([b"{}", b'{"text": "a"}', b'{"text": "a", "label": "\\udc80"}]']),
    ".json": OBJECTS | st.sampled_from([b"{}", b"", b'{"text": "a", "label": ""}', b"{'text': 'a', 'label': 'x'}"]),
    ".csv": NO_UTF_8 | st.sampled_from([b"a", b"a,x,", b"a,", b'"a"b,x', b'"a,x', b"a\rb,x", b"a,0.5", b'a,""']),
    ".tsv": NO_UTF_8 | st.sampled_from([b"a", b"a\tx\t", b"a\t", b"a,x", b"\t", b"a\t1e5"]),
    ".txt": NO_UTF_8,
    ".conll": NO_UTF_8 | st.sampled_from([b"a", b"a O", b"a\t", b"a\tX\tO", b"a\tO\nb", b"# text = a"]),
    ".conllu": NO_UTF_8
    | st.sampled_from([b"a\tO", b"1 a a X _ _ _ _ _ _", UNNUMBERED[1:], UNNUMBERED[3:]])
    | st.sampled_from([b"2", b"0", b"", b"01", b"1-", b"-1", b"1.", b"I"]).map(lambda number: number + UNNUMBERED),
}  # fmt: skip


@pytest.mark.parametrize("suffix", GOOD)
@MORE
@given(data=st.data(), before=st.integers(1, 3), after=st.integers(0, 2))
def test_a_malformed_row_is_named(tmp_path, suffix, data, before, after):
    start, between, end = AROUND.get(suffix, (b"", b"\n", b"\n"))
    rows = [GOOD[suffix]] * before + [data.draw(MALFORMED[suffix])] + [GOOD[suffix]] * after
    path = write(tmp_path / f"a{suffix}", start + between.join(rows) + end)
    assert_refused([f"{path}: row {before + 1}"], read_file, path, TASKS.get(suffix, CLASSIFY))


@pytest.mark.parametrize("suffix", FILE_TYPES)
@MORE
@given(
    content=st.lists(
        st.sampled_from(
            [*GOOD.values(), *b'\t\n\r",{}[]# ', b"text\tlabel\n", b"text,label\n", b"-DOCSTART-", b"1-2\t"]
        )
        | st.binary(max_size=4)
    ),
    encoding=st.sampled_from(["utf-8", "cp949", "utf-16", "utf-32-be", "iso2022_jp"]),
    task=st.sampled_from([CLASSIFY, TAG, LANGUAGE]),
)
def test_whatever_a_file_holds_it_is_read_or_named(tmp_path, suffix, content, encoding, task):
    data = b"".join(piece if isinstance(piece, bytes) else bytes([piece]) for piece in content)
    path = write(tmp_path / f"a{suffix}", data)
    try:
        read_file(path, task, reading=Reading(encoding))
    except InputError as error:
        assert str(error).startswith(f"{path}: ")


def test_a_document_that_is_not_text_has_a_line(tmp_path):
    path = write(tmp_path / "a.json", b'[{"text": "a"},\n{"text": "\xff"}]')
    assert_refused([f"{path}: line 2: not valid UTF-8"], read_file, path, LANGUAGE)


# --- Speed ---


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_fifty_thousand_rows_are_read_in_a_second_of_one_core(tmp_path, name):
    """Read and checked; some four times as many where nothing else runs, so that this fails for code, not for luck."""
    words = "the quick brown fox jumps over the lazy dog and runs far away"
    rows = [{"text": f"{words} é {number}", "label": str(number % 7)} for number in range(30_000)]
    path = write(tmp_path / name, csv_text(rows)) if name == "a.csv" else write_json_lines(tmp_path / name, rows)
    start = time.process_time()
    assert len(load_data(CLASSIFY, train_file=path)["train"]) == len(rows)
    rate = len(rows) / (time.process_time() - start)
    print(f"{name}: {rate:,.0f} rows a second")
    assert rate > 50_000
