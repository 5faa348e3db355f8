"""Calls that cannot work: each is refused where its caller sees it, and says what to do instead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from core_driver import start
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Client, ConnectionLost, Peer, Retry, Server
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- when it is awaited, never at the call

WRONG: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "no text": ((7,), {}),
    "an argument that cannot be encoded": (("event", object()), {}),
    "a keyword": (("event",), {"colour": "red"}),
    "offline": (("event",), {"offline": "maybe"}),
    "retry": (("event",), {"retry": 3}),
    "retry and send": (("event",), {"retry": Retry(), "send": [1]}),
    "idempotent": (("event",), {"idempotent": True}),
    "timeout": (("event",), {"timeout": -1}),
    "what is sent": (("event",), {"send": 3}),
}


async def test_on_a_client_a_peer_and_a_named_channel() -> None:
    async with connect(Server(), client=Client()) as client:
        for wrong, (args, options) in WRONG.items():
            for caller in (client, client.peer, client.of("room")):
                calls: list[Any] = [caller.request(*args, **options), caller.open_channel(*args, **options)]
                if not options or "colour" in options:
                    calls.append(caller.emit(*args, **options))
                results = await asyncio.gather(*calls, return_exceptions=True)
                assert all(isinstance(result, (TypeError, ValueError)) for result in results), (wrong, results)


# ---------------------------------------------------------------- without a connection, with offline="fail"


async def read(caller: Any) -> None:
    async with caller.stream("s"):
        pytest.fail("opened")


async def emit_nowait(caller: Any) -> None:
    caller.emit_nowait("e")


CALLS: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "emit": lambda caller: caller.emit("e"),
    "emit_nowait": emit_nowait,
    "request": lambda caller: caller.request("r"),
    "upload": lambda caller: caller.request("u", send=[1]),
    "open_channel": lambda caller: caller.open_channel("c"),
    "stream": read,
}


@asynccontextmanager
async def caller_in(place: str) -> AsyncGenerator[tuple[Client | Peer, int]]:
    """A client or a peer that cannot send, and the close code that says why."""
    server, client, may_end = Server(), Client(offline="fail"), asyncio.Event()
    if place == "never connected":
        yield client, 1006
        await client.close(4000, "bye")
        with pytest.raises(ConnectionLost, match="4000"):
            await client.emit("e")
        return
    server.on("work", may_end.wait)
    async with connect(server, client=client):
        [peer] = server.peers
        if place == "while the Close frame is on its way":
            ending = start(client.peer.close())
            await asyncio.sleep(0)
            yield client, 1000
            await ending
        elif place == "the other side drains":
            await client.emit("work")  # of which the client does not know how long it takes
            await settled()
            ending = start(server.close(drain_timeout=60))
            await settled()
            yield client, 1012
            assert not ending.done()
            may_end.set()
            await ending
    if place == "a server's peer":  # it has no next connection, whatever is asked for
        yield peer, 1000
    await server.close()


CANNOT_SEND = ["never connected", "while the Close frame is on its way", "the other side drains", "a server's peer"]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("place", CANNOT_SEND)
async def test_it_fails_at_once_and_nothing_is_left(place: str, name: str) -> None:
    async with asyncio.timeout(0.1), caller_in(place) as (caller, code):
        peer = caller if isinstance(caller, Peer) else caller.peer
        pending = peer.pending
        with pytest.raises(ConnectionLost) as caught:
            await CALLS[name](caller)
        assert (caught.value.code, caught.value.outcome, peer.pending) == (code, "not_sent", pending)


# ---------------------------------------------------------------- what would reach the wrong ones of many


async def test_a_raw_message_is_not_sent_where_it_would_be_taken_for_the_protocol() -> None:
    server = Server()
    await server.accept(plain := ScriptedTransport())
    room = server.room("lobby")
    room.add(server.peers[0])
    for target in (server, room):
        for data in ('{"a":["forged",1]}', msgspec.msgpack.encode({"a": ["forged", 1]})):
            with pytest.raises(ValueError, match=r"^the members use the wsrpc protocol, .*: use emit$"):
                await target.send_raw(data)
        with pytest.raises(ValueError, match=r": use emit$"):
            await target.send_json({"a": ["forged", 1]})
    plain.expect()
    for change in (room.add, room.remove):
        wrong: Any = "ada"
        with pytest.raises(ValueError, match=r"^'ada' is not a peer of this room's server$"):
            change(wrong)
    await server.close()


async def test_skip_is_a_peer_or_everybody_would_get_it() -> None:
    server = Server()
    async with connect(server):
        [peer] = server.peers
        room = server.room("lobby")
        room.add(peer)
        refused = pytest.raises(TypeError, match=r"^skip= takes a peer, a room, or a list of peers")
        for skip in (peer.id, [peer, peer.id], [None], True, {peer.id: peer}, 5):
            wrong: Any = skip
            for where in (server, server.of("chat"), room, room.of("chat")):
                with refused:
                    where.emit_nowait("x", skip=wrong)
                with refused:
                    await where.emit("x", skip=wrong)
        assert (await server.emit("x", skip=peer)).sent == 0


async def test_a_cancelled_emit_to_all_has_sent_nothing_and_leaves_nothing() -> None:
    server, line = Server(), ScriptedTransport()
    await server.accept(line)
    line.pause()
    emitting = start(server.emit("e", "cancelled"))
    await settled()
    assert not emitting.done()
    emitting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await emitting
    line.resume()
    await server.emit("e", "after")
    line.expect({"a": ["e", "after"]})
    await server.close()
