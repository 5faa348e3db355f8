"""`Server.room`: members come and go, clients join by themselves, and nothing is left of those who are gone.

`test_server_emit.py` has who gets a broadcast.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from audience import LIMITS, audience, line_of
from core_driver import Blocked, messages, said_in
from waiting import until

from wsrpc import BadArguments, Client, CloseInfo, ConnectionLost, Peer, RemoteError, RpcError, Server
from wsrpc.testing import connect
from wsrpc.types import EmitReport


async def test_membership_ends_with_the_connection() -> None:
    server = Server(limits=LIMITS)
    lobby, ended = server.room("lobby"), list[Any]()

    @server.on("close")
    async def closed(peer: Peer, info: CloseInfo) -> None:
        # It is no member any more, but its `close` handler can still see where it was.
        report = await lobby.emit("say", f"{peer.id} left")
        ended.append((peer in lobby, [room.name for room in peer.rooms], report))

    async with audience(server, 2) as pairs:
        (_, leaving), (ear, _) = pairs
        for _, peer in pairs:
            lobby.add(peer)
        line_of(leaving).abort()
        assert await ear.heard.get() == f"{leaving.id} left"
        await until(lambda: ended)
        with pytest.raises(ConnectionLost, match="nothing was sent"):
            lobby.add(leaving)
        lobby.remove(leaving)
        assert len(lobby) == 1
    assert ended[0] == (False, ["lobby"], EmitReport(1))


async def ask(client: Client, event: str, *args: object, channel: str = "rooms") -> object:
    """``None`` where the server agrees, else what it says."""
    try:
        return await client.of(channel).request(event, *args)
    except RemoteError as error:
        return error.message


async def test_joining_and_leaving() -> None:
    server = Server()
    prices = server.room("prices", allow=lambda peer: peer.state.get("plan") == "pro")
    async with connect(server) as client, connect(server) as other:
        pro, free = server.peers
        pro.state["plan"] = "pro"
        assert [await ask(client, "join", "prices") for _ in range(2)] == [None, None]
        assert await ask(other, "join", "prices") == "not allowed"
        assert list(prices) == [pro] and free.rooms == ()
        pro.state["plan"] = "expired"  # each join is judged anew, which does not throw it out: that is `discard`
        assert await ask(client, "join", "prices") == "not allowed"
        assert len(prices) == 1
        assert [await ask(client, "leave", name) for name in ("prices", "prices", "nowhere")] == [None] * 3
        assert len(prices) == 0
        pro.state["plan"] = "pro"
        assert await ask(client, "join", "prices") is None
        prices.add(pro)  # from now on, only the server removes it
        assert await ask(client, "leave", "prices") == "not allowed"
        assert list(prices) == [pro]


async def test_on_join_is_asked_for_names_without_a_validator_that_may_be_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    asked: list[str] = []

    @server.on_join
    async def may(peer: Peer, room: str) -> bool | None:
        asked.append(room)
        return room.startswith("pub") or None

    async def allow(peer: Peer) -> bool:
        return True

    server.room("prices", allow=allow)
    server.room("slow", slow="drop_oldest")
    async with connect(server) as client:
        for name in ("", "n" * 257, "ä" * 128 + "x", "private", "slow"):
            assert await ask(client, "join", name) == "not allowed"
        with pytest.raises(BadArguments, match=r"join\(\): "):
            await client.of("rooms").request("join", 7)
        assert [await ask(client, "join", name) for name in ("pub-ää", "prices")] == [None] * 2
        assert asked == ["private", "slow", "pub-ää"]
        assert [room.name for room in server.peers[0].rooms] == ["pub-ää", "prices"]
        assert await ask(client, "leave", "pub-ää") is None
        assert [room.name for room in server.rooms] == ["prices", "slow"]
    message, _ = messages(caplog)
    assert message.startswith("refused to let the peer join room 'private', because on_join returned None, ")


@pytest.mark.parametrize("exc", [PermissionError("it"), RpcError("it", code="why"), asyncio.CancelledError()])
@pytest.mark.parametrize("of", ["on_join", "allow="])
async def test_a_refusal_says_nothing_of_what_was_raised(
    of: str, exc: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(expose_errors=True)

    async def fails(*args: object) -> bool:
        raise exc

    server.on_join(fails) if of == "on_join" else server.room("prices", allow=fails)
    async with connect(server) as client:
        with pytest.raises(RemoteError) as raised:
            await client.of("rooms").request("join", "prices")
        error = raised.value
        assert (error.message, error.code, error.data, dict(error.fields)) == ("not allowed", None, None, {})
        assert server.peers[0].rooms == ()
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert said_in(record) == f"refused to let the peer join room 'prices', because {of} failed"
    assert record.exc_info is not None and record.exc_info[1] is exc


@pytest.mark.parametrize("leaves", [True, False])
async def test_who_leaves_or_is_gone_while_it_is_judged_is_no_member(leaves: bool) -> None:
    server, work = Server(), Blocked()

    @server.on_join
    async def may(peer: Peer, room: str) -> bool:
        await work()
        return True

    async with connect(server) as client:
        (peer,) = server.peers
        await client.of("rooms").emit("join", "a")  # an event, whose handler is not cancelled
        await until(lambda: work.started)
        if leaves:
            await client.of("rooms").emit("leave", "a")
            await until(lambda: peer.active == 2)
        else:
            line_of(peer).abort()
            await until(lambda: not server.peers)
        work.go.set()
        await until(lambda: work.finished and not peer.active)
        assert (peer.rooms, server.rooms) == ((), ())


def test_options_of_a_room_are_given_once() -> None:
    server = Server()
    first = server.room("prices", allow=lambda peer: True, slow="drop_oldest")
    assert server.room("prices") is server.room("prices", slow="drop_oldest") is first
    with pytest.raises(ValueError, match="room 'prices' has slow='drop_oldest' already"):
        server.room("prices", slow="close")
    with pytest.raises(ValueError, match="room 'prices' has allow="):
        server.room("prices", allow=lambda peer: True)
