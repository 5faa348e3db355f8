"""Sessions that go on while `open` and `on_reconnect` handlers still run."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import SOON, refuse, story

from wsrpc import Client, ConnectionLost, Limits, Peer, ReconnectInfo, Server, Service
from wsrpc._api.peer import core_of
from wsrpc.testing import Clock, Line

pytestmark = pytest.mark.usefixtures("nothing_left")


class Opening:
    """A client whose `open` handler waits until a test releases it, and what arrives at its server."""

    def __init__(self, *, limits: Limits | None = None, detached: float = 60.0, clock: Clock | None = None) -> None:
        self.server = Server(limits=limits, detached=detached)
        self.line = Line(self.server, clock=clock)
        self.arrived: list[Any] = []
        self.server.on("note", self.arrived.append)
        self.server.on("ask", self.ask)
        self.client = Client("ws://server/", dial=self.line.dial, reconnect=SOON)
        self.began = 0
        self.release = asyncio.Event()
        self.back: list[bool] = []
        self.client.on("open", self.opened)
        self.client.on_reconnect(self.returned)

    def ask(self, what: Any) -> Any:
        self.arrived.append(what)
        return what

    async def opened(self) -> None:
        self.began += 1
        await self.client.emit("note", "begins")
        await self.release.wait()
        assert await self.client.request("ask", "asks") == "asks"
        await self.client.emit("note", "ends")

    def returned(self, info: ReconnectInfo) -> None:
        self.back.append(info.resumed)

    async def is_resumable(self) -> None:
        await turns_until(
            lambda: core_of(self.client.peer).session.resumable and not self.line.connections[-1][0].unsent
        )
        await turns(20)

    async def cut(self) -> None:
        """Cut the line, and keep the client from coming back."""
        self.line.down = True
        self.line.cut()
        await turns_until(lambda: self.client.peer.detached)

    async def repair(self, state: str = "opening") -> None:
        self.line.down = False
        await turns_until(lambda: self.client.state == state)

    async def close(self) -> None:
        await self.client.close()
        await self.server.close()


@pytest.mark.parametrize("ends", ["while the connection is lost", "when the session has gone on"])
async def test_open_handlers_run_on_and_what_waits_for_them_waits_on(ends: str) -> None:
    scene = Opening()
    client = scene.client
    async with asyncio.timeout(20):
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: scene.began)
        waiting = asyncio.create_task(client.emit("note", "waits"))
        await scene.is_resumable()
        await scene.cut()
        client.emit_nowait("note", "waits, too")
        if ends == "while the connection is lost":
            scene.release.set()
            await turns(10)
            assert client.state in ("detached", "resuming") and scene.arrived == ["begins"]
            scene.line.down = False
        else:
            await scene.repair()
            await turns(20)
            assert scene.arrived == ["begins"] and not connecting.done() and client.state == "opening"
            assert scene.back == [], "what `open` prepares is not ready yet"
            scene.release.set()
        await connecting
        await waiting
        await turns_until(lambda: len(scene.arrived) == 5)
        assert scene.arrived == ["begins", "asks", "ends", "waits", "waits, too"]
        await turns_until(lambda: scene.back)
        assert (scene.began, scene.back) == (1, [True])
        await scene.close()


@pytest.mark.parametrize("how", ["emit", "emit_nowait", "request in a task"])
@pytest.mark.parametrize("refused", [False, True])
async def test_what_open_handlers_send_without_a_connection_leaves_before_what_waited_for_them(
    refused: bool, how: str
) -> None:
    scene = Opening()
    client = scene.client = Client("ws://server/", dial=scene.line.dial, reconnect=SOON)
    entered, gate = asyncio.Event(), asyncio.Event()
    asked: list[asyncio.Task[Any]] = []

    @client.on("open")
    async def opened() -> None:
        entered.set()
        await gate.wait()
        if refused:
            refuse(scene.line.connections[-1][0])
        if how == "emit":
            await client.emit("note", "handler")
        elif how == "emit_nowait":
            client.emit_nowait("note", "handler")
        else:
            asked.append(asyncio.create_task(client.request("ask", "handler")))
            await turns(5)

    async with asyncio.timeout(20):
        connecting = asyncio.create_task(client.connect())
        await entered.wait()
        await client.emit("note", "waited")
        await scene.is_resumable()
        if not refused:
            await scene.cut()
        gate.set()
        await turns(20)
        if refused:
            await scene.cut()
        core = core_of(client.peer)
        await turns_until(lambda: core.messages.queued == 2 and core.session.lives and core.out.opening is None)
        await client.emit("note", "later")
        await scene.repair("connected")
        await connecting
        await turns_until(lambda: len(scene.arrived) == 3)
        assert scene.arrived == ["handler", "waited", "later"]
        assert await asyncio.gather(*asked) == ["handler"] * len(asked)
        await scene.close()


async def test_on_reconnect_handlers_of_a_new_session_run_on_and_none_is_left_out() -> None:
    scene = Opening()
    client = scene.client
    scene.release.set()
    entered, go_on = asyncio.Event(), asyncio.Event()
    told: list[tuple[str, bool]] = []

    @client.on_reconnect
    async def slow(info: ReconnectInfo) -> None:
        told.append(("slow", info.resumed))
        entered.set()
        await go_on.wait()
        await client.emit("note", f"slow, {info.resumed}")

    @client.on_reconnect
    def last(info: ReconnectInfo) -> None:
        told.append(("last", info.resumed))

    async with asyncio.timeout(20):
        await client.connect()
        await scene.server.peers[0].close(1012, "restart")
        await entered.wait()
        scene.arrived.clear()
        await scene.is_resumable()
        for _ in range(3):
            await scene.cut()
            await scene.repair()
        assert told == [("slow", False)]
        go_on.set()
        await turns_until(lambda: len(told) == 4)
        assert told == [("slow", False), ("last", False), ("slow", True), ("last", True)]
        assert scene.back == [False, True] and scene.began == 2
        await turns_until(lambda: len(scene.arrived) == 2)
        assert scene.arrived == ["slow, False", "slow, True"]
        await scene.close()


@pytest.mark.filterwarnings("error")
async def test_on_reconnect_handlers_that_are_cancelled_leave_nothing() -> None:
    async with story(client=Limits(close_timeout=0.01)) as s:
        began = asyncio.Event()
        told: list[str] = []

        @s.client.on_reconnect
        async def slow() -> None:
            began.set()
            await asyncio.Event().wait()

        @s.client.on_reconnect
        def never() -> None:
            told.append("never")

        await s.cut()
        await s.repair()
        await began.wait()
        await s.client.close()
        gc.collect()  # where a coroutine was never awaited, Python says so now
        assert told == []


async def test_an_on_reconnect_handler_of_a_session_that_goes_on_may_close() -> None:
    async with story(client=Limits(close_timeout=60)) as s, asyncio.timeout(5):
        closed = asyncio.Event()

        @s.client.on_reconnect
        async def close() -> None:
            await asyncio.create_task(s.client.close())
            closed.set()

        await s.cut()
        s.line.down = False
        await closed.wait()  # the close does not wait for the handler that waits for it


async def test_on_reconnect_handlers_are_called_after_one_that_is_cancelled_elsewhere() -> None:
    async with story() as s:

        @s.client.on_reconnect
        async def cancelled() -> None:
            waiting = asyncio.get_running_loop().create_future()
            waiting.cancel()
            await waiting

        told: list[bool] = []
        s.client.on_reconnect(lambda info: told.append(info.resumed))
        await s.cut()
        await s.repair()
        await turns_until(lambda: told)


async def test_on_reconnect_handlers_are_not_left_out_where_the_transport_refuses_what_open_handlers_send() -> None:
    scene = Opening()
    client = scene.client
    gate = asyncio.Event()

    @client.on("connect")
    async def opened() -> None:
        if scene.began == 2:
            await gate.wait()
            refuse(scene.line.connections[-1][0])
            await client.emit("note", "opened")

    @client.on_reconnect
    async def subscribe(info: ReconnectInfo) -> None:
        if not info.resumed:
            await client.emit("note", "subscribe")

    scene.release.set()
    async with asyncio.timeout(20):
        await client.connect()
        await scene.server.peers[0].close(1012, "restart")
        await turns_until(lambda: scene.began == 2 and client.peer.connected)
        await scene.is_resumable()
        await client.emit("note", "waited")
        scene.arrived.clear()
        gate.set()
        await turns(20)
        scene.line.cut()
        await turns_until(lambda: len(scene.arrived) == 3)
        assert scene.arrived == ["opened", "subscribe", "waited"]
        assert scene.back == [False, True]
        await scene.close()


@pytest.mark.parametrize("call", ["wait_connected", "connect"])
async def test_an_open_handler_that_waits_for_the_connection_does_not_wait_for_itself(call: str) -> None:
    scene = Opening()
    client = scene.client = Client("ws://server/", dial=scene.line.dial, reconnect=SOON)
    began, waits, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        began.set()
        await scene.release.wait()
        waits.set()
        await getattr(client, call)()
        assert client.state == "opening"
        done.set()

    async with asyncio.timeout(5):  # less than Limits.open_handlers
        connecting = asyncio.create_task(client.connect())
        other = asyncio.create_task(client.wait_connected())
        await began.wait()
        await scene.is_resumable()
        await scene.cut()
        scene.release.set()
        await waits.wait()
        await turns(5)
        scene.line.down = False
        await done.wait()
        assert not connecting.done() and not other.done()
        await asyncio.gather(connecting, other)
        assert client.state == "connected"
        await scene.close()


@pytest.mark.parametrize("refused", [False, True])
async def test_an_open_handler_that_fails_while_the_session_goes_on_is_an_error_in_the_log(
    refused: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing calls it again, so it must not look as if its connection had ended."""
    scene = Opening()
    client = scene.client = Client("ws://server/", dial=scene.line.dial, reconnect=SOON)
    began = asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        began.set()
        await scene.release.wait()
        if refused:
            refuse(scene.line.connections[-1][0])
        await client.request("ask", "now or never", offline="fail")

    async with asyncio.timeout(20):
        connecting = asyncio.create_task(client.connect())
        await began.wait()
        await scene.is_resumable()
        if not refused:
            await scene.cut()
        scene.release.set()
        await turns(20)
        if refused:
            await scene.cut()
        await scene.repair("connected")
        await connecting
        failed = [each for each in caplog.records if opened.__qualname__ in each.getMessage()]
        assert [(each.levelname, bool(each.exc_info)) for each in failed] == [("ERROR", True)]
        await scene.close()


