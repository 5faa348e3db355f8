"""`Sessions`: those of a server, which its clients can resume."""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter
from contextlib import suppress
from functools import partial
from hmac import compare_digest
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Protocol

from msgspec import Struct

from .._base.closing import SAYS_NOTHING, CloseCode, CloseInfo
from .._base.scheduler import Timer
from .._protocol.control import (
    PROBE,
    RESUME,
    Alive,
    Gone,
    GoneWhy,
    Hello,
    Probe,
    Resume,
    Resumed,
    Welcome,
    announce,
    write_control,
)
from ..errors import ConnectionLost
from ..handshake import Handshake
from .connection import Connection
from .host import Host
from .queue import SendQueue
from .session import NOT_CONNECTED, Session
from .states import SessionInput, SessionState

MOST_CLOSED = 10_000
"""Closed sessions whose clients have not been told, at most: the oldest is forgotten. Each takes about half a KiB."""
NO_TOKEN = hashlib.sha256(b"").digest()


class SessionHome(Protocol):
    """What the session of a server's peer belongs to. `ServedPeer` of ``_server`` implements it."""

    @property
    def peer(self) -> Any:
        """The `Peer`, which has the principal of the client, and the info of its last connection."""

    @property
    def sessions(self) -> Sessions:
        """The sessions of the server."""
        ...

    def use_handshake(self, handshake: Handshake) -> None:
        """Use what `on_handshake` has said of the connection on which the session is about to resume."""


class ServerSession(Session):
    """The session of a side that accepts.

    Its tokens are kept as hashes, so that nobody who reads the memory can resume it.

    Args:
        home: what it belongs to. None if there is no server, so that the session ends with its connection.
    """

    __slots__ = ("counted", "gen", "home", "issued", "presented")

    greeting = Hello

    def __init__(
        self,
        host: Host,
        queue: SendQueue,
        *,
        home: SessionHome | None,
        ending: CloseInfo = NOT_CONNECTED,
    ) -> None:
        super().__init__(host, queue, ending=ending)
        self.home = home
        self.presented = self.issued = NO_TOKEN
        """The token that the client has last presented, which it may present again if the answer was lost, and the
        newest one."""
        self.gen = 0
        """The highest that the client has said."""
        self.counted = 0
        """Bytes that count for it while it has no connection, or is over."""

    def _greeted(self, message: Hello) -> None:
        # The welcome goes before anything else: what is sent after it may use what was negotiated.
        welcome = Welcome(self.negotiation.offer(), announce(self.negotiation.limits))
        if self.home is None or not self.negotiation.has(RESUME):
            self.say(welcome)
        else:
            sessions = self.home.sessions
            self.sid, self.ttl, token = sessions.add(self), sessions.kept_for, self._new_token()
            self.presented = self.issued
            welcome.sid, welcome.ttl, welcome.token = self.sid, self.ttl, token
            self.say(welcome)
            self._count_sent()
        self._agree(message.limits)

    def _new_token(self) -> str:
        token = secrets.token_urlsafe(32)
        self.issued = _hash(token)
        return token

    def _take(self, message: Any) -> bool:
        if isinstance(message, Gone) and self.negotiation.has(RESUME):  # the client is about to close
            self.give_up()
            return True
        if isinstance(message, Probe) and self.negotiation.has(PROBE):
            if not self.full:  # a client that does not read has to learn nothing, and its answers would pile up
                self.send_uncounted(write_control(Alive()))
            return True
        return super()._take(message)

    # ------------------------------------------------------------ on another connection

    def resume(self, asked: Resume, connection: Connection, handshake: Handshake) -> None:
        """Resume on ``connection``. Whatever the old one still delivers changes nothing any more."""
        self.gen, self.presented = asked.gen, _hash(asked.token)
        token = self._new_token()
        self._fence()  # before anything is counted
        if not self.state.resumes:  # the end of the old connection has ended it
            connection.disown()
            self._host.spawn(connection.close(CloseCode.GOING_AWAY))
            return
        assert self.home is not None and self.ledger is not None and self.ledger.received is not None
        received = self.ledger.received
        answer = Resumed(received.n, received.bytes, token, announce(self.negotiation.limits))
        try:
            connection.transport.send(write_control(answer), True)
        except ConnectionLost:  # it has dropped already, so the client comes again
            connection.disown()
            return
        self.home.use_handshake(handshake)  # before messages that have waited are handled
        self.home.sessions.release(self)
        self._reattach(connection, asked.rx, asked.bytes, asked.limits)

    def _fence(self) -> None:
        """Close the old connection, if there is one: the client has another."""
        old = self.connection
        if old is not None:
            info = CloseInfo(CloseCode.FENCED, "the session goes on over another connection")
            self._detach(info)
            self._host.spawn(old.close(info.code, info.reason))

    def fits(self, handshake: Handshake) -> bool:
        """Return whether the session can go on after another handshake: its limits are those of the first one."""
        return handshake.limits == self._host.settings.limits

    @property
    def peer(self) -> Any:
        """The `Peer`. Only of a session that can resume."""
        assert self.home is not None
        return self.home.peer

    # ------------------------------------------------------------ what it takes without a connection

    def _detach(self, info: CloseInfo) -> None:
        super()._detach(info)
        if self.state.detached:
            self.hold()

    def memory(self) -> int:
        return super().memory() if not self.over or self._host.core.memory() else 0

    def recount(self) -> None:
        """Note that the session takes more memory, or less."""
        if self.counted:
            self.hold()

    def hold(self) -> None:
        """Count what is left of the session, which is over, or what it takes without a connection."""
        if self.home is not None:
            self.home.sessions.hold(self)

    def _let_go(self, closed_with: CloseInfo) -> None:
        # If this side has closed it with a code that says why, and the client may not know, it is told when it asks to
        # resume.
        if self.home is None:
            return
        sessions, loop = self.home.sessions, self._host.loop
        sessions.forget(self)
        if self.sid and closed_with.user_closed and closed_with.code not in SAYS_NOTHING and not self.ending.was_clean:
            until = loop.call_at(loop.time() + self.ttl, partial(sessions.forget_closed, self.sid))
            sessions.remember(
                Closed(self.sid, self.issued, self.presented, self.gen, self.peer.principal, closed_with, until)
            )

    def evict(self, why: str = "too many sessions without a connection") -> None:
        """End the session, or drop what is left of it if it is over.

        Its connection, if there is still one, is closed: the client has another.
        """
        if self.over:
            self._host.core.drop_rest(self)
        self._fence()
        if self.state.detached:
            self.end(SessionInput.ENDED, why)


