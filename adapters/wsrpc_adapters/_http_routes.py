"""`HttpRoutes`: calls, runs and rooms of a server as URLs, for programs that speak only HTTP.

For the server's handlers, each request is a connection of its own, by a client in this process. So `on_handshake`,
middleware, limits and traces are the same as for other connections.

=======  ======================  ==========================================================================
method   path                    effect
=======  ======================  ==========================================================================
POST     ``call/EVENT``          makes a request. The body has its arguments
POST     ``runs/EVENT/KEY``      starts the run with this key, or joins it, and responds with its items
GET      ``runs/EVENT/KEY``      responds with the items of the run, also if it goes on
DELETE   ``runs/EVENT/KEY``      stops the run, for all its readers
GET      ``rooms/NAME``          responds with the events of a room
=======  ======================  ==========================================================================

A host, which is an HTTP server, passes each request to `respond`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

import msgspec

from wsrpc import (
    BadArguments,
    BadResult,
    CallNext,
    Client,
    CloseCode,
    ConnectionLost,
    Context,
    HandlerTimeout,
    Handshake,
    HandshakeRejected,
    ItemsGone,
    KeyReused,
    Overloaded,
    Peer,
    RemoteError,
    RequestTimeout,
    Server,
    Stream,
    UnknownEvent,
    WsrpcError,
)
from wsrpc._base.http_statuses import STATUSES as ERROR_STATUSES
from wsrpc._base.request_headers import refusal_headers
from wsrpc.adapting import RequestRates, by_position, connect_in_memory, kept_handler, leave, refuse_request
from wsrpc.codecs import JsonCodec
from wsrpc.errors import Draining, UnexpectedChannel
from wsrpc.types import Middleware

from ._http_connections import (
    HeaderList,
    Request,
    Response,
    answered,
    check_coding,
    read_body,
    text_refusal,
    until_left,
)

PULSE = 15.0
"""Seconds without an item after which a stream sends a comment: proxies end a response that is quiet for longer."""
PAUSE = 0.1
"""Seconds without an item after which a response that does not wait ends."""
LONG_POLL = 20.0
"""Seconds for which a client of Durable Streams waits for an item."""
LONGEST_WAIT = 60.0
"""Maximum of ``?wait=``, in seconds."""
LATER: int = 2**53 - 1
"""A position that no run reaches: the largest one."""
MOST = 1 << 20
"""About the maximum bytes of a response that ends, and of the events that wait for a slow reader."""

FORMS = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""What a form of another site can send."""

KEY, TIMEOUT, METADATA, AFTER = "idempotency-key", "wsrpc-timeout", "wsrpc-meta-", "last-event-id"
TRACE = ("traceparent", "tracestate", "baggage")
"""Headers that a handler gets as metadata under their own names."""
# In quotes, as RFC 9651 has them, or without.
WRITTEN_KEY = re.compile(r'"((?:[^"\\]|\\["\\])+)"|([^"].*)')
END = "end"
"""The id of the last event of a run. A browser sends it when it connects again, and then stops."""

EVENTS: HeaderList = [("content-type", "text/event-stream"), ("x-content-type-options", "nosniff")]
COMMENT = b":\n\n"

NO_RESULT = "this event has items, an upload or a conversation: only items have URLs, with runs= and keep="

CHALLENGE = ("www-authenticate", "Bearer")
"""What RFC 9110 requires of each response with the status 401."""

STATUSES: dict[type[WsrpcError], int] = {
    BadArguments: 400,
    UnexpectedChannel: 400,
    UnknownEvent: 404,
    ItemsGone: 410,
    KeyReused: 422,
    Overloaded: 503,
    Draining: 503,
    HandlerTimeout: 504,
    RequestTimeout: 504,
}
"""The status for each class of error. Others have that of their code."""

