"""`RoomReader`: the events of a room, for a request that reads them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import msgspec

from .._client.client import Client
from .._core.api.context import CallNext, Context
from ..errors import BadResult, HandshakeRejected, RemoteError
from .answers import COMMENT, LARGEST_RESPONSE, encode, event_of, json_response
from .requests import HttpResponse
from .routed_request import PULSE, RoutedRequest, drop_event, event_stream, number, with_pauses


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
        self.is_over = False

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
        if self.is_over:
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
        self.is_over = self._size > LARGEST_RESPONSE

    def _end(self) -> None:
        self.is_over = True
        self._arrived.set()

    async def wait(self) -> None:
        """Wait until an event has arrived, or no more will arrive."""
        while not (self.waiting or self.is_over):
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


async def read_room(request: RoutedRequest) -> HttpResponse:
    if request.wait is not None:
        return await room_so_far(request, request.wait)
    return await event_stream(request, room_events(request))


@asynccontextmanager
async def join_room(request: RoutedRequest) -> AsyncGenerator[RoomReader]:
    reader, last = RoomReader(request.name), number(request.query.get("last", "0"), "last=", "[0-9]{1,9}")
    async with request.connect(reader.receive) as client:
        try:
            await reader.join(client, int(last), request.after)
        except RemoteError as exc:
            if exc.code is not None:
                raise
            raise HandshakeRejected(403, exc.message) from None
        yield reader


async def room_events(request: RoutedRequest) -> AsyncGenerator[bytes]:
    async with join_room(request) as reader:
        yield b""  # it has begun
        yield COMMENT  # so that the headers are sent
        async with aclosing(with_pauses(request, reader, PULSE)) as timed:
            async for found in timed:
                yield COMMENT if found is None else event_of(*found[0])


async def room_so_far(request: RoutedRequest, wait: float) -> HttpResponse:
    """Respond with the state or the events that are kept, or wait for the next ones."""
    async with join_room(request) as reader:
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.wait(), wait)
        arrived = [reader.pop() for _ in range(len(reader.waiting))]
        position = reader.position
    state = {"state": msgspec.Raw(arrived.pop(0)[0])} if arrived and arrived[0][2] == "state" else {}
    events = [msgspec.Raw(data) for data, _, kind in arrived if not kind]
    complete = len(events) == len(arrived)
    return json_response(200, {**state, "events": events, "position": position, "complete": complete})
