"""The world in which wsrpc is simulated: three nodes, a store, an engine, and clients that do all that a client can.

Whatever happens:

- a call runs at most once, and never if its caller was told that it has not run; a call with a key runs once, unless a
  caller was told before that the run is lost;
- streams, uploads, conversations, events and rooms have no gap, no double and one order, unless that was told;
- if what goes wrong is short, no session is lost, and no call fails;
- in the end each call has ended, all members of a room have heard the same, and all nodes know who is there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from nodes import node
from truth import LEASE, Truth
from users import CLIENTS, User

from wsrpc import Limits
from wsrpc.testing import Simulation

__all__ = ["world"]

NODES = 3


def world(sim: Simulation) -> Any:
    sim.store(lease=LEASE)
    sim.engine()
    draw = sim.random_of("limits")
    of_nodes, of_clients = [
        Limits(
            replay_bytes=draw.choice([128 * 1024, 1024 * 1024]),
            running=draw.choice([3, 1024]),
            waiting=draw.choice([3, 1024]),
            unread_timeout=draw.choice([4.0, 60.0]),
        )
        for _ in range(2)
    ]
    truth = Truth(sim, drops_events=min(of_nodes.waiting, of_clients.waiting) < 1024)

    async def client() -> None:
        await User(sim, truth, of_clients).live()

    for number in range(NODES):
        sim.process(f"node-{number}", partial(node, sim, truth, of_nodes), serves=True, host="service")
    for number in range(CLIENTS):
        sim.process(f"client-{number}", client, mortal=True)
    yield
    truth.check()
