"""Streams of a page's client with a key: a reload continues them, and one reader stops them for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from leftovers import nothing_left as nothing_left

from interop.page_client import Page
from wsrpc import Context, Keep, RunLost, Server
from wsrpc.errors import made_here

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
        await page.run("client.close()")
        assert await page.run(f"return {rest}.next().catch((error) => error.outcome)") == "not_sent"


async def test_a_page_follows_the_next_run_of_a_lost_one() -> None:
    server, keys = Server(), list[str | None]()

    async def generate(ctx: Context) -> AsyncIterator[int]:
        keys.append(ctx.key)
        for number in range(3):
            yield number
            if len(keys) < 3 and number == 1:
                raise made_here(RunLost("the process has ended"))

    server.on("generate", generate, keep=Keep(600, scope=lambda *_: ""))
    follow = "const items = client.with({ key: 'k', attempts: %d }).follow('generate'), got = [];"
    read = "for await (const item of items) got.push([items.attempt, item]); return [got, items.position]"
    async with server.listen() as listener, Page.start(listener.url) as page:
        failed = await page.run(f"{follow % 2} try {{ {read} }} catch (error) {{ return [got, error.code] }}")
        assert failed == [[[1, 0], [1, 1], [2, 0], [2, 1]], "wsrpc.run_lost"]
        got, position = await page.run(follow % 3 + read)
        assert got[4:] == [[3, 0], [3, 1], [3, 2]] and keys == ["k", "k:2", "k:3"]
        again = f"client.with({{ key: 'k', after: '{position.replace('3-', '1-')}' }}).follow('generate')"
        assert await page.run(f"{READ_ALL} return all({again})") == [1, 2]
        assert await page.run("try { client.follow('generate') } catch (error) { return error.message }")
    await server.close()


async def test_a_stop_between_two_attempts_stops_the_next_one() -> None:
    server, lost = Server(), asyncio.Event()

    async def generate(ctx: Context) -> AsyncIterator[int]:
        yield 0
        await lost.wait()
        if ctx.key == "k":
            raise made_here(RunLost("the process has ended"))
        await asyncio.Event().wait()

    server.on("generate", generate, keep=Keep(600, scope=lambda *_: ""))
    async with asyncio.timeout(60), server.listen() as listener, Page.start(listener.url) as page:
        await page.run("""
        globalThis.items = client.with({ key: "k", attempts: 2 }).follow("generate")
        globalThis.other = client.with({ key: "k" }).stream("generate")
        await Promise.all([items.next(), other.next()])
        """)
        lost.set()
        read = "try { for await (const _ of items); } catch (error) { codes.push(error.code) }"
        codes = await page.run(f"""
        const codes = []
        await other.next().catch((error) => codes.push(error.code))
        await items.stop()
        for (const items of [globalThis.items, client.with({{ key: "k:2" }}).stream("generate")]) {{ {read} }}
        return [...codes, globalThis.items.attempt]
        """)
        assert codes == ["wsrpc.run_lost", "wsrpc.stopped", "wsrpc.stopped", 2]
    await server.close()


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
