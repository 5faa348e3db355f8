"""What nodes hear of a room, counted where they connect to the engine: see `test_cluster_rooms` for who gets what."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_servers import servers
from leftovers import nothing_left as nothing_left
from waiting import until

from wsrpc import Client
from wsrpc.cluster import MemoryEngine

pytestmark = pytest.mark.usefixtures("nothing_left")

SAID = "unmistakable"
"""Is in each event to the room, and in nothing else that nodes say."""


class OverheardEngine(MemoryEngine):
    def __init__(self) -> None:
        super().__init__()
        self.heard_by: set[Any] = set()

    def deliver(self, subject: str, payload: bytes) -> None:
        if SAID.encode() in payload:
            self.heard_by.update(each for each in self.connections if each.has_subscribed(subject))
        super().deliver(subject, payload)


async def test_15_of_16_nodes_hear_nothing_of_a_room_with_members_at_one() -> None:
    engine, heard, member = OverheardEngine(), list[int](), Client()
    member.on("said", lambda text, number: heard.append(number))
    async with servers(16, engine) as made:
        made[5].on("open", made[5].room("lobby").add)
        await made.join(5, "ada", member)
        for number, server in enumerate(made):
            if number != 5:
                report = await server.room("lobby").emit("said", SAID, number)
                assert report.nodes == (made[5].cluster.nodes[0],) and not report.missing_nodes
        await until(lambda: len(heard) == 15)
        assert len(engine.connections) == 16 and len(engine.heard_by) == 1
    assert sorted(heard) == [number for number in range(16) if number != 5]
