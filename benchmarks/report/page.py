"""docs/contributing/benchmarks.md and its plots, made of the JSON of a run: ``python -m benchmarks report [FILE]``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..cuts.outcome import Cuts
from ..measure import rate
from ..results import Column, CurveResult, Run, SectionResult
from . import plots
from .analysis import (
    BOUND,
    Cell,
    Faster,
    amount,
    async_to_def,
    cell,
    ratio,
    subjects_of,
    times_ahead,
    where_others_are_faster,
)
from .cuts import sessions_that_are_cut
from .markdown import table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "performance.md"
FOLDER = DOCS / "performance"
RESULTS = FOLDER / "results.json"
CUTS = FOLDER / "cuts.json"

OVERVIEW = "64 small requests pending on one connection: ratio to a bare websockets echo"

COLOURS = {"websockets": 0, "wsrpc": 1, "wsrpc-picows": 2, "js": 3}
"""Of the lines in the plots; each subject has the same in all."""

INTRODUCTION = """\
# Performance

How fast wsrpc is beside the systems that people would pick instead, how its cost grows, how to choose a transport, and
where wsrpc is not the fastest. A program makes this page of one run of `make bench` and one of its `--cuts`; do not
edit it by hand.
"""

HOW_TO_REPEAT = """\
## How to repeat it

```text
make bench                                       # about 15 minutes
make bench ARGS=--quick                          # about 2 minutes: a smoke test, too short to quote
make bench ARGS="--json run.json"                # the default run, with every sample in a file
make bench ARGS="--cuts --json cuts.json"        # about 3 minutes: sessions that are cut
python -m benchmarks report run.json --cuts cuts.json   # writes this page and its plots
```

It needs Linux, two cores, a C compiler, Node and Go; `make bench` installs the Python packages. `--plan` says what
would be measured and how long that takes, `--only requests` measures one section or workload, `--without go` leaves out
what needs Go. `benchmarks/subjects.py` lists the systems, `benchmarks/workloads.py` what is measured.
"""

HOW_TO_READ = """\
## How to read the tables

- The server has one core, the load generator another. Systems are measured in turns, in one run, so that a change of
  the machine hits all alike.
- **A ratio is to the first row of its table**, measured a moment before: the median over {rounds}. Above 1 is faster.
  Only for idle memory, less is better.
- The generator is a program in C that polls its sockets, and checks the id and the result of every answer. gRPC is
  HTTP/2, which it does not speak: its load is a client in Go, on grpc-go. Connections are opened by that program, too.
- **\\*** is *generator-bound*: within {bound:.0%} of the rate that the same generator reaches with the smallest server,
  an echo in C or Go. The system may be faster than that row says.
- **–** is what a system cannot do, or what the generator cannot say to it (binary messages of Socket.IO).
- Each system is set up as its own documentation advises for speed: python-socketio and fastapi-websocket-rpc run on
  uvicorn with uvloop and httptools, gRPC has protobuf messages and reused channels, compression is off everywhere. All
  else, wsrpc on all its transports and the bare echoes too, runs in its default setting on asyncio's own event loop.
- A bare echo does less than the others: it parses nothing, calls nothing, and sends back what came.
"""

NOT_FASTEST = """\
## Where wsrpc is not the fastest

Computed from this run: what is ahead of *every* way of using wsrpc by more than 3 %.
"""

CHOOSING = """\
## How to choose a transport

All transports have the same features and the same API; [adapters](adapters.md) has the differences. As a rule:

1. **The default transport** (`server.listen()`) is the one to begin with. It needs no further package and has
   compression, Unix sockets and health checks.
2. **[picows](picows.md)** if many clients connect in a short time, or if you serve large binary messages, and can do
   without compression and without an async `on_handshake`. It takes more memory for a connection.
3. **aiohttp, FastAPI or another ASGI framework** if your application is written in it. Under uvicorn, start it with
   `--ws wsrpc_adapters.uvicorn:WebSocketProtocol`, so that messages do not pass through ASGI:
   [uvicorn](uvicorn.md) says how.

The ratios of this run, to a bare `websockets` echo:
"""

GROWTH = """\
## How the cost grows

