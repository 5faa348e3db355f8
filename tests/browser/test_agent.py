"""examples/agent under two workers, with Redis: reloads, second tabs, tools, the clients of AG-UI and the AI SDK."""

from __future__ import annotations

import json
import shutil
from asyncio.subprocess import STDOUT
from base64 import b64encode
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio
from browser.pages import browsing, shoot
from engine_servers import redis_server
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect
from programs import PYTHON, ROOT, UVICORN, Screen, free_port, listening, printed_by, start

from interop.node import JS, find_node
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.asyncio(loop_scope="session")

EXAMPLE = ROOT / "examples" / "agent"


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def url() -> AsyncGenerator[str]:
    """The example as its reader runs it."""
    redis = redis_server()
    try:
        command = ["-m", "wsrpc", "serve", "agent:app", "--port", str(free_port()), "--workers", "2"]
        env = {"REDIS": redis.url, "OPENAI_API_KEY": ""}
        async with listening(await start(*PYTHON, *command, cwd=EXAMPLE, env=env, stderr=STDOUT), UVICORN) as url:
            yield url
    finally:
        redis.kill()


async def opened(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    await expect(page.locator("output")).to_have_text("open")
    return page


async def ask(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Ask").click()


def answers(page: Page) -> Locator:
    return page.locator(".answer")


async def test_an_answer_survives_reloads_and_a_second_tab_has_all_of_it(browser: Browser, url: str) -> None:
    async with browsing(browser) as context:
        page = await opened(context, url)
        await ask(page, "Good morning!")
        second = None
        for words in ("Reload this page now", "in a second tab", "in either of them", "nobody reads"):
            await expect(answers(page)).to_contain_text(words)
            await page.reload()  # each time, it may come to the other worker
            second = second or await opened(context, page.url)
        assert second is not None
        for tab in (page, second):
            await expect(answers(tab)).to_contain_text("is still here.", timeout=20_000)
        assert await answers(page).text_content() == await answers(second).text_content()

        # Stopped by the tab that has not asked.
        await ask(page, "And again!")
        await expect(answers(second).nth(1)).to_contain_text("simulated model")
        await second.get_by_role("button", name="Stop").click()
        for tab in (page, second):
            await expect(tab.locator(".end")).to_have_text("(the handler was stopped)")
        assert await answers(page).all_text_contents() == await answers(second).all_text_contents()


async def test_a_tool_asks_all_tabs_and_goes_when_one_has_answered_or_stopped_it(browser: Browser, url: str) -> None:
    async with browsing(browser, viewport={"width": 600, "height": 660}) as context:
        page = await opened(context, url)
        await ask(page, "Which color shall it have?")
        await expect(page.get_by_label("Color")).to_be_visible()
        second = await opened(context, page.url)
        await expect(second.get_by_label("Color")).to_be_visible()
        await page.reload()
        await page.get_by_label("Color").fill("#ff8800")
        await page.get_by_role("button", name="OK").click()
        await expect(second.locator("dialog")).to_be_hidden()
        for tab in (page, second):
            await expect(tab.locator(".tool")).to_have_text("pick_color: #ff8800")
            await expect(answers(tab).last).to_have_text("You said: #ff8800. Thank you!")

        await ask(page, "Shall I send the email?")
        for tab in (page, second):
            await expect(tab.locator("dialog")).to_contain_text("Shall I send the email?")
        await second.get_by_role("button", name="Stop").click()
        for tab in (page, second):
            await expect(tab.locator("dialog")).to_be_hidden()

        await ask(page, "What else can you do?")
        await expect(answers(page).last).to_contain_text("stays in step.")
        await expect(answers(second).last).to_contain_text("stays in step.")
        await shoot_beside(context, {"A tab that was reloaded meanwhile": page, "A second tab": second}, "agent")


async def shoot_beside(context: BrowserContext, tabs: dict[str, Page], name: str) -> None:
    """Leave a picture of tabs side by side."""
    shots = {title: b64encode(await tab.screenshot(animations="disabled")).decode() for title, tab in tabs.items()}
    sheet = await context.new_page()
    await sheet.set_viewport_size({"width": 1240, "height": 715})
    await sheet.set_content(
        "<body style='margin: 10px; display: flex; gap: 16px; font: 16px system-ui; color: #62626f'>"
        + "".join(
            f"<div>{title}<img style='margin-top: 6px; border: 1px solid' src='data:image/png;base64,{shot}'></div>"
            for title, shot in shots.items()
        )
    )
    await shoot(sheet, name)


def copy_with_modules(name: str, folder: Path) -> None:
    """Copy a module of the example, and the program that tries it, beside the packages of npm."""
    shutil.copy(EXAMPLE / f"{name}.js", folder)
    shutil.copy(Path(__file__).with_name(f"{name}_run.mjs"), folder)
    (folder / "node_modules").symlink_to(JS / "node_modules")


async def test_the_client_of_ag_ui_reads_the_events(url: str, tmp_path: Path) -> None:
    lines = [line for name in ("agui.py", "agui.js") for line in (EXAMPLE / name).read_text("utf-8").splitlines()]
    assert len(lines) <= 150
    copy_with_modules("agui", tmp_path)
    client = (ROOT / "wsrpc" / "browser" / "client.js").as_uri()
    where = url.replace("http", "ws", 1)
    printed = await printed_by(await start(find_node(), "agui_run.mjs", client, where, cwd=tmp_path))
    first, stopped = [json.loads(line) for line in printed.splitlines()]
    assert [(message["role"], message["content"]) for message in first["messages"]] == [
        ("assistant", "Let me ask your page. "),
        ("tool", "#ff8800"),
        ("assistant", "You said: #ff8800. Thank you! "),
    ]
    assert first["types"][0] == "RUN_STARTED" and first["types"][-1] == "RUN_FINISHED"
    assert stopped["types"][-1] == "RUN_ERROR"


async def test_a_chat_of_the_ai_sdk_resumes_a_cut_answer_from_its_first_word(url: str, tmp_path: Path) -> None:
    lines = [line for name in ("aisdk.py", "aisdk.js") for line in (EXAMPLE / name).read_text("utf-8").splitlines()]
    assert len(lines) <= 90
    copy_with_modules("aisdk", tmp_path)
    async with FaultProxy(url.replace("http", "ws", 1)) as proxy:
        where = proxy.url.replace("ws", "http", 1)
        process = await start(find_node(), "aisdk_run.mjs", where, str(uuid4()), cwd=tmp_path, stderr=STDOUT)
        screen = Screen(process)

        async def do(name: str, *args: str) -> Any:
            screen.type(json.dumps([name, *args]))
            return json.loads(await screen.line())

        try:
            await do("send", "Good morning!")
            started = await do("shown", "so that you can try things.")
            assert started["status"] == "streaming"
            proxy.drop()
            cut = await do("shown")
            assert cut["status"] == "error" and "is still here." not in cut["texts"][1][1]
            await do("resume")
            whole = await do("shown")
            assert (whole["status"], whole["ids"]) == ("ready", started["ids"])
            [(_, asked), (role, answer)] = whole["texts"]
            assert (asked, role) == ("Good morning!", "assistant")
            assert answer.startswith("I am a simulated model") and answer.endswith("is still here. ")
            assert answer.count("simulated model") == 1

            # Another page of the conversation, in which nobody has asked yet.
            await do("reload")
            await do("resume")
            again = await do("shown")
            assert (again["texts"], again["ids"]) == (whole["texts"][1:], whole["ids"][1:])

            # Stopped in the middle. Its readers learn it.
            await do("send", "Which color?")
            await do("shown", "I write slowly")
            assert await do("stop") == 204
            stopped = await do("shown")
            assert stopped["status"] == "error" and "is still here." not in stopped["texts"][-1][1]

            # A chat without a run has nothing to resume.
            await do("forget")
            await do("reload")
            await do("resume")
            assert await do("shown") == {"status": "ready", "texts": [], "ids": []}
        finally:
            process.kill()
            await process.communicate()
