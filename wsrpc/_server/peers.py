"""Who is there: the peers of one server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from weakref import WeakSet

from .._base.closing import CloseCode, CloseInfo
from .._handlers.lifecycle import Unfinished
from .._peer.core import PeerOwner
from .._peer.peer import Peer, core_of
from ..errors import ConnectionLost
from ..stats import Tally
from ..transport import Transport
from .rooms import Rooms

__all__ = ["Roster", "Served"]


class Served(PeerOwner):
    """What one peer of a server reports to it."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.peer: Peer

    def open_handlers(self) -> list[Unfinished]:
        opened: list[Unfinished] = [] if self.peer._services is None else self.peer._services.opened()
        return opened

    def lost(self, info: CloseInfo, replaced: bool) -> CloseInfo:
        self._roster.lost(self.peer, info)
        return info

    def close_handler(self) -> Callable[[CloseInfo], Coroutine[Any, Any, None]] | None:
        return None if self.peer._services is None else self.peer._services.ended


class Roster:
    """The peers of a server, each from `admit` to the end of its connection, and what is remembered of all."""

    def __init__(self, rooms: Rooms, tally: Tally) -> None:
        self._rooms = rooms
        self._peers: dict[Peer, None] = {}
        self._by_id: dict[str, Peer] = {}
        self._leaving: WeakSet[Peer] = WeakSet()
        self._tally = tally

    def __len__(self) -> int:
        return len(self._peers)

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._peers))

    def get(self, id: str) -> Peer | None:
        """The one of that id, if it is there."""
        return self._by_id.get(id)

    def everybody(self) -> set[Peer]:
        """All peers, with those that are no more connected but for which something may still run."""
        return {*self._peers, *self._leaving}

    async def admit(self, peer: Peer, transport: Transport) -> None:
        """Let ``peer`` in, and bind it to ``transport``; returns when its `open` handlers are done.

        Raises:
            ConnectionLost: ``room_from`` failed, and ``transport`` is closed.
            TypeError: this is no transport.
        """
        try:
            self._rooms.admit(peer, transport)
        except Exception as exc:
            core_of(peer).log.remote = transport.info.remote
            core_of(peer).log(logging.ERROR, "room_from failed, for %s", transport.info.path, exc_info=exc)
            self.turned_away(peer, CloseCode.INTERNAL_ERROR)
            await transport.close(CloseCode.INTERNAL_ERROR, "internal error")
            raise ConnectionLost(CloseCode.INTERNAL_ERROR, "internal error", "not_sent") from exc
        self._peers[peer] = None
        self._by_id[peer.id] = peer

        try:
            peer.bind(transport)
        except BaseException:
            self._forget(peer)
            raise
        self._tally.accepted += 1
        await peer.wait_opened()

    def lost(self, peer: Peer, info: CloseInfo) -> None:
        """The connection of ``peer`` has ended."""
        if peer in self._peers:  # a peer may be bound again, by itself
            self._tally.left(peer.stats(), info.code)
        self._forget(peer)
        # What still runs for it must not outlive the server; it also keeps the peer in this set.
        self._leaving.add(peer)

    def _forget(self, peer: Peer) -> None:
        self._peers.pop(peer, None)
        self._by_id.pop(peer.id, None)
        self._rooms.leave_all(peer)

    def clear(self) -> None:
        """Forget every peer, whatever its transport says; nobody is in a room any more."""
        for peer in self:
            self._forget(peer)

    def turned_away(self, peer: Peer, code: int) -> None:
        """``peer`` is not let in after all, and its connection closed with ``code``."""
        self._tally.accepted += 1
        self._tally.left(peer.stats(), code)
