"""SIGTERM and Ctrl-C as exceptions, so that a command that they end says so and leaves nothing half-written."""

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
    """Inside, SIGTERM raises Terminated, unless another handler is installed already."""
    is_main = threading.current_thread() is threading.main_thread()
    is_default = is_main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if is_default:
        restore_handlers_in_children()
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if is_default:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ending(error: BaseException) -> tuple[str, int]:
    """The name of the signal behind Terminated or KeyboardInterrupt, and the exit code of the process."""
    return ("SIGTERM", TERMINATED) if isinstance(error, Terminated) else ("Ctrl-C", INTERRUPTED)


@cache
def restore_handlers_in_children() -> None:
    """Let SIGTERM end processes that are forked from this one, such as workers, without a traceback."""

    def restore() -> None:
        if signal.getsignal(signal.SIGTERM) == terminate:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    os.register_at_fork(after_in_child=restore)
