"""A client, a server that may be killed, and a lossy line between them, in memory: sessions go on over cuts.

Whatever happens: an event arrives at most once and in order, and nothing is lost in a session that goes on; a session
ends only for a reason that docs/explanation/sessions.md names; every call ends once, and its handler runs as often as
its outcome says; the items of a stream have no gaps; `open`, `close` and `on_reconnect` are called once for each; once
a side closes, no handler starts there; handlers are told of drops and resumes in order, though they take time; and in
the end nothing is left. Time passes only where a rule says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from effort import EXPLORE, examples
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, precondition, rule
from peers_inside import out_of
from sessions_ledger import Lane, SessionRecord, Work
from tenacity import wait_fixed
from world_machine import TURN, WorldMachine

from wsrpc import (
    AnonymousChannel,
    Client,
    CloseInfo,
    ConnectionLost,
    Limits,
    Peer,
    QueueFull,
    Reconnect,
    ReconnectInfo,
    Server,
    SessionLost,
    current_context,
    current_peer,
)
from wsrpc._base.closing import RESUMABLE
from wsrpc._client.client import core_of
from wsrpc._client.client_states import Input
from wsrpc._core.api.peer import current_of
from wsrpc._core.api.registration import Registrar
from wsrpc._core.session.session_end import SessionEnd
from wsrpc._core.session.session_states import SessionInput
from wsrpc._server.peers import ServedPeer, served_peer
from wsrpc.testing import Line, memory_transports

KEPT = 30.0
"""Seconds that a session without a connection is kept."""
TIMEOUT = 60.0
"""Of calls that do not say otherwise."""
SMALL = 128 * 1024
"""The smallest `Limits.replay_bytes`."""

some = st.integers(0, 20)
sides = st.sampled_from([0, 0, 1])
SIZES = [0, 0, 0, 100, 20_000, 70_000]
sizes = st.sampled_from(SIZES)
seldom = st.integers(0, 5).map(lambda number: number == 0)
actions = st.sampled_from(["nothing", "emit", "request", "close", "connect", "bind"])


class SessionsMachine(WorldMachine):
    def __init__(self) -> None:
        super().__init__()
        self.orders: list[asyncio.Task[None]] = []
        self.up = [Lane("up, emitted"), Lane("up, awaited"), Lane("up, in handlers that open")]
        self.sessions: dict[str, SessionRecord] = {}
        self.here: SessionRecord | None = None
        """The session that the client has."""
        self.losses = 0
        self.lost: SessionLost | None = None
        self.detached_at = 0.0
        self.notification_due: float | None = None
        """When the session had resumed and its handlers were done. None once `on_reconnect` was called for it."""
        self.notifications_behind = 0
        """Resumes whose `on_reconnect` handler may still be called. It waits for `open` handlers, in order."""
        self.reopened = False
        """Whether the session has resumed while its handlers still run. `on_reconnect` is called when they are done."""
        self.opens_slowly = False
        self.slowness = 0
        self.last_here: SessionRecord | None = None
        """The session that the client has, or the last one."""
        self.first = True
        self.leapt = 0.0
        self.reads = asyncio.Semaphore(0)
        self.reads_all = False
        self.on_close = self.on_back = "nothing"
        self.with_metadata: set[int] = set()
        """The numbers of the requests that have metadata."""
        self.failed = False
        self.client: Client
        self.ends_there: dict[Peer, SessionEnd] = {}
        """How the server's sessions have ended."""
        self.patches = ExitStack()

    # ------------------------------------------------------------ the scene

    @initialize(
        replay=st.sampled_from([1024 * 1024, SMALL]),
        window=st.sampled_from([256, 2]),
        offline=st.sampled_from([256, 3]),
        cap=st.sampled_from([None, 150_000]),
    )
    def begin(self, replay: int, window: int, offline: int, cap: int | None) -> None:
        limits = Limits(
            replay_bytes=replay,
            stream_window=window,
            offline=offline,
            request_timeout=TIMEOUT,
            ping_interval=None,
            close_timeout=2.0,
        )
        self.may_overflow = cap is not None  # then a side may close with 4408, and be cut before it is closed
        self.limits = limits if cap is None else limits.replace(hard_cap_bytes=cap)

        async def main() -> None:
            self.start_server()
            self.client = client = Client(
                self.url,
                dial=lambda url, **options: self.line.dial(url, **options),
                limits=self.limits,
                reconnect=Reconnect(wait=wait_fixed(0.003)),
                connect_timeout=10**6,
            )
            core = core_of(client)
            move, end = core.move, core.session_over

            def moved(happened: Input) -> None:
                move(happened)
                self.moved(happened)

            def session_over(how: SessionEnd) -> None:
                self.lost = how.error if isinstance(how.error, SessionLost) else None
                self.check_reason(how)
                end(how)

            core.move, core.session_over = moved, session_over  # type: ignore[method-assign,assignment]
            over_there = ServedPeer.session_over

            def session_over_there(served: ServedPeer, how: SessionEnd) -> None:
                self.ends_there[served.peer] = how
                over_there(served, how)

            self.patches.enter_context(patch.object(ServedPeer, "session_over", session_over_there))
            client.on("open", self.opened_here)
            client.on("connect", self.opening)
            client.on("close", self.closed_here)
            client.on("disconnect", partial(self.tell_here, "close"))
            client.on_detach(partial(self.tell_here, "detach"))
            client.on_reconnect(self.back)
            for index in range(3):
                client.on(f"note{index}", partial(self.arrived_here, index))
            self.register(client)
            await client.connect()
            await self.turns(10)

        self.run(main())

    def start_server(self) -> None:
        self.server = server = Server(limits=self.limits, detached_timeout=KEPT)
        self.line = Line(server)
        server.on("open", self.opened_there)
        server.on("close", self.closed_there)
        server.on("disconnect", partial(self.tell_there, "close"))
        server.on_detach(partial(self.tell_there, "detach"))
        server.on_resume(partial(self.tell_there, "resume"))
        for index, lane in enumerate(self.up):
            server.on(f"note{index}", partial(self.arrived_there, lane))
        self.register(server)

    def url(self) -> str:
        self.labels += 1
        return f"ws://server/?n={self.labels}"

    def register(self, side: Registrar, *more: Callable[..., Any]) -> None:
        async def take(number: int, items: AsyncIterator[list[Any]]) -> list[int]:
            self.starts(number)
            return [item[0] async for item in items]

        async def talk(channel: AnonymousChannel) -> None:
            async for word in channel.events("word"):
                await channel.emit("echo", word)

        super().register(side, take, talk)

    def starts(self, number: int) -> None:
        self.check_starts(current_peer())
        metadata = {"number": str(number)} if number in self.with_metadata else {}
        assert current_context().metadata == metadata, f"{number} has the metadata of another call, or has lost its own"
        super().starts(number)

    def check_starts(self, peer: Peer) -> None:
        """See that a handler may start: its side has not closed the connection."""
        if peer is self.client.peer:
            assert self.client.state not in ("closing", "closed"), "a handler starts after close()"
            return
        session = peer.state.get("session")
        if session is not None and session.closing is not None:
            assert peer.connected and peer.transport is not session.closing, "a handler starts after the Close frame"

    # ------------------------------------------------------------ what the sides are told

    def moved(self, happened: Input) -> None:
        if happened in (Input.OPENED, Input.RESUMED):
            for lane in self.up:
                lane.open()
            assert self.notified_of_new == self.returns, "on_reconnect is for each new session but the first"
        self.check_notified()
        if happened is Input.RESUMED or (happened is Input.OPENED and self.reopened):
            self.notification_due = self.loop.now
        if happened in (Input.RESUMED, Input.REOPENED):
            self.detached_at = 0.0
        if happened is not Input.CONNECT:
            self.reopened = happened is Input.REOPENED
        if happened is Input.CLOSE:
            self.losses += 1
            self.first = True
            for lane in self.up:
                lane.lose(waiting=True)
        elif happened is Input.DETACHED and self.client.state == "detached" and not self.detached_at:
            self.detached_at = self.loop.now

    def check_notified(self) -> None:
        """Check that `on_reconnect` is called in the next turn, unless something else has happened by then."""
        notified_late = self.notification_due is not None and self.loop.now > self.notification_due + 3 * TURN
        assert not notified_late, "on_reconnect is for each resume"
        if self.notification_due is not None:
            self.notification_due = None
            self.notifications_behind += 1

    def session(self, label: str) -> SessionRecord:
        return self.sessions.setdefault(label, SessionRecord(label))

    def opened_here(self, peer: Peer) -> None:
        assert self.here is None, "open, and the session before is not closed"
        self.here = self.last_here = self.session(peer.info.query["n"])
        self.here.opened_here += 1
        self.here.inside_here = out_of(peer).session
        self.detached_at = 0.0
        self.notified_of_new = 0
        self.returns, self.first = not self.first, False

    async def opening(self) -> None:
        if self.opens_slowly:
            self.opens_slowly = False
            began, session = self.loop.now, self.here
            self.emit_before_the_queue()
            await self.gate.wait()
            if self.loop.now < began + self.limits.open_timeout and self.here is session:
                self.emit_before_the_queue()  # later, others no longer wait for it

    def emit_before_the_queue(self) -> None:
        number = self.new(self.up[2], handed=True)
        try:
            self.client.emit_nowait("note2", "", number, "", offline="fail")  # else it may wait behind others
        except (ConnectionLost, QueueFull):
            self.up[2].refused.add(number)

    def opened_there(self, peer: Peer) -> None:
        session = self.session(peer.info.query["n"])
        session.opened_there += 1
        session.peer, session.inside_there = peer, out_of(peer).session
        peer.state["session"] = session
        peer.server.room(f"session {session.label}").add(peer)  # `kill` may have replaced `self.server` meanwhile

    def check_reason(self, end: SessionEnd) -> None:
        """See that the client's session may end."""
        session, info = self.here, end.info
        replaced = end.cause is SessionInput.REPLACED
        if session is None or replaced or info.user_closed or session.killed or session.closed_there:
            return
        reason = "" if self.lost is None else self.lost.reason
        if self.lost is None:
            if info.code in RESUMABLE:
                assert self.may_overflow or not end.was.resumes, f"a session that can resume has ended: {info}"
        elif "in time" in reason:
            assert self.loop.now - self.detached_at >= KEPT, reason
        elif "no such session" in reason:
            core = current_of(session.peer)
            assert not core.session.state.resumes, (
                f"the server has the session, and does not resume it: {session.peer}, {reason}"
            )

    def check_reason_there(self, peer: Peer, session: SessionRecord, info: CloseInfo) -> None:
        """See that the server's session may end with its connection, or without one."""
        end = self.ends_there.get(peer)
        if end is None or not end.was.resumes or self.may_overflow:
            return
        late = session.detached_at is not None and self.loop.now - session.detached_at > KEPT - 1
        assert late, f"the server's session has ended without a reason: {peer}, {info}"

    def closed_here(self, peer: Peer, info: CloseInfo) -> None:
        session = self.here
        assert session is not None, "closed, and it was not open"
        session.closed_here += 1
        self.here = None
        self.losses += 1
        self.detached_at = 0.0
        for lane in [*self.up, *session.down]:
            lane.lose()
        action, self.on_close = self.on_close, "nothing"
        self.act(action)

    def closed_there(self, peer: Peer, info: CloseInfo) -> None:
        session = peer.state.get("session")
        session.closed_there += 1
        if info.code in RESUMABLE and not (info.user_closed or session.killed):
            self.check_reason_there(peer, session, info)
        for lane in session.down:
            lane.lose()
        if session is self.here:
            for lane in self.up:
                lane.lose()

    def back(self, info: ReconnectInfo) -> None:
        assert self.here is not None
        if info.resumed:
            self.tell_here("resume")
            if self.notification_due is None:
                assert self.notifications_behind, "on_reconnect is for each resume, once"
                self.notifications_behind -= 1
            assert info.lost is None
            self.notification_due = None
        else:
            self.notified_of_new += 1
            assert self.returns and self.notified_of_new == 1, (
                "on_reconnect is for each new session but the first, once"
            )
            assert info.lost is None or info.lost is self.lost
        action, self.on_back = self.on_back, "nothing"
        self.act(action, before_the_queue=not info.resumed)

    def tell_here(self, what: str, *_: object) -> None:
        assert self.last_here is not None
        self.last_here.notified_here.append(what)

    async def tell_there(self, what: str, peer: Peer, *_: object) -> None:
        session: SessionRecord = peer.state.get("session")
        session.busy.append(began := self.loop.now)
        try:
            await self.turns(self.slowness)
        finally:
            session.busy.remove(began)
        session.notified_there.append(what)

    @rule(slowness=st.sampled_from([0, 2, 8]))
    def be_slow(self, slowness: int) -> None:
        """From now on, handlers of the server take so many turns that are told of drops, resumes and ends."""
        self.slowness = slowness

    def arrived_here(self, index: int, label: str, number: int, filling: str = "") -> None:
        session = self.sessions[label]
        assert session.opened_here, f"{number} has come before its session was open"
        self.check_starts(self.client.peer)
        session.down[index].got[0].append(number)

    def arrived_there(self, lane: Lane, peer: Peer, label: str, number: int, filling: str) -> None:
        self.check_starts(peer)
        lane.got[int(peer.state.get("session").label)].append(number)

    # ------------------------------------------------------------ what the applications do

    def peer(self, which: int) -> tuple[Peer, SessionRecord] | None:
        peers = [peer for peer in self.server.peers if peer.state.get("session") is not None]
        if not peers:
            return None
        peer = peers[which % len(peers)]
        return peer, peer.state.get("session")

    def senders(self, side: int, which: int = 0) -> list[tuple[Any, SessionRecord | None, list[Lane], str]]:
        """The client, or a peer of the server if there is one: with its session, its lanes, and the session's label."""
        if side == 0:
            return [(self.client, None, self.up, "")]
        found = self.peer(which)
        return [] if found is None else [(*found, found[1].down, found[1].label)]

    def new(self, lane: Lane, session: SessionRecord | None = None, *, handed: bool = False) -> int:
        self.number += 1
        lane.sent.append(self.number)
        if handed or session is not None or self.client.state == "connected":
            lane.handed.add(self.number)
        return self.number

    @rule(side=sides, which=some, size=sizes, count=st.integers(1, 4))
    def emit(self, side: int, which: int, size: int, count: int) -> None:
        self.inside(self.emit_now, side, which, size, count)

    def emit_now(self, side: int, which: int, size: int, count: int) -> None:
        for sender, session, lanes, label in self.senders(side, which) * count:
            number = self.new(lanes[0], session)
            try:
                sender.emit_nowait("note0", label, number, "x" * size)
            except (ConnectionLost, QueueFull) as error:
                lanes[0].refused.add(number)
                self.check_full(error)

    def check_full(self, error: Exception) -> None:
        """See that only the user's own messages fill the client's queue, not what waits with the session."""
        if isinstance(error, QueueFull) and "not connected" in str(error):
            queue = current_of(self.client.peer).outbox.offline_queue
            count, size = queue.user_count, queue.user_size
            assert count == self.limits.offline or size + max(SIZES) > self.limits.offline_bytes, error

    @rule(side=sides, which=some, size=sizes, count=st.integers(1, 4))
    def emit_and_wait(self, side: int, which: int, size: int, count: int) -> None:
        async def main(sender: Any, session: SessionRecord | None, lane: Lane, label: str) -> None:
            number = self.new(lane, session)
            try:
                await sender.emit("note1", label, number, "x" * size)
            except (ConnectionLost, QueueFull) as error:
                lane.refused.add(number)
                self.check_full(error)

        for sender, session, lanes, label in self.senders(side, which) * count:
            self.sends.append(self.loop.create_task(main(sender, session, lanes[1], label)))

    @rule(size=sizes)
    def broadcast(self, size: int) -> None:
        async def main() -> None:
            for peer in self.server.peers:
                session = peer.state.get("session")
                if session is not None:
                    number = self.new(session.down[2], session)
                    lane = session.down[2]
                    room = self.server.room(f"session {session.label}")
                    try:
                        report = room.emit_nowait("note2", session.label, number, "x" * size)
                    except QueueFull:
                        lane.refused.add(number)
                    else:
                        if not report.sent:
                            lane.may_be_lost.add(number)

        self.run(main())

    def work(
        self,
        side: int,
        which: int,
        doing: Callable[[Any, int], Coroutine[Any, Any, Any]],
        timeout: float | None = None,
        *,
        counted: bool = True,
    ) -> None:
        for sender, session, *_ in self.senders(side, which):
            self.number += 1
            task = self.loop.create_task(doing(sender, self.number))
            losses = self.losses - (self.client.state in ("closing", "closed"))
            deadline = self.loop.now + (timeout or TIMEOUT)
            self.works.append(Work(self.number, task, session, losses, deadline, counted))

    @rule(
        side=sides,
        which=some,
        kind=st.sampled_from(["now", "park"]),
        timeout=st.sampled_from([None, None, 2.0]),
        metadata=st.booleans(),
    )
    def request(self, side: int, which: int, kind: str, timeout: float | None, metadata: bool) -> None:
        self.ask(side, which, kind, timeout, metadata=metadata)

    def ask(self, side: int, which: int, kind: str, timeout: float | None, *, metadata: bool = False) -> None:
        async def doing(sender: Any, number: int) -> None:
            options: dict[str, Any] = {"timeout": timeout}
            if metadata:
                self.with_metadata.add(number)
                options["metadata"] = {"number": str(number)}
            assert await sender.request(kind, number, **options) == number

        self.work(side, which, doing, timeout)

    @rule(side=sides, which=some, count=st.integers(0, 9), most=st.integers(0, 12), size=sizes)
    def stream(self, side: int, which: int, count: int, most: int, size: int) -> None:
        async def doing(sender: Any, number: int) -> None:
            await self.read_items(sender.stream("items", count, size), count, most)

        self.work(side, which, doing, counted=False)

    @rule(side=sides, which=some, count=st.integers(0, 9), size=sizes)
    def upload(self, side: int, which: int, count: int, size: int) -> None:
        async def doing(sender: Any, number: int) -> None:
            assert await sender.request("take", number, send=self.items(count, size)) == list(range(count))

        self.work(side, which, doing)

    @rule(side=sides, which=some, count=st.integers(0, 6))
    def converse(self, side: int, which: int, count: int) -> None:
        async def doing(sender: Any, number: int) -> None:
            async with await sender.open_channel("talk") as channel, channel.events("echo") as echoes:
                for word in range(count):
                    await channel.emit("word", word)
                    if word % 3 == 2:
                        await self.gate.wait()
                for word in range(count):
                    assert await anext(echoes) == word

        self.work(side, which, doing, counted=False)

    @rule()
    def open_slowly_next(self) -> None:
        self.opens_slowly = True

    async def may_read(self) -> None:
        if not self.reads_all:
            await self.reads.acquire()

    @rule(count=st.integers(1, 12))
    def read(self, count: int) -> None:
        for _ in range(count):
            self.reads.release()

    @rule()
    def open_gate(self) -> None:
        self.let_all_through()

    @rule(side=sides, message=st.sampled_from([2 * 1024 * 1024, 4 * 1024 * 1024]))
    def change_limits(self, side: int, message: int) -> None:
        def main() -> None:
            for sender, *_ in self.senders(side):
                peer: Peer = sender.peer if side == 0 else sender
                if peer.connected or peer.detached:
                    peer.limits = peer.limits.replace(message_bytes=message)

        self.inside(main)

    # ------------------------------------------------------------ the life of the two ends

    def act(self, action: str, *, before_the_queue: bool = False) -> None:
        """Do what a `close` or `on_reconnect` handler does."""
        if action == "emit" and before_the_queue:
            self.emit_before_the_queue()
        elif action == "emit":
            self.emit_now(0, 0, 0, 2)
        elif action == "request":
            self.ask(0, 0, "now", None)
        elif action != "nothing":
            self.order(action)

    def order(self, what: str) -> None:
        doing = {"close": self.client.close, "connect": self.connect, "bind": self.bind}[what]
        self.orders.append(self.loop.create_task(doing()))

    async def connect(self) -> None:
        try:
            await self.client.connect()
        except ConnectionLost:
            return

    async def bind(self) -> None:
        self.labels += 1
        ours, theirs = memory_transports(path=f"/?n={self.labels}", limits=self.limits)
        self.line.connections.append((ours, theirs))
        accepting = asyncio.create_task(self.accept(self.server, theirs))
        try:
            await self.client.bind(ours)
        except ConnectionLost:
            return
        finally:
            await accepting

    @precondition(lambda self: hasattr(self, "client"))
    @rule(what=st.sampled_from(["close", "connect", "bind"]), really=seldom)
    def say(self, what: str, really: bool) -> None:
        if really:
            self.order(what)

    @rule(action=actions, handler=st.sampled_from(["on_close", "on_back"]))
    def act_in_the_next_handler(self, action: str, handler: str) -> None:
        setattr(self, handler, action)

    @rule(which=some, really=seldom)
    def close_from_there(self, which: int, really: bool) -> None:
        at = self.peer(which)
        if really and at is not None:
            self.orders.append(self.loop.create_task(self.close_peer(*at)))

    async def close_peer(self, peer: Peer, session: SessionRecord) -> None:
        session.closing = peer.transport
        await peer.close(1012, "restart")

    @rule(which=some, count=st.integers(0, 4), kind=st.sampled_from(["now", "park"]), turns=st.integers(0, 6))
    def expire(self, which: int, count: int, kind: str, turns: int) -> None:
        """The credentials of a client expire while its messages arrive."""

        async def main() -> None:
            at = self.peer(which)
            if at is None or not at[0].connected:
                return
            peer, session = at
            self.emit_now(0, 0, 0, count)
            self.ask(0, 0, kind, None)
            await self.turns(turns)
            served = served_peer(peer)
            assert served is not None
            if peer.connected:
                served.expire_at(0.0)
                await self.turns(1)
                if served.current.dispatcher.paused is not None:
                    session.closing = peer.transport
            await self.turns(turns)

        self.run(main())

    @rule(really=seldom)
    def kill(self, really: bool) -> None:
        """The server's process is gone with all that it knew, and another one takes its place."""
        if not really:
            return

        async def main() -> None:
            for peer in self.server.peers:
                session = peer.state.get("session")
                session.killed = True
                for lane in session.down:
                    lane.lose()
                if session is self.here:
                    for lane in self.up:
                        lane.lose()
            for _, theirs in self.line.connections:
                theirs.abort()
            down = self.line.down
            self.orders.append(asyncio.create_task(self.server.close(0)))
            self.start_server()
            self.line.down = down

        self.run(main())

    # ------------------------------------------------------------ the line, and time

    @rule(half_open=st.booleans(), count=st.integers(0, 12))
    def cut(self, half_open: bool, count: int) -> None:
        async def main() -> None:
            self.line.cut(half_open=half_open)
            await self.turns(count)

        self.run(main())

    @rule(half_open=st.booleans(), held=st.sampled_from([None, 0, 1]), count=st.integers(0, 8), turns=st.integers(0, 8))
    def cut_when_some_has_arrived(self, half_open: bool, held: int | None, count: int, turns: int) -> None:
        """Both sides send, what one of them sends may be held, and the connection is cut a few turns later."""

        async def main() -> None:
            if held is not None and self.line.connections:
                self.line.connections[-1][held].hold()
            self.emit_now(0, 0, 0, count)
            self.emit_now(1, -1, 0, count)
            self.line.down = False
            await self.turns(turns)
            self.line.cut(half_open=half_open)
            await self.turns(2 * turns)

        self.run(main())

    @rule(count=st.integers(0, 9), emits=st.integers(1, 3))
    def cut_an_upload(self, count: int, emits: int) -> None:
        """The source of an upload goes on while there is no connection, and so does the user."""
        self.upload(0, 0, count, 0)
        self.run(self.turns(6))
        self.line.down = True
        self.cut(half_open=False, count=4)
        self.open_gate()
        self.turn(count=8)
        self.emit(0, 0, 0, emits)

    @rule(down=st.booleans())
    def line_down(self, down: bool) -> None:
        self.line.down = down

    @rule(end=st.sampled_from([0, 1]), hold=st.booleans())
    def hold(self, end: int, hold: bool) -> None:
        """What this end sends does not arrive for a while."""

        def main() -> None:
            for ends in self.line.connections[-1:]:
                ends[end].hold() if hold else ends[end].release()

        self.inside(main)

    @rule(seconds=st.sampled_from([0.5, 1.1, 5.1, KEPT + 1]))
    def time_passes(self, seconds: float) -> None:
        self.leapt += seconds

        async def main() -> None:
            for session in self.sessions.values():
                if session.killed and session.notified_there[-1:] != ["close"]:
                    session.cut_short = True
                late = self.loop.now + seconds - self.limits.open_timeout
                session.overtaken |= any(began < late + 1 for began in session.busy)
            self.note_detached()  # a connection may have ended since the last rule
            await self.leap(seconds)

        self.run(main())

    # ------------------------------------------------------------ what must hold

    @invariant()
    @precondition(lambda self: hasattr(self, "client"))
    def holds(self) -> None:
        self.failed = True  # until the end of this function: then there is nothing to find out by going on
        assert not self.errors.texts, self.errors.texts
        assert not self.complaints, self.complaints
        for lane in self.up:
            lane.check()
        for session in self.sessions.values():
            session.check()
        self.note_detached()
        for work in self.works:
            idle = self.leapt >= KEPT
            work.check(self.runs[work.number], self.losses, self.loop.now, idle=idle, overflows=self.may_overflow)
        for task in [*self.sends, *self.orders]:
            if task.done():
                task.result()
        self.failed = False

    def note_detached(self) -> None:
        for session in self.sessions.values():
            if session.inside_there is not None and session.inside_there.over:
                continue  # its `close` handlers may wait for earlier notifications
            if session.peer is None or not session.peer.detached:
                session.detached_at = None
            elif session.detached_at is None:
                session.detached_at = self.loop.now

    # ------------------------------------------------------------ the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "client") and not self.failed:
                self.run(self.finish())
        finally:
            self.patches.close()
            self.leave_world()

    async def release(self) -> None:
        """Nothing holds anything back any more."""
        self.line.down = False
        self.gate.set()
        self.reads_all = True
        for _ in range(100):
            self.reads.release()
        for ends in self.line.connections:
            for end in ends:
                end.release()
        await self.turns(40)

    async def finish(self) -> None:
        until, client = self.until, self.client
        self.on_close = self.on_back = "nothing"
        self.slowness = 0
        await self.release()
        for _ in range(8):  # half-open connections, and what waits for time
            await self.leap(1.1)
            await self.release()
        await self.all_end(self.orders, "connect, bind and close end")
        if client.state != "connected":
            connecting = asyncio.create_task(client.connect())
            for _ in range(10):
                await self.leap(1.1)
                await self.release()
            await self.all_end([connecting], "the client connects")
        assert self.here is not None and client.state == "connected", client
        for session in self.sessions.values():
            if session is not self.here and not session.closed_there and session.peer is not None:
                # The client has left, and this connection was half open.
                self.orders.append(asyncio.create_task(session.peer.close()))
        await until(lambda: all(work.task.done() for work in self.works), "everything that was begun ends")
        await self.all_end(self.sends, "those who wait to send have sent")
        for _ in range(3):
            await self.turns(40)
            await self.leap(1.1)
        self.holds()
        await self.check_whole()
        await self.all_end([client.close()], "the client closes")
        await self.all_end([self.server.close()], "the server closes")
        await self.all_end(self.orders, "everything closes")
        await self.turns(10)
        self.holds()
        for session in self.sessions.values():
            assert session.opened_here == session.closed_here, session.label
            assert session.opened_there == session.closed_there, session.label
            assert session.notified_here[-1:] == ["close"] * session.opened_here, (session.label, session.notified_here)
            notified = (
                session.cut_short
                or session.overtaken
                or session.notified_there[-1:] == ["close"] * session.opened_there
            )
            assert notified, (session.label, session.notified_there)
        await self.check_left(client.peer)

    async def check_whole(self) -> None:
        """Nothing is lost in the session that there is, and nothing is left of what is over."""
        for lane in self.up:
            lane.check_complete()
        for session in self.sessions.values():
            if not session.over:
                for lane in session.down:
                    lane.check_complete()
        self.check_notified()
        assert self.here is not None
        for notified in (self.here.notified_here, [] if self.here.overtaken else self.here.notified_there):
            assert notified[-1:] in ([], ["resume"]), notified
        for peer in (self.client.peer, self.here.peer):
            stats = peer.stats()
            assert (peer.pending, peer.active, peer.anonymous_channels, stats.kept_bytes) == (0, 0, 0, 0), (peer, stats)
        served = served_peer(self.here.peer)
        assert served is not None and served.sessions is not None
        assert not served.sessions._counted, "nothing counts any more"


