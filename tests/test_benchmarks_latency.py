"""The latency benchmark: its lines, its generator, and that no request is left out while a server stands still."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.__main__ import parse
from benchmarks.generator import compile_load
from benchmarks.latency.generator import Latency, compile_generator, run_generator
from benchmarks.latency.report import render
from benchmarks.latency.run import SAME, SHARES, Plan, Row, run_latency
from benchmarks.latency.subjects import Line, lines
from benchmarks.processes import Child, start
from benchmarks.protocols import ADD, Echo, Texts
from benchmarks.subjects import SUBJECTS

CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
BY_KEY = {subject.key: subject for subject in SUBJECTS}
RATE = 500.0
PAUSE = 0.2

PAUSING = f"""
import sys, threading, time
from websockets.sync.server import serve

def echo(connection):
    for number, message in enumerate(connection):
        if number == 200:
            time.sleep({PAUSE})
        connection.send(message)

with serve(echo, "127.0.0.1", 0, compression=None) as server:
    print(server.socket.getsockname()[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
"""

needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="the generator needs Linux and a C compiler"
)


@contextmanager
def running(command: list[str | Path]) -> Generator[tuple[Child, int]]:
    with start("a server", command, SERVER_CORE) as server:
        yield server, int(server.read_line(30))


def run(server: Child, port: int, rate: float, seconds: float, result: bytes | None = None) -> Latency:
    texts = Echo().texts(ADD)
    assert texts is not None
    if result is not None:
        texts = Texts(texts.request, texts.id_offset, texts.mark, result)
    return run_generator(server, port, texts, rate, warm=0.02, seconds=seconds, core=LOAD_CORE)


def test_every_line_can_be_asked_and_has_a_base_before_it() -> None:
    bases: set[str] = set()
    for line in lines():
        if line.is_base:
            bases.add(line.subject.key)
        assert line.base in bases and line.texts.request
    assert len({line.key for line in lines()}) == len(lines())
    assert not any("node" in line.subject.needs for line in lines(("node",)))
    assert parse(["--latency"]).special == "latency"


def test_a_row_says_what_is_wrong_and_how_it_compares() -> None:
    wrong = Latency(
        answers=1, seconds=1.0, server_cpu=0.5, p50=1e-4, p99=1e-3, p999=0.0, longest=0.0, late=0.0, wrong=3
    )
    disturbed = Latency(answers=1, seconds=1.0, server_cpu=0.5, p50=1e-4, p99=1e-3, p999=0.0, longest=0.0, late=1e-3)
    rendered = render(
        [
            Row(key="a", title="one", saturation=1e4, share=0.5, rate=5e3, samples=[wrong], ratios=[]),
            Row(key="b", title="two", saturation=1e4, share=0.5, rate=5e3, samples=[disturbed], ratios=[]),
            Row(
                key="c", title="three", saturation=1e4, share=None, rate=4e3, base="one", samples=[wrong], ratios=[2, 4]
            ),
        ]
    )
    one, two, three = (line for line in rendered.splitlines() if line.split()[:1] in (["one"], ["two"], ["three"]))
    assert "3 WRONG OR MISSING" in one and "50%" in one
    assert "disturbed" in two
    assert "3.00" in three and "(2.00-4.00)" in three and "40%" in three


@needs_linux
def test_every_request_is_sent_and_checked() -> None:
    compile_load()
    compile_generator()
    with running(BY_KEY["ceiling"].command()) as (server, port):
        sample = run(server, port, RATE, 0.2)
        assert RATE * 0.2 - 1 <= sample.answers <= RATE * 0.2 + 1
        assert sample.wrong == sample.unanswered == 0
        assert 0 < sample.p50 <= sample.p99 <= sample.p999 <= sample.longest
        assert run(server, port, RATE, 0.05, b'"a":["add",1,3]').wrong > 0
        assert run(server, port, 0, 0.5).rate > 0  # half a second: the machine may be busy


@needs_linux
def test_a_server_that_stands_still_is_charged_with_every_request_of_that_time() -> None:
    """A generator that waits for answers would have one slow request among all."""
    compile_generator()
    with running([sys.executable, "-c", PAUSING]) as (server, port):
        sample = run(server, port, RATE, 1.0)
    # A hundred of five hundred requests were to be sent meanwhile: the slowest five are in its first tenth.
    assert sample.p99 > 0.8 * PAUSE
    assert sample.unanswered == 0


@needs_linux
def test_a_run_has_each_line_at_its_rates_and_at_that_of_its_base() -> None:
    compile_load()
    chosen = [Line(BY_KEY["websockets"], ADD, "websockets"), Line(BY_KEY["wsrpc"], ADD, "websockets")]
    plan = Plan(rounds=1, warm=0.01, seconds=0.05, samples=10)
    rows = run_latency(chosen, plan, server_core=SERVER_CORE, load_core=LOAD_CORE)
    assert not any(row.bad for row in rows)
    assert [row.share for row in rows][: 2 * len(SHARES)] == [*SHARES, *SHARES]
    assert all(len(row.samples) == 1 for row in rows)
    base = next(row for row in rows if row.share == SAME)
    assert base.ratios == [1.0]
    for row in rows[2 * len(SHARES) :]:  # left out where this machine let wsrpc carry less than the bare echo
        assert row.share is None and row.rate == base.rate and row.base == base.title and len(row.ratios) == 1