GRPC = {"unauthenticated": 401, "permission_denied": 403, "already_exists": 409, "resource_exhausted": 429}
CODES: dict[Any, int] = {code: status for status, (code, _) in ERROR_STATUSES.items()} | GRPC
"""The status for the code of an `RpcError`, by the names of HTTP and of gRPC."""

AWAY = (CloseCode.GOING_AWAY, CloseCode.ABNORMAL, CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)
CLOSED: dict[int, int] = {
    **dict.fromkeys((CloseCode.UNAUTHORIZED, CloseCode.CREDENTIALS_EXPIRED), 401),
    **dict.fromkeys((*AWAY, CloseCode.INTERNAL_ERROR, CloseCode.SLOW_CONSUMER), 503),
}
"""The status for the code of a close. With all others, a handler has closed the connection: it refuses, with 403."""

CODEC = JsonCodec()


class HttpRoutes:
    """The URLs of a server.

    Args:
        calls: the events that can be requested: ``"event"``, or ``"channel:event"`` on a named channel.
        runs: the events whose runs have URLs.
        rooms: the rooms that can be read, or patterns such as ``"public-*"``; see `fnmatch`.
    """

    def __init__(self, server: Server, calls: Iterable[str], runs: Iterable[str], rooms: Iterable[str]) -> None:
        self.server = server
        self.calls = names_of("calls", calls)
        self.runs = names_of("runs", runs)
        self.rooms = names_of("rooms", rooms)
        self.rates = RequestRates()

    async def respond(self, request: Request, path: str) -> Response:
        """Return the response to a request whose path is ``path`` below the URL of the routes. Cancelling is safe."""
        return await answered(self.server, request, self._respond(request, path), json_refusal)

    async def _respond(self, request: Request, path: str) -> Response:
        if request.method == "OPTIONS":  # the origin is checked with the request itself
            allowed = [("access-control-allow-methods", "GET, POST, DELETE"), ("access-control-max-age", "600")]
            headers = request.header("access-control-request-headers")
            return Response(204, [*allowed, ("access-control-allow-headers", headers)])
        handshake = request.handshake(self.server)
        handshake.names_origin, handshake.asks_to_resume = request.method != "GET", False  # it counts from here on
        try:
            serve, name, key = self._find(request, handshake, path)
        except HandshakeRejected as exc:
            return self._refuse(handshake, exc)
        await self.server.handshake(handshake)
        handshake.address = None  # a call to this address is for a connection that lasts
        asked = Asked(self, request, handshake, name, key)
        try:
            await asked.read()
            response: Response = await until_left(request, serve(asked))
        except HandshakeRejected as exc:
            response = self._refuse(handshake, exc)
        except WsrpcError as exc:
            response = failure(exc, of_caller=asked.is_above_limit)
        finally:
            leave(self.server, handshake)  # else it may count until Python collects garbage, if the client has left
        return response._replace(headers=[*handshake.response_headers.pairs(), *response.headers])

    def _refuse(self, handshake: Handshake, exc: HandshakeRejected) -> Response:
        """Count a refusal, of which the first line is the reason, and return its response."""
        known = exc.__cause__ if isinstance(exc.__cause__, BadArguments) else BadArguments(reason(exc))
        response = failure(known) if exc.status == 400 else json_refusal(exc)
        refuse_request(self.server, handshake, exc, "routes()")
        return response

    def _find(self, request: Request, handshake: Handshake, path: str) -> tuple[Any, str, str]:
        """Return what serves a request, the event or the room that its path names, and the key of the run.

        Raises:
            HandshakeRejected: nothing does.
        """
        check_coding(request)
        if re.search("[\udc80-\udcff]", unquote(handshake.target, errors="surrogateescape")):  # two keys may become one
            raise HandshakeRejected(400, "the URL is not UTF-8")
        kind, _, name = path.partition("/")
        key, methods = "", dict[str, Any]()
        if kind == "call" and name in self.calls:
            methods = {"POST": call}
        elif kind == "rooms" and name and any(fnmatchcase(name, pattern) for pattern in self.rooms):
            methods = {"GET": read_room}
        elif kind == "runs" and (event := next((event for event in self.runs if name.startswith(f"{event}/")), None)):
            name, key = event, name[len(event) + 1 :]
            methods = {"GET": read_run, "POST": start_run, "DELETE": stop_run} if key else {}
        if not methods or re.search("[\0-\x1f\x7f]", path):
            of_run = kind == "runs" and name in self.runs and not key
            why = "the URL of a run ends with its key" if of_run else "routes() does not serve this path"
            raise HandshakeRejected(404, why)
        if request.method not in methods:
            names = ", ".join(methods)
            raise HandshakeRejected(405, f"this URL has {names}", {"Allow": names})
        return methods[request.method], name, key


