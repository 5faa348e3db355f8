"""Emitting to many: encoded once for each codec, held up by nobody, with a report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable
from contextlib import suppress
from typing import Any, cast

import msgspec

from ._behind import KeepLatest, Slow
from ._codec import Codec
from ._messages import Event
from ._outbound import BRACE, check_sending, check_thread, event_on
from ._types import ChannelRef
from .errors import ConnectionLost, MessageTooBig, PeerError, QueueFull
from .peer import Peer

__all__ = ["Audience", "EmitReport"]

BURST = 64
"""Broadcasts without a turn for others."""
PATIENCE = 0.1
"""Seconds that emitting to many waits, in all, for peers whose line is full."""

Encode = Callable[[Any], bytes]


class EmitReport(msgspec.Struct, frozen=True):
    """What became of emitting to many.

    ``sent`` is to how many peers it was sent, or waits to be; ``dropped`` for how many it was left out, as the policy
    for slow readers says; ``errors`` has one error for each peer that failed.
    """

    sent: int
    errors: tuple[PeerError, ...] = ()
    dropped: int = 0


class Encoded(dict[Encode, tuple[bytes, bool]]):
    """One message in each encoding that is asked for, and whether it is text."""

    def __init__(self, message: Event, codec: Codec) -> None:
        self._message = message
        self[codec.encode] = (codec.encode(message), codec.text)

    def __missing__(self, encode: Encode) -> tuple[bytes, bool]:
        payload = encode(self._message)
        made = self[encode] = (payload, payload[0] == BRACE)  # a negotiated codec chooses for each message
        return made


class Raw(dict[Encode, tuple[bytes, bool]]):
    """A message that is no event: the same for all."""

    def __init__(self, data: str | bytes) -> None:
        self.made = (data.encode(), True) if isinstance(data, str) else (bytes(data), False)

    def __missing__(self, encode: Encode) -> tuple[bytes, bool]:
        return self.made


class Audience:
    """The peers of a server or the members of a room, as those to whom something is sent.

    ``slow`` is the policy for members whose line is full; ``lost`` is told of each that turns out to be gone.
    """

    def __init__(
        self, peers: Collection[Peer], codec: Codec, slow: Slow = "close", lost: Callable[[Peer], object] | None = None
    ) -> None:
        self.peers = peers
        self.slow: Slow = slow
        self._codec = codec
        self._lost = lost
        self._sent = 0

    async def emit(self, channel: ChannelRef, event: str, args: tuple[Any, ...], skip: Peer | None) -> EmitReport:
        """See `Server.emit`."""
        check_sending(channel, event, None)
        encoded = Encoded(event_on(channel, (event, *args)), self._codec)
        key = (self, channel, event, _key(self.slow, args))
        return await self._send(encoded, key, skip)

    async def send_raw(self, data: str | bytes, skip: Peer | None) -> EmitReport:
        """See `Server.send_raw`."""
        kind: Any = data
        if not isinstance(kind, (str, bytes, bytearray, memoryview)):
            raise TypeError(f"a raw message is text or bytes, got {kind!r}")
        return await self._send(Raw(data), (self, _key(self.slow, (data,))), skip)

    async def _send(self, encoded: Encoded | Raw, key: Hashable, skip: Peer | None) -> EmitReport:
        if skip is not None and not isinstance(cast("Any", skip), Peer):  # it would be skipped by no one
            raise TypeError(f"skip= is the peer to leave out, got {skip!r}")
        for peer in self.peers:  # all of them belong to the same thread
            check_thread(peer._out.thread, "server.emit(...)")
            break
        self._sent += 1
        if self._sent % BURST == 0:  # whoever emits on and on is to let connections come and go
            await asyncio.sleep(0)
        if any(peer._out.line.full for peer in self.peers):
            await self._wait_for_room(skip)
        sent = dropped = 0
        errors: list[PeerError] = []
        slow: Slow = self.slow
        for peer in tuple(self.peers):
            if peer is skip:
                continue
            try:
                payload, text = encoded[peer._out.encode]
                if peer._deliver(payload, text, slow, key):
                    sent += 1
                else:
                    dropped += 1
            except (ConnectionLost, MessageTooBig, QueueFull) as exc:
                error = PeerError(peer, str(exc))
                error.__cause__ = exc
                errors.append(error)
                if self._lost is not None and not isinstance(exc, MessageTooBig):
                    self._lost(peer)
        return EmitReport(sent, tuple(errors), dropped)

    async def _wait_for_room(self, skip: Peer | None) -> None:
        """Give those whose line is full some time to drain, each once until it has.

        But where most of all are behind, whoever emits is too fast, and to close them all would be wrong.
        """
        full = [peer for peer in self.peers if peer._out.line.full and peer is not skip and not peer._out.broken]
        late = [peer for peer in full if not peer._out.line.overdue]
        if not late and self.slow == "close" and 2 * len(full) > len(self.peers):
            late = full
        if not late:
            return
        drains = [peer.transport.drain() for peer in late if peer.transport is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*drains, return_exceptions=True)
        for peer in late:
            peer._out.line.overdue = peer._out.line.full


def _key(slow: Slow, args: tuple[Any, ...]) -> Hashable:
    if not isinstance(slow, KeepLatest) or slow.key is None:
        return None
    key = slow.key(*args)
    hash(key)  # a mistake is to show before anybody reads slowly
    return key
