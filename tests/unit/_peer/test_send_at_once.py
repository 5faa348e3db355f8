"""A request that is sent at once has the same effect as one that goes the general way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Driven, start, turns

from wsrpc import ConnectionLost, Limits
from wsrpc._peer.requests import Requester

FIRST = 2**30 + 1
NOT_TEXT: Any = 5
Ask = Callable[[Driven], Any]
Before = Callable[[Driven], None]


def nothing(d: Driven) -> None:
    """The connection is open and has room."""


def broken(d: Driven) -> None:
    def send(payload: bytes, text: bool = True) -> None:
        raise ConnectionLost(1006, "gone", "not_sent")

    d.peer._core.session.send = send


def not_at_once(*_: object) -> None:
    """In place of `Requester._send_at_once`."""


ASKED: list[tuple[str, Ask]] = [
    ("plain", lambda d: d.peer.request("add", 1, 2)),
    ("named channel", lambda d: d.peer.of("math").request("add", 1, 2)),
    ("returns", lambda d: d.peer.request("add", 1, 2, returns=int)),
    ("timeout", lambda d: d.peer.request("add", 1, timeout=3)),
    ("no timeout", lambda d: d.peer.request("add", 1, timeout=None)),
    ("bad timeout", lambda d: d.peer.request("add", 1, timeout=-1)),
    ("offline", lambda d: d.peer.request("add", 1, offline="fail")),
    ("reserved", lambda d: d.peer.request("open")),
    ("reserved only on the main channel", lambda d: d.peer.of("math").request("open")),
    ("name is no text", lambda d: d.peer.request(NOT_TEXT)),
    ("not encodable", lambda d: d.peer.request("add", object())),
    ("too large", lambda d: d.peer.request("add", "x" * 2000)),
]


async def effect(ask: Ask, before: Before) -> list[Any]:
    """Make a request, answer it, and return all that can be seen of it."""
    d = Driven(dialer=True, limits=Limits(sent_message=1000, pending=2), keeps_offline=before is broken)
    requests = d.peer._core.out.requests
    requests._next = FIRST
    before(d)
    task = start(ask(d))
    await turns()
    flight = requests.flight
    seen: list[Any] = [d.take(), len(requests), flight.requests, flight.bytes, len(d.peer._outbox.queue)]
    seen += [(pending.timeout, pending.deadline, pending.size) for pending in requests.all()]
    await d.fed({"i": FIRST, "d": 3})
    task.cancel()
    outcome: Any = (await asyncio.gather(task, return_exceptions=True))[0]
    return [*seen, repr(outcome), d.take(), len(requests), flight.requests, flight.bytes, d.ignored]


@pytest.mark.parametrize("before", [nothing, broken])
@pytest.mark.parametrize("ask", [ask for _, ask in ASKED], ids=[name for name, _ in ASKED])
async def test_both_ways_have_the_same_effect(ask: Ask, before: Before, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = await effect(ask, before)
    monkeypatch.setattr(Requester, "_send_at_once", not_at_once)
    assert await effect(ask, before) == at_once
