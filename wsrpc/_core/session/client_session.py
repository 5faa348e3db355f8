"""`ClientSession`: the session of a side that dials, which asks to resume it."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_urlsafe
from typing import NamedTuple

from ..._base.closing import RESUMABLE, CloseCode, CloseInfo
from ..._base.scheduler import Timer
from ...errors import short
from ..wire.control import (
    KEY,
    RESUME,
    Gone,
    Hello,
    LimitsChanged,
    Resume,
    Resumed,
    Welcome,
    announce,
    read_control,
)
from .connection import Connection, ignore_end
from .offline_queue import OfflineQueue
from .peer_host import PeerHost
from .replay import Send
from .session import NOT_CONNECTED, VERSION, Session
from .session_end import SessionEnd
from .session_states import SessionInput

ANSWER_TIMEOUT = 5.0
"""Seconds that the first attempt to resume waits for the answer of the server. Each attempt without an answer adds as
many seconds to the wait of the next one: if many clients return over a slow network, the answers arrive late. Attempts
without an answer do not end the session, because the server may still keep it."""
UNNAMED_TTL = 30.0
"""Seconds for which a session without a welcome asks for its first answer."""
REFUSALS = {
    "expired": "the server has no such session any more",
    "auth": "the connection has another principal than the session",
    "elsewhere": "it is a session of another server process",
    "limits": "the connection has other limits than the session",
}
"""The text of `SessionLost` for each reason of a `Gone`."""


class ResumeAttempt(NamedTuple):
    """One attempt to resume a session, from the request to the answer, or until there will be no answer."""

    connection: Connection
    """The connection on which the server was asked."""
    refused: Callable[[Connection], None]
    failed: Callable[[CloseInfo], None]
    """See `ClientSession.ask_to_resume`."""
    timer: Timer
    """Ends the wait for the answer."""


class ClientSession(Session):
    """The session of the side that dials. It sends the hello, and asks the server to resume on another connection."""

    __slots__ = ("_attempt", "_gen", "_name", "_token", "_unanswered_attempts")

    greeting = Welcome

    def __init__(self, host: PeerHost, queue: OfflineQueue, *, last_close: CloseInfo = NOT_CONNECTED) -> None:
        super().__init__(host, queue, last_close=last_close)
        self._name = ""
        """The name that this side has given to the session, which holds until the welcome has another one."""
        self._token = ""
        """The secret with which this side proves that the session is its own."""
        self._gen = 0
        """Number of attempts to resume. The server accepts only higher numbers than before."""
        self._unanswered_attempts = 0
        """Attempts since the session had a connection whose answer did not come in time."""
        self._attempt: ResumeAttempt | None = None
        """The present attempt to resume. None unless this side waits for an answer."""

    def start_on(self, connection: Connection, *, can_resume: bool, wrap: Callable[[Send], Send] | None = None) -> None:
        """Start the session, and send the hello before anything else. A plain peer does not answer."""
        super().start_on(connection, can_resume=can_resume, wrap=wrap)
        # If the last session has asked to resume on this connection, the server takes the request for a hello.
        self.negotiation.offered = connection.offered
        if self._host.settings.extensions and connection.offered is None:
            limits, ours = announce(self.negotiation.limits), self._host.settings
            hello = Hello(VERSION, self.negotiation.offer(), limits, ours.program, ours.contract())
            if can_resume:
                # By its key, a server knows the connection before the hello has arrived.
                self._name = connection.transport.info.headers.get(KEY) or token_urlsafe(16)
                self._token = token_urlsafe(32)
                hello.sid, hello.token = self._name, self._token
            self.send_control(hello)
        if can_resume:
            # A plain server acknowledges nothing, so this side does not keep messages for long.
            self._count_sent()
            loop, patience = self._host.loop, self.negotiation.limits.open_timeout
            self._expiry_timer = loop.call_at(loop.time() + patience, self.stop_keeping)

    def _greeting_received(self, message: Welcome) -> None:
        self._stop_timers()
        self._announce_changes()
        resumes = bool(message.sid) and self.negotiation.has(RESUME)
        if not resumes:
            self.stop_keeping()
        else:
            if self.replay is not None:
                self.sid, self._token, self.ttl = message.sid, message.token, message.ttl
                self.replay.welcomed()
            elif self.connection is not None:  # the welcome is late, so the session ends with the connection
                self.connection.send_control(Gone("closed"))
            self._count_received()  # in any case, because the server sends parts until it reads this
        self.negotiation.apply(message.limits)

    def _announce_changes(self) -> None:
        if self.negotiation.limits is not self._host.settings.limits:  # the remote peer knows the limits of the hello
            self.send_control(LimitsChanged(announce(self.negotiation.limits)))

    # ------------------------------------------------------------ on another connection

    @property
    def may_move(self) -> bool:
        """Whether the session can resume if its connection is dropped for another one, with `CloseCode.RESUMES`.

        Also before the welcome. But a plain server does not resume the session, and has no transport but WebSocket.
        """
        return self.state.resumes or (self.state.sends and self.replay is not None and bool(self._name))

    def ask_to_resume(
        self, connection: Connection, *, refused: Callable[[Connection], None], failed: Callable[[CloseInfo], None]
    ) -> None:
        """Ask the server to resume the session on ``connection``. Send nothing else until the server has answered.

        If the session ends before the answer, because it has waited too long, neither function is called.

        Args:
            refused: called with ``connection`` if the server does not resume the session. The session has ended, and
                another one can start on the connection.
            failed: called if ``connection`` has ended, or is dropped because the server has not answered. The session
                waits for another connection.
        """
        self._move(SessionInput.ASKED)
        self._gen += 1
        loop, patience = self._host.loop, ANSWER_TIMEOUT * (1 + self._unanswered_attempts)
        timer = loop.call_at(loop.time() + patience, self._unanswered)
        self._attempt = ResumeAttempt(connection, refused, failed, timer)
        connection.owner = self
        # If the server refuses, it takes the offer for the hello of the next session.
        offer = connection.offered = self.negotiation.features()
        ours, received = self._host.settings, self.acknowledger
        sid, limits = self.sid or self._name, announce(ours.limits)
        asked = Resume(VERSION, offer, limits, sid, self._token, self._gen, 0, 0)
        if received is not None:
            asked.rx, asked.bytes = received.n, received.bytes
        asked.program, asked.contract = ours.program, ours.contract()
        connection.send_control(asked)
        connection.mark_resumable()  # if it dies before the answer, the server may have resumed the session on it
        connection.start_receiving(self._answered, ignore_end)

    def _answered(self, payload: bytes | bytearray, text: bool, /) -> None:
        attempt = self._end_attempt()
        answer = read_control(payload) if text else None
        if isinstance(answer, Resumed):
            self._token, self._unanswered_attempts = answer.token, 0
            if self._counts_agree(attempt.connection, answer.rx, answer.bytes, answer.limits):
                self._resume_on(attempt.connection, answer.limits)
        elif isinstance(answer, Gone):
            self.end(SessionInput.REFUSED, REFUSALS.get(answer.why, f"the server refuses it: {short(answer.why)}"))
            attempt.refused(attempt.connection)
        else:
            self.end(SessionInput.REFUSED, "the server did not resume it")
            attempt.refused(attempt.connection)
            attempt.connection.receive(payload, text)  # a message of the new session

    def _unanswered(self) -> None:
        self._unanswered_attempts += 1
        self._attempt_failed(CloseInfo(CloseCode.ABNORMAL, "no response to a resume"))

    def connection_lost(self, connection: Connection, info: CloseInfo) -> None:
        """The connection has ended. Wait for another one, or end the session."""
        if info.code == CloseCode.RESUMES and self.may_move and not self.state.resumes:
            self.ttl = UNNAMED_TTL
            self._move(SessionInput.COUNTED)  # the server has counted its messages, of which none has arrived
        if self._attempt is None:
            super().connection_lost(connection, info)
        else:  # the session has had no connection since the attempt started
            self._attempt_failed(info)

    def _attempt_failed(self, info: CloseInfo) -> None:
        """Wait for another connection, because this connection will bring no answer."""
        if info.code >= 3000 and info.code not in RESUMABLE:  # the server has closed the session
            self.last_close = info
        attempt = self._end_attempt()
        attempt.connection.transport.abort()
        self._move(SessionInput.DETACHED)
        attempt.failed(info)

    def _end_attempt(self) -> ResumeAttempt:
        """Stop waiting for the answer. The connection has no owner from now on."""
        attempt, self._attempt = self._attempt, None
        assert attempt is not None
        attempt.timer.cancel()
        attempt.connection.disown()
        return attempt

    # ------------------------------------------------------------ the end

    def _announce_end(self) -> None:
        # Some ASGI servers do not report Close frames, and the session would be kept although the client has closed.
        if self.connection is not None and self.replay is not None:
            self.connection.send_control(Gone("closed"))

    def _release(self, end: SessionEnd) -> None:
        if self._attempt is not None:
            self._host.spawn(self._end_attempt().connection.close(CloseCode.GOING_AWAY))
