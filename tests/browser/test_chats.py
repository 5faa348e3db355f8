"""`useChat` and `HttpAgent`, unmodified, in Chromium and Firefox, on two workers with Redis, one of which is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Protocol

import playwright.async_api
import pytest
from browser.firefox import driven_firefox
from browser.page_site import HERE
from browser.pages import browsing, stopped
from browser.test_ai_chat import Chat, serving_chat
from browser.test_react import bundle
from playwright.async_api import Browser
from redis.asyncio import Redis

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(200)]

WHOLE = "It depends on the context."


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("chats") / "page.js"
    bundle(HERE / "page_http_chats.jsx", target)
    return target


class Page(Protocol):
    """A page that obeys commands, such as `browser.firefox.Tab`."""

    async def evaluate(self, expression: str) -> Any: ...

    async def until(self, expression: str) -> None: ...


class ChromiumPage:
    def __init__(self, page: playwright.async_api.Page) -> None:
        self.evaluate = page.evaluate
        self._page = page

    async def until(self, expression: str) -> None:
        await self._page.wait_for_function(expression)


class Stage:
    """Tabs of one user, and a model that writes when the test says so."""

    def __init__(self, client: str, chat: Chat, opened: Callable[[], Awaitable[Page]]) -> None:
        self.chat, self._open, self._client = chat, opened, client
        is_agent = client == "AgUi"
        self.cut = "network error"
        self.aborted: Any = {"status": "error", "error": "signal is aborted without reason"}
        self.stopped: Any = {"status": "error", "error": "the handler was stopped"}
        if not is_agent:
            self.aborted = self.stopped = {"status": "ready"}
        self.around_tool = ["Let me ask. ", "", ""] if is_agent else ["Let me ask. "]
        self._redis: Redis = Redis.from_url(chat.redis.url)

    async def close(self) -> None:
        await self._redis.aclose()

    async def write(self, question: str, words: int = 6) -> None:
        """Let the model write so many words more."""
        for _ in range(words):
            await self._redis.xadd(f"words of {question}", {"a": "word"})

    async def tab(self) -> Tab:
        """Open the page in a browser of its own, whose connections no other page uses."""
        tab = Tab(await self._open(), self._client)
        await tab.begin()
        return tab

    async def begun(self) -> Tab:
        """A tab that shows the begin of an answer."""
        tab = await self.tab()
        await tab.say("Why?")
        await self.write("Why?", 2)
        await tab.shows("It depends")
        return tab

    async def second_tab_after_kill(self) -> Tab:
        """Open a second tab at the other worker, and kill the one that answers."""
        writer = int(await self.chat.logged(r"\[(\d+)\] attempt 1 answers"))
        with stopped({writer}):
            second = await self.tab()
            await second.shows("It depends")
        os.kill(writer, signal.SIGKILL)
        return second


class Tab:
    def __init__(self, page: Page, client: str) -> None:
        self.page, self._client = page, client

    async def begin(self) -> None:
        await self.page.evaluate(f"import('/page.js').then(() => open('{self._client}'))")
        await self._until("document.querySelector('output')")

    async def load(self) -> None:
        """Load the page again."""
        await self.page.evaluate("(setTimeout(() => location.reload()), (globalThis.isOld = true))")
        await self._until("!globalThis.isOld && document.readyState === 'complete'")
        await self.begin()

    async def say(self, text: str) -> None:
        await self.page.evaluate(f"say({json.dumps(text)})")

    async def press(self, name: str) -> None:
        found = f"[...document.querySelectorAll('button')].find((each) => each.textContent === '{name}')"
        await self.page.evaluate(f"{found}.click()")

    async def shows(self, *answers: str, of: str = "assistant", status: str = "", error: str = "") -> None:
        """Wait until the page shows these messages, none twice; and so has what it says of its status."""
        texts = f"JSON.stringify([...document.querySelectorAll('p.{of}')].map((each) => each.textContent))"
        await self._until(f"{texts} === JSON.stringify({json.dumps(answers)})")
        if status:
            await self._until(f"document.querySelector('output').textContent === '{status}'")
            await self._until(f"document.querySelector('i').textContent === '{error}'")

    async def _until(self, expression: str) -> None:
        try:
            await self.page.until(expression)
        except (TimeoutError, playwright.async_api.TimeoutError):
            raise AssertionError([expression, await self.page.evaluate("document.body.innerText")]) from None


@asynccontextmanager
async def staged(client: str, opened: Callable[[str], Awaitable[Page]], folder: Path) -> AsyncGenerator[Stage]:
    async with serving_chat(folder, app="chats_app:app", app_folder=HERE) as chat:
        stage = Stage(client, chat, lambda: opened(chat.url))
        yield stage
        await stage.close()


async def reload_and_second_tab(stage: Stage) -> None:
    """Each shows the answer once, from its first word."""
    tab = await stage.begun()
    await tab.load()
    await tab.shows("It depends")
    second = await stage.tab()
    await second.shows("It depends")
    await stage.write("Why?")
    for each in (tab, second):
        await each.shows(WHOLE, status="ready")
        await each.shows("Why?", of="user")
    await tab.load()
    await tab.shows(WHOLE, status="ready")


async def killed(stage: Stage) -> None:
    """Its page says that the connection is lost, and "resume" shows the rest. A tab at the other worker goes on."""
    tab = await stage.begun()
    second = await stage.second_tab_after_kill()
    await tab.shows("It depends", status="error", error=stage.cut)
    await stage.chat.logged("attempt 2 answers")
    await stage.write("Why?", 1)
    await second.shows("It depends on")
    await tab.press("resume")
    await tab.shows("It depends on")
    await stage.write("Why?")
    for each in (tab, second):
        await each.shows(WHOLE, status="ready")
    await tab.say("Still there?")
    await stage.write("Still there?")
    await tab.shows(WHOLE, WHOLE, status="ready")


async def killed_before_the_end(stage: Stage) -> None:
    """An answer that has ended before "resume" is what another tab has stored."""
    tab = await stage.begun()
    second = await stage.second_tab_after_kill()
    await stage.write("Why?")
    await second.shows(WHOLE, status="ready")
    await tab.shows("It depends", status="error", error=stage.cut)
    await tab.press("resume")
    await tab.shows(WHOLE, status="ready")


async def stop_of_the_page(stage: Stage) -> None:
    """It ends the reading, and the model goes on: a reload shows the rest."""
    tab = await stage.begun()
    second = await stage.tab()
    await second.shows("It depends")
    await tab.press("stop")
    await tab.shows("It depends", **stage.aborted)
    await stage.write("Why?", 1)
    await second.shows("It depends on")
    await tab.load()
    await tab.shows("It depends on")
    await stage.write("Why?")
    for each in (tab, second):
        await each.shows(WHOLE, status="ready")


async def stop_of_the_model(stage: Stage) -> None:
    """All tabs keep what was written, a reload does not go on, and the next message gets its answer."""
    tab = await stage.begun()
    second = await stage.tab()
    await second.shows("It depends")
    await second.press("stop model")
    for each in (tab, second):
        await each.shows("It depends", **stage.stopped)
    await stage.write("Why?")
    await tab.say("And now?")
    await stage.write("And now?")
    await tab.shows("It depends", WHOLE, status="ready")
    await tab.load()
    await tab.shows("It depends", WHOLE, status="ready")


async def tool_in_the_page(stage: Stage) -> None:
    """The page answers, and the model goes on with its answer, also after a reload, in the same message if it can."""
    tab = await stage.tab()
    await tab.say("Which color?")
    *before, last = stage.around_tool
    await tab.shows(*before, f"{last}You like ")
    await tab.load()
    await tab.shows(*before, f"{last}You like ")
    await stage.write("Which color?", 1)
    for _ in range(2):
        await tab.shows(*before, f"{last}You like green.", status="ready")
        await tab.load()
    await stage.chat.logged("attempt 1 answers", 2)


async def error_of_the_model(stage: Stage) -> None:
    """It is told, and another answer can be asked for."""
    tab = await stage.tab()
    await tab.say("Fail!")
    await stage.write("Fail!")
    await tab.shows(WHOLE, status="error", error="the model is tired")
    await tab.say("Why?")
    await stage.write("Why?")
    await tab.shows(WHOLE, WHOLE, status="ready")


async def regenerated(stage: Stage) -> None:
    """The new answer takes the place of the first one."""
    tab = await stage.tab()
    await tab.say("Why?")
    await stage.write("Why?")
    await tab.shows(WHOLE, status="ready")
    id = await tab.page.evaluate("document.querySelector('p.assistant').id")
    await tab.press("regenerate")
    await tab.page.until(f"![null, '{id}'].includes(document.querySelector('p.assistant')?.id ?? null)")
    await tab.shows(WHOLE, status="ready")
    await stage.chat.logged("attempt 1 answers 'Why", 2)


async def two_messages(stage: Stage) -> None:
    """Both are answered. An HttpAgent is for one run at a time: it shows the answer that ends last."""
    tab = await stage.tab()
    await tab.say("Why?")
    await tab.say("And now?")
    await stage.write("Why?")
    await stage.write("And now?")
    await tab.shows("Why?", "And now?", of="user")
    await tab.shows(WHOLE, WHOLE, status="ready")


ROWS: list[Callable[[Stage], Awaitable[None]]] = [
    *(reload_and_second_tab, killed, killed_before_the_end, stop_of_the_page, stop_of_the_model, tool_in_the_page),
    *(error_of_the_model, regenerated),
]


@pytest.mark.parametrize(("row", "client"), [*product(ROWS, ["AiSdk", "AgUi"]), (two_messages, "AiSdk")])
async def test_a_page(
    row: Callable[[Stage], Awaitable[None]], client: str, browser: Browser, bundled: Path, tmp_path: Path
) -> None:
    shutil.copy(bundled, tmp_path)
    async with AsyncExitStack() as stack:

        async def opened(url: str) -> Page:
            # An HttpAgent whose response is cut rejects, and raises the same error where nobody can catch it.
            context = await stack.enter_async_context(browsing(browser, "network error"))
            page = await context.new_page()
            await page.goto(url)
            return ChromiumPage(page)

        async with staged(client, opened, tmp_path) as stage:
            await row(stage)


@pytest.mark.parametrize("client", ["AiSdk", "AgUi"])
async def test_a_page_in_firefox(client: str, bundled: Path, tmp_path: Path) -> None:
    shutil.copy(bundled, tmp_path)
    async with AsyncExitStack() as stack:

        async def opened(url: str) -> Page:
            profile = Path(mkdtemp(dir=tmp_path))
            return await (await stack.enter_async_context(driven_firefox(profile))).open(url)

        async with staged(client, opened, tmp_path) as stage:
            stage.cut = "Error in input stream"
            await killed(stage)
