"""`PeerHost`: what the parts of a peer share, and the object to which they report."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from sys import intern
from typing import TYPE_CHECKING, Any

import msgspec

from ..._base.logs import CallFields, PeerLog
from ..._base.scheduler import Scheduler
from ...errors import one_line, short
from ...stats import add_to
from ...transport import ConnectionInfo, Traffic, Transport
from ..wire.settings import Settings
from .connection import Connection
from .peer_owner import PeerOptions, PeerOwner

if TYPE_CHECKING:
    from ..handlers.lifecycle import Reporter
    from ..peer.peer_core import PeerCore
    from ..peer.peer_session import PeerSession


LONGEST_EVENT = 200
"""Characters of an event by which its calls are counted."""
MOST_MISFITS = 32
"""Number of events of a peer whose misfits are counted one by one."""


class PeerHost:
    """What the parts of a peer share, the statistics of its connections, and the object to which the parts report.

    The parts know no other object above them, and reach the present session by ``current``. `PeerCore` and
    `PeerSession` hold the parts, and the parts hold this object. While a session may continue, this object holds the
    peer. When everything has ended, `PeerCore.release` cuts this circle. The peer then lives as long as its last user.
    Otherwise the garbage collector would take a quarter of the time of a server with many short connections.

    Args:
        owner: the object to which the peer reports.
    """

    __slots__ = (
        "_passed",
        "_since",
        "close_calls",
        "contract",
        "core",
        "current",
        "deprecated",
        "ignored",
        "info",
        "log",
        "loop",
        "metadata_not_sent",
        "meter",
        "misfits",
        "options",
        "owner",
        "peer",
        "reporter",
        "settings",
        "skipped_broadcasts",
        "warned",
    )

    core: PeerCore
    current: PeerSession
    """The inside of the current session.

    A session is the current one from its making until another session replaces it. So the current session may not have
    started yet, and it may be over.
    """
    peer: Any
    """The object that users hold. None when all has ended."""

    def __init__(
        self,
        options: PeerOptions,
        loop: Scheduler,
        log: PeerLog,
        reporter: Reporter,
        owner: PeerOwner,
    ) -> None:
        self.owner = owner
        self.options = options
        self.settings: Settings = options.settings
        self.loop = loop
        self.log = log
        self.ignored: Counter[str] = Counter()
        """Numbers of messages that were not handled, by kind."""
        self.misfits: dict[tuple[str, str], int] = {}
        """Numbers of misfits by event and kind."""
        self.deprecated: dict[str, int] = {}
        """Numbers of calls by the remote peer, by deprecated event."""
        self.warned: frozenset[str] = frozenset()
        """The events that are deprecated at the remote peer, as far as it was logged."""
        self.meter: Callable[[Transport, Traffic | None], None] | None = None
        """Is called after each read, with the transport and the traffic of all connections."""
        self.reporter = reporter
        self.info: ConnectionInfo | None = None
        """Describes the newest connection, which may not be bound yet, or may have ended."""
        self.contract: str | None = None
        """The contract that the remote peer has announced. None if it has announced none."""
        self.skipped_broadcasts = 0
        """Number of broadcasts that were not sent because the remote peer reads too slowly."""
        self.metadata_not_sent = 0
        """Number of messages that were sent without their metadata, because the remote peer does not accept any."""
        self.close_calls = 0
        """Number of calls of this side that closed the peer. A session does not start if the number has changed since
        its start was requested."""
        self._since = 0.0
        self._passed: Traffic | None = None
        """Traffic of the connections before the present one."""

    def set_session(self, core: PeerCore, current: PeerSession) -> None:
        """Keep the peer alive for the next session, whose inside is ``current``."""
        self.core, self.current, self.peer = core, current, core.peer

    # ------------------------------------------------------------ services for the parts

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        """Run a coroutine in a task. The peer waits for the task before it ends."""
        return self.reporter.spawn(coroutine)

    def ignore(self, kind: str, /) -> None:
        """Count an invalid message of the remote peer."""
        self.ignored[kind] += 1

    def count(self, kind: str, text: object, times: int = 1, /, *, call: CallFields | None = None) -> None:
        """Count events that are dropped or changed before they reach a handler, and log the first event of a kind."""
        if times and not self.ignored[kind]:
            self.log.once("%s (further ones are only counted in peer.ignored)", text, call=call)
        self.ignored[kind] += times

    def count_refused(self, kind: str, why: str, by: str, is_logged: bool | None) -> None:
        """Count a message that exceeds the limit ``by``.

        Args:
            is_logged: whether it is logged. If it is None, the first of each kind is.
        """
        if is_logged is None:
            self.count(kind, f"a message was refused: {why} ({by})")
            return
        self.ignored[kind] += 1
        if is_logged:
            text = "a message was refused: %s (%s; further ones are only counted, in server.stats().ignored)"
            self.log.warn(text, why, by)

    def count_misfit(self, kind: str, event: str, why: object, /, *, call: CallFields, dropped: bool = True) -> None:
        """Count a message that does not fit the contract of this side, and log the first one for each event.

        Args:
            dropped: whether nobody gets an error, because the message is an event.
        """
        if dropped:
            self.ignored[kind] += 1
        key = event[:LONGEST_EVENT], kind
        if key not in self.misfits:
            if len(self.misfits) >= MOST_MISFITS:
                key = "other events", kind
            if key not in self.misfits:
                what = f"event {short(event)} was dropped" if dropped else f"request {short(event)} was refused"
                text = "%s: %s (further ones are only counted, in peer.stats().misfits)"
                self.log.once(text, what, why, call=call, answered=not dropped)
        self.misfits[key] = self.misfits.get(key, 0) + 1

    def count_deprecated(self, event: str, why: str, /, *, call: CallFields) -> bool:
        """Count a call of a deprecated event, and log one in an hour. Return whether it is the first of this peer."""
        text = "event %s was called, and is deprecated: %s (further calls are counted in stats().deprecated)"
        self.log.hourly(self.loop.time(), text, short(event), why, call=call)
        return self.deprecated[add_to(self.deprecated, event)] == 1

    def warn_deprecated(self, event: str, why: str, /) -> None:
        """Log that an event is deprecated at the remote peer, unless this was logged before or in this hour."""
        event = event[:LONGEST_EVENT]
        if event not in self.warned and len(self.warned) < MOST_MISFITS:
            self.warned |= {event}
            text = "event %s is deprecated at the remote peer: %s (further calls are not logged)"
            self.log.hourly(self.loop.time(), text, short(event), why)

    def count_dropped(self, broadcasts: int, /) -> None:
        """Count broadcasts that were not sent, because the remote peer reads too slowly."""
        self.skipped_broadcasts += broadcasts

    # ------------------------------------------------------------ connections

    def connection_expected(self, info: ConnectionInfo) -> None:
        """A connection is about to be bound: show it in `Peer.info`, and name its remote peer in the log."""
        self.info, self.log.remote = info, info.remote

    def connection_started(self, info: ConnectionInfo) -> None:
        """A connection was made: start its statistics."""
        self.connection_expected(info)
        self._since = self.loop.time()

    def announced(self, program: str, contract: str, /) -> None:
        """The remote peer has announced its program and its contract. Each is empty if it has announced none."""
        # Interned, because a fleet has thousands of clients with few programs.
        self.log.program, self.contract = (intern(one_line(text[:64])) or None for text in (program, contract))

    def connection_ended(self, connection: Connection, /) -> None:
        """The present connection has ended."""
        self._passed = self.traffic(connection)
        # Without the connection of the library, which is closed.
        self.info = msgspec.structs.replace(connection.transport.info, underlying=None)

    def uptime(self) -> float:
        """Return the seconds since the present connection was made."""
        return self.loop.time() - self._since

    def traffic(self, connection: Connection | None) -> Traffic | None:
        """Return the traffic of all connections together, as far as their transports count it."""
        present = None if connection is None else connection.traffic
        if present is None or self._passed is None:
            return present or self._passed
        return self._passed + present
