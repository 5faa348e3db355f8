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
from .limits import LIMITS
from .markdown import table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "contributing" / "benchmarks.md"
FOLDER = DOCS / "performance"
RESULTS = FOLDER / "results.json"
CUTS = FOLDER / "cuts.json"

OVERVIEW = "64 small requests pending on one connection: ratio to a bare websockets echo"

COLOURS = {"websockets": 0, "wsrpc": 1, "wsrpc-picows": 2, "js": 3}
"""Of the lines in the plots; each subject has the same in all."""

PLOTS = "../performance"
"""The folder of the plots, as the page links to it."""

INTRODUCTION = """\
# Benchmarks

This page has all tables of one benchmark run, and shows how to repeat the run.
[Performance](../explanation/performance.md) explains what the figures mean for an application.

`python -m benchmarks report` makes this page from `docs/performance/results.json` and `docs/performance/cuts.json`. Do
not edit it by hand: change `benchmarks/report/`.
"""

STAND_IN = """\
`ws-wrapper in Go` is not the real library in this run. It is the stand-in in `interop/go/played`, which speaks the same
protocol. Set `WS_WRAPPER_GO` to measure the library itself.
"""

HOW_TO_REPEAT = """\
## How to repeat it

```text
make bench                                       # about 15 minutes
make bench ARGS=--quick                          # about 2 minutes: a smoke test, too short to quote
make bench ARGS="--json run.json"                # the default run, with every sample in a file
make bench ARGS="--cuts --json cuts.json"        # about 3 minutes: connections that are cut
python -m benchmarks report run.json --cuts cuts.json   # writes this page and its plots
```

The benchmarks need Linux, two cores, a C compiler, Node and Go. `make bench` installs the Python packages.

| option | effect |
|---|---|
| `--plan` | prints what would be measured, and how long that takes |
| `--only requests` | measures one section or one workload |
| `--without go` | leaves out everything that needs Go |

`benchmarks/subjects.py` lists the systems, and `benchmarks/workloads.py` lists the workloads.
"""

HOW_TO_READ = """\
## How to read the tables

- The server runs on one core, and the load generator on another. The systems take turns within one run. A change of the
  machine's speed therefore affects all of them.
- **A ratio is relative to the first row of its table**, measured a moment before. It is the median over {rounds}. More
  than 1 is faster. Idle memory is the exception: less is better.
- The load generator is a program in C, which polls its sockets and checks the id and the result of every answer. It
  does not speak HTTP/2, so a client in Go on grpc-go loads gRPC. The same client opens the connections of "opened".
- **\\*** means *generator-bound*: the rate is within {bound:.0%} of what the same generator reaches with the smallest
  server, an echo in C or Go. The system may be faster than the row says.
- **–** means that the system cannot do this, or that the generator cannot say it (binary messages of Socket.IO).
- Each system is configured for speed as its own documentation advises. python-socketio and fastapi-websocket-rpc run
  on uvicorn with uvloop and httptools. gRPC uses protobuf messages and reuses channels. Compression is off
  everywhere. Everything else, including wsrpc on all transports and the bare echoes, runs with its default settings
  on asyncio's own event loop.
- A bare echo does less than the other systems: it sends back what it receives, without parsing it or calling anything.
"""

NOT_FASTEST = """\
## Where wsrpc is not the fastest

These lists are computed from this run. They contain what is faster than *every* transport of wsrpc by more than 3 %.
"""

CHOOSING = """\
## Transports compared

[Performance](../explanation/performance.md#choose-a-transport) says how to choose one. The ratios of this run,
relative to a bare `websockets` echo:
"""

GROWTH = """\
## How the cost grows

Both axes are logarithmic. A flat line means that the cost of one request or delivery does not grow.
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
            yield f"![{curve.title}: {curve.y}]({PLOTS}/{_plot_path(curve).name})\n"
            yield f"*{curve.about}.*\n"
    yield HOW_TO_REPEAT
    yield from _rates(run)
    yield from _machine(run)
    yield LIMITS


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
        f"{amount(ours.rate, column.unit)} small requests\na second ({column.about}). That is:\n"
    )
    yield "\n".join(others) + "\n"
    if "stand-in" in run.machine.get("ws-wrapper in Go", ""):
        yield STAND_IN
    yield f"![{OVERVIEW}]({PLOTS}/overview.svg)\n"


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
    legend = {1: "wsrpc", 3: "other systems with calls", 0: "bare echoes, which have no calls"}
    return plots.bars(OVERVIEW, legend, rows)


def _section(run: Run, section: SectionResult) -> Iterator[str]:
    yield f"## {section.title}\n"
    about = f" {section.about}" if section.about else ""
    yield f"The ratios are relative to the row *{run.subjects[section.base].title}*.{about}\n"
    yield "\n".join(f"- **{column.title}**: {column.about}" for column in section.columns) + "\n"
    keys = [key for key in subjects_of(run, section) if run.subjects[key].kind != "ceiling"]
    rows = [
        [run.subjects[key].title, *(_ratio(cell(run, section, column, key)) for column in section.columns)]
        for key in keys
    ]
    yield table(["", *(column.title for column in section.columns)], rows)
    own = _own_rows(run, section, keys)
    if own:
        yield "Relative to the bare echo of the library that wsrpc runs on in that row:\n"
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
        "The ratio is the rate with an `async def` handler that does not wait, divided by the rate with a `def` "
        "handler of the same system. On Python 3.12 and later, wsrpc starts tasks eagerly. Go, gRPC and "
        "fastapi-websocket-rpc have only one kind of handler, so both of their rates measure the same thing. How far "
        "their ratios are from 1 shows how much two measurements of the same thing differ.\n"
    )
    yield table(["", "ratio"], [[run.subjects[key].title, ratio(share)] for key, share in shares.items()])


def _not_fastest(run: Run) -> Iterator[str]:
    yield NOT_FASTEST
    yield "**Other systems with calls, and a handwritten protocol**\n"
    yield _faster_list(run, list(where_others_are_faster(run, "rpc")))
    yield "**Bare echoes, which have no calls**\n"
    yield _faster_list(run, list(where_others_are_faster(run, "bare")))
    yield "**Slower on the default transport only**: another transport of wsrpc is faster than all systems with calls\n"
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
    if one.column.lower_is_better:
        return ", ".join(
            f"{run.subjects[key].title} ({ours} takes {ratio(times)} times as much)" for key, times in one.ahead
        )
    return ", ".join(f"{run.subjects[key].title} ({ratio(times)} times as fast as {ours})" for key, times in one.ahead)


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
        f'Rates and ratios are medians over {_rounds(run)}. "Lowest–highest" is the range of the rounds\' ratios. '
        'The last column is the share of what the generator reaches. "By CPU" compares answers for each second of CPU '
        "time of the server. If it differs from the ratio because other work disturbed the run, trust it more.\n"
    )
    for section in run.sections:
        rows: list[list[str]] = []
        for column in section.columns:
            for key in subjects_of(run, section):
                found = cell(run, section, column, key)
                if found is not None:
                    rows.append([column.title, run.subjects[key].title, *_rate_cells(found, column)])
        yield f"<details><summary>{section.title}</summary>\n"
        yield table(["workload", "system", "rate", "ratio", "lowest–highest", "by CPU", "share of the ceiling"], rows)
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
