"""`Negotiation`: the features that this side offers in one session, and those that both sides have agreed on."""

from __future__ import annotations

from functools import cache

from ...limits import Limits
from ..wire.codecs import NegotiatedCodec
from ..wire.control import BATCHES, CONTEXT, CREDIT, DRAIN, MSGPACK, PARTS, PROBE, RESUME, Announced
from .peer_host import PeerHost


class Negotiation:
    """The features that this side offers in one session, and those that both sides have agreed on.

    Args:
        dialer: whether this side sends the hello, and the remote peer the welcome.
    """

    __slots__ = ("_host", "can_resume", "codec", "common", "dialer", "limits", "offered")

    def __init__(self, host: PeerHost, *, dialer: bool) -> None:
        self._host = host
        self.dialer = dialer
        self.can_resume = False
        """Whether this side can resume the session on another connection."""
        self.limits: Limits = host.settings.limits
        """The limits of this side, which it has announced or is about to announce."""
        self.offered: list[str] | None = None
        """The features that this side has announced, which do not change in a session. None before."""
        self.common: frozenset[str] | None = None
        """The features that both sides have. None until the remote peer has announced its features."""
        self.codec: NegotiatedCodec | None = None
        """The codec that both sides use for binary messages. None if all messages use the codec of this side."""

    def features(self) -> list[str]:
        """Return the features that this side would announce now."""
        features = [BATCHES, CONTEXT, CREDIT, DRAIN]
        if self._host.settings.binary is not None:
            # Between nodes, a message that the engine does not carry is given up as a whole.
            features += [MSGPACK] if self._host.settings.between_nodes else [MSGPACK, PARTS]
        if self.can_resume:
            features.append(RESUME)
        return features if self.dialer else [*features, PROBE]

    def offer(self) -> list[str]:
        """Return the features to announce."""
        if self.offered is None:
            self.offered = self.features()
        return self.offered

    def agree(self, features: list[str]) -> None:
        """Agree on the features that the remote peer has announced and this side offers."""
        self.common = _shared(frozenset(features) & {*self.offer()})
        self.codec = self._host.settings.binary if MSGPACK in self.common else None

    def apply(self, announced: Announced) -> None:
        """Send and receive messages as agreed from now on, within the limits of the remote peer."""
        assert self.common is not None
        self._host.current.agree(announced, self.codec, self.common)

    def end(self) -> None:
        """Drop the agreement on binary messages: the session is over."""
        self.codec = None

    def has(self, feature: str) -> bool:
        """Return whether it is known that both sides have a feature."""
        return self.common is not None and feature in self.common


@cache
def _shared(features: frozenset[str]) -> frozenset[str]:
    """Return the same object for equal sets, because each session keeps one and there are few different sets."""
    return features
