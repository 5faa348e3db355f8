"""The chat when its server goes away: nothing that was typed is lost, and nothing is said twice."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from browser.chat_server import ChatServer
from browser.pages import Newcomer, log_of, say, shoot
from playwright.async_api import WebSocketRoute, expect

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
    assert msgspec.msgpack.decode(lost[0])["d"]["text"] == "said once" and len(first) == 2
    await say(ada, "then this")
    await expect(log_of(bob).get_by_role("article")).to_contain_text(["said once", "then this"])
    for page in (ada, bob):
        await expect(log_of(page).get_by_role("article")).to_have_count(2)


async def test_an_upload_goes_on_where_it_was(newcomer: Newcomer, chat: ChatServer, tmp_path: Path) -> None:
    ada = await newcomer("Ada")
    content = bytes(range(256)) * 4096
    (tmp_path / "a & b.bin").write_bytes(content)
    pieces: list[int] = []  # offsets, of all connections

    async def stop_after_five(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def to_server(message: str | bytes) -> None:
            match json.loads(message):
                case {"a": ["piece", _, offset, _]}:
                    pieces.append(offset)
                    if len(pieces) == 6:
                        return  # it never gets there
            server.send(message)

        route.on_message(to_server)

    await ada.route_web_socket("**/ws?*", stop_after_five)
    await ada.reload()
    await expect(ada.get_by_role("status")).to_have_text("Connected")
    await ada.get_by_label("File to upload").set_input_files(tmp_path / "a & b.bin")
    await expect(ada.get_by_text("328 kB of 1.0 MB")).to_be_visible()
    await shoot(ada, "upload")
    await chat.kill()
    await expect(log_of(ada).get_by_text("Waiting for the connection")).to_be_visible()
    await chat.start()
    link = log_of(ada).get_by_role("link", name="a & b.bin")
    await expect(link).to_be_visible()
    answer = await ada.request.get(f"{chat.url}{await link.get_attribute('href')}")
    assert await answer.body() == content
    step = 64 * 1024
    assert pieces == [0, step, 2 * step, 3 * step, 4 * step, 5 * step, *range(5 * step, len(content), step)]
