"""Calls, runs and rooms as URLs, for programs that speak only HTTP: see docs/how-to/http.md."""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import date
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp import web
from asgi_servers import hypercorn_serving, uvicorn_serving
from hosts import running
from leftovers import timers_due
from starlette.applications import Starlette
from starlette.routing import Mount
from waiting import until

from wsrpc import CallNext, Context, Handshake, Keep, Limits, Quotas, RpcError, Server, older_names
from wsrpc._http_server import requests, rooms, routed_request
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.store import MemoryStore
from wsrpc.testing import connect
from wsrpc_adapters import aiohttp as on_aiohttp
from wsrpc_adapters.asgi import lifespan, routes

ADA = {"Authorization": "Bearer ada"}
JSON = {"Content-Type": "application/json"}
NOBODY = {"Authorization": "Bearer nobody"}
STREAM = {"Accept": "text/event-stream"}
EITHER = "application/json, text/event-stream"
FOREIGN = {"Origin": "https://evil.example"}
MAY_DAY = date(2026, 5, 1)
SOON = {"Authorization": "Bearer soon"}
KEYED = {**ADA, "Idempotency-Key": "o"}
H2C = {"Connection": "Upgrade", "Upgrade": "h2c"}
SERVED: dict[str, Any] = {
    "calls": [
        "add",
        "order",
        "nothing",
        "files:size",
        "refuse",
        "fail",
        "context",
        "charge",
        "count",
        "bytes",
        "long",
        "table",
        "rated",
    ],
    "runs": ["rated", "count", "count/s", "charge", "shared", "forever", "tables", "ask"],
    "rooms": ["lobby", "public-*", "cards"],
}


class Application:
    """A server, and what its handlers have seen."""

    def __init__(self, **options: Any) -> None:
        self.server = server = Server(origins=["https://page.example"], **options)
        self.released = asyncio.Event()
        self.seen: list[str] = []
        self.handshakes = 0
        self.address: str | None = None
        for function in (
            self.add,
            self.order,
            self.refuse,
            self.fail,
            self.context,
            self.wait,
            self.bytes,
            self.long,
            self.table,
        ):
            server.on(function.__name__, function)
        server.of("files").on("size", len)
        for kept in (self.charge, self.count, self.forever, self.tables):
            server.on(kept.__name__, kept, keep=600)
        server.on("ask", self.ask, keep=Keep(600, inbox=dict[str, int], scope=lambda peer, topic: topic))
        server.on("rated", self.rated, rate=0.001, keep=600)
        server.on("count/s", self.below, keep=600)
        server.on("shared", self.shared, keep=Keep(600, scope=lambda peer, name: name))
        server.on_handshake(self.log_in)
        server.on_join(lambda peer, name: name != "public-closed")
        self.lobby = server.room("lobby", keep=600, allow=lambda peer: True)
        server.on("close", lambda peer: self.seen.append("closed"))

    def log_in(self, handshake: Handshake) -> None:
        handshake.principal, handshake.address = handshake.bearer_token, self.address
        self.handshakes += 1
        if handshake.bearer_token == "unix":
            handshake.principal = handshake.remote = None
        if handshake.bearer_token == "nobody":
            handshake.reject(401, "who are you?\n")
        if handshake.bearer_token == "poor":
            handshake.reject(402)
        if handshake.bearer_token == "own words":
            handshake.reject(403, "<p>", {"Content-Type": "text/html"})
        if handshake.bearer_token == "soon":
            handshake.expires = time.time() + 0.1

    async def ask(self, ctx: Context, topic: str) -> AsyncIterator[Any]:
        async for message in ctx.inbox(dict[str, int]):
            yield [message.value, message.principal]
            await self.released.wait()
            if "end" in message.value:
                return

    def add(self, a: int, b: int = 1) -> int:
        return a + b

    def order(
        self,
        ctx: Context,
        item: Annotated[str, older_names("note", "thing")],
        note: str | None = None,
        on: date = MAY_DAY,
        *tags: str,
    ) -> Any:
        return [item, note, on, *tags]

    def refuse(self, code: str) -> None:
        raise RpcError("no", code=code, data={"why": 1}, fields={"more": 2})

    def fail(self) -> None:
        raise ZeroDivisionError("secret")

    def context(self, ctx: Context) -> Any:
        return [dict(ctx.metadata), ctx.remaining, ctx.key, ctx.peer.info.path]

    def bytes(self) -> Any:
        return [b"\0\1", float("nan")]

    def long(self, size: int = 20_000) -> str:
        return "x" * size

    def table(self, raises: bool = False) -> Any:
        table = {(1, 2): 3}
        if raises:
            raise RpcError("no", code="conflict", data=table)
        return table

    async def tables(self, raises: bool = False) -> AsyncIterator[Any]:
        yield 1
        yield self.table(raises)

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

    async def rated(self, number: int) -> int:
        return number

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
        await until(lambda: not app.server.peers)


