"""How much of what Hypothesis makes up is tried."""

from __future__ import annotations

import os

__all__ = ["examples"]

QUICK = os.environ.get("WSRPC_QUICK") == "1"
"""Where the same tests also run in full, on another Python for instance."""


def examples(count: int) -> int:
    """``count``, or with ``WSRPC_QUICK=1`` a fifth of them."""
    return max(1, count // 5) if QUICK else count
