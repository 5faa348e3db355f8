"""Metadata, deadlines and outgoing middleware of a page's client."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from programs import ROOT
from waiting import until

from interop.node import JS, find_node
from interop.page_client import Page, scripted, welcome, words
from interop.test_typescript import output_of
from wsrpc import AnonymousChannel, Context, Overloaded, Server
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

TENANT = {"tenant": "acme"}


def seen(ctx: Context) -> list[Any]:
    return [dict(ctx.metadata), ctx.remaining and round(ctx.remaining)]


def showing(server: Server, told: list[Any]) -> None:
    """Register a handler of each kind, which notes what has come with its call."""

    @server.on("request")
    async def request(ctx: Context) -> None:
        told.append(seen(ctx))

    @server.on("stream")
    async def stream(ctx: Context) -> AsyncIterator[int]:
        told.append(seen(ctx))
        yield 1

    @server.on("upload")
    async def upload(items: AsyncIterator[int], ctx: Context) -> int:
        told.append(seen(ctx))
        return sum([item async for item in items])

    @server.on("conversation")
    async def conversation(channel: AnonymousChannel, ctx: Context) -> None:
        told.append(seen(ctx))
        channel.on("ask", request)
        await channel.wait_closed()


EACH_KIND = """
for await (const item of caller.stream("stream")) if (item !== 1) throw item
if (await caller.upload("upload", [1, 2]) !== 3) throw "upload"
const channel = await caller.open("conversation")
await channel.with(options).request("ask")
channel.close()
caller.emit("request")
await caller.request("request")
"""


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_metadata_and_the_remaining_time_arrive_with_each_kind_of_call(codec: str) -> None:
    server = Server()
    told: list[Any] = []
    showing(server, told)
    async with server.listen() as listener, Page.start(listener.url, codec=codec) as page:
        options = f"const options = {{ metadata: {json.dumps(TENANT)}, timeout: 5000 }}\n"
        await page.run(options + "const caller = client.with(options)\n" + EACH_KIND)
        limited, unlimited = [TENANT, 5], [TENANT, None]  # it ends when the channel has opened, and an event has none
        assert told == [unlimited, unlimited, unlimited, limited, unlimited, limited]
        told.clear()
        await page.run("const options = {}, caller = client.with({ timeout: 0 })\n" + EACH_KIND)
        assert told == [[{}, None]] * 6


async def test_a_handler_of_the_page_has_what_the_server_has_sent_and_can_pass_it_on() -> None:
    server = Server()
    server.on("seen", seen)
    async with server.listen() as listener, Page.start(listener.url) as page:
        await page.run("""
        client.on("show", function () {
          note(JSON.stringify([this.metadata, Math.round(this.remaining / 1000)]))
        })
        client.on("pass on", function () {
          const { signal, metadata, remaining } = this
          return client.with({ signal, metadata, timeout: remaining }).request("seen")
        })
        await client.request("seen")
        """)
        [peer] = server.peers
        await peer.request("show", metadata=TENANT, timeout=5)
        await page.notes.until('[{"tenant":"acme"},5]')
        await peer.emit("show", metadata=TENANT)
        await page.notes.until('[{"tenant":"acme"},null]')
        await peer.request("show")
        await page.notes.until("[{},null]")
        assert await peer.request("pass on", metadata=TENANT, timeout=5) == [TENANT, 5]
        assert await peer.request("pass on") == [{}, None]


async def test_the_remaining_time_is_that_of_the_moment_in_which_the_message_is_sent() -> None:
    server = Server()

    @server.on("left")
    def left(ctx: Context) -> float:
        assert ctx.remaining is not None
        return 1000 * ctx.remaining

    async with server.listen() as listener, FaultProxy(listener.url) as proxy, Page.start(proxy.url) as page:
        await page.notes.until("open")
        assert await page.run("return client.with({ timeout: 60_000 }).request('left')") is not None
        [peer] = server.peers
        async with proxy.cut():
            await page.notes.until("detached")
            await until(lambda: not peer.connected)
            began = time.monotonic()
            call = await page.call("request", name="left", timeout=60_000)
        assert 0 < 60_000 - (await call)["ok"] <= 1000 * (time.monotonic() - began)


# ---------------------------------------------------------------- before the welcome


CLOCK = """
const [time, date] = [performance.now(), Date.now()]
let passed = 0
performance.now = () => time + passed
Date.now = () => date + passed
client.on("advance", (ms) => { passed += ms })
const failed = (error) => note(`${error.name} ${error.outcome}`)
"""
"""The time of the page passes only when the server says so."""


class Quiet:
    """A server that says only what the test says, and a page that has calls for it before it connects."""

    def __init__(self) -> None:
        self.arrived: list[Any] = []
        """The events and requests: their names, arguments, ids, and what travels with them."""
        self.lines: list[Any] = []

    async def receive(self, line: Any, message: Any) -> None:
        name, *args = message["a"]
        self.arrived.append([name, args, message.get("i"), message.get("ctx")])

    async def control(self, line: Any, message: Any) -> None:
        if isinstance(message, bytes):
            await self.receive(line, msgspec.msgpack.decode(message))
        else:
            self.lines.append(line)

    @classmethod
    @asynccontextmanager
    async def start(cls, code: str, **options: Any) -> AsyncGenerator[tuple[Quiet, Page]]:
        quiet = cls()
        async with scripted(quiet.receive, quiet.control) as url:
            async with Page.start("ws://127.0.0.1:1", **options) as page:  # where nobody listens
                await page.run(CLOCK + code)
                await page.do("go", at=url)
                await until(lambda: quiet.lines)
                yield quiet, page

    async def say(self, first: str, *features: str, **limits: Any) -> None:
        """Send the message that ends the wait for the welcome, or does not."""
        if first == "welcome":
            await self.lines[0].send(welcome(*features, **limits))
        elif first == "answer":
            [i] = [i for name, _, i, _ in self.arrived if name == "asks"]
            await self.lines[0].send(json.dumps({"i": i, "d": 1}))
        else:
            await self.lines[0].send('{"a":["unknown"]}')

    async def advance(self, seconds: float) -> None:
        await self.lines[0].send(json.dumps({"a": ["advance", 1000 * seconds]}))

    async def until(self, *names: str) -> None:
        await until(lambda: len(self.arrived) >= len(names))
        assert [name for name, *_ in self.arrived] == [*names]


@pytest.mark.parametrize("first", ["welcome", "old wsrpc", "answer", "event"])
async def test_metadata_and_the_remaining_time_leave_before_the_welcome(first: str) -> None:
    code = """
    const caller = client.with({ metadata: { tenant: "acme" }, timeout: 60_000 })
    caller.request("asks").catch(() => {})
    client.status.subscribe((state) => { if (state === "open") caller.emit("subscriber") })
    client.on("now", () => caller.emit("late"))
    """
    async with Quiet.start(code) as (quiet, _):
        await quiet.until("subscriber", "asks")
        contexts = [ctx for *_, ctx in quiet.arrived]
        assert contexts == [{"metadata": TENANT}, {"metadata": TENANT, "remaining_ms": 60_000}]
        await quiet.advance(30)
        await quiet.say(*{"welcome": ["welcome", "context"], "old wsrpc": ["welcome"]}.get(first, [first]))
        await quiet.lines[0].send('{"a":["now"]}')
        await quiet.until("subscriber", "asks", "late")
        assert quiet.arrived[2][3] == ({"metadata": TENANT} if first in ("welcome", "event") else None)


@pytest.mark.parametrize("first", ["welcome", "answer", "event"])
async def test_a_call_with_a_key_waits_for_the_welcome_and_others_do_not(first: str) -> None:
    code = """
    const caller = client.with({ key: "k" })
    caller.request("queued").then(note, failed)
    client.status.subscribe((state) => {
      if (state !== "open") return
      client.request("asks").catch(() => {})
      caller.request("pays").then(note, failed)
      client.emit("event")
    })
    client.on("now", () => client.emit("later"))
    """
    async with Quiet.start(code) as (quiet, page):
        await quiet.until("asks", "event")
        await quiet.advance(9)
        await quiet.say("event")
        await quiet.lines[0].send('{"a":["now"]}')
        await quiet.until("asks", "event", "later")
        if first == "event":
            await quiet.advance(1.5)
        else:
            await quiet.say(first, "context")
        if first == "welcome":
            await quiet.until("asks", "event", "later", "pays", "queued")
            for _, _, i, ctx in quiet.arrived[3:]:
                assert ctx == {"key": "k"}
                await quiet.lines[0].send(json.dumps({"i": i, "d": "paid"}))
            await page.notes.until("paid", 2)
        else:
            await page.notes.until("Refused not_sent", 2)
            await quiet.until("asks", "event", "later")


VALUES = {"json": "'x'.repeat(70_000)", "msgpack": "new Uint8Array(50_000)"}


@pytest.mark.parametrize("first", ["welcome", "answer", "nothing", "limit"])
async def test_a_large_message_waits_for_the_welcome_and_later_ones_behind_it(first: str) -> None:
    codec = "msgpack" if first in ("welcome", "answer") else "json"
    code = f"""
    const value = [{VALUES[codec]}]
    client.status.subscribe((state) => {{
      if (state !== "open") return
      client.request("asks").catch(() => {{}})
      client.request("large", value).catch(failed)
      value.push("later") // what waits has the arguments of its call
      client.emit("last")
    }})
    """
    async with Quiet.start(code, codec=codec) as (quiet, page):
        await quiet.until("asks")
        await quiet.advance(1.9)
        await quiet.say("event")
        await quiet.until("asks")
        if first == "nothing":
            await quiet.advance(0.2)
        else:
            limits = {"message": 40_000} if first == "limit" else {}
            await quiet.say("answer" if first == "answer" else "welcome", codec, **limits)
        if first == "limit":
            await page.notes.until("Refused not_sent")
            await quiet.until("asks", "last")
        else:
            await quiet.until("asks", "large", "last")
            [[value]] = quiet.arrived[1][1]
            assert len(value) == (70_000 if codec == "json" else 50_000 if first == "welcome" else 66_668)


# ---------------------------------------------------------------- bounds

WRONG = """
{ "": "a" }, { "a b": "c" }, { "a\\n": "c" }, { "é": "c" }, { ["a".repeat(65)]: "c" }, { a: 1 }, { a: null },
{ a: "x".repeat(4096) }, { a: "é".repeat(2048) }, Object.fromEntries([...Array(33).keys()].map((n) => [n, ""]))
"""
LARGEST = """
{ [`!${"~".repeat(63)}`]: "x".repeat(4032) }, Object.fromEntries([...Array(32).keys()].map((n) => [n, ""]))
"""


async def test_wrong_metadata_is_refused_and_nothing_is_sent() -> None:
    server = Server()
    told: list[Any] = []

    @server.on("show")
    def show(ctx: Context) -> None:
        told.append(ctx.metadata)

    async with server.listen() as listener, Page.start(listener.url) as page:
        refused = await page.run(f"""
        const errors = []
        for (const metadata of [{WRONG}]) {{
          const caller = client.with({{ metadata }})
          const shown = (error) => errors.push(String(error))
          for (const call of ["request", "open", "upload"]) await caller[call]("show").catch(shown)
          await caller.stream("show").next().catch(shown)
          try {{ caller.emit("show") }} catch (error) {{ shown(error) }}
        }}
        return errors
        """)
        assert refused == ["TypeError: wrong context: 32 texts, 4096 bytes, ASCII names"] * 50
        await page.run(f"for (const metadata of [{LARGEST}]) await client.with({{ metadata }}).request('show')")
        assert [len(metadata) for metadata in told] == [1, 32]


HOSTILE: list[Any] = [
    *({"metadata": wrong} for wrong in (7, None, "ab", [], ["a"], {"a": 1}, {"a b": ""}, {"a": "x" * 5000})),
    {"metadata": {str(n): "" for n in range(33)}},
    {"key": "k"},
    *({"remaining_ms": wrong} for wrong in (-1, 1.5, 2**31, 2**53, True, "1", None)),
]


async def test_a_hostile_server_gets_a_reason_and_no_handler_runs() -> None:
    answers: list[Any] = []
    lines: list[Any] = []

    async def receive(line: Any, message: Any) -> None:
        answers.append(message)

    async def control(line: Any, message: Any) -> None:
        lines.append(line)

    async with scripted(receive, control) as url, Page.start(url) as page:
        await until(lambda: lines)
        await lines[0].send(welcome("context"))
        for i, ctx in enumerate(HOSTILE):
            await lines[0].send(json.dumps({"i": 2 * i + 2, "a": ["event"], "ctx": ctx}))
            await lines[0].send(json.dumps({"a": ["event"], "ctx": ctx}))
        await lines[0].send(json.dumps({"i": 100, "a": ["event"], "ctx": {"remaining_ms": 0}}))
        valid = {"color": [1], "metadata": TENANT, "remaining_ms": 2**31 - 1}
        await lines[0].send(json.dumps({"i": 102, "a": ["values", 7], "ctx": valid}))
        await until(lambda: len(answers) == len(HOSTILE) + 2)
        *refused, expired, answer = answers
        codes = [refusal["e"]["code"] for refusal in refused]
        assert codes == ["wsrpc.bad_arguments"] * len(HOSTILE) and "wrong context" in refused[0]["e"]["message"]
        assert expired["e"]["code"] == Overloaded.code and answer == {"i": 102, "d": 7}
        wanted = {"wrong arguments": len(HOSTILE), "expired before its handler began": 1}
        assert await page.do("ignored") == wanted and "began" not in page.notes.all


# ---------------------------------------------------------------- outgoing middleware


async def test_middleware_runs_once_around_each_call_and_changes_its_metadata() -> None:
    server = Server()
    told: list[Any] = []
    showing(server, told)
    async with server.listen() as listener, Page.start(listener.url) as page:
        await page.run(
            """
            const remove = client.useOutgoing(async (call, next) => {
              note(`outer ${call.kind} ${call.event} ${call.channel ?? ""}`.trim())
              call.metadata.trace = call.kind
              return next()
            })
            client.useOutgoing((call, next) => {
              note(`inner ${call.metadata.tenant} ${call.metadata.trace}`)
              return next()
            })
            const options = {}, caller = client.with({ metadata: { tenant: "acme" } })
            """
            + EACH_KIND
            + "caller.of('nowhere').emit('event')\nremove()\nawait client.request('request')"
        )
        kinds = ["stream", "upload", "conversation", "event", "request"]
        events = {"event": "request"}
        assert [note for note in page.notes.all if note.startswith(("outer", "inner"))] == [
            *(note for kind in kinds for note in (f"outer {kind} {events.get(kind, kind)}", f"inner acme {kind}")),
            "outer event event nowhere",
            "inner acme event",
            "inner undefined undefined",
        ]
        traces = [TENANT | {"trace": kind} for kind in kinds]
        assert [metadata for metadata, _ in told] == [*traces[:3], {}, *traces[3:], {}]


async def test_middleware_replaces_results_and_refuses_and_encloses_all_attempts() -> None:
    attempts: list[int] = []

    async def receive(line: Any, message: Any) -> None:
        attempts.append(message["i"])
        busy = {"e": {"message": "later", "code": Overloaded.code}, "_": 1}
        await line.send(json.dumps({"i": message["i"], **({"d": "done"} if len(attempts) > 2 else busy)}))

    async with scripted(receive) as url, Page.start(url) as page:
        await page.run("""
        client.useOutgoing((call, next) => {
          if (call.event === "no") throw new RangeError("refused")
          if (call.event === "cached") return "from the cache"
          return next()
        })
        client.useOutgoing(async (call, next) => {
          const result = await next()
          return `${result}, after ${call.event}`
        })
        """)
        told = await (await page.call("request", name="busy", retry=True))
        assert (told["ok"], len(attempts)) == ("done, after busy", 3)
        assert await page.do("ask", name="cached") == "from the cache"
        for kind in ("request", "event", "upload", "conversation", "stream"):
            assert words(await (await page.call(kind, name="no"))) == "Range"
        # What an async function throws for an event is reported, because `emit` has returned.
        await page.run("client.useOutgoing(async () => { throw new Error('too late') })\nclient.emit('busy')")
        await until(lambda: page.faults)
        [fault] = page.faults
        assert fault.startswith("console: Error: too late") and len(attempts) == 3
        page.faults.clear()


# ---------------------------------------------------------------- the guide's module for OpenTelemetry

TRACED = """
import { context, propagation, trace } from "@opentelemetry/api"
import { W3CTraceContextPropagator } from "@opentelemetry/core"
import { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } from "@opentelemetry/sdk-trace-base"
import { WebSocket } from "ws"
import { Client } from "./client.js"
import { traceCalls } from "./tracing.js"

