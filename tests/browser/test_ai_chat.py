"""examples/ai_chat on several workers, with Redis: reloads, tabs, questions, kills, clients of AG-UI and the AI SDK."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import pytest
from browser.firefox import firefox
from browser.pages import browsing, shoot, stopped
from cluster_workers import Worker, environment, running
from engine_servers import EngineServer, redis_server
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect
from programs import ROOT, Screen, free_port, printed_by, start
from waiting import until

from interop.chat_tabs import AGENT, NEWEST, OLDER, OLDER_AGENT, tab

pytestmark = pytest.mark.asyncio(loop_scope="session")

HERE = Path(__file__).parent
EXAMPLE = ROOT / "examples" / "ai_chat"


STARTED = "Application startup complete"


class Chat:
    """The example as its reader runs it, on several workers."""

    def __init__(self, command: Worker, url: str, redis: EngineServer) -> None:
        self._command = command
        self.url = url
        self.redis = redis

    async def worker_of_latest(self) -> int:
        """The process to which a page has connected last."""
        remote = re.findall(r'(\S+) - "WebSocket /ws\?conversation=', self._command.log)[-1]
        return int(await self._command.logged(rf"\[(\d+)\] peer \w+ connected from {remote} \("))

    async def logged(self, pattern: str, times: int = 1) -> str:
        """Wait until a pattern stands so often in the log. Return what it last found."""
        return await self._command.logged(pattern, times)

    def workers(self) -> set[int]:
        return {int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", self._command.log)}


@asynccontextmanager
async def serving_chat(
    folder: Path, workers: int = 2, *more: str, app: str = "web_app:app", app_folder: Path = EXAMPLE
) -> AsyncGenerator[Chat]:
    redis, port = redis_server(), free_port()
    env = environment("")
    env["PYTHONPATH"] += os.pathsep.join(("", str(EXAMPLE), str(ROOT)))
    env |= {"REDIS": redis.url, "CHAT_DATABASE": str(folder / "chat.sqlite"), "OPENAI_API_KEY": ""}
    options = ("--port", str(port), "--workers", str(workers), *more)
    try:
        async with running(app_folder, app, *options, env=env, command=("wsrpc", "serve")) as worker:
            await worker.logged(STARTED, workers)
            try:
                yield Chat(worker, f"http://127.0.0.1:{port}", redis)
            except BaseException:
                print(worker.log)  # pytest shows it
                raise
            assert await worker.end() == 0 and "Traceback" not in worker.log, worker.log
    finally:
        redis.kill()


async def opened(context: BrowserContext, url: str) -> Page:
    page = await context.new_page()
    await page.goto(url)
    await expect(page.locator("#staff")).not_to_be_empty()  # the page has the state of the conversation
    return page


async def say(page: Page, text: str) -> None:
    await page.get_by_label("Message").fill(text)
    await page.get_by_role("button", name="Send").click()


def answers(page: Page) -> Locator:
    return page.locator(".answer")


async def test_an_answer_survives_reloads_and_a_second_tab_has_all_of_it(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, browsing(browser) as context:
        page = await opened(context, chat.url)
        await say(page, "Good morning!")
        second = None
        for words in ("Reload this page now", "in a second tab", "in either of them", "nobody reads"):
            await expect(answers(page)).to_contain_text(words)
            await page.reload()  # each time, it may come to the other worker
            second = second or await opened(context, page.url)
        assert second is not None
        for tab in (page, second):
            await expect(answers(tab)).to_contain_text("a second or so.", timeout=20_000)
        assert await answers(page).text_content() == await answers(second).text_content()
        await expect(page.get_by_role("button", name="Stop")).to_be_disabled()

        # Stopped by the tab that has not asked. What was written stays.
        await say(page, "And again!")
        await expect(answers(second).nth(1)).to_contain_text("simulated model")
        await second.get_by_role("button", name="Stop").click()
        for tab in (page, second):
            await expect(tab.locator(".note")).to_have_text("(stopped)")
            await expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
        await page.reload()
        await expect(answers(page)).to_have_count(2)
        await expect(answers(page).nth(1)).to_contain_text("simulated model")
        assert "a second or so." not in (await answers(page).nth(1).text_content() or "")
        await expect(answers(second).nth(1)).to_have_text(await answers(page).nth(1).text_content() or "")

        # Retried by either tab, also in a page that was loaded after that.
        await page.get_by_role("button", name="Retry").click()
        await expect(answers(second).nth(1)).to_contain_text("Reload this page now")
        await page.reload()
        for tab in (page, second):
            await expect(answers(tab).nth(1)).to_contain_text("a second or so.", timeout=20_000)
            await expect(tab.get_by_role("button", name="Retry")).to_have_count(0)
            await expect(tab.locator(".note")).to_have_count(0)
            await expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
        assert await answers(page).nth(1).text_content() == await answers(page).first.text_content()


WATCH = """() => {
  window.questionClosed = new Promise((resolve) => {
    const look = () => document.querySelector(".question") ||
      resolve(document.querySelector("#stop").disabled ? "at its end" : "while the answer goes on")
    new MutationObserver(look).observe(document.querySelector("main"), { childList: true, subtree: true })
  })
}"""
"""Notes when a question is closed."""


async def test_a_question_goes_when_one_tab_has_answered_or_stopped_it(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, browsing(browser, viewport={"width": 600, "height": 660}) as context:
        page = await opened(context, chat.url)
        await say(page, "Send the email to Bob")
        second = await opened(context, page.url)
        await page.reload()
        for tab in (page, second):
            await expect(tab.locator(".question")).to_contain_text("Send the email to Bob")
        await second.evaluate(WATCH)
        await page.get_by_role("button", name="Yes").click()
        for tab in (page, second):
            await expect(tab.locator(".question")).to_have_count(0)
            await expect(answers(tab)).to_contain_text("You said: yes. Thank you!")
        assert await second.evaluate("questionClosed") == "while the answer goes on"

        await say(page, "And an email to Eve")
        for tab in (page, second):
            await expect(tab.locator(".question")).to_contain_text("Eve")
        await second.get_by_role("button", name="Stop").click()
        for tab in (page, second):
            await expect(tab.locator(".question")).to_have_count(0)

        await say(page, "What else can you do?")
        for tab in (page, second):
            await expect(answers(tab).last).to_contain_text("stays in step.")
        await shoot_beside(context, {"A tab that was reloaded meanwhile": page, "A second tab": second}, "ai_chat")


async def test_a_human_takes_over_and_hands_back(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, browsing(browser) as users, browsing(browser) as staffs:
        page = await opened(users, chat.url)
        await say(page, "Good morning!")
        await expect(answers(page)).to_contain_text("simulated model")
        staff = await opened(staffs, chat.url + "/staff" + page.url[page.url.index("#") :])
        await expect(page.locator("#others")).to_have_text("staff is here")
        await expect(answers(staff)).to_contain_text("simulated model")
        await expect(page.get_by_role("button", name="Take over")).to_be_hidden()
        await staff.get_by_role("button", name="Take over").click()
        for tab in (page, staff):
            await expect(tab.locator("#staff")).to_have_text("A human answers")
            await expect(tab.locator(".note")).to_have_text("(stopped)")
        await staff.get_by_label("Message").fill("I am Sue.")
        await expect(page.locator("#others")).to_have_text("staff is typing")
        await staff.get_by_role("button", name="Send").click()
        await expect(page.locator("p.staff")).to_have_text("I am Sue.")
        await say(page, "An email, please")
        await expect(staff.locator("p.user").last).to_have_text("An email, please")
        await staff.get_by_role("button", name="Hand back").click()
        await expect(page.locator("#staff")).to_have_text("The model answers")
        await say(page, "An email, I said")
        await expect(page.locator(".question")).to_contain_text("I said")
        await expect(staff.locator(".question")).to_have_count(1)
        await expect(staff.locator(".question")).to_be_hidden()  # the user is asked, not the staff
        await page.get_by_role("button", name="No").click()
        for tab in (page, staff):
            await expect(answers(tab).last).to_contain_text("You said: no. Thank you!")
            await expect(answers(tab)).to_have_count(2)

        # Who has left while typing types no more.
        await staff.get_by_label("Message").fill("One mo")
        await expect(page.locator("#others")).to_have_text("staff is typing")
        await staff.close()
        await expect(page.locator("#others")).to_have_text("staff is here")

        # Another user has another conversation.
        async with browsing(browser) as others:
            other = await others.new_page()
            async with other.expect_event("websocket") as dialed:
                await other.goto(page.url)
            await (await dialed.value).wait_for_event("socketerror")


ATTEMPT = "attempt 2 of the run"
"""What the log says when another worker goes on."""


@asynccontextmanager
async def two_tabs(browser: Browser, chat: Chat) -> AsyncGenerator[tuple[Page, int, Page, int]]:
    """Two tabs of a conversation at different workers, each with its worker.

    The second tab has connections of its own: that of the page could be used again, which leads to the first worker.
    """
    async with browsing(browser) as context:
        first = await opened(context, chat.url)
        worker = await chat.worker_of_latest()
        async with browsing(browser, storage_state=await context.storage_state()) as others:
            with stopped({worker}):
                second = await opened(others, first.url)
                other = await chat.worker_of_latest()
            assert worker != other
            yield first, worker, second, other


async def say_at(page: Page, text: str, other: int, begun: Locator) -> None:
    """Let the worker of a page run the answer, by not letting that of the other tab be faster."""
    with stopped({other}):
        await say(page, text)
        await expect(begun).to_be_visible()


WATCH_LENGTH = """() => {
  window.onlyGrows = true
  let longest = 0
  new MutationObserver(() => {
    const { length } = document.querySelector(".answer").textContent
    onlyGrows &&= length >= longest
    longest = length
  }).observe(document.querySelector("main"), { childList: true, subtree: true })
}"""
"""Notes whether an answer begins again."""


async def test_a_killed_worker_is_replaced_with_the_answer_that_it_wrote(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path, workers=4) as chat, two_tabs(browser, chat) as tabs:
        page, worker, second, other = tabs
        assert len(chat.workers()) == 4
        await say_at(page, "Good morning!", other, answers(page))
        for tab in (page, second):
            await expect(answers(tab)).to_contain_text("Reload this page")
        for tab in (page, second):
            await tab.evaluate(WATCH_LENGTH)
        os.kill(worker, signal.SIGKILL)
        await expect(page.locator("output")).not_to_have_text("open")
        await chat.logged(ATTEMPT)
        for tab in (page, second):
            await expect(answers(tab)).to_contain_text("a second or so.", timeout=20_000)
            assert (await answers(tab).text_content() or "").count("simulated model") == 1
            assert await tab.evaluate("onlyGrows")
            await expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
            await expect(tab.locator(".note")).to_have_count(0)


@pytest.mark.parametrize("waits", [True, False], ids=["the second attempt", "before the second attempt"])
async def test_an_answer_is_stopped_in(waits: bool, browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, two_tabs(browser, chat) as tabs:
        page, worker, second, other = tabs
        await say_at(page, "Good morning!", other, answers(page))
        await expect(answers(second)).to_contain_text("I am a simulated model")
        shown = await answers(second).text_content() or ""
        os.kill(worker, signal.SIGKILL)
        if waits:
            await chat.logged(ATTEMPT)
        await second.get_by_role("button", name="Stop").click()
        for tab in (page, second):
            await expect(tab.locator(".note")).to_have_text("(stopped)")
            await expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
        await second.reload()
        await expect(answers(second)).to_contain_text(shown)
        await say(page, "And again!")  # at whose end the first answer would have ended, too
        await expect(answers(second)).to_have_count(2)
        await expect(answers(second).last).to_contain_text("a second or so.", timeout=20_000)
        await expect(answers(second).first).not_to_contain_text("a second or so.", timeout=20_000)


@pytest.mark.parametrize("happens", ["stop", "kill", "a new tab"])
async def test_an_answer_that_is_too_long_to_be_kept(happens: str, browser: Browser, tmp_path: Path) -> None:
    long = serving_chat(tmp_path, app="long_chat:app", app_folder=HERE)
    async with long as chat, two_tabs(browser, chat) as tabs:
        page, worker, second, other = tabs
        await say_at(page, "Good morning!", other, answers(page))
        await expect(answers(page)).to_contain_text("from its first word", timeout=20_000)
        if happens == "a new tab":
            await second.reload()
            await expect(answers(second)).to_contain_text("…")
        if happens == "stop":
            await second.get_by_role("button", name="Stop").click()
        if happens == "kill":
            os.kill(worker, signal.SIGKILL)
        for tab in (page, second):
            if happens == "a new tab":
                await expect(answers(tab)).to_contain_text("a second or so.", timeout=20_000)
            else:
                await expect(tab.locator(".note")).to_have_text("(stopped)" if happens == "stop" else "(failed)")
            await expect(answers(tab)).to_contain_text("… ")
            await expect(answers(tab)).not_to_contain_text("simulated model")


async def run_of_latest(chat: Chat, folder: Path, url: str) -> str:
    """Return the URL of the latest answer of a conversation."""
    conversation = url.partition("#")[2]
    select = "SELECT id, round FROM message ORDER BY number DESC"
    id, round = sqlite3.connect(folder / "chat.sqlite").execute(select).fetchone()
    args = quote(json.dumps([conversation, id, round]))
    return f"{chat.url}/http/runs/answer/{id}.{round}?conversation={conversation}&args={args}"


async def test_a_question_waits_for_curl_while_all_tabs_are_closed_and_workers_killed(
    browser: Browser, tmp_path: Path
) -> None:
    async with serving_chat(tmp_path) as chat, two_tabs(browser, chat) as (page, worker, second, other):
        await say_at(page, "Send the email to Bob", other, page.locator(".question"))
        url, context = page.url, page.context
        [user] = [cookie.get("value", "") for cookie in await context.cookies()]
        await page.close()
        await second.close()
        os.kill(worker, signal.SIGKILL)
        await chat.logged(ATTEMPT)
        run = await run_of_latest(chat, tmp_path, url)
        reading = Screen(await start("curl", "-sN", "-b", f"user={user}", run))
        while '"tool"' not in (line := await reading.line()):
            pass
        word = {"text": "yes", "of": json.loads(line.removeprefix("data: "))["tool"]["id"]}
        patch = ("curl", "-s", "-X", "PATCH", "--json", json.dumps(word), run)
        assert '"forbidden"' in await printed_by(await start(*patch, "-b", "user=staff-sue"))
        assert await printed_by(await start(*patch, "-b", f"user={user}")) == ""
        while "event: end" not in await reading.line():
            pass
        page = await opened(context, url)
        await expect(answers(page)).to_have_text("Let me ask you. You said: yes. Thank you! ")


async def test_what_the_user_says_meanwhile_is_for_this_answer_also_of_another_worker(
    browser: Browser, tmp_path: Path
) -> None:
    async with serving_chat(tmp_path) as chat, two_tabs(browser, chat) as (page, worker, second, other):
        await say_at(page, "Good morning!", other, answers(page))
        await expect(answers(second)).to_contain_text("Reload this page")
        await say(second, "And tell me more")
        for tab in (page, second):
            await expect(answers(tab)).to_contain_text(re.compile("> And tell me more.*simulated model", re.DOTALL))
        os.kill(worker, signal.SIGKILL)
        await chat.logged(ATTEMPT)
        await expect(answers(page)).to_contain_text(re.compile("> And tell me more.*in a second tab", re.DOTALL))
        await say(page, "But shorter, please")
        for tab in (page, second):
            await expect(answers(tab)).to_contain_text(
                re.compile("> But shorter, please.*In short: I go on.", re.DOTALL)
            )
            await expect(tab.get_by_role("button", name="Stop")).to_be_disabled()
        await second.reload()
        text = await answers(second).text_content() or ""
        assert text == await answers(page).text_content()
        assert [text.count(words) for words in ("> And", "> But", "simulated model", "a second or so.")] == [1, 1, 2, 0]
        await expect(page.get_by_label("Message")).to_have_value("")


async def test_what_the_user_says_after_an_answer_has_ended_gets_its_own(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, two_tabs(browser, chat) as (page, worker, second, _):
        await say_at(second, "Good morning!", worker, answers(second))
        await expect(answers(page)).to_contain_text("simulated model")
        with stopped({worker}):  # its page does not learn of the end
            await say(page, "Shorter, please")
            await expect(answers(second)).to_contain_text("a second or so.", timeout=20_000)
            await expect(second.get_by_role("button", name="Stop")).to_be_disabled()
        for tab in (page, second):
            await expect(tab.locator("p.user")).to_have_text(["Good morning!", "Shorter, please"])
            await expect(answers(tab).last).to_have_text("In short: I go on. ")
            await expect(answers(tab).first).to_contain_text("a second or so.")


async def test_a_question_stays_open_while_the_worker_that_asks_is_replaced(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, two_tabs(browser, chat) as tabs:
        page, worker, second, other = tabs
        await say_at(page, "Send the email to Bob", other, page.locator(".question"))
        for tab in (page, second):
            await tab.locator(".question").evaluate("form => form.classList.add('first')")
        os.kill(worker, signal.SIGKILL)
        await chat.logged(ATTEMPT)
        for tab in (page, second):
            await expect(answers(tab)).to_have_text("Let me ask you. ")
            await expect(tab.locator(".question")).to_have_count(1)
            await expect(tab.locator(".question.first")).to_be_visible()
        await second.get_by_role("button", name="Yes").click()
        for tab in (page, second):
            await expect(tab.locator(".question")).to_have_count(0)
            await expect(answers(tab)).to_contain_text("You said: yes. Thank you!")


async def test_an_answer_goes_on_and_is_stored_although_all_pages_are_closed(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, browsing(browser) as context:
        page = await opened(context, chat.url)
        await say(page, "Good morning!")
        await expect(answers(page)).to_contain_text("Reload this page")
        url = page.url
        await page.close()
        for pid in chat.workers():  # whichever of them writes, and all others
            os.kill(pid, signal.SIGKILL)
        await chat.logged(ATTEMPT)
        database = sqlite3.connect(tmp_path / "chat.sqlite")
        await until(lambda: database.execute("SELECT state FROM message").fetchone() == ("done",), limit=60)
        page = await opened(context, url)
        await expect(answers(page)).to_contain_text("a second or so.")
        assert (await answers(page).text_content() or "").count("simulated model") == 1


async def test_nothing_is_lost_while_redis_is_away(browser: Browser, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat, browsing(browser) as context:
        page = await opened(context, chat.url)
        await say(page, "Good morning!")
        await expect(answers(page)).to_contain_text("Reload this page")
        chat.redis.freeze()
        await say(page, "An email, please")
        await expect(page.get_by_role("button", name="Send")).to_be_disabled()
        await expect(page.get_by_label("Message")).to_have_value("An email, please")
        chat.redis.thaw()
        await expect(page.get_by_label("Message")).to_have_value("")
        await expect(page.locator(".question")).to_be_visible()
        chat.redis.freeze()
        await page.get_by_role("button", name="Yes").click()
        chat.redis.thaw()
        await expect(answers(page)).to_contain_text("You said: yes. Thank you!")


async def test_two_tabs_in_firefox(tmp_path: Path) -> None:
    (profile := tmp_path / "profile").mkdir()
    driven = serving_chat(tmp_path, workers=4, app="driven_chat:app", app_folder=HERE)
    async with driven as chat, firefox(profile, f"{chat.url}/drive"):
        await chat.logged('report: "kill all workers"')
        for pid in chat.workers():
            os.kill(pid, signal.SIGKILL)
        report = json.loads(await chat.logged("report: ({.*})"))
        assert report == {"seen": "all is fine", "complaints": []}


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


@pytest.mark.parametrize("library", [NEWEST, OLDER, AGENT, OLDER_AGENT])
async def test_an_answer_to_another_client_goes_on_after_its_workers_were_killed(library: str, tmp_path: Path) -> None:
    async with serving_chat(tmp_path) as chat:
        async with tab(library, chat.url.replace("http", "ws", 1) + "/ws", event="reply") as page:
            await page.do("send", "Good morning!")
            await page.shown("Reload this page")
            for pid in chat.workers():
                os.kill(pid, signal.SIGKILL)
            [_, (role, text)] = (await page.shown())["texts"]
        assert (role, text.count("simulated model")) == ("assistant", 1) and text.endswith("a second or so. ")


@pytest.mark.parametrize("library", [NEWEST, AGENT])
async def test_a_tool_of_the_page_is_used_while_the_workers_are_killed(library: str, tmp_path: Path) -> None:
    driven = serving_chat(tmp_path, app="driven_chat:app", app_folder=HERE)
    async with driven as chat:
        async with tab(library, chat.url.replace("http", "ws", 1) + "/ws", event="asking") as page:
            await page.do("send", "Ask, and wait!")
            await page.do("until", "call-1")
            for pid in chat.workers():
                os.kill(pid, signal.SIGKILL)
            await chat.logged(ATTEMPT)
            await page.do("answer")
            assert (await page.shown())["texts"][-1][1] == "You said later."
            assert await page.do("asked") == ["Ask, and wait!"]


async def test_curl_reads_a_chat_whose_worker_is_killed(tmp_path: Path) -> None:
    asked = {"id": "1", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "Good morning!"}]}]}
    async with serving_chat(tmp_path) as chat:
        curl = ("curl", "-sNL", "-H", "Cookie: user=ann")
        writer, reader = chat.workers()
        with stopped({reader}):
            asking = await start(*curl, "--json", json.dumps(asked), f"{chat.url}/api/chat")
            assert asking.stdout is not None
            while b"simulated" not in await asking.stdout.readline():
                pass
        with stopped({writer}):
            reading = Screen(await start(*curl, f"{chat.url}/api/chat/1/stream"))
            found = [await reading.line()]
        os.kill(writer, signal.SIGKILL)
        await asking.communicate()
        while found[-1] != "data: [DONE]":
            found.append(await reading.line())
        await chat.logged(ATTEMPT)
        chunks = [json.loads(line[6:]) for line in found if line.startswith("data: {")]
        types = [chunk["type"] for chunk in chunks]
        assert types == ["start", "start-step", "text-start", *["text-delta"] * (len(types) - 5), "text-end", "finish"]
        text = "".join(chunk.get("delta", "") for chunk in chunks)
        assert text.startswith("I am a simulated model") and text.endswith("a second or so. ")
        assert text.count("simulated model") == 1
