"""`seqblend serve DIR …`: answer HTTP requests with saved models."""

import argparse
import asyncio
import dataclasses
import logging
import math
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from ..data.errors import InputError, print_error
from ..serving.options import PredictionOptions
from ..serving.predictor import Predictor
from ..tasks.sequence_classification import SEVERAL
from ..training.progress import start_logging
from .options import LOCAL_HOST, Limits

logger = logging.getLogger(__name__)

DESCRIPTION = "Serve saved models over HTTP, with the JSON of Hugging Face's inference API, and a page to try them."
PACKAGES = "fastapi uvicorn prometheus-client fastapi-offline"
# The options of prediction that a server has; requests give the others.
OPTIONS = ("words", "max_tokens_per_batch", "decode_tags", "max_length", "overflow", "overlap", "num_beams")
OPTIONS += ("threshold",)
# Seconds after SIGTERM in which requests are still answered.
SECONDS_TO_END = 300
# Seconds after which Python lets another thread run; by default 5 milliseconds.
SWITCH_INTERVAL = 0.0002
# Seconds for which a connection without a request stays open: longer than proxies keep it (60), which would otherwise
# send a request to a connection that is being closed.
KEEP_ALIVE = 75
# Connections that may wait to be accepted.
BACKLOG = 2048
HELP = {
    "max_body": "Largest body of a request, in bytes; default: 1 MiB.",
    "max_characters": "Maximum number of characters of all inputs of a request; default: 200,000.",
    "max_rows": "Maximum number of rows of a model that wait or are computed; further requests get 503; default: 512.",
    "max_wait": "Seconds that a request waits for others, to be computed in one batch with them; default: 0.003.",
    "max_new_tokens": "Maximum number of tokens that a request may ask for; default: 1024.",
}


def parse(argv: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser("seqblend serve", description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]DIR",
        help="Saved or exported models, with their tokenizers; default of NAME: the name of the directory.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="Address to listen on; default: this machine only.")
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on; 0: any free one; default: 8000.")
    parser.add_argument(
        "--allowed_hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="Further names of this server, without port, that the header Host may have; *: any name.",
    )
    parser.add_argument(
        "--log",
        choices=("errors", "requests", "texts"),
        default="requests",
        help="What is logged: errors, requests or texts; default: requests.",
    )
    for field in dataclasses.fields(Limits):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default, help=HELP[field.name])
    for field in dataclasses.fields(PredictionOptions):
        if field.name in OPTIONS:
            types = (field.type, *getattr(field.type, "__args__", ()))
            kind = next(each for each in (str, float, int) if each in types)
            parser.add_argument(f"--{field.name}", type=kind, default=field.default, help=field.metadata["help"])
    return parser.parse_args(argv)


def named_directories(given: Sequence[str]) -> dict[str, str]:
    """The directory of each model by its name. Raises InputError for a name that is not unique or fits in no path."""
    found: dict[str, str] = {}
    for each in given:
        name, separator, directory = each.partition("=")
        if not separator or "/" in name:
            name, directory = Path(each).resolve().name, each
        if not name or not all(part.isalnum() or part in "-_." for part in name):
            raise InputError(f"NAME: {name!r} must have letters, digits, '-', '_' and '.' only; NAME=DIR gives a name")
        if name in found:
            raise InputError(f"NAME: two models are called {name!r}; NAME=DIR gives another name")
        found[name] = directory
    return found


def limits_of(given: argparse.Namespace) -> Limits:
    """The limits. Raises InputError for a value that is not positive."""
    values = {field.name: getattr(given, field.name) for field in dataclasses.fields(Limits)}
    for name, value in values.items():
        if not 0 <= value < math.inf or (value == 0 and name != "max_wait"):
            raise InputError(f"{name}: must be positive, got {value}")
    return Limits(**values)


def load(directories: dict[str, str], given: argparse.Namespace) -> dict[str, Predictor]:
    """The models by name. Raises InputError if one cannot be loaded or served."""
    from .interfaces import INTERFACES, MOST_TOKENS_FOR_A_MASK

    options = {name: getattr(given, name) for name in OPTIONS}
    found = {}
    for name, directory in directories.items():
        predictor = Predictor(directory, PredictionOptions(**options))
        if predictor.task.name not in INTERFACES:
            raise InputError(f"{directory}: models of {predictor.task.name} are not served")
        if given.threshold is not None and predictor.rows.settings.problem_type == SEVERAL:
            raise InputError(
                f"threshold: a server answers with the scores of all labels, and {directory} gives several"
            )
        if "top_k" in predictor.task.answer_options(predictor.rows.settings.problem_type):
            rows = predictor.rows
            rows.settings = dataclasses.replace(rows.settings, top_k=MOST_TOKENS_FOR_A_MASK)
        found[name] = predictor
        logger.info("%s: %s from %s", name, INTERFACES[predictor.task.name].task, directory)
    return found


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises InputError if the address cannot be used."""
    if not 0 <= port < 2**16:
        raise InputError(f"port: must be from 0 to {2**16 - 1}, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        raise InputError(f"host: {host}:{port} cannot be used ({error})") from error
    return found


def run(argv: list[str]) -> None:
    """Serve until SIGTERM or Ctrl-C; requests that were accepted are answered. Raises InputError."""
    given = parse(argv)
    try:
        import uvicorn

        from .app import create_app
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0].replace("_", "-") not in PACKAGES.split():
            raise
        raise InputError(f"serve: needs {error.name}; pip install {PACKAGES}") from error
    limits, directories = limits_of(given), named_directories(given.models)
    accepting = listen(given.host, given.port)
    hosts = {LOCAL_HOST, given.host, *given.allowed_hosts}
    app = create_app(load(directories, given), limits, hosts, logs_texts=given.log == "texts")
    logging.getLogger("seqblend.server.app").setLevel(logging.WARNING if given.log == "errors" else logging.INFO)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        log_config=None,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=SECONDS_TO_END,
    )
    host, port = accepting.getsockname()[:2]
    logger.info("http://%s:%d", f"[{host}]" if ":" in host else host, port)
    # The threads of the models wait for Python's lock between operations; while requests come in, up to this long.
    sys.setswitchinterval(SWITCH_INTERVAL)
    asyncio.run(uvicorn.Server(config).serve([accepting]))


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 0, or 2 if an option or a model is wrong."""
    start_logging()
    for chatty in ("uvicorn", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        run(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        return print_error(error)
    except KeyboardInterrupt:
        return 130
    return 0
