"""Pages that sleep, in networks that stop: what is noticed, and that the session goes on at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from browser.chromium import Chromium, Tab, chromium
from browser.page_site import Site, quiet_page, serving_site
from browser.pages import browsing
from playwright.async_api import Browser
from waiting import until

from wsrpc import Handshake, Server

pytestmark = pytest.mark.asyncio(loop_scope="session")

BEGIN = "import('/tests/page_state.mjs').then((page) => page.begin())"


class Stepping:
    """A site with a page that reads the stream of ``steps``, whose items come from `step`."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.handshakes = 0
        self._steps = asyncio.Queue[int]()
        self._sent = 0
        site.server.on("ready", lambda: None)
        site.server.on("steps", self._stream)
        site.server.on_handshake(self._count)

    def _count(self, handshake: Handshake) -> None:
        self.handshakes += 1

    async def _stream(self) -> AsyncIterator[int]:
        while True:
            yield await self._steps.get()

    def step(self) -> list[int]:
        """Send an item, and return all that the page should have read then."""
        self._steps.put_nowait(self._sent)
        self._sent += 1
        return list(range(self._sent))


@asynccontextmanager
async def stepping() -> AsyncGenerator[Stepping]:
    async with serving_site(Server()) as site:
        yield Stepping(site)


# ---------------------------------------------------------------- pages that sleep


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def visible(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Chromium]:
    """A browser that hides, freezes and caches pages as it does for its users."""
    async with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@asynccontextmanager
async def frozen(browser: Chromium, tab: Tab, site: Site) -> AsyncGenerator[None]:
    await browser.open("about:blank")  # in front of it, also afterwards: it is not woken again by being seen
    await tab.until("document.visibilityState === 'hidden'")
    await tab.send("Page.setWebLifecycleState", state="frozen")
    await tab.until("noted.events.includes('freeze')")
    yield
    await tab.send("Page.setWebLifecycleState", state="active")
    await tab.until("noted.events.includes('resume')")


@asynccontextmanager
async def cached(browser: Chromium, tab: Tab, site: Site) -> AsyncGenerator[None]:
    await tab.send("Page.navigate", url=f"{site.url}?elsewhere")
    await tab.until("location.search === '?elsewhere' && document.readyState === 'complete'")
    yield
    await tab.send("Runtime.evaluate", expression="history.back()")
    await tab.until("globalThis.noted?.events.includes('restored')")


async def nothing(site: Site) -> None:
    pass


async def drop(site: Site) -> None:
    site.proxy.drop()


async def lose(site: Site) -> None:
    await site.server.peers[0].close()
    await until(lambda: not site.server.peers)


@pytest.mark.parametrize("meanwhile", [nothing, drop, lose])
@pytest.mark.parametrize("away", [frozen, cached])
async def test_a_page_that_is_back_resumes_at_once_or_is_told(
    visible: Chromium, away: Callable[..., Any], meanwhile: Callable[[Site], Awaitable[None]]
) -> None:
    """Chromium closed the connection of a frozen tab with 1001, which ended its session."""
    async with stepping() as page:
        tab = await visible.open(page.site.url)
        await tab.evaluate(BEGIN)
        read = page.step()
        await tab.until(f"noted.items.length === {len(read)}")
        [peer] = page.site.server.peers
        async with away(visible, tab, page.site):
            await until(lambda: page.site.server.stats().detached_peers == 1)
            assert page.site.server.peers == (peer,)
            await meanwhile(page.site)
            wanted = page.step()
        if meanwhile is lose:
            await tab.until("noted.end")
            noted = await tab.evaluate("noted")
            assert noted["end"] == ["ConnectionLost", "unknown"] and noted["items"] == read
            assert noted["states"] == ["open", "detached", "connecting"]
        else:
            await tab.until(f"noted.items.length === {len(wanted)}")
            noted = await tab.evaluate("noted")
            assert noted["end"] is None and noted["items"] == wanted
            assert noted["states"] == ["open", "detached", "open"]
            assert page.site.server.peers == (peer,) and page.site.closed == []
        assert page.handshakes == 2  # one round trip
        assert tab.complaints == []
        await tab.send("Page.close")


# ---------------------------------------------------------------- networks that stop

NOTE_SOCKETS = """() => {
    globalThis.sockets = []
    globalThis.WebSocket = class extends WebSocket {
        constructor(...given) {
            super(...given)
            sockets.push(this)
        }
    }
}"""


@pytest.mark.parametrize("drops", [True, False])
async def test_a_page_that_is_online_again_resumes_at_once(browser: Browser, drops: bool) -> None:
    async with stepping() as page, browsing(browser) as context, quiet_page(context, page.site.url) as tab:
        await tab.evaluate(BEGIN)
        [peer] = page.site.server.peers
        await context.set_offline(True)
        if drops:
            page.site.proxy.drop()
            await tab.wait_for_function("client.status.get() === 'detached'")
        wanted = page.step()
        await context.set_offline(False)
        await tab.wait_for_function(f"noted.items.length === {len(wanted)}")
        await until(lambda: page.handshakes == 2)
        # Without a drop, the new connection replaces the old one while that is still in use.
        states = await tab.evaluate("noted.states")
        assert states == ["open", "detached", "open"] or (not drops and states == ["open"]), states
        assert page.site.server.peers == (peer,)


async def test_nothing_is_said_on_a_connection_that_the_server_ends(browser: Browser) -> None:
    """Chromium wrote an error into the console for each message between the Close frame and the end."""
    async with stepping() as page, browsing(browser) as context, quiet_page(context, page.site.url) as tab:
        await tab.evaluate(NOTE_SOCKETS)
        await tab.evaluate(BEGIN)
        async with page.site.proxy.stall("up"):  # the answer to the Close frame
            closing = asyncio.create_task(page.site.server.peers[0].close(1001))
            await tab.wait_for_function("sockets[0].readyState === 2")
            await tab.evaluate("void (globalThis.asked = client.request('ready').catch(({ outcome }) => outcome))")
        await closing
        await tab.evaluate("client.connect()")
        assert await tab.evaluate("asked") == "unknown"
