"""`RoutedRequest`: a request to `HttpRoutes`, with its arguments and options."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from .._base.logs import PeerLog
from .._client.client import Client
from .._core.api.context import CallNext, Context, Middleware
from .._core.api.peer import Peer, core_of
from .._core.api.registration import registry_of
from .._core.handlers.arguments import placed
from .._core.handlers.compiled import Handler
from .._core.handlers.introspection import Kind
from .._core.wire.codecs import JsonCodec
from .._local import RequestRates, connect_in_memory
from .._server.server import Server
from ..errors import BadArguments, HandshakeRejected
from ..handshake import Handshake
from .answers import EVENT_STREAM
from .requests import HttpRequest, HttpResponse, read_body

PULSE = 15.0
"""Seconds without an item after which a stream sends a comment: proxies end a response that is quiet for longer."""
LONGEST_WAIT = 60.0
"""Maximum of ``?wait=``, in seconds."""

FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""What a form of another site can send."""

KEY, TIMEOUT, METADATA, AFTER = "idempotency-key", "wsrpc-timeout", "wsrpc-meta-", "last-event-id"
TRACE = ("traceparent", "tracestate", "baggage")
"""Headers that a handler gets as metadata under their own names."""
# In quotes, as RFC 9651 has them, or without.
WRITTEN_KEY = re.compile(r'"((?:[^"\\]|\\["\\])+)"|([^"].*)')
CODEC = JsonCodec()


