"""Ray: the answers of two workers are those of one process, whatever dies."""

import contextlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

ray = pytest.importorskip("ray")

from test_prediction import TAG, assert_same, model_of  # noqa: E402, F401

import seqblend  # noqa: E402

SCRIPT = Path(seqblend.__file__).parent / "examples" / "ray_predict.py"
ROWS, FILES = 4000, 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of Parquet files with texts."""
    directory = tmp_path_factory.mktemp("corpus")
    texts = [f"{'ab c '[: index % 5]} 서울 {'bac ' * (index % 7)}" for index in range(ROWS)]
    for number in range(FILES):
        part = slice(number, None, FILES)
        pq.write_table(pa.table({"id": range(ROWS)[part], "text": texts[part]}), directory / f"{number}.parquet")
    return directory


@pytest.fixture(scope="module")
def expected(corpus, model_of):  # noqa: F811
    """The answers of one process, by id."""
    table = pads.dataset(corpus).to_table()
    entities = seqblend.Predictor(model_of(TAG))(table.to_pydict())["entities"]
    return dict(zip(table["id"].to_pylist(), entities, strict=True))


def start(*arguments):
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_DISABLE_METRICS_EXPORT": "1",
    }
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ancestors(process_id):
    """The process ids of a process's parent, of that one's parent, and so on."""
    while process_id > 1:
        # The name of the process, in parentheses, may have spaces.
        process_id = int(Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[1])
        yield process_id


def workers(process):
    """The process ids of the workers of a run: Ray's processes are children of it, or of one another."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        # Processes end while they are read.
        with contextlib.suppress(OSError):
            is_worker = re.match(rb"ray::.*Worker", (each / "cmdline").read_bytes())
            if is_worker and process.pid in ancestors(int(each.name)):
                found.append(int(each.name))
    return found


def answers_in(directory):
    files = sorted(directory.glob("group-*/*.parquet"))
    table = pads.dataset(files).to_table()
    return table["id"].to_pylist(), table["entities"].to_pylist()


def test_a_group_without_rows_is_complete(model_of, tmp_path):  # noqa: F811
    for number, ids in enumerate([[], [1, 2]]):
        rows = pa.table({"id": pa.array(ids, pa.int64()), "text": pa.array(["ab"] * len(ids), pa.string())})
        pq.write_table(rows, tmp_path / f"{number}.parquet")
    process = start(model_of(TAG), tmp_path, tmp_path / "out", "--group_files", 1, "--workers", 1, "--cpus", 0.5)
    output = process.communicate(timeout=150)[0]
    assert process.returncode == 0, output[-3000:]
    assert len(list(tmp_path.glob("out/group-*"))) == 2 and answers_in(tmp_path / "out")[0] == [1, 2]


def test_no_column_of_the_input_is_lost(model_of):  # noqa: F811
    worker = runpy.run_path(str(SCRIPT))["Worker"](model_of(TAG))
    assert worker({"text": ["ab"], "score": [1]}).keys() == {"text", "score", "entities"}
    with pytest.raises(ValueError, match="column 'entities' of the input would be lost"):
        worker({"text": ["ab"], "entities": [1]})


@pytest.mark.parametrize("dies", ["nobody", "a worker", "the run"])
def test_two_workers_answer_as_one_process(dies, corpus, expected, model_of, tmp_path):  # noqa: F811
    arguments = (model_of(TAG), corpus, tmp_path / "out", "--group_files", 4, "--batch_rows", 50, "--cpus", 0.5)
    process = start(*arguments)
    deadline = time.monotonic() + 150
    if dies != "nobody":
        while len(workers(process)) < 2:
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        os.kill(workers(process)[0], signal.SIGKILL)
    if dies == "the run":
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        process = start(*arguments)
    output = process.communicate(timeout=150)[0]
    assert process.returncode == 0, output[-3000:]
    ids, entities = answers_in(tmp_path / "out")
    assert sorted(ids) == sorted(expected)
    for each, found in zip(ids, entities, strict=True):
        assert_same(found, expected[each])


def test_a_group_of_a_file_that_has_changed_is_not_taken(tmp_path, monkeypatch, capsys):
    """Only the names were compared, and the answers to the earlier file stayed."""
    script = runpy.run_path(str(SCRIPT))
    group = tmp_path / "out" / "group-00000"
    group.mkdir(parents=True)
    path = tmp_path / "in" / "a.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"text": ["a"]}), path)
    ((_, members),) = script["groups"]([path], 1)
    (group / script["FILES"]).write_text(json.dumps(members))
    monkeypatch.setattr(sys, "argv", ["ray_predict.py", "no model", str(path.parent), str(tmp_path / "out")])
    script["main"]()
    pq.write_table(pa.table({"text": ["a", "another text"]}), path)
    with pytest.raises(SystemExit):
        script["main"]()
    assert f"{group}: was made of other files" in capsys.readouterr().err
