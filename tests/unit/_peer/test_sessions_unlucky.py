"""Sessions that go on, in unlucky moments: a drop, a refusal or an end that comes between two steps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from test_sessions import SMALL, SOON, story

from wsrpc import AnonymousChannel, Client, ConnectionLost, KeepLatest, Limits, Reconnect, Server
from wsrpc.testing import Clock, Line

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_messages_of_a_channel_that_wait_for_room_are_not_overtaken_at_the_drop() -> None:
    async with story(server=Limits(replay=SMALL)) as s:
        heard: list[Any] = []

        @s.server.on("talk")
        async def talk(channel: AnonymousChannel) -> None:
            opened.append(channel)
            await channel.wait_closed()

        opened: list[AnonymousChannel] = []
        ours = await s.client.open_channel("talk")
        ours.on("word", lambda n, filling: heard.append(n))
        (theirs,) = opened
        s.ends[1].hold()
        sent = 0
        while not s.peer.stats().slow:
            theirs.emit_nowait("word", sent, "x" * 16_000)
            sent += 1
        waiting = [asyncio.create_task(theirs.emit("word", sent + n, "")) for n in range(2)]
        await turns(5)
        assert not any(task.done() for task in waiting)
        s.line.down = True
        s.ends[1].abort()
        late = asyncio.create_task(theirs.emit("word", sent + 2, ""))  # its first step comes right after the drop
        await turns_until(lambda: s.client.peer.detached)
        await s.repair()
        await asyncio.gather(*waiting, late)
        await turns_until(lambda: len(heard) == sent + 3)
        assert heard == list(range(sent + 3))


