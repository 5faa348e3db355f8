"""`HttpConnection`: one connection that HTTP requests carry, on a server. Each direction has an object of its own.

`Responses` carry what the server sends, and `Posts` what the client sends.
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from .._http.http_frames import NO_ROOM, NOTHING, NUMBER, TRANSPORT, frame, happens
from .._http.http_transport import HttpTransport
from ..errors import HandshakeRejected
from .requests import HeaderList, HttpRequest, HttpResponse, read_body, text_refusal

QUIET = 20.0
"""Seconds after which a response without bytes gets some, or ends: proxies end one that is quiet for longer."""
SHORT = 0.5
"""The same for a response that does not wait long."""
TAIL = 32 * 1024
"""Maximum bytes that are sent again if they have not arrived. (If more are missing, the session resumes.)"""
ABSENT = 10.0
"""Seconds without a request, after which a connection that is polled is over."""
GIVEN_UP = 5.0
"""The same after a page has given up a response. (Or it has gone.)"""

BYTE_STREAM: HeaderList = [("content-type", "application/octet-stream"), ("x-content-type-options", "nosniff")]


class HttpConnection:
    """A connection, with what its next requests must have."""

    def __init__(self, transport: HttpTransport, opened_by: HttpRequest, *, polled: bool) -> None:
        self.transport = transport
        self._authorization, self._origin = opened_by.header("authorization"), opened_by.header("origin")
        self.responses = Responses(transport, self._idle, polled=polled, may_give_up=bool(self._origin))
        self.posts = Posts(transport, self._idle)
        self._absent: asyncio.TimerHandle | None = None
        """Ends the connection if the client polls no more."""
        self.opening: Any = None
        """Task that accepts the connection."""

    def _idle(self, seconds: float) -> None:
        """Wait for the next request. (A client that does not want to receive sends POSTs in the meantime.)"""
        if self._absent is not None:
            self._absent.cancel()
        polled = self.responses.polled
        self._absent = asyncio.get_running_loop().call_later(seconds, self._expire) if polled else None

    def _expire(self) -> None:
        if not (self.responses.current or self.posts.reading):
            self.transport.lost("the client polls no more")

    def admits(self, request: HttpRequest) -> bool:
        """Return whether a request may belong to this connection. An id that was guessed or stolen is not enough."""
        given = request.header("authorization"), self._authorization
        same = hmac.compare_digest(*(each.encode(errors="surrogateescape") for each in given))
        return same and request.header("origin") == self._origin  # which browsers send with each POST


class Responses:
    """What the server sends, in one response after another.

    Args:
        idle: is called with the seconds in which the next request has to arrive.
        polled: whether a response ends with its first bytes.
        may_give_up: whether the client is a page, which may give up a response and ask for another one.
    """

    def __init__(
        self, transport: HttpTransport, idle: Callable[[float], None], *, polled: bool, may_give_up: bool
    ) -> None:
        self._transport = transport
        self._idle = idle
        self.polled = polled
        self._may_give_up = may_give_up
        self.current: object = None
        """The response that takes what is sent. None if the client has to ask for it."""
        self._sent = 0
        """Number of bytes that responses have carried."""
        self._tail = bytearray()
        """The last of them."""
        self._again = b""
        """Those that the next response carries again."""

    def open(self, seconds: float = QUIET) -> HttpResponse:
        """Return a response that carries what the server sends: all of it, or the next part."""
        self.current = response = object()
        return HttpResponse(
            200, BYTE_STREAM, stream=self._stream(response, seconds), lost=partial(self._lost, response)
        )

    def poll(self, request: HttpRequest, mode: str) -> HttpResponse:
        """Return the next response. The request says how many bytes have arrived; those that are missing come again.

        Raises:
            HandshakeRejected: more are missing than are kept, or the request is not valid.
        """
        if mode not in ("poll", "short"):
            raise HandshakeRejected(400, f"the next response is asked for with {TRANSPORT}: poll or short")
        number = request.header(NUMBER)
        missing = self._sent - int(number) if re.fullmatch("[0-9]{1,16}", number) else -1
        if not 0 <= missing <= len(self._tail):
            self._transport.lost("a response was lost")
            raise HandshakeRejected(409, "another request was expected")
        self.polled = True
        if self.current is not None:  # the page has given it up, but a proxy has not said so
            self._transport.output.set()
        self._sent -= missing
        kept = len(self._tail) - missing
        self._again = bytes(self._tail[kept:])
        del self._tail[kept:]
        return self.open(SHORT if mode == "short" else QUIET)

    async def _stream(self, response: object, seconds: float) -> AsyncGenerator[bytes]:
        transport = self._transport
        while not transport.over.done():
            await happens(transport.output, 0 if self._again else seconds)
            if self.current is not response:
                return
            data, self._again = self._again or transport.pop_output() or frame(NOTHING), b""
            self._sent += len(data)
            self._tail += data
            del self._tail[:-TAIL]
            yield data
            if self.current is not response:
                return
            transport.carried()
            if self.polled:
                self.current = None
                self._idle(ABSENT)
                return

    def _lost(self, response: object, reason: str) -> None:
        """Handle the end of a response that was not complete. A page that has given it up asks for another one."""
        if self.current is not response:
            return
        if not self._may_give_up:
            self._transport.lost(reason)
        self.current, self.polled = None, True
        self._idle(GIVEN_UP)


class Posts:
    """What the client sends, in one POST after another. They are numbered: one that was repeated has no effect.

    Args:
        idle: is called with the seconds in which the next request has to arrive.
    """

    def __init__(self, transport: HttpTransport, idle: Callable[[float], None]) -> None:
        self._transport = transport
        self._idle = idle
        self._next = 1
        """The number of the next one."""
        self.reading = False
        """Whether one is being read."""

    async def receive(self, request: HttpRequest) -> HttpResponse:
        """Read a POST. After a failure, the connection is lost.

        Raises:
            HandshakeRejected: it is not the next one, too large, or takes too long.
            OSError: the client has left.
        """
        number, transport = request.header(NUMBER), self._transport
        if self.reading or number not in (str(self._next), str(self._next - 1)):
            transport.lost("requests of the client are missing, or in another order")
            raise HandshakeRejected(409, "another request was expected")
        if int(number) < self._next:
            return HttpResponse(204, [])  # it was repeated
        self.reading = True
        try:
            if not await happens(transport.readable, QUIET):
                return text_refusal(HandshakeRejected(NO_ROOM, "repeat this request: the server has no room"))
            await read_body(request, transport.feed)
        except BaseException as exc:
            transport.lost(
                exc.body if isinstance(exc, HandshakeRejected) else "a request of the client has not arrived"
            )
            raise
        finally:
            self.reading = False
            self._idle(ABSENT)
        self._next += 1
        return HttpResponse(204, [])
