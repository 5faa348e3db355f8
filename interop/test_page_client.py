"""How the calls of a page's client end, and those of a server to the page: kinds of calls x what happens to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import pytest
from leftovers import nothing_left as nothing_left
from waiting import until

from interop.page_client import Page, Stage, scripted, welcome, words
from wsrpc import AnonymousChannel, Limits, Rate, RequestTimeout, RpcError, Server
from wsrpc.schema import describe
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

Calls = list[asyncio.Future[Any]]
KINDS = "request", "stream", "upload", "conversation"
PLACES = {"request": None, "stream": None, "upload": "named", "conversation": "named"}
VALUES = {"request": "result", "stream": [1, 2], "upload": 6, "conversation": [1, 2]}
"""What each kind brings when all goes well. `event` has no answer, and the last table to itself."""

# Who calls: the page on the main channel or a named one, in JSON or MessagePack; the server.
# What the caller gets, with the code and the outcome; and what the handler does: it is done, stops, or "-": it never
# began.
FROM_THE_PAGE = """
answers           | ok                               | done
raises            | Remote limit ran                 | done
fails             | Remote internal ran              | done
gives up          | Remote internal ran              | stop
bad arguments     | Remote bad_arguments not_run     | -
unknown name      | Remote unknown_event not_run     | -
timeout           | RequestTimeout unknown           | stop
aborted before    | Abort not_sent                   | -
aborted           | Abort unknown                    | stop
aborted oddly     | Abort unknown                    | stop
aborted after     | ok                               | done
resumes           | ok                               | done
resumes, aborted  | Abort unknown                    | stop
lost              | ConnectionLost 1006 unknown      | stop
no session        | ConnectionLost 1006 unknown      | stop
drains            | ok                               | done
server closes     | ConnectionLost 1012 unknown      | stop
page closes       | ConnectionLost 1000 unknown      | stop
not connected     | ok                               | done
detached          | ok                               | done
detached, aborted | Abort not_sent                   | -
detached, timeout | RequestTimeout not_sent          | -
detached, lost    | ok                               | done
detached, closes  | ConnectionLost 1000 not_sent     | -
never connected   | ConnectionLost 1000 not_sent     | -
too many wait     | Refused not_sent                 | -
closed            | ConnectionLost 1000 not_sent     | -
"""

FROM_THE_SERVER = """
answers           | ok                               | done
raises            | RemoteError limit ran            | done
fails             | RemoteError ran                  | done
unencodable error | RemoteError ran                  | done
bigint            | RemoteError ran                  | done
unknown name      | UnknownEvent unknown_event not_run | -
timeout           | RequestTimeout unknown           | stop
aborted           | CancelledError                   | stop
resumes           | ok                               | done
resumes, aborted  | CancelledError                   | stop
lost              | SessionLost 1000 unknown         | stop
no session        | ConnectionLost 1006 unknown      | stop
server closes     | ConnectionLost 1012 unknown      | stop
page closes       | ConnectionLost 1000 unknown      | stop
detached          | ok                               | done
detached, aborted | CancelledError                   | -
"""

LATE = "response to no request"
NO_FAULT = {LATE, "cancellation of no request"}
"""What a server counts of a page that answers although nobody waits: after a cancellation, and if the last message of
an upload crosses with its abort. And if the page cancels a call whose time is over: the server, which knows the time,
ends the handler, too."""

NOBODY = "ws://127.0.0.1:1"
"""Nothing listens there."""


def rows(table: str) -> dict[str, tuple[str, str]]:
    found = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return {row: (outcome, handler) for row, outcome, handler in found}


ENOUGH = 0.3
"""Seconds until a call times out, in which its handler begins also on a busy machine."""
FORWARD, BACKWARD = rows(FROM_THE_PAGE), rows(FROM_THE_SERVER)


async def greets(line: Any, message: Any) -> None:
    await line.send(welcome("context"))


@asynccontextmanager
async def staged(
    limits: Limits | None = None, *, connected: bool = True, plain: bool = False, **options: Any
) -> AsyncGenerator[tuple[Page, Stage, FaultProxy]]:
    """A page and a server, with a proxy between them."""
    stage = Stage(Server(limits=limits or Limits(close_timeout=1), extensions=not plain))
    async with stage.server.listen() as listener, FaultProxy(listener.url) as proxy:
        async with Page.start(proxy.url if connected else NOBODY, **options) as page:
            if connected:
                await page.notes.until("open")
                # The server knows the page's features, and the page those of the server.
                assert await page.do("ask", name="sync") == "synced"
            yield page, stage, proxy


RELEASED = {"answers": "answer", "raises": "raise", "fails": "fail", "gives up": "give up", "bigint": "bigint"}
RELEASED["unencodable error"] = "unencodable"


async def happens(row: str, page: Page, stage: Stage, proxy: FaultProxy, calls: Calls, handlers: Page | Stage) -> None:
    """Let it happen to calls whose handlers wait."""

    async def release(how: str = "answer") -> None:
        if isinstance(handlers, Stage):
            handlers.release(how)
        else:
            await handlers.do("release", how=how)

    async def abort() -> None:
        for call in calls:
            if isinstance(handlers, Stage):
                await page.abort(call, "circular" if row == "aborted oddly" else None)
            else:
                call.cancel()

    if row in RELEASED:
        await release(RELEASED[row])
    match row:
        case "aborted" | "aborted oddly":
            await abort()
        case "aborted after":
            await release()
            await asyncio.wait(calls)
            await abort()
        case "resumes":
            proxy.drop()
            await page.notes.until("detached")
            await page.notes.until("open", 2)
            await release()
        case "resumes, aborted":
            async with proxy.cut():
                await page.notes.until("detached")
                await until(lambda: not stage.peer.connected)
                await abort()
        case "lost":
            async with proxy.cut():
                await page.notes.until("detached")
                await stage.peer.close()
        case "no session":
            proxy.drop()
        case "drains":
            closing = asyncio.create_task(stage.server.close(drain_timeout=30))
            await until(lambda: not stage.server.healthy)
            await release()
            await closing
            await page.notes.until("connecting")
        case "server closes":
            await stage.server.close()
        case "page closes":
            await page.do("close")


@pytest.mark.parametrize("row", FORWARD)
async def test_calls_of_the_page(row: str) -> None:
    """All kinds at once. The first two are on the main channel. In every other row, messages are in MessagePack."""
    outcome, handled = FORWARD[row]
    waits = row.startswith(("not connected", "never connected", "too many"))
    limits = Limits(close_timeout=1, replay_bytes=0) if row == "no session" else None
    codec = "json" if [*FORWARD].index(row) % 2 else "msgpack"
    options: dict[str, Any] = {"options": {"requestTimeout": 0, "offline": 4}, "codec": codec}
    async with staged(limits, connected=not waits, **options) as (page, stage, proxy):
        how: dict[str, Any] = {}
        match row:
            case "bad arguments":
                how["args"] = [1, 2, 3]
            case "unknown name":
                how["name"] = "nobody"
            case "timeout":
                how |= {"name": "hang", "timeout": 1000 * ENOUGH}
            case "detached, timeout":
                how["timeout"] = 20
            case "aborted before":
                how["aborted"] = True
            case "too many wait":
                for _ in range(4):
                    await page.call("request", name="sync")
            case "closed":
                await page.do("close")

        async def call() -> Calls:
            return [await page.call(kind, channel=PLACES[kind], **how) for kind in KINDS]

        if row.startswith("detached"):
            async with proxy.cut():
                await page.notes.until("detached")
                await until(lambda: not stage.peer.connected)
                calls = await call()
                if row == "detached, aborted":
                    for each in calls:
                        await page.abort(each)
                elif row == "detached, closes":
                    await page.do("close")
                elif row == "detached, lost":
                    await stage.peer.close()
                if outcome != "ok":
                    await asyncio.wait(calls)
        else:
            calls = await call()
        if row == "never connected":
            await page.do("close")
        elif outcome == "ok" or (handled != "-" and row != "timeout"):
            if row == "not connected":
                await page.do("go", at=proxy.url)
            await stage.notes.until("began", len(KINDS))
            await page.notes.until("item 1", 2)
            if row in ("detached", "detached, lost", "not connected"):
                stage.release()
            await happens(row, page, stage, proxy, calls, stage)
        told = await asyncio.gather(*calls)
        assert {kind: words(each) for kind, each in zip(KINDS, told, strict=True)} == dict.fromkeys(KINDS, outcome)
        if outcome == "ok":
            assert [each["ok"] for each in told] == [*VALUES.values()]
        if handled != "-":
            await stage.notes.until(handled, len(KINDS))
        if await page.do("status") == "open":
            assert await page.do("ask", name="sync") == "synced"
            assert stage.peer.ignored.keys() <= (NO_FAULT if row == "timeout" else set())
        assert stage.notes.handled() == ("-" if handled == "-" else " ".join([handled] * len(KINDS)))
        assert await page.do("ignored") == {}


@pytest.mark.parametrize("row", BACKWARD)
async def test_calls_of_the_server(row: str) -> None:
    outcome, handled = BACKWARD[row]
    limits = Limits(close_timeout=1, replay_bytes=0) if row == "no session" else None
    async with staged(limits) as (page, stage, proxy):
        taken: dict[str, list[Any]] = {"stream": [], "conversation": []}
        timeout = ENOUGH if row == "timeout" else None

        async def call(kind: str) -> Any:
            peer = stage.peer
            name = {"unknown name": "nobody", "timeout": "hang"}.get(row, kind)
            match kind:
                case "request":
                    return await peer.request(name, timeout=timeout)
                case "upload":
                    return await peer.request(name, send=[1, 2, 3], timeout=timeout)
                case "stream":
                    async with peer.stream(name, timeout=timeout) as items:
                        async for item in items:
                            taken[kind].append(item)
                case _:
                    async with await peer.open_channel(name, timeout=timeout) as channel:
                        async for line in channel.events("line"):
                            taken[kind].append(line)
            return taken[kind]

        def call_all() -> Calls:
            return [asyncio.create_task(call(kind)) for kind in KINDS]

        if row.startswith("detached"):
            async with proxy.cut():
                await page.notes.until("detached")
                await until(lambda: not stage.peer.connected)
                calls = call_all()
                await asyncio.sleep(0)
                if row == "detached, aborted":
                    for each in calls:
                        each.cancel()
            await page.notes.until("open", 2)
        else:
            calls = call_all()
        if handled != "-":
            await page.notes.until("began", len(KINDS))
            if row != "timeout":
                await until(lambda: all(taken.values()))
            if row == "detached":
                await page.do("release", how="answer")
            await happens(row, page, stage, proxy, calls, page)
        await asyncio.wait(calls)
        assert {kind: ended(each) for kind, each in zip(KINDS, calls, strict=True)} == dict.fromkeys(KINDS, outcome)
        if outcome == "ok":
            assert [each.result() for each in calls] == [*VALUES.values()]
        # The generator is closed at the item that cannot be sent.
        ends = ["done"] * 3 + ["stop"] if row == "bigint" else [handled] * (1 if handled == "-" else len(KINDS))
        for end in {*ends} - {"-"}:
            await page.notes.until(end, ends.count(end))
        if await page.do("status") == "open" and stage.server.peers:
            assert await page.do("ask", name="sync") == "synced"
            gives_up = row.endswith("aborted") or row == "timeout" or outcome.startswith("RemoteError")
            assert stage.peer.ignored.keys() <= (NO_FAULT if gives_up else set())
        assert sorted(page.notes.handled().split()) == ends
        assert await page.do("ignored") == {}


def ended(call: asyncio.Future[Any]) -> str:
    if call.cancelled():
        return "CancelledError"
    if (error := call.exception()) is None:
        return "ok"
    parts = type(error).__name__, getattr(error, "code", None), getattr(error, "outcome", None)
    return " ".join(str(part).removeprefix("wsrpc.") for part in parts if part is not None)


@pytest.mark.parametrize(
    ("row", "outcome", "arrives"),
    [
        ("connected", "ok", True),
        ("not connected", "ok", True),
        ("too many wait", "Refused not_sent", False),
        ("never connected", "ok", False),
        ("detached", "ok", True),
        ("detached, lost", "ok", True),
        ("too large", "Refused not_sent", False),
        ("closed", "ConnectionLost 1000 not_sent", False),
    ],
)
async def test_events_of_the_page(row: str, outcome: str, arrives: bool) -> None:
    """Nobody learns what becomes of an event. What can be known when it is emitted is thrown."""
    connected = row not in ("not connected", "too many wait", "never connected")
    limits = Limits(close_timeout=1, message_bytes=65536)
    async with staged(limits, connected=connected, options={"offline": 2}) as (page, stage, proxy):

        async def emit(how: str) -> None:
            for channel in (None, "named"):
                args = ["x" * 65536] if row == "too large" else []
                assert words(await (await page.call("event", channel=channel, args=args))) == how

        if row == "too many wait":
            await emit("ok")
        if row == "closed":
            await page.do("close")
        if row.startswith("detached"):
            async with proxy.cut():
                await page.notes.until("detached")
                await until(lambda: not stage.peer.connected)
                await emit(outcome)
                if row == "detached, lost":
                    await stage.peer.close()
        else:
            await emit(outcome)
        if row == "never connected":
            await page.do("close")
        elif row != "closed":
            await page.do("go", at=proxy.url)
            await page.notes.until("open", 2 if row.startswith("detached") else 1)
            for channel in (None, "named"):
                assert await page.do("ask", name="sync", channel=channel) == "synced"
        assert stage.notes.all.count("began") == 2 * (arrives + (row == "too many wait"))


# ---------------------------------------------------------------- one by one


async def test_items_on_a_stream_that_was_left_bring_one_abort() -> None:
    """The server had sent hundreds of them, and got an abort for each."""
    async with staged() as (page, stage, _proxy):
        stage.server.on("count", lambda: iter(range(10_000)))
        told = await (await page.call("stream", name="count", hold=1))
        assert told["ok"] == [0]
        assert await page.do("ask", name="sync") == "synced"
        assert stage.peer.ignored == {}
        assert await page.do("ignored") == {}


async def test_an_unexpected_error_names_the_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Only `value`, which has no type, had the id."""
    async with staged() as (page, stage, _proxy):
        stage.server.on("divide", lambda: 1 / 0)
        found = await page.run("return await client.request('divide').catch((error) => error.errorId)")
        assert f"[{found}]" in caplog.text and len(found) == 8
        assert await page.run("return await client.request('none').catch(({ errorId }) => errorId ?? null)") is None


