"""What a run prints while it trains: a line for each log, which fits a terminal, with numbers that are numbers."""

import logging
import re
from types import SimpleNamespace

import pytest
from test_resume import trainer_for
from test_train_command import CLASSIFY, ROWS, files, flags, plain_cards  # noqa: F401
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerState

from seqblend.train import main
from seqblend.training.progress import WIDTH, LogLines, WholeWords, log_line, minutes

STATE = TrainerState(global_step=200, max_steps=2820)
TRAINED = {"loss": 3.00421, "grad_norm": 7.18, "learning_rate": 0.00199, "epoch": 0.8511, "num_input_tokens_seen": 9}
TRAINED |= {"train_tokens_per_second": 5929.3, "seconds_left": 313.2}
EVALUATED = {"eval_accuracy": 0.7023, "eval_macro_f1": 0.6814, "eval_loss": 1.105, "eval_runtime": 2.9, "epoch": 1.0}
EVALUATED |= {"eval_samples_per_second": 1031.2}


def test_a_line_of_training():
    expected = "  200/2,820   0.85  loss 3.004  lr 0.001990  5,929 tokens/s  5:13 left"
    assert log_line(TRAINED, STATE) == expected


def test_a_line_of_an_evaluation():
    expected = "  200/2,820   1.00  eval loss 1.105  accuracy 0.7023  macro_f1 0.6814  best"
    assert log_line(EVALUATED, STATE, is_best=True) == expected
    assert not log_line(EVALUATED, STATE).endswith("best")


def test_an_evaluation_without_training():
    line = log_line({**EVALUATED, "model_preparation_time": 0.1, "epoch": 0}, TrainerState())
    assert line == "eval loss 1.105  accuracy 0.7023  macro_f1 0.6814"


def test_numbers():
    logs = {"loss": 12345.67, "count": 1234567, "small": 1.5e-7, "even": 2.0}
    assert log_line(logs, TrainerState()) == "loss 12,345.7  count 1,234,567  small 1.500e-07  even 2.000"


def test_the_last_line():
    logs = {"train_runtime": 3905.2, "train_loss": 0.51234, "total_flos": 10**12, "epoch": 3.0}
    assert log_line(logs, STATE) == "200 steps in 1:05:05, mean loss 0.5123"
    # A run that is resumed at its end has no loss.
    assert log_line({"train_runtime": 0.2}, STATE) == "200 steps in 0:00"


@pytest.mark.parametrize(
    "logs", [TRAINED, EVALUATED, {**EVALUATED, **{f"eval_metric_{n}": n / 7 for n in range(20)}}, {"mine": "a text"}]
)
@pytest.mark.parametrize("is_best", [True, False])
def test_no_line_is_longer_than_a_terminal(logs, is_best):
    state = TrainerState(global_step=12_345_678, max_steps=99_999_999)
    line = log_line(logs, state, is_best)
    assert len(line) <= WIDTH and "\n" not in line and ("  best" in line) == is_best


def test_minutes():
    assert [minutes(each) for each in (0, 59.6, 61, 3599, 3600)] == ["0:00", "1:00", "1:01", "59:59", "1:00:00"]


@pytest.mark.parametrize(
    ("metric", "greater", "best", "expected"),
    [
        (None, None, None, False),
        ("accuracy", True, None, True),
        ("accuracy", True, 0.7, True),
        ("eval_accuracy", True, 0.71, False),
        ("loss", False, 1.2, True),
        ("loss", False, 1.1, False),
        ("other", True, 0.1, False),
    ],
)
def test_the_best_evaluation(metric, greater, best, expected):
    args = SimpleNamespace(metric_for_best_model=metric, greater_is_better=greater)
    state = TrainerState(best_metric=best, global_step=1)
    assert LogLines.is_best(EVALUATED, args, state) == expected
    assert not LogLines.is_best(TRAINED, args, state)
    # Of the untrained model.
    assert not LogLines.is_best(EVALUATED, args, TrainerState(best_metric=best))


def test_a_run_prints_lines_and_no_mapping(tmp_path, capsys):
    """Where the output is no terminal, there is no bar."""
    given = {"task": CLASSIFY, **files(tmp_path, ROWS[CLASSIFY]), "output_dir": tmp_path / "out", "max_steps": 6}
    given |= {"logging_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "metric_for_best_model": "accuracy"}
    assert main(flags(given.pop("output_dir"), given)) == 0
    found = capsys.readouterr()
    steps = [int(step) for step in re.findall(r"(?m)^ *(\d+)/6 ", found.out)]
    assert steps == [2, 3, 4, 6, 6]
    # The numbers of the end, the metric that chooses the best model first.
    assert re.search(r"(?m)^validation, 5 rows: loss [\d.]+  accuracy [\d.]+  \w+", found.out)
    assert re.search(r"(?m)^test, 5 rows: loss [\d.]+  accuracy [\d.]+  \w+", found.out)
    assert max(map(len, found.out.splitlines())) <= WIDTH
    assert "{" not in found.out and "\r" not in found.err and "it/s" not in found.err
    assert len(re.findall(r"(?m)  best$", found.out)) >= 1


def test_on_a_terminal_messages_are_broken_between_words(monkeypatch):
    record = logging.LogRecord("", logging.INFO, "", 0, "%s words\n  a  table", ("many " * 40,), None)
    monkeypatch.setenv("COLUMNS", "60")
    first, *middle, last = WholeWords("%(message)s").format(record).split("\n")
    assert last == "  a  table" and max(map(len, [first, *middle])) < 60
    assert all(line.startswith("  ") for line in middle)
    assert " ".join([first, *middle]).split() == ["many"] * 40 + ["words"]


def test_no_bar_stays_when_it_has_ended(tmp_path, monkeypatch):
    bars = []
    monkeypatch.setattr(
        "transformers.trainer_callback.tqdm", lambda *args, **kwargs: bars.append(tqdm(*args, **kwargs)) or bars[-1]
    )
    trainer = trainer_for(tmp_path, disable_tqdm=False, eval_strategy="epoch")
    trainer.train()
    trainer.evaluate()
    assert len(bars) >= 3 and not [bar for bar in bars if bar.leave]


@pytest.mark.parametrize("has_bar", [True, False])
def test_the_lines_can_be_turned_off(has_bar, tmp_path, capsys):
    trainer = trainer_for(tmp_path, disable_tqdm=not has_bar, logging_steps=1)
    assert (trainer.pop_callback(ProgressCallback) is not None) == has_bar
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert capsys.readouterr().out == ""
