"""Pages that read a run with the browser's own EventSource, in Chromium and in Firefox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from browser.firefox import firefox
from browser.page_site import Site, quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser

from wsrpc import Keep, Server
from wsrpc_adapters.aiohttp import routes

pytestmark = pytest.mark.asyncio(loop_scope="session")

DROPPED = 400
"""The items from this one on are yielded after the drop."""
RELOADED = 700
"""Those from this one on are yielded after the reload."""
ITEMS = 1000

PAGE = "tests/page_event_source.html"


@asynccontextmanager
async def counting_site() -> AsyncGenerator[tuple[Site, list[str]]]:
    """A site with a run, and the ``Last-Event-ID`` of each request that reads it."""
    server = Server()
    gates = {DROPPED: asyncio.Event(), RELOADED: asyncio.Event()}
    read_after: list[str] = []

    @server.on("count", keep=Keep(60, scope=lambda peer: "all"))
    async def count() -> AsyncIterator[int]:
        for number in range(ITEMS):
            if number in gates:
                await gates[number].wait()
            yield number

    @server.on("drop")
    def drop() -> None:
        gates[DROPPED].set()
        site.proxy.drop()

    server.on("go", gates[RELOADED].set)
    api = routes(server, calls=["drop", "go"], runs=["count"])

    @web.middleware
    async def note(request: web.Request, handler: Any) -> Any:
        if request.method == "GET":
            read_after.append(request.headers.get("Last-Event-ID", ""))
        return await handler(request)

    api.middlewares.append(note)
    async with serving_site(server, api=api) as site:
        yield site, read_after


async def check(site: Site, read_after: list[str]) -> None:
    seen = await site.reports.get()
    assert (seen["loads"], seen["items"], seen["ends"]) == (2, [*range(ITEMS)], 1)
    first, dropped, reloaded, end = read_after
    assert (first, reloaded, end) == ("", "", "end")  # after a reload, the URL has the position
    assert 300 <= int(dropped.partition("-")[0]) <= DROPPED


async def test_a_run_is_read_through_a_drop_and_a_reload_in_chromium(browser: Browser) -> None:
    async with counting_site() as (site, read_after), browsing(browser) as context:
        async with quiet_page(context, f"{site.url}{PAGE}", "Failed to load resource: net::ERR_"):
            await check(site, read_after)


async def test_a_run_is_read_through_a_drop_and_a_reload_in_firefox(tmp_path: Path) -> None:
    async with counting_site() as (site, read_after), firefox(tmp_path, f"{site.url}{PAGE}"):
        await check(site, read_after)
