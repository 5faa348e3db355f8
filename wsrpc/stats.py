"""Statistics for operators: snapshots of one peer, and of a whole server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

__all__ = ["ClusterStats", "PeerStats", "ServerStats", "Tally"]


class PeerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of one peer's counters, from `Peer.stats`. You can encode it with ``msgspec.json.encode``.

    Totals cover all connections of the peer (a client's peer can have many). The numbers of messages and bytes are None
    if the transport does not count them.
    """

    id: str
    """`Peer.id`, which also appears in the log."""
    uptime: float
    """Seconds since the current connection was opened, or 0 without a connection."""
    messages_in: int | None
    """Total number of inbound messages of any kind."""
    messages_out: int | None
    """Total number of messages that were passed to the transport for sending."""
    bytes_in: int | None
    """Total number of bytes read from the network, with framing, before decompression, and without the overhead of TLS.
    """
    bytes_out: int | None
    """Total number of bytes written to the network, counted like ``bytes_in``."""
    unsent: int
    """Number of bytes that are waiting in the connection because the remote peer is reading too slowly. Broadcasts that
    are waiting because of a policy for slow readers (`Limits.behind`) are not included."""
    kept: int
    """Number of bytes of messages that are waiting for a connection, or are kept until the remote peer acknowledges
    them (`Limits.replay`)."""
    detached: bool
    """Whether the peer has no connection, but its session is kept for the next connection."""
    slow: bool
    """Whether the connection is full, in which case senders wait. Either ``unsent`` is above `Limits.high_water`, or
    the messages that a wsrpc peer has not acknowledged have reached `Limits.replay` or `Limits.replay_messages`."""
    dropped: int
    """`Peer.dropped`: the total number of broadcasts that were not sent to this peer because the peer was slow
    (``Server(slow=)``)."""
    pending: int
    """Number of outbound requests that are waiting for a response."""
    active: int
    """Number of handlers that are running in tasks."""
    waiting: int
    """Number of inbound requests and events that are waiting for another handler to finish (`Limits.running`)."""
    channels: int
    """Number of open anonymous channels, including streams."""
    errors: int
    """Total number of failures that were logged at ERROR, mostly failed handlers. (If there are very many failures,
    some of them have no log line.)"""
    ignored: dict[str, int]
    """Total numbers of ignored inbound messages, by kind: messages that the protocol ignores, events without a handler,
    and messages above `Limits.rate`."""


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of one process's counters in its cluster. You can encode it with ``msgspec.json.encode``."""

    node: str
    """The name of this process in the cluster. The process gets another name each time it starts."""
    connected: bool
    """Whether the engine (`wsrpc.engine`) can be reached."""
    nodes: int
    """Number of known processes of the cluster, including this process."""
    addresses: int
    """Number of known addresses of peers, in all processes."""
    messages_in: int
    """Total number of messages that arrived from the engine, including messages that this process sent to itself."""
    messages_out: int
    """Total number of messages that were published."""
    unsent: int
    """Number of bytes that are waiting in this process because the engine has not accepted them yet."""
    engines_lost: int
    """Total number of times that the connection to the engine was lost."""
    gaps: int
    """Total number of times that a session with another process was lost, in which case messages to rooms may be
    missing."""
    connections: int
    """Total number of connections that this process has opened to other processes. If the engine loses messages, the
    process opens another connection."""
    lost_events: int
    """Total number of events from other processes that were lost because the receiving peer was no longer connected to
    this process, or was reading too slowly."""
    ignored: dict[str, int]
    """Total numbers of invalid messages from the engine, by kind."""


class ServerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of a server's counters, from `Server.stats`. You can encode it with ``msgspec.json.encode``.

    Totals start at 0 when the server is created or opened again, and only grow. They include ended connections.
    """

    uptime: float
    """Seconds since the server was created or last opened again."""
    healthy: bool
    """`Server.healthy` at the time of the snapshot."""
    peers: int
    """Number of open connections, including raw connections, plus peers whose session is kept without a connection."""
    accepted: int
    """Total number of accepted connections, including those that were refused afterwards by the factory of a service,
    or by the function in ``Server(room_from=)``."""
    refused: dict[int, int]
    """Total numbers of refused opening handshakes, by HTTP status. The status is 403 if the origin is not allowed, 503
    if the server is closing or `on_handshake` takes too long, 500 if `on_handshake` fails, or a status that
    `on_handshake` has chosen."""
    closed: dict[int, int]
    """Total numbers of ended sessions, by the close code of their last connection. 1000 and 1001 mean that the client
    left, 1006 a drop, 1011 no response to a ping, and 4408 a slow reader. A drop after which the session resumed does
    not count."""
    messages_in: int
    """Total number of inbound messages, on transports that count them."""
    messages_out: int
    """Total number of messages that were passed to transports for sending, on transports that count them."""
    bytes_in: int
    """Total number of bytes read from the network, on transports that count them."""
    bytes_out: int
    """Total number of bytes written to the network, on transports that count them."""
    unsent: int
    """Number of bytes that are waiting in connections; see `PeerStats.unsent`."""
    kept: int
    """Number of bytes of messages that are kept; see `PeerStats.kept`."""
    detached: int
    """Number of peers without a connection whose sessions are kept. ``peers`` includes them."""
    slow: int
    """Number of full connections; see `PeerStats.slow`."""
    dropped: int
    """Total number of broadcasts that were not sent to a peer because the peer was slow (``Server(slow=)``)."""
    pending: int
    """Number of outbound requests that are waiting for a response."""
    active: int
    """Number of handlers that are running in tasks. Each raw connection counts as one handler."""
    waiting: int
    """Number of inbound requests and events that are waiting for another handler to finish (`Limits.running`)."""
    channels: int
    """Number of open anonymous channels, including streams."""
    errors: int
    """Total number of failures of connections that were logged at ERROR, mostly failed handlers."""
    ignored: dict[str, int]
    """Total numbers of ignored inbound messages, by kind; see `PeerStats.ignored`."""
    cluster: ClusterStats | None
    """The counters of this process in the cluster. None without ``cluster=``, and while the server is closed."""


class Tally:
    """Totals of a server's ended connections, to which the counters of the open connections are added."""

    def __init__(self, now: float) -> None:
        self._began = now
        self.accepted = 0
        self._closed: Counter[int] = Counter()
        self._messages_in = self._messages_out = self._bytes_in = self._bytes_out = 0
        self._dropped = 0
        self.errors = 0
        """Total number of log lines at ERROR for all connections. Includes lines of `close` handlers, which run after
        the connection has ended."""
        self._ignored: Counter[str] = Counter()

    def failed(self) -> None:
        """Count one more log line at ERROR."""
        self.errors += 1

    def came(self) -> None:
        """Count one more connection."""
        self.accepted += 1

    def left(
        self, code: int, messages: tuple[int, int], size: tuple[int, int], dropped: int, ignored: dict[str, int]
    ) -> None:
        """Add the counters of a connection that has ended with ``code``.

        Args:
            messages: the numbers of received and sent messages.
            size: the numbers of received and sent bytes.
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
        """Return the totals, including the counters of ``peers``, which are the open connections."""
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
