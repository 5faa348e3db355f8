"""What a page holds after many calls: no more than after a few."""

from __future__ import annotations

import pytest
from browser.page_site import calling_server, quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser, CDPSession

pytestmark = pytest.mark.asyncio(loop_scope="session")

GROWTH = 300_000
"""Bytes: 30 for each of 10,000 requests, and 3 for each item of streams."""

CALLS = """async (rounds) => {
    const { Client } = await import("/wsrpc/client.js")
    globalThis.client ??= new Client("/ws")
    for (let round = 0; round < rounds; round++) {
        await Promise.all(Array.from({ length: 100 }, (_, n) => client.request("add", n, 1)))
        for await (const item of client.stream("count", 1000));
        await client.upload("total", Array.from({ length: 100 }, (_, n) => n), 0)
        const channel = await client.open("shout")
        const answer = new Promise((resolve) => channel.on("line", resolve))
        channel.emit("line", "hello")
        await answer
        channel.close()
    }
}"""


async def heap(devtools: CDPSession) -> int:
    for _ in range(3):
        await devtools.send("HeapProfiler.collectGarbage")
    usage = await devtools.send("Runtime.getHeapUsage")
    return int(usage["usedSize"])


async def test_many_calls_leave_nothing(browser: Browser) -> None:
    async with serving_site(calling_server()) as site, browsing(browser) as context:
        async with quiet_page(context, site.url) as page:
            devtools = await context.new_cdp_session(page)
            await page.evaluate(CALLS, 20)
            before = await heap(devtools)
            await page.evaluate(CALLS, 100)
            after = await heap(devtools)
            assert after - before < GROWTH
