"""Socket operations of the proxy."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from contextlib import suppress

if sys.platform == "linux":
    from fcntl import ioctl

SIOCOUTQNSD = 0x894B
"""Linux: number of bytes in a TCP socket that were not sent. (Python has no name for it.)"""

LINGER_ZERO = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def bound(port: int) -> socket.socket:
    """Return a TCP socket bound to this loopback port, or for 0 to a free one. Several sockets can share a port."""
    # With the protocol named, asyncio turns Nagle's algorithm off for what it accepts: small pieces leave at once.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):  # systems differ in which of the two is needed
            if hasattr(socket, option):
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        sock.bind(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def reset_when_closed(transport: asyncio.Transport) -> None:
    """Make the closing of a socket send a RST, which drops what was not sent."""
    sock = transport.get_extra_info("socket")
    with suppress(OSError):  # closed already; or broken by the remote end, where some systems refuse this
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


def unsent(transport: asyncio.Transport) -> int:
    """Return the number of bytes that were written and not sent. Only on Linux it includes those in the kernel."""
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock.fileno() < 0:
        return waiting
    kept: int = struct.unpack("i", ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)))[0]
    return waiting + kept
