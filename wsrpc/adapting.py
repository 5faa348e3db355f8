"""For authors of adapters: parts that a transport of another library can be made of, as the default one is.

An adapter for a library turns its connections into `Transport` objects. On the accepting side it makes a `Handshake` of
each request (with `Server.limits`), asks `Server.handshake` about it, and hands the transport to `Server.accept`; if it
also opens a `Port`, `Server.listening` ends that with the server. On the dialing side it is a function such as `dial`.

- `Heartbeat` finds dead lines as `Limits.ping_interval` and ``ping_timeout`` want it, `StallWatch` those on which
  nothing leaves (``stall``); for libraries whose own keepalive waits behind a full line, or ends with another code.
- `Framer` builds data frames, for libraries that write each message by itself and give access to the connection.
- `ServerUpgrade` and `ClientUpgrade` make the default transport of a connection that an HTTP library has opened. That
  is the least work and the most that an adapter can offer, where the library gives its asyncio transport away.
- `DialRequest` checks what a dialing function is given, and has the rule for redirects: what is sent to which origin.
  `follow_redirects` applies it. The library's own redirects have to be off.
- `turns_of` has places in the turns of an event loop, so that connections that send on and on leave time for others:
  read at most `READ` bytes at once, and after a read of `MUCH` or more `Turns.take` a place, or `Turns.wait` for one.
- `joined_headers` and `address` say what a `Handshake` and a `ConnectionInfo` want in their form.
- `check_close` refuses a code or a reason that may not be sent, `check_proxy` what is not a proxy's URL;
  `environment_proxy` finds the one that the environment names.
- `BadURL` is the `ValueError` of a dialing function to which no attempt can succeed: a client does not try again.
- `one_line` makes one bounded line of what the other side has said, for the text of an exception.
- `safe_logger` is for a library's own log: each record is one bounded line, whatever the other side has sent.
"""

from __future__ import annotations

from ._base.closing import check_close
from ._base.headers import address, joined_headers
from ._base.logs import safe_logger
from ._server.listening import Port
from ._transports.delivery import Delivery
from ._transports.dial_request import DialRequest, follow_redirects
from ._transports.fairness import MUCH, READ, Turns, turns_of
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
    "one_line",
    "safe_logger",
    "turns_of",
]
