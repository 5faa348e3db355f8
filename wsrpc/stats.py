"""Statistics for operators: snapshots of one peer, and of a whole server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

__all__ = ["ClusterStats", "PeerStats", "ServerStats", "Tally"]


class PeerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of one peer, as `Peer.stats` returns it. ``msgspec.json.encode`` accepts it.

    Totals are over all connections of the peer (a client's has many). Traffic is None if the transport does not count.
    """

    id: str
    """`Peer.id`, as in the log."""
    uptime: float
    """Seconds since the present connection was made; 0 without a connection."""
    messages_in: int | None
    """Messages that arrived, of any kind."""
    messages_out: int | None
    """Messages that were handed over for sending."""
    bytes_in: int | None
    """Bytes read from the network (with framing, before decompression and inside TLS)."""
    bytes_out: int | None
    """Bytes written to the network, counted in the same way."""
    unsent: int
    """Bytes that the connection holds because the other side does not read fast enough. Broadcasts that wait because of
    a policy for slow readers (`Limits.behind`) are not counted."""
    kept: int
    """Bytes of messages that wait for a connection, or are kept until the remote peer has them (`Limits.replay`)."""
    detached: bool
    """Whether there is no connection, but the session is kept for another one."""
    slow: bool
    """Whether the connection is full, and senders wait: ``unsent`` is above `Limits.high_water`, or the messages that a
    wsrpc peer has not acknowledged have reached `Limits.replay` or `Limits.replay_messages`."""
    dropped: int
    """`Peer.dropped`: broadcasts that were not sent to this peer because it was slow (``Server(slow=)``), in all."""
    pending: int
    """Requests of this side that await their answer."""
    active: int
    """Handlers that run in tasks."""
    waiting: int
    """Requests and events that arrived and wait for a handler to exit (`Limits.running`)."""
    channels: int
    """Open anonymous channels, including streams."""
    errors: int
    """Failures logged at ERROR, mostly failed handlers, in all. (If there are very many, not each has a log line.)"""
    ignored: dict[str, int]
    """Messages that the protocol says to ignore, events without a handler, and what is above `Limits.rate`, in all, by
    kind."""


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of one process's part in its cluster. ``msgspec.json.encode`` accepts it."""

    node: str
    """Name of this process in the cluster. It is another one after each start."""
    connected: bool
    """Whether the engine can be reached."""
    nodes: int
    """Processes in the cluster that are known here, this one included."""
    addresses: int
    """Addresses of peers that are known here, in all processes."""
    messages_in: int
    """Messages of the engine that arrived, in all, those of this process to itself included."""
    messages_out: int
    """Messages that were published, in all."""
    unsent: int
    """Bytes that the engine has not taken yet."""
    engines_lost: int
    """How often the connection to the engine was lost."""
    gaps: int
    """How often a session with another process was lost, so that messages to rooms may be missing."""
    connections: int
    """Connections to other processes that this one has opened, in all. There is another one after messages of the
    engine were lost."""
    lost_events: int
    """Events of other processes for a peer that was not connected here any more, or read too slowly."""
    ignored: dict[str, int]
    """Messages of the engine that made no sense, in all, by kind."""


class ServerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of a server, as `Server.stats` returns it. ``msgspec.json.encode`` accepts it.

    Totals count from when the server was made or opened again, and only grow. They include ended connections.
    """

    uptime: float
    """Seconds since the server was made, or opened again."""
    healthy: bool
    """`Server.healthy`."""
    peers: int
    """Open connections, including raw ones."""
    accepted: int
    """Connections in all, including those that ``room_from`` or the factory of a service refused."""
    refused: dict[int, int]
    """Opening handshakes that were refused, in all, by HTTP status: 403 for an origin, 503 while the server closes or
    if `on_handshake` takes too long, 500 if it failed, and the statuses that it chose."""
    closed: dict[int, int]
    """Sessions that have ended, in all, by the close code of their last connection. 1000 and 1001: the client left;
    1006: a drop; 1011: no answer to a ping; 4408: a slow reader. A drop after which the session resumed does not
    count."""
    messages_in: int
    """Messages that arrived, in all, on transports that count."""
    messages_out: int
    """Messages that were handed over for sending, in all, on transports that count."""
    bytes_in: int
    """Bytes read from the network, in all, on transports that count."""
    bytes_out: int
    """Bytes written to the network, in all, on transports that count."""
    unsent: int
    """Bytes that wait because other sides do not read fast enough."""
    kept: int
    """Bytes of messages that wait for connections, or are kept until remote peers have them (`Limits.replay`)."""
    detached: int
    """Peers without a connection, whose sessions are kept for another one. They count in ``peers``, too."""
    slow: int
    """Full connections, as in `PeerStats.slow`."""
    dropped: int
    """Broadcasts that were not sent to a peer because it was slow (``Server(slow=)``), in all."""
    pending: int
    """Requests of this side that await their answer."""
    active: int
    """Handlers that run in tasks. Each raw connection counts as one."""
    waiting: int
    """Requests and events that wait for a handler to exit (`Limits.running`)."""
    channels: int
    """Open anonymous channels, including streams."""
    errors: int
    """Failures of connections logged at ERROR, mostly failed handlers, in all."""
    ignored: dict[str, int]
    """Messages that the protocol says to ignore, events without a handler, and what is above `Limits.rate`, in all, by
    kind."""
    cluster: ClusterStats | None
    """The server's part in its cluster. None without ``cluster=``, and while the server is closed."""


class Tally:
    """The totals of a server's ended connections, to which the open ones are added."""

    def __init__(self, now: float) -> None:
        self._began = now
        self.accepted = 0
        self._closed: Counter[int] = Counter()
        self._messages_in = self._messages_out = self._bytes_in = self._bytes_out = 0
        self._dropped = 0
        self.errors = 0
        """Lines at ERROR of all connections, also after their end: `close` handlers run then."""
        self._ignored: Counter[str] = Counter()

    def failed(self) -> None:
        """Count one more line at ERROR."""
        self.errors += 1

    def came(self) -> None:
        """Count one more connection."""
        self.accepted += 1

    def left(
        self, code: int, messages: tuple[int, int], size: tuple[int, int], dropped: int, ignored: dict[str, int]
    ) -> None:
        """Add what a connection has carried that ended with ``code``.

        Args:
            messages: received and sent.
            size: their bytes.
        """
        self._closed[code] += 1
        self._messages_in += messages[0]
        self._messages_out += messages[1]
        self._bytes_in += size[0]
        self._bytes_out += size[1]
        self._dropped += dropped
        if ignored:
            self._ignored.update(ignored)

    def sum(
        self,
        now: float,
        peers: Iterable[PeerStats],
        *,
        healthy: bool,
        refused: dict[int, int],
        cluster: ClusterStats | None,
    ) -> ServerStats:
        """Return the totals together with the open ``peers``. Plain sums, since there may be ten thousand of them."""
        messages_in, messages_out = self._messages_in, self._messages_out
        bytes_in, bytes_out, dropped = self._bytes_in, self._bytes_out, self._dropped
        count = unsent = kept = detached = slow = pending = active = waiting = channels = 0
        ignored = Counter(self._ignored)
        for peer in peers:
            count += 1
            messages_in += peer.messages_in or 0
            messages_out += peer.messages_out or 0
            bytes_in += peer.bytes_in or 0
            bytes_out += peer.bytes_out or 0
            unsent += peer.unsent
            kept += peer.kept
            detached += peer.detached
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
            kept=kept,
            detached=detached,
            slow=slow,
            dropped=dropped,
            pending=pending,
            active=active,
            waiting=waiting,
            channels=channels,
            errors=self.errors,
            ignored=dict(ignored),
            cluster=cluster,
        )