def names_of(option: str, names: Iterable[str]) -> list[str]:
    """Check a list of names, and return it, with the longest first: one may be the beginning of another one.

    Raises:
        TypeError: it is not a list of texts.
    """
    found: tuple[Any, ...] = () if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in found):
        raise TypeError(f"{option}= takes a list of names, got {names!r}")
    return sorted(found, key=len, reverse=True)


class Asked:
    """What a request asks for."""

    def __init__(self, routes: HttpRoutes, request: Request, handshake: Handshake, name: str, key: str) -> None:
        self.server, self._rates, self.handshake, self._request = routes.server, routes.rates, handshake, request
        self.name = name
        channel, _, self.event = name.rpartition(":")
        self.channel = channel or None
        self.key = key
        self.args: list[Any] = []
        self.posted = request.method == "POST"
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the client has left while a stream is sent."""
        self.query: Mapping[str, str] = handshake.query
        self.options: dict[str, Any] = {}
        self._ignored: Mapping[str, int] = {}

    async def read(self) -> None:
        """Read the arguments and the options.

        Raises:
            HandshakeRejected: the request is not valid.
        """
        self._read_options()
        body: bytes | bytearray = self.query.get("args", "").encode()
        if self.posted:
            body = bytearray()
            await read_body(self._request, body.extend, self.handshake.limits.message_bytes)
            kind = self.handshake.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind in FORMS or (body and kind != "application/json"):
                raise HandshakeRejected(415, f"arguments are application/json\ngot {kind or 'no content-type'}")
        if body:
            if (why := CODEC.objection(body, self.handshake.limits.values)) is not None:
                raise HandshakeRejected(400, f"the arguments have {why}")
            try:
                found: Any = msgspec.json.decode(body)
            except (ValueError, RecursionError) as exc:
                raise HandshakeRejected(400, f"the arguments are not JSON\n{exc}") from None
            is_list = found.__class__ is list
            self.args = found if is_list else self._by_name(found) if found.__class__ is dict else [found]

    def _by_name(self, found: dict[str, Any]) -> list[Any]:
        try:
            return by_position(self.server, self.channel, self.event, found)
        except BadArguments as exc:
            raise HandshakeRejected(400, f"the names of the arguments do not fit\n{exc}") from exc

    def _read_options(self) -> None:
        if keys := self.handshake.headers.get_all(KEY):
            if len(keys) > 1:
                raise HandshakeRejected(400, f"the header {KEY} is repeated")
            if self.key:
                raise HandshakeRejected(400, "the key of a run is in its URL")
            self.key = unquoted(self.header(KEY))
        if self.key:
            self.options["key"] = self.key
        self.kept = kept_handler(self.server, self.channel, self.event) if self.key else None
        if self.kept is not None and self.kept.keep.scope is None and self.handshake.principal is None:
            raise HandshakeRejected(403, "a key needs a principal, or Keep(scope=): see on_handshake")
        if names := [name for name in self.handshake.headers if name in TRACE or name.startswith(METADATA)]:
            self.options["metadata"] = {name.removeprefix(METADATA): self.header(name) for name in names}
        if TIMEOUT in self.handshake.headers:
            self.options["timeout"] = number(self.header(TIMEOUT), TIMEOUT)
        accepts = self.handshake.headers.get("accept", "")
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
        value: str = self.handshake.headers.get(name, "")
        if not value.isascii():
            raise HandshakeRejected(400, f"the header {name} is not ASCII")
        return value

    @asynccontextmanager
    async def connect(self, receive: Middleware | None = None) -> AsyncGenerator[Client]:
        """Connect a client, which passes what it receives to ``receive``."""
        async with connect_in_memory(self.server, self.handshake, opened=self._opened) as client:
            client.use(receive or drop_event)
            yield client

    def _opened(self, peer: Peer) -> None:
        self._ignored = peer.ignored
        self._rates.add(peer, self.handshake)

    @property
    def is_above_limit(self) -> bool:
        """Whether a rate or a quota of the caller has refused something, and not what all callers share."""
        return any(kind in self._ignored for kind in ("above the rate", "above the quota"))

    def on(self, client: Client) -> Any:
        """Return the channel of the event."""
        return client if self.channel is None else client.of(self.channel)


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


# ---------------------------------------------------------------- calls


async def call(asked: Asked) -> Response:
    async with asked.connect() as client:
        return answer(200, await requested(asked, client))


async def requested(asked: Asked, client: Client) -> Any:
    with not_sendable():
        return await asked.on(client).request(asked.event, *asked.args, **asked.options)


@contextmanager
def not_sendable() -> Generator[None]:
    """Refuse what cannot be sent."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise HandshakeRejected(400, f"the call is not valid\n{exc}") from None


