"""The contract between a peer and the transport that carries its messages.

A *transport* is one open WebSocket, or an equivalent connection, that carries whole messages in both directions. It
exists from the opening handshake to the end of the connection, and is never reused. Everything happens in the thread of
one event loop.

**In.** ``start(receiver)`` begins to deliver messages. From then on, the transport calls ``receiver.receive(payload,
text)`` for each message, complete and in order, without a task or a queue in between. After each read from the network,
it calls ``receiver.read_ended()`` once, even if the read contained several messages. ``start`` also delivers the
messages that have already arrived, except for messages that arrived after ``close``. ``receive`` does not raise, and
keeps ``payload`` only if it is a ``bytes`` object.

**Out.** ``send(payload, text)`` is synchronous, never blocks and never drops a message. It can be called before
``start``. Messages that are sent while one read is being handled, or in one turn of the event loop, are written
together, in pieces that grow to about 32 KiB. ``flush()`` immediately writes the messages that are waiting to be
written. When the number of unsent bytes exceeds `Limits.high_water_bytes`, the transport calls
``receiver.pause_sending()``. When the transport has drained, which means that enough of these bytes have been sent, it
calls ``receiver.resume_sending()``. ``drain()`` waits until the transport has drained, or until the end of the
connection. ``unsent`` is the number of bytes that the operating system has not accepted yet. When the connection is
closing or has ended, ``send`` raises `ConnectionLost` with ``outcome="not_sent"``. A message for which ``send`` has
returned may still never arrive.

**Raw.** `Server.serve_raw` also needs the following methods. A receiver can have a method ``receive_piece(payload,
text, last)``. If the library exposes the frames of a fragmented message, the transport passes each frame to this method
as it arrives. ``receive`` still gets unfragmented messages, and messages whose frames the library has joined.
``send_piece(payload, text, last)`` sends a part of a message. The part is sent as a separate frame if the library
supports this; otherwise, the transport keeps the part until it gets the last part. The last part can be empty.
``send_piece`` raises the same exceptions as ``send``. Between the first and the last part, nothing else may be sent.
``pause_receiving()`` stops reading, which slows down the remote peer. Bytes that were already read may still be
delivered. ``resume_receiving()`` starts reading again. Both methods can be called at any time: during ``receive``,
repeatedly, and after the end. While receiving is paused, pings without a response do not end the connection, a
connection that has dropped ends when a ping cannot be sent, and ``close`` resumes reading by itself. ``largest`` is the
maximum size, in bytes, of an inbound message, or of a frame if a message is delivered frame by frame. A larger message
closes the connection with 1009. You can set ``largest``.

**Sessions** (optional). ``session_survives()`` tells the transport that the peer's session resumes on another
connection if this connection drops. After this call, a transport that detects a dead connection ends it without a Close
frame, as if ``abort()`` had been called. ``acknowledged()`` tells the transport that the remote peer has acknowledged
messages. A transport that waits for the response to a ping, or to a Close frame, then waits longer: on a slow network,
the response may be behind a large message, or the ping may be in the buffer of a proxy. A receiver may have a method
``waits()``, which returns whether something waits for the remote peer: a dead connection should then be noticed sooner.

**Traffic** (optional). ``traffic`` is a `Traffic` object with the numbers of messages and bytes so far, for
`Peer.stats`.

**End.** ``receiver.connection_lost(info)`` is called exactly once, however the connection ends. After this call, no
other method of the receiver is called. ``close(code, reason)`` writes the messages that were sent before, performs the
closing handshake, and returns when the connection has ended. If the closing handshake takes too long, ``close`` drops
the connection. Messages that arrive after ``close`` may still be delivered; a receiver that has closed ignores them.
With None as the code, the Close frame is empty, and both sides report 1005. A library that cannot send an empty Close
frame sends 1000. If ``close`` raises an exception, wsrpc logs it and calls ``abort()``. ``abort()`` drops the
connection immediately, and may lose messages that were sent. After ``abort``, no message is delivered.
``connection_lost`` is called soon afterwards, but not from inside ``abort``. ``close`` and ``abort`` can be called at
any time and more than once. Cancelling ``close`` or ``drain`` is safe: the closing continues.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import msgspec
from msgspec.structs import force_setattr

from ._base.closing import CloseInfo
from ._base.logs import address_text
from ._base.request_headers import split_target
from .errors import short
from .headers import Headers, Query, any_case

__all__ = ["ConnectionInfo", "Receiver", "Traffic", "Transport"]


_PLAIN = (dict, MappingProxyType)
"""Types of mappings in which the case of names counts. The mappings of libraries ignore case."""


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Information about a connection, from its opening handshake.

    Attributes:
        target: the path and query of the request, percent-encoded.
        headers: the headers of the request. Names ignore case.
        origin: the ``Origin`` header, which browsers send, or None.
        remote: the host and port of the remote peer, or None if unknown. The port is 0 if a proxy named only the host.
        local: the host and port of this side, or None if unknown.
        subprotocol: the subprotocol that both sides use, or None.
        underlying: for features that `Transport` does not have. On the default transport, an object with the attributes
            ``transport`` (of asyncio), ``request`` and ``response`` (of the ``websockets`` library; the response only
            on a client). On other transports, the connection object of the library.
    """

    target: str = "/"
    headers: Mapping[str, str] = Headers()
    origin: str | None = None
    remote: tuple[str, int] | None = None
    local: tuple[str, int] | None = None
    subprotocol: str | None = None
    underlying: Any = None

    @property
    def path(self) -> str:
        """The path of the request, decoded, without the query. It can contain any character."""
        return split_target(self.target)[1]

    @property
    def query(self) -> Query:
        """The parameters of the query. If a name is repeated, the last value counts, and `get_all` returns each."""
        return split_target(self.target)[2]

    def __post_init__(self) -> None:
        if self.headers.__class__ in _PLAIN:
            force_setattr(self, "headers", any_case(self.headers))

    def __repr__(self) -> str:
        # Without headers and the query, because they may contain tokens, and this text may be logged.
        return (
            f"<ConnectionInfo {short(self.path)[1:-1]} remote={address_text(self.remote)} origin={short(self.origin)}>"
        )


