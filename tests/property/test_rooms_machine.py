"""Peers come and go, join, leave, are put into rooms and taken out, and rooms are emitted to, in any order.

Whatever happens: who is in which room is what a model says, who is in a room gets what is emitted to it, in order and
once, and when all are gone, nothing is left.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import settings
from hypothesis.stateful import invariant, precondition, rule
from leftovers import FreezesOlderObjects, other_tasks
from machine import LoopMachine

from wsrpc import Client, ConnectionLost, Limits, Peer, RemoteError, RpcError, Server
from wsrpc.testing import MemoryTransport, memory_transports

MOST = 3
LIMITS = Limits(rooms=MOST, high_water_bytes=300, close_timeout=1.0, ping_interval=None)
ROOMS = ["declared", "asked", "refused", "internal"]

names = st.sampled_from(ROOMS)
some = st.integers(0, 20)


class Guest:
    """One client, and what the model knows of it."""

    def __init__(self, client: Client, peer: Peer, line: MemoryTransport) -> None:
        self.client = client
        self.peer = peer
        self.line = line
        self.rooms: dict[str, bool] = {}
        """With each whether it joined by itself."""
        self.received: list[int] = []
        self.expected: list[int] = []
        client.on("n", lambda number, filling: self.received.append(number))
        client.of("side").on("n", lambda number, filling: self.received.append(-number))


class RoomLife(LoopMachine):
    def __init__(self) -> None:
        super().__init__()
        self.guests: list[Guest] = []
        self.gone: list[weakref.ref[Peer]] = []
        self.number = 0
        self.server = Server(limits=LIMITS, slow="drop_oldest")
        self.server.room("declared", allow=lambda peer: True)
        self.server.on_join(lambda peer, room: room == "asked")

    def pick(self, which: int) -> Guest:
        return self.guests[which % len(self.guests)]

    # ------------------------------------------------------------ what happens

    @precondition(lambda self: len(self.guests) < 5)
    @rule()
    def come(self) -> None:
        async def main() -> Guest:
            ours, theirs = memory_transports(limits=LIMITS)
            client = Client(limits=LIMITS)
            peer, _ = await asyncio.gather(self.server.accept(theirs), client.bind(ours))
            assert isinstance(peer, Peer)
            return Guest(client, peer, theirs)

        self.guests.append(self.run(main()))

    @precondition(lambda self: self.guests)
    @rule(which=some, abruptly=st.booleans())
    def go(self, which: int, abruptly: bool) -> None:
        guest = self.pick(which)

        async def main() -> None:
            if abruptly:
                guest.line.abort()
            else:
                guest.line.release()
                await self.turns()  # what waited for the line leaves only now, and a close would not wait for it
            await guest.client.close()
            await self.turns()

        self.run(main())
        self.guests.remove(guest)
        assert {room.name for room in guest.peer.rooms} == set(guest.rooms)
        if not abruptly:
            assert guest.received == guest.expected
        try:
            self.server.room("internal").add(guest.peer)
        except ConnectionLost:
            pass
        else:
            raise AssertionError("a peer that is gone became a member")
        self.gone.append(weakref.ref(guest.peer))

    @precondition(lambda self: self.guests)
    @rule(which=some, name=names)
    def join(self, which: int, name: str) -> None:
        guest = self.pick(which)
        guest.line.release()
        error = self.run(self.ask(guest, "join", name))
        if name not in ("declared", "asked"):
            assert error == "not allowed"
        elif name not in guest.rooms and len(guest.rooms) >= MOST:
            assert error is not None
            assert "Limits.rooms" in error
        else:
            assert error is None
            guest.rooms.setdefault(name, True)

    @precondition(lambda self: self.guests)
    @rule(which=some, name=names)
    def leave(self, which: int, name: str) -> None:
        guest = self.pick(which)
        guest.line.release()
        error = self.run(self.ask(guest, "leave", name))
        if guest.rooms.get(name) is False:
            assert error == "not allowed"
        else:
            assert error is None
            guest.rooms.pop(name, None)

    async def ask(self, guest: Guest, event: str, name: str) -> str | None:
        try:
            await guest.client.of("rooms").request(event, name)
        except RemoteError as error:
            return error.message
        return None

    @precondition(lambda self: self.guests)
    @rule(which=some, name=names)
    def add(self, which: int, name: str) -> None:
        guest = self.pick(which)
        try:
            self.server.room(name).add(guest.peer)
        except RpcError:
            assert name not in guest.rooms
            assert len(guest.rooms) == MOST
        else:
            guest.rooms[name] = False  # from now on it stays until the server lets it go

    @precondition(lambda self: self.guests)
    @rule(which=some, name=names)
    def discard(self, which: int, name: str) -> None:
        guest = self.pick(which)
        self.server.room(name).remove(guest.peer)
        guest.rooms.pop(name, None)

    @rule(name=st.none() | names, skip=st.none() | some, side=st.booleans(), size=st.sampled_from([0, 400]))
    def emit(self, name: str | None, skip: int | None, side: bool, size: int) -> None:
        self.number += 1
        skipped = None if skip is None or not self.guests else self.pick(skip)
        where: Any = self.server if name is None else self.server.room(name)
        if side:
            where = where.of("side")
        emitting = where.emit("n", self.number, "x" * size, skip=None if skipped is None else skipped.peer)
        report = self.run(emitting)
        members = [guest for guest in self.guests if guest is not skipped and (name is None or name in guest.rooms)]
        assert (report.sent, report.errors, report.skipped) == (len(members), (), 0)
        for guest in members:
            guest.expected.append(-self.number if side else self.number)

    @precondition(lambda self: self.guests)
    @rule(which=some)
    def stop_reading(self, which: int) -> None:
        self.pick(which).line.hold()

    @precondition(lambda self: self.guests)
    @rule(which=some)
    def read_again(self, which: int) -> None:
        guest = self.pick(which)

        async def main() -> None:
            guest.line.release()
            await self.turns()

        self.run(main())
        assert guest.received == guest.expected

    # ------------------------------------------------------------ what must hold

    @invariant()
    def the_tables_are_those_of_the_model(self) -> None:
        for guest in self.guests:
            assert [room.name for room in guest.peer.rooms] == list(guest.rooms)
        shown = {room.name: set(room) for room in self.server.rooms}
        expected = {name: {guest.peer for guest in self.guests if name in guest.rooms} for name in ROOMS}
        assert shown == {name: peers for name, peers in expected.items() if peers or name == "declared"}

    @invariant()
    def nobody_hears_what_is_not_for_him(self) -> None:
        for guest in self.guests:
            assert guest.received == guest.expected[: len(guest.received)]

    def teardown(self) -> None:
        try:
            while self.guests:
                self.go(0, False)
            self.run(self.finish())
        finally:
            self.loop.close()

    async def finish(self) -> None:
        await self.server.close()
        await self.turns()
        assert [room.name for room in self.server.rooms] == ["declared"]
        assert len(self.server.room("declared")) == 0
        gc.collect()
        assert [peer() for peer in self.gone if peer() is not None] == []
        assert list(self.server._rooms._rooms) == ["declared"]
        assert not other_tasks()
        assert self.complaints == []
        gc.freeze()  # what is left belongs to Hypothesis, and grows with each run


class TestRoomLife(FreezesOlderObjects, RoomLife.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=examples(40), stateful_step_count=40, deadline=None)
