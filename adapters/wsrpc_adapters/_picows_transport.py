"""A connection of picows as a `FrameTransport`.

picows parses: it calls ``on_ws_frame`` for each frame, and answers frames that break the rules of RFC 6455 where it
detects that. It writes each frame by itself, which is most of the cost of a small message; so all frames but the Close
frame are written by the `FrameTransport`.
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
        opened: called at the end of the opening handshake, with the transport and picows' own object. The transport
            lacks the facts of the handshake.
        lost: called when the connection has ended.
    """

    # With them CPython reads an attribute in half the time: it does not specialize the access to the dict of an object
    # whose base class is an extension type.
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
        # picows wants a listener before it opens the connection. The transport is made in `on_ws_connected`.
        self._limits = limits
        self._client = client
        self._opened = opened
        self._lost = lost
        self._retrieving: asyncio.Task[None] | None = None
        """Keeps a reference to the task, as asyncio does not."""
        self.largest = limits.message_bytes
        """See `Reader`. Whatever is assigned here, picows refuses frames that are larger than ``Limits.message_bytes``
        of `listen` or `dial`."""
        self.plain = True
        self.bytes = 0
        self.messages = 0
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
        # The tap does not notice the end of this read.
        asyncio.get_running_loop().call_soon(self.read_ended, transport, 0, 0, 0.0)
        if self._opened is not None:
            self._opened(made, transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        kind = frame.msg_type
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
            return  # it ended in the turn of its handshake
        if ws.is_close_frame_sent and not self.stopped:
            # picows may have found a violation, has sent a Close frame then, and will end the connection.
            sent = ws.close_handshake.sent
            assert sent is not None
            self.transport.close_was_sent(int(sent.code), sent.reason)  # type: ignore[call-overload]
        self.transport.read_ended(size, messages, started)

    def ended(self, ws: WSTransport) -> None:
        """Let go of the transport, which refers to this object: its buffers would wait for the garbage collector.

        Retrieve picows' exception, of which the event loop would complain otherwise: of a server's violation.
        """
        del self.transport, self._delivery
        self._opened = self._lost = None
        if self._client:
            self._retrieving = asyncio.get_running_loop().create_task(_retrieve_error(ws))


class _Tap(asyncio.BufferedProtocol):
    """Protocol between the event loop and picows, which does not report where a read ends, nor the end of the input."""

    def __init__(self, picows: Any, reader: PicowsReader, ws: WSTransport) -> None:
        self._picows = picows
        self._reader = reader
        self._transport = transport = reader.transport
        self._ws = ws
        self._feed: Callable[[int], None] = picows.buffer_updated
        self._whole_buffer: Callable[[int], memoryview] = picows.get_buffer
        # Reads are bounded only after the first large one, because the buffer is small until then. The event loop's TLS
        # looks at the method once only.
        self.get_buffer = self._bounded_buffer if ws.is_secure else picows.get_buffer  # type: ignore[method-assign]
        self.pause_writing = transport.pause_writing  # type: ignore[method-assign]
        self.resume_writing = transport.resume_writing  # type: ignore[method-assign]

    def buffer_updated(self, nbytes: int) -> None:
        reader = self._reader
        reader.bytes += nbytes
        if reader.stopped:
            return  # picows does not see it, and offers the same part of its buffer for each read
        messages = reader.messages
        began = self._transport.read_started(nbytes)
        try:
            self._feed(nbytes)
        except RuntimeError:
            # picows does not know of a Close frame without a code. If it finds a violation behind that frame, it writes
            # one of its own, after the end of the sending half.
            if not reader.stopped:
                raise
        reader.read_ended(self._ws, nbytes, reader.messages - messages, began)
        if nbytes >= MUCH:
            self.get_buffer = self._bounded_buffer  # type: ignore[method-assign]

    def _bounded_buffer(self, sizehint: int) -> memoryview:
        # picows doubles its buffer whenever a read has filled it. For a client that sends without a pause it grew to
        # megabytes, and all the messages in them were handled in one go.
        return self._whole_buffer(sizehint)[: self._transport.read_size]

    def eof_received(self) -> bool | None:
        self._transport.eof_received()
        keep: bool | None = self._picows.eof_received()
        return keep

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport.connection_lost(exc)
        self._picows.connection_lost(exc)
        self._reader.ended(self._ws)
        # This object and picows' protocol refer to each other. The buffer would wait for the garbage collector.
        self.__dict__.clear()


async def _retrieve_error(ws: WSTransport) -> None:
    with suppress(WSError):
        await ws.wait_disconnected()
