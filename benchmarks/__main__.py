"""``python -m benchmarks``: 0 is success, 1 means wrong or missing answers, 2 that it could not run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from . import results
from .blocking import run_blocking
from .broadcast.run import run_broadcast
from .cluster.calls import run_calls
from .cluster.directory import run_directory
from .cluster.emits import run_emits
from .cuts import outcome
from .cuts.run import CUTS, QUICK_CUTS, run_cuts
from .floods.run import run_floods
from .generator import compile_load
from .go import build as build_go
from .herd.run import run_herd
from .idle.run import run_idle
from .latency.report import measure_table, print_latency
from .latency.run import QUICK_SECONDS_IN_RUN, SECONDS_IN_RUN
from .machine import describe, pick_cores, require
from .measure import bad
from .other_python import find as find_other_python
from .other_python import subject_on
from .processes import BenchmarkError
from .proxies import run_proxies
from .report import files, text
from .runner import DEFAULT, QUICK, Bench, Cores, Fleet, Plan, estimate, info_of, prepare, run_curves, run_sections, say
from .streams.run import print_streams
from .subjects import SUBJECTS, Subject
from .workloads import CURVES, SECTIONS, Curve, Section

SPECIAL: dict[str, tuple[str, Callable[[argparse.Namespace, Cores], bool]]] = {
    "streams": (
        "only small requests beside three streams, about 40 s",
        lambda options, cores: print_streams(
            QUICK if options.quick else DEFAULT, server_core=cores.server, load_core=cores.load
        ),
    ),
    "latency": (
        "only percentiles at fixed rates, about 4 min",
        lambda options, cores: (
            not any(row.bad for row in print_latency(options.quick, server_core=cores.server, load_core=cores.load))
        ),
    ),
    "herd": (
        "only a thousand clients that are cut at once, about 30 s",
        lambda options, cores: run_herd(1 if options.quick else 5, server_core=cores.server, load_core=cores.load),
    ),
    "idle": (
        "only 10,000 connections that say nothing but pings, and 1,000 with TLS and compression, about 3 min",
        lambda options, cores: run_idle(
            1000 if options.quick else 10_000,
            10.0 if options.quick else 30.0,
            server_core=cores.server,
            load_core=cores.load,
        ),
    ),
    "floods": (
        "only a client beside floods, about 4 min",
        lambda options, cores: run_floods(
            2.0 if options.quick else 10.0, server_core=cores.server, load_core=cores.load
        ),
    ),
    "broadcast": (
        "only a broadcast with one that never reads, about 30 s",
        lambda options, cores: run_broadcast(
            200 if options.quick else 1000, server_core=cores.server, load_core=cores.load
        ),
    ),
    "cuts": (
        "only sessions that are cut 1,000 times, beside Socket.IO's on Node, about 3 min; --json FILE works here, too",
        lambda options, cores: run_cuts(QUICK_CUTS if options.quick else CUTS, options.json),
    ),
    "cluster-calls": (
        "only calls and streams between two processes, over NATS and Redis, about 3 min",
        lambda options, cores: run_calls(
            1 if options.quick else 5, 0.5 if options.quick else 2.0, cores.server, cores.load
        ),
    ),
    "cluster-emits": (
        "only emits to a room with members at four processes, beside python-socketio's, about 2 min",
        lambda options, cores: run_emits(
            1 if options.quick else 5, 16 if options.quick else 64, cores.server, cores.load
        ),
    ),
    "cluster-directory": (
        "only what a process must know of 15 others and their 50,000 addresses, about 30 s",
        lambda options, cores: run_directory(1 if options.quick else 5, cores.server, cores.load),
    ),
    "proxies": (
        "only calls of a proxy beside the requests that they stand for, about 20 s",
        lambda options, cores: run_proxies(5 if options.quick else 15, 1000 if options.quick else 4000),
    ),
    "blocking": (
        "only calls of the blocking client beside python-socketio's, about 40 s",
        lambda options, cores: run_blocking(3 if options.quick else 9, 500 if options.quick else 2000, cores.server),
    ),
}
"""Measurements with an answer of their own, yes or no. Each is an option."""


@dataclass(frozen=True)
class Choice:
    """What of the lists is measured."""

    sections: tuple[Section, ...]
    latency: bool
    curves: tuple[Curve, ...]
    subjects: tuple[Subject, ...]


def choose(only: Sequence[str], without: Sequence[str], more: Sequence[Subject] = (), *, quick: bool = False) -> Choice:
    """``only`` are beginnings of keys of sections, workloads and curves, ``without`` subjects and what they need.

    The base of a section is always measured. Raises BenchmarkError for what does not name anything.
    """

    def wanted(key: str) -> bool:
        return not only or any(key.startswith(prefix) for prefix in only)

    sections = [
        replace(
            section,
            workloads=tuple(
                workload
                for workload in section.workloads
                if (wanted(section.key) or wanted(workload.key)) and (workload.quick or only or not quick)
            ),
        )
        for section in SECTIONS
    ]
    chosen = tuple(section for section in sections if section.workloads)
    curves = () if "curves" in without else tuple(curve for curve in CURVES if wanted(f"curve-{curve.key}"))
    latency = wanted("latency")
    if not chosen and not curves and not latency:
        known = [workload.key for section in SECTIONS for workload in section.workloads]
        raise BenchmarkError(
            f"--only {' '.join(only)} chooses nothing. There are the sections {', '.join(s.key for s in SECTIONS)}, "
            f"the workloads {', '.join(known)}, latency, and the curves {', '.join(f'curve-{c.key}' for c in CURVES)}"
        )
    names = {"curves", "python"} | {name for subject in SUBJECTS for name in (subject.key, *subject.needs)}
    if unknown := [name for name in without if name not in names]:
        raise BenchmarkError(f"--without {unknown[0]}: not one of {', '.join(sorted(names))}")
    bases = {section.base for section in chosen}
    subjects = tuple(
        subject
        for subject in (*SUBJECTS, *more)
        if subject.key in bases or not {subject.key, *subject.needs} & set(without)
    )
    return Choice(chosen, latency, curves, subjects)


def plan_text(choice: Choice, plan: Plan) -> str:
    slots, seconds = estimate(choice.sections, choice.curves, choice.subjects, plan)
    if choice.latency:
        seconds += QUICK_SECONDS_IN_RUN if plan.quick else SECONDS_IN_RUN
    rounds = f"{plan.rounds} round{'s' if plan.rounds > 1 else ''}"
    each = f"{plan.seconds:g} s ({plan.curve_seconds:g} s in the curves)"
    return f"{len(choice.subjects)} subjects; {slots} slots of {each}, {rounds}: about {seconds / 60:.1f} min"


def measure(choice: Choice, plan: Plan, cores: Cores) -> results.Run:
    """Raises BenchmarkError."""
    began = time.monotonic()
    prepare(choice.curves, plan)
    facts = describe(cores.server, cores.load, choice.subjects)
    with Fleet(cores) as fleet:
        bench = Bench(fleet, plan, cores)
        sections = run_sections(bench, choice.sections, choice.subjects, plan)
        curves = run_curves(bench, choice.curves, choice.subjects, plan)
    tables = []
    if choice.latency:
        tables.append(measure_table(plan.quick, choice.subjects, server_core=cores.server, load_core=cores.load))
    facts["load average after the run"] = f"{os.getloadavg()[0]:.2f}"
    return results.Run(
        date=time.strftime("%Y-%m-%d"),
        quick=plan.quick,
        rounds=plan.rounds,
        warm=plan.warm,
        seconds=plan.seconds,
        took=time.monotonic() - began,
        machine=facts,
        subjects={subject.key: info_of(subject) for subject in choice.subjects},
        sections=sections,
        tables=tables,
        curves=curves,
    )


def anything_wrong(run: results.Run) -> bool:
    lines = [line for section in run.sections for subjects in section.samples.values() for line in subjects.values()]
    lines += [line for curve in run.curves for points in curve.lines.values() for line in points.values()]
    return any(bad(line) for line in lines) or any(table.bad for table in run.tables)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="wsrpc beside the systems that people would pick instead. `python -m benchmarks report FILE` makes "
        "the pages about benchmarks in docs/contributing/ of what --json wrote.",
    )
    parser.add_argument("--quick", action="store_true", help="about 2 min: a smoke test, too short to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE too")
    parser.add_argument("--plan", action="store_true", help="say what would be measured and how long, and end")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PREFIX",
        help="only sections, workloads and curves whose keys begin so",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out a subject, what needs NAME (node, go, grpc, ...), curves, or the other Python (python)",
    )
    parser.add_argument(
        "--python", type=Path, metavar="PATH", help="another Python with wsrpc's dependencies, for `async def` handlers"
    )
    for name, (about, _) in SPECIAL.items():
        parser.add_argument(f"--{name}", dest="special", action="store_const", const=name, help=about)
    return parser.parse_args(arguments)


def run_all(options: argparse.Namespace, cores: Cores) -> int:
    other = options.python
    if other is None and "python" not in options.without and not options.plan:
        say("looking for Python 3.13, whose environment is made once")
        other = find_other_python()
    choice = choose(
        options.only, options.without, [subject_on(other)] if other is not None else [], quick=options.quick
    )
    plan = QUICK if options.quick else DEFAULT
    print(plan_text(choice, plan), flush=True)
    if options.plan:
        return 0
    require(choice.subjects)
    compile_load()
    if any("go" in subject.needs for subject in choice.subjects):
        say("building what is in Go")
        build_go()
    run = measure(choice, plan, cores)
    if options.json is not None:
        results.save(run, options.json)
    print(text.render(run))
    return 1 if anything_wrong(run) else 0


def report(arguments: Sequence[str]) -> int:
    """``report FILE``: write the pages and their plots."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks report", description=report.__doc__)
    parser.add_argument("file", type=Path, nargs="?", default=files.RESULTS, help="what --json wrote")
    parser.add_argument("--cuts", type=Path, metavar="FILE", default=files.CUTS, help="what --cuts --json wrote")
    parser.add_argument("--text", action="store_true", help="print the tables instead")
    options = parser.parse_args(arguments)
    run = results.load(options.file)
    if options.text:
        print(text.render(run))
        return 0
    if options.file.resolve() != files.RESULTS:
        results.save(run, files.RESULTS)
    if options.cuts.resolve() != files.CUTS:
        outcome.save(outcome.load(options.cuts), files.CUTS)
    for path in files.write(results.load(files.RESULTS), outcome.load(files.CUTS)):
        print(path)
    return 0


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["report"]:
        return report(arguments[1:])
    options = parse(arguments)
    # A terminated run must end its servers, which happens on the way out of their blocks.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        cores = Cores(*pick_cores())
        if options.special is not None:
            return 0 if SPECIAL[options.special][1](options, cores) else 1
        return run_all(options, cores)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
