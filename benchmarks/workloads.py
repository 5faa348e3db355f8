"""What is measured: this file is the only list of it. `SECTIONS` and `CURVES` are tables of the report.

A workload is one column of a table: how it is measured is its class, and `benchmarks.runner` has one function for each
class. A section names the subject that all others are compared with, which is measured a moment before or after them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from .protocols import ADD, ADD_ASYNC, BROADCAST, Call, echo, echo_bytes

MiB = 2**20


@dataclass(frozen=True)
class Workload:
    """One column of a table."""

    key: str
    title: str
    """Of the column, short."""
    unit: str = "requests/s"
    lower_is_better: bool = False
    only: tuple[str, ...] = ()
    """Subjects; none: all that can."""
    setup: tuple[str, ...] = ()
    """Further words on the command line of the server."""
    quick: bool = True
    """Whether it is part of a quick run, too."""


@dataclass(frozen=True)
class Requests(Workload):
    """The load generator keeps so many requests pending on each of so many connections."""

    call: Call = ADD
    connections: int = 1
    pending: int = 64
    separate: bool = False


@dataclass(frozen=True)
class Broadcasts(Workload):
    """The first of so many connections asks for broadcasts, two at a time. Deliveries count."""

    unit: str = "deliveries/s"
    call: Call = BROADCAST
    connections: int = 1000
    redis: bool = False
    """Whether the server is one of several, which are connected by Redis."""


@dataclass(frozen=True)
class Idle(Workload):
    """How much a new server grows by so many connections."""

    unit: str = "bytes each"
    lower_is_better: bool = True
    quick: bool = False  # each server would be started once more
    connections: int = 1000


@dataclass(frozen=True)
class Accepts(Workload):
    """A client in Go opens connections and closes them again, `at_once` at a time."""

    unit: str = "connections/s"
    tls: bool = False
    at_once: int = 16


@dataclass(frozen=True)
class PythonClient(Workload):
    """A Python client with a Python server, each on a core of its own; `task` is a method of the client programs."""

    task: str = ""
    size: int = 0
    """Bytes of a transfer; 0: it goes on for as long as the plan says."""


@dataclass(frozen=True)
class Section:
    """One table: a row for each subject, a column for each workload."""

    key: str
    title: str
    base: str
    """The subject that all ratios are to."""
    workloads: tuple[Workload, ...]


@dataclass(frozen=True)
class Curve:
    """One plot: how the cost grows with one number."""

    key: str
    title: str
    x: str
    """The axis: what grows, and its unit."""
    y: str
    points: tuple[int, ...]
    template: Workload

    def workload(self, point: int) -> Workload:
        """What is measured at one point of the axis."""
        key = f"{self.key} {point}"
        workload: Any = self.template  # of the class that has the field that grows
        changed: dict[str, Any]
        match self.key:
            case "pending":
                changed = {"pending": point}
            case "payload":
                # The larger a message, the fewer of them: at most 1 MiB is under way.
                changed = {"call": echo(point), "pending": max(2, min(64, MiB // point))}
            case _:
                changed = {"connections": point}
        made: Workload = replace(workload, key=key, **changed)
        return made


ON_AND_OFF = ("wsrpc", "wsrpc-off")
"""wsrpc with sessions that resume after a drop, and without."""

SECTIONS = (
    Section(
        "requests",
        "Small requests",
        "websockets",
        (
            Requests("single", "1 × 1", pending=1),
            Requests("requests", "1 × 64"),
            Requests("async", "`async def`", call=ADD_ASYNC),
            Requests("separate", "one write each", separate=True),
            Requests("1000x1", "1,000 × 1", connections=1000, pending=1),
        ),
    ),
    Section(
        "payloads",
        "Payloads",
        "websockets",
        (
            Requests("echo-1k", "1 KiB", call=echo(1024)),
            Requests("echo-64k", "64 KiB", call=echo(65536), pending=16),
            Requests("binary-64k", "64 KiB binary", call=echo_bytes(65536), pending=16),
        ),
    ),
    Section(
        "clients",
        "Python clients",
        "by-hand",
        (
            PythonClient("workers", "64 in flight", task="workers"),
            PythonClient("one", "one at a time", task="one"),
            PythonClient("emit", "emit", "events/s", task="emit"),
        ),
    ),
    Section(
        "streams",
        "Streams and transfers",
        "by-hand",
        (
            PythonClient("items", "small items", "items/s", task="items"),
            PythonClient("upload", "upload", "bytes/s", task="upload", size=100 * MiB),
            PythonClient("download", "download", "bytes/s", task="download", size=100 * MiB),
        ),
    ),
    Section(
        "sessions",
        "The cost of sessions",
        "wsrpc-off",
        (
            PythonClient("sessions-workers", "64 in flight", only=ON_AND_OFF, task="workers"),
            PythonClient("sessions-items", "small items", "items/s", only=ON_AND_OFF, task="items"),
        ),
    ),
    Section(
        "connections",
        "Connections",
        "websockets",
        (
            Broadcasts("broadcast", "broadcast"),
            Accepts("accepts", "opened"),
            Accepts("accepts-tls", "opened, TLS", tls=True, setup=("--tls",)),
            Idle("idle", "idle memory"),
        ),
    ),
    Section(
        "rooms",
        "A room of 1,000 members, in processes that Redis connects",
        "wsrpc",
        (Broadcasts("redis", "broadcast", only=("wsrpc", "centrifuge", "socketio"), redis=True),),
    ),
)

ON_CURVES = ("websockets", "wsrpc", "js")
"""The subjects of all curves."""

CURVES = (
    Curve(
        "pending",
        "Requests in flight on one connection",
        "requests in flight",
        "requests/s",
        (1, 10, 100, 1000, 10_000),
        template=Requests("", ""),
    ),
    Curve(
        "connections",
        "Connections with one request in flight each",
        "connections",
        "requests/s",
        (1, 10, 100, 1000, 10_000),
        template=Requests("", "", pending=1),
    ),
    Curve(
        "payload",
        "Size of an echoed text",
        "bytes",
        "requests/s",
        (16, 256, 4096, 65_536, MiB),
        template=Requests("", ""),
    ),
    Curve(
        "broadcast",
        "Peers that receive a broadcast",
        "peers",
        "deliveries/s",
        (1, 10, 100, 1000, 10_000),
        template=Broadcasts("", ""),
    ),
)
