"""docs/contributing/benchmarks.md: how to run the benchmarks, how to read them, and the main results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..cuts.outcome import Cuts
from ..results import Run
from .analysis import (
    BOUND,
    TIE,
    Faster,
    amount,
    cell,
    column_of,
    ratio,
    subjects_of,
    times_ahead,
    where_others_are_faster,
)
from .markdown import QUICK, ratio_cell, rounds, table

OVERVIEW = "64 small requests in flight on one connection: ratio to a bare websockets echo"
"""Title of the plot."""

INTRODUCTION = """\
# Benchmarks

This page shows how to run the benchmarks of wsrpc and how to read their results. It also shows the main results of one
run, and where wsrpc is not the fastest. [Benchmark results](benchmark-results.md) has all results of the same run.
[Performance](../explanation/performance.md) explains what the figures mean for an application.

To run the benchmarks, use this command in the root folder of the repository:

```console
$ make bench        # about 15 minutes
```
"""

MEASURED = """\
## What is measured

The benchmarks compare wsrpc on each of its transports with other systems:

- **Systems with calls** send requests and responses, as wsrpc does: ws-wrapper on Node and in Go, python-socketio,
  grpc.aio and fastapi-websocket-rpc.
- **Handwritten JSON over `websockets`** is a small protocol without a library for calls. It stands for code that an
  application could contain instead of wsrpc.
- **Bare echoes** send back what they receive. They do less work than the other systems, because they do not parse
  messages and do not call handlers. There is one for each of `websockets`, picows, aiohttp and ASGI.

[Benchmark results](benchmark-results.md) has a section for each group of workloads:

