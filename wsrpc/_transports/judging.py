"""The library's part in accepting: it judges a request, negotiates, and makes the response."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from ..handshake import Handshake
from .compression import AcceptedCompression, Compression
from .websocket import LIBRARY_LOGGER

__all__ = ["Judged", "judge", "serialized", "server_protocol"]


class Judged(Struct, frozen=True):
    """A response, and what goes on with the connection if the response is 101."""

    response: Response
    library: ServerProtocol
    compression: Compression | None


def server_protocol() -> ServerProtocol:
    """Return the library's protocol for a connection that is open, without extensions."""
    # The bounds are those of our `FrameReader`.
    return ServerProtocol(state=State.OPEN, max_size=None, logger=LIBRARY_LOGGER)


def judge(request: Request, handshake: Handshake) -> Judged:
    """Let the library judge a request that nobody has refused."""

    def choose(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return None if handshake.subprotocol is None else Subprotocol(handshake.subprotocol)

    extension = AcceptedCompression() if handshake.compression else None
    library = ServerProtocol(
        state=State.OPEN,  # it is not to read a request
        extensions=None if extension is None else [extension],
        select_subprotocol=choose,
        max_size=None,
        logger=LIBRARY_LOGGER,
    )
    response = library.accept(request)
    return Judged(response, library, None if extension is None else extension.agreed)


def serialized(response: Response) -> bytes:
    """Return the bytes of a response."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in response.headers.raw_items())
    head = f"HTTP/1.1 {response.status_code} {response.reason_phrase}\r\n{fields}\r\n"
    return head.encode() + bytes(response.body or b"")
