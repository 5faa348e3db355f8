"""Calls from another thread than the event loop's: each is refused where its caller sees it, and says what to do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from operator import methodcaller
from types import SimpleNamespace
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import AnonymousChannel, Channel, Client, Limits, Peer, Room, Server, Stream
from wsrpc.testing import ScriptedTransport
from wsrpc.types import RawConnection, RoomChannel, ServerChannel

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)


def there(call: Callable[[], Any]) -> BaseException | None:
    """What ``call`` raises in another thread, where a coroutine gets an event loop of that thread."""

    async def main() -> None:
        result = call()
        if inspect.isawaitable(result):
            await asyncio.wait_for(result, 5)

    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, main()).exception(10)


class World(SimpleNamespace):
    """A server with a client, and everything that the two may have, all of it in use."""

    async def check(self) -> None:
        """Everything works."""
        callers = (self.client, self.peer, self.channel, self.conversation, self.client.of("named"))
        assert [await caller.request("echo", number) for number, caller in enumerate(callers)] == [0, 1, 2, 3, 4]
        assert self.peer in self.room and len(self.server.peers) == 1
        assert isinstance(await anext(self.items), int)
        assert (await self.room.emit("news")).sent == 1
        assert self.peer.limits == self.client.peer.limits == LIMITS


@asynccontextmanager
async def world() -> AsyncGenerator[World]:
    made = World()
    server = made.server = Server(limits=LIMITS)
    opened: asyncio.Queue[AnonymousChannel] = asyncio.Queue()

    def echo(value: Any) -> Any:
        return value

    server.on("echo", echo)
    server.of("named").on("echo", echo)

    @server.on("converse")
    async def converse(channel: AnonymousChannel) -> None:
        channel.on("echo", echo)
        opened.put_nowait(channel)
        await channel.wait_closed()

    @server.on("count")
    async def count() -> Any:
        for number in range(1_000_000):
            yield number

    @server.on("generate", keep=60)
    async def generate() -> Any:
        yield 1
        await asyncio.Event().wait()

    async with (
        asyncio.timeout(30),
        server.listen() as listener,
        Client(listener.url, limits=LIMITS) as client,
        client.stream("count") as items,
        client.stream("generate", key="k") as keyed,
    ):
        made.client, made.items, made.keyed = client, items, keyed
        client.on("echo", echo)
        [made.peer] = server.peers
        made.room = server.room("room")
        made.room.add(made.peer)
        made.channel = await client.open_channel("converse")
        made.conversation = await opened.get()
        made.channel.on("echo", echo)
        made.talk = made.channel.events("talk")
        yield made


SENDING: dict[str, Callable[[Any], Any]] = {
    "emit": lambda caller: caller.emit("n"),
    "emit_nowait": lambda caller: caller.emit_nowait("n"),
    "send_json": lambda caller: caller.send_json(1),
    "send_raw": lambda caller: caller.send_raw("x"),
    "request": lambda caller: caller.request("echo", 1),
    "stream": lambda caller: anext(caller.stream("count")),
    "follow": lambda caller: anext(caller.follow("count", key="k")),
    "open_channel": lambda caller: caller.open_channel("converse"),
    "events": lambda caller: caller.events("n"),
    "wait_for": lambda caller: caller.wait_for("n"),
    "items": lambda caller: caller.items(),
    "__aiter__": aiter,
}
"""What several classes have."""
SENDERS: dict[type, Callable[[World], Any]] = {
    Peer: lambda w: w.peer,
    Client: lambda w: w.client,
    Channel: lambda w: w.client.of("named"),
    AnonymousChannel: lambda w: w.channel,
    Server: lambda w: w.server,
    ServerChannel: lambda w: w.server.of("named"),
    Room: lambda w: w.room,
    RoomChannel: lambda w: w.room.of("named"),
}


ENDING: dict[type, str] = {
    Peer: "close wait_connected wait_closed",
    Client: "connect start wait_connected close __aenter__",
    AnonymousChannel: "close abort wait_closed",
    Server: "serve_forever close",
}
"""What is called without arguments."""


def calling(cls: type, call: Callable[[Any], Any]) -> Callable[[World], Any]:
    return lambda w: call(SENDERS[cls](w))


REFUSED: dict[str, Callable[[World], Any]] = {
    **{
        f"{cls.__name__}.{name}": calling(cls, call)
        for cls in SENDERS
        for name, call in SENDING.items()
        if hasattr(cls, name)
    },
    **{f"{cls.__name__}.{name}": calling(cls, methodcaller(name)) for cls in ENDING for name in ENDING[cls].split()},
    "Peer.bind": lambda w: w.peer.bind(w.peer.transport),
    "Peer.limits": lambda w: setattr(w.peer, "limits", LIMITS.replace(message_bytes=1000)),
    "Client.bind": lambda w: w.client.bind(w.peer.transport),
    "AnonymousChannel.__aexit__": lambda w: w.channel.__aexit__(None, None, None),
    "Stream.__anext__": lambda w: anext(w.talk),
    "Stream.stop": lambda w: w.keyed.stop(),
    "Stream.send": lambda w: w.keyed.send("more"),
    "Stream.aclose": lambda w: w.items.aclose(),
    "Stream.__aexit__": lambda w: w.items.__aexit__(None, None, None),
    "Server.accept": lambda w: w.server.accept(w.peer.transport),
    "Server.listen": lambda w: w.server.listen().__aenter__(),
    "Server.listening": lambda w: w.server.listening(pytest.fail).__aenter__(),
    "Room.add": lambda w: w.server.room("other").add(w.peer),
    "Room.remove": lambda w: w.room.remove(w.peer),
    "Room.join": lambda w: w.server.room("kept", keep=60).join(w.peer),
    "Room.events": lambda w: w.server.room("kept", keep=60).events(),
}

HARMLESS: dict[str, Callable[[World], Any]] = {
    "Peer.on": lambda w: w.peer.on("n", print),
    "Peer.stats": lambda w: w.peer.stats(),
    "Client.of": lambda w: w.client.of("new").on("n", print),
    "Channel.close": lambda w: w.client.of("gone").close(),
    "AnonymousChannel.on": lambda w: w.channel.on("n", print),
    "AnonymousChannel.__aenter__": lambda w: w.channel.__aenter__(),
    "Stream.__aenter__": lambda w: w.items.__aenter__(),
    "Server.open": lambda w: w.server.open(),
    "Server.stats": lambda w: w.server.stats(),
    "Server.collect_stats": lambda w: w.server.collect_stats(),
    "ServerChannel.close": lambda w: w.server.of("gone").close(),
    "Room.members": lambda w: w.room.members(),
    "Room.present": lambda w: w.server.room("watched", presence=1).present(),
}

REGISTERING = {"on", "once", "use", "include", "add_service", "serve_raw", "on_handshake", "on_join"}
REGISTERING |= {"on_detach", "on_resume", "on_presence", "on_drain", "use_outgoing"}
REGISTERING |= {"implement", "declare", "proxy", "emitter", "offer_description"}
"""Functions that only note what is to be called: before a program starts they may run anywhere. Proxies and
emitters call the methods above."""
NO_LOOP = {"run", "handshake", "get", "set", "of", "peer", "room", "present", "stats", "on_reconnect"}
"""Those that have a loop of their own, or only look something up."""


async def test_it_is_refused_with_what_to_do_instead() -> None:
    async with world() as made:
        for name, call in REFUSED.items():
            error = there(partial(call, made))
            assert isinstance(error, RuntimeError), (name, error)
            assert "in another thread" in str(error), name
            if name.endswith("_nowait"):  # a plain function
                assert "use loop.call_soon_threadsafe(" in str(error), name
            assert "asyncio.run_coroutine_threadsafe(" in str(error), name
            await made.check()


async def test_it_is_harmless() -> None:
    async with world() as made:
        for name, call in HARMLESS.items():
            assert there(partial(call, made)) is None, name
        await made.check()


RAW: dict[str, Callable[[RawConnection], Any]] = {
    "send": lambda c: c.send("x"),
    "send_json": lambda c: c.send_json(1),
    "receive": lambda c: c.receive(),
    "receive_text": lambda c: c.receive_text(),
    "receive_json": lambda c: c.receive_json(),
    "receive_bytes": lambda c: c.receive_bytes(),
    "pieces": lambda c: anext(c.pieces()),
    "__aiter__": lambda c: anext(aiter(c)),
    "wait_closed": lambda c: c.wait_closed(),
    "close": lambda c: c.close(),
}


async def test_of_a_raw_connection_too() -> None:
    server = Server(limits=LIMITS)

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        async for message in connection:
            await connection.send(message)

    transport = ScriptedTransport()
    connection = await server.accept(transport)
    assert isinstance(connection, RawConnection)
    for name, call in RAW.items():
        error = there(partial(call, connection))
        assert isinstance(error, RuntimeError) and "asyncio.run_coroutine_threadsafe(" in str(error), name
    transport.feed('"still there"')
    await until(lambda: transport.pop_sent() == ["still there"])
    await server.close()


def test_the_tables_have_every_method() -> None:
    told = {*REFUSED, *HARMLESS}
    for cls in (*SENDERS, Stream):
        names = {name for name, value in inspect.getmembers(cls, callable) if not name.startswith("_")}
        missing = {name for name in names - REGISTERING - NO_LOOP if f"{cls.__name__}.{name}" not in told}
        assert not missing, (cls, missing)
    raw = {name for name, value in inspect.getmembers(RawConnection, callable) if not name.startswith("_")}
    assert raw <= RAW.keys()
