"""Concurrent requests to one model, computed together: without padding, up to a number of tokens."""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from transformers.generation import BaseStreamer

from ..serving.prediction import EncodedRows, RowPredictor
from ..tasks.encoding import Answer, Row, Settings

logger = logging.getLogger(__name__)

# Gets the tokens that were generated for a row, as they come.
Listener = Callable[[int], None]


class BusyError(Exception):
    """Too many rows wait for an answer."""


@dataclass
class Job:
    """A request that waits for the model.

    Args:
        encoded: its rows.
        generation: arguments of `model.generate`; only requests with equal ones are computed together.
        listener: gets each generated token of the first row; None: nobody listens.
    """

    encoded: EncodedRows
    generation: dict[str, Any]
    listener: Listener | None = None
    outputs: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)

    @property
    def tokens(self) -> int:
        """The number of tokens of all its sequences."""
        return sum(self.encoded.lengths)


class Streamer(BaseStreamer):
    """Passes generated tokens to the listeners of a batch. `generate` first puts the prompts, then a token a row.

    Args:
        listeners: one a row; None: nobody listens.
    """

    def __init__(self, listeners: list[Listener | None]):
        self.listeners, self.has_prompts = listeners, False

    def put(self, value: Any) -> None:
        """Take the prompts (B, T), or the next tokens (B)."""
        if not self.has_prompts:
            self.has_prompts = True
            return
        for listener, token in zip(self.listeners, value.tolist(), strict=True):
            if listener is not None:
                listener(token)

    def end(self) -> None:
        """Nothing more comes."""


class Batcher:
    """Joins the requests that arrive within a few milliseconds, and those that wait while the model computes.

    Two threads work for it: one uses the tokenizer, which is not safe in several threads, the other the model.

    Args:
        predictor: answers rows; its `max_tokens` limit a batch.
        max_wait: seconds that the first request of a batch waits for others.
        max_rows: the rows that may wait or be computed; more are refused.
        observe: gets the number of rows and of tokens of each batch.
    """

    def __init__(self, predictor: RowPredictor, max_wait: float, max_rows: int, observe: Callable[[int, int], None]):
        self.predictor, self.max_wait, self.max_rows, self.observe = predictor, max_wait, max_rows, observe
        self.rows = 0
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._texts = ThreadPoolExecutor(1, "texts")
        self._model = threading.Thread(target=self._run, name="model", daemon=True)
        self._model.start()

    async def submit(self, rows: list[Row], generation: dict[str, Any], listener: Listener | None = None) -> Job:
        """Encode the rows of a request, and let them wait for the model.

        Raises:
            BusyError: too many rows wait already.
            RowError: a row cannot be read.
        """
        # A request of more rows than that is answered if no other waits.
        if self.rows and self.rows + len(rows) > self.max_rows:
            raise BusyError
        loop = asyncio.get_running_loop()
        self.rows += len(rows)
        try:
            encoded = await loop.run_in_executor(self._texts, self.predictor.encode, rows)
        except BaseException:
            self.rows -= len(rows)
            raise
        job = Job(encoded, generation, listener)
        job.outputs.add_done_callback(lambda _: loop.call_soon_threadsafe(self._forget, len(rows)))
        with self._changed:
            self._waiting.append(job)
            self._changed.notify()
        return job

    async def answers(self, job: Job, settings: Settings) -> list[Answer]:
        """The answers to the rows of a job, once the model has computed it.

        Raises:
            InputError: the arguments of generation do not go together, or a row is too long.
        """
        outputs = await asyncio.wrap_future(job.outputs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._texts, self.predictor.decode, job.encoded, outputs, settings)

    def _forget(self, rows: int) -> None:
        self.rows -= rows

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._model.join()
        self._texts.shutdown()

    # --- The model's thread ---

    def _run(self) -> None:
        while jobs := self._take():
            self.observe(sum(len(job.encoded.rows) for job in jobs), sum(job.tokens for job in jobs))
            try:
                outputs = self._compute(jobs)
            except Exception as error:
                self._compute_alone(jobs, error)
                continue
            for job, each in zip(jobs, outputs, strict=True):
                job.outputs.set_result(each)

    def _compute(self, jobs: list[Job]) -> list[list[Any]]:
        """The outputs of jobs with equal arguments of generation."""
        parts = [job.encoded for job in jobs]
        if all(job.listener is None for job in jobs):
            return self.predictor.compute(parts, jobs[0].generation)
        listeners: list[Listener | None] = []
        for job in jobs:
            listeners += [job.listener, *[None] * (len(job.encoded.positions) - 1)]
        return self.predictor.compute(
            parts, jobs[0].generation, lambda batch: Streamer([listeners[index] for index in batch])
        )

    def _compute_alone(self, jobs: list[Job], error: Exception) -> None:
        """After an error of a batch: each job by itself, so that only the one that caused the error fails."""
        for job in jobs:
            try:
                if len(jobs) == 1:
                    raise error
                job.outputs.set_result(self._compute([job])[0])
            except Exception as reason:
                job.outputs.set_exception(reason)

    def _take(self) -> list[Job]:
        """The next jobs with equal arguments of generation, in their order; empty at the end."""
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return []
                self._changed.wait()
            deadline = self._waiting[0].arrived + self.max_wait
            while not self._closed and self._tokens_waiting() < self.predictor.max_tokens:
                if not self._changed.wait(deadline - time.monotonic()) or time.monotonic() >= deadline:
                    break
            taken: list[Job] = []
            left: deque[Job] = deque()
            tokens = 0
            for job in self._waiting:
                fits = not taken or tokens + job.tokens <= self.predictor.max_tokens
                if fits and job.generation == (taken or [job])[0].generation:
                    # False for a job whose client has gone.
                    if job.outputs.set_running_or_notify_cancel():
                        taken.append(job)
                        tokens += job.tokens
                else:
                    left.append(job)
            self._waiting = left
        return taken or self._take()

    def _tokens_waiting(self) -> int:
        return sum(job.tokens for job in self._waiting)
