"""`Negotiation`: what this side offers in one session, and what both sides have agreed on."""

from __future__ import annotations

from functools import cache

from ...limits import Limits
from ..wire.codecs import NegotiatedCodec
from ..wire.control import BATCHES, CREDIT, DRAIN, MSGPACK, PROBE, RESUME, STOP, Announced
from .host import Host


class Negotiation:
    """What this side offers in one session, and what both sides have agreed on.

    Args:
        dialer: whether this side says hello, and the remote peer welcome.
    """

    __slots__ = ("_host", "can_resume", "codec", "common", "dialer", "limits", "offered")

    def __init__(self, host: Host, *, dialer: bool) -> None:
        self._host = host
        self.dialer = dialer
        self.can_resume = False
        """Whether this side can resume the session on another connection."""
        self.limits: Limits = host.settings.limits
        """The limits of this side, as it has announced them or is about to."""
        self.offered: list[str] | None = None
        """The features of this side, as it has said them. They never change in a session."""
        self.common: frozenset[str] | None = None
        """The features that both sides have. None until the remote peer has said what it supports."""
        self.codec: NegotiatedCodec | None = None
        """The codec that both sides use for binary messages. None if only the codec of this side is used."""

    def features(self) -> list[str]:
        """Return the features that this side has in a session that begins now."""
        features = [BATCHES, CREDIT, DRAIN, STOP]
        # If binary messages are MessagePack, raw ones could not be told from them.
        if self._host.settings.binary is not None and not self._host.accepts_raw():
            features.append(MSGPACK)
        if self.can_resume:
            features.append(RESUME)
        return features if self.dialer else [*features, PROBE]

    def offer(self) -> list[str]:
        """Return the features to say. An `on_raw` function that is registered later does not change them."""
        if self.offered is None:
            self.offered = self.features()
        return self.offered

    def agree(self, features: list[str]) -> None:
        """Take the features of the remote peer."""
        self.common = _shared(frozenset(features) & {*self.offer()})
        self.codec = self._host.settings.binary if MSGPACK in self.common else None

    def apply(self, announced: Announced) -> None:
        """Let messages be sent and received as agreed, within the limits of the remote peer."""
        assert self.common is not None
        self._host.current.agree(announced, self.codec, self.common)

    def end(self) -> None:
        """Let binary messages mean what they mean without an agreement: the session is over."""
        self.codec = None

    def has(self, feature: str) -> bool:
        """Return whether both sides have a feature, as far as is known."""
        return self.common is not None and feature in self.common

    def binary_is_free(self) -> bool:
        """Return whether a binary message that is sent now, or waits for a connection, is a raw one."""
        if self.common is not None or not self.dialer:
            return self.codec is None
        # After it has offered MessagePack, it does not know when the remote peer begins to decode binary messages.
        return MSGPACK not in (self.offered or self.features())


@cache
def _shared(features: frozenset[str]) -> frozenset[str]:
    """Return the same object for the same set: each session keeps one, and there are few different ones."""
    return features
