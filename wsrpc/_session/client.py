"""`ClientSession`: the session of a side that dials, which asks to resume it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .._base.closing import GOES_ON, CloseCode, CloseInfo
from .._base.scheduler import Timer
from .._protocol.control import (
    RESUME,
    Ack,
    Changed,
    Gone,
    Hello,
    Resume,
    Resumed,
    Welcome,
    announce,
    read_control,
)
from ..errors import short
from .connection import Connection, ignore_end
from .ending import SessionEnd
from .host import Host
from .ledger import Send
from .queue import SendQueue
from .session import NOT_CONNECTED, VERSION, Session
from .states import SessionInput

ANSWER_TIMEOUT = 5.0
"""Seconds in which the server answers that the session has resumed, or that it is gone."""
MOST_SILENCES = 2
"""Connections in a row without an answer after which it is no wsrpc server any more. One may have been dead."""
GONE = {
    "expired": "the server has no such session any more",
    "auth": "the connection has another principal than the session",
    "elsewhere": "it is a session of another server process",
    "limits": "the connection has other limits than the session",
}
"""What `SessionLost` says for each reason of a `Gone`."""


class ClientSession(Session):
    """The session of a side that dials. It says hello, and asks the server to resume it on another connection."""

    __slots__ = ("_answer_timer", "_asking", "_gen", "_silences", "_token")

    greeting = Welcome

    def __init__(self, host: Host, queue: SendQueue, *, ending: CloseInfo = NOT_CONNECTED) -> None:
        super().__init__(host, queue, ending=ending)
        self._token = ""
        """The secret that proves that the session is this side's."""
        self._gen = 0
        """Number of attempts to resume, which the server compares with the last one that it has seen."""
        self._silences = 0
        """Connections in a row on which a resume got no answer."""
        self._asking: Connection | None = None
        """The connection on which this side waits for the answer to its resume."""
        self._answer_timer: Timer | None = None
        """Ends an attempt to resume that gets no answer."""

    def begin(self, connection: Connection, *, can_resume: bool, wrap: Callable[[Send], Send] | None = None) -> None:
        """Say hello before anything else. Do not wait for an answer: a plain peer sends none."""
        super().begin(connection, can_resume=can_resume, wrap=wrap)
        # Where another session has asked to resume, that was in place of a hello.
        self.negotiation.offered = connection.offered
        if self._host.settings.extensions and connection.offered is None:
            self.say(Hello(VERSION, self.negotiation.offer(), announce(self.negotiation.limits)))

    def _greeted(self, message: Welcome) -> None:
        self._announce_changes()
        self.negotiation.use(message.limits)
        if message.sid and self.negotiation.has(RESUME):
            self.sid, self._token, self.ttl = message.sid, message.token, message.ttl
            self.say(Ack(0, 0))
            self._count_received(self._count_sent())

    def _announce_changes(self) -> None:
        if self.negotiation.limits is not self._host.settings.limits:  # the remote peer has those of the hello
            self.say(Changed(announce(self.negotiation.limits)))

    # ------------------------------------------------------------ on another connection

    def ask_to_resume(self, connection: Connection, refused: Callable[[], None]) -> None:
        """Ask the server to resume the session on ``connection``. Nothing else is sent there until it has answered.

        Args:
            refused: called if the server does not resume it, and so the session has ended. A new one can begin on
                ``connection``.
        """
        assert self.ledger is not None and self.ledger.received is not None
        self._move(SessionInput.ASKED)
        self._gen += 1
        self._asking = connection
        connection.owner = self
        loop = self._host.loop
        self._answer_timer = loop.call_at(loop.time() + ANSWER_TIMEOUT, partial(self._unanswered, connection))
        # If the server refuses, it takes these for the hello of the next session.
        offer = connection.offered = self.negotiation.features()
        limits, received = announce(self._host.settings.limits), self.ledger.received
        asked = Resume(VERSION, offer, limits, self.sid, self._token, self._gen, received.n, received.bytes)
        connection.start(partial(self._answered, connection, refused), ignore_end)
        connection.tell(asked)

    def _answered(
        self, connection: Connection, refused: Callable[[], None], payload: bytes | bytearray, text: bool, /
    ) -> None:
        if self._asking is not connection:
            return
        self._asking = None
        answer = read_control(payload) if text else None
        if isinstance(answer, Resumed):
            self._token, self._silences = answer.token, 0
            self._reattach(connection, answer.rx, answer.bytes, answer.limits)
            return
        connection.disown()
        if isinstance(answer, Gone):
            self.end(SessionInput.REFUSED, GONE.get(answer.why, f"the server refuses it: {short(answer.why)}"))
            refused()
        else:
            self.end(SessionInput.REFUSED, "the server did not resume it")
            refused()
            connection.receive(payload, text)  # it belongs to the new session

    def _unanswered(self, connection: Connection) -> None:
        if self._asking is connection:
            self._silences += 1
            self._failed(connection, CloseInfo(CloseCode.ABNORMAL, "no response to a resume"))

    def connection_lost(self, connection: Connection, info: CloseInfo) -> None:
        """Go on without a connection, or end, because the connection has ended."""
        if connection is self._asking:
            self._failed(connection, info)
        else:
            super().connection_lost(connection, info)

    def _failed(self, connection: Connection, info: CloseInfo) -> None:
        """Wait for another connection: this one has ended before the server has answered."""
        if self._silences >= MOST_SILENCES:
            self.end(SessionInput.ENDED, "the server does not answer")
            return
        if info.code >= 3000 and info.code not in GOES_ON:  # the server has closed the session meanwhile
            self.note_ending(info)
        self._asking = None
        connection.disown()
        connection.transport.abort()
        self._stop_answer_timer()
        self._move(SessionInput.CUT)
        self._host.core.session_detached(info, False)

    # ------------------------------------------------------------ the end

    def _say_goodbye(self) -> None:
        # Some ASGI servers do not tell of Close frames, and would keep the session for a client that has left.
        connection, ledger = self.connection, self.ledger
        if connection is not None and ledger is not None and not ledger.sent.forgets:
            connection.tell(Gone("closed"))

    def _let_go(self, end: SessionEnd) -> None:
        asking, self._asking = self._asking, None
        if asking is not None:
            asking.disown()
            self._host.spawn(asking.close(CloseCode.GOING_AWAY))

    def _stop_timers(self) -> None:
        super()._stop_timers()
        self._stop_answer_timer()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