@pytest.mark.timeout(7200 if EXPLORE else 120)
class TestSessionsMachine(SessionsMachine.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=examples(250), stateful_step_count=40, deadline=None)


def play(*steps: tuple[str, dict[str, Any]]) -> None:
    state = SessionsMachine()
    state.begin(replay=1024 * 1024, window=256, offline=256, cap=None)
    for name, options in steps:
        getattr(state, name)(**options)
    state.holds()
    state.teardown()


@pytest.mark.parametrize("half_open", [False, True])
@pytest.mark.parametrize("held", [None, 0, 1])
def test_events_stay_in_order_when_a_handler_waits_for_the_resume(half_open: bool, held: int | None) -> None:
    """A message that came first on the next connection overtook a handler whose task waited for that connection."""
    play(
        ("request", {"side": 0, "which": 0, "kind": "park", "timeout": None, "metadata": False}),
        ("expire", {"which": 0, "count": 1, "kind": "now", "turns": 0}),
        ("open_gate", {}),
        ("cut_when_some_has_arrived", {"half_open": half_open, "held": held, "count": 1, "turns": 2}),
    )


def test_a_peer_of_a_killed_server_is_in_no_room_of_the_next_server() -> None:
    """The `open` handler of the killed server put it into a room of the new one."""
    play(("say", {"really": True, "what": "bind"}), ("kill", {"really": True}))


def test_the_handlers_of_a_killed_server_may_be_cancelled_before_they_are_told_of_the_end() -> None:
    """The model expected them to be told even if more than `Limits.close_timeout` had passed."""
    play(
        ("be_slow", {"slowness": 8}),
        *(("cut_when_some_has_arrived", {"half_open": False, "held": None, "count": 0, "turns": n}) for n in (6, 0)),
        ("emit", {"side": 0, "which": 0, "size": 0, "count": 4}),
        ("kill", {"really": True}),
        ("turn", {"count": 6}),
        ("time_passes", {"seconds": 5.1}),
    )


def test_a_request_that_waits_for_room_when_its_session_ends_counts_no_more() -> None:
    """It fails a turn later, and until then it kept the session that had ended counted for ever."""
    play(
        ("say", {"really": True, "what": "close"}),
        ("emit_and_wait", {"side": 1, "which": 0, "size": 70_000, "count": 1}),
        ("converse", {"side": 1, "which": 0, "count": 0}),
    )
