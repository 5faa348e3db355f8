"""Where a message goes: the table `PLACES`, cell by cell, as the sender sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from core_driver import Driven, start
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from session_story import SOON, Story, story
from stream_driver import control, welcome

from wsrpc import AnonymousChannel, ChannelClosed, ConnectionLost, Peer, Reconnect
from wsrpc._sending.outbound import Line
from wsrpc._sending.outbox import PLACES, Place, Scope
from wsrpc.testing import MemoryTransport

pytestmark = pytest.mark.usefixtures("nothing_left")


def sent_by(peer: Peer) -> int:
    return peer.transport.sent if isinstance(peer.transport, MemoryTransport) else 0


class Scene:
    """A story, and who sends the messages of each scope."""

    def __init__(self, s: Story) -> None:
        self.story = s
        self.go = asyncio.Event()
        self.channel: AnonymousChannel | None = None
        self.seen = dict[Scope, Place | None]()

    async def talk(self) -> None:
        """Open a channel to the server."""

        async def talk(channel: AnonymousChannel) -> None:
            await channel.wait_closed()

        self.story.server.on("talk", talk)
        self.channel = await self.story.client.open_channel("talk")

    def look(self, scope: Scope, sender: Peer, emit: Callable[[str], None] | None = None) -> None:
        """Send a message of that scope, and note where it goes."""
        sent, kept = sent_by(sender), sender.stats().kept
        try:
            (emit or sender.emit_nowait)("note")
        except (ConnectionLost, ChannelClosed):
            self.seen[scope] = None
            return
        if sent_by(sender) > sent:
            self.seen[scope] = Place.NOW
        elif sender.stats().kept > kept:
            self.seen[scope] = Place.QUEUE


@asynccontextmanager
async def open_line(reconnect: Reconnect | None = SOON, **options: Any) -> AsyncGenerator[Scene]:
    async with story(reconnect=reconnect, **options) as s:
        scene = Scene(s)
        await scene.talk()
        yield scene


def look_at_all(scene: Scene, served: Peer) -> None:
    client, channel = scene.story.client.peer, scene.channel
    assert channel is not None
    scene.look(Scope.BEGUN, client, channel.emit_nowait)
    scene.look(Scope.SESSION, served)
    scene.look(Scope.PEER, client)


async def see_open() -> dict[Scope, Place | None]:
    async with open_line() as scene:
        look_at_all(scene, scene.story.peer)
        return scene.seen


async def see_away() -> dict[Scope, Place | None]:
    async with open_line() as scene:
        await scene.story.settled()
        served = scene.story.peer
        await scene.story.cut()
        await turns_until(lambda: served.detached)
        look_at_all(scene, served)
        await scene.story.repair()
        return scene.seen


async def see_none() -> dict[Scope, Place | None]:
    async with open_line(extensions=False) as scene:
        served = scene.story.peer
        scene.story.line.down = True
        scene.story.line.cut()
        await turns_until(lambda: not (served.connected or scene.story.client.connected))
        look_at_all(scene, served)
        return scene.seen


async def see_opening() -> dict[Scope, Place | None]:
    s = Story()
    scene = Scene(s)

    async def opened(peer: Peer) -> None:
        if peer is s.client.peer:
            scene.look(Scope.BEGUN, peer)
        await scene.go.wait()

    s.client.on("open", opened)
    s.server.on("open", opened)
    async with asyncio.timeout(20):
        connecting = start(s.client.connect())
        await turns_until(lambda: bool(s.server.peers) and Scope.BEGUN in scene.seen)
        scene.look(Scope.SESSION, s.peer)
        scene.look(Scope.PEER, s.client.peer)
        scene.go.set()
        await connecting
        await s.client.close()
        await s.server.close()
    return scene.seen


async def see_draining() -> dict[Scope, Place | None]:
    async with open_line() as scene:
        s, channel = scene.story, scene.channel
        assert channel is not None
        closing = start(s.server.close(drain=0.5))  # so little is left that the client begins nothing new
        await turns_until(lambda: s.client.closes_in is not None)
        scene.look(Scope.PEER, s.client.peer)
        scene.look(Scope.BEGUN, s.client.peer, channel.emit_nowait)
        await channel.abort()
        await s.client.close()
        await closing
    d = Driven(dialer=True, extensions=True)  # what it sends has no other session to wait for
    await d.fed(welcome("drain"), control("drain", after_ms=0))
    with pytest.raises(ConnectionLost, match="draining"):
        d.peer.emit_nowait("note")
    return scene.seen | {Scope.SESSION: None}


SEEN = {
    Line.NONE: see_none,
    Line.AWAY: see_away,
    Line.OPENING: see_opening,
    Line.DRAINING: see_draining,
    Line.OPEN: see_open,
}


@pytest.mark.parametrize("line", Line, ids=lambda line: line.name)
async def test_a_message_goes_where_the_table_says(line: Line) -> None:
    assert await SEEN[line]() == PLACES[line]