async def test_a_service_that_fails_while_the_connection_is_lost_is_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Opening()
    began = asyncio.Event()

    class Failing(Service):
        async def on_open(self) -> None:
            began.set()
            await scene.release.wait()
            raise ValueError("on_open has failed")

    scene.server.add_service(Failing)
    client = scene.client = Client("ws://server/", dial=scene.line.dial, reconnect=SOON)
    async with asyncio.timeout(20):
        await client.connect()
        await began.wait()
        await scene.is_resumable()
        await scene.cut()
        scene.release.set()
        await turns_until(lambda: not scene.server.peers)
        failed = [each for each in caplog.records if "on_open" in each.getMessage()]
        assert [(each.levelname, bool(each.exc_info)) for each in failed] == [("ERROR", True)]
        await scene.close()


async def test_open_handlers_are_cancelled_with_their_session_and_called_again_for_the_next() -> None:
    clock = Clock()
    scene = Opening(detached=5, clock=clock)
    client = scene.client
    async with asyncio.timeout(20):
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: scene.began)
        await scene.is_resumable()
        await scene.cut()
        clock.advance(6)
        await turns(5)
        scene.line.down = False
        await turns_until(lambda: scene.began == 2)
        scene.release.set()
        await connecting
        await turns_until(lambda: len(scene.arrived) == 4)
        assert scene.arrived == ["begins", "begins", "asks", "ends"]
        assert (scene.began, scene.back) == (2, [False])
        await scene.close()


