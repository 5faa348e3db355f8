"""One flood after another against the same server, and what the client beside it notices.

Each flood is measured beside the same client without it, just before. The attackers give way to the client, with which
they share a core, as those of a real server do not; how it is when they do not give way is measured, too, and says how
long the client waits for its core. How late the turns of the server's event loop come, in time that the server worked,
is what the server itself adds.
The last column is an echo server made of `websockets` alone, with a client made of that, beside the same flood.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..machine import allow_descriptors
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
GIVING_WAY = 19


class Flooded:
    """A server, the client that is measured, and attackers when they are called for."""

    def __init__(self, server: Child, probe: Child, port: str, load_core: int) -> None:
        self.server, self._probe, self._port, self._load_core = server, probe, port, load_core

    def alone(self, seconds: float) -> Any:
        return ask(self._probe, seconds)

    def beside(self, name: str, seconds: float, nice: int = GIVING_WAY) -> tuple[Any, Any, str]:
        """What the client sees, how late the server's turns are, and how many connections the attackers made."""
        command = [sys.executable, "-m", "benchmarks.floods.attacks", name, self._port, str(SLOW), str(nice)]
        with start(name, command, self._load_core) as attacker:
            attacker.read_line(60)
            ask(self.server)
            beside = ask(self._probe, seconds)
            late = ask(self.server)
            attacker.write_line("")
            begun = attacker.read_line(60)
        return beside, late, begun


@contextmanager
def flooded(kind: str, server_core: int, load_core: int) -> Iterator[Flooded]:
    module = "benchmarks.floods."
    command = [sys.executable, "-m", f"{module}server", kind, str(OPEN_TIMEOUT)]
    with start(f"flooded {kind}", command, server_core) as server:
        port = server.read_line(10)
        with start("probe", [sys.executable, "-m", f"{module}probe", kind, port], load_core) as probe:
            probe.read_line(10)
            ask(probe, 1)  # warm
            yield Flooded(server, probe, port, load_core)


def run_floods(seconds: float, *, server_core: int, load_core: int) -> bool:
    """Print how it went; whether the client was served in time, and the memory came back."""
    allow_descriptors(SLOW + 200)
    fine: bool = True
    print("ms: 99th percentile, and the longest      without  with it, longest server late, most  hard way websockets")
    with flooded("wsrpc", server_core, load_core) as ours, flooded("bare", server_core, load_core) as theirs:
        before = ask(ours.server)
        for name in ATTACKS:
            alone = ours.alone(seconds / 2)
            beside, late, begun = ours.beside(name, seconds)
            after = settled(ours.server)
            hard, _, _ = ours.beside(name, seconds / 2, nice=0)
            settled(ours.server)
            other, _, _ = theirs.beside(name, seconds / 2)
            settled(theirs.server)
            fine &= beside["p99"] - alone["p99"] <= MOST_LATE
            print(
                f"{name:17} {begun:>6} connections | {_ms(alone['p99'])} | {_ms(beside['p99'])} {_ms(beside['most'])} "
                f"| {_ms(late['late'])} {_ms(late['latest'])} | {_ms(hard['p99'])} | {_ms(other['p99'])}"
            )
            print(
                f"{'':17} memory afterwards {after['resident'] / 2**20:.1f} MiB "
                f"({(after['resident'] - before['resident']) / 2**20:+.1f}), "
                f"{after['blocks'] - before['blocks']:+d} blocks; load average {os.getloadavg()[0]:.1f}"
            )
        after = settled(ours.server)
        fine &= after["resident"] - before["resident"] <= MOST_RESIDENT
        fine &= after["blocks"] - before["blocks"] <= MOST_BLOCKS
    print(
        f"p99 at most {1000 * MOST_LATE:.0f} ms above that without a flood, memory at most "
        f"{MOST_RESIDENT / 2**20:.0f} MiB and {MOST_BLOCKS} blocks more in the end: {'yes' if fine else 'NO'}"
    )
    return fine


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:7.1f}"


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
