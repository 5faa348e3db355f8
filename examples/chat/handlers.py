"""Requests of one participant, and the events that the others get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from msgspec import Meta
from store import Message, Store

from wsrpc import CloseInfo, Handshake, Key, Peer, RpcError, Server, Service, method

NAME: Key[str] = Key("name")
LOBBY = "lobby"
LARGEST_FILE = 20 * 1024 * 1024

# Arguments that do not fit are refused before a method runs; the error says what was expected.
RoomName = Annotated[str, Meta(min_length=1, max_length=30, pattern=r"^\S(.*\S)?\Z")]
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
    handshake.state[NAME] = name


class Chat(Service):
    """Serves one connection."""

    def __init__(self, peer: Peer, store: Store) -> None:
        self.name = peer.state[NAME]
        self.store = store

    async def on_close(self, info: CloseInfo) -> None:
        for room in self.peer.rooms:  # it has left them, but they are still listed here
            await self.tell_people(room.name)

    # ---------------------------------------------------------------- rooms

    @method
    def rooms(self) -> list[str]:
        """The rooms with messages or members."""
        return sorted({LOBBY, *self.store.rooms(), *(room.name for room in self.server.rooms)})

    @method
    async def join(self, room: RoomName) -> list[str]:
        """Send the page what happens in the room from now on; return who is there."""
        is_new = room not in self.rooms()
        self.server.room(room).add(self.peer)
        await self.tell_people(room)
        if is_new:
            await self.server.emit("rooms", self.rooms())
        return self.people(room)

    @method
    async def leave(self, room: RoomName) -> None:
        self.server.room(room).remove(self.peer)
        await self.tell_people(room)

    def people(self, room: str) -> list[str]:
        """The names of a room's members, each once: a user may have the page open twice."""
        return sorted({peer.state[NAME] for peer in self.server.room(room)})

    async def tell_people(self, room: str) -> None:
        await self.server.room(room).emit("people", room, self.people(room), skip=self.peer)

    def check_here(self, room: str) -> None:
        if self.peer not in self.server.room(room):
            raise RpcError(f"join {room} first", code="not_here")

    # ---------------------------------------------------------------- messages

    @method
    async def say(self, room: RoomName, message_id: Id, text: Text) -> Message:
        """Publish a message. A page that got no answer may send it again: the id says whether it was published."""
        self.check_here(room)
        return await self.publish(room, message_id, text)

    async def publish(self, room: str, message_id: str, text: str, file: tuple[str, int] | None = None) -> Message:
        is_new = self.store.add(message_id, room, self.name, text, file)
        message = self.store.message(message_id)
        assert message is not None, "just added, and nothing is ever deleted"
        if is_new:
            await self.server.room(room).emit("said", message, skip=self.peer)
        return message

    @method
    async def typing(self, room: RoomName, active: bool) -> None:
        if self.peer in self.server.room(room):
            await self.server.room(room).emit("typing", room, self.name, active, skip=self.peer)

    @method
    def history(self, room: RoomName, before: Number | None = None, after: Number = 0) -> Iterator[Message]:
        """The messages of a room, newest first, read from the store as the page takes them."""
        self.check_here(room)
        return self.read_back(room, before, after)

    def read_back(self, room: str, before: int | None, after: int) -> Iterator[Message]:
        while messages := self.store.newest(room, before=before, after=after, count=50):
            yield from messages
            before = messages[-1].number

    # ---------------------------------------------------------------- files

    @method
    def uploaded(self, file_id: Id) -> int:
        """Return how many bytes of a file are here. If the server was killed, a page continues there."""
        return self.store.begin(file_id)

    @method
    async def upload(
        self, room: RoomName, file_id: Id, name: FileName, size: Number, offset: Number, pieces: AsyncIterator[Piece]
    ) -> Message:
        """Take the bytes of a file from an offset on, and publish it in a room, as a message with the file's id."""
        self.check_here(room)
        if size > LARGEST_FILE:
            raise RpcError(f"files may have {LARGEST_FILE // 1024**2} MB at most", code="too_big")
        async for piece in pieces:
            offset += len(piece)
            if (
                offset > size
                or await asyncio.to_thread(self.store.append, file_id, offset - len(piece), piece) != offset
            ):
                raise RpcError(f"a piece of {name} does not continue what is here", code="bad_piece")
        if self.store.begin(file_id) != size:
            raise RpcError(f"{name} is not complete", code="incomplete")
        self.store.finish(file_id)
        return await self.publish(room, file_id, "", (name, size))


def make_server(store: Store) -> Server:
    server = Server()
    server.on_handshake(gate)
    server.add_service(Chat, lambda peer: Chat(peer, store))
    return server
