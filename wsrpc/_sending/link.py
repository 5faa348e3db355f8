"""`Link`: one connection of a peer. It is made for a transport, and dropped when the connection ends."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol, cast

from .._base.closing import CloseInfo
from .._handlers.invocation import Invocation
from .._handlers.lifecycle import OpenPhase
from .._resuming.ledger import ReplayBuffer
from ..transport import Receiver, Traffic, Transport
from .negotiation import Negotiation
from .slow_readers import SlowReaderQueue

__all__ = ["TRANSITIONS", "Link", "LinkListener", "LinkState"]

Send = Callable[[bytes, bool], None]
"""Hands a message to the transport, and says whether it is text."""
Receive = Callable[[bytes | bytearray, bool], None]


class LinkState(Enum):
    """State of a connection."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    OPENING = "opening"
    """`open` and `on_reconnect` handlers run. Messages that arrive meanwhile wait."""
    RESUMING = "resuming"
    """This side, which dialed, has asked to go on with its session, and waits for the answer."""
    OPEN = "open"
    BROKEN = "broken"
    """The transport has refused a message: the connection has ended, and the transport is about to say so."""
    CLOSING = "closing"
    """A closing handshake was begun on this side, by the user or because of a protocol error."""
    LOST = "lost"
    DETACHED = "detached"
    """There is no connection. What the session sends waits for the next one."""


TRANSITIONS: dict[LinkState, frozenset[LinkState]] = {
    LinkState.OPENING: frozenset(
        {LinkState.OPEN, LinkState.RESUMING, LinkState.BROKEN, LinkState.CLOSING, LinkState.LOST, LinkState.DETACHED}
    ),
    LinkState.RESUMING: frozenset({LinkState.OPENING, LinkState.OPEN, LinkState.CLOSING, LinkState.LOST}),
    LinkState.OPEN: frozenset({LinkState.BROKEN, LinkState.CLOSING, LinkState.LOST}),
    LinkState.BROKEN: frozenset({LinkState.CLOSING, LinkState.LOST}),
    LinkState.CLOSING: frozenset({LinkState.LOST}),
    LinkState.LOST: frozenset(),
    LinkState.DETACHED: frozenset({LinkState.LOST}),
}


class LinkListener(Protocol):
    """The peer that a link belongs to. Implemented by `PeerCore`."""

    def room_changed(self) -> None:
        """The link has become full, or has room again."""

    def link_lost(self, link: Link, info: CloseInfo, /) -> None:
        """The connection has ended. Called once."""


