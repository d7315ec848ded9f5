"""SIGTERM as an exception, so that a command that is ended by it says so and leaves nothing half-written."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

# What a shell reports of a process that SIGTERM ended, and of one that Ctrl-C did.
TERMINATED = 128 + signal.SIGTERM
INTERRUPTED = 128 + signal.SIGINT


class Terminated(BaseException):
    """SIGTERM came; as KeyboardInterrupt, no `except Exception` catches it."""


def terminate(number: int, frame: Any) -> None:
    """Handle SIGTERM. Raises Terminated."""
    raise Terminated


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM raises Terminated, unless somebody else listens to it already."""
    is_main = threading.current_thread() is threading.main_thread()
    is_ours = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if is_ours:
        leave_children_alone()
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@cache
def leave_children_alone() -> None:
    """Let processes that are forked from this one, and ended by it, end without a traceback."""

    def forget() -> None:
        if signal.getsignal(signal.SIGTERM) == terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=forget)
