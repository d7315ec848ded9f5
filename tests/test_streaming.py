"""Rows that are read as they are trained on: all in each epoch, in an order that a resumed run goes on with."""

import json
import re
from collections import Counter
from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import load_data
from safetensors.torch import load_file
from test_train_command import (
    CLASSIFY,
    PAIRS,
    ROWS,
    SEVERAL,
    TAG,
    TRANSLATE,
    assert_refused,
    files,
    flags,
    model_of,  # noqa: F401
    plain_cards,  # noqa: F401
    prepared,
    quick_and_quiet,  # noqa: F401
    read,
    run,
    write,
)
from tqdm import tqdm

from seqblend.data import arrow
from seqblend.data.columns import Columns
from seqblend.data.errors import InputError
from seqblend.data.sources import named_sources
from seqblend.data.streams import RowStream
from seqblend.tasks.registry import TASKS
from seqblend.tokenization.training import train_tokenizer
from seqblend.train import main

BLOCKS = "seqblend.data.splits.BATCH_ROWS"
HEAD = datasets.Dataset.from_dict({"input_ids": [[0]]})


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Where one is that knows all characters."""
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["abcdefghijklmnopqrstuvwxyz 0123456789"], "char", 300).save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(BLOCKS, 2)


def streamed(tokenizer, **options):
    given = {"streaming": True, "tokenizer_type": None, "tokenizer_name_or_path": tokenizer, "max_steps": 4}
    return {**given, "per_device_train_batch_size": 2, **options}


# --- The order ---

SOURCES = st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4)


def stream_of(sizes, seed=0, epoch=0):
    """Sources of blocks of so many rows, all rows different."""

    def source(index):
        blocks = [
            {"input_ids": [[index, block, row] for row in range(size)]} for block, size in enumerate(sizes[index])
        ]
        return lambda: iter(blocks)

    stream = RowStream([source(index) for index in range(len(sizes))], seed, HEAD)
    stream.set_epoch(epoch)
    return stream


def told(stream):
    return [tuple(row["input_ids"]) for row in stream]


@given(sizes=SOURCES, seed=st.integers(0, 9), epoch=st.integers(0, 9))
@settings(max_examples=30)
def test_an_epoch_has_every_row_once_in_an_order_that_seed_and_epoch_decide(sizes, seed, epoch):
    rows = told(stream_of(sizes, seed, epoch))
    blocks = [(index, block, size) for index, source in enumerate(sizes) for block, size in enumerate(source)]
    assert Counter(rows) == Counter((index, block, row) for index, block, size in blocks for row in range(size))
    assert rows == told(stream_of(sizes, seed, epoch))


def test_another_epoch_and_another_seed_have_another_order():
    sizes = [[5, 5], [5, 5]]
    orders = {tuple(told(stream_of(sizes, seed, epoch))) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@given(sizes=SOURCES, epoch=st.integers(0, 3), data=st.data())
@settings(max_examples=30)
def test_a_stream_goes_on_with_the_very_next_row(sizes, epoch, data):
    whole = told(stream_of(sizes, epoch=epoch))
    done = data.draw(st.integers(1, len(whole)))
    first, second = stream_of(sizes, epoch=epoch), stream_of(sizes, epoch=epoch)
    rows = iter(first)
    read = [tuple(next(rows)["input_ids"]) for _ in range(done)]
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert read + told(second) == whole
    # And from the beginning after that.
    assert told(second) == whole


# --- The command ---


@pytest.mark.parametrize(
    "options, rows",
    [
        *(({"task": task}, ROWS[task]) for task in TASKS),
        ({"task": CLASSIFY, "problem_type": "regression"}, PAIRS),
        ({"task": CLASSIFY, "problem_type": "multi_label_classification"}, SEVERAL),
        ({"task": "causal-lm", "pack_documents": True}, ROWS["causal-lm"]),
        ({"task": CLASSIFY, "overflow": "window", "max_length": 6}, ROWS[CLASSIFY]),
    ],
    ids=[*TASKS, "regression", "several labels", "packed", "windows"],
)
def test_a_stream_has_what_is_stored_otherwise(options, rows, tokenizer, tmp_path, monkeypatch):
    """The same rows, encoded alike, and the same labels."""
    if options["task"] == "causal-lm":
        # What does not fill a row is regrouped in a block, not across its end.
        monkeypatch.setattr(BLOCKS, 100)
    given = {**streamed(tokenizer, **options), **files(tmp_path, rows, ["train", "validation"])}
    stream = prepared(tmp_path / "a", **given)
    table = prepared(tmp_path / "b", **{**given, "streaming": False})
    count = lambda rows: Counter(json.dumps(row, sort_keys=True) for row in rows)  # noqa: E731
    stored = table.splits["train"].features
    assert count(stream.splits["train"].features) == count(stored)
    assert stream.trainer.model.config.id2label == table.trainer.model.config.id2label
    assert stream.splits["validation"].features.to_list() == table.splits["validation"].features.to_list()


@pytest.mark.parametrize("task", [CLASSIFY, TAG, TRANSLATE, "causal-lm"])
def test_a_resumed_stream_ends_with_the_same_weights(task, tokenizer, tmp_path):
    """Four steps over five rows in blocks of two of two files: stopped in a block, and in the second epoch."""
    path = tmp_path / "data"
    path.mkdir()
    for name, rows in (("a", ROWS[task]), ("b", ROWS[task][:2])):
        write(path / f"{name}.jsonl", rows)
    given = streamed(tokenizer, task=task, train_file=path / "*.jsonl", per_device_train_batch_size=3)
    given |= {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 5}
    whole = run(tmp_path / "whole", **given)
    for step in (1, 3):
        resumed = run(tmp_path / f"from {step}", **given, resume_from_checkpoint=whole / f"checkpoint-{step}")
        for name, tensor in load_file(whole / "model.safetensors").items():
            assert torch.equal(load_file(resumed / "model.safetensors")[name], tensor), (step, name)


@pytest.mark.parametrize("steps, epochs", [(1, [0, 0]), (5, [0, 1, 1, 2, 2, 2])], ids=["a part", "two and a half"])
def test_the_epoch_of_a_stream_is_the_number_of_completed_ones(steps, epochs, tokenizer, tmp_path):
    """After max_steps it was 1, however few rows had been read. The last number is that of the result."""
    rows = [{"text": str(i), "label": "xy"[i % 2]} for i in range(4)]
    given = {**streamed(tokenizer, max_steps=steps), **files(tmp_path, rows, ["train"]), "logging_steps": 1}
    directory = run(tmp_path / "out", **given)
    found = [logs["epoch"] for logs in read(directory / "trainer_state.json")["log_history"] if "loss" in logs]
    assert [*found, read(directory / "train_results.json")["epoch"]] == epochs


def test_the_order_is_that_of_data_seed(tokenizer, tmp_path):
    """It was that of seed, of which a resumed run looks only where there is no data_seed."""
    rows = [{"text": str(i), "label": "xy"[i % 2]} for i in range(10)]
    given = {**streamed(tokenizer), **files(tmp_path, rows, ["train"])}
    order = lambda **seeds: list(prepared(tmp_path, **given, **seeds).splits["train"].features)  # noqa: E731
    assert order(seed=3, data_seed=1) == order(seed=4, data_seed=1) != order(seed=3, data_seed=2)


def test_a_run_does_not_go_on_with_another_stream(tokenizer, tmp_path, capsys):
    """It went on at the same place of other rows, or at one that there was no more, and said nothing."""
    given = {**streamed(tokenizer, save_strategy="steps", save_steps=1), **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    run(tmp_path / "out", **given)
    further = {**given, "max_steps": 5, "resume": "auto"}
    files(tmp_path, ROWS[CLASSIFY][:2], ["train"])
    assert main(flags(tmp_path / "out", further)) == 2
    assert "train_dataset has other rows" in capsys.readouterr().err
    # As many bytes.
    files(tmp_path, [{**ROWS[CLASSIFY][0], "text": ROWS[CLASSIFY][0]["text"][::-1]}, *ROWS[CLASSIFY][1:]], ["train"])
    assert main(flags(tmp_path / "out", further)) == 2
    assert "has other rows than when this run read it before" in capsys.readouterr().err


def test_nothing_of_a_stream_is_stored_but_its_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = load_data(CLASSIFY, train_file=write(tmp_path / "a.jsonl", ROWS[CLASSIFY]), streaming=True)
    assert data.label_names == ["x", "y"] and data.streamed_labels.column_names == ["label"]
    (stored,) = Path(tmp_path, "cache").rglob("*.arrow")
    assert b"row 1" not in stored.read_bytes()
    data = load_data("causal-lm", train_file=write(tmp_path / "b.jsonl", ROWS["causal-lm"]), streaming=True)
    assert data.streamed_labels is None and [*Path(tmp_path, "cache").rglob("*.arrow")] == [stored]


def test_balanced_weights_are_those_of_all_rows(tokenizer, tmp_path):
    given = {**streamed(tokenizer, class_weights="balanced"), **files(tmp_path, ROWS[CLASSIFY], ["train"])}
    assert prepared(tmp_path / "out", **given).trainer.model.config.class_weights == pytest.approx([5 / 6, 5 / 4])


def test_a_data_set_by_name_is_streamed(tokenizer, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "data"
    path.mkdir()
    features = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    rows = {"text": ["NA", "", "b"], "label": [1, 0, 1]}
    for split in ("train", "validation"):
        datasets.Dataset.from_dict(rows, features).to_parquet(path / f"{split}.parquet")
    data = load_data(CLASSIFY, dataset_name=str(path), streaming=True)
    blocks = [block for source in data["train"].sources for block in source()]
    assert [text for block in blocks for text in block["text"]] == ["NA", "", "b"]
    assert data.label_names == ["neg", "pos"] and data["validation"]["label"][:] == ["pos", "neg", "pos"]
    caplog.set_level("INFO")
    out = run(tmp_path / "out", **streamed(tokenizer, dataset_name=path))
    assert "data: rows that are not counted\nsteps: 4\n" in caplog.text
    assert read(out / "train_results.json")["train_loss"] > 0


@pytest.mark.parametrize("streaming", [False, True])
def test_other_columns_of_a_data_set_by_name_are_not_read(streaming, tmp_path, monkeypatch):
    """Images of 10,000 rows at a time became objects of Python."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    rows = {"image": [b"\xff", b""], "inner": [{"text": "a", "more": "b"}, {"text": "c", "more": "d"}]}
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data" / "train.parquet")
    name, read = str(tmp_path / "data"), []
    monkeypatch.setattr(arrow, "_class_names", lambda feature, values: read.append(values) or values)
    (source,) = named_sources(name, None, ["train"], {}, 0, streaming)["train"]
    assert [row["image"] for row in source.rows(tqdm(disable=True), ["inner.text"])] == [None, None]
    assert read == [rows["inner"]]
    assert next(source.rows(tqdm(disable=True), ["txt"])) == {"image": None, "inner": {"text": None, "more": None}}
    with pytest.raises(InputError, match=r"no column 'txt' .*columns present: .*'inner\.text'"):
        load_data("masked-lm", dataset_name=name, streaming=streaming, columns=Columns(text="txt"))


