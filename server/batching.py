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

import torch
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer

from ..data.errors import InputError, RowError
from ..serving.engines import Writer
from ..serving.prediction import EncodedRows, RowPredictor
from ..tasks.encoding import Answer, Row, Settings
from ..tasks.models import continues, position_limit

logger = logging.getLogger(__name__)

# Gets the tokens that were generated for a row, as they come.
Listener = Callable[[int], None]
# The rows of a request that are encoded together; more are several jobs, so that others need not wait for all.
ROWS = 64


class BusyError(Exception):
    """Too many rows wait for an answer."""


@dataclass(eq=False)
class Job:
    """Rows that wait for the model.

    Args:
        encoded: the rows.
        generation: arguments of `model.generate`; only jobs with equal ones are computed together.
        cost: the number of tokens that it adds to a batch.
        listener: gets each generated token of the only row; None: nobody listens.
        call: what the model's thread does for this job, alone, in place of computing its rows.

    Attributes:
        outputs: of the model, one a sequence.
        arrived: when it began to wait.
        heard: the number of tokens that the listener has got.
        computed: the number of tokens since generation has begun, which it does again after the fault of another job.
        is_wanted: whether somebody waits for the outputs.
    """

    encoded: EncodedRows
    generation: dict[str, Any]
    cost: int
    listener: Listener | None = None
    call: Callable[[], Any] | None = None
    outputs: Future = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    heard: int = 0
    computed: int = 0
    is_wanted: bool = True

    def drop(self) -> None:
        """Nobody waits for the outputs any more: they are not computed, or computing ends early."""
        self.is_wanted = False
        self.outputs.cancel()

    def hear(self, token: int) -> None:
        """Give the listener a token that it has not got."""
        self.computed += 1
        if self.listener is not None and self.computed > self.heard:
            self.heard += 1
            self.listener(token)


class Streamer(BaseStreamer):
    """Passes generated tokens to the jobs of a batch. `generate` first puts the prompts, then a token a row.

    Args:
        jobs: one a row.
    """

    def __init__(self, jobs: list[Job]):
        self.jobs, self.has_prompts = jobs, False
        for job in jobs:
            job.computed = 0

    def put(self, value: Any) -> None:
        """Take the prompts (B, T), or the next tokens (B)."""
        if not self.has_prompts:
            self.has_prompts = True
            return
        for job, token in zip(self.jobs, value.tolist(), strict=True):
            job.hear(token)

    def end(self) -> None:
        """Nothing more comes."""


