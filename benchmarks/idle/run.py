"""Both servers at the same time, each with its clients, for the memory and the CPU time of a connection."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack
from typing import Any

from ..machine import allow_descriptors
from ..processes import BenchmarkError, Child, start

__all__ = ["run_idle"]

KINDS = ("bare", "wsrpc")
PING_INTERVAL = 5.0
FEW = 100
"""Connections that are there when the growth of memory begins to count, so that what a server loads once does not."""
OTHERS = ("tls", "compression")
"""What connections may have, whose memory is measured besides."""
FEWER = 1000
"""Connections for that, as their clients take memory, too."""
MOST_MEMORY, MOST_CPU = 1.2, 1.3


def run_idle(connections: int, seconds: float, *, server_core: int, load_core: int) -> bool:
    """Print what both cost; whether wsrpc costs at most 1.2 times the memory and 1.3 times the CPU time."""
    allow_descriptors(connections + 100)
    grown: dict[str, float] = {}
    busy: dict[str, float] = {}
    with ExitStack() as stack:
        servers: dict[str, Child] = {}
        clients: dict[str, Child] = {}
        for kind in KINDS:
            servers[kind], clients[kind], grown[kind] = grow(
                stack, kind, "nothing", connections, server_core, load_core
            )
        time.sleep(2 * PING_INTERVAL)  # until each has had pings
        began = {kind: (ask(servers[kind])["cpu"], ask(clients[kind])["pings"]) for kind in KINDS}
        time.sleep(seconds)
        for kind in KINDS:
            ended, told = ask(servers[kind])["cpu"], ask(clients[kind])
            if told["lost"]:
                raise BenchmarkError(f"{told['lost']} connections to {kind} were lost")
            cpu, pings = began[kind]
            busy[kind] = (ended - cpu) / seconds
            print(
                f"{kind:6} {grown[kind] / 1024:6.1f} KiB resident for each of {connections} connections, "
                f"{busy[kind]:6.1%} of a core with {(told['pings'] - pings) / seconds:.0f} pings a second"
            )
    memory, cpu = grown["wsrpc"] / grown["bare"], busy["wsrpc"] / busy["bare"]
    print(f"wsrpc/bare: memory {memory:.2f} (at most {MOST_MEMORY}), CPU {cpu:.2f} (at most {MOST_CPU})")
    light = [compare_memory(having, server_core, load_core) <= MOST_MEMORY for having in OTHERS]
    return memory <= MOST_MEMORY and cpu <= MOST_CPU and all(light)


def grow(
    stack: ExitStack, kind: str, having: str, connections: int, server_core: int, load_core: int
) -> tuple[Child, Child, float]:
    """Start a server, and so many clients after the first few.

    Returns both, and by how many resident bytes the server has grown for each of those clients.
    """
    command = [sys.executable, "-m", "benchmarks.idle.server", kind, str(PING_INTERVAL), having]
    server = stack.enter_context(start(f"idle server {kind}", command, server_core))
    port = server.read_line(10)

    def more(count: int) -> Child:
        command = [sys.executable, "-m", "benchmarks.idle.clients", port, str(count), having]
        child = stack.enter_context(start(f"idle clients of {kind}", command, load_core))
        child.read_line(300)
        return child

    more(FEW)
    before = ask(server)["resident"]
    clients = more(connections)
    return server, clients, (ask(server)["resident"] - before) / connections


def compare_memory(having: str, server_core: int, load_core: int) -> float:
    """Print what connections with TLS, or compressed ones, cost both; how many times as much memory wsrpc takes."""
    grown: dict[str, float] = {}
    for kind in KINDS:
        with ExitStack() as stack:
            _, _, grown[kind] = grow(stack, kind, having, FEWER, server_core, load_core)
    ratio = grown["wsrpc"] / grown["bare"]
    each = ", ".join(f"{kind} {size / 1024:.1f} KiB" for kind, size in grown.items())
    print(f"with {having}: {each} resident for each of {FEWER}; wsrpc/bare {ratio:.2f} (at most {MOST_MEMORY})")
    return ratio


def ask(child: Child) -> Any:
    child.write_line("")
    return json.loads(child.read_line(60))
