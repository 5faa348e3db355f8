"""Building blocks for adapters. The default transport uses the same building blocks.

An adapter turns the connections of a library into `Transport` objects. On the accepting side, it creates a `Handshake`
from each request (with `Server.limits`), passes it to `Server.handshake`, and passes the transport to `Server.accept`,
or to `accept_at_once`, which takes less time.
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
- `check_close` raises an exception for close codes and reasons that must not be sent.
- A dialing function raises `BadURL`, which is a `ValueError`, if no attempt can succeed with the URL. The client then
  does not try again.
"""

from __future__ import annotations

from ._base.closing import check_close
from ._base.request_headers import address, joined_headers
from ._net.delivery import Delivery
from ._net.dial_request import DialRequest, dial_within
from ._net.heartbeat import Heartbeat, StallWatch
from ._net.upgrade import ClientUpgrade, ServerUpgrade
from ._net.urls import BadURL
from ._server.ports import Port
from ._server.server import accept_at_once

__all__ = [
    "BadURL",
    "ClientUpgrade",
    "Delivery",
    "DialRequest",
    "Heartbeat",
    "Port",
    "ServerUpgrade",
    "StallWatch",
    "accept_at_once",
    "address",
    "check_close",
    "dial_within",
    "joined_headers",
]
