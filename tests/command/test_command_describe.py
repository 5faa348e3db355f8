"""`wsrpc describe`, and `types` and `client` with a URL: a server is asked for its description."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Protocol

import msgspec
import pytest
from command_process import prints, refusal, serving

from wsrpc import AnonymousChannel, Client, Handshake, RemoteError, RpcError, Server, Stream, method
from wsrpc._command.command_errors import Failure
from wsrpc._command.description_request import ask, describes, written
from wsrpc._core.wire.rejections import DESCRIPTION_CHANGED
from wsrpc.codegen._checking import InvalidDescription
from wsrpc.errors import made_here
from wsrpc.schema import describe

Page = Callable[..., Any]


class Line(msgspec.Struct):
    """One line of the chat."""

    who: str
    text: Annotated[str, msgspec.Meta(description="what was said")]


class Events(Protocol):
    async def said(self, line: Line, /) -> None: ...
    async def name(self) -> str: ...
    def typed(self) -> Stream[str]: ...
    @method(deprecated="listen\nto 'said'")
    async def wrote(self) -> None:
        """Somebody has written."""


SIGNATURES = """\
the main channel:
  add(a: number, b: number) -> number
      Add two numbers.
  args(...args: unknown[]) -> unknown[]
  countdown(start: number) -> stream of number
  crash() -> null
"""


async def test_signatures_are_readable() -> None:
    async with serving() as played:
        server = played.server

        async def talk(channel: AnonymousChannel) -> None: ...

        def last(count: int = 1, of: str | None = None) -> list[Line]:
            return []

        server.of("chat").on("talk", talk)
        server.of("chat").on("last", last, deprecated="use 'history'")
        server.of("chat").declare(Events)
        server.offer_description()
        out = await prints("describe", played.url)
        assert out.startswith(SIGNATURES)
        assert "\n  doubled(upload of number) -> stream of number\n" in out
        assert out.endswith("""\
channel chat:
  ask() -> unknown[]
  last(count: number = 1, of: string | null = null) -> Line[]
      deprecated: use 'history'
  say(text: string, urgent: boolean = false) -> string
      Say something.

      To all who listen.
  talk() -> conversation
emits on channel chat:
  name() -> string
  said(line: Line)
  typed() -> stream of string
  wrote()
      deprecated: listen\\nto 'said'
      Somebody has written.
types:
  Line = {
    who: string
    /** what was said */
    text: string
  }
