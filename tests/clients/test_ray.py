"""Ray: the answers of two workers are those of one process, whatever dies."""

import contextlib
import os
import re
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
MARK = "SEQBLEND_TEST_RAY"


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


def start(mark, *arguments):
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


def workers(mark):
    """The process ids of the workers of a run with this mark in its environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_worker = re.match(rb"ray::.*Worker", (process / "cmdline").read_bytes())
            if is_worker and f"{MARK}={mark}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def answers_in(directory):
    files = sorted(directory.glob("group-*/*.parquet"))
    table = pads.dataset(files).to_table()
    return table["id"].to_pylist(), table["entities"].to_pylist()


@pytest.mark.parametrize("dies", ["nobody", "a worker", "the run"])
def test_two_workers_answer_as_one_process(dies, corpus, expected, model_of, tmp_path):  # noqa: F811
    arguments = (model_of(TAG), corpus, tmp_path / "out", "--group_files", 4, "--batch_rows", 50, "--cpus", 0.5)
    mark = str(tmp_path)
    process = start(mark, *arguments)
    deadline = time.monotonic() + 150
    if dies != "nobody":
        while len(workers(mark)) < 2:
            assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        os.kill(workers(mark)[0], signal.SIGKILL)
    if dies == "the run":
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        process = start(mark, *arguments)
    output = process.communicate(timeout=150)[0]
    assert process.returncode == 0, output[-3000:]
    ids, entities = answers_in(tmp_path / "out")
    assert sorted(ids) == sorted(expected)
    for each, found in zip(ids, entities, strict=True):
        assert_same(found, expected[each])
