"""`Limits`: the limits of one connection, each with the reason for its default. `Rate`: a rate with bursts."""

from __future__ import annotations

from typing import Any, Self

import msgspec

KiB = 1024
MiB = 1024 * KiB


MAY_BE_ZERO = frozenset({"waiting", "offline", "replay_bytes"})
"""Limits that may be 0, because each limits a queue."""
MAY_BE_NONE = frozenset(
    {"sent_message_bytes", "rate", "request_timeout", "handler_timeout", "ping_interval", "ping_timeout"}
)
"""Limits that may be None."""
AT_LEAST = {
    "replay_bytes": (128 * KiB, "64 KiB are acknowledged at once; 0 turns resuming off"),
    "message_bytes": (512, "the hello of another wsrpc peer has to pass; for raw connections, receive(max_size=)"),
    "depth": (2, "every message is an object with an array in it"),
    "values": (64, "an error has some 20, and every response has to pass"),
}
"""The smallest value of each limit with which peers can communicate, and the reason."""
DEEPEST = 512
"""Maximum levels of nesting that any peer sends or reads. The limits of the decoders are higher, and depend on Python:
nearly 1,000 levels with 3.11, nearly 10,000 with 3.13, and from 3.14 on the size of the thread's stack."""


class Rate(msgspec.Struct, frozen=True):
    """Rate with bursts: ``Rate(20, per=60, burst=5)`` is 20 a minute, bursts of 5.

    It is a token bucket of messages or bytes, full at first, whose capacity is ``burst``. Where an option takes a rate,
    a number ``n`` means ``Rate(n)``: n per second, bursts of n.

    Attributes:
        count: the number that is allowed in ``per`` seconds; 0.000001 to 10¹².
        per: the time in seconds; 0.000001 to 10¹².
        burst: the number that is allowed at once; 1 to 10¹². None: ``count``, or 1 if that is less.

    Raises:
        TypeError, ValueError: a value is not a number, or out of range.
    """

    count: float
    per: float = 1.0
    burst: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("count", 1e-6), ("per", 1e-6), ("burst", 1)):
            value: Any = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (is_number and least <= value <= 1e12) and (name, value) != ("burst", None):
                text = f"Rate({name}=) is a number from {least:g} to 1e+12, got {value!r}"
                raise (ValueError if is_number else TypeError)(text)


