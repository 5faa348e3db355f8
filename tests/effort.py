"""How much of what Hypothesis makes up is tried."""

from __future__ import annotations

import os

__all__ = ["QUICK", "SOAK", "examples"]

QUICK = os.environ.get("WSRPC_QUICK") == "1"
"""Where the same tests also run in full, on another Python for instance."""
SOAK = os.environ.get("WSRPC_SOAK") == "1"
"""The long form, see ``make soak``."""


def examples(count: int) -> int:
    """``count``; with ``WSRPC_QUICK=1`` a fifth of them, and with ``WSRPC_SOAK=1`` 5,000."""
    if SOAK:
        return 5000
    return max(1, count // 5) if QUICK else count
