"""The rows of docs/reference/compatibility.md with ws-wrapper in a browser.

They are the tests that Node runs, over the browser's WebSocket.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
import pytest_asyncio
from aiohttp import web
from browser.page_agent import PageAgent, PageAgents
from browser.pages import PATIENCE
from playwright.async_api import Browser

from interop.node import JS, ws_wrapper_4
from interop.peers import DIALERS, Counterpart
from interop.test_matrix_calls import *  # noqa: F403
from interop.test_matrix_connection import *  # noqa: F403
from interop.test_matrix_streams import *  # noqa: F403

COUNTERPARTS: list[Counterpart] = [(f"browser:{library}", "python-serves") for library in [*DIALERS, "plain-4"]]


@pytest.fixture(params=COUNTERPARTS, ids=[library for library, _ in COUNTERPARTS])
def counterpart(request: pytest.FixtureRequest) -> Counterpart:
    """A page cannot listen: it dials."""
    found: Counterpart = request.param
    return found


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def agents(browser: Browser) -> AsyncGenerator[PageAgents]:
    app = web.Application()
    if ws_wrapper_4().is_dir():
        app.router.add_static("/node_modules/ws-wrapper-4", ws_wrapper_4())
    app.router.add_static("/", JS, follow_symlinks=True)  # node_modules may be one
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    context = await browser.new_context()
    context.set_default_timeout(PATIENCE)

    async def start(library: str) -> PageAgent:
        return await PageAgent.open(await context.new_page(), origin, library.removeprefix("browser:"))

    yield PageAgents(start, origin)
    await context.close()
    await runner.cleanup()
