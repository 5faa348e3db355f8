"""Statistics for operators: snapshots of one peer, and of a whole server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from .errors import LONGEST_LINE, one_line, short

__all__ = ["ClusterStats", "PeerStats", "RunStats", "ServerStats"]


class PeerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of one peer's counters, from `Peer.stats`. You can encode it with ``msgspec.json.encode``.

    Totals cover all connections of the peer (a client's peer can have many). The numbers of messages and bytes are None
    if the transport does not count them.

    Attributes:
        id: `Peer.id`, which also appears in the log.
        uptime: seconds since the current connection was opened, or 0 without a connection.
        messages_in: total number of inbound messages of any kind.
        messages_out: total number of messages that were passed to the transport for sending.
        bytes_in: total number of bytes read from the network, with framing, before decompression, and without the
            overhead of TLS.
        bytes_out: total number of bytes written to the network, counted like ``bytes_in``.
        unsent_bytes: number of bytes that are waiting in the connection because the remote peer is reading too slowly.
            Broadcasts that are waiting because of a policy for slow readers (`Limits.behind_bytes`) are not included.
        kept_bytes: number of bytes of messages that are waiting for a connection, or are kept until the remote peer
            acknowledges them (`Limits.replay_bytes`).
        detached: whether the peer has no connection, but its session is kept for the next connection.
        slow: whether the connection is full, in which case senders wait. Either ``unsent_bytes`` is above
            `Limits.high_water_bytes`, or the messages that a wsrpc peer has not acknowledged have reached
            `Limits.replay_bytes` or `Limits.replay_messages`.
        skipped_broadcasts: `Peer.skipped_broadcasts`: the total number of broadcasts that were not sent to this peer
            because the peer was slow (``Server(slow=)``).
        metadata_not_sent: total number of messages that were sent without their ``metadata=``, because the remote peer
            was known to accept no metadata.
        pending: number of outbound requests that are waiting for a response.
        active: number of handlers that are running in tasks.
        waiting: number of inbound requests and events that are waiting for another handler to finish
            (`Limits.running`).
        anonymous_channels: number of open anonymous channels, including streams.
        errors: total number of failures that were logged at ERROR, mostly failed handlers. (If there are very many
            failures, some of them have no log line.)
        ignored: total numbers of ignored inbound messages, by kind: messages that the protocol ignores, events without
            a handler, and messages above `Limits.rate` or above `Quotas`.
        program: `Peer.program`.
        contract: `Peer.contract`.
        misfits: total numbers of messages that did not fit the handlers of this side, for each event and kind: such as
            ``{"order: wrong arguments": 3}``. The kinds are ``wrong arguments``, ``wrong item`` and ``unknown
            event``. The first of each is logged. After 32 of them, ``other events`` stands for further events.
        deprecated: total numbers of calls of deprecated handlers of this side, for each event. After 32 of them,
            ``others`` stands for further events.
    """

    id: str
    uptime: float
    messages_in: int | None
    messages_out: int | None
    bytes_in: int | None
    bytes_out: int | None
    unsent_bytes: int
    kept_bytes: int
    detached: bool
    slow: bool
    skipped_broadcasts: int
    metadata_not_sent: int = 0
    pending: int
    active: int
    waiting: int
    anonymous_channels: int
    errors: int
    ignored: dict[str, int]
    program: str | None = None
    contract: str | None = None
    misfits: dict[str, int] = {}
    deprecated: dict[str, int] = {}


class ClusterStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of one process's counters in its cluster. You can encode it with ``msgspec.json.encode``.

    Attributes:
        node: the name of this process in the cluster. The process gets another name each time it starts.
        connected: whether the engine (`wsrpc.cluster.engine`) can be reached.
        nodes: number of known processes of the cluster, including this process, and those with a `ClusterClient`.
        servers: number of those that have a server which accepts connections.
        addresses: number of known addresses of peers, in all processes.
        messages_in: total number of messages that arrived from the engine, including messages that this process sent to
            itself.
        messages_out: total number of messages that were published.
        unsent_bytes: number of bytes that are waiting in this process because the engine has not accepted them yet.
        engines_lost: total number of times that the connection to the engine was lost.
        gaps: total number of times that messages of another process may be missing, because the session with it was
            lost, or because it has given up a message that the engine cannot pass on.
        connections: total number of connections that this process has opened to other processes, also those for
            clients. If the engine loses messages, the process opens another connection.
        forwarded: number of connections of clients whose session another process has. This process passes on their
            messages.
        passed_on: total number of calls of other processes that this process has passed on to its clients.
        delivered: total number of times that this process has handed over a call that waited for its peer; see
            `ClusterPeer.submit`.
        expired: total number of such calls whose time was over, as far as this process has noticed.
        failed: total number of submitted calls that have failed or expired, as far as this process has noticed.
        waiting: number of such calls in all processes that had not ended when a server with a ``store`` last counted
            them, which it does each half minute; see `WaitingCalls`.
        oldest_waiting: seconds since the oldest of these had begun then.
        lost_events: total number of events from other processes that were lost because the receiving peer was no longer
            connected to this process, or was reading too slowly.
        ignored: total numbers of invalid messages from the engine, by kind.
    """

    node: str
    connected: bool
    nodes: int
    servers: int
    addresses: int
    messages_in: int
    messages_out: int
    unsent_bytes: int
    engines_lost: int
    gaps: int
    connections: int
    forwarded: int
    passed_on: int
    delivered: int
    expired: int
    failed: int
    waiting: int
    oldest_waiting: float
    lost_events: int
    ignored: dict[str, int]


class RunStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of the runs of one handler with ``keep=`` in one process: those of calls with a key.

    Attributes:
        running: number of runs whose handler runs.
        ended: total numbers of ended runs, by how they have ended: ``done``, ``failed``, ``stopped`` by a caller,
            ``unread``, because all readers have left (``Keep(unread=)``), ``lost``, ``not run``, because the server was
            closing, and ``handed over`` to another process.
        adopted: total number of runs that have come from other processes.
        seconds: total duration of the ended runs in this process.
    """

    running: int = 0
    ended: dict[str, int] = {}
    adopted: int = 0
    seconds: float = 0.0


class ServerStats(msgspec.Struct, frozen=True, kw_only=True):
    """Snapshot of a server's counters, from `Server.stats`. You can encode it with ``msgspec.json.encode``.

    Totals start at 0 when the server is created or opened again, and only grow. They include ended connections.

    Attributes:
        uptime: seconds since the server was created or last opened again.
        healthy: `Server.healthy` at the time of the snapshot.
        peers: number of open connections, including raw connections, plus peers whose session is kept without a
            connection.
        accepted: total number of accepted connections, including those that were refused afterwards by the factory of a
            service.
        refused: total numbers of refused opening handshakes, and of requests by URL that reach no handler, by HTTP
            status. The status is 403 if the origin is not allowed, 503 if the server is closing or `on_handshake` takes
            too long, 500 if `on_handshake` fails, 429 above `Quotas.connections` (also if the connection was closed
            with 1012), or a status that `on_handshake` has chosen.
        refusals: the same numbers, by the status and the first line of the response, such as ``"401 token expired"``.
            After 32 of them, ``others`` stands for further ones.
        closed: total numbers of ended sessions, by the close code of their last connection. 1000 and 1001 mean that the
            client left, 1006 a drop, 1011 no response to a ping, and 4408 a slow reader. A drop after which the session
            resumed does not count. The codes of `CloseCode`, and those with which your program has closed a connection,
            are counted one by one. 0 stands for all other codes, which clients have chosen.
        messages_in: total number of inbound messages, on transports that count them.
        messages_out: total number of messages that were passed to transports for sending, on transports that count
            them.
        bytes_in: total number of bytes read from the network, on transports that count them.
        bytes_out: total number of bytes written to the network, on transports that count them.
        unsent_bytes: number of bytes that are waiting in connections; see `PeerStats.unsent_bytes`.
        kept_bytes: number of bytes of messages that are kept; see `PeerStats.kept_bytes`.
        detached_peers: number of peers without a connection whose sessions are kept. ``peers`` includes them.
        slow_peers: number of peers whose connection is full; see `PeerStats.slow`.
        skipped_broadcasts: total number of broadcasts that were not sent to a peer because the peer was slow
            (``Server(slow=)``).
        pending: number of outbound requests that are waiting for a response.
        active: number of handlers that are running in tasks. Each raw connection counts as one handler.
        waiting: number of inbound requests and events that are waiting for another handler to finish
            (`Limits.running`).
        anonymous_channels: number of open anonymous channels, including streams.
        rooms: number of rooms that exist: those with members or options, and those that your program refers to.
        errors: total number of failures of connections that were logged at ERROR, mostly failed handlers.
        ignored: total numbers of ignored inbound messages, by kind; see `PeerStats.ignored`.
        misfits: total numbers of the messages in `PeerStats.misfits`, by the program of their peers, to see which
            programs have another version of the contract. ``unknown`` stands for peers that do not say what they run,
            and ``others`` for further programs after 100.
        deprecated: total numbers of calls of deprecated handlers, by the program of the peers that call them.
        refused_by_principal: total numbers of opening handshakes that `on_handshake`, ``origins=`` or a quota refused,
            and of messages above a rate or a quota, by principal. ``unknown`` stands for clients without one, and
            ``others`` for all but the 100 principals that were refused last. Each has the numbers by kind: the HTTP
            status, ``above the rate`` or ``above the quota``.
        quotas_unchecked: total number of connections that were accepted although the ``store=`` of the server has not
            said how many its user has (`Quotas.connections`).
        draining: while the server drains, the numbers of what it waits for, by event and kind: such as ``{"import:
            handler": 2}``. The kinds are ``handler``, ``request``, ``channel``, ``client``, which has unfinished calls
            of its own, ``raw connection``, ``messages``, which are not written, ``run`` of a call with a key, and
            ``on_drain``. After 32 of them, ``others`` stands for further ones.
        store_answers: whether the ``store=`` of the server answers, as far as the server has noticed. If not, calls
            with a key and rooms with ``keep=`` wait, and raise `Overloaded`. True without ``store=``.
        runs: the runs of calls with a key, by event, as far as there were any.
        cluster: the counters of this process in the cluster. None without ``cluster=``, and while the server is closed.
    """

    uptime: float
    healthy: bool
    peers: int
    accepted: int
    refused: dict[int, int]
    refusals: dict[str, int]
    closed: dict[int, int]
    messages_in: int
    messages_out: int
    bytes_in: int
    bytes_out: int
    unsent_bytes: int
    kept_bytes: int
    detached_peers: int
    slow_peers: int
    skipped_broadcasts: int
    pending: int
    active: int
    waiting: int
    anonymous_channels: int
    rooms: int
    errors: int
    ignored: dict[str, int]
    misfits: dict[str, int]
    deprecated: dict[str, int]
    refused_by_principal: dict[str, dict[str, int]]
    quotas_unchecked: int
    draining: dict[str, int]
    store_answers: bool
    runs: dict[str, RunStats]
    cluster: ClusterStats | None


