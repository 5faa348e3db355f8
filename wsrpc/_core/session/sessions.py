"""`Sessions`: the sessions of a server, which its clients can resume. `ServerSession`: one of them."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any, Literal, Protocol

from msgspec import Struct

from ..._base.closing import UNINFORMATIVE, CloseCode, CloseInfo
from ..._base.logs import logger
from ..._base.scheduler import Scheduler, Timer
from ...errors import ConnectionLost, unless_it_fails
from ...handshake import Handshake
from ..wire.control import (
    KEY,
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
from .connection import Connection
from .offline_queue import OfflineQueue
from .peer_host import PeerHost
from .replay import Send
from .session import BYTES_PER_MESSAGE, NOT_CONNECTED, Session
from .session_end import Decision, SessionEnd
from .session_states import SessionInput, SessionState
from .tokens import TOKENS_OF_NO_SESSION, Tokens

BYTES_PER_SESSION = 16 * 1024
"""About how many bytes a session without a connection takes, besides its messages and calls."""


class Home(Protocol):
    """What only the peer of a server has. `ServedPeer` of ``_server`` implements it."""

    server: Any
    """The `Server`."""
    address: str | None
    """The application's name for the client, as `Handshake.address` has set it."""
    rooms: dict[Any, bool]
    """The rooms that the peer is in, and whether it joined each by its own request."""
    sessions: Sessions

    @property
    def peer(self) -> Any:
        """The `Peer`, which knows the principal of the client, and the info of the last connection."""

    def set_handshake(self, handshake: Handshake) -> None:
        """Apply what `on_handshake` has decided about the connection on which the session is about to resume."""


