"""`on_reconnect` handlers: they run while the connection opens, after `open` and before the offline queue leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from core_driver import said_in
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Limits, Peer, ReconnectInfo, Server, current_context
from wsrpc.testing import memory_transports
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
IMPATIENT = Limits(close_timeout=0.05, open_handlers=0.05)


class Scene:
    """A client without a URL, which is bound to connections in memory, and what arrives at the server."""

    def __init__(self, limits: Limits = LIMITS, **options: Any) -> None:
        self.server = Server(limits=LIMITS)
        self.arrived: list[Any] = []
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.server.on("note", self._note)
        self.server.on("ask", self._ask)
        self.client = Client(limits=limits, **options)
        self.transport: Any = None

    def _note(self, what: Any) -> None:
        self.arrived.append(what)
        self.queue.put_nowait(what)

    def _ask(self, what: Any) -> Any:
        self._note(what)
        return what

    async def bind(self) -> None:
        async with asyncio.timeout(8):
            await asyncio.gather(*self.begin_bind(), return_exceptions=False)

    def begin_bind(self) -> tuple[asyncio.Task[None], asyncio.Task[Peer | RawConnection]]:
        self.transport, theirs = memory_transports(limits=LIMITS)
        accepting = asyncio.ensure_future(self.server.accept(theirs))
        return asyncio.ensure_future(self.client.bind(self.transport)), accepting

    async def drop(self) -> None:
        self.transport.abort()
        await turns_until(lambda: not self.client.connected and not self.server.peers)

    async def expect(self, *whats: Any) -> None:
        async with asyncio.timeout(8):
            assert [await self.queue.get() for _ in whats] == list(whats)
        assert self.queue.empty()

    async def close(self) -> None:
        await self.client.close()
        await self.server.close()


@pytest.fixture
async def scene() -> AsyncGenerator[Scene]:
    played = Scene()
    yield played
    await played.close()


@pytest.mark.parametrize("opens", ["sync", "async"])
async def test_open_then_on_reconnect_then_what_waited(scene: Scene, opens: str) -> None:
    client = scene.client
    answers: list[Any] = []

    def sync_open() -> None:
        client.emit_nowait("note", "open")

    async def async_open() -> None:
        await asyncio.sleep(0)
        await client.emit("note", "open")

    client.on("open", sync_open if opens == "sync" else async_open)

    @client.on_reconnect
    async def first(info: ReconnectInfo) -> None:
        answers.append(await client.request("ask", "first asks"))
        client.emit_nowait("note", "first emits")

    @client.on_reconnect
    def second() -> None:
        client.emit_nowait("note", "second", offline="fail")

    await scene.bind()
    await scene.expect("open")
    await scene.drop()
    await client.emit("note", "waited")
    waiting = asyncio.create_task(client.request("ask", "waited, too"))
    await asyncio.sleep(0)
    await scene.bind()
    assert await waiting == "waited, too"
    await scene.expect("open", "first asks", "first emits", "second", "waited", "waited, too")
    assert answers == ["first asks"]


async def test_what_others_send_meanwhile_waits_for_them(scene: Scene) -> None:
    client = scene.client
    entered, may_end = asyncio.Event(), asyncio.Event()

    @client.on_reconnect
    async def subscribe() -> None:
        entered.set()
        await may_end.wait()
        await client.request("ask", "subscribed")

    await scene.bind()
    await scene.drop()
    binding, accepting = scene.begin_bind()
    await entered.wait()
    client.emit_nowait("note", "one")
    others = [asyncio.create_task(client.emit("note", "two")), asyncio.create_task(client.request("ask", "three"))]
    waiting = asyncio.create_task(client.wait_connected())
    for _ in range(10):
        await asyncio.sleep(0)
    assert (client.state, client.connected) == ("opening", True)
    assert scene.arrived == [] and not binding.done() and not waiting.done()
    may_end.set()
    await asyncio.gather(binding, accepting, waiting, *others)
    assert client.state == "connected"
    await scene.expect("subscribed", "one", "two", "three")


async def test_events_are_held_back_while_they_run_and_requests_are_not(scene: Scene) -> None:
    client = scene.client
    told: list[str] = []
    may_end = asyncio.Event()
    client.on("tell", told.append)
    client.on("name", lambda: "Ada")

    @client.on_reconnect
    async def subscribe() -> None:
        await may_end.wait()
        told.append("returns")

    await scene.bind()
    await scene.drop()
    binding, accepting = scene.begin_bind()
    peer = await accepting
    assert isinstance(peer, Peer)
    await peer.emit("tell", "news")
    assert await peer.request("name") == "Ada"
    assert told == []
    may_end.set()
    await binding
    await turns_until(lambda: told == ["returns", "news"])


async def test_they_run_one_after_another_in_the_order_of_their_registration(scene: Scene) -> None:
    client = scene.client
    steps: list[str] = []

    @client.on_reconnect
    async def login(info: ReconnectInfo) -> None:
        steps.append(f"login {current_context().event}")
        await client.wait_connected()  # it is connected, as far as this handler is concerned
        await client.request("ask", "login")
        steps.append("logged in")

    @client.on_reconnect
    def between() -> None:
        steps.append("between")
        client.on_reconnect(lambda: steps.append("next time"))

    @client.on_reconnect
    async def subscribe() -> None:
        steps.append("subscribe")

    await scene.bind()
    assert steps == []
    await scene.drop()
    await scene.bind()
    assert steps == ["login on_reconnect", "logged in", "between", "subscribe"]
    await scene.drop()
    await scene.bind()
    assert steps[-1] == "next time"


async def cancel_something_else() -> None:
    inner = asyncio.ensure_future(asyncio.Event().wait())
    asyncio.get_running_loop().call_soon(inner.cancel)
    await inner


async def lose_something_else() -> None:
    raise ConnectionLost(1006, "of another client")


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says about handlers."""
    return [said_in(record) for record in caplog.records if "the handler of" in record.getMessage()]


