"""What handlers are told of a session that is detached and resumes, and in which order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from core_driver import said_in, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import Story, story

from wsrpc import Client, CloseInfo, ConnectionLost, Handshake, Limits, Peer, ReconnectInfo, Server, blocking
from wsrpc.testing import Clock, connect
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


class Told:
    """Calls of the handlers of both sides. Slow handlers record their call when ``gate`` is open."""

    def __init__(self, s: Story) -> None:
        self.there: list[Any] = []
        self.here: list[Any] = []
        self.gate = asyncio.Event()
        self.gate.set()
        s.server.on_detach(self.detached_there)
        s.server.on_resume(lambda peer: self.note(self.there, "resume"))
        s.server.on("disconnect", lambda peer, info: self.note(self.there, "close"))
        s.client.on_detach(self.detached_here)
        s.client.on_reconnect(self.back_here)
        s.client.on("disconnect", lambda peer, info: self.note(self.here, "close"))

    async def note(self, notified: list[Any], what: Any) -> None:
        await self.gate.wait()
        notified.append(what)

    async def detached_there(self, peer: Peer, info: CloseInfo) -> None:
        await self.note(self.there, int(info.code))

    async def detached_here(self, info: CloseInfo) -> None:
        assert info.will_reconnect
        await self.note(self.here, int(info.code))

    async def back_here(self, info: ReconnectInfo) -> None:
        await self.note(self.here, "resume" if info.resumed else "new")


@pytest.fixture
async def s() -> AsyncGenerator[Story]:
    async with story() as s:
        yield s


@pytest.fixture
def notified(s: Story) -> Told:
    return Told(s)


async def test_each_drop_and_each_resume_is_told_in_order_and_then_the_end(s: Story, notified: Told) -> None:
    for number in (1, 2):
        await s.cut()
        await turns_until(lambda: notified.there[-1:] == [1006])
        assert notified.there == [1006, "resume"] * (number - 1) + [1006]
        await s.repair()
        await turns(20)
        assert notified.there == notified.here == [1006, "resume"] * number
    await s.client.close()
    await turns_until(lambda: notified.there[4:] == ["close"])
    assert notified.here == notified.there


async def test_a_resume_before_the_server_has_noticed_the_drop_is_told_as_both(s: Story, notified: Told) -> None:
    """An application that keeps who is online ends up with the truth."""
    await s.cut(half_open=True)
    assert notified.there == []
    await s.repair()
    await turns(20)
    assert notified.there == [4409, "resume"] and notified.here == [1006, "resume"]


@pytest.mark.parametrize("ends", ["close frame", "kicked", "server closes"])
async def test_a_session_that_ends_with_its_connection_is_not_told_as_detached(
    s: Story, notified: Told, ends: str
) -> None:
    if ends == "close frame":
        await s.client.close()
    elif ends == "kicked":
        await s.peer.close(1008)
    else:
        s.client.peer.transport.abort()  # type: ignore[union-attr]
        await s.server.close()
    await turns_until(lambda: notified.there and (ends == "server closes" or notified.here))
    await s.client.close()
    assert notified.there == ["close"] and notified.here in (["close"], [1006, "close"])


async def test_a_function_that_never_returns_holds_up_the_others_for_a_while_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The `close` handlers of a peer would not run before the server closes, however many of them there are."""
    clock = Clock()
    async with story(server=Limits(open_timeout=5.0), clock=clock) as s:
        never, closed = asyncio.Event(), asyncio.Event()
        s.server.on_detach(never.wait)
        s.server.on("close", closed.set)
        await s.cut()
        await turns_until(lambda: s.peer.detached)
        closing = asyncio.create_task(s.peer.close())
        await turns(20)
        assert not closed.is_set()
        clock.advance(5.0)
        await turns(20)
        assert closed.is_set()
        assert "'on_detach' have not finished within Limits.open_timeout=5 s" in caplog.text
        never.set()
        await closing


