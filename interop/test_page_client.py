"""How the calls of a page's client end, and those of a server to the page: kinds of calls x what happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from interop.page_client import Page, Stage, words
from wsrpc import ConnectionLost, Limits, RemoteError, RequestTimeout, RpcError, Server, WsrpcError
from wsrpc.testing import FaultProxy

pytestmark = pytest.mark.usefixtures("nothing_left")

KINDS = "request", "stream", "upload", "conversation"
VALUES = {"request": "result", "stream": [1, 2], "upload": 6, "conversation": [1, 2]}
"""What each kind brings when all goes well. `event` has no answer, and the last table to itself."""

# Who calls: the page on the main channel or a named one, in JSON or MessagePack; the server.
# What the caller gets, with the code and the outcome; and what the handler does: it is done, stops, or "-": never began.
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
detached, lost    | ConnectionLost 1006 not_sent     | -
detached, closes  | ConnectionLost 1000 not_sent     | -
never connected   | ConnectionLost 1000 not_sent     | -
too many wait     | Refused not_sent                 | -
closed            | ConnectionLost not_sent          | -
"""

FROM_THE_SERVER = """
answers           | ok                               | done
raises            | RemoteError limit                | done
fails             | RemoteError                      | done
unencodable error | RemoteError                      | done
bigint            | RemoteError                      | done
unknown name      | UnknownEvent unknown_event       | -
timeout           | RequestTimeout unknown           | stop
aborted           | CancelledError                   | stop
resumes           | ok                               | done
resumes, aborted  | CancelledError                   | stop
lost              | ConnectionLost unknown           | stop
no session        | ConnectionLost unknown           | stop
server closes     | ConnectionLost unknown           | stop
page closes       | ConnectionLost unknown           | stop
detached          | ok                               | done
detached, aborted | CancelledError                   | -
"""

EXCEPTIONS: dict[tuple[str, str, str], tuple[str, str]] = {}


def rows(table: str) -> dict[str, tuple[str, str]]:
    found = [[cell.strip() for cell in line.split("|")] for line in table.strip().splitlines()]
    return {row: (outcome, handler) for row, outcome, handler in found}


FORWARD, BACKWARD = rows(FROM_THE_PAGE), rows(FROM_THE_SERVER)


@asynccontextmanager
async def staged(
    limits: Limits | None = None, *, connected: bool = True, **options: Any
) -> AsyncGenerator[tuple[Page, Stage, FaultProxy]]:
    """A page and a server, with a proxy between them."""
    stage = Stage(Server(limits=limits or Limits(close_timeout=1)))
    async with stage.server.listen() as listener, FaultProxy(listener.url) as proxy:
        if connected:
            async with Page.start(proxy.url, **options) as page:
                await page.notes.until("open")
                # The server knows the page's features, and the page those of the server.
                assert await page.do("ask", name="sync") == "synced"
                yield page, stage, proxy
        else:
            async with proxy.refuse(), Page.start(proxy.url, **options) as page:
                yield page, stage, proxy


async def happens(
    row: str, page: Page, stage: Stage, proxy: FaultProxy, call: asyncio.Future[Any], handlers: Page | Stage
) -> None:
    """Let it happen to a call whose handler waits."""

    async def release(how: str = "answer") -> None:
        if isinstance(handlers, Stage):
            handlers.release(how)
        else:
            await handlers.do("release", how=how)

    async def abort() -> None:
        if isinstance(handlers, Stage):
            await page.abort(call, "circular" if row == "aborted oddly" else None)
        else:
            call.cancel()

    match row:
        case "answers":
            await release()
        case "raises" | "fails":
            await release(row.removesuffix("s"))
        case "gives up":
            await release("give up")
        case "unencodable error":
            await release("unencodable")
        case "bigint":
            await release("bigint")
        case "aborted" | "aborted oddly":
            await abort()
        case "aborted after":
            await release()
            await asyncio.wait([call])
            await abort()
        case "resumes":
            proxy.drop()
            await page.notes.until("detached")
            await page.notes.until("open", 2)
            await release()
        case "resumes, aborted":
            async with proxy.cut():
                await page.notes.until("detached")
                await turns_until(lambda: not stage.peer.connected)
                await abort()
        case "lost":
            async with proxy.cut():
                await page.notes.until("detached")
                await stage.peer.close()
        case "no session":
            proxy.drop()
        case "drains":
            closing = asyncio.create_task(stage.server.close(drain=30))
            await turns_until(lambda: not stage.server.healthy)
            await release()
            await closing
        case "server closes":
            await stage.server.close()
        case "page closes":
            await page.do("close")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", FORWARD)
async def test_calls_of_the_page(row: str, kind: str) -> None:
    await a_call_of_the_page(row, kind)


