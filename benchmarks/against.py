"""wsrpc of the working tree beside wsrpc of another commit, for one who changes code that runs for each message."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO

from .processes import ROOT, BenchmarkError
from .report.analysis import cell
from .report.tables import ratio, table
from .results import Run
from .runner import Plan, able
from .subjects import SUBJECTS, WSRPC, Subject, python_server
from .workloads import Section

PLAN = Plan(rounds=10, warm=0.15, seconds=0.3, curve_seconds=0.15)
COMMITS = ROOT / "build" / "commits"
BEFORE = "wsrpc-before"

EXPLAINED = """\
1.10 means: 10 % more in the same time. "by CPU" counts the server's CPU time, which other programs disturb least: trust
it if the server is the limit. If Python clients are the load, the client is the limit: then trust "by rate"."""


def subject_at(commit: str) -> Subject:
    """wsrpc as it was in a commit, for the servers and clients of this working tree. Raises BenchmarkError."""
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"], cwd=ROOT, capture_output=True, text=True
    )
    if found.returncode:
        raise BenchmarkError(f"--against {commit}: git knows no such commit")
    name = found.stdout.strip()
    source = COMMITS / name
    if not source.exists():
        packed = subprocess.run(
            ["git", "archive", name, "wsrpc", "adapters"], cwd=ROOT, capture_output=True, check=True
        )
        made = COMMITS / f"{name}-{os.getpid()}"  # complete when it gets its name
        with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
            archive.extractall(made, filter="data")
        if source.exists():
            shutil.rmtree(made)
        else:
            made.rename(source)
    command = python_server("wsrpc", source=source)
    return Subject(BEFORE, f"wsrpc at {name[:9]}", command, WSRPC, client="wsrpc", source=source)


def choice_of(before: Subject, sections: Sequence[Section]) -> tuple[tuple[Section, ...], tuple[Subject, ...]]:
    """The workloads that both can do, with the older one as the base; and the two."""
    compared = [
        replace(section, base=before.key, workloads=tuple(one for one in section.workloads if able(before, one)))
        for section in sections
    ]
    [now] = [subject for subject in SUBJECTS if subject.key == "wsrpc"]
    return tuple(section for section in compared if section.workloads), (before, now)


def render(run: Run) -> str:
    """One line for each workload: the working tree to the commit."""
    rows: list[list[str]] = []
    for section in run.sections:
        for column in section.columns:
            found = cell(run, section, column, "wsrpc")
            if found is not None:
                by_cpu = "" if found.cpu is None else ratio(found.cpu)
                spread = f"{ratio(found.low)}–{ratio(found.high)}"
                wrong = f"{found.bad} WRONG OR MISSING" if found.bad else ""
                rows.append([f"{section.title}: {column.title}", by_cpu, ratio(found.ratio), spread, wrong])
    title = f"The working tree to {run.subjects[BEFORE].title}, {run.rounds} rounds. {EXPLAINED}"
    return f"{title}\n\n{table(['', 'by CPU', 'by rate', 'lowest–highest', ''], rows)}"
