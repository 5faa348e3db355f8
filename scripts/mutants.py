"""Mutation runs: how many small faults in ``wsrpc/`` the tests notice, to compare two states of the tests.

Usage:
    python scripts/mutants.py record [arguments for pytest]
    python scripts/mutants.py run [--seed 34] [--count 600] [--jobs 2] [--output FILE] [--only FILE:LINE …]
    python scripts/mutants.py compare BEFORE AFTER

``record`` runs the tests once and notes which lines each test runs. ``run`` draws mutants, and runs for each the tests
that reach it, the quickest first, until one fails. The results are lines of JSON in ``build/mutants/SEED.jsonl``. A run
that was stopped goes on where it was. What the last mutant of each job printed is in ``build/mutants/job-0.log``, etc.
``compare`` shows the mutants that only the second of two such files lets live.

The draw depends on the seed and on the text of each mutant, not on its place, so two versions of the code with the same
seed get nearly the same mutants. Code that tests run only in other processes is not drawn.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import suppress
from functools import reduce
from hashlib import sha256
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from operator import or_
from pathlib import Path
from types import CodeType
from typing import Any, NamedTuple

import pytest

from scripts.mutations import PACKAGE, ROOT, Mutant, compiled, draw, name_of, population

BUILD = ROOT / "build" / "mutants"
RECORD = BUILD / "record.json"
SOAKS = ("floods", "memory")
TESTS = ["tests", "interop", "--ignore-glob=tests/test_*", "--ignore=tests/command", "--ignore=tests/docs"]
TESTS += [f"--ignore=tests/faults/test_{name}.py" for name in SOAKS]
"""Those that run the code in their own process, and do not load the machine for many seconds each."""
PRELOADED = ("asyncio", "pytest", "websockets", "msgspec", "tenacity", "click")
BUDGET = 10.0
"""Seconds that the chosen tests of one mutant took together when they were recorded."""
PATIENCE = 90.0
"""Seconds for all tests of one mutant, and for what pytest does before a test starts."""
BATCHES = (20, 200)
"""How many tests of a mutant run first, and next: most mutants die early, and each batch imports its tests."""


def state() -> str:
    """Return a digest of the code and of the tests."""
    found = sha256()
    for folder in ("wsrpc", "tests", "interop"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()


def environment() -> dict[str, str]:
    """Variables for the tests: the environment's programs, fewer examples of Hypothesis, and tests compiled once."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "WSRPC_QUICK": "1", "PYTHONDONTWRITEBYTECODE": ""}


# Recording


