"""`DocsRoutes`: a page on which people read and call the events of a server, and the documents for programs.

=================  ============================================================================
path               response
=================  ============================================================================
(none)             the page. It and its files are the same for everybody, and contain no secrets
``asyncapi.json``  the AsyncAPI document, for those who may have the description of the server
``openapi.json``   the OpenAPI document of `HttpRoutes`, for the same
``login.json``     the principal of the caller
=================  ============================================================================

The page dials the server with the login of its reader, and requests the description. So `on_handshake` and ``allow=``
decide what the page shows.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from .._core.api.registration import registry_of
from .._core.wire.codecs import enc_hook_of
from .._schema.asyncapi import asyncapi
from .._schema.components import Info
from .._schema.description import Description, describe, registered
from .._schema.openapi import Served, openapi
from .._server.decider import NOT_ALLOWED, Allow
from .._server.operating.description_pages import CHANNEL
from .._server.server import Server, settings_of
from ..errors import HandshakeRejected, RemoteError
from ..handshake import Handshake
from .answers import json_response
from .requests import HttpRequest, HttpResponse
from .routed_request import RoutedRequest, handler_of
from .routes import HttpRoutes, Respond, Routes

PAGE = Path(__file__).with_name("docs_page")
MODULES = Path(__file__).parents[1] / "browser"
FILES = {
    "": PAGE / "index.html",
    **{name: PAGE / name for name in ("docs.css", "docs.js")},
    **{name: MODULES / name for name in ("client.js", "http.js")},
}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; connect-src 'self'"
)


class DocsRoutes(Routes):
    """The page of a server.

    Args:
        websocket: the URL of the WebSocket, relative to that of the page, or absolute.
        allow: as for `Server.offer_description`. None if the server offers its description already, or to everybody.
        routes: the URLs that the OpenAPI document describes. Without them, there is no such document.
        title: the title of the page and of the documents.

    Raises:
        TypeError, ValueError: as for `Server.offer_description`.
    """

    def __init__(
        self, server: Server, websocket: str, allow: Allow | None, routes: HttpRoutes | None, title: str
    ) -> None:
        super().__init__(server)
        self._registry = registry_of(server)
        if allow is not None or handler_of(server, CHANNEL, "describe") is None:
            server.offer_description(allow=allow)
        self._info = Info(title, "1.0.0", None)
        self._writers: dict[str, Callable[[Description, Info], dict[str, Any]]] = {"asyncapi.json": asyncapi}
        if routes is not None:
            served = Served(routes.calls, routes.runs, routes.rooms)
            self._writers["openapi.json"] = lambda found, info: openapi(found, served, info, lambda why: None)
        url = urlsplit(websocket)
        others = [f"{url.scheme.replace('ws', scheme)}://{url.netloc}" for scheme in ("ws", "http") if url.netloc]
        self._policy = ("content-security-policy", " ".join([POLICY, *others]))
        self._texts = {"$title": title, "$websocket": websocket, "$openapi": "" if routes else "hidden"}
        self._made: dict[str, HttpResponse] = {}
        """The documents that were made of the description, until the registrations change."""
        self._description: Description
        self._made_of: object = None

    async def _respond(self, request: HttpRequest, path: str) -> HttpResponse:
        if path in FILES and request.method == "GET":
            return self._file(request, path)
        return await super()._respond(request, path)

    def _file(self, request: HttpRequest, path: str) -> HttpResponse:
        target = request.handshake(self.server).target.partition("?")[0]
        if not path and not target.endswith("/"):  # the files of the page are below it
            segment = quote(target.rpartition("/")[2], "%", errors="surrogateescape")
            return HttpResponse(307, [("location", f"./{segment}/")])
        text, kind = read(FILES[path]), f"{TYPES[FILES[path].suffix]}; charset=utf-8"
        if not path:
            for name, value in self._texts.items():
                text = text.replace(name, escape(value))
        headers = [("content-type", kind), ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")]
        return HttpResponse(200, [*headers, ("referrer-policy", "no-referrer"), self._policy], text.encode())

    def _find(self, request: HttpRequest, handshake: Handshake, path: str) -> tuple[Respond, str, str]:
        found: dict[str, Respond] = {name: partial(self._document, name) for name in self._writers}
        found["login.json"] = login_of
        if path not in found and path not in FILES:
            raise HandshakeRejected(404, "docs() does not serve this path")
        if request.method != "GET":
            raise HandshakeRejected(405, "this URL has GET", {"Allow": "GET"})
        return found[path], f"{CHANNEL}:describe", ""

    async def _document(self, name: str, request: RoutedRequest) -> HttpResponse:
        async with request.connect() as client:
            try:
                await client.of(CHANNEL).request("describe")
            except RemoteError as exc:
                if exc.message == NOT_ALLOWED:
                    raise HandshakeRejected(403, NOT_ALLOWED) from None
                raise
        if (found := registered(self._registry)) != self._made_of:
            self._description = describe(self._registry, enc_hook_of(settings_of(self.server).codec), once=False)
            self._made_of, self._made = found, {}
        if name not in self._made:
            self._made[name] = json_response(200, self._writers[name](self._description, self._info))
        return self._made[name]


async def login_of(request: RoutedRequest) -> HttpResponse:
    """Return the principal of the caller, if it is text or a number."""
    known = isinstance(request.principal, str | int)
    return json_response(200, {"principal": request.principal if known else None})


@cache
def read(file: Path) -> str:
    return file.read_text("utf-8")
