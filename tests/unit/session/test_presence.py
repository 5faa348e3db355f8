"""A session that is detached and resumes: what handlers are told, and what arrives of large messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from core_driver import start, turns
from leftovers import nothing_left as nothing_left
from session_story import Story, story
from waiting import until

from wsrpc import Limits, ReconnectInfo

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_each_drop_and_each_resume_is_told_in_order_and_then_the_end() -> None:
    here, there = list[Any](), list[Any]()
    async with story() as s:
        s.server.on_detach(lambda peer, info: there.append(int(info.code)))
        s.server.on_resume(lambda peer: there.append("resume"))
        s.server.on("disconnect", lambda peer, info: there.append("close"))
        s.client.on_detach(lambda info: here.append((int(info.code), info.will_reconnect)))
        s.client.on_reconnect(lambda info: here.append("resume" if info.resumed else "new"))
        s.client.on("disconnect", lambda peer, info: here.append("close"))
        for number in (1, 2):
            await s.cut()
            await until(lambda: there[-1:] == [1006])
            assert there == [1006, "resume"] * (number - 1) + [1006]
            await s.repair()
            await turns(20)
            assert there == [1006, "resume"] * number and here == [(1006, True), "resume"] * number
        await s.client.close()
        await until(lambda: there[4:] == ["close"])
        assert here[4:] == ["close"]


async def test_a_resume_that_is_not_told_before_the_next_drop_is_never_told_nor_is_that_drop() -> None:
    """More and more notifications would wait for a client with a bad connection."""
    told, go = list[str](), asyncio.Event()
    async with story() as s:

        async def dropped() -> None:
            told.append("drop")
            await go.wait()

        s.server.on_detach(dropped)
        s.server.on_resume(lambda peer: told.append("resume"))
        for _ in range(3):
            await s.cut()
            await s.repair()
            await turns(20)
        assert told == ["drop"]
        go.set()
        await turns(20)
        assert told == ["drop", "resume"]


async def test_a_function_that_never_returns_holds_up_others_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """The `close` handlers of a peer would not run before the server closes, however many of them there are."""
    async with story(server=Limits(open_timeout=5.0)) as s:
        never, closed = asyncio.Event(), asyncio.Event()
        s.server.on_detach(never.wait)
        s.server.on("close", closed.set)
        await s.cut()
        await until(lambda: s.peer.detached)
        closing = asyncio.create_task(s.peer.close())
        await turns(20)
        assert not closed.is_set()
        await asyncio.sleep(5.0)
        assert closed.is_set()
        assert "'on_detach' have not finished within Limits.open_timeout=5 s" in caplog.text
        never.set()
        await closing


# ---------------------------------------------------------------- while handlers still run


class Scene(Story):
    """A client that connects once its handlers are registered, and the events that its server receives."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[Any] = []
        self.release = asyncio.Event()
        self.server.on("note", self.arrived.append)

    async def connecting(self) -> asyncio.Task[None]:
        task = asyncio.ensure_future(self.client.connect())
        await turns(50)  # until the session can go on
        return task


@pytest.fixture
async def scene() -> AsyncGenerator[Scene]:
    async with asyncio.timeout(0.1):
        scene = Scene()
        yield scene
        await scene.client.close()
        await scene.server.close()


@pytest.mark.parametrize("ends", ["while the connection is lost", "when the session has gone on"])
async def test_open_handlers_run_on_and_what_waits_for_them_waits_on(ends: str, scene: Scene) -> None:
    client, expected = scene.client, ["begins", "asks", "ends", "waits", "waits, too"]

    @client.on("open")
    async def opened() -> None:
        await client.emit("note", "begins")
        await scene.release.wait()
        await client.request("note", "asks")
        await client.emit("note", "ends")

    connecting = await scene.connecting()
    waiting = start(client.emit("note", "waits"))
    await scene.cut()
    client.emit_nowait("note", "waits, too")
    if ends == "while the connection is lost":
        scene.release.set()
        await turns(10)
        assert client.state in ("detached", "resuming")
    scene.line.down = False
    if not scene.release.is_set():
        await until(lambda: client.state == "opening")
        await turns(20)
        assert not connecting.done() and client.state == "opening"
        assert scene.back == [], "what `open` prepares is not ready yet"
        assert scene.arrived == ["begins"]
        scene.release.set()
    await asyncio.gather(connecting, waiting)
    await until(lambda: scene.back and len(scene.arrived) >= len(expected))
    assert scene.arrived == expected and [info.resumed for info in scene.back] == [True]


async def test_an_open_handler_that_waits_for_the_connection_does_not_wait_for_itself(scene: Scene) -> None:
    client, done = scene.client, asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        await scene.release.wait()
        await client.wait_connected()
        assert client.state == "opening"
        done.set()

    async with asyncio.timeout(0.1):
        connecting = await scene.connecting()
        other = asyncio.create_task(client.wait_connected())
        await scene.cut()
        scene.release.set()
        await turns(5)
        scene.line.down = False
        await done.wait()
        assert not connecting.done() and not other.done()
        await asyncio.gather(connecting, other)
    assert client.state == "connected"


async def test_an_open_handler_that_fails_while_the_session_goes_on_is_an_error_in_the_log(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing calls it again, so it must not look as if its connection had ended."""

    @scene.client.on("open")
    async def on_open() -> None:
        await scene.release.wait()
        scene.line.down = True
        scene.ends[0].abort()
        await scene.client.request("note", "now or never", offline="fail")

    connecting = await scene.connecting()
    scene.release.set()
    await turns(20)
    await scene.cut()
    scene.line.down = False
    await connecting
    await scene.client.wait_connected()
    failed = [each for each in caplog.records if "on_open" in each.getMessage()]
    assert [(each.levelname, bool(each.exc_info)) for each in failed] == [("ERROR", True)]
    assert scene.arrived == []


async def test_on_reconnect_handlers_of_a_new_session_run_on_and_none_is_left_out(scene: Scene) -> None:
    client, notified = scene.client, list[tuple[str, bool]]()

    @client.on_reconnect
    async def slow(info: ReconnectInfo) -> None:
        notified.append(("slow", info.resumed))
        await scene.release.wait()

    client.on_reconnect(lambda info: notified.append(("last", info.resumed)))
    await (await scene.connecting())
    await scene.server.peers[0].close(1012, "restart")
    await until(lambda: notified)
    for _ in range(3):
        await turns(40)
        await scene.cut()
        scene.line.down = False
        await until(lambda: client.state == "opening")
    assert notified == [("slow", False)]
    scene.release.set()
    await until(lambda: len(notified) == 4)
    assert notified == [("slow", False), ("last", False), ("slow", True), ("last", True)]
    assert [info.resumed for info in scene.back] == [False, True]
