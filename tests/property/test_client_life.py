"""One client, two servers and the line between, everything that users and networks do to them, in any order.

Whatever happens: the last of connect, bind and close decides; every call ends once, as the table in
docs/explanation/drops.md says; events arrive at most once and in order; lifecycle handlers are called for each
connection; and when it is over, nothing is left.
The sockets are real, but for some that are bound; time passes only where a rule says so.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import hypothesis.strategies as st
import pytest
from client_ledger import Call, Events, Life
from client_world import Place, WorldMachine
from effort import EXPLORE, examples
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, precondition, rule
from leftovers import FreezesOlderObjects, living_objects, open_sockets
from tenacity import wait_fixed
from websockets.exceptions import InvalidHandshake

from wsrpc import (
    Client,
    CloseInfo,
    ConnectFailed,
    ConnectionLost,
    HandshakeRejected,
    Limits,
    Peer,
    QueueFull,
    Reconnect,
    ReconnectInfo,
    RemoteError,
    RequestTimeout,
    Retry,
    Server,
    dial,
)
from wsrpc._client.client import core_of
from wsrpc._client.client_states import AT_REST, Input
from wsrpc._core.api.registration import Registrar
from wsrpc.testing import memory_transports

# Sessions end with their connections here. Those that go on have a machine of their own.
LIMITS = Limits(close_timeout=2.0, open_timeout=5.0, offline=6, ping_interval=None, replay_bytes=0)
CONNECT_TIMEOUT = 30.0
LONGEST_LEAP = 30.0
"""Seconds of `time_passes`. A caller notices its timeout in the turns that follow, a leap or two later."""

places = st.sampled_from([0, 1])
kinds = st.sampled_from(["now", "later", "park", "ask_back"])
offlines = st.sampled_from([None, None, "queue", "fail"])
timeouts = st.sampled_from([None, None, 0.0, 1.0, 20.0])
orders = st.sampled_from(["connect", "start", "bind", "close", "close the peer"])
some = st.integers(0, 20)


class ClientLife(WorldMachine):
    def __init__(self) -> None:
        super().__init__()
        self.sockets = open_sockets()
        self.life = Life()
        self.there, self.here = Events(), Events()
        self.reads: list[asyncio.Task[None]] = []
        self.orders: list[tuple[str, int]] = []
        """What the user has said to the client, with how much had happened by then."""
        self.ordered: list[asyncio.Task[None]] = []
        self.cancelled: set[asyncio.Task[None]] = set()
        self.open_gate = asyncio.Event()
        self.dial_gate = asyncio.Event()
        self.dials = "first"
        self.on_close: str | None = None
        self.peer_closes = 0
        """How often a call of `Peer.close` has made the client give up."""
        self.memory: list[Any] = []
        self.accepting: list[asyncio.Task[None]] = []
        self.client: Client

    # ------------------------------------------------------------ the scene

    @initialize(
        with_url=st.sampled_from([True, True, True, False]),
        redials=st.sampled_from([True, True, True, False]),
        fails=st.booleans(),
        opens=st.sampled_from(["nothing", "returns", "waits", "asks"]),
        comes_back=st.sampled_from(["nothing", "returns", "waits", "asks"]),
        there=st.sampled_from(["returns", "waits"]),
    )
    def begin(self, with_url: bool, redials: bool, fails: bool, opens: str, comes_back: str, there: str) -> None:
        self.with_url, self.redials, self.opens, self.comes_back = with_url, redials, opens, comes_back
        self.opens_there = there

        async def main() -> None:
            self.places = [Place(self, LIMITS, self.prepare) for _ in range(2)]
            for place in self.places:
                await place.start()
            self.client = client = Client(
                self.url if with_url else None,
                limits=LIMITS,
                proxy=None,
                reconnect=Reconnect(wait=wait_fixed(1.0)) if redials else None,
                offline="fail" if fails else "queue",
                connect_timeout=CONNECT_TIMEOUT,
            )
            core = core_of(client)
            move = core.move

            def moved(happened: Input) -> None:
                before = client.state
                move(happened)
                self.life.moved(before, happened, client.state)

            core.move = moved  # type: ignore[method-assign]
            client.on("open", self.opened_here)
            if opens in ("waits", "asks"):
                client.on("connect", self.opening_here)
            client.on("close", self.closed_here)
            client.on("disconnect", self.answer_to_close)
            client.on_reconnect(self.back_here)
            if comes_back != "nothing":
                client.on_reconnect(self.coming_back_here)
            client.on("note", lambda label, number: self.here.seen.append((label, number)))
            self.register(client)

        self.run(main())

    async def url(self) -> str:
        mode = self.dials
        if mode == "held":
            await self.dial_gate.wait()
        elif mode == "fails":
            raise OSError("nobody there")
        elif mode == "refused":
            raise HandshakeRejected(403, "", {"Wsrpc-Refused": "1"})
        return self.label(self.places[mode == "second"].url)

    def label(self, url: str) -> str:
        self.labels += 1
        return f"{url}?n={self.labels}"

    def prepare(self, server: Server) -> None:
        def opened(peer: Peer) -> None:
            peer.state["n"] = peer.info.query["n"]

        async def opened_later(peer: Peer) -> None:
            opened(peer)
            await self.open_gate.wait()

        def noted(peer: Peer, number: int) -> None:
            self.there.seen.append((peer.state.get("n"), number))

        server.on("open", opened_later if self.opens_there == "waits" else opened)
        server.on("note", noted)
        server.on("back", self.back_there)
        server.on("ping", lambda: "pong")
        self.register(server)

    def register(self, side: Registrar, *more: Callable[..., Any]) -> None:
        async def later(number: int) -> int:
            self.starts(number)
            await asyncio.sleep(0)
            return number

        async def ask_back(peer: Peer, number: int) -> int:
            self.starts(number)
            try:
                await peer.request("now", -number, timeout=5)
            except (ConnectionLost, QueueFull, RequestTimeout):
                return number
            return number

        async def hold() -> None:
            await self.gate.wait()

        super().register(side, later, ask_back, hold)

    def opened_here(self, peer: Peer) -> None:
        self.life.opened(peer.info.query["n"])

    async def opening_here(self, peer: Peer) -> None:
        await self.welcome(self.opens)

    async def welcome(self, how: str) -> None:
        """What an `open` or `on_reconnect` handler does."""
        if how == "waits":
            await self.open_gate.wait()
        elif how == "asks":
            try:
                await self.client.request("ping", timeout=5)
            except (ConnectionLost, RequestTimeout):
                return

    def back_here(self, info: ReconnectInfo) -> None:
        self.life.came_back(info)
        self.client.emit_nowait("back")

    async def coming_back_here(self) -> None:
        await self.welcome(self.comes_back)

    def back_there(self, peer: Peer) -> None:
        seen = [label for label, _ in self.there.seen]
        assert peer.state.get("n") not in seen, "what waited for the connection has left before on_reconnect"

    def closed_here(self, peer: Peer, info: CloseInfo) -> None:
        self.life.closed(info)

    async def answer_to_close(self) -> None:
        order, self.on_close = self.on_close, None
        if order == "connect" and self.with_url:
            await self.connect()
        elif order == "start" and self.with_url:
            await self.start()
        elif order == "bind":
            await self.bind(0, real=False)
        elif order == "close":
            await self.close()
        elif order == "close the peer":
            await self.close_the_peer()

    # ------------------------------------------------------------ connect, bind and close

    def order(self, what: str, place: int, *, real: bool = False) -> None:
        if what not in ("connect", "start") or self.with_url:
            doing: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
                "connect": self.connect,
                "start": self.start,
                "bind": partial(self.bind, place, real),
                "close": self.close,
                "close the peer": self.close_the_peer,
            }
            self.ordered.append(self.loop.create_task(doing[what]()))

    def say(self, what: str) -> int:
        self.orders.append((what, len(self.life.moves)))
        return len(self.orders)

    async def connect(self) -> None:
        said = self.say("connect")
        moves, peer_closes = len(self.life.moves), self.peer_closes
        began = self.loop.now
        try:
            await self.client.connect()
        except ConnectionLost:
            since = self.life.moves[moves:]
            gives_up = not self.redials or self.peer_closes > peer_closes
            assert Input.CLOSE in since or (Input.GAVE_UP in since and gives_up), since
        except HandshakeRejected:
            assert Input.GAVE_UP in self.life.moves[moves:]
        except ConnectFailed:
            since = self.life.moves[moves:]
            if Input.GAVE_UP not in since:
                # Its own time is over, and the client goes on: it is not at the first connection of this call, or of
                # one before, which it would give up.
                assert self.loop.now - began >= CONNECT_TIMEOUT, since
                assert self.client.state not in ("connected", "closed") or self.refuses, self.client
                assert self.life.first_dialed_at is None or self.life.first_dialed_at > moves, self.life.moves
        else:
            assert self.client.connected, self.client
            if said == len(self.orders):
                assert self.client.state == "connected", self.client
        finally:
            took = self.loop.now - began
            assert took < CONNECT_TIMEOUT + 3 * LONGEST_LEAP, f"connect() took {took} s"

    async def start(self) -> None:
        self.say("start")
        moves = len(self.life.moves)
        self.client.start()
        assert self.client.state not in ("idle", "closing", "closed"), self.client
        assert self.life.moves[moves:] in ([], [Input.START])

    async def bind(self, place: int, real: bool) -> None:
        at = self.places[place]
        if real:
            try:
                transport: Any = await dial(self.label(at.url), limits=LIMITS, proxy=None)
            except (OSError, InvalidHandshake, HandshakeRejected):
                return
        else:
            self.labels += 1
            transport, theirs = memory_transports(path=f"/?n={self.labels}", limits=LIMITS)
            self.memory.append(transport)
            self.accepting.append(asyncio.get_running_loop().create_task(self.accept(at.server, theirs)))
        said = self.say("bind")
        moves = len(self.life.moves)
        try:
            await self.client.bind(transport)
        except ConnectionLost as lost:
            since = self.life.moves[moves + 1 :]
            assert lost.code != 1001 or Input.BIND in since, (lost, since)  # noqa: PT017 - no error is right too
        else:
            assert self.client.peer.transport is transport, self.client
            if said == len(self.orders):
                assert self.client.state == "connected", self.client

    async def close(self) -> None:
        said = self.say("close")
        await self.client.close()
        if said == len(self.orders):
            assert self.client.state == "closed", self.client

    async def close_the_peer(self) -> None:
        """Close the peer while there is no connection. The client gives up, if it was about to get one."""
        if self.client.peer.transport is None and self.client.state not in AT_REST:
            self.say("close")
            self.peer_closes += 1
            self.life.closed_by_user = self.life.is_open
            await self.client.peer.close()
            assert Input.GAVE_UP in self.life.moves[-1:], self.life.moves

    @rule(place=places)
    def connect_or_bind(self, place: int) -> None:
        self.order("connect" if self.with_url else "bind", place)
        self.run(self.turns(20))

    @rule(whats=st.lists(orders, min_size=1, max_size=4), place=places, real=st.booleans())
    def say_several(self, whats: list[str], place: int, real: bool) -> None:
        for what in whats:
            self.order(what, place, real=real)

    @rule(what=orders)
    def say_it_from_the_next_close_handler(self, what: str) -> None:
        self.on_close = what

    @rule(which=some, streams=st.booleans())
    def cancel_an_order_or_a_stream(self, which: int, streams: bool) -> None:
        running = [task for task in (self.reads if streams else self.ordered) if not task.done()]
        if running:
            task = running[which % len(running)]
            self.cancelled.add(task)
            task.cancel()

    # ------------------------------------------------------------ calls

    @rule(kind=kinds, offline=offlines, timeout=timeouts, retry=st.booleans(), idempotent=st.booleans())
    def call(self, kind: str, offline: Any, timeout: float | None, retry: bool, idempotent: bool) -> None:
        self.number += 1
        options: dict[str, Any] = {"offline": offline, "timeout": timeout}
        if retry:
            options |= {"retry": Retry(wait=wait_fixed(0.5)), "idempotent": idempotent}
        task = self.loop.create_task(self.client.request(kind, self.number, **options))
        self.works.append(Call(self.number, task, timeout=timeout, idempotent=retry and idempotent))

    @rule(which=some, kind=kinds, timeout=timeouts)
    def call_from_there(self, which: int, kind: str, timeout: float | None) -> None:
        peers = [peer for place in self.places for peer in place.server.peers]
        if peers:
            self.number += 1
            peer = peers[which % len(peers)]
            task = self.loop.create_task(peer.request(kind, self.number, timeout=timeout))
            self.works.append(Call(self.number, task, timeout=timeout))

    @rule(offline=offlines, awaits=st.booleans(), count=st.integers(1, 3))
    def emit(self, offline: Any, awaits: bool, count: int) -> None:
        async def main() -> None:
            self.number += 1
            number = self.number
            try:
                if awaits:
                    await self.client.emit("note", number, offline=offline)
                else:
                    self.client.emit_nowait("note", number, offline=offline)
            except (ConnectionLost, QueueFull):
                self.there.not_sent.add(number)

        for _ in range(count):
            self.sends.append(self.loop.create_task(main()))

    @rule(which=some, hold=st.booleans())
    def emit_from_there(self, which: int, hold: bool) -> None:
        async def main(peer: Peer) -> None:
            self.number += 1
            number = self.number
            try:
                if hold:
                    await peer.emit("hold")
                else:
                    await peer.emit("note", peer.state.get("n"), number)
            except ConnectionLost:
                self.here.not_sent.add(number)

        peers = [peer for place in self.places for peer in place.server.peers]
        if peers:
            self.sends.append(self.loop.create_task(main(peers[which % len(peers)])))

    @rule(count=st.integers(0, 5), most=st.integers(0, 6), offline=offlines)
    def stream(self, count: int, most: int, offline: Any) -> None:
        async def main() -> None:
            items = self.client.stream("items", count, 0, offline=offline, timeout=20)
            try:
                await self.read_items(items, count, most)
            except (ConnectionLost, QueueFull, RequestTimeout):
                return
            except RemoteError as error:
                # That is how long nobody reads where time passes at once.
                assert "within 30 s" in str(error)  # noqa: PT017 - no error is right too

        self.reads.append(self.loop.create_task(main()))

    # ------------------------------------------------------------ the network, the servers and time

    @rule(mode=st.sampled_from(["first", "first", "second", "second", "held", "fails", "refused"]))
    def dialing(self, mode: str) -> None:
        self.dials = mode
        self.let_through("dial_gate")

    @rule(place=places, kind=st.sampled_from(["cut", "refuse", "few_bytes_up", "few_bytes_down", "stall_up"]))
    def trouble(self, place: int, kind: str) -> None:
        self.run(self.places[place].trouble(kind))

    @rule()
    def repair(self) -> None:
        for place in self.places:
            self.run(place.repair())

    @rule()
    def drop(self) -> None:
        for place in self.places:
            self.inside(place.drop)
        for transport in self.memory:
            self.inside(transport.abort)
        self.memory.clear()

    @rule(
        place=places,
        drain=st.sampled_from([0.0, 0.0, 5.0]),
        turns=st.sampled_from([0, 1, 10]),
        starts=st.booleans(),
        answered=st.booleans(),
    )
    def close_a_server(self, place: int, drain: float, turns: int, starts: bool, answered: bool) -> None:
        """If it is not ``answered``, it waits for the answers to its Close frames, and keeps its connections."""

        async def main() -> None:
            at = self.places[place]
            if at.up and not answered:
                await at.trouble("stall_up")
            if at.up:
                at.end(drain)
            await self.turns(turns)
            if starts:
                await at.start()

        self.run(main())

    @rule(place=places)
    def kill_a_server(self, place: int) -> None:
        if self.places[place].up:
            self.inside(partial(self.places[place].end, kill=True))

    @rule(place=places)
    def start_a_server(self, place: int) -> None:
        if not self.places[place].up:
            self.run(self.places[place].start())

    @rule(seconds=st.sampled_from([0.5, 1.0, 1.0, 5.0, LONGEST_LEAP]))
    def time_passes(self, seconds: float) -> None:
        self.run(self.leap(seconds))

    @rule(gate=st.sampled_from(["gate", "open_gate", "dial_gate"]))
    def let_through(self, gate: str) -> None:
        self.let_all_through(gate)

    # ------------------------------------------------------------ what must hold

    @invariant()
    @precondition(lambda self: hasattr(self, "client"))
    def holds(self) -> None:
        self.run(self.check())

    @property
    def refuses(self) -> bool:
        """Whether the connection has refused a message, and its end is not reported yet, and this side has not closed.

        After `close()` the client may do anything, such as connect again, while that connection ends.
        """
        core = core_of(self.client).peer_session
        return core.session.state.connection == "dead"

    async def check(self) -> None:
        client, life = self.client, self.life
        # That it gives up is to be seen in the log.
        errors = [text for text in self.errors.texts if "the client gives up" not in text]
        assert not errors, errors
        assert not self.complaints, self.complaints
        assert client.state == life.state
        if self.refuses:
            assert client.state in ("opening", "connected"), client
            transport = client.peer.transport
            assert transport is not None
            with pytest.raises(ConnectionLost):
                transport.send(b"{}")
        assert client.connected == (client.state in ("opening", "connected") and not self.refuses), client
        waiting = client.wait_connected()
        try:
            waiting.send(None)
        except StopIteration:
            assert client.state == "connected" and client.connected, client
        except (ConnectionLost, ConnectFailed, HandshakeRejected):
            assert client.state in ("closing", "closed"), client
        else:
            assert client.state not in ("connected", "closing", "closed") or self.refuses, client
        finally:
            waiting.close()
        life.check()
        for call in self.works:
            call.check(self.runs[call.number])
        self.there.check()
        self.here.check()
        for task in [*self.ordered, *self.reads, *self.sends]:
            if task.done() and not (task.cancelled() and task in self.cancelled):
                task.result()

    # ------------------------------------------------------------ the end

    def teardown(self) -> None:
        try:
            if hasattr(self, "client"):
                self.run(self.finish())
                self.client_is_gone()
        finally:
            self.leave_world()
        assert not open_sockets() - self.sockets, "sockets are left open"

    async def finish(self) -> None:
        until = self.until
        self.dials, self.on_close = "first", None
        for gate in (self.gate, self.open_gate, self.dial_gate):
            gate.set()
        for place in self.places:
            await place.repair()
            if not place.up:
                await place.start()
        await self.turns(30)  # a cut may wait for what is before it
        client, life = self.client, self.life
        await until(lambda: all(place.quiet for place in self.places), "servers that close are closed")
        await until(lambda: all(task.done() for task in self.ordered), "connect, bind and close end")
        rest = ("idle", "connected", "closed")
        await until(lambda: client.state in rest and not self.refuses, "the client comes to rest")
        self.check_last_order()
        if client.state != "idle":
            await until(lambda: all(call.task.done() for call in self.works), "the calls end")
            await until(lambda: all(task.done() for task in self.reads), "the streams end")
        await self.turns(30)
        await self.check()
        if client.state == "connected":
            self.number += 1
            client.emit_nowait("note", self.number)
            asking = asyncio.create_task(client.request("now", 0))
            await until(asking.done, "another call ends")
            assert asking.result() == 0
            assert self.there.seen[-1][1] == self.number, "events arrive, and before what is sent after them"
        closing = asyncio.create_task(client.close())
        await until(closing.done, "the last close ends")
        closing.result()
        assert client.state == "closed"
        for place in self.places:
            await place.leave()
        everything = [*self.sends, *self.reads, *self.accepting, *(call.task for call in self.works)]
        await until(lambda: all(task.done() for task in everything), "everything ends")
        await self.turns(5)
        await self.check()
        self.there.check_connections(life.labels)
        for task in self.accepting:
            task.result()
        await self.check_left(client.peer)

    def check_last_order(self) -> None:
        what, moves = self.orders[-1] if self.orders else ("nothing", 0)
        since = self.life.moves[moves:]
        expected = {"nothing": "idle", "close": "closed"}.get(what, "connected")
        if what in ("connect", "start", "bind"):
            if Input.GAVE_UP in since:
                expected = "closed"
            elif Input.CANCELLED in since or Input.DROPPED_NO_URL in since:
                expected = "idle"
        assert self.client.state == expected, (what, since)

    def client_is_gone(self) -> None:
        gone = weakref.ref(self.client)
        # The model knows the client, and so do the tracebacks of what it raised.
        for known in (self.works, self.sends, self.reads, self.ordered, self.accepting, self.memory):
            known.clear()
        self.cancelled.clear()
        del self.client, self.places
        self.run(living_objects())  # which makes asyncio forget cancelled timers, with their contexts
        gc.collect()
        assert gone() is None, gc.get_referrers(gone())
        gc.freeze()  # what is left belongs to Hypothesis, and grows with each run


@pytest.mark.timeout(3600 if EXPLORE else 120)
class TestClientLife(FreezesOlderObjects, ClientLife.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=examples(100), stateful_step_count=40, deadline=None)
