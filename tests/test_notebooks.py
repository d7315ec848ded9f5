"""The notebooks run from top to bottom: their Python as it stands, and their `!seqblend …` in the same process."""

import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_train_command import quick_and_quiet  # noqa: F401 - a fixture

from seqblend.__main__ import main
from seqblend.hub_card.card import write_card

NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples/notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
# Metrics of the test split that a notebook's model reaches, and what is printed when it answers.
EXPECTED = {
    "n21_korean": ({"accuracy": 0.85}, ["결말이 무난하다. 보통", "expected_calibration_error"]),
    "n2n_names": (
        {"f1": 0.9},
        ["PER Kenji Silva", "LOC New York", "['O', 'O', 'B-PER', 'O']", "calibration_error_before"],
    ),
    "n2m_dates": ({"exact_match": 0.7}, ["2031-03-06", "2043-05-01", "highest scores"]),
}


def cells_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def as_python(source):
    """The source of a cell, with `!seqblend …` as a call; a line that ends with a backslash goes on in the next."""

    def call(command):
        return f"_run({shlex.split(command[1].replace(chr(92) + chr(10), ' '))!r})"

    return re.sub(r"^!seqblend ((?:.*\\\n)*.*)$", call, source, flags=re.MULTILINE)


def run(command):
    assert main(command) == 0, command


@every_notebook
def test_it_runs(path, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("seqblend.training.publisher.write_card", partial(write_card, complete=False))
    display = SimpleNamespace(Markdown=str, IFrame=lambda source, **size: Path(source).read_text(encoding="utf-8"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    names = {"_run": run}
    for cell in cells_of(path):
        if cell["cell_type"] == "code":
            exec(compile(as_python("".join(cell["source"])), path.name, "exec"), names)
    metrics, words = EXPECTED[path.stem]
    results = json.loads(next(tmp_path.glob("runs/*/all_results.json")).read_text())
    for name, least in metrics.items():
        assert results[f"test_{name}"] >= least
    printed = capfd.readouterr().out
    assert all(word in printed for word in words), printed


@every_notebook
def test_outputs_are_stripped(path):
    cells = cells_of(path)
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if "outputs" in cell)
    assert len({cell["id"] for cell in cells}) == len(cells)
