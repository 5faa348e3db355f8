"""Settings that hold for every test."""

from __future__ import annotations

import asyncio
import gc
import itertools
import linecache
import logging
import math
import os
import signal
import traceback
from asyncio import constants
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
from effort import LEFT_OUT, QUICK, SOAK, use_profile

from wsrpc._core.peer import slow_functions
from wsrpc.testing import VirtualTimeLoop

collect_ignore = LEFT_OUT
TESTS = Path(__file__).parent
UNIT = TESTS / "unit"
REAL = ("sockets", "processes", "threads")
"""Folders of unit tests that wait for something outside of the event loop. The others run in virtual time."""
ON_UVLOOP = os.environ.get("WSRPC_LOOP") == "uvloop"
"""Tests run on uvloop, except those marked ``asyncio_loop``: make test-uvloop."""
SLOW = (TESTS / "simulation", TESTS / "property", TESTS / "faults", TESTS / "test_typing.py")

# In debug mode asyncio notes for each callback, task and future where it was made: ten calls deep for callbacks, and
# for the others, in C, all the way up to pytest's own calls. That took more than half of the time of the unit tests.
# Three say as well which line it was.
constants.DEBUG_STACK_DEPTH = 3  # type: ignore[misc]
traceback.extract_stack.__defaults__ = (None, 3)  # for `f` and `limit`, which C does not give
# Asking the system whether the file of each of these lines has changed took a seventh of the time.
linecache.checkcache = lambda filename=None: None

SLOW_HANDLER = slow_functions.SLOW_HANDLER
# Its warnings tell of the machine, too, and tests read the log, or count objects: a peer's first warning makes some.
slow_functions.SLOW_HANDLER = math.inf

use_profile()


def pytest_configure() -> None:
    """Let the programs that tests start be interrupted, also where this was started in the background of a script.

    There shells make SIGINT ignored, and programs inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_virtual(path: Path) -> bool:
    """Whether the tests of a file run in virtual time."""
    return UNIT in path.parents and path.relative_to(UNIT).parts[0] not in REAL


class TimeOfATest(VirtualTimeLoop):
    """The loop of a test in virtual time: one that waits for a socket, a process or a thread depends on the machine."""

    def close(self) -> None:
        super().close()
        assert not self.waited, f"this test belongs in one of the folders {', '.join(REAL)} of tests/unit"


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    if is_virtual(item.path):
        return {"virtual": TimeOfATest}
    if item.path.name in ("test_docs.py", "test_vectors.py"):  # pages may use sockets
        return {"virtual": VirtualTimeLoop}
    if ON_UVLOOP:
        return {"uvloop": import_module("uvloop").new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Twice as many workers as there are cores: many tests wait for another program, or for time to pass."""
    return (os.cpu_count() or 1) * 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the tests that take longest, so that no worker is busy with one when the others have nothing left."""
    runs = {"asyncio_loop": not ON_UVLOOP, "soak": SOAK}
    left_out = [marker for marker in runs if not runs[marker]]

    def is_left_out(item: pytest.Item) -> bool:
        return any(map(item.get_closest_marker, left_out))

    config.hook.pytest_deselected(items=list(filter(is_left_out, items)))
    items[:] = itertools.filterfalse(is_left_out, items)

    @cache
    def is_slow(path: Path) -> bool:
        return any(slow in (path, *path.parents) for slow in SLOW)

    items.sort(key=lambda item: not is_slow(item.path))


def pytest_collection_finish() -> None:
    """Leave what is here now out of all garbage collections.

    Many tests collect to see what is left of a connection. With ten thousand tests in memory that takes 0.2 s each.
    """
    gc.collect()
    gc.freeze()


def loggers() -> list[logging.Logger]:
    made = logging.root.manager.loggerDict.values()
    return [logging.root, *(logger for logger in made if isinstance(logger, logging.Logger))]


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Undo what a program of a test does to loggers: the tests that come after it in this process read the log.

    uvicorn, for instance, lets its loggers no longer propagate, and frameworks disable those of others.
    """
    before = {each: (each.level, each.handlers[:], each.propagate, each.disabled) for each in loggers()}
    yield
    for logger in loggers():
        level, handlers, propagate, disabled = before.get(logger, (logging.NOTSET, [], True, False))
        logger.handlers[:], logger.propagate, logger.disabled = handlers, propagate, disabled
        if logger.level != level:
            logger.setLevel(level)


@pytest.fixture
def slow_handlers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of that warning, in which no time passes but that of the test's clock."""
    monkeypatch.setattr(slow_functions, "SLOW_HANDLER", SLOW_HANDLER)


@pytest.fixture(autouse=not QUICK)
async def asyncio_debug(request: pytest.FixtureRequest) -> None:
    """Run unit tests in asyncio's debug mode, which notices calls from the wrong thread and forgotten tasks.

    Not the others: debug mode would slow real traffic for no gain. The fixture is async to reach the test's loop, which
    pytest-asyncio makes with debug mode off, whatever the environment says.
    """
    if UNIT in request.path.parents:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.slow_callback_duration = math.inf  # its warnings of slow turns tell of the machine, and tests read the log
