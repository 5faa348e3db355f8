"""The URLs of chats, against requests that no client of their protocols makes, or not at this moment."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from asgi_servers import uvicorn_serving
from hosts import running
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from test_http_routes import ADA, Browser
from waiting import until

from wsrpc import Context, Handshake, Keep, Server
from wsrpc._http_server.chat_runs import ChatRuns
from wsrpc._log import link
from wsrpc.store import MemoryStore, StoreLost
from wsrpc_adapters import agui, aisdk
from wsrpc_adapters.asgi import lifespan

BOB = {"Authorization": "Bearer bob"}


class Chats:
    """A server with a model that writes when it may."""

    def __init__(self, **options: Any) -> None:
        self.server = server = Server(**options)
        self.gate = asyncio.Event()
        self.asked: list[str] = []
        self.written = 0
        server.on_handshake(self.log_in)
        server.on("answer", self.answer, keep=600)

    def log_in(self, handshake: Handshake) -> None:
        handshake.principal = handshake.bearer_token

    async def answer(self, ctx: Context, asked: dict[str, Any]) -> AsyncIterator[Any]:
        last = asked["messages"][-1]
        question = last["content"] if "threadId" in asked else last["parts"][0].get("text", "")
        self.asked.append(question)
        yield "It"
        if question == "Much!":
            while self.written < 20_000_000:
                yield "x" * 100_000
                self.written += 100_000
                await asyncio.sleep(0)
        await self.gate.wait()
        if question == "Late!":
            yield {"type": "RUN_FINISHED", "threadId": "c", "runId": "r"}
        yield " depends."


@asynccontextmanager
async def serving(host: str = "uvicorn", **options: Any) -> AsyncGenerator[tuple[Chats, Browser]]:
    chats = Chats(**options)
    async with AsyncExitStack() as stack:
        if host == "aiohttp":
            app = web.Application()
            aisdk.add_chat(app, "/chat", chats.server, "answer")
            agui.add_agent(app, "/agent", chats.server, "answer")
            app.on_shutdown.append(lambda _: chats.server.close())
            url = (await stack.enter_async_context(running(app))).replace("ws://", "http://").removesuffix("/ws")
        else:
            mounts = [
                Route("/chat{path:path}", aisdk.chat(chats.server, "answer")),
                Mount("/agent", agui.agent(chats.server, "answer")),
            ]
            starlette = Starlette(routes=mounts, lifespan=lifespan(chats.server))
            url = f"http://127.0.0.1:{await stack.enter_async_context(uvicorn_serving(starlette))}"
        yield chats, Browser(await stack.enter_async_context(aiohttp.ClientSession()), url)
        chats.gate.set()


def sent(text: str = "Why?", **more: Any) -> dict[str, Any]:
    """What `useChat` sends."""
    said = {"id": "m", "role": "user", "parts": [{"type": "text", "text": text}]}
    return {"id": "c", "messages": [said], "trigger": "submit-message", **more}


def run(text: str = "Why?", **more: Any) -> dict[str, Any]:
    """What an `HttpAgent` sends."""
    return {"threadId": "c", "runId": "r", "messages": [{"id": "m", "role": "user", "content": text}], **more}


LONG = "x" * 1_000_000
ODD = {
    "no body": ("POST", "/chat", None, 400, "this is not what a client"),
    "no JSON": ("POST", "/chat", "{", 400, "the arguments cannot be read"),
    "a list": ("POST", "/chat", [1], 400, "this is not what a client"),
    "no id": ("POST", "/chat", {"messages": sent()["messages"]}, 400, "this is not what a client"),
    "an id that is no text": ("POST", "/chat", sent(id=None), 400, "the ids of a chat are texts of at most 1000"),
    "an empty id": ("POST", "/chat", sent(id=""), 400, "the ids of a chat are texts"),
    "a long id": ("POST", "/chat", sent(id=LONG), 400, "the ids of a chat are texts"),
    "a long id in the URL": ("GET", f"/chat/{LONG[:5000]}/stream", None, 204, ""),
    "half a character": (
        "POST",
        "/chat",
        '{"id": "\\ud800", "messages": [{"role": "user"}]}',
        400,
        "the arguments cannot",
    ),
    "no messages": ("POST", "/chat", sent(messages=[]), 400, "this is not what a client"),
    "messages that are a text": ("POST", "/chat", sent(messages="abc"), 400, "this is not what a client"),
    "messages that are a dict": ("POST", "/chat", sent(messages={}), 400, "this is not what a client"),
    "a message that is none": ("POST", "/chat", sent(messages=[None]), 400, "this is not what a client"),
    "a long id of a message": (
        *("POST", "/chat", sent(messages=[{"role": "assistant", "id": LONG, "parts": []}])),
        *(400, "the ids of a chat are texts"),
    ),
    "an agent's run without an id": ("POST", "/agent", {"threadId": "c", "messages": []}, 400, "this is not what a"),
    "an agent's run with a long id": ("POST", "/agent", run(runId=LONG), 400, "the ids of a chat are texts"),
    "an agent's messages that are a number": ("POST", "/agent", run(messages=7), 400, "this is not what a client"),
    "a chat that nobody knows": ("GET", "/chat/x/stream", None, 204, ""),
    "to stop what nobody knows": ("DELETE", "/chat/x/stream", None, 204, ""),
    "no id in the URL": ("GET", "/chat/stream", None, 404, "a chat has POST"),
    "another path": ("GET", "/chat/x/y", None, 404, "a chat has POST"),
    "another method": ("PUT", "/chat", sent(), 404, "a chat has POST"),
    "a URL that is not UTF-8": ("GET", "/chat/%FF/stream", None, 400, "the URL is not UTF-8"),
}
"""Method, path, body, the status, and how the text of the error begins."""


@pytest.mark.parametrize("host", ["uvicorn", "aiohttp"])
async def test_odd_requests_get_a_reason_and_start_nothing(host: str) -> None:
    async with serving(host) as (chats, browser):
        for name, (method, path, body, status, begins) in ODD.items():
            answer = await browser.ask(method, path, body, ADA)
            assert answer.status == status, (name, answer.text)
            assert (answer.json["error"]["message"] if status >= 400 else "").startswith(begins), (name, answer.text)
        for method, path, body in (("POST", "/chat", sent()), ("GET", "/chat/c/stream", None)):
            refused = await browser.ask(method, path, body)  # without a principal
            assert (refused.status, refused.json["error"]["code"]) == (403, "forbidden")
        assert chats.asked == []


def chunks_in(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def text_of(stream: str) -> str:
    return "".join(chunk.get("delta", "") for chunk in chunks_in(stream))


async def whole(response: asyncio.Task[Any]) -> str:
    """Return the texts of a stream that has ended."""
    return text_of((await response).text)


def asking(browser: Browser, method: str, path: str, body: Any = None, who: Any = ADA) -> asyncio.Task[Any]:
    return asyncio.create_task(browser.ask(method, path, body, who))


async def test_many_tabs_send_one_message_at_once() -> None:
    """They got an answer each."""
    async with serving() as (chats, browser), asyncio.timeout(60):
        for text in ("First!", "Second!"):
            chats.asked.clear()
            chats.gate.clear()
            bodies = [("/chat", sent(text)), ("/agent", run(text, threadId="d"))]
            tabs = (
                browser.session.request("POST", browser.url + path, json=body, headers=ADA)
                for path, body in bodies * 10
            )
            responses = await asyncio.gather(
                *tabs
            )  # none comes after the end: an agent that asks then gets another run
            chats.gate.set()
            texts = [await response.text() for response in responses]
            assert {text_of(each) for each in texts} == {"It depends."}
            assert chats.asked == [text, text]


CONTINUED = [
    {"type": "step-start"},
    {"type": "text", "text": "Let me ask.", "state": "done"},
    {"type": "reasoning", "text": "Hm."},
    {"type": "tool-color", "toolCallId": "1", "state": "output-available", "input": {"a": 1}, "output": "green"},
    {"type": "dynamic-tool", "toolName": "size", "toolCallId": "2", "state": "output-error", "errorText": "no"},
    {"type": "data-cost", "data": 17},
]


async def test_who_joins_gets_also_what_the_continued_message_had_before() -> None:
    """A page that was loaded again lost it. It calls no tool: it would for the chunk `tool-input-available`."""
    async with serving() as (chats, browser), asyncio.timeout(60):
        message = {"id": "m-2", "role": "assistant", "parts": CONTINUED}
        url = f"{browser.url}/chat"
        body: Any = {"json": sent(messages=[message]), "headers": ADA}
        responses = [await browser.session.request("POST", url, **body)]
        responses.append(await browser.session.request("GET", f"{url}/c/stream", headers=ADA))
        responses.append(await browser.session.request("POST", url, **body))
        chats.gate.set()
        chunks = [chunks_in(await response.text()) for response in responses]
        assert chunks[0] == chunks[2] and chunks[0][0] == chunks[1][0] == {"type": "start", "messageId": "m-2"}
        assert chunks[1][-len(chunks[0]) + 1 :] == chunks[0][1:]
        assert [chunk["type"] for chunk in chunks[1][1 : -len(chunks[0]) + 1]] == [
            *("start-step", "text-start", "text-delta", "text-end"),
            *("reasoning-start", "reasoning-delta", "reasoning-end"),
            *("tool-input-start", "tool-input-delta", "tool-output-available"),
            *("tool-input-start", "tool-input-delta", "tool-output-error", "data-cost"),
        ]


async def test_users_with_the_same_id_of_a_chat_know_nothing_of_each_other() -> None:
    async with serving() as (chats, browser), asyncio.timeout(60):
        ada = asking(browser, "POST", "/chat", sent())
        await until(lambda: len(chats.asked) == 1)
        assert (await browser.ask("GET", "/chat/c/stream", None, BOB)).status == 204
        assert (await browser.ask("DELETE", "/chat/c/stream", None, BOB)).status == 204
        bob = asking(browser, "POST", "/chat", sent(), BOB)
        await until(lambda: len(chats.asked) == 2)
        assert (await browser.ask("DELETE", "/chat/c/stream", None, BOB)).status == 204
        assert await whole(bob) == "It"
        chats.gate.set()
        assert await whole(ada) == "It depends."


async def test_a_chat_that_is_stopped_while_a_message_arrives_has_no_run_that_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run was known, but had not begun: nobody could stop it."""
    held, released = asyncio.Event(), asyncio.Event()
    ask = ChatRuns.ask

    async def slowly(*args: Any) -> Any:
        found = await ask(*args)
        held.set()
        await released.wait()
        return found

    monkeypatch.setattr(ChatRuns, "ask", slowly)
    async with serving() as (chats, browser), asyncio.timeout(60):
        posted = asking(browser, "POST", "/chat", sent())
        await held.wait()
        assert (await browser.ask("DELETE", "/chat/c/stream", None, ADA)).status == 204
        released.set()
        assert '"abort"' in (await posted).text
        assert (await browser.ask("GET", "/chat/c/stream", None, ADA)).status == 204
        chats.gate.set()
        assert await whole(asking(browser, "POST", "/chat", sent())) == "It depends."


