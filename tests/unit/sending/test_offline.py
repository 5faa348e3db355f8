"""Messages without a connection: those that wait for the next one, and those with ``offline="fail"``, which do not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Literal

import pytest
from core_driver import messages, redialing, start, turns
from stream_driver import welcome

from wsrpc import (
    AnonymousChannel,
    Client,
    ConnectionLost,
    Limits,
    MessageTooBig,
    Peer,
    QueueFull,
    Server,
)
from wsrpc.codecs import Codec, MsgpackCodec
from wsrpc.testing import ScriptedTransport, connect, pair

Offline = Literal["queue", "fail"]


async def read(caller: Any, **options: Any) -> None:
    async with caller.stream("s", **options):
        pytest.fail("opened")


async def emit_nowait(caller: Any, **options: Any) -> None:
    caller.emit_nowait("e", **options)


CALLS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "emit": lambda caller, **options: caller.emit("e", **options),
    "emit_nowait": emit_nowait,
    "request": lambda caller, **options: caller.request("r", **options),
    "upload": lambda caller, **options: caller.request("u", send=[1], **options),
    "open_channel": lambda caller, **options: caller.open_channel("c", **options),
    "stream": read,
}
EVENTS = {"emit": "e", "emit_nowait": "e", "request": "r", "upload": "u", "open_channel": "c", "stream": "s"}
"""The event that each call sends."""
AWAITED = sorted(CALLS.keys() - {"emit_nowait"})


def assert_not_sent(error: BaseException | None, *codes: int) -> None:
    assert isinstance(error, ConnectionLost)
    assert error.code in codes and error.outcome == "not_sent"


def names(sent: list[Any]) -> list[Any]:
    return [message["a"][0] for message in sent if "a" in message]


# ---------------------------------------------------------------- what fails at once: places × calls


@asynccontextmanager
async def never_connected() -> AsyncGenerator[tuple[Client, int]]:
    client = Client(offline="fail")
    yield client, 1006
    await client.close(4000, "bye")
    with pytest.raises(ConnectionLost, match="4000"):
        await client.emit("e")


@asynccontextmanager
async def closing() -> AsyncGenerator[tuple[Client, int]]:
    """While the Close frame is on its way."""
    server = Server()
    async with connect(server, client=Client(offline="fail")) as client:
        ending = start(client.peer.close())
        await turns(1)
        yield client, 1000
        await ending
    await server.close()


@asynccontextmanager
async def the_other_side_drains() -> AsyncGenerator[tuple[Client, int]]:
    async with connect(server := Server(), client=Client(offline="fail")) as client:
        may_end = asyncio.Event()
        server.on("work", may_end.wait)
        await client.emit("work")  # of which the client does not know how long it takes
        await turns()
        ending = start(server.close(drain_timeout=60))
        await turns()
        yield client, 1012
        assert not ending.done()
        may_end.set()
        await ending


@asynccontextmanager
async def a_server_s_peer() -> AsyncGenerator[tuple[Peer, int]]:
    """It has no next connection, whatever is asked for."""
    server = Server()
    async with connect(server):
        [peer] = server.peers
    yield peer, 1000
    await server.close()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("place", [never_connected, closing, the_other_side_drains, a_server_s_peer])
async def test_it_fails_at_once_and_nothing_is_left(
    place: Callable[[], AbstractAsyncContextManager[tuple[Client | Peer, int]]], name: str
) -> None:
    async with asyncio.timeout(8), place() as (caller, code):
        pending = caller.pending if isinstance(caller, Peer) else caller.peer.pending
        with pytest.raises(ConnectionLost) as caught:
            await CALLS[name](caller)
        assert_not_sent(caught.value, code)
        assert (caller.pending if isinstance(caller, Peer) else caller.peer.pending) == pending


@pytest.mark.parametrize("offline", ["queue", "fail"])
async def test_a_call_says_it_for_itself(offline: Offline) -> None:
    client = Client(offline="fail" if offline == "queue" else "queue", extensions=False)
    calls = [start(client.request("1", offline=offline)), start(client.emit("2", offline=offline))]
    await turns(1)
    if offline == "queue":
        client.emit_nowait("3", offline=offline)
    else:
        with pytest.raises(ConnectionLost):
            client.emit_nowait("3", offline=offline)
    transport = ScriptedTransport()
    await client.bind(transport)
    await turns()
    sent = transport.pop_sent()
    assert names(sent) == (["1", "2", "3"] if offline == "queue" else [])
    await client.close()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [ConnectionLost, type(None) if sent else ConnectionLost]


async def test_an_anonymous_channel_belongs_to_its_connection() -> None:
    async with pair() as (left, right):

        async def talk(channel: AnonymousChannel) -> None:
            await channel.wait_closed()

        right.on("talk", talk)
        async with await left.open_channel("talk") as channel:
            for name in ("emit", "emit_nowait", "request", "open_channel"):
                for option in ("offline", "retry"):
                    with pytest.raises(TypeError, match=option):
                        await CALLS[name](channel, **{option: None})


# ---------------------------------------------------------------- what waits: places × what happens


class Waits:
    """A peer of a client that dials again, whose messages wait, and what lets them go."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.d = redialing(bind=False, extensions=place in ("for capacity", "for the greeting"))
        self.go = asyncio.Event()
        self.occupant = 0
        """The id of the request that takes the place."""

    async def begin(self) -> None:
        d = self.d
        if self.place == "for open handlers":
            d.peer.on("open", self.opened)
        if self.place == "for a connection":
            return
        d.peer.bind(d.transport)
        if self.place == "for room":
            d.transport.pause()
        elif self.place == "for capacity":
            await d.fed(welcome(running=1, waiting=0, waiting_bytes=0))
            start(self.take_the_place())
        await turns()
        self.occupant = next((message["i"] for message in d.take() if "i" in message), 0)

    def end(self) -> None:
        """Let the messages leave."""
        self.go.set()
        steps: dict[str, Callable[[], Any]] = {
            "for a connection": lambda: self.d.peer.bind(self.d.transport),
            "for room": lambda: self.d.transport.resume(),
            "for capacity": lambda: self.d.feed({"i": self.occupant}),
            "for the greeting": lambda: self.d.feed(welcome("context")),
        }
        steps.get(self.place, lambda: None)()

    async def take_the_place(self) -> None:
        with suppress(ConnectionLost):
            await self.d.peer.request("takes the place", timeout=None)

    async def opened(self, peer: Peer) -> None:
        await peer.emit("hello", offline="fail")  # `open` handlers have a connection
        await self.go.wait()