async def test_who_sends_in_an_open_handler_may_fail_instead_of_waiting() -> None:
    scene = Opening()
    client, errors, tried = scene.client, [], asyncio.Event()

    async def opened() -> None:
        await tried.wait()
        for send in (client.emit, client.request):
            try:
                await send("note", "now or never", offline="fail")
            except ConnectionLost as exc:
                errors.append(exc.outcome)
        try:
            client.emit_nowait("note", "now or never", offline="fail")
        except ConnectionLost as exc:
            errors.append(exc.outcome)

    client.on("connect", opened)
    scene.release.set()
    async with asyncio.timeout(20):
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: len(scene.arrived) == 3)
        await scene.is_resumable()
        await scene.cut()
        tried.set()
        await turns_until(lambda: len(errors) == 3)
        scene.line.down = False
        await connecting
        assert errors == ["not_sent"] * 3 and "now or never" not in scene.arrived
        await scene.close()


@pytest.mark.parametrize("send", ["emit", "request", "emit_nowait"])
@pytest.mark.parametrize("who", ["an open handler", "anybody"])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_what_may_not_wait_fails_where_the_transport_refuses_it(side: str, who: str, send: str) -> None:
    server = Server()
    line = Line(server)
    client = Client("ws://server/", dial=line.dial, reconnect=SOON)
    gate, tried = asyncio.Event(), asyncio.Event()
    told: list[str] = []
    outcomes: list[str] = []

    async def try_it(peer: Peer) -> None:
        refuse(line.connections[-1][0 if side == "client" else 1])
        try:
            result = getattr(peer, send)("tell", "now or never", offline="fail")
            if result is not None:
                await result
        except ConnectionLost as exc:
            outcomes.append(exc.outcome)
        tried.set()

    async def opened(peer: Peer) -> None:
        await gate.wait()
        if who == "an open handler":
            await try_it(peer)

    (client if side == "client" else server).on("open", opened)
    for end in (client, server):
        end.on("tell", told.append)
    async with asyncio.timeout(5):
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: core_of(client.peer).session.resumable)
        await turns(20)
        gate.set()
        if who == "anybody":
            await connecting
            await turns(20)
            await try_it(client.peer if side == "client" else server.peers[0])
        await turns(20)
        line.cut()
        await tried.wait()
        await connecting
        await turns_until(lambda: len(line.connections) == 2 and client.connected)
        assert await client.request("tell", "it goes on") is None
        assert (outcomes, told) == (["not_sent"], ["it goes on"])
        await client.close()
        await server.close()


@pytest.mark.parametrize("who", ["the handler", "what waits"])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_handlers_that_are_done_when_the_transport_refuses_hold_nothing_back(side: str, who: str) -> None:
    server = Server()
    line = Line(server)
    gate = asyncio.Event()
    told: list[int] = []
    client = Client("ws://server/", dial=line.dial, reconnect=SOON)

    async def opened(peer: Peer) -> None:
        await gate.wait()
        refuse(line.connections[-1][0 if side == "client" else 1])
        if who == "the handler":
            await peer.emit("tell", 0)

    (client if side == "client" else server).on("open", opened)
    server.on("add", lambda a, b: a + b)
    for end in (client, server):
        end.on("tell", told.append)
    async with asyncio.timeout(20):
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: core_of(client.peer).session.resumable)
        await turns(20)
        asked = asyncio.create_task(client.request("add", 1, 2))
        await turns(5)
        gate.set()
        await turns(5)
        line.cut()
        await connecting
        assert await asked == 3
        await server.peers[0].emit("tell", 1)
        await turns_until(lambda: 1 in told)
        assert told == ([0, 1] if who == "the handler" else [1]) and len(line.connections) == 2
        await client.close()
        await server.close()
