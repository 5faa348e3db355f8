"""Limits × what exceeds them: what happens to the message and to its connection, and that nothing else is hurt.

docs/reference/limits.md is the same table for users, and a test at the end compares the two.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec
import pytest
from core_driver import ABORTED, Blocked, Driven, messages, start
from tenacity import wait_fixed
from waiting import settled

from wsrpc import AnonymousChannel, BadArguments, BadResult, Client, CloseInfo, Context, Limits, Peer, Reconnect, Server
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.errors import (
    ConnectionLost,
    HandlerFailed,
    MessageTooBig,
    Overloaded,
    QueueFull,
    RemoteError,
    RequestTimeout,
    RpcError,
    StreamOverflow,
    TooManyRequests,
)
from wsrpc.testing import Line, MemoryTransport, connect

BAD, OVERLOADED, OPENED = "wsrpc.bad_arguments", "wsrpc.overloaded", "wsrpc.too_many_channels"
NONE: Mapping[Any, Any] = MappingProxyType({})
NAME = "ab日語" * 32  # 256 bytes
"""8 bytes."""
KILO = "x" * 1000


# ---------------------------------------------------------------- what the remote peer sends


class Scene:
    """A peer with a handler of each kind. The test plays the remote peer, which knows no limits."""

    def __init__(self, codec: str, limits: dict[str, Any]) -> None:
        self.text = codec == "JSON"
        self.d = Driven(limits=Limits(**limits), codec=JsonCodec() if self.text else MsgpackCodec())
        self.began: list[int] = []
        """The numbers of the messages whose handlers were called."""
        self.go = asyncio.Event()
        self.d.peer.of(NAME).on("echo", self.echo)
        for name in ("echo", NAME):
            self.d.peer.on(name, self.echo)
        for handler in (self.wait, self.stay, self.talk, self.tell, self.count, self.late):
            self.d.peer.on(handler.__name__, handler)

    def echo(self, number: int, *rest: Any) -> int:
        self.began.append(number)
        return number

    async def wait(self, number: int, *rest: Any) -> None:
        self.began.append(number)
        await self.go.wait()

    async def stay(self, number: int) -> None:
        """Go on although it is cancelled."""
        with suppress(asyncio.CancelledError):
            await self.wait(number)
        await self.go.wait()

    async def talk(self, number: int, text: str, channel: AnonymousChannel) -> None:
        self.began.append(number)
        await self.go.wait()

    async def tell(self, number: int, text: str, channel: AnonymousChannel) -> None:
        await channel.emit("told")
        await self.talk(number, text, channel)

    async def count(self, number: int) -> AsyncIterator[int]:
        self.began.append(number)
        yield number

    def late(self, number: int, text: str = "") -> Iterator[int]:
        """Nothing says before it has run that it opens a channel."""
        self.began.append(number)
        return iter([number])

    async def fed(self, *given: Any) -> list[Any]:
        """Feed messages, let everything happen, and return what was sent."""
        for message in given:
            if isinstance(message, str):
                self.d.raw(message.encode())
            elif self.text:
                self.d.raw(msgspec.json.encode(message))
            else:
                self.d.raw(msgspec.msgpack.encode(message), text=False)
        await settled()
        sent = self.d.take()
        return sent if self.text else [msgspec.msgpack.decode(payload) for payload in sent]


class Received(NamedTuple):
    """Messages of the remote peer: those within a limit, and then those that exceed it."""

    limits: dict[str, Any]
    within: list[Any]
    above: list[Any]
    rejected: Mapping[int, str] = NONE
    """The code with which each request is rejected, by its number."""
    ignored: Mapping[str, int] = NONE
    """What `Peer.ignored` counts; each is logged once."""
    runs: Sequence[int] = ()
    """The numbers of those that run nevertheless."""
    waits: int = 0
    """How many of them run only when others have exited."""
    says: str = ""
    """What each rejection and the Close frame say."""
    closes: int | None = None

    def then(self, rejected: Mapping[int, str] = NONE, ignored: Mapping[str, int] = NONE, **more: Any) -> Received:
        return self._replace(rejected=rejected, ignored=ignored, **more)


def request(number: int, *args: Any, to: str = "echo", **fields: Any) -> dict[str, Any]:
    return {"i": number, **event(number, *args, to=to), **fields}


def event(number: int, *args: Any, to: str = "echo", **fields: Any) -> dict[str, Any]:
    return {"a": [to, number, *args], **fields}


def nested(levels: int) -> Any:
    """Arrays and objects in turn, nested so deep; as an argument the value is two levels deeper."""
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


FOUR = {"message_bytes": 10_000, "running": 8}
"""`Limits.running_bytes` is 40,000: there is room for four messages with `LARGE`, and for small ones."""
LARGE = "x" * 9000
DROPPED = {"event dropped, too many wait": 1}

RECEIVED: dict[str, Received] = {
    "depth": Received({"depth": 5}, [request(1, nested(3))], [request(2, nested(4)), event(3, nested(4))]).then(
        {2: BAD}, {"nested too deep": 2}, says="nested more than 5 deep"
    ),
    "depth: unknown key": Received({"depth": 3}, [request(1)], ['{"i":2,"a":["echo",2],"z":[[[]]]}']).then(
        {2: BAD}, {"nested too deep": 1}
    ),
    "depth: 512 levels": Received({}, [request(1, nested(62))], [request(2, nested(510))]).then(
        {2: BAD}, {"nested too deep": 1}
    ),
    "depth: 513 levels": Received({}, [event(1)], [event(2, nested(511)), event(3)]).then(
        closes=1007, says="nested more than 64 deep"
    ),
    "depth: 513 levels of 512": Received({"depth": 512}, [event(1, nested(510))], [event(2, nested(511))]).then(
        closes=1007, says="nested more than 512 deep"
    ),
    "values": Received(
        {"values": 64},
        [request(1, [7] * 50), event(2, "x" * 70_000)],
        [request(3, [7] * 64), event(4, [7] * 64), request(5, {str(n): n for n in range(32)})],
    ).then({3: BAD, 5: BAD}, {"too many values": 3}, says="more than 64 values"),
    "values: arrays": Received({"values": 64}, [request(1, [[]] * 12)], [request(2, [[]] * 16)]).then(
        {2: BAD}, {"too many values": 1}, says="16 arrays and objects"
    ),
    "name": Received(
        {},
        [request(1, to=NAME), request(2, c=NAME), event(3, to=NAME)],
        [request(n, **{key: NAME + "x"}) for n, key in ((4, "to"), (5, "c"))]
        + [event(n, **{key: NAME + "x"}) for n, key in ((6, "to"), (7, "c"))],
    ).then({4: BAD, 5: BAD}, {"name too long": 2}, says="256 bytes"),
    "name: wide characters": Received({}, [request(1)], [request(2, to="😀" * 65)]).then({2: BAD}, says="256 bytes"),
    "rate": Received(
        {"rate": 3},
        [request(1), event(2), request(3, c=NAME)],
        [request(4), event(5), event(6, to="nobody"), request(7, c=NAME)],
    ).then({4: OVERLOADED, 7: OVERLOADED}, {"above the rate": 4}, says="more than 3 requests and events per second"),
    "arguments": Received(
        {}, [request(1, *range(62)), event(2, *range(62))], [request(3, *range(64)), event(4, *range(64))]
    ).then({3: BAD}, {"too many arguments": 1}, says="got 65 arguments, at most 64"),
    "malformed: 10 in a minute": Received({}, [event(1)], ["{"] * 10).then({}, {"malformed": 10}),
    "malformed: 11 in a minute": Received({}, [event(1)], ["{"] * 11).then(
        {}, {"malformed": 11}, closes=1007, says="more than 10 malformed messages a minute"
    ),
    "running": Received(
        {"running": 2}, [request(1, to="wait"), event(2, to="wait")], [request(3), event(4), request(5, to="wait")]
    ).then(runs=[3, 4, 5], waits=3),
    "running: streams and conversations do not count": Received(
        {"running": 1}, [request(1, "", to="talk"), request(2, to="count"), request(3, to="wait")], [request(4)]
    ).then(runs=[4], waits=1),
    "running_bytes": Received(
        FOUR,
        [kind(n, LARGE, to="wait") for n, kind in enumerate((request, event, request, event), 1)],
        [request(5, LARGE, to="wait"), event(6)],
    ).then(runs=[5, 6], waits=2),
    "running_bytes: streams and conversations": Received(
        FOUR,
        [request(n, LARGE, to=name) for n, name in enumerate(("talk", "late", "talk", "late"), 1)],
        [request(5, LARGE, to="talk"), request(6, LARGE, to="late"), request(7, LARGE)],
    ).then({5: OVERLOADED, 6: OPENED}, runs=[6, 7], says="running_bytes"),
    "waiting": Received(
        {"running": 1, "waiting": 2}, [request(1, to="wait")], [request(2), event(3), request(4), event(5)]
    ).then({4: OVERLOADED}, DROPPED, runs=[2, 3], waits=2, says="2 messages wait already"),
    "waiting: in place of cancelled ones that still run": Received(
        {"running": 1, "waiting": 2},
        [request(1, to="stay")],
        [{"i": 1, "x": None}, request(2), event(3), request(4), event(5), request(6)],
    ).then({6: OVERLOADED}, DROPPED, runs=[2, 3, 4], waits=3, says="3 messages wait already"),
    "waiting_bytes: with those that might run": Received(
        {"running": 1, "waiting": 8, "message_bytes": 2000},
        [event(1, "x" * 1900, to="wait")],
        [*(request(n, "x" * 1900) for n in range(2, 7)), event(7, "x" * 1900), request(8)],
    ).then({6: OVERLOADED}, DROPPED, runs=[2, 3, 4, 5, 8], waits=5, says="4 messages wait already"),
    "channels": Received(
        {"channels": 2},
        [request(1, "", to="talk"), request(2, to="count")],
        [request(3, "", to="talk"), request(4, to="count"), request(5, to="late"), request(6)],
    ).then(
        {3: OVERLOADED, 4: OVERLOADED, 5: OPENED}, runs=[5, 6], says="2 channels are open already (Limits.channels)"
    ),
}


@pytest.mark.parametrize(
    ("row", "codec"),
    [
        pytest.param(row, codec, id=f"{name}, {codec}")
        for name, row in RECEIVED.items()
        for codec in ("JSON", "MessagePack")
        if codec == "JSON" or not any(isinstance(message, str) for message in row.above)
    ],
)
async def test_messages_above_a_limit_are_refused_or_wait(
    row: Received, codec: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(codec, row.limits)
    d = scene.d
    assert not [message for message in await scene.fed(*row.within) if "e" in message or "x" in message]
    began = [*scene.began]
    assert len(began) + d.peer.anonymous_channels >= len(row.within)
    assert not d.ignored and not messages(caplog) and d.peer.stats().waiting == 0
    rejections = {message["i"]: message["e"] for message in await scene.fed(*row.above) if "e" in message}
    assert {number: error["code"] for number, error in rejections.items()} == row.rejected
    assert d.ignored == row.ignored and d.close_code == row.closes
    said = messages(caplog)
    assert len(said) == bool(row.closes or row.ignored.keys() - {"malformed"})
    assert all(row.says in text for text in [*said, *(error["message"] for error in rejections.values())])
    if row.closes:
        assert d.transport.closed is not None and row.says in d.transport.closed.reason
        assert scene.began == began
        return
    assert (len(scene.began), d.peer.stats().waiting) == (len(began) + len(row.runs) - row.waits, row.waits)
    answer = start(d.peer.request("q"))
    [asked] = await scene.fed()
    await scene.fed({"i": asked["i"], "d": "the connection goes on"})
    assert await answer == "the connection goes on"
    scene.go.set()
    await settled(1)
    await scene.fed()
    assert scene.began == [*began, *row.runs]
    assert await scene.fed(request(99)) == [{"i": 99, "d": 99}]
    await scene.fed(*({"h": n, "x": "enough"} for n in range(1, 6)))
    assert d.peer.anonymous_channels == 0 and all(
        kind == "abort of no channel" for kind in d.ignored.keys() - row.ignored.keys()
    )
    d.assert_empty()


@pytest.mark.parametrize("filling", ["", "x" * 400])
async def test_what_may_run_or_wait_may_all_wait_while_answers_cannot_be_sent(filling: str) -> None:
    """A caller that kept to both limits got `Overloaded`, although no handler ran."""
    scene = Scene("JSON", {"running": 2, "waiting": 1, "message_bytes": 512})
    d = scene.d
    d.transport.pause()
    rejected = [
        message["i"] for message in await scene.fed(*(request(n, filling) for n in range(1, 5))) if "e" in message
    ]
    assert (rejected, scene.began, d.peer.stats().waiting) == ([4], [], 3)
    d.transport.resume()
    await scene.fed()
    assert scene.began == [1, 2, 3]


# ---------------------------------------------------------------- values that a client and a server send each other


class Sent(NamedTuple):
    """A value above a limit, which both sides have. With ``wsrpc`` each side knows the limits of the other."""

    limits: dict[str, Any]
    wsrpc: bool
    above: Any
    refused_by: str
    says: str
    counted: str = ""


DEEP_ONE, LONG_TEXT, MANY_VALUES = nested(6), "x" * 1000, [7] * 64
SENT: dict[str, Sent] = {
    "message_bytes": Sent({"message_bytes": 1000}, True, LONG_TEXT, "sender", "the other side takes at most 1000"),
    "message_bytes, plain": Sent({"message_bytes": 1000}, False, LONG_TEXT, "connection", "1009"),
    "sent_message_bytes": Sent({"sent_message_bytes": 1000}, True, LONG_TEXT, "sender", "at most 1000 may be sent"),
    "values": Sent({"values": 64}, True, MANY_VALUES, "sender", "it has announced 64 values"),
    "values, plain": Sent({"values": 64}, False, MANY_VALUES, "receiver", "more than 64 values", "too many values"),
    "depth": Sent({"depth": 5}, True, DEEP_ONE, "receiver", "nested more than 5 deep", "nested too deep"),
    "depth, plain": Sent({"depth": 5}, False, DEEP_ONE, "receiver", "nested more than 5 deep", "nested too deep"),
    "depth: 513 levels": Sent({}, True, nested(512), "encoder", "more than 512 levels|internal error"),
    "depth: 513 levels, plain": Sent({}, False, nested(512), "encoder", "more than 512 levels|internal error"),
    "depth: 5,000 levels": Sent({}, True, nested(5000), "encoder", "recursion|more than 512 levels|internal error"),
}
REFUSED: dict[str, dict[str, type[Exception]]] = {
    "sender": {"request": MessageTooBig, "response": RemoteError},
    "receiver": {"request": BadArguments, "response": BadResult},
    "encoder": {"request": RecursionError, "response": HandlerFailed},
    "connection": {"request": ConnectionLost, "response": ConnectionLost},
}
"""What the caller gets, by who refuses the value and where it is."""


@pytest.mark.parametrize(
    ("row", "how", "error"),
    [
        pytest.param(row, how, error, id=f"{name}: {how}")
        for name, row in SENT.items()
        for how, error in REFUSED[row.refused_by].items()
    ],
)
async def test_a_value_above_a_limit_fails_its_own_call_and_nothing_else(
    row: Sent, how: str, error: type[Exception]
) -> None:
    limits, go = Limits(**row.limits), asyncio.Event()
    server = Server(limits=limits, extensions=row.wsrpc)
    handlers: dict[str, Any] = {"echo": lambda value: value, "get": lambda: row.above, "wait": go.wait}
    for name, handler in handlers.items():
        server.on(name, handler)
    async with connect(server, client=Client(limits=limits, extensions=row.wsrpc)) as client:
        [peer] = server.peers
        waiting = start(client.request("wait"))
        assert await client.request("echo", 1) == 1
        with pytest.raises(error, match=row.says) as caught:
            await (client.request("echo", row.above) if how == "request" else client.request("get"))
        assert type(caught.value) is error
        if row.refused_by == "connection":
            with pytest.raises(ConnectionLost, match="1009"):
                await waiting
            return
        go.set()
        assert await waiting is True
        receiver, sender = (client.peer, peer) if how == "response" else (peer, client.peer)
        assert receiver.ignored == ({row.counted: 1} if row.counted else {}) and not sender.ignored


# ---------------------------------------------------------------- errors above the smallest limit

SMALLEST = 512
LONG_ERRORS: dict[str, RpcError] = {
    "long": RpcError("x" * 5000, code="E"),
    "escaped": RpcError("\x01" * 300, code="E"),
    "quotes": RpcError('"' * 300, code="E"),
    "of 3 bytes": RpcError("数" * 400, code="E"),
    "of 4 bytes": RpcError("🦊" * 400, code="E"),
    "data": RpcError("with data", code="E", data={"key": "y" * 1000}),
    "bytes": RpcError("with bytes", code="E", data=b"y" * 1000),
    "fields": RpcError("with fields", code="E", fields={"key": "y" * 1000}),
    "many values": RpcError("with many values", code="E", data=[0] * 1000),
    "code": RpcError("with a code", code="E" * 1000),
    "escaped code": RpcError("with a code", code="\x01" * 1000),
}
ENDS = "request", "stream", "upload", "conversation", "named items", "abort", "cancellation"


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("caller", ["client", "server"])
@pytest.mark.parametrize("codec", [JsonCodec, MsgpackCodec])
@pytest.mark.parametrize("replay", [0, 128 * 1024], ids=["no session", "session"])
async def test_an_error_above_the_smallest_limit_arrives_shortened(
    end: str, caller: str, codec: Any, replay: int
) -> None:
    """It closed the connection, with all other calls, or never arrived: the reader of a stream waited."""
    limits = Limits(message_bytes=SMALLEST, values=64, replay_bytes=replay)
    server = Server(limits=limits, codec=codec())
    client = Client("ws://server/", limits=limits, codec=codec())
    far: Any = server if caller == "client" else client
    seen: asyncio.Queue[Any] = asyncio.Queue()
    error: RpcError

    async def fails() -> None:
        raise error

    async def stream() -> AsyncIterator[int]:
        yield 1
        raise error

    async def upload(items: AsyncIterator[int]) -> None:
        async for _ in items:
            raise error

    async def conversation(channel: AnonymousChannel) -> None:
        if end == "conversation":
            await channel.wait_for("go")
            raise error
        try:
            await asyncio.Event().wait()
        finally:
            seen.put_nowait(channel.close_reason)

    async def waits(ctx: Context) -> None:
        seen.put_nowait("began")
        try:
            await asyncio.Event().wait()
        finally:
            seen.put_nowait(ctx.cancel_reason)

    for handler in (fails, stream, upload, conversation, waits):
        far.on(handler.__name__, handler)
    far.of("feed").on("start", stream)
    async with connect(server, client=client):
        near: Any = client if caller == "client" else server.peers[0]
        other = start(near.request("waits"))
        assert await seen.get() == "began"

        async def call() -> None:
            match end:
                case "request":
                    await near.request("fails")
                case "stream" | "named items":
                    async for _ in near.stream("stream") if end == "stream" else near.of("feed").items():
                        pass
                case "upload":
                    await near.request("upload", send=range(10_000))
                case "conversation":
                    async with await near.open_channel("conversation") as channel:
                        reading = channel.events("word")
                        await channel.emit("go")
                        await anext(reading)
                case "abort":
                    async with await near.open_channel("conversation") as channel:
                        await channel.abort(error)
                    raise await seen.get()
                case _:
                    task = start(near.request("waits"))
                    assert await seen.get() == "began"
                    task.cancel(error)  # the reason need not be a text
                    raise await seen.get()

        for error in LONG_ERRORS.values():
            with pytest.raises(RemoteError) as got:
                await call()
            if error.code == "E":
                assert (got.value.message[:9], got.value.code) == (error.message[:9], "E")
        assert not other.done() and near.connected if near is not client else client.peer.connected
        other.cancel()
        await seen.get()


# ---------------------------------------------------------------- how many calls there may be


class Counted(NamedTuple):
    """Calls of a client that go on at the same time: so many are within a limit, and one more is not."""

    how: str
    within: int
    error: type[Exception] | None
    says: str = ""
    client: Mapping[str, Any] = NONE
    server: Mapping[str, Any] = NONE
    wsrpc: bool = True
    begin: int | None = None
    """How many handlers begin while the others wait."""


COUNTED: dict[str, Counted] = {
    "pending": Counted("wait", 2, TooManyRequests, "Limits.pending=2", {"pending": 2}),
    "running": Counted("wait", 9, None, server={"running": 2}, begin=2),
    "running_bytes": Counted("wait", 9, None, server=FOUR, begin=4),
    "waiting": Counted("wait", 9, None, server={"running": 1, "waiting": 1}, begin=1),
    "waiting, plain": Counted("wait", 3, Overloaded, "2 messages", server={"running": 1, "waiting": 2}, wsrpc=False),
    "channels": Counted("count", 2, Overloaded, "2 channels are open", server={"channels": 2}),
    "rooms": Counted("join", 2, RpcError, "in 2 rooms already", server={"rooms": 2}),
}


@pytest.mark.parametrize("row", COUNTED.values(), ids=COUNTED)
async def test_one_call_too_many_waits_or_raises_and_the_others_go_on(row: Counted) -> None:
    server = Server(limits=Limits(**row.server))
    client = Client(limits=Limits(**row.client), extensions=row.wsrpc)
    go, began = asyncio.Event(), list[int]()

    @server.on("wait")
    async def wait(number: int, text: str) -> int:
        began.append(number)
        await go.wait()
        return number

    @server.on("count")
    async def count(number: int) -> AsyncIterator[int]:
        yield number
        await go.wait()

    server.on("echo", lambda number: number)
    server.on_join(lambda peer, room: True)

    async def call(number: int) -> Any:
        match row.how:
            case "count":
                async with client.stream("count", number) as items:
                    received = await anext(items)
                    await go.wait()
                    return received
            case "join":
                await client.of("rooms").request("join", str(number))
                return number
        return await client.request("wait", number, LARGE)

    async with connect(server, client=client):
        calls = [start(call(number)) for number in range(row.within)]
        await settled()
        if row.error is not None:
            with pytest.raises(row.error, match=row.says):
                await call(row.within)
        if row.begin is not None:
            assert len(began) == row.begin
        assert server.peers[0].stats().waiting <= row.server.get("waiting", 10_000)
        await client.emit("echo", 0)
        go.set()
        assert await asyncio.gather(*calls) == [*range(row.within)]
        assert client.peer.pending == 0


@pytest.mark.parametrize(
    ("how", "offline", "text"),
    [("emit", 2, ""), ("emit_nowait", 2, ""), ("request", 2, ""), ("emit", 256, "x" * 400_000)],
    ids=["emit", "emit_nowait", "request", "bytes"],
)
async def test_what_a_client_queues_while_it_is_not_connected_is_bounded(how: str, offline: int, text: str) -> None:
    server, heard = Server(), list[int]()
    client = Client(limits=Limits(offline=offline))
    server.on("note", lambda number, text: heard.append(number))

    async def queue(number: int) -> None:
        sending = getattr(client, how)("note", number, text)
        if sending is not None:
            await sending

    calls = [start(queue(number)) for number in range(2)]
    await settled()
    with pytest.raises(QueueFull, match=rf"2 messages .*\(Limits.offline={offline}, Limits.offline_bytes=1048576"):
        await queue(2)
    async with connect(server, client=client):
        await asyncio.gather(*calls)
        await queue(3)
        await client.request("note", 4, "")
    assert heard == [0, 1, 3, 4]


# ---------------------------------------------------------------- how long things may take


class Timed(NamedTuple):
    """What the remote peer begins, and what is sent when its time is over."""

    limits: dict[str, Any]
    given: list[Any]
    says: str
    """What is sent; nothing if empty."""
    ignored: Mapping[str, int] = NONE
    then: Sequence[Any] = ()
    """What the remote peer sends too late."""


TIMED: dict[str, Timed] = {
    "handler_timeout": Timed({"handler_timeout": 5.0}, [request(1, to="wait")], "wsrpc.handler_timeout"),
    "unread_timeout: a stream that nobody starts": Timed(
        {"unread_timeout": 5.0}, [request(1, to="count")], "Limits.unread_timeout", then=[{"h": 1, "a": ["start"]}]
    ),
    "unread_timeout: a channel that nobody reads": Timed(
        {"unread_timeout": 5.0}, [request(1, "", to="talk"), {"h": 1, "a": ["tick"]}], "Limits.unread_timeout"
    ),
    "unread_timeout: a channel that is in use": Timed(
        {"unread_timeout": 5.0}, [request(1, "", to="tell"), {"h": 1, "a": ["tick"]}], "", {"unread event": 1}
    ),
}


@pytest.mark.parametrize("row", TIMED.values(), ids=TIMED)
async def test_what_takes_too_long_ends_alone(row: Timed) -> None:
    scene = Scene("JSON", row.limits)
    d = scene.d
    waiting = start(d.peer.request("q"))
    for message in row.given:
        await scene.fed(message)
    await settled(4.9)
    assert await scene.fed() == [] and not d.ignored and d.peer.active + d.peer.anonymous_channels > 0
    await settled(0.2)
    sent = await scene.fed(*row.then)
    assert len(sent) == bool(row.says) and row.says in str(sent) and d.ignored == row.ignored
    if row.says:
        assert (d.peer.active, d.peer.anonymous_channels) == (0, 0)
    assert await scene.fed(request(99)) == [{"i": 99, "d": 99}] and not waiting.done()
    scene.go.set()
    waiting.cancel()


async def test_a_request_that_takes_too_long_fails_and_is_cancelled_remotely() -> None:
    d = Driven(limits=Limits(request_timeout=5.0))
    task, i = await d.asks("q")
    await settled(4.9)
    assert not task.done()
    await settled(0.2)
    with pytest.raises(RequestTimeout):
        await task
    d.expect({"i": i, "x": ABORTED, "_": 1})
    d.assert_empty()


async def test_messages_wait_for_open_handlers_only_so_long(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven(limits=Limits(open_timeout=5.0), bind=False)
    opened, ran = Blocked(), list[int]()
    d.peer.on("open", opened)
    d.peer.on("echo", ran.append)
    d.peer.bind(d.transport)
    await d.fed(event(1), request(2))
    await settled(4.9)
    assert ran == [] and not messages(caplog)
    await settled(0.2)
    assert await d.fed() == [{"i": 2, "d": None}]
    assert ran == [1, 2] and not opened.cancelled and len(messages(caplog)) == 1
    opened.go.set()
    await settled()
    d.assert_empty()


# ---------------------------------------------------------------- what nobody reads


class Unread(NamedTuple):
    """A reader that does not read, and what overflows: about ten items of 1,000 bytes fit."""

    limits: dict[str, Any]
    reader: str
    says: str


OVERFLOWS = {"stream_queue_bytes": {"hard_cap_bytes": 160_000}, "unread_bytes": {"unread_bytes": 14_000}}
UNREAD: dict[str, Unread] = {
    f"{limit}: {reader}": Unread(limits, reader, limit)
    for limit, limits in OVERFLOWS.items()
    for reader in ("stream", "events", "events on an anonymous channel")
}


@pytest.mark.parametrize("row", UNREAD.values(), ids=UNREAD)
async def test_a_reader_that_does_not_read_gets_what_fits_and_then_an_error(row: Unread) -> None:
    d, go, read = Driven(limits=Limits(**row.limits)), asyncio.Event(), list[Any]()

    async def consume(items: AsyncIterator[Any]) -> None:
        async for item in items:
            read.append(item)
            await go.wait()

    message: dict[str, Any] = {"a": ["tick", KILO]}
    match row.reader:
        case "stream":
            reading = start(consume(d.peer.stream("items")))
            await settled()
            h = d.take()[0]["i"]
            assert await d.fed({"i": h, "h": h}) == [{"h": h, "a": ["start"]}]
            message = {"h": h, "a": ["next", {"value": KILO, "done": False}]}
        case "events on an anonymous channel":
            opening = start(d.peer.open_channel("talk"))
            await settled()
            message["h"] = h = d.take()[0]["i"]
            await d.fed({"i": h, "h": h})
            reading = start(consume((await opening).events("tick")))
        case _:
            reading = start(consume(d.peer.events("tick")))
    other = d.peer.of("other").events("tick")
    await settled()
    sent = await d.fed(*[message] * 30)
    assert [abort["h"] for abort in sent] == ([message["h"]] if "h" in message else [])
    assert all(row.says in abort["x"]["message"] for abort in sent)
    go.set()
    with pytest.raises(StreamOverflow, match=row.says):
        await reading
    assert 8 <= len(read) <= 12
    d.feed({"c": "other", "a": ["tick", 1]})
    assert await anext(other) == 1
    await other.aclose()


@pytest.mark.parametrize(
    ("bound", "most"), [({"stream_window": 4}, 4), ({"stream_window": 128}, 8)], ids=["items", "bytes"]
)
async def test_the_producer_of_a_stream_waits_for_its_reader(bound: dict[str, int], most: int) -> None:
    server, produced = Server(), 0

    @server.on("fill")
    async def fill() -> AsyncIterator[str]:
        nonlocal produced
        for _ in range(100):
            produced += 1
            yield "x" * 10_000

    server.on("echo", lambda number: number)
    async with connect(server, client=Client(limits=Limits(**bound))) as client:
        stream = client.stream("fill", returns=str)
        await anext(stream)
        for number in range(20):
            assert await client.request("echo", number) == number
        assert produced <= most + 2, "those on the way, the one that was read and the one that waits"
        assert len([item async for item in stream]) == 99


# ---------------------------------------------------------------- a connection that takes no more


@asynccontextmanager
async def stuck(server: Server, *, wait: float = 3600) -> AsyncIterator[tuple[Client, Peer, MemoryTransport]]:
    """A client that reads nothing: its peer, and the server's end of its line. Another client goes on."""
    line = Line(server)
    server.on("echo", lambda number: number)
    async with Client("ws://server/", dial=line.dial, reconnect=Reconnect(wait=wait_fixed(wait))) as client:
        async with Client("ws://server/", dial=line.dial, reconnect=None) as other:
            assert [await each.request("echo", 1) for each in (client, other)] == [1, 1]
            await settled()
            line.connections[0][1].hold()
            yield client, server.peers[0], line.connections[0][1]
            line.connections[0][1].release()
            assert await other.request("echo", 2) == 2
    await server.close()


