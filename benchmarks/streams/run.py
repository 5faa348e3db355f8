"""The run of the stream measurements: in turns, as all others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

import msgspec

from ..measure import Result, Sample
from ..processes import Child, start
from ..runner import Plan
from .loads import SMALL, SMALL_TITLE, Shared, SharedResult, Task

START_SECONDS = 15.0
T = TypeVar("T")


def run_streams(plan: Plan, *, server_core: int, load_core: int) -> tuple[list[Result], SharedResult]:
    """Measures everything about streams. Raises BenchmarkError."""
    rounds, warm, seconds = plan.rounds, plan.warm, plan.seconds
    small: dict[str, list[Sample]] = {}
    shared: dict[str, list[Shared]] = {}
    with ExitStack() as stack:
        clients = {kind: _start(stack, kind, server_core, load_core) for kind in ("bare", "wsrpc")}
        for number in range(1, rounds + 1):
            print(f"streams, round {number} of {rounds}", file=sys.stderr, flush=True)
            for subject in SMALL:
                client = clients["bare" if subject.key == "bare" else "wsrpc"]
                sample = _ask(client, Task(subject.key, warm, seconds), Sample)
                small.setdefault(subject.key, []).append(sample)
            # Streams set their pace themselves; the bare line is made to carry the same.
            ours = _ask(clients["wsrpc"], Task("wsrpc", warm, seconds, shared=True), Shared)
            theirs = _ask(clients["bare"], Task("bare", warm, seconds, shared=True, rate=ours.rate), Shared)
            shared.setdefault("wsrpc", []).append(ours)
            shared.setdefault("bare", []).append(theirs)
    results = [
        Result(workload=SMALL_TITLE, subject=subject.key, title=subject.title, samples=small[subject.key])
        for subject in SMALL
    ]
    for result in results:
        result.summarise(small[SMALL[0].key])
    return results, SharedResult(bare=shared["bare"], wsrpc=shared["wsrpc"])


def _start(stack: ExitStack, kind: str, server_core: int, load_core: int) -> Child:
    server = stack.enter_context(start(f"the stream server of {kind}", _python("server", kind, "0"), server_core))
    port = server.read_line(START_SECONDS)
    command = _python("client", kind, port, str(server.pid))
    client = stack.enter_context(start(f"the stream client of {kind}", command, load_core))
    client.read_line(START_SECONDS)
    return client


def _ask(client: Child, task: Task, type: type[T]) -> T:
    client.write_line(msgspec.json.encode(task).decode())
    return msgspec.json.decode(client.read_line(task.warm + task.seconds + 15), type=type)


def _python(module: str, *arguments: str) -> Sequence[str | Path]:
    return [sys.executable, "-m", f"{__package__}.{module}", *arguments]
