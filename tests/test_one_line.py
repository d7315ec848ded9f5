"""A name with a line end in it, or with characters that nobody sees, leaves a line one line."""

import json

import pytest
from conftest import tiny_model
from rows import load_data
from test_report import results, write_runs
from test_tasks import settings_for
from test_train_command import CLASSIFY, files
from test_training_options import prepared

from seqblend.benchmarks.results import FIGURES, write_report
from seqblend.data.errors import InputError, printable
from seqblend.data.objects import json_line
from seqblend.modeling.encoder import BlendEncoderForSequenceClassification
from seqblend.predict import print_error
from seqblend.reports.data_report import make_data_report, warn_about_leakage
from seqblend.scoring.tags import describe_scheme, find_scheme
from seqblend.tasks.registry import TASKS
from seqblend.training.class_weights import parse_weights
from seqblend.training.models import relabel

# Of those that end a line for somebody, and of those that a terminal obeys.
ODD = ["\n", "\r", "\0", "\x0b", "\x1b[2K", "\x85", "\u2028", "\u2029"]
every_odd = pytest.mark.parametrize("odd", ODD, ids=ascii)


def assert_one_line(text):
    """It has no character that cannot be seen, and says what such a one was."""
    assert text.isprintable() and "\\" in text


@every_odd
def test_labels_in_lines_that_are_said(odd, tmp_path, caplog):
    caplog.set_level("INFO")
    name = f"a{odd}b"
    model = tiny_model(BlendEncoderForSequenceClassification, num_labels=2)
    relabel(model, [name, "b"], ["b", name + "c"], "path")
    rows = [{"text": "t", "label": label} for label in (name, "c")]
    prepared(tmp_path / "out", class_weights="balanced", task=CLASSIFY, **files(tmp_path, rows, ["train"]))
    said = [message for message in caplog.messages if "b" in message and "\\" in message]
    assert len(said) >= 2
    tags = [f"B-{name}", f"I-{name}", "O"]
    for message in [*said, describe_scheme(tags, find_scheme(tags))]:
        assert_one_line(message)


@every_odd
def test_labels_in_errors(odd, capsys):
    with pytest.raises(InputError) as error:
        parse_weights([1], [f"a{odd}b", "c"])
    assert print_error(error.value, 2) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert_one_line(line)


def test_names_of_files(tmp_path, caplog):
    directory = tmp_path / "a\nb"
    directory.mkdir()
    path = directory / "a.jsonl"
    path.write_text(json.dumps({"text": "a", "label": "x"}) + "\n" + json.dumps({"text": "b", "label": "y"}))
    data = load_data(CLASSIFY, train_file=path, validation_file=path, known=["x", "y"])
    caplog.clear()
    report = make_data_report(TASKS[CLASSIFY], data, settings_for(labels=data.label_names))
    warn_about_leakage(report, data, ["text"])
    assert caplog.messages
    for message in caplog.messages:
        assert_one_line(message)


@every_odd
def test_answers(odd):
    line = json_line({"input": f"a{odd}b"})
    assert line.splitlines() == [line[:-1]] and json.loads(line) == {"input": f"a{odd}b"}


def test_a_name_that_can_be_seen_stays_as_it_is():
    assert printable("서울 é 👩 a\\b") == "서울 é 👩 a\\b"


def test_commands_in_the_report(tmp_path):
    name = "tinyshakespeare"
    command = "python train.py --card_data 'title=a\n| b'"
    write_runs(tmp_path, {name: {**results(1, **{FIGURES[name].key: 0.5}), "command": command}})
    (line,) = [line for line in write_report(tmp_path).splitlines() if line.startswith(f"| {name}")]
    assert line.replace(r"\|", "").count("|") == 4