@pytest.mark.parametrize("drop", ["and a new one there at once", "before the next one comes"])
@pytest.mark.parametrize(
    ("place", "name"),
    [
        (place, name)
        for place in ("for open handlers", "for room", "for capacity")
        for name in AWAITED
        if (place, name) != ("for capacity", "emit")  # events need no place
    ],
)
async def test_what_waits_when_a_connection_ends(place: str, name: str, drop: str) -> None:
    w = Waits(place)
    await w.begin()
    calls = [start(w.d.peer.request("waits", timeout=None)), start(CALLS[name](w.d.peer, offline="fail"))]
    await turns()
    w.d.take()
    if drop == "before the next one comes":
        w.d.transport.lose()
        await turns()
    w.d.rebind()
    w.go.set()
    await turns(20)
    sent = [each for each in names(w.d.take()) if each != "hello"]
    if place != "for open handlers" and drop == "before the next one comes":
        assert_not_sent(calls[1].exception(), 1006)
        assert sent == ["waits"]
    else:  # it waits in the queue, or there is a connection whenever it looks
        assert sent == ["waits", EVENTS[name]]
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


ARGUED: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "emit": lambda caller, value, **options: caller.emit("e", value, **options),
    "request": lambda caller, value, **options: caller.request("r", value, **options),
    "upload": lambda caller, value, **options: caller.request("u", value, send=[1], **options),
    "open_channel": lambda caller, value, **options: caller.open_channel("c", value, **options),
    "stream": lambda caller, value, **options: anext(caller.stream("s", value, **options)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "": {},
    "metadata": {"metadata": {"a": "b"}},
    "timeout": {"timeout": 100.0},
    "key": {"key": "k"},
}


@pytest.mark.parametrize(
    ("place", "name", "option"),
    [
        (place, name, option)
        for place in ("for a connection", "for open handlers", "for room", "for capacity", "for the greeting")
        for name in ARGUED
        for option in OPTIONS
        if not (name == "emit" and (place == "for capacity" or option in ("timeout", "key")))
        and (place == "for the greeting" or option != "key")
        and (place != "for the greeting" or option == "key")
        and (name in ("request", "stream") or option != "key")
    ],
)
@pytest.mark.parametrize("on", ["", "room"])
async def test_what_waits_has_the_arguments_of_its_call(place: str, name: str, option: str, on: str) -> None:
    w = Waits(place)
    caller = w.d.peer.of(on) if on else w.d.peer
    await w.begin()
    value: dict[str, Any] = {"n": [0]}
    call = start(ARGUED[name](caller, value, **OPTIONS[option]))
    wrong = start(ARGUED[name](caller, [object()], **OPTIONS[option]))
    await turns()
    value["n"].append(1)
    assert isinstance(wrong.exception(), TypeError)
    w.end()
    await turns(20)
    assert [message["a"] for message in w.d.take() if "a" in message][-1] == [EVENTS[name], {"n": [0]}]
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


