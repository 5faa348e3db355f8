"""What two wsrpc peers agree on for one connection: features, limits, and when one of them drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from .._base.scheduler import Scheduler
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import (
    CREDIT,
    DRAIN,
    MSGPACK,
    Announced,
    Changed,
    Drain,
    Hello,
    Welcome,
    announce,
    write_control,
)
from .._protocol.messages import MAX_ID
from .._protocol.settings import Settings
from ..limits import Limits

__all__ = ["Agreed", "Negotiation"]

VERSION = 1


class Agreed(Struct, frozen=True):
    """What the remote peer has announced, as far as this side can do it, too."""

    limits: Announced
    codec: NegotiatedCodec | None
    """What both sides may speak from now on, in binary messages; None if only the codec of this side."""
    credit: bool
    """Whether a producer keeps to credit."""


class Negotiation:
    """Says hello where this side dialed and welcome where it accepted.

    Without it, or before it, the remote peer is treated as plain ws-wrapper. The side that accepted may `drain`: then
    the side that dialed begins nothing new on this connection, and says so. Everything that crossed with the request
    to drain has arrived by then, so nothing needs to be refused.

    Args:
        takes_raw: whether this side wants raw messages, binary ones among them.
        ignored: counts control messages that make no sense.
        say: sends a control message.
        apply: puts what was agreed on into effect.
        silence: called when the remote peer is about to close; returns whether the answer has to wait for `opened`.
    """

    __slots__ = (
        "_agreed",
        "_apply",
        "_closing_at",
        "_dialer",
        "_drains",
        "_ignored",
        "_loop",
        "_offered",
        "_on_quiet",
        "_owes_quiet",
        "_quiet",
        "_say",
        "_settings",
        "_silence",
        "_takes_raw",
        "limits",
    )

    def __init__(
        self,
        settings: Settings,
        loop: Scheduler,
        *,
        dialer: bool,
        takes_raw: Callable[[], bool],
        ignored: Counter[str],
        say: Callable[[bytes], None],
        apply: Callable[[Agreed], None],
        silence: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._loop = loop
        self._dialer = dialer
        self._ignored = ignored
        self._say = say
        self._apply = apply
        self._silence = silence
        self.limits = settings.limits
        self._takes_raw = takes_raw
        self._offered = False
        """Whether this side's hello has said that it understands MessagePack."""
        self._agreed: Agreed | None = None
        self._drains = False
        """Whether both sides can drain."""
        self._closing_at: float | None = None
        """When this side is going to close, if it has said so."""
        self._quiet = False
        """Whether the remote peer has said that it begins nothing new."""
        self._on_quiet: asyncio.Future[None] | None = None
        self._owes_quiet = False
        """Whether this side has still to say that."""

    @property
    def _features(self) -> list[str]:
        # Where binary messages are MessagePack, nobody could tell raw ones from them.
        return [CREDIT, DRAIN] if self._settings.binary is None or self._takes_raw() else [CREDIT, DRAIN, MSGPACK]

    def begin(self) -> None:
        """Speak first, before anything else is sent, and do not wait for an answer: a plain peer gives none."""
        if self._settings.extensions and self._dialer:
            self._offered = MSGPACK in self._features
            self._say(write_control(Hello(VERSION, self._features, announce(self.limits))))

    def change(self, limits: Limits) -> None:
        """This side has other bounds from now on."""
        self.limits = limits
        if self._agreed is not None:
            self._say(write_control(Changed(announce(limits))))

    def binary_is_free(self) -> bool:
        """Whether a binary message that is sent now is not one of the protocol's.

        A dialer that has offered MessagePack does not know how soon the remote peer reads binary messages as that.
        """
        if self._agreed is not None:
            return self._agreed.codec is None
        return not self._dialer or not (self._offered or MSGPACK in self._features)

    def opened(self) -> None:
        """The `open` handlers are done."""
        if self._owes_quiet:
            self._say_quiet()

    def connection_lost(self) -> None:
        """Nobody needs to wait for the remote peer any more."""
        self._wake()

    # ------------------------------------------------------------ draining

    def drain(self, until: float) -> None:
        """Ask the remote peer to begin nothing new, because this side closes at the time ``until`` at the latest."""
        self._closing_at = until
        if self._drains:
            self._ask_for_quiet(until)

    def _ask_for_quiet(self, until: float) -> None:
        self._say(write_control(Drain(max(0, round((until - self._loop.time()) * 1000)))))

    @property
    def quiet(self) -> bool:
        """Whether the remote peer begins nothing new any more; a plain one, which cannot say so, counts as quiet."""
        return self._quiet or not self._drains

    async def wait_quiet(self) -> None:
        """Wait until the remote peer begins nothing new, or is gone. Cancelling is safe."""
        if not self.quiet:
            self._on_quiet = self._loop.create_future()
            await self._on_quiet

    def _wake(self) -> None:
        if self._on_quiet is not None and not self._on_quiet.done():
            self._on_quiet.set_result(None)

    def _drain_heard(self, drain: Drain) -> None:
        if not 0 <= drain.after_ms <= MAX_ID:
            self._ignored["drain that makes no sense"] += 1
        elif self._drains and self._dialer and not self._quiet:
            self._quiet = True
            # What `open` handlers ask still belongs to the beginning: it is served, so it comes before that word.
            if self._silence():
                self._owes_quiet = True
            else:
                self._say_quiet()
        elif self._drains and self._closing_at is not None and not self._quiet:
            self._quiet = True
            self._wake()
        else:
            self._ignored["control message out of place"] += 1

    def _say_quiet(self) -> None:
        self._owes_quiet = False
        self._say(write_control(Drain(0)))

    # ------------------------------------------------------------ what the remote peer says

    def received(self, control: Any) -> None:
        """Take a control message of the remote peer, other than `Credit`."""
        agreed = self._agreed
        if isinstance(control, Drain):
            self._drain_heard(control)
        elif isinstance(control, Changed) and agreed is not None:
            self._agree(Agreed(control.limits, agreed.codec, agreed.credit))
        elif isinstance(control, Changed) or agreed is not None or isinstance(control, Hello) is self._dialer:
            self._ignored["control message out of place"] += 1
        elif isinstance(control, Hello) and control.v < VERSION:
            self._ignored["hello of another version"] += 1
        else:
            features = {*control.features} & {*self._features}
            codec = self._settings.binary if MSGPACK in features else None
            if isinstance(control, Hello):
                # Before anything else: what comes after it may use what was agreed.
                self._say(write_control(Welcome(self._features, announce(self.limits))))
            elif self.limits is not self._settings.limits:  # since our hello
                self._say(write_control(Changed(announce(self.limits))))
            self._agree(Agreed(control.limits, codec, CREDIT in features))
            self._drains = DRAIN in features
            if self._drains and self._closing_at is not None:  # its hello was on its way
                self._ask_for_quiet(self._closing_at)

    def _agree(self, agreed: Agreed) -> None:
        self._agreed = agreed
        self._apply(agreed)
