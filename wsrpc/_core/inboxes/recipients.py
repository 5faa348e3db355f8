"""Recipients of messages: one for each event name on a channel, in place of the handlers."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from ..wire.counting import decode_any
from ..wire.messages import WireMessage

Decode = Callable[[bytes | bytearray], WireMessage]


class Recipient:
    """Receives the messages of one event name on a channel, in place of the handlers.

    Each `Inbox` does (and `FanOut` for several of them), and so do producers, which receive what the consumer asks for,
    `MismatchDetector`, and `ItemForwarder` of ``cluster``, which passes items on to another channel.
    """

    __slots__ = ()

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        raise NotImplementedError

    def channel_ended(self, error: Exception | None) -> None:
        """Take note that nothing more will arrive. ``error`` says why; None at a good end."""

    def take_request_ids(self) -> list[int]:
        """Return the ids of requests that have no answer yet, and forget them: they will not be answered from here."""
        return []


class FanOut(Recipient):
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


class MismatchDetector(Recipient):
    """Recipient of messages which show that the two sides expect different things of a channel.

    Without it both sides would wait for each other without a limit.
    """

    __slots__ = ("_detected",)

    def __init__(self, detected: Callable[[], None]) -> None:
        self._detected = detected

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self._detected()


class Recipients(dict[str, Recipient]):
    """The recipients on one channel, by event name."""

    __slots__ = ()

    def add(self, event: str, recipient: Recipient, fan_out: Callable[[], FanOut] | None, taken: str) -> None:
        """Add a recipient of the messages with that name.

        Args:
            fan_out: makes the fan-out through which the recipient shares the messages with others. None: it shares
                nothing.
            taken: the text of the error.

        Raises:
            RuntimeError: something receives the messages already, and one of the two does not share them.
        """
        present = self.get(event)
        if fan_out is None and present is None:
            self[event] = recipient
        elif fan_out is not None and (present is None or isinstance(present, FanOut)):
            if present is None:
                present = self[event] = fan_out()
            present.members.append(recipient)
        else:
            raise RuntimeError(taken)

    def remove(self, event: str, recipient: Recipient) -> None:
        """Remove a recipient, if it gets the messages with that name."""
        present = self.get(event)
        if isinstance(present, FanOut) and recipient in present.members:
            present.members.remove(recipient)
            if not present.members:
                del self[event]
        elif present is recipient:
            del self[event]

    def of(self, event: str) -> list[Recipient]:
        """Return the recipients of the messages with that name, and instead of a fan-out its members."""
        present = self.get(event)
        return list(present.members) if isinstance(present, FanOut) else [] if present is None else [present]

    def each(self) -> list[Recipient]:
        """Return each recipient once, and instead of a fan-out its members."""
        found: dict[Recipient, None] = {}
        for present in self.values():
            found |= dict.fromkeys(present.members if isinstance(present, FanOut) else (present,))
        return list(found)

    def take_request_ids(self) -> list[int]:
        """Return the ids of requests that have no answer yet, and forget them."""
        return [i for one in self.each() for i in one.take_request_ids()]