async def test_chats_are_limited_by_what_their_user_may_keep() -> None:
    async with serving(store=MemoryStore(payer_bytes=20_000)) as (chats, browser):
        chats.gate.set()
        ids = map(str, itertools.count())
        while (answer := await browser.ask("POST", "/chat/", sent(id=next(ids)), ADA)).status == 200:
            pass
        assert (answer.status, answer.json["error"]["code"]) == (503, "wsrpc.overloaded")
        assert (await browser.ask("POST", "/chat", sent(), BOB)).status == 200


class Away(MemoryStore):
    is_away = False

    async def read(self, *args: Any, **options: Any) -> Any:
        if self.is_away:
            raise StoreLost("it is away")
        return await super().read(*args, **options)


async def test_a_store_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "STORE_TIMEOUT", 0.01)
    async with serving(store=(store := Away())) as (_, browser):
        store.is_away = True
        for method, path, body in (("POST", "/chat", sent()), ("GET", "/chat/c/stream", None)):
            answer = await browser.ask(method, path, body, ADA)
            assert (answer.status, answer.json["error"]["code"]) == (503, "wsrpc.overloaded")


async def test_a_reader_that_does_not_read_holds_up_nobody_and_is_told_what_it_has_missed() -> None:
    async with serving() as (chats, browser), asyncio.timeout(60):
        async with browser.session.post(f"{browser.url}/chat", json=sent("Much!"), headers=ADA) as reader:
            await until(lambda: chats.written == 20_000_000)
            again = await browser.ask("GET", "/chat/c/stream", None, ADA)
            assert (again.status, again.json["error"]["code"]) == (410, "wsrpc.items_gone")
            chats.gate.set()
            assert '"error"' in (await reader.text())[-1000:]