class Closed(Struct):
    """A session that this side has closed while the client was away. It proves as a session does whose client asks."""

    sid: str
    issued: bytes
    presented: bytes
    gen: int
    principal: object
    closed_with: CloseInfo
    """How the client's next connection is closed."""
    until: Timer
    """Ends this when the session could not have resumed any more."""


class Sessions:
    """The sessions of a server that can resume on another connection.

    Each is kept for ``kept_for`` seconds without a connection. Those without one, and what handlers and readers still
    hold of those that are over, take at most ``limit`` bytes together. When they take more, the
    client whose sessions take most loses the largest one, and of several the oldest: no client can end the sessions of
    another one that takes less.
    """

    def __init__(self, kept_for: float, limit: int) -> None:
        self.kept_for = kept_for
        self._limit = limit
        self._here = secrets.token_urlsafe(6)
        """Begins the names of these sessions. A session whose name begins otherwise belongs to another process."""
        self._named: dict[str, ServerSession] = {}
        self.closed: dict[str, Closed] = {}
        """Sessions whose clients have still to be told how they were closed, by name, the oldest first."""
        self._held: dict[ServerSession, object] = {}
        """The sessions without a connection, and those that are over of which something is left, the oldest first,
        with their clients."""
        self._memory = 0
        """Bytes that they take together."""
        self._ending = False
        """Whether sessions are being ended to keep the bound."""

    def __len__(self) -> int:
        return len(self._named)

    def add(self, session: ServerSession) -> str:
        """Add a session that can resume on another connection, and return its name."""
        sid = f"{self._here}.{secrets.token_urlsafe(16)}"
        self._named[sid] = session
        return sid

    def forget(self, session: ServerSession) -> None:
        """Forget a session, which is over. Idempotent."""
        self.release(session)
        self._named.pop(session.sid, None)

    def remember(self, closed: Closed) -> None:
        """Remember a session whose client has still to be told how it was closed."""
        self.closed[closed.sid] = closed
        if len(self.closed) > MOST_CLOSED:
            self.forget_closed(next(iter(self.closed)))

    def forget_closed(self, sid: str) -> None:
        """Forget a closed session: its client knows, or cannot ask any more. Idempotent."""
        if (closed := self.closed.pop(sid, None)) is not None:
            closed.until.cancel()

    def resume(self, asked: Resume, connection: Connection, handshake: Handshake) -> Any | Closed | GoneWhy:
        """Resume a session on ``connection``. Return its `Peer`, or why that is not possible.

        A request that is refused changes nothing in the session, unless the client proves that it is its own: then the
        client gets a new session in its place.
        """
        here, dot, _ = asked.sid.partition(".")
        if dot and here != self._here:
            return "elsewhere"
        session = self._named.get(asked.sid) or self.closed.get(asked.sid)
        hashed = _hash(asked.token)
        # As much work without such a session as with one.
        newest = compare_digest(hashed, NO_TOKEN if session is None else session.issued)
        before = compare_digest(hashed, NO_TOKEN if session is None else session.presented)
        if session is None or not (newest or before) or asked.gen <= session.gen:
            return "expired"
        principal = session.principal if isinstance(session, Closed) else session.peer.principal
        if not _same(handshake.principal, principal):
            return "auth"
        if isinstance(session, Closed):
            return session
        if session.state is SessionState.CLOSING:
            if session.connection is not None:
                session.connection.drop(session.ending)  # it is dead, and the session was to be closed on it
            return self.closed.get(asked.sid, "expired")
        if not session.state.resumes:
            return "expired"
        if not session.fits(handshake):
            session.evict("the connection has other limits than the session")
            return "limits"
        peer = session.peer  # if the session ends as it resumes, nobody else may hold it
        session.resume(asked, connection, handshake)
        return peer

    # ------------------------------------------------------------ the bound

    def hold(self, session: ServerSession) -> None:
        """Count a session that has no connection, or is over, anew: it holds more, or less. Idempotent."""
        if not (held := session.memory()):
            self.release(session)
            return
        if session not in self._held:
            self._held[session] = _client_of(session)
        self._count(session, held)
        if self._ending:  # a `close` handler has sent something
            return
        self._ending = True
        try:
            while self._memory > self._limit:
                # Evictions are rare, and even many thousands of sessions are looked through in milliseconds.
                largest = self._largest()
                self.release(largest)  # handlers that it cancels may take their time, or ignore that
                largest.evict()
        finally:
            self._ending = False

    def _largest(self) -> ServerSession:
        """Return the largest session of the client whose sessions take most."""
        taken = Counter[object]()
        for session, client in self._held.items():
            taken[client] += session.counted
        return max(self._held, key=lambda session: (taken[self._held[session]], session.counted))

    def release(self, session: ServerSession) -> None:
        """Stop counting a session: it has a connection, or nothing is left of it. Idempotent."""
        self._held.pop(session, None)
        self._count(session, 0)

    def _count(self, session: ServerSession, size: int) -> None:
        self._memory += size - session.counted
        session.counted = size


def _client_of(session: ServerSession) -> object:
    """Return what is the same for all sessions of one client: the hash of its principal, or else its network."""
    principal = session.peer.principal
    if principal is not None:
        with suppress(Exception):  # of the user's class
            return "principal", hash(principal)
    remote: tuple[str, int] | None = session.peer.info.remote
    host = "" if remote is None else remote[0]
    with suppress(ValueError):  # not an address
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            return IPv6Network((int(address), 64), strict=False)  # one client has all of it
    return host


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _same(principal: object, other: object) -> bool:
    """Return whether two principals are the same. One that cannot be compared is not."""
    try:
        return principal is other or bool(principal == other)
    except Exception:  # of the user's class: then nobody knows
        return False
