"""What two wsrpc peers have agreed on for one connection."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from .._channels.table import ChannelTable
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import (
    CREDIT,
    DRAIN,
    MSGPACK,
    Announced,
    Changed,
    Credit,
    Drain,
    Hello,
    Welcome,
    announce,
    write_control,
)
from .._protocol.messages import MAX_ID
from .._protocol.settings import Settings
from .._sending.outbound import Outbound
from ..limits import Limits

__all__ = ["Agreement"]

VERSION = 1


class Reader(Protocol):
    """What the agreement changes in what is read."""

    def agree(self, codec: NegotiatedCodec | None, /) -> None: ...


class Agreement:
    """Says hello where this side dialed, welcome where it accepted, and puts what both can do into effect.

    Without it, or before it, the other side is treated as plain ws-wrapper.

    Who accepted may `drain`: then who dialed begins nothing new on this connection, and says so. What crossed with the
    word for it has arrived by then, and nothing needs to be refused.
    """

    def __init__(
        self, settings: Settings, *, dialer: bool, out: Outbound, channels: ChannelTable, ignored: Counter[str]
    ) -> None:
        self._settings = settings
        self._dialer = dialer
        self._out = out
        self._channels = channels
        self._ignored = ignored
        self.takes_raw: Callable[[], bool] = lambda: False
        """Whether this side wants raw messages, binary ones among them."""
        self._limits = settings.limits
        self._offered = False
        """Whether this side's hello has said that it understands MessagePack."""
        self._agreed = False
        self._drains = False
        """Whether both sides know what draining is."""
        self._closing_at: float | None = None
        """When this side is going to close, if it has said so."""
        self._quiet = False
        """Whether the other side has said that it begins nothing new."""
        self._on_quiet: asyncio.Future[None] | None = None
        self._owes_quiet = False
        """Whether this side has still to say that."""
        self.reader: Reader
        self.silenced: Callable[[bool], None]
        """Told that the other side drains, and when that is over: given by the peer."""

    @property
    def _features(self) -> list[str]:
        # Where binary messages are MessagePack, nobody could tell raw ones from them.
        return [CREDIT, DRAIN] if self._settings.binary is None or self.takes_raw() else [CREDIT, DRAIN, MSGPACK]

    def connection_made(self) -> None:
        """Speak first, before anything else is sent, and do not wait for an answer: a plain peer gives none."""
        self._limits = self._settings.limits
        if self._settings.extensions and self._dialer:
            self._offered = MSGPACK in self._features
            self._out.say(write_control(Hello(VERSION, self._features, announce(self._limits))))

    def change(self, limits: Limits) -> None:
        """This side has other bounds from now on."""
        self._limits = limits
        if self._agreed:
            self._out.say(write_control(Changed(announce(limits))))

    def binary_is_free(self) -> bool:
        """Whether a binary message that is sent now, or waits for the next connection, is none of the protocol's.

        Who has said hello and offered MessagePack does not know how soon the other side reads binary messages as that.
        """
        if self._agreed:
            return self._out.text is not None
        return not self._dialer or not (self._offered or MSGPACK in self._features)

    def opened(self) -> None:
        """The `open` handlers are done."""
        if self._owes_quiet:
            self._say_quiet()

    def connection_lost(self) -> None:
        self._agreed = self._drains = self._quiet = self._owes_quiet = self._offered = False
        self._channels.has_credit = False
        self._tell_quiet()
        self._closing_at = None
        if self._out.silent:
            self.silenced(False)

    # ------------------------------------------------------------ draining

    def drain(self, until: float) -> None:
        """Ask the other side to begin nothing new, because this one closes, at the time ``until`` at the latest."""
        self._closing_at = until
        if self._drains:
            self._ask_for_quiet(until)

    def _ask_for_quiet(self, until: float) -> None:
        self._out.say(write_control(Drain(max(0, round((until - self._out.loop.time()) * 1000)))))

    @property
    def quiet(self) -> bool:
        """Whether the other side begins nothing new any more; a plain one, which cannot say so, counts as if it had."""
        return self._quiet or not self._drains

    async def wait_quiet(self) -> None:
        """Wait until the other side begins nothing new, or is gone. Cancelling is safe."""
        if not self.quiet:
            self._on_quiet = self._out.loop.create_future()
            await self._on_quiet

    def _tell_quiet(self) -> None:
        if self._on_quiet is not None and not self._on_quiet.done():
            self._on_quiet.set_result(None)

    def _drain_heard(self, drain: Drain) -> None:
        if not 0 <= drain.after_ms <= MAX_ID:
            self._ignored["drain that makes no sense"] += 1
        elif self._drains and self._dialer and not self._out.silent:
            self._out.fall_silent()
            self.silenced(True)
            # What `open` handlers ask still belongs to the beginning: it is served, so it comes before that word.
            if self._out.opening is None:
                self._say_quiet()
            else:
                self._owes_quiet = True
        elif self._drains and self._closing_at is not None and not self._quiet:
            self._quiet = True
            self._tell_quiet()
        else:
            self._ignored["control message out of place"] += 1

    def _say_quiet(self) -> None:
        self._owes_quiet = False
        self._out.say(write_control(Drain(0)))

    # ------------------------------------------------------------ what the other side says

    def received(self, control: Any) -> None:
        """A control message of the other side."""
        if isinstance(control, Credit):
            channel = self._channels.find(control.h)
            if channel is None:
                self._ignored["credit for no channel"] += 1
            elif not (0 <= control.n <= MAX_ID and 0 <= control.bytes <= MAX_ID):
                self._ignored["credit that makes no sense"] += 1
            else:
                channel.credited(control.n, control.bytes)
        elif isinstance(control, Drain):
            self._drain_heard(control)
        elif isinstance(control, Changed) and self._agreed:
            self._out.agree(None, control.limits)
        elif isinstance(control, Changed) or self._agreed or isinstance(control, Hello) is self._dialer:
            self._ignored["control message out of place"] += 1
        elif isinstance(control, Hello) and control.v < VERSION:
            self._ignored["hello of another version"] += 1
        else:
            self._agreed = True
            if isinstance(control, Hello):
                # Before anything else: what comes after it may use what was agreed.
                self._out.say(write_control(Welcome(self._features, announce(self._limits))))
            elif self._limits is not self._settings.limits:  # since our hello
                self.change(self._limits)
            self._apply({*control.features} & {*self._features}, control.limits)
            if self._drains and self._closing_at is not None:  # its hello was on its way
                self._ask_for_quiet(self._closing_at)

    def _apply(self, features: set[str], limits: Announced) -> None:
        codec = self._settings.binary if MSGPACK in features else None
        self._channels.has_credit = CREDIT in features
        self._drains = DRAIN in features
        self._out.agree(codec, limits)
        self.reader.agree(codec)
