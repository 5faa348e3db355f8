"""What picows logs, on both sides."""

from __future__ import annotations

import logging
from typing import Any

from wsrpc.adapting import safe_logger

__all__ = ["LOG"]


class _Log(logging.LoggerAdapter[logging.Logger]):
    """picows' own log. (It makes a logger for each connection, unless it is given one that is none.)"""

    def error(self, msg: object, *args: object, **kwargs: Any) -> None:
        # What picows says so is that the other side broke the rules, which whoever connects may do all day.
        self.info(msg, *args, **kwargs)


LOG = _Log(safe_logger("wsrpc.picows"), {})
"""What picows says at INFO, wsrpc says too, with the peer's id."""
LOG.setLevel(logging.WARNING)
