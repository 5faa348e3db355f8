"""The chat with names, texts and files that nobody would choose who means well."""

from __future__ import annotations

import base64

import pytest
from browser.chat_server import ChatServer
from browser.pages import Newcomer, log_of, say
from playwright.async_api import expect

from wsrpc import Client

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = "<img src=x onerror=alert(1)>"
PICTURE = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


async def share(python: Client, file_id: str, name: str, content: bytes) -> str:
    """Uploads a file; where it can be had."""
    await python.request("upload", file_id, len(content))
    await python.request("piece", file_id, 0, content)
    message = await python.request("share", "lobby", file_id, name, len(content))
    return str(message["file"]["url"])


async def test_nothing_that_comes_in_is_html(newcomer: Newcomer, chat: ChatServer) -> None:
    page = await newcomer(SCRIPT)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    async with Client(f"{chat.socket_url}?name=%3Cb%3EEve") as eve:
        await eve.request("join", "lobby")
        await eve.request("join", SCRIPT)
        await eve.request("say", "lobby", "a" * 32, SCRIPT)
        await share(eve, "b" * 32, '<b>" onclick=alert(2) .gif', PICTURE)
        await expect(log_of(page).get_by_role("article")).to_contain_text([SCRIPT, "onclick"])
        await expect(page.get_by_role("complementary")).to_contain_text("<b>Eve")
        await expect(page.get_by_role("navigation")).to_contain_text(SCRIPT)
        assert await page.locator("main b, aside b, nav b, [onerror], [onclick]").count() == 0
    assert dialogs == []


@pytest.mark.parametrize(
    ("address", "name"),
    [
        pytest.param("__proto__", "__proto__", id="a name of objects"),
        pytest.param("%20a%0Ab%1F ", "a b", id="spaces and controls"),
        pytest.param("x" * 29 + "%F0%9F%98%80", "x" * 29 + "😀", id="the longest"),
        pytest.param("100%", "100%", id="not encoded"),
        pytest.param("../%2e%2e/<b>", "../../<b>", id="not a path, not HTML"),
    ],
)
async def test_any_address_leads_to_a_room(newcomer: Newcomer, address: str, name: str) -> None:
    page = await newcomer("Ada")
    await page.evaluate("address => void (location.hash = address)", address)
    await page.reload()  # as for who follows a link
    await expect(page.get_by_role("heading", level=1)).to_have_text(name)
    await expect(page.get_by_label("Message", exact=True)).to_have_value("")
    await page.get_by_label("Message", exact=True).fill("a draft")
    await page.reload()
    await expect(page.get_by_label("Message", exact=True)).to_have_value("a draft")
    await say(page, "hello")
    await expect(log_of(page, name).locator(".message:not(.waiting)")).to_contain_text(["hello"])


async def test_half_a_character_does_not_hold_up_the_rest(newcomer: Newcomer) -> None:
    page = await newcomer("Ada")
    await page.evaluate(r"document.getElementById('text').value = 'half \ud83d'")
    await page.get_by_label("Message", exact=True).press("Enter")
    await say(page, "the rest")
    await expect(log_of(page).locator(".message:not(.waiting)")).to_contain_text(["half \ufffd", "the rest"])


LOADS = """url => new Promise(done => {
    Object.assign(new Image(), { onload: () => done(true), onerror: () => done(false), src: url })
})"""


async def test_what_is_uploaded_is_served_as_nothing_else(newcomer: Newcomer, chat: ChatServer) -> None:
    page = await newcomer("Ada")
    types = {
        "page.html": "application/octet-stream",
        "drawing.svg": "application/octet-stream",
        "data:,x.GIF": "image/gif",
    }
    async with Client(f"{chat.socket_url}?name=Eve") as eve:
        await eve.request("join", "lobby")
        for number, (name, expected) in enumerate(types.items()):
            url = await share(eve, f"{number:032x}", name, PICTURE)
            answer = await page.request.get(f"{chat.url}{url}")
            assert answer.status == 200 and await answer.body() == PICTURE
            assert answer.headers["content-type"] == expected, name
            assert answer.headers["content-disposition"] == "attachment"
            assert answer.headers["x-content-type-options"] == "nosniff"
        assert await page.evaluate(LOADS, url)
    for path in ("files/..%2fchat.sqlite3/x", "files/chat.sqlite3/x", "..%2fapp.py"):
        answer = await page.request.get(f"{chat.url}{path}")
        assert answer.status in (403, 404), path
