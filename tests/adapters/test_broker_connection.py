"""What the engines share: gathering, watching, the end. The broker is played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from core_driver import turns
from engines_in_use import Recorder
from leftovers import turns_until

from wsrpc_adapters import _broker_connection
from wsrpc_adapters._broker_connection import BATCH, BrokerConnection


class PlayedBroker:
    """Notes what is written, one batch at each `release`, and answers while ``answers``."""

    largest = 10 * BATCH
    unsent = 0

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, bytes]]] = []
        self.answers = True
        self.asked = 0
        self.dropped = 0
        self._may_write = asyncio.Semaphore(0)

    def release(self, batches: int = 1) -> None:
        for _ in range(batches):
            self._may_write.release()

    async def write(self, messages: list[tuple[str, bytes]]) -> None:
        self.batches.append(messages)
        await self._may_write.acquire()

    async def confirm(self) -> None:
        self.asked += 1
        if not self.answers:
            await asyncio.Event().wait()

    async def subscribe(self, subject: str) -> None: ...

    async def unsubscribe(self, subject: str) -> None: ...

    async def is_received(self, subject: str, payload: bytes) -> bool:
        return True

    async def drop(self) -> None:
        self.dropped += 1


@pytest.fixture
def broker() -> PlayedBroker:
    return PlayedBroker()


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def connection(broker: PlayedBroker, recorder: Recorder) -> AsyncGenerator[BrokerConnection]:
    async def connecting() -> PlayedBroker:
        return broker

    connection = BrokerConnection(recorder)
    await connection.open(connecting())
    yield connection
    broker.release(100)
    await connection.close()
    assert len(recorder.reasons) == broker.dropped == 1


async def test_much_is_written_in_parts(connection: BrokerConnection, broker: PlayedBroker) -> None:
    sizes = [BATCH // 2, BATCH // 2, 1, 3 * BATCH, BATCH, 5, 2 * BATCH]
    for number, size in enumerate(sizes):
        connection.publish("a", bytes([number]) * size)
    broker.release(100)
    await turns()
    assert [[len(payload) for _, payload in batch] for batch in broker.batches] == [
        [BATCH // 2, BATCH // 2],
        [1],
        [3 * BATCH],
        [BATCH],
        [5],
        [2 * BATCH],
    ]
    assert [payload[0] for batch in broker.batches for _, payload in batch] == list(range(7))
    assert connection.unsent == 0


async def test_messages_show_that_a_broker_is_alive_which_answers_late(
    broker: PlayedBroker, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again and again, and given up when neither an answer nor a message comes."""
    for name in ("PROBE", "RESPONSE_TIMEOUT", "GRACE"):
        monkeypatch.setattr(_broker_connection, name, 0.01)

    async def connecting() -> PlayedBroker:
        return broker

    connection = BrokerConnection(recorder)
    await connection.open(connecting())
    await turns_until(lambda: broker.asked >= 5)
    assert recorder.reasons == []
    broker.answers = False
    loop = asyncio.get_running_loop()
    before, until = broker.asked, loop.time() + 0.2
    while loop.time() < until:
        connection.received("a", b"")
        await asyncio.sleep(0)
    assert recorder.reasons == [] and broker.asked <= before + 1
    assert await recorder.ended() == "no response within 0.01 s"
    await connection.close()