async def test_a_refusal_because_of_a_rate_says_when_to_ask_again() -> None:
    async with staged() as (page, stage, _proxy):
        stage.server.on("rare", lambda: 1, rate=Rate(1, per=600))
        ask = "return await client.request('rare').catch(({ code, retryAfter }) => ({ code, retryAfter }))"
        assert await page.run(ask) == 1
        found = await page.run(ask)
        assert found["code"] == "wsrpc.overloaded" and 300 < found["retryAfter"] <= 600


async def test_a_stream_that_a_handler_returns_too_late_is_closed() -> None:
    """A channel was opened that nobody ended, so that the generator stayed open."""
    async with staged() as (page, stage, _proxy):
        with pytest.raises(RequestTimeout):
            await stage.peer.request("late", timeout=0.02)
        await page.notes.until("began")
        await page.notes.until("source closed")
        assert await page.do("ask", name="sync") == "synced"
        assert stage.peer.ignored in ({}, {LATE: 1})


LEAVERS = [("careless", "unread"), ("first", 0), ("hurried", "left"), ("hasty", ("no", "limit", {"most": 1}))]


@pytest.mark.parametrize("plain", [False, True], ids=["credit", "plain"])
@pytest.mark.parametrize(("name", "result"), LEAVERS)
async def test_an_upload_that_the_page_does_not_read_to_its_end(name: str, result: Any, plain: bool) -> None:
    """A handler that left the loop ended the upload with an error, whatever it returned."""
    async with staged(plain=plain) as (page, stage, _proxy):
        try:
            found: Any = await stage.peer.request(name, send=range(10_000), timeout=20)
        except RpcError as error:
            found = error.message, error.code, error.data
        assert found == result
        assert await page.do("ask", name="sync") == "synced"
        # Control messages; and the answer to an item that crosses with the wish for no more.
        assert stage.peer.ignored.keys() - {LATE} == ({"foreign"} if plain else set())
        assert await page.do("ignored") == {}


