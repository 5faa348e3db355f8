"""examples/page in the browser: what it does survives a connection that is reset in the middle."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from browser.page_site import quiet_page
from browser.pages import browsing, serving
from playwright.async_api import Browser, Page, expect
from programs import PYTHON, ROOT, free_port, printed_by, start

from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLE = ROOT / "examples" / "page"
TOOLS = ROOT / "browser" / "node_modules" / ".bin"
SIZE = 30_000_000

# All states that the page shows from now on.
WATCH = """() => {
    globalThis.states = []
    const status = document.querySelector("#status")
    const changed = () => status.textContent !== states.at(-1) && states.push(status.textContent)
    new MutationObserver(changed).observe(status, { childList: true, characterData: true, subtree: true })
}"""


@asynccontextmanager
async def example(folder: Path) -> AsyncGenerator[FaultProxy]:
    """The example as its reader runs it, behind a proxy."""
    port = free_port()
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "__pycache__", "page.js"))
    await printed_by(await start(f"{TOOLS}/esbuild", "page.ts", "--outfile=page.js", "--log-level=error", cwd=folder))
    async with serving("server.py", str(port), cwd=folder), FaultProxy(f"ws://127.0.0.1:{port}/") as proxy:
        yield proxy


@asynccontextmanager
async def logged_in(browser: Browser, proxy: FaultProxy, name: str) -> AsyncGenerator[Page]:
    async with browsing(browser) as context, quiet_page(context, f"http://127.0.0.1:{proxy.port}/") as page:
        await page.get_by_label("Your name").fill(name)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_label("Status")).to_have_text("open")
        await page.evaluate(WATCH)
        yield page


async def ask(page: Page, prompt: str) -> str:
    """Ask for an answer, and return what it will be."""
    await page.get_by_label("Prompt").fill(prompt)
    await page.get_by_role("button", name="Ask").click()
    return "".join(f"{number}:{word} " for number, word in enumerate(prompt.split() * 10))


async def test_the_page_of_the_example_survives_resets(browser: Browser, tmp_path: Path) -> None:
    content = random.Random(36).randbytes(SIZE)
    (tmp_path / "large.bin").write_bytes(content)
    async with (
        example(tmp_path / "page") as proxy,
        logged_in(browser, proxy, "Ada") as ada,
        logged_in(browser, proxy, "Bob") as bob,
    ):
        # The answer, half of which is there when the connection is reset, and the room meanwhile.
        answer = ada.get_by_label("Answer")
        wanted = await ask(ada, "one two three four five six")
        await expect(answer).to_contain_text("30:one")
        proxy.drop()
        await expect(ada.get_by_label("Status")).to_have_text("open")
        await bob.get_by_label("Message").fill("hello")
        await bob.get_by_role("button", name="Say").click()
        await expect(ada.get_by_label("Room")).to_have_text("Bob: hello")
        await expect(answer).to_have_text(wanted.strip())
        assert await answer.text_content() == wanted

        # Stopped in the middle.
        wanted = await ask(ada, "and again " * 50)
        await expect(answer).to_contain_text("3:again")
        await ada.get_by_role("button", name="Stop").click()
        await expect(answer).to_contain_text("(stopped)")
        text = await answer.text_content() or ""
        assert wanted.startswith(text.removesuffix("(stopped)"))

        # The upload. Its first connection is reset after more than half of it, so that the second one is not.
        async with proxy.cut_after(SIZE * 11 // 20, "up"):
            await ada.get_by_label("File").set_input_files(tmp_path / "large.bin")
            await ada.wait_for_function("states.length === 4")
        digest = hashlib.sha256(content).hexdigest()
        stored = ada.get_by_label("Stored")
        await expect(stored).to_have_text(f"large.bin: {SIZE} bytes, SHA-256 {digest}", timeout=30_000)
        assert await ada.get_by_label("Sent").evaluate("(bar) => bar.value === bar.max")
        assert await ada.evaluate("states") == ["detached", "open", "detached", "open"]
        assert await bob.evaluate("states") == ["detached", "open"]


async def test_the_types_of_the_example_are_right_and_it_is_short() -> None:
    assert len((EXAMPLE / "page.ts").read_text("utf-8").splitlines()) <= 60
    types = ("types", "server:server", "--msgpack", "-o", "api.d.ts", "--check")
    await printed_by(await start(*PYTHON, "-m", "wsrpc", *types, cwd=EXAMPLE))
    await printed_by(await start(str(TOOLS / "tsc"), "--project", str(EXAMPLE)))
