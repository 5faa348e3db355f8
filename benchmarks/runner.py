"""The run: everything is measured in turns, so that a drift of the machine hits all alike.

A round measures each workload on one subject after another. Servers are started when they are first needed, and are
stopped where they are (SIGSTOP) while another is measured, so that they cost it nothing.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .clients.__main__ import can
from .clients.tasks import Task
from .generator import held, run_load
from .go import run_go
from .machine import allow_descriptors
from .measure import Sample, resident_bytes
from .processes import Child, start
from .programs import find_redis
from .protocols import ADD, Grpc, Texts
from .results import Column, CurveResult, Samples, SectionResult, SubjectInfo
from .subjects import Subject, python_program
from .workloads import ON_CURVES, Accepts, Broadcasts, Curve, Idle, PythonClient, Requests, Section, Workload

START_SECONDS = 30.0
FEW = 100
"""Connections that are there when the growth of memory begins to count, so that what a server loads once does not."""


@dataclass(frozen=True)
class Plan:
    """How long: `rounds` times `warm` + `seconds` for each subject under each workload, and each point of a curve."""

    rounds: int
    warm: float
    seconds: float
    curve_seconds: float
    transfer_share: float = 1.0
    """Of the size of uploads and downloads."""
    quick: bool = False


DEFAULT = Plan(rounds=3, warm=0.15, seconds=0.3, curve_seconds=0.15)
QUICK = Plan(rounds=1, warm=0.04, seconds=0.1, curve_seconds=0.06, transfer_share=0.1, quick=True)


@dataclass(frozen=True)
class Cores:
    server: int
    load: int


class Fleet:
    """Servers and Python clients that run, each on its core, until the block ends."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._stack = ExitStack()
        self._servers: dict[tuple[str, tuple[str, ...]], tuple[Child, int]] = {}
        self._clients: dict[str, Child] = {}
        self._redis: int | None = None

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @contextmanager
    def server(self, subject: Subject, setup: tuple[str, ...] = ()) -> Iterator[tuple[Child, int]]:
        """The server of a subject and its port. It runs within the block only."""
        found = self._servers.get((subject.key, setup))
        if found is None:
            child = self._stack.enter_context(start_server(subject, self._cores.server, setup))
            found = self._servers[subject.key, setup] = child, int(child.read_line(START_SECONDS))
        else:
            found[0].resume()
        try:
            yield found
        finally:
            found[0].pause()

    def redis(self) -> int:
        """The port of a Redis server, which has the core of the load generator. It is started on the first use."""
        if self._redis is None:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port: int = free.getsockname()[1]
            command: list[str | Path] = [find_redis(), "--port", str(port), "--save", ""]
            child = self._stack.enter_context(start("Redis", command, self._cores.load))
            while "Ready to accept" not in child.read_line(START_SECONDS):
                pass
            self._redis = port
        return self._redis

    def client(self, subject: Subject, server: Child, port: int) -> Child:
        """The Python client of a subject, with its server. It waits for tasks."""
        if subject.key not in self._clients:
            program = python_program("benchmarks.clients", source=subject.source)
            command = [*program, subject.client, str(port), str(server.pid)]
            child = self._stack.enter_context(start(f"the client of {subject.title}", command, self._cores.load))
            child.read_line(START_SECONDS)
            self._clients[subject.key] = child
        return self._clients[subject.key]


def start_server(subject: Subject, core: int, setup: tuple[str, ...] = ()) -> AbstractContextManager[Child]:
    return start(f"the server of {subject.title}", [*subject.command(), *setup], core)


def able(subject: Subject, workload: Workload) -> bool:
    """Whether a subject can do that, and our load can say it to it."""
    if (workload.only or subject.aside) and subject.key not in workload.only:
        return False
    match workload:
        case Requests():
            if isinstance(subject.speaks, Grpc):
                return not workload.separate
            return texts_of(subject, workload) is not None
        case Broadcasts():
            return texts_of(subject, workload) is not None
        case Accepts():
            return _opens(subject) and (subject.tls or not workload.tls)
        case Idle():
            return _opens(subject)
        case PythonClient():
            return bool(subject.client) and can(subject.client, workload.task)
    raise TypeError(workload)


def texts_of(subject: Subject, workload: Requests | Broadcasts) -> Texts | None:
    return None if subject.speaks is None else subject.speaks.texts(workload.call)


def _opens(subject: Subject) -> bool:
    """Whether opening connections to it is measured, and the load generators can do that."""
    return (
        subject.opening
        and not subject.is_ceiling
        and subject.speaks is not None
        and subject.speaks.texts(ADD) is not None
    )


