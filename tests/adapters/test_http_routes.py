"""Calls, runs and rooms as URLs, for programs that speak only HTTP. docs/how-to/http.md shows them with curl and Go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, NamedTuple

import aiohttp
import pytest
from aiohttp import web
from asgi_servers import hypercorn_serving, uvicorn_serving
from hosts import running
from leftovers import turns_until
from starlette.applications import Starlette
from starlette.routing import Mount

from wsrpc import CallNext, Context, Handshake, Keep, Limits, Peer, RpcError, Server
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.codecs import MsgpackCodec
from wsrpc.store import MemoryStore
from wsrpc.testing import connect
from wsrpc_adapters import _http_routes
from wsrpc_adapters import aiohttp as on_aiohttp
from wsrpc_adapters.asgi import lifespan, routes

ADA = {"Authorization": "Bearer ada"}
JSON = {"Content-Type": "application/json"}
FOREIGN = {"Origin": "https://evil.example"}
SERVED: dict[str, Any] = {
    "calls": ["add", "files:size", "refuse", "fail", "context", "charge", "count", "bytes"],
    "runs": ["count", "count/s", "charge", "shared", "forever", "drip"],
    "rooms": ["lobby", "public-*"],
}


class Application:
    """A server, and what its handlers have seen."""

    def __init__(self, **options: Any) -> None:
        self.server = server = Server(origins=["https://page.example"], **options)
        self.released = asyncio.Event()
        self.seen: list[str] = []
        self.address: str | None = None
        for function in (self.add, self.refuse, self.fail, self.context, self.wait, self.bytes):
            server.on(function.__name__, function)
        server.of("files").on("size", len)
        for kept in (self.charge, self.count, self.forever, self.drip):
            server.on(kept.__name__, kept, keep=600)
        server.on("count/s", self.below, keep=600)
        server.on("shared", self.shared, keep=Keep(600, scope=lambda peer, name: name))
        server.on_handshake(self.log_in)
        server.on_join(lambda peer, name: name != "public-closed")
        self.lobby = server.room("lobby", keep=600, allow=lambda peer: True)
        server.on("close", lambda peer: self.seen.append("closed"))

    def log_in(self, handshake: Handshake) -> None:
        handshake.principal, handshake.address = handshake.bearer_token, self.address
        if handshake.bearer_token == "nobody":
            handshake.reject(401, "who are you?", {"WWW-Authenticate": "Bearer"})

    def add(self, a: int, b: int = 1) -> int:
        return a + b

    def refuse(self, code: str) -> None:
        raise RpcError("no", code=code, data={"why": 1}, fields={"more": 2})

    def fail(self) -> None:
        raise ZeroDivisionError("secret")

    def context(self, ctx: Context) -> Any:
        return [dict(ctx.metadata), ctx.remaining, ctx.key, ctx.peer.info.path]

    def bytes(self) -> Any:
        return [b"\0\1", float("nan")]

    async def wait(self) -> None:
        try:
            await self.released.wait()
        except asyncio.CancelledError:
            self.seen.append("cancelled")
            raise

    async def charge(self, amount: int = 1) -> str:
        if amount < 0:
            raise RpcError("too little", code="conflict")
        self.seen.append(f"charged {amount}")
        if amount > 100:
            await self.released.wait()
        return f"receipt {amount}"

    async def count(self, last: int, pause_after: int = 0) -> AsyncIterator[int]:
        for number in range(1, last + 1):
            yield number
            if number == pause_after:
                await self.released.wait()

    async def below(self, last: int) -> AsyncIterator[str]:
        yield "below"

    async def shared(self, name: str) -> AsyncIterator[str]:
        yield name

    async def forever(self) -> AsyncIterator[str]:
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0)
        finally:
            self.seen.append("stopped")

    async def drip(self) -> AsyncIterator[int]:
        for number in range(10_000):
            yield number
            await asyncio.sleep(0.005)


class Answer(NamedTuple):
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Browser:
    """Makes requests below the URL of the routes."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self.session, self.url = session, url

    async def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        sent = body if body is None or isinstance(body, (str, bytes, AsyncIterator)) else json.dumps(body)
        kind = {} if body is None else JSON
        async with self.session.request(method, self.url + path, data=sent, headers={**kind, **(headers or {})}) as got:
            return Answer(got.status, got.headers, await got.text())

    @asynccontextmanager
    async def events(
        self, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> AsyncGenerator[AsyncIterator[dict[str, str]]]:
        """The server-sent events of a response, as they arrive."""
        async with self.session.request(
            options.pop("method", "GET"), self.url + path, headers=headers, **options
        ) as got:
            assert (got.status, got.content_type) == (200, "text/event-stream"), await got.text()
            yield events_of(got)


async def events_of(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    event: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name in ("id", "event", "data"):
            event[name] = value
        elif not name and event:
            yield event
            event = {}


@asynccontextmanager
async def serving(host: str = "uvicorn", **options: Any) -> AsyncGenerator[tuple[Application, Browser]]:
    app = Application(**options)
    served = {**SERVED, "calls": [*SERVED["calls"], "wait"]}
    async with AsyncExitStack() as stack:
        if host == "aiohttp":
            outer = web.Application()
            outer.add_subapp("/api/", on_aiohttp.routes(app.server, **served))
            outer.on_shutdown.append(lambda _: app.server.close())
            url = (await stack.enter_async_context(running(outer))).replace("ws://", "http://").removesuffix("/ws")
        else:
            run = {"uvicorn": uvicorn_serving, "hypercorn": hypercorn_serving}[host]
            mounted = Mount("/api", routes(app.server, **served))
            starlette = Starlette(routes=[mounted], lifespan=lifespan(app.server))
            url = f"http://127.0.0.1:{await stack.enter_async_context(run(starlette))}"
        session = await stack.enter_async_context(aiohttp.ClientSession())
        yield app, Browser(session, f"{url}/api")
        app.released.set()
        await turns_until(lambda: not app.server.peers)


hosts = pytest.mark.parametrize("host", ["uvicorn", "hypercorn", "aiohttp"])

# ---------------------------------------------------------------- what is answered

Row = tuple[str, str, Any, dict[str, str], int, Any]

ANSWERS: dict[str, Row] = {
    "arguments": ("POST", "/call/add", [2, 3], {}, 200, 5),
    "the only argument": ("POST", "/call/add", 2, {}, 200, 3),
    "no argument": ("POST", "/call/bytes", None, {}, 200, ["AAE=", None]),
    "an event of a channel": ("POST", "/call/files:size", ["abc"], {}, 200, 3),
    "arguments that do not fit": ("POST", "/call/add", ["x"], {}, 400, "wsrpc.bad_arguments"),
    "no JSON": ("POST", "/call/add", "[1,", {}, 400, "wsrpc.bad_arguments"),
    "no text": ("POST", "/call/add", b'["\xff"]', {}, 400, "wsrpc.bad_arguments"),
    "too deep": ("POST", "/call/add", "[" * 2000 + "]" * 2000, {}, 400, "wsrpc.bad_arguments"),
    "too many values": ("POST", "/call/add", "[" + "[]," * 2000 + "1]", {}, 400, "wsrpc.bad_arguments"),
    "too large": ("POST", "/call/add", ["x" * 20_000], {}, 413, "a request of the client has more than"),
    "a form": ("POST", "/call/add", b"a=1", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "arguments"),
    "a form of plain text": ("POST", "/call/add", b"[1]", {"Content-Type": "text/plain"}, 415, "arguments"),
    "an error without a status": ("POST", "/call/refuse", ["own"], {}, 400, "own"),
    "an error with a status": ("POST", "/call/refuse", ["not_found"], {}, 404, "not_found"),
    "too many requests, by gRPC": ("POST", "/call/refuse", ["resource_exhausted"], {}, 429, "resource_exhausted"),
    "an error of gRPC": ("POST", "/call/refuse", ["permission_denied"], {}, 403, "permission_denied"),
    "an error that is no error": ("POST", "/call/refuse", ["ok"], {}, 400, "ok"),
    "a failure": ("POST", "/call/fail", None, {}, 500, "wsrpc.internal"),
    "a deadline": ("POST", "/call/wait", None, {"wsrpc-timeout": "0.05"}, 504, "wsrpc.request_timeout"),
    "a deadline that is no number": ("POST", "/call/add", [1], {"wsrpc-timeout": "nan"}, 400, "wsrpc.bad_arguments"),
    "a stream": ("POST", "/call/count", [1], {}, 400, "wsrpc.unexpected_channel"),
    "an event that is not served": ("POST", "/call/other", [], {}, 404, "routes() does not serve this path"),
    "an event that is no call": ("POST", "/call/forever", [], {}, 404, "routes() does not serve this path"),
    "a path that is not served": ("GET", "/", None, {}, 404, "routes() does not serve this path"),
    "another method": ("GET", "/call/add", None, {}, 405, "this URL has POST"),
    "a page of another site": ("POST", "/call/add", [1], FOREIGN, 403, "this origin is not allowed"),
    "an image of another site": ("GET", "/rooms/lobby?wait=0", None, {"Sec-Fetch-Site": "cross-site"}, 403, "a GET"),
    "a refusal": ("POST", "/call/add", [1], {"Authorization": "Bearer nobody"}, 401, "who are you?"),
    "a run of nobody": ("POST", "/runs/count/k", [1], {}, 403, "a key needs a principal"),
    "a run of others": ("GET", "/runs/count/k?wait=0", None, {"Authorization": "Bearer bob"}, 404, "wsrpc.items_gone"),
    "a run that nobody has started": ("GET", "/runs/count/other", None, ADA, 404, "wsrpc.items_gone"),
    "a run that nobody can stop": ("DELETE", "/runs/count/other", None, ADA, 404, "wsrpc.items_gone"),
    "a run with other arguments": ("POST", "/runs/count/k", [4], ADA, 422, "wsrpc.key_reused"),
    "a run that is refused": ("POST", "/runs/count/k2", ["x"], ADA, 400, "wsrpc.bad_arguments"),
    "a position of another run": ("GET", "/runs/count/k?after=1-abc", None, ADA, 410, "wsrpc.items_gone"),
    "no position": ("GET", "/runs/count/k?after=x", None, ADA, 400, "wsrpc.bad_arguments"),
    "a key that is too long": ("GET", f"/runs/count/{'k' * 200}", None, ADA, 400, "wsrpc.bad_arguments"),
    "a key of a call": ("POST", "/call/charge", [5], {**ADA, "Idempotency-Key": '"o"'}, 200, "receipt 5"),
    "a key of a call without keep=": (
        "POST",
        "/call/add",
        [5],
        {**ADA, "Idempotency-Key": "o"},
        400,
        "wsrpc.bad_arguments",
    ),
    "a run with a scope": ("POST", "/runs/shared/s?wait=9", ["x"], {}, 200, {"state": "ended", "items": ["x"]}),
    "a run with a scope, no arguments": ("GET", "/runs/shared/s?wait=9", None, {}, 400, "wsrpc.bad_arguments"),
    "a room that is not served": ("GET", "/rooms/private", None, {}, 404, "routes() does not serve this path"),
    "a room that may not be read": ("GET", "/rooms/public-closed?wait=0", None, {}, 403, "not allowed"),
    "a number of events that is not valid": ("GET", "/rooms/lobby?last=-1", None, {}, 400, "wsrpc.bad_arguments"),
    "the end was read": ("GET", "/runs/count/k", None, {**ADA, "Last-Event-ID": "end"}, 204, ""),
    "a body that uvicorn loses": (
        "POST",
        "/call/add",
        [1],
        {"Connection": "Upgrade", "Upgrade": "h2c"},
        400,
        "the body",
    ),
    "a key of a run in a header": (
        "POST",
        "/runs/count/k",
        [3],
        {**ADA, "Idempotency-Key": "o"},
        400,
        "wsrpc.bad_argum",
    ),
    "a run without a key": ("POST", "/runs/count", [3], ADA, 404, "the URL of a run ends with its key"),
    "an empty key": ("POST", "/call/charge", [5], {**ADA, "Idempotency-Key": '""'}, 400, "wsrpc.bad_arguments"),
    "nested as deep as no message": ("POST", "/call/add", "[" * 700 + "]" * 700, {}, 400, "wsrpc.bad_arguments"),
    "a room without a name": ("GET", "/rooms/", None, {}, 404, "routes() does not serve this path"),
    "a run below another one": ("POST", "/runs/count/s/k?wait=9", [2], ADA, 200, {"items": ["below"]}),
    "a POST with a position": ("POST", "/runs/count/new?after=1", [2], ADA, 404, "wsrpc.items_gone"),
    "a POST with other arguments": ("POST", "/runs/count/k", [], ADA, 400, "wsrpc.bad_arguments"),
    "no arguments where there were some": ("POST", "/runs/charge/k", [], ADA, 422, "wsrpc.key_reused"),
    "a preflight request": ("OPTIONS", "/call/add", None, {"Origin": "https://page.example"}, 204, ""),
}
"""Method, path, body, headers, the status, and the result, the code of the error, or how the text begins."""


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_is_answered(case: str) -> None:
    method, path, body, headers, status, expected = ANSWERS[case]
    async with serving(limits=Limits(message_bytes=16_384, values=1000)) as (_, browser):
        started = await browser.ask("POST", "/runs/count/k?wait=9", [3], ADA)
        assert (started.status, started.json["items"]) == (200, [1, 2, 3])
        assert (await browser.ask("POST", "/runs/charge/k", [3], ADA)).json["items"] == ["receipt 3"]
        answer = await browser.ask(method, path, body, headers)
        assert answer.status == status, answer.text
        if status == 405:
            assert answer.headers["Allow"] == "POST"
        if isinstance(expected, dict):
            assert expected.items() <= answer.json.items()
        elif answer.headers.get("Content-Type", "") != "application/json":
            assert answer.text.startswith(expected)
        elif status >= 400:
            error = answer.json["error"]
            assert (error.get("code") or error["message"]).startswith(expected) and "secret" not in answer.text
        else:
            assert answer.json == expected


async def test_an_error_has_all_its_fields() -> None:
    async with serving() as (_, browser):
        answer = await browser.ask("POST", "/call/refuse", ["forbidden"], {"Origin": "https://page.example"})
        assert answer.json == {"error": {"message": "no", "code": "forbidden", "data": {"why": 1}, "more": 2}}
        assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"


async def test_headers_become_metadata_and_a_deadline() -> None:
    async with serving(codec=MsgpackCodec()) as (_, browser):
        headers = {"Wsrpc-Meta-Tenant": "acme", "traceparent": "00-1", "Wsrpc-Timeout": "9", "X-Other": "1"}
        answer = await browser.ask("POST", "/call/context?a=1", None, headers)
        metadata, remaining, key, path = answer.json
        assert metadata == {"tenant": "acme", "traceparent": "00-1"} and 8 < remaining <= 9
        assert (key, path) == (None, "/api/call/context")


@pytest.mark.parametrize("value", ["add", [1], [""]])
def test_names_that_are_not_valid(value: Any) -> None:
    with pytest.raises(TypeError, match="calls= takes a list of names"):
        routes(Server(), calls=value)


@hosts
async def test_a_handler_is_cancelled_when_the_client_leaves(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_aiohttp, "WATCH", 0.01)
    async with serving(host) as (app, browser):
        leaving = asyncio.create_task(browser.ask("POST", "/call/wait"))
        await turns_until(lambda: app.server.peers and app.server.peers[0].active)
        leaving.cancel()
        await turns_until(lambda: app.seen == ["cancelled", "closed"])


async def test_a_body_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc_adapters._http_connections.BODY_TIMEOUT", 0.1)

    async def slowly() -> AsyncIterator[bytes]:
        with suppress(asyncio.CancelledError):
            while True:
                yield b" "
                await asyncio.sleep(0.02)

    async with serving() as (_, browser):
        assert (await browser.ask("POST", "/call/add", slowly())).status == 408


# ---------------------------------------------------------------- runs


@hosts
async def test_a_run_is_read_through_a_reload(host: str) -> None:
    async with serving(host) as (app, browser):
        run = "/runs/count/k"
        body: dict[str, Any] = {"data": "[1000, 500]", "headers": {**ADA, **JSON}}
        async with browser.events(run, method="POST", **body) as events:
            first = [await anext(events) for _ in range(300)]
        await turns_until(lambda: not app.server.peers)
        continued = {**ADA, "Last-Event-ID": first[-1]["id"]}
        async with browser.events(run, continued) as events, browser.events(run, ADA) as others:
            second = [await anext(events) for _ in range(200)]
            assert [await anext(others) for _ in range(500)] == first + second
            answer = await browser.ask("GET", f"{run}?after=498&wait=0", None, ADA)
            assert (answer.status, answer.json["state"], answer.json["items"]) == (200, "running", [499, 500])
            app.released.set()
            rest = [event async for event in events]
            assert rest == [event async for event in others]
        assert [json.loads(event["data"]) for event in first + second + rest[:-1]] == [*range(1, 1001)]
        assert rest[-1] == {"event": "end", "id": "end", "data": "[DONE]"}
        assert (await browser.ask("GET", run, None, {**ADA, "Last-Event-ID": "end"})).status == 204
        after_last = {**ADA, "Last-Event-ID": rest[-2]["id"]}
        async with browser.events(run, after_last) as events:
            assert [event["event"] async for event in events] == ["end"]


async def test_a_value_is_the_only_item() -> None:
    async with serving() as (app, browser):
        run = "/runs/charge/order-17"
        answer = await browser.ask("POST", run, [500], {**ADA, "Accept": "application/json"})
        assert (answer.status, answer.json["state"], answer.json["items"]) == (202, "running", [])
        app.released.set()
        answer = await browser.ask("GET", f"{run}?wait=9", None, ADA)
        assert (answer.json["state"], answer.json["items"]) == ("ended", ["receipt 500"])
        async with browser.events(run, {**ADA, "Last-Event-ID": answer.json["position"]}) as events:
            assert [event["event"] async for event in events] == ["end"]
        again = await browser.ask("POST", f"{run}?wait=9", [500], ADA)
        assert again.json == {**answer.json, "position": "1"} and app.seen.count("charged 500") == 1


async def test_waiting_has_an_end_while_items_arrive() -> None:
    async with serving() as (_, browser):
        answer = await browser.ask("POST", "/runs/drip/k?wait=0.3", [], ADA)
        assert (answer.status, answer.json["state"]) == (202, "running") and 0 < len(answer.json["items"]) < 1000
        position = answer.json["position"]
        answer = await browser.ask("GET", f"/runs/drip/k?wait=0&after={position}", None, ADA)
        assert answer.json["items"][0] == int(position.partition("-")[0])
        assert (await browser.ask("DELETE", "/runs/drip/k", None, ADA)).status == 204


async def test_middleware_sees_each_request_once_with_its_metadata() -> None:
    async with serving() as (app, browser):
        seen: list[Any] = []

        async def see(ctx: Context, call_next: CallNext) -> object:
            seen.append((ctx.event, dict(ctx.metadata)))
            return await call_next(ctx)

        app.server.use(see)
        headers = {**ADA, "Wsrpc-Meta-Tenant": "acme"}
        for method, body in (("POST", [3]), ("GET", None)):
            assert (await browser.ask(method, "/runs/count/k?wait=9", body, headers)).json["items"] == [1, 2, 3]
        assert (await browser.ask("POST", "/runs/charge/o", [3], headers)).status == 200
        assert seen == [(name, {"tenant": "acme"}) for name in ("count", "count", "charge")]


async def test_a_request_does_not_replace_the_connection_with_its_address() -> None:
    async with serving(cluster=Cluster(MemoryEngine()), store=MemoryStore()) as (app, browser):
        app.address = "user/ada"
        async with connect(app.server) as client:
            assert (await browser.ask("POST", "/call/add", [1], ADA)).json == 2
            assert await client.request("add", 1) == 2
            assert [peer.address for peer in app.server.peers] == ["user/ada"]


async def test_a_run_that_fails_says_so_to_each_reader() -> None:
    async with serving() as (_, browser):
        error = {"message": "too little", "code": "conflict"}
        answer = await browser.ask("POST", "/runs/charge/k", [-1], ADA)
        assert (answer.status, answer.json) == (409, {"error": error})
        async with browser.events("/runs/charge/k", ADA) as events:
            [event] = [event async for event in events]
        assert (event["event"], event["id"], json.loads(event["data"])) == ("failed", "end", {"error": error})
        answer = await browser.ask("GET", "/runs/charge/k?wait=9", None, ADA)
        assert (answer.status, answer.json["state"], answer.json["error"]) == (200, "failed", error)


async def test_a_run_is_stopped_for_its_readers_also_if_its_first_items_are_gone() -> None:
    async with serving(store=MemoryStore(log_bytes=200_000)) as (app, browser):
        body: dict[str, Any] = {"data": "[]", "headers": {**ADA, **JSON}}
        async with browser.events("/runs/forever/k", method="POST", **body) as events:
            for _ in range(600):
                await anext(events)
            gone = await browser.ask("GET", "/runs/forever/k", None, ADA)
            assert (gone.status, gone.json["error"]["code"]) == (410, "wsrpc.items_gone")
            assert gone.json["error"]["data"] > 1
            assert (await browser.ask("DELETE", "/runs/forever/k", None, ADA)).status == 204
            last = [event async for event in events][-1]
            assert json.loads(last["data"])["error"]["code"] == "wsrpc.stopped"
        assert "stopped" in app.seen


async def test_a_reader_that_does_not_read_holds_up_nobody_and_takes_little_memory() -> None:
    async with serving() as (_, browser):
        body: dict[str, Any] = {"data": "[]", "headers": {**ADA, **JSON}}
        async with browser.events("/runs/forever/k", method="POST", **body) as events:
            await anext(events)
            async with browser.session.get(f"{browser.url}/runs/forever/k", headers=ADA):
                for _ in range(3000):
                    await anext(events)
            async with browser.events("/runs/forever/k", {**ADA, "Last-Event-ID": (await anext(events))["id"]}) as more:
                await anext(more)
            assert (await browser.ask("DELETE", "/runs/forever/k", None, ADA)).status == 204


# ---------------------------------------------------------------- rooms


@hosts
async def test_a_room_is_read_from_its_history_on(host: str) -> None:
    async with serving(host) as (app, browser):
        for number in range(5):
            await app.lobby.emit("said", number)
        kept = (await browser.ask("GET", "/rooms/lobby?last=2&wait=0")).json
        assert kept["events"] == [{"event": "said", "args": [number]} for number in (3, 4)] and kept["complete"]
        async with browser.events("/rooms/lobby?last=1") as events:
            last = await anext(events)
            await app.lobby.emit("said", 5)
            await app.lobby.of("other").emit("news")
            live = [await anext(events) for _ in range(2)]
        assert [json.loads(event["data"]) for event in (last, *live)] == [
            *({"event": "said", "args": [number]} for number in (4, 5)),
            {"event": "news", "args": [], "channel": "other"},
        ]
        await turns_until(lambda: not app.server.peers)
        await app.lobby.emit("said", 6)
        async with browser.events("/rooms/lobby", {"Last-Event-ID": live[-1]["id"]}) as events:
            assert json.loads((await anext(events))["data"])["args"] == [6]
        waiting = asyncio.create_task(browser.ask("GET", f"/rooms/lobby?after={kept['position']}&wait=9"))
        assert [event["args"] for event in (await waiting).json["events"]] == [[5], [], [6]]


async def test_what_is_missing_in_a_room_is_reported() -> None:
    async with serving(store=MemoryStore(log_bytes=2048)) as (app, browser):
        await app.lobby.emit("said", 0)
        position = (await browser.ask("GET", "/rooms/lobby?wait=0")).json["position"]
        for number in range(100):
            await app.lobby.emit("said", number)
        answer = (await browser.ask("GET", f"/rooms/lobby?after={position}&wait=0")).json
        assert not answer["complete"] and answer["events"][-1]["args"] == [99]
        async with browser.events("/rooms/lobby", {"Last-Event-ID": position}) as events:
            assert (await anext(events))["event"] == "missed"
            assert json.loads((await anext(events))["data"])["args"][0] > 1
        async with browser.events("/rooms/public-1") as events:  # a room without a log
            await app.server.room("public-1").emit("said", 1)
            assert json.loads((await anext(events))["data"]) == {"event": "said", "args": [1]}


async def test_a_slow_reader_of_a_room_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_routes, "MOST", 20_000)
    async with serving() as (app, browser):
        got: list[int] = []
        position = "0"
        for number in range(200):
            await app.lobby.emit("said", number, "x" * 1000)
        rounds = 0
        path = "/rooms/lobby?last=200"
        while len(got) < 200:
            rounds += 1
            async with browser.events(path, {} if position == "0" else {"Last-Event-ID": position}) as events:
                async for event in events:
                    position = event["id"]
                    got.append(json.loads(event["data"])["args"][0])
                    if len(got) == 200:
                        break
        assert got == [*range(200)] and rounds > 2


async def test_what_one_response_has_no_room_for_follows_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http_routes, "MOST", 20_000)
    async with serving() as (app, browser):
        for number in range(100):
            await app.lobby.emit("said", number, "x" * 1000)
        got: list[int] = []
        query = "last=100"
        while len(got) < 100:
            answer = (await browser.ask("GET", f"/rooms/lobby?wait=0&{query}")).json
            assert answer["complete"] and answer["events"]
            got += [event["args"][0] for event in answer["events"]]
            query = f"after={answer['position']}"
        assert got == [*range(100)]


async def test_the_reader_of_a_room_is_a_member_as_long_as_it_reads() -> None:
    async with serving() as (app, browser):
        peers: list[Peer] = []
        app.server.on("open", peers.append)
        async with browser.events("/rooms/lobby", ADA):
            await turns_until(lambda: len(app.lobby) == 1)
            assert peers[0].principal == "ada"
        await turns_until(lambda: len(app.lobby) == 0)
