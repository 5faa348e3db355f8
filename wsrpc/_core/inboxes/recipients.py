"""Recipients: objects that get the messages of one event name on a channel, in place of the handlers."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UNSET

from ..wire.counting import decode_any
from ..wire.messages import Decode, WireMessage


class Recipient:
    """Receives the messages of one event name on a channel, in place of the handlers.

    Recipients are:

    - each `Inbox`, and a `RecipientGroup` for several of them,
    - producers, which receive the requests of their consumer,
    - `MismatchDetector`, and the part of a `Stream` that learns the id of a run,
    - `ItemForwarder` of ``cluster``, which passes items on to another channel.
    """

    __slots__ = ()

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        raise NotImplementedError

    def channel_ended(self, error: Exception | None) -> None:
        """Receive nothing more. ``error`` says why; None at a good end."""

    def pop_request_ids(self) -> list[int]:
        """Return the ids of requests that have no answer yet. The caller answers these requests."""
        return []


class RecipientGroup(Recipient):
    """Several recipients of one event name on a channel. Each member gets every event."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: list[Recipient] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.members!r}>"

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self.pass_on(message, payload, decode, handled=False)

    def pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode, *, handled: bool) -> None:
        """Pass a message to all members. ``handled`` says whether a handler gets the message, too."""
        members = self.members
        if len(members) == 1 and not handled:
            members[0].receive(message, payload, decode)
            return
        i = message.i
        for member in tuple(members):
            own = decode_any(decode, payload)  # if a reader changes its values, the values of other readers stay
            own.i, i = i, UNSET  # only the first member answers
            member.receive(own, payload, decode)


class MismatchDetector(Recipient):
    """Recipient of messages which show that the two sides expect different things of a channel.

    Otherwise both sides would wait for each other without a limit.
    """

    __slots__ = ("_detected",)

    def __init__(self, detected: Callable[[], None]) -> None:
        self._detected = detected

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self._detected()


class RecipientTable(dict[str, Recipient]):
    """The recipients on one channel, by event name."""

    __slots__ = ()

    def add(
        self, event: str, recipient: Recipient, make_group: Callable[[], RecipientGroup] | None, occupied: str
    ) -> None:
        """Add a recipient of the messages with the name ``event``.

        Args:
            make_group: makes the group in which the recipient shares the messages with others. None: the recipient
                shares nothing.
            occupied: the text of the error.

        Raises:
            RuntimeError: there is another recipient, and one of the two does not share the messages.
        """
        present = self.get(event)
        if make_group is None and present is None:
            self[event] = recipient
        elif make_group is not None and (present is None or isinstance(present, RecipientGroup)):
            if present is None:
                present = self[event] = make_group()
            present.members.append(recipient)
        else:
            raise RuntimeError(occupied)

    def remove(self, event: str, recipient: Recipient) -> None:
        """Remove a recipient, if it gets the messages with the name ``event``."""
        present = self.get(event)
        if isinstance(present, RecipientGroup) and recipient in present.members:
            present.members.remove(recipient)
            if not present.members:
                del self[event]
        elif present is recipient:
            del self[event]

    def of(self, event: str) -> list[Recipient]:
        """Return the recipients of the messages with the name ``event``, each member of a group for itself."""
        present = self.get(event)
        return list(present.members) if isinstance(present, RecipientGroup) else [] if present is None else [present]

    def each(self) -> list[Recipient]:
        """Return each recipient once, with the members of groups in place of the groups."""
        found: dict[Recipient, None] = {}
        for present in self.values():
            found |= dict.fromkeys(present.members if isinstance(present, RecipientGroup) else (present,))
        return list(found)

    def pop_request_ids(self) -> list[int]:
        """Return the ids of requests that have no answer yet. The caller answers these requests."""
        return [i for one in self.each() for i in one.pop_request_ids()]