def pytest_configure(config: pytest.Config) -> None:
    """Record in each worker of pytest-xdist: ``record`` loads this module as a plugin."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        config.pluginmanager.register(Recorder(BUILD / f"{worker}.part"))


class Recorder:
    """Pytest plugin: which lines of ``wsrpc/`` each test runs, how long it takes, and whether it passes."""

    def __init__(self, part: Path) -> None:
        import coverage

        self._part = part
        self._tests: dict[str, list[Any]] = {}
        os.environ["COVERAGE_CORE"] = "ctrace"  # other cores do not notice contexts
        self._coverage = coverage.Coverage(data_file=None, config_file=False, source=[str(PACKAGE)], messages=False)
        self._coverage.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._tests[item.nodeid] = [0.0, True]
        self._coverage.switch_context(item.nodeid)
        began = time.perf_counter()
        try:
            return (yield)
        finally:
            self._tests[item.nodeid][0] = round(time.perf_counter() - began, 4)
            self._coverage.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._tests[report.nodeid][1] = False

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        data = self._coverage.get_data()
        numbers = {nodeid: number for number, nodeid in enumerate(self._tests)}
        lines = {
            name_of(Path(file)): {
                line: hex(sum(1 << numbers[test] for test in set(tests) if test in numbers))
                for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        self._part.write_text(json.dumps({"tests": self._tests, "lines": lines}))


def record(arguments: list[str]) -> int:
    """Run the tests, and write what they run to ``build/mutants/record.json``."""
    BUILD.mkdir(parents=True, exist_ok=True)
    for old in BUILD.glob("*.part"):
        old.unlink()
    recorded = state()
    if not any((ROOT / argument.partition("::")[0]).exists() for argument in arguments):
        arguments = [*TESTS, *arguments]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "scripts.mutants", "-n", "2", "--dist=worksteal", *arguments]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, env=environment())
    tests: dict[str, list[Any]] = {}
    lines: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for part in sorted(BUILD.glob("*.part")):
        found = json.loads(part.read_text())
        for file, masks in found["lines"].items():
            for line, mask in masks.items():
                lines[file][line] |= int(mask, 16) << len(tests)
        tests |= found["tests"]
        part.unlink()
    packed = {file: {line: hex(mask) for line, mask in masks.items()} for file, masks in lines.items()}
    RECORD.write_text(json.dumps({"state": recorded, "tests": tests, "lines": packed}))
    failed = [nodeid for nodeid, (_, passed) in tests.items() if not passed]
    print(f"Recorded {len(tests)} tests in {time.monotonic() - began:.0f} s. Left out, because they failed: {failed}")
    return int(not tests)


class Record:
    """The tests that reach each line, read from ``build/mutants/record.json``."""

    def __init__(self) -> None:
        found = json.loads(RECORD.read_text())
        self.state: str = found["state"]
        if self.state != state():
            sys.exit("The code or the tests have changed since `record`: run that again")
        self.seconds: dict[str, float] = {nodeid: seconds for nodeid, (seconds, _) in found["tests"].items()}
        self._tests = list(found["tests"])
        self._passed = sum(1 << number for number, (_, passed) in enumerate(found["tests"].values()) if passed)
        self._lines: dict[str, dict[int, int]] = {
            file: {int(line): int(mask, 16) for line, mask in masks.items()} for file, masks in found["lines"].items()
        }

    def tests_for(self, mutant: Mutant) -> list[str]:
        """Return the tests that reach a mutant, the quickest first."""
        masks = self._lines.get(mutant.file, {})
        found = 0
        for first, last in mutant.reach:
            if not found:
                found = reduce(or_, (mask for line, mask in masks.items() if first <= line <= last), 0)
        package = mutant.file.rpartition("/")[0]
        for near in (f"{package}/", "wsrpc/"):
            if not found and mutant.at_import:  # nothing of its module is ever called, but tests import it
                for file, of_file in self._lines.items():
                    if file.startswith(near):
                        found = reduce(or_, of_file.values(), found)
        digits = bin(found & self._passed)[:1:-1]
        tests = [self._tests[number] for number, digit in enumerate(digits) if digit == "1"]
        return sorted(tests, key=lambda nodeid: self.seconds[nodeid])


# Running


class Server(MetaPathFinder):
    """Finds the one mutated module."""

    def __init__(self, mutant: Mutant) -> None:
        name = ".".join(Path(mutant.file).with_suffix("").parts).removesuffix(".__init__")
        self._loader = Loader(name, str(ROOT / mutant.file), compiled(mutant))

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self._loader.name:
            return None
        return spec_from_file_location(fullname, self._loader.path, loader=self._loader)


class Loader(SourceFileLoader):
    """Loads a module from the mutated code, with the source of the file. Nothing of it is cached."""

    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        return self._code


class Reporter:
    """Pytest plugin in the process of a mutant: runs the chosen tests in their order, and reports to the parent."""

    def __init__(self, pipe: int, tests: list[str]) -> None:
        self._pipe = pipe
        self._order = {nodeid: number for number, nodeid in enumerate(tests)}

    def tell(self, event: str, nodeid: str = "") -> None:
        os.write(self._pipe, f"{event}\t{nodeid}\n".encode())

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        import hypothesis

        hypothesis.settings.register_profile("mutants", deadline=None, derandomize=True, database=None)
        hypothesis.settings.load_profile("mutants")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        yield
        chosen = [item for item in items if item.nodeid in self._order]
        items[:] = sorted(chosen, key=lambda item: self._order[item.nodeid])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.tell("start", item.nodeid)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.tell("failed", report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.tell("failed", report.nodeid)


class Ended(NamedTuple):
    """The result of the tests in one process."""

    result: str
    """``survived``, or how it was killed: ``failed``, ``hung`` or ``died``."""
    test: str = ""
    cut: bool = False


def attempt(mutant: Mutant | None, tests: list[str], seconds: dict[str, float], log: Path) -> Ended:
    """Run tests with one mutant, or with none, in a fork of this process."""
    reading, writing = os.pipe()
    process = os.fork()
    if not process:
        try:
            os.setsid()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            run_here(mutant, tests, writing)
        except BaseException:  # from pytest, if a warning is raised when it ends
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    try:
        return watch(reading, seconds)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):  # if it has not called `setsid`
            os.killpg(process, signal.SIGKILL)  # what the tests have started, too
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def run_here(mutant: Mutant | None, tests: list[str], pipe: int) -> None:
    """Run tests in this process, a few first, because each batch imports its files."""
    if mutant is not None:
        sys.meta_path.insert(0, Server(mutant))
    begin = 0
    for size in (*BATCHES, len(tests)):
        batch = tests[begin : begin + size]
        begin += size
        if batch:
            files = dict.fromkeys(nodeid.partition("::")[0] for nodeid in batch)
            reporter = Reporter(pipe, batch)
            code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files], plugins=[reporter])
            reporter.tell("batch")
            if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                reporter.tell("failed")  # without a test, if pytest or a conftest fails
    reporter.tell("done")


def watch(pipe: int, seconds: dict[str, float]) -> Ended:
    """Read what the process of a mutant reports, until its result is known."""
    test, buffer, started = "", b"", False
    end = time.monotonic() + PATIENCE
    deadline = end
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, min(deadline, end) - time.monotonic()))
        if not ready:
            return Ended("survived", cut=True) if started and end <= deadline else Ended("hung", test)
        data = os.read(pipe, 65536)
        if not data:
            return Ended("died", test)
        *lines, buffer = (buffer + data).split(b"\n")
        for line in lines:
            event, _, nodeid = line.decode().partition("\t")
            match event:
                case "start":
                    started, test, deadline = True, nodeid, time.monotonic() + 3 * seconds[nodeid] + 5
                case "batch":
                    test, deadline = "", end
                case "failed":
                    return Ended("failed", nodeid)
                case "done":
                    return Ended("survived")


class Job:
    """Runs mutants one after another."""

    def __init__(self, number: int, found: Record, output: Path) -> None:
        self._log = BUILD / f"job-{number}.log"
        self._record = found
        self._output = output
        self._sound: dict[str, bool] = {}
        """Whether a test that killed a mutant passes without it."""

    def run(self, mutant: Mutant) -> None:
        began = time.monotonic()
        tests = [test for test in self._record.tests_for(mutant) if self._sound.get(test, True)]
        ended, chosen = Ended("not covered"), list[str]()
        while tests:
            chosen = self._that_fit(tests)
            ended = attempt(mutant, chosen, self._record.seconds, self._log)
            if ended.result == "survived" or self._is_sound(ended.test if ended.test in chosen else chosen[0]):
                break
            ended = Ended("not covered")
            tests = [test for test in tests if self._sound.get(test, True)]
        killed = ended.result not in ("survived", "not covered")
        line = {
            "key": mutant.key,
            "package": mutant.package,
            "file": mutant.file,
            "line": mutant.line,
            "function": mutant.function,
            "operator": mutant.operator,
            "before": mutant.before,
            "after": mutant.after,
            "result": "killed" if killed else ended.result,
            "how": ended.result,
            "test": ended.test,
            "tests": len(chosen),
            "cut": ended.cut or len(chosen) < len(tests),
            "seconds": round(time.monotonic() - began, 1),
        }
        with self._output.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print("{result:12}{seconds:5} s  {file}:{line}  {before}  →  {after}".format_map(line), flush=True)

    def _that_fit(self, tests: list[str]) -> list[str]:
        total = 0.0
        for number, test in enumerate(tests):
            total += self._record.seconds[test]
            if total > BUDGET and number:
                return tests[:number]
        return tests

    def _is_sound(self, test: str) -> bool:
        if test not in self._sound:
            control = self._log.with_suffix(".control.log")
            self._sound[test] = attempt(None, [test], self._record.seconds, control).result == "survived"
            if not self._sound[test]:
                print(f"fails without a mutant, and is left out: {test}", flush=True)
        return self._sound[test]


def run(seed: int, count: int, jobs: int, output: Path | None, only: list[str]) -> int:
    """Run drawn mutants, or those in the lines of ``only``, and print how many of each package were killed."""
    os.chdir(ROOT)
    os.environ.update(environment())
    sys.dont_write_bytecode = False
    sys.path[0] = str(ROOT)
    for name in PRELOADED:
        importlib.import_module(name)
    found = Record()
    output = output or BUILD / ("only.jsonl" if only else f"{seed}.jsonl")
    if only or not output.exists():
        output.write_text(json.dumps({"state": found.state}) + "\n")
    if json.loads(output.open().readline()) != {"state": found.state}:
        sys.exit(f"{output} is of other code or other tests: give another --output, or remove the file")
    done = results(output)
    drawn = [each for each in population()[0] if f"{each.file}:{each.line}" in only] if only else draw(seed, count)
    left = [mutant for mutant in drawn if mutant.key not in done]
    workers: list[int] = []
    for number in range(jobs):
        worker = os.fork()
        if not worker:
            job = Job(number, found, output)
            for mutant in left[number::jobs]:
                job.run(mutant)
            os._exit(0)
        workers.append(worker)
    failed = [worker for worker in workers if os.waitpid(worker, 0)[1]]
    done = results(output)
    summarize([done[mutant.key] for mutant in drawn if mutant.key in done])
    return int(bool(failed))


def results(path: Path) -> dict[str, dict[str, Any]]:
    """The results in a file, by the keys of their mutants."""
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()[1:]]
    return {line["key"]: line for line in lines}


def summarize(lines: list[dict[str, Any]]) -> None:
    packages = sorted({line["package"] for line in lines})
    print(f"\n{'package':14}  mutants  killed  survived  not covered  share killed")
    for package in (*packages, "all"):
        of_it = Counter(line["result"] for line in lines if package in (line["package"], "all"))
        killed, survived, uncovered = of_it["killed"], of_it["survived"], of_it["not covered"]
        share = 100 * killed / max(1, of_it.total())
        print(f"{package:14}{of_it.total():9}{killed:8}{survived:10}{uncovered:13}{share:12.1f} %")
    hung = sum(line["how"] == "hung" for line in lines)
    cut = sum(line["cut"] and line["result"] == "survived" for line in lines)
    print(f"{hung} of those killed hung. {cut} survivors had more tests than fit in {BUDGET:.0f} s.")


def compare(before: Path, after: Path) -> int:
    """Print the mutants that only the second file lets live."""
    old, new = results(before), results(after)
    moved = {key.partition("\n")[2]: line for key, line in old.items()}  # without the name of the file
    pairs = [(line, old.get(key) or moved.get(key.partition("\n")[2])) for key, line in new.items()]
    print(f"{sum(found is not None for _, found in pairs)} of {len(old)} and {len(new)} mutants are in both files.")
    for line, found in pairs:
        if line["result"] != "killed" and (found is None or found["result"] == "killed"):
            print("{result}: {file}:{line} {function}\n    - {before}\n    + {after}".format_map(line))
            print("    not in the first file" if found is None else f"    was killed by {found['test']}")
    return 0


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["record"]:  # what follows is for pytest
        return record(arguments[1:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record", help="run the tests, and note which lines they run")
    running = commands.add_parser("run", help="run mutants")
    running.add_argument("--seed", type=int, default=34)
    running.add_argument("--count", type=int, default=600)
    running.add_argument("--jobs", type=int, default=2)
    running.add_argument("--output", type=Path, help="default: build/mutants/SEED.jsonl")
    running.add_argument("--only", nargs="+", default=[], metavar="FILE:LINE")
    comparing = commands.add_parser("compare", help="show the mutants that only the second file lets live")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    given = parser.parse_args(arguments)
    if given.command == "compare":
        return compare(given.before, given.after)
    return run(given.seed, given.count, given.jobs, given.output and given.output.resolve(), given.only)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
