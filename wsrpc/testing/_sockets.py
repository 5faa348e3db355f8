"""What the proxy asks of the operating system."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from contextlib import suppress

if sys.platform == "linux":
    from fcntl import ioctl

__all__ = ["bound", "reset_when_closed", "unsent"]

SIOCOUTQNSD = 0x894B
"""Linux: how many bytes a TCP socket holds that have not left. (It has no name in Python.)"""

LINGER_ZERO = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


def bound(port: int) -> socket.socket:
    """A TCP socket at this loopback port, at any free one for 0; several may be at the same port."""
    sock = socket.socket()
    try:
        for option in ("SO_REUSEADDR", "SO_REUSEPORT"):  # which of the two it takes, depends on the system
            if hasattr(socket, option):
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)
        sock.bind(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def reset_when_closed(transport: asyncio.Transport) -> None:
    """Let the closing of a socket be a RST, which drops what has not left."""
    sock = transport.get_extra_info("socket")
    with suppress(OSError):  # it is closed already, or some systems refuse because the other side broke it
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)


def unsent(transport: asyncio.Transport) -> int:
    """Bytes that were written and have not left; those that the kernel holds count only on Linux."""
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sys.platform != "linux" or sock.fileno() < 0:
        return waiting
    kept: int = struct.unpack("i", ioctl(sock.fileno(), SIOCOUTQNSD, bytes(4)))[0]
    return waiting + kept
