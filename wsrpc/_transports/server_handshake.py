"""The server side of an opening handshake: the library judges the request, negotiates, and makes the response."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from websockets.extensions import Extension
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from .._base.logs import quieten, safe_logger
from ..handshake import Handshake
from .compression import AcceptedCompression

LIBRARY_LOGGER = safe_logger("wsrpc.websockets")
"""The library's own log. wsrpc logs what the library would say at INFO itself, with the peer's id."""
LIBRARY_LOGGER.setLevel(logging.WARNING)
LIBRARY_LOGGER.addFilter(quieten)


def judge(request: Request, handshake: Handshake) -> tuple[Response, Extension | None]:
    """Let the library judge a request that nobody has refused.

    Returns:
        The response, without `Handshake.response_headers`, and the extension that compresses if its status is 101.
    """

    def choose(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        chosen = handshake.answered_subprotocol
        return None if chosen is None else Subprotocol(chosen)

    compression = AcceptedCompression() if handshake.compression else None
    library = ServerProtocol(
        extensions=None if compression is None else [compression], select_subprotocol=choose, logger=LIBRARY_LOGGER
    )
    response = library.accept(request)
    vars(library).clear()  # its parser refers to it
    return response, None if compression is None else compression.agreed


def serialized(response: Response) -> bytes:
    """Return the bytes of a response."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in response.headers.raw_items())
    head = f"HTTP/1.1 {response.status_code} {response.reason_phrase}\r\n{fields}\r\n"
    return head.encode() + bytes(response.body or b"")