def test_splits_of_a_streamed_data_set_are_told_apart(tmp_path, monkeypatch):
    """They come from one directory, and were stored as one."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "data"
    path.mkdir()
    for split in ("train", "validation", "test"):
        write(path / f"{split}.jsonl", [{"text": split}])
    data = load_data("masked-lm", dataset_name=str(path), streaming=True)
    assert {split: [row["text"] for row in data[split]] for split in data} == {split: [split] for split in data}


def test_what_is_cut_off_is_said_as_it_is_read(tokenizer, tmp_path, caplog):
    rows = [{"text": "abc" * 9, "label": "xy"[i % 2]} for i in range(10)]
    job = prepared(tmp_path / "out", **streamed(tokenizer, max_length=5), **files(tmp_path, rows, ["train"]))
    caplog.clear()
    list(job.splits["train"].features)
    assert re.findall(r"train, so far: (\d+) of \1 rows are too long", caplog.text) == ["2", "4", "8"]


# --- What is refused ---


@pytest.mark.parametrize(
    "options, words",
    [
        ({"max_steps": -1}, ["max_steps", "streaming"]),
        ({"tokenizer_name_or_path": None}, ["tokenizer_name_or_path", "stored rows"]),
        ({"max_train_samples": 2}, ["max_train_samples"]),
        ({"max_tokens_per_batch": 64}, ["max_tokens_per_batch"]),
        ({"train_sampling_strategy": "group_by_length"}, ["train_sampling_strategy"]),
        ({"dataloader_num_workers": 2}, ["dataloader_num_workers", "every row in each worker"]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_needs_all_rows_does_not_go_together_with_a_stream(options, words, tokenizer, tmp_path, capsys):
    given = {**streamed(tokenizer), **files(tmp_path, ROWS[CLASSIFY], ["train"]), **options}
    assert_refused(tmp_path, given, words, capsys)


@pytest.mark.parametrize(
    "options, word",
    [({"task": TAG, "max_length": 2}, "leaves nothing"), ({"overflow": "window", "overlap": 20}, "overlap: 20")],
    ids=["nothing to learn", "overlap"],
)
def test_what_the_first_rows_are_encoded_to_is_looked_at_before(options, word, tokenizer, tmp_path):
    """The one trained with a loss of 0, the other ended a run that had begun."""
    rows = ROWS[options.get("task", CLASSIFY)]
    with pytest.raises(InputError, match=word):
        prepared(tmp_path, **{**streamed(tokenizer), **files(tmp_path, rows, ["train"]), **options})


@pytest.mark.parametrize("row", [{"text": "a", "label": 3.5}, {"text": "a"}], ids=["wrong", "lacking"])
def test_a_wrong_row_is_found_before_training_where_labels_are_learnt(row, tokenizer, tmp_path, capsys):
    given = {**streamed(tokenizer), **files(tmp_path, [*ROWS[CLASSIFY], row], ["train"])}
    assert_refused(tmp_path, given, ["train.jsonl: row 6", "label"], capsys)


def test_a_wrong_row_of_a_text_ends_the_run_in_one_line(tokenizer, tmp_path, capsys):
    """What was trained before it is in the last checkpoint."""
    path, out = write(tmp_path / "a.jsonl", [*ROWS["masked-lm"], {"text": 3}]), tmp_path / "out"
    given = streamed(tokenizer, task="masked-lm", train_file=path, max_steps=20, save_strategy="steps", save_steps=1)
    assert main(flags(out, given)) == 2
    assert f"{path}: row 6" in capsys.readouterr().err and (out / "checkpoint-1").is_dir()


def test_a_broken_row_of_a_streamed_data_set_names_it(tmp_path, monkeypatch):
    """The library's own error told no name, and was none that the command prints in one line."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "data"
    path.mkdir()
    (path / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(InputError, match=r"data, split train: cannot be read \(.*row 1\)"):
        load_data("masked-lm", dataset_name=str(path), streaming=True)


def test_a_stream_without_a_step_in_an_epoch_ends_the_run(tokenizer, tmp_path, capsys):
    """It was read again and again, and no step was ever made."""
    given = {**streamed(tokenizer), **files(tmp_path, ROWS[CLASSIFY], ["train"]), "gradient_accumulation_steps": 4}
    assert main(flags(tmp_path / "out", given)) == 2
    assert "gradient_accumulation_steps: 4 batches make a step" in capsys.readouterr().err
    assert main(flags(tmp_path / "out", {**given, "gradient_accumulation_steps": 3})) == 0


def test_sources_have_the_same_columns(tmp_path):
    """That only one of them has pairs is found when the other is read."""
    one = write(tmp_path / "a.jsonl", [{"text": "a", "text_pair": "b", "label": "x"}])
    other = write(tmp_path / "b.jsonl", [{"text": "a", "label": "y"}])
    stream = load_data(CLASSIFY, train_file=[str(one), str(other)], streaming=True)["train"]
    with pytest.raises(InputError, match=r"b\.jsonl: no column 'text_pair', but .*a\.jsonl has it"):
        list(stream)
