from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest
from in_a_thread import Served, make_server, no_thread_left, serving

from wsrpc.blocking import Client


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """No thread is left of a test, whatever it does to its clients. Idle ones end soon, so that tests need not wait."""
    monkeypatch.setattr("wsrpc._base.threads.IDLE", 0.02)
    with no_thread_left():
        yield


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(make_server()[0]) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client
        served.idle(client)
