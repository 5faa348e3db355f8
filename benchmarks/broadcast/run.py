"""The same broadcasts without, and with, one that never reads."""

from __future__ import annotations

import json
import sys
import time

from ..machine import allow_descriptors
from ..processes import start

__all__ = ["run_broadcast"]

MESSAGES, SIZE = 100, 100_000
"""More than the hard cap and the system's buffers together, so that one that never reads comes to it."""
HARD_CAP = 4 * 2**20
MOST_CLOSING = 15.0
"""Seconds: the stall of a line that is full, or the cap and then the closing handshake, whichever comes."""
MOST = 2.0
MOST_RESIDENT = 32 * 2**20
"""Bytes more than without: the hard cap, what asyncio joins and copies of that, and what readers are behind."""


def run_broadcast(readers: int, *, server_core: int, load_core: int) -> bool:
    """Print how long it took until all readers had everything; whether one that is stuck held nobody up."""
    allow_descriptors(readers + 200)
    seconds, without = _one(readers, 0, server_core, load_core)
    held_up, beside = _one(readers - 1, 1, server_core, load_core)
    fine = held_up <= MOST * seconds and without["failed"] == 0
    fine &= beside["peers"] == readers - 1 and beside["resident"] - without["resident"] <= MOST_RESIDENT
    print(
        f"{MESSAGES} messages of {SIZE} bytes: {readers} readers had all after {seconds:.2f} s; with one of them that "
        f"never reads, the others after {held_up:.2f} s (at most {MOST:g} times)"
    )
    print(
        f"the one that never reads was closed: {beside['peers'] == readers - 1}; resident at most "
        f"{without['resident'] / 2**20:.1f} MiB without it, {beside['resident'] / 2**20:.1f} MiB with it"
    )
    return fine


def _one(readers: int, stuck: int, server_core: int, load_core: int) -> tuple[float, dict[str, float]]:
    command = [sys.executable, "-m", "benchmarks.broadcast.server", str(HARD_CAP)]
    with start("broadcasting server", command, server_core) as server:
        port = server.read_line(10)
        command = [sys.executable, "-m", "benchmarks.broadcast.readers", port, str(readers), str(stuck)]
        with start("readers", command, load_core) as clients:
            clients.read_line(120)
            clients.write_line(f"{MESSAGES} {SIZE}")
            clients.read_line(10)
            server.write_line(f"{MESSAGES} {SIZE}")
            told = json.loads(server.read_line(120))
            seconds = float(clients.read_line(120)) - told["began"]
            deadline = time.monotonic() + MOST_CLOSING
            while told["peers"] > readers and time.monotonic() < deadline:
                time.sleep(0.1)
                server.write_line("0 0")
                told["peers"] = json.loads(server.read_line(10))["peers"]
            return seconds, told
