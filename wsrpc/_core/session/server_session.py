"""`ServerSession`: the session of a side that accepts, which a client can resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..._base.closing import UNINFORMATIVE, CloseCode, CloseInfo
from ..._base.scheduler import Scheduler
from ...errors import ConnectionLost
from ...handshake import Handshake
from ..wire.control import (
    KEY,
    PROBE,
    RESUME,
    Alive,
    Gone,
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
from .session_states import SessionInput
from .tokens import Tokens

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
    sessions: SessionTable
    """The sessions of the server."""

    @property
    def peer(self) -> Any:
        """The `Peer`, which knows the principal of the client, and the info of the last connection."""

    def set_handshake(self, handshake: Handshake) -> None:
        """Apply what `on_handshake` has decided about the connection on which the session is about to resume."""


class SessionTable(Protocol):
    """The table of a server's sessions. `Sessions` implements it, and imports this module."""

    unheard: dict[str, tuple[ServerSession, object, float]]
    """The sessions whose client has not said hello yet, its principal and when it has connected, by `KEY`."""

    def add(self, session: ServerSession, name: str, /) -> tuple[str, float]:
        """Add a session that can resume. Return its name, and the seconds for which it is kept without a connection."""
        ...

    def update_memory(self, session: ServerSession, /) -> None:
        """Count the memory of a session that has no connection, or is over."""

    def stop_counting(self, session: ServerSession, /) -> None:
        """Stop counting the memory of a session: it has a connection."""

    def remove(self, session: ServerSession, closed_with: CloseInfo | None, loop: Scheduler, /) -> None:
        """Remove a session, which is over. If its client asks for it, close the connection with ``closed_with``."""


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
