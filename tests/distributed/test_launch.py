"""The commands of docs/scale.md start as many processes as the page says."""

import re
import shlex
from pathlib import Path

import pytest
import torch.distributed.run
from accelerate.commands.launch import launch_command, launch_command_parser

import seqblend

ROOT = Path(seqblend.__file__).parent
PAGE = (ROOT / "docs" / "scale.md").read_text().replace("\\\n", "")
ON_CPU = "ACCELERATE_USE_CPU=1 "
COMMANDS = sorted(set(re.findall(rf"((?:{ON_CPU})?(?:torchrun|accelerate launch)\b[^`\n]*?) train\.py", PAGE)))
# The page says that this one starts as many.
COMMANDS += [command.replace("ddp.yaml", "fsdp2.yaml") for command in COMMANDS if "ddp.yaml" in command]

SCRIPT = """
import os
from pathlib import Path
Path(__file__).with_name("process {RANK} of {WORLD_SIZE}".format(**os.environ)).touch()
"""


def test_the_page_has_commands_of_both_kinds():
    programs = [command.removeprefix(ON_CPU).split()[0] for command in COMMANDS]
    assert programs.count("accelerate") == 2 and "torchrun" in programs


@pytest.mark.parametrize("command", COMMANDS)
def test_two_processes_start(command, tmp_path, monkeypatch):
    """With `--cpu` in place of the variable, accelerate started one."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(int(command.startswith(ON_CPU))))
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    program, *words = [*shlex.split(command.removeprefix(ON_CPU)), str(script)]
    if program == "torchrun":
        torch.distributed.run.main(words)
    else:
        launch_command(launch_command_parser().parse_args(words[1:]))
    assert {path.name for path in tmp_path.glob("process*")} == {"process 0 of 2", "process 1 of 2"}
