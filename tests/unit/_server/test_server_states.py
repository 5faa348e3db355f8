"""Every cell of the table of a server's states, played with a real server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from waiting import until

from wsrpc import Client, ConnectionLost, Handshake, HandshakeRejected, Server
from wsrpc._server.server_states import OPENS, REFUSES, STATES, STILL, TABLE, ServerInput, ServerState
from wsrpc.testing import VirtualTimeLoop, memory_transports

T = TypeVar("T")

CELLS = [(state, happened) for state in STATES for happened in TABLE[state]]
LONG = 60.0


class HeldPort:
    """A port that keeps its server from ending."""

    url, port = "ws://nowhere", 0

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.let_go = asyncio.Event()

    async def begin(self) -> HeldPort:
        return self

    def stop(self) -> None:
        """Nothing: nobody connects to it."""

    async def wait_closed(self) -> None:
        self.asked.set()
        await self.let_go.wait()


class Scene:
    """A server with one connection, and an event loop of its own that can be closed."""

    def __init__(self) -> None:
        self.server = Server()
        self.port = HeldPort()
        self.work = asyncio.Event()
        self.server.on("work", self.work.wait)
        self.closings: list[asyncio.Task[None]] = []
        self.loop = VirtualTimeLoop()

    @property
    def state(self) -> str:
        found = re.match(r"<Server (\w+)", repr(self.server))
        assert found is not None
        return found[1]

    def run(self, awaitable: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(0.1):
                return await awaitable

        return self.loop.run_until_complete(bounded())

    async def accept(self) -> Client:
        dialed, accepted = memory_transports()
        client = Client(reconnect=None)
        await asyncio.gather(self.server.accept(accepted), client.bind(dialed))
        return client

    async def call(self, closing: Coroutine[Any, Any, None]) -> None:
        """Begin to close the server."""
        self.closings.append(asyncio.get_running_loop().create_task(closing))
        await asyncio.sleep(0)

    def reach(self, state: ServerState) -> None:
        self.run(self._reach(state))
        if state == "abandoned":
            self.end_loop()
            self.loop = VirtualTimeLoop()
        assert self.state == state

    async def _reach(self, state: ServerState) -> None:
        if state == "closed":
            self.port.let_go.set()
        await self.server.listening(self.port.begin).__aenter__()
        if state in ("draining", "abandoned"):
            client = await self.accept()
            if state == "draining":
                request = asyncio.get_running_loop().create_task(client.request("work", timeout=None))
                await until(lambda: self.server.stats().active)
                await self.call(self.server.close(drain_timeout=LONG))
                request.add_done_callback(lambda request: request.cancelled() or request.exception())
        elif state != "open":
            await self.call(self.server.close())
            await self.port.asked.wait()
            if state == "closed":
                await self.closings[0]

    # ------------------------------------------------------------ what happens

    async def finish_work(self) -> None:
        self.work.set()
        await until(lambda: self.state != "draining")

    async def let_end(self) -> None:
        if self.state == "draining":
            [shutdown] = [task for task in asyncio.all_tasks() if "ServerCore._run_end" in str(task.get_coro())]
            shutdown.cancel()
        self.port.let_go.set()
        await asyncio.wait(self.closings)

    def end_loop(self) -> None:
        """End the event loop as `asyncio.run` does."""

        async def cancel() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.loop.run_until_complete(cancel())
        self.loop.close()

    def play(self, happened: ServerInput) -> str:
        plays: dict[ServerInput, Callable[[], Awaitable[object]]] = {
            ServerInput.OPEN: self.server.open,
            ServerInput.ACCEPT: self.accept,
            ServerInput.DRAIN: lambda: self.call(self.server.close(drain_timeout=LONG)),
            ServerInput.CLOSE: lambda: self.call(self.server.close()),
            ServerInput.DRAINED: self.finish_work,
            ServerInput.ENDED: self.let_end,
        }
        self.run(plays[happened]())
        return self.state


@contextmanager
def scene() -> Iterator[Scene]:
    played = Scene()
    try:
        yield played
    finally:
        if not played.loop.is_closed():
            played.work.set()
            played.port.let_go.set()
            if played.state != "closed":
                played.run(played.server.close())
            played.end_loop()


@pytest.mark.parametrize(("state", "happened"), [cell for cell in CELLS if cell[1] is not ServerInput.LOOP_CLOSED])
def test_a_cell(state: ServerState, happened: ServerInput) -> None:
    expected, effect = TABLE[state][happened]
    with scene() as played:
        played.reach(state)
        if effect == REFUSES:
            with pytest.raises(ConnectionLost) as lost:
                played.play(happened)
            assert lost.value.code == 1012
            with pytest.raises(HandshakeRejected) as rejected:
                played.run(played.server.handshake(Handshake("/", {})))
            assert rejected.value.status == 503
            for error in (lost.value, rejected.value):  # who connects in memory sees it
                assert error.__notes__ == ["`await server.open()` opens a closed server again"]
            assert played.state == expected
        elif effect == STILL:
            for call in (played.server.open(), played.server.listen().__aenter__()):
                with pytest.raises(RuntimeError, match=r"still closing: await server\.close\(\)"):
                    played.run(call)
            assert played.state == expected
        else:
            before = played.server.peers
            assert played.play(happened) == expected
            assert (state, happened) != ("open", ServerInput.OPEN) or played.server.peers == before
        if effect == OPENS:
            assert (played.server.peers, played.server.stats().accepted) == ((), 0)
        if happened is ServerInput.ACCEPT and effect != REFUSES:
            assert len(played.server.peers) == 1
        if expected == "closed":
            assert played.server.peers == () or (state, happened) == ("draining", ServerInput.ENDED)
            assert all(closing.done() for closing in played.closings)
        assert played.server.healthy is (expected in ("open", "abandoned"))


@pytest.mark.parametrize("state", STATES)
def test_the_event_loop_is_closed_whatever_runs_in_it(state: ServerState) -> None:
    expected, _ = TABLE[state][ServerInput.LOOP_CLOSED]
    with scene() as played:
        if state == "draining":  # without a connection, so that no handler is left in the midst of its work
            played.run(played.call(played.server.close(drain_timeout=LONG)))
            assert played.state == state
        else:
            played.reach(state)
        if not played.loop.is_closed():
            played.loop.set_exception_handler(lambda loop, context: None)  # tasks are left
            played.loop.close()
        assert played.state == expected


def test_a_close_while_a_port_is_being_opened() -> None:
    with scene() as played:
        asked = asyncio.Event()

        async def begin() -> HeldPort:
            asked.set()
            await played.work.wait()
            return played.port

        async def main() -> None:
            played.port.let_go.set()
            serving = asyncio.create_task(played.server.listening(begin).__aenter__())
            await asked.wait()
            await played.server.close()
            played.work.set()
            with pytest.raises(RuntimeError, match="closed before it could listen"):
                await serving

        played.run(main())
        assert played.port.asked.is_set() and not played.server.healthy, "the port is closed, too"
