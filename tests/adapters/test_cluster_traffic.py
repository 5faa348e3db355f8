"""What nodes hear of a room, counted where they connect to the engine: see `test_cluster_rooms` for who gets what."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_servers import servers
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client
from wsrpc.cluster import MemoryEngine
from wsrpc.cluster.engine import EngineListener

pytestmark = pytest.mark.usefixtures("nothing_left")

SAID = "unmistakable"
"""Is in each event to the room, and in nothing else that nodes say."""


class Ear:
    """A listener of a node, which notes whether it hears of the room."""

    def __init__(self, listener: EngineListener) -> None:
        self.heard = False
        self._listener = listener
        self.lost = listener.lost

    def received(self, subject: str, payload: bytes) -> None:
        self.heard |= SAID.encode() in payload
        self._listener.received(subject, payload)


class OverheardEngine(MemoryEngine):
    def __init__(self) -> None:
        super().__init__()
        self.ears: list[Ear] = []

    async def connect(self, listener: EngineListener, /) -> Any:
        self.ears.append(Ear(listener))
        return await super().connect(self.ears[-1])


async def test_15_of_16_nodes_hear_nothing_of_a_room_with_members_at_one() -> None:
    engine = OverheardEngine()
    heard: list[int] = []
    member = Client()
    member.on("said", lambda text, number: heard.append(number))
    async with servers(16, engine, patience=60) as made:
        made[5].on("open", made[5].room("lobby").add)
        await made.join(5, "ada", member)
        node = made[5].cluster.nodes[0]
        for number, server in enumerate(made.all):
            if number != 5:
                report = await server.room("lobby").emit("said", SAID, number)
                assert report.nodes == (node,) and not report.missing_nodes
        await turns_until(lambda: len(heard) == 15)
    assert len(engine.ears) >= 16 and sum(ear.heard for ear in engine.ears) == 1
    assert sorted(heard) == [number for number in range(16) if number != 5]
