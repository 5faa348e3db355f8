"""`Workers`: the threads of a blocking client."""

from __future__ import annotations

import threading

from wsrpc.blocking._workers import Workers


def test_one_thread_runs_functions_that_come_one_after_another() -> None:
    workers = Workers("test")
    assert len({workers.submit(threading.get_ident).result() for _ in range(100)}) == 1
    workers.shutdown()


def test_a_function_that_blocks_holds_up_no_shutdown() -> None:
    """Not even one that an idle thread has only just got."""
    go_on = threading.Event()
    try:
        for _ in range(100):
            workers = Workers("test")
            workers.submit(threading.get_ident).result()
            workers.submit(go_on.wait)
            workers.shutdown()
    finally:
        go_on.set()
