"""Each counterpart in each role: events, requests, values, errors.

The rows are those of docs/reference/compatibility.md.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from interop import golang
from interop.matrix import COLUMNS, Cell, behaviour
from interop.peers import Agents, Counterpart, Link, text_of, until
from wsrpc import BadResult, CallNext, Context, RemoteError, RequestTimeout, RpcError
from wsrpc.errors import UnexpectedChannel

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLACES = [None, "math"]


@behaviour("events")
async def test_events(each_link: Link, cell: Cell) -> None:
    link, math = each_link, each_link.peer.of("math")
    for k in range(60):
        await (math if k % 3 == 0 else link.peer).emit("log", k, {"k": k})
        await link.tell("log", k, [k], channel="math" if k % 3 == 0 else None)
    places = ["math" if k % 3 == 0 else None for k in range(60)]
    entries = await link.journal("event", at_least=60)
    assert [(entry["channel"], entry["args"]) for entry in entries] == [(places[k], [k, {"k": k}]) for k in range(60)]
    assert [await link.seen.events.get() for _ in range(60)] == [(places[k], [k, [k]]) for k in range(60)]
    if golang.plays(link.agent.library):
        # They arrive in order, and that is what its journal has. Its handlers have a goroutine each.
        cell.note("order in Go")


@behaviour("requests")
async def test_requests(each_link: Link) -> None:
    for place in PLACES:
        caller = each_link.peer if place is None else each_link.peer.of(place)
        ours = [caller.request("add", k, 1, returns=int) for k in range(200)]
        theirs = [each_link.ask("add", k, 2, channel=place) for k in range(200)]
        assert await asyncio.gather(*ours, *theirs) == [*range(1, 201), *range(2, 202)]


async def test_plain_peers_ignore_what_travels_until_an_answer_shows_that_they_are_plain(each_link: Link) -> None:
    peer, calls = each_link.peer, [each_link.peer, each_link.peer.of("math")]
    await peer.emit("log", 1, metadata={"tenant": "acme"})
    options: dict[str, Any] = {"metadata": {"tenant": "acme"}, "timeout": 20}
    assert await asyncio.gather(*(caller.request("add", 2, 3, **options) for caller in calls)) == [5, 5]
    assert peer.stats().metadata_not_sent == 0
    [entry] = await each_link.journal("event", at_least=1)
    assert entry["args"] == [1]
    assert await peer.request("add", 2, 3, **options) == 5
    assert peer.stats().metadata_not_sent == 1


@behaviour("nested")
async def test_requests_from_inside_a_handler(each_link: Link) -> None:
    for place in PLACES:
        caller = each_link.peer if place is None else each_link.peer.of(place)
        assert await caller.request("ask", "ask", "ask", "add", 20, 2) == 22
        assert await each_link.ask("ask", "ask", "ask", "add", 20, 4, channel=place) == 24
        many = await asyncio.gather(
            *(caller.request("askMany", "add", 20) for _ in range(20)),
            *(each_link.ask("askMany", "add", 20, channel=place) for _ in range(20)),
        )
        assert many == [list(range(1, 21))] * 40


@behaviour("named")
async def test_named_channels(each_link: Link) -> None:
    heard: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    math = each_link.app.of("math")
    math.on("close", heard.set_result)
    math.on("message", str.upper)
    await each_link.tell("close", "the shop", channel="math")
    assert await heard == "the shop"
    assert await each_link.ask("message", "hi", channel="math") == "HI"
    assert await each_link.peer.of("math").request("add", 1, 2) == 3
    assert each_link.peer.connected


@behaviour("unknown")
async def test_unknown_events_and_channels(each_link: Link) -> None:
    link = each_link
    for channel, event in [(None, "nonesuch"), ("math", "nonesuch"), ("attic", "add")]:
        with pytest.raises(RemoteError):
            await (link.peer if channel is None else link.peer.of(channel)).request(event)
        await link.ask_in_vain(event, channel=channel)
        # As events they are dropped, without harm.
        await (link.peer if channel is None else link.peer.of(channel)).emit(event)
        await link.tell(event, channel=channel)
    assert await link.peer.request("add", 1, 2) == 3
    await link.quiet()
    assert link.peer.ignored["unknown event"] == 3


@behaviour("values")
async def test_small_values(each_link: Link, cell: Cell) -> None:
    link = each_link
    values: list[Any] = [None, 0, "", False, True, [], {}, [None], {"a": None}, 0.5, -1]
    assert await link.peer.request("args", *values) == values
    assert await link.ask("args", *values) == values
    for value in values[1:]:
        for got in (await link.peer.request("echo", value), await link.ask("echo", value)):
            assert (got, type(got)) == (value, type(value))
    assert await link.ask("echo", None) is None
    assert await link.ask("nothing") is None
    # Without a value, with null, and with null that looks like a channel: what is asked for decides.
    assert await link.peer.request("nothing", returns=int | None) is None
    assert await link.peer.request("nil", returns=int | None) is None
    with pytest.raises((BadResult, UnexpectedChannel)) as raised:
        await link.peer.request("nil", returns=list[int])
    if isinstance(raised.value, UnexpectedChannel):
        cell.note("null results")
    assert await link.peer.request("echo", 1) == 1


@behaviour("unicode")
async def test_unicode(each_link: Link) -> None:
    text = 'ünï € \U0001f600 \U0001f469\u200d\U0001f680 \u2028\u2029\ufeff\x00\x1f\x7f\\"/'
    for value in (text, {text: [text]}, text * 1000):
        assert await each_link.peer.request("echo", value) == value
        assert await each_link.ask("echo", value) == value
    await each_link.peer.emit("log", text)
    assert (await each_link.journal("event"))[0]["args"] == [text]
    await each_link.tell("log", text)
    assert await each_link.seen.events.get() == (None, [text])


@behaviour("integers")
async def test_big_integers(each_link: Link, cell: Cell) -> None:
    for exact in (2**53 - 1, -(2**53) + 1, 2**53):
        assert await each_link.peer.request("echo", exact) == exact
        assert await each_link.ask("echo", exact) == exact
    got = await each_link.peer.request("echo", 2**53 + 1)
    if got != 2**53 + 1:
        assert got == 2**53
        cell.note("large integers")
    assert await each_link.peer.request("echo", 2**53 + 1, returns=int) == got


@behaviour("binary")
async def test_bytes(each_link: Link, cell: Cell) -> None:
    data = bytes(range(256))

    def backwards(data: bytes) -> bytes:
        return data[::-1]

    each_link.app.on("backwards", backwards)
    assert await each_link.peer.request("echo", data, returns=bytes) == data
    encoded = await each_link.peer.request("echo", data)
    assert await each_link.peer.request("ask", "backwards", encoded, returns=bytes) == data[::-1]
    # Python reads no binary message, whatever it holds.
    await each_link.call("send_raw", data='{"a":["log","no"]}', binary=True)
    await each_link.quiet()
    assert each_link.seen.events.empty()
    assert each_link.peer.ignored["foreign"] == 1
    # Go and Node read it like text. In a browser it is a Blob, and ignored.
    each_link.transport.send(b'{"a":["log","binary"]}', False)
    each_link.transport.send(b'{"a":["log","text"]}', True)
    in_go = "foreign" not in each_link.agent.can
    reads = ["binary"] if in_go or "binary" in each_link.agent.can else []
    entries = await each_link.journal("event", at_least=len(reads) + 1)
    assert [entry["args"] for entry in entries] == [[word] for word in [*reads, "text"]]
    if reads:
        cell.note("foreign messages in Go" if in_go else "binary messages")


FOREIGN = ["hello", "", "null", "42", '"text"', '[1,["log"]]', '{"ws-wrapper":false,"a":["log","no"]}']


@behaviour("foreign")
async def test_foreign_messages(each_link: Link, cell: Cell) -> None:
    link = each_link
    for data in FOREIGN:
        await link.call("send_raw", data=data)
    await link.quiet()
    assert link.peer.ignored["foreign"] == len(FOREIGN)
    if "foreign" not in link.agent.can:
        # Only what says so, and objects that have none of the protocol's keys; the rest closes the connection.
        link.transport.send(FOREIGN[-1].encode(), True)
        link.transport.send(b'{"hello":1}', True)
        assert await link.peer.request("add", 1, 2) == 3
        link.transport.send(FOREIGN[0].encode(), True)
        assert (await link.closed).code in (1007, 1011)
        cell.note("foreign messages in Go")
        return
    for data in FOREIGN:
        link.transport.send(data.encode(), True)
    assert await link.peer.request("add", 1, 2) == 3
    assert await link.ask("add", 1, 2) == 3
    await link.peer.emit("log", "yes")
    assert (await link.journal("event"))[0]["args"] == ["yes"]
    assert link.seen.events.empty()


@behaviour("errors")
async def test_errors(each_link: Link, cell: Cell) -> None:
    link = each_link
    with pytest.raises(RemoteError, match=r"^it failed$"):
        await link.peer.request("fail", "error")
    if "fields" not in link.agent.can:
        for kind in ("rpc", "string"):
            thrown = await link.ask_in_vain("fail", kind)
            assert (thrown["message"], thrown["props"]) == ("it failed" if kind == "rpc" else "just text", {})
        assert (await link.ask_in_vain("fail", "internal"))["message"] == "internal error"
        cell.note("errors in Go")
        return
    await link.agent.call("set", error_props=True)
    with pytest.raises(RemoteError) as raised:
        await link.peer.request("fail", "error")
    assert (raised.value.message, raised.value.code) == ("it failed", "E_FAIL")
    assert dict(raised.value.fields) == {"detail": {"attempt": 1}}
    with pytest.raises(RemoteError) as raised:
        await link.peer.request("fail", "string")
    assert (raised.value.data, raised.value.plain) == ("just text", True)
    thrown = await link.ask_in_vain("fail", "rpc")
    assert (thrown["is_error"], thrown["message"]) == (True, "it failed")
    assert thrown["props"] == {"code": "E_FAIL", "data": {"attempt": 1}}
    assert text_of(await link.ask_in_vain("fail", "string")) == "just text"
    # What is nobody's business stays here.
    thrown = await link.ask_in_vain("fail", "internal")
    assert "secret" not in str(thrown)
    assert thrown["props"]["code"] == "wsrpc.internal"


@behaviour("timeouts")
async def test_timeouts(each_link: Link) -> None:
    with pytest.raises(RequestTimeout):
        await each_link.peer.request("hang", timeout=0.02)
    await each_link.ask_in_vain("hang", timeout_ms=20)
    assert each_link.peer.pending == 0
    assert await each_link.peer.request("add", 1, 2) == 3
    assert await each_link.ask("add", 1, 2) == 3


@behaviour("cancelling")
async def test_cancelling(each_link: Link, cell: Cell) -> None:
    link = each_link
    asked = asyncio.create_task(link.peer.request("hang"))
    await link.journal("started")
    asked.cancel("bored")
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert link.peer.pending == 0
    if "cancels" not in link.agent.can:
        # Its handler runs on, and nobody hears of it.
        assert await link.peer.request("add", 1, 2) == 3
        cell.lacks()
        return
    (aborted,) = await link.journal("aborted")
    assert text_of(aborted["reason"]) == "bored"
    ref, theirs = link.start_asking("hang")
    await link.seen.started.get()
    await link.call("cancel", ref=ref, reason="bored, too")
    assert [str(why) for why in await link.seen.cancelled.get()] == ["bored, too"] * 2
    assert "rejected" in await theirs
    await until(lambda: link.peer.active == 0)
    assert await link.ask("add", 1, 2) == 3


@behaviour("middleware")
async def test_middleware(counterpart: Counterpart, agents: Agents, cell: Cell) -> None:
    async with agents.link(*counterpart) as link:

        async def gate(ctx: Context, call_next: CallNext) -> Any:
            if ctx.args and ctx.args[0] == "no entry":
                raise RpcError("not allowed")
            return await call_next(ctx)

        link.app.use(gate)
        assert await link.ask("echo", "ticket") == "ticket"
        assert text_of(await link.ask_in_vain("echo", "no entry")) == "not allowed"
        if "middleware" not in link.agent.can:
            cell.note("middleware in Go")
            return
        await link.agent.call("set", middleware="refuse")
        with pytest.raises(RemoteError, match="refused"):
            await link.peer.request("add", 1, 2)


@behaviour("large")
async def test_large_messages(counterpart: Counterpart, agents: Agents, cell: Cell) -> None:
    size = 1024 * 1024
    async with agents.link(*counterpart) as link:
        assert await link.peer.request("blob", size) == "x" * size
        assert await link.peer.request("size", "x" * size) == size
        assert await link.ask("blob", size) == "x" * size
        assert await link.ask("size", "x" * size) == size
        _, asked = link.start_asking("size", "x" * (4 * size))
        info = await link.closed
        assert info.code == 1009
        (closed,) = await link.journal("close")
        if "codes" in link.agent.can:
            assert closed["code"] == 1009
        else:
            assert closed["code"] == 1011
            cell.note("close codes in Go")
            if COLUMNS[counterpart[0]] == "Go (coder)":
                cell.note("message size in Go")
        asked.cancel()
        await asyncio.wait([asked])
