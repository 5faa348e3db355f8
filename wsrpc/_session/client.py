"""`ClientSession`: the session of a side that dials, which asks to resume it."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from .._base.closing import GOES_ON, CloseCode, CloseInfo
from .._base.scheduler import Scheduler, Timer
from .._protocol.control import (
    MSGPACK,
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
    write_control,
)
from .._protocol.settings import Settings
from ..errors import ConnectionLost, short
from .connection import Connection, ignore_end
from .queue import SendQueue
from .session import NOT_CONNECTED, VERSION, Session, SessionReceiver
from .states import SessionInput, SessionState

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

    __slots__ = ("_answer_timer", "_gen", "_silences", "_token")

    greeting = Welcome

    def __init__(
        self,
        settings: Settings,
        loop: Scheduler,
        receiver: SessionReceiver,
        queue: SendQueue,
        *,
        ending: CloseInfo = NOT_CONNECTED,
    ) -> None:
        super().__init__(settings, loop, receiver, queue, ending=ending)
        self._token = ""
        """The secret that proves that the session is this side's."""
        self._gen = 0
        """Number of attempts to resume, which the server compares with the last one that it has seen."""
        self._silences = 0
        """Connections in a row on which a resume got no answer."""
        self._answer_timer: Timer | None = None
        """Ends an attempt to resume that gets no answer."""

    def begin(self, connection: Connection, *, can_resume: bool) -> None:
        """Say hello before anything else. Do not wait for an answer: a plain peer sends none."""
        super().begin(connection, can_resume=can_resume)
        # Where another session has asked to resume, that was in place of a hello.
        self._features = connection.offered
        if self._settings.extensions and self._features is None:
            self.say(Hello(VERSION, self.offer(), announce(self.limits)))

    def binary_is_free(self) -> bool:
        # After it has offered MessagePack, it does not know when the remote peer begins to decode binary messages.
        if self.state is SessionState.NEW:
            return not self._wants_msgpack
        return super().binary_is_free() if self.negotiated else MSGPACK not in self.offer()

    def _greeted(self, message: Welcome) -> None:
        if self.limits is not self._settings.limits:  # they have changed since the hello
            self.say(Changed(announce(self.limits)))
        self._agree(message.limits)
        if message.sid and RESUME in self.common:
            self.sid, self._token, self.ttl = message.sid, message.token, message.ttl
            self.say(Ack(0, 0))
            self._count_sent()
            self._count_received()

    # ------------------------------------------------------------ on another connection

    def ask_to_resume(self, connection: Connection) -> None:
        """Ask the server to resume the session on ``connection``. Nothing else is sent there until it has answered."""
        assert self.received is not None
        self._move(SessionInput.ASKED)
        self._gen += 1
        self.asking = connection
        connection.owner = self
        self._answer_timer = self._loop.call_at(
            self._loop.time() + ANSWER_TIMEOUT, partial(self._unanswered, connection)
        )
        # If the server refuses, it takes these for the hello of the next session.
        offer = connection.offered = self._new_offer()
        limits, received = announce(self._settings.limits), self.received
        asked = Resume(VERSION, offer, limits, self.sid, self._token, self._gen, received.n, received.bytes)
        connection.start(partial(self._answered, connection), ignore_end)
        with suppress(ConnectionLost):  # the connection reports that itself
            connection.send(write_control(asked), True)

    def _answered(self, connection: Connection, payload: bytes | bytearray, text: bool, /) -> None:
        if self.asking is not connection:
            return
        answer = read_control(payload) if text else None
        if isinstance(answer, Resumed):
            self._token, self._silences = answer.token, 0
            self._reattach(connection, answer.rx, answer.bytes, answer.limits)
            return
        self.asking = None
        connection.disown()
        if isinstance(answer, Gone):
            self._end_detached(
                SessionInput.REFUSED, GONE.get(answer.why, f"the server refuses it: {short(answer.why)}")
            )
            self._receiver.session_refused(connection, None)
        else:
            self._end_detached(SessionInput.REFUSED, "the server did not resume it")
            self._receiver.session_refused(connection, (payload, text))

    def _announce_changes(self) -> None:
        if self.limits is not self._settings.limits:  # the resume had those of a hello
            self.say(Changed(announce(self.limits)))

    def _unanswered(self, connection: Connection) -> None:
        if self.asking is connection:
            self._silences += 1
            self._failed(connection, CloseInfo(CloseCode.ABNORMAL, "no response to a resume"))

    def connection_lost(self, connection: Connection, info: CloseInfo) -> None:
        """Go on without a connection, or end, because the connection has ended."""
        if connection is self.asking:
            self._failed(connection, info)
        else:
            super().connection_lost(connection, info)

    def _failed(self, connection: Connection, info: CloseInfo) -> None:
        """Wait for another connection: this one has ended before the server has answered."""
        if self._silences >= MOST_SILENCES:
            self._end_detached(SessionInput.REFUSED, "the server does not answer")
            return
        if info.code >= 3000 and info.code not in GOES_ON:  # the server has closed the session meanwhile
            self.ending = info
        self.asking = None
        connection.disown()
        connection.transport.abort()
        self._stop_answer_timer()
        self._move(SessionInput.CUT)
        self._receiver.session_detached(info, False)

    # ------------------------------------------------------------ the end

    def close_soon(self, info: CloseInfo) -> None:
        """Tell the server that the session ends with its connection, and let nothing in from now on.

        Some ASGI servers do not tell it of Close frames, and it would keep the session for a client that has left.
        """
        connection = self._connection
        if connection is not None and self.sent is not None and not (self.ends_with_connection or self.closing):
            with suppress(ConnectionLost):  # the connection reports that itself
                connection.send(write_control(Gone("closed")), True)
        super().close_soon(info)

    def _stop_timers(self) -> None:
        super()._stop_timers()
        self._stop_answer_timer()

    def _stop_answer_timer(self) -> None:
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None
