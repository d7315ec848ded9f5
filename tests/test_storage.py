"""What was read once is found again by its content; and what could not be stored whole is not there."""

import json

import datasets
import pyarrow as pa
import pytest

from seqblend.training import sources
from seqblend.training.columns import Columns
from seqblend.training.data import InputError, read_file
from seqblend.training.encoding import Settings
from seqblend.training.storage import stored
from seqblend.training.tasks import TASKS, encode_split
from seqblend.training.tokenization import train_tokenizer

ROWS = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "seqblend"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, **options):
    return read_file(path, "sequence-classification", **options)


def batches(*columns):
    yield from (pa.record_batch({"text": column}) for column in columns)


def test_equal_contents_are_read_once(tmp_path, monkeypatch):
    """Wherever they are."""
    first = read(write(tmp_path / "a.jsonl", ROWS))
    monkeypatch.setattr(sources, "read_rows", lambda *args: iter(()))
    again = read(write(tmp_path / "b.jsonl", ROWS))
    assert again.to_list() == first.to_list() == ROWS
    assert again._fingerprint == first._fingerprint


def test_other_contents_or_columns_are_read_anew(tmp_path):
    path = write(tmp_path / "a.jsonl", [{**row, "other": "x"} for row in ROWS])
    read(path)
    assert read(path, columns=Columns(text="other"))["text"][:] == ["x", "x"]
    assert read(write(path, ROWS[::-1])).to_list() == ROWS[::-1]


def test_rows_are_on_disk(tmp_path, cache):
    dataset = read(write(tmp_path / "a.jsonl", ROWS))
    assert [file["filename"] for file in dataset.cache_files] == [str(path) for path in cache.iterdir()]


def test_a_broken_row_leaves_nothing(tmp_path, cache):
    path = write(tmp_path / "a.jsonl", [*ROWS, {"text": 3, "label": "a"}])
    with pytest.raises(InputError, match="row 3"):
        read(path)
    assert not any(cache.iterdir())


def test_batches_follow_each_other():
    assert stored("key", batches(["a"], ["b", "c"]))["text"][:] == ["a", "b", "c"]


def test_a_cache_that_cannot_be_written_is_named(cache):
    cache.parent.write_text("in the way")
    with pytest.raises(InputError, match="HF_DATASETS_CACHE names another directory"):
        stored("key", batches(["a"]))


def test_a_cache_that_cannot_be_written_is_named_where_rows_are_encoded(tmp_path, cache):
    """The library's own error was none that the command prints in one line."""
    rows = read(write(tmp_path / "a.jsonl", ROWS))
    tokenizer = train_tokenizer(["one two"], "char", 50)
    settings = Settings(tokenizer, ["a", "b"], None, 8, 8, 8, token_types=False, seed=0)
    cache.rename(tmp_path / "moved")
    cache.write_text("in the way")
    with pytest.raises(InputError, match="HF_DATASETS_CACHE names another directory"):
        encode_split(TASKS["sequence-classification"], rows, settings, "train")


@pytest.mark.parametrize("size", [0, 100, -100])
def test_a_file_cut_short_is_told_by_its_directory(size, tmp_path, cache):
    """What Arrow says of it names nothing, and was not always an error that the command prints in one line."""
    path = write(tmp_path / "a.jsonl", ROWS)
    read(path)
    (stored_file,) = cache.iterdir()
    data = stored_file.read_bytes()
    stored_file.unlink()
    stored_file.write_bytes(data[:size])
    with pytest.raises(InputError, match=f"{cache}: .* is damaged"):
        read(path)


def test_what_is_stored_has_the_rights_of_any_file(tmp_path, cache):
    """Nobody but its owner could read it: of no use in a cache that several share."""
    read(write(tmp_path / "a.jsonl", ROWS))
    (path,) = cache.iterdir()
    assert path.stat().st_mode == (tmp_path / "a.jsonl").stat().st_mode