hosts = pytest.mark.parametrize("host", ["uvicorn", "hypercorn", "aiohttp"])

# ---------------------------------------------------------------- what is answered

Row = tuple[str, str, Any, dict[str, str], int, Any]
ORDERED, TAGGED = ["x", None, "2026-06-01"], ["x", None, "2026-05-01", "a", "b"]
TAGS = "order(): argument 'tags': expected array"

ANSWERS: dict[str, Row] = {
    "arguments": ("POST", "/call/add", [2, 3], {}, 200, 5),
    "the only argument": ("POST", "/call/add", 2, {}, 200, 3),
    "a result that is too large": ("POST", "/call/long", None, {}, 500, "wsrpc.result_too_big"),
    "arguments by name": ("POST", "/call/add", {"b": 3, "a": 2}, {}, 200, 5),
    "names, without what has a default": ("POST", "/call/add", {"a": 2}, {}, 200, 3),
    "a name after those with defaults": ("POST", "/call/order", {"on": "2026-06-01", "item": "x"}, {}, 200, ORDERED),
    "further arguments by name": ("POST", "/call/order", {"item": "x", "tags": ["a", "b"]}, {}, 200, TAGGED),
    "no further arguments": ("POST", "/call/order", {"item": "x", "tags": []}, {}, 200, TAGGED[:3]),
    "further arguments that are no array": ("POST", "/call/order", {"item": "x", "tags": "a"}, {}, 400, TAGS),
    "an older name": ("POST", "/call/order", {"on": "2026-06-01", "thing": "x"}, {}, 200, ORDERED),
    "an older name that another has now": ("POST", "/call/order", {"note": "x"}, {}, 400, "order(): missing argume"),
    "two names": (
        "POST",
        "/call/order",
        {"item": "x", "thing": "x"},
        {},
        400,
        "order(): 'thing' is anot",
    ),
    "a name that is unknown": (
        "POST",
        "/call/add",
        {"a": 2, "c": 3},
        {},
        400,
        "add(): no argument 'c': the names are 'a'",
    ),
    "a name of what the server passes": (
        "POST",
        "/call/order",
        {"item": "x", "ctx": 1},
        {},
        400,
        "order(): no argument",
    ),
    "a name that is missing": ("POST", "/call/add", {"b": 3}, {}, 400, "add(): missing argument 'a'"),
    "a value that does not fit its name": ("POST", "/call/add", {"b": "x", "a": 2}, {}, 400, "add(): argument 'b'"),
    "no names where there are none": ("POST", "/call/fail", {}, {}, 500, "wsrpc.internal"),
    "a name where there are none": (
        "POST",
        "/call/fail",
        {"a": 1},
        {},
        400,
        "fail(): no argument 'a': the names are none",
    ),
    "an object that is the only argument": ("POST", "/call/files:size", [{"a": 1}], {}, 200, 1),
    "names of nothing": ("POST", "/call/nothing", {"a": 1}, {}, 404, "wsrpc.unknown_event"),
    "the names of a run": ("POST", "/runs/count/k?wait=9", {"last": 3}, ADA, 200, {"items": [1, 2, 3]}),
    "the names of a scope": ("GET", '/runs/shared/s?wait=0&args={"other":1}', None, {}, 400, "shared(): no argument"),
    "no argument": ("POST", "/call/bytes", None, {}, 200, ["AAE=", None]),
    "an event of a channel": ("POST", "/call/files:size", ["abc"], {}, 200, 3),
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
    "an error after which it may have run": ("POST", "/call/refuse", ["unavailable"], {}, 503, "unavailable"),
    "a store without room": ("POST", "/runs/shared/full", ["x" * 16_000], ADA, 503, "wsrpc.overloaded"),
    "an error that is no error": ("POST", "/call/refuse", ["ok"], {}, 400, "ok"),
    "a failure": ("POST", "/call/fail", None, {}, 500, "wsrpc.internal"),
    "a deadline": ("POST", "/call/wait", None, {"wsrpc-timeout": "0.05"}, 504, "wsrpc.request_timeout"),
    "credentials that expire in the midst": ("POST", "/call/wait", None, SOON, 500, "wsrpc.connection_lost"),
    "a stream": ("POST", "/call/count", [1], {}, 400, "this event has items, an upload"),
    "an event that is no call": ("POST", "/call/forever", [], {}, 404, "routes() does not serve this path"),
    "a path that is not served": ("GET", "/", None, {}, 404, "routes() does not serve this path"),
    "another method": ("GET", "/call/add", None, {}, 405, "this URL has POST"),
    "a page of another site": ("POST", "/call/add", [1], FOREIGN, 403, "this origin is not allowed"),
    "an image of another site": ("GET", "/rooms/lobby?wait=0", None, {"Sec-Fetch-Site": "cross-site"}, 403, "a GET"),
    "a refusal": ("POST", "/call/add", [1], NOBODY, 401, "who are you?"),
    "a refusal in text": ("POST", "/call/add", [1], {**NOBODY, "Accept": "text/plain"}, 401, "unauthorized"),
    "a refusal without words": ("POST", "/call/add", [1], {"Authorization": "Bearer poor"}, 402, "status_402"),
    "a refusal in own words": ("POST", "/call/add", [1], {"Authorization": "Bearer own words"}, 403, "<p>"),
    "an error that says who are you": ("POST", "/call/refuse", ["unauthorized"], {}, 401, "unauthorized"),
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
    "a key of a call without keep=": ("POST", "/call/add", [5], KEYED, 400, "wsrpc.bad_arguments"),
    "a run with a scope": ("POST", "/runs/shared/s?wait=9", ["x"], STREAM, 200, {"state": "ended", "items": ["x"]}),
    "a run with a scope, no arguments": ("GET", "/runs/shared/s?wait=9", None, {}, 400, "wsrpc.bad_arguments"),
    "a room that is not served": ("GET", "/rooms/private", None, {}, 404, "routes() does not serve this path"),
    "a room that may not be read": ("GET", "/rooms/public-closed?wait=0", None, {}, 403, "not allowed"),
    "events rather than JSON": ("GET", "/runs/count/k", None, {**ADA, "Accept": EITHER}, 200, ":\n\nid: 1-"),
    "the end was read": ("GET", "/runs/count/k?after=0", None, {**ADA, "Last-Event-ID": "end"}, 204, ""),
    "the end was read, and asked for": ("POST", "/runs/count/k", [3], {**ADA, "Last-Event-ID": "end"}, 204, ""),
    "a body that uvicorn loses": ("POST", "/call/add", [1], H2C, 400, "wsrpc.bad_arguments"),
    "a key of a run in a header": ("POST", "/runs/count/k", [3], KEYED, 400, "wsrpc.bad_arguments"),
    "a key that ends with a slash": ("GET", "/runs/count/k/?wait=0", None, ADA, 404, "wsrpc.items_gone"),
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
"""Method, path, body, headers, the status, and the result, the code of the error, or how its text begins."""


@pytest.mark.parametrize("case", ANSWERS)
async def test_what_is_answered(case: str) -> None:
    method, path, body, headers, status, expected = ANSWERS[case]
    options: Any = {"limits": Limits(message_bytes=16_384, values=1000), "store": MemoryStore(payer_bytes=16_000)}
    async with serving(**options) as (_, browser):
        started = await browser.ask("POST", "/runs/count/k?wait=9", [3], ADA)
        assert (started.status, started.json["items"]) == (200, [1, 2, 3])
        assert (await browser.ask("POST", "/runs/charge/k", [3], ADA)).json["items"] == ["receipt 3"]
        answer = await browser.ask(method, path, body, headers)
        assert answer.status == status, answer.text
        assert answer.headers.get("Retry-After") == ("1" if expected == "wsrpc.overloaded" or status == 429 else None)
        if status == 405:
            assert answer.headers["Allow"] == "POST"
        assert answer.headers.get("WWW-Authenticate") == ("Bearer" if status == 401 else None)
        if isinstance(expected, dict):
            assert expected.items() <= answer.json.items()
        elif answer.headers.get("Content-Type", "") != "application/json":
            assert answer.text.startswith(expected)
        elif status >= 400:
            error = answer.json["error"]
            assert expected in (error["code"], error["message"][: len(expected)]) and "secret" not in answer.text
        else:
            assert answer.json == expected


CODING = "bodies are not compressed: got gzip"
NO_PATH = "routes() does not serve this path"
KEY = "the header idempotency-key is not ASCII"
OddRow = tuple[str, bytes, bytes, int, str]
ODD: dict[str, dict[str, OddRow]] = {
    "refusals": {
        "a body that is not what it says": ("POST /call/add", b"Content-Encoding: gzip", b"[1]", 415, CODING),
        "a compressed body": ("POST /call/add", b"Content-Encoding: GZIP", gzip.compress(b"[1]"), 415, CODING),
        "nobody reads the body": ("GET /rooms/lobby?wait=0", b"Content-Encoding: gzip", b"[1]", 415, CODING),
        "nobody reads the body of a stream": ("GET /rooms/lobby", b"Content-Encoding: gzip", b"1", 415, CODING),
        "a key in UTF-8": ("POST /call/charge", "Idempotency-Key: ä".encode(), b"[1]", 400, KEY),
        "a key in Latin-1": ("POST /call/charge", b"Idempotency-Key: \xe4", b"[1]", 400, KEY),
        "two keys": ("POST /call/charge", b"\r\n".join([b"Idempotency-Key: a"] * 2), b"[1]", 400, "the header idempo"),
        "half a key": ("POST /call/charge", b'Idempotency-Key: "a', b"[1]", 400, "the key is empty, or"),
        "metadata": ("POST /call/context", "Wsrpc-Meta-A: ä".encode(), b"", 400, "the header wsrpc-meta-a"),
        "a position": ("GET /rooms/lobby", "Last-Event-ID: ١".encode(), b"", 400, "the header last-event-id is"),
        "a deadline": ("POST /call/add", b"Wsrpc-Timeout: 1_0", b"[1]", 400, "wsrpc-timeout is a number"),
        "a wait": ("GET /rooms/lobby?wait=%D9%A1", b"", b"", 400, "wait= is a number"),
        "a wait with an exponent": ("GET /rooms/lobby?wait=1e1", b"", b"", 400, "wait= is a number"),
        "a number of events": (
            "GET /rooms/lobby?wait=0&last=%D9%A1",
            b"",
            b"",
            400,
            "last= is a number from 0 to 999,",
        ),
        "a half event": ("GET /rooms/lobby?wait=0&last=1.5", b"", b"", 400, "last= is a number"),
        "an empty segment": ("POST //call/add", b"", b"[1]", 404, NO_PATH),
        "a slash at the end": ("POST /call/add/", b"", b"[1]", 404, NO_PATH),
        "a control character": ("GET /rooms/public-%00?wait=0", b"", b"", 404, NO_PATH),
        "a control character in a key": ("POST /runs/count/a%00", b"", b"[3]", 404, NO_PATH),
        "a key that is not UTF-8": ("POST /runs/count/%FF", b"", b"[1]", 400, "the URL is not UTF-8"),
        "a query that is not UTF-8": ("GET /rooms/lobby?args=%FF", b"", b"", 400, "the URL is not UTF-8"),
        "arguments that are no JSON": ("POST /call/add", b"", b"[1,", 400, "the arguments cannot be read: no JSON: "),
        "a method": ("HEAD /rooms/lobby", b"", b"", 405, ""),
    },
    "misfits": {
        "an offset in other digits": ("GET /runs/count/k?offset=%D9%A1", b"", b"", 400, "'١' is not the position"),
        "a negative offset": ("GET /runs/count/k?offset=-12", b"", b"", 400, "'-12' is not the position"),
        "an offset with a line": ("GET /runs/count/k?offset=1%0D%0AX:1", b"", b"", 400, "'1\\r\\nX:1' is not"),
        "arguments that do not fit": ("POST /call/add", b"", b'["x"]', 400, "add(): argument 'a' (1st)"),
    },
    "": {
        "a line break": ("GET /rooms/public-%0A?wait=0", b"", b"", 404, ""),
        "an encoded slash": ("POST /call%2Fadd", b"", b"[1]", 200, ""),
    },
}
"""Where it is counted, the request, a header, the body, the status, and how the text of the error begins."""


async def ask_odd(browser: Browser, target: str, header: bytes, body: bytes) -> Answer:
    """Make a request as no library would."""
    url = urlsplit(browser.url)
    method, _, path = target.partition(" ")
    lines = [f"{method} {url.path}{path} HTTP/1.1".encode(), b"Host: " + url.netloc.encode(), b"Connection: close"]
    lines += [b"Content-Type: application/json"] * (method == "POST") + [header] * bool(header)
    lines += [b"Authorization: Bearer ada", b"Content-Length: %d" % len(body)]
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    writer.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    head, _, text = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return Answer(int(head.split()[1]), head, text)


@hosts
async def test_odd_requests_get_a_reason_and_are_counted(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """They wrote a traceback, or lines for each client, or were taken for something else."""
    caplog.set_level(logging.INFO)
    async with serving(host) as (app, browser):
        await browser.ask("POST", "/runs/count/k?wait=9", [3], ADA)
        for counted, (name, (target, header, body, status, beginning)) in (
            (counted, row) for counted, rows in ODD.items() for row in rows.items()
        ):
            caplog.clear()
            before = app.server.stats()
            for _ in range(2):
                answer = await ask_odd(browser, target, header, body)
                assert answer.status == status, name
                if counted and answer.text:
                    assert answer.json["error"]["message"].startswith(beginning), (name, answer.text)
            after = app.server.stats()
            for where in ("refusals", "misfits") if counted else ():
                number = sum(getattr(after, where).values()) - sum(getattr(before, where).values())
                assert number == 2 * (where == counted), name
            lines = [record for record in caplog.records if record.name == "wsrpc" or record.levelno >= logging.ERROR]
            assert lines == [], name


async def test_a_key_in_quotes_is_the_same_key() -> None:
    async with serving() as (app, browser):
        for header, url in (("plain", "plain"), (r'"a\"b\\c"', "a%22b%5Cc"), ('"in quotes"', "in%20quotes")):
            headers = {**ADA, "Idempotency-Key": header}
            assert (await browser.ask("POST", "/call/charge", [5], headers)).json == "receipt 5"
            assert (await browser.ask("GET", f"/runs/charge/{url}?wait=9", None, ADA)).json["items"] == ["receipt 5"]
        assert app.seen.count("charged 5") == 3


async def test_what_json_does_not_have() -> None:
    """It was an unhandled exception, and the readers of a run connected again without end."""
    refusal = {"error": {"message": "no", "code": "conflict"}}
    async with serving(codec=MsgpackCodec()) as (app, browser):
        answer = await browser.ask("POST", "/call/table", [])
        assert (answer.status, answer.json["error"]["code"]) == (500, "wsrpc.bad_result")
        answer = await browser.ask("POST", "/call/table", [True])
        assert (answer.status, answer.json) == (409, refusal)
        for key, args in (("k", "[]"), ("k2", "[true]")):
            body: dict[str, Any] = {"data": args, "headers": {**ADA, **JSON}}
            async with browser.events(f"/runs/tables/{key}", method="POST", **body) as events:
                first, last = [event async for event in events]
            assert first["data"] == "1" and (last["event"], last["id"]) == ("failed", "end")
        assert json.loads(last["data"]) == refusal
        answer = await browser.ask("GET", "/runs/tables/k?wait=9", None, ADA)
        assert (answer.json["state"], answer.json["items"]) == ("failed", [1])
        for value in (1, app.table(), 2):
            await app.lobby.emit("said", value)
        answer = await browser.ask("GET", "/rooms/lobby?last=3&wait=0")
        assert [event["args"] for event in answer.json["events"]] == [[1], [2]] and not answer.json["complete"]


class FailingCodec(JsonCodec):
    """The codec of a user, which fails with an error of its own."""

    def __init__(self) -> None:
        super().__init__()
        encode = self.encode

        def failing(message: Any) -> bytes:
            if b"unknown" in (payload := encode(message)):
                raise LookupError("unknown")
            return payload

        self.encode = failing


@hosts
async def test_an_error_of_which_nobody_knows_is_a_response(host: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(host, codec=FailingCodec()) as (app, browser):
        answer = await browser.ask("POST", "/call/add", ["unknown"])
        assert (answer.status, answer.json["error"]["code"]) == (500, "internal")
        [failure] = [record for record in caplog.records if record.levelno >= logging.ERROR]
        assert failure.name == "wsrpc" and failure.exc_info is not None
        assert app.server.stats().refusals == {"500 internal error": 1}


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
    monkeypatch.setattr(on_aiohttp, "LEFT_CHECK_INTERVAL", 0.01)
    async with serving(host) as (app, browser):
        leaving = asyncio.create_task(browser.ask("POST", "/call/wait"))
        await until(lambda: app.server.peers and app.server.peers[0].active)
        leaving.cancel()
        await until(lambda: app.seen == ["cancelled", "closed"])


async def test_a_body_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsrpc._http_server.requests.BODY_TIMEOUT", 0.1)

    async def slowly() -> AsyncIterator[bytes]:
        with suppress(asyncio.CancelledError):
            while True:
                yield b" "
                await asyncio.sleep(0.02)

    async with serving() as (_, browser):
        assert (await browser.ask("POST", "/call/add", slowly())).status == 408


BOB, UNIX = {"Authorization": "Bearer bob"}, {"Authorization": "Bearer unix"}
OTHERS = Quotas(by=lambda _: None, running=1)
ABOVE: dict[str, tuple[dict[str, Any], dict[str, str], str, dict[str, str], int]] = {
    "a rate": ({}, ADA, "/call/rated", ADA, 429),
    "a rate, on a run": ({}, ADA, "/runs/rated/k?wait=9", ADA, 429),
    "a rate, by another user of this address": ({}, ADA, "/call/rated", BOB, 200),
    "a rate, by this address": ({}, {}, "/call/rated", {}, 429),
    "a rate, by a user of this address": ({}, {}, "/call/rated", ADA, 200),
    "a rate, without an address": ({}, UNIX, "/call/rated", UNIX, 200),
    "another event": ({}, ADA, "/call/add", ADA, 200),
    "a rate, with a quota of others": ({"quotas": OTHERS}, ADA, "/call/rated", ADA, 429),
    "a quota of requests": ({"quotas": Quotas(requests=1)}, ADA, "/call/add", ADA, 429),
    "a quota of handlers": ({"quotas": Quotas(running=1)}, ADA, "/call/add", ADA, 429),
    "a quota of handlers, of others": ({"quotas": Quotas(running=1)}, ADA, "/call/add", BOB, 200),
}
"""The options, who has called `rated` and calls `wait`, what is asked for meanwhile, by whom, and the status."""


@pytest.mark.parametrize("case", ABOVE)
async def test_a_rate_or_a_quota_of_the_caller_is_429(case: str) -> None:
    """A rate without quotas limited nothing, since each request is a connection; and others had 503."""
    options, first, path, headers, status = ABOVE[case]
    async with serving(**options) as (app, browser):
        assert (await browser.ask("POST", "/call/rated", [1], first)).status == 200
        waiting = asyncio.create_task(browser.ask("POST", "/call/wait", None, first))
        await until(lambda: waiting.done() or any(peer.active for peer in app.server.peers))
        answer = await browser.ask("POST", path, [2], headers)
        assert answer.status == status
        wait = answer.headers.get("Retry-After")
        assert wait is None if status == 200 else int(wait or 0) in (range(900, 1001) if "rated" in path else [1])
        assert status == 200 or answer.json["error"]["code"] == "wsrpc.overloaded"
        app.released.set()
        await waiting


HINTS = [{"Wsrpc-Resume": "1"}, {"Sec-WebSocket-Protocol": "wsrpc.resume"}]


@pytest.mark.parametrize("hint", [{}, *HINTS])
async def test_a_request_counts_while_its_body_arrives(hint: dict[str, str]) -> None:
    """With one header, bodies that do not end counted for nobody."""
    rest = asyncio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"[1"
        await rest.wait()
        yield b"]"

    async with serving(quotas=Quotas(connections=1)) as (_, browser):
        both = [asyncio.create_task(browser.ask("POST", "/call/add", slowly(), {**ADA, **hint})) for _ in "ab"]
        [refused], [other] = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        assert refused.result().status == 429
        rest.set()
        assert (await other).json == 2


@hosts
async def test_a_request_whose_client_leaves_counts_no_more(host: str) -> None:
    """In aiohttp, a body that had not ended counted until Python collected garbage."""

    async def slowly() -> AsyncIterator[bytes]:
        yield b"[1"
        await asyncio.Event().wait()

    async with serving(host, quotas=Quotas(connections=1)) as (app, browser), asyncio.timeout(60):
        gc.disable()
        try:
            leaving = asyncio.create_task(browser.ask("POST", "/call/add", slowly(), ADA))
            await until(lambda: app.handshakes)
            assert (await browser.ask("POST", "/call/add", [1], ADA)).status == 429
            leaving.cancel()
            while (await browser.ask("POST", "/call/add", [1], ADA)).status == 429:
                pass
        finally:
            gc.enable()


@pytest.mark.parametrize("host", ["uvicorn", "aiohttp"])  # hypercorn takes all of it
async def test_a_long_response_that_nobody_reads_is_given_up(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host kept it for as long as the connection lasted. In aiohttp, the end of the connection raised an error."""
    monkeypatch.setattr(requests, "SEND_TIMEOUT", 0.05)
    monkeypatch.setattr(on_aiohttp, "LINGER", 0.5)
    size = 16 << 20
    async with serving(host, limits=Limits(message_bytes=2 * size)) as (_, browser):
        url = urlsplit(browser.url)
        body = f"[{size}]".encode()
        head = f"POST {url.path}/call/long HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Type: application/json\r\n"
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        before = len(asyncio.all_tasks())
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await until(lambda: len(asyncio.all_tasks()) > before)
        await until(lambda: len(asyncio.all_tasks()) <= before)
        with suppress(ConnectionError):
            while size > 0 and (data := await reader.read(1 << 20)):
                size -= len(data)
        writer.close()
        assert size > 0
        await timers_due(0.5)


# ---------------------------------------------------------------- runs


@hosts
async def test_a_run_is_read_through_a_reload(host: str) -> None:
    async with serving(host) as (app, browser):
        run = "/runs/count/k"
        body: dict[str, Any] = {"data": "[1000, 500]", "headers": {**ADA, **JSON}}
        async with browser.events(run, method="POST", **body) as events:
            first = [await anext(events) for _ in range(300)]
        await until(lambda: not app.server.peers)
        continued = {**ADA, "Last-Event-ID": first[-1]["id"]}
        async with browser.events(run, continued) as events, browser.events(run, ADA) as others:
            second = [await anext(events) for _ in range(200)]
            assert [await anext(others) for _ in range(500)] == first + second
            so_far: list[int] = []
            while len(so_far) < 2:  # a slow server may give one at a time
                answer = await browser.ask("GET", f"{run}?after={498 + len(so_far)}&wait=0", None, ADA)
                assert (answer.status, answer.json["state"]) == (200, "running")
                so_far += answer.json["items"]
            assert so_far == [499, 500]
            app.released.set()
            rest = [event async for event in events]
            assert rest == [event async for event in others]
        assert [json.loads(event["data"]) for event in first + second + rest[:-1]] == [*range(1, 1001)]
        assert rest[-1] == {"event": "end", "id": "end", "data": "[DONE]"}
        assert (await browser.ask("GET", run, None, {**ADA, "Last-Event-ID": "end"})).status == 204
        after_last = {**ADA, "Last-Event-ID": rest[-2]["id"]}
        async with browser.events(run, after_last) as events:
            assert [event["event"] async for event in events] == ["end"]


@hosts
async def test_a_message_reaches_the_handler_of_a_run(host: str) -> None:
    async with serving(host) as (app, browser):
        run = "/runs/ask/k?args=[%22tea%22]"

        async def send(body: Any, url: str = run, **headers: str) -> Any:
            answer = await browser.ask("PATCH", url, body, {**ADA, **headers})
            return answer.status if answer.status == 204 else (answer.status, answer.json["error"]["code"])

        assert await send({"a": 1}) == (404, "wsrpc.items_gone")
        started = asyncio.ensure_future(browser.ask("POST", "/runs/ask/k?wait=1", ["tea"], ADA))
        while (sent := await send({"a": 1}, **{"Idempotency-Key": "1"})) != 204:
            assert sent == (404, "wsrpc.items_gone")  # it has not begun
        assert await send({"a": 1}, **{"Idempotency-Key": '"1"'}) == 204
        assert await send({"a": 2}, **{"Wsrpc-Timeout": "0.1"}) == (504, "wsrpc.request_timeout")
        assert await send({"a": "x"}) == (400, "wsrpc.bad_arguments")
        assert await send(None) == (400, "wsrpc.bad_arguments")
        assert await send({"a": 1}, "/runs/count/k") == (400, "wsrpc.bad_arguments")
        app.released.set()
        assert await send({"end": 3}) == 204
        assert await send({"a": 4}) == (409, "wsrpc.not_read")
        await started
        answer = await browser.ask("GET", f"{run}&wait=9", None, ADA)
        assert answer.json["items"] == [[{"a": 1}, "ada"], [{"a": 2}, "ada"], [{"end": 3}, "ada"]]


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


async def test_waiting_has_an_end_while_items_arrive_and_while_none_does(monkeypatch: pytest.MonkeyPatch) -> None:
    as_json = {**ADA, "Accept": "application/json"}  # without `wait=`, this would not wait
    async with serving() as (app, browser), asyncio.timeout(60):
        asking = asyncio.create_task(browser.ask("POST", "/runs/count/k?wait=50", [2, 1], as_json))
        assert (await browser.ask("GET", "/rooms/lobby?wait=0.5")).json["events"] == []
        app.released.set()
        assert (await asking).json["items"] == [1, 2]
        monkeypatch.setattr(routed_request, "LONGEST_WAIT", 0.3)
        assert (await browser.ask("GET", "/rooms/lobby?wait=600")).json["events"] == []
        answer = await browser.ask("POST", "/runs/forever/k?wait=0.3", [], ADA)
        assert (answer.status, answer.json["state"]) == (202, "running") and answer.json["items"]
        assert (await browser.ask("DELETE", "/runs/forever/k", None, ADA)).status == 204


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


@hosts
async def test_a_reader_of_a_run_is_told_that_the_server_closes(host: str, caplog: pytest.LogCaptureFixture) -> None:
    """The response was not complete, which uvicorn logs as an error. An EventSource gave up after 503."""
    async with serving(host) as (app, browser):
        body: dict[str, Any] = {"data": "[2, 1]", "headers": {**ADA, **JSON}}
        async with browser.events("/runs/count/k", method="POST", **body) as events:
            assert (await anext(events))["data"] == "1"
            await app.server.close()
            cut = {"event": "cut", "data": "null"}  # without it, the AI SDK would hold half an answer for a whole one
            assert [event async for event in events] == [cut]
        async with browser.events("/runs/count/k", {**ADA, **STREAM}) as events:
            assert [event async for event in events] == [cut]
        assert (await browser.ask("GET", "/runs/count/k", headers=ADA)).status == 503
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# ---------------------------------------------------------------- rooms


@hosts
async def test_a_room_is_read_from_its_history_on(host: str) -> None:
    async with serving(host) as (app, browser):
        for number in range(5):
            await app.lobby.emit("said", number)
        kept = (await browser.ask("GET", "/rooms/lobby?last=2&wait=0")).json
        assert kept["events"] == [{"event": "said", "args": [number]} for number in (3, 4)] and kept["complete"]
        async with browser.events("/rooms/lobby?last=1", ADA) as events:
            last = await anext(events)
            assert [peer.principal for peer in app.server.peers] == ["ada"] and len(app.lobby) == 1
            await app.lobby.emit("said", 5)
            await app.lobby.of("other").emit("news")
            live = [await anext(events) for _ in range(2)]
        assert [json.loads(event["data"]) for event in (last, *live)] == [
            *({"event": "said", "args": [number]} for number in (4, 5)),
            {"event": "news", "args": [], "channel": "other"},
        ]
        await until(lambda: not app.server.peers and len(app.lobby) == 0)
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


async def test_a_room_without_a_log_shows_only_its_events() -> None:
    """It showed those of all rooms of the reader."""
    async with serving() as (app, browser):
        room, other = app.server.room("public-1"), app.server.room("other")
        app.server.on("open", other.add)

        async def emit() -> None:
            await until(lambda: len(room) == 1)
            await other.emit("other", 1)
            await app.server.emit("everybody", 2)
            await app.server.peers[0].emit("direct", 3)
            await room.of("news").emit("said", 4, metadata={"a": "b"})

        event = {"event": "said", "args": [4], "channel": "news"}
        answer, _ = await asyncio.gather(browser.ask("GET", "/rooms/public-1?wait=9"), emit())
        assert answer.json == {"events": [event], "position": None, "complete": True}
        async with browser.events("/rooms/public-1") as events:
            await emit()
            assert json.loads((found := await anext(events))["data"]) == event and "id" not in found


async def test_a_room_with_a_state_begins_with_it() -> None:
    """It was left out, and nothing was said to be missing."""
    async with serving() as (app, browser):
        cards = [1]
        room = app.server.room("cards", keep=600, allow=lambda peer: True, state=lambda peer: cards)
        answer = (await browser.ask("GET", "/rooms/cards?wait=9")).json
        assert (answer["state"], answer["events"], answer["complete"]) == ([1], [], True)
        async with browser.events("/rooms/cards") as events:
            state = await anext(events)
            assert (state["event"], state["data"], state["id"]) == ("state", "[1]", answer["position"])
            await room.emit("added", 2)
            assert json.loads((await anext(events))["data"])["args"] == [2]
        later = (await browser.ask("GET", f"/rooms/cards?wait=9&after={answer['position']}")).json
        assert "state" not in later and [event["args"] for event in later["events"]] == [[2]]


async def test_a_reader_of_a_room_that_keeps_up_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "LARGEST_RESPONSE", 5_000)
    async with serving() as (app, browser), browser.events("/rooms/lobby") as events:
        for number in range(20):
            await app.lobby.emit("said", number, "x" * 1000)
            assert json.loads((await anext(events))["data"])["args"][0] == number


async def test_what_one_response_has_no_room_for_follows_in_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "LARGEST_RESPONSE", 20_000)
    async with serving() as (app, browser):
        for number in range(100):
            await app.lobby.emit("said", number, "x" * 1000)
        got, query = list[int](), "last=100"
        while len(got) < 100:
            answer = (await browser.ask("GET", f"/rooms/lobby?wait=0&{query}")).json
            assert answer["complete"] and 0 < len(answer["events"]) < 50
            got += [event["args"][0] for event in answer["events"]]
            query = f"after={answer['position']}"
        assert got == [*range(100)]
        got, rounds, position = [], 0, dict[str, str]()
        while len(got) < 100:
            rounds += 1
            async with browser.events("/rooms/lobby?last=100", position) as events:
                async for event in events:
                    position = {"Last-Event-ID": event["id"]}
                    got.append(json.loads(event["data"])["args"][0])
                    if len(got) == 100:
                        break
        assert got == [*range(100)] and rounds > 1