- [Small requests](benchmark-results.md#small-requests): rates of requests
- [Payloads](benchmark-results.md#payloads): rates of echoes of 1 KiB and 64 KiB
- [Python clients](benchmark-results.md#python-clients): rates of requests and events from one Python client
- [Streams and transfers](benchmark-results.md#streams-and-transfers): rates of stream items, uploads and downloads
- [The cost of sessions](benchmark-results.md#the-cost-of-sessions): wsrpc with and without sessions that can resume
- [Connections](benchmark-results.md#connections): broadcasts, new connections, and memory of idle connections
- [`async def` handlers](benchmark-results.md#async-def-handlers): their rates compared with those of `def` handlers
- [Latency at fixed rates](benchmark-results.md#latency-at-fixed-rates): percentiles of the latency of requests
- [Connections that are cut](benchmark-results.md#connections-that-are-cut): lost and duplicated events
- [How the cost grows](benchmark-results.md#how-the-cost-grows): for example with the number of connections or rooms

`benchmarks/subjects.py` lists the systems, and `benchmarks/workloads.py` lists the workloads.
"""

HOW_TO_RUN = """\
## Run the benchmarks

The benchmarks need Linux, two cores, a C compiler, Node and Go. `make bench` installs the Python packages. Run all
commands in the root folder of the repository:

```console
$ make bench ARGS=--plan                       # shows the number of measurements, and how long a run takes
$ make bench ARGS=--quick                      # about 2 minutes; the figures are too rough to quote
$ make bench ARGS="--only requests"            # measures only workloads and sections whose keys begin with "requests"
$ make bench ARGS="--without go"               # leaves out everything that needs Go
$ make bench ARGS=--help                       # shows all options
```

If you change code that runs for each message, compare your working tree with another commit:

```console
$ make bench ARGS="--against main"                    # about 4 minutes
$ make bench ARGS="--against main --only requests"    # less than a minute
```

This runs the servers and clients of the working tree once with its own `wsrpc` and once with the `wsrpc` of the commit,
in turns. It prints one line for each workload. A ratio below 0.95 in "by CPU" is a loss that you should explain.

The pages Benchmarks and Benchmark results are generated from `docs/performance/results.json` and
`docs/performance/cuts.json`. Do not edit the pages by hand. To change their text, edit the generator in
`benchmarks/report/`, and run `.venv/bin/python -m benchmarks report`. To publish new figures, run these commands:

```console
$ make bench ARGS="--json run.json"            # about 15 minutes
$ make bench ARGS="--cuts --json cuts.json"    # about 3 minutes
$ .venv/bin/python -m benchmarks report run.json --cuts cuts.json
```
"""

HOW_TO_READ = """\
## Read the results

- **Ratio**: most tables compare the rate of each system with the rate of one system, whose own ratio is 1.00. A ratio
  above 1 means faster. Memory is the exception: a ratio below 1 is better. Each ratio is the median over {rounds}.
- **Ceiling**: the rate that the load generator reaches with the smallest server, an echo in C or Go.
- **\\*** marks a rate of at least {bound:.0%} of the ceiling. The load generator limits such a rate, so the system can
  be faster than the table shows.
- **–** means that there is no result. Usually the system cannot do what the workload needs. Binary messages of
  Socket.IO have no result because the load generator does not support them.

The server runs on one core, and the load generator or the client on another. In each round, every workload runs on one
system after another. A change in the speed of the machine therefore affects all systems.

Most workloads use a load generator in C, which checks the id and the result of every response. It does not support
HTTP/2, so a Go program sends the requests to gRPC. Another part of this Go program opens connections for the workloads
about new connections. In "Python clients", "Streams and transfers" and "The cost of sessions", each system has its own
Python client instead.

Each system is configured for speed, as its own documentation advises. python-socketio and fastapi-websocket-rpc run on
uvicorn with uvloop and httptools. gRPC uses protobuf messages and reuses channels. The other Python servers, including
wsrpc and the bare echoes, use their default settings and the event loop of asyncio. Compression is off in all systems.
"""

STAND_IN = """\
In this run, "ws-wrapper in Go" is not the real library. It is a stand-in with the same protocol, in
`interop/go/played`. To measure the real library, set the environment variable `WS_WRAPPER_GO` to the folder of its
source code.
"""

SYSTEMS = """\
### Systems compared

This table compares servers. The ratios are relative to a bare `websockets` echo, and wsrpc uses its default transport.
"1 × 64" means small requests on 1 connection with 64 requests in flight, and "1,000 × 1" means 1,000 connections with
1 request in flight on each. "64 KiB" is an echo of a text of this size, and "opened" is the rate of new connections.
[Benchmark results](benchmark-results.md) has more details on each workload.
"""

CLIENTS = """\
In the next table, both client and server are Python programs. The ratios are relative to handwritten JSON over
`websockets`. "64 in flight" and "one at a time" are small requests, and "small items" are items of a stream.
"""

TRANSPORTS = """\
### Transports compared

This table compares the transports of wsrpc. The ratios are relative to a bare `websockets` echo. To choose a transport,
see [Performance](../explanation/performance.md#choose-a-transport).
"""

NOT_FASTEST = """\
## Where wsrpc is not the fastest

The following tables are computed from this run. The first two tables list the systems that are more than {tie:.0%}
better than every variant of wsrpc in a workload. A variant is wsrpc on one of its transports, or on another version of
Python.

The number after a system compares it with the best variant of wsrpc. Where speed is measured, it shows how many times
as fast the system is. Where memory is measured, it shows how many times as much memory wsrpc takes.
"""

DEFAULT_ONLY = """\
### Faster than the default transport only

In these workloads, systems with calls are more than {tie:.0%} faster than the default transport of wsrpc, but not more
than {tie:.0%} faster than its best variant. The number compares the system with the default transport:
"""


def blocks(run: Run, cuts: Cuts) -> Iterator[str]:
    yield INTRODUCTION
    if run.quick:
        yield QUICK
    yield MEASURED
    yield HOW_TO_RUN
    yield HOW_TO_READ.format(rounds=rounds(run), bound=BOUND)
    yield "## Main results\n"
    yield from _small_requests(run)
    yield from _systems(run)
    yield from _transports(run)
    yield from _cuts(cuts)
    yield from _not_fastest(run)


def _small_requests(run: Run) -> Iterator[str]:
    found = column_of(run, "requests")
    if found is None:
        return
    section, column = found
    cells = {key: cell(run, section, column, key) for key in subjects_of(run, section)}
    ours = cells.get("wsrpc")
    if ours is None:
        return
    rows = [
        [
            run.subjects[key].title,
            amount(theirs.rate, column.unit),
            f"{ratio(times_ahead(section, column, 'wsrpc', key))} times as many",
        ]
        for key, theirs in cells.items()
        if theirs is not None and theirs.rate and (run.subjects[key].kind == "rpc" or key == section.base)
    ]
    yield "### Small requests\n"
    yield (
        "A server on one core of [the machine](benchmark-results.md#the-machine) answers requests `add(1, 2)` with a "
        "`def`\nhandler. The bare echo sends each request back instead. The load generator keeps 64 requests in flight "
        "on one\nconnection. wsrpc uses its default transport.\n"
    )
    yield table(["system", "requests/s", "wsrpc answers"], [["wsrpc", amount(ours.rate, column.unit), ""], *rows])
    if "stand-in" in run.machine.get("ws-wrapper in Go", ""):
        yield STAND_IN
    yield "The following plot shows all systems and transports:\n"
    yield f"![{OVERVIEW}](../performance/overview.svg)\n"


def _systems(run: Run) -> Iterator[str]:
    others = [key for key, info in run.subjects.items() if info.kind == "rpc" and key != "by-hand"]
    systems = ["wsrpc", *others]
    if servers := _ratios(run, systems, ("requests", "1000x1", "echo-64k", "broadcast", "accepts", "idle")):
        yield SYSTEMS
        yield servers
    if clients := _ratios(run, systems, ("workers", "one", "emit", "items", "upload", "download")):
        yield CLIENTS
        yield clients


def _transports(run: Run) -> Iterator[str]:
    ours = [key for key, info in run.subjects.items() if info.kind == "wsrpc"]
    wanted = ("requests", "async", "1000x1", "echo-1k", "echo-64k", "broadcast", "accepts", "idle")
    if transports := _ratios(run, ours, wanted):
        yield TRANSPORTS
        yield transports


def _ratios(run: Run, subjects: Sequence[str], wanted: Sequence[str]) -> str:
    """A table with a row for each subject that has at least a third of these workloads; empty if none has."""
    places = [found for key in wanted if (found := column_of(run, key)) is not None]
    rows: list[list[str]] = []
    for key in subjects:
        cells = [cell(run, section, column, key) for section, column in places]
        if places and 3 * sum(found is not None for found in cells) >= len(cells):
            rows.append([run.subjects[key].title, *(ratio_cell(found) for found in cells)])
    return table(["", *(column.title for _, column in places)], rows) if rows else ""


def _cuts(cuts: Cuts) -> Iterator[str]:
    yield "### Connections that are cut\n"
    most = max(sum(outcome.cuts.values()) for outcome in cuts.systems.values())
    yield (
        f"A client and a server sent events to each other while their connection was cut {most:,} times.\n"
        "[The full results](benchmark-results.md#connections-that-are-cut) show the kinds of cuts, and explain why "
        "Socket.IO\nloses events.\n"
    )
    rows = [
        [
            title,
            f"{sum(outcome.recovered.values()):,} of {sum(outcome.cuts.values()):,}",
            f"{outcome.up.lost + outcome.down.lost:,} of {outcome.up.sent + outcome.down.sent:,}",
            f"{outcome.up.doubled + outcome.down.doubled:,}",
        ]
        for title, outcome in cuts.systems.items()
    ]
    yield table(["", "cuts after which the session continued", "lost events", "duplicated events"], rows)


def _not_fastest(run: Run) -> Iterator[str]:
    yield NOT_FASTEST.format(tie=TIE)
    yield "### Systems with calls\n"
    yield _faster_table(run, list(where_others_are_faster(run, "rpc")), "best variant of wsrpc")
    yield "### Bare echoes\n"
    yield _faster_table(run, list(where_others_are_faster(run, "bare")), "best variant of wsrpc")
    yield DEFAULT_ONLY.format(tie=TIE)
    yield _faster_table(run, list(_default_is_slower(run)), "default transport")


def _default_is_slower(run: Run) -> Iterator[Faster]:
    """Where only wsrpc on another transport is ahead of a system that does calls."""
    beaten = {(one.section.key, one.column.key) for one in where_others_are_faster(run, "rpc")}
    only_default = Run(
        **{
            **{name: getattr(run, name) for name in run.__struct_fields__},
            "subjects": {key: info for key, info in run.subjects.items() if info.kind != "wsrpc" or key == "wsrpc"},
        }
    )
    for one in where_others_are_faster(only_default, "rpc"):
        if (one.section.key, one.column.key) not in beaten:
            yield one


def _faster_table(run: Run, found: Sequence[Faster], compared: str) -> str:
    rows = [
        [
            f"{one.section.title}: {one.column.title}",
            run.subjects[one.best].title,
            "; ".join(f"{run.subjects[key].title}: {ratio(times)}" for key, times in one.ahead),
        ]
        for one in found
    ]
    return table(["workload", compared, "better systems"], rows, left=3) if rows else "There are none in this run.\n"
