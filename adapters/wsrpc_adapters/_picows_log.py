"""What the two sides of the picows adapter have in common: what is logged, and how picows says things."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["LOG", "address", "joined_headers"]


class _Log(logging.LoggerAdapter[logging.Logger]):
    """picows' own log. (It makes a logger for each connection, unless it is given one that is none.)"""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        # What picows says so is that the other side broke the rules, which whoever connects may do all day.
        self.info(msg, *args, **kwargs)


LOG = _Log(logging.getLogger("wsrpc.picows"), {})
"""What picows says at INFO, wsrpc says too, with the peer's id."""
LOG.setLevel(logging.WARNING)


def joined_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Each header once, in lower case, with all its values."""
    joined: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def address(name: Any) -> tuple[str, int] | None:
    """Host and port of what the event loop calls an address, if it has them."""
    return (name[0], name[1]) if name.__class__ is tuple and len(name) >= 2 else None
