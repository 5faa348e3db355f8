"""The messages between nodes. Each message is one MessagePack map with a tag."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ..._server.joined_cluster import Counter, Spent
from ..._server.presence.user_entries import BATCH
from .directory import Beat, Delta, Name, Snapshot

ConnectionName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}/[A-Za-z0-9_-]{1,64}/[0-9]{1,16}\Z")]
"""See `connection_name`."""


class SnapshotRequest(Struct, tag_field="t", tag="ask"):
    """Request for snapshots, which the receiver sends to ``node``."""

    node: Name


class Leaving(Struct, tag_field="t", tag="left"):
    """``node`` leaves the cluster."""

    node: Name


class Probe(Struct, tag_field="t", tag="probe"):
    """Message to find out whether a node still receives: to the node itself, or to one that does not answer."""


class SpentThere(Struct, tag_field="t", tag="spent"):
    """What the users of ``node`` have spent of their rates."""

    node: Name
    spent: Annotated[list[Spent], Meta(max_length=BATCH)]


class Open(Struct, tag_field="t", tag="open"):
    """Request to open a connection."""

    conn: ConnectionName
    """The name of the connection; see `connection_name`."""
    headers: dict[str, str]


class Accepted(Struct, tag_field="t", tag="opened"):  # the tag that nodes of earlier versions know
    """The connection is accepted."""

    conn: ConnectionName


class Refused(Struct, tag_field="t", tag="refused"):
    """The connection is not accepted."""

    conn: ConnectionName
    reason: str


class Data(Struct, tag_field="t", tag="data", omit_defaults=True):
    """Messages of a connection that were sent in one turn of the event loop."""

    conn: ConnectionName
    seq: Counter
    """The number of the first message. Each side counts from 1."""
    messages: list[bytes]
    binary: list[int] = []
    """The indices of the binary messages. The other messages are text."""
    more: bool = False
    """Whether the last message is a piece of a message that continues with the first of the next `Data`."""


class Mark(Struct, tag_field="t", tag="mark", omit_defaults=True):
    """The number of messages that were sent on the connection. If the receiver has fewer, messages were lost."""

    conn: ConnectionName
    seq: Counter
    read: Annotated[int, Meta(ge=0)] = 0
    """Total bytes of the messages that the sender of this mark has received, and passed on."""


class Close(Struct, tag_field="t", tag="close"):
    """The connection is closed after message ``seq``."""

    conn: ConnectionName
    seq: Counter
    code: Annotated[int, Meta(ge=1000, le=4999)]
    reason: str


class Reset(Struct, tag_field="t", tag="reset"):
    """The connection is over, because messages were lost, or because the node has no such connection any more.

    A `Reset` also confirms a `Close` or a `Reset`, which are repeated a few times until then. Nobody confirms one for a
    connection that it does not have, so there is no loop.
    """

    conn: ConnectionName
    reason: str


ConnectionMessage = Open | Accepted | Refused | Data | Mark | Close | Reset
NodeMessage = Beat | Delta | Snapshot | SnapshotRequest | Leaving | Probe | SpentThere | ConnectionMessage

_encoder = msgspec.msgpack.Encoder(enc_hook=str.__str__)  # names may be of a subclass of str
_decoder = msgspec.msgpack.Decoder(NodeMessage)


def encode(message: NodeMessage) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes) -> NodeMessage:
    """Return the decoded message of a node.

    Raises:
        ValueError, RecursionError: the payload is not a message, or a message of another version.
    """
    message: NodeMessage = _decoder.decode(payload)
    return message


def connection_name(dialer: str, acceptor: str, number: int) -> str:
    """Return the name of a connection. It contains both nodes, so that messages need not contain them."""
    return f"{dialer}/{acceptor}/{number}"


def ends_of(conn: str) -> tuple[str, str]:
    """Return the node that dialed and the one that accepted."""
    dialer, acceptor, _ = conn.split("/")
    return dialer, acceptor
