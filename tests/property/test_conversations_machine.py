"""Two connected peers in conversation, and everything that can end a conversation, in any order.

In each order, the listeners of a channel get all messages that arrived before the channel ended, in order. A body is
not cancelled before that. Afterwards nothing is left, and no memory is counted for it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import hypothesis.strategies as st
from effort import examples
from hypothesis import settings
from hypothesis.stateful import initialize, rule
from machine import ConnectedPeers, sides

from wsrpc import AnonymousChannel, Limits, Peer, WsrpcError
from wsrpc._core.api.anonymous import core_of
from wsrpc.types import Message

LIMITS = Limits(high_water_bytes=400, channels=8, unread_bytes=20_000)

which_ones = st.integers(0, 20)
ways = st.sampled_from(["on", "async on", "stream", "slow", "held"])
counts = st.integers(0, 4)
turns = st.sampled_from([0, 1, 2, 3, 4, 5, 10])


class Listener:
    """One end of a conversation: what it has got, and whether it is to get all that arrives."""

    def __init__(self, machine: Conversations, way: str) -> None:
        self.machine = machine
        self.way = way
        self.channel: AnonymousChannel | None = None
        self.got: list[int] = []
        self.listens = False
        self.has_left = False
        """This side has ended it, or has had no time to read."""
        self.task: asyncio.Task[Any] | None = None

    def listen(self) -> None:
        """Register a handler, or begin to read in a task."""
        channel = self.channel
        if self.listens or channel is None:
            return
        try:
            if self.way.endswith("on"):
                channel.on("line", self.received if self.way == "on" else self.receive_later)
            else:
                lines = channel.events("line")
                self.task = asyncio.get_running_loop().create_task(self.read(lines))
        except WsrpcError:
            assert self.has_left, "it could still listen"
            return
        self.listens = True

    def received(self, _: int, line: int) -> None:
        self.got.append(line)

    async def receive_later(self, _: int, line: int) -> None:
        await asyncio.sleep(0)
        self.got.append(line)

    async def read(self, lines: Any) -> None:
        try:
            async for _, line in lines:
                if self.way == "slow":
                    await asyncio.sleep(0)
                elif self.way == "held":
                    await self.machine.gate.wait()
                self.got.append(line)
        except WsrpcError:
            return  # the end, with its reason


class Talk:
    """One conversation: who opened it, and the body on the other side."""

    def __init__(self, machine: Conversations, side: int, opener: str, body: str, listens_late: bool) -> None:
        self.ends = [Listener(machine, opener), Listener(machine, body)]
        self.sides = [side, 1 - side]
        self.listens_late = listens_late
        self.said = 0
        self.over = asyncio.Event()
        """Lets the body return."""


class Conversations(ConnectedPeers):
    limits = LIMITS

    def __init__(self) -> None:
        super().__init__()
        self.talks: list[Talk] = []
        self.arrived: list[dict[int, list[int]]] = [defaultdict(list), defaultdict(list)]

    @initialize(extensions=st.booleans())
    def begin(self, extensions: bool) -> None:
        self.make_peers(extensions)

    def register(self, side: int, peer: Peer) -> None:
        def note(_: Peer, message: Message) -> None:
            if message.event == "line":
                number, line = message.args
                self.arrived[side][number].append(line)

        async def chat(number: int, says: int, channel: AnonymousChannel) -> None:
            talk = self.talks[number]
            end = talk.ends[1]
            end.channel = channel
            try:
                await converse(talk, number, says, channel)
                end.has_left = True
            finally:
                end.has_left |= not end.listens  # nobody listens on behalf of a body that is over

        async def converse(talk: Talk, number: int, says: int, channel: AnonymousChannel) -> None:
            end = talk.ends[1]
            if not talk.listens_late:
                if end.way.endswith("on"):
                    end.listen()
                else:
                    end.listens = True
            for _ in range(says):
                talk.said += 1
                await channel.emit("line", number, talk.said)
            if end.listens and not end.way.endswith("on"):
                await end.read(channel.events("line"))
            elif not says:
                await talk.over.wait()

        peer.on("message", note)
        peer.on("chat", chat)

    # ------------------------------------------------------------ what happens

    @rule(side=sides, opener=ways, body=ways, late=st.booleans(), body_late=st.booleans(), says=counts, turns=turns)
    def open(self, side: int, opener: str, body: str, late: bool, body_late: bool, says: int, turns: int) -> None:
        talk = Talk(self, side, opener, body, body_late)
        number = len(self.talks)
        self.talks.append(talk)

        async def main() -> None:
            try:
                talk.ends[0].channel = await self.peers[side].open_channel("chat", number, says)
            except WsrpcError:
                return
            if not late:
                talk.ends[0].listen()

        self.start(main())
        self.run(self.turns(turns))

    def some(self, which: int) -> Talk | None:
        return self.talks[which % len(self.talks)] if self.talks else None

    def say(self, talk: Talk, end: int, count: int) -> None:
        number = self.talks.index(talk)
        channel = talk.ends[end].channel
        try:
            for _ in range(count if channel is not None else 0):
                assert channel is not None
                talk.said += 1
                channel.emit_nowait("line", number, talk.said)
        except WsrpcError:
            return

    def stop(self, talk: Talk, end: int, how: str) -> None:
        channel = talk.ends[end].channel
        if how == "drop":
            self.ends[talk.sides[end]].abort()
        elif channel is not None:
            talk.ends[end].has_left = True  # also after the end: nothing more is wanted
            if how == "leave":
                core_of(channel).finish()
            elif how == "abort":
                core_of(channel).abort("bored")
            else:
                channel.close()

    @rule(which=which_ones, end=sides, count=counts)
    def talks_on(self, which: int, end: int, count: int) -> None:
        def main() -> None:
            if (talk := self.some(which)) is not None:
                self.say(talk, end, count)

        self.inside(main)

    @rule(which=which_ones, end=sides, count=counts, how=st.sampled_from(["leave", "abort", "close", "drop"]))
    def talks_and_ends_it(self, which: int, end: int, count: int, how: str) -> None:
        """Leave the block, abort or drop right after emitting."""

        def main() -> None:
            if (talk := self.some(which)) is not None:
                self.say(talk, end, count)
                self.stop(talk, end, how)

        self.inside(main)

    @rule(
        which=which_ones, end=sides, how=st.sampled_from(["nothing", "leave", "abort", "drop"]), turns=st.integers(0, 2)
    )
    def listens_as_it_ends(self, which: int, end: int, how: str, turns: int) -> None:
        """Listen; then the end, the abort or the drop, in the same turn or the next ones."""

        async def main() -> None:
            talk = self.some(which)
            if talk is None or (end == 1 and (talk.ends[1].channel is None or talk.ends[1].has_left)):
                return
            talk.ends[end].listen()
            await self.turns(turns)
            if how != "nothing":
                self.stop(talk, end if how == "drop" else 1 - end, how)

        self.run(main())

    @rule(which=which_ones)
    def body_returns(self, which: int) -> None:
        if (talk := self.some(which)) is not None:
            self.inside(talk.over.set)

    @rule(seconds=st.sampled_from([1.0, 29.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        if seconds > 1:  # who has not listened, or does not read on, may miss the rest
            for number, talk in enumerate(self.talks):
                for side, end in zip(talk.sides, talk.ends, strict=True):
                    if not end.listens or end.got != self.arrived[side][number]:
                        end.has_left = True
        super().time_passes(seconds)

    # ------------------------------------------------------------ what must hold

    async def finish(self) -> None:
        await self.let_all_go()
        await self.turns(60)
        for number, talk in enumerate(self.talks):
            for side, end in zip(talk.sides, talk.ends, strict=True):
                arrived = self.arrived[side][number]
                assert end.got == arrived[: len(end.got)], "out of order, twice or with a gap"
                if end.listens and not end.has_left:
                    assert end.got == arrived, f"{end.way} got {end.got} of {arrived}"
        for talk in self.talks:
            talk.over.set()
        for peer in self.peers:
            await peer.close()
        self.clock.advance(LIMITS.unread_timeout)
        await self.turns(60)
        for talk in self.talks:
            for end in talk.ends:
                if end.task is not None:
                    await end.task
                end.channel = end.task = None
        for task in self.tasks:
            await task
        await self.assert_empty()
        for peer in self.peers:
            assert peer._current.channels.unread_memory.used == 0, peer._current.channels.unread_memory


TestConversations = Conversations.TestCase
TestConversations.settings = settings(max_examples=examples(150), stateful_step_count=40, deadline=None)
