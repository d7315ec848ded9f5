"""Runs a function of a test module in two processes that share a CPU by gloo, and comes back whatever happens.

Each has the variables of the environment that torchrun gives it. They are forked from one process that has imported
everything, itself a fork of the template: which costs far less than torchrun and two that import for themselves. They
meet at a file, so that no port can be taken. What each prints goes to a file of its own: in one pipe the lines of the
two would mix.
"""

import faulthandler
import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from template import TEMPLATE
from torch import multiprocessing

Shared = Callable[[Path], Any]
# Seconds for two processes to meet, after one has imported everything.
TO_MEET = 80
SCRIPT = "import sys, two_processes; two_processes.run(*sys.argv[1:])"


def in_two_processes(function: Shared, folder: Path, timeout: int = 240) -> list[Any]:
    """What the function, called with the folder, returns in either process; JSON can hold it.

    Args:
        function: of a test module.
        folder: in which it has not been run before.
        timeout: seconds, from the start of the function. Then the processes print their stacks, and all that was
            started is killed.

    Raises:
        AssertionError: a process failed, or took too long; the message is what they printed.
    """
    arguments = (function.__module__, function.__name__, folder, timeout)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = TEMPLATE.run(SCRIPT, *arguments, cwd=Path.cwd(), env=environment)
    if done.returncode:
        TEMPLATE.stop()  # and any process that is left
    logs = [path.read_text(errors="replace") for path in sorted(folder.glob(f"{function.__name__}.*.log"))]
    assert done.returncode == 0, "\n".join(each[-8000:] for each in (done.stdout, done.stderr, *logs))
    return [json.loads((folder / f"{function.__name__}.{rank}.json").read_text()) for rank in (0, 1)]


def run(module: str, name: str, folder: str, timeout: str) -> None:
    """Import the module, and be two from then on."""
    function = getattr(importlib.import_module(module), name)
    arguments = (function, Path(folder), float(timeout))
    multiprocessing.start_processes(share, arguments, nprocs=2, start_method="fork")


def share(rank: int, function: Shared, folder: Path, timeout: float) -> None:
    """Be one of the two."""
    with open(folder / f"{function.__name__}.{rank}.log", "wb") as log:
        for standard in (sys.stdout, sys.stderr):
            os.dup2(log.fileno(), standard.fileno())
    faulthandler.dump_traceback_later(TO_MEET, exit=True)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    store = f"file://{folder}/{function.__name__}.store"
    torch.distributed.init_process_group("gloo", store, world_size=2, rank=rank)
    faulthandler.dump_traceback_later(timeout, exit=True)
    (folder / f"{function.__name__}.{rank}.json").write_text(json.dumps(function(folder)))
    torch.distributed.destroy_process_group()
