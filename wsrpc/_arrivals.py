"""What comes on one anonymous channel, and who gets it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ._backlog import Backlog
from ._inbox import Decode
from ._messages import Inbound
from ._reading import Reading, Tap
from ._scheduler import Scheduler
from .errors import StreamOverflow
from .limits import Limits

__all__ = ["Arrivals", "Ground"]

_NOBODY: dict[str, Tap] = {}


class Ground(Protocol):
    """What arrivals need of the peer."""

    loop: Scheduler
    limits: Limits

    def dispatch(self, message: Inbound, payload: bytes | bytearray, decode: Decode, /) -> None:
        """Run the handler for a message."""


class Arrivals:
    """The messages of channel ``h``: to whoever reads events of a name (a `Tap`), else to the handlers.

    What comes before the first tap or handler is there is kept for it, also beyond the end of the channel, if the other
    side ended it. ``refused`` ends the channel where that is too much or too long; ``forgotten`` is called when what
    was kept beyond the end is gone.
    """

    __slots__ = (
        "_attached",
        "_backlog",
        "_error",
        "_forgotten",
        "_ground",
        "_h",
        "_over",
        "_refused",
        "late",
        "live",
        "taps",
    )

    def __init__(
        self, h: int, ground: Ground, *, refused: Callable[[StreamOverflow], None], forgotten: Callable[[], None]
    ) -> None:
        self._h = h
        self._ground = ground
        self._refused = refused
        self._forgotten = forgotten
        self._attached = False
        self._backlog: Backlog | None = None
        self._over = False
        self._error: Exception | None = None
        self.taps: dict[str, Tap] = {}
        self.live: dict[str, Tap] = _NOBODY
        """Who gets a message at once; nobody while earlier ones are kept."""
        self.late = False
        """The channel was over before anybody listened."""

    # ------------------------------------------------------------ who gets it

    def tap(self, event: str, tap: Tap) -> None:
        """Let ``tap`` have the messages of that name.

        Raises:
            RuntimeError: somebody has them already.
        """
        if self._over and not self.late:
            tap.channel_over(self._error)
            return
        if event in self.taps:
            raise RuntimeError(f"{event!r} is being read on this channel already: one reader at a time")
        self.taps[event] = tap
        self.attach()

    def untap(self, event: str, tap: Tap) -> None:
        """Let it have them no more."""
        if self.taps.get(event) is tap:
            del self.taps[event]

    def reading(self, event: str) -> Reading | None:
        """Who reads the messages of that name."""
        tap = self.taps.get(event)
        return tap if isinstance(tap, Reading) else None

    def attach(self) -> None:
        """Somebody listens: deliver what was kept, once this turn has registered all that it wants to."""
        if self._attached:
            return
        self._attached = True
        if self._backlog is not None:
            self._backlog.stop_timer()
        if self._backlog or self.late:
            self._ground.loop.call_soon(self._deliver_backlog)
        else:
            self.live = self.taps

    # ------------------------------------------------------------ what comes

    def receive(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        """An event or a request; ``a`` is a list that begins with a text."""
        if not self._attached:
            self._keep(message, bytes(payload), decode)
        elif self._backlog:  # of this very turn: in order
            self._backlog.add(message, bytes(payload), decode)
        else:
            self._deliver(message, payload, decode)

    def _deliver(self, message: Inbound, payload: bytes | bytearray, decode: Decode) -> None:
        tap = self.taps.get(message.a[0])
        if tap is not None:
            tap.arrived(message, payload, decode)
        else:
            self._ground.dispatch(message, payload, decode)

    def _keep(self, message: Inbound, payload: bytes, decode: Decode) -> None:
        limits = self._ground.limits
        if self._backlog is None:
            self._backlog = Backlog(self._ground.loop, limits, self._unread)
        if not self._backlog.keep(message, payload, decode):
            text = f"nobody reads channel {self._h}, and {limits.stream_queue} bytes wait (Limits.stream_queue)"
            self._refused(StreamOverflow(text))

    def _unread(self) -> None:
        if self._over:
            self.forget()
        else:
            seconds = self._ground.limits.unread
            self._refused(StreamOverflow(f"nobody has read channel {self._h} within {seconds:g} s (Limits.unread)"))

    def _deliver_backlog(self) -> None:
        while self._backlog:
            self._deliver(*self._backlog.pop(self._h))
        self.live = self.taps
        if self.late:
            self.forget()
            self._tell_taps()

    # ------------------------------------------------------------ the end

    def end(self, error: Exception | None, *, by_other: bool) -> bool:
        """Nothing more will come; ``error`` is what readers get after what is there, None at a good end.

        Returns whether something is kept for who may listen later.
        """
        self._over = True
        self._error = error
        self.late = by_other and not self._attached
        if self.late:
            return bool(self._backlog)
        self.forget()
        self._tell_taps()
        self._refused = self._forgotten = _nothing  # they refer to the channel, which refers to this
        return False

    def take_ids(self) -> list[int]:
        """The ids of the requests that wait here for whoever listens; they are events from now on."""
        ids = [] if self._backlog is None else self._backlog.take_ids()
        return ids + [i for tap in dict.fromkeys(self.taps.values()) for i in tap.take_ids()]

    def forget(self) -> None:
        """Nobody will listen to what was kept."""
        if self._backlog is not None:
            self._backlog.clear()
            self._backlog = None
        if self.late:
            self.late = False
            self._forgotten()
            self._refused = self._forgotten = _nothing

    def _tell_taps(self) -> None:
        taps, self.taps = self.taps, {}
        self.live = _NOBODY
        for tap in taps.values():
            tap.channel_over(self._error)


def _nothing(*_: object) -> None:
    """The channel need not be told any more."""