async def test_a_drop_before_the_resume_was_told_is_left_out_together_with_it(s: Story, notified: Told) -> None:
    """Else a client whose connection is bad would make more and more of them wait."""
    notified.gate.clear()
    for _ in range(5):
        await s.cut()
        await turns_until(lambda: s.peer.detached)
        s.line.down = False
        await s.client.wait_connected()
        await turns(20)
    notified.gate.set()
    await turns_until(lambda: notified.there[1:] and notified.here[1:])
    await turns(20)
    assert notified.there == notified.here == [1006, "resume"]


@pytest.mark.parametrize("ends", [False, True])
async def test_open_handlers_come_first(ends: bool) -> None:
    """One that is slow would say "online" of somebody who has left."""
    server, entered, gate, steps = Server(), asyncio.Event(), asyncio.Event(), list[str]()

    @server.on("connect")
    async def opened() -> None:
        entered.set()
        try:
            await gate.wait()
        finally:
            steps.append("opened")

    server.on_detach(lambda peer, info: steps.append("detached"))
    server.on_resume(lambda peer: steps.append("resumed"))
    server.on("disconnect", lambda: steps.append("closed"))
    async with story(server=server) as s:
        await entered.wait()
        await s.cut()
        await turns_until(lambda: s.peer.detached)
        await turns(20)
        assert steps == []
        if ends:
            await s.peer.close()
            await turns_until(lambda: steps == ["detached", "closed"])
        gate.set()
        await turns_until(lambda: "opened" in steps)
        if not ends:
            await s.repair()
            await turns_until(lambda: steps == ["opened", "detached", "resumed"])


async def test_on_resume_sees_what_the_new_handshake_has_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server, seen, names = Server(), list[Any](), iter(["ann", "bea"])

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.address = handshake.state["name"] = next(names)

    server.on_detach(lambda peer: seen.append((peer.address, peer.state.get("name"), peer.connected)))
    server.on_resume(lambda peer: seen.append((peer.address, peer.state.get("name"), peer.connected)))
    async with story(server=server) as s:
        await s.cut()
        await turns_until(lambda: s.peer.detached)
        await s.repair()
        assert seen == [("ann", "ann", False), ("bea", "bea", True)]
    addresses = [getattr(record, "address", None) for record in caplog.records]
    assert list(dict.fromkeys(name for name in addresses if name is not None)) == ["ann", "bea"]


async def test_messages_of_these_functions_wait_for_the_session_and_what_waited_leaves_first(s: Story) -> None:
    received: list[Any] = []
    s.client.on("note", received.append)
    s.server.on_detach(lambda peer: peer.emit_nowait("note", "waits"))
    s.server.on_resume(lambda peer: peer.emit_nowait("note", "is back"))
    await s.cut()
    await turns_until(lambda: s.peer.detached)
    await s.repair()
    await turns_until(lambda: len(received) == 2)
    assert received == ["waits", "is back"]