const exporter = new InMemorySpanExporter()
trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(exporter)] }))
propagation.setGlobalPropagator(new W3CTraceContextPropagator())
const client = new Client(process.argv[2], { WebSocket })
traceCalls(client)
const results = []
CALLS
const spans = exporter.getFinishedSpans().map((span) => {
  const { traceId, spanId } = span.spanContext()
  return [span.name, span.kind, span.status.code, `00-${traceId}-${spanId}-01`]
})
console.log(JSON.stringify({ results, spans }))
client.close()
"""


async def traced(folder: Path, url: str, calls: str) -> tuple[list[Any], list[Any]]:
    """Let a page make calls with the module that the guide names. Return their results, and the spans of the page."""
    guide = (ROOT / "docs" / "how-to" / "observability.md").read_text("utf-8")
    [module] = re.findall(r"\[tracing\.js\]\(\.\./\.\./(.+?)\)", guide)
    (folder / "tracing.js").write_text((ROOT / module).read_text("utf-8"), "utf-8")
    (folder / "program.js").write_text(TRACED.replace("CALLS", calls), "utf-8")
    (folder / "package.json").write_text('{"type": "module"}', "utf-8")
    (folder / "client.js").symlink_to(ROOT / "wsrpc" / "browser" / "client.js")
    (folder / "node_modules").symlink_to(JS / "node_modules")
    told = json.loads(await output_of(find_node(), "program.js", url, folder=folder))
    return told["results"], told["spans"]


async def test_the_module_of_the_guide_traces_calls(tmp_path: Path) -> None:
    server = Server()

    @server.on("parent")
    def parent(ctx: Context) -> str:
        return ctx.metadata["traceparent"]

    @server.on("parents")
    async def parents(ctx: Context) -> AsyncIterator[str]:
        yield ctx.metadata["traceparent"]

    calls = """
    results.push(await client.request("parent"))
    for await (const parent of client.stream("parents")) results.push(parent)
    await client.request("nobody").catch(() => results.push(null))
    client.emit("parent")
    """
    async with server.listen() as listener:
        found, spans = await traced(tmp_path, listener.url, calls)
    assert [span[:3] for span in spans] == [["parent", 2, 0], ["parents", 2, 0], ["nobody", 2, 2]]
    assert found == [*(span[3] for span in spans[:2]), None] and found[0] != found[1]
