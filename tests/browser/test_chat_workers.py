"""The chat on four workers with one port, a Redis and no proxy: one of them is killed while people talk."""

from __future__ import annotations

import asyncio
import os
import re
import signal

import pytest
from browser.chat_server import ChatServer
from browser.pages import Newcomer, log_of, say, stopped
from playwright.async_api import Page, expect

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(120)]

GRACE = 5
"""Seconds, from the example."""
COUNT = 40
LATEST = (6 + GRACE) * 1000
"""Milliseconds until nobody sees the users of a killed process."""


async def talk(page: Page, name: str) -> None:
    for number in range(COUNT):
        await say(page, f"{name} {number}")


@pytest.mark.parametrize("chat", [4], indirect=True)
async def test_a_worker_is_killed_while_people_talk(newcomer: Newcomer, chat: ChatServer) -> None:
    workers = {int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", chat.log)}
    ada = await newcomer("Ada")
    worker = await chat.worker_of("Ada")
    with stopped({worker}):
        bob = await newcomer("Bob")
    with stopped(workers - {worker}):
        eve = await newcomer("Eve")
    assert len(workers) == 4 and await chat.worker_of("Bob") != worker == await chat.worker_of("Eve")
    people = [page.get_by_role("complementary").get_by_role("listitem") for page in (ada, bob)]
    await expect(people[0]).to_have_text(["Ada (you)", "Bob", "Eve"])
    await expect(people[1]).to_have_text(["Ada", "Bob (you)", "Eve"])
    sockets: list[str] = []
    bob.on("websocket", lambda socket: sockets.append(socket.url))

    talking = asyncio.gather(talk(ada, "Ada"), talk(bob, "Bob"))
    await expect(log_of(bob).get_by_text("Ada 9", exact=True)).to_be_visible()
    await expect(log_of(ada).get_by_text("Bob 9", exact=True)).to_be_visible()
    os.kill(worker, signal.SIGSTOP)  # Ada's next message is a call in flight now; Eve's page does not come back
    await eve.context.close()
    await expect(log_of(ada).get_by_text("Sending…").first).to_be_visible()
    os.kill(worker, signal.SIGKILL)
    await asyncio.gather(
        expect(people[0]).to_have_text(["Ada (you)", "Bob"], timeout=LATEST),
        expect(people[1]).to_have_text(["Ada", "Bob (you)"], timeout=LATEST),
    )
    await talking

    said = {f"{name} {number}" for name in ("Ada", "Bob") for number in range(COUNT)}
    orders: list[list[str]] = []
    for page in (ada, bob):
        published = log_of(page).locator(".message:not(.waiting, .failed) .text")
        await expect(published).to_have_count(len(said))
        await expect(log_of(page).locator(".message")).to_have_count(len(said))
        orders.append(await published.all_inner_texts())
    assert orders[0] == orders[1] and {*orders[0]} == said
    for name in ("Ada", "Bob"):
        assert [text for text in orders[0] if text.startswith(name)] == [f"{name} {number}" for number in range(COUNT)]
    assert await chat.worker_of("Ada") != worker
    assert sockets == [], "the session in another process has gone on"
