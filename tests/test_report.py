"""The page of results says what the runs' own files say."""

import json
import sys

import pytest

from seqblend.training.report import FIGURES, main, write_report


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
        (directory / name).mkdir()
        (directory / name / "all_results.json").write_text(json.dumps(content))


def lines_of(page, what):
    return [line for line in page.splitlines() if line.startswith(f"| {what} |")]


@pytest.mark.parametrize("name", FIGURES)
def test_a_row_has_the_figure_of_the_run(name, tmp_path):
    figure = FIGURES[name]
    write_runs(tmp_path, {name: results(2, **{figure.key: 0.9125})})
    page = write_report(tmp_path)
    shown = "0.912" if not figure.percent else "8.75 %" if figure.error_rate else "91.25 %"
    (line,) = lines_of(page, figure.what)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == [figure.what, figure.name, f"**{shown}**", figure.published, "1.3 M", "1.5"]
    assert lines_of(page, name) == [f"| {name} | `python train.py examples/run2.yaml` | 2 CPU threads |"]
    assert page.splitlines()[-1] == "Versions: seqblend 0.1.0, torch 2.13.0."


def test_runs_stand_in_the_order_of_the_figures_and_others_are_not_shown(tmp_path):
    write_runs(tmp_path, {name: results(i, **{FIGURES[name].key: 0.5}) for i, name in enumerate(reversed(FIGURES))})
    write_runs(tmp_path, {"another": results(9)})
    page = write_report(tmp_path)
    rows = [page.index(f"| {name} | `") for name in FIGURES]
    assert rows == sorted(rows) and "another" not in page
    assert page.count("Versions:") == page.count("torch 2.13.0") == 1


def test_a_directory_without_runs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has none of the runs clinc150"):
        write_report(tmp_path)


def test_the_command_prints_the_page(tmp_path, capsys, monkeypatch):
    write_runs(tmp_path, {"tinyshakespeare": results(1, eval_loss=1.8765)})
    monkeypatch.setattr(sys, "argv", ["report", str(tmp_path)])
    main()
    assert capsys.readouterr().out == write_report(tmp_path) + "\n"
    assert "**1.877**" in write_report(tmp_path)
