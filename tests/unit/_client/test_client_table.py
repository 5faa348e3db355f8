"""Every cell of the table of a client's states, played with a real client."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from client_driver import World, lost
from leftovers import nothing_left as nothing_left
from tenacity import wait_fixed
from waiting import settled, until

from wsrpc import ConnectFailed, ConnectionLost, HandshakeRejected, Limits, Reconnect, Server, SessionLost
from wsrpc._client.client import core_of
from wsrpc._client.client_states import STATES, TABLE, Input, after
from wsrpc.testing import MemoryTransport, memory_transports
from wsrpc.types import ClientState

LIMITS = Limits(close_timeout=2.0, open_timeout=100.0, request_timeout=None)
CALLS = (Input.CONNECT, Input.START, Input.BIND, Input.CLOSE)
TO_DIAL = (Input.CONNECT, Input.START)
ENDS_SESSION = (Input.BIND, Input.CLOSE, Input.GAVE_UP, Input.DROPPED, Input.DROPPED_NO_URL, Input.REFUSED, Input.LOST)
WHILE_OPENING = [("opening", Input.DETACHED), ("resuming", Input.REOPENED), ("detached", Input.GAVE_UP)]
"""Cells whose connection drops while the `open` handlers run."""
DELAY = 40.0
"""Seconds between two attempts."""


class Scene(World):
    """A client whose attempts, `open` handlers and closing the test holds in its hand, and a call in flight."""

    def __init__(self, state: ClientState, happened: Input) -> None:
        survives = happened not in (Input.DROPPED, Input.DROPPED_NO_URL)
        reconnect = Reconnect(wait=wait_fixed(DELAY))
        options: dict[str, Any] = {"dial": self.dial, "reconnect": reconnect, "connect_timeout": None, "limits": LIMITS}
        if happened is Input.DROPPED_NO_URL:
            options["url"] = None
        elif happened is Input.GAVE_UP and state in ("waiting", "detached"):
            options["connect_timeout"] = 30.0
        elif happened is Input.GAVE_UP and state in ("opening", "connected"):
            options["reconnect"] = None
        limits = LIMITS if survives else LIMITS.replace(replay_bytes=0)
        self.kept_for = DELAY / 2 if (state, happened) == ("detached", Input.LOST) else 60.0
        super().__init__(server=Server(limits=limits, detached_timeout=self.kept_for), **options)
        self.attempts: asyncio.Queue[asyncio.Future[MemoryTransport | None]] = asyncio.Queue()
        self.attempt: asyncio.Future[MemoryTransport | None]
        """The latest attempt. With None it connects to the server."""
        self.ready, self.opening, self.held, self.release = (asyncio.Event() for _ in range(4))
        self.client.on("connect", self._open)
        self.client.on("hold", self._hold)
        self.tasks: list[asyncio.Task[Any]] = []
        self.call: asyncio.Task[Any] | None = None
        """The `connect` or `bind` that brought the client here."""

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

    def start(self, call: Awaitable[Any]) -> asyncio.Task[Any]:
        self.tasks.append(asyncio.ensure_future(call))
        return self.tasks[-1]

    def begin(self) -> None:
        self.client.start()
        state = self.client.state
        self.client.start()
        assert self.client.state == state, "idempotent"
        self.start(self.client.wait_connected())

    def drop(self) -> None:
        assert self.client.peer.transport is not None
        self.client.peer.transport.abort()

    async def request(self) -> asyncio.Task[Any]:
        request = self.start(self.client.request("park"))
        await asyncio.sleep(0)
        return request

    async def reach(self, state: ClientState, while_opening: bool) -> asyncio.Task[Any]:
        """Bring the client into ``state``; returns a request, which is in flight if the state has a session."""
        if state == "idle":
            return await self.request()
        if not core_of(self.client).plan.dials:
            self.call = self.start(self.bind())
        else:
            self.call = self.start(self.client.connect())
            self.attempt = await self.attempts.get()
            if state == "connecting":
                return await self.request()
            if state == "waiting":
                self.attempt.set_exception(OSError("nobody there"))
                await settled()
                return await self.request()
            self.attempt.set_result(None)
        await self.opening.wait()
        if state != "opening" and not while_opening:
            self.ready.set()
            await self.call
            self.ready.clear()
        request = await self.request()
        if self.client.state == "connected":
            await self.parked.wait()
        await settled()  # both sides know that the session survives a drop
        self.opening.clear()
        if state in ("closing", "closed"):
            await self.peer.emit("hold")
            await self.held.wait()
            closing = self.start(self.client.close())
            await until(lambda: self.closed)
            self.closed.clear()
            if state == "closed":
                self.release.set()
                await closing
                self.release.clear()
        if state in ("detached", "resuming"):
            self.drop()
            await settled()
        if state == "resuming":
            self.attempt = await self.attempts.get()
        return request

    async def happen(self, state: ClientState, happened: Input) -> None:
        if state == "resuming" and happened in (Input.DIALED, Input.DETACHED):  # the server does not answer
            ours, _ = memory_transports()
            self.attempt.set_result(ours)
            await settled()
            if happened is Input.DETACHED:
                ours.abort()
            return
        if happened is Input.REFUSED:  # the server has ended the session meanwhile
            await self.peer.close()
            self.attempt.set_result(None)
            return

        def give_up() -> Any:
            if state in ("connecting", "resuming"):
                return self.attempt.set_exception(HandshakeRejected(403, "", {"Wsrpc-Refused": "1"}))
            return asyncio.sleep(30) if state in ("waiting", "detached") else self.drop()

        steps: dict[Input, Callable[[], Any]] = {
            Input.CONNECT: lambda: self.start(self.client.connect()),
            Input.START: self.begin,
            Input.BIND: lambda: self.start(self.bind()),
            Input.CLOSE: lambda: self.start(self.client.close(4000, "enough")),
            Input.CANCELLED: lambda: self.tasks[0].cancel(),
            Input.DIALED: lambda: self.attempt.set_result(None),
            Input.RESUMED: lambda: self.attempt.set_result(None),
            Input.REOPENED: lambda: self.attempt.set_result(None),
            Input.FAILED: lambda: self.attempt.set_exception(OSError("nobody there")),
            Input.DELAY_OVER: lambda: asyncio.sleep(DELAY),
            Input.GAVE_UP: give_up,
            Input.OPENED: self.ready.set,
            Input.CLOSED: self.release.set,
            Input.LOST: lambda: asyncio.sleep(self.kept_for),
        }
        result = steps.get(happened, self.drop)()
        if inspect.iscoroutine(result):
            await result
        if happened is Input.BIND:
            await self.opening.wait()

    async def connects(self, state: ClientState, happened: Input) -> None:
        """Let the client connect. Callers that waited for a connection get this one."""
        if happened in TO_DIAL and state not in ("opening", "connected"):
            attempt = self.attempt if state in ("connecting", "resuming") else await self.attempts.get()
            attempt.set_result(None)
        assert self.attempts.empty()
        await asyncio.gather(self.tasks[-1], *filter(None, [self.call]))
        assert self.client.state == "connected" and await self.client.request("echo", 3) == 3
        if happened in TO_DIAL:
            assert len(self.server.peers) == 1


def closings(state: ClientState, happened: Input) -> list[tuple[int, bool, bool]]:
    """What `close` handlers are told: code, `user_closed` and `will_reconnect`."""
    if state not in ("opening", "connected", "detached", "resuming") or happened not in ENDS_SESSION:
        return []
    if happened is Input.CLOSE:
        return [(4000, True, False)]
    code = 1001 if happened is Input.BIND and state in ("opening", "connected") else 1006
    return [(code, False, happened not in (Input.DROPPED_NO_URL, Input.GAVE_UP))]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("state", "happened"),
    [(state, happened) for state in STATES for happened in TABLE[state]],
    ids=lambda value: getattr(value, "name", value),
)
async def test_a_cell(state: ClientState, happened: Input) -> None:
    while_opening = (state, happened) in WHILE_OPENING
    s = Scene(state, happened)
    try:
        request = await s.reach(state, while_opening)
        assert s.client.state == state and f" {state} " in repr(s.client)
        await s.happen(state, happened)
        await asyncio.sleep(0)
        if happened in CALLS:
            assert s.client.state == after(state, happened)
        else:
            await settled()
            assert s.client.state == after(state, happened)
        waits = [s.call] if s.call is not None and not s.call.done() else []
        if happened in CALLS:
            s.ready.set()
        if happened in (*TO_DIAL, Input.BIND):
            await s.connects(state, happened)
        elif happened is Input.CLOSE:
            if state == "closing":
                await settled()
                assert not any(task.done() for task in s.tasks[-2:]), "both wait for the handler"
            s.release.set()
            await s.tasks[-1]
            assert s.client.state == "closed"
            assert [(await lost(call, "not_sent")).code for call in waits] == [4000] * len(waits)
        elif happened is Input.GAVE_UP:
            for call in (*waits, s.client.wait_connected()):
                with pytest.raises((HandshakeRejected, ConnectionLost, ConnectFailed)):
                    await call
        elif happened is Input.CANCELLED:
            assert s.call is not None and s.call.cancelled()
        elif happened in (Input.RESUMED, Input.REOPENED):
            s.ready.set()
            assert await s.client.request("echo", 3) == 3
            assert not s.opening.is_set(), "the handlers were called once"
        sent = state in ("connected", "detached", "resuming") and not while_opening
        if state not in ("closing", "closed"):
            if happened in ENDS_SESSION and sent:
                error = await lost(request, "unknown")
                assert isinstance(error, SessionLost) == (state in ("detached", "resuming"))
            elif happened in (Input.CLOSE, Input.GAVE_UP):
                await lost(request, "unknown" if state == "opening" and happened is Input.CLOSE else "not_sent")
            else:
                assert not request.done(), "it goes on, or waits for a connection"
        assert [(i.code, i.user_closed, i.will_reconnect) for i in s.closed] == closings(state, happened)
    finally:
        s.ready.set()
        s.release.set()
        await s.client.close()
        for task in s.tasks:
            task.cancel()
        await asyncio.gather(*s.tasks, return_exceptions=True)
        await s.server.close()
