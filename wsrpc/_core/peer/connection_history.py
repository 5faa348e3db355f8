"""`ConnectionHistory`: statistics of the connections of one peer."""

from __future__ import annotations

import msgspec

from ...transport import ConnectionInfo, Traffic
from ..session.connection import Connection


class ConnectionHistory:
    """Statistics of one peer's connections, the present one and those before it."""

    __slots__ = ("_passed", "_since", "info", "metadata_not_sent", "skipped_broadcasts")

    def __init__(self) -> None:
        self.info: ConnectionInfo | None = None
        """Describes the newest connection, which may not be bound yet, or may have ended."""
        self.skipped_broadcasts = 0
        """Number of broadcasts that were not sent because the remote peer reads too slowly."""
        self.metadata_not_sent = 0
        """Number of messages that were sent without their metadata, because the remote peer does not accept any."""
        self._since = 0.0
        self._passed: Traffic | None = None
        """Traffic of the connections before the present one."""

    def connection_expected(self, info: ConnectionInfo) -> None:
        """A connection is being made."""
        self.info = info

    def connection_started(self, info: ConnectionInfo, now: float) -> None:
        """A connection was made, at the time ``now``."""
        self.info = info
        self._since = now

    def connection_ended(self, connection: Connection) -> None:
        """The present connection has ended."""
        self._passed = self.traffic(connection)
        # Without the connection of the library, which is closed.
        self.info = msgspec.structs.replace(connection.transport.info, underlying=None)

    def uptime(self, now: float) -> float:
        """Return the seconds since the present connection was made."""
        return now - self._since

    def traffic(self, connection: Connection | None) -> Traffic | None:
        """Return the traffic of all connections together, as far as their transports count it."""
        present = None if connection is None else connection.traffic
        if present is None or self._passed is None:
            return present or self._passed
        return self._passed + present