async def test_above_the_high_water_mark_senders_wait_in_order() -> None:
    server, heard, sent = Server(limits=Limits(high_water_bytes=10_000)), list[int](), 0
    async with stuck(server) as (client, peer, line):
        client.on("note", lambda number, text: heard.append(number))

        async def send() -> None:
            nonlocal sent
            for number in range(50):
                await peer.emit("note", number, KILO)
                sent += 1

        sending = start(send())
        await settled()
        assert peer.stats().slow and 10_000 < line.unsent < 12_000 and sent in (9, 10)
        line.release()
        await sending
        await settled()
        assert heard == [*range(50)]


async def test_at_the_hard_cap_emit_nowait_raises_and_nothing_is_lost() -> None:
    server, heard = Server(limits=Limits(high_water_bytes=2000, hard_cap_bytes=10_000)), list[int]()
    async with stuck(server) as (client, peer, line):
        client.on("note", lambda number, text: heard.append(number))

        def fill() -> None:
            for number in range(50):
                peer.emit_nowait("note", number, KILO)

        with pytest.raises(QueueFull, match="hard_cap_bytes=10000"):
            fill()
        assert 9000 < line.unsent <= 10_000
        line.release()
        await settled()
        assert heard == [*range(9)]


@pytest.mark.parametrize(("text", "most"), [("x" * 10_000, 14), ("", 512)], ids=["replay", "replay_messages"])
async def test_messages_that_are_not_acknowledged_are_bounded(text: str, most: int) -> None:
    server, heard, sent = Server(limits=Limits(replay_bytes=128 * 1024, stall_timeout=5.0)), list[int](), 0
    closed: list[CloseInfo] = []
    server.on("close", lambda peer, info: closed.append(info))
    async with stuck(server, wait=0) as (client, peer, line):
        client.on("note", lambda number, text: heard.append(number))
        line.release()
        ours = client.peer.transport
        assert isinstance(ours, MemoryTransport)
        ours.hold()

        async def send() -> None:
            nonlocal sent
            for number in range(3 * most):
                await peer.emit("note", number, text)
                sent += 1

        sending = start(send())
        await settled()
        assert most - 1 <= sent == len(heard) <= most and peer.stats().slow and line.unsent == 0
        ours.release()
        await asyncio.sleep(0)
        ours.hold()
        await settled()
        assert sent == len(heard) > most
        await settled(5.1)
        await sending  # on the next connection
        await settled()
        assert heard == [*range(3 * most)] and closed == []


