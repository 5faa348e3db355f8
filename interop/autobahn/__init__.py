"""Autobahn's test suite, run against wsrpc."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results.md"
"""Tables of the last run, which docs/contributing/autobahn.md shows."""
