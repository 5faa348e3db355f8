"""The log of picows, for servers and clients."""

from __future__ import annotations

import logging
from typing import Any

from wsrpc.adapting import safe_logger

__all__ = ["LOG"]


class _Log(logging.LoggerAdapter[logging.Logger]):
    """picows' own log. (picows makes a logger for each connection, unless it gets an object that is not a logger.)"""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        # picows logs each violation of the protocol at ERROR, and any client can cause them without end.
        self.info(msg, *args, **kwargs)


LOG = _Log(safe_logger("wsrpc.picows"), {})
"""Lines at INFO are left out: wsrpc logs the same facts, with the peer's id."""
LOG.setLevel(logging.WARNING)
