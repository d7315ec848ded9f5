"""What was read once is found again by its content; and what could not be stored whole is not there."""

import json
import os
import signal

import datasets
import pyarrow as pa
import pytest
from rows import read_file

from seqblend.data import locks, sources
from seqblend.data.columns import Columns
from seqblend.data.splits import InputError
from seqblend.data.storage import cache_table
from seqblend.tasks.encoding import Settings
from seqblend.tasks.registry import TASKS
from seqblend.tasks.splits import encode_split
from seqblend.tokenization.training import train_tokenizer

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
    assert cache_table("key", batches(["a"], ["b", "c"]))["text"][:] == ["a", "b", "c"]


def test_a_cache_that_cannot_be_written_is_named(cache):
    cache.parent.write_text("in the way")
    with pytest.raises(InputError, match="set HF_DATASETS_CACHE to another directory"):
        cache_table("key", batches(["a"]))


def test_a_cache_that_cannot_be_written_is_named_where_rows_are_encoded(tmp_path, cache):
    """The library's own error was none that the command prints in one line."""
    rows = read(write(tmp_path / "a.jsonl", ROWS))
    tokenizer = train_tokenizer(["one two"], "char", 50)
    settings = Settings(tokenizer, ["a", "b"], None, 8, 8, 8, token_types=False, seed=0)
    cache.rename(tmp_path / "moved")
    cache.write_text("in the way")
    with pytest.raises(InputError, match="set HF_DATASETS_CACHE to another directory"):
        encode_split(TASKS["sequence-classification"], rows, settings, "train")


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


DAMAGES = {
    "empty": lambda data: b"",
    "cut at its beginning": lambda data: data[:100],
    "cut at its end": lambda data: data[:-100],
    "its seal cut": lambda data: data[:-1],
    "a text": lambda data: flipped(data, data.index(b"two")),
    "its schema": lambda data: flipped(data, 60),
    "its seal": lambda data: flipped(data, -1 % len(data)),
}
every_damage = pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)


def damage_file(path, damage):
    """As another file, of which nobody has the old one open."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(damage(data))


@every_damage
def test_a_damaged_file_is_named_and_made_anew(damage, tmp_path, cache, caplog):
    """Of a text with another letter in it nothing was said; the rest was the end of the run."""
    path = write(tmp_path / "a.jsonl", ROWS)
    read(path)
    (stored_file,) = cache.iterdir()
    good = stored_file.read_bytes()
    damage_file(stored_file, damage)
    assert read(path).to_list() == ROWS and stored_file.read_bytes() == good
    assert caplog.messages == [f"{stored_file} is damaged: it is deleted and made again"]
    read(path)
    assert len(caplog.messages) == 1


def encode(rows, workers=None):
    tokenizer = train_tokenizer(["one two"], "char", 50)
    settings = Settings(tokenizer, ["a", "b"], None, 8, 8, 8, token_types=False, seed=0)
    return encode_split(TASKS["sequence-classification"], rows, settings, "validation", workers).features


@pytest.mark.parametrize("workers", [None, 2])
def test_a_damaged_file_of_encoded_rows_is_named_and_made_anew(workers, tmp_path, cache, caplog):
    rows = read(write(tmp_path / "a.jsonl", ROWS))
    before = set(cache.iterdir())
    expected = encode(rows, workers).to_list()
    made = sorted(set(cache.iterdir()) - before)
    assert len(made) == (workers or 1)
    for number, path in enumerate(made, 1):
        damage_file(path, lambda data: flipped(data, len(data) - 100))
        assert encode(rows, workers).to_list() == expected
        assert caplog.messages[-1] == f"{path} is damaged: it is deleted and made again"
        assert encode(rows, workers).to_list() == expected
        assert len([line for line in caplog.messages if "damaged" in line]) == number


def test_encoded_rows_are_found_again(tmp_path, monkeypatch):
    rows = read(write(tmp_path / "a.jsonl", ROWS))
    expected = encode(rows).to_list()
    monkeypatch.setattr("seqblend.tasks.sequence_classification.tokenize", None)
    assert encode(rows).to_list() == expected


def half_written(written):
    """The first of two batches; the second does not come."""
    yield from batches(["a"])
    os.write(written, b"w")
    signal.pause()


def test_what_a_killed_process_left_is_cleared_and_what_is_written_stays(cache):
    """Half written files stayed for ever."""
    read_end, write_end = os.pipe()
    if not (child := os.fork()):
        try:
            cache_table("key", half_written(write_end))
        finally:
            os._exit(1)
    os.close(write_end)
    try:
        assert os.read(read_end, 1) == b"w"
        (part,) = cache.glob("*.part")
        cache_table("other", batches(["b"]))
        assert part.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(read_end)
    assert part.exists()
    cache_table("third", batches(["c"]))
    assert not part.exists()


def test_a_file_that_was_cleared_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    path, real, cleared = tmp_path / "a.part", locks.lock, []

    def late(stream, wait=False):
        if not cleared:
            cleared.append(path.unlink())
        return real(stream, wait)

    monkeypatch.setattr(locks, "lock", late)
    with locks.open_locked(path) as stream:
        stream.write(b"whole")
    assert cleared and path.read_bytes() == b"whole"


def test_what_datasets_left_is_cleared_when_it_is_old(cache):
    cache.mkdir(parents=True)
    new, old = cache / "tmpnew", cache / "tmpold"
    for path in (new, old):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    cache_table("key", batches(["a"]))
    assert new.exists() and not old.exists()


def test_what_is_stored_has_the_rights_of_any_file(tmp_path, cache):
    """Nobody but its owner could read it: of no use in a cache that several share."""
    read(write(tmp_path / "a.jsonl", ROWS))
    (path,) = cache.iterdir()
    assert path.stat().st_mode == (tmp_path / "a.jsonl").stat().st_mode
