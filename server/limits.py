"""What reaches the application: requests for an expected host, bodies of a bounded size, clients that still wait."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Iterable
from ipaddress import IPv4Address, IPv6Address

from fastapi import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Seconds in which a body must come.
SECONDS = 60
# Bytes of a refused body that are read.
MOST_DISCARDED = 2**26


class LimitBody:
    """Refuses a body of more than `most` bytes, also one that does not say its length, and one that does not come.

    Args:
        app: gets the requests.
        most: bytes.
    """

    def __init__(self, app: ASGIApp, most: int):
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        read = 0

        is_read, deadline = False, time.monotonic() + SECONDS

        async def in_time() -> Message:
            return await asyncio.wait_for(receive(), max(0, deadline - time.monotonic()))

        async def counted() -> Message:
            nonlocal read, is_read
            if is_read:
                # What comes now is that the client has gone.
                return await receive()
            try:
                message = await in_time()
            except TimeoutError:
                raise HTTPException(408, f"body: did not come within {SECONDS} seconds") from None
            is_read = not message.get("more_body")
            read += len(message.get("body", b""))
            if read > self.most:
                with contextlib.suppress(TimeoutError):
                    await discard(message, in_time)
                raise HTTPException(413, self.message)
            return message

        return await self.app(scope, counted, send)

    @property
    def message(self) -> str:
        """What is wrong."""
        return f"body: has more than {self.most} bytes"


async def discard(message: Message, receive: Receive) -> None:
    """Read the rest of a body, up to a limit: many clients read no answer before they have sent everything."""
    read = 0
    while message.get("more_body") and read < MOST_DISCARDED:
        message = await receive()
        read += len(message.get("body", b""))


class ExpectHost:
    """Refuses requests whose Host was not asked for, as those of a page that has renamed itself to this machine.

    An address is always allowed: no page can change what it stands for, and health checks ask by it.

    Args:
        app: gets the requests.
        hosts: the names, without ports; `*` allows all.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str]):
        self.app, self.hosts = app, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and "*" not in self.hosts:
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
            name = host_name(host)
            if name not in self.hosts and not is_address(name):
                message = f"Host: {host[:100]!r} is not a name of this server; --allowed_hosts adds names"
                return await error_response(400, message)(scope, receive, send)
        return await self.app(scope, receive, send)


def host_name(host: str) -> str:
    """The name in a Host header, without the port."""
    name, _, port = host.lower().rpartition(":")
    return name if name and port.isdigit() else host.lower()


def is_address(name: str) -> bool:
    """Whether a name in a Host header is an IP address; one of IPv6 is in brackets."""
    try:
        if name.startswith("["):
            return bool(IPv6Address(name.removeprefix("[").removesuffix("]")))
        return bool(IPv4Address(name))
    except ValueError:
        return False


class GoneError(Exception):
    """The client has gone."""


async def unless_gone(answer: Awaitable[Response], request: Request) -> Response:
    """The response to a request; it is no longer waited for if the client goes. Raises GoneError."""

    async def disconnect() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    response, gone = asyncio.ensure_future(answer), asyncio.ensure_future(disconnect())
    try:
        await asyncio.wait({response, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not response.done():
            raise GoneError
        return response.result()
    finally:
        response.cancel()
        gone.cancel()
        await asyncio.gather(response, gone, return_exceptions=True)


def error_response(status: int, message: str, **headers: str) -> JSONResponse:
    """An error as clients of Hugging Face read it."""
    return JSONResponse({"error": message}, status, headers)
