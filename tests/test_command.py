"""One command, `seqblend`: it runs what the older commands run, and lists its commands."""

import dataclasses
import re
import runpy
import subprocess
import sys

import pytest
import yaml
from transformers import Seq2SeqTrainingArguments

from seqblend import __version__
from seqblend.__main__ import COMMANDS, command_of, main
from seqblend.configuration.recipes import RECIPES
from seqblend.conversion.registry import ARCHITECTURES as CONVERTED
from seqblend.listing import NEEDED
from seqblend.tasks.registry import TASKS
from seqblend.training.arguments import BlendTrainingArguments, DataArguments, ModelArguments
from seqblend.training.command_line import GROUPS, parse_arguments


def test_every_command_is_listed_and_runs(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in listed
        with pytest.raises(SystemExit) as end:
            command_of(name)(["--help"])
        assert end.value.code == 0
        assert capsys.readouterr().out.startswith("usage: ")


def test_no_command_and_a_wrong_one(capsys):
    assert main([]) == 2
    assert "usage: seqblend" in capsys.readouterr().out
    assert main(["trian"]) == 2
    assert "error: command: unknown value 'trian'; valid are train, " in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_exit_codes_are_those_of_the_command(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "nope"), "--input", "-"]) == 2
    assert "there is no directory" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 2
    assert "reference.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["errors"], ["compare", "b"], ["publish", "--repo_id", "you/a", "--dry_run"]])
def test_a_directory_that_does_not_exist_is_named(command, tmp_path, capsys):
    """The commands said that no model is saved there."""
    assert main([*command[:1], str(tmp_path / "nope"), *command[1:]]) == 2
    assert capsys.readouterr().err == f"error: there is no directory {tmp_path / 'nope'}\n"


@pytest.mark.parametrize(
    ("arguments", "where"),
    [
        (["data", "--task", "seq2seq-lm"], "reports.data.report"),
        (["errors", "DIR"], "reports.errors.read_run"),
        (["compare", "A", "B"], "reports.compare.read_run"),
        (["explore", "DIR", "--text", "a", "--output", "a.html"], "explore.run"),
        (["tasks"], "__main__.importlib.import_module"),
    ],
)
def test_ctrl_c_ends_a_command_with_a_line(arguments, where, monkeypatch, capsys):
    """Also while its module is loaded, which takes seconds."""
    command_of(arguments[0])

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"seqblend.{where}", interrupt)
    assert main(arguments) == 130
    assert capsys.readouterr().err == f"Ctrl-C: seqblend {arguments[0]} has ended\n"


def test_a_message_of_a_library_is_printed_once():
    """Both have a handler of their own, and the command has another one."""
    code = """import logging
from seqblend.training.progress import start_logging
start_logging()
for name in ("huggingface_hub", "datasets"):
    logging.getLogger(f"{name}.file").warning("no network for %s", name)"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = [line for line in ended.stderr.splitlines() if "no network" in line]
    assert lines == ["no network for huggingface_hub", "no network for datasets"]


def test_convert_lists_architectures(capsys):
    assert main(["convert", "--list"]) == 0
    assert "bert" in capsys.readouterr().out.split()


def test_it_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seqblend", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("seqblend", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out == f"{__version__}\n"


def own_options():
    """Our options of training, without those that transformers has, too."""
    known = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    kinds = (ModelArguments, DataArguments, BlendTrainingArguments)
    return {field.name for kind in kinds for field in dataclasses.fields(kind)} - known


def test_the_help_of_training_has_each_of_our_options_once(capsys):
    """In a group and in one spelling; 80 columns are enough; no value is shown that says nothing."""
    with pytest.raises(SystemExit) as end:
        main(["train", "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    named = [name for names in GROUPS.values() for name in names]
    assert len(named) == len({*named}) and own_options() <= {*named}
    found = re.findall(r"(?m)^  --(\w+)", text)
    assert found == named
    assert max(map(len, text.splitlines())) <= 80 and "%%" not in text
    assert "None" not in text and "SUPPRESS" not in text and "(default: 512)" in text
    assert "--help all" in text


def test_the_help_of_a_data_report_is_its_own(capsys):
    """Its flags are those of training."""
    helps = []
    for name in ("train", "data"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        helps.append(capsys.readouterr().out)
    assert helps[1].startswith("usage: seqblend data [FILE.yaml") and "  seqblend data --task " in helps[1]
    assert helps[0].partition("\nmodel:\n")[2] == helps[1].partition("\nmodel:\n")[2] != ""


def test_the_help_of_a_search_fits_into_80_columns(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_the_whole_help_has_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help", "all"])
    found = re.findall(r"(?m)^  --(\w+)", capsys.readouterr().out)
    fields = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments) if field.init}
    assert len(found) == len({*found}) and fields | own_options() == {*found}


@pytest.mark.parametrize("name", ["tasks", "recipes", "models"])
def test_lists(name, capsys):
    """Each has a line for what there is, and every line has all columns."""
    assert main([name]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines]
    expected = {
        "tasks": [*TASKS],
        "recipes": [recipe for recipe, models in RECIPES.items() for _ in models],
        "models": [each.model_type for each in CONVERTED.values()],
    }
    assert first == expected[name]
    assert {len(re.split(r"\s{2,}", line)) for line in (head, *lines)} == {3}


@pytest.mark.parametrize("task", TASKS)
def test_a_file_of_options_runs_as_it_is_and_with_its_defaults(task, tmp_path, capsys, monkeypatch):
    """Every comment that is an option is one, with its default; what other tasks alone have is not there."""
    assert main(["init", task]) == 0
    text = capsys.readouterr().out
    monkeypatch.chdir(tmp_path)
    plain = yaml.safe_load(text)
    assert plain == {"task": task, **NEEDED}
    options = re.findall(r"(?m)^# (\w+):(?: (.*))?$", text)
    commented = {name: value for name, value in options if name in {*sum(GROUPS.values(), ())}}
    assert len(commented) > 60 and not {*commented} & {"task", *NEEDED}
    (tmp_path / "plain.yaml").write_text(text)
    whole = "\n".join(f"{name}: {value}" for name, value in commented.items() if value)
    (tmp_path / "whole.yaml").write_text(f"{text}\n{whole}\n")
    one, other = (parse_arguments([f"{name}.yaml"]) for name in ("plain", "whole"))
    for first, second in zip(one, other, strict=True):
        names = [field.name for field in dataclasses.fields(first)]
        assert [name for name in names if getattr(first, name) != getattr(second, name)] == []
    others = {"masked-lm": "mean_span_length", "seq2seq-lm": "label_column", "causal-lm": "decode_tags"}
    assert others.get(task) not in commented
    assert ("source_column" in commented) == TASKS[task].generates


def test_a_file_of_options_of_an_unknown_task(capsys):
    assert main(["init", "tagging"]) == 2
    assert "error: task: unknown value 'tagging'" in capsys.readouterr().err
