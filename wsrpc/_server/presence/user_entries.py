"""`UserEntries`: the users in rooms with presence, as each node of a cluster has reported them last."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from math import inf
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from ..._base.names import LONGEST_ADDRESS, can_be_sent
from ..._core.api.peer import Peer
from ..._core.wire.codecs import Codec, json_text
from ..._core.wire.counting import json_nests_deeper
from ...errors import BadArguments

T = TypeVar("T")
User = str | int
"""The user of a connection: its principal, or the id of its peer."""
BATCH = 1000
"""Maximum number of changes that are handled in one turn of the event loop, or sent in one message."""
LONGEST_ABOUT = 512
"""Maximum bytes of what a connection says about itself, as JSON."""
DEEPEST_ABOUT = 16
"""Maximum depth of its arrays and objects. All members drop an event that has a value nested deeper than they accept.
"""

_encode = msgspec.msgpack.Encoder(enc_hook=str.__str__).encode  # names may be of a subclass of str


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

    def was_missed(self) -> None:
        """Handle that other nodes have perhaps taken this node for ended."""


def user_of(peer: Peer) -> User:
    """Return the user of a peer."""
    principal = peer.principal
    if isinstance(principal, str) and can_be_sent(principal) and len(principal.encode()) <= LONGEST_ADDRESS:
        return str.__str__(principal)
    if isinstance(principal, int) and not isinstance(principal, bool) and -(2**63) <= principal < 2**64:
        return int(principal)
    return peer.id


def checked_about(about: object, codec: Codec) -> Any:
    """Return what a connection says about itself, as clients and other processes get it.

    Raises:
        BadArguments: it cannot be encoded, or it is too large.
    """
    try:
        text = json_text(codec, about).encode()
        plain = msgspec.json.decode(text)
        _encode(plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise BadArguments(f"`about` cannot be sent: {exc}") from None
    if json_nests_deeper(text, DEEPEST_ABOUT):
        raise BadArguments(f"`about` is nested more than {DEEPEST_ABOUT} deep")
    if len(text) > LONGEST_ABOUT:
        raise BadArguments(f"`about` takes {len(text)} bytes, and at most {LONGEST_ABOUT} are allowed")
    return plain


def parts_of(items: Iterable[T], most_bytes: int) -> Iterator[list[T]]:
    """Split items into parts, each of which fits in a message."""
    part: list[T] = []
    size = 0
    for item in items:
        bytes_of_one = len(_encode(item))
        if part and (len(part) == BATCH or size + bytes_of_one > most_bytes):
            yield part
            part, size = [], 0
        part.append(item)
        size += bytes_of_one
    if part:
        yield part


class UserEntries:
    """The entries of users in rooms, by node. Without a cluster, there is one node.

    Args:
        me: the name of this node.
        publish: a function that is called before an entry of this node changes.
    """

    def __init__(self, me: str = "", publish: Callable[[str, User | None], object] = lambda room, user: None) -> None:
        self.me = me
        self.deaf_at = -inf
        """The last time at which this node received nothing, so that it may not know what other nodes report."""
        self._publish = publish
        self._rooms: dict[str, dict[User | None, dict[str, UserEntry]]] = {}
        self.listen(lambda room: None)

    def listen(self, listener_of: Callable[[str], RoomListener | None]) -> None:
        """Notify the listeners that a function returns for rooms. It returns None if this process has no such room."""
        self._listener_of = listener_of

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
        if user is not None and (listener := self._listener_of(room)) is not None:
            listener.entry_changing(node, user, entry)
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
        users = [*self.entries_of(node)]
        for room in dict.fromkeys(room for room, _ in users):
            self.set(node, room, None, None)
            if (listener := self._listener_of(room)) is not None:
                listener.node_ended(node)
        for room, user in users:
            if self._listener_of(room) is None:
                self.set(node, room, user, None)

    def was_missed(self) -> None:
        """Handle that other nodes have perhaps taken this node for ended."""
        for listener in filter(None, map(self._listener_of, [*self._rooms])):
            listener.was_missed()
