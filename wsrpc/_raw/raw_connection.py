"""`RawConnection`: a WebSocket connection without the protocol."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import msgspec

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.logs import address_text
from .._base.misuse import check_limits_change
from .._base.state import PeerState
from .._core.api.registration import registry_of
from .._core.sending.checks import check_thread, raw_payload
from .._core.wire.codecs import Codec, json_text
from .._core.wire.counting import json_nests_deeper, json_objection
from ..errors import ConnectionLost, MessageTooBig, ProtocolError
from ..limits import Limits
from ..transport import ConnectionInfo
from .raw_link import Piece, Pieces, RawLink, RawMessage

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from .._core.api.annotations import Room, Server

T = TypeVar("T")

WHOLE = (str, bytes, bytearray, memoryview)
"""Messages that are sent in one piece. They are iterable, too."""


class RawConnection:
    """Connection without the ws-wrapper protocol, for `Server.serve_raw` functions, and for services with a method
    ``serve``, ``on_json`` or ``on_message``.

    ``id`` is the name of the connection in logs. ``state`` is what `Server.on_handshake` stored in ``handshake.state``.
    ``server`` is the server. Only one task at a time may receive messages; any number of tasks may send messages.

    While no task is waiting for a message, the server reads ahead by at most about `Limits.high_water_bytes` bytes;
    after that, the client has to wait. A Close frame is noticed only after these bytes have been received. That the
    client has gone is noticed earlier, when a ping cannot be sent.
    """

    def __init__(self, link: RawLink, state: PeerState, server: Server, codec: Codec) -> None:
        self.id = link.log.id
        self.state = state
        self.server = server
        self._link = link
        self._codec = codec
        self._unfinished = False
        """Whether a part of the present message has been read, and the rest has not."""
        self._pieces_of: object = None
        """Stands for the call of `pieces` that reads the present message."""

    # ------------------------------------------------------------ state

    @property
    def info(self) -> ConnectionInfo:
        """Data of the opening handshake, such as the path, the headers and the remote address.

        ``info.underlying`` gives access to the asyncio transport, or to the object of another WebSocket library.
        """
        return self._link.transport.info

    @property
    def limits(self) -> Limits:
        """The limits of the connection. You can change one of them, the maximum size of inbound messages.

        For example: ``connection.limits = connection.limits.replace(message_bytes=4096)``. The change applies to
        messages that the server has not begun to read. All other limits are fixed after the opening handshake; see
        `Handshake.limits`.

        Raises:
            TypeError, ValueError: on assignment, if the value is not a `Limits`, or differs in more than
                ``message_bytes``.
            RuntimeError: on assignment, in a thread other than the event loop's.
        """
        return self._link.limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        link = self._link
        check_limits_change("connection.limits", link.limits, limits)
        check_thread(link.thread, "setattr, connection, 'limits'")
        link.limits = limits
        link.transport.largest = limits.message_bytes

    @property
    def rooms(self) -> tuple[Room, ...]:
        """The rooms of which this connection is a member, or was a member when it ended. See `Room.add`."""
        return tuple(self._link.rooms)

    @property
    def closed(self) -> bool:
        """Whether the connection has ended, or `close` was called. Earlier messages can still be received."""
        return self._link.closed

    @property
    def ended(self) -> CloseInfo | None:
        """How the connection ended: ``code``, ``reason``, ``was_clean`` and ``user_closed``. None if it has not ended.

        The code is 1005 if the Close frame had no code, and 1006 if the connection was dropped.
        """
        return self._link.ended

    async def wait_closed(self) -> CloseInfo:
        """Wait until the connection has ended, and return how it ended. Cancelling is safe.

        While more than about `Limits.high_water_bytes` bytes are waiting to be received, a Close frame is not noticed.
        If the client has gone, the code is then 1006.

        Raises:
            RuntimeError: called in a thread other than the event loop's.
        """
        check_thread(self._link.thread, "connection.wait_closed()")
        return await self._link.wait_ended()

    def __repr__(self) -> str:
        state = "open" if not self.closed else "closing" if self.ended is None else "closed"
        remote = self.info.remote
        return f"<RawConnection {self.id} {state}{'' if remote is None else f' remote={address_text(remote)}'}>"

    # ------------------------------------------------------------ receiving

    async def receive(self, *, max_size: int | None = None) -> RawMessage:
        """Receive a message: text as str, binary as bytes. Cancelling is safe: no message is lost.

        Args:
            max_size: the maximum size of the message in bytes. It can be at most `Limits.message_bytes`, which is the
                default.

        Raises:
            MessageTooBig: the message has more than ``max_size`` bytes. It is dropped, and the connection continues. (A
                message with more than `Limits.message_bytes` bytes closes the connection with 1009.)
            ConnectionLost: the connection has ended, and all earlier messages have been received.
            RuntimeError: another task is already receiving, or this method was called in a thread other than the event
                loop's.
            ValueError: ``max_size`` is negative, or more than `Limits.message_bytes`.
        """
        largest = self._link.limits.message_bytes
        if max_size is not None and not 0 <= max_size <= largest:
            raise ValueError(
                f"max_size= must be from 0 to Limits.message_bytes, which is {largest} here, got {max_size!r}: "
                "raise that limit of the server, or of the handshake"
            )
        await self._skip_rest()
        piece = await self._link.pieces.next()
        if piece.last:
            payload = piece.payload
            if max_size is not None and len(payload) > max_size:
                raise _too_big(len(payload), max_size)
        else:
            payload = await self._gather(piece, max_size)
        if not piece.text:
            return payload
        try:
            return payload.decode()
        except UnicodeDecodeError:
            raise await self._not_utf8() from None

    async def _gather(self, first: Piece, max_size: int | None) -> bytes:
        """Receive the rest of a message that arrives in pieces; return all of it."""
        link, piece, parts = self._link, first, bytearray(first.payload)
        while True:
            self._unfinished = not piece.last
            if max_size is not None and len(parts) > max_size:
                raise _too_big(len(parts), max_size)
            if len(parts) > (largest := link.limits.message_bytes):
                raise await link.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {largest} bytes")
            if piece.last:
                return bytes(parts)
            try:
                piece = await link.pieces.next()
            except BaseException:
                self._unfinished = False
                link.pieces.push_front(Piece(bytes(parts), first.text, False))
                raise
            parts += piece.payload

    async def _not_utf8(self) -> ConnectionLost:
        return await self._link.fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8")

    async def receive_text(self, *, max_size: int | None = None) -> str:
        """Receive a text message; see `receive`. Cancelling is safe: no message is lost.

        Raises:
            ProtocolError: the message is binary. It is dropped, and the connection continues.
        """
        message = await self.receive(max_size=max_size)
        if isinstance(message, bytes):
            raise ProtocolError(f"expected a text message, got a binary message of {len(message)} bytes")
        return message

    async def receive_bytes(self, *, max_size: int | None = None) -> bytes:
        """Receive a binary message; see `receive`. Cancelling is safe: no message is lost.

        Raises:
            ProtocolError: the message is text. It is dropped, and the connection continues.
        """
        message = await self.receive(max_size=max_size)
        if isinstance(message, str):
            raise ProtocolError(f"expected a binary message, got a text message of {len(message)} characters")
        return message

    @overload
    async def receive_json(self, *, max_size: int | None = None) -> Any: ...
    @overload
    async def receive_json(self, *, returns: TypeForm[T], max_size: int | None = None) -> T: ...

    async def receive_json(self, *, returns: Any = Any, max_size: int | None = None) -> Any:
        """Receive a message, text or binary, and decode it from JSON; see `receive`. Cancelling is safe: no message is
        lost.

        Args:
            returns: the type to which the value is converted, as for `Peer.request`.
            max_size: as for `receive`.

        Raises:
            ProtocolError: the message is not JSON, the value does not fit ``returns``, or the message exceeds
                `Limits.depth` or `Limits.values`. It is dropped, and the connection continues.
            TypeError: ``returns`` is not a type to which values can be converted.
        """
        convert = registry_of(self.server).converter(returns)
        message = await self.receive(max_size=max_size)
        payload = message.encode() if isinstance(message, str) else message
        limits = self._link.limits
        why = json_objection(payload, limits.values)
        if why is None and json_nests_deeper(payload, limits.depth):
            why = f"JSON that is nested more than {limits.depth} deep"
        if why is not None:
            raise ProtocolError(f"expected JSON within the limits, got {why}: the message was dropped")
        try:
            return convert(msgspec.json.decode(payload))
        except (ValueError, RecursionError) as exc:  # msgspec's errors are ValueErrors
            raise ProtocolError(f"expected a JSON value for {returns!r}: {exc}; the message was dropped") from exc

    async def pieces(self) -> AsyncIterator[RawMessage]:
        """Receive one message of any size, piece by piece as its frames arrive.

        Pieces of a text message are str; text is split only between characters. `Limits.message_bytes` applies to each
        frame, not to the whole message. If the WebSocket library assembles messages itself, you get each message in one
        piece, and the limit applies to the message.

        If the loop ends early or is cancelled, the rest of the message is dropped.

        Raises:
            ConnectionLost: the connection has ended, or ends within the message.
            RuntimeError: another task is already receiving, or another message was received in the meantime.
        """
        await self._skip_rest()
        mine = self._pieces_of = object()
        decoder = codecs.getincrementaldecoder("utf-8")()
        given = False
        while True:
            piece = await self._link.pieces.next()
            self._unfinished = not piece.last
            found: RawMessage = piece.payload
            if piece.text:
                try:
                    found = decoder.decode(piece.payload, piece.last)
                except UnicodeDecodeError:
                    raise await self._not_utf8() from None
            if found or (piece.last and not given):
                given = True
                yield found
            if piece.last:
                return
            if self._pieces_of is not mine:
                raise RuntimeError("another message was received meanwhile: the rest of this one is lost")

    async def _skip_rest(self) -> None:
        """Drop what is left of the message of which a part was read."""
        check_thread(self._link.thread, "connection.receive()")
        self._link.pieces.check_alone()
        self._pieces_of = None
        while self._unfinished:
            self._unfinished = not (await self._link.pieces.next()).last

    async def __aiter__(self) -> AsyncIterator[RawMessage]:
        """Receive messages until the connection is closed.

        Raises:
            ConnectionLost: the connection ended without a closing handshake.
        """
        while True:
            try:
                message = await self.receive()
            except ConnectionLost:
                if self.ended is not None and self.ended.was_clean:
                    return
                raise
            yield message

    # ------------------------------------------------------------ sending

    async def send(self, message: RawMessage | Pieces) -> None:
        """Send a message: str as text, bytes as binary, an iterable or async iterable of either type piece by piece.

        Returns when the message is accepted for sending. While more than `Limits.high_water_bytes` bytes are unsent,
        the call waits before the message and before each piece. Any number of tasks may send: messages are sent one
        after another, in the order of the calls.

        Cancelling is safe for a message in one piece: the message is then not sent. If pieces have already been sent
        when the call is cancelled or the iterable raises an exception, the connection is closed with 1011, because
        these pieces cannot be taken back.

        Raises:
            ConnectionLost: the connection has ended or is closing; ``outcome`` is ``"not_sent"``.
            TypeError: ``message`` has another type, or contains both str and bytes pieces.
            ValueError: the iterable is empty.
            RuntimeError: called in a thread other than the event loop's.
        """
        check_thread(self._link.thread, "connection.send(...)")
        value: Any = message
        if isinstance(value, (AsyncIterable, Iterable)) and not isinstance(value, WHOLE):
            if isinstance(value, Mapping):
                raise TypeError(
                    "a raw message is str or bytes, or an iterable of these, got a mapping: encode it first"
                )
            await self._link.send_pieces(cast("Pieces", value))
            return
        payload, text = raw_payload(message)
        await self._link.send(payload, text)

    async def send_json(self, value: Any) -> None:
        """Send ``value`` as JSON text. It is encoded like a handler's result; see `send`."""
        await self.send(json_text(self._codec, value))

    # ------------------------------------------------------------ closing

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection, and return when it has ended. Messages that were accepted for sending are sent first.

        Messages that have already arrived can still be received. With None as ``code``, the Close frame has no code,
        and the remote peer sees 1005. Cancelling is safe: the closing continues.

        Raises:
            ValueError: ``code`` is not allowed in a Close frame; or ``reason`` has more than 123 bytes, or is given
                without a code.
            RuntimeError: called in a thread other than the event loop's.
        """
        check_close(code, reason)
        await self._link.close(code, reason)


link_of: Callable[[RawConnection], RawLink] = attrgetter("_link")
"""The inside of a raw connection."""


def _too_big(size: int, largest: int) -> MessageTooBig:
    return MessageTooBig(f"a message of {size} bytes or more, and max_size is {largest}: it was dropped")
