"""Unmodified clients of the AI SDK and of AG-UI, the newest and an older version of each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from asgi_servers import uvicorn_serving
from hosts import running
from starlette.applications import Starlette
from starlette.routing import Mount

from interop.asking import asking
from interop.chat_tabs import AGENT, NEWEST, OLDER, OLDER_AGENT, tab
from wsrpc import BadArguments, Context, Handshake, Keep, RemoteError, RpcError, Server, local_client
from wsrpc._http_server import chats
from wsrpc.store import MemoryStore
from wsrpc_adapters.agui import add_agent, agent
from wsrpc_adapters.aisdk import add_chat, chat
from wsrpc_adapters.asgi import asgi, lifespan

WORDS = ["It", " depends", " on", " the", " context", "."]


@pytest.fixture(autouse=True)
def pulses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments between the items, as a model that thinks for longer than `PULSE` causes them."""
    monkeypatch.setattr(chats, "PULSE", 0.02)


class Model:
    """A model that writes the next word when it may."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.steps = asyncio.Semaphore(0)
        self.asked: list[str] = []
        self.outcomes: list[str] = []

    def server(self) -> Server:
        server = Server(store=self.store)

        @server.on_handshake
        def log_in(handshake: Handshake) -> None:
            handshake.principal = handshake.bearer_token

        async def note(run: Any) -> None:
            self.outcomes.append(run.outcome)

        @server.on("answer", keep=Keep(600, attempts=3, on_end=note, inbox=Any))
        async def answer(ctx: Context, asked: dict[str, Any]) -> AsyncIterator[Any]:
            earlier = (await ctx.earlier()).items
            last = asked["messages"][-1]
            question = last["content"] if "threadId" in asked else last["parts"][-1].get("text", "")
            if not earlier:
                self.asked.append(question)
            if last["role"] == "assistant":  # with the result of its tool
                yield f"You said {last['parts'][-1]['output']}."
                return
            if "Ask" in question:
                async with aclosing(asking(ctx, asked, question, self.steps)) as events:
                    async for event in events:
                        yield event
                return
            for word in WORDS[len(earlier) :]:
                await self.steps.acquire()
                yield word
            if question == "Fail!":
                raise RpcError("the model is tired")
            if question == "Odd!":
                yield {"type": "colour", "colour": "red"}
            is_agent = "threadId" in asked
            yield {"type": "CUSTOM", "name": "cost", "value": 17} if is_agent else {"type": "data-cost", "data": 17}

        return server

    def write(self, words: int = 100) -> None:
        for _ in range(words):
            self.steps.release()

    def pause(self) -> None:
        self.steps = asyncio.Semaphore(0)


@asynccontextmanager
async def serving(server: Server, host: str) -> AsyncGenerator[str]:
    async with AsyncExitStack() as stack:
        if host == "aiohttp":
            app = web.Application()
            add_chat(app, "/api/chat", server, "answer")
            add_agent(app, "/api/agent", server, "answer")
            app.on_shutdown.append(lambda _: server.close())
            yield (await stack.enter_async_context(running(app))).replace("ws://", "http://").removesuffix("/ws")
        else:
            mounts = [Mount("/api/chat", chat(server, "answer")), Mount("/api/agent", agent(server, "answer"))]
            mounted = Starlette(routes=[*mounts, Mount("/ws", asgi(server))], lifespan=lifespan(server))
            where = f"127.0.0.1:{await stack.enter_async_context(uvicorn_serving(mounted))}"
            yield f"ws://{where}/ws/" if host == "connection" else f"http://{where}"


def other_way(url: str) -> str:
    """Return the URL for a connection if this one is for HTTP, and the other way round."""
    return url[:-4].replace("ws", "http") if url.startswith("ws") else url.replace("http", "ws") + "/ws/"


CLIENTS = [(NEWEST, "uvicorn"), (OLDER, "aiohttp"), (NEWEST, "connection"), (OLDER, "connection")]
WHOLE = [["user", "Why?"], ["assistant", "It depends on the context."]]


@pytest.mark.parametrize(("library", "host"), CLIENTS)
async def test_an_answer_is_read_through_reloads_and_in_a_second_tab(library: str, host: str) -> None:
    model = Model()
    async with serving(model.server(), host) as url, tab(library, url) as page:
        await page.do("send", "Why?")
        model.write(2)
        before = await page.shown("It depends")
        assert await page.do("reload", 1) == 200
        assert (await page.shown("It depends"))["ids"] == before["ids"]
        async with tab(library, url if host == "aiohttp" else other_way(url)) as second:
            await second.shown("It depends")
            model.write()
            for each, texts in ((page, WHOLE), (second, WHOLE[1:])):
                whole = await each.shown()
                assert (whole["status"], whole["texts"]) == ("ready", texts)
        assert await page.do("reload", 2) == 204  # what has ended is not read again
        assert (await page.shown())["texts"] == WHOLE
        # Another answer to the same message, and then another message.
        await page.do("regenerate")
        assert (await page.shown())["texts"] == WHOLE
        await page.do("send", "And then?")
        assert len((await page.shown())["texts"]) == 4
        assert model.asked == ["Why?", "Why?", "And then?"]


@pytest.mark.parametrize(("library", "host"), CLIENTS)
async def test_stop_of_the_page_ends_its_reading_and_stop_of_the_model_ends_the_answer(library: str, host: str) -> None:
    model = Model()
    async with serving(model.server(), host) as url, tab(library, url) as page, tab(library, url) as second:
        await page.do("send", "Why?")
        model.write(2)
        await page.shown("It depends")
        assert await second.do("reload", 0) == 200
        await second.shown("It depends")
        await page.do("stop")
        assert (await page.shown())["status"] == "ready"
        model.write(1)
        await second.shown("It depends on")
        assert await page.do("reload", 1) == 200  # the resume is not broken
        await page.shown("It depends on")

        assert await page.do("stopModel") in (204, None)
        for each in (page, second):
            found = await each.shown()
            assert (found["status"], found["texts"][-1][1]) == ("ready", "It depends on")
        assert await page.do("reload", 2) == 204  # nothing goes on
        assert (await page.shown())["texts"][-1][1] == "It depends on"
        model.pause()
        await page.do("send", "And now?")
        model.write()
        assert (await page.shown())["texts"][-1][1] == "It depends on the context."
    assert model.outcomes == ["stopped", "done"]


@pytest.mark.parametrize("library", [NEWEST, OLDER])
async def test_an_answer_goes_on_in_another_process(library: str) -> None:
    model = Model()
    first, second = model.server(), model.server()
    async with serving(second, "uvicorn") as other:
        async with serving(first, "uvicorn") as url, tab(library, url) as page:
            await page.do("send", "Why?")
            model.write(2)
            await page.shown("It depends")
            await first.close()
            assert (await page.shown())["status"] == "error"
        async with tab(library, other) as page:
            await page.shown("It depends")
            model.write()
            assert (await page.shown())["texts"] == WHOLE[1:]
    assert model.asked == ["Why?"]


@pytest.mark.parametrize(("library", "host"), CLIENTS)
async def test_a_failure_and_what_the_client_does_not_know_are_told(
    library: str, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model()
    model.write()
    async with serving(model.server(), host) as url, tab(library, url) as page:
        for question, told in (("Fail!", "the model is tired"), ("Odd!", "got 'colour'")):
            await page.do("send", question)
            found = await page.shown()
            assert found["status"] == "error" and told in found["error"]
    assert host == "connection" or "got 'colour'" in caplog.text


AGENTS = [(AGENT, "uvicorn"), (OLDER_AGENT, "aiohttp"), (AGENT, "connection"), (OLDER_AGENT, "connection")]


@pytest.mark.parametrize(("library", "host"), AGENTS)
async def test_an_agent_is_read_through_a_reload_a_stop_and_an_end(library: str, host: str) -> None:
    model = Model()
    async with serving(model.server(), host) as url, tab(library, url) as page:
        await page.do("send", "Why?")
        model.write(2)
        await page.shown("It depends")
        await page.do("stop")  # of the page: it only ends its reading
        await page.do("reload", 1)
        await page.shown("It depends")
        model.write()
        whole = await page.shown()
        assert whole["texts"] == WHOLE
        assert (whole["types"][0], whole["types"][-2:]) == ("RUN_STARTED", ["CUSTOM", "RUN_FINISHED"])
        assert model.asked == ["Why?"]

        model.pause()
        await page.do("send", "And now?")
        model.write(1)
        await page.shown("It")
        assert await page.do("stopModel") in (204, None)
        stopped = await page.shown()
        assert (stopped["types"][-1], stopped["texts"][-1][1]) == ("RUN_ERROR", "It")
        model.write()
        for question, told in (("Fail!", "the model is tired"), ("Odd!", "got 'colour'")):
            await page.do("send", question)
            assert told in (await page.shown())["error"]
    assert model.outcomes == ["done", "stopped", "failed", "done"]


@pytest.mark.parametrize("library", [AGENT, OLDER_AGENT])
async def test_an_agent_goes_on_in_another_process(library: str) -> None:
    model = Model()
    first, second = model.server(), model.server()
    async with serving(second, "uvicorn") as other:
        async with serving(first, "uvicorn") as url, tab(library, url) as page:
            await page.do("send", "Why?")
            model.write(2)
            await page.shown("It depends")
            await first.close()
            assert (await page.shown())["error"]
        async with tab(library, other) as page:
            assert await page.do("join") == 200
            model.write()
            rest = await page.do("rest")
            assert '"delta":"It"' in rest and "RUN_FINISHED" in rest
    assert model.asked == ["Why?"]


@pytest.mark.parametrize("library", [NEWEST, OLDER, AGENT, OLDER_AGENT])
async def test_a_tool_of_the_page_is_called_once_for_the_run_that_goes_on_with_its_result(library: str) -> None:
    model = Model()
    async with serving(model.server(), "connection") as url, tab(library, url) as page:
        await page.do("send", "Ask!")
        await page.do("until", "yes")
        await page.do("reload", 1)
        await page.do("until", "yes")
        async with tab(library, url) as second:
            await second.do("connect")
            await second.do("until", "yes")
            model.write()
            for each in (page, second):
                assert (await each.shown())["texts"][-1][1] == "You said {'says': 'yes'}."
            assert (await page.do("asked"), await second.do("asked")) == (["Ask!"], [])
        await page.do("send", "Ask, and fail!")
        assert (await page.shown())["texts"][-1][1] == "You said {'error': 'Error: nobody is here'}."
    assert model.outcomes == ["done", "done"]


@pytest.mark.parametrize(("library", "host"), CLIENTS)
async def test_the_result_of_a_tool_is_the_next_message(library: str, host: str) -> None:
    model = Model()
    async with serving(model.server(), host) as url, tab(library, url) as page:
        await page.do("send", "Ask in a message!")
        found = await page.shown("You said no.")
        assert [role for role, _ in found["texts"]] == ["user", "assistant"]
    assert model.asked == ["Ask in a message!", ""]


async def test_a_page_asks_for_the_runs_of_its_user_on_a_named_channel() -> None:
    server = Server()

    @server.of("models").on("answer", keep=Keep(60))
    async def answer(asked: dict[str, Any]) -> AsyncIterator[str]:
        yield "It"
        await asyncio.get_running_loop().create_future()

    chat(server, "models:answer")
    async with local_client(server, principal="ada") as ada, local_client(server, principal="bob") as bob:
        find = ada.of("models").request
        asked = {"id": "c", "messages": [{"id": "m", "role": "user"}]}
        found = await find("answer.aisdk", "ask", "c", asked)
        assert found["items"] is None and await find("answer.aisdk", "join", "c") is None  # it is to be started
        async with ada.of("models").stream("answer", {}, key=found["key"]) as items:
            assert await anext(items) == "It"
            again = {"key": found["key"], "answer": found["answer"], "items": 1, "before": []}
            assert await find("answer.aisdk", "join", "c") == await find("answer.aisdk", "ask", "c", asked) == again
            assert await bob.of("models").request("answer.aisdk", "join", "c") is None
            await find("answer.aisdk", "stop", "c")
            with pytest.raises(RemoteError, match="stopped"):
                await anext(items)
        assert await find("answer.aisdk", "join", "c") is None
        continued = {"id": "m2", "role": "assistant", "parts": [{"type": "text", "text": "So far"}]}
        found = await find("answer.aisdk", "ask", "c", {"id": "c", "messages": [continued]})
        async with ada.of("models").stream("answer", {}, key=found["key"]) as items:
            assert await anext(items) == "It"
            before = (await find("answer.aisdk", "join", "c"))["before"]
            assert (
                found["answer"] == "m2"
                and not found["before"]
                and [each.get("delta") for each in before][1] == "So far"
            )
        with pytest.raises(BadArguments, match="this is not what a client of the protocol sends"):
            await find("answer.aisdk", "ask", "c", {"id": "c"})
    async with local_client(server) as nobody:
        with pytest.raises(RemoteError, match="a chat needs a principal"):
            await nobody.of("models").request("answer.aisdk", "join", "c")
