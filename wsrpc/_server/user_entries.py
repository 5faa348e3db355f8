"""`UserEntries`: the users in rooms with presence, as each node of a cluster has reported them last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from math import inf
from typing import Any, Protocol

from msgspec import Struct

User = str | int
"""The user of a connection: its principal, or the id of its peer."""


class UserEntry(Struct, array_like=True, frozen=True):
    """The connections of a user in a room at one node.

    Attributes:
        online: whether a connection of the user is connected. Otherwise the user is away.
        about: what the connections say about themselves.
        named: whether the user has a principal, and so can connect again.
    """

    online: bool
    about: tuple[Any, ...] = ()
    named: bool = True


class RoomListener(Protocol):
    """Is notified of the users in one room."""

    def entry_changing(self, node: str, user: User, entry: UserEntry | None, /) -> None:
        """Handle a change of an entry, before it is made. None: the entry is removed."""

    def node_ended(self, node: str, /) -> None:
        """Handle the end of another node. Its last entries stay until they are removed here, or it is back."""

    def node_back(self, node: str, /) -> None:
        """Handle that a node that had ended is back. Its entries are what it reports."""

    def was_missed(self) -> None:
        """Handle that other nodes have perhaps taken this node for ended."""


class UserEntries:
    """The entries of users in rooms, by node. Without a cluster, there is one node.

    Args:
        me: the name of this node.
        publish: a function that is called before an entry of this node changes.
    """

    def __init__(self, me: str = "", publish: Callable[[str, User | None], object] = lambda room, user: None) -> None:
        self.me = me
        self.listeners: Mapping[str, RoomListener] = {}
        """Those of the rooms that this process has."""
        self.deaf_at = -inf
        """The last time at which this node received nothing, so that it may not know what other nodes report."""
        self._publish = publish
        self._rooms: dict[str, dict[User | None, dict[str, UserEntry]]] = {}

    def users(self, room: str) -> list[User]:
        """Return the users in a room that are online or away."""
        return [user for user in self._rooms.get(room, ()) if user is not None]

    def nodes(self, room: str) -> Collection[str]:
        """Return the nodes at which a room has presence."""
        return self.entries(room, None).keys()

    def entries(self, room: str, user: User | None) -> dict[str, UserEntry]:
        """Return the entries of a user, by node. The user None has an entry at each node at which the room is."""
        return self._rooms.get(room, {}).get(user, {})

    def entries_of(self, node: str) -> dict[tuple[str, User | None], UserEntry]:
        """Return the entries of a node, by room and user."""
        found: dict[tuple[str, User | None], UserEntry] = {}
        for room, users in self._rooms.items():
            found |= {(room, user): entries[node] for user, entries in users.items() if node in entries}
        return found

    def set(self, node: str, room: str, user: User | None, entry: UserEntry | None) -> None:
        """Set or remove an entry."""
        if node == self.me:
            self._publish(room, user)
        if user is not None and room in self.listeners:
            self.listeners[room].entry_changing(node, user, entry)
        users = self._rooms.setdefault(room, {})
        entries = users.setdefault(user, {})
        if entry is not None:
            entries[node] = entry
            return
        entries.pop(node, None)
        if not entries:
            del users[user]
        if not users:
            del self._rooms[room]

    def drop(self, node: str) -> None:
        """Remove a node that has ended. The rooms of this process remove its users when they see fit."""
        for room, user in self.entries_of(node):
            if user is None or room not in self.listeners:
                self.set(node, room, user, None)
        for listener in self.listeners.values():
            listener.node_ended(node)

    def node_back(self, node: str) -> None:
        """Handle that a node that had perhaps ended has reported all its entries again."""
        for listener in self.listeners.values():
            listener.node_back(node)

    def was_missed(self) -> None:
        """Handle that other nodes have perhaps taken this node for ended."""
        for listener in self.listeners.values():
            listener.was_missed()
