"""The clients for pages, on Node: requests per second with 64 pending, and the client's CPU time for each.

wsrpc's client and ws-wrapper speak with a wsrpc server in Python; socket.io-client with Socket.IO's server on Node,
which is faster than the one in Python. The servers have a core, and the clients another.
"""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

import msgspec

from .machine import node_facts
from .processes import Child, start
from .programs import find_node
from .report.tables import number, ratio, table
from .runner import START_SECONDS, Cores
from .subjects import HERE, Command, python_server

__all__ = ["run_page_clients"]

ROUNDS = 5
BASE = "ws-wrapper"
CLIENTS = {
    "client": ("`Client`", "wsrpc"),
    "client-msgpack": ("`Client`, MessagePack", "wsrpc"),
    BASE: ("ws-wrapper", "wsrpc"),
    "socket.io": ("socket.io-client", "socket.io"),
}
"""Kinds of ``js/client.mjs``, with their titles and servers."""


class Sample(msgspec.Struct, frozen=True):
    """What a client has measured. ``cpu`` is its own CPU time, in seconds."""

    answers: int
    seconds: float
    cpu: float
    wrong: int

    @property
    def rate(self) -> float:
        return max(self.answers - self.wrong, 0) / self.seconds

    @property
    def us(self) -> float:
        """Microseconds of the client's CPU time for each answer."""
        return 1e6 * self.cpu / max(self.answers, 1)


def _commands() -> dict[str, Command]:
    return {"wsrpc": python_server("wsrpc")(), "socket.io": [find_node(), HERE / "js" / "server.mjs", "--socketio"]}


def _measure(cores: Cores, *, quick: bool) -> dict[str, list[Sample]]:
    """Round by round, one client after another, each of which stands still while another is measured."""
    samples: dict[str, list[Sample]] = {kind: [] for kind in CLIENTS}
    task = msgspec.json.encode({"warm": 0.02, "seconds": 0.1} if quick else {"warm": 0.3, "seconds": 1.5}).decode()
    with ExitStack() as stack:
        children: dict[str, tuple[Child, Child]] = {}
        for kind, (title, server) in CLIENTS.items():
            serving = stack.enter_context(start(f"the server of {title}", _commands()[server], cores.server))
            command: Command = [find_node(), HERE / "js" / "client.mjs", kind, serving.read_line(START_SECONDS)]
            client = stack.enter_context(start(title, command, cores.load))
            client.read_line(START_SECONDS)
            children[kind] = serving, client
        for both in children.values():
            for child in both:
                child.pause()
        for _ in range(1 if quick else ROUNDS):
            for kind, both in children.items():
                for child in both:
                    child.resume()
                both[1].write_line(task)
                samples[kind].append(msgspec.json.decode(both[1].read_line(60), type=Sample))
                for child in both:
                    child.pause()
    return samples


def run_page_clients(cores: Cores, *, quick: bool = False) -> bool:
    """Print the table. Return whether all answers were right.

    Raises:
        BenchmarkError: something is missing, or a program has ended.
    """
    samples = _measure(cores, quick=quick)
    base = samples[BASE]
    rows: list[list[str]] = []
    for kind, (title, _) in CLIENTS.items():
        pairs = list(zip(samples[kind], base, strict=True))
        rows.append(
            [
                title,
                number(median(sample.rate for sample in samples[kind])),
                f"{median(sample.us for sample in samples[kind]):.1f}",
                ratio(median(ours.rate / theirs.rate for ours, theirs in pairs)),
                ratio(median(theirs.us / ours.us for ours, theirs in pairs)),
            ]
        )
    print(table(["64 pending", "requests/s", "µs of the client's CPU", "by rate", "by CPU"], rows))
    versions = node_facts("ws-wrapper", "socket.io-client", "ws")
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    return not any(sample.wrong for found in samples.values() for sample in found)
