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
PART_BYTES = 32 * 1024
"""Bytes of a message in one part: 1.6 seconds at 20 kB/s."""


def cut(payload: bytes, text: bool) -> list[bytes]:
    """Return the parts of a message."""
    last = (len(payload) - 1) // PART_BYTES * PART_BYTES
    more = MARK + bytes([MORE])
    parts = [more + payload[at : at + PART_BYTES] for at in range(0, last, PART_BYTES)]
    parts.append(MARK + bytes([TEXT if text else BINARY]) + payload[last:])
    return parts
