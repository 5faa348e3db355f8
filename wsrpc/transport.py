"""The contract between a peer and the transport that carries its messages.

A *transport* is one open WebSocket, or an equivalent, that carries whole messages in both directions. It lives from the
opening handshake to the end of the connection and is never reused. Everything happens in the thread of one event loop.

**In.** ``start(receiver)`` begins to deliver. From then on the transport calls ``receiver.receive(payload, text)`` for
each message, complete and in order, without a task or a queue in between. After each read from the network, however
many messages it brought, it calls ``receiver.read_ended()`` once. What arrived before ``start`` is kept and delivered
in that call, except for what arrived after ``close``. ``receive`` does not raise, and does not keep the buffer that it
is given unless that is ``bytes``.

**Out.** ``send(payload, text)`` is synchronous, never blocks and never drops, and may be called before ``start``.
Messages that one read caused, or that were sent in one turn of the event loop, are written together, in pieces that
grow to about 32 KiB; ``flush()`` writes at once what was gathered. When more bytes are unsent than the high-water mark,
the transport calls ``receiver.pause_sending()``, and ``resume_sending()`` once it has drained. ``drain()`` waits for
that, or for the end of the connection. ``unsent`` is the number of bytes that the operating system has not taken yet.
When the connection is closing or over, ``send`` raises `ConnectionLost` with ``outcome="not_sent"``. When ``send``
returns, the message has only left wsrpc; it may never arrive.

**Raw.** `Server.serve_raw` needs more. If a receiver has a method ``receive_piece(payload, text, last)``, it gets a
message of several frames by that method, frame by frame as they arrive, where the library shows frames. A message that
is one frame, or that the library has joined, still comes by ``receive``. ``send_piece(payload, text, last)`` sends a
part of a message: as a frame of its own where the library can, otherwise kept until the last part, which may be empty.
It raises what ``send`` raises. Between the first and the last part nothing else may be sent. ``pause_receiving()``
stops reading, so that the remote peer is slowed down; what was already read may still be delivered.
``resume_receiving()`` resumes it. Both may be called at any time: in ``receive``, repeatedly, and after the end. While
receiving is paused, unanswered pings do not end the connection, and ``close`` resumes reading by itself. ``largest`` is
the size in bytes of the largest inbound message, or of the largest frame of a message that is delivered frame by frame.
A larger one closes the connection with 1009. It may be assigned.

**Sessions.** Optional. ``session_survives()`` says that the peer's session goes on over another connection if this one
drops. A transport that finds its line dead then ends without a Close frame, as with ``abort()``. ``start`` may be
called once more, by ``receive``: the first message has told for which peer the connection is. What follows goes to the
new receiver, except for other messages of the same read.

**Traffic.** Optional. ``traffic`` is a `Traffic`: what was carried so far, for `Peer.stats`.

**End.** ``receiver.connection_lost(info)`` is called exactly once, however the connection ended. No other
method of the receiver is called after it. ``close(code, reason)`` writes what was sent before, performs the closing
handshake and returns when the connection is over; it drops the connection if that takes too long. With None as code the
Close frame is empty, and both sides report 1005; a library that cannot do that sends 1000. ``abort()`` drops the
connection now and may lose what was sent; ``connection_lost`` follows soon, not inside the call. Both may be called at
any time, more than once. Cancelling ``close`` or ``drain`` is safe; the closing goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ._base.closing import CloseInfo
from .errors import short

__all__ = ["ConnectionInfo", "Receiver", "Traffic", "Transport"]


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Description of a connection, from its opening handshake.

    ``path`` does not include the query. Header names are lower case. ``remote`` and ``local`` are host and port, or
    None where there are none. ``underlying`` is the library's own connection object, for what the contract does not
    cover.
    """

    path: str = "/"
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    origin: str | None = None
    remote: tuple[str, int] | None = None
    local: tuple[str, int] | None = None
    subprotocol: str | None = None
    underlying: Any = None

    def __repr__(self) -> str:
        # Without headers and the query, which may contain tokens: this may get into a log.
        return f"<ConnectionInfo {short(self.path)[1:-1]} remote={self.remote} origin={short(self.origin)}>"


class Traffic(msgspec.Struct, frozen=True):
    """Messages and bytes that a transport has carried.

    Bytes are those on the wire, with frame headers; None where the library does not show them.
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
    """Object to which a transport delivers; a peer's session is one."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None: ...

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None: ...


class Transport(Protocol):
    """A connection that a peer can be bound to. The docstring of the module is the contract."""

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
