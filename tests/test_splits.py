"""Which splits are read, what is said of those that are not, and of rows that stand in two."""

import logging
import sys
import types

import datasets
import pytest
from rows import load_data
from test_data import CLASSIFY, LANGUAGE, TAG, TRANSLATE, assert_refused, write, write_json_lines
from test_tasks import settings_for

from seqblend.reports.data_report import Hashes, find_shared, make_data_report, warn_about_leakage
from seqblend.reports.texts import as_texts, hash_rows
from seqblend.tasks.registry import TASKS
from seqblend.training.arguments import BlendTrainingArguments
from seqblend.training.checks import wanted_splits

ROWS = {"text": ["a", "b", "c", "d"], "label": [0, 1, 0, 1]}
FEATURES = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["x", "y"]))


@pytest.fixture
def by_name(tmp_path, monkeypatch):
    """A data set whose test split has no labels, and whose other splits have names of their own."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "data"
    for split in ("train", "dev_matched", "dev_mismatched", "test"):
        rows = {"text": [f"{split[4:]} {text}" for text in ROWS["text"]], "label": ROWS["label"]}
        rows = rows if split != "test" else {**rows, "label": [-1] * 4}
        (path / split).mkdir(parents=True)
        datasets.Dataset.from_dict(rows, FEATURES).to_parquet(path / split / "0.parquet")
    files = "".join(
        f"  - split: {each}\n    path: {each}/*\n" for each in ("train", "dev_matched", "dev_mismatched", "test")
    )
    (path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n")
    return str(path)


def load(name, *splits, streaming=False, **names):
    return load_data(CLASSIFY, dataset_name=name, splits=splits, split_names=names, streaming=streaming)


def test_what_is_not_asked_for_is_not_read_and_what_is_left_out_is_named(by_name, caplog):
    """The test split, which has no labels, stopped runs that did not predict; the others vanished."""
    assert list(load(by_name, "train", "validation")) == ["train"]
    assert f"{by_name}: not read: split dev_matched, dev_mismatched, test; choose with --train_split, " in caplog.text
    words = ["split test: row 1", "null", "seqblend predict", "--do_predict false"]
    assert_refused(words, load, by_name, "train", "test")


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_are_chosen(by_name, streaming, caplog):
    data = load(by_name, "train", "validation", streaming=streaming, validation="dev_matched")
    assert data["validation"]["text"][0] == "matched a"
    assert str(data.origins["validation"]) == f"{by_name}, split dev_matched"
    assert "not read: split dev_mismatched, test" in caplog.text


def test_parts_of_splits_are_chosen(by_name):
    both = load(by_name, "validation", "train", validation="dev_matched+dev_mismatched", train="train[:50%]")
    assert both["validation"]["text"][3:5] == ["matched d", "mismatched a"]
    assert both["train"]["text"][:] == ["n a", "n b"]


@pytest.mark.parametrize("name, streaming", [("dev", False), ("0.1", False), ("train[:50%]", True), ("dev", True)])
def test_a_split_that_does_not_exist_is_refused(by_name, name, streaming):
    words = [f"validation_split: {name!r}", "dev_matched", "test"]
    assert_refused(words, load, by_name, "train", "validation", streaming=streaming, validation=name)


def test_dates_are_read_by_whole_splits(monkeypatch):
    fake = types.SimpleNamespace(load_dates=lambda seed: {"train": datasets.Dataset.from_dict(ROWS)})
    monkeypatch.setitem(sys.modules, "seqblend.data.dates", fake)
    assert_refused(["train_split: 'train[:5]'", "dates"], load, "dates", "train", train="train[:5]")


def test_splits_of_other_names_alone_are_named(by_name, tmp_path):
    (tmp_path / "data" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: dev\n    path: train/*\n---\n"
    )
    assert_refused(["dataset_name", "but dev", "--train_split"], load, by_name, "train", "validation", "test")


def test_a_split_is_chosen_of_a_data_set_by_name(tmp_path):
    path = write(tmp_path / "a.txt", "a")
    assert_refused(["test_split", "'dev'", "files"], load_data, LANGUAGE, train_file=path, split_names={"test": "dev"})


@pytest.mark.parametrize(
    "said, wanted",
    [
        ({}, ["train", "validation", "test"]),
        ({"do_predict": False}, ["train", "validation"]),
        ({"do_train": True}, ["train", "validation"]),
        ({"do_train": True, "do_eval": False}, ["train"]),
        ({"do_train": True, "eval_strategy": "no"}, ["train"]),
        ({"do_train": True, "eval_strategy": "steps"}, ["train", "validation"]),
        ({"do_predict": True}, ["test"]),
        ({"do_train": True, "do_eval": True, "do_predict": False}, ["train", "validation"]),
        ({"do_predict": True, "eval_strategy": "steps"}, ["test"]),
    ],
)
def test_the_splits_of_what_is_asked_for(said, wanted, tmp_path):
    args = BlendTrainingArguments(str(tmp_path), use_cpu=True, eval_strategy=said.get("eval_strategy", "no"))
    args.given_options = frozenset(said)
    for flag in ("do_train", "do_eval", "do_predict"):
        setattr(args, flag, said.get(flag))
    assert wanted_splits(args) == wanted


@pytest.mark.parametrize(
    "task, row, answer",
    [
        (CLASSIFY, {"text": "a"}, {"label": None}),
        (CLASSIFY, {"text": "a"}, {"label": ""}),
        (CLASSIFY, {"text": "a"}, {"label": -1}),
        (CLASSIFY, {"text": "a"}, {}),
        (TAG, {"tokens": ["a"]}, {"tags": []}),
        (TAG, {"tokens": ["a"]}, {"tags": None}),
        (TRANSLATE, {"source": "a"}, {"target": None}),
        (TRANSLATE, {"source": "a"}, {}),
    ],
)
def test_rows_without_labels_are_for_prediction(task, row, answer, tmp_path):
    path = write_json_lines(tmp_path / "a.jsonl", [row | answer])
    known = ["x", "y"] if task != TRANSLATE else None
    assert_refused(["a.jsonl", "seqblend predict"], load_data, task, test_file=path, known=known)


# --- Rows in two splits ---


@pytest.mark.parametrize(
    "columns, rows, others, count",
    [
        (["text"], {"text": ["a", "b", "b", ""]}, {"text": ["b", "c", ""]}, 2),
        (["text", "text_pair"], {"text": ["a", "a"], "text_pair": ["", "b"]}, {"text": ["a"], "text_pair": ["b"]}, 1),
        (["tokens"], {"tokens": [["a", "b"], ["ab"], []]}, {"tokens": [["a", "b"], []]}, 1),
        (["text"], {"text": [""]}, {"text": ["a"]}, 0),
    ],
)
def test_rows_in_both_are_those_that_a_task_reads_the_same(columns, rows, others, count):
    found = []
    for given in (others, rows):
        table = datasets.Dataset.from_dict(given).with_format("arrow")[:]
        key, has_text = hash_rows([as_texts(table[name]) for name in columns])
        found.append(Hashes(key, key, has_text))
    assert find_shared(*found)[0].count == count


@pytest.mark.parametrize(
    "streaming, said",
    [
        (False, ["validation: 2 of 2 rows ({}) are also in training", "test: 1 of 2 rows ({}) is also in training"]),
        (True, ["validation: {} is trained on", "test: {} is not compared with a stream"]),
    ],
)
def test_rows_that_also_stand_in_training_are_counted(streaming, said, tmp_path, caplog):
    train = write_json_lines(tmp_path / "a.jsonl", [{"text": "a"}, {"text": "b"}])
    test = write_json_lines(tmp_path / "b.jsonl", [{"text": "a"}, {"text": "c"}])
    data = load_data(LANGUAGE, train_file=train, validation_file=train, test_file=test, streaming=streaming)
    with caplog.at_level(logging.WARNING):
        report = make_data_report(TASKS[LANGUAGE], data, settings_for(labels=data.label_names))
        told = warn_about_leakage(report, data, ["text"])
    # On the card without a file's place.
    assert list(told) == ["validation", "test"] and str(tmp_path) not in str(told)
    without = [line.replace(" ({})", "").replace("{}", "the split") for line in said]
    assert all(text.startswith(line) for text, line in zip(told.values(), without, strict=True))
    lines = [line.format(path) for line, path in zip(said, (train, test), strict=True)]
    assert all(line in caplog.text for line in lines), caplog.text
