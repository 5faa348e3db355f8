"""The world in which wsrpc is simulated: three nodes, a store, an engine (or one node alone),
and clients that do all that a client can.

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
from proxy import proxy
from stores import expecting_odd_errors
from truth import LEASE, Truth
from users import CLIENTS, User

from wsrpc import ConnectFailed, HandshakeRejected, Limits
from wsrpc.testing import Simulation

__all__ = ["world"]


def world(sim: Simulation) -> Any:
    draw = sim.random_of("limits")

    def some(small: float, usual: float, often: float = 0.25) -> Any:
        return small if draw.random() < often else usual

    of_nodes, of_clients = [
        Limits(
            replay_bytes=some(128 * 1024, 1024 * 1024),
            running=(running := some(3, 1024, 0.15)),  # where handlers wait, fewer checks are possible
            waiting=some(3, 1024, 0.5 if running == 3 else 0.15),
            unread_timeout=some(4.0, 60.0),
            unread_bytes=some(256 * 1024, 16 * 1024 * 1024),
            message_bytes=some(256 * 1024, 4 * 1024 * 1024),
            ping_interval=(ping := some(2.0, 20.0)),
            ping_timeout=ping,
        )
        for _ in range(2)
    ]
    truth = Truth(sim, of_nodes, of_clients)
    sim.note(f"there are {CLIENTS} clients, {', '.join(truth.nodes)}{' behind a proxy' * len(truth.between)}")
    if truth.quota:
        sim.note(f"a user may have {truth.quota} connections")
    if truth.expires:
        sim.note(f"credentials expire after {truth.expires:g} s")
    if not truth.is_alone:
        store: Any = sim.store(lease=LEASE)
        store.slow += [1.5] * truth.is_far  # seconds that each step takes, at most
        sim.engine()

    async def client() -> None:
        while True:
            try:
                return await User(sim, truth).live()
            except (ConnectFailed, HandshakeRejected) as exc:  # before the first connection
                sim.note(f"cannot connect: {exc}")

    for name in truth.nodes:
        sim.process(name, partial(node, sim, truth, of_nodes), serves=True, host="" if truth.between else "service")
    for name in truth.between:
        sim.process(name, partial(proxy, sim, truth.nodes, truth.strict_until), serves=True, host="service")
    for number in range(CLIENTS):
        sim.process(f"client-{number}", client, mortal=True)
    sim.always(truth.forget_guests)
    with expecting_odd_errors():
        yield
    truth.check()