async def test_an_item_after_the_end_is_told() -> None:
    async with serving() as (chats, browser):
        chats.gate.set()
        text = (await browser.ask("POST", "/agent", run("Late!"), ADA)).text
    assert text.endswith('"RUN_FINISHED","threadId":"c","runId":"r"}\n\n')


async def answers(asked: dict[str, Any]) -> str:
    return ""


async def test_a_message_that_was_answered_is_not_answered_again_and_stop_ends_all_that_goes_on() -> None:
    async with serving() as (chats, browser), asyncio.timeout(60):
        chats.gate.set()
        first = (await browser.ask("POST", "/chat", sent("Short"), ADA)).text
        assert (await browser.ask("POST", "/chat", sent("Short"), ADA)).text == first
        chats.gate.clear()
        async with AsyncExitStack() as stack:
            readers = [
                await stack.enter_async_context(
                    browser.session.post(f"{browser.url}/chat", json=sent(text), headers=ADA)
                )
                for text in ("One", "Two")
            ]
            assert (await browser.ask("DELETE", "/chat/c/stream", None, ADA)).status == 204
            assert [(await each.text()).count('"abort"') for each in readers] == [1, 1]


NOT_KEPT: list[tuple[Any, str]] = [
    (lambda server: None, "the server has no handler for 'answer'"),
    (lambda server: server.on("answer", answers), "has keep=, without scope="),
    (lambda server: server.on("answer", answers, keep=60), "a handler that answers chats yields items"),
    (lambda server: server.on("answer", answers, keep=Keep(60, scope=lambda peer, asked: "")), "without scope="),
]


@pytest.mark.parametrize(("register", "told"), NOT_KEPT)
@pytest.mark.parametrize("routes", [aisdk.chat, agui.agent])
def test_a_handler_that_cannot_answer_chats(register: Any, told: str, routes: Any) -> None:
    server = Server()
    register(server)
    with pytest.raises(TypeError, match=told):
        routes(server, "answer")
