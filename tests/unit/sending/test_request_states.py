"""States of a request to the remote peer: the table `RequestState`, row by row."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from core_driver import Driven, redialing, start, turns
from leftovers import nothing_left as nothing_left
from stream_driver import resumable, welcome

from wsrpc import Peer, RequestTimeout
from wsrpc._core.sending.pending import RequestState

pytestmark = pytest.mark.usefixtures("nothing_left")


class Scene:
    """A request to a remote peer that runs one handler at a time, and lets nothing wait."""

    def __init__(self) -> None:
        self.driven: Driven = redialing(bind=False, extensions=True, can_resume=True)
        self.go = asyncio.Event()
        self.task: asyncio.Task[Any]

    async def connect(self) -> None:
        self.driven.peer.bind(self.driven.transport)
        await self.driven.fed(welcome(running=1, waiting=0, waiting_bytes=0))

    async def ask(self) -> int | None:
        """Make the request, and return its id if it has left."""
        self.driven.take()
        self.task = start(self.driven.peer.request("work", timeout=5))
        await turns()
        return next((message["i"] for message in self.driven.take() if message.get("a") == ["work"]), None)

    # ------------------------------------------------------------ the states

    async def see_waits(self) -> None:
        await self.connect()
        self.driven.transport.pause()
        assert await self.ask() is None

    async def see_queued(self) -> None:
        async def opened(peer: Peer) -> None:
            await self.go.wait()

        self.driven.peer.on("open", opened)
        await self.connect()
        assert await self.ask() is None

    async def see_held(self) -> None:
        self.driven.peer.bind(self.driven.transport)
        await self.driven.fed(resumable(running=1, waiting=0, waiting_bytes=0))
        self.driven.transport.lose()
        assert await self.ask() is None

    async def see_sent(self) -> int:
        await self.connect()
        i = await self.ask()
        assert i is not None
        return i

    async def see_abandoned(self) -> None:
        await self.see_sent()
        await self.fails()

    async def see_ended(self) -> None:
        await self.driven.fed({"i": await self.see_sent(), "d": 1})
        assert await self.task == 1

    async def fails(self) -> str | None:
        """Let the time of the request be over, and return what its error says."""
        self.driven.clock.advance(100)
        await turns()
        error = self.task.exception()
        return error.outcome if isinstance(error, RequestTimeout) else None


@pytest.mark.parametrize("state", RequestState, ids=lambda state: state.name)
async def test_a_request_counts_and_fails_as_its_state_says(state: RequestState) -> None:
    scene = Scene()
    await getattr(scene, f"see_{state.name.lower()}")()
    requests = scene.driven.peer._core.requester.outbox.requests
    assert [pending.state for pending in requests.all()] == ([] if scene.task.done() else [state])
    assert (requests.flight.requests, requests.flight.bytes > 0) == (state.counts, state.bytes_count)
    sent = state.outcome == "unknown"
    assert await scene.fails() == state.outcome
    assert (requests.flight.requests, requests.flight.bytes, requests.flight.waiting) == (sent, 0, 0)
    assert scene.driven.peer.pending == 0
    scene.go.set()
    await scene.driven.peer.close()
