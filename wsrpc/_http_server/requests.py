"""`HttpRequest` and `HttpResponse`: what adapters of frameworks and the modules of this folder exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, NamedTuple, Protocol, TypeVar

from .._base.request_headers import refusal_headers
from .._net.serving.origins import readable_by
from .._server.server import Server, refuse_request
from ..errors import HandshakeRejected
from ..handshake import Handshake

HeaderList = list[tuple[str, str]]
LARGEST_BODY = 512 * 1024
"""Maximum bytes of the body of a POST."""
BODY_TIMEOUT = 60.0
"""Seconds in which the body of a POST has to arrive."""
SEND_TIMEOUT = 60.0
"""Seconds in which a client has to read the next piece of a response."""
LARGEST_PIECE = 64 * 1024
"""Maximum bytes of a body that are sent at once: a host keeps them for as long as nobody reads them."""
T = TypeVar("T")


class HttpRequest(Protocol):
    """Request, as an adapter presents it."""

    @property
    def method(self) -> str: ...

    def header(self, name: str) -> str:
        """Return the value of a header, whose name is in lower case. Empty if the request has no such header."""
        ...

    def handshake(self, server: Server) -> Handshake:
        """Return the handshake that the request is."""
        ...

    def body(self) -> AsyncIterator[bytes]:
        """Return the body, as it arrives.

        Raises:
            OSError: the client has left.
        """
        ...

    async def left(self) -> None:
        """Return when the client has left, once the body was read. Cancelling is safe."""
        ...


class HttpResponse(NamedTuple):
    """Response that `send_body` sends.

    Attributes:
        status: the status.
        headers: the names and values of the headers, without ``content-length``.
        body: the body, unless there is a ``stream``.
        stream: the body, if it has no end yet.
        lost: a function that is called with the reason if not all of the body was written.
    """

    status: int
    headers: HeaderList
    body: bytes = b""
    stream: AsyncGenerator[bytes] | None = None
    lost: Callable[[str], object] = lambda reason: None


async def answered(
    server: Server,
    request: HttpRequest,
    responding: Awaitable[HttpResponse],
    refused: Callable[[HandshakeRejected], HttpResponse],
) -> HttpResponse:
    """Return the response with the headers that all responses have. ``refused`` makes the response of a refusal."""
    try:
        response = await responding
    except HandshakeRejected as exc:
        response = refused(exc)
    except OSError:  # the client has left, so nobody gets this
        response = refused(HandshakeRejected(400, "the request is not complete"))
    except Exception as exc:
        response = refused(refuse_request(server, request.handshake(server), exc, "a request over HTTP"))
    headers = [*response.headers, ("cache-control", "no-store, no-transform"), ("x-accel-buffering", "no")]
    return response._replace(headers=[*headers, *readable_by(request.header("origin"))])


async def send_body(
    response: HttpResponse,
    request: HttpRequest,
    start: Callable[[], Awaitable[object]],
    write: Callable[[bytes], Awaitable[object]],
) -> bool:
    """Send a response. Return False if the client has left, or the body is not complete.

    Args:
        start: sends the status and the headers.
        write: sends the next bytes of the body. Both raise `OSError` if the client has left.

    Raises:
        Exception: what the functions raise otherwise.
    """
    is_complete = False
    watching = asyncio.create_task(_report_left(response, request))
    try:
        async with aclosing(response.stream or _in_pieces(response.body)) as stream:
            await start()
            async for data in stream:
                async with asyncio.timeout(SEND_TIMEOUT):
                    await write(data)
        is_complete = True
    except OSError:
        pass
    finally:
        watching.cancel()
        if not is_complete:  # also if the stream has never begun
            response.lost("the response has ended")
    return is_complete


async def _in_pieces(body: bytes) -> AsyncGenerator[bytes]:
    for at in range(0, len(body), LARGEST_PIECE):
        yield body[at : at + LARGEST_PIECE]


async def until_left(request: HttpRequest, responding: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine, which is cancelled if the client leaves.

    Raises:
        OSError: the client has left.
    """
    response, left = asyncio.ensure_future(responding), asyncio.ensure_future(request.left())
    try:
        await asyncio.wait((response, left), return_when=asyncio.FIRST_COMPLETED)
        if not response.done():
            raise ConnectionResetError("the client has left")
        return response.result()
    finally:
        response.cancel()
        left.cancel()
        await asyncio.wait((response, left))


async def _report_left(response: HttpResponse, request: HttpRequest) -> None:
    await request.left()
    response.lost("the client has left")


def check_coding(request: HttpRequest) -> None:
    """Refuse a body that is compressed: some hosts would decode it.

    Raises:
        HandshakeRejected: it is.
    """
    if (coding := request.header("content-encoding").lower()) not in ("", "identity"):
        raise HandshakeRejected(415, f"bodies are not compressed\ngot {coding}", {"Accept-Encoding": "identity"})


async def read_body(request: HttpRequest, feed: Callable[[bytes], object], most: int = LARGEST_BODY) -> None:
    """Pass on the body of a request, of at most ``most`` bytes.

    Raises:
        HandshakeRejected: it is too large, or takes too long.
        OSError: the client has left.
    """
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            async for data in request.body():
                size += len(data)
                if size > most:
                    raise HandshakeRejected(413, f"a request of the client has more than {most} bytes")
                feed(data)
    except TimeoutError:
        raise HandshakeRejected(408, "a request of the client takes too long") from None
    # uvicorn with httptools loses the body of a request that offers HTTP/2, as Java's client does by default.
    is_chunked = request.header("upgrade") and request.header("transfer-encoding")
    if not size and (is_chunked or request.header("content-length") not in ("", "0")):
        raise HandshakeRejected(400, "the body has not arrived: use HTTP/1.1 without the header Upgrade")


def text_refusal(exc: HandshakeRejected) -> HttpResponse:
    """Return the response of a refusal."""
    return HttpResponse(exc.status, refusal_headers(exc.headers), exc.body.encode())