def divide() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("bad", [divide, cancel_something_else, lose_something_else])
async def test_one_that_raises_is_in_the_log_and_the_others_run(
    scene: Scene, bad: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    client = scene.client
    client.on_reconnect(bad)
    client.on_reconnect(lambda: client.emit_nowait("note", "good"))
    await scene.bind()
    await scene.drop()
    await client.emit("note", "waited")
    await scene.bind()
    await scene.expect("good", "waited")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert said_in(record) == f"the handler of 'on_reconnect', {bad.__name__}, failed"
    assert record.exc_info is not None


async def test_one_that_takes_too_long_is_named_and_the_queue_leaves(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(IMPATIENT)
    client = scene.client
    cancelled = asyncio.Event()
    goes_on = asyncio.Event()

    @client.on_reconnect
    async def reads_for_ever() -> None:
        try:
            await goes_on.wait()
            await client.emit("note", "went on")
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    await scene.bind()
    await scene.drop()
    await client.emit("note", "waited")
    await scene.bind()
    await scene.expect("waited")
    (text,) = complaints(caplog)
    name = reads_for_ever.__qualname__
    assert (
        text == f"the handler of 'on_reconnect' {name} has not finished within 0.05 s: messages no longer wait for it"
    )
    goes_on.set()
    await scene.expect("went on")
    assert not cancelled.is_set()  # it goes on beside everything else
    await scene.close()
    assert cancelled.is_set()


async def test_each_of_the_two_stages_has_its_own_time(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(IMPATIENT)
    client = scene.client
    never = asyncio.Event()
    client.on("open", never.wait)

    @client.on_reconnect
    async def subscribe() -> None:
        await client.request("ask", "subscribed")

    await scene.bind()
    await scene.drop()
    await client.emit("note", "waited")
    await scene.bind()
    await scene.expect("subscribed", "waited")
    late = "the handler of 'open' Event.wait has not finished within 0.05 s: messages no longer wait for it"
    assert complaints(caplog) == [late, late]
    never.set()
    await scene.close()


@pytest.mark.parametrize("where", ["open", "on_reconnect"])
async def test_a_drop_meanwhile_stops_them_and_what_waits_is_sent_once(scene: Scene, where: str) -> None:
    client = scene.client
    entered: asyncio.Queue[str] = asyncio.Queue()
    endings: list[str] = []
    may_end = asyncio.Event()

    async def waits() -> None:
        entered.put_nowait("entered")
        try:
            await may_end.wait()
        except asyncio.CancelledError as exc:
            endings.append(str(exc))
            raise
        endings.append("returned")

    async def asks() -> None:
        await client.request("ask", "subscribed")

    await scene.bind()
    client.on("open", waits if where == "open" else None)
    client.on_reconnect(waits if where == "on_reconnect" else asks)
    if where == "on_reconnect":
        client.on_reconnect(asks)
    await scene.drop()
    await client.emit("note", "waited")
    binding, accepting = scene.begin_bind()
    await entered.get()
    await accepting
    await scene.drop()
    with pytest.raises(ConnectionLost):
        await binding
    assert endings == ["the connection ended"]
    assert scene.arrived == [] and client.state == "idle"
    may_end.set()
    await scene.bind()
    await scene.expect("subscribed", "waited")
    assert endings == ["the connection ended", "returned"]


async def test_a_request_of_one_fails_when_the_connection_drops(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    client = scene.client
    lost: list[ConnectionLost] = []
    parked = asyncio.Event()

    async def park() -> None:
        parked.set()
        await asyncio.Event().wait()

    scene.server.on("park", park)

    async def asks() -> None:
        try:
            await client.request("park")
        except ConnectionLost as exc:
            lost.append(exc)
            raise

    await scene.bind()
    client.on_reconnect(asks)
    await scene.drop()
    binding, accepting = scene.begin_bind()
    await parked.wait()
    await scene.drop()
    with pytest.raises(ConnectionLost):
        await binding
    await accepting
    assert all(error.outcome == "unknown" for error in lost)
    assert client.peer.pending == 0
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("way", ["await", "task"])
async def test_close_in_one_writes_what_waited_and_ends(scene: Scene, way: str) -> None:
    client = scene.client
    closed: asyncio.Future[asyncio.Future[None]] = asyncio.get_running_loop().create_future()

    async def leave() -> None:
        await client.emit("note", "bye")
        closing = asyncio.ensure_future(client.close(4000, "enough"))
        closed.set_result(closing)
        if way == "await":
            await closing

    await scene.bind()
    client.on_reconnect(leave)
    others: list[ReconnectInfo] = []
    client.on_reconnect(others.append)
    await scene.drop()
    await client.emit("note", "waited")
    binding, accepting = scene.begin_bind()
    await accepting
    await (await closed)
    with pytest.raises(ConnectionLost) as caught:
        await binding
    assert (caught.value.code, caught.value.reason) == (4000, "enough")
    assert client.state == "closed"
    await scene.expect("bye", "waited")
    assert len(others) == (way == "task")  # which has not begun to close yet


async def test_bind_in_one_takes_the_new_connection(scene: Scene) -> None:
    client = scene.client
    binds = 0

    async def bind_once() -> None:
        nonlocal binds
        binds += 1
        if binds == 1:
            await asyncio.gather(*scene.begin_bind())
        else:
            await client.emit("note", "the second")

    await scene.bind()
    client.on_reconnect(bind_once)
    await scene.drop()
    await client.emit("note", "waited")
    binding, accepting = scene.begin_bind()
    with pytest.raises(ConnectionLost) as caught:
        await binding
    assert caught.value.code == 1001
    await accepting
    await client.wait_connected()
    await scene.expect("the second", "waited")
    assert binds == 2


async def test_long_work_goes_into_a_task(scene: Scene) -> None:
    client = scene.client
    lines: list[int] = []
    complete = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    @scene.server.on("follow")
    async def follow(position: int) -> AsyncIterator[int]:
        for number in range(position, 6):
            yield number
            if number == 2 and position == 0:
                await asyncio.Event().wait()

    async def read_on() -> None:
        try:
            async with client.stream("follow", len(lines), returns=int, offline="fail") as stream:
                async for line in stream:
                    lines.append(line)
                    if line == 2:
                        scene.transport.abort()
        except ConnectionLost:
            return
        complete.set()

    @client.on_reconnect
    def again() -> None:
        task = asyncio.create_task(read_on())
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    await scene.bind()
    await read_on()
    await turns_until(lambda: not scene.server.peers)
    await scene.bind()
    await complete.wait()
    assert lines == list(range(6))


async def test_the_first_connection_calls_none_and_after_close_the_next_is_the_first_again(scene: Scene) -> None:
    client = scene.client
    infos: list[ReconnectInfo] = []
    calls: list[Callable[[], Awaitable[None]]] = [scene.bind, scene.drop, scene.bind, scene.client.close, scene.bind]
    client.on_reconnect(infos.append)
    counts = []
    for call in calls:
        await call()
        counts.append(len(infos))
    assert counts == [0, 0, 1, 1, 1]
