"""Runs a function of a test module in two processes that share a CPU by gloo, and comes back whatever happens.

Each has the variables of the environment that torchrun gives it. They are forked from one process that has imported
everything, which costs a third of torchrun and two that import for themselves; and they meet at a file, so that no
port can be taken.
"""

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

Shared = Callable[[Path], Any]


def in_two_processes(function: Shared, folder: Path, timeout: int = 240) -> list[Any]:
    """What the function, called with the folder, returns in either process; JSON can hold it.

    Args:
        function: of a test module.
        folder: in which it has not been run before.
        timeout: seconds. Then the processes say where they are, and all that was started is killed.

    Raises:
        AssertionError: a process failed, or took too long; the message is what they said.
    """
    deadline = time.time() + timeout
    process = subprocess.Popen(
        [sys.executable, __file__, function.__module__, function.__name__, str(folder), str(deadline)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=timeout + 15)
    except subprocess.TimeoutExpired:
        kill_group(process)
        said, _ = process.communicate()
    finally:
        kill_group(process)
    assert process.returncode == 0, said[-8000:]
    return [json.loads((folder / f"{function.__name__}.{rank}.json").read_text()) for rank in (0, 1)]


def kill_group(process: subprocess.Popen) -> None:
    """End the process and all that it started, where any are left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run(module: str, name: str, folder: str, deadline: str) -> None:
    """Import the module, and be two from then on."""
    function = getattr(importlib.import_module(module), name)
    arguments = (function, Path(folder), float(deadline))
    multiprocessing.start_processes(share, arguments, nprocs=2, start_method="fork")


def share(rank: int, function: Shared, folder: Path, deadline: float) -> None:
    """Be one of the two."""
    faulthandler.dump_traceback_later(max(1, deadline - time.time()), exit=True)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    store = f"file://{folder}/{function.__name__}.store"
    torch.distributed.init_process_group("gloo", store, world_size=2, rank=rank)
    (folder / f"{function.__name__}.{rank}.json").write_text(json.dumps(function(folder)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    run(*sys.argv[1:])