class ServerSession(Session):
    """The session of the side that accepts.

    Args:
        home: what the peer has on a server. None without a server: then the session ends with its connection.
    """

    __slots__ = ("counted_memory", "home", "key", "tokens")

    greeting = Hello

    def __init__(
        self,
        host: PeerHost,
        queue: OfflineQueue,
        *,
        home: Home | None,
        last_close: CloseInfo = NOT_CONNECTED,
    ) -> None:
        super().__init__(host, queue, last_close=last_close)
        self.home = home
        self.tokens: Tokens
        """With these the client proves that the session is its own. Made when the session gets its name."""
        self.counted_memory = 0
        """Bytes that `Sessions` counts for the session while it has no connection, or is over."""
        self.key = ""
        """The header ``Sec-WebSocket-Key`` of the first connection, which its client knows, too, if it is no page."""

    def start_on(self, connection: Connection, *, can_resume: bool, wrap: Callable[[Send], Send] | None = None) -> None:
        """See `Session.start_on`."""
        super().start_on(connection, can_resume=can_resume, wrap=wrap)
        if can_resume and self.home is not None:
            self.key = key = connection.transport.info.headers.get(KEY, "")
            if key:
                self.home.sessions.unheard[key] = self, self._host.log.principal, self._host.loop.time()

    def _greeting_received(self, message: Hello) -> None:
        # The welcome is sent first, because later messages may use what was negotiated.
        if self.home is None or not self.negotiation.has(RESUME):
            self.send_control(self._welcome())
        else:
            sessions, traffic = self.home.sessions, self._host.traffic(self.connection)
            # What was sent before the welcome is not sent again, so a client without the welcome cannot resume.
            self.tokens = Tokens("" if traffic is not None and traffic.messages_out else message.token)
            sessions.unheard.pop(self.key, None)
            self.sid, self.ttl = sessions.add(self, message.sid)
            if not self.sid:
                self.fail(CloseCode.INVALID_DATA, "the name of the session is used, or not valid")
                return
            self.send_control(self._welcome(self.tokens.issue()))
            self._count_sent()
            self._count_received()
        self.negotiation.apply(message.limits)

    def _welcome(self, token: str = "") -> Welcome:
        welcome = Welcome(self.negotiation.offer(), announce(self.negotiation.limits))
        welcome.program, welcome.contract = self._host.settings.program, self._host.settings.contract()
        if token:
            welcome.sid, welcome.ttl, welcome.token = self.sid, self.ttl, token
        return welcome

    def _handle_control(self, message: Any) -> bool:
        if isinstance(message, Gone) and self.negotiation.has(RESUME):  # the client is about to close
            self.stop_keeping()
            return True
        if isinstance(message, Probe) and self.negotiation.has(PROBE):
            # A client that does not read would not get the answers, which would pile up.
            if self.connection is not None and not self.full:
                self.connection.send_control(Alive())
            return True
        return super()._handle_control(message)

    # ------------------------------------------------------------ on another connection

    def resume(self, asked: Resume, connection: Connection, handshake: Handshake) -> None:
        """Resume on ``connection``. What the old connection still delivers is ignored."""
        token = self.tokens.renew(asked)
        self._fence()  # before the counts are read
        if not self.state.resumes:  # the end of the old connection has ended the session
            connection.disown()
            self._host.spawn(connection.close(CloseCode.GOING_AWAY))
            return
        if not self._counts_agree(connection, asked.rx, asked.bytes, asked.limits):
            return  # before the answer, which says that nothing was lost
        assert self.home is not None and self.acknowledger is not None
        answer = Resumed(self.acknowledger.n, self.acknowledger.bytes, token, announce(self.negotiation.limits))
        try:
            connection.transport.send(write_control(answer), True)
            if asked.sid != self.sid:  # the client has got no welcome
                connection.transport.send(write_control(self._welcome(token)), True)
        except ConnectionLost:  # it has dropped already, so the client will ask again
            connection.disown()
            self.update_memory()
            return
        self.home.set_handshake(handshake)  # before messages that have waited are handled
        self.home.sessions.stop_counting(self)
        self._resume_on(connection, asked.limits)

    def _fence(self) -> None:
        """Close the old connection, if there is one, because the client has another."""
        old = self.connection
        if old is not None:
            info = CloseInfo(CloseCode.FENCED, "the session goes on over another connection")
            self._drop(info, resumable=True)
            self._host.spawn(old.close(info.code, info.reason))

    def fits(self, handshake: Handshake) -> bool:
        """Return whether the limits of another handshake are the limits of the session."""
        return handshake.limits == self._host.settings.limits

    @property
    def peer(self) -> Any:
        """The `Peer`. Only for a session that can resume."""
        assert self.home is not None
        return self.home.peer

    # ------------------------------------------------------------ memory without a connection

    def _detach(self, info: CloseInfo, decision: Decision) -> None:
        super()._detach(info, decision)
        if self.state.away and info.code != CloseCode.FENCED:  # otherwise the client has another connection
            self.update_memory()

    def memory(self) -> int:
        """Return about how many bytes the session takes: sent and received messages, and unfinished work."""
        above = self._host.current.backlog()
        if self.over and not above:
            return 0
        messages = len(self._offline_queue) + (0 if self.replay is None else len(self.replay))
        joined = 0 if self.acknowledger is None else len(self.acknowledger.joined)
        size = self.kept_bytes + joined + self._offline_queue.user_size + BYTES_PER_MESSAGE * messages
        return BYTES_PER_SESSION + size + above

    def memory_changed(self) -> None:
        """The session takes more memory, or less."""
        if self.counted_memory:
            self.update_memory()

    def update_memory(self) -> None:
        """Count again the memory of the session, which has no connection, or is over."""
        if self.home is not None:
            self.home.sessions.update_memory(self)

    def _release(self, end: SessionEnd) -> None:
        if self.home is not None:
            # If this side has closed the session with a meaningful code that may not have reached the client, the
            # client gets the code when it asks to resume.
            closed_with = end.closed_with
            says_why = bool(self.sid) and closed_with.user_closed and closed_with.code not in UNINFORMATIVE
            tells = says_why and not end.info.was_clean
            self.home.sessions.remove(self, closed_with if tells else None, self._host.loop)

    def evict(self, why: str = "too many sessions without a connection") -> None:
        """End the session. If it is over, drop what handlers and readers still hold of it.

        The connection, if there is still one, is closed, because the client has another.
        """
        if self.over:
            self._host.current.drop_backlog(self)
        self._fence()
        if self.state.away:
            self.end(SessionInput.ENDED, why)


MOST_CLOSED = 10_000
"""Limit of the closed sessions that are remembered for their clients. Beyond it the oldest is removed. Each takes about
half a KiB. Also of the keys of silent connections."""
WAS_OPEN = 2.0
"""Seconds, less than a client waits for the first message on a WebSocket before it asks over HTTP."""
LONGEST_SESSION_NAME = 64
"""Characters of the longest name that a client may give to its session."""


