"""A question to two tabs of a user, which are connected to two processes with Redis between them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator

import pytest
from engine_servers import ServerProcess, redis_server
from leftovers import nothing_left as nothing_left
from programs import start

from interop.page_client import Page
from wsrpc import Server
from wsrpc.cluster import Cluster
from wsrpc_adapters.redis import RedisEngine

pytestmark = pytest.mark.usefixtures("nothing_left")

OTHER_PROCESS = """
import asyncio, sys
from wsrpc import Server
from wsrpc.cluster import Cluster
from wsrpc_adapters.redis import RedisEngine

async def main(redis):
    server = Server(cluster=Cluster(RedisEngine(redis), name="shop"))
    server.on("open", lambda peer: server.room("ada").add(peer))
    async with server.listen() as listener:
        print(listener.url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main(sys.argv[1]))
"""

DIALOG = """
client.on("confirm", function (question) {
  note(`opened: ${question}, ${this.metadata.by}, ${this.remaining > 50_000}`)
  this.signal.addEventListener("abort", () => note(`closed: ${this.signal.reason.message}`))
  return new Promise((resolve) => (globalThis.press = resolve))
})
"""


@pytest.fixture
def redis() -> Iterator[ServerProcess]:
    server = redis_server()
    yield server
    server.kill()


@pytest.mark.parametrize("answering", ["here", "there"])
async def test_the_first_answer_closes_the_dialog_in_the_other_tab(redis: ServerProcess, answering: str) -> None:
    other = await start(sys.executable, "-c", OTHER_PROCESS, redis.url, stderr=None)
    server = Server(cluster=Cluster(RedisEngine(redis.url), name="shop"))
    server.on("open", lambda peer: server.room("ada").add(peer))
    assert other.stdout is not None
    url = (await other.stdout.readline()).decode().strip()
    async with server.listen() as listener, Page.start(listener.url) as here, Page.start(url) as there:
        first, second = (here, there) if answering == "here" else (there, here)
        for page in (first, second):
            await page.notes.until("open")
            await page.run(DIALOG)
        asking = asyncio.ensure_future(
            server.room("ada").request("confirm", "Send it?", metadata={"by": "agent"}, within=60, returns=str)
        )
        for page in (first, second):
            await page.notes.until("opened: Send it?, agent, true")
        await first.run("press('yes')")
        assert await asking == "yes"
        await second.notes.until("closed: another member has answered")
        await second.run("press('too late')")
        assert await asyncio.gather(*(page.do("ignored") for page in (first, second))) == [{}, {}]
    other.kill()
    await other.communicate()
