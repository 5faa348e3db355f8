"""`Link`: one session of a peer. It is made with the session, and dropped with it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from .._handlers.invocation import Invocation
from .._handlers.lifecycle import OpenPhase
from .._session.session import Session
from .draining import Draining
from .slow_readers import SlowReaderQueue

__all__ = ["TRANSITIONS", "Link", "LinkState"]


class LinkState(Enum):
    """State of a link."""

    __hash__ = object.__hash__  # that of Enum is a Python function, and the table is asked often

    OPENING = "opening"
    """`open` and `on_reconnect` handlers run. Messages that arrive meanwhile wait."""
    OPEN = "open"
    CLOSING = "closing"
    """A closing handshake was begun on this side, by the user or because of a protocol error."""
    LOST = "lost"


TRANSITIONS: dict[LinkState, frozenset[LinkState]] = {
    LinkState.OPENING: frozenset({LinkState.OPEN, LinkState.CLOSING, LinkState.LOST}),
    LinkState.OPEN: frozenset({LinkState.CLOSING, LinkState.LOST}),
    LinkState.CLOSING: frozenset({LinkState.LOST}),
    LinkState.LOST: frozenset(),
}


class Link:
    """One session: how far it has opened or closed, what the handlers of its opening are, and who reads slowly."""

    __slots__ = (
        "contexts",
        "draining",
        "opening",
        "overdue",
        "send_kept_back",
        "session",
        "slow_reader",
        "state",
    )

    def __init__(self, session: Session, draining: Draining) -> None:
        self.session = session
        self.draining = draining
        self.send_kept_back: Callable[[], None] = _nothing
        """Sends what is kept back, see `precede`."""
        self.state = LinkState.OPENING
        self.overdue = False
        """A broadcast has waited for it as long as broadcasts do, and it has not drained since."""
        self.slow_reader: SlowReaderQueue | None = None
        """Broadcasts that wait while the session is full. Most sessions never need one."""
        self.opening: OpenPhase | None = None
        """The handlers that run while it opens."""
        self.contexts: tuple[Invocation, ...] = ()
        """The contexts of those handlers: messages that are sent within them leave at once."""

    def precede(self, first: Callable[[], None]) -> Callable[[], None]:
        """Call ``first`` before each message that is sent from now on. Return a function that ends this.

        For code that runs while something is kept back that has to leave before what that code sends, and before that
        code ends a channel or the session, where `send_kept_back` is called. That code may use it, too, and ends it
        first.
        """
        session = self.session
        send, send_kept_back = session.send, self.send_kept_back

        def send_first() -> None:
            send_kept_back()
            session.send = send
            try:
                first()
            finally:
                session.send = send_after

        def send_after(payload: bytes, text: bool = True, /) -> object:
            session.send = send
            try:
                first()
                return session.send(payload, text)
            finally:
                session.send = send_after

        def end() -> None:
            if session.send is send_after:
                session.send, self.send_kept_back = send, send_kept_back

        session.send, self.send_kept_back = send_after, send_first
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
            raise AssertionError(f"a session cannot go from {self.state.value} to {state.value}")
        self.state = state

    @property
    def works(self) -> bool:
        """Whether messages can still be sent, or wait for the next connection of the session."""
        session = self.session
        lives = self.state is LinkState.OPEN or self.state is LinkState.OPENING
        return lives and (session.connection is not None or session.resumable)

    @property
    def silent(self) -> bool:
        """Whether the remote peer is about to close: new requests and events wait for another session."""
        return self.draining.silent

    def note_overdue(self) -> None:
        """Note that a broadcast has waited for the connection to drain; see ``overdue``."""
        self.overdue = self.session.full

    async def drain(self) -> None:
        """Wait until there is room, or the session has ended. Cancelling is safe."""
        await self.session.drain()

    def room_changed(self) -> bool:
        """Send broadcasts that waited, if there is room. Return False if they have used it up."""
        if self.session.full:
            return True
        if self.slow_reader is not None:
            self.slow_reader.flush()
            if self.session.full:
                return False
        self.overdue = False
        return True

    def __repr__(self) -> str:
        return f"<Link {self.state.value}{' full' if self.session.full else ''}{' silent' if self.silent else ''}>"


def _nothing() -> None:
    """Send nothing: nothing is kept back."""
