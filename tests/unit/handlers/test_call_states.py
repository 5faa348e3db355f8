"""States of a call of a handler: the table `CallState`, cell by cell, as the remote peer sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from core_driver import Driven, rejection, start
from leftovers import nothing_left as nothing_left
from stream_driver import control, welcome
from waiting import settled

from wsrpc import AnonymousChannel, CallNext, ConnectionLost, Context, Limits
from wsrpc._core.handlers.invocation import CallState

pytestmark = pytest.mark.usefixtures("nothing_left")

LARGE = "l" * 5000
"""`Limits.running_bytes` is four times `Limits.message_bytes`, so there is room for four messages with this."""


class Scene:
    """Calls of the handler `do`, which emits and returns when the test says so, even if it is cancelled.

    Requests for `ping` and for a conversation show what the calls count as.
    """

    def __init__(self, calls: int, text: str, **limits: int) -> None:
        self.ids = range(1, calls + 1)
        self.text = text
        self.driven = d = Driven(
            dialer=True, extensions=True, limits=Limits(handler_timeout=60, message_bytes=5120, **limits)
        )
        self.emits, self.returns = asyncio.Event(), asyncio.Event()
        self.cancelled = False
        self.channel = d.peer.of("work")

        async def talk(channel: AnonymousChannel, text: str = "") -> None:
            await channel.wait_closed()

        d.peer.on("ping", lambda text="": "pong")
        d.peer.on("talk", talk)

    async def fed(self, *messages: Any) -> list[Any]:
        """Feed, and return what was sent besides control messages."""
        return [each for each in await self.driven.fed(*messages) if "ws-wrapper" not in each]

    async def called(self, handler: Any) -> list[Any]:
        self.channel.on("do", handler)
        return await self.fed(welcome("drain"), *({"i": i, "a": ["do", self.text], "c": "work"} for i in self.ids))

    async def obey(self, *args: Any) -> int:
        async def emit() -> None:
            await self.emits.wait()
            with suppress(ConnectionLost):
                self.driven.peer.emit_nowait("note")

        start(emit())  # in the handler's context, even when the handler has exited
        while not self.returns.is_set():
            try:
                await self.returns.wait()
            except asyncio.CancelledError:
                self.cancelled = True
        return 5

    async def talk(self, text: str, channel: AnonymousChannel) -> int:
        async with channel.events("news"):
            return await self.obey()

    async def layer(self, ctx: Context, call_next: CallNext) -> int:
        return await self.obey()

    async def work(self, text: str) -> int:
        return await self.obey()

    # ------------------------------------------------------------ the states

    async def see_running(self) -> None:
        assert await self.called(self.work) == []

    async def see_reserved(self) -> None:
        self.channel.use(self.layer)
        assert await self.called(self.talk) == []

    async def see_serving(self) -> None:
        assert await self.called(self.talk) == [{"i": i, "h": 1} for i in self.ids]

    async def see_channel_ended(self) -> None:
        await self.called(self.talk)
        await self.end_channels()

    async def end_channels(self) -> None:
        for i in self.ids:
            await self.fed({"h": i, "a": ["news", 1]}, {"h": i, "x": "no more"})  # `talk` has still to read this

    async def see_cancelled(self) -> None:
        await self.called(self.work)
        await self.fed(*({"i": i, "x": "no more"} for i in self.ids))

    async def see_orphaned(self) -> None:
        await self.called(self.work)
        await settled(60)
        assert rejection(await self.fed(), 1)["code"] == "wsrpc.handler_timeout"

    async def see_exited(self) -> None:
        self.returns.set()
        assert await self.called(self.work) == [{"i": i, "d": 5} for i in self.ids]

    # ------------------------------------------------------------ the questions

    async def counts(self) -> str | None:
        """As what the calls count: which request has to wait, or is refused."""
        if await self.fed({"i": 7, "a": ["ping", self.text]}) == []:
            return "handler"
        [answer] = await self.fed({"i": 9, "a": ["talk", self.text]})
        return None if "h" in answer else "channel"

    async def awaited(self) -> bool:
        """While this side begins nothing new, a handler for which the remote peer waits still sends."""
        await self.fed(control("drain", after_ms=0))
        self.emits.set()
        return await self.fed() == [{"a": ["note"]}]

    async def answerable(self) -> bool:
        self.returns.set()
        return {"i": 1, "d": 5} in await self.fed()

    async def is_cancelled(self) -> bool:
        return self.cancelled


Question = Callable[[Scene], Awaitable[object]]

QUESTIONS: dict[str, tuple[Question, Callable[[], Scene]]] = {
    "counts_as": (Scene.counts, lambda: Scene(1, "", running=1, channels=1)),
    "bytes_of": (Scene.counts, lambda: Scene(4, LARGE, running=5)),
    "awaited": (Scene.awaited, lambda: Scene(1, "")),
    "answerable": (Scene.answerable, lambda: Scene(1, "")),
    "cancelled": (Scene.is_cancelled, lambda: Scene(1, "")),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("state", CallState, ids=lambda state: state.name)
async def test_a_call_counts_and_is_answered_as_its_state_says(state: CallState, question: str) -> None:
    ask, make = QUESTIONS[question]
    scene = make()
    await getattr(scene, f"see_{state.name.lower()}")()
    assert await ask(scene) == getattr(state, question)
    scene.emits.set()
    scene.returns.set()
    await settled()
    scene.driven.transport.lose()
    await settled()
    scene.driven.assert_empty()
