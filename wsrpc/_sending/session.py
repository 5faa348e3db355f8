"""The session: the one place through which every protocol message of a peer passes, in and out.

A session that outlives its connection will count, acknowledge and replay here. Until then a session is
one connection and passes everything straight through: the transport's methods and the peer's are bound
into it once, so that no message pays for the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from .._base.closing import CloseInfo
from ..transport import Receiver, Transport

__all__ = ["Session"]


class Session:
    """Joins one transport to one peer until the connection ends or `detach` is called.

    It is the transport's receiver: after `detach` what a fenced connection still delivers reaches nobody.
    """

    __slots__ = (
        "connection_lost",
        "flush",
        "pause_sending",
        "read_ended",
        "receive",
        "resume_sending",
        "send",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        *,
        receive: Callable[[bytes | bytearray, bool], None],
        read_ended: Callable[[], None],
        pause_sending: Callable[[], None],
        resume_sending: Callable[[], None],
        connection_lost: Callable[[CloseInfo], None],
    ) -> None:
        self.transport = transport
        self.send: Callable[[bytes, bool], None] = transport.send
        self.flush: Callable[[], None] = transport.flush
        self.receive = receive
        self.read_ended = read_ended
        self.pause_sending = pause_sending
        self.resume_sending = resume_sending
        self.connection_lost = connection_lost

    def start(self) -> None:
        """Let messages in; what arrived before is delivered inside this call."""
        self.transport.start(cast("Receiver", self))  # pyright takes the bound callables for methods

    def stop_receiving(self) -> None:
        """Look at no further message; signals and the end of the connection still reach the peer."""
        self.receive = _ignore_message

    def detach(self) -> None:
        """Let nothing more through to the peer."""
        self.receive = _ignore_message
        self.read_ended = self.pause_sending = self.resume_sending = _ignore
        self.connection_lost = _ignore_loss


def _ignore_message(payload: bytes | bytearray, text: bool, /) -> None:
    """A message of a connection that is no longer this peer's."""


def _ignore() -> None:
    """A signal of a connection that is no longer this peer's."""


def _ignore_loss(info: CloseInfo, /) -> None:
    """The end of a connection that is no longer this peer's."""
