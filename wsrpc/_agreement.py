"""What two wsrpc peers have agreed on for one connection."""

from __future__ import annotations

from collections import Counter
from typing import Any, Protocol

from ._channels import Channels
from ._codec import NegotiatedCodec
from ._extension import CREDIT, MSGPACK, Announced, Credit, Hello, Welcome, announce, write_control
from ._messages import MAX_ID
from ._outbound import Outbound
from ._settings import Settings

__all__ = ["Agreement"]

VERSION = 1


class Reader(Protocol):
    """What the agreement changes in what is read."""

    def agree(self, codec: NegotiatedCodec | None, /) -> None: ...


class Agreement:
    """Says hello where this side dialed, welcome where it accepted, and puts what both can do into effect.

    Without it, or before it, the other side is treated as plain ws-wrapper.
    """

    def __init__(
        self, settings: Settings, *, dialer: bool, out: Outbound, channels: Channels, ignored: Counter[str]
    ) -> None:
        self._settings = settings
        self._dialer = dialer
        self._out = out
        self._channels = channels
        self._ignored = ignored
        self._features = [CREDIT] if settings.binary is None else [CREDIT, MSGPACK]
        self._agreed = False
        self.reader: Reader

    def connection_made(self) -> None:
        """Speak first, before anything else is sent, and do not wait for an answer: a plain peer gives none."""
        if self._settings.extensions and self._dialer:
            self._out.say(write_control(Hello(VERSION, self._features, announce(self._settings.limits))))

    def connection_lost(self) -> None:
        self._agreed = False
        self._channels.has_credit = False

    def received(self, control: Any) -> None:
        """A control message of the other side."""
        if isinstance(control, Credit):
            channel = self._channels.find(control.h)
            if channel is None:
                self._ignored["credit for no channel"] += 1
            elif not (0 <= control.n <= MAX_ID and 0 <= control.bytes <= MAX_ID):
                self._ignored["credit that makes no sense"] += 1
            else:
                channel._credited(control.n, control.bytes)
        elif self._agreed or isinstance(control, Hello) is self._dialer:
            self._ignored["control message out of place"] += 1
        elif isinstance(control, Hello) and control.v < VERSION:
            self._ignored["hello of another version"] += 1
        else:
            self._agreed = True
            if isinstance(control, Hello):
                # Before anything else: what comes after it may use what was agreed.
                self._out.say(write_control(Welcome(self._features, announce(self._settings.limits))))
            self._apply({*control.features} & {*self._features}, control.limits)

    def _apply(self, features: set[str], limits: Announced) -> None:
        codec = self._settings.binary if MSGPACK in features else None
        self._channels.has_credit = CREDIT in features
        self._out.agree(codec, limits)
        self.reader.agree(codec)
