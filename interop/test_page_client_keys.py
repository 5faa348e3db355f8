"""Streams of a page's client with a key: a reload continues them, and one reader stops them for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

from interop.page_client import Page
from wsrpc import Context, Keep, Server

pytestmark = pytest.mark.usefixtures("nothing_left")


@asynccontextmanager
async def generating() -> AsyncGenerator[tuple[Server, str, asyncio.Event]]:
    """A server, its URL, and the event for which a stream of ten numbers waits in its middle. It runs once."""
    server, may_go_on, runs = Server(), asyncio.Event(), 0

    async def generate(prompt: str) -> AsyncIterator[int]:
        nonlocal runs
        runs += 1
        for number in range(1, 11):
            if number == 5:
                await may_go_on.wait()
            yield number

    server.on("generate", generate, keep=Keep(600, scope=lambda *_: ""))  # these pages have not logged in
    async with server.listen() as listener:
        yield server, listener.url, may_go_on
    assert runs == 1


READ_ALL = "const all = async (items, got = []) => { for await (const item of items) got.push(item); return got };"
READ = """
async function read(options, most) {
  const items = client.with({ key: "k", ...options }).stream("generate", "hi"), numbers = []
  for await (const number of items) if (numbers.push(number) === most) break
  return [numbers, items.position]
}
"""


async def test_a_reload_continues_a_stream_and_another_reader_gets_all_of_it() -> None:
    async with generating() as (_, url, may_go_on):
        async with Page.start(url) as page:
            begun, position = await page.run(READ + "return read({}, 3)")
        assert begun == [1, 2, 3] and position.startswith("3-")
        may_go_on.set()
        async with Page.start(url) as page:
            readers = f"[{{ after: '{position}' }}, {{ after: null }}, {{ after: 8 }}].map((options) => read(options))"
            told = await page.run(f"{READ} return Promise.all({readers})")
        end = position.replace("3", "10", 1)
        assert told == [[[*range(first, 11)], end] for first in (4, 1, 9)]


async def test_a_page_follows_a_stream_from_one_session_to_the_next() -> None:
    async with generating() as (server, url, may_go_on), Page.start(url) as page:
        await page.run("globalThis.items = client.with({ key: 'k' }).follow('generate', 'hi')")
        reading = asyncio.create_task(page.run("for await (const item of items) note(`item ${item}`)"))
        await page.notes.until("item 4")
        [peer] = server.peers
        await peer.close(1012)
        may_go_on.set()
        await reading
        assert [note for note in page.notes.all if note.startswith("item")] == [f"item {n}" for n in range(1, 11)]
        position = await page.run("return items.position")
        rest = f"client.with({{ key: 'k', after: '{position.replace('10', '7', 1)}' }}).follow('generate', 'hi')"
        assert await page.run(f"{READ_ALL} return all({rest})") == [8, 9, 10]
        assert await page.run("try { client.follow('generate') } catch (error) { return error.message }")
        await page.run("client.close()")
        assert await page.run(f"return {rest}.next().catch((error) => error.outcome)") == "not_sent"


async def test_a_reader_stops_the_handler_for_all() -> None:
    async with generating() as (_, url, _), Page.start(url) as page:
        ends, refused = await page.run("""
        const caller = client.with({ key: "k" }), shown = (error) => error.code ?? error.message
        const [one, other, closed] = [1, 2, 3].map(() => caller.stream("generate", "hi"))
        for (let number = 0; number < 4; number++) await Promise.all([one.next(), other.next()])
        await one.stop()
        const ends = await Promise.all([one, other].map((items) => items.next().catch(shown)))
        await closed.return()
        const wrong = [one, closed, client.stream("generate", "hi")].map((items) => items.stop())
        wrong.push((async () => caller.emit("generate"))(), client.with({ after: 1 }).request("generate"))
        return [[...ends, one.position[0]], await Promise.all(wrong.map((call) => call.catch(shown)))]
        """)
        assert ends == ["wsrpc.stopped", "wsrpc.stopped", "4"]
        not_open, no_event = "only an open stream with a key stops", "an event has no key: use request()"
        assert refused == [None, not_open, not_open, no_event, "`after` needs a key"]


async def test_a_page_sends_messages_to_a_handler_over_lost_sessions() -> None:
    server, may_read = Server(), asyncio.Event()

    async def ask(ctx: Context) -> AsyncIterator[str]:
        yield "ready"
        await may_read.wait()
        async for message in ctx.inbox(str):
            if message.value == "end":
                return
            yield f"{message.value} {message.id}"

    server.on("ask", ask, keep=Keep(600, scope=lambda *_: "", inbox=str))  # these pages have not logged in
    async with server.listen() as listener, Page.start(listener.url) as page:
        await page.run("globalThis.items = client.with({ key: 'k' }).follow('ask'); await items.next()")
        sending = asyncio.create_task(page.run("await items.send('a', { id: '1' }); return 'read'"))
        await until(lambda: any(each.stats().active > 1 for each in server.peers))
        [peer] = server.peers
        await peer.close(1012)
        may_read.set()
        assert await sending == "read"
        read, wrong = await page.run("""
        const shown = (error) => error.code ?? error.message, timeout = 5000, read = []
        const other = client.with({ key: "k" }).stream("ask")
        await Promise.all([items.send("a", { id: "1" }), other.send("end", { timeout })])
        for await (const item of items) read.push(item)
        const wrong = [other.send("late"), other.send(7), client.stream("ask").send("x")]
        return [read, await Promise.all(wrong.map((call) => call.catch(shown)))]
        """)
    assert read == ["a 1"]
    assert wrong == ["wsrpc.not_read", "wsrpc.bad_arguments", "only a stream with a key gets messages"]
