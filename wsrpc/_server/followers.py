"""`Followers`: members that get every message, later if their connection is full, such as the events of a room."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from .._core.api.peer import Peer
from .._raw.raw_connection import RawConnection
from ..errors import ConnectionLost, QueueFull
from .broadcast import Broadcast, BroadcastGroup, EmitReport
from .peers import ServedPeer

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class Behind:
    """A member that is behind: its connection was full, and it has not caught up.

    Attributes:
        task: sends what the member has missed.
    """

    task: asyncio.Task[Any]

    def __init__(self, served: ServedPeer) -> None:
        self.served = served

    async def wait_room(self) -> None:
        """Wait until the member can take more.

        Raises:
            ConnectionLost: its session has ended.
        """
        await self.served.writer.wait_room()
        self.served.check_open()


B = TypeVar("B", bound=Behind)


class Followers(BroadcastGroup, Generic[B]):
    """Broadcasts to members of which none misses a message. One that is behind gets no broadcasts.

    Args:
        group: the members of a room.
        spawn: runs a coroutine in a task that ends with the server.
        falls_behind: returns the state of a member that is behind from now on.
        catch_up: sends what the member has missed. When this returns, the member must miss nothing more. It may raise
            `ConnectionLost`, because the session of the member has ended, and `QueueFull`, because the member has not
            read for too long.
        ended: called when a member has caught up, or has left.

    Attributes:
        behind: the members that are behind.
    """

    def __init__(
        self,
        group: BroadcastGroup,
        spawn: Spawn,
        falls_behind: Callable[[ServedPeer], B],
        catch_up: Callable[[B], Coroutine[Any, Any, Any]],
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(group.codec, "close", group.outgoing, group.lost)
        self.members = group.members  # the same object: members enter and leave there
        self.behind: dict[Peer, B] = {}
        self._spawn = spawn
        self._falls_behind = falls_behind
        self._catch_up = catch_up
        self._ended = ended

    def send(self, message: Broadcast, skipped: Collection[object]) -> EmitReport:
        """Send a message to all members but some. Members that are behind count as if they had got it."""
        return self._send(message, None, skipped)

    def send_to(self, served: ServedPeer, message: Broadcast) -> None:
        """Send a message to one member, whether it is behind or not. Raises what `BroadcastGroup` raises for one."""
        super()._deliver(served, message, None)

    def hold(self, behind: B) -> B:
        """Take a member out of the broadcasts until it has caught up."""
        self.behind[behind.served.peer] = behind
        behind.task = self._spawn(self._run(behind))
        return behind

    async def _run(self, behind: B) -> Any:
        peer = behind.served.peer
        try:
            return await self._catch_up(behind)
        except (ConnectionLost, QueueFull):
            self.lost(peer)
            return None
        finally:
            if self.behind.get(peer) is behind:
                del self.behind[peer]
                self._ended()

    def drop(self, member: Peer) -> None:
        """Stop what a member that leaves has to catch up with. Idempotent."""
        if (behind := self.behind.pop(member, None)) is not None:
            behind.task.cancel()
            self._ended()

    def count(self, members: Iterable[Peer | RawConnection], skipped: Collection[object]) -> int:
        """Return how many of some members are not skipped."""
        return sum(peer not in skipped and self.members[peer].address not in skipped for peer in members)

    def _send(self, message: Broadcast, key: Hashable, skipped: Collection[object]) -> EmitReport:
        if not self.behind:
            return super()._send(message, key, skipped)
        later = self.count(self.behind, skipped)  # before others fall behind
        report = super()._send(message, key, {*skipped, *self.behind})
        return replace(report, sent=report.sent + later)

    def _deliver(self, inside: Any, message: Broadcast, key: Hashable) -> bool:
        if isinstance(inside, ServedPeer) and inside.writer.session.full:
            inside.check_open()
            self.hold(self._falls_behind(inside))
            return True
        return super()._deliver(inside, message, key)
