"""Messages as `message` handlers see them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import UNSET

from ...errors import BoundedRepr, RemoteError
from ..wire.counting import decode_any
from ..wire.messages import WireMessage, channel_id, id_from_wire
from ..wire.rejections import error_from_wire, reason_from_wire


class _Head(NamedTuple):
    """The fields that are kept of a decoded message."""

    kind: str
    """The kind of the message, in the words of `Message.describe`."""
    event: str | None
    id: int | None
    channel_name: str | None
    channel_id: int | None


def _head_of(fields: WireMessage, kind: str) -> _Head:
    """Return the head of a message. ``kind`` is for a message that is not of the protocol."""
    h = None if fields.h is None else channel_id(fields.h)
    i = id_from_wire(fields.i)
    i = i if i.__class__ is int else None
    if fields.a is not UNSET:
        event = fields.a[0] if fields.a.__class__ is list and fields.a and fields.a[0].__class__ is str else None
        name = fields.c if fields.h is None and fields.c.__class__ is str else None
        return _Head(kind, event, i, name, h)
    if fields.x is not UNSET:
        return _Head("cancellation" if fields.h is None else "abort", None, i, None, h)
    if i is None:
        return _Head(kind, None, None, None, h)
    if fields.e is not UNSET:
        return _Head("error", None, i, None, None)
    return _Head("channel", None, i, None, i) if fields.h else _Head("result", None, i, None, None)


class Message:
    """Inbound message that ``message`` handlers get.

    ``payload`` is the message as it arrived, and ``text`` says whether it was a text message.

    Events and requests have an ``event`` and ``args``, and requests also an ``id``. A response has the ``id`` of the
    request, and ``result`` or ``error``. A cancellation has the ``id`` of the request that is cancelled, and
    ``cancel_reason``. ``channel_name`` is the name of the channel of an event or a request. ``channel_id`` is the
    number of the anonymous channel to which a message belongs, or which it opens or aborts. An abort also has
    ``cancel_reason``.

    An attribute is None if the message does not contain it, or is not a protocol message; ``args`` is then empty. Each
    access to ``args``, ``result``, ``error`` or ``cancel_reason`` decodes the message again, so store the value in a
    variable if you need it more than once. Changing these values does not change the message.
    """

    __slots__ = ("_decode", "_done", "_finished", "_head", "payload", "text")

    def __init__(
        self,
        payload: bytes,
        text: bool,
        decode: Callable[[bytes | bytearray], WireMessage] | None,
        fields: WireMessage | None,
    ) -> None:
        """``decode`` decodes ``payload``, which gives ``fields``. None if ``payload`` is not of the protocol."""
        self.payload = payload
        self.text = text
        self._decode = decode
        self._head = (
            _Head("foreign message", None, None, None, None)
            if fields is None
            else _head_of(fields, "malformed message")
        )
        self._done = False
        """Whether the message has been processed."""
        self._finished: asyncio.Future[None] | None = None
        """Done when the message has been processed. None unless a caller waits for that."""

    @property
    def event(self) -> str | None:
        return self._head.event

    @property
    def id(self) -> int | None:
        return self._head.id

    @property
    def channel_name(self) -> str | None:
        return self._head.channel_name

    @property
    def channel_id(self) -> int | None:
        return self._head.channel_id

    @property
    def args(self) -> tuple[Any, ...]:
        a = self._read().a
        return tuple(a[1:]) if a.__class__ is list else ()

    @property
    def result(self) -> Any:
        fields = self._read()
        return fields.d if self._head.kind == "result" and fields.d is not UNSET else None

    @property
    def error(self) -> RemoteError | None:
        fields = self._read()
        return error_from_wire(fields.e, fields.flag) if self._head.kind == "error" else None

    @property
    def cancel_reason(self) -> Any:
        fields = self._read()
        return reason_from_wire(fields.x, fields.flag) if fields.a is UNSET and fields.x is not UNSET else None

    def _read(self) -> WireMessage:
        """Decode the message.

        The decoded values are not kept: they may take 70 times as much memory as ``payload``, and many messages may
        wait for their handlers.
        """
        return WireMessage() if self._decode is None else decode_any(self._decode, self.payload)

    async def processed(self) -> None:
        """Wait until the message has been processed. Cancelling is safe.

        If the message has a handler, this method also waits for the handler to finish.
        """
        if self._done:
            return
        if self._finished is None:
            self._finished = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._finished)

    def _mark_processed(self) -> None:
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
        event = self.event
        if event is None:
            head = self._head
            which = (
                f" of channel {head.channel_id}" if head.kind == "abort" else "" if head.id is None else f" #{head.id}"
            )
            return f"{head.kind}{which}, {len(self.payload)} bytes"
        args = self.args if redact is None else redact(event, self.args)
        shown = ", ".join(_bounded(arg, limit) for arg in args)
        if len(shown) > limit:
            shown = shown[: limit - 1] + "…"
        where = "" if self.channel_id is None else f"channel {self.channel_id}: "
        if self.channel_name is not None:
            where = f"{_bounded(self.channel_name, limit)[1:-1]}: "
        kind = "event" if self.id is None else f"request #{self.id}"
        return f"{kind} {where}{_bounded(event, limit)[1:-1]}({shown})"

    def __str__(self) -> str:
        return self.describe()

    def __repr__(self) -> str:
        return f"<Message {self.describe(limit=60)}>"


def mark_processed(message: Message | None) -> None:
    """End the waits of `Message.processed`. Idempotent. ``message`` is None without a `message` handler."""
    if message is not None:
        message._mark_processed()  # pyright: ignore[reportPrivateUsage]


def _bounded(value: object, limit: int) -> str:
    # A long string is cut first, so that repr() does not make a second long string; repr() keeps it on one line.
    try:
        return repr(value[:limit]) if isinstance(value, (str, bytes)) else BoundedRepr().repr(value)
    except Exception:  # the `repr` of a value from a `redact` function or from middleware may raise any exception
        return f"<{type(value).__name__}>"
