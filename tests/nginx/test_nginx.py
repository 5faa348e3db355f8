"""nginx with the configuration of examples/cluster, before four workers: `make test-nginx`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from cluster_workers import EXAMPLE, User, Worker, uvicorn
from engine_servers import free_port, nats_server
from nginx.blocking_proxies import start_nginx

from wsrpc import ReconnectInfo

PORT, WORKERS = 8080, (8001, 8002, 8003, 8004)


def write_site(folder: Path, ports: dict[int, int]) -> None:
    """Write the site with other ports."""
    for name in ("nginx.conf", "workers.conf"):
        text = (EXAMPLE / name).read_text("utf-8")
        for port, other in ports.items():
            text = re.sub(rf"\b{port}\b", str(other), text)
        text = text.replace("listen ", "listen 127.0.0.1:")
        (folder / f"site-{name}").write_text(text, "utf-8")


class Site(NamedTuple):
    """The example behind nginx."""

    engine: str
    url: str
    workers: dict[int, Worker]
    """By process."""

    def user(self, name: str) -> User:
        return User(name, repeat(f"{self.url}/ws?client={name}"))


@asynccontextmanager
async def site(folder: Path) -> AsyncGenerator[Site]:
    engine = nats_server()
    ports = {port: free_port() for port in (PORT, *WORKERS)}
    write_site(folder, ports)
    try:
        async with AsyncExitStack() as stack:
            workers = [await stack.enter_async_context(uvicorn(engine.url, port=ports[port])) for port in WORKERS]
            for worker in workers:
                await worker.port()
                await worker.logged("is connected to its engine")
            nginx = start_nginx(folder)
            stack.callback(nginx.end)
            yield Site(engine.url, f"ws://127.0.0.1:{ports[PORT]}", {worker.process.pid: worker for worker in workers})
    finally:
        engine.kill()


async def test_users_at_all_workers_are_in_one_chat_and_keep_their_sessions(tmp_path: Path) -> None:
    async with site(tmp_path) as chat, AsyncExitStack() as stack:
        users: list[User] = []
        at: dict[str, int] = {}
        while {*at.values()} != {*chat.workers}:  # which name belongs to which worker depends on their ports
            users.append(await stack.enter_async_context(chat.user(f"user{len(users)}")))
            at[users[-1].name] = await users[-1].worker()
        for user in users:
            await user.sees(*at)
        ada = users[0]
        await ada.say("hello")
        for user in users:
            assert await user.hears() == (ada.name, "hello")

        # The network drops a connection: the client comes back to its worker, where its session is.
        resumed: asyncio.Queue[bool] = asyncio.Queue()

        @ada.client.on_reconnect
        def back(info: ReconnectInfo) -> None:
            resumed.put_nowait(info.resumed)

        transport = ada.client.peer.transport
        assert transport is not None
        transport.abort()
        assert await resumed.get() is True
        assert await ada.worker() == at[ada.name]

        # A worker ends: its clients come back at others, and the others notice nothing.
        await chat.workers[at[ada.name]].end()
        moved = [user for user in users if at[user.name] == at[ada.name]]
        for user in moved:
            assert (await user.closed.get()).code == 1012
            assert await user.worker() != at[ada.name]
        assert await resumed.get() is False
        for user in users:
            await user.sees(*at)
        await ada.say("I am back")
        for user in users:
            assert await user.hears() == (ada.name, "I am back")
        assert [user.name for user in users if user not in moved and not user.closed.empty()] == []
        assert [worker for worker in chat.workers.values() if "Traceback" in worker.log] == []


async def test_who_says_no_name_is_kept_at_a_worker_by_address(tmp_path: Path) -> None:
    async with site(tmp_path) as chat, AsyncExitStack() as stack:
        nameless: Iterator[str] = repeat(f"{chat.url}/ws")
        users = [await stack.enter_async_context(User(name, nameless)) for name in ("ada", "bob", "eve")]
        assert len({await user.worker() for user in users}) == 1
