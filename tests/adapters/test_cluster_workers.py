"""examples/cluster on three workers, with real engines and real clients at each of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import repeat
from urllib.request import urlopen

import pytest
from cluster_workers import EXAMPLE, User, Worker, announce, uvicorn
from engine_servers import EngineServer, nats_server

NAMES = ("ada", "bob", "eve")


@pytest.fixture
def engine() -> Iterator[EngineServer]:
    server = nats_server()
    yield server
    server.kill()


async def all_hear(speaker: User, users: list[User], text: str) -> None:
    """Say something. Everybody hears it, and nothing else before it."""
    await speaker.say(text)
    for user in users:
        assert await user.hears() == (speaker.name, text)


async def health(worker: Worker) -> object:
    url = f"http://127.0.0.1:{await worker.port()}/healthz"
    with await asyncio.to_thread(urlopen, url, timeout=20) as answer:
        return json.loads(answer.read())


async def one_user_at_each_worker(running: Worker, stack: AsyncExitStack) -> list[User]:
    """Connect until each worker has a user. Those that have one are stopped meanwhile, so that they accept nobody."""
    url = f"ws://127.0.0.1:{await running.port()}/ws"
    stopped: list[int] = []
    users = [await stack.enter_async_context(User(NAMES[0], repeat(url)))]
    try:
        for name in NAMES[1:]:
            stopped.append(await users[-1].worker())
            os.kill(stopped[-1], signal.SIGSTOP)
            users.append(await stack.enter_async_context(User(name, repeat(url))))
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    return users


async def test_the_workers_of_one_uvicorn_are_one_chat(engine: EngineServer) -> None:
    async with uvicorn(engine.url, "--workers", "3") as running, AsyncExitStack() as stack:
        await running.logged("is connected to its engine", 3)
        users = await one_user_at_each_worker(running, stack)
        ada, bob, *_ = users
        pids = [await user.worker() for user in users]
        assert len({*pids}) == 3
        for user in users:
            await user.sees(*NAMES)
        await all_hear(ada, [*users], "hello")
        for to in NAMES:
            assert await bob.whisper(to, "psst") == f"{to} heard psst from bob"
        assert await announce(engine.url, "closing at six") == "sent to 3 workers; 0 could not be reached"
        for user in users:
            assert await user.hears() == ("cron", "closing at six")
        assert await announce(engine.url, "--ask", "bob", "ready?") == "bob answers: bob heard ready? from cron"

        os.kill(pids[0], signal.SIGTERM)  # uvicorn starts another one in its place
        assert (await ada.closed.get()).code == 1012
        assert await ada.worker() != pids[0]
        await running.logged("is connected to its engine", 4)
        for user in users:
            await user.sees(*NAMES)
        await all_hear(ada, [*users], "I am back")
        assert await bob.whisper("ada", "psst") == "ada heard psst from bob"
        assert all(user.closed.empty() for user in users)

        assert await health(running) == "ok"
        engine.kill()
        while await health(running) != "degraded":  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
        assert await ada.whisper("ada", "psst") == "ada heard psst from ada"
        for user in users:
            await user.client.close()
        await running.end()
        assert "Traceback" not in running.log


def test_the_guide_to_deployment_shows_the_configuration_of_nginx() -> None:
    """`make test-nginx` tries it."""
    text = (EXAMPLE.parents[1] / "docs" / "how-to" / "deploy.md").read_text("utf-8")
    shown = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert [name for name in ("nginx.conf", "workers.conf") if (EXAMPLE / name).read_text("utf-8") not in shown] == []
