"""`HttpRoutes`: calls, runs and rooms of a server as URLs, for programs that speak only HTTP.

For the server's handlers, each request is a connection of its own, by a client in this process. So `on_handshake`,
middleware, limits and traces are the same as for other connections.

=======  ======================  ==========================================================================
method   path                    effect
=======  ======================  ==========================================================================
POST     ``call/EVENT``          makes a request. The body has its arguments
POST     ``runs/EVENT/KEY``      starts the run with this key, or joins it, and responds with its items
GET      ``runs/EVENT/KEY``      responds with the items of the run, also if it goes on
PATCH    ``runs/EVENT/KEY``      sends the run a message, which is the body
DELETE   ``runs/EVENT/KEY``      stops the run, for all its readers
GET      ``rooms/NAME``          responds with the events of a room
=======  ======================  ==========================================================================

An adapter passes each request to `HttpRoutes.respond`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Iterable
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import unquote

from .._local import RequestRates
from .._server.server import Server, leave, refuse_request
from ..errors import BadArguments, HandshakeRejected, WsrpcError
from ..handshake import Handshake
from .answers import CUT, EVENT_STREAM, failure, json_refusal, reason
from .requests import HttpRequest, HttpResponse, answered, check_coding, until_left
from .rooms import read_room
from .routed_request import RoutedRequest
from .runs import call, read_run, send_to_run, start_run, stop_run

Respond = Callable[[RoutedRequest], Coroutine[Any, Any, HttpResponse]]

ROUTES: dict[str, dict[str, Respond]] = {
    "call": {"POST": call},
    "runs": {"GET": read_run, "POST": start_run, "PATCH": send_to_run, "DELETE": stop_run},
    "rooms": {"GET": read_room},
}
"""For the first part of a path, and for each method, what responds."""


class Routes:
    """Base of the URLs of a server. Each request is a connection of its own."""

    request_class = RoutedRequest

    def __init__(self, server: Server) -> None:
        self.server = server
        self.rates = RequestRates()

    async def respond(self, request: HttpRequest, path: str) -> HttpResponse:
        """Return the response to a request whose path is ``path`` below the URL of the routes. Cancelling is safe."""
        return await answered(self.server, request, self._respond(request, path), json_refusal)

    async def _respond(self, request: HttpRequest, path: str) -> HttpResponse:
        if request.method == "OPTIONS":  # the origin is checked with the request itself
            allowed = [("access-control-allow-methods", "GET, POST, PATCH, DELETE"), ("access-control-max-age", "600")]
            headers = request.header("access-control-request-headers")
            return HttpResponse(204, [*allowed, ("access-control-allow-headers", headers)])
        handshake = request.handshake(self.server)
        handshake.names_origin, handshake.asks_to_resume = request.method != "GET", False  # it counts from here on
        try:
            check_coding(request)
            if re.search("[\udc80-\udcff]", unquote(handshake.target, errors="surrogateescape")):
                raise HandshakeRejected(400, "the URL is not UTF-8")  # else two keys may become one
            respond, name, key = self._find(request, handshake, path)
        except HandshakeRejected as exc:
            return self._refuse(handshake, exc)
        try:
            response = await self._routed(request, handshake, respond, name, key)
        except HandshakeRejected as exc:
            response = json_refusal(exc)
        if response.status == 503 and is_event_source(request) and not self.server.healthy:
            return HttpResponse(200, EVENT_STREAM, CUT)  # after 503, it would never try again
        return response

    async def _routed(
        self, request: HttpRequest, handshake: Handshake, respond: Respond, name: str, key: str
    ) -> HttpResponse:
        await self.server.handshake(handshake)
        handshake.address = None  # a call to this address is for a connection that lasts
        routed = self.request_class(self.server, self.rates, request, handshake, name, key)
        try:
            await routed.read()
            response: HttpResponse = await until_left(request, respond(routed))
        except HandshakeRejected as exc:
            response = self._refuse(handshake, exc)
        except WsrpcError as exc:
            response = failure(exc, of_caller=routed.is_above_limit)
        finally:
            leave(self.server, handshake)  # else it may count until Python collects garbage, if the client has left
        return response._replace(headers=[*handshake.response_headers.pairs(), *response.headers])

    def _refuse(self, handshake: Handshake, exc: HandshakeRejected) -> HttpResponse:
        """Count a refusal, of which the first line is the reason, and return its response."""
        known = exc.__cause__ if isinstance(exc.__cause__, BadArguments) else BadArguments(reason(exc))
        response = failure(known) if exc.status == 400 else json_refusal(exc)
        refuse_request(self.server, handshake, exc, "routes()")
        return response

    def _find(self, request: HttpRequest, handshake: Handshake, path: str) -> tuple[Respond, str, str]:
        """Return what responds to a request, the event or the room that its path names, and the key of the run.

        Raises:
            HandshakeRejected: nothing does.
        """
        raise NotImplementedError


class HttpRoutes(Routes):
    """The URLs of calls, runs and rooms.

    Args:
        calls: the events that can be requested: ``"event"``, or ``"channel:event"`` on a named channel.
        runs: the events whose runs have URLs.
        rooms: the rooms that can be read, or patterns such as ``"public-*"``; see `fnmatch`.
    """

    def __init__(self, server: Server, calls: Iterable[str], runs: Iterable[str], rooms: Iterable[str]) -> None:
        super().__init__(server)
        self.calls = names_of("calls", calls)
        self.runs = names_of("runs", runs)
        self.rooms = names_of("rooms", rooms)

    def _find(self, request: HttpRequest, handshake: Handshake, path: str) -> tuple[Respond, str, str]:
        kind, _, name = path.partition("/")
        key = ""
        if kind == "runs":
            rest, name = name, next((event for event in self.runs if f"{name}/".startswith(f"{event}/")), "")
            key = rest[len(name) + 1 :]
            if name and not key:
                raise HandshakeRejected(404, "the URL of a run ends with its key")
        served = {"call": self.calls, "runs": self.runs, "rooms": self.rooms}.get(kind, [])
        is_served = name in served or (kind == "rooms" and name and any(fnmatchcase(name, each) for each in served))
        if not is_served or re.search("[\0-\x1f\x7f]", path):
            raise HandshakeRejected(404, "routes() does not serve this path")
        methods = ROUTES[kind]
        if request.method not in methods:
            names = ", ".join(methods)
            raise HandshakeRejected(405, f"this URL has {names}", {"Allow": names})
        return methods[request.method], name, key


def is_event_source(request: HttpRequest) -> bool:
    return request.method == "GET" and request.header("accept") == "text/event-stream"


def names_of(option: str, names: Iterable[str]) -> list[str]:
    """Check a list of names, and return it, with the longest first: one may be the beginning of another one.

    Raises:
        TypeError: it is not a list of texts.
    """
    found: tuple[Any, ...] = () if isinstance(names, str) else tuple(names)
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in found):
        raise TypeError(f"{option}= takes a list of names, got {names!r}")
    return sorted(found, key=len, reverse=True)
