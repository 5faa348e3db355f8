"""Two people in the chat of examples/: they talk, in rooms, read what was said before, and upload a file."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urljoin

import pytest
from browser.chat_server import ChatServer
from browser.pages import Newcomer, log_of, say
from playwright.async_api import Browser, expect

from wsrpc import Client, HandshakeRejected

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_two_people_talk(newcomer: Newcomer) -> None:
    ada = await newcomer("Ada")
    people = ada.get_by_role("complementary", name="People in this room")
    await expect(people.get_by_role("listitem")).to_have_text(["Ada (you)"])

    bob = await newcomer("Bob")
    await expect(people.get_by_role("listitem")).to_have_text(["Ada (you)", "Bob"])

    await ada.get_by_label("Message", exact=True).press_sequentially("Hi")
    await expect(bob.get_by_text("Ada is typing…")).to_be_visible()
    await ada.keyboard.press("Enter")
    await expect(log_of(bob).get_by_role("article")).to_contain_text(["Hi"])
    await expect(bob.get_by_text("Ada is typing…")).to_be_hidden()

    await say(bob, "two\nlines & more")
    await expect(log_of(ada).get_by_role("article").nth(1)).to_contain_text("two\nlines & more")

    await bob.context.close()
    await expect(people.get_by_role("listitem")).to_have_text(["Ada (you)"])


async def test_rooms_are_joined_and_left(newcomer: Newcomer) -> None:
    ada, bob = await newcomer("Ada"), await newcomer("Bob")
    await ada.get_by_label("Name of a room to join").fill("Küche & Bad")
    await ada.get_by_role("button", name="Join").click()
    await expect(ada.get_by_role("heading", level=1)).to_have_text("Küche & Bad")
    await say(ada, "Who has the cups?")

    link = bob.get_by_role("navigation").get_by_role("link", name="Küche & Bad")
    await expect(log_of(bob).get_by_role("article")).to_have_count(0)
    await link.click()
    await expect(log_of(bob, "Küche & Bad").get_by_role("article")).to_contain_text(["Who has the cups?"])
    await expect(bob.get_by_role("complementary").get_by_role("listitem")).to_have_text(["Ada", "Bob (you)"])
    await bob.get_by_role("button", name="Leave Küche & Bad").click()
    await expect(bob.get_by_role("heading", level=1)).to_have_text("lobby")
    await expect(ada.get_by_role("complementary").get_by_role("listitem")).to_have_text(["Ada (you)"])


async def test_history_comes_as_it_is_read(newcomer: Newcomer, chat: ChatServer) -> None:
    total = 150
    async with Client(f"{chat.socket_url}?name=Historian") as python:
        for number in range(total):
            await python.request("say", "lobby", f"{number:032x}", f"number {number}")

    ada = await newcomer("Ada")
    log, articles = log_of(ada), log_of(ada).get_by_role("article")
    await expect(articles.last).to_contain_text("number 149")
    await expect(articles.last).to_be_in_viewport()
    assert await articles.count() < total, "not all at once"

    await log.focus()
    beginning = log.get_by_text("This is where lobby begins.")
    while not await beginning.is_visible():
        before = await articles.count()
        await log.press("Home")
        await expect(articles.nth(before).or_(beginning).first).to_be_attached()
    texts = await articles.locator(".text").all_inner_texts()
    assert texts == [f"number {number}" for number in range(total)]


async def test_a_file_is_sent_and_one_that_is_too_large_is_refused(newcomer: Newcomer, tmp_path: Path) -> None:
    ada, bob = await newcomer("Ada"), await newcomer("Bob")
    (tmp_path / "tea.txt").write_bytes(b"two cups" * 100_000)
    (tmp_path / "all.bin").write_bytes(bytes(20 * 2**20 + 1))
    await ada.get_by_label("File to upload").set_input_files(tmp_path / "tea.txt")
    link = log_of(bob).get_by_role("link", name="tea.txt")
    got = await bob.request.get(urljoin(bob.url, await link.get_attribute("href")))
    assert await got.body() == b"two cups" * 100_000
    await expect(log_of(ada).get_by_role("article")).to_have_count(1)
    await ada.get_by_label("File to upload").set_input_files(tmp_path / "all.bin")
    await expect(log_of(ada)).to_contain_text("the largest file has 20,971,520 bytes")


@pytest.mark.parametrize("name", ["", "x" * 31])
async def test_without_a_name_there_is_no_connection(chat: ChatServer, name: str) -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await Client(f"{chat.socket_url}?name={name}").connect()
    assert refused.value.status == 400


async def test_a_page_of_another_site_is_refused(browser: Browser, chat: ChatServer) -> None:
    context = await browser.new_context()
    page = await context.new_page()  # about:blank, whose origin is "null"
    dial = "url => new Promise(resolve => (new WebSocket(url).onclose = ({ code }) => resolve(code)))"
    assert await page.evaluate(dial, f"{chat.socket_url}?name=Eve") == 1006
    assert "refused the origin 'null'; a page of any site can send it" in chat.log
    await context.close()
