"""Every cell of the table of a client's states, played with a real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from client_driver import NEVER, World, leap
from client_driver import lost as lost_by
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import ConnectFailed, ConnectionLost, HandshakeRejected, Limits, Server, SessionLost
from wsrpc._client.client import core_of
from wsrpc._client.states import STATES, TABLE, Input, after
from wsrpc.testing import MemoryTransport, memory_transports
from wsrpc.types import ClientState

LIMITS = Limits(close_timeout=2.0)
CELLS = [(state, happened) for state in STATES for happened in TABLE[state]]


class Scene(World):
    """A client whose attempts, `open` handlers and closing the test holds in its hand."""

    def __init__(self, server: Server, options: dict[str, Any]) -> None:
        given = {"dial": self.dial, "reconnect": NEVER, "connect_timeout": None, "limits": LIMITS}
        super().__init__(server=server, **given | options)
        self.attempts: asyncio.Queue[asyncio.Future[MemoryTransport | None]] = asyncio.Queue()
        self.attempt: asyncio.Future[MemoryTransport | None]
        """The latest attempt. With None it connects to the server."""
        self.ready, self.opening, self.held, self.release = (asyncio.Event() for _ in range(4))
        self.client.on("connect", self._open)
        self.client.on("hold", self._hold)
        self.tasks: list[asyncio.Task[Any]] = []
        self.in_flight: asyncio.Task[None]
        """A request in the session, whose connection was dropped."""

    async def dial(self, url: str, **options: Any) -> MemoryTransport:
        attempt: asyncio.Future[MemoryTransport | None] = asyncio.get_running_loop().create_future()
        self.attempts.put_nowait(attempt)
        return await attempt or await self.line.dial(url, **options)

    async def _open(self) -> None:
        self.opening.set()
        await self.ready.wait()

    async def _hold(self) -> None:
        self.held.set()
        await self.release.wait()

    def drop(self) -> None:
        assert self.client.peer.transport is not None
        self.client.peer.transport.abort()

    def end_the_wait(self) -> None:
        # What a machine that wakes up does.
        core_of(self.client).woke(3600.0)

    async def reaches(self, state: ClientState) -> None:
        await turns_until(lambda: self.client.state == state)

    def start(self, call: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(call)
        self.tasks.append(task)
        return task

    async def binding(self) -> asyncio.Task[MemoryTransport]:
        self.opening.clear()
        task = self.start(self.bind())
        await self.opening.wait()
        return task

    async def reach(self, state: ClientState) -> asyncio.Task[Any] | None:
        """Bring the client into ``state``; returns the call of `connect` or `bind` that goes on."""
        call: asyncio.Task[Any] | None = None
        if state != "idle":
            if not core_of(self.client).plan.dials:
                call = await self.binding()
            else:
                call = self.start(self.client.connect())
                self.attempt = await self.attempts.get()
                if state == "waiting":
                    self.attempt.set_exception(OSError("nobody there"))
                    await self.reaches("waiting")
                elif state != "connecting":
                    self.attempt.set_result(None)
                    await self.opening.wait()
        if state not in ("idle", "connecting", "waiting", "opening"):
            self.ready.set()
            assert call is not None
            await call
            self.ready.clear()
        if state in ("closing", "closed"):
            await self.peer.emit("hold")
            await self.held.wait()
            closing = self.start(self.client.close())
            await turns_until(lambda: self.closed)
            self.closed.clear()
        if state == "closed":
            self.release.set()
            await closing
            self.release.clear()
        if state in ("detached", "resuming"):
            self.in_flight = self.start(self.client.request("park"))
            await self.parked.wait()
            await self.detach()
        if state == "resuming":
            self.end_the_wait()
            self.attempt = await self.attempts.get()
        assert self.client.state == state and f" {state} " in repr(self.client)
        return call

    async def detach(self) -> None:
        """Drop the connection of a session that survives it."""
        await turns(20)  # by now both sides know that it does
        self.opening.clear()
        self.drop()
        await self.reaches("detached")

    async def drop_while_opening(self) -> asyncio.Task[Any]:
        """Connect, and drop the connection while the `open` handlers run. Return the call of `connect`."""
        call = await self.reach("opening")
        assert call is not None
        await self.detach()
        return call

    async def lost(self) -> SessionLost:
        """Return what the request that was in flight in the session gets."""
        error = await lost_by(self.in_flight, "unknown")
        assert isinstance(error, SessionLost)
        return error

    async def goes_on(self) -> None:
        """Wait until the session goes on, and assert that nothing in it has ended."""
        await self.reaches("connected")
        assert not self.in_flight.done() and not self.opening.is_set() and self.closed == []
        assert await self.client.request("echo", 3) == 3


@asynccontextmanager
async def scene(*, replay: int = LIMITS.replay, detached: float = 60.0, **options: Any) -> AsyncGenerator[Scene]:
    server = Server(limits=LIMITS.replace(replay=replay), detached=detached)
    played = Scene(server, options)
    try:
        yield played
    finally:
        played.ready.set()
        played.release.set()
        await played.client.close()
        for task in played.tasks:
            task.cancel()
        await asyncio.gather(*played.tasks, return_exceptions=True)
        await server.close()


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
        if state not in ("opening", "connected"):
            attempt = played.attempt if state in ("connecting", "resuming") else await played.attempts.get()
            attempt.set_result(None)
        if state in ("detached", "resuming"):
            await played.goes_on()
        elif state not in ("opening", "connected"):
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
        codes: list[int] = []
        played.server.on("close", lambda peer, info: codes.append(info.code))
        earlier = await played.reach(state)
        pending = played.start(played.client.request("park")) if state == "connected" else None
        if pending is not None:
            await played.parked.wait()
        # What no connection has sent yet waits for the new one.
        may_wait = state not in ("connected", "closing", "closed")
        queued = played.start(played.client.request("echo", 3)) if may_wait else None
        await asyncio.sleep(0)
        old = played.client.peer.transport
        binding = await played.binding()
        assert played.client.state == after(state, Input.BIND)
        assert played.client.peer.transport is not old
        played.ready.set()
        await binding
        if earlier is not None:
            await earlier  # whoever waited for a connection has this one
        assert played.client.state == "connected"
        assert await (queued or played.client.request("echo", 3)) == 3
        if pending is not None:
            assert (await lost_by(pending, "unknown")).code == 1001
            await turns_until(lambda: codes == [1001])  # the server is told
        ended = {code for code, there in ((1001, old is not None), (1006, state in ("detached", "resuming"))) if there}
        assert {(info.code, info.will_reconnect) for info in played.closed} == {(code, True) for code in ended}
        if state in ("detached", "resuming"):
            assert (await played.lost()).reason == "another connection was bound"
        assert played.attempts.empty()


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
        if state in ("opening", "connected", "detached", "resuming"):
            [info] = played.closed
            assert (info.code, info.user_closed, info.will_reconnect) == (4000, True, False)
        if state in ("detached", "resuming"):
            assert "closed on this side: enough" in str(await played.lost())


@plays(Input.DIALED)
async def dialed(state: ClientState) -> None:
    async with scene() as played:
        await played.reach(state)
        if state == "resuming":  # it stays, until the server answers
            played.attempt.set_result(memory_transports()[0])
            await turns(20)
        else:
            played.attempt.set_result(None)
            await played.opening.wait()
        assert played.client.state == after(state, Input.DIALED)


@plays(Input.GAVE_UP)
async def gave_up(state: ClientState) -> None:
    options: dict[str, Any] = {"connect_timeout": 30.0} if state in ("waiting", "detached") else {}
    if state in ("opening", "connected"):
        options = {"reconnect": None}
    with pytest.MonkeyPatch.context() as patch:
        async with scene(**options) as played:
            call = await (played.drop_while_opening() if state == "detached" else played.reach(state))
            queued = None
            if state in ("connecting", "opening"):
                queued = played.start(played.client.request("echo", 3))
                await asyncio.sleep(0)
            if state in ("connecting", "resuming"):
                played.attempt.set_exception(HandshakeRejected(403))
            elif state in ("waiting", "detached"):
                leap(patch, 31.0)
                assert call is not None
                with pytest.raises(ConnectFailed):
                    await call
            else:
                played.drop()
            await played.reaches(after(state, Input.GAVE_UP))
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
        elif state == "opening":
            await played.drop_while_opening()
        else:
            await played.reach(state)
            ours, _ = memory_transports()
            played.attempt.set_result(ours)
            await turns()
            ours.abort()
            await played.reaches(after(state, Input.DETACHED))
            played.end_the_wait()
            (await played.attempts.get()).set_result(None)
            await played.goes_on()


@plays(Input.RESUMED)
async def resumed(state: ClientState) -> None:
    async with scene() as played:
        await played.reach(state)
        played.attempt.set_result(None)
        await played.goes_on()
        assert played.client.state == after(state, Input.RESUMED)


@plays(Input.REOPENED)
async def reopened(state: ClientState) -> None:
    async with scene() as played:
        call = await played.drop_while_opening()
        queued = asyncio.ensure_future(played.client.request("echo", 3))
        played.end_the_wait()
        attempt = await played.attempts.get()
        assert played.client.state == state
        attempt.set_result(None)
        await played.reaches(after(state, Input.REOPENED))
        assert not call.done() and not queued.done()
        played.ready.set()
        await call
        assert await queued == 3
        assert played.client.state == "connected" and not played.opening.is_set(), "they were called once"


@plays(Input.LOST)
async def lost(state: ClientState) -> None:
    async with scene(detached=0.2) as played:
        await played.reach(state)
        await played.reaches(after(state, Input.LOST))
        assert "in time" in (await played.lost()).reason
        assert played.closed[0].will_reconnect


STEPS: dict[Input, Callable[[Scene], object]] = {
    Input.CANCELLED: lambda played: played.tasks[0].cancel(),
    Input.FAILED: lambda played: played.attempt.set_exception(OSError("nobody there")),
    Input.AGAIN: lambda played: played.end_the_wait(),
    Input.OPENED: lambda played: played.ready.set(),
    Input.DROPPED: lambda played: played.drop(),
    Input.LEFT: lambda played: played.drop(),
    Input.CLOSED: lambda played: played.release.set(),
}
"""What makes happen what has no story of its own. (A connection drops or is left if its session does not go on.)"""


async def take_step(state: ClientState, happened: Input) -> None:
    url = None if happened is Input.LEFT else "ws://server/"
    async with scene(replay=0 if happened in (Input.DROPPED, Input.LEFT) else LIMITS.replay, url=url) as played:
        call = await played.reach(state)
        STEPS[happened](played)
        await played.reaches(after(state, happened))
        if happened is Input.CANCELLED:
            assert call is not None and call.cancelled()
        elif happened is Input.OPENED:
            assert call is not None
            await call
        elif happened in (Input.DROPPED, Input.LEFT):
            assert played.closed[0].will_reconnect == (happened is Input.DROPPED)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("state", "happened"), CELLS, ids=lambda value: getattr(value, "name", value))
async def test_a_cell(state: ClientState, happened: Input) -> None:
    if happened in STEPS:
        await take_step(state, happened)
    else:
        await PLAYS[happened](state)


def test_what_is_in_no_cell_cannot_happen() -> None:
    for state in STATES:
        for happened in Input:
            if happened not in TABLE[state]:
                with pytest.raises(AssertionError, match="cannot happen"):
                    after(state, happened)
    assert {*PLAYS, *STEPS} == {*Input}