@pytest.mark.parametrize("how", ["aborted", "server stops", "enough"])
async def test_an_upload_whose_source_hangs(how: str) -> None:
    """It ended with the next item, which never came."""
    async with staged() as (page, stage, _proxy):

        async def first(items: AsyncIterator[int]) -> int:
            async for item in items:
                return item
            raise AssertionError

        stage.server.on("first", first)
        call = await page.call("upload", name="first" if how == "enough" else "upload", hangs=True)
        if how == "enough":
            assert (await call)["ok"] == 1
        else:
            await stage.notes.until("began")
            await (page.abort(call) if how == "aborted" else asyncio.sleep(0))
            stage.release("raise")
            assert words(await call) == ("Abort unknown" if how == "aborted" else "Remote limit ran")


async def test_an_error_in_the_source_of_an_upload_stops_the_handler() -> None:
    """Even if it is one that a server has answered with."""

    async def length(items: AsyncIterator[str]) -> int:
        return len([item async for item in items])

    async with staged() as (page, stage, _proxy):
        told = await page.run("""
        async function* source() { yield 1; await client.request("nobody") }
        return await client.upload("upload", source()).catch(shown)
        """)
        assert words(told) == "Remote unknown_event not_run"
        await stage.notes.until("stop")
        # Whatever it throws; and a text is a source, too.
        failing = "(function* () { throw 'just text' })()"
        assert await page.run(f"return await client.upload('upload', {failing}).catch(String)") == "just text"
        await stage.notes.until("stop", 2)
        # What goes wrong in closing it does not hide what went wrong before.
        refuses = "{ [Symbol.iterator]: () => ({ next() { throw 'first' }, return() { throw 'second' } }) }"
        assert await page.run(f"return await client.upload('upload', {refuses}).catch(String)") == "first"
        await until(lambda: page.faults)
        assert page.faults.pop() == "console: second"
        await stage.notes.until("stop", 3)
        stage.server.on("length", length)
        assert await page.run("return await client.upload('length', 'abc')") == 3


