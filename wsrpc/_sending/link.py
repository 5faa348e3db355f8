"""`Link`: one connection of a peer, made with it and thrown away with it."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import cast

from .._base.closing import CloseInfo
from .._handlers.context import Invocation
from .._handlers.lifecycle import OpenPhase
from ..transport import ConnectionInfo, Receiver, Traffic, Transport
from .negotiation import Negotiation
from .slow_readers import SlowReaderQueue

__all__ = ["TRANSITIONS", "HoldingTransport", "Link", "LinkState"]


class LinkState(Enum):
    """How far a connection is."""

    __hash__ = object.__hash__  # that of Enum is a Python function

    OPENING = "opening"
    """`open` and `on_reconnect` handlers run, and what arrives meanwhile waits."""
    OPEN = "open"
    BROKEN = "broken"
    """The transport has refused a message: the connection has ended, and is about to say so."""
    CLOSING = "closing"
    """A Close frame is on its way: ours, or one that answers a violation of the protocol."""
    LOST = "lost"


TRANSITIONS: dict[LinkState, frozenset[LinkState]] = {
    LinkState.OPENING: frozenset({LinkState.OPEN, LinkState.BROKEN, LinkState.CLOSING, LinkState.LOST}),
    LinkState.OPEN: frozenset({LinkState.BROKEN, LinkState.CLOSING, LinkState.LOST}),
    LinkState.BROKEN: frozenset({LinkState.CLOSING, LinkState.LOST}),
    LinkState.CLOSING: frozenset({LinkState.LOST}),
    LinkState.LOST: frozenset(),
}


class Link:
    """One connection: its transport, how far it is, what was negotiated on it, and whether it has room.

    It is the transport's receiver. `start` lets messages in; after `end` nothing that the transport still delivers
    reaches the peer.

    Args:
        room_changed: called when the transport rises above its high-water mark, and when it has drained.
        lost: called once with the link, when its connection has ended.
    """

    __slots__ = (
        "_lost",
        "_room_changed",
        "contexts",
        "full",
        "negotiation",
        "opening",
        "overdue",
        "read_ended",
        "receive",
        "send",
        "silent",
        "slow_reader",
        "state",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        negotiation: Negotiation,
        room_changed: Callable[[], None],
        lost: Callable[[Link, CloseInfo], None],
    ) -> None:
        self.transport = transport
        self.send: Callable[[bytes, bool], None] = transport.send
        self.receive: Callable[[bytes | bytearray, bool], None] = _ignore_message
        self.read_ended: Callable[[], None] = _ignore
        self.state = LinkState.OPENING
        self.full = False
        """The transport holds more unsent bytes than its high-water mark."""
        self.overdue = False
        """It has been full for as long as a broadcast waits, and has not drained since."""
        self.silent = False
        """The remote peer is about to close: what is begun anew waits for another connection."""
        self.slow_reader: SlowReaderQueue | None = None
        """Broadcasts that wait while it is full. Most connections never need one."""
        self.opening: OpenPhase | None = None
        """The handlers that run while it opens."""
        self.contexts: tuple[Invocation, ...] = ()
        """The contexts of those handlers: what is sent within them leaves at once."""
        self._room_changed = room_changed
        self._lost = lost
        self.negotiation = negotiation

    def start(self, receive: Callable[[bytes | bytearray, bool], None], read_ended: Callable[[], None]) -> None:
        """Let messages in; what arrived before is delivered within this call."""
        self.receive, self.read_ended = receive, read_ended
        self.transport.start(cast("Receiver", self))  # pyright takes the bound callables for methods

    def stop_receiving(self) -> None:
        """Ignore all further messages; signals and the end of the connection are still noticed."""
        self.receive = _ignore_message

    def move(self, state: LinkState) -> None:
        """Enter ``state``."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(f"a connection cannot go from {self.state.value} to {state.value}")
        self.state = state

    @property
    def works(self) -> bool:
        """Whether messages can still be sent."""
        return self.state is LinkState.OPEN or self.state is LinkState.OPENING

    @property
    def traffic(self) -> Traffic | None:
        """What the transport has carried, if it counts that."""
        return getattr(self.transport, "traffic", None)

    # ------------------------------------------------------------ what the transport says

    def pause_sending(self) -> None:
        """The transport holds more unsent bytes than its high-water mark."""
        if self.state is not LinkState.LOST:
            self.full = True
            self._room_changed()

    def resume_sending(self) -> None:
        """The transport has drained."""
        if self.state is LinkState.LOST:
            return
        self.full = False
        if self.slow_reader is not None:
            self.slow_reader.flush()
            if self.full:  # again, by what waited
                return
        self.overdue = False
        self._room_changed()

    def connection_lost(self, info: CloseInfo, /) -> None:
        """The connection has ended."""
        if self.state is not LinkState.LOST:
            self._lost(self, info)

    def end(self) -> None:
        """Let nothing more through to the peer: the connection is over, or another one has taken its place."""
        self.move(LinkState.LOST)
        self.receive, self.read_ended = _ignore_message, _ignore

    def __repr__(self) -> str:
        return f"<Link {self.state.value}{' full' if self.full else ''}{' silent' if self.silent else ''}>"


class HoldingTransport:
    """Stands in for a connection: what is sent is kept, in order, and sent on the session's next link."""

    def __init__(self, info: ConnectionInfo) -> None:
        self.info = info
        self.largest = 0
        self.held: list[tuple[bytes, bool]] = []

    @property
    def unsent(self) -> int:
        """Bytes that are held."""
        return sum(len(payload) for payload, _ in self.held)

    def start(self, receiver: Receiver, /) -> None:
        """Nothing arrives here."""

    def send(self, payload: bytes, text: bool = True, /) -> None:
        """Keep a message."""
        self.held.append((payload, text))

    def flush(self) -> None:
        """Nothing can be written yet."""

    async def drain(self) -> None:
        """Nothing is ever full here."""

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """There is no connection to close."""

    def abort(self) -> None:
        """There is no connection to drop."""

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        """Pieces are for raw connections, which have no session."""
        raise AssertionError("a session sends whole messages")

    def pause_receiving(self) -> None:
        """Nothing arrives here."""

    def resume_receiving(self) -> None:
        """Nothing arrives here."""


def _ignore_message(payload: bytes | bytearray, text: bool, /) -> None:
    """A message that came before the link was started, or after it has ended."""


def _ignore() -> None:
    """The end of a read that nobody waits for."""
