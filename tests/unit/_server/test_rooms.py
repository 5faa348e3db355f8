"""`Server.room`: members come and go, and nothing is left of those who are gone.

`test_server_emit.py` has who gets a broadcast; tests/property/test_rooms_machine.py compares with a model.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest
from audience import LIMITS, audience, line_of
from core_driver import messages
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import BINARY, CLOSE, TEXT, raw_client

from wsrpc import CloseInfo, ConnectionLost, Peer, RemoteError, RpcError, Server
from wsrpc.testing import ScriptedTransport, connect
from wsrpc.transport import ConnectionInfo
from wsrpc.types import EmitReport, RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_what_a_room_shows() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 2) as pairs:
        (_, first), (_, second) = pairs
        room = server.room("lobby")
        assert (room.name, len(room), list(room), first in room) == ("lobby", 0, [], False)
        room.add(first)
        room.add(second)
        server.room("other").add(first)
        assert (len(room), list(room), first in room, "first" in room) == (2, [first, second], True, False)
        assert first.rooms == (room, server.room("other"))
        assert second.rooms == (room,)
        assert server.rooms == (room, server.room("other"))
        assert repr(room) == "<Room 'lobby' 2 members>"
        assert repr(room.of("chat")) == "<RoomChannel 'chat' of <Room 'lobby' 2 members>>"
        assert room.of("chat").name == "chat"
        for peer in room:
            room.discard(peer)
            room.discard(peer)
        assert (len(room), list(first.rooms)) == (0, [server.room("other")])


async def test_membership_ends_with_the_connection() -> None:
    server = Server(limits=LIMITS)
    ended: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()

    @server.on("close")
    async def closed(peer: Peer, info: CloseInfo) -> None:
        # It is no member any more, but its `close` handler can still see where it was.
        if not ended.done():
            report = await lobby.emit("say", f"{peer.id} left")
            ended.set_result((peer in lobby, [room.name for room in peer.rooms], report))

    lobby = server.room("lobby")
    async with audience(server, 2) as pairs:
        (_, leaving), (ear, _) = pairs
        for _, peer in pairs:
            lobby.add(peer)
        line_of(leaving).abort()
        assert await ended == (False, ["lobby"], EmitReport(1))
        assert await ear.heard.get() == f"{leaving.id} left"
        with pytest.raises(ConnectionLost, match="nothing was sent"):
            lobby.add(leaving)
        lobby.discard(leaving)
        assert len(lobby) == 1


async def test_names_and_arguments_that_are_none() -> None:
    room = Server().room("lobby")
    with pytest.raises(TypeError, match="a room's name is a non-empty string, got ''"):
        Server().room("")
    with pytest.raises(TypeError, match="a channel's name"):
        room.of("")
    with pytest.raises(TypeError, match="str or bytes, got int"):
        await room.send_raw(7)  # type: ignore[arg-type]


async def test_raw_messages() -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        async with raw_client(listener.port) as first, raw_client(listener.port) as second:
            await turns_until(lambda: len(server.peers) == 2)
            room = server.room("lobby")
            for peer in server.peers:
                room.add(peer)
            mine = next(peer for peer in room if peer.info.remote == first.sock.getsockname())
            assert (await server.send_raw("täxt")).sent == 2
            assert (await room.send_raw(b"\x00\xff", skip=mine)).sent == 1
            assert (await room.send_raw(b"")).sent == 2
            text, binary, empty = ("täxt".encode(), TEXT), (b"\x00\xff", BINARY), (b"", BINARY)
            for raw, expected in ((first, [text, empty]), (second, [text, binary, empty])):
                frames = [await raw.next_frame() for _ in expected]
                assert [(frame.payload, frame.opcode) for frame in frames] == expected
                await raw.send(raw.close_frame())
                await raw.next_of(CLOSE)


# ---------------------------------------------------------------- the room in which a connection begins


async def test_the_room_of_the_path() -> None:
    server = Server(limits=LIMITS, room_from=lambda info: info.path)
    homes: list[str] = []
    server.on("open", lambda peer: homes.append(peer.home_room.name))
    server.on_join(lambda peer, room: True)
    async with connect(server, path="/red?x=1") as red, connect(server, path="/blue"):
        heard: asyncio.Queue[str] = asyncio.Queue()
        red.on("say", heard.put_nowait)
        assert homes == ["/red", "/blue"]
        assert [room.name for room in server.rooms] == ["/red", "/blue"]
        assert [peer.rooms for peer in server.peers] == [(room,) for room in server.rooms]
        assert (await server.room("/red").emit("say", "hello")).sent == 1
        assert await heard.get() == "hello"
        with pytest.raises(RemoteError, match="not allowed"):  # the server has put it there
            await red.of("rooms").request("leave", "/red")
        with pytest.raises(RuntimeError, match="room_from="):
            _ = red.peer.home_room
    assert server.rooms == ()


async def test_no_home_room() -> None:
    async with audience(Server(limits=LIMITS), 1) as [(_, peer)]:
        with pytest.raises(RuntimeError, match=r"no home room: give one by Server\(room_from=\.\.\.\)"):
            _ = peer.home_room


def raises(info: ConnectionInfo) -> str:
    raise KeyError("secret")


def refuses(info: ConnectionInfo) -> str:
    raise RpcError("no such document")


NAME = "a room's name is a non-empty string"


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("room_from", "code", "reason", "logged"),
    [
        (raises, 1011, "internal error", "secret"),
        (lambda info: None, 1011, "internal error", NAME),
        (lambda info: "", 1011, "internal error", NAME),
        (lambda info: 5, 1011, "internal error", NAME),
        (refuses, 1008, "no such document", None),
    ],
)
async def test_a_room_from_that_fails_serves_nobody(
    room_from: Any, code: int, reason: str, logged: str | None, raw: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(limits=LIMITS, room_from=room_from)
    served: list[RawConnection] = []

    async def serve(connection: RawConnection) -> None:
        served.append(connection)

    if raw:
        server.serve_raw(serve)
    transport = ScriptedTransport(ConnectionInfo(target="/red"))
    with suppress(ConnectionLost):
        assert isinstance(await server.accept(transport), RawConnection), "a peer is refused in accept()"
    await turns_until(lambda: transport.closed)
    assert transport.closed == CloseInfo(code, reason, was_clean=True)
    await server.close()
    assert (served, server.peers, server.raw_connections, server.rooms) == ([], (), (), ())
    assert bool(messages(caplog, logging.WARNING)) is (logged is not None)
    if logged is not None:
        assert logged in caplog.text and (raw or "room_from failed, for /red" in caplog.text)
