"""`ItemForwarder`: forwards the items of one channel to another channel, for a call to a client of this node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from msgspec import UNSET

from .._base.names import STREAM_EVENTS
from .._core.channels.channel_core import FINISHED, ChannelCore
from .._core.inboxes.recipients import Recipient
from .._core.wire.codecs import BRACE
from .._core.wire.messages import Decode, Event, Item, WireMessage
from .._core.wire.nodes import error_to_node, is_ended_by_caller
from ..errors import (
    ChannelClosed,
    ConnectionLost,
    MessageTooBig,
    RemoteError,
    RpcError,
    StreamOverflow,
    WsrpcError,
    made_here,
)

GROWTH = 8
"""The maximum factor by which a message grows in another encoding. (A control character has one byte in MessagePack,
and six bytes in JSON.)"""

Entry = tuple[WireMessage, bytes, Decode]


class ItemForwarder(Recipient):
    """Forwards the items of the channel ``source`` to the channel ``sink``, and their credit, and the end of a channel.

    Two forwarders, one for each direction, join the channel of a calling node and the channel of a client, until one of
    the channels ends. Items, which are most of the messages, are forwarded at once and in order, and so is what asks
    for them. `PeerForwarder` handles all other messages on the two channels.

    The consumer of ``sink`` counts its credit in bytes as it receives them. The producer of ``source`` counts the bytes
    as it sends them. The two encodings may differ, so the producer gets only an eighth (`GROWTH`) of the consumer's
    credit. Then no item can exceed the consumer's credit, and no item has to wait here.

    Args:
        spawn: a function that runs a coroutine in a task.
    """

    __slots__ = (
        "_granted",
        "_producer_limit",
        "_received",
        "_sent",
        "_sink",
        "_source",
        "_spawn",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(
        self, source: ChannelCore, sink: ChannelCore, spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._source = source
        self._sink = sink
        self._spawn = spawn
        self._received = self._sent = 0
        """Total bytes of items, and of what asks for items, as received and as sent."""
        self._granted = (0, 0)
        """The consumer's credit: the total number of items, and of bytes."""
        self._producer_limit = 0
        """The total number of bytes that the producer may send."""
        self._waiting: deque[Entry] = deque()
        """Messages that wait until the connection has room."""
        self._waiting_bytes = 0
        sink.set_producer(self)
        # Also "start" and "stop". For a handler that forwarded them, there might be no room.
        for event in STREAM_EVENTS:
            source.add_recipient(event, self)

    # ------------------------------------------------------------ items

    def receive(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self._received += len(payload)
        if self._waiting or not self._pass_on(message, payload, decode):
            self._queue(message, payload, decode)

    def _pass_on(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> bool:
        """Forward a message at once. Return False if the connection has no room."""
        sink = self._sink
        if message.i is not UNSET:
            self._source.handle(message, payload, decode)
            return True
        writer = sink.writer
        if sink.over:
            return True  # it was sent before the producer could know
        if not writer.may_send:
            return False
        try:
            for number, (_, encoded) in enumerate(self._messages(message.a)):
                if not writer.send(encoded):
                    if number:  # some of several items were sent
                        del message.a[1][:number]
                    return False
                self._sent += len(encoded)
        except (MessageTooBig, TypeError, ValueError) as exc:  # the last two: an item that only MessagePack can express
            self._fail(exc)
        except ConnectionLost:
            return True  # the channel is about to end
        self._renew()
        return True

    def _messages(self, a: list[Any]) -> list[tuple[Event, bytes]]:
        """Return the messages to send for a message, also encoded: one message, or one for each of several items."""
        sink = self._sink
        terms = sink.writer.terms
        several = len(a) > 1 and a[1].__class__ is list
        if terms.batches or not several:
            whole = Event(tuple(a), UNSET, sink.id)
            encoded = terms.encode(whole)
            # If one item cannot be MessagePack, all items would be sent as JSON, and bytes in other items become text.
            if not several or terms.text is not None or encoded[0] != BRACE:
                return [(whole, encoded)]
        items = [Event((a[0], Item(value)), UNSET, sink.id) for value in a[1]]
        return [(item, terms.encode(item)) for item in items]

    # ------------------------------------------------------------ credit

    def credit_received(self, n: int, size: int) -> None:
        self._granted = (n, size)
        if self._source.has_credit:
            self._producer_limit = max(self._producer_limit, self._received + self._room)
            self._send_grant()

    @property
    def _room(self) -> int:
        """Bytes that the producer may send now."""
        room = self._granted[1] - self._sent
        return max(1, room // GROWTH) if room > 0 else 0

    def _renew(self) -> None:
        """Grant the producer more credit if it has used half of the possible credit."""
        room = self._room
        if self._producer_limit and self._producer_limit - self._received <= room // 2 and self._source.has_credit:
            self._producer_limit = max(self._producer_limit, self._received + room)
            self._send_grant()

    def _send_grant(self) -> None:
        if not self._source.over:
            self._source.writer.grant(self._source.id, self._granted[0], self._producer_limit)

    # ------------------------------------------------------------ messages that wait for room

    def _queue(self, message: WireMessage, payload: bytes | bytearray, decode: Decode) -> None:
        self._waiting_bytes += len(payload)
        most = self._source.unread_memory.limits.stream_queue_bytes
        if self._waiting_bytes > most and self._waiting:
            self._fail(
                StreamOverflow(f"{self._waiting_bytes} bytes wait to be passed on (Limits.stream_queue_bytes={most})")
            )
            return
        self._waiting.append((message, bytes(payload), decode))
        if len(self._waiting) == 1:
            self._spawn(self._send_waiting())

    async def _send_waiting(self) -> None:
        while self._waiting:
            message, payload, decode = self._waiting[0]
            if message.i is not UNSET:
                self._source.handle(message, payload, decode)
            else:
                try:
                    for event, _ in self._messages(message.a):
                        self._sent += await self._sink.owner.outbox.post(event)
                except (ChannelClosed, ConnectionLost):
                    self._waiting.clear()
                    break
                except (MessageTooBig, TypeError, ValueError) as exc:
                    self._fail(exc)
                    break
            if self._waiting:  # else the channel has failed meanwhile
                self._waiting.popleft()
                self._waiting_bytes -= len(payload)
                self._renew()
        if self._source.over:
            self.channel_ended(self._source.error)

    # ------------------------------------------------------------ the end

    def _fail(self, error: Exception) -> None:
        self._waiting.clear()
        if not isinstance(error, WsrpcError):
            error = made_here(RemoteError(f"an item cannot be passed on: {error}"))
        for channel in (self._source, self._sink):
            channel.abort(error_to_node(error) if channel.writer.settings.between_nodes else RpcError(str(error)))

    def channel_ended(self, error: Exception | None) -> None:
        if not self._waiting:
            self._source.writer.loop.call_soon(
                self._end
            )  # behind the answers that came with it: their tasks run in the next turn

    def _end(self) -> None:
        """End ``sink`` in the same way as ``source`` has ended."""
        source, sink = self._source, self._sink
        if sink.over:
            return
        reason = source.reason
        if reason is FINISHED:
            sink.finish()
        elif source.writer.settings.between_nodes and is_ended_by_caller(reason):
            sink.finish_locally()
        elif sink.writer.settings.between_nodes:
            sink.abort(error_to_node(reason) if isinstance(reason, Exception) else reason)
        elif isinstance(reason, ConnectionLost):
            sink.abort(RpcError("the connection of the caller is lost"))
        else:
            sink.abort(reason)

    def stop_sending(self) -> None:
        """Do nothing: `_pass_on` checks the channel."""

    def pop_request_ids(self) -> list[int]:
        """Remove and return the ids of the requests that wait. They end with the channel."""
        ids = [message.i for message, _, _ in self._waiting if message.i is not UNSET]
        for message, _, _ in self._waiting:
            message.i = UNSET
        return ids