class ClosedSession(Struct):
    """A session that this side has closed while the client was away. The client must prove that it is its own."""

    sid: str
    tokens: Tokens
    principal: object
    closed_with: CloseInfo
    """How the client's next connection is closed."""
    until: Timer
    """Removes this object when the time is over in which the session could have resumed."""


class Sessions:
    """The sessions of a server that can resume on another connection.

    Each session is kept for ``kept_for`` seconds without a connection. Sessions without a connection take at most
    ``limit`` bytes together. Messages of ended sessions that handlers and readers still hold count, too. If the limit
    is exceeded, the client whose sessions take most memory loses its largest session (the oldest of equal ones). So
    no client can end the sessions of a client that takes less.
    """

    def __init__(self, kept_for: float, limit: int) -> None:
        self._kept_for = kept_for
        self._limit = limit
        self.here = secrets.token_urlsafe(6)
        """The first part of the names of these sessions. Sessions of other processes have other first parts. In a
        cluster, it is the name of the node, so that other nodes find it."""
        self._named: dict[str, ServerSession] = {}
        self.unheard: dict[str, tuple[ServerSession, object, float]] = {}
        """The sessions whose client has not said hello yet, its principal and when it has connected, by the keys of
        their handshakes."""
        self._silent: dict[str, tuple[object, float, float, Scheduler]] = {}
        """For such sessions that are over, the oldest first: the principal, and when they began and ended, by which
        clock."""
        self.closed: dict[str, ClosedSession] = {}
        """Closed sessions whose clients do not know yet how they were closed, by name, the oldest first."""
        self._counted: dict[ServerSession, object] = {}
        """The sessions whose memory is counted, the oldest first, with their clients: sessions without a connection,
        and sessions that are over, but not yet free of handlers and readers."""
        self._memory = 0
        """Bytes that the counted sessions take together."""
        self._ending = False
        """Whether sessions are being ended to keep the limit."""

    def __len__(self) -> int:
        return len(self._named)

    def add(self, session: ServerSession, name: str, /) -> tuple[str, float]:
        """Add a session that can resume. Return its name, and the seconds for which it is kept without a connection.

        Args:
            name: the name that its client has given to it. If it is used, or not valid, the returned name is empty.
        """
        sid = f"{self.here}.{name or secrets.token_urlsafe(16)}"
        if sid in self._named or "." in name or len(name) > LONGEST_SESSION_NAME:
            return "", 0.0
        self._named[sid] = session
        return sid, self._kept_for

    def remove(self, session: ServerSession, closed_with: CloseInfo | None, loop: Scheduler, /) -> None:
        """Remove a session, which is over.

        Args:
            closed_with: how to close the connection on which its client asks for the session. None if the client
                knows of the end.
        """
        self.stop_counting(session)
        unheard = self.unheard.get(session.key)
        if unheard is not None and unheard[0] is session:  # else a proxy has repeated the handshake here
            del self.unheard[session.key]
            self._silent[session.key] = *unheard[1:], loop.time(), loop
            if len(self._silent) > MOST_CLOSED:
                del self._silent[next(iter(self._silent))]
        sid = session.sid
        self._named.pop(sid, None)
        if closed_with is None:
            return
        until = loop.call_at(loop.time() + session.ttl, partial(self.remove_closed, sid))
        self.closed[sid] = ClosedSession(sid, session.tokens, session.peer.principal, closed_with, until)
        if len(self.closed) > MOST_CLOSED:
            self.remove_closed(next(iter(self.closed)))

    def remove_closed(self, sid: str) -> None:
        """Remove a closed session, when its client knows that it is closed, or can no longer ask. Idempotent."""
        if (closed := self.closed.pop(sid, None)) is not None:
            closed.until.cancel()

    def resume(
        self, asked: Resume, connection: Connection, handshake: Handshake
    ) -> Any | ClosedSession | GoneWhy | Literal["new"]:
        """Resume a session on ``connection``. Return its `Peer`, or why it cannot resume.

        ``"new"`` if this process has not read the hello of its first connection, and now never will. What the client
        has sent can begin here then. Without that connection, another process may have it.

        A refused request does not change the session, with one exception: if the client has proven that the session is
        its own, but the limits differ, the session ends, and the client gets a new one.
        """
        here, dot, _ = asked.sid.partition(".")
        if dot and here != self.here:
            return "elsewhere"
        sid = asked.sid if dot else f"{self.here}.{asked.sid}"
        session = self._named.get(sid) or self.closed.get(sid)
        if session is None and self._was_silent(asked.sid, handshake.principal):
            return "new"
        tokens = TOKENS_OF_NO_SESSION if session is None else session.tokens
        if not tokens.accepts(asked) or session is None:
            return "expired"
        principal = session.principal if isinstance(session, ClosedSession) else session.peer.principal
        if not _same(handshake.principal, principal):
            return "auth"
        if isinstance(session, ClosedSession):
            return session
        if session.state is SessionState.CLOSING:
            if session.connection is not None:
                # The client has another connection, so this one is dead: no answer to its Close frame will arrive.
                session.connection.drop(session.last_close)
            return self.closed.get(sid, "expired")
        if not session.state.resumes:
            return "expired"
        if not session.fits(handshake):
            session.evict("the connection has other limits than the session")
            return "limits"
        peer = session.peer  # before `resume`: if the session ends there, nothing else may refer to the peer
        session.resume(asked, connection, handshake)
        return peer

    def _was_silent(self, key: str, principal: object) -> bool:
        """Return whether this process has the first connection of a session, and will never read its hello.

        A proxy may have sent the handshake to another process before, or later, if the first one did not answer. But
        then it was not open `WAS_OPEN` seconds ago.
        """
        if (unheard := self.unheard.get(key)) is not None:
            unheard[0].evict()
        if (silent := self._silent.pop(key, None)) is None:
            return False
        other, began, ended, loop = silent
        return began <= loop.time() - WAS_OPEN <= ended and _same(other, principal)

    # ------------------------------------------------------------ the limit of memory

    def update_memory(self, session: ServerSession, /) -> None:
        """Count again the memory of a session that has no connection, or is over. Idempotent."""
        if not (size := session.memory()):
            self.stop_counting(session)
            return
        if session not in self._counted:
            self._counted[session] = client_of(session.peer)
        self._count(session, size)
        if self._ending:  # a `close` handler has sent a message
            return
        self._ending = True
        try:
            while self._memory > self._limit:
                # Evictions are rare, and a search through many thousands of sessions takes milliseconds.
                largest = self._largest()
                self.stop_counting(largest)  # now, because cancelled handlers may run on for a while
                largest.evict()
        finally:
            self._ending = False

    def _largest(self) -> ServerSession:
        """Return the largest session of the client whose sessions take most memory."""
        taken = Counter[object]()
        for session, client in self._counted.items():
            taken[client] += session.counted_memory
        return max(self._counted, key=lambda session: (taken[self._counted[session]], session.counted_memory))

    def stop_counting(self, session: ServerSession, /) -> None:
        """Stop counting the memory of a session: it has a connection, or takes no more. Idempotent."""
        self._counted.pop(session, None)
        self._count(session, 0)

    def _count(self, session: ServerSession, size: int) -> None:
        self._memory += size - session.counted_memory
        session.counted_memory = size


def client_of(peer: Any) -> object:
    """Return a value that all sessions of one client share: the hash of its principal, or its network address.

    An object without a hash of its own may be a new one for each connection, so it says nothing.
    """
    principal = peer.principal
    has_hash = type(principal).__hash__ not in (object.__hash__, type(None).__hash__)
    hashed = unless_it_fails(hash, principal) if has_hash else None
    return network_of(peer.info.remote) if hashed is None else ("principal", hashed)


def network_of(remote: tuple[str, int] | None) -> object:
    """Return the network of an address: the host itself, or a /64 of IPv6. An empty text if it is unknown."""
    host = "" if remote is None else remote[0]
    with suppress(ValueError):  # not an address
        address = ip_address(host.partition("%")[0])
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            return IPv6Network((int(address), 64), strict=False)  # one client usually has all of a /64
    return host


def _same(principal: object, other: object) -> bool:
    """Return whether two principals are the same. Principals that cannot be compared are not, which is logged."""
    try:
        return principal is other or bool(principal == other)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as exc:  # raised by the user's class
        logger.error("a session does not resume, because its principal cannot be compared", exc_info=exc)
        return False
