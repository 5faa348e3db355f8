"""What the default transport uses of asyncio's transports that has no public name. On uvloop's, it has no effect."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

READ_METHOD = "_read_ready_cb"
"""Attribute of asyncio's transports, the method that reads."""


def release_transport(tcp: Any) -> None:
    """Cut the circle of references in a transport that has ended. (It refers to itself by a method.)"""
    if hasattr(tcp, READ_METHOD):
        delattr(tcp, READ_METHOD)


def limit_read(tcp: Any, size: int) -> None:
    """Read at most ``size`` bytes at once from now on."""
    with suppress(AttributeError):
        tcp.max_size = size


def waiting_bytes(tcp: Any) -> tuple[int, bool]:
    """Return the bytes that wait in a transport, and whether there may be more that are not known.

    asyncio's TLS transport writes to a second transport, whose bytes it does not count. With uvloop, there is no access
    to that one.
    """
    hidden = bool(tcp.get_extra_info("ssl_object")) and not hasattr(tcp, "_ssl_protocol")
    size = 0
    while tcp is not None:
        size += tcp.get_write_buffer_size()
        tcp = getattr(getattr(tcp, "_ssl_protocol", None), "_transport", None)
    return size, hidden
