"""The transports in wsrpc/browser/aisdk.js and agui.js, in Chromium with React's StrictMode."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from browser.page_site import HERE, quiet_page, serving_site
from browser.pages import browsing
from browser.test_react import TOLERATED, bundle
from playwright.async_api import Browser, Page, expect

from interop.asking import asking
from interop.chat_tabs import AGENT, NEWEST, OLDER, OLDER_AGENT
from wsrpc import Context, Keep, Server
from wsrpc_adapters.agui import add_agent
from wsrpc_adapters.aisdk import add_chat

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def says(page: Page, *texts: str) -> None:
    await expect(page.locator("p")).to_have_text("|".join(texts))


@pytest.mark.parametrize("library", [NEWEST, OLDER, AGENT, OLDER_AGENT])
async def test_one_of_two_tabs_calls_a_tool(library: str, browser: Browser, tmp_path: Path) -> None:
    kind, replaced = ("aisdk", NEWEST) if library in (NEWEST, OLDER) else ("agui", AGENT)
    server, steps = Server(), asyncio.Semaphore(0)
    server.on_handshake(lambda handshake: setattr(handshake, "principal", "ada"))

    @server.on("answer", keep=Keep(60, inbox=Any))
    async def answer(ctx: Context, asked: dict[str, Any]) -> AsyncIterator[Any]:
        last = asked["messages"][-1]
        question = last["content"] if kind == "agui" else last["parts"][0]["text"]
        async with aclosing(asking(ctx, asked, question, steps)) as events:
            async for event in events:
                yield event

    bundle(HERE / "page_chats.jsx", tmp_path / "page.js", {replaced: library})
    api = web.Application()
    api.router.add_static("/pages", tmp_path)
    add_chat(api, "/chat", server, "answer")
    add_agent(api, "/agent", server, "answer")
    async with serving_site(server, api=api) as site, browsing(browser) as context:
        url = f"{site.url}?{kind}"

        async def load(page: Page) -> None:
            await page.evaluate("import('/http/pages/page.js').then(() => null)")
            await page.wait_for_function("hasJoined()")

        async with quiet_page(context, url, *TOLERATED) as second:
            async with quiet_page(context, url, *TOLERATED) as first:
                await load(first)
                await first.evaluate("say('Ask!')")
                await first.wait_for_function("asked.length === 1")
                await load(second)
                await says(second, "?")
                await first.evaluate("answer('yes')")
                steps.release()
                await says(first, "Ask!", "?", "You said yes.")
                await says(second, "?", "You said yes.")
                assert await first.evaluate("asked") == ["Ask!"]
                assert await second.evaluate("asked") == []

                await first.evaluate("say('Ask once more!')")
                await first.wait_for_function("asked.length === 2")
                await second.reload()
                await load(second)
                await says(second, "?")
            # The tab that was asked is closed: the other one is.
            await second.wait_for_function("asked.length === 1")
            await second.evaluate("answer('no')")
            steps.release()
            await says(second, "?", "You said no.")
