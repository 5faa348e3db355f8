"""Building blocks for adapters. The default transport uses the same building blocks.

An adapter turns the connections of a library into `Transport` objects. On the accepting side, it creates a `Handshake`
from each request (with `Server.limits`), passes it to `Server.handshake`, and passes the transport to `Server.accept`.
If the adapter also opens a `Port`, pass the function that opens the port to `Server.listening`, so that closing the
server also closes the port. On the dialing side, an adapter is a function like `dial`.

- `FrameTransport` is the default transport without its parser, for a library that only parses. Pass it an asyncio
  transport, an object that parses, and the result of the opening handshake as `Opened`. Then report to it what the
  library and the asyncio transport report. The adapter for picows works this way.
- `Heartbeat` detects dead connections, with `Limits.ping_interval` and `Limits.ping_timeout`. `StallWatch` detects
  connections whose waiting bytes are not sent, with `Limits.stall`. Use both if the library's keepalive waits until
  there is room to send, or does not use the same close codes.
- `FrameWriter` builds data frames and writes them together. Use it if the library writes each message separately and
  gives access to its connection. `Delivery` passes messages to the receiver: it joins fragments, and keeps messages
  that arrive before ``start``.
- `ServerUpgrade` and `ClientUpgrade` create the default transport for a connection that an HTTP library has opened. If
  the library gives access to its asyncio transport, these two classes need the least work and give the best result.
- `DialRequest` checks the arguments of a dialing function. It also decides which redirects are followed, and what is
  sent to the new origin. `follow_redirects` applies these rules. Turn off redirects in the library.
- `turns_of` returns the `Turns` of an event loop, which prevent connections that send without a pause from using all of
  the loop's time. After a read of `MUCH` bytes or more, call `Turns.take` for a place in the current turn. If it
  returns False, call `Turns.wait` for a place in a later turn. Read at most `READ` bytes the first time. After a read
  of `MUCH` bytes or more, read at most as many bytes as `next_read` returns.
- `joined_headers` and `address` return headers and addresses in the form that `Handshake` and `ConnectionInfo` need.
  `path_of` returns the decoded path of a request's target, and `visible_target` returns a target that can be part of a
  URL. `refusal_headers` returns the headers to send with a `HandshakeRejected`.
- `check_close` raises an exception for close codes and reasons that must not be sent, and `check_proxy` for values that
  are not the URL of a proxy. `environment_proxy` returns the proxy from the environment.
- A dialing function raises `BadURL`, which is a `ValueError`, if no attempt can succeed with the URL. The client then
  does not try again.
- `one_line` turns text from the remote peer into one line of limited length, for an error message.
- `safe_logger` returns a logger for an adapter. Each record is one line of limited length, whatever the remote peer has
  sent.
"""

from __future__ import annotations

from ._base.closing import check_close
from ._base.headers import address, joined_headers, path_of, refusal_headers, visible_target
from ._base.logs import safe_logger
from ._server.listening import Port
from ._transports.delivery import Delivery
from ._transports.dial_request import DialRequest, follow_redirects
from ._transports.fairness import MUCH, READ, Turns, next_read, turns_of
from ._transports.frames import FrameWriter
from ._transports.heartbeat import Heartbeat, StallWatch
from ._transports.output import Opened
from ._transports.upgrade import ClientUpgrade, ServerUpgrade
from ._transports.urls import BadURL, check_proxy, environment_proxy
from ._transports.websocket import FrameTransport, Reader
from .errors import one_line

__all__ = [
    "MUCH",
    "READ",
    "BadURL",
    "ClientUpgrade",
    "Delivery",
    "DialRequest",
    "FrameTransport",
    "FrameWriter",
    "Heartbeat",
    "Opened",
    "Port",
    "Reader",
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
    "path_of",
    "refusal_headers",
    "safe_logger",
    "turns_of",
    "visible_target",
]
