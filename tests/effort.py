"""How much tests search: ``make test`` plays the same few examples each time, and ``make explore`` others."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis

__all__ = ["EXPLORE", "LEFT_OUT", "MAIN", "QUICK", "SEED", "SOAK", "examples", "use_profile"]

SOAK = os.environ.get("WSRPC_SOAK") == "1"
"""The long form of the stress tests, see ``make soak``."""
EXPLORE = SOAK or os.environ.get("WSRPC_EXPLORE") == "1"
"""Random examples, see ``make explore``."""
MAIN = os.environ.get("WSRPC_MAIN") == "1"
"""Without what only ``make test-all`` runs: `LEFT_OUT`, and three quarters of the seeds of the simulated world."""
QUICK = MAIN or os.environ.get("WSRPC_QUICK") == "1"
"""Without asyncio's debug mode: where the same tests also run with it, in ``make test-all`` or on another Python."""
LEFT_OUT = [
    str(Path(__file__).parent.parent / name)
    for name in (
        "tests/adapters/test_cluster_workers.py",
        "tests/adapters/test_dial_secrets.py",
        "tests/adapters/test_host_fairness.py",
        "tests/adapters/test_postgres_store.py",
        "tests/adapters/test_uvicorn_serve.py",
        "tests/command",
        "tests/docs",
        "tests/faults",
        "tests/property/test_contract_pairs.py",
        "tests/property/test_contracts.py",
        "tests/property/test_python_client_hostile.py",
        "tests/test_docs.py",
        "tests/test_page_modules.py",
        "tests/test_typing.py",
        "tests/test_words.py",
        "interop/test_command.py",
        "interop/test_go_page.py",
        "interop/test_go_program.py",
        "interop/test_page_cuts.py",
        "interop/test_page_networks.py",
        "interop/test_typescript.py",
        "interop/test_typescript_client.py",
        "interop/test_typescript_page.py",
        "interop/test_typescript_property.py",
    )
    if MAIN
]
"""The judges of pages and documents, whole products, processes of the command, and bad networks in real time."""
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
