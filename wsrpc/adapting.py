"""Parts for authors of adapters, from which a transport of another library can be made, as the default one is.

An adapter turns a library's connections into `Transport` objects. On the accepting side it makes a `Handshake` of each
request (with `Server.limits`), passes it to `Server.handshake`, and hands the transport to `Server.accept`. If it also
opens a `Port`, `Server.listening` closes that with the server. On the dialing side it is a function such as `dial`.

- `Heartbeat` finds dead connections by `Limits.ping_interval` and ``ping_timeout``, and `StallWatch` those on which
  nothing leaves, by ``stall``. They are for libraries whose own keepalive waits until there is room, or ends the
  connection with another code.
- `FrameWriter` builds data frames and writes them together, for libraries that write each message by itself and give
  access to the connection. `Delivery` passes messages to the receiver: it joins fragments, and keeps what arrives
  before ``start``.
- `ServerUpgrade` and `ClientUpgrade` make the default transport of a connection that an HTTP library has opened. Where
  the library gives access to its asyncio transport, that is the least work and the best result.
- `DialRequest` checks the arguments of a dialing function, and has the rule for redirects: what is sent to which
  origin. `follow_redirects` applies it. Turn off the library's own redirects.
- `turns_of` returns the places in the turns of an event loop, which keep connections that send without a pause from
  taking all of its time: after a read of `MUCH` bytes or more `Turns.take` a place, or `Turns.wait` for one. Read at
  most `READ` bytes at first, and after such a read as many as `next_read` says.
- `joined_headers` and `address` return headers and addresses in the form that `Handshake` and `ConnectionInfo` need.
- `check_close` refuses a close code or reason that may not be sent, `check_proxy` a URL that is not a proxy's;
  `environment_proxy` finds the proxy that the environment names.
- `BadURL` is the `ValueError` of a dialing function for a URL that no attempt can dial: a client does not try again.
- `one_line` makes one bounded line of text from the remote peer, for the text of an exception.
- `safe_logger` is for a library's own log: each record is one bounded line, whatever the remote peer has sent.
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