# ---------------------------------------------------------------- runs


def stream(asked: Asked, client: Client, after: str | int | None) -> Stream[Any]:
    """Return the stream of the items of a run. Without a position, it starts the run."""
    with not_sendable():
        found: Stream[Any] = asked.on(client).stream(asked.event, *asked.args, **asked.options, after=after)
        return found


async def start_run(asked: Asked) -> Response:
    if asked.after or asked.kept is None or asked.kept.streams:
        return await read_run(asked)  # it starts the run, unless it has a position
    async with asked.connect() as client:
        value = asyncio.ensure_future(requested(asked, client))
        try:
            await asyncio.wait((value,), timeout=None if asked.wait is None else max(asked.wait, PAUSE))
            while not value.done():
                with suppress(ItemsGone):
                    async with stream(asked, client, 0):
                        return answer(202, {"state": "running", "items": [], "position": "0"})
                await asyncio.wait((value,), timeout=PAUSE)  # until it has started
            return answer(200, {"state": "ended", "items": [value.result()], "position": "1"})
        finally:
            value.cancel()
            await asyncio.wait((value,))


async def read_run(asked: Asked) -> Response:
    if asked.after == END:
        return Response(204, [])
    if not asked.posted and "offset" in asked.query:
        return await read_durable(asked)
    if asked.wait is not None:
        return await run_so_far(asked, asked.wait)
    return await events(asked, run_events(asked))


@asynccontextmanager
async def opened(asked: Asked) -> AsyncGenerator[Stream[Any]]:
    after = asked.after or (None if asked.posted else "0")
    async with asked.connect() as client, stream(asked, client, after) as items:
        yield items


async def run_events(asked: Asked) -> AsyncGenerator[bytes]:
    async with opened(asked) as items:
        yield b""  # it has begun
        yield COMMENT  # so that the headers are sent
        try:
            async with aclosing(with_pauses(asked, items, PULSE)) as timed:
                async for found in timed:
                    yield COMMENT if found is None else event_of(encode(found[0]), items.position)
        except OSError:  # the server closes, and the reader continues elsewhere; or it has left
            raise  # else the response would seem to be complete
        except ItemsGone as exc:  # a slow reader: the run may go on
            yield event_of(encode(error_of(exc)), None, "missed")
        except WsrpcError as exc:
            yield event_of(encode(error_of(exc)), END, "failed")
        else:
            yield event_of(b"[DONE]", END, END)


