"""One flood after another against the same server, and what the client beside it notices."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from ..idle.run import allow_descriptors
from ..processes import BenchmarkError, Child, start
from .attacks import ATTACKS, SLOW

__all__ = ["run_floods"]

MOST_LATE = 0.1
"""Seconds that the 99th percentile may be above that without a flood."""
MOST_RESIDENT = 32 * 2**20
"""Bytes that the server may hold more after all floods than after the first client: what allocators keep."""
MOST_BLOCKS = 20_000
"""Blocks of Python's memory, likewise: its own caches, and not one for each of what came."""
OPEN_TIMEOUT = 4.0
"""Below the default of 10 s, so that in a few seconds slow handshakes are dropped, too."""


def run_floods(seconds: float, *, server_core: int, load_core: int) -> bool:
    """Print how it went; whether the client was served in time, and the memory came back."""
    allow_descriptors(SLOW + 200)
    fine = True
    module = "benchmarks.floods."
    with start("flooded server", [sys.executable, "-m", f"{module}server", str(OPEN_TIMEOUT)], server_core) as server:
        port = server.read_line(10)
        with start("probe", [sys.executable, "-m", f"{module}probe", port], load_core) as probe:
            probe.read_line(10)
            ask(probe, seconds)  # warm
            alone = ask(probe, seconds)
            before = ask(server)
            print(f"{'alone':17} p99 {1000 * alone['p99']:6.1f} ms, longest {1000 * alone['most']:6.1f} ms")
            for name in ATTACKS:
                command = [sys.executable, "-m", f"{module}attacks", name, port]
                with start(name, command, load_core) as attacker:
                    attacker.read_line(60)
                    beside = ask(probe, seconds)
                    attacker.write_line("")
                    begun = attacker.read_line(60)
                after = settled(server)
                late = beside["p99"] - alone["p99"]
                fine &= late <= MOST_LATE
                print(
                    f"{name:17} p99 {1000 * beside['p99']:6.1f} ms, longest {1000 * beside['most']:6.1f} ms; "
                    f"{begun} connections; memory afterwards {after['resident'] / 2**20:.1f} MiB "
                    f"({(after['resident'] - before['resident']) / 2**20:+.1f}), "
                    f"{after['blocks'] - before['blocks']:+d} blocks"
                )
            fine &= after["resident"] - before["resident"] <= MOST_RESIDENT
            fine &= after["blocks"] - before["blocks"] <= MOST_BLOCKS
    print(
        f"p99 at most {1000 * MOST_LATE:.0f} ms above that without a flood, memory at most "
        f"{MOST_RESIDENT / 2**20:.0f} MiB and {MOST_BLOCKS} blocks more in the end: {'yes' if fine else 'NO'}"
    )
    return fine


def ask(child: Child, what: object = "") -> Any:
    child.write_line(str(what))
    return json.loads(child.read_line(120))


def settled(server: Child) -> Any:
    """What the server holds when all attackers are gone."""
    deadline = time.monotonic() + 30
    while (holds := ask(server))["peers"] > 1:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"{holds['peers']} connections are left of a flood")
        time.sleep(0.1)
    time.sleep(0.3)
    return ask(server)
