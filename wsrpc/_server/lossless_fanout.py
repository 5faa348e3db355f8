"""`LosslessFanout`: sends every message to its members, later if their connection is full, such as room events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from .._core.api.peer import Peer
from .._raw.raw_connection import RawConnection
from ..errors import ConnectionLost, QueueFull
from .broadcast import Broadcast, EmitReport, Fanout
from .peers import ServedPeer

Spawn = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]


class LateMember:
    """A late member: its connection was full, and it has not caught up.

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


M = TypeVar("M", bound=LateMember)


class LosslessFanout(Fanout, Generic[M]):
    """Sends messages to members of which none misses one. While a member is late, `catch_up` sends what it gets.

    Args:
        group: the members of a room.
        spawn: runs a coroutine in a task that ends with the server.
        new_late: returns the state of a member that is late from now on.
        catch_up: sends what the member has missed. When this returns, the member must miss nothing more. It may raise
            `ConnectionLost`, because the session of the member has ended, and `QueueFull`, because the member has not
            read for too long.
        ended: called when a member has caught up, or has left.

    Attributes:
        late: the late members.
    """

    def __init__(
        self,
        group: Fanout,
        spawn: Spawn,
        new_late: Callable[[ServedPeer], M],
        catch_up: Callable[[M], Coroutine[Any, Any, Any]],
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(group.members, "close", group.lost)  # members enter and leave in the group
        self.late: dict[Peer, M] = {}
        self._spawn = spawn
        self._new_late = new_late
        self._catch_up = catch_up
        self._ended = ended

    def send(self, message: Broadcast, skipped: Collection[object]) -> EmitReport:
        """Send a message to all members but some. Late members count as if they had got it."""
        return self._send(message, None, skipped)

    def send_to(self, served: ServedPeer, message: Broadcast) -> None:
        """Send a message to one member, whether it is late or not. Raises what `Fanout` raises for one."""
        super()._deliver(served, message, None)

    def hold(self, late: M) -> M:
        """Take a member out of the broadcasts until it has caught up."""
        self.late[late.served.peer] = late
        late.task = self._spawn(self._run(late))
        return late

    async def _run(self, late: M) -> Any:
        peer = late.served.peer
        try:
            return await self._catch_up(late)
        except (ConnectionLost, QueueFull):
            self.lost(peer)
            return None
        finally:
            if self.late.get(peer) is late:
                del self.late[peer]
                self._ended()

    def drop(self, member: Peer) -> None:
        """Stop what a member that leaves has to catch up with. Idempotent."""
        if (late := self.late.pop(member, None)) is not None:
            late.task.cancel()
            self._ended()

    def count(self, members: Iterable[Peer | RawConnection], skipped: Collection[object]) -> int:
        """Return how many of some members are not skipped."""
        return sum(peer not in skipped and self.members[peer].address not in skipped for peer in members)

    def _send(self, message: Broadcast, key: Hashable, skipped: Collection[object]) -> EmitReport:
        if not self.late:
            return super()._send(message, key, skipped)
        later = self.count(self.late, skipped)  # before others become late
        report = super()._send(message, key, {*skipped, *self.late})
        return replace(report, sent=report.sent + later)

    def _deliver(self, inside: Any, message: Broadcast, key: Hashable) -> bool:
        if isinstance(inside, ServedPeer) and inside.writer.session.full:
            inside.check_open()
            self.hold(self._new_late(inside))
            return True
        return super()._deliver(inside, message, key)