class Traffic(msgspec.Struct, frozen=True):
    """Numbers of messages and bytes that a transport has carried.

    Attributes:
        messages_in: number of inbound messages.
        messages_out: number of outbound messages.
        bytes_in: number of bytes read, with frame headers; None if the library does not expose it.
        bytes_out: number of bytes written, counted like ``bytes_in``.
    """

    messages_in: int = 0
    messages_out: int = 0
    bytes_in: int | None = 0
    bytes_out: int | None = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.messages_in + other.messages_in,
            self.messages_out + other.messages_out,
            None if self.bytes_in is None or other.bytes_in is None else self.bytes_in + other.bytes_in,
            None if self.bytes_out is None or other.bytes_out is None else self.bytes_out + other.bytes_out,
        )


class Receiver(Protocol):
    """Object to which a transport delivers messages."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None: ...

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None: ...


class Transport(Protocol):
    """Connection to which a peer can be bound. The module `wsrpc.transport` describes how each method must behave."""

    @property
    def info(self) -> ConnectionInfo: ...

    @property
    def unsent(self) -> int: ...

    def start(self, receiver: Receiver, /) -> None: ...

    def send(self, payload: bytes, text: bool = True, /) -> None: ...

    def flush(self) -> None: ...

    async def drain(self) -> None: ...

    async def close(self, code: int | None = 1000, reason: str = "") -> None: ...

    def abort(self) -> None: ...

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None: ...

    def pause_receiving(self) -> None: ...

    def resume_receiving(self) -> None: ...

    @property
    def largest(self) -> int: ...

    @largest.setter
    def largest(self, size: int, /) -> None: ...
