"""`RawConnection`: a WebSocket connection without any protocol on it."""

from __future__ import annotations

import asyncio
import codecs
import logging
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import msgspec

from .._base.closing import CloseCode, CloseInfo, check_close
from .._base.logs import PeerLog, address_text
from .._base.scheduler import Scheduler, spawn_later
from .._base.state import PeerState
from .._channels.source import close_source, iterate
from .._conversion.convert import make_enc_hook
from .._sending.checks import check_thread, raw_payload
from .._sending.turns import Line, Turn
from ..errors import ConnectionLost, MessageTooBig, ProtocolError
from ..limits import Limits
from ..stats import PeerStats
from ..transport import ConnectionInfo, Traffic, Transport
from .feed import Feed, Piece

if TYPE_CHECKING:
    from .._server.server import Server

__all__ = ["RawConnection", "RawMessage"]

RawMessage: TypeAlias = str | bytes
"""A text message or a binary one."""

Pieces: TypeAlias = Iterable[RawMessage] | AsyncIterable[RawMessage]


class RawConnection:
    """The whole connection: what `Server.serve_raw` functions and a `Service` with ``serve`` get.

    ``id`` names it in logs; ``state`` is what `Server.on_handshake` made of the handshake's; ``server`` is whose
    connection it is. One task receives at a
    time; any number may send. While nobody receives, no more than about `Limits.high_water` bytes are read ahead, so
    that the other side is slowed down; neither does this side then see that the connection ends.
    """

    def __init__(self, transport: Transport, limits: Limits, state: PeerState, loop: Scheduler, server: Server) -> None:
        self.id = secrets.token_hex(8)
        self.state = state
        self.server = server
        self._log = PeerLog(self.id)
        self._log.remote = transport.info.remote
        self._transport = transport
        self._line = Line(loop, lambda: self._feed.full)
        self._over: asyncio.Future[None] = loop.create_future()
        self._feed = Feed(transport, self._line, limits.high_water, self._lost)
        self._largest = limits.message
        self._thread = get_ident()
        self._closing = False
        self._broken_off: asyncio.Task[None] | None = None
        self._unfinished = False
        """Whether a part of the present message has been read, and the rest has not."""
        self._pieces_of: object = None

    def _start(self) -> None:
        self._transport.start(self._feed)

    # ------------------------------------------------------------ what there is to know

    @property
    def info(self) -> ConnectionInfo:
        """What the opening handshake told; ``info.underlying`` is the library's own connection object."""
        return self._transport.info

    @property
    def closed(self) -> bool:
        """Whether the connection is over, or `close` was called; what came before can still be received."""
        return self._closing or self._feed.ended is not None

    @property
    def ended(self) -> CloseInfo | None:
        """How the connection ended: ``code`` (1005: the other side gave none, 1006: it dropped), ``reason``,
        ``was_clean``, ``user_closed``. None while it has not."""
        ended = self._feed.ended
        return msgspec.structs.replace(ended, user_closed=True) if ended is not None and self._closing else ended

    async def wait_closed(self) -> CloseInfo:
        """Wait for the end, and say how it was. It is not seen while what has arrived waits to be received, if that is
        much. Cancelling is safe."""
        check_thread(self._thread, "connection.wait_closed()")
        await asyncio.shield(self._over)
        assert self.ended is not None
        return self.ended

    def _stats(self) -> PeerStats:
        """What a server adds up; as a handler, its function runs."""
        passed: Traffic | None = getattr(self._transport, "traffic", None)
        return PeerStats(
            id=self.id,
            uptime=0.0,
            messages_in=None if passed is None else passed.messages_in,
            messages_out=None if passed is None else passed.messages_out,
            bytes_in=None if passed is None else passed.bytes_in,
            bytes_out=None if passed is None else passed.bytes_out,
            unsent=self._transport.unsent,
            slow=self._feed.full,
            dropped=0,
            pending=0,
            active=1,
            waiting=0,
            channels=0,
            errors=self._log.errors,
            ignored={},
        )

    def _lost(self) -> None:
        if not self._over.done():
            self._over.set_result(None)

    def __repr__(self) -> str:
        state = "open" if not self.closed else "closing" if self._feed.ended is None else "closed"
        remote = self.info.remote
        return f"<RawConnection {self.id} {state}{'' if remote is None else f' remote={address_text(remote)}'}>"

    # ------------------------------------------------------------ receiving

    async def receive(self, *, max_size: int | None = None) -> RawMessage:
        """The next message, text as str, binary as bytes. Cancelling is safe: nothing is lost.

        Args:
            max_size: bytes; at most `Limits.message`, which is the default.

        Raises:
            MessageTooBig: more than ``max_size``. The message is thrown away, the connection goes on. (More than
                `Limits.message` closes it, with 1009.)
            ConnectionLost: the connection is over, and everything that came before has been received.
            RuntimeError: another task receives already.
            ValueError: ``max_size`` is more than `Limits.message`.
        """
        if max_size is not None and not 0 <= max_size <= self._largest:
            raise ValueError(
                f"max_size= is from 0 to Limits.message, which is {self._largest} here, got {max_size!r}: give the "
                "server, or handshake.limits, more"
            )
        await self._skip_rest()
        piece = await self._feed.next()
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
            raise await self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8") from None

    async def _gather(self, first: Piece, max_size: int | None) -> bytes:
        """The whole of a message that comes in pieces."""
        piece, parts = first, bytearray(first.payload)
        while True:
            self._unfinished = not piece.last
            if max_size is not None and len(parts) > max_size:
                raise _too_big(len(parts), max_size)
            if len(parts) > self._largest:
                raise await self._fail(CloseCode.MESSAGE_TOO_BIG, f"more than {self._largest} bytes")
            if piece.last:
                return bytes(parts)
            try:
                piece = await self._feed.next()
            except BaseException:
                self._unfinished = False
                self._feed.put_back(Piece(bytes(parts), first.text, False))
                raise
            parts += piece.payload

    async def receive_text(self, *, max_size: int | None = None) -> str:
        """The next message, which is to be text; see `receive`.

        Raises:
            ProtocolError: it is binary. It is thrown away, the connection goes on.
        """
        message = await self.receive(max_size=max_size)
        if isinstance(message, bytes):
            raise ProtocolError(f"expected a text message, got a binary one of {len(message)} bytes")
        return message

    async def receive_bytes(self, *, max_size: int | None = None) -> bytes:
        """The next message, which is to be binary; see `receive`.

        Raises:
            ProtocolError: it is text. It is thrown away, the connection goes on.
        """
        message = await self.receive(max_size=max_size)
        if isinstance(message, str):
            raise ProtocolError(f"expected a binary message, got a text of {len(message)} characters")
        return message

    async def pieces(self) -> AsyncIterator[RawMessage]:
        """The next message, piece by piece as its frames arrive, whatever its size; only a frame is bounded, by
        `Limits.message`. Pieces of a text message are str, cut between characters.

        What is left of it when the loop is left, or cancelled, is thrown away. A library that puts messages together
        gives it in one piece, and bounds it.

        Raises:
            ConnectionLost: the connection is over, or ends within the message.
            RuntimeError: another task receives already, or has since.
        """
        await self._skip_rest()
        mine = self._pieces_of = object()
        decoder = codecs.getincrementaldecoder("utf-8")()
        given = False
        while True:
            piece = await self._feed.next()
            self._unfinished = not piece.last
            found: RawMessage = piece.payload
            if piece.text:
                try:
                    found = decoder.decode(piece.payload, piece.last)
                except UnicodeDecodeError:
                    raise await self._fail(CloseCode.INVALID_DATA, "a text message that is not UTF-8") from None
            if found or (piece.last and not given):
                given = True
                yield found
            if piece.last:
                return
            if self._pieces_of is not mine:
                raise RuntimeError("another message was received meanwhile: the rest of this one is gone")

    async def _skip_rest(self) -> None:
        check_thread(self._thread, "connection.receive()")
        self._feed.check_alone()
        self._pieces_of = None
        while self._unfinished:
            self._unfinished = not (await self._feed.next()).last

    async def __aiter__(self) -> AsyncIterator[RawMessage]:
        """The messages until the connection is closed.

        Raises:
            ConnectionLost: it was not closed in good order.
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
        """Send a message: str as text, bytes as binary, an iterable (also an async one) of either piece by piece.

        Returns when it is accepted for sending; it waits while more than `Limits.high_water` bytes are unsent, before
        each piece, too. Any number of tasks may send: messages leave one after another, in the order of the calls,
        never mixed. Cancelling is safe for a whole message, which is then not sent; a message of which pieces have
        left cannot be finished, so that cancelling, or what the iterable raises, closes the connection with 1011.

        Raises:
            ConnectionLost: the connection is over, or closing; ``outcome="not_sent"``.
            TypeError: this is no message, or pieces are of two kinds.
            ValueError: the iterable gave nothing, so that there is no message.
            RuntimeError: in another thread than the event loop's.
        """
        check_thread(self._thread, "connection.send(...)")
        given: Any = message
        if isinstance(given, (AsyncIterable, Iterable)) and not isinstance(given, WHOLE):
            if isinstance(given, Mapping):
                raise TypeError(
                    "a raw message is str or bytes, or an iterable of these, got a mapping: encode it first"
                )
            await self._send_pieces(cast("Pieces", given))
            return
        payload, text = raw_payload(message)
        self._check_open()
        if not self._line.busy:
            self._transport.send(payload, text)
            return
        turn = await self._take_turn()
        try:
            self._check_open()
            self._transport.send(payload, text)
        finally:
            turn.end()

    async def send_json(self, value: Any) -> None:
        """Send ``value`` as JSON text, encoded as a handler's result is; see `send`."""
        await self.send(_encode_json(value).decode())

    async def _take_turn(self) -> Turn:
        turn = Turn(self._line)
        if self._line.busy:
            await turn.wait()
        else:
            turn.begin()
        return turn

    async def _send_pieces(self, pieces: Pieces) -> None:
        self._check_open()
        turn = await self._take_turn()
        kind: bool | None = None
        begun = False
        try:
            self._check_open()
            async for piece in iterate(pieces):
                payload, text = raw_payload(piece)
                if kind is None:
                    kind = text
                elif kind is not text:
                    raise TypeError("the pieces of a message are all str or all bytes, got both")
                if self._feed.full:
                    await turn.wait()
                self._transport.send_piece(payload, text, False)
                begun = True
            if kind is None:
                raise ValueError("no pieces came, so there is no message: send an empty str or bytes for an empty one")
            self._transport.send_piece(b"", kind, True)
        except BaseException:
            if begun and not self.closed:
                self._break_off()
            raise
        finally:
            turn.end()
            await close_source(pieces)

    def _break_off(self) -> None:
        """A message cannot be finished, and nothing else can be sent without that."""
        closing = self._transport.close(CloseCode.INTERNAL_ERROR, UNFINISHED)
        self._broken_off = spawn_later(closing)

    def _check_open(self) -> None:
        ended = self._feed.ended
        if ended is not None:
            raise ConnectionLost(ended.code, ended.reason, "not_sent")
        if self._broken_off is not None:
            raise ConnectionLost(CloseCode.INTERNAL_ERROR, UNFINISHED, "not_sent")

    # ------------------------------------------------------------ closing

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """End the connection: what was accepted is written, then the Close frame; returns when it is over.

        What had arrived can still be received. With None as code the Close frame has none, and the other side is told
        1005. Cancelling is safe, the closing goes on.

        Raises:
            ValueError: the code may not be sent, or the reason has more than 123 bytes or comes without a code.
        """
        check_close(code, reason)
        if self._feed.ended is not None:
            return
        check_thread(self._thread, "connection.close()")
        self._closing = True
        self._feed.stop()
        await self._transport.close(code, reason)

    async def _finish(self, code: int, reason: str) -> None:
        """Whoever served it is done: close unless that was done, and leave nothing behind."""
        if self._broken_off is not None:
            await self._broken_off
        elif self._feed.ended is None:
            await self.close(code, reason)

    async def _fail(self, code: int, reason: str) -> ConnectionLost:
        self._log(logging.WARNING, "closing the connection with %d: %s", code, reason)
        self._feed.stop()
        await self._transport.close(code, reason)
        return ConnectionLost(code, reason)


_encode_json = msgspec.json.Encoder(enc_hook=make_enc_hook(None)).encode

UNFINISHED = "a message was left unfinished"

WHOLE = (str, bytes, bytearray, memoryview)


def _too_big(size: int, largest: int) -> MessageTooBig:
    return MessageTooBig(f"a message of {size} bytes or more, and max_size is {largest}: it is thrown away")
