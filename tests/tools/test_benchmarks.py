"""The benchmarks: their lists, their load generator, and what they compute."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from benchmarks import results
from benchmarks.__main__ import anything_wrong
from benchmarks.generator import compile_load, run_load
from benchmarks.measure import Sample
from benchmarks.processes import Child, start
from benchmarks.protocols import ADD, Echo, Texts
from benchmarks.report import analysis, pages, tables
from benchmarks.subjects import SUBJECTS, Subject

ROOT = Path(__file__).parents[2]
CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
BY_KEY = {subject.key: subject for subject in SUBJECTS}

needs_linux = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="the load generator needs Linux and a C compiler"
)


# ---------------------------------------------------------------- what is computed


def test_the_figures_in_the_readme_are_those_of_the_run() -> None:
    [(section, column)] = analysis.columns_of(pages.run(), "requests")
    bare, node = (f"{analysis.times_ahead(section, column, 'wsrpc', other):.1f}" for other in ("websockets", "js"))
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    assert f"answers {bare} times as many requests per second as an echo loop" in readme
    assert f"{node} times as many as ws-wrapper on Node" in readme


def _run(rates: dict[str, int], *, lower_is_better: bool = False) -> results.Run:
    """The published run with one section of one workload, in which each subject has a rate."""
    samples = {key: [Sample(answers=rate, seconds=1.0, server_cpu=1.0)] * 3 for key, rate in rates.items()}
    column = results.Column(key="k", title="K", unit="requests/s", lower_is_better=lower_is_better)
    section = results.SectionResult(key="s", title="S", base="bare", columns=[column], samples={"k": samples})
    kinds = {"bare": "bare", "wsrpc": "wsrpc"}
    subjects = {key: results.SubjectInfo(title=f"the {key}", kind=kinds.get(key, "rpc")) for key in rates}
    return msgspec.structs.replace(pages.run(), subjects=subjects, sections=[section], tables=[], curves=[])


@pytest.mark.parametrize(("lower_is_better", "times"), [(False, 1.5), (True, 1 / 1.5)])
def test_who_is_ahead_is_computed(lower_is_better: bool, times: float) -> None:
    run = _run({"bare": 100, "wsrpc": 200, "fast": 300}, lower_is_better=lower_is_better)
    [section] = run.sections
    assert analysis.times_ahead(section, section.columns[0], "fast", "wsrpc") == pytest.approx(times)


def test_wrong_answers_fail_the_run_and_do_not_count() -> None:
    run = _run({"bare": 100, "wsrpc": 200})
    assert not anything_wrong(run)
    run.sections[0].samples["k"]["wsrpc"] = [Sample(answers=200, seconds=1.0, wrong=50)] * 3
    assert anything_wrong(run)
    assert "1.50!" in tables.report(run)


# ---------------------------------------------------------------- measuring, for a moment


ECHOED = Echo().texts(ADD) or pytest.fail("the echo is not asked to add")


@contextmanager
def _server(subject: Subject) -> Iterator[tuple[Child, int]]:
    compile_load()
    with start(subject.title, subject.command(), SERVER_CORE) as server:
        yield server, int(server.read_line(30))


def _load(server: Child, port: int, texts: Texts | None, **options: object) -> Sample:
    assert texts is not None
    return run_load(server, port, texts, LOAD_CORE, warm=0.01, seconds=0.05, **options)


@needs_linux
def test_the_generator_notices_wrong_answers() -> None:
    with _server(BY_KEY["ceiling"]) as (server, port):
        assert _load(server, port, replace(ECHOED, result=b'"a":["add",1')).wrong == 0
        # The echo sends 2 where 3 is expected; and the beginning of a longer number, as ids are, is not the number.
        for result in (b'"a":["add",1,3]', b'"i":10'):
            assert _load(server, port, replace(ECHOED, result=result)).wrong > 0


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


@needs_linux
def test_at_a_fixed_rate_a_server_that_stands_still_is_charged_with_every_request_of_that_time() -> None:
    """A generator that waits for answers would have one slow request among all."""
    compile_load()
    with start("a server", [sys.executable, "-c", PAUSING], SERVER_CORE) as server:
        port = int(server.read_line(30))
        sample = run_load(server, port, ECHOED, LOAD_CORE, warm=0.02, seconds=1.0, rate=500.0)
    assert sample.checked == 509 and sample.wrong == sample.unanswered == 0
    assert sample.latency is not None
    # A hundred of five hundred requests were to be sent meanwhile: the slowest five are in its first tenth.
    assert sample.latency.p50 <= sample.latency.p99 <= sample.latency.p999 <= sample.latency.longest
    assert sample.latency.p99 > 0.8 * PAUSE
