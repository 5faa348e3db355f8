"""The page of `docs()` in Chromium, on aiohttp, and in Firefox, on an ASGI server: each event is called from it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from browser.pages import shoot
from docs_server import HTML, make_server, serving_docs
from playwright.async_api import Browser

from browser import chromium, firefox

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

Tab = chromium.Tab | firefox.Tab
Open = Callable[[str], Any]

# What a reader does: find an event, fill fields in, press a button, read.
READER = """globalThis.of = (name, title = "On the main channel") => {
    const among = (elements, part, text) =>
        [...elements].find((each) => (part ? each.querySelector(part) : each).textContent === text)
    const section = among(document.querySelectorAll("#events section"), "h2", title)
    const entry = among(section.querySelectorAll("details"), ".name", name)
    entry.open = true
    const field = (label) => among(entry.querySelectorAll(".field"), "code", label)
    return {
        isOpen: Boolean(entry.querySelector(".body")),
        fill: (label, value) => (field(label).querySelector("input, select, textarea").value = value),
        press: (label) => among(entry.querySelectorAll("button"), "", label).click(),
        get state() { return entry.querySelector(".state").textContent },
        get text() { return entry.querySelector("output pre").textContent },
    }
}"""

CHAT = "On channel chat"
QUOTED = "a \"quoted\" 'name' <b>&amp;"
CALLS: list[tuple[str, str, str, dict[str, str], str]] = [
    ("On the main channel", "add", "Call", {"a": "2", "b": "3"}, "5"),
    ("On the main channel", "brew", "Call", {}, '"drink": "text"'),
    ("On the main channel", "cook", "Call", {"cups": '[{"drink": "tea"}]', "size": '"small"'}, '"drink": "tea"'),
    ("On the main channel", "tree", "Call", {}, '"value": 1'),
    ("On the main channel", "pets", "Call", {}, "{"),
    ("On the main channel", "host", "Call", {"host": '{"name": "a"}', "more": "[1, 2]"}, "[\n  1,\n  2,\n  1\n]"),
    ("On the main channel", "echo", "Call", {"value": '{"a": [1, null]}'}, '"a": ['),
    ("On the main channel", "optional", "Call", {}, '"1 b None"'),
    ("On the main channel", "optional", "Call", {"c": "true"}, '"1 b True"'),
    ("On the main channel", "nothing", "Call", {}, "null"),
    ("On the main channel", QUOTED, "Call", {}, json.dumps(HTML)),
    (f"On channel {HTML}", HTML, "Call", {"value": HTML}, json.dumps(HTML)),
    ("On the main channel", "count", "Follow", {"to": "3"}, "0\n1\n2"),
    ("On the main channel", "count", "Follow", {"to": "100000"}, "… 99800 earlier\n99800\n"),
    ("On the main channel", "large", "Call", {"size": "5000000"}, "x… (5000002 characters)"),
    ("On the main channel", "total", "Upload", {"start": "4", "items": "1\n2\n\n3\n"}, "10"),
    ("On the main channel", "store", "Upload", {}, '"text: 3 bytes"'),
    ("On the main channel", "shout", "Start", {"items": '"a"\n"b"'}, '"A"\n"B"'),
    ("On the main channel", "price", "Call", {"drink": "tea", "key": "p"}, "3"),
    ("On the main channel", "price", "Call", {"drink": "tea", "key": "p"}, "3"),
    ("On the main channel", "story", "Follow", {"words": "3", "key": "s"}, '"word 0"\n"word 1"\n"word 2"'),
    ("On the main channel", "story", "Follow", {"words": "3", "key": "s", "after": "2"}, '"word 2"'),
    ("On the main channel", "say", "Call", {"text": HTML}, "null"),
    (CHAT, "say", "Call", {"text": "hi", "urgent": "true"}, "102"),
    (CHAT, "history", "Follow", {"since": "7"}, '{"who":"Ada","text":"7","more":""}'),
    (CHAT, "upload", "Upload", {"items": '"AAAA"\n"AAAA"'}, "6"),
    (CHAT, "shout", "Start", {"items": '"a"'}, '"A"'),
]
"""The channel, the event, the button, what the fields get, and what is shown then."""
FAILURES = [
    ("fail", {"why": HTML}, "Call", f"RemoteError [bad_luck]: {HTML} (outcome: ran)"),
    ("broken", {}, "Follow", "RemoteError [broken]: it broke (outcome: ran)"),
    ("add", {"a": "no"}, "Call", "Error: a: "),
    ("echo", {"value": ""}, "Call", "wsrpc.bad_arguments"),
    ("add", {"a": "1.5", "b": "1"}, "Call", "outcome: not_run"),
    ("story", {"words": "4", "key": "s", "after": ""}, "Follow", "wsrpc.key_reused"),
]


class Reader:
    """Reads a page, and calls events from it."""

    def __init__(self, tab: Tab) -> None:
        self.tab = tab

    async def call(self, event: str, button: str, fields: dict[str, str], title: str = "On the main channel") -> str:
        """Press the button, and return the expression of the event."""
        found = f"of({json.dumps(event)}, {json.dumps(title)})"
        await self.tab.until(f"{found}.isOpen")
        filled = "".join(f"it.fill({json.dumps(label)}, {json.dumps(value)});" for label, value in fields.items())
        await self.tab.evaluate(f"(() => {{ const it = {found}; {filled} it.press({json.dumps(button)}) }})()")
        return found

    async def until(self, expression: str, part: str) -> None:
        """Wait until a text has a part. The error has the text."""
        try:
            await self.tab.until(f"({expression}).includes({json.dumps(part)})")
        except TimeoutError:
            raise AssertionError(f"{part!r} is not in {await self.tab.evaluate(expression)!r}") from None


@pytest_asyncio.fixture(loop_scope="session", params=["chromium", "firefox"])
async def open_page(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Open]:
    """Open the page of a server as a user, in a tab of its own."""
    is_chromium = request.param == "chromium"
    driven: Any = chromium.chromium if is_chromium else firefox.driven_firefox
    browser: AbstractAsyncContextManager[Any] = driven(tmp_path)
    tabs: list[Tab] = []
    async with serving_docs("aiohttp" if is_chromium else "uvicorn-wsrpc", make_server()) as url, browser as opened:

        async def open_as(user: str) -> Reader:
            await opened.open(f"{url}/login/{user}")
            tabs.append(tab := await opened.open(f"{url}/docs/"))
            await tab.evaluate(f"void ({READER})")
            await tab.until("document.querySelector('.event, #problem:not([hidden])') !== null")
            return Reader(tab)

        yield open_as
        for tab in tabs:
            assert await tab.evaluate("globalThis.attacked === undefined")


async def test_events_of_all_kinds_are_called_from_the_page(open_page: Open) -> None:
    reader = await open_page("ada")
    await reader.until("document.getElementById('principal').textContent", "as ada")
    for title, event, button, fields, shown in CALLS:
        found = await reader.call(event, button, fields, title)
        await reader.tab.until(f"!{found}.state.startsWith('running')")
        await reader.until(f"{found}.state", "done after")
        await reader.until(f"{found}.text", shown)
    for event, fields, button, said in FAILURES:
        await reader.until(f"{await reader.call(event, button, fields)}.state", said)


async def test_calls_are_cancelled_and_runs_stopped_from_the_page(open_page: Open) -> None:
    reader = await open_page("ada")
    hanging = await reader.call("hang", "Call", {})
    await reader.call("hang", "Cancel", {})
    await reader.until(f"{hanging}.state", "AbortError")
    await reader.until(f"{await reader.call('is cancelled', 'Call', {})}.text", "true")
    for event, button, end in [("ticks", "Cancel", "AbortError"), ("endless", "Stop run", "")]:
        following = await reader.call(event, "Follow", {})
        await reader.until(f"{following}.text", "5")
        await reader.call(event, button, {})
        await reader.tab.until(f"{following}.state !== 'running …'")
        await reader.until(f"{following}.state", end)
    approval = await reader.call("approval", "Follow", {})
    await reader.until(f"{approval}.text", "waiting")
    await reader.call("approval", "Send message", {"message": '"yes"'})
    await reader.until(f"{approval}.text", '"got yes"')


async def test_conversations_rooms_and_events_of_the_server(open_page: Open) -> None:
    reader = await open_page("ada")
    guess = await reader.call("guess", "Open", {"limit": "3"})
    await reader.tab.until("[...document.querySelectorAll('button')].some((each) => each.textContent === 'Request')")
    await reader.call("guess", "Send", {"event": "guess", "arguments": "[2]"})
    await reader.until(f"{guess}.text", 'hint "wrong"')
    await reader.call("guess", "Send", {"event": "guess", "arguments": "[3]"})
    await reader.until(f"{guess}.text", 'hint "right"')
    await reader.call("guess", "Request", {"event": "give_up", "arguments": "[]"})
    await reader.until(f"{guess}.text", "give_up → 3")
    await reader.until(f"{guess}.state", "done after")
    talk = await reader.call("talk", "Open", {"name": "Ada", "show": "hello"}, CHAT)
    await reader.until(f"{talk}.text", 'hello "Ada"')

    join = "(() => { const form = document.getElementById('join'); form.room.value = %r; form.requestSubmit() })()"
    rooms = "document.getElementById('rooms').textContent"
    await reader.tab.evaluate(join % "lobby")
    await reader.until(rooms, "ada (online)")
    await reader.until(rooms, '"topic": "<img src=x')
    await reader.tab.evaluate(join % "closed")
    await reader.until(rooms, "not allowed")
    await reader.call("say", "Call", {"text": "hello"})
    await reader.until("document.getElementById('log').textContent", 'said "ada" "hello" (in lobby)')
    asked = await reader.call("ask me", "Call", {})
    await reader.until(f"{asked}.state", "RemoteError")
    await reader.until("document.getElementById('log').textContent", 'confirm "really?"')


async def test_the_page_shows_nothing_without_a_login(open_page: Open) -> None:
    reader = await open_page("nobody")
    problem, events = "document.getElementById('problem').textContent", "document.querySelectorAll('.event').length"
    await reader.until(problem, "401: who are you?")
    token = "(() => { const form = document.getElementById('login'); form.token.value = %r; form.requestSubmit() })()"
    await reader.tab.evaluate(token % "bob")
    await reader.until(problem, "not allowed")
    await reader.until("document.getElementById('principal').textContent", "as bob")
    assert await reader.tab.evaluate(events) == 0
    await reader.tab.evaluate(token % "ada")
    await reader.tab.until(f"{events} > 30")
    assert await reader.tab.evaluate("document.getElementById('problem').hidden")
    made = "(URL.createObjectURL = (blob) => (globalThis.made = blob, ''), document.querySelector('nav a').click())"
    await reader.tab.evaluate(f"void {made}")
    await reader.tab.until("globalThis.made !== undefined")
    assert json.loads(await reader.tab.evaluate("made.text()"))["info"]["title"] == "The <shop>"
    search = "document.getElementById('search')"
    await reader.tab.evaluate(f"void ({search}.value = 'ADD numbers', {search}.dispatchEvent(new Event('input')))")
    names = "[...document.querySelectorAll('.event')].filter((each) => !each.hidden).map((each) => each.words)"
    assert await reader.tab.evaluate(names) == [
        "on the main channel add add two numbers.\n\nthe second line says more."
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_page_as_pictures(browser: Browser, scheme: Any) -> None:
    """Nothing is asserted of them but that the page loads nothing from elsewhere."""
    async with serving_docs("aiohttp", make_server()) as url:
        context = await browser.new_context(
            bypass_csp=True, color_scheme=scheme, viewport={"width": 1280, "height": 900}
        )
        page = await context.new_page()
        hosts: set[str] = set()
        page.on("request", lambda request: hosts.add(request.url.partition("/docs/")[0]))
        await page.goto(f"{url}/login/ada")
        hosts.clear()
        await page.goto(f"{url}/docs/")
        await page.evaluate(f"void ({READER})")
        await page.wait_for_selector(".event")
        for event, button in [("add", "Call"), ("count", "Follow"), ("fail", "Call"), ("say", "Call")]:
            await page.wait_for_function(f"of({event!r}).isOpen")
            await page.evaluate(f"of({event!r}).press({button!r})")
        await page.fill("#join [name=room]", "lobby")
        await page.click("#join button")
        await page.wait_for_function("document.getElementById('rooms').textContent.includes('online')")
        await page.evaluate("of('say').press('Call')")
        await page.wait_for_function("document.getElementById('log').textContent.includes('text')")
        await page.evaluate("scrollTo(0, 0)")
        await shoot(page, f"docs-{scheme}")
        assert hosts == {url}
        await context.close()
