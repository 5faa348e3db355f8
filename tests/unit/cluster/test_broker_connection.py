"""What the engines share: watching the broker, which is played by the test."""

from __future__ import annotations

import asyncio

from engines_in_use import Recorder
from waiting import until

from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc_adapters._broker_connection import BrokerConnection


class PlayedBroker:
    """Answers while ``answers``."""

    largest = 1000
    unsent = asked = dropped = 0
    answers = True

    async def write(self, messages: list[tuple[str, bytes]]) -> None: ...

    async def confirm(self) -> None:
        self.asked += 1
        if not self.answers:
            await asyncio.Event().wait()

    async def subscribe(self, subject: str) -> None: ...

    async def is_received(self, subject: str, payload: bytes) -> bool:
        return True

    async def drop(self) -> None:
        self.dropped += 1


async def test_messages_show_that_a_broker_is_alive_which_answers_late() -> None:
    """It is asked again and again, and given up when neither an answer nor a message comes."""
    broker, recorder = PlayedBroker(), Recorder()

    async def connecting() -> PlayedBroker:
        return broker

    connection = BrokerConnection(recorder)
    await connection.open(connecting())
    await until(lambda: broker.asked >= 5, limit=5 * 0.5 + 0.1)
    assert recorder.reasons == []
    broker.answers = False
    before = broker.asked
    for _ in range(20):
        connection.received("a", b"")
        await asyncio.sleep(RESPONSE_TIMEOUT / 2)
    assert recorder.reasons == [] and broker.asked <= before + 1
    assert await recorder.ended() == f"no response within {RESPONSE_TIMEOUT:g} s"
    await connection.close()
    assert len(recorder.reasons) == broker.dropped == 1
