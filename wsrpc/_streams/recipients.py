"""Recipients of messages: one for each event name on a channel, in place of the handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from msgspec import UNSET

from .._protocol.counting import decode_any
from .._protocol.messages import WireMessage

Decode = Callable[[bytes | bytearray], WireMessage]


class Recipient(Protocol):
    """Receives the messages of one event name on a channel, in place of the handlers.

    Implemented by `Inbox` (and `FanOut` for several of them), by producers, which receive what the consumer asks for,
    by `MismatchDetector`, and by `Pipe` of ``_cluster``, which passes items on to another channel.
    """

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode, /) -> None: ...

    def channel_ended(self, error: Exception | None, /) -> None:
        """Nothing more will arrive. ``error`` says why; None at a good end."""

    def take_request_ids(self) -> list[int]:
        """Return the ids of requests that have no answer yet, and forget them: they will not be answered from here."""
        ...


class FanOut:
    """All readers of one event name on a channel. Each of them gets every event."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: list[Recipient] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.members!r}>"

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self.pass_on(message, payload, decode, handled=False)

    def pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode, *, handled: bool) -> None:
        """Pass a message to all readers. ``handled`` says whether a handler gets it, too."""
        members = self.members
        if len(members) == 1 and not handled:
            members[0].receive(message, payload, decode)
            return
        i = message.i
        for member in tuple(members):
            own = decode_any(decode, payload)  # a reader that changes its values does not change those of the others
            own.i, i = i, UNSET  # only the first one answers
            member.receive(own, payload, decode)

    def channel_ended(self, error: Exception | None) -> None:
        for member in tuple(self.members):
            member.channel_ended(error)

    def take_request_ids(self) -> list[int]:
        return [i for member in self.members for i in member.take_request_ids()]


class MismatchDetector:
    """Recipient of messages which show that the two sides expect different things of a channel.

    Without it both sides would wait for each other without a limit.
    """

    __slots__ = ("_detected",)

    def __init__(self, detected: Callable[[], None]) -> None:
        self._detected = detected

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self._detected()

    def channel_ended(self, error: Exception | None) -> None:
        """Do nothing."""

    def take_request_ids(self) -> list[int]:
        return []


def add(
    recipients: dict[str, Recipient], event: str, recipient: Recipient, fan_out: Callable[[], FanOut] | None, taken: str
) -> None:
    """Add a recipient of the messages with that name.

    Args:
        fan_out: makes the fan-out through which the recipient shares the messages with others. None: it shares nothing.
        taken: the text of the error.

    Raises:
        RuntimeError: something receives the messages already, and one of the two does not share them.
    """
    present = recipients.get(event)
    if fan_out is None and present is None:
        recipients[event] = recipient
    elif fan_out is not None and (present is None or isinstance(present, FanOut)):
        if present is None:
            present = recipients[event] = fan_out()
        present.members.append(recipient)
    else:
        raise RuntimeError(taken)


def remove(recipients: dict[str, Recipient], event: str, recipient: Recipient) -> None:
    """Remove a recipient, if it gets the messages with that name."""
    present = recipients.get(event)
    if isinstance(present, FanOut) and recipient in present.members:
        present.members.remove(recipient)
        if not present.members:
            del recipients[event]
    elif present is recipient:
        del recipients[event]


def each_of(recipients: Iterable[Recipient]) -> list[Recipient]:
    """Return the recipients, and instead of each fan-out its members."""
    return [one for each in recipients for one in (each.members if isinstance(each, FanOut) else (each,))]
