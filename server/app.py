"""The server's application: its routes, and what an error looks like."""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..data.errors import InputError, RowError, describe, error_line, nearest_first, printable
from ..data.kinds import ASSISTANT
from ..explorer.page import render, script, style
from ..serving.engines import Writer
from ..serving.predictor import Predictor
from ..tasks.encoding import Row
from ..training.models import check_position_limit
from ..version import __version__
from .batching import Batcher, BusyError, Job, Listener
from .interfaces import INTERFACES, ChatRequest, Interface, Pair, inputs_of
from .limits import ExpectHost, GoneError, LimitBody, error_response, unless_gone
from .metrics import Metrics
from .options import LOCAL_HOST, Limits
from .streams import Piece, TextPieces, chat_events, event, event_response, generation_events, stream, written_tokens

logger = logging.getLogger(__name__)

# The status of a request whose client has gone, for the log and the metrics.
GONE = 499
# The key of a body that has the messages of a chat.
MESSAGES = "messages"
# Seconds after which a refused client may ask again.
RETRY_AFTER = 1
PAGE = Path(__file__).with_name("page.html")
# The page loads nothing from elsewhere.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass
class Service:
    """A served model.

    Args:
        name: under which it is served.
        predictor: the model.
        limits: of the server.
        metrics: of the server.
        logs_texts: whether inputs and answers are logged.
    """

    name: str
    predictor: Predictor
    limits: Limits
    metrics: Metrics
    logs_texts: bool = False

    def __post_init__(self) -> None:
        self.interface: Interface = INTERFACES[self.predictor.task.name]
        self.batcher = Batcher(self.predictor.rows, self.limits.max_wait, self.limits.max_rows, self.observe)
        self.metrics.waiting.labels(self.name).set_function(lambda: self.batcher.rows)

    @property
    def has_chat(self) -> bool:
        """Whether the model answers messages."""
        return self.interface.reads_messages and self.predictor.rows.settings.tokenizer.chat_template is not None

    def info(self) -> dict[str, Any]:
        """What the server says about the model."""
        settings = self.predictor.rows.settings
        return {
            "model_id": self.name,
            "pipeline_tag": self.interface.task,
            "path": f"/models/{self.name}",
            "has_chat": self.has_chat,
            "streams": self.interface.writes,
            "explores": self.predictor.can_be_explored,
            "mask_token": settings.tokenizer.mask_token,
            "labels": settings.labels,
            "problem_type": settings.problem_type,
            "max_length": settings.max_length,
        }

    def observe(self, rows: int, tokens: int) -> None:
        """Count a batch."""
        self.metrics.batch_rows.labels(self.name).observe(rows)
        self.metrics.batch_tokens.labels(self.name).observe(tokens)

    # --- Requests ---

    async def infer(self, body: Any) -> Response:
        """The answer to a request of the inference API."""
        parameters = body.parameters or self.interface.parameters()
        self.interface.check(parameters)
        settings = self.interface.settings(parameters, self.predictor.rows.settings)
        rows = [self.interface.row(value) for value in inputs_of(body.inputs)]
        generation = self.generation(self.interface.generation(parameters))

        def response(answer: dict[str, Any], row: Row) -> Any:
            return self.interface.response(answer, row, parameters, settings)

        if getattr(body, "stream", None):
            if isinstance(body.inputs, list):
                raise InputError("stream: is for one input, but inputs is a list")
            pieces, _ = await self.stream(rows[0], "inputs", generation)
            return event_response(generation_events(pieces, lambda answer: response(answer, rows[0])))
        jobs = await self.submit(rows, "inputs", generation)
        answers = await self.batcher.answers(jobs, settings)
        self.log_texts(rows, answers)
        found = [response(answer, row) for answer, row in zip(answers, rows, strict=True)]
        # As the API of Hugging Face: an input that is one text gets one answer, for some tasks in a list.
        return JSONResponse(found if isinstance(body.inputs, list) or self.interface.wraps_one else found[0])

    async def chat(self, body: ChatRequest) -> Response:
        """The answer to messages."""
        if not self.has_chat:
            raise InputError(f"model: {self.name} does not answer messages; it is asked at /models/{self.name}")
        body.check()
        row = {"messages": [message.row() for message in body.messages]}
        generation = self.generation(body.generation(), body.limit)
        settings, created = self.predictor.rows.settings, int(time.time())
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": created, "model": self.name, "system_fingerprint": ""}
        if body.stream:
            pieces, job = await self.stream(row, MESSAGES, generation)
            chunk = {**head, "object": "chat.completion.chunk"}
            return event_response(chat_events(pieces, chunk, lambda: self.chat_end(job), body.has_usage))
        (job,) = await self.submit([row], MESSAGES, generation)
        (answer,) = await self.batcher.answers([job], settings)
        self.log_texts([row], [answer])
        reason, usage = self.chat_end(job)
        message = {"role": ASSISTANT, "content": answer["prediction"]}
        choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
        return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    def chat_end(self, job: Job) -> tuple[str, dict[str, int]]:
        """Why the answer to messages ends, and the numbers of tokens."""
        count, has_ended = written_tokens(job, self.ends)
        counts = {"prompt_tokens": sum(job.encoded.lengths), "completion_tokens": count}
        return "stop" if has_ended else "length", {**counts, "total_tokens": sum(counts.values())}

    async def explore(self, body: Any) -> Response:
        """What the explorer shows of one input; a chat model gets it as a message."""
        explorer = self.predictor.explorer(name=self.name, generation=self.generation({}))
        row = self.interface.row(body.inputs)
        if self.has_chat:
            row = {"messages": [{"role": "user", "content": body.inputs}]}
        (row,) = self.read([row], "inputs")
        encoded, result = await self.batcher.call(row, explorer.read, explorer.compute)
        loop = asyncio.get_running_loop()
        data = await loop.run_in_executor(self.batcher.texts, explorer.data, encoded, result)
        self.log_texts([row], [data["answer"]])
        return JSONResponse(data)

    async def submit(
        self, rows: list[Row], place: str, generation: dict[str, Any], listener: Listener | None = None
    ) -> list[Job]:
        """As `Batcher.submit`, for rows at a key of the body. Rows that are cut are counted and logged.

        Raises:
            InputError: the rows are wrong, or messages are too long: the beginning of a chat is not left out.
        """
        jobs = await self.batcher.submit(self.read(rows, place), generation, listener)
        cut = [tokens for job in jobs for tokens in job.encoded.cut if tokens]
        if cut and place == MESSAGES:
            for job in jobs:
                job.drop()
            most = self.predictor.rows.settings.max_length
            raise InputError(f"{MESSAGES}: have more than {most} tokens, which is the --max_length of this server")
        if cut:
            self.metrics.cut_rows.labels(self.name).inc(len(cut))
            logger.info("%s: %d of %d rows are too long and are cut", self.name, len(cut), len(rows))
        return jobs

    async def stream(
        self, row: Row, place: str, generation: dict[str, Any]
    ) -> tuple[AsyncIterator[Piece | dict[str, Any]], Job]:
        """The pieces of the text that is written for a row, and its job. Raises what `submit` raises."""
        tokens: asyncio.Queue[int] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def listen(token: int) -> None:
            loop.call_soon_threadsafe(tokens.put_nowait, token)

        listener = listen if self.listens(generation) else None
        jobs = await self.submit([row], place, generation, listener)
        pieces = TextPieces(self.predictor.rows.settings.tokenizer, self.ends)
        return self.logged(row, stream(self.batcher, jobs, tokens, pieces)), jobs[0]

    async def logged(
        self, row: Row, pieces: AsyncIterator[Piece | dict[str, Any]]
    ) -> AsyncIterator[Piece | dict[str, Any]]:
        """The pieces; the answer, which comes last, is logged if this is wanted."""
        async for each in pieces:
            if not isinstance(each, Piece):
                self.log_texts([row], [each])
            yield each

    # --- Parts of requests ---

    def read(self, rows: list[Row], place: str) -> list[Row]:
        """Check rows, which stand at this key of the body. Raises InputError for too many, too long or wrong ones."""
        if len(rows) > self.limits.max_rows:
            raise InputError(f"{place}: are {len(rows)} rows; at most {self.limits.max_rows} are read")
        total = sum(characters(row) for row in rows)
        if total > self.limits.max_characters:
            raise InputError(f"{place}: have {total} characters; at most {self.limits.max_characters} are read")
        reader = self.predictor.make_reader()
        return [reader.read(row, place, number, None) for number, row in enumerate(rows, 1)]

    def generation(self, given: dict[str, Any], limit: str = "max_new_tokens") -> dict[str, Any]:
        """The arguments of `model.generate`. Raises InputError if `limit`, the option, asks for too many tokens."""
        rows, most = self.predictor.rows, self.limits.max_new_tokens
        asked = given.get("max_new_tokens", 0)
        if asked > most:
            raise InputError(f"{limit}: {asked} is more than {most}, the limit of this server")
        check_position_limit(rows.model.config, {limit: asked})
        found = {**rows.generation, **given}
        if not self.interface.writes:
            return found
        own = rows.new_tokens(found)
        if "max_new_tokens" in found or own > most:
            # A model's own max_length would be in the way.
            found |= {"max_new_tokens": min(own, most), "max_length": None}
        return found

    def listens(self, generation: Mapping[str, Any]) -> bool:
        """Whether tokens can be heard as they are generated: not with several beams, or in another engine."""
        model = self.predictor.rows.model
        beams = generation.get("num_beams", model.generation_config.num_beams) or 1
        return beams == 1 and not isinstance(model, Writer)

    @property
    def ends(self) -> list[int]:
        """The ids of the tokens that end a text."""
        ends = self.predictor.rows.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]

    # --- Around a request ---

    async def handle(self, answer: Awaitable[Response], place: str, request: Request) -> Response:
        """The response, or that of an error of the rows at a key of the body; both are counted."""
        begin = time.monotonic()
        try:
            response = await unless_gone(answer, request)
        except GoneError:
            response = error_response(GONE, "the client has gone")
        except BusyError:
            response = error_response(503, "the server is busy, try again", **{"Retry-After": str(RETRY_AFTER)})
        except RowError as error:
            response = error_response(422, f"{place}: row {error.row + 1}: {error.reason}")
        except InputError as error:
            response = error_response(422, printable(str(error)))
        except Exception:
            logger.exception("%s: a request failed", self.name)
            response = error_response(500, "internal error")
        if isinstance(response, StreamingResponse):
            response.body_iterator = self.until_end(response.body_iterator, begin)
        else:
            self.count(begin, response.status_code)
        return response

    async def until_end(self, events: AsyncIterator[str], begin: float) -> AsyncIterator[str]:
        """The events, and one more after an error; the request is counted when they end."""
        status = GONE
        try:
            async for each in events:
                yield each
            status = 200
        except InputError as error:
            status = 422
            yield event({"error": printable(str(error)), "error_type": "validation"})
        except Exception:
            status = 500
            logger.exception("%s: a stream failed", self.name)
            yield event({"error": "internal error", "error_type": "generation"})
        finally:
            self.count(begin, status)

    def count(self, begin: float, status: int) -> None:
        """Count and log a request."""
        seconds = time.monotonic() - begin
        self.metrics.requests.labels(self.name, status).inc()
        self.metrics.seconds.labels(self.name).observe(seconds)
        logger.info("%s: %d in %.0f ms", self.name, status, 1000 * seconds)

    def log_texts(self, rows: list[Row], answers: list[dict[str, Any]]) -> None:
        """Log what was asked and answered, if this is wanted."""
        if self.logs_texts:
            for row, answer in zip(rows, answers, strict=True):
                logger.info("%s: %r: %r", self.name, row, answer)


