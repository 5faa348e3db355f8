"""The messages of one anonymous channel, and who gets them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from msgspec import UNSET

from .._base.scheduler import Scheduler, Timer
from .._protocol.messages import Inbound
from ..errors import StreamOverflow
from ..limits import Limits
from .backlog import Backlog
from .inbox import Decode
from .memory import Unread
from .reader import Observers, Reading, Tap

__all__ = ["TABLE", "Act", "Arrivals", "Delivery", "Home"]

_NOBODY: dict[str, Tap] = {}


class Delivery(enum.Enum):
    """How far the delivery of a channel's messages is."""

    KEEPING = "nobody listens yet: messages are kept"
    DELIVERING = "somebody listens, and gets in the next turn what was kept"
    LIVE = "messages are delivered at once"
    KEPT = "the channel was over before anybody listened; what came before is kept"
    ENDING = "the channel is over, and who listens gets in the next turn what was kept"
    OVER = "the channel is over, and all was delivered or dropped"


class Act(enum.Enum):
    """What changes that."""

    LISTENED = "the first handler or reader is there"
    DELIVERED = "what was kept was delivered"
    ENDED = "the other side ended the channel, or the connection ended"
    LEFT = "this side ended the channel, or wants nothing more of it"


TABLE = {
    (Delivery.KEEPING, Act.LISTENED): Delivery.DELIVERING,
    (Delivery.KEEPING, Act.ENDED): Delivery.KEPT,
    (Delivery.KEEPING, Act.LEFT): Delivery.OVER,
    (Delivery.DELIVERING, Act.DELIVERED): Delivery.LIVE,
    (Delivery.DELIVERING, Act.ENDED): Delivery.ENDING,
    (Delivery.DELIVERING, Act.LEFT): Delivery.OVER,
    (Delivery.LIVE, Act.ENDED): Delivery.OVER,
    (Delivery.LIVE, Act.LEFT): Delivery.OVER,
    (Delivery.KEPT, Act.LISTENED): Delivery.ENDING,
    (Delivery.KEPT, Act.LEFT): Delivery.OVER,
    (Delivery.ENDING, Act.DELIVERED): Delivery.OVER,
    (Delivery.ENDING, Act.LEFT): Delivery.OVER,
}
"""An act that is in no cell changes nothing."""


class Home(Protocol):
    """What arrivals need of the peer."""

    loop: Scheduler
    limits: Limits
    unread: Unread


class Owner(Protocol):
    """What arrivals need of their channel."""

    id: int

    def _handles(self, event: str, /) -> bool:
        """Whether a handler is registered for the messages of that name."""
        ...

    def _dispatch(self, message: Inbound, payload: bytes | bytearray, decode: Decode, /) -> None:
        """Run the handler for a message."""

    def _overflowed(self, error: StreamOverflow, /) -> None:
        """Nobody listened in time, or too much was kept: end the channel."""

    def _dropped(self, count: int, /) -> None:
        """So many events were dropped, because nobody listens."""

    def _forgotten(self) -> None:
        """Nothing is kept any more of a channel that is over."""


