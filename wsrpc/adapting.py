"""Parts for authors of adapters. The default transport is made from the same parts.

An adapter turns the connections of a library into `Transport` objects. On the accepting side, it makes a `Handshake`
from each request (with `Server.limits`), passes it to `Server.handshake`, and passes the transport to `Server.accept`.
If the adapter also opens a `Port`, pass the function that opens it to `Server.listening`, so that the port is closed
with the server. On the dialing side, an adapter is a function like `dial`.

- `Heartbeat` detects dead connections, with `Limits.ping_interval` and `Limits.ping_timeout`. `StallWatch` detects
  connections on which no bytes are sent, with `Limits.stall`. Use them if the keepalive of the library waits until
  there is room to send, or ends the connection with another code.
- `FrameWriter` builds data frames and writes them together. Use it if the library writes each message separately and
  gives access to the connection. `Delivery` passes messages to the receiver: it joins fragments, and keeps messages
  that arrive before ``start``.
- `ServerUpgrade` and `ClientUpgrade` make the default transport from a connection that an HTTP library has opened. If
  the library gives access to its asyncio transport, these two classes need the least work and give the best result.
- `DialRequest` checks the arguments of a dialing function. It also has the rule for redirects, which says what is sent
  to which origin. `follow_redirects` applies the rule. Turn off the redirects of the library.
- `turns_of` returns the `Turns` of an event loop. They prevent connections that send without a pause from taking all of
  its time. After a read of `MUCH` bytes or more, call `Turns.take` for a place in the current turn, or `Turns.wait` for
  a place in a later turn. Read at most `READ` bytes at first. After a read of `MUCH` bytes or more, read at most as
  many bytes as `next_read` returns.
- `joined_headers` and `address` return headers and addresses in the form that `Handshake` and `ConnectionInfo` need.
- `check_close` refuses close codes and reasons that may not be sent. `check_proxy` refuses URLs that are not URLs of
  proxies. `environment_proxy` returns the proxy from the environment.
- `BadURL` is the `ValueError` of a dialing function for a URL to which no attempt can connect. A client that gets it
  does not try again.
- `one_line` turns text from the remote peer into one line of limited length, for the text of an exception.
- `safe_logger` is for the log of an adapter. Each record is one line of limited length, whatever the remote peer has
  sent.
"""

from __future__ import annotations

from ._base.closing import check_close
from ._base.headers import address, joined_headers
from ._base.logs import safe_logger
from ._server.listening import Port
from ._transports.delivery import Delivery
from ._transports.dial_request import DialRequest, follow_redirects
from ._transports.fairness import MUCH, READ, Turns, next_read, turns_of
from ._transports.frames import FrameWriter
from ._transports.heartbeat import Heartbeat, StallWatch
from ._transports.upgrade import ClientUpgrade, ServerUpgrade
from ._transports.urls import BadURL, check_proxy, environment_proxy
from .errors import one_line

__all__ = [
    "MUCH",
    "READ",
    "BadURL",
    "ClientUpgrade",
    "Delivery",
    "DialRequest",
    "FrameWriter",
    "Heartbeat",
    "Port",
    "ServerUpgrade",
    "StallWatch",
    "Turns",
    "address",
    "check_close",
    "check_proxy",
    "environment_proxy",
    "follow_redirects",
    "joined_headers",
    "next_read",
    "one_line",
    "safe_logger",
    "turns_of",
]
