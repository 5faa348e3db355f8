"""Requests of one participant, and the events that the others get."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated

from msgspec import Meta
from store import Message, Store

from wsrpc import Handshake, Peer, Room, RpcError, Server, Service, method

LOBBY = "lobby"
EVERYBODY = " "  # the room of all pages. It is no RoomName, so nobody can join it
KEPT = 24 * 3600  # seconds for which a page may be away, and gets what it has missed from the log of the room
GRACE = 5  # seconds for which a user without a connection is away, and not gone: a page may be reloading
LARGEST_FILE = 20 * 1024 * 1024

# Arguments that do not fit are refused before a method runs; the error says what was expected.
ROOM_NAME = r"^\S(.{0,28}\S)?\Z"
RoomName = Annotated[str, Meta(pattern=ROOM_NAME)]
Id = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Text = Annotated[str, Meta(min_length=1, max_length=4000)]
FileName = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^/\\\x00-\x1f]+\Z")]
Piece = Annotated[bytes, Meta(max_length=256 * 1024)]
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]


def gate(handshake: Handshake) -> None:
    """Accept any name. With accounts, check a token or the site's cookie instead."""
    name = handshake.query.get("name", "").strip()
    if not 1 <= len(name) <= 30:
        handshake.reject(400, "say who you are: /ws?name=Ada\n")
    handshake.principal = name


class Chat(Service):
    """Serves one connection."""

    def __init__(self, peer: Peer, store: Store) -> None:
        self.name = str(peer.principal)
        self.store = store

    def on_open(self) -> None:
        self.server.room(EVERYBODY).add(self.peer)

    @method
    def rooms(self) -> list[str]:
        return sorted({LOBBY, *self.store.rooms()})

    # ---------------------------------------------------------------- messages

    @method
    async def say(self, room: RoomName, message_id: Id, text: Text) -> None:
        """Publish a message. A page that got no answer may send it again, with the same id."""
        await self.publish(room, message_id, text)

    async def publish(self, room: str, message_id: str, text: str, file: tuple[str, int] | None = None) -> None:
        # Emitted again if it was stored before, because the process may have ended in between. Pages know its id.
        message = self.store.add(message_id, room, self.name, text, file)
        await room_of(self.server, message.room).emit("said", message)

    @method
    async def typing(self, room: RoomName, active: bool) -> None:
        await self.server.room(EVERYBODY).emit("typing", room, self.name, active, skip=self.peer)

    @method
    def history(self, room: RoomName, before: Number | None = None) -> list[Message]:
        """Return older messages than the log of the room has, newest first."""
        return self.store.newest(room, before=before, count=30)

    # ---------------------------------------------------------------- files

    @method
    def uploaded(self, file_id: Id) -> int:
        """Return how many bytes of a file are here. If the server was killed, a page continues there."""
        return self.store.size(file_id)

    @method
    async def upload(
        self, room: RoomName, file_id: Id, name: FileName, size: Number, offset: Number, pieces: AsyncIterator[Piece]
    ) -> None:
        """Take the bytes of a file from an offset on, and publish it in a room, as a message with the file's id."""
        if size > LARGEST_FILE:
            raise RpcError(f"files may have {LARGEST_FILE // 1024**2} MB at most", code="too_big")
        async for piece in pieces:
            if offset + len(piece) > size or not await asyncio.to_thread(self.store.write, file_id, offset, piece):
                raise RpcError(f"a piece of {name} does not continue what is here", code="bad_piece")
            offset += len(piece)
        if self.store.size(file_id) != size:
            raise RpcError(f"{name} is not complete", code="incomplete")
        self.store.finish(file_id)
        await self.publish(room, file_id, "", (name, size))


def room_of(server: Server, name: str) -> Room:
    return server.room(name, keep=KEPT, presence=GRACE)


def make_server(store: Store, redis: str | None = None) -> Server:
    """Return a server. Several of them, with one Redis and one store, are one chat."""
    server = Server()
    if redis is not None:
        from wsrpc.cluster import Cluster
        from wsrpc_adapters.redis import RedisEngine, RedisStore

        server = Server(cluster=Cluster(RedisEngine(redis), name="chat"), store=RedisStore(redis))
    server.on_handshake(gate)
    server.add_service(Chat, lambda peer: Chat(peer, store))

    @server.on_join
    async def join(peer: Peer, name: str) -> bool:
        """Let everybody into every room. A page calls this with `client.room(name)`."""
        if re.match(ROOM_NAME, name) is None:
            return False
        room_of(server, name)
        if store.add_room(name):
            await server.room(EVERYBODY).emit("room", name)
        return True

    return server
