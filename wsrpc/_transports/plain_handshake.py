"""Plain opening handshakes: requests that came in one piece and ask for nothing but a WebSocket.

Nearly all clients send such requests. For them these functions do what the `websockets` library does, in less time;
everything else they leave to the library.
"""

from __future__ import annotations

import re
import time
from base64 import b64encode
from email.utils import formatdate
from hashlib import sha1

from websockets.datastructures import Headers
from websockets.http11 import Request

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""Of RFC 6455, section 1.3."""

LARGEST = 4096
"""Bytes of the largest plain request. (Those of browsers are 500, and cookies may be more.)"""

REQUEST = re.compile(rb"GET (/[!-~]*) HTTP/1\.1\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]+: [!-~]+(?: [!-~]+)*\r\n){1,64})\r\n")
FIELDS = re.compile(r"([^:]+): ([^\r]+)\r\n")

CONNECTION = (["Upgrade"], ["keep-alive, Upgrade"], ["upgrade"])
"""What clients and proxies send: browsers the first, Firefox the second."""
KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
"""Sixteen bytes in base64."""


def plain_request(data: bytes) -> Request | None:
    """Return the request in ``data``, as the library would, if it is plain: complete, short, ASCII, without a body.

    It leaves out the library's generators, which read line by line. Returns None for everything else.
    """
    found = REQUEST.fullmatch(data) if len(data) <= LARGEST else None
    if found is None:
        return None
    path, fields = found[1].decode("ascii"), found[2].decode("ascii")
    headers = Headers(FIELDS.findall(fields))
    has_body = headers.get_all("Content-Length") or headers.get_all("Transfer-Encoding")
    return None if has_body else Request(path, headers)


def plain_answer(request: Request) -> bytes | None:
    """Return the answer of the library, if ``request`` has nothing in it that has to be judged or negotiated.

    It leaves out the parsing of lists, extensions, subprotocols, and one object for each header of the answer, which
    take three quarters of the time of `ServerProtocol.accept`. Returns None for every request that it does not know:
    then the library judges it. Not for a server that accepts extensions or has selected a subprotocol.
    """
    values = request.headers.get_all
    keys = values("Sec-WebSocket-Key")
    if (
        getattr(request, "method", "GET") != "GET"
        or getattr(request, "protocol", "HTTP/1.1") != "HTTP/1.1"
        or values("Upgrade") != ["websocket"]
        or values("Connection") not in CONNECTION
        or values("Sec-WebSocket-Version") != ["13"]
        or len(keys) != 1
        or KEY.fullmatch(keys[0]) is None
        or len(values("Origin")) > 1
        or values("Sec-WebSocket-Protocol")
    ):
        return None
    accept = b64encode(sha1(f"{keys[0]}{GUID}".encode(), usedforsecurity=False).digest()).decode()
    return (
        f"HTTP/1.1 101 Switching Protocols\r\nDate: {_date()}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode("ascii")


_dates: dict[int, str] = {}
"""The present second, and its text for a header, which is made once a second."""


def _date() -> str:
    now = int(time.time())
    date = _dates.get(now)
    if date is None:
        _dates.clear()
        date = _dates[now] = formatdate(now, usegmt=True)
    return date
