"""A connection of picows as a `FrameTransport`.

picows parses the input, and calls ``on_ws_frame`` for each frame. It also answers frames in which it detects a
violation of RFC 6455. picows would write each frame by itself, which is most of the cost of a small message. So the
`FrameTransport` writes all frames, except for the Close frame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from picows import WSError, WSFrame, WSListener, WSMsgType, WSTransport

from wsrpc import Limits
from wsrpc._net.loop_budget import MUCH
from wsrpc._net.websocket import FrameTransport
from wsrpc._net.websocket_output import OpeningResult
from wsrpc.adapting import Delivery
from wsrpc.transport import ConnectionInfo

TEXT, BINARY = WSMsgType.TEXT, WSMsgType.BINARY


class PicowsReader(WSListener):
    """Passes the frames of one connection to its transport.

    Args:
        opened: called at the end of the opening handshake, with the transport and picows' own transport. The transport
            does not have the facts of the handshake yet.
        lost: called when the connection has ended.
    """

    # With slots, CPython reads an attribute in half the time: CPython does not specialize the access to the dict of an
    # object whose base class is an extension type.
    __slots__ = (
        "_client",
        "_delivery",
        "_limits",
        "_lost",
        "_opened",
        "_retrieving",
        "bytes",
        "largest",
        "messages",
        "partial",
        "plain",
        "stopped",
        "transport",
    )

    transport: FrameTransport
    _delivery: Delivery

    def __init__(
        self,
        limits: Limits,
        *,
        client: bool,
        opened: Callable[[FrameTransport, WSTransport], None] | None = None,
        lost: Callable[[Exception | None], None] | None = None,
    ) -> None:
        # picows needs this object before it opens the connection. `on_ws_connected` then makes the transport.
        self._limits = limits
        self._client = client
        self._opened = opened
        self._lost = lost
        self._retrieving: asyncio.Task[None] | None = None
        """Keeps the task alive, because asyncio does not."""
        self.largest = limits.message_bytes
        """See `Reader`. A larger value has no effect: picows refuses frames that are larger than
        ``Limits.message_bytes`` of `listen` or `dial`."""
        self.plain = True
        self.bytes = 0
        self.messages = 0
        self.partial = False
        """Whether the last read was a part of one frame, without its end. picows does not tell what else has begun."""
        self.stopped = False

    def ignore_rest(self) -> None:
        self.stopped = True
        self.plain = False

    # ------------------------------------------------------------ what picows calls

    def on_ws_connected(self, transport: WSTransport) -> None:
        def write_close(payload: bytes) -> None:
            ws: Any = transport
            if payload:
                ws.send_close(int.from_bytes(payload[:2], "big"), payload[2:])
            else:
                ws.send(WSMsgType.CLOSE, payload)

        tcp = transport.underlying_transport
        opened = OpeningResult(client=self._client, info=ConnectionInfo())
        self.transport = made = FrameTransport(tcp, self, opened, self._limits, self._lost, write_close)
        self._delivery = made.delivery
        tcp.set_protocol(_Tap(tcp.get_protocol(), self, transport))
        # picows handles the rest of this read before the tap is in place, so the tap cannot report the end of the read.
        asyncio.get_running_loop().call_soon(self.read_ended, transport, 0, 0, 0.0)
        if self._opened is not None:
            self._opened(made, transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
        self.partial = False
        if (
            self.plain
            and (kind is TEXT or kind is BINARY)
            and frame.fin
            and not (frame.rsv1 or frame.rsv2 or frame.rsv3)
            and frame.payload_size <= self.largest
        ):
            self.messages += 1
            receiver = self._delivery.receiver
            (self._delivery if receiver is None else receiver).receive(frame.get_payload_as_bytes(), kind is TEXT)
        else:
            first = frame.fin << 7 | frame.rsv1 << 6 | frame.rsv2 << 5 | frame.rsv3 << 4 | kind.value
            self.transport.frame(first, frame.get_payload_as_bytes())

    def read_ended(self, ws: WSTransport, size: int, messages: int, started: float) -> None:
        """End a read, after picows has parsed it."""
        if ws.is_disconnected:
            return  # the connection ended in the same turn of the event loop as its handshake
        if ws.is_close_frame_sent and not self.stopped:
            # picows has found a violation. It has sent a Close frame by itself, and will end the connection.
            sent = ws.close_handshake.sent
            assert sent is not None
            self.transport.close_was_sent(int(sent.code), sent.reason)  # type: ignore[call-overload]
        self.transport.read_ended(size, messages, started)

    def ended(self, ws: WSTransport) -> None:
        """Release the transport, which refers to this object: its buffers would wait for the garbage collector.

        If a server has violated the protocol, picows has an exception. Retrieve the exception, because otherwise the
        event loop would log it.
        """
        del self.transport, self._delivery
        self._opened = self._lost = None
        if self._client:
            self._retrieving = asyncio.get_running_loop().create_task(_retrieve_error(ws))


class _Tap(asyncio.BufferedProtocol):
    """Protocol between the event loop and picows. picows itself reports neither the end of a read nor of the input."""

    def __init__(self, picows: Any, reader: PicowsReader, ws: WSTransport) -> None:
        self._picows = picows
        self._reader = reader
        self._transport = transport = reader.transport
        self._ws = ws
        self._feed: Callable[[int], None] = picows.buffer_updated
        self._whole_buffer: Callable[[int], memoryview] = picows.get_buffer
        # Before the first large read, the buffer is small, and reads need no limit. But the event loop's TLS keeps the
        # first `get_buffer`, so with TLS reads are limited from the start.
        self.get_buffer = self._bounded_buffer if ws.is_secure else picows.get_buffer  # type: ignore[method-assign]
        self.pause_writing = transport.pause_writing  # type: ignore[method-assign]
        self.resume_writing = transport.resume_writing  # type: ignore[method-assign]

    def buffer_updated(self, nbytes: int) -> None:
        reader = self._reader
        reader.bytes += nbytes
        if reader.stopped:
            return  # picows does not get this read, so the next read overwrites the same part of its buffer
        messages = reader.messages
        reader.partial = True
        began = self._transport.read_started(nbytes)
        try:
            self._feed(nbytes)
        except RuntimeError:
            # picows does not notice that this side has sent a Close frame without a code. If picows then finds a
            # violation, it tries to send a Close frame of its own, although the sending half has ended.
            if not reader.stopped:
                raise
        reader.read_ended(self._ws, nbytes, reader.messages - messages, began)
        if nbytes >= MUCH:
            self.get_buffer = self._bounded_buffer  # type: ignore[method-assign]

    def _bounded_buffer(self, sizehint: int) -> memoryview:
        # picows doubles its buffer whenever a read has filled it. For a client that sent without a pause, the buffer
        # grew to megabytes, and the handlers of all messages in it ran in one turn of the event loop.
        return self._whole_buffer(sizehint)[: self._transport.read_size]

    def eof_received(self) -> bool | None:
        self._transport.eof_received()
        keep: bool | None = self._picows.eof_received()
        return keep

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport.connection_lost(exc)
        self._picows.connection_lost(exc)
        self._reader.ended(self._ws)
        # This object and picows' protocol refer to each other, so the buffer would wait for the garbage collector.
        self.__dict__.clear()


async def _retrieve_error(ws: WSTransport) -> None:
    with suppress(WSError):
        await ws.wait_disconnected()