class RoutedRequest:
    """A request to `HttpRoutes`, for the event or the room ``name``."""

    def __init__(
        self, server: Server, rates: RequestRates, request: HttpRequest, handshake: Handshake, name: str, key: str
    ) -> None:
        self._server, self._rates, self._handshake, self._request = server, rates, handshake, request
        self.name = name
        channel, _, self.event = name.rpartition(":")
        self._channel = channel or None
        self._handler = handler_of(server, self._channel, self.event)
        self._key = key
        self.args: list[Any] = []
        self.message: Any = None
        """The message for a run, and its id."""
        self.message_id: str | None = None
        self.posted = request.method == "POST"
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the client has left while a stream is sent."""
        self.query: Mapping[str, str] = handshake.query
        self.options: dict[str, Any] = {}
        self._ignored: Mapping[str, int] = {}
        self.log = PeerLog()

    async def read(self) -> None:
        """Read the arguments and the options.

        Raises:
            HandshakeRejected: the request is not valid.
        """
        self._read_options()
        body, has_message = bytearray(), self._request.method == "PATCH"
        if self.posted or has_message:
            await read_body(self._request, body.extend, self._handshake.limits.message_bytes)
            kind = self._handshake.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind in FORM_TYPES or (body and kind != "application/json"):
                raise HandshakeRejected(415, f"arguments are application/json\ngot {kind or 'no content-type'}")
        if has_message:
            self.message = self._decoded(body, "message")
        if arguments := body if self.posted else self.query.get("args", "").encode():
            found = self._decoded(arguments, "arguments")
            is_list = found.__class__ is list
            self.args = found if is_list else self._by_name(found) if found.__class__ is dict else [found]

    def _decoded(self, body: bytes | bytearray, what: str) -> Any:
        if (why := CODEC.objection(body, self._handshake.limits.values)) is not None:
            raise HandshakeRejected(400, f"the {what} cannot be read: JSON with {why}")
        try:
            return msgspec.json.decode(body)
        except (ValueError, RecursionError) as exc:
            raise HandshakeRejected(400, f"the {what} cannot be read: no JSON\n{exc}") from None

    def _by_name(self, found: dict[str, Any]) -> list[Any]:
        try:
            return [found] if self._handler is None else placed(self.event, self._handler.facts.parameters, found)
        except BadArguments as exc:
            raise HandshakeRejected(400, f"the names of the arguments do not fit\n{exc}") from exc

    def _read_options(self) -> None:
        if keys := self._handshake.headers.get_all(KEY):
            if len(keys) > 1:
                raise HandshakeRejected(400, f"the header {KEY} is repeated")
            if self._request.method == "PATCH":
                self.message_id = unquoted(self.header(KEY))
            elif self._key:
                raise HandshakeRejected(400, "the key of a run is in its URL")
            else:
                self._key = unquoted(self.header(KEY))
        if self._key:
            self.options["key"] = self._key
        keep = self._handler.keep if self._handler is not None and self._key else None
        if keep is not None and keep.scope is None and self._handshake.principal is None:
            raise HandshakeRejected(403, "a key needs a principal, or Keep(scope=): see on_handshake")
        if names := [name for name in self._handshake.headers if name in TRACE or name.startswith(METADATA)]:
            self.options["metadata"] = {name.removeprefix(METADATA): self.header(name) for name in names}
        if TIMEOUT in self._handshake.headers:
            self.options["timeout"] = number(self.header(TIMEOUT), TIMEOUT)
        accepts = self._handshake.headers.get("accept", "")
        self.wait = 0.0 if "application/json" in accepts and "text/event-stream" not in accepts else None
        """Seconds for which a response that ends waits. None for a response of server-sent events."""
        if "wait" in self.query:
            self.wait = min(number(self.query["wait"], "wait="), LONGEST_WAIT)
        offset = self.query.get("offset", "")
        # The header first: an EventSource that connects again repeats the `?after=` of its URL.
        self.after = self.header(AFTER) or self.query.get("after") or ("" if offset == "-1" else offset)

    def header(self, name: str) -> str:
        """Return a header. Empty if the request has no such header.

        Raises:
            HandshakeRejected: it is not ASCII. curl sends UTF-8 and pages send Latin-1, so nobody knows what it means.
        """
        value: str = self._handshake.headers.get(name, "")
        if not value.isascii():
            raise HandshakeRejected(400, f"the header {name} is not ASCII")
        return value

    @asynccontextmanager
    async def connect(self, receive: Middleware | None = None) -> AsyncGenerator[Client]:
        """Connect a client, which passes what it receives to ``receive``."""
        async with connect_in_memory(self._server, self._handshake, opened=self._opened) as client:
            client.use(receive or drop_event)
            yield client

    def _opened(self, peer: Peer) -> None:
        self._ignored, self.log = peer.ignored, core_of(peer).log
        self._rates.add(peer, self._handshake)

    @property
    def is_for_value(self) -> bool:
        """Whether the handler returns a value, which is kept under the key. Otherwise it yields items."""
        handler = self._handler
        return handler is not None and handler.keep is not None and handler.facts.kind is not Kind.STREAM

    @property
    def is_above_limit(self) -> bool:
        """Whether a rate or a quota of the caller has refused something, and not what all callers share."""
        return any(kind in self._ignored for kind in ("above the rate", "above the quota"))

    @property
    def principal(self) -> object:
        return self._handshake.principal

    def on(self, client: Client) -> Any:
        """Return the channel of the event."""
        return client if self._channel is None else client.of(self._channel)


def handler_of(server: Server, channel: str | None, event: str) -> Handler | None:
    """Return the handler of an event. None if the server has none that says its parameters."""
    scope = registry_of(server).scopes.get(channel)
    return None if scope is None else scope.handlers.get(event) or scope.once.get(event)


def number(text: str, name: str, form: str = r"[0-9]{1,9}(\.[0-9]{1,9})?") -> float:
    """Return a number of a request.

    Raises:
        HandshakeRejected: it has another form.
    """
    if not re.fullmatch(form, text):
        raise HandshakeRejected(400, f"{name} is a number from 0 to 999,999,999\ngot {text!r}")
    return float(text)


def unquoted(key: str) -> str:
    """Return the key of a call, which may be quoted.

    Raises:
        HandshakeRejected: it is empty, or the quotes are not complete.
    """
    if (found := WRITTEN_KEY.fullmatch(key)) is None:
        raise HandshakeRejected(400, "the key is empty, or is no text in quotes")
    return found[2] or re.sub(r"\\(.)", r"\1", found[1])


async def drop_event(ctx: Context, call_next: CallNext) -> object:
    """Drop an event, for which a client of HTTP has no handler, and refuse a request."""
    return await call_next(ctx) if ctx.is_handled or ctx.id is not None else None


async def event_stream(request: RoutedRequest, stream: AsyncGenerator[bytes]) -> HttpResponse:
    """Return the response that is a stream of server-sent events. What it yields first says that it has begun.

    Raises:
        WsrpcError: it cannot begin.
    """
    await anext(stream)  # so that an error has a status, and closing the stream ends its connection
    return HttpResponse(200, EVENT_STREAM, stream=stream, lost=request.left.cancel)


async def with_pauses(
    request: RoutedRequest, items: AsyncIterator[Any], pause: float
) -> AsyncGenerator[tuple[Any] | None]:
    """Yield each item in a tuple, because it may be None, and None after each ``pause`` seconds without one.

    Raises:
        OSError: the client has left.
    """
    following: asyncio.Future[Any] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(items))
            await asyncio.wait((following, request.left), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if request.left.done():
                raise ConnectionResetError("the client has left")
            if not following.done():
                yield None
                continue
            arrived, following = following, None
            try:
                item = arrived.result()
            except StopAsyncIteration:
                return
            yield (item,)
    finally:
        if following is not None:
            following.cancel()
