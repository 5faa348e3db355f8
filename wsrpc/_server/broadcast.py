"""Emitting to many: encoded once for each codec, held up by nobody, with a report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Hashable, Iterable
from contextlib import suppress
from typing import Any, Never, TypeAlias, cast

import msgspec

from .._base.closing import CloseCode
from .._base.names import ChannelRef, OnChannel
from .._peer.peer import Peer, core_of
from .._protocol.codecs import BRACE, Codec
from .._protocol.go import refuse_raw
from .._protocol.messages import Event, event_on
from .._sending.caller import no_keywords
from .._sending.checks import Objections, check_sending, check_thread, check_thread_of_plain, raw_payload
from .._sending.outbound import Outbound
from .._sending.slow_readers import KeepLatest, Slow
from ..errors import ConnectionLost, MessageTooBig, PeerError, QueueFull

__all__ = ["Audience", "Broadcaster", "EmitReport", "RawBroadcaster", "Skip"]

BURST = 64
"""Broadcasts without a turn for others."""
PATIENCE = 0.1
"""Seconds that emitting to many waits, in all, for peers whose line is full."""

Encode = Callable[[Any], bytes]

Skip: TypeAlias = Peer | Iterable[Peer] | None
"""Who does not get what is emitted to many: a peer, or several, such as a list or a room."""


class EmitReport(msgspec.Struct, frozen=True):
    """What became of emitting to many.

    ``sent`` is to how many peers it was sent, or waits to be; ``dropped`` for how many it was left out, as the policy
    for slow readers says; ``errors`` has one error for each peer that failed. Its ``__cause__`` says why: a
    `MessageTooBig`, for instance, where that peer does not take so many bytes or values in one message.
    """

    sent: int
    errors: tuple[PeerError, ...] = ()
    dropped: int = 0


class Encoded(dict[Encode, tuple[bytes, bool]]):
    """One message in each encoding that is asked for, and whether it is text."""

    def __init__(self, message: Event, codec: Codec) -> None:
        self._message = message
        self._objections: dict[bytes, Objections] = {}
        self[codec.encode] = (codec.encode(message), codec.text)

    def __missing__(self, encode: Encode) -> tuple[bytes, bool]:
        payload = encode(self._message)
        made = self[encode] = (payload, payload[0] == BRACE)  # a negotiated codec chooses for each message
        return made

    def refusal(self, out: Outbound, payload: bytes) -> MessageTooBig | None:
        """Why ``payload`` may not go to one of the peers."""
        return out.refusal(payload, known=self._objections)


class Raw(dict[Encode, tuple[bytes, bool]]):
    """A message that is no event: the same for all.

    But where binary messages are the protocol's, a binary one would be taken for such, whoever its bytes come from.
    """

    def __init__(self, data: str | bytes, codec: Codec) -> None:
        refuse_raw(codec)
        self.made = raw_payload(data)
        self._plain = codec.encode

    def __missing__(self, encode: Encode) -> tuple[bytes, bool]:
        if encode != self._plain and not self.made[1]:
            raise ValueError(
                "binary messages are MessagePack with this peer, as neither side had an on_raw function when they "
                "connected: send text, or use on_raw on one side"
            )
        return self.made

    def refusal(self, out: Outbound, payload: bytes) -> MessageTooBig | None:
        return out.refusal(payload, raw=True)


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

    async def emit(self, channel: ChannelRef, event: str, args: tuple[Any, ...], skip: Skip) -> EmitReport:
        """See `Server.emit`."""
        return await self._send(*self._encode(channel, event, args), skip)

    def emit_nowait(self, channel: ChannelRef, event: str, args: tuple[Any, ...], skip: Skip) -> EmitReport:
        """See `Server.emit_nowait`."""
        encoded, key = self._encode(channel, event, args)
        for peer in self.peers:  # all of them belong to the same thread
            check_thread_of_plain(peer._out.thread, "server.emit_nowait")
            break
        skipped = _skipped(skip)
        if self.slow == "close":
            self._check_cap(encoded, skipped)
        return self._send_now(encoded, key, skipped)

    def _encode(self, channel: ChannelRef, event: str, args: tuple[Any, ...]) -> tuple[Encoded, Hashable]:
        check_sending(channel, event, None)
        encoded = Encoded(event_on(channel, (event, *args)), self._codec)
        return encoded, (self, channel, event, _key(self.slow, args))

    async def send_raw(self, data: str | bytes, skip: Skip) -> EmitReport:
        """See `Server.send_raw`."""
        return await self._send(Raw(data, self._codec), (self, _key(self.slow, (data,))), skip)

    async def _send(self, encoded: Encoded | Raw, key: Hashable, skip: Skip) -> EmitReport:
        for peer in self.peers:  # all of them belong to the same thread
            check_thread(peer._out.thread, "server.emit(...)")
            break
        skipped = _skipped(skip)
        self._sent += 1
        if self._sent % BURST == 0:  # whoever emits on and on is to let connections come and go
            await asyncio.sleep(0)
        if any(is_full(peer) for peer in self.peers):
            await self._wait_for_room(skipped)
        return self._send_now(encoded, key, skipped)

    def _send_now(self, encoded: Encoded | Raw, key: Hashable, skipped: Collection[Peer]) -> EmitReport:
        sent = dropped = 0
        errors: list[PeerError] = []
        slow: Slow = self.slow
        for peer in tuple(self.peers):
            if skipped and peer in skipped:
                continue
            try:
                if deliver(peer, encoded, slow, key):
                    sent += 1
                else:
                    dropped += 1
            except (ConnectionLost, MessageTooBig, QueueFull, ValueError) as exc:
                error = PeerError(peer, str(exc))
                error.__cause__ = exc
                errors.append(error)
                if self._lost is not None and isinstance(exc, (ConnectionLost, QueueFull)):
                    self._lost(peer)
        return EmitReport(sent, tuple(errors), dropped)

    def _check_cap(self, encoded: Encoded, skipped: Collection[Peer]) -> None:
        """Refuse to close a peer at its hard cap where most of all are behind: then the sender is too fast.

        Within one turn of the event loop nobody can read anything, so a loop of `emit_nowait` fills every connection.

        Raises:
            QueueFull: nothing was sent.
        """
        full = [peer for peer in self.peers if is_full(peer) and peer not in skipped and not peer._out.broken]
        if 2 * len(full) <= len(self.peers):
            return
        for peer in full:
            out = peer._out
            if out.link is not None and out.over_cap(out.link, len(encoded[out.terms.encode][0])):
                raise QueueFull(
                    f"{len(full)} of {len(self.peers)} peers are behind, some of them at Limits.hard_cap, so nothing "
                    "was sent: use `await emit()`, which gives them time to read"
                )

    async def _wait_for_room(self, skipped: Collection[Peer]) -> None:
        """Give those whose line is full some time to drain, each once until it has.

        But where most of all are behind, whoever emits is too fast, and to close them all would be wrong.
        """
        full = [peer for peer in self.peers if is_full(peer) and peer not in skipped and not peer._out.broken]
        late = [peer for peer in full if (link := peer._out.link) is not None and not link.overdue]
        if not late and self.slow == "close" and 2 * len(full) > len(self.peers):
            late = full
        if not late:
            return
        drains = [peer.transport.drain() for peer in late if peer.transport is not None]
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*drains, return_exceptions=True)
        for peer in late:
            if peer._out.link is not None:
                peer._out.link.overdue = peer._out.link.full


def deliver(peer: Peer, encoded: Encoded | Raw, slow: Slow, key: Hashable) -> bool:
    """Send what was encoded for many to one of them; False if it is left out, as ``slow`` says.

    Raises:
        ConnectionLost: there is no connection.
        MessageTooBig: the other side would not take it.
        QueueFull: this peer is at its hard cap, and is closed with 4408, as ``slow`` says.
    """
    core = core_of(peer)
    out, link = core.out, core.out.link
    payload, text = encoded[out.terms.encode]
    if link is None or not link.works:
        raise out.not_sent()
    if len(payload) > out.terms.unchecked and (refusal := encoded.refusal(out, payload)) is not None:
        raise refusal
    if link.full:
        if slow != "close":
            return core.slow_reader(link).put(payload, text, slow, key)
        if link.slow_reader is not None:
            link.slow_reader.flush(everything=True)  # this one can neither be dropped nor overtake
        if out.over_cap(link, len(payload)):
            core.fail(CloseCode.SLOW_CONSUMER, "slow consumer")
            raise QueueFull(f"{link.transport.unsent} bytes were unsent: it was closed with 4408")
    link.send(payload, text)
    return True


def is_full(peer: Peer) -> bool:
    link = core_of(peer).out.link
    return link is not None and link.full


class Broadcaster(OnChannel):
    """`emit` to many, for all that have it: a server, a room, and channels of the two."""

    __slots__ = ()

    _audience: Audience

    async def emit(self, event: str, /, *args: Any, skip: Skip = None, **unsupported: Never) -> EmitReport:
        """Emit to every peer of the server, or member of the room, encoded once. Returns a report.

        ``skip`` is a peer that does not get it, or several of them: a list, a set, a room.

        A peer that fails does not stop the others; one whose connection is broken is in one report, and then in no room
        any more.

        Peers whose line is full get 100 ms in all to drain, and one that did not is not waited for again until it has;
        but where ``slow="close"``, and more than half of all are in that state, they are. Then ``slow`` says what
        becomes of the message, and of the peer. Cancelling is safe: then nothing was sent.

        Raises:
            ReservedEvent, TypeError, ValueError: the name or an argument cannot be sent, or ``skip`` is no peer;
                nothing was sent.
            RuntimeError: in another thread than the event loop's.
        """
        if unsupported:
            raise no_keywords("emit", event, unsupported)
        self._check_open()
        return await self._audience.emit(self._channel_name, event, args, skip)

    def emit_nowait(self, event: str, /, *args: Any, skip: Skip = None, **unsupported: Never) -> EmitReport:
        """Emit as `emit` does, but from a plain function in the event loop's thread: it never waits.

        Peers above their high-water mark get no time to read: the policy ``slow`` applies to them at once.

        Raises:
            QueueFull: with ``slow="close"``, if a peer is at `Limits.hard_cap` and more than half of all are behind, as
                in a loop that lets nobody read; nothing was sent, and nobody is closed.
            ReservedEvent, TypeError, ValueError, RuntimeError: as for `emit`.
        """
        if unsupported:
            raise no_keywords("emit_nowait", event, unsupported)
        self._check_open()
        return self._audience.emit_nowait(self._channel_name, event, args, skip)


class RawBroadcaster(Broadcaster):
    """The same with `send_raw`, which is on no channel."""

    __slots__ = ()

    async def send_raw(self, data: str | bytes, *, skip: Skip = None) -> EmitReport:
        """Send a WebSocket message that is none of the protocol, text or binary, to all of them; the rest as `emit`.

        A binary one is an error in the report for each peer with which binary messages are MessagePack: a wsrpc one,
        where neither side had an `on_raw` function when it connected.

        The key function of a `KeepLatest` policy gets the message.

        Raises:
            TypeError: it is neither text nor bytes, or ``skip`` is no peer.
            ValueError: with ``profile="go"``.
            RuntimeError: in another thread than the event loop's.
        """
        return await self._audience.send_raw(data, skip)


def _skipped(skip: Skip) -> Collection[Peer]:
    """Those who do not get it.

    Raises:
        TypeError: one is no peer.
    """
    if skip is None:
        return ()
    if isinstance(skip, Peer):
        return (skip,)
    given: Any = skip
    if isinstance(given, Iterable):
        several = tuple(cast("Iterable[object]", given))
        peers = tuple(each for each in several if isinstance(each, Peer))
        if len(peers) == len(several):
            return frozenset(peers)
    raise TypeError(f"skip= is a peer, a room, or a list of peers, who do not get it; got {given!r}")


def _key(slow: Slow, args: tuple[Any, ...]) -> Hashable:
    if not isinstance(slow, KeepLatest) or slow.key is None:
        return None
    key = slow.key(*args)
    try:
        hash(key)  # a mistake is to show before anybody reads slowly
    except TypeError as exc:
        raise TypeError(f"the key of KeepLatest has to be hashable, such as text or a tuple; got {key!r}") from exc
    return key
