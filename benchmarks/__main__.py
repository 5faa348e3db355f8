"""``python -m benchmarks``: 0 is success, 1 means wrong or missing answers, 2 that it could not run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from . import against, results
from .cuts.run import CUTS, QUICK_CUTS, run_cuts
from .generator import compile_load
from .go import build as build_go
from .idle import run_idle
from .idle import show as show_idle
from .latency import measure_table
from .machine import describe, pick_cores, require
from .measure import bad
from .other_python import find as find_other_python
from .page_clients import run_page_clients
from .processes import BenchmarkError
from .report import tables
from .runner import DEFAULT, QUICK, Bench, Cores, Fleet, Plan, info_of, prepare, run_curves, run_sections, say
from .subjects import SUBJECTS, Subject
from .workloads import CURVES, SECTIONS, Accepts, Curve, Section


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

    def chosen_of(section: Section) -> Section:
        found = [one for one in section.workloads if wanted(section.key) or wanted(one.key)]
        return replace(section, workloads=tuple(one for one in found if one.quick or only or not quick))

    chosen = tuple(made for section in SECTIONS if (made := chosen_of(section)).workloads)
    curves = () if "curves" in without else tuple(curve for curve in CURVES if wanted(f"curve-{curve.key}"))
    latency = wanted("latency")
    if not chosen and not curves and not latency:
        known = [key for section in SECTIONS for key in (section.key, *(one.key for one in section.workloads))]
        known += ["latency", *(f"curve-{curve.key}" for curve in CURVES)]
        raise BenchmarkError(f"--only {' '.join(only)} chooses nothing of {', '.join(known)}")
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
        description="wsrpc beside the systems that people would pick instead.",
    )
    parser.add_argument("--quick", action="store_true", help="about 2 min: a smoke test, too short to quote")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample to FILE too")
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
        "--against",
        metavar="COMMIT",
        help="only wsrpc of the working tree beside wsrpc of that commit, about 4 min; --only chooses here, too",
    )
    parser.add_argument(
        "--cuts",
        action="store_true",
        help="only sessions that are cut 1,000 times, beside Socket.IO's on Node, about 3 min; --json, too",
    )
    parser.add_argument(
        "--idle",
        action="store_true",
        help="only connections that say nothing, as many as may be open, about 20 min; --json and --only, too",
    )
    parser.add_argument(
        "--pages",
        action="store_true",
        help="only the clients for pages, on Node, beside ws-wrapper and socket.io-client, about 1 min",
    )
    return parser.parse_args(arguments)


def run_all(options: argparse.Namespace, cores: Cores) -> int:
    other = None if "python" in options.without else find_other_python()
    choice = choose(options.only, options.without, () if other is None else (other,), quick=options.quick)
    plan = QUICK if options.quick else DEFAULT
    require(choice.subjects)
    compile_load()
    if any("go" in subject.needs for subject in choice.subjects):
        say("building what is in Go")
        build_go()
    run = measure(choice, plan, cores)
    if options.json is not None:
        results.save(run, options.json)
    print(tables.report(run))
    return 1 if anything_wrong(run) else 0


def run_against(options: argparse.Namespace, cores: Cores) -> int:
    sections, subjects = against.choice_of(against.subject_at(options.against), choose(options.only, []).sections)
    choice = Choice(sections, latency=False, curves=(), subjects=subjects)
    plan = QUICK if options.quick else against.PLAN
    compile_load()
    if any(isinstance(workload, Accepts) for section in sections for workload in section.workloads):
        build_go()
    run = measure(choice, plan, cores)
    print(against.render(run))
    return 1 if anything_wrong(run) else 0


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    # A terminated run must end its servers, which happens on the way out of their blocks.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        cores = Cores(*pick_cores())
        if options.cuts:
            return 0 if run_cuts(QUICK_CUTS if options.quick else CUTS, options.json) else 1
        if options.idle:
            outcome = run_idle(cores, quick=options.quick, only=options.only)
            if options.json is not None:
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
            print(show_idle(outcome))
            return 0
        if options.pages:
            return 0 if run_page_clients(cores, quick=options.quick) else 1
        if options.against is not None:
            return run_against(options, cores)
        return run_all(options, cores)
    except BenchmarkError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