@pytest.mark.parametrize(
    ("row", "failed", "repeated"),
    [
        ("wsrpc.overloaded", "Remote overloaded not_run", (True, "idempotent")),
        ("wsrpc.draining", "Remote draining not_run", (True, "idempotent")),
        ("lost", "ConnectionLost 1012 unknown", ("idempotent",)),
        ("limit", "Remote limit ran", ()),
        ("wsrpc.internal", "Remote internal ran", ()),
        ("wsrpc.bad_arguments", "Remote bad_arguments not_run", ()),
        ("wsrpc.key_reused", "Remote key_reused not_run", ()),
        ("wsrpc.run_lost", "Remote run_lost unknown", ()),
        ("wsrpc.items_gone", "Remote items_gone unknown", ()),
    ],
)
async def test_retry(row: str, failed: str, repeated: tuple[object, ...]) -> None:
    runs = 0

    async def fails_once(line: Any, message: dict[str, Any]) -> None:
        nonlocal runs
        runs += 1
        if runs > 1:
            await line.send(json.dumps({"i": message["i"], "d": "done"}))
        elif row == "lost":
            await line.close(1012)
        else:
            error = {"message": "no", "code": row, "data": {"most": 1}}
            await line.send(json.dumps({"i": message["i"], "e": error, "_": 1}))

    async with scripted(fails_once, greets) as url, Page.start(url) as page:
        for retry in (False, True, "idempotent"):
            told, calls = await (await page.call("request", retry=retry)), runs
            assert (words(told), calls) == (("ok", 2) if retry in repeated else (failed, 1)), retry
            runs = 0