def characters(value: Any) -> int:
    """The number of characters of all texts in a row."""
    if isinstance(value, str):
        return len(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(characters, parts))


# --- The application ---


def create_app(
    predictors: Mapping[str, Predictor], limits: Limits, hosts: Iterable[str] = (LOCAL_HOST,), logs_texts: bool = False
) -> FastAPI:
    """The application that serves models.

    Args:
        predictors: the models by name.
        limits: of requests.
        hosts: names of this server in the header Host, besides its addresses; `*` allows all.
        logs_texts: whether inputs and answers are logged.
    """
    metrics = Metrics()
    services = {name: Service(name, each, limits, metrics, logs_texts) for name, each in predictors.items()}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        for service in services.values():
            await asyncio.to_thread(service.batcher.close)

    app = FastAPIOffline(redoc_url=None, title="seqblend", version=__version__, lifespan=lifespan)
    app.add_middleware(LimitBody, most=limits.max_body)
    app.add_middleware(ExpectHost, hosts=tuple(hosts))
    add_error_handlers(app, metrics, [f"/models/{name}" for name in services])
    add_pages(app, services, metrics)
    for service in services.values():
        add_model(app, service, is_only=len(services) == 1)
    add_chat(app, services, metrics)
    return app


def add_error_handlers(app: FastAPI, metrics: Metrics, paths: Sequence[str]) -> None:
    """Errors as JSON with one key, `error`; those that no model has seen are counted without a model.

    Args:
        app: changed here.
        metrics: of the server.
        paths: those of the models.
    """

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        status, message, cause = error.status_code, str(error.detail), error.__cause__
        if isinstance(cause, ClientDisconnect):
            status, message = GONE, "the client has gone"
        elif status == 400 and cause is not None:
            message = printable(f"body: is no JSON ({error_line(cause)})")
        elif status in (404, 405):
            asked = printable(f"{request.method} {request.url.path:.100}")
            message = f"{asked}: {message}; the models are at {', '.join(paths)}, and /docs lists all paths"
        metrics.requests.labels("", status).inc()
        return error_response(status, message, **(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> Response:
        status, message = validation_message(error.errors())
        kind = request.headers.get("content-type", "")
        if message.startswith("body: ") and "json" not in kind:
            message = f"body: must be JSON, with the header Content-Type: application/json, but the header is {kind!r}"
        metrics.requests.labels("", status).inc()
        return error_response(status, printable(message))


# pydantic puts the names of the types of a union between the keys.
TYPES = {"str", "constrained-str", Pair.__name__}


def validation_message(errors: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """The status and the message for a body that is wrong: of the error that is deepest in it."""
    worst = max(errors, key=lambda error: len(error["loc"]))
    if worst["type"] == "json_invalid":
        return 400, f"body: is no JSON ({worst['ctx']['error']})"
    place = [str(part) for part in worst["loc"] if part not in TYPES and not str(part).startswith("list[")]
    path = ".".join(place[1:]) or "body"
    if worst["type"] in ("extra_forbidden", "missing"):
        return 422, f"{path}: {'is missing' if worst['type'] == 'missing' else 'is unknown'}"
    return 422, f"{path}: {worst['msg']}, but is {describe(worst['input'])}"


def add_pages(app: FastAPI, services: Mapping[str, Service], metrics: Metrics) -> None:
    """The page, and what operators ask; FastAPI adds the description of the API, /docs."""
    page, begin = render(PAGE, style=style(), script=script()), int(time.time())

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return HTMLResponse(page, headers=PAGE_HEADERS)

    @app.get("/health", summary="Whether the server answers")
    async def health() -> Response:
        return health_of(services.values())

    # Monitors ask without a body.
    for path, answer in {"/": root, "/health": health}.items():
        app.head(path, include_in_schema=False)(answer)

    @app.get("/info", summary="The served models")
    async def info() -> dict[str, Any]:
        return {"version": __version__, "models": [service.info() for service in services.values()]}

    @app.get("/v1/models", summary="The served models, as OpenAI lists them")
    async def models() -> dict[str, Any]:
        same = {"object": "model", "created": begin, "owned_by": "seqblend"}
        return {"object": "list", "data": [{"id": name, **same} for name in services]}

    @app.get("/metrics", summary="Metrics for Prometheus")
    async def prometheus() -> Response:
        return Response(metrics.page(), headers={"Content-Type": metrics.content_type})


def health_of(services: Iterable[Service]) -> Response:
    """Whether models answer: 503 names one that does not."""
    for service in services:
        if not service.batcher.is_alive:
            return error_response(503, f"{service.name}: does not answer any more")
    return JSONResponse({"status": "ok"})


def add_model(app: FastAPI, service: Service, is_only: bool) -> None:
    """The routes of a model, `/models/NAME`; of the only one also `/`."""
    request_model, explore_model = service.interface.request_model(), service.interface.explore_model()

    async def infer(body: request_model, request: Request) -> Response:  # type: ignore[valid-type]
        return await service.handle(service.infer(body), "inputs", request)

    async def chat(body: ChatRequest, request: Request) -> Response:
        return await service.handle(service.chat(body), MESSAGES, request)

    async def explore(body: explore_model, request: Request) -> Response:  # type: ignore[valid-type]
        return await service.handle(service.explore(body), "inputs", request)

    async def info() -> dict[str, Any]:
        return service.info()

    async def health() -> Response:
        return health_of([service])

    path = f"/models/{service.name}"
    for each in [path, "/"] if is_only else [path]:
        app.post(each, summary=f"{service.interface.task}: {service.name}", name=f"infer {each}")(infer)
    app.post(f"{path}/explore", summary=f"explore: {service.name}", name=f"explore {path}")(explore)
    app.get(f"{path}/info", include_in_schema=False)(info)
    app.get(f"{path}/health", include_in_schema=False)(health)
    if service.has_chat:
        app.post(f"{path}/v1/chat/completions", summary=f"chat: {service.name}", name=f"chat {path}")(chat)


def add_chat(app: FastAPI, services: Mapping[str, Service], metrics: Metrics) -> None:
    """/v1/chat/completions, whose body names the model, if a served model answers messages."""
    able = {name: service for name, service in services.items() if service.has_chat}
    if not able:
        return

    @app.post("/v1/chat/completions", summary="Answer messages")
    async def chat(body: ChatRequest, request: Request) -> Response:
        service = services.get(body.model or "")
        if service is None and len(able) == 1:
            # Clients that know one model only give it any name.
            service = next(iter(able.values()))
        if service is None:
            metrics.requests.labels("", 404).inc()
            known = ", ".join(nearest_first(body.model or "", able))
            return error_response(404, f"model: unknown value {body.model!r}; valid are {known}")
        return await service.handle(service.chat(body), MESSAGES, request)