@pytest.mark.parametrize("options", [{}, OPTIONS["metadata"]], ids=["", "metadata"])
@pytest.mark.parametrize("codec", [None, MsgpackCodec()], ids=["negotiated", "MessagePack"])
async def test_bytes_that_wait_for_a_connection_arrive_as_bytes(codec: Codec | None, options: dict[str, Any]) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    server = Server(codec=codec)

    @server.on("note")
    def note(values: dict[str, bytes | list[bytes]]) -> None:
        got.put_nowait(values)

    async with server.listen("127.0.0.1", 0) as listener:
        client, several = Client(listener.url, codec=codec), [b"\xff"]
        client.emit_nowait("note", {"a": b"\x00", "b": several}, **options)
        several.append(b"later")
        async with client:
            assert await got.get() == {"a": b"\x00", "b": [b"\xff"]}


@pytest.mark.parametrize("place", ["for open handlers", "for room"])
async def test_what_is_cancelled_while_it_waits_is_not_sent(place: str) -> None:
    w = Waits(place)
    await w.begin()
    for offline in ("queue", "fail"):
        waits = start(w.d.peer.request("waits", timeout=None, offline=offline))
        await turns()
        waits.cancel()
    w.go.set()
    w.d.transport.resume()
    await turns(20)
    assert "waits" not in names(w.d.take()) and w.d.peer.pending == 0


async def test_what_left_the_queue_makes_room_in_it() -> None:
    d = redialing(limits=Limits(offline=1))
    d.transport.lose()
    for n in range(3):  # each would find it full, if the one before were still there
        leaves = start(d.peer.request("leaves", n))
        await turns()
        leaves.cancel()
        await turns(1)
        assert d.peer.pending == 0
    for name in ("1", "2"):
        await d.peer.emit(name)
        with pytest.raises(QueueFull):
            d.peer.emit_nowait("too many")
        d.rebind()
        await turns()
        assert names(d.take()) == [name]
        d.transport.lose()


@pytest.mark.parametrize(
    ("announced", "value"), [({"message": 1000}, "x" * 2000), ({"values": 100}, [0] * 200)], ids=["bytes", "values"]
)
async def test_a_caller_that_waits_is_told_that_its_message_is_too_big_for_the_other_side(
    announced: dict[str, int], value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    d = redialing(bind=False, extensions=True)
    go = asyncio.Event()
    d.peer.on("open", go.wait)
    d.peer.bind(d.transport)
    waiting = start(d.peer.request("big", value, offline="fail"))
    await turns()
    d.peer.emit_nowait("big", value)
    await d.fed(welcome(**announced))
    go.set()
    await turns()
    assert isinstance(waiting.exception(), MessageTooBig)
    assert [line for line in messages(caplog) if "an event that waited for a connection was not sent: " in line]


@pytest.mark.parametrize("end", ["drops", "is closed"])
async def test_what_nobody_waits_for_while_open_handlers_run(end: str, caplog: pytest.LogCaptureFixture) -> None:
    w = Waits("for open handlers")
    await w.begin()
    w.d.peer.emit_nowait("accepted", offline="fail")
    if end == "is closed":  # it writes what was accepted
        await w.d.peer.close()
        assert names(w.d.take()) == ["accepted"]
        return
    w.d.transport.lose()
    w.d.rebind()
    w.go.set()
    await turns(20)
    assert names(w.d.take()) == ["hello", "accepted"] and not [text for text in messages(caplog) if "not sent" in text]


async def test_the_log_says_how_many_events_never_left(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    for _ in range(2):
        await client.emit("lost")
    await client.close()
    assert "2 events that waited for a connection were not sent" in messages(caplog)


@pytest.mark.parametrize("options", [{}, OPTIONS["metadata"]], ids=["", "metadata"])
async def test_many_bytes_that_wait_arrive_as_bytes_without_an_annotation_too(options: dict[str, Any]) -> None:
    got: asyncio.Queue[Any] = asyncio.Queue()
    server = Server()
    server.on("note", lambda value: got.put_nowait(value))
    async with server.listen("127.0.0.1", 0) as listener:
        client = Client(listener.url)
        client.emit_nowait("note", [bytes(60_000)], **options)
        async with client:
            assert await got.get() == [bytes(60_000)]
