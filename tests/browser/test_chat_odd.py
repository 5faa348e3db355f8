"""The chat with names, texts and files that nobody would choose who means well."""

from __future__ import annotations

import base64

import pytest
from browser.chat_server import ChatServer
from browser.pages import Newcomer, log_of
from playwright.async_api import expect

from wsrpc import Client, RemoteError

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = "<img src=x onerror=alert(1)>"
PICTURE = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")


async def share(python: Client, file_id: str, name: str, content: bytes) -> str:
    """Uploads a file; where it can be had."""
    await python.request("upload", "lobby", file_id, name, len(content), 0, send=[content])
    [message, *_] = await python.request("history", "lobby")
    return str(message["file"]["url"])


async def test_nothing_that_comes_in_is_html(newcomer: Newcomer, chat: ChatServer) -> None:
    page = await newcomer(SCRIPT)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    async with Client(f"{chat.socket_url}?name=%3Cb%3EEve") as eve:
        await eve.room("lobby").join()
        await eve.room(SCRIPT).join()
        await eve.request("say", "lobby", "a" * 32, SCRIPT)
        await share(eve, "b" * 32, '<b>" onclick=alert(2) .gif', PICTURE)
        await expect(log_of(page).get_by_role("article")).to_contain_text([SCRIPT, "onclick"])
        await expect(page.get_by_role("complementary")).to_contain_text("<b>Eve")
        await expect(page.get_by_role("navigation")).to_contain_text(SCRIPT)
        assert await page.locator("main b, aside b, nav b, [onerror], [onclick]").count() == 0
    assert dialogs == []


async def test_what_is_uploaded_is_served_as_nothing_else(newcomer: Newcomer, chat: ChatServer) -> None:
    page = await newcomer("Ada")
    types = {
        "page.html": "application/octet-stream",
        "drawing.svg": "application/octet-stream",
        "data:,x.GIF": "image/gif",
    }
    async with Client(f"{chat.socket_url}?name=Eve") as eve:
        for number, (name, expected) in enumerate(types.items()):
            url = await share(eve, f"{number:032x}", name, PICTURE)
            answer = await page.request.get(f"{chat.url}{url}")
            assert answer.status == 200 and await answer.body() == PICTURE
            assert answer.headers["content-type"] == expected, name
            assert answer.headers["content-disposition"] == "attachment"
            assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("files/..%2fchat.sqlite3/x", "files/chat.sqlite3/x", "..%2fapp.py"):
        answer = await page.request.get(f"{chat.url}{path}")
        assert answer.status in (403, 404), path


@pytest.mark.parametrize(
    ("size", "offset", "code"),
    [(20 * 1024 * 1024 + 1, 0, "too_big"), (2, 0, "bad_piece"), (9, 1, "bad_piece"), (9, 0, "incomplete")],
)
async def test_a_file_that_does_not_fit_is_not_shared(chat: ChatServer, size: int, offset: int, code: str) -> None:
    async with Client(f"{chat.socket_url}?name=Eve") as eve:
        with pytest.raises(RemoteError) as refused:
            await eve.request("upload", "lobby", "c" * 32, "a.txt", size, offset, send=[b"one", b"two"])
        assert refused.value.code == code
        assert await eve.request("history", "lobby") == []
