"""What threads do to a server: handlers that run in them, calls from the wrong one, and garbage that one collects."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

import wsrpc
from wsrpc import Handshake, HandshakeRejected, Overloaded, Quotas, Server, Service
from wsrpc.store import MemoryStore
from wsrpc.testing import ScriptedTransport, connect

pytestmark = pytest.mark.usefixtures("nothing_left")


class Desk(Service):
    @wsrpc.method("inThread", thread=True)
    def in_thread(self, value: int) -> bool:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return value == 7 and threading.current_thread() is not threading.main_thread()


class Tools(Desk):
    """Overrides the handler, without a decorator."""

    def in_thread(self, value: int) -> bool:
        return super().in_thread(value)


@pytest.mark.parametrize("added", [(Desk,), (Tools,), (Desk, Tools)])
async def test_a_method_runs_in_a_thread_also_where_a_subclass_overrides_it(added: tuple[Any, ...]) -> None:
    server = Server()
    server.add_service(*added)
    async with connect(server) as client:
        assert await client.request("inThread", 7) is True


async def test_the_rate_of_an_event_holds_for_a_handler_in_a_thread() -> None:
    server, ran = Server(quotas=Quotas(connections=9)), list[int]()
    server.on("rated", ran.append, thread=True, rate=0.001)
    for number in range(2):
        async with connect(server, principal="ada") as client:
            if number:
                with pytest.raises(Overloaded):
                    await client.request("rated", number)
            else:
                await client.request("rated", number)
    assert ran == [0]


async def test_the_event_loop_is_idle_while_a_thread_outlives_its_connection() -> None:
    server, gate, entered = Server(), threading.Event(), threading.Event()

    @server.on("work", thread=True)
    def work() -> None:
        entered.set()
        gate.wait(60)

    await server.accept(transport := ScriptedTransport())
    transport.feed({"a": ["work"], "i": 1})
    await until(entered.is_set)
    transport.lose()
    try:
        for _ in range(20):
            await asyncio.sleep(0)
        assert not getattr(asyncio.get_running_loop(), "_ready", ())  # nothing waits for the next turn
    finally:
        gate.set()
        await server.close()


@pytest.mark.parametrize("method", ["emit", "emit_nowait"])
@pytest.mark.parametrize("to", ["server", "room"])
async def test_in_another_thread_the_error_names_the_call_to_make(to: str, method: str) -> None:
    server = Server()
    room = server.room("tea")

    async def emit() -> None:
        if inspect.isawaitable(given := getattr(server if to == "server" else room, method)("say")):
            await given

    async with connect(server):
        room.add(server.peers[0])
        with pytest.raises(RuntimeError, match=rf"threadsafe\({to}\.{method}\b"):
            await asyncio.to_thread(lambda: asyncio.run(emit()))


async def test_python_may_collect_a_handshake_in_another_thread() -> None:
    server = Server(quotas=Quotas(by=lambda _: "ada", connections=1), store=MemoryStore())
    opening = [Handshake("/", {})]
    await server.handshake(opening[0])
    with pytest.raises(HandshakeRejected):
        await server.handshake(Handshake("/", {}))
    await asyncio.to_thread(opening.clear)
    async with connect(server):
        await server.close()


async def test_events_that_nobody_has_any_more_may_be_collected_in_another_thread() -> None:
    asyncio.get_running_loop().set_debug(True)  # which notices if that thread acts in the event loop
    server = Server(store=MemoryStore())
    room = server.room("board", keep=60)
    await room.emit("add", 1)
    left = [room.events()]
    assert (await anext(left[0])).args == (1,)
    await asyncio.to_thread(left.clear)
    await room.emit("add", 2)
    assert [(await anext(room.events(last=1))).args] == [(2,)]
    await server.close()
