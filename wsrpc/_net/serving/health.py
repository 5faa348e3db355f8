"""`Health`: answers the health checks of load balancers, which are plain HTTP requests."""

from __future__ import annotations

import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Request, Response


class Health:
    """Answers health checks.

    These are ``GET`` and ``HEAD`` requests for one path. The response is 503 "draining" if ``healthy()`` is false, and
    otherwise 200: "degraded" if ``degraded()`` is true, because the server cannot reach its cluster or its store; else
    "ok".

    Raises:
        TypeError: the path is not text.
        ValueError: the path does not begin with a slash, or has a query.
    """

    def __init__(self, path: str, healthy: Callable[[], bool], degraded: Callable[[], bool]) -> None:
        value: Any = path
        if not isinstance(value, str):
            raise TypeError(f"healthz= is a path such as '/healthz', or None; got {value!r}")
        if not path.startswith("/") or not path.isprintable() or any(char in path for char in "? #"):
            raise ValueError(f"healthz= is a path such as '/healthz', got {path!r}")
        self._path = path
        self._healthy = healthy
        self._degraded = degraded
        self._line = re.compile(rb"(GET|HEAD|OPTIONS) (%b(?:\?\S*)?) HTTP/1\.[01]\r\n" % re.escape(path.encode()))

    def asks(self, request: Request) -> bool:
        """Whether ``request`` is a health check, and not a request for a WebSocket."""
        return request.path.partition("?")[0] == self._path and "Upgrade" not in request.headers

    def as_get(self, data: bytes) -> tuple[bytes, bool] | None:
        """Return ``data`` as a GET request of HTTP/1.1, and whether it was a HEAD request. None for other paths.

        The library does not parse HEAD requests. Before version 17, it does not parse HTTP/1.0, which some load
        balancers send.
        """
        found = self._line.match(data)
        return found and (b"GET %b HTTP/1.1\r\n" % found[2] + data[found.end() :], found[1] == b"HEAD")

    def answer(self, *, head: bool) -> Response:
        """Return the response to a health check. With ``head``, the response has no body."""
        healthy = self._healthy()
        body = b"draining\n" if not healthy else b"degraded\n" if self._degraded() else b"ok\n"
        status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
        headers = Headers()
        headers["Content-Type"] = "text/plain; charset=utf-8"
        headers["Content-Length"] = str(len(body))
        headers["Cache-Control"] = "no-store"
        headers["Connection"] = "close"
        return Response(status, status.phrase, headers, b"" if head else body)
