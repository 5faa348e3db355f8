"""`DetachedTransport`: the transport of a session that has no connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .._base.scheduler import Scheduler
from ..transport import ConnectionInfo, Receiver

__all__ = ["DetachedTransport"]


class DetachedTransport:
    """Lets what a session sends wait until the session has another connection.

    It is full when that, and what was sent and has not arrived, reaches ``limit`` bytes. Nothing arrives here.

    Args:
        info: of the last connection.
        keep: keeps a message for the session.
        kept: returns the bytes of what waits, and of what was sent and has not arrived.
        recount: called when more begins to wait.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        limit: int,
        loop: Scheduler,
        *,
        keep: Callable[[bytes, bool], object],
        kept: Callable[[], int],
        recount: Callable[[], None],
    ) -> None:
        self.info = info
        self.largest = 0
        self._limit = limit
        self._keep = keep
        self._kept = kept
        self._recount = recount
        self._receiver: Receiver | None = None
        self._over: asyncio.Future[None] = loop.create_future()

    @property
    def unsent(self) -> int:
        """Bytes of what waits, and of what was sent and has not arrived."""
        return self._kept()

    def start(self, receiver: Receiver, /) -> None:
        """Tell ``receiver`` when there is no room."""
        self._receiver = receiver
        self._look_for_room()

    def send(self, payload: bytes, text: bool = True, /) -> None:
        """Let a message wait."""
        self._keep(payload, text)
        self.note_waiting()

    def note_waiting(self) -> None:
        """Note that a message begins to wait."""
        self._recount()
        self._look_for_room()

    def _look_for_room(self) -> None:
        if self._receiver is not None and self.unsent >= self._limit:
            self._receiver.pause_sending()

    def flush(self) -> None:
        """Nothing can be written yet."""

    async def drain(self) -> None:
        """Wait until the session has a connection, or is over. Cancelling is safe."""
        await asyncio.shield(self._over)

    def end(self) -> None:
        """Wake what waits: there is another connection, or there will be none."""
        if not self._over.done():
            self._over.set_result(None)

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """There is no connection to close."""

    def abort(self) -> None:
        """There is no connection to drop."""

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        """Pieces are for raw connections, which have no session."""
        raise AssertionError("a session sends whole messages")

    def pause_receiving(self) -> None:
        """Nothing arrives here."""

    def resume_receiving(self) -> None:
        """Nothing arrives here."""
