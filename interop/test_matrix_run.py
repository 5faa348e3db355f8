"""`interop.matrix` in runs of pytest that go wrong: no cell says "yes" for what did not work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from interop import matrix

pytest_plugins = ["pytester"]

PLUGIN = """
import pytest
from interop import matrix

def pytest_addoption(parser):
    parser.addoption("--matrix-write", action="store_true")

def pytest_configure(config):
    matrix.HERE = config.rootpath / "part"
    matrix.WHOLE = (config.rootpath, matrix.HERE, config.rootpath / "elsewhere")
    matrix.RESULTS = config.rootpath / "matrix.json"
    matrix.ROWS = {"events": "Events", "requests": "Requests"}
    config.addinivalue_line("markers", "behaviour(row): fills that row")
    config.pluginmanager.register(matrix.Matrix(config))

@pytest.fixture(params=[("ws-wrapper", "python-serves")])
def counterpart(request):
    return request.param

@pytest.fixture
def leaves_something():
    yield
    assert False, "something is left"
"""

EVENTS = """
from interop.matrix import behaviour
@behaviour("events")
def test_events(counterpart): {}
"""
REQUESTS = """
from interop.matrix import behaviour
@behaviour("requests")
def test_requests(counterpart{}): pass
"""
WORKS = {"ws-wrapper 3 dials": {"events": "works", "requests": "works"}}


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a matrix of one column and two rows, each in a file of its own."""
    monkeypatch.syspath_prepend(str(Path(matrix.__file__).parent.parent))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # loading them all takes longer than the run
    pytester.makeini("[pytest]")  # it is the root, whatever is above it
    pytester.makeconftest(PLUGIN)
    pytester.mkdir("part")
    pytester.mkdir("elsewhere")
    write(pytester)
    (pytester.path / "matrix.json").write_text(json.dumps(WORKS), "utf-8")
    return pytester


def write(run: pytest.Pytester, body: str = "pass", fixture: str = "") -> None:
    (run.path / "part" / "test_events.py").write_text(EVENTS.format(body), "utf-8")
    (run.path / "part" / "test_requests.py").write_text(REQUESTS.format(fixture), "utf-8")


def kept(run: pytest.Pytester) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads((run.path / "matrix.json").read_text("utf-8"))
    return found


def test_what_works_is_written(run: pytest.Pytester) -> None:
    (run.path / "matrix.json").unlink()
    assert run.runpytest_subprocess("part").ret == pytest.ExitCode.TESTS_FAILED, "it was not so before"
    assert run.runpytest_subprocess("part", "--matrix-write").ret == 0
    assert kept(run) == WORKS
    assert run.runpytest_subprocess("part").ret == 0


@pytest.mark.parametrize(("body", "fixture"), [("assert False", ""), ("pass", ", leaves_something")])
def test_what_fails_is_not_written(run: pytest.Pytester, body: str, fixture: str) -> None:
    (run.path / "matrix.json").write_text("{}", "utf-8")
    write(run, body, fixture)
    assert run.runpytest_subprocess("part", "--matrix-write").ret == pytest.ExitCode.TESTS_FAILED
    assert kept(run) == {}


def test_a_part_of_the_tests_says_nothing(run: pytest.Pytester) -> None:
    write(run, "assert False")
    assert run.runpytest_subprocess("part").ret == pytest.ExitCode.TESTS_FAILED
    write(run)
    for arguments in (
        ["part", "--lf"],
        ["part", "--ignore=part/test_events.py"],
        ["part", "-k", "events"],
        ["part", "--deselect=part/test_requests.py"],
        ["elsewhere", "part/test_requests.py"],
        ["part/test_events.py"],
    ):
        assert run.runpytest_subprocess(*arguments).ret == 0, arguments
    assert kept(run) == WORKS


def test_a_row_without_a_test_fails_and_is_not_written(run: pytest.Pytester) -> None:
    (run.path / "part" / "test_events.py").unlink()
    result = run.runpytest_subprocess("part")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ws-wrapper 3 dials: events is None, and was works"])
    assert run.runpytest_subprocess("part", "--matrix-write").ret != 0
    assert kept(run) == WORKS
