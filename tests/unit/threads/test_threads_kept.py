"""`Threads`: threads that are kept for the next function, and end when there is none for a while."""

from __future__ import annotations

import threading
from contextvars import Context, ContextVar, copy_context

import pytest

from wsrpc._base.threads import Threads


def test_one_thread_runs_functions_that_come_one_after_another() -> None:
    threads = Threads()
    found = set[int]()
    for _ in range(100):
        worker = threads.acquire()
        found.add(worker.submit(threading.get_ident).result())
        worker.release()
        worker.submit(int).result()  # so that it is idle
    assert len(found) == 1


def test_a_thread_that_is_about_to_end_runs_the_function_that_it_has_just_got(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._base.threads.IDLE", 0.0)
    threads = Threads()
    assert [threads.submit(abs, number).result(60) for number in range(100)] == [*range(100)]


def test_a_thread_does_not_keep_the_context_of_who_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[Context]()
    start = threading.Thread.start

    def inheriting(thread: threading.Thread) -> None:  # as Python 3.14 does it, without the GIL by default
        started.append(copy_context())
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", inheriting)
    here = ContextVar[str]("here")
    here.set("a call")
    threads = Threads()
    assert threads.submit(here.get, None).result() is None
    assert [*map(dict, started)] == [{}]
