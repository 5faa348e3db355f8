"""Negotiation between two wsrpc peers on one connection: features, limits, and draining."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import cache
from typing import Any, Protocol

from .._base.closing import CloseCode
from .._base.scheduler import Scheduler
from .._protocol.codecs import NegotiatedCodec
from .._protocol.control import (
    BATCHES,
    CREDIT,
    DRAIN,
    MSGPACK,
    RESUME,
    STOP,
    UNCOUNTED,
    Ack,
    Announced,
    Changed,
    Drain,
    Gone,
    Hello,
    Resume,
    Welcome,
    announce,
    write_control,
)
from .._protocol.messages import MAX_ID
from .._protocol.settings import Settings
from ..limits import Limits

__all__ = ["Negotiation", "NegotiationListener"]

VERSION = 1


class NegotiationListener(Protocol):
    """The peer that negotiates."""

    ignored: Counter[str]
    """Counts control messages that make no sense."""

    def fail(self, code: int, reason: str, /) -> None:
        """End the connection because of the remote peer."""

    def takes_raw(self) -> bool:
        """Return whether this side wants raw messages, binary ones among them."""
        ...

    def say(self, control: bytes, /) -> None:
        """Send a control message."""

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str], /) -> None:
        """Use what both sides support. See `Terms.agreed`."""

    def fall_silent(self) -> bool:
        """Begin nothing new: the remote peer is about to close. Return whether the answer has to wait for `opened`."""
        ...

    def can_resume(self) -> bool:
        """Return whether sessions of this side can go on over another connection."""
        ...

    def name_session(self, welcome: Welcome, /) -> bool:
        """Put the name of the session into a welcome. Return False if it cannot resume."""
        ...

    def count_sent(self) -> None:
        """Count what this side sends from now on."""

    def session_named(self, welcome: Welcome, /) -> None:
        """The remote peer, which accepted, counts what it sends from now on."""

    def acknowledged(self, ack: Ack, size: int, /) -> bool:
        """So much has arrived there. Return False if nothing was counted. ``size``: bytes of the control message."""
        ...

    def uncounted(self, size: int, /) -> None:
        """A control message of ``size`` bytes is not one of those that are counted."""

    def end_with_connection(self) -> None:
        """The remote peer, which dialed, is about to close: the session ends with this connection."""


class Negotiation:
    """Sends a hello on the side that dialed, and a welcome on the side that accepted.

    Before it, or without it, the remote peer is treated as plain ws-wrapper. The side that accepted may `drain`: then
    the side that dialed begins nothing new on this connection, and says so. Everything that crossed with the request
    to drain has arrived by then, so nothing needs to be refused.
    """

    __slots__ = (
        "_announced",
        "_closing_at",
        "_codec",
        "_common",
        "_dialer",
        "_drains",
        "_listener",
        "_loop",
        "_negotiated",
        "_on_quiet",
        "_owes_quiet",
        "_quiet",
        "_settings",
        "limits",
        "silent",
    )

    def __init__(self, settings: Settings, loop: Scheduler, listener: NegotiationListener, *, dialer: bool) -> None:
        self._settings = settings
        self._loop = loop
        self._listener = listener
        self._dialer = dialer
        self.limits = settings.limits
        self._announced: list[str] | None = None
        """The features of this side, as it has said or says next. They never change on a connection."""
        self._negotiated = False
        """Whether the remote peer has said what it supports."""
        self._codec: NegotiatedCodec | None = None
        """The codec that both sides use for binary messages. None if only the codec of this side is used."""
        self._common: frozenset[str] = frozenset()
        """The features that both sides have."""
        self._drains = False
        """Whether both sides can drain."""
        self._closing_at: float | None = None
        """When this side is going to close, if it has said so."""
        self._quiet = False
        """Whether the remote peer has said that it begins nothing new."""
        self.silent = False
        """Whether this side, which dialed, begins nothing new: the remote peer is about to close."""
        self._on_quiet: asyncio.Future[None] | None = None
        self._owes_quiet = False
        """Whether this side has still to say that."""

    def _features(self) -> list[str]:
        if self._announced is None:
            # An `on_raw` function that is registered later must not get the other's MessagePack.
            features = self._announced = [BATCHES, CREDIT, DRAIN, STOP]
            # If binary messages are MessagePack, raw ones could not be told from them.
            if self._settings.binary is not None and not self._listener.takes_raw():
                features.append(MSGPACK)
            if self._listener.can_resume():
                features.append(RESUME)
        return self._announced

    def begin(self) -> None:
        """Send a hello before anything else. Do not wait for an answer: a plain peer sends none."""
        if self._settings.extensions and self._dialer:
            self._listener.say(write_control(Hello(VERSION, self._features(), announce(self.limits))))

    def resume(self, sid: str, token: str, gen: int, rx: int, size: int) -> Resume:
        """Return what the side that dialed says first on a connection on which a session is to go on."""
        return Resume(VERSION, self._features(), announce(self.limits), sid, token, gen, rx, size)

    def resumed(self) -> None:
        """Announce the limits of this side, which dialed, if they have changed: its `Resume` had those of a hello."""
        if self.limits is not self._settings.limits:
            self._listener.say(write_control(Changed(announce(self.limits))))

    def change(self, limits: Limits) -> None:
        """Use other limits on this side from now on, and announce them."""
        self.limits = limits
        if self._negotiated:
            self._listener.say(write_control(Changed(announce(limits))))

    def binary_is_free(self) -> bool:
        """Return whether a binary message that is sent now is a raw one.

        A dialer that has offered MessagePack does not know when the remote peer begins to decode binary messages.
        """
        if self._negotiated:
            return self._codec is None
        return not self._dialer or MSGPACK not in self._features()

    def opened(self) -> None:
        """Send what had to wait for the `open` handlers."""
        if self._owes_quiet:
            self._say_quiet()

    def connection_lost(self) -> None:
        """End the wait for the remote peer."""
        if self._on_quiet is not None:
            self._wake()

    # ------------------------------------------------------------ draining

    def drain(self, until: float) -> None:
        """Ask the remote peer to begin nothing new, because this side closes at the time ``until`` at the latest."""
        self._closing_at = until
        if self._drains:
            self._ask_for_quiet(until)

    def _ask_for_quiet(self, until: float) -> None:
        self._listener.say(write_control(Drain(max(0, round((until - self._loop.time()) * 1000)))))

    @property
    def quiet(self) -> bool:
        """Whether the remote peer begins nothing new any more. A plain peer, which cannot say so, counts as quiet."""
        return self._quiet or not self._drains

    async def wait_quiet(self) -> None:
        """Wait until the remote peer begins nothing new, or its connection has ended. Cancelling is safe."""
        if not self.quiet:
            self._on_quiet = self._loop.create_future()
            await self._on_quiet

    def _wake(self) -> None:
        if self._on_quiet is not None and not self._on_quiet.done():
            self._on_quiet.set_result(None)

    def _received_drain(self, drain: Drain) -> None:
        if not 0 <= drain.after_ms <= MAX_ID:
            self._listener.ignored["drain that makes no sense"] += 1
        elif self._drains and self._dialer and not self._quiet:
            self._quiet = self.silent = True
            # Requests of `open` handlers are still served, so they are sent before the answer.
            if self._listener.fall_silent():
                self._owes_quiet = True
            else:
                self._say_quiet()
        elif self._drains and self._closing_at is not None and not self._quiet:
            self._quiet = True
            self._wake()
        else:
            self._listener.ignored["control message out of place"] += 1

    def _say_quiet(self) -> None:
        self._owes_quiet = False
        self._listener.say(write_control(Drain(0)))

    # ------------------------------------------------------------ what the remote peer says

    def received(self, control: Any, size: int) -> None:
        """Receive a control message of the remote peer, other than `Credit`, which had ``size`` bytes."""
        ignored = self._listener.ignored
        if isinstance(control, Ack):
            if not self._listener.acknowledged(control, size):
                ignored["control message out of place"] += 1
            return
        if self._negotiated and isinstance(control, UNCOUNTED):  # before, nothing is counted
            self._listener.uncounted(size)
        if isinstance(control, Drain):
            self._received_drain(control)
        elif isinstance(control, Gone) and RESUME in self._common and not self._dialer:
            self._listener.end_with_connection()
        elif isinstance(control, Changed) and self._negotiated:
            if (why := control.limits.objection()) is None:
                self._listener.agree(control.limits, self._codec, self._common)
            else:
                self._listener.fail(CloseCode.INVALID_DATA, why)
        elif (
            not isinstance(control, (Hello, Welcome)) or self._negotiated or isinstance(control, Hello) is self._dialer
        ):
            ignored["control message out of place"] += 1
        elif isinstance(control, Hello) and control.v < VERSION:
            ignored["hello of another version"] += 1
        elif (why := control.limits.objection()) is not None:
            self._listener.fail(CloseCode.INVALID_DATA, why)
        else:
            self._settle(control)

    def _settle(self, control: Hello | Welcome) -> None:
        features = self._features()
        common = self._common = _shared(frozenset(control.features) & {*features})
        if isinstance(control, Hello):
            # Before anything else: what is sent after the welcome may use what was negotiated.
            welcome = Welcome(features, announce(self.limits))
            counts = RESUME in common and self._listener.name_session(welcome)
            self._listener.say(write_control(welcome))
            if counts:
                self._listener.count_sent()
        elif self.limits is not self._settings.limits:  # they have changed since the hello
            self._listener.say(write_control(Changed(announce(self.limits))))
        self._negotiated = True
        self._codec = self._settings.binary if MSGPACK in common else None
        self._drains = DRAIN in common
        self._listener.agree(control.limits, self._codec, self._common)
        if isinstance(control, Welcome) and control.sid and RESUME in common:
            self._listener.session_named(control)
        if self._drains and self._closing_at is not None:  # this side drained before the hello came
            self._ask_for_quiet(self._closing_at)


@cache
def _shared(features: frozenset[str]) -> frozenset[str]:
    """Return the same object for the same set: each connection keeps one, and there are few different ones."""
    return features
