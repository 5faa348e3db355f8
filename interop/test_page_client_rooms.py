"""A question to two tabs of a user."""

from __future__ import annotations

import asyncio

import pytest
from leftovers import nothing_left as nothing_left

from interop.page_client import Page
from wsrpc import Server

pytestmark = pytest.mark.usefixtures("nothing_left")

DIALOG = """
client.on("confirm", function (question) {
  note(`opened: ${question}, ${this.metadata.by}, ${this.remaining > 50_000}`)
  this.signal.addEventListener("abort", () => note(`closed: ${this.signal.reason.message}`))
  return new Promise((resolve) => (globalThis.press = resolve))
})
"""


async def test_the_first_answer_closes_the_dialog_in_the_other_tab() -> None:
    server = Server()
    server.on("open", lambda peer: server.room("ada").add(peer))
    async with server.listen() as listener, Page.start(listener.url) as first, Page.start(listener.url) as second:
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
