"""Building blocks for adapters. The default transport uses the same building blocks.

An adapter turns the connections of a library into `Transport` objects. On the accepting side, it creates a `Handshake`
from each request (with `Server.limits`), passes it to `Server.handshake`, and passes the transport to `Server.accept`,
or to `accept_at_once`, which takes less time. If there is no transport, it calls `leave`.
If the adapter also opens a `Port`, pass the function that opens the port to `Server.listening`, so that closing the
server also closes the port. On the dialing side, an adapter is a function like `dial`.

- `ServerUpgrade` and `ClientUpgrade` create the default transport for a connection that an HTTP library has opened. If
  the library gives access to its asyncio transport, these two classes need the least work and give the best result.
- `Heartbeat` detects dead connections, with `Limits.ping_interval` and `Limits.ping_timeout`. Use it if the library's
  keepalive waits until there is room to send, or does not use the same close codes.
- `Backpressure` pauses senders while there is no room, and drops connections whose waiting bytes are not sent, with
  `Limits.stall_timeout`.
- `Delivery` passes messages to the receiver: it joins fragments, and keeps messages that arrive before ``start``.
- `DialRequest` checks the arguments of a dialing function. `dial_within` limits the time of an attempt, and adds to its
  error what may be wrong. Turn off redirects in the library.
- `joined_headers` and `address` return headers and addresses in the form that `Handshake` and `ConnectionInfo` need.
- `use_passing_on` runs a function around the calls that a server passes on for other nodes of its cluster.
- `HttpRoutes` and `http_connections` respond to requests of HTTP. The adapter of a framework makes an `HttpRequest` of
  each request, and sends the `HttpResponse` by `send_body`.
- `DocsRoutes` are the page of a server, and its documents.
- `ChatRoutes` are the URLs of chats in a `ChatProtocol`, which reads what clients have `Asked`, and has a `ChatWriter`
  of the events of a `ChatRun`.
- `connect_in_memory` connects a client in this process, for requests of another protocol that call handlers.
- `check_close` raises an exception for close codes and reasons that must not be sent.
- A dialing function raises `BadURL`, which is a `ValueError`, if no attempt can succeed with the URL. The client then
  does not try again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ._base.closing import check_close
from ._base.logs import sanitize
from ._base.misuse import check_number
from ._base.request_headers import address, joined_headers
from ._core.api.outgoing import OutgoingCall
from ._core.api.outgoing_functions import read_function
from ._core.api.registration import registry_of
from ._http_server.chat_runs import Asked, ChatRun
from ._http_server.chats import ChatProtocol, ChatRoutes, ChatWriter
from ._http_server.connections import http_connections, is_carrier
from ._http_server.docs import DocsRoutes
from ._http_server.requests import HttpRequest, HttpResponse, send_body, text_refusal
from ._http_server.routes import HttpRoutes
from ._local import connect_in_memory
from ._net.backpressure import Backpressure
from ._net.delivery import Delivery
from ._net.dialing.dial_request import DialRequest, dial_within
from ._net.dialing.urls import BadURL
from ._net.heartbeat import Heartbeat
from ._net.library_handshake import unread
from ._net.loop_budget import loop_budget_of
from ._net.serving.health import Health
from ._net.upgrade import ClientUpgrade, ServerUpgrade
from ._server.ports import Port
from ._server.server import Server, accept_at_once, leave

__all__ = [
    "Asked",
    "Backpressure",
    "BadURL",
    "ChatProtocol",
    "ChatRoutes",
    "ChatRun",
    "ChatWriter",
    "ClientUpgrade",
    "Delivery",
    "DialRequest",
    "DocsRoutes",
    "Health",
    "Heartbeat",
    "HttpRequest",
    "HttpResponse",
    "HttpRoutes",
    "Port",
    "ServerUpgrade",
    "accept_at_once",
    "address",
    "check_close",
    "check_number",
    "connect_in_memory",
    "dial_within",
    "http_connections",
    "is_carrier",
    "joined_headers",
    "leave",
    "loop_budget_of",
    "sanitize",
    "send_body",
    "text_refusal",
    "unread",
    "use_passing_on",
]


def use_passing_on(server: Server, function: Callable[[OutgoingCall], Iterator[None] | None]) -> None:
    """Run ``function`` around each call of another node of the cluster that ``server`` passes on to its client.

    The function has one of the plain forms of `Server.use_outgoing`, which does not get these calls. It runs until the
    response, or until a stream or a conversation has opened.

    Raises:
        TypeError: ``function`` has no valid form.
    """
    registry_of(server).passing_on.append(read_function(function))