# ---------------------------------------------------------------- the page

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "limits.md").read_text("utf-8")
FIELDS = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \| [^|]+? \| [^|]+? \|$", PAGE, re.MULTILINE))
UNITS = {"KiB": 1024, "MiB": 1024 * 1024, "s": 1.0, "": 1}
ALONE = {
    "threads": "test_a_request_that_gets_no_thread_is_rejected_and_does_not_run",
    "thread_timeout": "test_a_request_that_gets_no_thread_is_rejected_and_does_not_run",
    "request_timeout": "test_a_request_that_takes_too_long_fails_and_is_cancelled_remotely",
    "offline": "test_what_a_client_queues_while_it_is_not_connected_is_bounded",
    "stream_window": "test_the_producer_of_a_stream_waits_for_its_reader",
    "high_water_bytes": "test_above_the_high_water_mark_senders_wait_in_order",
    "hard_cap_bytes": "test_at_the_hard_cap_emit_nowait_raises_and_nothing_is_lost",
    "replay_bytes": "test_messages_that_are_not_acknowledged_are_bounded",
    "stall_timeout": "test_a_connection_that_is_full_and_does_not_move_is_dropped",
    "open_timeout": "test_an_opening_handshake_that_takes_too_long_is_dropped",
    "close_timeout": "test_a_connection_that_stays_after_a_close_frame_is_dropped",
    "ping_interval": "test_a_dead_line_is_found_by_a_ping_whatever_is_sent",
    "ping_timeout": "test_a_dead_line_is_found_by_a_ping_whatever_is_sent",
}
"""Limits that have a test of their own instead of a row in a table."""


def default_of(text: str) -> float | None:
    """``64 KiB``, ``10,000``, ``20 s`` or ``None`` as the value that it stands for."""
    number, _, unit = text.replace(",", "").partition(" ")
    return None if text == "None" else int(number) * UNITS[unit]


def test_the_page_has_each_limit_with_its_default() -> None:
    assert {field: default_of(text) for field, text in FIELDS.items()} == msgspec.structs.asdict(Limits())


def test_each_limit_of_the_page_is_exceeded_by_a_row_or_a_test() -> None:
    rows = [name for table in (RECEIVED, SENT, COUNTED, TIMED, UNREAD) for name in table]
    covered = {limit for name in rows for limit in re.split(", ", name.partition(":")[0])} | ALONE.keys()
    assert FIELDS.keys() <= covered
    others = "arguments, malformed, name, running_bytes, stream_queue_bytes, waiting_bytes, plain"
    assert covered - FIELDS.keys() == {*others.split(", ")}
    files = [Path(__file__), *Path(__file__).parents[1].glob("*/**/test_*.py")]
    tests = {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text("utf-8"))}
    assert {*ALONE.values()} <= tests
