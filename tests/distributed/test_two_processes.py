"""The two processes that the other tests here run in. They import this file, which imports little."""

import os
import signal

import pytest
from two_processes import in_two_processes


def wait_in_vain(folder):
    (folder / f"{os.getpid()}.pid").touch()
    signal.pause()


def test_processes_that_wait_in_vain_are_ended_and_say_where(tmp_path):
    """So no test of two processes can hang. The stacks of both were written into one pipe, and their lines mixed."""
    with pytest.raises(AssertionError, match=r"line \d+ in wait_in_vain\n"):
        in_two_processes(wait_in_vain, tmp_path, timeout=5)
    pids = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 2 and not any(os.path.exists(f"/proc/{pid}") for pid in pids)
