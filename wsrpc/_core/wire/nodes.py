"""Places and errors between two nodes of a cluster, when one node passes on the calls of the other.

A call to a client of another node is sent to that node on a channel whose name is a `place`. A node that passes a call
on to one of its clients returns the client's answer. It sends its own exceptions as errors with special codes. The
calling node converts such an error to the exception that a call to its own client would raise. A client cannot send
such an error, because `passed_on` removes these codes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...errors import (
    BadResult,
    ChannelClosed,
    ConnectionLost,
    MessageTooBig,
    PeerNotFound,
    QueueFull,
    RemoteError,
    RequestTimeout,
    RpcError,
    StreamOverflow,
    TooManyRequests,
    UnexpectedChannel,
    WsrpcError,
    as_text,
    made_here,
)

NODE: Any = object()
"""The ``profile=`` of connections between two nodes. No value of a user equals it."""

LOST = "lost"
"""Event that tells another node that messages of its sender may be missing."""

_VALUE, _CHANNEL = "\0", "\1"
"""Character after the address: whether the caller wants a value or a channel."""
ID = "\2"
"""Character before a `Peer.id`, where a peer is named by its id instead of its address. (Addresses are printable.)"""


def place(address: str, channel: str | None, *, wants_channel: bool = False) -> str:
    """Return the name of the channel between two nodes for messages to ``channel`` of a peer."""
    return f"{address}{_CHANNEL if wants_channel else _VALUE}{channel or ''}"


class Place(NamedTuple):
    """What `place` was made of. ``address`` is an address, or `ID` and the id of a peer."""

    address: str
    channel: str | None
    wants_channel: bool

    @property
    def name(self) -> str:
        """The address or the id."""
        return self.address.removeprefix(ID)


def read_place(name: str) -> Place | None:
    """Return what a `place` was made of. None for another name."""
    wants = _CHANNEL if _CHANNEL in name.partition(_VALUE)[0] else _VALUE  # the first: a channel's name may have both
    address, found, channel = name.partition(wants)
    return Place(address, channel or None, wants == _CHANNEL) if found else None


PREFIX = "wsrpc.node."

ENDED_BY_CALLER = RemoteError("the caller has ended the channel", f"{PREFIX}left")
"""The reason of an abort if the caller has ended a channel on its side. Only nodes need this reason: without a node
between them, both peers know when a stream is over."""

_FIELDS: dict[type[Exception], tuple[str, ...]] = {
    PeerNotFound: ("address", "within"),
    ConnectionLost: ("code", "reason", "outcome"),
    RequestTimeout: ("event", "timeout", "outcome"),
}
"""The arguments of which an exception is made again. The other ones are made of their text."""
_OF_TEXT = (BadResult, MessageTooBig, QueueFull, StreamOverflow, TooManyRequests, UnexpectedChannel, ValueError)
_BY_CODE: dict[str, type[Exception]] = {f"{PREFIX}{cls.__name__}": cls for cls in (*_FIELDS, *_OF_TEXT, WsrpcError)}


def error_to_node(error: Exception) -> RpcError:
    """Return the error to send for an exception that a call to a client of this node has raised."""
    if isinstance(error, RemoteError):
        return passed_on(error)
    text = str(error)
    if isinstance(error, ChannelClosed):
        error = ConnectionLost(1006, as_text(error.reason), "unknown")
    for cls, fields in _FIELDS.items():
        if isinstance(error, cls):
            return made_here(RemoteError(text, f"{PREFIX}{cls.__name__}", [getattr(error, field) for field in fields]))
    return made_here(RemoteError(text, f"{PREFIX}{type(error).__name__}"))


def passed_on(error: RemoteError) -> RemoteError:
    """Return a client's error in the form in which it is passed on to the caller."""
    if isinstance(error.code, str) and error.code.startswith(PREFIX):
        error = RemoteError(error.message, None, error.data, error.fields)
    return made_here(error)


def as_raised(error: RemoteError) -> Exception:
    """Return the exception for an error from another node. Return an error of a client unchanged."""
    code: Any = error.code
    if code.__class__ is not str or not code.startswith(PREFIX):
        return error
    cls = _BY_CODE.get(code)
    if cls is None:
        return error
    return cls(*error.data) if cls in _FIELDS else cls(error.message)


def is_ended_by_caller(reason: object) -> bool:
    """Return whether the reason of an abort is `ENDED_BY_CALLER`."""
    return isinstance(reason, RemoteError) and reason.code == ENDED_BY_CALLER.code
