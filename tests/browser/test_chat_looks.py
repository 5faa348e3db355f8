"""How the chat looks and is used: narrow and wide windows, dark and light. Leaves screenshots."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from browser.chat_server import ChatServer
from browser.pages import Newcomer, log_of, say, shoot
from playwright.async_api import expect

from wsrpc import Client

pytestmark = pytest.mark.asyncio(loop_scope="session")

DESKTOP = {"width": 1200, "height": 760}
PHONE = {"width": 390, "height": 780}

TALK = [
    ("Grace", "Good morning! Who takes the release today?"),
    ("Ada", "I do. The changelog is ready."),
    ("Ada", "Only the page on browsers is missing."),
    ("Grace", "The one that says what a page has to do when the server restarts?\nI can read it at noon."),
    ("Ada", "Yes, with the example. It keeps what was typed, and says nothing twice."),
]


async def talk_before(chat: ChatServer) -> None:
    for number, (name, text) in enumerate(TALK):
        async with Client(f"{chat.socket_url}?name={name}") as client:
            await client.request("say", "lobby", f"{number:032x}", text)
            if name == "Grace":
                await client.room("release 1.0").join()
                await client.request("say", "release 1.0", f"{100 + number:032x}", text)


NAMELESS = re.compile(r"^\s*- (button|link|textbox|log|navigation|complementary|form)(:|$)", re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("chat-light", {"viewport": DESKTOP}),
        ("chat-dark", {"viewport": DESKTOP, "color_scheme": "dark"}),
        ("phone-light", {"viewport": PHONE}),
    ],
)
async def test_it_fits_the_window_and_the_theme(
    newcomer: Newcomer, chat: ChatServer, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    await talk_before(chat)
    ada = await newcomer("Ada", **options)
    bob = await newcomer("Bob")
    await expect(log_of(ada).get_by_role("article")).to_have_count(len(TALK))
    (tmp_path / "minutes.txt").write_text("We met.\n" * 1000, "utf-8")
    await bob.get_by_label("File to upload").set_input_files(tmp_path / "minutes.txt")
    await expect(log_of(ada).get_by_role("link", name="minutes.txt")).to_be_visible()
    await bob.get_by_label("Message", exact=True).press_sequentially("Wait")
    await expect(ada.get_by_text("Bob is typing…")).to_be_visible()
    await ada.get_by_label("Message", exact=True).fill("Thanks, Bob!")
    await shoot(ada, name)

    assert await ada.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
    dark = await ada.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(19, 19, 24)" if "dark" in name else "rgb(244, 244, 248)")
    assert not NAMELESS.search(await ada.locator("body").aria_snapshot())


async def test_it_says_that_there_is_no_connection(newcomer: Newcomer, chat: ChatServer) -> None:
    await talk_before(chat)
    ada = await newcomer("Ada", viewport=PHONE)
    await expect(log_of(ada).get_by_role("article")).to_have_count(len(TALK))
    await chat.kill()
    await say(ada, "Is anybody there?")
    await expect(ada.get_by_role("button", name="Try now")).to_be_visible()
    await expect(log_of(ada).get_by_text("Waiting for the connection")).to_be_in_viewport()
    await shoot(ada, "chat-offline")
