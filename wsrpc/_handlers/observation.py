"""Messages as `message` handlers see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from operator import methodcaller
from typing import Any

from .._protocol.counting import decode_any
from .._protocol.messages import WireMessage
from ..errors import BoundedRepr

__all__ = ["Message", "finish"]


class Message:
    """Inbound message that ``message`` handlers get.

    ``payload`` is the message as it arrived, and ``text`` says whether it was a text message. If the message is not a
    protocol message, ``event``, ``id`` and ``channel_name`` are None, and ``args`` is empty. The same applies to a
    field that the message does not contain. Each access to ``args`` decodes the arguments again, so store them in a
    variable if you need them more than once. Changing these values does not change the message.
    """

    __slots__ = ("_decode", "_done", "_finished", "_head", "payload", "text")

    def __init__(self, payload: bytes, text: bool, decode: Callable[[bytes | bytearray], WireMessage] | None) -> None:
        """``decode`` reads ``payload``; None if that is not a message of the protocol."""
        self.payload = payload
        self.text = text
        self._decode = decode
        self._head: tuple[str | None, int | None, str | None] | None = None
        """Event, id and channel name, once one of them was asked for."""
        self._done = False
        """Whether the message has been processed."""
        self._finished: asyncio.Future[None] | None = None
        """Ends with the processing, if anything waits for that."""

    @property
    def event(self) -> str | None:
        return self._read_head()[0]

    @property
    def id(self) -> int | None:
        return self._read_head()[1]

    @property
    def channel_name(self) -> str | None:
        return self._read_head()[2]

    @property
    def args(self) -> tuple[Any, ...]:
        return tuple(self._read()[1:])

    def _read_head(self) -> tuple[str | None, int | None, str | None]:
        if self._head is None:
            self._read()
        assert self._head is not None
        return self._head

    def _read(self) -> list[Any]:
        """Decode the event's name and its arguments.

        They are not kept: decoded, a message may take 70 times as much memory as ``payload``, and many messages may
        wait for their handlers.
        """
        fields = WireMessage() if self._decode is None else decode_any(self._decode, self.payload)
        a: list[Any] = fields.a if fields.a.__class__ is list else []
        event = a[0] if a and isinstance(a[0], str) else None
        name = fields.c if fields.h is None and isinstance(fields.c, str) else None
        self._head = event, fields.i if fields.i.__class__ is int else None, name
        return a

    async def processed(self) -> None:
        """Wait until the message has been processed. Cancelling is safe.

        If the message has a handler, this method also waits for the handler to finish.
        """
        if self._done:
            return
        if self._finished is None:
            self._finished = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._finished)

    def _finish(self) -> None:
        self._done = True
        if self._finished is not None and not self._finished.done():
            self._finished.set_result(None)

    def describe(
        self, *, limit: int = 200, redact: Callable[[str, tuple[Any, ...]], tuple[Any, ...]] | None = None
    ) -> str:
        """Return a description of the message, as one line for a log.

        Args:
            limit: approximate maximum number of characters of the arguments in the line.
            redact: a function ``redact(event, args)`` that returns the arguments to show.
        """
        args = self.args  # decodes the message, so that `event` and the others need not
        event = self.event
        if event is None:
            kind = "foreign message" if self._decode is None else "answer or notice"
            which = "" if self.id is None else f" #{self.id}"
            return f"{kind}{which}, {len(self.payload)} bytes"
        if redact is not None:
            args = redact(event, args)
        shown = ", ".join(_bounded(arg, limit) for arg in args)
        if len(shown) > limit:
            shown = shown[: limit - 1] + "…"
        where = "" if self.channel_name is None else f"{_bounded(self.channel_name, limit)[1:-1]}: "
        kind = "event" if self.id is None else f"request #{self.id}"
        return f"{kind} {where}{_bounded(event, limit)[1:-1]}({shown})"

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        return f"<Message {self.describe(limit=60)}>"


_finish: Callable[[Message], None] = methodcaller("_finish")


def finish(message: Message | None) -> None:
    """Let everybody who waits for `Message.processed` go on. Idempotent; None: no `message` handler observes."""
    if message is not None:
        _finish(message)


def _bounded(value: object, limit: int) -> str:
    # A long string is cut first, so that repr() does not make a second long string; repr() keeps it on one line.
    try:
        return repr(value[:limit]) if isinstance(value, (str, bytes)) else BoundedRepr().repr(value)
    except Exception:  # of a value that a `redact` function returned, or that middleware has put among the arguments
        return f"<{type(value).__name__}>"
