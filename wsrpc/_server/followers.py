"""`Followers`: members that miss nothing of what they follow, such as the events of a room that remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable
from typing import Any

from msgspec.structs import replace

from .._core.api.peer import Peer
from .._raw.raw_connection import RawConnection
from ..errors import ConnectionLost, QueueFull
from .broadcast import BroadcastGroup, EmitReport, EventBroadcast, RawBroadcast
from .peers import ServedPeer

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class Followers(BroadcastGroup):
    """Broadcasts to members of which none misses a message.

    A member is *behind* while its connection is full, and until it has caught up. It gets no broadcasts then. A task
    runs `catch_up`, which sends what the member has missed.

    Args:
        group: the members of a room.
        spawn: runs a coroutine in a task that ends with the server.
    """

    def __init__(self, group: BroadcastGroup, spawn: Spawn) -> None:
        super().__init__(group.codec, "close", group.outgoing, group.lost)
        self.members = group.members  # the same object: members enter and leave there
        self._spawn = spawn
        self._behind: dict[Peer, asyncio.Task[Any]] = {}

    async def catch_up(self, served: ServedPeer) -> Any:
        """Send what a member has missed. When this returns, the member must miss nothing more.

        Raises:
            ConnectionLost: the session of the member has ended.
            QueueFull: the member has not read for too long, and its session ends.
        """
        raise NotImplementedError

    def fall_behind(self, served: ServedPeer) -> asyncio.Task[Any]:
        """Take a member out of the broadcasts until it has caught up. Return the task of `catch_up`."""
        peer = served.peer
        task = self._behind[peer] = self._spawn(self._catch_up(served))
        return task

    async def _catch_up(self, served: ServedPeer) -> Any:
        try:
            return await self.catch_up(served)
        except (ConnectionLost, QueueFull):
            self.lost(served.peer)
            return None
        finally:
            if self._behind.get(served.peer) is asyncio.current_task():
                del self._behind[served.peer]

    def drop(self, member: Peer) -> None:
        """Stop what a member that leaves has to catch up with. Idempotent."""
        if (task := self._behind.pop(member, None)) is not None:
            task.cancel()

    async def wait_room(self, served: ServedPeer) -> None:
        """Wait until a member can take more.

        Raises:
            ConnectionLost: its session has ended.
        """
        await served.writer.wait_room()
        served.check_open()

    def _send(self, message: EventBroadcast | RawBroadcast, key: Hashable, skipped: Collection[object]) -> EmitReport:
        if not self._behind:
            return super()._send(message, key, skipped)
        later = self.count(self._behind, skipped)  # before others fall behind
        report = super()._send(message, key, {*skipped, *self._behind})
        return replace(report, sent=report.sent + later)

    def count(self, members: Iterable[Peer | RawConnection], skipped: Collection[object]) -> int:
        """Return how many of some members are not skipped."""
        return sum(peer not in skipped and self.members[peer].address not in skipped for peer in members)

    def _deliver(self, inside: Any, message: EventBroadcast | RawBroadcast, key: Hashable) -> bool:
        if isinstance(inside, ServedPeer) and inside.writer.session.full:
            inside.check_open()
            self.fall_behind(inside)
            return True
        return super()._deliver(inside, message, key)
