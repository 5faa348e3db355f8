"""Large messages in parts.

On a slow network, a large message takes longer than a connection lasts, or is larger than a proxy lets pass. Its parts
are counted and acknowledged like other messages. So after a drop, only the parts that have not arrived are sent again,
and each part shows that the connection is alive.

A part is a binary message: `MARK`, a byte that says what follows, and bytes of the message. No other part may come
between the parts of a message.
"""

from __future__ import annotations

MARK = b"\xc1"
"""The first byte of a part. No message in MessagePack begins with it, and messages in JSON are text."""
MORE, TEXT, BINARY = 0, 1, 2
"""The second byte of a part: others follow, or it is the last part of a message that is text, or that is binary."""
HEAD = 2
"""Bytes before those of the message."""
PART_BYTES = 16 * 1024
"""Bytes of a message in one part, until the connection has shown that it is fast: 0.8 seconds at 20 kB/s. (Some
gateways accept no frames of more than 32 kB.)"""
LARGEST_PART = 128 * 1024
"""The same afterwards, at most. A fast connection may become slow, and a larger part might then not arrive within
`Limits.stall_timeout`. (Larger parts save no time on a fast connection.)"""
SECONDS = 1.0
"""A message is not sent in parts if it takes less time than this."""


def cut(payload: bytes, text: bool, size: int) -> list[bytes]:
    """Return the parts of a message, or smaller parts of a part, each with at most ``size`` bytes of the message."""
    kind, view = TEXT if text else BINARY, memoryview(payload)  # with a view, each part is copied once, not twice
    if not text and payload.startswith(MARK):
        kind, view = payload[1], view[HEAD:]
    last = (len(view) - 1) // size * size
    kinds = (kind if at == last else MORE for at in range(0, len(view), size))
    return [b"".join((MARK, bytes((each,)), view[n * size : (n + 1) * size])) for n, each in enumerate(kinds)]
