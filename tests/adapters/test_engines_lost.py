"""Engines whose broker is killed, frozen or away."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest
from core_driver import turns
from engines_in_use import KINDS, Connect, InMemory, MortalEngine, OnServer, Recorder, check_over
from engines_in_use import connect as connect
from engines_in_use import subject as subject
from leftovers import open_sockets

from wsrpc.cluster.engine import FEW, PROBE, RESPONSE_TIMEOUT, Engine, EngineConnection
from wsrpc.errors import EngineLost
from wsrpc_adapters import _broker_connection


@pytest.fixture(autouse=True)
def impatient(patient: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait no longer for brokers than usual."""
    monkeypatch.setattr(_broker_connection, "RESPONSE_TIMEOUT", RESPONSE_TIMEOUT)


@pytest.fixture(params=KINDS)
def mortal(request: pytest.FixtureRequest) -> Generator[MortalEngine]:
    """An engine with a broker of its own."""
    found: MortalEngine = InMemory() if request.param == "memory" else OnServer(request.param)
    yield found
    found.kill()


@pytest.fixture
def engine(mortal: MortalEngine) -> Engine:
    return mortal.engine


async def fill(connection: EngineConnection, subject: str) -> None:
    """Publish until nothing moves any more: the broker is frozen, and the buffers of the system are full."""
    turns_without_progress = 0
    while turns_without_progress < 20:
        # Little at once, because a connection may wait for the broker after much.
        if connection.unsent <= 16 * FEW:
            connection.publish(subject, bytes(FEW // 8))
        unsent = connection.unsent
        await asyncio.sleep(0)
        turns_without_progress = turns_without_progress + 1 if connection.unsent == unsent else 0


async def test_a_broker_that_is_killed(mortal: MortalEngine, connect: Connect, subject: str) -> None:
    busy, idle = await connect(), await connect()
    await idle[0].subscribe(subject)
    for _ in range(100):
        busy[0].publish(subject, bytes(1000))
    await asyncio.sleep(0)
    mortal.kill()
    for connection, recorder in (busy, idle):
        await recorder.ended()
        await check_over(connection, recorder)
    with pytest.raises(EngineLost):
        await connect()


async def test_a_broker_that_freezes_is_noticed(mortal: MortalEngine, connect: Connect, subject: str) -> None:
    sockets = open_sockets()
    idle, subscriber, busy = await connect(), await connect(), await connect()
    await subscriber[0].subscribe(subject)
    mortal.freeze()
    dialing = mortal.engine.connect(Recorder())
    waiting = [asyncio.ensure_future(subscriber[0].subscribe("new")), asyncio.ensure_future(dialing)]
    await fill(busy[0], subject)
    waiting.append(asyncio.ensure_future(busy[0].drain()))
    for connection, recorder in (idle, subscriber, busy):
        assert await recorder.ended() == "no response within 1.5 s"
        await check_over(connection, recorder)
    subscribing, connecting, draining = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(subscribing, EngineLost) and isinstance(connecting, EngineLost)
    assert draining is None
    assert open_sockets() == sockets
    mortal.thaw()
    again, heard = await connect()
    await again.subscribe(subject)
    again.publish(subject, b"back")
    await heard.until(lambda: b"back" in heard.payloads)


async def test_cancelling_leaves_the_connection_in_use(mortal: MortalEngine, connect: Connect, subject: str) -> None:
    connection, heard = await connect()
    mortal.freeze()
    await fill(connection, "elsewhere")
    calls = [connection.drain(), connection.subscribe(f"{subject}.new")]
    tasks, draining = [asyncio.ensure_future(call) for call in calls], asyncio.ensure_future(connection.drain())
    await turns(20)
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks) and not draining.done()
    mortal.thaw()
    await draining
    assert connection.unsent <= FEW
    await connection.subscribe(subject)
    connection.publish(subject, b"here")
    await heard.until(lambda: (subject, b"here") in heard.got)
    await asyncio.sleep(2 * PROBE)  # the broker is asked in this time, and all answers must still find their questions
    assert heard.reasons == []


async def test_closing_goes_on_if_frozen_or_cancelled(mortal: MortalEngine, connect: Connect, subject: str) -> None:
    connection, recorder = await connect()
    await connection.subscribe(subject)
    mortal.freeze()
    await fill(connection, subject)
    cancelled, closing = [asyncio.ensure_future(connection.close()) for _ in range(2)]
    await turns(20)
    cancelled.cancel()
    await asyncio.wait([cancelled, closing])
    assert cancelled.cancelled() and not closing.cancelled()
    await recorder.ended()
    await check_over(connection, recorder)


@pytest.mark.parametrize("count", [0, 1, 2, 4, 1000])
async def test_cancelling_connect_leaves_nothing(mortal: MortalEngine, count: int) -> None:
    mortal.freeze()
    recorder = Recorder()
    connecting = asyncio.ensure_future(mortal.engine.connect(recorder))
    await turns(count)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    assert recorder.reasons == []
