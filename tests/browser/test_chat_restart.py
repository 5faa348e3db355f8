"""The chat when its server goes away: nothing that was typed is lost, and nothing is said twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from browser.chat_server import ChatServer
from browser.pages import Newcomer, log_of, say, shoot
from playwright.async_api import Page, WebSocket, WebSocketRoute, expect

from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_server_is_killed_and_restarted_in_between(newcomer: Newcomer, chat: ChatServer) -> None:
    ada, bob = await newcomer("Ada"), await newcomer("Bob")
    await say(ada, "before")
    await expect(log_of(bob)).to_contain_text("before")
    await expect(log_of(ada).get_by_text("Waiting")).to_have_count(0)  # it has its answer, too
    await chat.kill()
    await expect(ada.get_by_role("status")).to_contain_text("Offline")

    await say(ada, "sent while offline")
    await say(ada, "and another")
    await expect(log_of(ada).get_by_text("Waiting for the connection")).to_have_count(2)
    await chat.start()
    await expect(ada.get_by_role("button", name="Try now")).to_be_hidden()
    for page in (ada, bob):
        await expect(page.get_by_role("status")).to_have_text("Connected")
        await expect(log_of(page).get_by_role("article")).to_contain_text(
            ["before", "sent while offline", "and another"]
        )
        await expect(page.get_by_role("complementary").get_by_role("listitem")).to_have_count(2)
    await expect(log_of(ada).get_by_text("Waiting")).to_have_count(0)
    for page in (ada, bob):
        await expect(log_of(page).get_by_role("article")).to_have_count(3)


async def test_a_message_whose_answer_is_lost_is_said_once(newcomer: Newcomer, chat: ChatServer) -> None:
    ada, bob = await newcomer("Ada"), await newcomer("Bob")
    lost: list[bytes] = []

    async def lose_the_answer(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        async def to_page(message: str | bytes) -> None:
            if not lost and isinstance(message, bytes) and b"said once" in message:
                lost.append(message)
                await route.close(code=1011)
            elif not (lost and route is first[0]):
                route.send(message)

        first.append(route)
        server.on_message(to_page)

    first: list[WebSocketRoute] = []
    await ada.route_web_socket("**/ws?*", lose_the_answer)
    await ada.reload()
    await expect(ada.get_by_role("status")).to_have_text("Connected")
    await say(ada, "said once")
    await expect(log_of(ada).locator(".message:not(.waiting)")).to_contain_text(["said once"])
    assert len(lost) == 1 and len(first) == 2, "the event or the response, whichever came first"
    await say(ada, "then this")
    await expect(log_of(bob).get_by_role("article")).to_contain_text(["said once", "then this"])
    for page in (ada, bob):
        await expect(log_of(page).get_by_role("article")).to_have_count(2)


STEP = 64 * 1024
CONTENT = bytes(range(256)) * 4096


def sent_in() -> Callable[[str | bytes], list[Any]]:
    """Return a function for one connection, that returns the event and the arguments of a message, if it has some.

    Those of a message in parts are returned with its last part. (The first ones may have used another connection.)
    """
    joined = b""

    def event(message: str | bytes) -> list[Any]:
        nonlocal joined
        if isinstance(message, bytes) and message.startswith(b"\xc1"):
            joined += message[2:]
            if not message[1]:
                return []
            message, joined = joined, b""
        if isinstance(message, str):
            return list(json.loads(message).get("a", []))
        decoded = None
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # of a message whose first parts went before
            decoded = msgspec.msgpack.decode(message)
        return list(decoded.get("a", [])) if isinstance(decoded, dict) else []

    return event


async def expect_file(page: Page, chat: ChatServer) -> None:
    link = log_of(page).get_by_role("link", name="a & b.bin")
    await expect(link).to_be_visible()
    answer = await page.request.get(f"{chat.url}{await link.get_attribute('href')}")
    assert await answer.body() == CONTENT


async def test_an_upload_goes_on_where_it_was(newcomer: Newcomer, chat: ChatServer, tmp_path: Path) -> None:
    ada = await newcomer("Ada")
    (tmp_path / "a & b.bin").write_bytes(CONTENT)
    uploads: list[tuple[int, list[int]]] = []  # the offset and the sizes of the pieces, of all connections

    async def stop_after_five(route: WebSocketRoute) -> None:
        server = route.connect_to_server()
        silent = False

        event = sent_in()

        def to_server(message: str | bytes) -> None:
            nonlocal silent
            match event(message):
                case ["upload", *_, offset]:
                    uploads.append((offset, []))
                case ["next", {"value": piece}]:
                    uploads[-1][1].append(len(piece))
                    silent = silent or (len(uploads) == 1 and len(uploads[0][1]) == 6)
            if not silent:  # otherwise it never gets there
                server.send(message)

        route.on_message(to_server)

    await ada.route_web_socket("**/ws?*", stop_after_five)
    await ada.reload()
    await expect(ada.get_by_role("status")).to_have_text("Connected")
    await ada.get_by_label("File to upload").set_input_files(tmp_path / "a & b.bin")
    await chat.wait_for_part(5 * STEP)
    await expect(ada.get_by_role("progressbar", name="a & b.bin")).to_be_visible()
    await shoot(ada, "upload")
    await chat.kill()
    await expect(log_of(ada).get_by_text("Waiting for the connection")).to_be_visible()
    await chat.start()
    await expect_file(ada, chat)
    assert [offset for offset, _ in uploads] == [0, 5 * STEP]
    assert uploads[1][1] == [STEP] * (len(CONTENT) // STEP - 5)


async def test_a_drop_interrupts_nothing(newcomer: Newcomer, chat: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "a & b.bin").write_bytes(CONTENT)
    async with FaultProxy(chat.socket_url) as proxy:
        ada, bob = await newcomer("Ada", url=f"http://127.0.0.1:{proxy.port}/"), await newcomer("Bob")
        resumed: list[str] = []  # the events on later connections

        def watch(socket: WebSocket) -> None:
            event = sent_in()
            socket.on("framesent", lambda message: resumed.extend(event(message)[:1]))

        ada.on("websocket", watch)
        async with proxy.cut_after(len(CONTENT) // 2, "up"):
            await ada.get_by_label("File to upload").set_input_files(tmp_path / "a & b.bin")
            await expect(ada.get_by_role("status")).to_contain_text("Offline")
            async with proxy.cut():
                await expect(ada.get_by_role("status")).to_contain_text("Offline")
                await say(ada, "sent while offline")
                await expect(log_of(ada).get_by_text("Waiting for the connection")).to_have_count(2)
                await say(bob, "missed")
                await expect(log_of(bob).get_by_role("article")).to_contain_text(["missed"])
        await expect(ada.get_by_role("status")).to_have_text("Connected")
        for page in (ada, bob):
            await expect(log_of(page).get_by_text("sent while offline")).to_be_visible()
            await expect_file(page, chat)
            await expect(log_of(page).get_by_role("article")).to_have_count(3)
        assert {"next", "say"} <= set(resumed)
        assert not {"join", "rooms", "history", "uploaded", "upload"} & set(resumed), "nothing began again"


async def test_an_upload_is_cancelled(newcomer: Newcomer, chat: ChatServer, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(CONTENT)
    (tmp_path / "a & b.bin").write_bytes(CONTENT)
    async with FaultProxy(chat.socket_url) as proxy:
        ada = await newcomer("Ada", url=f"http://127.0.0.1:{proxy.port}/")
        async with proxy.stall("up"):
            await ada.get_by_label("File to upload").set_input_files(tmp_path / "large.bin")
            await ada.get_by_role("button", name="Cancel").click()
            await expect(log_of(ada).get_by_role("article")).to_have_count(0)
        await ada.get_by_label("File to upload").set_input_files(tmp_path / "a & b.bin")
        await expect_file(ada, chat)
        await expect(log_of(ada).get_by_role("article")).to_have_count(1)


async def test_the_user_need_not_wait_for_the_next_attempt(newcomer: Newcomer, chat: ChatServer) -> None:
    async with FaultProxy(chat.socket_url) as proxy:
        ada = await newcomer("Ada", url=f"http://127.0.0.1:{proxy.port}/")
        retry, status = ada.get_by_role("button", name="Try now"), ada.get_by_role("status")
        await ada.clock.install()
        await ada.reload()
        await expect(status).to_have_text("Connected")
        async with proxy.cut():
            await expect(retry).to_be_visible()
            await ada.clock.pause_at(datetime.now() + timedelta(seconds=5))
        # No timer ends any more. A click does nothing while an attempt is being made, and the button goes in the end.
        while await status.inner_text() != "Connected":
            await ada.locator("#retry").evaluate("button => button.click()")
        await expect(retry).to_be_hidden()


async def test_the_server_says_that_it_restarts(newcomer: Newcomer, chat: ChatServer) -> None:
    ada, bob = await newcomer("Ada"), await newcomer("Bob")
    await say(ada, "before")
    await expect(log_of(bob)).to_contain_text("before")
    await chat.stop()
    for page in (ada, bob):
        await expect(page.get_by_role("status")).to_contain_text("Offline")
    await say(ada, "sent while offline")
    await chat.start()
    for page in (ada, bob):
        await expect(log_of(page).get_by_role("article")).to_contain_text(["before", "sent while offline"])
        await expect(page.get_by_role("complementary").get_by_role("listitem")).to_have_count(2)


async def test_another_name(newcomer: Newcomer) -> None:
    ada, bob = await newcomer("Ada"), await newcomer("Bob")
    await say(bob, "Who are you?")
    await ada.get_by_role("button", name="Change").click()
    await ada.get_by_label("What shall the others call you?").fill("Grace")
    await ada.get_by_role("button", name="Come in").click()
    people = bob.get_by_role("complementary").get_by_role("listitem")
    await expect(people).to_have_text(["Bob (you)", "Grace"])
    await say(ada, "It is me")
    await expect(log_of(bob).get_by_role("article")).to_contain_text(["Who are you?", "Grace"])