@pytest.mark.parametrize("how", ["aborted", "closed"])
async def test_the_pause_before_another_attempt_ends_early(how: str) -> None:

    async def overloaded(line: Any, message: dict[str, Any]) -> None:
        error = {"message": "no", "code": "wsrpc.overloaded"}
        await line.send(json.dumps({"i": message["i"], "e": error, "_": 1}))
        await line.send(json.dumps({"a": ["event"]}))

    async with scripted(overloaded) as url, Page.start(url) as page:
        await page.notes.until("open")
        await page.run("Math.random = () => 1e6")  # pauses take hours
        call = await page.call("request", retry=True)
        await page.notes.until("began")
        await (page.abort(call) if how == "aborted" else page.do("close"))
        assert words(await call) == ("Abort not_sent" if how == "aborted" else "ConnectionLost 1000 not_sent")


async def test_a_time_limit_of_a_month_is_none() -> None:
    """A timer of more than 24 days fires at once."""
    async with staged() as (page, stage, _proxy):
        call = await page.call("request", timeout=2**31)
        await stage.notes.until("began")
        assert await page.do("ask", name="sync") == "synced"
        stage.release()
        assert words(await call) == "ok"


async def test_close_ends_calls_at_once_although_the_server_is_silent() -> None:
    async with staged() as (page, stage, proxy):
        call = await page.call("request")
        await stage.notes.until("began")
        async with proxy.stall():
            await page.do("close")
            assert words(await call) == "ConnectionLost 1000 unknown"