async def test_one_that_raises_is_in_the_log_and_the_others_run(s: Story, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    @s.server.on_detach
    def divide() -> None:
        raise ZeroDivisionError

    @s.client.on_detach
    async def fails() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    s.server.on_detach(lambda: seen.append("there"))
    s.client.on_detach(lambda: seen.append("here"))
    await s.cut()
    await turns_until(lambda: len(seen) == 2)
    await turns_until(lambda: len([each for each in caplog.records if each.levelno >= logging.ERROR]) == 2)
    assert {said_in(each) for each in caplog.records if each.levelno >= logging.ERROR} == {
        f"the handler of 'on_detach', {each.__qualname__}, failed" for each in (divide, fails)
    }


@pytest.mark.parametrize("closes", ["client", "server", "peer"])
async def test_one_that_closes_does_not_wait_for_itself(closes: str) -> None:
    """And `close` returns when the `close` handlers were called, too."""
    done: list[str] = []
    async with story() as s:

        @s.client.on_detach
        async def here() -> None:
            if closes == "client":
                await s.client.close()
                done.append("closed")

        @s.server.on_detach
        async def there(peer: Peer) -> None:
            if closes == "server":
                await s.server.close()
                done.append("closed")
            elif closes == "peer":
                await peer.close(1008, "gone")
                done.append("closed")

        (s.client if closes == "client" else s.server).on("disconnect", lambda: done.append("close handler"))
        s.line.down = True
        s.line.cut()
        await turns_until(lambda: len(done) == 2)
        assert done == (["closed", "close handler"] if closes == "peer" else ["close handler", "closed"])


@pytest.mark.parametrize("side", ["client", "server"])
async def test_closing_waits_for_them(side: str) -> None:
    async with story() as s:
        notified = Told(s)
        notified.gate.clear()
        await s.cut()
        await turns_until(lambda: s.peer.detached)
        closing = asyncio.create_task(s.client.close() if side == "client" else s.server.close())
        await turns(40)
        assert not closing.done()
        notified.gate.set()
        await closing
        assert (notified.here if side == "client" else notified.there) == [1006, "close"]


async def test_the_next_session_of_a_client_does_not_wait_for_them() -> None:
    """Its `close` handlers are called before its next `open` handlers, whatever they wait for."""
    async with story() as s:
        gate, steps = asyncio.Event(), list[str]()

        @s.client.on_detach
        async def slow() -> None:
            steps.append("detached")
            await gate.wait()

        s.client.on("disconnect", lambda: steps.append("closed"))
        s.client.on("connect", lambda: steps.append("opened"))
        await s.cut()
        await s.server.close()
        await s.server.open()
        s.line.down = False
        await s.client.wait_connected()
        assert steps == ["detached", "closed", "opened"]
        await s.settled()
        await s.cut()
        await turns(20)
        assert steps == ["detached", "closed", "opened", "detached"]
        gate.set()


async def test_a_client_of_threads_is_told_too() -> None:
    server = Server()
    async with server.listen() as listener:

        def main() -> list[Any]:
            notified: list[Any] = []
            with blocking.Client(listener.url) as client:
                client.on_detach(lambda info: notified.append(int(info.code)))
                client.on_reconnect(lambda info: notified.append(info.resumed))
                client.request("cut", returns=None)
                while len(notified) < 2:
                    time.sleep(0.001)
            return notified

        @server.on("cut")
        async def cut(peer: Peer) -> None:
            asyncio.get_running_loop().call_later(0.05, peer.transport.abort)  # type: ignore[union-attr]

        assert await asyncio.to_thread(main) == [1006, True]


@pytest.mark.parametrize("wrong", [lambda peer, info, more: None, "away", None])
def test_what_cannot_be_called_is_refused_at_once(wrong: Any) -> None:
    for register in (Server().on_detach, Server().on_resume, Client().on_detach):
        with pytest.raises(TypeError, match=r"on_(detach|resume)(:| takes)"):
            register(wrong)


def test_a_server_of_raw_connections_has_no_sessions() -> None:
    async def serve(connection: RawConnection) -> None: ...

    raw, notified = Server(), Server()
    raw.serve_raw(serve)
    with pytest.raises(ValueError, match="serve gets every message"):
        raw.on_detach(lambda peer: None)
    notified.on_resume(lambda peer: None)
    with pytest.raises(ValueError, match="on_resume"):
        notified.serve_raw(serve)


async def test_nothing_is_told_where_sessions_do_not_resume() -> None:
    server, notified = Server(), list[str]()
    server.on_detach(lambda: notified.append("detached"))
    server.on("close", lambda: notified.append("closed"))
    async with connect(server) as client:
        client.peer.transport.abort()  # type: ignore[union-attr]
        await turns_until(lambda: notified)
    assert notified == ["closed"]
    with pytest.raises(ConnectionLost):
        await client.wait_connected()
