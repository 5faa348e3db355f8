"""`Resumption`: how one session goes on over another connection."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple, Protocol

from .._base.closing import CloseCode, CloseInfo
from .._base.logs import PeerLog
from .._base.scheduler import Timer
from .._protocol.control import Ack, Announced, Gone, Resumed, read_control, write_control
from .._resuming.detached import DetachedTransport
from .._resuming.ledger import Acknowledger, Mismatch, ReplayBuffer
from .._sending.link import Link, LinkListener, LinkState
from .._sending.outbound import Outbound
from ..errors import ConnectionLost, short
from ..limits import Limits
from .session import Session, SessionInput

__all__ = ["Resumption", "ResumptionListener", "SessionName"]

ANSWER_TIMEOUT = 5.0
"""Seconds in which the server answers that the session goes on, or that it is gone."""
MOST_SILENCES = 2
"""Connections in a row without an answer after which it is no wsrpc server any more. One may have been dead."""
GONE = {
    "expired": "the server has no such session any more",
    "auth": "the connection has another principal than the session",
    "elsewhere": "it is a session of another server process",
}
"""What a client's `SessionLost` says for each reason of a `Gone`."""


class SessionName(NamedTuple):
    """What a server tells its client about a session that can resume."""

    sid: str
    token: str
    """The secret with which the client resumes the session."""
    ttl: float
    """Seconds that the session lives without a connection."""


class ResumptionListener(LinkListener, Protocol):
    """The peer whose session goes on. Implemented by `PeerCore`."""

    log: PeerLog

    def fail(self, code: int, reason: str, /) -> None:
        """End the connection because of the remote peer."""

    def recount(self) -> None:
        """The session, which has no connection, takes more memory, or less."""

    def receiver_of(self, link: Link, /) -> Callable[[bytes | bytearray, bool], None]:
        """Return what receives the messages of ``link``, the next connection of the session."""
        ...

    def connected(self, link: Link, /) -> None:
        """``link`` is the present connection."""

    def disconnected(self, link: Link, /) -> None:
        """``link`` is the present connection no more: let nothing through that it still delivers."""

    def close_transport(self, link: Link, code: int, reason: str = "", /) -> None:
        """Begin to close the transport of ``link``, which is not the present connection."""

    def session_resumed(self, link: Link, receive: Callable[[bytes | bytearray, bool], None], asked: bool, /) -> None:
        """The session goes on over ``link``. Let messages in.

        Args:
            receive: receives them.
            asked: whether the transport was started before, to ask.
        """

    def session_detached(self, info: CloseInfo, /) -> None:
        """The session waits for another connection, because the last one has ended."""

    def session_lost(self, happened: SessionInput, info: CloseInfo, why: str, /) -> None:
        """The session is over, and had no connection. ``info``: how its last one has ended."""

    def session_refused(self, link: Link, why: str, first: tuple[bytes | bytearray, bool] | None, /) -> None:
        """The session is over: the server does not go on with it on ``link``. See `PeerOwner.not_resumed`."""


