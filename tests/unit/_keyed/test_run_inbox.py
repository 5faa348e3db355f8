"""Messages for a run: `Keep` with ``inbox=``, `Stream.send` and `Context.inbox`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from waiting import settled

from wsrpc import Client, Context, Keep, Peer, Server
from wsrpc._keyed.run_inbox import Entry, InboxReader, RunInbox
from wsrpc._log.link import StoreLink
from wsrpc.errors import (
    BadArguments,
    ConnectionLost,
    ItemsGone,
    KeyReused,
    NotRead,
    RemoteError,
    RequestTimeout,
    RpcError,
    RunLost,
)
from wsrpc.store import LEASE, LogState, MemoryStore, NewLog, Page
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")


class Say(msgspec.Struct):
    text: str
    n: int = 0


class Process:
    """A process, whose handler yields each message that it reads. "pause" lets it wait, and "end" ends it."""

    def __init__(self, store: MemoryStore, **keep: Any) -> None:
        self.server = Server(store=store)
        self.goes_on = asyncio.Event()
        self.server.on("ask", self.ask, keep=Keep(60, **{"attempts": 3, "inbox": Say, **keep}))

    async def ask(self, ctx: Context, topic: str = "") -> AsyncIterator[tuple[int, str, Any]]:
        async for message in ctx.inbox(Say):
            if message.value.text == "end":
                return
            yield ctx.attempt, message.value.text, message.principal
            if message.value.text == "pause":
                await self.goes_on.wait()

    async def ask_for_numbers(self, ctx: Context, topic: str = "") -> AsyncIterator[int]:
        async for message in ctx.inbox(int):
            yield message.value


@asynccontextmanager
async def processes(**keep: Any) -> AsyncGenerator[tuple[Process, Process, Client, Client]]:
    """Two processes with a common store, and a client of each."""
    store = MemoryStore()
    one, two = Process(store, **keep), Process(store, **keep)
    try:
        async with connect(one.server, principal="ann") as ours, connect(two.server, principal="ann") as theirs:
            yield one, two, ours, theirs
    finally:
        for process in (one, two):
            await process.server.close()


async def test_messages_from_any_process_are_read_once_and_in_order() -> None:
    async with processes() as (_, _, ours, theirs), ours.follow("ask", key="k") as items:
        asked = asyncio.ensure_future(anext(items))
        await settled()
        away = theirs.stream("ask", key="k")
        for id in (None, "one", "one", "two"):
            await away.send(Say(f"{id}"), id=id)
        await items.send({"text": "near", "n": 1})
        texts = [(await asked)[1], *[(await anext(items))[1] for _ in range(3)]]
        assert texts == ["None", "one", "two", "near"]
        await away.send(Say("end"))
        with pytest.raises(StopAsyncIteration):
            await anext(items)
        with pytest.raises(NotRead):
            await away.send(Say("late"))


async def test_who_sends_learns_that_nobody_reads_the_message_any_more() -> None:
    async with processes() as (_, _, ours, theirs), ours.stream("ask", key="k") as items:
        await items.send(Say("pause"))
        waiting = [asyncio.ensure_future(caller.stream("ask", key="k").send(Say("more"))) for caller in (ours, theirs)]
        await settled(100 * LEASE)
        assert not any(each.done() for each in waiting), "they wait as long as the handler runs"
        with pytest.raises(RequestTimeout):
            await items.send(Say("and more"), timeout=1.0)
        await items.stop()
        for each in waiting:
            with pytest.raises(NotRead):
                await each


async def test_another_attempt_reads_all_messages_from_the_first() -> None:
    async with processes() as (one, two, ours, theirs):
        sent = ours.stream("ask", key="k")
        async with ours.stream("ask", key="k") as items:
            for text in ("a", "pause"):
                await sent.send(Say(text), id=text)
                await anext(items)
        later = asyncio.ensure_future(theirs.stream("ask", key="k").send(Say("b"), id="b"))
        await settled()
        two.goes_on.set()
        await one.server.close()  # hands the run over
        async with theirs.stream("ask", key="k", after=2) as items:
            assert [await anext(items) for _ in range(3)] == [[1, "a", "ann"], [1, "pause", "ann"], [1, "b", "ann"]]
            await later
            await items.send(Say("a"), id="a")
            await items.send(Say("end"))
            assert [item async for item in items] == [], "the id of a message that was sent before"


async def test_another_attempt_skips_what_was_yielded_and_closes_its_source() -> None:
    ended: list[int] = []

    async def steps(ctx: Context) -> AsyncGenerator[str]:
        try:
            yield "begun"
            async for message in ctx.inbox(str):
                yield message.value
        finally:
            ended.append(ctx.attempt)

    async def ask(ctx: Context) -> AsyncIterator[str]:
        async for text in ctx.skip_earlier(steps(ctx)):
            yield text

    store = MemoryStore()
    servers = [Server(store=store) for _ in range(2)]
    for server in servers:
        server.on("ask", ask, keep=Keep(60, attempts=3, inbox=str))
    async with connect(servers[0], principal="ann") as client, client.stream("ask", key="k") as items:
        await items.send("a")
        assert [await anext(items) for _ in range(2)] == ["begun", "a"]
    await servers[0].close()
    assert len(ended) == 1
    async with connect(servers[1], principal="ann") as client, client.stream("ask", key="k", after=0) as items:
        await items.send("b")
        assert [await anext(items) for _ in range(3)] == ["begun", "a", "b"]
        await items.stop()
        await settled()
        assert len(ended) == 2
    await servers[1].close()


async def test_a_read_that_was_cancelled_loses_no_message() -> None:
    read: list[str] = []
    server = Server()

    @server.on("ask", keep=Keep(60, inbox=str))
    async def ask(ctx: Context) -> list[str]:
        while len(read) < 4:
            try:
                async with asyncio.timeout(0.1):
                    async for message in ctx.inbox(str):
                        read.append(message.value)
                        break
            except TimeoutError:
                read.append("nothing")
        return read

    async with connect(server, principal="ann") as client:
        result = asyncio.ensure_future(client.request("ask", key="k"))
        await settled(0.15)
        asking = client.stream("ask", key="k")
        await asyncio.gather(asking.send("a"), asking.send("b"))
        assert await result == ["nothing", "a", "b", "nothing"]
    await server.close()


class Late(MemoryStore):
    """A store that takes a while for each step."""

    async def open(self, key: str, log: NewLog, /) -> LogState:
        await asyncio.sleep(0.1)
        return await super().open(key, log)

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        await asyncio.sleep(0.01)
        return await super().read(key, after, wait=wait)


class Slow(MemoryStore):
    """A store from which the messages of runs arrive late."""

    async def read(self, key: str, after: int, /, *, wait: float = 0.0) -> Page | None:
        page = await super().read(key, after, wait=wait)
        await asyncio.sleep(0.2 if key.endswith("inbox") else 0)
        return page


@pytest.mark.parametrize("delay", [n / 20 for n in range(13)])
async def test_who_sends_is_told_the_truth_whenever_the_handler_gives_up(delay: float) -> None:
    got: list[str] = []
    server = Server(store=Slow())

    @server.on("ask", keep=Keep(60, inbox=str))
    async def ask(ctx: Context) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                async for message in ctx.inbox(str):
                    got.append(message.value)

    async with connect(server, principal="ann") as client:
        result = asyncio.ensure_future(client.request("ask", key="k"))
        await settled(delay)
        try:
            await client.stream("ask", key="k").send("hello")
        except (NotRead, ItemsGone):
            assert not got
        else:
            assert got == ["hello"]
        await result
    await server.close()


async def test_messages_wait_longer_than_the_run_is_kept() -> None:
    async with processes() as (_, _, ours, theirs), ours.stream("ask", key="k") as items:
        await settled(3600)
        await theirs.stream("ask", key="k").send(Say("an hour later"))
        assert (await anext(items))[1] == "an hour later"


def allowed(peer: Peer, message: Say) -> bool:
    if message.n > 9:
        raise RpcError("9 at most", "too_many")
    return message.n < 5


@pytest.mark.parametrize(
    ("event", "message", "options", "error", "text"),
    [
        ("ask", 7, {}, BadArguments, "Expected `object`, got `int`"),
        ("ask", Say("x"), {"id": ""}, ValueError, "id= is a text"),
        ("ask", Say("x"), {"id": 7}, TypeError, "id= is a text"),
        ("ask", Say("x"), {"timeout": -1}, ValueError, "timeout"),
        ("ask", Say("x", 6), {}, RemoteError, "not allowed"),
        ("ask", Say("x", 10), {}, RpcError, "9 at most"),
        ("plain", Say("x"), {}, BadArguments, "its handler does not get"),
    ],
)
async def test_a_message_that_cannot_be_sent(
    event: str, message: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    async with processes(may_send=allowed) as (one, _, ours, _):
        one.server.on("plain", one.ask, keep=60)
        async with ours.stream("ask", key="k") as items:
            with pytest.raises(error, match=text):
                await ours.stream(event, key="k").send(message, **options)
            await items.send(Say("fits"))
            assert (await anext(items))[1] == "fits"


async def test_who_may_not_read_may_not_send() -> None:
    async with processes() as (one, _, ours, _), ours.stream("ask", key="k") as items:
        async with connect(one.server, principal="eve") as eve:
            with pytest.raises(ItemsGone):
                await eve.stream("ask", key="k").send(Say("x"))
            with pytest.raises(ValueError, match="no key"):
                await eve.stream("ask").send(Say("x"))
            with pytest.raises(RemoteError, match="needs a key"):
                await anext(eve.stream("ask"))
        await items.send(Say("mine"))


async def test_a_run_that_others_share_has_one_inbox() -> None:
    async with processes(scope=lambda peer, topic: topic) as (one, _, ours, _):
        async with connect(one.server, principal=7) as other, ours.stream("ask", "tea", key="k") as items:
            await items.send(Say("a"), id="1")
            await other.stream("ask", "tea", key="k").send(Say("b"), id="1")
            assert [await anext(items), await anext(items)] == [[1, "a", "ann"], [1, "b", 7]], "ids are of a user"
            with pytest.raises(ItemsGone):
                await other.stream("ask", "coffee", key="k").send(Say("c"))


def test_a_handler_declares_what_it_reads() -> None:
    server = Server()
    with pytest.raises(TypeError, match="inbox= is the type"):
        server.on("a", test_who_may_not_read_may_not_send, keep=Keep(60, inbox=7))
    with pytest.raises(TypeError, match="may_send= is about"):
        Keep(60, may_send=allowed)


@pytest.mark.parametrize(
    "scope", [lambda peer: "", lambda peer, a, b: "", lambda peer, key: "", lambda peer, *, other: ""]
)
def test_a_scope_that_cannot_be_called_is_refused(scope: Any) -> None:
    async def ask(a: int, b: int = 0, *, c: int = 0) -> None: ...

    with pytest.raises(
        TypeError, match=r"scope= is a function of the peer and the arguments, or of the peer and `\*, key`"
    ):
        Server().on("ask", ask, keep=Keep(60, scope=scope))
    for fits in (lambda peer, *args: "", lambda peer, a, b, c: "", lambda peer, *, key: ""):
        Server().on("ask", ask, keep=Keep(60, scope=fits))


async def test_the_same_id_of_other_users_is_another_message() -> None:
    async with processes(scope=lambda peer, topic: topic) as (one, _, _, _), AsyncExitStack() as stack:
        users: list[Any] = [1, True, "1", {"id": 1}, {"id": 1}, None]
        clients = [await stack.enter_async_context(connect(one.server, principal=user)) for user in users]
        items = await stack.enter_async_context(clients[0].stream("ask", "tea", key="k"))
        for _ in range(2):
            for number, client in enumerate(clients):
                await client.stream("ask", "tea", key="k").send(Say(f"{number}"), id="vote")
        await items.send(Say("end"))
        assert [item[1] async for item in items] == ["0", "1", "2", "3", "4", "5"]


async def test_a_message_counts_as_read_also_long_after_its_run_was_lost() -> None:
    async with processes(attempts=1) as (one, _, ours, theirs):
        async with ours.stream("ask", key="k") as items:
            await items.send(Say("approve"), id="m-1")
            assert (await anext(items))[1] == "approve"
        await one.server.close()
        with pytest.raises(RunLost):
            await anext(theirs.stream("ask", key="k", after=1))
        await settled(50)
        await theirs.stream("ask", key="k").send(Say("approve"), id="m-1")
        with pytest.raises(NotRead):
            await theirs.stream("ask", key="k").send(Say("approve"), id="m-2")


async def test_a_later_version_does_not_read_what_does_not_fit() -> None:
    async with processes() as (one, two, ours, theirs):
        two.server.on("ask", two.ask_for_numbers, keep=Keep(60, attempts=3, inbox=int))
        async with ours.stream("ask", key="k") as items:
            await items.send(Say("pause"))
        unread = asyncio.ensure_future(ours.stream("ask", key="k").send(Say("words")))
        await settled()
        await one.server.close()
        async with theirs.stream("ask", key="k", after=1) as items:
            await items.send(7)
            assert await anext(items) == 7
        with pytest.raises(ConnectionLost):
            await unread


@pytest.mark.parametrize(("text", "most"), [("", 200), ("x" * 60_000, 2), ("x" * 200_000, 0)])
async def test_who_sends_too_much_keeps_nobody_from_sending(text: str, most: int) -> None:
    async with processes(scope=lambda peer, *, key: "all") as (one, _, ours, theirs):
        async with ours.stream("ask", key="k") as items, connect(one.server, principal="eve") as eve:
            sending = theirs.stream("ask", key="k")
            for number in range(most):
                await sending.send(Say(text, number))
            with pytest.raises(NotRead, match="a run takes at most 200 messages of one sender, of together 128 KiB"):
                await sending.send(Say(text))
            await eve.stream("ask", key="k").send(Say("approved"))
            assert [(await anext(items))[1] for _ in range(most + 1)] == [*[text] * most, "approved"]
            await items.stop()


async def test_a_run_has_a_limit_of_messages_of_all() -> None:
    async with processes(scope=lambda peer, *, key: "all") as (one, _, ours, _), AsyncExitStack() as stack:
        async with ours.stream("ask", key="k") as items:
            for user in "abcd":
                client = await stack.enter_async_context(connect(one.server, principal=user))
                for _ in range(2):
                    await client.stream("ask", key="k").send(Say("x" * 60_000))
            with pytest.raises(NotRead, match="at most 500 messages, of together 512 KiB"):
                await ours.stream("ask", key="k").send(Say("x" * 60_000))
            await items.stop()


async def test_messages_that_are_sent_at_once_are_read_in_their_order() -> None:
    store = Late()
    process = Process(store)
    async with connect(process.server, principal="ann") as client, client.stream("ask", key="k") as items:
        sending = [asyncio.ensure_future(items.send(Say(f"{n}"))) for n in range(5)]
        assert [(await anext(items))[1] for _ in range(5)] == [*"01234"]
        await asyncio.gather(*sending)
        await items.stop()
    await process.server.close()


async def test_a_message_may_follow_its_call_at_once() -> None:
    server = Server(store=Late())

    @server.on("ask", keep=Keep(60, inbox=str))
    async def ask(ctx: Context) -> str:
        return (await anext(ctx.inbox(str))).value

    async with connect(server, principal="ann") as client:
        result = asyncio.ensure_future(client.request("ask", key="k"))
        await asyncio.sleep(0)
        await client.stream("ask", key="k").send("hello")
        assert await result == "hello"
        calls = [asyncio.ensure_future(client.request("ask", key="other")) for _ in range(2)]
        await settled(0.05)
        calls[1].cancel()  # while it waits until the first one has started the run
        await settled(1)
        await client.stream("ask", key="other").send("hello")
        assert await calls[0] == "hello"
    await server.close()


async def test_an_id_of_another_message_is_refused() -> None:
    async with processes() as (_, _, ours, theirs), ours.stream("ask", key="k") as items:
        await items.send(Say("yes"), id="1")
        await theirs.stream("ask", key="k").send({"text": "yes"}, id="1")
        with pytest.raises(KeyReused, match="the id belongs to another message"):
            await theirs.stream("ask", key="k").send(Say("no"), id="1")
        await items.stop()


async def test_who_approves_needs_the_key_alone_if_it_decides_who_shares_the_run() -> None:
    def owner_of(peer: Peer, *, key: str) -> str:
        if peer.principal not in ("ann", "mia"):
            raise RpcError("not your order", "forbidden")
        return f"order {key}"

    async with processes(scope=owner_of) as (one, _, ours, _), ours.stream("ask", "tea", key="k") as items:
        async with connect(one.server, principal="mia") as mia, connect(one.server, principal="eve") as eve:
            await mia.stream("ask", key="k").send(Say("approved"))
            assert await anext(mia.stream("ask", key="k", after=0)) == [1, "approved", "mia"]
            with pytest.raises(ItemsGone):
                await mia.stream("ask", key="other").send(Say("approved"))
            with pytest.raises(RpcError, match="not your order"):
                await eve.stream("ask", key="k").send(Say("approved"))
        await items.stop()


async def test_arguments_of_another_call_are_refused() -> None:
    async with processes() as (_, _, ours, _), ours.stream("ask", "tea", key="k") as items:
        with pytest.raises(KeyReused):
            await ours.stream("ask", "coffee", key="k").send(Say("x"))
        await items.send(Say("mine"))


async def test_a_full_store_refuses_messages_and_not_the_run() -> None:
    store = MemoryStore(payer_logs=1)
    process = Process(store)
    async with connect(process.server, principal="ann") as client, client.stream("ask", key="k") as items:
        await items.send(Say("takes no second place"))
        assert (await anext(items))[1] == "takes no second place"
    await process.server.close()


# ---------------------------------------------------------------- whatever several attempts have left in the log


def entries(text: str) -> list[bytes]:
    """Return entries of a log: ``claimed-1`` is by another attempt, ``claimed-1-third`` by a third one."""
    found = list[bytes]()
    for word in text.split():
        given: Any = word.split("-")
        kind, number, by = given + ["0", "other"][len(given) - 1 :]
        value = [int(number)] if kind == "closed" else len(found) + 1
        found.append(msgspec.json.encode(Entry(kind, int(number), f"id {len(found)}", by, "ann", value)))
    return found


def inbox_with(text: str, store: MemoryStore) -> RunInbox:
    inbox = RunInbox(StoreLink(store), msgspec.json.encode, "run", "ann", 60.0)
    store.append_now(inbox._log.id, inbox._log, "", 0, entries(text))
    return inbox


@pytest.mark.parametrize(
    ("log", "read"),
    [
        ("message message", [1, 2]),
        ("message message claimed-1 claimed-2", [1, 2]),
        ("message message claimed-1 claimed-2 closed", []),
        ("message message claimed-1 read-1 claimed-2 closed", [1]),
        ("message message claimed-1 claimed-2 read-2 closed", []),
        ("message message claimed-1 claimed-2 read-2 read-1 closed", [1, 2]),
        ("message claimed-1 read-1 closed message", [1]),
    ],
)
async def test_an_attempt_reads_what_no_sender_takes_for_unread(log: str, read: list[int]) -> None:
    handler: Any = SimpleNamespace(to_message=int)
    reader, found = InboxReader(inbox_with(log, MemoryStore()), handler, "run"), list[int]()
    with suppress(TimeoutError):
        async with asyncio.timeout(60):
            async for message in reader:
                found.append(message.value)
    assert found == read


@pytest.mark.parametrize(
    ("log", "told"),
    [
        ("claimed-1 read-1", None),
        ("claimed-1 closed", NotRead),
        ("claimed-1 closed-0-third", RunLost),
        ("claimed-1 claimed-1-third closed", RunLost),
        ("closed", NotRead),
        ("claimed-1 closed-1", None),
        ("message claimed-1 closed-2", NotRead),
        ("read-1 " + "message " * 40 + "closed", RunLost),  # the store drops the first ones
    ],
)
async def test_what_a_sender_is_told(log: str, told: type[Exception] | None) -> None:
    store = MemoryStore(log_bytes=2000)
    inbox = inbox_with("", store)

    async def is_over() -> bool:
        return False

    sent = inbox.sending(Entry("message", id="own"))
    await sent.add(has_ended=False)
    sending = asyncio.ensure_future(sent.wait(is_over))
    await settled()
    store.append_now(inbox._log.id, inbox._log, "", 0, entries(log))
    if told is None:
        return await sending
    with pytest.raises(told):
        await sending
