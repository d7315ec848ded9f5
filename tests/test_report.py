"""The page of results says what the runs' own files say."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seqblend.benchmarks.phones import BASELINES, phones_table
from seqblend.benchmarks.results import FIGURES, SURENESS, collect, main, write_report


def results(index, **figures):
    return {
        "command": f"python train.py examples/run{index}.yaml",
        "machine": f"{index} CPU threads",
        "versions": "seqblend 0.1.0, torch 2.13.0",
        "parameters": 1_260_000 + index,
        "train_runtime": 90.0,
        **figures,
    }


def write_runs(directory, runs):
    for name, content in runs.items():
        (directory / "runs" / name).mkdir(parents=True)
        (directory / "runs" / name / "all_results.json").write_text(json.dumps(content))
    collect(directory / "runs", directory)


def lines_of(page, what):
    return [line for line in page.splitlines() if line.startswith(f"| {what} |")]


@pytest.mark.parametrize("name", FIGURES)
def test_a_row_has_the_figure_of_the_run(name, tmp_path):
    figure = FIGURES[name]
    write_runs(tmp_path, {name: results(2, **{figure.key: 0.9125})})
    page = write_report(tmp_path)
    shown = "0.912" if not figure.percent else "8.75 %" if figure.error_rate else "91.25 %"
    (line,) = [line for line in page.splitlines() if line.endswith("| 1.3 M | 1.5 |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [figure.what, figure.start, figure.name, f"**{shown}**", figure.published, "1.3 M", "1.5"]
    assert lines_of(page, name) == [f"| {name} | `python train.py examples/run2.yaml` | 2 CPU threads |"]
    assert page.splitlines()[-1] == "Versions: seqblend 0.1.0, torch 2.13.0."


def test_runs_stand_in_the_order_of_the_figures_and_others_are_not_shown(tmp_path):
    write_runs(tmp_path, {name: results(i, **{FIGURES[name].key: 0.5}) for i, name in enumerate(reversed(FIGURES))})
    write_runs(tmp_path, {"another": results(9)})
    page = write_report(tmp_path)
    rows = [page.index(f"| {name} | `") for name in FIGURES]
    assert rows == sorted(rows) and "another" not in page
    assert page.count("Versions:") == page.count("torch 2.13.0") == 1


def test_runs_with_other_seeds_are_repetitions(tmp_path):
    values = {"minilm_clinc150": 0.96, "minilm_clinc150_seed1": 0.97, "minilm_clinc150_seed2": 0.95}
    write_runs(tmp_path, {name: results(i, test_accuracy=value) for i, (name, value) in enumerate(values.items())})
    page = write_report(tmp_path)
    assert "**96.00 %** (96.00, 97.00, 95.00)" in page
    assert len(lines_of(page, "minilm_clinc150")) == 3


def test_runs_with_out_of_scope_questions_have_a_table(tmp_path):
    values = {key: 0.1 + index / 1000 for index, key in enumerate(SURENESS)}
    write_runs(tmp_path, {"clinc150": results(1, **values), "minilm_clinc150": results(2, test_accuracy=0.9)})
    page = write_report(tmp_path)
    assert "| clinc150 | from scratch | 10.0 | 10.1 | 10.2 | 10.3 | 10.4 | 10.5 |" in page
    assert lines_of(page, "minilm_clinc150") == [
        "| minilm_clinc150 | `python train.py examples/run2.yaml` | 2 CPU threads |"
    ]


def test_languages_have_a_table_with_the_baseline_and_the_mean_of_all_of_a_size(tmp_path):
    assert phones_table(tmp_path) == []
    low = list(BASELINES[800])
    rates = {"eval_exact_match": 0.8, "test_exact_match": 0.7, "epoch": 60.0}
    done = {f"g2p_{language}": results(1, **rates) for language in [*low, "kor"]}
    write_runs(tmp_path, {"clinc150": results(2, test_accuracy=0.9), **done})
    page = write_report(tmp_path)
    assert lines_of(page, "ady, 800 words") == ["| ady, 800 words | 60 | 22.0 | 22.0 | 20.0 | 30.0 |"]
    assert lines_of(page, "**mean of the 10**") == ["| **mean of the 10** |  | 22.4 | 25.1 | 20.0 | 30.0 |"]
    assert lines_of(page, "kor, 8,000 words") == ["| kor, 8,000 words | 60 | 18.4 | 16.3 | 20.0 | 30.0 |"]
    missing = [language for language in [*BASELINES[8000], "eng_us"] if language != "kor"]
    assert f"Not trained here: {', '.join(missing)}." in page
    assert len(lines_of(page, "g2p_ady")) == 1


def test_results_of_earlier_runs_stay(tmp_path):
    """Their directories are not part of the repository."""
    write_runs(tmp_path, {"tinyshakespeare": results(1, eval_loss=1.8765), "clinc150": results(2, test_accuracy=0.9)})
    shutil.rmtree(tmp_path / "runs")
    write_runs(tmp_path, {"tinyshakespeare": results(3, eval_loss=1.5)})
    page = write_report(tmp_path)
    assert "**90.00 %**" in page and "**1.500**" in page and "1.877" not in page


def test_a_directory_without_runs_is_refused_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs"), str(tmp_path / "store")])
    assert main() == 1
    printed = capsys.readouterr()
    assert not printed.out and printed.err.startswith(f"error: {tmp_path / 'store'}: has none of the runs clinc150, ")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(("script", "page"), [("echo new", "new\n"), ("echo half; exit 1", "old\n")])
def test_make_leaves_the_page_where_there_is_no_report(script, page, tmp_path):
    """`>` empties a file before the command begins that may fail."""
    shutil.copy(Path(__file__).parents[1] / "Makefile", tmp_path)
    for folder in ("bin", "docs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "docs/results.md").write_text("old\n")
    (tmp_path / "bin/python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin/python").chmod(0o755)
    made = ["make", "results", "VENV=venv", "BIN=bin", "--old-file=venv/package"]
    done = subprocess.run(made, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode == 0) == (page == "new\n"), done.stderr
    assert (tmp_path / "docs/results.md").read_text() == page


def test_the_command_prints_the_page(tmp_path, capsys, monkeypatch):
    write_runs(tmp_path, {"tinyshakespeare": results(1, eval_loss=1.8765)})
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path / "runs"), str(tmp_path)])
    assert main() == 0
    assert capsys.readouterr().out == write_report(tmp_path) + "\n"
    assert "**1.877**" in write_report(tmp_path)