class Resumption:
    """Going on of one session: its name, what it has sent and received, and the way to another connection.

    Both sides make one when the session is named, in the server's welcome. Then both count their messages; when both
    do, the session can go on. This is the way:

    1. The connection drops: `detach`. The session sends on a stand-in for a link, where everything waits.
    2. The client dials, and asks on the new connection: `ask`. The server ends a connection that it still has: `fence`.
    3. Each side sends again what has not arrived, then what has waited: `go_on`. Or the session is over, and the
       listener is told why.

    Args:
        name: the client proves with the token that the session is its own. The server keeps hashes elsewhere.
    """

    __slots__ = (
        "_answer_timer",
        "_expiry_timer",
        "_limits",
        "_listener",
        "_out",
        "_session",
        "_silences",
        "_stall_timer",
        "asking",
        "complete",
        "gen",
        "given_up",
        "name",
        "received",
        "sent",
    )

    def __init__(
        self, name: SessionName, session: Session, out: Outbound, limits: Limits, listener: ResumptionListener
    ) -> None:
        self.name = name
        self._session = session
        self._out = out
        self._limits = limits
        self._listener = listener
        self.sent = ReplayBuffer(limits, self._room_changed, self._overflowed)
        self.received = Acknowledger(out.loop, self._tell, self._writes_soon)
        self.complete = False
        """Whether both sides count, so that the session can go on over another connection."""
        self.given_up = False
        """Whether the session ends with its connection: too much was sent to keep, or the client is about to close."""
        self.gen = 0
        """Number of attempts to resume, which the server compares with the last one that it has seen."""
        self.asking: Link | None = None
        """The link on which the client waits for the answer to its resume."""
        self._silences = 0
        """Connections in a row on which a resume got no answer."""
        self._answer_timer: Timer | None = None
        """Ends an attempt to resume that gets no answer."""
        self._stall_timer: Timer | None = None
        """Looks whether anything is acknowledged, while as much is kept as may be."""
        self._expiry_timer: Timer | None = None
        """Ends the session if it has no connection for too long."""

    # ------------------------------------------------------------ counting

    def count_sent(self) -> None:
        """Count what is sent from now on."""
        assert self._session.link is not None
        self._session.link.keep(self.sent)

    def count_received(self) -> None:
        """Count what is received from now on. The remote peer counts it, too."""
        assert self._session.link is not None
        self.complete = True
        self._session.link.wrap_receiving(self.received.through)

    def uncounted(self, size: int) -> None:
        """Take back the counting of a control message of ``size`` bytes that is being received."""
        if self.complete:
            self.received.leave_out(size)

    def acknowledged(self, ack: Ack, size: int) -> bool:
        """Throw away what has arrived. The first `Ack` of a client says that it counts.

        Args:
            size: bytes of the control message, which is not counted.

        Returns:
            False if the message makes no sense.
        """
        if self._session.link is None:
            return False
        if not self.complete:
            if ack != Ack(0, 0):
                return False
            self.count_received()
            return True
        self.received.leave_out(size)
        if not self.given_up:
            try:
                self.sent.acknowledge(ack.n, ack.bytes)
            except Mismatch as exc:
                self._listener.fail(CloseCode.ACCOUNTING, str(exc))
        return True

    def _tell(self, ack: bytes) -> None:
        if self._session.link is not None:
            with suppress(ConnectionLost):  # the link reports that itself
                self.sent.write(ack, True)

    def _writes_soon(self) -> bool:
        link = self._session.link
        return link is not None and link.transport.unsent > 0

    def _room_changed(self) -> None:
        if self._out.link is not None:
            self._out.link.look_for_room()
        if self._session.link is not None:
            self._watch(self._session.link.negotiation.limits.stall)

    def _watch(self, seconds: float) -> None:
        """Close the connection if the most is kept that may be, and nothing is acknowledged for so long."""
        _cancel(self._stall_timer)
        self._stall_timer = None
        if not self.sent.full:
            return
        arrived = self.sent.arrived

        def look() -> None:
            if self.sent.arrived == arrived:
                self._listener.fail(CloseCode.SLOW_CONSUMER, f"nothing was acknowledged for {seconds:g} s")
            else:
                self._watch(seconds)

        self._stall_timer = self._out.loop.call_at(self._out.loop.time() + seconds, look)

    def _overflowed(self) -> None:
        """Let the session end with its connection: more is sent that cannot wait than may be kept."""
        link = self._session.link
        if link is not None:
            self._listener.log.warn(
                "has not acknowledged %d bytes (Limits.replay and hard_cap): its session will end with this connection",
                self.sent.size,
            )
            self.give_up()

    def give_up(self) -> None:
        """Let the session end with its connection: from now on what is sent is neither counted nor kept."""
        link = self._session.link
        if link is not None and not self.given_up:
            self.given_up = True
            link.keep_no_more()
            self.sent.forget()

    def say_closed(self) -> None:
        """Tell the server that the session ends with its connection."""
        if self._session.link is not None and not self.given_up:
            with suppress(ConnectionLost):  # the link reports that itself
                self.sent.write(write_control(Gone("closed")), True)

    # ------------------------------------------------------------ without a connection

    def detach(self, link: Link, info: CloseInfo) -> None:
        """Let what the session sends wait: ``link`` has ended, as ``info`` says. The time begins that it may take."""
        out, loop = self._out, self._out.loop
        self._session.detach()
        self.received.stop()
        transport = DetachedTransport(
            link.transport.info,
            self._limits.replay,
            loop,
            keep=out.offline_queue().keep_for_session,
            kept=self._kept,
            recount=self._listener.recount,
        )
        stand_in = Link(transport, link.negotiation, self._listener)
        stand_in.move(LinkState.DETACHED)
        stand_in.replace(link)
        out.will_end(info)
        out.detach(stand_in)
        stand_in.start(link.receive, link.read_ended)
        if stand_in.slow_reader is not None:
            stand_in.slow_reader.flush()
        self._listener.room_changed()
        _cancel(self._expiry_timer)
        self._expiry_timer = loop.call_at(loop.time() + self.name.ttl, self._expired)

    def _kept(self) -> int:
        return self._out.kept_for_session

    def _expired(self) -> None:
        self._listener.session_lost(SessionInput.EXPIRED, self._out.ending, "no connection resumed it in time")

    def fence(self) -> None:
        """End the present connection, if there is one: the session goes on over another one.

        Whatever the old one still delivers changes nothing any more.
        """
        link = self._session.link
        if link is not None:
            info = CloseInfo(CloseCode.FENCED, "the session goes on over another connection")
            self._listener.disconnected(link)
            self.detach(link, info)
            self._listener.close_transport(link, info.code, info.reason)

    def end(self, stand_in: Link) -> None:
        """Stop everything, because the session is over. Close the connection on which it was to resume."""
        self.stop()
        self._let_go(stand_in)
        if self.asking is not None:
            self.asking.end()
            self._listener.close_transport(self.asking, CloseCode.GOING_AWAY)

    def stop(self) -> None:
        """Stop the timers: there is another connection, or the session is over."""
        self.received.stop()
        for timer in (self._answer_timer, self._stall_timer, self._expiry_timer):
            _cancel(timer)
        self._answer_timer = self._stall_timer = self._expiry_timer = None

    def _let_go(self, stand_in: Link) -> None:
        stand_in.end()
        if isinstance(stand_in.transport, DetachedTransport):
            stand_in.transport.end()

    # ------------------------------------------------------------ on another connection

    def ask(self, link: Link) -> None:
        """Ask the server to go on with the session on ``link``. Nothing else is sent there until it has answered."""
        self._session.move(SessionInput.ASKED)
        link.move(LinkState.RESUMING)
        self.gen += 1
        self.asking = link
        loop = self._out.loop
        _cancel(self._answer_timer)
        self._answer_timer = loop.call_at(loop.time() + ANSWER_TIMEOUT, partial(self._unanswered, link))
        sid, token, _ = self.name
        asked = link.negotiation.resume(sid, token, self.gen, self.received.n, self.received.bytes)
        link.start(partial(self._answered, link), lambda: None)
        with suppress(ConnectionLost):  # the link reports that itself
            link.send(write_control(asked), True)

    def _unanswered(self, link: Link) -> None:
        if self.asking is link:
            self._silences += 1
            self.failed(link, CloseInfo(CloseCode.ABNORMAL, "no answer to a resume"))

    def _answered(self, link: Link, payload: bytes | bytearray, text: bool, /) -> None:
        if self.asking is not link:
            return
        answer = read_control(payload) if text else None
        if isinstance(answer, Resumed):
            self.name = self.name._replace(token=answer.token)
            self.go_on(link, answer.rx, answer.bytes, answer.limits)
            return
        self.asking = None
        link.stop_receiving()
        if isinstance(answer, Gone):
            why = GONE.get(answer.why, f"the server refuses it: {short(answer.why)}")
            self._listener.session_refused(link, why, None)
        else:
            self._listener.session_refused(link, "the server did not resume it", (payload, text))

    def failed(self, link: Link, info: CloseInfo) -> None:
        """Wait for another connection: ``link`` has ended before the server has answered."""
        if self._silences >= MOST_SILENCES:
            self._listener.session_lost(SessionInput.REFUSED, self._out.ending, "the server does not answer")
            return
        self.asking = None
        link.end()
        link.transport.abort()
        self._session.move(SessionInput.CUT)
        self._listener.session_detached(info)

    def go_on(self, link: Link, rx: int, size: int, limits: Announced) -> None:
        """Go on with the session on ``link``, whose remote peer has received ``rx`` messages of ``size`` bytes."""
        session, out, stand_in = self._session, self._out, self._out.link
        assert stand_in is not None
        code, why = CloseCode.INVALID_DATA, limits.objection()
        if why is None:
            try:
                self.sent.acknowledge(rx, size)
            except Mismatch as exc:
                code, why = CloseCode.ACCOUNTING, str(exc)
        if why is not None:
            self._listener.log(logging.WARNING, "closing the connection with %d: %s", code, why)
            self._listener.close_transport(link, code, why)
            self._listener.session_lost(SessionInput.ENDED, out.ending, why)
            return
        self.stop()
        self.asking = None
        self._silences = 0
        self.received.note_told()
        asked = link.state is LinkState.RESUMING
        link.replace(stand_in)
        if link.opening is None:
            link.move(LinkState.OPEN)
        elif asked:
            link.move(LinkState.OPENING)
        receive = self.received.through(self._listener.receiver_of(link))
        for payload, text in self.sent.again():
            with suppress(ConnectionLost):  # the link reports that itself, and another one gets them
                link.send(payload, text)
        link.keep(self.sent)
        session.attach(link, SessionInput.RESUMED)
        self._let_go(stand_in)
        self._listener.connected(link)
        out.use(link)
        out.agree_limits(limits)
        with suppress(ConnectionLost):
            out.flush_offline(of_session_only=link.opening is not None)
        if link.slow_reader is not None and not link.full:
            link.slow_reader.flush()
        if asked:
            link.negotiation.resumed()
        out.update_clear()
        self._listener.room_changed()
        self._listener.session_resumed(link, receive, asked)


def _cancel(timer: Timer | None) -> None:
    """Cancel a timer, if there is one."""
    if timer is not None:
        timer.cancel()
