"""How much tests search: ``make test`` plays the same few examples each time, and ``make explore`` others."""

from __future__ import annotations

import os

import hypothesis

__all__ = ["EXPLORE", "QUICK", "SEED", "SOAK", "examples", "use_profile"]

SOAK = os.environ.get("WSRPC_SOAK") == "1"
"""The long form of the stress tests, see ``make soak``."""
EXPLORE = SOAK or os.environ.get("WSRPC_EXPLORE") == "1"
"""Random examples, see ``make explore``."""
QUICK = os.environ.get("WSRPC_QUICK") == "1"
"""Without asyncio's debug mode: where the same tests also run with it, on another Python for instance."""
SEED = int(os.environ.get("WSRPC_SEED", "1"))
"""Of all random choices. `make soak` chooses and prints one."""


def examples(count: int) -> int:
    """Return ``count`` for ``make explore``, 5,000 for ``make soak``, and else a fifth of ``count``."""
    if SOAK:
        return 5000
    return count if EXPLORE else max(1, count // 5)


def use_profile() -> None:
    """Let Hypothesis make up examples as this run asks for."""
    # No test may pass or fail by how fast the machine is, and Hypothesis's own deadline would do that.
    hypothesis.settings.register_profile("wsrpc", deadline=None, derandomize=not EXPLORE, print_blob=EXPLORE)
    hypothesis.settings.load_profile("wsrpc")
