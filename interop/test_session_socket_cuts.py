"""ws-wrapper on a `SessionSocket`, whose connection is cut at random bytes and made again, under calls both ways."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest
from effort import SOAK

from interop.node import JS, available_libraries, find_node
from wsrpc import Peer, Server
from wsrpc.testing import FaultProxy

CUTS = 1_000 if SOAK else 300
LIBRARIES = [name for name, _ in available_libraries() if name != "ws-server-wrapper"] + ["plain-4"]

pytestmark = pytest.mark.timeout(240)


class Service:
    """The server's side of the load, and what it has seen."""

    def __init__(self) -> None:
        self.server = Server(detached_timeout=5)
        self.served: Counter[int] = Counter()
        self.noted: list[int] = []
        self.opened = 0
        self.resumable = asyncio.Event()
        self.goes = True
        self.asked = 0
        self.notes = 0
        self.wrong = 0
        self.load: asyncio.Task[None] | None = None
        self.server.on("open", self._opened)
        self.server.on("note", self.noted.append)
        self.server.on("twice", self._twice)
        self.server.on("never", asyncio.Event().wait)

    def _opened(self, peer: Peer) -> None:
        self.opened += 1
        self.load = asyncio.create_task(self._run(peer))

    async def _twice(self, k: int, pad: str) -> int:
        self.served[k] += 1
        if k > 8:  # the first ones leave before the welcome comes, with which the session can be resumed
            self.resumable.set()
        if k % 2:
            await asyncio.sleep(0)
        return 2 * k

    async def _run(self, peer: Peer) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(self._work(peer))

    async def _work(self, peer: Peer) -> None:
        while self.goes:
            k, self.asked = self.asked, self.asked + 1
            n, self.notes = self.notes, self.notes + 1
            await peer.emit("note", n)
            self.wrong += await peer.request("twice", k, timeout=None) != 2 * k


async def ended(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()


@pytest.mark.parametrize("library", LIBRARIES)
async def test_each_request_and_event_arrives_once_whatever_is_cut(library: str) -> None:
    dice = random.Random(36)
    service = Service()
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(service.server.listen("127.0.0.1", 0))
        proxy = await stack.enter_async_context(FaultProxy(listener.url))
        process = await asyncio.create_subprocess_exec(
            find_node(),
            str(JS / "session_socket_cuts.mjs"),
            library,
            proxy.url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        stack.push_async_callback(ended, process)
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        async def read() -> dict[str, Any]:
            message: dict[str, Any] = json.loads(await stdout.readline())
            return message

        await service.resumable.wait()
        cuts = 0
        while cuts < CUTS:
            at = int(10 ** dice.uniform(0, 4.3))
            async with proxy.cut_after(at, dice.choice(("up", "down"))):
                cuts = (await read())["cut"]
        service.goes = False
        stdin.write(b"enough\n")
        while "requests" not in (result := await read()):
            pass
        assert service.load is not None
        await service.load

        assert service.opened == 1
        assert result["resumed"]
        assert (result["wrong"], service.wrong, result["closes"]) == (0, 0, [])
        assert service.served == Counter(range(result["requests"]))
        assert service.noted == list(range(result["notes"]))
        assert (result["asked"], result["twice"]) == (service.asked, 0)
        assert (result["noted"], result["inOrder"]) == (service.notes, True)

        # The server is lost: it does not know the session after that.
        stdin.write(b"and now\n")
        assert await read() == {"asking": 20}
        async with proxy.cut():
            while "endings" not in (result := await read()):
                pass
        assert result == {"endings": ["aborted"] * 20, "readyState": 3, "closes": [1006]}
        stdin.close()
        assert await process.wait() == 0