class Link:
    """One connection: its transport, its state, what was negotiated on it, and whether it has room.

    It is the transport's receiver. `start` lets messages in. After `end` no message reaches the peer any more.
    """

    __slots__ = (
        "_listener",
        "contexts",
        "crowded",
        "full",
        "negotiation",
        "opening",
        "overdue",
        "read_ended",
        "receive",
        "send",
        "send_kept_back",
        "sent",
        "slow_reader",
        "state",
        "transport",
    )

    def __init__(self, transport: Transport, negotiation: Negotiation, listener: LinkListener) -> None:
        self.transport = transport
        self.send: Send = transport.send
        self.send_kept_back: Callable[[], None] = _ignore
        """Sends what is kept back, see `precede`."""
        self.receive: Receive = _ignore_message
        self.read_ended: Callable[[], None] = _ignore
        self.state = LinkState.OPENING
        self.crowded = False
        """The transport holds more unsent bytes than its high-water mark."""
        self.sent: ReplayBuffer | None = None
        """What was sent in the session, and may be sent again on another link. None if the session cannot resume."""
        self.full = False
        """It is crowded, or keeps as many messages for the session as it may."""
        self.overdue = False
        """A broadcast has waited for it as long as broadcasts do, and it has not drained since."""
        self.slow_reader: SlowReaderQueue | None = None
        """Broadcasts that wait while it is full. Most connections never need one."""
        self.opening: OpenPhase | None = None
        """The handlers that run while it opens."""
        self.contexts: tuple[Invocation, ...] = ()
        """The contexts of those handlers: messages that are sent within them leave at once."""
        self._listener = listener
        self.negotiation = negotiation

    def start(self, receive: Receive, read_ended: Callable[[], None]) -> None:
        """Let messages in, unless this side closes. Those that arrived before are delivered within this call."""
        self.go_on(receive, read_ended)
        self.transport.start(cast("Receiver", self))  # pyright takes the bound callables for methods

    def keep(self, sent: ReplayBuffer) -> None:
        """Count what is sent from now on, and keep it until it has arrived."""
        self.sent = sent
        self.send = sent.through(self.send)
        tell: Callable[[], None] | None = getattr(self.transport, "session_survives", None)
        if tell is not None:
            tell()
        self.look_for_room()

    def wrap_receiving(self, wrap: Callable[[Receive], Receive]) -> None:
        """Receive through ``wrap(receive)`` from now on."""
        self.receive = wrap(self.receive)

    def keep_no_more(self) -> None:
        """Neither count nor keep what is sent: the session cannot go on over another connection any more."""
        if self.sent is not None:
            self.send = self.sent.write
            self.sent = None
            self.look_for_room()

    def replace(self, previous: Link) -> None:
        """Go on with what ``previous``, the last link of the same session, has left: what was negotiated and waits."""
        self.negotiation = previous.negotiation
        self.sent = previous.sent
        self.slow_reader = previous.slow_reader
        self.opening, self.contexts = previous.opening, previous.contexts

    def go_on(self, receive: Receive, read_ended: Callable[[], None]) -> None:
        """Let messages in on a transport that was started before, while the session resumed."""
        if self.state is not LinkState.CLOSING:
            self.receive, self.read_ended = receive, read_ended

    def stop_receiving(self) -> None:
        """Ignore all further messages. The other callbacks of the transport still work."""
        self.receive = _ignore_message

    def wrap_sending(self, wrap: Callable[[Send], Send]) -> None:
        """Send through ``wrap(send)`` from now on. Only before anything is sent."""
        self.send = wrap(self.send)

    def precede(self, first: Callable[[], None]) -> Callable[[], None]:
        """Call ``first`` before each message that is sent from now on. Return a function that ends this.

        For code that runs while something is kept back that has to leave before what that code sends, and before that
        code ends a channel or the connection, where `send_kept_back` is called. That code may use it, too, and ends it
        first.
        """
        send, send_kept_back = self.send, self.send_kept_back

        def send_first() -> None:
            send_kept_back()
            self.send = send
            try:
                first()
            finally:
                self.send = send_after

        def send_after(payload: bytes, text: bool = True, /) -> None:
            self.send = send
            try:
                first()
                self.send(payload, text)
            finally:
                self.send = send_after

        def end() -> None:
            if self.send is send_after:
                self.send, self.send_kept_back = send, send_kept_back

        self.send, self.send_kept_back = send_after, send_first
        return end

    def enter(self, context: Invocation) -> None:
        """Begin a stage of the opening: messages that are sent in ``context`` leave at once."""
        self.contexts = (*self.contexts, context)

    def open_slowly(self, phase: OpenPhase) -> None:
        """Stay in the state OPENING until ``phase`` is over: some handlers take time."""
        self.opening = phase
        phase.start()

    def opened(self) -> None:
        """End the opening: all messages may be sent now, or on the next connection of the session."""
        self.contexts = ()
        if self.state is LinkState.OPENING:
            self.move(LinkState.OPEN)

    def hold_broadcasts(self, queue: Callable[[], SlowReaderQueue]) -> SlowReaderQueue:
        """Return the queue of the broadcasts that wait until there is room; ``queue()`` makes it for the first one."""
        if self.slow_reader is None:
            self.slow_reader = queue()
        return self.slow_reader

    def move(self, state: LinkState) -> None:
        """Enter ``state``."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"a connection cannot go from {self.state.value} to {state.value}")
        self.state = state

    @property
    def works(self) -> bool:
        """Whether messages can still be sent, or wait for the next connection of the session."""
        state = self.state
        return state is LinkState.OPEN or state is LinkState.OPENING or state is LinkState.DETACHED

    def note_overdue(self) -> None:
        """Note that a broadcast has waited for the transport to drain; see ``overdue``."""
        self.overdue = self.full

    @property
    def traffic(self) -> Traffic | None:
        """The traffic that the transport has counted. None if it does not count."""
        return getattr(self.transport, "traffic", None)

    @property
    def silent(self) -> bool:
        """Whether the remote peer is about to close: new requests and events wait for another connection."""
        return self.negotiation.silent

    @property
    def resumable(self) -> bool:
        """Whether the session may go on over another connection. A dead one is then dropped without a Close frame."""
        return self.sent is not None

    async def drain(self) -> None:
        """Wait until there is room, or the connection has ended. Cancelling is safe."""
        await self.transport.drain()
        if self.sent is not None:
            await self.sent.drain()

    def look_for_room(self) -> None:
        """Find out whether there is room, because something that this depends on has changed."""
        if self.crowded or (self.sent is not None and self.sent.full):
            if not self.full:
                self.full = True
                self._listener.room_changed()
            return
        if not self.full:
            return
        self.full = False
        if self.slow_reader is not None:
            self.slow_reader.flush()
            if self.full:  # again, because of the broadcasts that waited
                return
        self.overdue = False
        self._listener.room_changed()

    # ------------------------------------------------------------ callbacks of the transport

    def pause_sending(self) -> None:
        """Note that the transport holds more unsent bytes than its high-water mark."""
        if self.state is not LinkState.LOST:
            self.crowded = True
            self.look_for_room()

    def resume_sending(self) -> None:
        """Go on, because the transport has drained."""
        if self.state is not LinkState.LOST:
            self.crowded = False
            self.look_for_room()

    def connection_lost(self, info: CloseInfo, /) -> None:
        """Report that the connection has ended."""
        if self.state is not LinkState.LOST:
            self._listener.link_lost(self, info)

    def end(self) -> None:
        """Pass nothing more to the peer: the connection has ended, or was replaced by another one."""
        self.move(LinkState.LOST)
        self.receive, self.read_ended = _ignore_message, _ignore

    def __repr__(self) -> str:
        return f"<Link {self.state.value}{' full' if self.full else ''}{' silent' if self.silent else ''}>"


def _ignore_message(payload: bytes | bytearray, text: bool, /) -> None:
    """Ignore a message that came before the link was started, or after it has ended."""


def _ignore() -> None:
    """Ignore the end of a read: nothing waits for it."""
