"""docs/reference/compatibility.md: which behaviours hold with which counterparts, as the tests have seen it.

A test says which row it fills, with `behaviour`, and which column by its ``counterpart``; what it finds out beyond
that it tells its `Cell`. A run that had all tests of a column compares what came of them with ``matrix.json``, from
which the page is made, and fails if that says something else. `pytest interop --matrix-write` writes it anew.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
RESULTS = HERE / "matrix.json"
DEVIATIONS = HERE / "DEVIATIONS.md"
WHOLE = (HERE.parent, HERE, HERE.parent / "tests" / "browser")
"""Arguments of pytest with which all tests of some columns run."""

ROWS = {
    "events": "Events both ways, in order",
    "requests": "Requests both ways, many at the same time",
    "nested": "Requests from inside a handler, both ways",
    "named": "Named channels, on which reserved event names (such as `close`) can be used",
    "unknown": "Unknown events and channels: requests are rejected, and events are dropped",
    "values": '`null`, missing values, `0`, `""`, `false` and empty containers',
    "unicode": "Unicode",
    "integers": "Integers beyond 2^53",
    "binary": "`bytes` as base64. Python ignores binary messages",
    "foreign": "Messages outside the protocol are ignored",
    "errors": "Errors with their properties (such as `code`), and plain values (such as strings) thrown as errors",
    "timeouts": "Timeouts of requests, both ways",
    "cancelling": "Cancelling a request, with a reason, both ways",
    "middleware": "Rejection by middleware, both ways",
    "anonymous": "Anonymous channels opened by either side, events and requests both ways",
    "aborts": "Aborting a channel, with a reason, both ways",
    "read": "A stream from the remote peer, read with `async for`",
    "written": "A stream from Python, read with the remote peer's iterator",
    "uploads": "Uploads, both ways",
    "closing": "Close codes and reasons, both ways",
    "returning": "Reconnecting after a drop, with the same handlers",
    "draining": "A server that shuts down closes its connections with 1012",
    "large": "Messages of 1 MiB. A message that exceeds `Limits.message_bytes` closes the connection",
}

COLUMNS = {
    "ws-wrapper": "ws-wrapper 3",
    "ws-server-wrapper": "ws-server-wrapper 1",
    "plain-server-2": "ws-server-wrapper 2",
    "ws-server-wrapper-2": "ws-server-wrapper 2",
    "plain-4": "ws-wrapper 4",
    "ws-wrapper-4": "ws-wrapper 4",
    "go-coder": "Go (coder)",
    "go-real-coder": "Go (coder)",
    "go-gorilla": "Go (gorilla)",
    "go-real-gorilla": "Go (gorilla)",
    "browser:ws-wrapper": "ws-wrapper 3 in a browser",
    "browser:plain-4": "ws-wrapper 4 in a browser",
    "browser:ws-wrapper-4": "ws-wrapper 4 in a browser",
}
"""What a counterpart is called on the page, in its order. The same name: both fill one column, and have to agree."""

NOTES = {
    "order in Go": "Go runs each handler in a goroutine, so events may be handled in a different order",
    "null results": "If a JavaScript handler returns `null`, the response is a channel, which wsrpc converts to `None`",
    "large integers": "The remote peer rounds integers beyond 2^53",
    "binary messages": "Node treats a binary message that contains JSON as a text message. Python ignores it",
    "foreign messages in Go": "Go treats binary messages as text. If a message is not a JSON object, Go disconnects",
    "errors in Go": "Go sends and receives only the text of an error",
    "middleware in Go": "Go has no middleware. Middleware in Python also runs for messages from Go",
    "items": "wsrpc sends each item as a request, and waits for the answer before it sends the next item",
    "close codes in Go": "Go reports every close code as 1011. The text of the reason contains the original code",
    "drops": "After a drop, requests from JavaScript stay pending, and requests from wsrpc fail with `ConnectionLost`",
    "message size in Go": "With coder/websocket, Go reads messages of at most 32 KiB, unless you call `SetReadLimit`",
}
"""What a note says on the page, by the name of its row in DEVIATIONS.md."""

ROLES = {"js-serves": "serves", "go-serves": "serves", "python-serves": "dials"}

WORKS, LACKS = "works", "lacks"


def behaviour(row: str) -> pytest.MarkDecorator:
    """The test fills this row."""
    assert row in ROWS, row
    return pytest.mark.behaviour(row)


class Cell:
    """What a test found out about its counterpart, beyond that it works."""

    def __init__(self, properties: list[tuple[str, object]]) -> None:
        self._properties = properties

    def note(self, rule: str) -> None:
        """It works as that row of DEVIATIONS.md says, which this test has just seen."""
        assert rule in deviations(), f"DEVIATIONS.md has no row {rule!r}"
        self._properties.append(("note", rule))

    def lacks(self) -> None:
        """The counterpart has no such thing, and what this test did without it harmed nobody."""
        self._properties.append(("lacks", True))


def deviations() -> dict[str, str]:
    """Each row of DEVIATIONS.md, and the anchor of its section."""
    rows: dict[str, str] = {}
    anchor = ""
    for line in DEVIATIONS.read_text("utf-8").splitlines():
        if line.startswith("#"):
            anchor = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        elif match := re.match(r"\| ([^|]+?) \|", line):
            rows.setdefault(match[1], anchor)
    return rows


# ---------------------------------------------------------------- from the tests to the cells


class Matrix:
    """The pytest plugin."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        """By column and row: what each test said, as "works", "lacks" or notes."""
        self._collected: dict[str, int] = {}
        self._passed: dict[str, set[str]] = defaultdict(set)
        self._failed: set[str] = set()
        self._differs = ""

    @pytest.hookimpl(tryfirst=True)  # before anything is deselected
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        ours: dict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            mark = item.get_closest_marker("behaviour")
            if mark is not None and isinstance(item, pytest.Function):
                params: dict[str, Any] = item.callspec.params
                library, role = params["counterpart"]
                item.user_properties.append(("row", mark.args[0]))
                ours[f"{COLUMNS[library]} {ROLES[role]}"].append(item)
        for column, its in ours.items():
            for item in its:
                item.user_properties.append(("column", [column, len(its)]))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:  # setting up, running, or cleaning up afterwards
            self._failed.add(report.nodeid)
        if report.when != "call" or not report.passed:
            return
        said: dict[str, Any] = dict(report.user_properties)
        if "row" not in said:
            return
        column, collected = said["column"]
        self._collected[column] = collected
        self._passed[column].add(report.nodeid)
        found = [str(value) for name, value in report.user_properties if name == "note"]
        self._cells[column][said["row"]] += [LACKS] if "lacks" in said else [WORKS, *found]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(self._config, "workerinput"):
            return
        if self._is_partial():
            return
        found = {
            column: {row: self._cell(cells[row]) for row in ROWS if row in cells}
            for column, cells in self._cells.items()
            if len(self._passed[column] - self._failed) == self._collected[column]
        }
        kept = load()
        if self._config.option.matrix_write:
            written = kept | found
            table(written)  # before it is written: it refuses a column with an empty cell
            RESULTS.write_text(json.dumps(written, indent=1, sort_keys=True) + "\n", "utf-8")
            return
        wrong = [
            f"{column}: {row} is {cells.get(row)}, and was {kept.get(column, {}).get(row)}"
            for column, cells in found.items()
            for row in ROWS
            if cells.get(row) != kept.get(column, {}).get(row)
        ]
        if wrong:
            self._differs = "\n".join(wrong)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _is_partial(self) -> bool:
        """Whether tests were left out before pytest told us of any: then this says nothing of a column."""
        option = self._config.option
        if any(getattr(option, name, None) for name in ("lf", "ignore", "ignore_glob")):
            return True
        places = [self._config.rootpath / arg for arg in self._config.args]
        # One file beside the tests of other columns, "tests/browser interop/test_x.py", is a part of its own columns.
        return not set(WHOLE) & set(places) or any(set(WHOLE[1:]) & set(place.parents) for place in places)

    @staticmethod
    def _cell(said: list[str]) -> str:
        if LACKS in said:
            assert set(said) == {LACKS}, said
            return LACKS
        return "; ".join([WORKS, *sorted(set(said) - {WORKS})])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._differs:
            terminalreporter.section("interop/matrix.json says something else", red=True)
            terminalreporter.write_line(self._differs)
            terminalreporter.write_line("If that is as it should be: make test ARGS='interop --matrix-write'")


# ---------------------------------------------------------------- from the cells to the page


def load() -> dict[str, dict[str, str]]:
    """By column and row: "works", "works; rule; rule" or "lacks"."""
    kept: dict[str, dict[str, str]] = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
    return kept


def table(kept: dict[str, dict[str, str]]) -> str:
    """The table of what was found, as `load` gives it, and its notes.

    Raises AssertionError if a column has an empty cell, because each behaviour is tried with each counterpart, and
    KeyError if a note has no text in `NOTES`.
    """
    anchors, notes = deviations(), list[str]()
    order = dict.fromkeys(f"{name} {role}" for name in COLUMNS.values() for role in ROLES.values())
    columns = [column for column in order if column in kept]
    names = dict(zip(columns, columns, strict=True))
    for name in COLUMNS.values():
        both = [f"{name} {role}" for role in dict.fromkeys(ROLES.values())]
        if all(column in kept for column in both) and all(kept[column] == kept[both[0]] for column in both):
            names[both[0]] = name  # one column for both roles
            columns = [column for column in columns if column not in both[1:]]
    lines = [f"| | {' | '.join(names[column] for column in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row, text in ROWS.items():
        cells = []
        for column in columns:
            said = kept[column].get(row)
            assert said is not None, f"no test of {row!r} with {column}"
            rules = said.split("; ")[1:]
            notes += [rule for rule in rules if rule not in notes]
            marks = ", ".join(str(notes.index(rule) + 1) for rule in rules)
            cells.append("–" if said == LACKS else f"yes <sup>{marks}</sup>" if marks else "yes")
        lines.append(f"| {text} | {' | '.join(cells)} |")
    numbered = [
        f"{n}. {NOTES[rule]}: [{rule}](../../interop/DEVIATIONS.md#{anchors[rule]})." for n, rule in enumerate(notes, 1)
    ]
    return "\n".join([*lines, "", *numbered])
