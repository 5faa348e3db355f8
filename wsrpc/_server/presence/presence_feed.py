"""`PresenceFeed`: sends the users in a room to the members at this process, first all of them, then each change."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress

from ..._base.rooms import CHANNEL, Present
from ..._core.api.peer import Peer
from ..._core.wire.messages import event_on
from ...errors import MessageTooBig
from ..broadcast import EventBroadcast, Fanout
from ..lossless_fanout import LateMember, LosslessFanout, Spawn
from .room_users import RoomUsers
from .user_entries import User, parts_of

PART_BYTES = 32 * 1024
"""About the maximum bytes of one event ``presence``."""


class PresenceFeed:
    """Sends the users in a room to its members: all users to a new member, then the changes.

    A member whose connection is full gets all users again when it has room. So it needs no memory meanwhile.
    """

    def __init__(self, group: Fanout, spawn: Spawn, users: RoomUsers) -> None:
        self._fanout = LosslessFanout(group, spawn, LateMember, self._catch_up)
        self._new: set[Peer] = set()
        """Members that get all users with the next batch."""
        self._users = users
        self._batches = 0
        """Number of batches with changes."""

    def add(self, member: Peer) -> None:
        """Send all users to a new member, with the next batch."""
        self._new.add(member)

    def drop(self, member: Peer) -> None:
        """Stop sending to a member that leaves. Idempotent."""
        self._fanout.drop(member)
        self._new.discard(member)

    def send(self, changes: Collection[User]) -> None:
        """Send changes to all members, and all users to the new ones."""
        new, self._new = self._new, set()
        if self._fanout.members and changes:
            self._batches += 1
            for message in self._messages(map(self._users.last_state, changes), first=False):
                self._fanout.send(message, new)
        if new:
            for message in self._messages(self._users.last_states(), first=True):
                self._fanout.send(message, self._fanout.members.keys() - new)

    async def _catch_up(self, late: LateMember) -> None:
        sent = -1
        while sent != self._batches:  # something has changed since the first part was sent
            await late.wait_room()
            sent = self._batches
            for message in [*self._messages(self._users.last_states(), first=True)]:
                with suppress(MessageTooBig):  # as in a broadcast, of which others see the report
                    self._fanout.send_to(late.served, message)
                await late.wait_room()

    def _messages(self, states: Iterable[Present], *, first: bool) -> Iterator[EventBroadcast]:
        for part in parts_of(states, PART_BYTES):
            yield EventBroadcast(event_on(CHANNEL, ("presence", self._users.name, part, first)))
            first = False