class Bench:
    """Measures one workload on one subject at a time."""

    def __init__(self, fleet: Fleet, plan: Plan, cores: Cores) -> None:
        self._fleet, self._plan, self._cores = fleet, plan, cores

    def measure(self, subject: Subject, workload: Workload, seconds: float) -> Sample:
        """Raises BenchmarkError if the server ends, or stops answering."""
        if isinstance(workload, Idle):
            return self._idle(subject, workload)
        setup = workload.setup
        if isinstance(workload, Broadcasts) and workload.redis:
            setup = (*setup, f"--redis={self._fleet.redis()}")
        with self._fleet.server(subject, setup) as (server, port):
            match workload:
                case Requests() if isinstance(subject.speaks, Grpc):
                    return self._grpc(server, port, workload, seconds, subject.speaks)
                case Requests() | Broadcasts():
                    return self._load(server, port, subject, workload, seconds)
                case Accepts():
                    return self._accepts(server, port, subject, workload, seconds)
                case PythonClient():
                    return self._python_client(server, port, subject, workload, seconds)
        raise TypeError(workload)

    def _timing(self, seconds: float) -> dict[str, object]:
        return {"warm": self._plan.warm, "seconds": seconds}

    def _load(
        self, server: Child, port: int, subject: Subject, workload: Requests | Broadcasts, seconds: float
    ) -> Sample:
        texts = texts_of(subject, workload)
        assert texts is not None
        options: dict[str, object] = {"connections": workload.connections, **self._timing(seconds)}
        if isinstance(workload, Requests):
            options |= {"pending": workload.pending, "separate": workload.separate}
        else:
            options["mode"] = "broadcast"
        return run_load(server, port, texts, self._cores.load, **options)

    def _grpc(self, server: Child, port: int, workload: Requests, seconds: float, speaks: Grpc) -> Sample:
        return run_go(
            "grpc",
            server.name,
            self._cores.load,
            port=port,
            pid=server.pid,
            method=speaks.methods[workload.call.name],
            size=len(workload.call.argument or ""),
            connections=workload.connections,
            pending=workload.pending,
            **self._timing(seconds),
        )

    def _accepts(self, server: Child, port: int, subject: Subject, workload: Accepts, seconds: float) -> Sample:
        texts = subject.speaks.texts(ADD) if subject.speaks is not None else None
        return run_go(
            "accepts",
            server.name,
            self._cores.load,
            port=port,
            pid=server.pid,
            path=texts.path if texts is not None else "/",
            tls=int(workload.tls),
            at_once=workload.at_once,
            **self._timing(seconds),
        )

    def _python_client(
        self, server: Child, port: int, subject: Subject, workload: PythonClient, seconds: float
    ) -> Sample:
        client = self._fleet.client(subject, server, port)
        size = int(workload.size * self._plan.transfer_share)
        task = Task(workload.task, self._plan.warm, seconds, size)
        client.write_line(msgspec.json.encode(task).decode())
        return msgspec.json.decode(client.read_line(self._plan.warm + seconds + 60), type=Sample)

    def _idle(self, subject: Subject, workload: Idle) -> Sample:
        """In a new server: what it did before would have left it memory to use again."""
        assert subject.speaks is not None
        texts = subject.speaks.texts(ADD)
        assert texts is not None
        with start(f"the server of {subject.title}", subject.command(), self._cores.server) as server:
            port = int(server.read_line(START_SECONDS))
            with held(server, port, texts, self._cores.load, FEW):
                before = resident_bytes(server.pid)
                with held(server, port, texts, self._cores.load, workload.connections):
                    grown = resident_bytes(server.pid) - before
        return Sample(answers=max(grown, 1) // workload.connections, seconds=1.0)


def points_of(curve: Curve, plan: Plan) -> tuple[int, ...]:
    return curve.points[::2] if plan.quick else curve.points


def run_sections(
    bench: Bench, sections: Sequence[Section], subjects: Sequence[Subject], plan: Plan
) -> list[SectionResult]:
    """Raises BenchmarkError."""
    samples: Samples = {}
    for number in range(1, plan.rounds + 1):
        for section in sections:
            say(f"round {number} of {plan.rounds}: {section.title}")
            for workload in section.workloads:
                for subject in subjects:
                    if able(subject, workload):
                        sample = bench.measure(subject, workload, plan.seconds)
                        samples.setdefault(workload.key, {}).setdefault(subject.key, []).append(sample)
    return [
        SectionResult(
            key=section.key,
            title=section.title,
            base=section.base,
            columns=[
                Column(
                    key=workload.key,
                    title=workload.title,
                    unit=workload.unit,
                    lower_is_better=workload.lower_is_better,
                )
                for workload in section.workloads
            ],
            samples={workload.key: samples.get(workload.key, {}) for workload in section.workloads},
        )
        for section in sections
    ]


def run_curves(bench: Bench, curves: Sequence[Curve], subjects: Sequence[Subject], plan: Plan) -> list[CurveResult]:
    """Raises BenchmarkError."""
    lines: dict[str, dict[str, dict[int, list[Sample]]]] = {curve.key: {} for curve in curves}
    for number in range(1, plan.rounds + 1):
        for curve in curves:
            say(f"round {number} of {plan.rounds}: {curve.title}")
            for point in points_of(curve, plan):
                workload = curve.workload(point)
                for subject in subjects:
                    if subject.key in ON_CURVES and able(subject, workload):
                        sample = bench.measure(subject, workload, plan.curve_seconds)
                        line = lines[curve.key].setdefault(subject.key, {})
                        line.setdefault(point, []).append(sample)
    return [
        CurveResult(key=curve.key, title=curve.title, x=curve.x, y=curve.y, lines=lines[curve.key]) for curve in curves
    ]


def info_of(subject: Subject) -> SubjectInfo:
    kind = "ceiling" if subject.is_ceiling else "wsrpc" if subject.is_wsrpc else "bare" if subject.is_bare else "rpc"
    return SubjectInfo(title=subject.title, kind=kind)


def prepare(curves: Sequence[Curve], plan: Plan) -> None:
    """Raise the limit of open files, if it is needed, for the largest number of connections."""
    points = [curve.workload(point) for curve in curves for point in points_of(curve, plan)]
    allow_descriptors(max([1000, *(getattr(workload, "connections", 1) for workload in points)]) + 1000)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
