"""The run: everything is started, then measured in turns, so that a drift of the machine hits all alike."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from .load import PROGRAM, compile_load, run_load
from .measure import Result, Sample
from .processes import Child, start
from .workloads import CLIENT_TITLE, CLIENTS, SERVERS, WORKLOADS, Subject

START_SECONDS = 15.0

Samples = dict[tuple[str, str], list[Sample]]


@dataclass(frozen=True)
class Plan:
    """How long: `rounds` times `warm` + `seconds` for each server under each workload and for each client."""

    rounds: int
    warm: float
    seconds: float


DEFAULT = Plan(rounds=5, warm=0.2, seconds=0.4)
QUICK = Plan(rounds=1, warm=0.1, seconds=0.3)


def run(plan: Plan, *, server_core: int, load_core: int, node: str | None) -> list[Result]:
    """Measures everything; `node` None leaves the JavaScript server out. Raises BenchmarkError."""
    compile_load()
    subjects = [subject for subject in SERVERS if subject.key != "js" or node is not None]
    samples: Samples = {}
    with ExitStack() as stack:

        def start_server(key: str, title: str) -> tuple[Child, int]:
            server = stack.enter_context(start(title, _server_command(key, node), server_core))
            return server, int(server.read_line(START_SECONDS))

        servers = [(subject, *start_server(subject.key, subject.title)) for subject in subjects]
        clients: list[tuple[Subject, Child]] = []
        for subject in CLIENTS:
            server, port = start_server(subject.key, f"the server of: {subject.title}")
            command = _python("benchmarks.clients", subject.key, str(port), str(server.pid))
            client = stack.enter_context(start(subject.title, command, load_core))
            client.read_line(START_SECONDS)
            clients.append((subject, client))

        for number in range(1, plan.rounds + 1):
            print(f"round {number} of {plan.rounds}", file=sys.stderr, flush=True)
            for workload in WORKLOADS:
                for subject, server, port in servers:
                    expected = workload.expected(subject.echoes)
                    sample = run_load(server, port, workload, expected, plan.warm, plan.seconds, load_core)
                    samples.setdefault((workload.title, subject.key), []).append(sample)
            for subject, client in clients:
                client.write_line(f"{plan.warm} {plan.seconds}")
                sample = msgspec.json.decode(client.read_line(plan.warm + plan.seconds + 15), type=Sample)
                samples.setdefault((CLIENT_TITLE, subject.key), []).append(sample)
    results = [result for workload in WORKLOADS for result in _summaries(workload.title, subjects, samples)]
    return results + _summaries(CLIENT_TITLE, list(CLIENTS), samples)


def _summaries(workload: str, subjects: list[Subject], samples: Samples) -> list[Result]:
    base = samples[workload, subjects[0].key]
    results: list[Result] = []
    for subject in subjects:
        measured = samples[workload, subject.key]
        result = Result(workload=workload, subject=subject.key, title=subject.title, samples=measured)
        result.summarise(base, samples[workload, subject.own] if subject.own else None)
        results.append(result)
    return results


def _server_command(key: str, node: str | None) -> list[str | Path]:
    if key == "ceiling":
        return [PROGRAM, "echo"]
    if key == "js":
        assert node is not None
        return [node, Path(__file__).parent / "js" / "server.mjs", "0"]
    return _python("benchmarks.servers", key, "0")


def _python(module: str, *arguments: str) -> list[str | Path]:
    return [sys.executable, "-m", module, *arguments]
