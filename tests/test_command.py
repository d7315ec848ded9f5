"""One command, `seqblend`: it runs what the older commands run, and lists its commands."""

import runpy
import sys

import pytest

from seqblend import __version__
from seqblend.__main__ import COMMANDS, command_of, main


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


def test_convert_lists_architectures(capsys):
    assert main(["convert", "--list"]) == 0
    assert "bert" in capsys.readouterr().out.split()


def test_it_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["seqblend", "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("seqblend", run_name="__main__")
    assert end.value.code == 0 and capsys.readouterr().out == f"{__version__}\n"