class Beside(Observers):
    """The readers of one event's name on a channel, and its handler, if there is one."""

    __slots__ = ("_arrivals",)

    def __init__(self, arrivals: Arrivals) -> None:
        super().__init__()
        self._arrivals = arrivals

    def arrived(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        owner = self._arrivals._owner
        handler = owner if owner is not None and owner._handles(message.a[0]) else None
        if handler is None or message.i is UNSET:  # a request is the handler's alone, which answers it
            self.give(message, payload, decode, handled=handler is not None)
        if handler is not None:
            message.c = None  # the name of a channel counts for nothing here, see `place_on`
            handler._dispatch(message, payload, decode)


class Arrivals:
    """Delivers a channel's messages: to what takes an event's name (a `Tap`), else to the handlers.

    What comes before anybody listens is kept for the first tap or handler, also beyond the end of the channel if the
    other side or the connection ended it. Whatever ends the channel, readers get what came before first.
    """

    __slots__ = (
        "_backlog",
        "_error",
        "_home",
        "_owner",
        "_state",
        "_then",
        "_timer",
        "_unread",
        "live",
        "taps",
        "used",
    )

    def __init__(self, owner: Owner, home: Home) -> None:
        self._owner: Owner | None = owner
        """None when it is over: the channel refers to this, and nothing more is to be told."""
        self._home = home
        self._state = Delivery.KEEPING
        self._backlog: Backlog | None = None
        self._error: Exception | None = None
        self._unread: set[Tap] = set()
        """Readers of a channel that is over which have not come to the end of what arrived."""
        self._then: Callable[[], None] | None = None
        self._timer: Timer | None = None
        self.taps: dict[str, Tap] = {}
        self.live: dict[str, Tap] = _NOBODY
        """Who gets a message at once; nobody while earlier ones are kept."""
        self.used = False
        """This side has sent something on the channel."""

    @property
    def can_listen(self) -> bool:
        """Whether a new handler or reader gets anything: the channel is open, or what came before its end is kept."""
        return self._state is not Delivery.OVER

    @property
    def is_ending(self) -> bool:
        """Whether the channel is over, and handlers and readers are given in the next turn what was kept."""
        return self._state is Delivery.ENDING

    @property
    def keeps(self) -> bool:
        """Whether messages wait although the channel is over."""
        return (self._state is Delivery.KEPT or self._state is Delivery.ENDING) and bool(self._backlog)

    # ------------------------------------------------------------ listening

    def tap(self, event: str, tap: Tap) -> None:
        """Let ``tap`` have the messages of that name. Readers of events share them, with each other and with handlers.

        Raises:
            RuntimeError: something has them already, and does not share.
        """
        if self._state is Delivery.OVER:
            tap.channel_over(self._error)
            return
        present = self.taps.get(event)
        if not isinstance(tap, Reading) or tap.inbox.items:
            if present is not None:
                raise RuntimeError(f"{event!r} is being read on this channel already: one reader at a time")
            self.taps[event] = tap
        else:
            if present is None:
                present = self.taps[event] = Beside(self)
            elif not isinstance(present, Beside):
                raise RuntimeError(f"{event!r} belongs to a stream on this channel: it cannot be read as events, too")
            present.taps.append(tap)
        self.listen()

    def untap(self, event: str, tap: Tap) -> None:
        """Let it have them no more."""
        present = self.taps.get(event)
        if isinstance(present, Beside) and tap in present.taps:
            present.taps.remove(tap)
            if not present.taps:
                del self.taps[event]
        elif present is tap:
            del self.taps[event]
        if self._unread:
            self._unread.discard(tap)
            self._check_read()

    def reading(self, event: str) -> Reading | None:
        """What reads the items of a stream; or one of the readers of an event that was abandoned."""
        tap = self.taps.get(event)
        if isinstance(tap, Beside):
            readings = (each for each in tap.taps if isinstance(each, Reading) and each.abandoned)
            return next(readings, None)
        return tap if isinstance(tap, Reading) else None

    def listen(self) -> None:
        """Somebody listens: deliver what was kept, once this turn has registered all that it wants to."""
        if not self._move(Act.LISTENED):
            return
        if self._backlog is not None:
            self._backlog.stop_timer()
        if self._backlog or self._state is Delivery.ENDING:
            self._home.loop.call_soon(self._deliver_backlog)
        else:
            self._deliver_backlog()

    # ------------------------------------------------------------ messages

    def receive(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        """An event or a request; ``a`` is a list that begins with a text."""
        if self._state is Delivery.LIVE:
            self._deliver(message, payload, decode)
        elif self._state is Delivery.KEEPING:
            self._keep(message, bytes(payload), decode)
        elif self._backlog is not None:  # behind what is delivered in the next turn
            self._backlog.add(message, bytes(payload), decode)

    def _deliver(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        tap = self.taps.get(message.a[0])
        if tap is not None:
            tap.arrived(message, payload, decode)
        elif self._owner is not None:
            self._owner._dispatch(message, payload, decode)

    def _keep(self, message: Inbound, payload: bytes, decode: Decode) -> None:
        home = self._home
        if self._backlog is None:
            self._backlog = Backlog(home.loop, home.limits, home.unread, self._overdue)
        over = self._backlog.keep(message, payload, decode)
        if over is None:
            return
        if self.used:
            self._drop_unread()
            self._deliver(message, payload, decode)
        elif self._owner is not None:
            self._owner._overflowed(StreamOverflow(f"nobody reads channel {self._owner.id}, and {over}"))

    def _overdue(self) -> None:
        """Nobody has listened in time."""
        if self._state is not Delivery.KEEPING or self._owner is None:
            self.leave()
        elif self.used:
            self._drop_unread()
        else:
            seconds = self._home.limits.unread
            text = f"nobody has read channel {self._owner.id} within {seconds:g} s (Limits.unread)"
            self._owner._overflowed(StreamOverflow(text))

    def _drop_unread(self) -> None:
        """Stop keeping: this side uses the channel, and does not listen to these events, as JavaScript and Go may."""
        assert self._backlog is not None and self._owner is not None
        self._owner._dropped(self._backlog.drop_events())
        self._move(Act.LISTENED)
        self._deliver_backlog()

    def _deliver_backlog(self) -> None:
        assert self._owner is not None or self._state is Delivery.OVER
        while self._backlog and self._owner is not None:
            self._deliver(*self._backlog.pop(self._owner.id))
        if self._move(Act.DELIVERED):
            if self._state is Delivery.LIVE:
                self.live = self.taps
            else:
                self._over()

    # ------------------------------------------------------------ the end

    def end(self, error: Exception | None) -> None:
        """The other side has ended the channel, or the connection is over.

        ``error`` is what readers get after what is there, None at a good end.
        """
        self._error = error
        if self._move(Act.ENDED):
            self.live = _NOBODY
            if self._state is Delivery.OVER:
                self._over()

    def leave(self, error: Exception | None = None) -> None:
        """This side has ended the channel, or nobody will listen to what was kept: handlers get nothing more.

        Readers get what is there for them, then ``error``.
        """
        if self._state in (Delivery.KEEPING, Delivery.DELIVERING, Delivery.LIVE):
            self._error = error
        if self._move(Act.LEFT):
            while self._backlog and self.taps and self._owner is not None:
                message, payload, decode = self._backlog.pop(self._owner.id)
                tap = self.taps.get(message.a[0])
                if tap is not None:
                    tap.arrived(message, payload, decode)
            self._over()
        self._unread.clear()
        self._check_read()

    def when_read(self, then: Callable[[], None]) -> None:
        """Call ``then`` once all that came before the end was read, `Limits.unread` seconds from now at the latest."""
        self._then = then
        self._check_read()
        if self._then is not None:
            loop = self._home.loop
            self._timer = loop.call_at(loop.time() + self._home.limits.unread, self.notice_end)

    def take_ids(self) -> list[int]:
        """The ids of the requests that wait here for whoever listens; they are events from now on."""
        ids = [] if self._backlog is None else self._backlog.take_ids()
        return ids + [i for tap in dict.fromkeys(self.taps.values()) for i in tap.take_ids()]

    def _move(self, act: Act) -> bool:
        state = TABLE.get((self._state, act))
        if state is None:
            return False
        self._state = state
        return True

    def _over(self) -> None:
        if self._backlog is not None:
            self._backlog.clear()
            self._backlog = None
        taps, self.taps = self.taps, {}
        self.live = _NOBODY
        owner, self._owner = self._owner, None
        if owner is not None:
            owner._forgotten()
        each = (one for tap in taps.values() for one in (tap.taps if isinstance(tap, Beside) else (tap,)))
        self._unread = {tap for tap in each if isinstance(tap, Reading) and tap.is_at_work}
        for tap in taps.values():
            tap.channel_over(self._error)
        self._check_read()

    def _check_read(self) -> None:
        if self._then is None or self._unread or self._state is Delivery.ENDING:
            return
        if not (self._state is Delivery.KEPT and self._backlog):
            self.notice_end()

    def notice_end(self) -> None:
        """Call what `when_read` was given, whether all was read or not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        then, self._then = self._then, None
        if then is not None:
            then()