SUMMED = (
    "messages_in",
    "messages_out",
    "bytes_in",
    "bytes_out",
    "unsent_bytes",
    "kept_bytes",
    "skipped_broadcasts",
    "pending",
    "active",
    "waiting",
    "anonymous_channels",
)
"""The counters of a server that are the sums of the counters of its peers."""


MOST_PROGRAMS = 100
"""Number of programs in `ServerStats.misfits` and `ServerStats.deprecated`. Clients choose the names."""

MOST_PRINCIPALS = 100
"""Number of principals in `ServerStats.refused_by_principal`."""

LIMITED = ("above the rate", "above the quota")
"""The kinds in `PeerStats.ignored` that `ServerStats.refused_by_principal` counts."""

MOST_NAMES = 32
"""Number of names in `PeerStats.deprecated`, `ServerStats.refusals` and `ServerStats.draining`: clients choose some."""


def add_to(totals: dict[str, int], name: str, number: int = 1, most: int = MOST_NAMES) -> str:
    """Add ``number`` to the total with this name, or to ``others`` if there are ``most`` names. Return which it was."""
    if name not in totals and len(totals) >= most:
        name = "others"
    totals[name] = totals.get(name, 0) + number
    return name


def shown_principal(principal: object) -> str:
    """Return a principal as text for operators. It is cut if it is very long, since some choose their own."""
    name = principal if isinstance(principal, str) else short(principal)
    return name if len(name) <= LONGEST_LINE else one_line(name)


class RefusedByPrincipal:
    """What was refused to each principal; see `ServerStats.refused_by_principal`."""

    def __init__(self, totals: dict[str, Counter[str]] | None = None) -> None:
        self.totals = {name: Counter(counts) for name, counts in (totals or {}).items()}

    def add(self, principal: object, counts: Mapping[str, int]) -> None:
        """Add numbers by kind. If there are too many principals, the one that was refused longest ago joins others."""
        name = "unknown" if principal is None else shown_principal(principal)
        self.totals[name] = Counter(counts) + self.totals.pop(name, Counter())  # the latest is the last
        if len(self.totals) > MOST_PRINCIPALS + ("others" in self.totals):
            oldest = next(name for name in self.totals if name != "others")
            self.totals.setdefault("others", Counter()).update(self.totals.pop(oldest))

    def add_ignored(self, principal: object, ignored: Mapping[str, int]) -> None:
        """Add those of the ignored messages of a peer that were above a limit."""
        if limited := {kind: ignored[kind] for kind in LIMITED if ignored.get(kind)}:
            self.add(principal, limited)


