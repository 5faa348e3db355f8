"""`Server.room`: members come and go, a broadcast reaches who is in, and nothing is left of those who are gone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from audience import LIMITS, TIGHT, audience, line_of
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, raw_client

from wsrpc import CloseInfo, ConnectionLost, Peer, QueueFull, RpcError, Server
from wsrpc.codecs import MsgpackCodec
from wsrpc.errors import ReservedEvent
from wsrpc.testing import connect, memory_transports
from wsrpc.transport import ConnectionInfo

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_members_and_nobody_else_get_it() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 3) as pairs:
        room = server.room("lobby")
        for _, peer in pairs[:2]:
            room.add(peer)
            room.add(peer)  # no more than once
        report = await room.emit("say", "hello")
        assert (report.sent, report.errors, report.dropped) == (2, (), 0)
        assert (await room.emit("say", "not you", skip=pairs[0][1])).sent == 1
        assert (await room.of("side").emit("say", "aside")).sent == 2
        await server.emit("say", "all")
        heard = []
        for ear, _ in pairs:
            words = [await ear.heard.get()]
            while words[-1] != "all":
                words.append(await ear.heard.get())
            heard.append(words)
        assert heard == [
            ["hello", "side aside", "all"],
            ["hello", "not you", "side aside", "all"],
            ["all"],
        ]


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


async def test_an_empty_room_does_not_stay_unless_it_was_declared() -> None:
    server = Server(limits=LIMITS)
    async with audience(server, 1) as [(_, peer)]:
        prices = server.room("prices", slow="drop_oldest")
        room = weakref.ref(server.room("lobby"))
        assert room() is None
        server.room("lobby").add(peer)
        room = weakref.ref(server.room("lobby"))
        assert server.rooms == (prices, room())
        server.room("lobby").discard(peer)
        assert room() is None
        assert list(server.rooms) == [prices]
        held = server.room("lobby")
        assert server.room("lobby") is held  # nobody has two of one name


async def test_membership_ends_with_the_connection() -> None:
    server = Server(limits=LIMITS)
    seen: list[tuple[tuple[str, ...], bool]] = []
    ended = asyncio.Event()

    @server.on("close")
    async def closed(peer: Peer, info: CloseInfo) -> None:
        seen.append((tuple(room.name for room in peer.rooms), peer in lobby))
        report = await lobby.emit("say", f"{peer.id} left")
        assert report.sent == 1
        ended.set()

    lobby = server.room("lobby")
    async with audience(server, 2) as pairs:
        (_, leaving), (ear, _) = pairs
        for _, peer in pairs:
            lobby.add(peer)
        line_of(leaving).abort()
        await ended.wait()
        # It is no member any more, but its `close` handler can still see where it was.
        assert seen == [(("lobby",), False)]
        assert len(lobby) == 1
        assert await ear.heard.get() == f"{leaving.id} left"
        with pytest.raises(ConnectionLost, match="nothing was sent"):
            lobby.add(leaving)
        lobby.discard(leaving)
        assert len(lobby) == 1
        server.on("close", None)


async def test_a_peer_that_is_gone_is_not_kept() -> None:
    server = Server(limits=LIMITS)
    lobby = server.room("lobby")
    async with audience(server, 1) as pairs:
        lobby.add(pairs[0][1])
        gone = weakref.ref(pairs.pop()[1])
    gc.collect()
    assert gone() is None
    assert len(lobby) == 0


async def test_a_peer_of_somebody_else() -> None:
    server, other = Server(limits=LIMITS), Server(limits=LIMITS)
    async with audience(other, 1) as [(ear, peer)]:
        for stranger in (peer, ear.client.peer):
            with pytest.raises(ValueError, match="not a peer of this room's server"):
                server.room("lobby").add(stranger)
        assert ear.client.peer.rooms == ()


async def test_a_peer_is_in_so_many_rooms_at_most() -> None:
    server = Server(limits=LIMITS.replace(rooms=2))

    @server.on("enter")
    def enter(peer: Peer, name: str) -> None:
        server.room(name).add(peer)

    async with connect(server) as client:
        for name in ("a", "b", "a"):
            await client.request("enter", name)
        with pytest.raises(RpcError, match="in 2 rooms already"):  # the caller is told, too
            await client.request("enter", "c")
        (peer,) = server.peers
        assert [room.name for room in server.rooms] == ["a", "b"]
        server.room("a").discard(peer)
        server.room("c").add(peer)
        assert [room.name for room in peer.rooms] == ["b", "c"]


async def test_names_and_arguments_that_are_none() -> None:
    server = Server(limits=LIMITS)
    room = server.room("lobby")
    with pytest.raises(TypeError, match="a room's name is a non-empty string, got ''"):
        server.room("")
    with pytest.raises(TypeError, match="a channel's name"):
        room.of("")
    with pytest.raises(ReservedEvent):
        await room.emit("open")
    await room.of("side").emit("open")  # an ordinary name there
    with pytest.raises(TypeError, match="str or bytes, got int"):
        await room.send_raw(7)  # type: ignore[arg-type]
    for emit in (room.emit, room.of("side").emit):
        with pytest.raises(TypeError, match="amount"):
            await emit("say", amount=1)  # type: ignore[arg-type]


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
            text, binary, empty = ("täxt".encode(), 1), (b"\x00\xff", 2), (b"", 2)
            for raw, expected in ((first, [text, empty]), (second, [text, binary, empty])):
                for payload, opcode in expected:
                    frame = await raw.next_frame()
                    assert frame.payload == payload
                    assert frame.opcode == opcode
                await raw.send(raw.close_frame())
                await raw.next_of(CLOSE)


@pytest.mark.parametrize("size", [1, 50])
async def test_encoded_once_for_each_codec(size: int) -> None:
    asked: list[object] = []

    def enc_hook(value: object) -> str:
        asked.append(value)
        return "it"

    server = Server(limits=LIMITS, enc_hook=enc_hook)
    async with audience(server, size) as pairs:
        room = server.room("lobby")
        for _, peer in pairs:
            room.add(peer)
        await pairs[0][0].client.of("side").emit("x")
        await turns_until(lambda: all(not peer._out.terms.plain for _, peer in pairs))  # they speak MessagePack by now
        await room.emit("say", object())
        assert [await ear.heard.get() for ear, _ in pairs] == ["it"] * size
        assert len(asked) == 2  # JSON, in which a mistake would show, and MessagePack
    server = Server(limits=LIMITS, codec=MsgpackCodec(enc_hook=enc_hook))
    await server.emit("say", object())
    assert len(asked) == 3


async def test_a_member_that_is_closed_is_reported_once_and_leaves() -> None:
    server = Server(limits=TIGHT)
    async with audience(server, 2, TIGHT) as pairs:
        (ear, good), (_, stuck) = pairs
        room = server.room("lobby")
        for _, peer in pairs:
            room.add(peer)
        line_of(stuck).hold()
        reports = []
        for number in range(3):
            reports.append(await room.emit("say", str(number) * 3_000_000))
        (error,) = reports[1].errors
        assert error.peer is stuck
        assert isinstance(error.__cause__, QueueFull)
        assert [(report.sent, len(report.errors)) for report in reports] == [(2, 0), (1, 1), (1, 0)]
        assert list(room) == [good]
        assert [(await ear.heard.get())[0] for _ in range(3)] == ["0", "1", "2"]


async def test_the_room_of_the_path() -> None:
    server = Server(limits=LIMITS, room_from=lambda info: info.path)
    homes: list[str] = []
    server.on("open", lambda peer: homes.append(peer.home_room.name))
    async with connect(server, path="/red?x=1") as red, connect(server, path="/blue"):
        heard: asyncio.Queue[str] = asyncio.Queue()
        red.on("say", heard.put_nowait)
        assert homes == ["/red", "/blue"]
        assert [room.name for room in server.rooms] == ["/red", "/blue"]
        assert [peer.rooms for peer in server.peers] == [(room,) for room in server.rooms]
        assert (await server.room("/red").emit("say", "hello")).sent == 1
        assert await heard.get() == "hello"
    assert server.rooms == ()


async def test_no_home_room() -> None:
    async with audience(Server(limits=LIMITS), 1) as [(ear, peer)]:
        for one in (peer, ear.client.peer):
            with pytest.raises(RuntimeError, match="room_from="):
                _ = one.home_room


async def test_room_from_is_not_async() -> None:
    async def room_from(info: ConnectionInfo) -> str:
        return "red"

    wrong: Any = room_from
    with pytest.raises(TypeError, match=r"^room_from= takes a plain function, not an async one like <function "):
        Server(room_from=wrong)


@pytest.mark.parametrize("room", [None, ""])
async def test_room_from_that_names_none(room: str | None, caplog: pytest.LogCaptureFixture) -> None:
    def room_from(info: ConnectionInfo) -> str:
        return room  # type: ignore[return-value]

    server = Server(limits=LIMITS, room_from=room_from)
    ours, theirs = memory_transports(path="/red")
    with pytest.raises(ConnectionLost) as raised:
        await server.accept(theirs)
    assert raised.value.code == 1011
    assert server.peers == ()
    assert "room_from failed, for /red" in caplog.text
    assert "a room's name is a non-empty string" in caplog.text
    await ours.close()