@pytest.mark.parametrize("row", [row for row in FORWARD if "closes" not in row])
@pytest.mark.parametrize(("channel", "codec"), [("named", "json"), (None, "msgpack")], ids=["named", "msgpack"])
async def test_requests_elsewhere(row: str, channel: str | None, codec: str) -> None:
    await a_call_of_the_page(row, "request", channel=channel, codec=codec)


async def a_call_of_the_page(row: str, kind: str, *, channel: str | None = None, codec: str = "json") -> None:
    outcome, handled = EXCEPTIONS.get(("page", kind, row), FORWARD[row])
    waits = row.startswith(("not connected", "never connected", "too many"))
    limits = Limits(close_timeout=1, replay=0) if row == "no session" else None
    options = {"options": {"timeout": 0, "offline": 1}, "codec": codec}
    async with staged(limits, connected=not waits, **options) as (page, stage, proxy):
        how: dict[str, Any] = {"kind": kind, "channel": channel}
        match row:
            case "bad arguments":
                how["args"] = [1, 2, 3]
            case "unknown name":
                how["name"] = "nobody"
            case "timeout":
                how |= {"name": "hang", "timeout": 20}
            case "aborted before":
                how["aborted"] = True
            case "too many wait":
                await page.call("request", name="sync")
            case "closed":
                await page.do("close")
        if row.startswith("detached"):
            async with proxy.cut():
                await page.notes.until("detached")
                await turns_until(lambda: not stage.peer.connected)
                call = await page.call(**how, **({"timeout": 20} if row == "detached, timeout" else {}))
                if row == "detached, aborted":
                    await page.abort(call)
                elif row == "detached, closes":
                    await page.do("close")
                elif row == "detached, lost":
                    await stage.peer.close()
                if row != "detached" and row != "detached, lost":
                    told = await call
        else:
            call = await page.call(**how)
        if row == "never connected":
            await page.do("close")
        elif row == "not connected":
            pass  # the test below lets it connect
        elif outcome == "ok" or handled != "-" and row != "timeout":
            await stage.notes.until("began")
            if kind in ("stream", "conversation"):
                await page.notes.until("item 1")
            if row == "detached":
                stage.release()
            await happens(row, page, stage, proxy, call, stage)
        if row == "not connected":
            return
        told = await call
        assert words(told) == outcome
        if outcome == "ok":
            assert told["ok"] == VALUES[kind]
        if handled != "-":
            await stage.notes.until(handled)
        if await page.do("status") == "open":
            assert await page.do("ask", name="sync") == "synced"
            assert stage.peer.ignored == {}
        assert stage.notes.handled() == handled
        assert await page.do("ignored") == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", BACKWARD)
async def test_calls_of_the_server(row: str, kind: str) -> None:
    outcome, handled = EXCEPTIONS.get(("server", kind, row), BACKWARD[row])
    limits = Limits(close_timeout=1, replay=0) if row == "no session" else None
    async with staged(limits) as (page, stage, proxy):
        taken: list[Any] = []
        name = "nobody" if row == "unknown name" else kind
        timeout = 0.02 if row == "timeout" else None

        async def call() -> Any:
            peer = stage.peer
            match kind:
                case "request":
                    return await peer.request(name, timeout=timeout)
                case "upload":
                    return await peer.request(name, send=[1, 2, 3], timeout=timeout)
                case "stream":
                    async for item in peer.stream(name, timeout=timeout):
                        taken.append(item)
                    return taken
            async with await peer.open_channel(name, timeout=timeout) as channel:
                async for line in channel.events("line"):
                    taken.append(line)
            return taken

        if row.startswith("detached"):
            async with proxy.cut():
                await page.notes.until("detached")
                await turns_until(lambda: not stage.peer.connected)
                task = asyncio.create_task(call())
                await asyncio.sleep(0)
                if row == "detached, aborted":
                    task.cancel()
            await page.notes.until("open", 2)
        else:
            task = asyncio.create_task(call())
        if handled != "-":
            await page.notes.until("began")
            if kind in ("stream", "conversation"):
                await turns_until(lambda: taken)
            if row == "detached":
                await page.do("release", how="answer")
            await happens(row, page, stage, proxy, task, page)
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            found = "CancelledError"
        elif error is None:
            found = "ok"
            assert task.result() == VALUES[kind]
        else:
            parts = type(error).__name__, getattr(error, "code", None), getattr(error, "outcome", None)
            found = " ".join(str(part).removeprefix("wsrpc.") for part in parts if part is not None)
        assert found == outcome, error
        if handled != "-":
            await page.notes.until(handled)
        if await page.do("status") == "open" and stage.server.peers:
            assert await page.do("ask", name="sync") == "synced"
            assert stage.peer.ignored == {}
        assert page.notes.handled() == handled
        assert await page.do("ignored") == {}
