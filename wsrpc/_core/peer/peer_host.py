"""`PeerHost`: what the parts of a peer share, and the object to which they report."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Literal

from ..._base.logs import CallFields, PeerLog
from ..._base.scheduler import Scheduler
from ...transport import ConnectionInfo
from ..handlers.lifecycle import Reporter, Unfinished
from ..sending.pending import Pending
from ..session.connection import Connection
from ..session.host import SessionListener
from ..wire.settings import Settings
from .connection_history import ConnectionHistory
from .peer_owner import PeerOptions, PeerOwner

if TYPE_CHECKING:
    from .peer_core import PeerCore


class PeerHost:
    """What the parts of a peer share, and the object to which they report.

    `PeerCore` and `PeerSession` hold the parts, and the parts hold this object. While a session may continue, this
    object holds the peer. When everything has ended, `PeerCore.release` cuts this circle. The peer then lives as long
    as its last user. Otherwise the garbage collector would take a quarter of the time of a server with many short
    connections.

    Args:
        owner: the object to which the peer reports.
        history: the statistics of its connections.
    """

    __slots__ = (
        "_history",
        "core",
        "current",
        "ignored",
        "log",
        "loop",
        "options",
        "owner",
        "peer",
        "reporter",
        "settings",
    )

    core: PeerCore
    current: SessionListener
    """The inside of the current session, see `Host.current`."""
    peer: Any
    """The object that users hold. None when all has ended."""

    def __init__(
        self,
        options: PeerOptions,
        loop: Scheduler,
        log: PeerLog,
        reporter: Reporter,
        owner: PeerOwner,
        history: ConnectionHistory,
    ) -> None:
        self.owner = owner
        self._history = history
        self.options = options
        self.settings: Settings = options.settings
        self.loop = loop
        self.log = log
        self.ignored: Counter[str] = Counter()
        self.reporter = reporter

    def set_session(self, core: PeerCore, current: SessionListener) -> None:
        """Keep the peer alive for the next session, whose inside is ``current``."""
        self.core, self.current, self.peer = core, current, core.peer

    # ------------------------------------------------------------ services for the parts

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        """Run a coroutine in a task. The peer waits for the task before it ends."""
        return self.reporter.spawn(coroutine)

    def keep(self, task: asyncio.Task[None], /) -> None:
        """Add a task for which the peer waits before it ends."""
        self.reporter.keep(task)

    def ignore(self, kind: str, /) -> None:
        """Count a message of the remote peer that makes no sense."""
        self.ignored[kind] += 1

    def count(self, kind: str, text: object, times: int = 1, /, *, call: CallFields | None = None) -> None:
        """Count events that are dropped or changed before they reach a handler, and log the first event of a kind."""
        if times and not self.ignored[kind]:
            self.log(logging.WARNING, "%s (further ones are only counted in peer.ignored)", text, call=call)
        self.ignored[kind] += times

    def message_queued(self) -> None:
        """Notify the owner that a message of the user waits for a connection."""
        self.owner.message_queued()

    def count_dropped(self, broadcasts: int, /) -> None:
        """Count broadcasts that were not sent, because the remote peer reads too slowly."""
        self._history.skipped_broadcasts += broadcasts

    def metadata_not_sent(self) -> None:
        """Count the metadata of one message that was sent without it."""
        self._history.metadata_not_sent += 1

    def request_expired(self, pending: Pending, /) -> None:
        """End a request whose deadline is over."""
        self.core.requester.expired(pending)

    def opening_handlers(self, event: Literal["open", "on_reconnect"], /) -> list[Unfinished]:
        """Call the owner's own handlers of ``event``, and return those that are not finished."""
        return self.owner.opening_handlers(event)

    # ------------------------------------------------------------ connections

    def connection_started(self, info: ConnectionInfo) -> None:
        """Start the statistics of a connection, and name its remote peer in the log."""
        self._history.connection_started(info, self.loop.time())
        self.log.remote = info.remote

    def connection_ended(self, connection: Connection, /) -> None:
        """End the statistics of a connection."""
        self._history.connection_ended(connection)
