"""Building blocks for adapters. The default transport uses the same building blocks.

An adapter turns the connections of a library into `Transport` objects. On the accepting side, it creates a `Handshake`
from each request (with `Server.limits`), passes it to `Server.handshake`, and passes the transport to `Server.accept`,
or to `accept_at_once`, which takes less time. If there is no transport, it calls `leave`.
If the adapter also opens a `Port`, pass the function that opens the port to `Server.listening`, so that closing the
server also closes the port. On the dialing side, an adapter is a function like `dial`.

- `ServerUpgrade` and `ClientUpgrade` create the default transport for a connection that an HTTP library has opened. If
  the library gives access to its asyncio transport, these two classes need the least work and give the best result.
- `Heartbeat` detects dead connections, with `Limits.ping_interval` and `Limits.ping_timeout`. `StallWatch` detects
  connections whose waiting bytes are not sent, with `Limits.stall_timeout`. Use both if the library's keepalive waits
  until there is room to send, or does not use the same close codes.
- `Delivery` passes messages to the receiver: it joins fragments, and keeps messages that arrive before ``start``.
- `DialRequest` checks the arguments of a dialing function. `dial_within` limits the time of an attempt, and adds to its
  error what may be wrong. Turn off redirects in the library.
- `joined_headers` and `address` return headers and addresses in the form that `Handshake` and `ConnectionInfo` need.
- `use_passing_on` runs a function around the calls that a server passes on for other nodes of its cluster.
- `serve_nodes` and `ask_node` let an adapter ask the same adapter at another node of a cluster.
- `connect_in_memory` connects a client in this process, for requests of another protocol that call handlers.
  `RequestRates` counts together what a caller calls, and `refuse_request` counts and logs requests that call nothing.
  `by_position` takes arguments by name.
- `check_close` raises an exception for close codes and reasons that must not be sent.
- A dialing function raises `BadURL`, which is a `ValueError`, if no attempt can succeed with the URL. The client then
  does not try again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ._base.closing import check_close
from ._base.request_headers import address, joined_headers
from ._core.api.outgoing import OutgoingCall
from ._core.api.outgoing_functions import read_function
from ._core.api.registration import registry_of
from ._core.handlers.arguments import placed
from ._core.handlers.introspection import Kind
from ._core.handlers.method import Keep
from ._local import RequestRates, connect_in_memory
from ._net.delivery import Delivery
from ._net.dial_request import DialRequest, dial_within
from ._net.heartbeat import Heartbeat, StallWatch
from ._net.upgrade import ClientUpgrade, ServerUpgrade
from ._net.urls import BadURL
from ._server.ports import Port
from ._server.server import Server, accept_at_once, leave, refuse_request
from .cluster._cluster import ask_node, serve_nodes

__all__ = [
    "BadURL",
    "ClientUpgrade",
    "Delivery",
    "DialRequest",
    "Heartbeat",
    "KeptHandler",
    "Port",
    "RequestRates",
    "ServerUpgrade",
    "StallWatch",
    "accept_at_once",
    "address",
    "ask_node",
    "by_position",
    "check_close",
    "connect_in_memory",
    "dial_within",
    "joined_headers",
    "kept_handler",
    "leave",
    "refuse_request",
    "serve_nodes",
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


class KeptHandler(NamedTuple):
    """Handler whose calls may have keys.

    Attributes:
        keep: its option ``keep=``.
        streams: whether it yields items. Otherwise, it returns a value.
    """

    keep: Keep
    streams: bool


def by_position(server: Server, channel: str | None, event: str, named: Mapping[str, Any]) -> list[Any]:
    """Return arguments that are given by name in the order of the handler's parameters.

    Before an argument that is given, a default stands for one that is not, and must fit its annotation. A parameter
    ``*args`` takes a list. Older names of parameters are read, too. If the server has no handler that says its
    parameters, ``named`` is the only argument.

    Raises:
        BadArguments: a name is unknown or there twice, a required one is missing, or ``*args`` is no list. ``data``
            names it.
    """
    scope = registry_of(server).scopes.get(channel)
    handler = None if scope is None else scope.handlers.get(event) or scope.once.get(event)
    return [named] if handler is None else placed(event, handler.facts.parameters, named)


def kept_handler(server: Server, channel: str | None, event: str) -> KeptHandler | None:
    """Return what a request has to know of a handler whose calls may have keys. None if there is no such handler."""
    scope = registry_of(server).scopes.get(channel)
    handler = None if scope is None else scope.handlers.get(event)
    if handler is None or handler.keep is None:
        return None
    return KeptHandler(handler.keep, handler.facts.kind is Kind.STREAM)
