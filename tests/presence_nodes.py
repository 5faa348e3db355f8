"""Nodes that know the users of one room, without a network and without an event loop."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from wsrpc._server.presence.presence import Presences
from wsrpc.cluster._nodes.directory import Directory
from wsrpc.types import Present

__all__ = ["Connection", "Nobody", "PresenceNode"]


class Nobody:
    """The owner of a directory that publishes by hand."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Members(dict[Any, Any]):
    """A group of members to which nothing is sent."""

    def __getattr__(self, name: str) -> Any:
        return Members()


def run(calling: Any) -> None:
    """Call the functions of `on_presence`, which wait for nothing."""
    with suppress(StopIteration):
        calling.send(None)


class PresenceNode(Nobody):
    """A directory, and the presence of the lobby in one process."""

    def __init__(self, name: str, clock: Any) -> None:
        self.clock = clock
        self.directory = Directory(name, self)
        make: Any = Presences
        self.presences = make(room=str, spawn=None)
        self.presences.open(clock)
        self.presences.calls = SimpleNamespace(spawn=lambda calling: clock.call_at(clock.time(), partial(run, calling)))
        self.presences.functions.append(lambda room, present: self.reported(present))
        self.presences.use(self.directory.presence)
        self.presences.add("lobby", 10.0, Members())
        self.lobby = self.presences.by_name["lobby"]

    def reported(self, present: Present) -> None:
        """Handle a call of the functions of `on_presence`."""

    def states(self) -> dict[Any, str]:
        """Return what the node knows of the users in the lobby."""
        return {user: present.state for user, present in self.lobby.present().items()}


class Connection:
    """One of a user, with what a `ServedPeer` has."""

    def __init__(self, node: PresenceNode, user: str | None = "ada") -> None:
        self.node, self.peer, self.connected = node, self, True
        self.id, self.principal = f"peer {id(self)}", user
        self.user = user or self.id
        self.current = SimpleNamespace(session=SimpleNamespace(state=SimpleNamespace(sends=True)))

    def joins(self) -> None:
        self.node.lobby.enter(self)

    def leaves(self, *, ended: bool) -> None:
        self.node.lobby.leave(self, ended=ended)

    def drops_or_resumes(self) -> None:
        self.connected = not self.connected
        self.node.lobby.connection_changed(self, self.connected)
