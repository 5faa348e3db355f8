"""What is measured: this file is the only list of it. `SECTIONS` are tables of the report, `CURVES` its plots.

A workload is one column of a table: how it is measured is its class, and `benchmarks.runner` has one function for each
class. A section names the subject that all others are compared with, which is measured a moment before or after them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from .protocols import ADD, ADD_ASYNC, BROADCAST, TO_A_ROOM, Call, echo, echo_bytes
from .servers.handlers import ROOM_CONNECTIONS, ROOM_MEMBERS

MiB = 2**20


@dataclass(frozen=True)
class Workload:
    """One column of a table."""

    key: str
    title: str
    """Of the column, short."""
    about: str
    """What is done, in a sentence."""
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
    receivers: int = 0
    """Of each; 0 means all."""


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
    variant: str = ""
    """Which handler is streamed from."""
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
    about: str = ""


@dataclass(frozen=True)
class Curve:
    """One plot: how the cost grows with one number."""

    key: str
    title: str
    x: str
    """The axis: what grows, and its unit."""
    y: str
    subjects: tuple[str, ...]
    points: tuple[int, ...]
    quick_points: tuple[int, ...]
    template: Workload = field(kw_only=True)
    about: str = ""

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
            case "connections" | "broadcast":
                changed = {"connections": point}
            case _:
                changed = {"setup": (f"--{self.key}", str(point))}
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
            Requests(
                "requests",
                "1 × 64",
                "one connection with 64 requests `add(1, 2)` in flight, answered by a `def` handler. After each read, "
                "the load generator sends its new requests in one write",
            ),
            Requests(
                "async",
                "`async def`",
                "as *1 × 64*, but with an `async def` handler that does not wait",
                call=ADD_ASYNC,
            ),
            Requests(
                "separate", "one write each", "as *1 × 64*, but with a separate write for each request", separate=True
            ),
            Requests(
                "1000x1",
                "1,000 × 1",
                "as *1 × 64*, but with 1,000 connections and one request in flight on each",
                connections=1000,
                pending=1,
            ),
        ),
    ),
    Section(
        "payloads",
        "Payloads",
        "websockets",
        (
            Requests("echo-1k", "1 KiB", "echoes of 1 KiB of text, with 64 requests in flight", call=echo(1024)),
            Requests(
                "echo-64k",
                "64 KiB",
                "echoes of 64 KiB of text, with 16 requests in flight",
                call=echo(65536),
                pending=16,
            ),
            Requests(
                "binary-64k",
                "64 KiB binary",
                "echoes of 64 KiB of bytes, with 16 requests in flight. wsrpc uses MessagePack, and gRPC uses protobuf",
                call=echo_bytes(65536),
                pending=16,
            ),
        ),
        about="A bare echo does not parse the payload, while the other systems do.",
    ),
    Section(
        "clients",
        "Python clients",
        "by-hand",
        (
            PythonClient(
                "workers",
                "64 in flight",
                "64 coroutines, each of which awaits `request('add', 1, 2)` in a loop",
                task="workers",
            ),
            PythonClient(
                "one", "one at a time", "one coroutine that awaits `request('add', 1, 2)` in a loop", task="one"
            ),
            PythonClient(
                "emit",
                "emit",
                "`emit('note', n)` in a loop, measured until the server has received all events",
                "events/s",
                task="emit",
            ),
        ),
        about="Client and server are both Python programs. The client limits the rates, so there is no ceiling.",
    ),
    Section(
        "streams",
        "Streams and transfers",
        "by-hand",
        (
            PythonClient(
                "items",
                "small items",
                "items that an `async def` generator on the server yields",
                "items/s",
                task="items",
                variant="async",
            ),
            PythonClient(
                "upload",
                "upload",
                "100 MiB from the client to the server, in chunks of 64 KiB",
                "bytes/s",
                task="upload",
                size=100 * MiB,
            ),
            PythonClient(
                "download",
                "download",
                "100 MiB from the server to the client",
                "bytes/s",
                task="download",
                size=100 * MiB,
            ),
        ),
        about="Client and server are both Python programs. "
        "The handwritten protocol calls `send()` in a loop, without flow control.",
    ),
    Section(
        "sessions",
        "The cost of sessions",
        "wsrpc-off",
        (
            PythonClient(
                "sessions-workers",
                "64 in flight",
                "64 coroutines, each of which awaits `request('add', 1, 2)` in a loop, answered by a `def` handler",
                only=ON_AND_OFF,
                task="workers",
            ),
            PythonClient(
                "sessions-items",
                "small items",
                "items that an `async def` generator on the server yields",
                "items/s",
                only=ON_AND_OFF,
                task="items",
                variant="async",
            ),
        ),
        about="So that a session can resume, both peers count their messages and keep some of them. "
        "`Limits(replay=0)` turns this off.",
    ),
    Section(
        "connections",
        "Connections",
        "websockets",
        (
            Broadcasts("broadcast", "broadcast", "deliveries of broadcasts to 1,000 connections"),
            Accepts("accepts", "opened", "connections that a client opens and then closes, 16 at a time"),
            Accepts("accepts-tls", "opened, TLS", "as *opened*, but over TLS 1.3", tls=True, setup=("--tls",)),
            Idle(
                "idle",
                "idle memory",
                "server memory for each of 1,000 connections that send nothing; lower is better",
            ),
        ),
    ),
)

WSRPC_AND_BARE = ("websockets", "wsrpc", "wsrpc-picows", "js")

CURVES = (
    Curve(
        "pending",
        "Requests in flight on one connection",
        "requests in flight",
        "requests/s",
        WSRPC_AND_BARE,
        (1, 10, 100, 1000, 10_000),
        (1, 100, 10_000),
        template=Requests("", "", "The requests are `add(1, 2)`. A `def` handler answers them"),
    ),
    Curve(
        "connections",
        "Connections with one request in flight each",
        "connections",
        "requests/s",
        WSRPC_AND_BARE,
        (1, 10, 100, 1000, 10_000),
        (1, 100),
        template=Requests("", "", "The requests are `add(1, 2)`. A `def` handler answers them", pending=1),
    ),
    Curve(
        "payload",
        "Size of an echoed text",
        "bytes",
        "requests/s",
        WSRPC_AND_BARE,
        (16, 256, 4096, 65_536, MiB),
        (16, 4096, MiB),
        template=Requests("", "", "64 requests are in flight for texts of up to 4 KiB, 16 for 64 KiB, and 2 for 1 MiB"),
    ),
    Curve(
        "broadcast",
        "Peers that receive a broadcast",
        "peers",
        "deliveries/s",
        WSRPC_AND_BARE,
        (1, 10, 100, 1000, 10_000),
        (1, 100),
        template=Broadcasts("", "", "The server sends events of 100 bytes to all peers"),
    ),
    Curve(
        "rooms",
        "Rooms with ten members each, on 500 connections",
        "rooms",
        "deliveries/s",
        ("wsrpc", "wsrpc-picows"),
        (1, 100, 10_000),
        (1, 10_000),
        template=Broadcasts(
            "",
            "",
            "The server sends events of 100 bytes to one room after another",
            call=TO_A_ROOM,
            connections=ROOM_CONNECTIONS,
            receivers=ROOM_MEMBERS,
        ),
    ),
)