async def test_a_call_of_the_wrong_kind_names_the_methods() -> None:
    """If a handler that reads items sends some, too, both sides waited for the other one."""

    async def echo(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item

    async with staged() as (page, stage, _proxy):
        stage.server.on("echo", echo)
        wanted = '"{}" answers with a channel: use stream(), upload() or open()'
        for kind, name in [*(("request", kind) for kind in KINDS[1:]), ("stream", "echo")]:
            told = await (await page.call(kind, name=name))
            text = wanted.format(name) if kind == "request" else "the handler reads items: use upload() or open()"
            assert (words(told), told["error"]["message"]) == ("Wsrpc ran", text)
        for name in ("stream", "echo"):
            told = await (await page.call("upload", name=name))
            text = f"{name!r} yields items: it is opened with stream(), not with request(send=), and then read"
            assert (words(told), told["error"]["message"]) == ("Remote ran", text)


async def test_several_reads_at_once_get_one_item_each() -> None:
    async with staged() as (page, stage, _proxy):
        stage.server.on("count", lambda: iter(range(3)))
        told = await page.run("""
        const items = client.stream("count")
        return await Promise.all(Array.from({ length: 5 }, () => items.next()))
        """)
        assert told == [{"done": False, "value": k} for k in range(3)] + [{"done": True}] * 2


async def test_a_server_that_runs_few_requests_gets_no_more() -> None:
    """Those that were given up count until they are answered, and all others are sent in the end."""
    async with staged(Limits(close_timeout=1, running=2, waiting=0)) as (page, stage, _proxy):
        calls = [await page.call("request") for _ in range(6)]
        await stage.notes.until("began", 2)
        await page.abort(calls[0])
        await stage.notes.until("began", 3)
        for done in range(1, 6):
            await stage.notes.until("began", min(6, done + 2))
            stage.release()
        assert [words(await call) for call in calls] == ["Abort unknown"] + ["ok"] * 5


CHANGED = """
for (const options of [{}, { timeout: 5000 }, { metadata: { a: "b" } }]) {
  const value = { n: [0] }
  const caller = client.with({ ...options, retry: true })
  if (isEvent) caller.emit("take", value)
  else caller.request("take", value).then(() => note("taken"), (error) => note(String(error)))
  await Promise.resolve()
  value.n.push(1)
}
"""


@pytest.mark.parametrize(("waits", "codec"), [("for a connection", "msgpack"), ("for room at the server", "json")])
async def test_what_waits_has_the_arguments_of_its_call(waits: str, codec: str) -> None:
    offline = waits == "for a connection"
    limits = Limits(close_timeout=1, running=10 if offline else 1, waiting=0)
    async with staged(limits, connected=not offline, codec=codec) as (page, stage, proxy):
        got: list[Any] = []
        stage.server.on("take", got.append)
        if not offline:
            await page.call("request")
            await stage.notes.until("began")
        for is_event in ("true", "false") if offline else ("false",):
            await page.run(f"const isEvent = {is_event}\n{CHANGED}")
        if offline:
            await page.do("go", at=proxy.url)
        stage.release()
        await page.notes.until("taken", 3)
        assert got == [{"n": [0]}] * (6 if offline else 3)


async def test_each_attempt_has_the_arguments_of_the_call() -> None:
    got: list[Any] = []

    async def fails_once(line: Any, message: dict[str, Any]) -> None:
        got.append(message["a"][1])
        answer = {"e": {"message": "no", "code": "wsrpc.overloaded"}, "_": 1} if len(got) <= 3 else {"d": None}
        await line.send(json.dumps({"i": message["i"], **answer}))

    async with scripted(fails_once, greets) as url, Page.start(url) as page:
        await page.notes.until("open")
        await page.run(f"const isEvent = false\n{CHANGED}")
        await page.notes.until("taken", 3)
        assert got == [{"n": [0]}] * 6


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_what_cannot_be_sent_is_refused_at_once(codec: str) -> None:
    """Without a connection, events were accepted, and threw later, where nobody could catch it: a process ended."""
    limits = Limits(close_timeout=1, message_bytes=10_000)
    async with staged(limits, connected=False, codec=codec) as (page, stage, proxy):

        async def refuses(large: str, *names: str) -> None:
            told = await page.run(f"""
            const circle = {{}}
            circle.self = circle
            const names = []
            for (const value of [{large} 1n{", circle, new Uint8Array(1)" if codec == "json" else ""}]) {{
              try {{ client.emit("event", value) }} catch ({{ name }}) {{ names.push(name) }}
              await client.request("sync", value).catch(({{ name }}) => names.push(name))
            }}
            client.emit("event", "x".repeat(5000)) // which nobody refuses
            return names
            """)
            assert told == [*names, *["TypeError"] * (6 if codec == "json" else 2)]

        await refuses("")
        await page.do("go", at=proxy.url)
        assert await page.do("ask", name="sync") == "synced"
        await refuses("'x'.repeat(10_000),", "Refused", "Refused")
        await stage.notes.until("began", 2)
        peer = stage.peer
        async with proxy.cut():
            await page.notes.until("detached")
            await refuses("'x'.repeat(10_000),", "Refused", "Refused")
        await stage.notes.until("began", 3)
        async with proxy.cut():
            await page.notes.until("detached", 2)
            await refuses("'x'.repeat(10_000),", "Refused", "Refused")
            await peer.close()  # so that it is sent in the next session
        await stage.notes.until("began", 4)
        assert await page.do("ask", name="sync") == "synced"


async def test_an_event_whose_handler_fails_is_reported() -> None:
    """It was thrown in a microtask, which ends a process of Node. `window.onerror` gets it in a page."""
    async with staged() as (page, stage, _proxy):
        await page.run("""
        client.on("breaks", () => { throw new Error("in a handler") })
        client.on("reads", async function () { return this.items() })
        """)
        await stage.peer.emit("breaks")
        await stage.peer.emit("reads")
        assert await stage.peer.request("values", 1) == 1
        await until(lambda: len(page.faults) == 2)
        first, second = page.faults
        assert first.startswith("console: Error: in a handler")
        assert second.startswith("console: TypeError: an event opens no channel")
        page.faults.clear()
        # A page has `reportError`.
        await page.run("globalThis.reportError = ({ message }) => note(message)")
        await stage.peer.emit("breaks")
        await page.notes.until("in a handler")


@pytest.mark.parametrize("plain", [False, True], ids=["session", "plain"])
async def test_events_are_refused_when_too_many_wait(plain: bool) -> None:
    """Without a session they were kept in the connection without end; then the connection was closed."""
    async with staged(plain=plain, options={"buffer": 1_000_000}) as (page, stage, proxy):
        counted = asyncio.Event()
        arrived: list[int] = []

        @stage.server.on("event")
        def event(number: int, _text: str) -> None:
            arrived.append(number)
            if len(arrived) == sent:
                counted.set()

        async with proxy.stall():
            sent, text = await page.run("""
            let sent = 0
            try {
              for (; sent < 20_000; sent++) {
                client.emit("event", sent, "x".repeat(20_000))
                await null
              }
            } catch (error) {
              return [sent, `${error.name} ${error.outcome}: ${error.message}`]
            }
            return [sent, ""]
            """)
            assert text == "Refused not_sent: 256 messages wait"
            assert sent < 5000  # the system's buffers have several MB
        await counted.wait()
        assert arrived == [*range(sent)]
        assert await page.run("return client.status.get()") == "open"


@pytest.mark.parametrize("where", ["session", "plain", "offline"])
async def test_calls_of_more_than_the_buffer_wait(where: str) -> None:
    """The session was lost with 4408, calls that were never sent said "unknown", and events that waited vanished."""
    arrived: list[int] = []
    all_arrived = asyncio.Event()
    server = Server(extensions=where != "plain")
    server.on("length", len)

    @server.on("event")
    def event(number: int, _text: str) -> None:
        arrived.append(number)
        if number == 29:
            all_arrived.set()

    async with server.listen() as listener, Page.start(listener.url, options={"buffer": 1_000_000}) as page:
        if where != "offline":
            await page.run("await client.request('length', 'x')")
        sizes = await page.run("""
        const text = "x".repeat(100_000)
        for (let number = 0; number < 30; number++) client.emit("event", number, text)
        return Promise.all([...Array(30)].map(() => client.request("length", text)))
        """)
        assert sizes == [100_000] * 30
        await all_arrived.wait()
        assert arrived == [*range(30)]


LONG = 400_000
"""Bytes of a message that a slow link takes half a second to pass."""
LONG_CALLS = {
    "up": f"return await client.request('length', 'x'.repeat({LONG}))",
    "down": f"return (await client.request('text', {LONG})).length",
}


@pytest.mark.parametrize(("direction", "codec"), [("up", "json"), ("down", "msgpack")])
async def test_after_a_drop_a_large_message_goes_on_where_it_was(direction: Literal["up", "down"], codec: str) -> None:
    """It began anew, so that it never arrived on a network that drops connections."""
    async with staged(codec=codec) as (page, stage, proxy):
        stage.server.on("length", len)
        stage.server.on("text", lambda size: "x" * size)

        def passed() -> int:
            return proxy.bytes_up if direction == "up" else proxy.bytes_down

        before = passed()
        async with proxy.slow(direction, rate=2 * LONG):
            call = asyncio.create_task(page.run(LONG_CALLS[direction]))
            await until(lambda: passed() - before > 0.75 * LONG)
            proxy.drop()
            assert await call == LONG
        assert passed() - before < 1.4 * LONG


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_messages_of_each_size_arrive_whole(codec: str) -> None:
    """Those above 32 KiB are cut, also between the bytes of a character, and also those that have waited."""
    async with staged(codec=codec) as (page, stage, proxy):
        lengths: list[int] = []

        @stage.server.on("echo")
        def echo(text: str) -> str:
            lengths.append(len(text))
            return text

        await page.run("""
        globalThis.wrong = async (...texts) => {
          const answers = await Promise.all(texts.map((text) => client.request("echo", text)))
          return texts.filter((text, k) => answers[k] !== text).length
        }
        globalThis.long = "x".repeat(100_000)
        """)
        for size in (2**15, 2**16):
            texts = f"Array.from({{ length: 60 }}, (_, k) => 'x'.repeat(k % 2) + 'é'.repeat(({size} - k) / 2))"
            assert await page.run(f"return await wrong(...{texts})") == 0
        async with proxy.cut():
            await page.notes.until("detached")
            await page.run("""
            globalThis.waiting = wrong(long, "short", long)
            const controller = new AbortController()
            const withdrawn = client.with({ signal: controller.signal }).request("echo", long + "withdrawn")
            controller.abort()
            await withdrawn.catch(() => {})
            """)
        assert await page.run("return await waiting") == 0
        assert await page.run("return await wrong(long)") == 0
        assert lengths[-4:] == [100_000, 5, 100_000, 100_000]


async def test_what_was_sent_before_the_welcome_is_kept_and_sent_again_in_parts() -> None:
    """It is counted from the first message on, although the page did not know yet whether the session can resume."""
    got: list[Any] = []
    asked: list[Any] = []

    async def control(line: Any, message: Any) -> None:
        if isinstance(message, bytes):
            got.append((message[:2], len(message)))
            if message[1]:
                await line.send(json.dumps({"i": asked[0]["i"], "d": "done"}))
            return
        told = json.loads(message)["wsrpc"]
        got.append(told["t"])
        if told["t"] == "resume":
            fields = {"t": "resumed", "rx": 0, "bytes": 0, "token": "u", "limits": {}}
            await line.send(json.dumps({"ws-wrapper": False, "wsrpc": fields}))

    async def receive(line: Any, message: Any) -> None:
        asked.append(message)
        fields = {"t": "welcome", "features": ["resume", "parts"], "limits": {}, "sid": "s", "token": "t", "ttl": 60}
        await line.send(json.dumps({"ws-wrapper": False, "wsrpc": fields}))
        await (await line.ping())  # answered when the page has read the welcome
        line.transport.abort()

    async with scripted(receive, control) as url, Page.start(url) as page:
        assert await page.run("return await client.request('keep', 'x'.repeat(40_000))") == "done"
    size = len(json.dumps(asked[0], separators=(",", ":")))
    part = b"\xc1\0", 2**14
    assert got[:5] == ["hello", "resume", part, part, (b"\xc1\1", size + 6 - 2**15)]


async def test_a_request_on_a_channel_with_options() -> None:
    async with staged() as (page, stage, _proxy):
        given_up = asyncio.Event()

        async def talk(channel: AnonymousChannel) -> None:
            async def hang() -> None:
                try:
                    await channel.emit("begun")
                    await asyncio.get_running_loop().create_future()
                finally:
                    given_up.set()

            channel.on("hang", hang)
            channel.on("twice", lambda number: 2 * number)
            await channel.wait_closed()

        stage.server.on("talk", talk)
        told = await page.run("""
        const channel = await client.open("talk")
        const controller = new AbortController()
        const call = channel.with(controller).request("hang")
        await new Promise((done) => channel.on("begun", done))
        controller.abort()
        const aborted = await call.catch((error) => error.name)
        const late = await channel.with({ timeout: 10 }).request("hang").catch((error) => error.name)
        const four = await channel.with({ timeout: 60_000 }).request("twice", 2)
        channel.close()
        return [aborted, late, four, await channel.closed ?? "closed"]
        """)
        assert told == ["AbortError", "RequestTimeout", 4, "closed"]
        await given_up.wait()


async def test_a_server_that_uses_an_id_twice() -> None:
    """The later channel took the place of the earlier one, whose end nobody learnt."""

    async def answer(line: Any, message: Any) -> None:
        if message.get("a") == ["open"]:
            i = message["i"]
            await line.send(json.dumps({"i": i, "a": ["conversation"]}))
            await line.send(json.dumps({"i": i, "h": 1}))
            await line.send(json.dumps({"i": i, "a": ["conversation"]}))
            await line.send(json.dumps({"i": i, "h": 1}))
            await line.send(json.dumps({"h": i, "a": ["line"]}))

    async with scripted(answer) as url, Page.start(url) as page:
        told = await page.run("""
        const channel = await client.open("open")
        await new Promise((done) => channel.on("line", done))
        client.close()
        return shown(await channel.closed)
        """)
        assert words(told) == "ConnectionLost 1000 unknown"
        assert await page.do("ignored") == {"duplicate id": 2, "response to no request": 1}


async def test_a_plain_server_that_cancels_a_request_whose_channel_is_on_its_way() -> None:
    """It has no such channel and says no more, so the channel stayed open in the page."""

    async def answer(line: Any, message: Any) -> None:
        if message.get("a") == ["begin"]:
            await line.send(json.dumps({"i": 2, "a": ["talk"]}))
        elif message == {"i": 2, "h": 1}:
            await line.send(json.dumps({"i": 2, "x": "enough"}))

    async with scripted(answer) as url, Page.start(url) as page, asyncio.timeout(60):
        told = await page.run("""
        const closed = new Promise((done) => client.on("talk", async function () { done(await this.channel().closed) }))
        client.emit("begin")
        return (await closed).value
        """)
        assert told == "enough"


async def test_a_server_with_too_many_requests_is_refused() -> None:
    """The page kept each of them, and the memory of its handler."""
    answers: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def answer(line: Any, message: Any) -> None:
        if message.get("a") != ["begin"]:
            answers.put_nowait(message)
            return
        for i in range(10_001):
            await line.send(json.dumps({"i": 2 * i + 2, "a": ["wait"]}))
        await line.send(json.dumps({"i": 2, "x": {"message": "enough"}, "_": 1}))
        await line.send(json.dumps({"i": 30_000, "a": ["wait"]}))
        await line.send(json.dumps({"i": 30_000, "x": {"message": "enough"}, "_": 1}))

    async with scripted(answer) as url, Page.start(url) as page, asyncio.timeout(60):
        await page.run("client.on('wait', () => new Promise(() => {})); client.emit('begin')")
        refused = {"message": "the page handles 10000 requests already", "code": "wsrpc.overloaded"}
        assert await answers.get() == {"i": 20_002, "e": refused, "_": 1}
        # One that ends makes room for another one.
        for i in (2, 30_000):
            told = await answers.get()
            assert (told["i"], told["e"]["message"]) == (i, "enough")


async def test_a_channel_that_nobody_listens_on_keeps_a_bounded_amount() -> None:
    """It kept whatever a server sent."""
    async with staged() as (page, stage, _proxy):

        async def talk(channel: AnonymousChannel) -> None:
            try:
                while True:
                    await channel.emit("line", "x" * 10_000)
            finally:
                stage.notes.add(f"ended: {channel.close_reason}")

        stage.server.on("talk", talk)
        told = await page.run("const channel = await client.open('talk'); return shown(await channel.closed)")
        assert words(told) == "ChannelClosed ran"
        await stage.notes.until("ended: nothing reads the channel")


@pytest.mark.parametrize("kind", ["stream", "conversation"])
async def test_small_messages_above_the_window_count_for_more_than_their_text(kind: str) -> None:
    """Millions of items were kept. The reader gets those that were kept, and then the error."""

    async def flood(line: Any, message: Any) -> None:
        if message.get("a") == [kind]:
            await line.send(json.dumps({"i": message["i"], "h": 1}))
        if message.get("a") == ["start"]:
            await line.send(json.dumps({"h": message["h"], "a": ["next", [0] * 100_000]}))
        elif kind == "conversation":
            for _ in range(20_000):
                await line.send(json.dumps({"h": message["i"], "a": ["line"]}))

    async with scripted(flood) as url, Page.start(url) as page:
        told = await page.run(
            """
            let items = 0
            try {
              for await (const item of client.stream("stream")) items++
            } catch (error) {
              return [error.name, items]
            }
            """
            if kind == "stream"
            else "return [(await (await client.open('conversation')).closed).name, 0]"
        )
        assert (told[0], told[1] <= 25_000) == ("ChannelClosed", True)


async def test_the_result_of_an_upload_has_a_time_limit() -> None:
    """Only its begin had one."""
    async with staged() as (page, stage, _proxy):

        async def swallow(items: AsyncIterator[int]) -> None:
            async for _ in items:
                pass
            await asyncio.get_running_loop().create_future()

        stage.server.on("swallow", swallow)
        assert words(await (await page.call("upload", name="swallow", timeout=200))) == "RequestTimeout unknown"
        assert await page.do("ask", name="sync") == "synced"
        assert await page.do("ignored") == {}


async def test_the_server_knows_the_program_of_a_page_and_the_page_the_contract_of_the_server() -> None:
    server = Server(program="center/1.0")
    server.on("sync", lambda: "synced")
    async with server.listen() as listener, Page.start(listener.url, options={"program": "board/2.3.0"}) as page:
        assert await page.do("ask", name="sync") == "synced"
        assert (server.peers[0].program, server.peers[0].contract) == ("board/2.3.0", None)
        assert await page.do("contract") == describe(server).fingerprint
        server.on("other", lambda: None)
        await server.peers[0].close(1012)  # a new session
        await until(lambda: len(server.peers) == 1 and server.peers[0].connected)
        assert await page.do("ask", name="sync") == "synced"
        assert await page.do("contract") == describe(server).fingerprint