class UntilUnwanted(StoppingCriteria):
    """Ends the texts of a batch that nobody waits for.

    Args:
        jobs: one a row.
    """

    def __init__(self, jobs: list[Job]):
        self.jobs = jobs

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Whether each sequence ends (N); a row has several with several beams."""
        ended = torch.tensor([not job.is_wanted for job in self.jobs], device=input_ids.device)
        return ended.repeat_interleave(len(input_ids) // len(self.jobs))


class Batcher:
    """Joins the requests that arrive within a few milliseconds, and those that wait while the model computes.

    Two threads work for it: one uses the tokenizer, which is not safe in several threads, the other the model.

    Args:
        predictor: answers rows; its `max_tokens` limit a batch.
        max_wait: seconds that the first request of a batch waits for others.
        max_rows: the rows that may wait or be computed; more are refused, and no request has more.
        observe: gets the number of rows and of tokens of each batch that the model reads.

    Attributes:
        rows: the rows that wait or are computed.
        texts: the thread that uses the tokenizer.
    """

    def __init__(self, predictor: RowPredictor, max_wait: float, max_rows: int, observe: Callable[[int, int], None]):
        self.predictor, self.max_wait, self.max_rows, self.observe = predictor, max_wait, max_rows, observe
        self.rows = 0
        self.texts = ThreadPoolExecutor(1, "texts")
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._model = threading.Thread(target=self._run, name="model", daemon=True)
        self._model.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are computed."""
        return self._model.is_alive()

    async def submit(self, rows: list[Row], generation: dict[str, Any], listener: Listener | None = None) -> list[Job]:
        """Encode the rows of a request, and let them wait for the model.

        Args:
            rows: of a reader.
            generation: arguments of `model.generate`.
            listener: gets the generated tokens of the only row.

        Raises:
            BusyError: too many rows wait already.
            InputError: a row cannot be read, or its prompt leaves no room for the new tokens.
        """
        if self.rows + len(rows) > self.max_rows:
            raise BusyError
        self.rows += len(rows)
        loop = asyncio.get_running_loop()
        try:
            parts = await loop.run_in_executor(self.texts, self._encode, rows)
            for part in parts:
                self._check_room(part, generation)
            costs = [self.predictor.cost(part.lengths, generation) for part in parts]
            jobs = [Job(part, generation, cost, listener) for part, cost in zip(parts, costs, strict=True)]
        except BaseException:
            self.rows -= len(rows)
            raise
        self._put(jobs, loop)
        return jobs

    async def call(self, row: Row, read: Callable[[Row], Any], compute: Callable[[Any], Any]) -> tuple[Any, Any]:
        """Run two functions on a row: the first in the thread of the tokenizer, the next in that of the model.

        Args:
            row: of a reader; it counts as one that waits.
            read: gets the row.
            compute: gets what `read` has returned.

        Returns:
            What both have returned.

        Raises:
            BusyError: too many rows wait already.
        """
        if self.rows >= self.max_rows:
            raise BusyError
        self.rows += 1
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self.texts, read, row)
        except BaseException:
            self.rows -= 1
            raise
        # It costs more than a batch may, so that nothing is computed with it.
        job = Job(EncodedRows([row], {}, [], []), {}, self.predictor.max_tokens + 1, call=lambda: compute(found))
        self._put([job], loop)
        try:
            return found, await asyncio.wrap_future(job.outputs)
        finally:
            job.drop()

    def _put(self, jobs: list[Job], loop: asyncio.AbstractEventLoop) -> None:
        """Let jobs wait for the model."""
        for job in jobs:
            job.outputs.add_done_callback(lambda _, job=job: loop.call_soon_threadsafe(self._forget, job))
        with self._changed:
            self._waiting.extend(jobs)
            self._changed.notify()

    async def answers(self, jobs: list[Job], settings: Settings) -> list[Answer]:
        """The answers to the rows of a request, once the model has computed it.

        Raises:
            InputError: the arguments of generation do not go together, or a row is too long.
        """
        loop, found = asyncio.get_running_loop(), []
        try:
            for job in jobs:
                try:
                    outputs = await asyncio.wrap_future(job.outputs)
                except RowError as error:
                    raise RowError(len(found) + error.row, error.reason) from error
                decode = self.predictor.decode
                found += await loop.run_in_executor(self.texts, decode, job.encoded, outputs, settings)
        finally:
            for job in jobs:
                job.drop()
        return found

    @property
    def samples(self) -> bool:
        """Whether the model generates at random by its own settings."""
        return self.predictor.task.generation is not None and self.predictor.model.generation_config.do_sample is True

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._model.join()
        self.texts.shutdown()

    def _encode(self, rows: list[Row]) -> list[EncodedRows]:
        """The rows in parts."""
        parts = []
        for start in range(0, len(rows), ROWS):
            try:
                parts.append(self.predictor.encode(rows[start : start + ROWS]))
            except RowError as error:
                raise RowError(start + error.row, error.reason) from error
        return parts

    def _check_room(self, encoded: EncodedRows, generation: dict[str, Any]) -> None:
        """Raises InputError if a prompt and its new tokens are more than the model's positions."""
        if not continues(self.predictor.task):
            return
        most, longest = position_limit(self.predictor.model.config), max(encoded.lengths)
        new = self.predictor.new_tokens(generation)
        if longest + new > most:
            raise InputError(
                f"max_new_tokens: {new} new tokens after a prompt of {longest} are more than the "
                f"model's {int(most)} positions"
            )

    def _forget(self, job: Job) -> None:
        """A job is answered, or its client has gone."""
        if job.outputs.cancelled():
            with self._changed:
                if job in self._waiting:
                    self._waiting.remove(job)
        self.rows -= len(job.encoded.rows)

    # --- The model's thread ---

    def _run(self) -> None:
        while (jobs := self._take()) is not None:
            try:
                if jobs:
                    self._compute(jobs)
            except Exception as error:
                logger.exception("the model's thread")
                for job in jobs:
                    if not job.outputs.done():
                        job.outputs.set_exception(error)

    def _outputs(self, jobs: list[Job]) -> list[Any]:
        """The outputs of each of the jobs, which have equal arguments of generation."""
        if jobs[0].call is not None:
            return [jobs[0].call()]
        rows = [(job, row) for job in jobs for row in job.encoded.document]
        lengths = [length for job in jobs for length in job.encoded.lengths]
        has_listener = any(job.listener is not None for job in jobs)
        can_stop = self.predictor.task.generation is not None and not isinstance(self.predictor.model, Writer)

        def begin_batch(batch: list[int]) -> dict[str, Any]:
            self.observe(len({rows[index] for index in batch}), sum(lengths[index] for index in batch))
            if not can_stop:
                return {}
            owners = [rows[index][0] for index in batch]
            criteria = StoppingCriteriaList([UntilUnwanted(owners)])
            return {"stopping_criteria": criteria, **({"streamer": Streamer(owners)} if has_listener else {})}

        return self.predictor.compute([job.encoded for job in jobs], jobs[0].generation, begin_batch)

    def _compute(self, jobs: list[Job]) -> None:
        """Compute jobs with equal arguments of generation; after an error each half again, so that few jobs fail."""
        try:
            outputs = self._outputs(jobs)
        except Exception as error:
            # What was drawn at random once is not drawn again.
            is_random = jobs[0].generation.get("do_sample", self.samples)
            failed = [job for job in jobs if len(jobs) == 1 or (is_random and job.heard)]
            for job in failed:
                job.outputs.set_exception(error)
            left = [job for job in jobs if job not in failed]
            for half in (left[: len(left) // 2], left[len(left) // 2 :]):
                if half:
                    self._compute(half)
            return
        for job, each in zip(jobs, outputs, strict=True):
            job.outputs.set_result(each)

    def _take(self) -> list[Job] | None:
        """The next jobs with equal arguments of generation, in their order; None at the end."""
        most = self.predictor.max_tokens
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            deadline = self._waiting[0].arrived + self.max_wait
            while not self._closed and sum(job.cost for job in self._waiting) < most:
                if not self._changed.wait(deadline - time.monotonic()) or time.monotonic() >= deadline:
                    break
            taken: list[Job] = []
            left: deque[Job] = deque()
            cost = 0
            for job in self._waiting:
                fits = not taken or cost + job.cost <= most
                if fits and job.generation == (taken or [job])[0].generation:
                    # False for a job whose client has gone.
                    if job.outputs.set_running_or_notify_cancel():
                        taken.append(job)
                        cost += job.cost
                else:
                    left.append(job)
            self._waiting = left
            return taken