def rate_of(option: str, value: Any) -> Rate:
    """Return the rate of an option that takes a `Rate`, or a number per second.

    Raises:
        TypeError, ValueError: it is neither, or the number is out of range.
    """
    try:
        return value if isinstance(value, Rate) else Rate(value)
    except (TypeError, ValueError) as exc:
        raise type(exc)(
            str(exc).replace("Rate(count=) is a number", f"{option} is a Rate, or a number per second")
        ) from None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one connection.

    The name of a limit says what it counts: ``..._bytes`` are sizes in bytes, ``..._timeout`` and ``..._interval`` are
    durations in seconds, and all others are numbers.

    Pass them to `Server` or `Client`. `replace` returns a changed copy. The properties are further limits, which are
    computed from the attributes.

    Attributes:
        message_bytes: maximum size of an inbound message after decompression; at least 512. A larger message closes the
            connection with 1009. (The library `websockets` has a default of 1 MiB, and Socket.IO 1 MB.)
        sent_message_bytes: maximum size of an encoded outbound message. A larger message is not sent and raises
            `MessageTooBig`. With None, the limit is the size that the remote peer announces, or 32 KiB with
            ``profile="go"``. If neither applies, there is no limit. (coder/websocket, a library for Go, reads messages
            of up to 32 KiB by default.)
        values: maximum number of values in a message, including the keys of objects; at least 64. At most a quarter of
            them may be arrays and objects. A message with more values is not decoded. (4 MiB can hold four million
            empty arrays. Decoding them takes 1.5 s and 290 MB of memory.)
        depth: maximum nesting of arrays and objects; 2 to 512. A message that is nested deeper is decoded, and then
            handled like a message with more than ``values`` values. A message that is nested more than 512 levels deep
            closes the connection with 1007. This side never sends one: the call raises `RecursionError`, and a request
            whose result is nested deeper is rejected. (The limit of Go's encoding/json is 10,000 levels, which is too
            many for Python's recursion.)
        rate: maximum number of requests and events from the remote peer: a `Rate`, or a number per second. Above the
            rate, a request is rejected with `Overloaded`, and an event is dropped. Both cases count as ``"above the
            rate"`` in `Peer.ignored`. Responses, cancellations, control messages and the messages of streams do not
            count. None: no limit. (The capacity of the token bucket is also ``count`` by default in the libraries
            aiolimiter and governor.)
        running: maximum number of handlers that run at the same time. Further messages wait. A handler counts until it
            exits, even if it was cancelled or is waiting for a response from the remote peer. If all running handlers
            on both sides are waiting for such responses, only a timeout ends the deadlock. (HTTP/2 peers commonly
            announce 100 to 250 streams; a handler is cheaper than a stream.)
        waiting: maximum number of messages that wait for a handler to exit. The next request is rejected with
            `Overloaded`, and the next event is dropped. While no handler may start, because answers cannot be sent for
            example, messages that might run otherwise wait, too.
        threads: maximum number of ``thread=True`` handlers that run at the same time, without streams. The same number
            of ``thread=True`` streams can be open, each of which keeps its thread until it ends, even while its reader
            is slow. The next handler waits for a thread; see ``thread_timeout`` and `server_threads`. (asyncio's own
            executor has at most 32 threads. In more threads, Python code mostly waits for the interpreter's lock.)
        thread_timeout: maximum time that a request waits for a thread. After that, it is rejected with `Overloaded`.
            An event waits without a limit. In both cases, a warning is logged, once until a thread is free. (A caller
            that waits so long for a thread is better told than kept waiting, as handlers may be stuck.)
        pending: maximum number of outbound requests that wait for a response. The next request raises
            `TooManyRequests`.
        channels: maximum number of anonymous channels, including streams, that the remote peer has opened. The next
            request that opens a channel is rejected with `Overloaded`. If the signature of the handler does not show
            that it opens a channel, the handler runs first, and the error code is then ``"wsrpc.too_many_channels"``.
            The handler of an open stream does not count in ``running``, but a handler that continues after the end of
            its stream does.
        unread_timeout: maximum time that a channel can hold unread messages, or a stream can wait for a reader. After
            that, the channel or stream is aborted. If this side has sent something on the channel, the unread events
            are dropped instead. When the channel of a conversation has ended, its handler has the same time to read the
            messages that arrived before the end.
        unread_bytes: maximum memory for the unread messages of all anonymous channels, streams and readers of events on
            a connection. The channel or reader that exceeds the limit ends with `StreamOverflow`. A message counts as
            the memory that it takes, at least 176 bytes. Items that a remote wsrpc peer sends within its credit (see
            ``stream_window``) are counted, but always accepted, except for an item of more than 32 KiB that exceeds the
            rest of the credit. In an upload, such an item counts until its handler asks for the next one. (The default
            equals ``hard_cap_bytes``, the limit for the other direction. Chrome accepts 15 MiB of unread data on an
            HTTP/2 connection.)
        stream_window: maximum number of items of one stream that a remote wsrpc peer can send before this side has read
            them. When this side has read half of them, it sends new credit, which permits the remote peer to send more
            items. It also limits the size of the items, see `stream_window_bytes`. (With 256, a fast reader of small
            items has to wait for new credit, and each item costs both sides a fifth more CPU time.)
        high_water_bytes: high-water mark: while more bytes than this are unsent, awaited calls that send messages wait.
            (asyncio has the same default.)
        hard_cap_bytes: maximum number of unsent bytes; a single message can be larger. Above this number,
            ``emit_nowait`` raises `QueueFull`, and sending a response closes the connection with 4408.
        rooms: maximum number of rooms of which one peer is a member. Joining another room fails.
        stall_timeout: maximum time that a connection above the high-water mark can go without sending any bytes. After
            that, the connection is dropped, because the remote peer is not reading. If pings are on, the connection is
            dropped after ``ping_interval + ping_timeout`` at the latest.
        offline: maximum number of messages that a client queues while it is not connected. The next message raises
            `QueueFull`. See also `offline_bytes`.
        replay_bytes: maximum size of the messages that are kept until a remote wsrpc peer acknowledges them; at least
            128 KiB. With these messages, the session can resume on another connection. When the limit is reached,
            awaited calls that send messages wait. Messages that are sent without waiting, such as responses, may take
            up to ``hard_cap_bytes`` bytes more. Above that, the session ends when its connection ends. 0: sessions do
            not resume. See also `replay_messages`. (A peer acknowledges messages after 64 KiB; the default is 16 times
            as much.)
        request_timeout: default of ``request(timeout=)``. None: no limit.
        handler_timeout: default of ``on(timeout=)``: the maximum time that the ``async def`` handler of an event or
            request can run. After that, the handler is cancelled, and the caller gets `HandlerTimeout`. None: no limit.
            This limit does not apply to plain functions, threads, streams, uploads or conversations.
        open_timeout: maximum time for one step of an opening handshake. On a client, the steps are the connection, TLS
            and the response. On a server, they are the request and the server's `on_handshake` function. Then inbound
            messages, and the messages in a client's queue, wait for the same time at most for `open` handlers to
            finish, and on a client again for `on_reconnect` handlers. A function of `on_detach` or `on_resume` holds up
            later ones and the `close` handlers no longer than this. A call with a key waits no longer than this until
            the remote peer has announced that it knows keys. (The library `websockets` has the same default for the
            handshake.)
        close_timeout: maximum time of the closing handshake. After that, the connection is dropped. While bytes still
            leave, or a wsrpc peer acknowledges messages, the time starts again, up to twelve times in all. (By default
            a minute, in which the largest message that a peer accepts leaves at 70 kB/s.) Also the time that
            ``close()`` gives running event handlers to finish.
        ping_interval: time between two pings. Each connection shortens this time at random by up to 10 %, so that not
            all connections send pings at the same time. None: no pings. Under uvicorn without wsrpc's
            protocol, and under hypercorn, the ASGI server sends the pings, by its own options. (The library
            `websockets` has the same default.) While something waits on a client whose session can resume, this time
            and ``ping_timeout`` are a quarter, but at least 5 seconds. (A handover of a device then delays its calls by
            10 seconds, and not 40. If all of 19,000 connections were pinged each 5 seconds by their clients, a server
            would spend 6 % of a core on that, instead of 1.5 %. So idle clients do not.)
        ping_timeout: maximum time until the response to a ping. After that, the connection is dropped, and its close
            code is 1011. If bytes are unsent, the time restarts whenever some bytes are sent, until 16 MiB have been
            sent after the ping. It also restarts while a large message arrives, and when a wsrpc peer acknowledges
            messages. A slow network or reader is therefore not mistaken for a dead connection, if 256 KiB, which may
            precede the response, take less than this time. None: pings only keep the connection alive, and no
            connection is dropped. (The library `websockets` has the same default.)

    Raises:
        TypeError: a limit has a wrong type. The error message names the limit.
        ValueError: a limit is too small, or `depth` too large. The error message names the limit.
    """

    message_bytes: int = 4 * MiB
    sent_message_bytes: int | None = None
    values: int = 1280 * 1024
    depth: int = 64
    rate: float | Rate | None = None
    running: int = 1024
    waiting: int = 10_000
    threads: int = 32
    thread_timeout: float = 5.0
    pending: int = 10_000
    channels: int = 1024
    unread_timeout: float = 30.0
    unread_bytes: int = 16 * MiB
    stream_window: int = 512
    high_water_bytes: int = 64 * KiB
    hard_cap_bytes: int = 16 * MiB
    rooms: int = 256
    stall_timeout: float = 10.0
    offline: int = 256
    replay_bytes: int = 1 * MiB
    request_timeout: float | None = 60.0
    handler_timeout: float | None = None
    open_timeout: float = 10.0
    close_timeout: float = 5.0
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value: Any = getattr(self, name)
            none = name in MAY_BE_NONE
            if value is None and none:
                continue
            if name == "rate":
                rate_of("Limits.rate", value)
                continue
            is_duration = name in DURATIONS
            if isinstance(value, bool) or not isinstance(value, (int, float) if is_duration else int):
                kind = "a number of seconds" if is_duration else "a whole number"
                raise TypeError(f"Limits.{name} is {kind}{', or None' if none else ''}, got {value!r}")
            if is_duration:
                if not value > 0:
                    raise ValueError(f"Limits.{name} is a duration of more than 0 seconds, got {value!r}")
            else:
                least, why = LEAST[name]
                if value < least and not (name in MAY_BE_ZERO and value == 0):
                    raise ValueError(f"Limits.{name} must be at least {least}, got {value!r}{why and f': {why}'}")
        if self.depth > DEEPEST:
            raise ValueError(f"Limits.depth must be at most {DEEPEST}, got {self.depth}: no peer sends deeper values")

    @property
    def running_bytes(self) -> int:
        """Maximum total size of the encoded messages whose handlers are running.

        There is room for four of the largest messages, and for 4 KiB for each handler that `running` allows. Further
        messages wait. Messages that opened streams and conversations have a separate total, with the same limit.
        Because streams and conversations can be open for a long time, a request that exceeds this total does not wait,
        but is rejected with `Overloaded`. (Decoded arguments take 1 to 70 times as much memory.)
        """
        return max(4 * self.message_bytes, 4 * KiB * self.running)

    @property
    def server_threads(self) -> int:
        """Maximum number of ``thread=True`` handlers that run at the same time for all connections, without streams.

        The same number of ``thread=True`` streams can be open. This is four times `threads`, so that one connection
        never uses the threads of all others. The limits that `Handshake.limits` sets for a connection do not change it.
        """
        return 4 * self.threads

    @property
    def waiting_bytes(self) -> int:
        """Maximum size of the messages that wait for a handler to exit, before decoding, beside what is left of
        `running_bytes`.

        There is room for one of the largest messages, and for 256 bytes for each message that `waiting` allows.
        """
        return max(self.message_bytes, 256 * self.waiting)

    @property
    def stream_window_bytes(self) -> int:
        """Maximum total size of the encoded items that a remote wsrpc peer can send before this side has read them.

        The size is 512 bytes for each item of `stream_window`. All streams that this side reads on a connection share
        it, so it also limits how many bytes of items a response can be queued behind. Each stream gets at least 32 KiB,
        unless the total is less. A single item can exceed the limit. (The default of HTTP/2 is 64 KiB for each stream.)
        """
        return 512 * self.stream_window

    @property
    def stream_queue_bytes(self) -> int:
        """Maximum size of the messages, before decoding, that wait for the reader of a stream or a channel.

        This is a sixteenth of `hard_cap_bytes`. It applies if the remote peer has no flow control. If the messages
        exceed this size, the reader gets these messages and then `StreamOverflow`.
        """
        return self.hard_cap_bytes // 16

    @property
    def behind_bytes(self) -> int:
        """Maximum size of the broadcasts that wait for a slow reader, if the policy for slow readers drops messages.

        This is a sixteenth of `hard_cap_bytes`. Each broadcast counts as its size plus 256 bytes. (At 1 Mbit/s, sending
        1 MiB takes at most ten seconds.)
        """
        return self.hard_cap_bytes // 16

    @property
    def offline_bytes(self) -> int:
        """Maximum size of the messages that a client queues while it is not connected: 1 MiB, or 1 KiB for each."""
        return max(1 * MiB, 1 * KiB * self.offline)

    @property
    def replay_messages(self) -> int:
        """Maximum number of the messages that are kept until a remote wsrpc peer acknowledges them.

        There is one for every 256 bytes of `replay_bytes`. (A peer acknowledges messages after 256 of them; the default
        is 16 times as many.)
        """
        return self.replay_bytes // 256

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some limits changed.

        Raises:
            TypeError, ValueError: as for the class itself.
        """
        return type(self)(**{**msgspec.structs.asdict(self), **changes})


DURATIONS = frozenset(name for name in Limits.__struct_fields__ if name.endswith(("_timeout", "_interval")))
LEAST = {
    name: AT_LEAST.get(name, (0 if name in MAY_BE_ZERO else 1, ""))
    for name in Limits.__struct_fields__
    if name not in DURATIONS
}
"""The smallest value of each limit that is not a duration, and why smaller ones make no sense."""

DEFAULT_LIMITS = Limits()
"""The limits of those who set none. One object, because making it takes a twentieth of the time of a connection."""
