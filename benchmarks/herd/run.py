"""Cuts them, and counts the busiest second."""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from statistics import median

from ..processes import BenchmarkError, start

__all__ = ["run_herd"]

CLIENTS = 1000
MOST = 0.6


def run_herd(rounds: int, *, server_core: int, load_core: int) -> bool:
    """Print how each round went; whether none had more than 60 % of the clients dialing in one second."""
    shares = []
    for number in range(rounds):
        share, seconds, attempts = _one(server_core, load_core)
        shares.append(share)
        print(
            f"round {number + 1}: {share:.1%} of {CLIENTS} clients dialed in the busiest second; all back after "
            f"{seconds:.2f} s, {attempts} attempts"
        )
    print(f"busiest second: median {median(shares):.1%}, highest {max(shares):.1%} (at most {MOST:.0%})")
    return max(shares) <= MOST


def _one(server_core: int, load_core: int) -> tuple[float, float, int]:
    with start("herd server", [sys.executable, "-m", "benchmarks.herd.server"], server_core) as server:
        port = server.read_line(10)
        command = [sys.executable, "-m", "benchmarks.herd.clients", port, str(CLIENTS)]
        with start("herd clients", command, load_core) as clients:
            clients.read_line(60)
            server.write_line("cut")
            told = json.loads(clients.read_line(90))
            dials, lost = sorted(told["dials"]), sorted(told["lost"])
            if told["back"] != CLIENTS or len(lost) != CLIENTS:
                raise BenchmarkError(f"{len(lost)} clients were cut, {told['back']} came back")
            busiest = max(bisect_right(dials, when + 1.0) - i for i, when in enumerate(dials))
            return busiest / CLIENTS, told["finished"] - lost[0], len(dials)
