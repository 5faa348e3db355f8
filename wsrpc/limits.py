"""`Limits`: every bound that a peer keeps, with what speaks for its default."""

from __future__ import annotations

from typing import Any, Self, get_args

import msgspec

__all__ = ["Limits"]

KiB = 1024
MiB = 1024 * KiB


MAY_BE_ZERO = frozenset({"waiting", "waiting_bytes", "offline", "offline_bytes", "undecodable"})
"""Bounds of what is kept: none at all is a choice."""
MAY_BE_NONE = frozenset({"sent_message", "timeout", "handler", "ping_interval", "ping_timeout"})
"""Of what need not be."""
AT_LEAST = {
    "message": (512, "two wsrpc peers introduce themselves by messages of some 200 bytes, which must pass"),
    "depth": (2, "every message is an object with an array in it"),
}
"""Bounds below which nobody could talk, and why."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one connection. Sizes are bytes, durations seconds.

    Give one to `Server` or `Client`; `replace` makes a changed copy.

    Raises:
        TypeError, ValueError: a bound is not of its kind, or too small; says which.
    """

    message: int = 4 * MiB
    """Inbound message, decompressed; at least 512. Past it the connection closes with 1009. (websockets: 1 MiB;
    Socket.IO: 1 MB.)"""

    sent_message: int | None = None
    """Outbound message, encoded; a larger one raises `MessageTooBig` here. None: whatever the other side takes, as far
    as it says so, and 32 KiB with ``profile="go"``. (coder/websocket reads that much.)"""

    values: int = 1280 * 1024
    """Values in a message, keys of objects among them; a quarter of them may be arrays and objects. A message with more
    is not decoded. (4 MiB can hold four million empty arrays, which take 1.5 s and 290 MB. 1.3 million numbers take
    60 ms and 55 MB, 327,680 empty arrays 25 ms and 22 MB.)"""

    depth: int = 64
    """Nesting of arrays and objects, at least 2. A message with more is refused as one with too many values is; with
    more than 512, and more than this, it closes the connection with 1007, as no honest peer sends it. (Go's
    encoding/json: 10,000, which Python's recursion would not survive.)"""

    arguments: int = 64
    """Arguments of one event or request; more are rejected."""

    name: int = 256
    """Bytes of an event or channel name; longer ones are rejected."""

    running: int = 1024
    """Handlers at once, counted until they exit; the next ones wait. (HTTP/2 peers commonly announce 100-250 streams;
    a handler is cheaper than a stream.) Handlers that ask the other side count, too: where both sides fill all places
    with handlers that wait for the other, only timeouts end it."""

    running_bytes: int = 16 * MiB
    """Bytes of the messages, encoded, whose arguments those handlers hold; the next ones wait, as above. Messages that
    opened streams and conversations count apart, with the same bound: nothing waits for those, which may last, and the
    next one is refused, as past ``channels``. One message is let through in any case, in each of the two sums. (Four
    of the largest messages. Decoded, arguments take 1 to 70 times as much.)"""

    waiting: int = 10_000
    """Messages that wait for a place; the next request is refused as `Overloaded`, the next event dropped."""

    waiting_bytes: int = 4 * MiB
    """Bytes of those messages, undecoded."""

    pending: int = 10_000
    """Outbound requests awaiting an answer; the next raises `TooManyRequests`."""

    channels: int = 1024
    """Anonymous channels, streams among them, that the other side has opened; the next is refused as `Overloaded`, or,
    where its handler turns out to need one when it has run, with the code ``"wsrpc.too_many_channels"``. While a stream
    is open it counts here and not in ``running``; a handler that goes on after its stream is over counts there."""

    unread: float = 30.0
    """How long a channel may have messages that nobody reads, or a stream wait for its reader; then it is aborted. If
    this side sends on the channel, the events are dropped instead. Also how long a conversation's body may take to read
    what came before its channel ended."""

    unread_bytes: int = 16 * MiB
    """Memory of unread messages on all anonymous channels of the connection, streams among them; the channel that goes
    over it ends with `StreamOverflow`. Messages count with what they take, 176 bytes and more for each. (As much as
    ``hard_cap`` lets wait in the other direction; Chrome takes 15 MiB of unread data on an HTTP/2 connection.) What
    another wsrpc peer sends within its credit counts, and is always taken."""

    stream_window: int = 64
    """Items of one stream that may be on their way from another wsrpc peer; topped up at half."""

    stream_window_bytes: int = 256 * KiB
    """Bytes of those items, encoded; one item may overdraw while any of it is left. (HTTP/2: 64 KiB for a stream.)"""

    stream_queue: int = 1 * MiB
    """Bytes, undecoded, that wait for the reader of a stream or a channel whose other side knows no flow control; past
    it the reader gets `StreamOverflow` after them."""

    high_water: int = 64 * KiB
    """Unsent bytes above which awaiting senders wait. (asyncio's own default.)"""

    hard_cap: int = 16 * MiB
    """Unsent bytes, or one message if that is larger: past it a reply closes the connection with 4408 and
    `emit_nowait` raises `QueueFull`."""

    behind: int = 1 * MiB
    """Bytes of broadcasts that wait for a slow reader, and 256 for each of them, where the slow policy is to drop some.
    (On a line of 1 Mbit/s nobody is more than ten seconds behind.)"""

    rooms: int = 256
    """Rooms that one peer is in; no other one takes it in."""

    stall: float = 10.0
    """How long a full line may make no progress; then it is dropped, since nobody reads it. With a heartbeat that is at
    most ``ping_interval + ping_timeout``."""

    offline: int = 256
    """Messages that a client keeps while not connected; the next raises `QueueFull`."""

    offline_bytes: int = 1 * MiB
    """Bytes of those messages."""

    undecodable: int = 10
    """Malformed messages a minute, which no honest peer sends: text that begins with ``{`` and is not JSON, requests
    with an invalid id. More close the connection with 1007."""

    timeout: float | None = 60.0
    """Default of ``request(timeout=)``."""

    handler: float | None = None
    """Default of ``on(timeout=)``: how long the ``async def`` handler of an event or request may run; then it is
    cancelled, and its caller gets `HandlerTimeout`. None: no limit. It does not apply to plain functions, threads,
    streams, uploads and conversations."""

    open_handlers: float = 10.0
    """How long `open` handlers may hold back what arrives meanwhile, and a client's queue; then, again as long,
    `on_reconnect` handlers."""

    open_timeout: float = 10.0
    """Opening handshake, one attempt. A server counts the client's request and its own `on_handshake` each by itself.
    (websockets' default.)"""

    close_timeout: float = 5.0
    """Closing handshake; then the transport is dropped."""

    drain: float = 20.0
    """How long `Server.run` lets work go on after SIGTERM; then connections are closed with 1012. (Kubernetes kills
    what has not ended after 30 s.)"""

    ping_interval: float | None = 20.0
    """Between two pings; each connection shortens it by up to 10 % so that many do not beat together. None: no pings.
    (websockets' default.)"""

    ping_timeout: float | None = 20.0
    """How long a ping may be without its answer; then the connection is dropped, with 1011. While bytes are unsent it
    counts from when some of them last left, until 16 MiB have left after the ping, so that a slow reader is not taken
    for a dead line. None: pings only keep the line open, and nothing is dropped. (websockets' default.)"""

    def __post_init__(self) -> None:
        for field in msgspec.structs.fields(self):
            name = field.name
            value: Any = getattr(self, name)
            none = name in MAY_BE_NONE
            if value is None and none:
                continue
            is_duration = float in (field.type, *get_args(field.type))
            if isinstance(value, bool) or not isinstance(value, (int, float) if is_duration else int):
                kind = "a number of seconds" if is_duration else "a whole number"
                raise TypeError(f"Limits.{name} is {kind}{', or None' if none else ''}, got {value!r}")
            if is_duration:
                if not value > 0:
                    raise ValueError(f"Limits.{name} is a duration of more than 0 seconds, got {value!r}")
            else:
                least, why = AT_LEAST.get(name, (0 if name in MAY_BE_ZERO else 1, ""))
                if value < least:
                    raise ValueError(f"Limits.{name} must be at least {least}, got {value!r}{why and f': {why}'}")

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**msgspec.structs.asdict(self), **changes})  # checked like any other
