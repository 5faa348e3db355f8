"""`HttpConnections`: the connections of a server that HTTP requests carry; see `HttpTransport`.

A POST with the header `TRANSPORT` opens a connection: browsers name the origin of each POST, but not that of a GET to
the page's own host, and no cache has a say. With the value ``stream``, its response goes on until the end of the
connection, and carries all that the server sends. With ``poll``, it ends with the first bytes, and the client asks for
the next ones by POSTs that have the header `CONNECTION`, too, and as `NUMBER` how many bytes have arrived; the last
`TAIL` bytes are sent again if they have not. With ``short``, such a response does not wait long, and a page may give up
its last response to ask for it: browsers have six connections to a host, which the responses of six tabs would occupy.
POSTs without `TRANSPORT` carry what the client sends. They are numbered, so that one that was repeated has no effect. A
page of another site cannot send these headers without a preflight request. That is answered, but then the origin is
checked.

In a cluster, the id begins with the name of the node that has the connection. A node that gets a request for another
one passes it on.

An adapter passes each request for which `is_carrier` is true to `HttpConnections.respond`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

import msgspec

from .._http.http_frames import CONNECTION, NUMBER, TRANSPORT
from .._http.http_transport import HttpTransport
from .._server.server import Server, accept_at_once
from ..cluster._cluster import Cluster, ask_node, serve_nodes
from ..errors import HandshakeRejected
from ..handshake import RESUME_HEADER, Handshake
from .http_connection import HttpConnection
from .requests import (
    LARGEST_BODY,
    HeaderList,
    HttpRequest,
    HttpResponse,
    answered,
    check_coding,
    read_body,
    text_refusal,
    until_left,
)

OPENING_MODES = ("stream", "poll")
SMALL = 4096
"""Maximum bytes of a body that is passed on before the other node has said that it admits the request."""

UNKNOWN_CONNECTION = "this process has no such connection: several processes need a cluster, or a proxy with affinity"

NODES = "http"
"""Name under which nodes pass requests on; see `ask_node`."""
FORWARDED = (TRANSPORT, CONNECTION, NUMBER, "authorization", "origin")
"""The headers that are passed on."""
ALLOWED = f"{TRANSPORT}, {CONNECTION}, {NUMBER}, {RESUME_HEADER}, authorization"
"""The headers that pages of other sites may send."""


class ForwardedRequest(msgspec.Struct, array_like=True):
    """A request that another node has passed on."""

    method: str
    headers: dict[str, str]
    data: bytes

    def header(self, name: str) -> str:
        return self.headers.get(name, "")

    def handshake(self, server: Server) -> Handshake:
        raise HandshakeRejected(404, "a connection is opened where its first request arrives")

    async def body(self) -> AsyncGenerator[bytes]:
        yield self.data

    async def left(self) -> None:
        await asyncio.get_running_loop().create_future()  # the other node cancels the request


class HttpConnections:
    """The connections of one server. The application, which has the server, outlives this object."""

    def __init__(self, server: ref[Server]) -> None:
        self._server = server
        self._connections: dict[str, HttpConnection] = {}
        if (cluster := self._cluster) is not None:
            serve_nodes(cluster, NODES, self._serve_node)

    @property
    def server(self) -> Server:
        """The server of the connections."""
        server = self._server()
        assert server is not None
        return server

    @property
    def _cluster(self) -> Cluster | None:
        with suppress(RuntimeError):
            return self.server.cluster
        return None

    async def respond(self, request: HttpRequest) -> HttpResponse:
        """Return the response to a request. Cancelling is safe, and ends the connection."""
        return await answered(self.server, request, self._respond(request), text_refusal)

    async def _respond(self, request: HttpRequest) -> HttpResponse:
        check_coding(request)
        if request.method == "OPTIONS":
            allowed = [("access-control-allow-methods", "POST"), ("access-control-allow-headers", ALLOWED)]
            return HttpResponse(204, [*allowed, ("access-control-max-age", "600")])
        if request.method not in ("POST", "HEAD"):
            raise HandshakeRejected(405, "a connection has requests of the method POST")
        id, mode = request.header(CONNECTION), request.header(TRANSPORT)
        if not id:
            if request.method != "POST" or mode not in OPENING_MODES:
                raise HandshakeRejected(
                    400, f"a connection is opened by a POST with {TRANSPORT}: {' or '.join(OPENING_MODES)}"
                )
            return await until_left(request, self._open(request, mode))
        if (connection := self._connections.get(id)) is None:
            node, cluster = id.rpartition(".")[0], None if isinstance(request, ForwardedRequest) else self._cluster
            if node and cluster is not None and await self._join(cluster):
                return await self._forward(cluster, node, request)
            raise HandshakeRejected(404, UNKNOWN_CONNECTION)
        if not connection.admits(request):
            raise HandshakeRejected(403, "the connection was opened with another origin or Authorization")
        if request.method == "HEAD":
            return HttpResponse(204, [])
        if mode:
            return connection.responses.poll(request, mode)
        return await connection.posts.receive(request)

    async def _open(self, request: HttpRequest, mode: str) -> HttpResponse:
        server = self.server
        handshake = request.handshake(server)
        await server.handshake(handshake)
        transport = HttpTransport(handshake.connection_info(request), handshake.limits)
        connection = HttpConnection(transport, request, polled=mode == "poll")
        if (cluster := self._cluster) is not None:
            await self._join(cluster)
        node = f"{cluster.nodes[0]}." if cluster is not None else ""
        id = f"{node}{secrets.token_urlsafe(24)}"
        transport.announce(id)
        rest = accept_at_once(server, transport, handshake)
        self._connections[id] = connection
        transport.over.add_done_callback(lambda _: self._connections.pop(id, None))
        if rest is not None:
            connection.opening = asyncio.ensure_future(rest)
        response = connection.responses.open()
        return response._replace(headers=[*handshake.response_headers.pairs(), *response.headers])

    # ------------------------------------------------------------ other nodes

    async def _join(self, cluster: Cluster) -> bool:
        """Join the cluster if this is the first request to this process. Return whether the engine is reached."""
        if not cluster.nodes and self.server.healthy:
            await self.server.open()
        return cluster.connected

    async def _forward(self, cluster: Cluster, node: str, request: HttpRequest) -> HttpResponse:
        """Pass a request on to the node that has its connection."""
        headers = {name: request.header(name) for name in FORWARDED}

        def ask(method: str, data: bytes) -> Coroutine[Any, Any, bytes | None]:
            asked = ForwardedRequest(method, headers, data)
            return ask_node(cluster, node, NODES, msgspec.msgpack.encode(asked))

        if int(request.header("content-length") or LARGEST_BODY) > SMALL:  # until it is admitted, nothing is kept
            admitted = _decode_response(await ask("HEAD", b""))
            if admitted.status != 204:
                return admitted
        body = bytearray()
        await read_body(request, body.extend)
        asking = ask(request.method, bytes(body))
        if request.header(TRANSPORT):  # its response may be long in coming
            asking = until_left(request, asking)
        return _decode_response(await asking)

    async def _serve_node(self, payload: bytes) -> bytes:
        """Answer a request that another node has passed on. If it is cancelled, the client has left."""
        try:
            response = await self._respond(msgspec.msgpack.decode(payload, type=ForwardedRequest))
        except HandshakeRejected as exc:
            response = text_refusal(exc)
        body = response.body
        if response.stream is not None:
            try:
                body = b"".join([data async for data in response.stream])
            except BaseException:
                response.lost("the client has left")
                raise
        return msgspec.msgpack.encode((response.status, response.headers, body))


def _decode_response(answer: bytes | None) -> HttpResponse:
    if answer is None:
        raise HandshakeRejected(404, "there is no such connection any more")
    return HttpResponse(*msgspec.msgpack.decode(answer, type=tuple[int, HeaderList, bytes]))


_of_servers: WeakKeyDictionary[Server, HttpConnections] = WeakKeyDictionary()


def http_connections(server: Server) -> HttpConnections:
    """Return the `HttpConnections` of a server. All applications of this process share them."""
    if (found := _of_servers.get(server)) is None:
        found = _of_servers[server] = HttpConnections(ref(server))
    return found


def is_carrier(request: HttpRequest) -> bool:
    """Return whether a request is for `HttpConnections`. (Preflight requests of pages are, too.)"""
    if request.method == "OPTIONS":
        return TRANSPORT in (asked := request.header("access-control-request-headers").lower()) or CONNECTION in asked
    return bool(request.header(TRANSPORT) or request.header(CONNECTION))
