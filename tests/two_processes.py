"""Runs a function of a test module in two processes that share a CPU by gloo, and comes back whatever happens.

Each has the variables of the environment that torchrun gives it. They are forked from one process that has imported
everything, which costs a third of torchrun and two that import for themselves; and they meet at a file, so that no
port can be taken. What each prints goes to a file of its own: in one pipe the lines of the two would mix.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

Shared = Callable[[Path], Any]
# Seconds for all, which pytest ends after 300, and for two processes to meet, after one has imported everything.
LIMIT, TO_MEET = 290, 80


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
    process = subprocess.Popen(
        [sys.executable, __file__, function.__module__, function.__name__, str(folder), str(timeout)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        kill_group(process)
        said, _ = process.communicate()
    finally:
        kill_group(process)
    logs = [path.read_text(errors="replace") for path in sorted(folder.glob(f"{function.__name__}.*.log"))]
    assert process.returncode == 0, "\n".join(each[-8000:] for each in (said, *logs))
    return [json.loads((folder / f"{function.__name__}.{rank}.json").read_text()) for rank in (0, 1)]


def kill_group(process: subprocess.Popen) -> None:
    """End the process and all that it started, where any are left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


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


if __name__ == "__main__":
    run(*sys.argv[1:])