class ByProgram(NamedTuple):
    """Numbers of messages by the programs of their peers."""

    misfits: dict[str, int]
    deprecated: dict[str, int]

    def add(self, program: str | None, misfits: int, deprecated: int) -> None:
        """Add the numbers of a peer to those of its program."""
        for totals, number in ((self.misfits, misfits), (self.deprecated, deprecated)):
            if number:
                add_to(totals, program or "unknown", number, MOST_PROGRAMS)


class ServerTotals:
    """Totals of a server's ended connections, to which the counters of the open connections are added."""

    def __init__(self, now: float) -> None:
        self._started_at = now
        self.accepted = 0
        self._closed: Counter[int] = Counter()
        self._ended: dict[str, int] = dict.fromkeys(SUMMED, 0)
        self.errors = 0
        """Total number of log lines at ERROR for all connections. Includes lines of `close` handlers, which run after
        the connection has ended."""
        self._ignored: Counter[str] = Counter()
        self.by_program = ByProgram({}, {})
        self.refused_by_principal = RefusedByPrincipal()

    def failed(self) -> None:
        """Count one more log line at ERROR."""
        self.errors += 1

    def connection_opened(self) -> None:
        """Count one more connection."""
        self.accepted += 1

    def connection_closed(self, code: int, messages: tuple[int, int], size: tuple[int, int], skipped: int) -> None:
        """Add the counters of a connection that has ended with ``code``.

        Args:
            messages: the numbers of received and sent messages.
            size: the numbers of received and sent bytes.
        """
        self._closed[code] += 1
        names = ("messages_in", "messages_out", "bytes_in", "bytes_out", "skipped_broadcasts")
        for name, number in zip(names, (*messages, *size, skipped), strict=True):
            self._ended[name] += number

    def ignored(self, principal: object, counts: Counter[str]) -> None:
        """Add the numbers of ignored messages of a connection that has ended."""
        if counts:
            self._ignored.update(counts)
            self.refused_by_principal.add_ignored(principal, counts)

    def sum(self) -> StatsSum:
        """Begin to add the counters of the open connections to the totals."""
        counted = self._ignored, self.by_program, self.refused_by_principal
        return StatsSum(self._started_at, self.accepted, self._closed, self._ended, *counted)


class StatsSum:
    """The totals of a server at one moment, to which `add` adds the counters of the connections of that moment."""

    def __init__(
        self,
        started_at: float,
        accepted: int,
        closed: Counter[int],
        ended: dict[str, int],
        ignored: Counter[str],
        by_program: ByProgram,
        refused_by_principal: RefusedByPrincipal,
    ) -> None:
        self._started_at = started_at
        self._accepted = accepted
        self._closed = dict(closed)
        self._sums = {**ended, "peers": 0, "detached_peers": 0, "slow_peers": 0}
        self._ignored = Counter(ignored)
        self._by_program = ByProgram(*map(dict, by_program))
        self._refused_by_principal = RefusedByPrincipal(refused_by_principal.totals)

    def add(self, peer: PeerStats, principal: object) -> None:
        """Add the counters of a connection. It may have ended meanwhile."""
        self._sums["peers"] += 1
        self._sums["detached_peers"] += peer.detached
        self._sums["slow_peers"] += peer.slow
        for name in SUMMED:
            self._sums[name] += getattr(peer, name) or 0
        if peer.ignored:
            self._ignored.update(peer.ignored)
            self._refused_by_principal.add_ignored(principal, peer.ignored)
        self._by_program.add(peer.program, sum(peer.misfits.values()), sum(peer.deprecated.values()))

    def result(self, now: float, **others: Any) -> ServerStats:
        """Return the sums, with what belongs to no connection."""
        sums: dict[str, Any] = {**self._sums, **others}
        return ServerStats(
            uptime=now - self._started_at,
            accepted=self._accepted,
            closed=self._closed,
            ignored=dict(self._ignored),
            misfits=self._by_program.misfits,
            deprecated=self._by_program.deprecated,
            refused_by_principal={name: dict(counts) for name, counts in self._refused_by_principal.totals.items()},
            **sums,
        )
