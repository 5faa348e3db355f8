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
import hmac
import re
import secrets
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, ref

import msgspec

from .._http.http_frames import CONNECTION, NO_ROOM, NOTHING, NUMBER, TRANSPORT, frame, happens
from .._http.http_transport import HttpTransport
from .._server.server import Server, accept_at_once
from ..cluster._cluster import Cluster, ask_node, serve_nodes
from ..errors import HandshakeRejected
from ..handshake import RESUME_HEADER, Handshake
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

MODES = ("stream", "poll")
QUIET = 20.0
"""Seconds after which a response without bytes gets some, or ends: proxies end one that is quiet for longer."""
SHORT = 0.5
"""The same for a response that does not wait long."""
TAIL = 32 * 1024
"""Maximum bytes that are sent again if they have not arrived. (If more are missing, the session resumes.)"""
ABSENT = 10.0
"""Seconds without a request, after which a connection that is polled is over."""
GIVEN_UP = 5.0
"""The same after a page has given up a response. (Or it has gone.)"""
SMALL = 4096
"""Maximum bytes of a body that is passed on before the other node has said that it admits the request."""


NO_CONNECTION = "this process has no such connection: several processes need a cluster, or a proxy with affinity"

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


class HttpConnection:
    """A connection, with what its next requests must have."""

    def __init__(self, transport: HttpTransport, opened_by: HttpRequest, *, polled: bool) -> None:
        self.transport = transport
        self.polled = polled
        self.authorization, self.origin = opened_by.header("authorization"), opened_by.header("origin")
        self.next_post = 1
        """The number of the next POST that carries what the client sends."""
        self.posting = False
        """Whether it is being read."""
        self.sent, self.tail, self.again = 0, bytearray(), b""
        """How many bytes responses have carried, the last of them, and those that the next one carries again."""
        self.response: object = None
        """The response that takes what is sent. None if the client has to ask for it."""
        self._absent: asyncio.TimerHandle | None = None
        """Ends the connection if the client polls no more."""
        self.opening: Any = None
        """Task that accepts the connection."""

    def request_ended(self, seconds: float) -> None:
        """Wait for the next one. (A client that does not want to receive sends POSTs in the meantime.)"""
        if self._absent is not None:
            self._absent.cancel()
        self._absent = asyncio.get_running_loop().call_later(seconds, self._expire) if self.polled else None

    def _expire(self) -> None:
        if not (self.response or self.posting):
            self.transport.lost("the client polls no more")

    def response_lost(self, response: object, reason: str) -> None:
        """Handle the end of a response that was not complete. A page that has given it up asks for another one."""
        if self.response is not response:
            return
        if not self.origin:
            self.transport.lost(reason)
        self.response, self.polled = None, True
        self.request_ended(GIVEN_UP)

    def admits(self, request: HttpRequest) -> bool:
        """Return whether a request may belong to this connection. An id that was guessed or stolen is not enough."""
        given = request.header("authorization"), self.authorization
        same = hmac.compare_digest(*(each.encode(errors="surrogateescape") for each in given))
        return same and request.header("origin") == self.origin  # which browsers send with each POST


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
            if request.method != "POST" or mode not in MODES:
                raise HandshakeRejected(400, f"a connection is opened by a POST with {TRANSPORT}: {' or '.join(MODES)}")
            return await until_left(request, self._open(request, mode))
        if (connection := self._connections.get(id)) is None:
            node, cluster = id.rpartition(".")[0], self._cluster
            if node and cluster is not None and cluster.connected and not isinstance(request, ForwardedRequest):
                return await self._forward(cluster, node, request)
            raise HandshakeRejected(404, NO_CONNECTION)
        if not connection.admits(request):
            raise HandshakeRejected(403, "the connection was opened with another origin or Authorization")
        if request.method == "HEAD":
            return HttpResponse(204, [])
        if mode:
            return self._poll(connection, request, mode)
        return await self._post(connection, request)

    # ------------------------------------------------------------ what is sent

    async def _open(self, request: HttpRequest, mode: str) -> HttpResponse:
        server = self.server
        handshake = request.handshake(server)
        await server.handshake(handshake)
        transport = HttpTransport(handshake.connection_info(request), handshake.limits)
        connection = HttpConnection(transport, request, polled=mode == "poll")
        if (cluster := self._cluster) is not None and not cluster.nodes:
            await server.open()  # this is its first connection, and the id names the node
        node = f"{cluster.nodes[0]}." if cluster is not None else ""
        id = f"{node}{secrets.token_urlsafe(24)}"
        transport.announce(id)
        rest = accept_at_once(server, transport, handshake)
        self._connections[id] = connection
        transport.over.add_done_callback(lambda _: self._connections.pop(id, None))
        if rest is not None:
            connection.opening = asyncio.ensure_future(rest)
        response = self._send(connection, QUIET)
        return response._replace(headers=[*handshake.response_headers.pairs(), *response.headers])

    def _poll(self, connection: HttpConnection, request: HttpRequest, mode: str) -> HttpResponse:
        if mode not in ("poll", "short"):
            raise HandshakeRejected(400, f"the next response is asked for with {TRANSPORT}: poll or short")
        number, tail = request.header(NUMBER), connection.tail
        missing = connection.sent - int(number) if re.fullmatch("[0-9]{1,16}", number) else -1
        if not 0 <= missing <= len(tail):
            connection.transport.lost("a response was lost")
            raise HandshakeRejected(409, "another request was expected")
        connection.polled = True
        if connection.response is not None:  # the page has given it up, but a proxy has not said so
            connection.transport.output.set()
        connection.sent -= missing
        connection.again = bytes(tail[len(tail) - missing :])
        del tail[len(tail) - missing :]
        return self._send(connection, SHORT if mode == "short" else QUIET)

    def _send(self, connection: HttpConnection, seconds: float) -> HttpResponse:
        """Return a response that carries what the server sends: all of it, or the next part."""
        connection.response = response = object()
        stream = self._stream(connection, response, seconds)
        return HttpResponse(200, BYTES, stream=stream, lost=partial(connection.response_lost, response))

    async def _stream(self, connection: HttpConnection, response: object, seconds: float) -> AsyncGenerator[bytes]:
        transport = connection.transport
        while not transport.over.done():
            await happens(transport.output, 0 if connection.again else seconds)
            if connection.response is not response:
                return
            data, connection.again = connection.again or transport.pop_output() or frame(NOTHING), b""
            connection.sent += len(data)
            connection.tail += data
            del connection.tail[:-TAIL]
            yield data
            if connection.response is not response:
                return
            transport.carried()
            if connection.polled:
                connection.response = None
                connection.request_ended(ABSENT)
                return

    # ------------------------------------------------------------ what has arrived

    async def _post(self, connection: HttpConnection, request: HttpRequest) -> HttpResponse:
        number = request.header(NUMBER)
        if connection.posting or number not in (str(connection.next_post), str(connection.next_post - 1)):
            connection.transport.lost("requests of the client are missing, or in another order")
            raise HandshakeRejected(409, "another request was expected")
        if int(number) < connection.next_post:
            return HttpResponse(204, [])  # it was repeated
        transport = connection.transport
        connection.posting = True
        try:
            if not await happens(transport.readable, QUIET):
                return text_refusal(HandshakeRejected(NO_ROOM, "repeat this request: the server has no room"))
            await read_body(request, transport.feed)
        except HandshakeRejected as exc:
            transport.lost(exc.body)
            raise
        except BaseException:
            transport.lost("a request of the client has not arrived")
            raise
        finally:
            connection.posting = False
            connection.request_ended(ABSENT)
        connection.next_post += 1
        return HttpResponse(204, [])

    # ------------------------------------------------------------ other nodes

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


BYTES: HeaderList = [("content-type", "application/octet-stream"), ("x-content-type-options", "nosniff")]


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