class SoFar(NamedTuple):
    """Items of a run."""

    state: Literal["running", "ended", "failed"]
    items: list[msgspec.Raw]
    position: str | None
    complete: bool
    """Whether the run has no others yet."""
    error: WsrpcError | None


async def read_so_far(asked: Asked, wait: float, enough: float = math.inf) -> SoFar:
    """Read the items until the run has ended, the time is over, or there are enough."""
    state: Literal["running", "ended", "failed"] = "running"
    items: list[msgspec.Raw] = []
    size, complete, error = 0, False, None
    time = asyncio.get_running_loop().time
    latest = time() + max(wait, PAUSE)
    async with opened(asked) as arriving:
        try:
            async with aclosing(with_pauses(asked, arriving, PAUSE)) as timed:
                async for found in timed:
                    if found is not None:
                        items.append(msgspec.Raw(encode(found[0])))
                        size += len(items[-1])
                    complete = found is None
                    if size > MOST or time() >= latest or (complete and len(items) >= enough):
                        break
                else:
                    state, complete = "ended", True
        except (ConnectionLost, ItemsGone):
            if not items:
                raise
            complete = False
        except WsrpcError as exc:
            state, error = "failed", exc
        return SoFar(state, items, arriving.position, complete, error)


async def run_so_far(asked: Asked, wait: float) -> Response:
    """Respond with the items until the run has ended, or the time is over."""
    found = await read_so_far(asked, wait)
    failed = {} if found.error is None else error_of(found.error)
    report = {"state": found.state, **failed, "items": found.items, "position": found.position}
    return answer(202 if asked.posted and found.state == "running" else 200, report)


# ---------------------------------------------------------------- runs, for clients of Durable Streams


async def read_durable(asked: Asked) -> Response:
    """Respond as https://durablestreams.com says, which knows no streams that fail: the read after the last item does.

    Raises:
        HandshakeRejected: the mode is not valid.
    """
    if (live := asked.query.get("live")) not in (None, "long-poll"):
        raise HandshakeRejected(400, f"live= is long-poll: server-sent events have no ?offset=\ngot {live!r}")
    found = await read_so_far(asked, 0.0 if live is None else LONG_POLL, enough=1)
    if found.error is not None and not found.items:
        refused = failure(found.error)
        return refused if refused.status < 500 else refused._replace(status=410)  # it would repeat that
    number, _, id = (found.position or asked.after).partition("-")
    offset = f"{number:0>16}-{id}" if id else "0"  # texts in the order of the items
    headers = [("stream-next-offset", offset), ("stream-cursor", "0"), ("etag", f'"{asked.after}:{offset}"')]
    headers.append(("access-control-expose-headers", "stream-next-offset, stream-up-to-date, stream-closed"))
    if found.complete and found.error is None:
        headers.append(("stream-up-to-date", "true"))
        if found.state == "ended":
            headers.append(("stream-closed", "true"))
    if not found.items and live is not None:
        return Response(204, headers)
    return answer(200, found.items, headers)


async def stop_run(asked: Asked) -> Response:
    async with asked.connect() as client:
        first = 0
        while True:
            try:
                async with stream(asked, client, first) as items:
                    await items.stop()
                return Response(204, [])
            except ItemsGone as exc:
                if exc.first is None:
                    raise
                # A run may drop items faster than it is asked for them. Only one that has ended has no later items.
                first = exc.first - 1 if first == LATER else LATER


