"""`Threads`: threads that are kept for the next function, and end with their owner."""

from __future__ import annotations

import threading

from wsrpc._base.threads import Threads


def test_one_thread_runs_functions_that_come_one_after_another() -> None:
    threads = Threads()
    found = set[int]()
    for _ in range(100):
        worker = threads.acquire()
        found.add(worker.submit(threading.get_ident).result())
        threads.add_idle(worker)
    assert len(found) == 1
    threads.shutdown()


def test_a_function_that_blocks_holds_up_no_shutdown() -> None:
    """Not even one that an idle thread has only just got."""
    go_on = threading.Event()
    try:
        for _ in range(100):
            threads = Threads()
            threads.submit(threading.get_ident).result()
            threads.submit(go_on.wait)
            threads.shutdown()
    finally:
        go_on.set()
