"""Requests of one participant, and the events that the others get."""

from __future__ import annotations

import re
from typing import Annotated

from msgspec import Meta
from store import Message, Store

from wsrpc import Handshake, Peer, Room, Server, Service, method
from wsrpc.uploads import Uploads

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
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]


def gate(handshake: Handshake) -> None:
    """Accept any name. With accounts, check a token or the site's cookie instead."""
    name = handshake.query.get("name", "").strip()
    if not 1 <= len(name) <= 30:
        handshake.reject(400, "say who you are: /ws?name=Ada\n")
    handshake.principal = name


class Chat(Service):
    """Serves one connection."""

    def __init__(self, peer: Peer, store: Store, uploads: Uploads) -> None:
        self.name = str(peer.principal)
        self.store = store
        self.uploads = uploads

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
    async def show_file(self, room: RoomName, message_id: Id, name: FileName, file: str) -> None:
        """Publish a file that was uploaded, as a message. As with `say`, a page may call it again."""
        path = self.uploads.path(file, self.peer)
        self.store.save(message_id, path)
        await self.publish(room, message_id, "", (name, path.stat().st_size))


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
    uploads = Uploads(store.folder / "uploads", max_bytes=LARGEST_FILE)
    uploads.serve(server, "uploads")
    server.add_service(Chat, lambda peer: Chat(peer, store, uploads))

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
