"""Clients that follow the presence of a room, as pages do, for tests of one server and of clusters."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Self

from waiting import until

from wsrpc import Client, Handshake, Peer, Reconnect, Room, Server
from wsrpc.testing import Line
from wsrpc.types import Present

__all__ = ["GRACE", "Hook", "Viewer", "Watcher", "give_principals", "states"]

GRACE = 10.0


def give_principals(server: Server, presence: float = GRACE) -> None:
    """Take users from the path of a client, ``/?user=ada``, and let everybody join the lobby, which has presence."""

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        handshake.principal = handshake.query.get("user")

    server.room("lobby", allow=lambda peer: True, presence=presence)


def states(server: Server) -> dict[str | int, str]:
    """Return what a server knows of the users in the lobby."""
    return {user: present.state for user, present in server.room("lobby").present().items()}


class Viewer:
    """A client, and what it knows of the users in the lobby."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.events: list[tuple[list[Any], bool]] = []
        self.known: dict[str | int, str] = {}
        self.about: dict[str | int, list[Any]] = {}
        self.history: list[tuple[str | int, str]] = []
        """What has changed in ``known``."""
        self.client.of("rooms").on("presence", self._received)

    def _received(self, room: str, entries: list[Any], first: bool) -> None:
        assert room == "lobby"
        self.events.append((entries, first))
        if first:
            self.known, self.about = {}, {}
        for entry in entries:
            user, state = entry["user"], entry["state"]
            if self.known.get(user, "offline") != state:
                self.history.append((user, state))
            self.known[user], self.about[user] = state, entry["about"]
            if state == "offline":
                del self.known[user], self.about[user]

    def states(self, user: str) -> list[str]:
        """Return the states of a user, one after another."""
        return [state for who, state in self.history if who == user]

    async def join(self, **options: Any) -> Self:
        """Connect, and join the lobby."""
        await self.client.connect()
        await self.client.of("rooms").request("join", "lobby", *([options] if options else []))
        return self

    async def sees(self, **known: str) -> None:
        """Wait until it knows of exactly these users."""
        with suppress(TimeoutError):
            await until(lambda: self.known == known)
        assert self.known == known, f"it knows of {self.known}, not {known}: {self.history}"


class Watcher(Viewer):
    """A client of a server in this process."""

    def __init__(self, server: Server, user: str | None = None) -> None:
        self.server = server
        self.line = Line(server)
        path = "/" if user is None else f"/?user={user}"
        super().__init__(
            Client(f"ws://server{path}", dial=self.line.dial, reconnect=Reconnect(initial=0.001, max=0.02))
        )
        self.peer: Peer
        """At the server."""

    async def join(self, **options: Any) -> Self:
        await self.client.connect()
        transport = self.line.connections[-1][1]
        self.peer = next(peer for peer in self.server.peers if peer.transport is transport)
        return await super().join(**options)


class Hook:
    """What the functions of `on_presence` are called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str | int, str]] = []

    def listen(self, server: Server) -> None:
        server.on_presence(self._called)

    def _called(self, room: Room, present: Present) -> None:
        assert room.name == "lobby"
        self.calls.append((present.user, present.state))

    def states(self, user: str) -> list[str]:
        return [state for who, state in self.calls if who == user]
