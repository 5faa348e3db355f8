"""What nodes say to each other over the engine: MessagePack, one tagged array for each message."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ._directory import Beat, Counter, Delta, Name, Snapshot

ConnectionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}/[0-9]{1,16}\Z")]
"""See `connection_name`."""


class Ask(Struct, tag_field="t", tag="ask"):
    """Send `Snapshot`s of yourself to ``node``."""

    node: Name


class Leaving(Struct, tag_field="t", tag="left"):
    """``node`` leaves the cluster."""

    node: Name


class Probe(Struct, tag_field="t", tag="probe"):
    """A node sends this to itself, to find out whether what is sent to it arrives."""


class Open(Struct, tag_field="t", tag="open"):
    """A connection is to be opened."""

    conn: ConnectionName
    """Name of the connection, see `connection_name`."""
    headers: dict[str, str]


class Accepted(Struct, tag_field="t", tag="opened"):  # the tag that nodes of earlier versions know
    """The connection is accepted."""

    conn: ConnectionName


class Refused(Struct, tag_field="t", tag="refused"):
    """The connection is not accepted."""

    conn: ConnectionName
    reason: str


class Data(Struct, tag_field="t", tag="data"):
    """Messages of a connection that were sent in one turn of the event loop."""

    conn: ConnectionName
    seq: Counter
    """The number of the first one. The first message of each side has 1."""
    messages: list[bytes]
    binary: list[int] = []
    """Which of them, counted from 0, are binary messages. The others are text."""


class Mark(Struct, tag_field="t", tag="mark"):
    """So many messages were sent on the connection. A node that has received fewer has lost some."""

    conn: ConnectionName
    seq: Counter


class Close(Struct, tag_field="t", tag="close"):
    """The connection is closed after message ``seq``."""

    conn: ConnectionName
    seq: Counter
    code: Annotated[int, Meta(ge=1000, le=4999)]
    reason: str


class Reset(Struct, tag_field="t", tag="reset"):
    """The connection is over: messages were lost, or this node has no connection of that name."""

    conn: ConnectionName
    reason: str


NodeMessage = Beat | Delta | Snapshot | Ask | Leaving | Probe | Open | Accepted | Refused | Data | Mark | Close | Reset

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(NodeMessage)


def encode(message: NodeMessage) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes) -> NodeMessage:
    """Return what a node has said.

    Raises:
        ValueError, RecursionError: it is not of this application, or of another version.
    """
    message: NodeMessage = _decoder.decode(payload)
    return message


def connection_name(dialer: str, acceptor: str, number: int) -> str:
    """Return the name of a connection. It tells both nodes, so that no message has to."""
    return f"{dialer}/{acceptor}/{number}"


def ends_of(conn: str) -> tuple[str, str]:
    """Return the node that dialed and the one that accepted."""
    dialer, acceptor, _ = conn.split("/")
    return dialer, acceptor
