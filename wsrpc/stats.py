"""Snapshots for operators: what one connection, and a whole server, have done and are doing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

__all__ = ["PeerStats", "ServerStats", "Tally"]


class PeerStats(msgspec.Struct, frozen=True, kw_only=True):
    """What `Peer.stats` gives: numbers at one moment. ``msgspec.json.encode`` takes it as it is.

    The totals are over all connections of this peer (a client's has many); None where its transport does not count.
    """

    id: str
    """`Peer.id`, as in the log."""
    uptime: float
    """Seconds since the present connection was made; 0 if there is none."""
    messages_in: int | None
    """Messages that arrived, whatever they were."""
    messages_out: int | None
    """Messages that were handed over for sending."""
    bytes_in: int | None
    """Bytes read from the network (with framing, before decompression and inside TLS)."""
    bytes_out: int | None
    """Bytes written to it, likewise."""
    unsent: int
    """Bytes that wait for the other side to read on."""
    slow: bool
    """Whether that is more than `Limits.high_water`, so that senders wait."""
    dropped: int
    """`Peer.dropped`: what was emitted to many and left out for this peer, as ``Server(slow=)`` says, in all."""
    pending: int
    """Requests made here that await their answer."""
    active: int
    """Handlers that run in tasks."""
    waiting: int
    """Requests and events that arrived and wait for a place (`Limits.running`)."""
    channels: int
    """Anonymous channels that are open, streams included."""
    errors: int
    """Failures in all, as logged at ERROR: failed handlers, most of all. (Of very many not each has a line.)"""
    ignored: dict[str, int]
    """What the protocol says to ignore, and events that reach no handler, in all, by kind."""


class ServerStats(msgspec.Struct, frozen=True, kw_only=True):
    """What `Server.stats` gives: numbers at one moment. ``msgspec.json.encode`` takes it as it is.

    Totals are since the server was made, or opened again, and only grow; they include connections that are over.
    """

    uptime: float
    """Seconds since the server was made, or opened again."""
    healthy: bool
    """`Server.healthy`."""
    peers: int
    """Connections now, raw ones included."""
    accepted: int
    """Connections in all, also those that ``room_from`` or a service's factory refused."""
    refused: dict[int, int]
    """Opening handshakes that the rule of origins or `on_handshake` refused, in all, by HTTP status."""
    closed: dict[int, int]
    """Connections that are over, in all, by close code; 1006 is a drop, 1011 a dead line, 4408 a slow consumer."""
    messages_in: int
    """Messages that arrived, in all, on transports that count."""
    messages_out: int
    """Messages that were handed over for sending, likewise."""
    bytes_in: int
    """Bytes read from the network, likewise."""
    bytes_out: int
    """Bytes written to it, likewise."""
    unsent: int
    """Bytes that wait, now, for other sides to read on."""
    slow: int
    """Connections, now, with more of those than `Limits.high_water`."""
    dropped: int
    """What was emitted to many and left out for one of them, as ``Server(slow=)`` says, in all."""
    pending: int
    """Requests made here that await their answer now."""
    active: int
    """Handlers that run in tasks now."""
    waiting: int
    """Requests and events that wait for a place now."""
    channels: int
    """Anonymous channels that are open now, streams included."""
    errors: int
    """Failures because of a connection, in all, as logged at ERROR: failed handlers, most of all."""
    ignored: dict[str, int]
    """What the protocol says to ignore, and events that reach no handler, in all, by kind."""


class Tally:
    """What a server remembers of connections that are over, and adds to those that are there."""

    def __init__(self, now: float) -> None:
        self._began = now
        self.accepted = 0
        self._closed: Counter[int] = Counter()
        self._messages_in = self._messages_out = self._bytes_in = self._bytes_out = 0
        self._dropped = 0
        self.errors = 0
        """Those of connections that are over, too: `close` handlers run then, for one."""
        self._ignored: Counter[str] = Counter()

    def failed(self) -> None:
        """There is one more line at ERROR."""
        self.errors += 1

    def left(self, last: PeerStats, code: int) -> None:
        """A connection is over; ``last`` is what can be said of it."""
        self._closed[code] += 1
        self._messages_in += last.messages_in or 0
        self._messages_out += last.messages_out or 0
        self._bytes_in += last.bytes_in or 0
        self._bytes_out += last.bytes_out or 0
        self._dropped += last.dropped
        self._ignored.update(last.ignored)

    def sum(self, now: float, peers: Iterable[PeerStats], *, healthy: bool, refused: dict[int, int]) -> ServerStats:
        """The whole, with those of ``peers`` that are connected. Plain sums, since there may be ten thousand."""
        messages_in, messages_out = self._messages_in, self._messages_out
        bytes_in, bytes_out, dropped = self._bytes_in, self._bytes_out, self._dropped
        count = unsent = slow = pending = active = waiting = channels = 0
        ignored = Counter(self._ignored)
        for peer in peers:
            count += 1
            messages_in += peer.messages_in or 0
            messages_out += peer.messages_out or 0
            bytes_in += peer.bytes_in or 0
            bytes_out += peer.bytes_out or 0
            unsent += peer.unsent
            slow += peer.slow
            pending += peer.pending
            active += peer.active
            waiting += peer.waiting
            channels += peer.channels
            dropped += peer.dropped
            if peer.ignored:
                ignored.update(peer.ignored)
        return ServerStats(
            uptime=now - self._began,
            healthy=healthy,
            peers=count,
            accepted=self.accepted,
            refused=refused,
            closed=dict(self._closed),
            messages_in=messages_in,
            messages_out=messages_out,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            unsent=unsent,
            slow=slow,
            dropped=dropped,
            pending=pending,
            active=active,
            waiting=waiting,
            channels=channels,
            errors=self.errors,
            ignored=dict(ignored),
        )
