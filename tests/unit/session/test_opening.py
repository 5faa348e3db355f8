"""Sessions that go on while `open` and `on_reconnect` handlers still run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import Story, refuse

from wsrpc import ReconnectInfo

pytestmark = pytest.mark.usefixtures("nothing_left")


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
    async with asyncio.timeout(20):
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
    waiting = asyncio.create_task(client.emit("note", "waits"))
    await scene.cut()
    client.emit_nowait("note", "waits, too")
    if ends == "while the connection is lost":
        scene.release.set()
        await turns(10)
        assert client.state in ("detached", "resuming") and scene.arrived == ["begins"]
        scene.line.down = False
    else:
        scene.line.down = False
        await turns_until(lambda: client.state == "opening")
        await turns(20)
        assert scene.arrived == ["begins"] and not connecting.done() and client.state == "opening"
        assert scene.back == [], "what `open` prepares is not ready yet"
        scene.release.set()
    await asyncio.gather(connecting, waiting)
    await turns_until(lambda: scene.back and len(scene.arrived) >= len(expected))
    assert scene.arrived == expected and [info.resumed for info in scene.back] == [True]


async def test_an_open_handler_that_waits_for_the_connection_does_not_wait_for_itself(scene: Scene) -> None:
    client, done = scene.client, asyncio.Event()

    @client.on("open")
    async def opened() -> None:
        await scene.release.wait()
        await client.wait_connected()
        assert client.state == "opening"
        done.set()

    async with asyncio.timeout(5):  # less than Limits.open_timeout
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


@pytest.mark.parametrize("refused", [False, True])
async def test_an_open_handler_that_fails_while_the_session_goes_on_is_an_error_in_the_log(
    refused: bool, scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing calls it again, so it must not look as if its connection had ended."""

    @scene.client.on("open")
    async def on_open() -> None:
        await scene.release.wait()
        if refused:
            refuse(scene.ends[0])
        await scene.client.request("note", "now or never", offline="fail")

    connecting = await scene.connecting()
    if not refused:
        await scene.cut()
    scene.release.set()
    await turns(20)
    if refused:
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
    await turns_until(lambda: notified)
    for _ in range(3):
        await turns(40)
        await scene.cut()
        scene.line.down = False
        await turns_until(lambda: client.state == "opening")
    assert notified == [("slow", False)]
    scene.release.set()
    await turns_until(lambda: len(notified) == 4)
    assert notified == [("slow", False), ("last", False), ("slow", True), ("last", True)]
    assert [info.resumed for info in scene.back] == [False, True]