Both axes are logarithmic: a flat line means that the cost of one request or delivery does not grow.
"""


def render(run: Run, cuts: Cuts) -> dict[Path, str]:
    """The page and its plots, by path."""
    files = {PAGE: "\n".join(_page(run, cuts))}
    if chart := _overview(run):
        files[FOLDER / "overview.svg"] = chart
    for curve in run.curves:
        files[_plot_path(curve)] = _plot(run, curve)
    return files


def write(run: Run, cuts: Cuts) -> list[Path]:
    """Write the page and its plots; their paths."""
    FOLDER.mkdir(exist_ok=True)
    files = render(run, cuts)
    for path, text in files.items():
        path.write_text(text, "utf-8")
    return list(files)


def _page(run: Run, cuts: Cuts) -> Iterator[str]:
    yield INTRODUCTION
    if run.quick:
        yield "> **This is a quick run**, one short round for everything: do not quote it.\n"
    yield from _summary(run)
    yield HOW_TO_READ.format(rounds=_rounds(run), bound=1 - BOUND)
    for section in run.sections:
        yield from _section(run, section)
    yield from _async(run)
    for one in run.tables:
        yield f"## {one.title}\n"
        yield f"{one.about}\n"
        yield table(one.columns, one.rows)
    yield from sessions_that_are_cut(cuts)
    yield from _not_fastest(run)
    yield from _choosing(run)
    if run.curves:
        yield GROWTH
        for curve in run.curves:
            yield f"![{curve.title}: {curve.y}](performance/{_plot_path(curve).name})\n"
            yield f"*{curve.about}.*\n"
    yield HOW_TO_REPEAT
    yield from _rates(run)
    yield from _machine(run)


def _rounds(run: Run) -> str:
    return f"{run.rounds} rounds" if run.rounds > 1 else "one round"


def _summary(run: Run) -> Iterator[str]:
    found = _find(run, "requests")
    if found is None:
        return
    section, column = found
    cells = {key: cell(run, section, column, key) for key in subjects_of(run, section)}
    ours = cells.get("wsrpc")
    if ours is None:
        return
    others = [
        f"- {ratio(times_ahead(section, column, 'wsrpc', key))} times as many as {run.subjects[key].title}"
        for key, theirs in cells.items()
        if theirs is not None and theirs.rate and (run.subjects[key].kind == "rpc" or key == section.base)
    ]
    yield (
        f"On one core of [the machine](#the-machine), wsrpc on its default transport answers "
        f"{amount(ours.rate, column.unit)} small requests\na second ({column.about}). That is\n"
    )
    yield "\n".join(others) + "\n"
    yield f"![{OVERVIEW}](performance/overview.svg)\n"


def _find(run: Run, key: str) -> tuple[SectionResult, Column] | None:
    for section in run.sections:
        for column in section.columns:
            if column.key == key:
                return section, column
    return None


def _overview(run: Run) -> str | None:
    found = _find(run, "requests")
    if found is None:
        return None
    section, column = found
    rows: list[plots.Bar] = []
    for key in subjects_of(run, section):
        one = cell(run, section, column, key)
        info = run.subjects[key]
        if one is None or info.kind == "ceiling":
            continue
        colour = {"wsrpc": 1, "bare": 0}.get(info.kind, 3)
        rows.append(plots.Bar(info.title.replace("`", ""), colour, one.ratio, ratio(one.ratio)))
    rows.sort(key=lambda row: -row.value)
    legend = {1: "wsrpc", 3: "other systems that do calls", 0: "bare echoes, which do none"}
    return plots.bars(OVERVIEW, legend, rows)


def _section(run: Run, section: SectionResult) -> Iterator[str]:
    base = run.subjects[section.base].title
    yield f"## {section.title}\n"
    yield f"Ratios to the {base}.{' ' + section.about if section.about else ''}\n"
    yield "\n".join(f"- **{column.title}**: {column.about}" for column in section.columns) + "\n"
    keys = [key for key in subjects_of(run, section) if run.subjects[key].kind != "ceiling"]
    rows = [
        [run.subjects[key].title, *(_ratio(cell(run, section, column, key)) for column in section.columns)]
        for key in keys
    ]
    yield table(["", *(column.title for column in section.columns)], rows)
    own = _own_rows(run, section, keys)
    if own:
        yield "The same to the bare echo of the library that wsrpc runs on there:\n"
        yield table(["", *(column.title for column in section.columns)], own)


def _own_rows(run: Run, section: SectionResult, keys: Sequence[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for key in keys:
        if run.subjects[key].own in ("", section.base):
            continue
        cells = [cell(run, section, column, key) for column in section.columns]
        if any(found is not None and found.own is not None for found in cells):
            own = [ratio(found.own) if found is not None and found.own is not None else "–" for found in cells]
            rows.append([run.subjects[key].title, *own])
    return rows


def _ratio(found: Cell | None) -> str:
    if found is None:
        return "–"
    text = ratio(found.ratio) + (r"\*" if found.bound else "")
    return f"{text} (answers were wrong)" if found.bad else text


def _async(run: Run) -> Iterator[str]:
    shares = async_to_def(run)
    if not shares:
        return
    yield "## `async def` handlers\n"
    yield (
        "The rate with an `async def` handler that does not wait, to the rate with a `def` handler of the same system. "
        "From Python 3.12 on, wsrpc's tasks start eagerly. Go, gRPC and fastapi-websocket-rpc have one kind of "
        "handler: both rates are of the same one. How far they are from 1 shows how much two measurements differ.\n"
    )
    yield table(["", "ratio"], [[run.subjects[key].title, ratio(share)] for key, share in shares.items()])


def _not_fastest(run: Run) -> Iterator[str]:
    yield NOT_FASTEST
    yield "**Other systems that do calls, and what one writes by hand**\n"
    yield _faster_list(run, list(where_others_are_faster(run, "rpc")))
    yield "**Bare echoes, which do none**\n"
    yield _faster_list(run, list(where_others_are_faster(run, "bare")))
    yield "**Where only another transport is ahead**: the default one is slower than a system that does calls\n"
    yield _faster_list(run, list(_default_is_slower(run)))


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


def _faster_list(run: Run, found: Sequence[Faster]) -> str:
    if not found:
        return "None in this run.\n"
    return "\n".join(f"- {one.section.title}, {one.column.title}: {_ahead(run, one)}" for one in found) + "\n"


def _ahead(run: Run, one: Faster) -> str:
    ours = run.subjects[one.best].title
    by = "less than" if one.column.lower_is_better else "as much as"
    return ", ".join(f"{run.subjects[key].title} ({ratio(times)} times {by} {ours})" for key, times in one.ahead)


def _choosing(run: Run) -> Iterator[str]:
    yield CHOOSING
    wanted = ("requests", "async", "separate", "1000x1", "echo-1k", "echo-64k", "broadcast", "accepts", "idle")
    places = [found for key in wanted if (found := _find(run, key)) is not None]
    keys = [key for key, info in run.subjects.items() if info.kind == "wsrpc"]
    rows: list[list[str]] = []
    for key in keys:
        cells = [cell(run, section, column, key) for section, column in places]
        if sum(found is not None for found in cells) > 2:
            rows.append([run.subjects[key].title, *(_ratio(found) for found in cells)])
    yield table(["", *(column.title for _, column in places)], rows)


def _rates(run: Run) -> Iterator[str]:
    yield "## All rates\n"
    yield (
        f"Medians over {_rounds(run)}, with the lowest and the highest ratio of a round, and the share of what the "
        'generator reaches. "By CPU" is the ratio of answers for each second of the server\'s CPU time: trust it where '
        "it differs from the ratio and other work disturbed the run.\n"
    )
    for section in run.sections:
        rows: list[list[str]] = []
        for column in section.columns:
            for key in subjects_of(run, section):
                found = cell(run, section, column, key)
                if found is not None:
                    rows.append([column.title, run.subjects[key].title, *_rate_cells(found, column)])
        yield f"<details><summary>{section.title}</summary>\n"
        yield table(["workload", "system", "rate", "ratio", "lowest–highest", "by CPU", "of the ceiling"], rows)
        yield "</details>\n"
    for curve in run.curves:
        yield f"<details><summary>Curve: {curve.title}</summary>\n"
        points = sorted({point for line in curve.lines.values() for point in line})
        rows = [
            [
                run.subjects[key].title,
                *(amount(rate(line[point]), curve.y) if point in line else "–" for point in points),
            ]
            for key, line in curve.lines.items()
        ]
        yield table([curve.y, *(f"{point:,}" for point in points)], rows)
        yield "</details>\n"


def _rate_cells(found: Cell, column: Column) -> list[str]:
    unit = "" if column.unit.startswith("bytes") else f" {column.unit}"
    return [
        f"{amount(found.rate, column.unit)}{unit}",
        ratio(found.ratio),
        f"{ratio(found.low)}–{ratio(found.high)}",
        "–" if found.cpu is None else ratio(found.cpu),
        "–" if found.of_ceiling is None else f"{found.of_ceiling:.0%}",
    ]


def _machine(run: Run) -> Iterator[str]:
    yield "## The machine\n"
    yield table(["", ""], [[name, fact] for name, fact in run.machine.items()])
    yield (
        f"The run took {run.took / 60:.1f} minutes on {run.date}: {_rounds(run)}, {run.seconds:g} s for each system "
        f"under each workload, after {run.warm:g} s to warm up.\n"
    )


def _plot_path(curve: CurveResult) -> Path:
    return FOLDER / f"{curve.key}.svg"


def _plot(run: Run, curve: CurveResult) -> str:
    lines = [
        plots.Line(
            run.subjects[key].title.replace("`", "").partition(",")[0],
            COLOURS.get(key, 3),
            {point: rate(samples) for point, samples in line.items() if rate(samples)},
        )
        for key, line in curve.lines.items()
    ]
    return plots.curve(curve.title, curve.x, curve.y, lines, bytes_on_x=curve.x == "bytes")
