"""`Limits`: the bounds of one connection, each with the reason for its default."""

from __future__ import annotations

from typing import Any, Self, get_args

import msgspec

__all__ = ["Limits"]

KiB = 1024
MiB = 1024 * KiB


MAY_BE_ZERO = frozenset({"waiting", "waiting_bytes", "offline", "offline_bytes", "undecodable", "replay"})
"""Bounds of queues and counters that may be 0."""
MAY_BE_NONE = frozenset({"sent_message", "rate", "timeout", "handler", "ping_interval", "ping_timeout"})
"""Bounds that may be None."""
AT_LEAST = {
    "replay": (128 * KiB, "64 KiB are acknowledged at once; 0 turns resuming off"),
    "replay_messages": (512, "256 are acknowledged at once"),
    "message": (512, "the hello of another wsrpc peer has some 200 bytes and has to pass"),
    "depth": (2, "every message is an object with an array in it"),
    "rate": (1, "it counts requests and events per second; None: no limit"),
}
"""Bounds below which peers could not communicate, and why."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one connection. Sizes are in bytes, durations in seconds.

    Pass one to `Server` or `Client`; `replace` makes a changed copy.

    Raises:
        TypeError: a bound is of a wrong type; the text names it.
        ValueError: a bound is too small; the text names it.
    """

    message: int = 4 * MiB
    """Size of an inbound message after decompression; at least 512. A larger one closes the connection with 1009.
    (websockets: 1 MiB; Socket.IO: 1 MB.)"""

    sent_message: int | None = None
    """Size of an outbound message, encoded. A larger one is not sent and raises `MessageTooBig`. None: as much as the
    other side accepts, if it announces that, and 32 KiB with ``profile="go"``. (coder/websocket reads that much.)"""

    values: int = 1280 * 1024
    """Values in a message, including the keys of objects; a quarter of them may be arrays and objects. A message with
    more values is not decoded. (4 MiB can hold four million empty arrays, which take 1.5 s and 290 MB. 1.3 million
    numbers take 60 ms and 55 MB, 327,680 empty arrays 25 ms and 22 MB.)"""

    depth: int = 64
    """Nesting of arrays and objects, at least 2. A message that is nested deeper is refused, as one with too many
    values. One that is nested more than 512 deep, and deeper than this, closes the connection with 1007, because no
    honest peer sends it. (Go's encoding/json: 10,000, which Python's recursion would not survive.)"""

    arguments: int = 64
    """Arguments of one event or request. One with more is rejected."""

    name: int = 256
    """Size of the name of an event or a channel. Longer names are rejected."""

    rate: int | None = None
    """Requests and events per second that the remote peer may send, and the most that it may send at once (a token
    bucket that holds those of one second). Above the rate a request is refused as `Overloaded` and an event is dropped;
    both are counted in `Peer.ignored` as ``"above the rate"``. Answers, cancellations, control messages and the
    messages of streams do not count. None: no limit. (One second's worth at once is what aiolimiter and governor allow
    by default, too.)"""

    running: int = 1024
    """Handlers that run at once, counted until they exit. Further messages wait. (HTTP/2 peers commonly announce
    100-250 streams; a handler is cheaper than a stream.) Handlers that wait for an answer of the other side count, too.
    If both sides have only such handlers running, nothing but a timeout ends the deadlock."""

    running_bytes: int = 16 * MiB
    """Size of the messages, encoded, whose arguments these handlers hold. Further messages wait. Messages that opened
    streams and conversations are counted apart, with the same bound: since those may last, the next such message does
    not wait but is refused, as with ``channels``. In each of the two sums one message is always let through. (Four of
    the largest messages. Decoded, arguments take 1 to 70 times as much memory.)"""

    waiting: int = 10_000
    """Messages that wait for a handler to exit. The next request is refused as `Overloaded`, the next event dropped."""

    waiting_bytes: int = 4 * MiB
    """Size of these messages, undecoded."""

    pending: int = 10_000
    """Outbound requests that await an answer. The next one raises `TooManyRequests`."""

    channels: int = 1024
    """Anonymous channels, including streams, that the other side has opened. The next one is refused as `Overloaded`,
    or with the code ``"wsrpc.too_many_channels"`` if its handler had to run to make the channel. An open stream counts
    here and not in ``running``; a handler that goes on after the end of its stream counts there."""

    unread: float = 30.0
    """How long a channel may hold messages that nobody reads, or a stream wait until somebody begins to read it. Then
    it is aborted, or, if this side has sent on the channel, its events are dropped. Also how long the body of a
    conversation may take to read messages that arrived before the end of its channel."""

    unread_bytes: int = 16 * MiB
    """Memory of unread messages on all anonymous channels of the connection, including streams. The channel that
    exceeds it ends with `StreamOverflow`. A message counts with the memory that it takes, 176 bytes and more. (As much
    as ``hard_cap`` allows in the other direction; Chrome accepts 15 MiB of unread data on an HTTP/2 connection.) Items
    that another wsrpc peer sends within its credit count, but are always accepted."""

    stream_window: int = 512
    """Credit for one stream: items that another wsrpc peer may send ahead. It is renewed when half of it is used. (128
    small items, half of a window of 256, are read in less time than new credit takes to arrive: the reader then waits,
    and each item costs both ends a fifth more CPU time.)"""

    stream_window_bytes: int = 256 * KiB
    """Size of these items, encoded. The streams that a connection reads share it, down to 32 KiB for each, because all
    of it is ahead of the next answer. One item may exceed it while any of it is left. (HTTP/2: 64 KiB for a stream.)"""

    stream_queue: int = 1 * MiB
    """Size of the messages, undecoded, that wait for the reader of a stream or a channel if the other side has no flow
    control. When it is exceeded, the reader gets these messages and then `StreamOverflow`."""

    high_water: int = 64 * KiB
    """High-water mark: unsent bytes above which ``await``-ing senders wait. (asyncio's own default.)"""

    hard_cap: int = 16 * MiB
    """Unsent bytes, or one message if that is larger, beyond which a reply closes the connection with 4408 and
    `emit_nowait` raises `QueueFull`."""

    behind: int = 1 * MiB
    """Size of the broadcasts that wait for a slow reader, plus 256 bytes for each, if the slow policy is to drop some.
    (At 1 Mbit/s that is at most ten seconds.)"""

    rooms: int = 256
    """Rooms that one peer may be a member of. Joining another one fails."""

    stall: float = 10.0
    """How long a connection above the high-water mark may make no progress. Then it is dropped, since nobody reads.
    With a heartbeat this is at most ``ping_interval + ping_timeout``."""

    offline: int = 256
    """Messages that a client queues while it is not connected. The next one raises `QueueFull`."""

    offline_bytes: int = 1 * MiB
    """Size of these messages."""

    replay: int = 1 * MiB
    """Size of the messages that were sent to another wsrpc peer and are kept until it has them, so that the session can
    go on over another connection; at least 128 KiB. When it is reached, ``await``-ing senders wait. What cannot wait
    may take ``hard_cap`` more; beyond that the session ends with its connection. 0: sessions are not resumed. (16 times
    what is acknowledged at once.)"""

    replay_messages: int = 4096
    """Number of these messages, at least 512. (16 times as many as are acknowledged at once.)"""

    detached: float = 60.0
    """How long a server keeps a session that has no connection. (Socket.IO: 2 minutes, if it is turned on. SignalR: 30
    s.)"""

    undecodable: int = 10
    """Malformed messages per minute, such as text that begins with ``{`` and is not JSON, or a request with an invalid
    id. No honest peer sends them; more of them close the connection with 1007."""

    timeout: float | None = 60.0
    """Default of ``request(timeout=)``."""

    handler: float | None = None
    """Default of ``on(timeout=)``: how long the ``async def`` handler of an event or request may run. Then it is
    cancelled, and its caller gets `HandlerTimeout`. None: no limit. It does not apply to plain functions, threads,
    streams, uploads and conversations."""

    open_handlers: float = 10.0
    """How long `open` handlers may hold back inbound messages and a client's queue, and then, for as long again,
    `on_reconnect` handlers."""

    open_timeout: float = 10.0
    """How long one attempt of the opening handshake may take. On a server this applies to the client's request and to
    its own `on_handshake` function, each by itself. (websockets' default.)"""

    close_timeout: float = 5.0
    """How long the closing handshake may take. Then the transport is dropped."""

    drain: float = 20.0
    """How long `Server.run` waits for active work after SIGTERM. Then it closes connections with 1012. (Kubernetes
    kills a process after 30 s.)"""

    ping_interval: float | None = 20.0
    """Time between two pings. Each connection shortens it by up to 10 %, so that many do not send at the same time.
    None: no pings. (websockets' default.)"""

    ping_timeout: float | None = 20.0
    """How long the answer to a ping may take. Then the connection is dropped, with 1011. While bytes are unsent, the
    time counts from when some of them were last sent, until 16 MiB were sent after the ping, so that a slow reader does
    not count as a dead connection. None: pings only keep the connection alive, and nothing is dropped. (websockets'
    default.)"""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value: Any = getattr(self, name)
            none = name in MAY_BE_NONE
            if value is None and none:
                continue
            is_duration = name in DURATIONS
            if isinstance(value, bool) or not isinstance(value, (int, float) if is_duration else int):
                kind = "a number of seconds" if is_duration else "a whole number"
                raise TypeError(f"Limits.{name} is {kind}{', or None' if none else ''}, got {value!r}")
            if is_duration:
                if not value > 0:
                    raise ValueError(f"Limits.{name} is a duration of more than 0 seconds, got {value!r}")
            else:
                least, why = AT_LEAST.get(name, (0 if name in MAY_BE_ZERO else 1, ""))
                if value < least and not (name in MAY_BE_ZERO and value == 0):
                    raise ValueError(f"Limits.{name} must be at least {least}, got {value!r}{why and f': {why}'}")

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Raises:
            TypeError, ValueError: as the class itself does.
        """
        return type(self)(**{**msgspec.structs.asdict(self), **changes})


DURATIONS = frozenset(
    field.name for field in msgspec.structs.fields(Limits) if float in (field.type, *get_args(field.type))
)
