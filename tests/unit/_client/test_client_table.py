"""Every cell of the table of a client's states: played with a real client, and shown in the docs as it is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from client_driver import lost as lost_by
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import raw_server
from tenacity import RetryCallState
from tenacity.wait import wait_base

from wsrpc import (
    Client,
    CloseInfo,
    ConnectFailed,
    ConnectionLost,
    HandshakeRejected,
    Limits,
    Reconnect,
    Server,
    SessionLost,
    dial,
)
from wsrpc._client.client import core_of
from wsrpc._client.states import STATES, TABLE, Input, after
from wsrpc.types import ClientState

LIMITS = Limits(close_timeout=2.0)
CELLS = [(state, happened) for state in STATES for happened in TABLE[state]]


class Delays(wait_base):
    """Waits for ever, unless told otherwise."""

    def __init__(self) -> None:
        self.next = 1e6

    def __call__(self, retry_state: RetryCallState) -> float:
        return self.next


class Scene:
    """A client whose dialing, `open` handlers and closing the test holds in its hand."""

    def __init__(self, real_url: str, server: Server, **options: Any) -> None:
        self.delays = Delays()
        self.asked: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
        self.real_url = real_url
        self.server = server
        given = {"reconnect": Reconnect(wait=self.delays), "connect_timeout": None, "limits": LIMITS} | options
        self.client = Client(given.pop("url", self.ask), **given)
        self.ready = asyncio.Event()
        self.opening = asyncio.Event()
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.parked = asyncio.Event()
        self.server.on("park", self._park)
        self.server.on("add", lambda a, b: a + b)
        self.ended: asyncio.Queue[int] = asyncio.Queue()
        self.server.on("close", lambda peer, info: self.ended.put_nowait(info.code))
        self.url: asyncio.Future[str]
        self.closings: asyncio.Queue[CloseInfo] = asyncio.Queue()
        self.client.on("open", self._open)
        self.client.on("hold", self._hold)
        self.client.on("close", lambda peer, info: self.closings.put_nowait(info))
        self.tasks: list[asyncio.Task[Any]] = []
        self.in_flight: asyncio.Task[None]
        """A request in the session, whose connection was dropped."""

    async def ask(self) -> str:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.asked.put_nowait(future)
        return await future

    async def _open(self) -> None:
        self.opening.set()
        await self.ready.wait()

    async def _hold(self) -> None:
        self.held.set()
        await self.release.wait()

    async def _park(self) -> None:
        self.parked.set()
        await asyncio.Event().wait()

    def end_the_wait(self) -> None:
        # What a machine that wakes up does.
        core_of(self.client).woke(3600.0)

    def start(self, call: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(call)
        self.tasks.append(task)
        return task

    def drop(self) -> None:
        self.client.peer.info.underlying.transport.abort()

    async def bind(self) -> asyncio.Task[None]:
        transport = await dial(self.real_url, limits=LIMITS)
        self.opening.clear()
        task = self.start(self.client.bind(transport))
        await self.opening.wait()
        return task

    async def reach(self, state: ClientState) -> asyncio.Task[None] | None:
        """Bring the client into ``state``; returns the call of `connect` or `bind` that goes on."""
        call = None
        if state != "idle":
            if not core_of(self.client).plan.dials:
                call = await self.bind()
            else:
                call = self.start(self.client.connect())
                self.url = url = await self.asked.get()
                if state == "waiting":
                    url.set_exception(OSError("nobody there"))
                    await turns_until(lambda: self.client.state == "waiting")
                elif state != "connecting":
                    url.set_result(self.real_url)
                    await self.opening.wait()
        if state not in ("idle", "connecting", "waiting", "opening"):
            self.ready.set()
            assert call is not None
            await call
            self.ready.clear()
        if state in ("closing", "closed"):
            await self.server.peers[0].emit("hold")
            await self.held.wait()
            closing = self.start(self.client.close())
            await self.closings.get()
        if state == "closed":
            self.release.set()
            await closing
            self.release.clear()
        if state in ("detached", "resuming"):
            await self.is_resumable()
            self.opening.clear()
            self.in_flight = self.start(self.client.request("park"))
            await self.parked.wait()
            self.parked.clear()
            self.drop()
            await turns_until(lambda: self.client.state == "detached")
        if state == "resuming":
            self.end_the_wait()
            self.url = await self.asked.get()
        assert self.client.state == state and f" {state} " in repr(self.client)
        return call

    async def is_resumable(self) -> None:
        """Wait until the session would survive a drop."""
        await turns_until(lambda: core_of(self.client).peer_core.session.resumable)

    async def drop_while_opening(self) -> asyncio.Task[None]:
        """Connect, and drop the connection while the `open` handlers run. Return the call of `connect`."""
        call = await self.reach("opening")
        assert call is not None
        await self.is_resumable()
        self.opening.clear()
        self.drop()
        await turns_until(lambda: self.client.state == "detached")
        return call

    async def lost(self) -> SessionLost:
        """Return what the request that was in flight in the session gets."""
        error = await lost_by(self.in_flight, "unknown")
        assert isinstance(error, SessionLost)
        return error

    async def goes_on(self) -> None:
        """Wait until the session goes on, and assert that nothing in it has ended."""
        await turns_until(lambda: self.client.state == "connected")
        assert not self.in_flight.done() and not self.opening.is_set() and self.closings.empty()
        assert await self.client.request("add", 1, 2) == 3


@asynccontextmanager
async def scene(*, server_limits: Limits = LIMITS, detached: float = 60.0, **options: Any) -> AsyncGenerator[Scene]:
    server = Server(limits=server_limits, detached=detached)
    async with asyncio.timeout(8), server.listen() as listener:
        played = Scene(listener.url, server, **options)
        try:
            yield played
        finally:
            played.ready.set()
            played.release.set()
            await played.client.close()
            for task in played.tasks:
                task.cancel()
            await asyncio.gather(*played.tasks, return_exceptions=True)


Play = Callable[[ClientState], Awaitable[None]]
PLAYS: dict[Input, Play] = {}


def plays(happened: Input) -> Callable[[Play], Play]:
    def register(play: Play) -> Play:
        PLAYS[happened] = play
        return play

    return register


@plays(Input.CONNECT)
async def connect(state: ClientState) -> None:
    async with scene() as played:
        earlier = await played.reach(state)
        played.opening.clear()
        call = played.start(played.client.connect())
        await asyncio.sleep(0)
        assert played.client.state == after(state, Input.CONNECT)
        if state in ("waiting", "detached"):
            played.end_the_wait()
        if state in ("detached", "resuming"):
            (played.url if state == "resuming" else await played.asked.get()).set_result(played.real_url)
            await played.goes_on()
        elif state not in ("opening", "connected"):
            url = played.url if state == "connecting" else await played.asked.get()
            url.set_result(played.real_url)
            await played.opening.wait()
        if state not in ("connected", "detached", "resuming"):
            assert not call.done()
            played.ready.set()
        await call
        if earlier is not None:
            await earlier
        assert played.client.state == "connected" and len(played.server.peers) == 1


@plays(Input.BIND)
async def bind(state: ClientState) -> None:
    async with scene() as played:
        earlier = await played.reach(state)
        pending = played.start(played.client.request("park")) if state == "connected" else None
        if pending is not None:
            await played.parked.wait()
        # What no connection has sent yet waits for the new one.
        queued = (
            None if state in ("connected", "closing", "closed") else played.start(played.client.request("add", 1, 2))
        )
        await asyncio.sleep(0)
        old = played.client.peer.transport
        binding = await played.bind()
        assert played.client.state == after(state, Input.BIND)
        assert played.client.peer.transport is not old
        played.ready.set()
        await binding
        if earlier is not None:
            await earlier  # whoever waited for a connection has this one
        assert played.client.state == "connected"
        assert await (queued or played.client.request("add", 1, 2)) == 3
        if pending is not None:
            assert (await lost_by(pending, "unknown")).code == 1001
            assert await played.ended.get() == 1001, "the server is told"
        if old is not None:
            info = await played.closings.get()
            assert (info.code, info.will_reconnect) == (1001, True)
        if state in ("detached", "resuming"):
            info = await played.closings.get()
            assert (info.code, info.will_reconnect) == (1006, True)
            assert (await played.lost()).reason == "another connection was bound"
        assert played.asked.empty()


@plays(Input.CLOSE)
async def close(state: ClientState) -> None:
    async with scene() as played:
        earlier = await played.reach(state)
        waiting = [] if earlier is None or earlier.done() else [earlier]
        closing = played.start(played.client.close(4000, "enough"))
        await asyncio.sleep(0)
        assert played.client.state == after(state, Input.CLOSE)
        if state == "closing":
            await turns()
            assert not any(task.done() for task in played.tasks[-2:]), "both wait for the handler"
        played.ready.set()
        played.release.set()
        await closing
        assert played.client.state == "closed"
        for call in waiting:
            error = await lost_by(call, "not_sent")
            assert (error.code, error.reason) == (4000, "enough")
        if state in ("opening", "connected"):
            info = await played.closings.get()
            assert (info.code, info.reason, info.user_closed, info.will_reconnect) == (4000, "enough", True, False)
        if state in ("detached", "resuming"):
            info = await played.closings.get()
            assert (info.code, info.user_closed, info.will_reconnect) == (4000, True, False)
            assert "closed on this side: enough" in str(await played.lost())


@plays(Input.CANCELLED)
async def cancelled(state: ClientState) -> None:
    async with scene() as played:
        call = await played.reach(state)
        assert call is not None
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        assert played.client.state == after(state, Input.CANCELLED)


@plays(Input.DIALED)
async def dialed(state: ClientState) -> None:
    async with scene() as played:
        await played.reach(state)
        if state == "resuming":  # it stays, until the server answers
            async with raw_server() as silent:
                played.url.set_result(silent.url)
                await silent.accept_tcp()
                assert played.client.state == after(state, Input.DIALED)
            return
        played.url.set_result(played.real_url)
        await played.opening.wait()
        assert played.client.state == after(state, Input.DIALED)


@plays(Input.FAILED)
async def failed(state: ClientState) -> None:
    async with scene() as played:
        await played.reach(state)
        played.url.set_exception(OSError("nobody there"))
        await turns_until(lambda: played.client.state == after(state, Input.FAILED))


@plays(Input.AGAIN)
async def again(state: ClientState) -> None:
    async with scene() as played:
        await played.reach(state)
        played.end_the_wait()
        await played.asked.get()
        assert played.client.state == after(state, Input.AGAIN)


@plays(Input.GAVE_UP)
async def gave_up(state: ClientState) -> None:
    options: dict[str, Any] = {}
    if state == "waiting":
        options = {"connect_timeout": 0.05}
    elif state == "detached":
        options = {"connect_timeout": 2.0}  # enough for the first connection, and not for its `open` handlers
    elif state not in ("connecting", "resuming"):
        options = {"reconnect": None}
    async with scene(**options) as played:
        if state == "waiting":  # the time may be over at any moment
            call = played.start(played.client.connect())
            (await played.asked.get()).set_exception(OSError("nobody there"))
            with pytest.raises(ConnectFailed):
                await call
        elif state == "detached":
            call = await played.drop_while_opening()
            with pytest.raises(ConnectFailed):
                await call
        else:
            await played.reach(state)
        queued = None
        if state in ("connecting", "opening"):
            queued = played.start(played.client.request("add", 1, 2))
            await asyncio.sleep(0)
        if state in ("connecting", "resuming"):
            played.url.set_exception(HandshakeRejected(403))
        elif state not in ("waiting", "detached"):
            played.drop()
        await turns_until(lambda: played.client.state == after(state, Input.GAVE_UP))
        if queued is not None:
            await lost_by(queued, "not_sent")
        if state == "resuming":
            assert "gave up" in (await played.lost()).reason
        with pytest.raises((HandshakeRejected, ConnectionLost, ConnectFailed)):
            await played.client.wait_connected()


@plays(Input.DETACHED)
async def detached(state: ClientState) -> None:
    async with scene() as played:
        if state == "connected":
            await played.reach("detached")  # by a drop
            return
        if state == "opening":
            await played.drop_while_opening()
            return
        await played.reach(state)
        async with raw_server() as drops:
            played.url.set_result(drops.url)
            (await drops.accept()).drop()
            await turns_until(lambda: played.client.state == after(state, Input.DETACHED))
        played.end_the_wait()
        (await played.asked.get()).set_result(played.real_url)
        await played.goes_on()


@plays(Input.RESUMED)
async def resumed(state: ClientState) -> None:
    async with scene() as played:
        await played.reach(state)
        played.url.set_result(played.real_url)
        await played.goes_on()
        assert played.client.state == after(state, Input.RESUMED)


@plays(Input.REOPENED)
async def reopened(state: ClientState) -> None:
    async with scene() as played:
        call = await played.drop_while_opening()
        queued = asyncio.ensure_future(played.client.request("add", 1, 2))
        played.end_the_wait()
        url = await played.asked.get()
        assert played.client.state == state
        url.set_result(played.real_url)
        await turns_until(lambda: played.client.state == after(state, Input.REOPENED))
        assert not call.done() and not queued.done()
        played.ready.set()
        await call
        assert await queued == 3
        assert played.client.state == "connected" and not played.opening.is_set(), "they were called once"


@plays(Input.LOST)
async def lost(state: ClientState) -> None:
    async with scene(detached=0.2) as played:
        await played.reach(state)
        await turns_until(lambda: played.client.state == after(state, Input.LOST))
        assert "in time" in (await played.lost()).reason
        assert (await played.closings.get()).will_reconnect


@plays(Input.OPENED)
async def opened(state: ClientState) -> None:
    async with scene() as played:
        call = await played.reach(state)
        played.ready.set()
        assert call is not None
        await call
        assert played.client.state == after(state, Input.OPENED)


async def ends(state: ClientState, happened: Input, **options: Any) -> None:
    """The connection ends without a session that goes on."""
    async with scene(server_limits=LIMITS.replace(replay=0), **options) as played:
        await played.reach(state)
        played.drop()
        info = await played.closings.get()
        assert info.will_reconnect == (happened is Input.DROPPED)
        assert played.client.state == after(state, happened)


@plays(Input.DROPPED)
async def dropped(state: ClientState) -> None:
    await ends(state, Input.DROPPED)


@plays(Input.LEFT)
async def left(state: ClientState) -> None:
    await ends(state, Input.LEFT, url=None)


@plays(Input.CLOSED)
async def closed(state: ClientState) -> None:
    async with scene() as played:
        await played.reach(state)
        closing = played.start(played.client.close())
        played.release.set()
        await closing
        assert played.client.state == after(state, Input.CLOSED)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("state", "happened"), CELLS, ids=lambda value: getattr(value, "name", value))
async def test_a_cell(state: ClientState, happened: Input) -> None:
    await PLAYS[happened](state)


def test_what_is_in_no_cell_cannot_happen() -> None:
    for state in STATES:
        for happened in Input:
            if happened not in TABLE[state]:
                with pytest.raises(AssertionError, match="cannot happen"):
                    after(state, happened)
    assert set(PLAYS) == set(Input)