""")
        said = await refusal(1, "describe", played.url, "--channel", "none")
        assert said == "the server's description has no channel 'none'"
        assert (await prints("describe", played.url, "--channel", "chat")).startswith("channel chat:\n")
        found = json.loads(await prints("describe", played.url, "--json"))
        assert [event["event"] for event in found["emits"]] == ["name", "said", "typed", "wrote"]
        assert "Line" in found["$defs"]


@pytest.mark.parametrize(("command", "code"), [("describe", 1), ("types", 2)])
async def test_a_server_that_does_not_describe_itself(command: str, code: int) -> None:
    async with serving() as played:
        said = f"{played.url} does not offer its description: call server.offer_description() there"
        assert await refusal(code, command, played.url) == said
        played.server.offer_description(allow=lambda peer: False)
        assert await refusal(code, command, played.url) == f"{played.url} refuses to describe itself: not allowed"
    assert "Connect" in await refusal(3 if command == "describe" else 2, command, played.url)


async def test_headers_are_sent() -> None:
    async with serving() as played:
        played.server.offer_description()

        @played.server.on_handshake
        def check(handshake: Handshake) -> None:
            if handshake.headers.get("x-a") != "b":
                handshake.reject(401, "log in")

        assert "Made by" in await prints("client", played.url, "--header", "X-A:b")
        said = await refusal(2, "client", played.url)
        refused = f"the server at '{played.url}' refused the connection with HTTP 401: log in"
        assert said.startswith(f"{played.url}: could not connect: {refused}")


# ---------------------------------------------------------------- pages


@asynccontextmanager
async def describing(page: Page) -> AsyncGenerator[str]:
    """A server that answers `describe` by hand; the URL."""
    server = Server()
    server.of("wsrpc").on("describe", page)
    async with server.listen("127.0.0.1", 0) as listener:
        yield f"ws://127.0.0.1:{listener.port}/"


async def test_a_server_that_offers_its_description_is_asked(tmp_path: Path) -> None:
    """Page by page, whatever the pages have."""
    server = Server()
    server.of("chat").on("last", lambda count=1: None)
    server.of("chat").declare(Events)
    made = json.loads(msgspec.json.encode(describe(server)))
    parts: list[Any] = [{"definition": {"name": name, "schema": each}} for name, each in made["$defs"].items()]
    parts += [{kind: event} for kind, each in (("event", "events"), ("emits", "emits")) for event in made[each]]
    (tmp_path / "app.json").write_bytes(msgspec.json.encode(describe(server)))
    server.offer_description()

    def page(after: str | None = None) -> dict[str, Any]:
        number = int(after or 0)
        return {"items": parts[number : number + 1], "next": str(number + 1) if number < len(parts) - 1 else None}

    async with server.listen("127.0.0.1", 0) as listener, describing(page) as paged:
        for command in ("client", "types"):
            shown = await prints(command, "app.json", cwd=tmp_path)
            assert await prints(command, listener.url) == await prints(command, paged) == shown


async def asked(page: Page, **options: Any) -> dict[str, Any]:
    async with describing(page) as url:
        try:
            return await asyncio.to_thread(ask, url, {}, **options)
        except Failure as exc:
            raise Failure(str(exc).replace(url, "URL"), exc.code) from exc


def changed(after: str | None = None) -> None:
    """Reject a cursor as `offer_description` does once it is no longer valid."""
    raise made_here(RemoteError("the description has changed", DESCRIPTION_CHANGED))


def forbidden(after: str | None = None) -> None:
    raise RpcError("not for you", code="forbidden")


async def silent(after: str | None = None) -> None:
    await asyncio.Event().wait()


def without_an_end(item: dict[str, Any]) -> Page:
    return lambda after=None: {"items": [item], "next": str(int(after or 0) + 1)}


LARGE = {"definition": {"name": "a", "schema": {"description": "x" * 2_000_000}}}
SHAPES = [None, {"items": 1, "next": None}, {"items": [{"definition": {"name": 1, "schema": {}}}], "next": None}]
LATE = "URL did not describe itself within 0.5 s"
PAGES: list[tuple[Page, str]] = [
    (forbidden, "URL refuses to describe itself: not for you"),
    (changed, LATE),
    (silent, LATE),
    (without_an_end({"more": "passed over"}), LATE),
    (without_an_end(LARGE), "URL: the description is larger than 16,777,216 bytes"),
    *((lambda after=None, shape=shape: shape, "URL answers with something other than a descri") for shape in SHAPES),
]


@pytest.mark.parametrize(("page", "said"), PAGES)
async def test_pages_that_are_no_description(page: Page, said: str) -> None:
    with pytest.raises(Failure) as caught:
        await asked(page, seconds=0.5 if said is LATE else 60)
    assert str(caught.value).startswith(said)


async def test_a_description_that_changes_is_asked_for_again() -> None:
    calls: list[str | None] = []

    def page(after: str | None = None) -> dict[str, Any]:
        calls.append(after)
        if len(calls) == 2:
            changed()
        items = [{"definition": {"name": f"d{len(calls)}", "schema": {}}}]
        return {"items": items, "next": None if len(calls) > 3 else "x"}

    assert (await asked(page))["$defs"] == {"d3": {}, "d4": {}}
    assert calls == [None, "x", None, "x"]


async def test_a_server_whose_pages_take_too_long_in_all() -> None:
    """No single answer is late."""
    async with describing(without_an_end({})) as url, Client(url) as client:
        with pytest.raises(Failure, match=r"did not describe itself within 0\.01 s$"):
            await describes(client, url, seconds=0.01)


def doubling() -> dict[str, Any]:
    """A schema whose text doubles on each level."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(38):
        schema = {"type": ["array", "array"], "items": schema}
    return {"event": "add", "kind": "value", "result": schema}


@pytest.mark.parametrize(("command", "code"), [("describe", 1), ("types", 2), ("client", 2)])
async def test_a_description_that_cannot_be_used(command: str, code: int) -> None:
    said = "event 'add': in its schema: a list of types has different ones"
    async with describing(lambda after=None: {"items": [{"event": doubling()}], "next": None}) as url:
        assert said in await refusal(code, command, url)


def test_a_description_of_which_no_text_can_be_made_in_time() -> None:
    release = threading.Event()
    with pytest.raises(InvalidDescription, match=r"it is so complex that reading it takes more than 0\.01 s"):
        written(lambda: str(release.wait()), seconds=0.01)
    release.set()