async def with_pauses(asked: Asked, items: AsyncIterator[Any], pause: float) -> AsyncGenerator[tuple[Any] | None]:
    """Yield each item in a tuple, because it may be None, and None after each ``pause`` seconds without one.

    Raises:
        OSError: the client has left.
    """
    following: asyncio.Future[Any] | None = None
    try:
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(items))
            await asyncio.wait((following, asked.left), timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            if asked.left.done():
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


# ---------------------------------------------------------------- rooms


class RoomReader:
    """The events of a room that wait for a reader of HTTP. It cannot be slow: a reader that is behind is cut off."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.position: str | None = None
        """The position of the last event that was read."""
        self.waiting: deque[tuple[bytes, str | None, str]] = deque()
        """For each event: its JSON, its position, and the type of the server-sent event."""
        self._size = 0
        self._arrived = asyncio.Event()
        self.is_behind = False

    async def join(self, client: Client, last: int, after: str) -> None:
        client.on("close", self._end)
        joined = await client.room(self._name).join(last=last, after=after or None)
        if not self.waiting:
            self.position = joined.position
        if not joined.complete and not any(kind == "missed" for _, _, kind in self.waiting):
            self.waiting.appendleft((b"null", None, "missed"))
            self._arrived.set()

    async def receive(self, ctx: Context, call_next: CallNext) -> object:
        if ctx.room == self._name:
            if ctx.channel_name == "rooms" and ctx.event in ("missed", "state"):
                self._add(ctx.args[2] if ctx.event == "state" else None, ctx.position, ctx.event)
            elif not ctx.is_handled and ctx.id is None:
                on = {} if ctx.channel_name is None else {"channel": ctx.channel_name}
                self._add({"event": ctx.event, "args": ctx.args, **on}, ctx.position, "")
        return await drop_event(ctx, call_next)

    def _add(self, value: object, position: str | None, kind: str) -> None:
        if self.is_behind:
            return
        try:
            data = encode(value)
        except BadResult:
            data, kind = b"null", "missed"
        if kind == "state":  # it contains the events before it
            self._size = 0
            self.waiting.clear()
        self._size += len(data)
        self.waiting.append((data, position, kind))
        self._arrived.set()
        self.is_behind = self._size > MOST

    def _end(self) -> None:
        self.is_behind = True
        self._arrived.set()

    async def wait(self) -> None:
        """Wait until an event has arrived, or no more will arrive."""
        while not (self.waiting or self.is_behind):
            self._arrived.clear()
            await self._arrived.wait()

    def __aiter__(self) -> AsyncIterator[tuple[bytes, str | None, str]]:
        return self

    async def __anext__(self) -> tuple[bytes, str | None, str]:
        await self.wait()
        if not self.waiting:
            raise StopAsyncIteration
        return self.pop()

    def pop(self) -> tuple[bytes, str | None, str]:
        found = self.waiting.popleft()
        self._size -= len(found[0])
        self.position = found[1] or self.position
        return found


async def read_room(asked: Asked) -> Response:
    if asked.wait is not None:
        return await room_so_far(asked, asked.wait)
    return await events(asked, room_events(asked))


@asynccontextmanager
async def joined(asked: Asked) -> AsyncGenerator[RoomReader]:
    reader, last = RoomReader(asked.name), number(asked.query.get("last", "0"), "last=", "[0-9]{1,9}")
    async with asked.connect(reader.receive) as client:
        try:
            await reader.join(client, int(last), asked.after)
        except RemoteError as exc:
            if exc.code is not None:
                raise
            raise HandshakeRejected(403, exc.message) from None
        yield reader


async def room_events(asked: Asked) -> AsyncGenerator[bytes]:
    async with joined(asked) as reader:
        yield b""  # it has begun
        yield COMMENT  # so that the headers are sent
        async with aclosing(with_pauses(asked, reader, PULSE)) as timed:
            async for found in timed:
                yield COMMENT if found is None else event_of(*found[0])


async def room_so_far(asked: Asked, wait: float) -> Response:
    """Respond with the state or the events that are kept, or wait for the next ones."""
    async with joined(asked) as reader:
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.wait(), wait)
        arrived = [reader.pop() for _ in range(len(reader.waiting))]
        position = reader.position
    state = {"state": msgspec.Raw(arrived.pop(0)[0])} if arrived and arrived[0][2] == "state" else {}
    events = [msgspec.Raw(data) for data, _, kind in arrived if not kind]
    complete = len(events) == len(arrived)
    return answer(200, {**state, "events": events, "position": position, "complete": complete})


# ---------------------------------------------------------------- responses


async def events(asked: Asked, stream: AsyncGenerator[bytes]) -> Response:
    """Return the response that is a stream of server-sent events. What it yields first says that it has begun.

    Raises:
        WsrpcError: it cannot begin.
    """
    await anext(stream)  # so that an error has a status, and closing the stream ends its connection
    return Response(200, EVENTS, stream=stream, lost=asked.left.cancel)


def event_of(data: bytes, id: str | None, kind: str = "") -> bytes:
    """Return a server-sent event."""
    named = f"event: {kind}\n" if kind else ""
    placed = f"id: {id}\n" if id else ""
    return b"%sdata: %s\n\n" % (f"{named}{placed}".encode(), data)


def encode(value: object) -> bytes:
    """Return a value as JSON.

    Raises:
        BadResult: JSON does not have it, but the codec of the server has, such as a dict with tuples as its keys.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise BadResult(f"JSON cannot have this result: {exc}") from None


def answer(status: int, value: Any, more: Iterable[tuple[str, str]] = ()) -> Response:
    headers = [("content-type", "application/json"), ("x-content-type-options", "nosniff"), *more]
    if status == 401 and all(name != CHALLENGE[0] for name, _ in headers):
        headers.append(CHALLENGE)
    return Response(status, headers, encode(value))


def json_refusal(exc: HandshakeRejected) -> Response:
    """Return a refusal as JSON, whatever the client accepts: most clients accept anything, or do not say what.

    If the application has set the type of its body, that is sent as it is.
    """
    if "content-type" in exc.headers:
        return text_refusal(exc)
    code, _ = ERROR_STATUSES.get(exc.status, (f"status_{exc.status}", ""))
    more = [pair for pair in refusal_headers(exc.headers) if pair[0] != "content-type"]
    return answer(exc.status, {"error": {"message": reason(exc) or code, "code": code}}, more)


def reason(exc: HandshakeRejected) -> str:
    return exc.body.strip().replace("\n", ": ")


def failure(error: WsrpcError, *, of_caller: bool = False) -> Response:
    status = 429 if of_caller and isinstance(error, Overloaded) else status_of(error)
    again = [("retry-after", "1")] if status in (429, 503) and error.outcome in ("not_sent", "not_run") else []
    return answer(status, error_of(error), again)


def error_of(error: WsrpcError) -> dict[str, Any]:
    """Return an error as JSON has it."""
    words = re.sub("(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    shown: dict[str, Any] = {"message": str(error), "code": f"wsrpc.{words}"}
    if isinstance(error, UnexpectedChannel):
        shown["message"] = NO_RESULT
    if isinstance(error, RemoteError):
        shown = {"message": error.message, "code": error.code}
        with suppress(BadResult):  # JSON may not have the rest
            encode(rest := {**error.fields, "data": error.data})
            shown |= rest | shown
    return {"error": {name: value for name, value in shown.items() if value is not None}}


def status_of(error: WsrpcError) -> int:
    """Return the status for an error."""
    if isinstance(error, ItemsGone) and error.first is None:
        return 404
    for kind, status in STATUSES.items():
        if isinstance(error, kind):
            return status
    if isinstance(error, ConnectionLost):
        status = CLOSED.get(error.code, 403)
        is_refusal = status != 503 and error.code != CloseCode.CREDENTIALS_EXPIRED
        return status if is_refusal or error.outcome == "not_sent" else 500  # the handler may have run
    if isinstance(error, RemoteError) and not str(error.code).startswith("wsrpc."):
        return CODES.get(error.code, 400)
    return 500
