"""Connections that say nothing: memory, CPU time for pings, and how long all of them need to come back at once.

A client in Go opens all at once (with TLS, `TLS_AT_ONCE`), answers pings, resets all, and opens them again.
The kernel's memory is that of both ends, which are on one machine, divided by two.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec

from .go import build
from .machine import allow_descriptors
from .measure import cpu_seconds, resident_bytes
from .processes import Child, start
from .protocols import ADD, WsWrapper
from .report.tables import table
from .results import TableResult
from .runner import START_SECONDS, Cores, say, start_server
from .subjects import SUBJECTS, Subject


@dataclass(frozen=True)
class Row:
    key: str
    """Of the subject."""
    tls: bool = False
    session: bool = False
    """Whether the client says the hello of a wsrpc client, so that the server keeps a session."""

    @property
    def more(self) -> str:
        return ", with a session" * self.session + ", TLS" * self.tls


BASE = Row("websockets")
ROWS = (
    *(BASE, Row("wsrpc"), Row("wsrpc", session=True), Row("wsrpc-uvicorn"), Row("js-json"), Row("go-json")),
    *(Row("centrifuge"), Row("uws")),
    *(Row("websockets", tls=True), Row("wsrpc", tls=True), Row("js-json", tls=True)),
)
FEW = 100
"""Connections that are there before memory counts, so that what a server loads once does not."""
SPARE = 500
"""Open files that a process needs for other things."""
TLS_AT_ONCE = 200
SETTLING = 0.5
"""Seconds after which what only opening needs is free again."""
PATIENCE = 240.0


@dataclass(frozen=True)
class Plan:
    rounds: int
    connections: int
    seconds: float
    """How long the connections are watched: two intervals of 20 seconds between pings, and a bit."""


class Idle(msgspec.Struct, frozen=True):
    """One server in one round. Bytes are for each connection."""

    resident: float
    kernel: float
    cpu: float
    """Share of a core."""
    opened: float
    """Seconds until all connections were open."""
    returned: float
    """The same when all came again, after they were reset."""


def plan(*, quick: bool) -> Plan:
    if quick:
        return Plan(rounds=1, connections=1000, seconds=1)
    allow_descriptors(20_000)
    return Plan(rounds=1, connections=20_000 - 2 * SPARE, seconds=42)


def run_idle(cores: Cores, *, quick: bool, only: list[str]) -> TableResult:
    """Measure all rows, in turns. Raises BenchmarkError."""
    chosen, subjects = plan(quick=quick), {subject.key: subject for subject in SUBJECTS}
    rows = [row for row in ROWS if not only or row == BASE or row.key in only]
    found: dict[Row, list[Idle]] = {row: [] for row in rows}
    for number in range(1, chosen.rounds + 1):
        for row in rows:
            say(f"idle, round {number} of {chosen.rounds}: {subjects[row.key].title}{row.more}")
            found[row].append(measure(subjects[row.key], row, chosen, cores))
            say(str(found[row][-1]))
    return TableResult(
        key="idle",
        title=f"{chosen.connections:,} idle connections",
        columns=["", "memory", "ratio", "CPU", "ratio", "opened", "came back", "kernel"],
        rows=[[f"{subjects[row.key].title}{row.more}", *cells(found[row], found[BASE])] for row in rows],
        bad=0,
    )


def cells(samples: list[Idle], base: list[Idle]) -> list[str]:
    def ratio(name: str) -> str:
        pairs = [(getattr(ours, name), getattr(theirs, name)) for ours, theirs in zip(samples, base, strict=True)]
        if not all(theirs for _, theirs in pairs):
            return "–"
        return f"{median(ours / theirs for ours, theirs in pairs):.2f}"

    def middle(name: str) -> float:
        return median(float(getattr(sample, name)) for sample in samples)

    return [
        f"{middle('resident') / 1024:.1f} KiB",
        ratio("resident"),
        f"{middle('cpu'):.1%}",
        ratio("cpu"),
        f"{middle('opened'):.1f} s",
        f"{middle('returned'):.1f} s",
        f"{middle('kernel') / 1024:.1f} KiB",
    ]


def measure(subject: Subject, row: Row, chosen: Plan, cores: Cores) -> Idle:
    texts = None if subject.speaks is None else subject.speaks.texts(ADD)
    assert texts is not None
    with start_server(subject, cores.server, ("--tls",) if row.tls else ()) as server:
        port = int(server.read_line(START_SECONDS))
        opening = WsWrapper.hello if row.session else texts.opening
        common = {"port": port, "path": texts.path, "tls": int(row.tls), "opening": opening.decode()}

        def client(connections: int) -> list[str | Path]:
            # Handshakes of TLS take longer than servers wait for one, if all are at once.
            given = {**common, "connections": connections, "at_once": TLS_AT_ONCE if row.tls else connections}
            return [build(), "idle", *(f"{name}={value}" for name, value in given.items())]

        with (
            start("a few connections", client(FEW), cores.load) as few,
            start("the connections", client(chosen.connections), cores.load) as many,
        ):
            opened(few)
            time.sleep(SETTLING)
            resident, kernel = resident_bytes(server.pid), kernel_bytes()
            took = opened(many)
            time.sleep(SETTLING)
            grown = resident_bytes(server.pid) - resident, kernel_bytes() - kernel
            cpu, began = cpu_seconds(server.pid), time.monotonic()
            time.sleep(chosen.seconds)
            share = (cpu_seconds(server.pid) - cpu) / (time.monotonic() - began)
            many.write_line("drop")
            many.read_line(PATIENCE)
            # They come when the server has seen all ends: otherwise they would be too many for the limit of open files.
            while len(os.listdir(f"/proc/{server.pid}/fd")) > FEW + SPARE:
                time.sleep(0.05)
            back = opened(many)
    count = chosen.connections
    return Idle(resident=grown[0] / count, kernel=grown[1] / count / 2, cpu=share, opened=took, returned=back)


def opened(client: Child) -> float:
    client.write_line("open")
    return float(client.read_line(PATIENCE))


def kernel_bytes() -> int:
    """Memory of the kernel's objects, such as sockets, and of their buffers."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    [slab] = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Slab:")]
    words = Path("/proc/net/sockstat").read_text().split("TCP: ")[1].split("\n")[0].split()
    return slab + int(words[words.index("mem") + 1]) * os.sysconf("SC_PAGE_SIZE")


def show(outcome: TableResult) -> str:
    return f"## {outcome.title}\n\n{table(outcome.columns, outcome.rows)}\n"
