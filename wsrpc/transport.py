"""The contract between a peer and whatever carries its messages.

A *transport* is one open WebSocket (or something as good), messages in and messages out. It lives from
its opening handshake to its end and is never reused. Everything happens in one event loop's thread.

**In.** After ``start(receiver)`` the transport calls ``receiver.receive(payload, text)`` for each message,
in order, complete, without a task or a queue in between; then ``receiver.read_ended()`` once for each read
from the network, however many messages it brought. What arrived before ``start`` is kept and delivered in
it. ``receive`` does not raise, and does not keep the buffer that it is given unless it is ``bytes``.

**Out.** ``send(payload, text)`` is synchronous, never blocks and never drops, and may be called before ``start``. What
one read caused, or one turn of the loop brought, is written together, in pieces that grow to about 32 KiB; ``flush()``
writes at once what was gathered. When more than the high-water mark is unsent, the transport calls
``receiver.pause_sending()``, and ``resume_sending()`` once it has drained; ``drain()`` waits for that, or for the end.
``unsent`` is the number of bytes not yet given to the operating system.
When the connection is closing or over, ``send`` raises `ConnectionLost` with ``outcome="not_sent"``.
That a ``send`` returned means only that the message left wsrpc; it may never arrive.

**Raw.** What `Server.serve_raw` needs besides. A receiver that has a method ``receive_piece(payload, text, last)``
gets a message of several frames by that, a frame at a time as they come, where the library tells; a message that is
one frame, or that the library has put together, comes by ``receive`` as ever. ``send_piece(payload, text, last)``
sends a part of a message, a frame of its own where the library can, else kept until the last one, which may be empty;
it raises what ``send`` does. Until the last one whoever sends them sends nothing else. ``pause_receiving()`` stops
reading, so that the other side is slowed down; what was read already may still be delivered. ``resume_receiving()``
goes on. Both may be called at any time, in ``receive``, repeatedly, and after the end. Meanwhile pings that are not
answered end nothing, and ``close`` reads on by itself. ``largest``, which may be assigned, is the size in bytes of
the largest inbound message, or frame of a message that is handed on by frames; a larger one closes with 1009.

**Traffic.** May be left out. ``traffic`` is a `Traffic`: what has passed so far, for `Peer.stats`.

**End.** ``receiver.connection_lost(info)`` is called exactly once, last, whoever ended the connection and
however; after it no other method of the receiver is called. ``close(code, reason)`` writes what was sent before,
performs the closing handshake and returns when the connection is over, dropping it if that takes too long. With None as
code the Close frame is empty, and both sides are told 1005; a library that cannot do that sends 1000.
``abort()`` drops it now and may lose what was sent; ``connection_lost`` follows soon, not inside the call.
Both may be called at any time, more than once. Cancelling ``close`` or ``drain`` is safe; the closing goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from ._base.closing import CloseInfo
from .errors import short

__all__ = ["ConnectionInfo", "Receiver", "Traffic", "Transport"]


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a connection from its opening handshake.

    ``path`` is without the query; header names are lower case; ``remote`` and ``local`` are host and port, or None
    where there are none; ``underlying`` is the library's own connection object, for what the contract does not cover.
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
        # Not all of it: headers and the query may have tokens, and this may get into a log.
        return f"<ConnectionInfo {short(self.path)[1:-1]} remote={self.remote} origin={short(self.origin)}>"


class Traffic(msgspec.Struct, frozen=True):
    """Messages and bytes that a transport has carried; bytes as they are on the line, with what frames them, or None
    where the library does not show that."""

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
    """What a transport tells; a peer (its session) is one."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None: ...

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None: ...


class Transport(Protocol):
    """See the module's text for the contract."""

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
