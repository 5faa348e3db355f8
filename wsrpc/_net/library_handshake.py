"""Opening handshakes with the `websockets` library: the parts for both sides, and the server's response.

Compression of messages (RFC 7692) has the default settings of the library.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from base64 import b64encode
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from hashlib import sha1

from websockets.datastructures import Headers
from websockets.exceptions import NegotiationError, SecurityError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol
from websockets.typing import ExtensionParameter, Subprotocol

from .._base.logs import OF_ONE_SERVER, LogBudget, address_text, quieten, safe_logger
from .._base.request_headers import address
from ..errors import named
from ..handshake import Handshake

SMALLEST_WINDOW = "8"
"""Window size with which zlib can decompress, but not compress. Not all versions of the library refuse it."""


class AcceptedCompression(ServerPerMessageDeflateFactory):
    """Accepts a client's offer of compression."""

    agreed: PerMessageDeflate | None = None

    def __init__(self) -> None:
        super().__init__(server_max_window_bits=12, client_max_window_bits=12, compress_settings={"memLevel": 5})

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], PerMessageDeflate]:
        if ("server_max_window_bits", SMALLEST_WINDOW) in params:
            raise NegotiationError("zlib does not compress with server_max_window_bits=8")
        response, self.agreed = super().process_request_params(params, accepted_extensions)
        return response, self.agreed


class OfferedCompression(ClientPerMessageDeflateFactory):
    """Offers compression to a server."""

    agreed: PerMessageDeflate | None = None

    def __init__(self) -> None:
        super().__init__(compress_settings={"memLevel": 5})

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> PerMessageDeflate:
        if ("client_max_window_bits", SMALLEST_WINDOW) in params:
            raise NegotiationError("zlib does not compress with client_max_window_bits=8")
        self.agreed = super().process_response_params(params, accepted_extensions)
        return self.agreed


HEAD_END = b"\r\n\r\n"


class Head:
    """Splits received bytes into the head of a request or response, and the bytes after the head."""

    __slots__ = ("_last", "complete", "size")

    def __init__(self) -> None:
        self._last = b""
        """The last bytes that arrived, which may be the beginning of `HEAD_END`."""
        self.complete = False
        self.size = 0
        """Bytes of the head that have arrived."""

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the part of ``data`` that belongs to the head, and the rest."""
        if self.complete:
            return b"", data
        known = self._last + data
        end = known.find(HEAD_END)
        self.complete = end >= 0
        size = end + len(HEAD_END) - len(self._last) if self.complete else len(data)
        self._last = known[1 - len(HEAD_END) :]
        self.size += size
        return data[:size], data[size:]


def latin_1_headers(headers: Headers) -> Headers:
    """Return the headers that the `websockets` library has parsed, decoded as Latin-1.

    Before version 17, the library turns bytes that are not ASCII into halves of surrogate pairs.
    """
    pairs = list(headers.raw_items())
    if all(value.isascii() for _, value in pairs):
        return headers
    return Headers([(name, value.encode("latin-1", "surrogateescape").decode("latin-1")) for name, value in pairs])


LIBRARY_LOGGER = safe_logger("wsrpc.websockets")
"""The library's own log. The library's lines at INFO are hidden, because wsrpc logs the same with the peer's id."""
LIBRARY_LOGGER.setLevel(logging.WARNING)
LIBRARY_LOGGER.logger.addFilter(quieten)

_too_large = LogBudget(*OF_ONE_SERVER)

RAISE = "to raise the limit, set WEBSOCKETS_MAX_LINE_LENGTH, ..._NUM_HEADERS or ..._BODY_SIZE in the environment"


def too_large(failure: BaseException | None) -> str | None:
    """Return what exceeds a limit of the library, and how to raise it. None if ``failure`` has another reason."""
    cause = failure and (failure.__cause__ or failure)
    return f"{named(cause)}; {RAISE}" if isinstance(cause, SecurityError) else None


def unread(library: ServerProtocol, tcp: asyncio.BaseTransport) -> bytes:
    """Return the response to a request that ``library`` could not read. It is empty if the request is not HTTP.

    A request that is too large is logged, because clients that cannot connect often cannot say why.
    """
    answer = b"".join(library.data_to_send())
    if reason := too_large(library.handshake_exc):
        remote = address_text(address(tcp.get_extra_info("peername")))
        text = "refused a connection from %s, whose URL or headers, such as cookies or a token, are too large: %s"
        _too_large.log(logging.WARNING, text, remote or "a Unix socket", reason, fields={"remote": remote})
        answer = answer or serialized(library.reject(431, "The request is too large.\n"))  # before version 17
    return answer


def library_answer(request: Request, handshake: Handshake) -> tuple[Response, Extension | None]:
    """Return the library's response to an admitted request.

    Returns:
        The response, without `Handshake.response_headers`; and, if its status is 101, the extension that compresses.
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


GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455, section 1.3."""

CONNECTION_VALUES = (["Upgrade"], ["keep-alive, Upgrade"], ["upgrade"])
"""Values that clients and proxies send. Most browsers send the first, and Firefox sends the second."""
KEY_PATTERN = re.compile(r"[A-Za-z0-9+/]{22}==")
"""Sixteen bytes in base64."""


def plain_answer(handshake: Handshake) -> list[tuple[str, str]] | None:
    """Return the headers with which `library_answer` accepts a GET request, if nothing has to be negotiated.

    This fast path does not parse lists, extensions and subprotocols, and creates no object for each header of the
    response. These take three quarters of the time of `ServerProtocol.accept`. Returns None for all unusual requests.
    """
    values = handshake.headers.get_all
    keys = values("Sec-WebSocket-Key")
    if (
        handshake.compression
        or handshake.answered_subprotocol is not None
        or values("Upgrade") != ["websocket"]
        or values("Connection") not in CONNECTION_VALUES
        or values("Sec-WebSocket-Version") != ["13"]
        or len(keys) != 1
        or KEY_PATTERN.fullmatch(keys[0]) is None
        or len(values("Origin")) > 1
        or values("Sec-WebSocket-Protocol")
    ):
        return None
    accept = b64encode(sha1(f"{keys[0]}{GUID}".encode(), usedforsecurity=False).digest()).decode()
    return [
        ("Date", _date()),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept),
    ]


_dates: dict[int, str] = {}
"""The text of the present second for a header. It is made once a second."""


def _date() -> str:
    now = int(time.time())
    date = _dates.get(now)
    if date is None:
        _dates.clear()
        date = _dates[now] = formatdate(now, usegmt=True)
    return date


def serialized(response: Response) -> bytes:
    """Return the bytes of a response."""
    head = serialized_head(response.status_code, response.reason_phrase, response.headers.raw_items())
    return head + bytes(response.body or b"")


def serialized_head(status: int, reason: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return the bytes of a response up to its body."""
    fields = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"HTTP/1.1 {status} {reason}\r\n{fields}\r\n".encode()
