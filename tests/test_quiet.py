"""--quiet: errors and the result, and nothing else; and in every file and log numbers are numbers."""

import json
import logging

import pytest
from test_train_command import (
    CASES,
    CLASSIFY,
    ROWS,
    files,
    flags,
    model_of,  # noqa: F401
    plain_cards,  # noqa: F401
    quick_and_quiet,  # noqa: F401
    read,
    run,
)

from seqblend.predict import main as predict
from seqblend.train import main


def test_a_quiet_run_prints_its_result_alone(tmp_path, capfd, caplog):
    """What it prints otherwise comes back for the next run in the process."""
    caplog.set_level("INFO", logger="seqblend")
    given = {**files(tmp_path, ROWS[CLASSIFY]), "max_steps": 3, "quiet": True, "disable_tqdm": None}
    run(tmp_path / "quiet", **given)
    found = capfd.readouterr()
    assert [line.partition(":")[0] for line in found.out.splitlines() if line[0] != " "] == [
        "validation, 5 rows",
        "test, 5 rows",
    ]
    assert found.err == "" and not caplog.messages
    run(tmp_path / "loud", **{**given, "quiet": None})
    assert "loss" in capfd.readouterr().out and caplog.messages


def test_errors_are_printed(tmp_path, capfd, model_of):  # noqa: F811
    assert main(flags(tmp_path / "out", {"quiet": True, "train_file": tmp_path / "none.jsonl"})) == 2
    assert capfd.readouterr().err.startswith("error: ")
    assert predict([str(model_of(CLASSIFY)), "--quiet", "--input", str(tmp_path / "none.txt")]) == 2
    assert capfd.readouterr().err.startswith("error: ")


def test_a_quiet_prediction_prints_answers_alone(model_of, tmp_path, capfd, caplog):  # noqa: F811
    caplog.set_level("INFO")
    words = [str(model_of(CLASSIFY)), "--text", "a", "b" * 99, "--max_length", "4"]
    assert predict([*words, "--quiet"]) == 0
    found = capfd.readouterr()
    assert [json.loads(line)["input"] for line in found.out.splitlines()] == ["a", "b" * 99]
    assert found.err == "" and not caplog.messages
    assert predict(words) == 0
    assert len(caplog.messages) == 2 and capfd.readouterr().out == found.out
    assert logging.getLogger("transformers").level != logging.ERROR


def test_quiet_is_no_fact_of_a_run(tmp_path):
    """A run may be resumed with or without it."""
    given = {**files(tmp_path, ROWS[CLASSIFY], ["train"]), "save_strategy": "steps", "save_steps": 1}
    run(tmp_path / "out", **given, quiet=True)
    run(tmp_path / "out", **{**given, "max_steps": 2}, resume="auto")


@pytest.mark.parametrize(("task", "problem_type", "rows"), [case[:3] for case in CASES.values()], ids=CASES)
def test_numbers_are_numbers(task, problem_type, rows, tmp_path):
    out = run(tmp_path / "out", task=task, problem_type=problem_type, max_steps=2, **files(tmp_path, rows))
    for entry in read(out / "trainer_state.json")["log_history"]:
        assert not [name for name, value in entry.items() if isinstance(value, str) and not is_words(name)], entry
    for name, value in read(out / "all_results.json").items():
        if name.startswith(("eval_", "test_", "train_")) and not is_words(name):
            assert isinstance(value, int | float), (name, value)


def is_words(name):
    return name.endswith(("_signature", "_note", "_leakage"))
