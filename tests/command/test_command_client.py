"""`python -m wsrpc client`, run as its users run it, and `types` with the same targets."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import command_process
import msgspec
import pytest

from wsrpc import Client, Peer, RemoteError, RpcError, Server
from wsrpc._codegen.checking import InvalidDescription
from wsrpc._command import asking
from wsrpc._command.asking import ask, describes, written
from wsrpc._command.failures import Failure
from wsrpc._protocol.rejections import DESCRIPTION_CHANGED
from wsrpc.errors import made_here
from wsrpc.schema import Description, describe

ROOT = Path(__file__).parent.parent.parent

APP = """
import msgspec
from wsrpc import Server

class Cup(msgspec.Struct):
    drink: str
    size: int = 200

server = Server()

@server.on("brew")
def brew(cups: list[Cup], strong: bool = False) -> list[Cup]:
    \"\"\"Brew some cups.\"\"\"
    return cups

def odd() -> complex: ...
server.of("math").on("odd", odd)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, "utf-8")
    return tmp_path


async def run(folder: Path, *arguments: str, status: int = 0) -> tuple[str, str]:
    """What it prints to stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        # Without -B, Python takes the bytecode of an app.py that was replaced by one of the same size within a second.
        *(sys.executable, "-B", "-W", "error", "-m", "wsrpc", *arguments),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == status, err.decode()
    return out.decode(), err.decode()


async def failure(folder: Path, *arguments: str) -> str:
    out, err = await run(folder, *arguments, status=2)
    assert out == "" and err.startswith("wsrpc: ") and err.count("\n") == 1
    return err.removeprefix("wsrpc: ").rstrip("\n")


NOTE = "wsrpc: math:odd: result: complex has no JSON Schema\n"


async def test_a_module_is_written_and_is_up_to_date_until_something_changes(folder: Path) -> None:
    command = ["client", "app:server", "-o", "api.py"]
    assert await run(folder, *command, "--check", status=1) == ("", f"{NOTE}wsrpc: api.py is not up to date\n")
    assert not (folder / "api.py").exists()
    assert await run(folder, *command) == ("", NOTE)
    text = (folder / "api.py").read_text("utf-8")
    assert text == (await run(folder, "client", "app:server"))[0]
    assert "async def brew(self, cups: list[Cup]" in text and "class Cup(msgspec.Struct):" in text
    assert await run(folder, *command, "--check") == ("", NOTE)
    (folder / "app.py").write_text(APP.replace("drink: str", "drink: int"), "utf-8")
    assert await run(folder, *command, "--check", status=1) == ("", f"{NOTE}wsrpc: api.py is not up to date\n")
    assert (folder / "api.py").read_text("utf-8") == text


async def test_the_classes_can_be_dataclasses(folder: Path) -> None:
    text, _ = await run(folder, "client", "app:server", "--models", "dataclasses")
    assert "@dataclasses.dataclass(slots=True)\nclass Cup:" in text


async def test_the_description_can_be_a_file(folder: Path) -> None:
    await run(folder, "types", "app:server", "--json", "-o", "app.json")
    for command in (["client"], ["client", "--models", "dataclasses"], ["types"], ["types", "--json"]):
        assert await run(folder, *command, "app.json") == await run(folder, *command, "app:server")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"events": [', "app.json is not JSON: Input data was truncated"),
        ("[" * 5000, "app.json is not JSON: "),
        ("[]", "app.json has no usable description: Expected `object`, got `array`"),
        ('{"events": [], "$defs": {"a": 1}}', "app.json has no usable description: Expected `object`, got `int`"),
        (
            '{"events": [], "$defs": {"a": {"$ref": "#/$defs/b"}}}',
            "app.json has no usable description: definition 'a': '#/$defs/b' refers to no definition",
        ),
        (
            '{"events": [{"event": "a", "kind": "value", "result": {"type": 1}}], "$defs": {}}',
            "app.json has no usable description: event 'a': 'type' in a schema is text, or a list of different texts, "
            "got 1",
        ),
    ],
)
@pytest.mark.parametrize("command", ["client", "types"])
async def test_a_file_that_is_no_description(folder: Path, command: str, text: str, problem: str) -> None:
    (folder / "app.json").write_text(text, "utf-8")
    assert (await failure(folder, command, "app.json")).startswith(problem)


async def test_a_file_that_is_not_there(folder: Path) -> None:
    assert await failure(folder, "client", "app.json") == "app.json: No such file or directory"


# ---------------------------------------------------------------- servers that are asked


def parts_of(description: Description) -> list[dict[str, Any]]:
    """The items of all pages."""
    made: dict[str, Any] = json.loads(msgspec.json.encode(description))
    return [
        *({"definition": {"name": name, "schema": schema}} for name, schema in made["$defs"].items()),
        *({"event": event} for event in made["events"]),
        *({"emits": event} for event in made.get("emits", ())),
    ]


@asynccontextmanager
async def serving(describe_page: Callable[..., Any]) -> AsyncGenerator[str]:
    """A server that answers `describe` by hand; the URL."""
    server = Server()
    server.of("wsrpc").on("describe", describe_page)
    async with server.listen("127.0.0.1", 0) as listener:
        yield f"ws://127.0.0.1:{listener.port}/"


async def asked(url: str, **options: Any) -> dict[str, Any]:
    return await asyncio.to_thread(ask, url, {}, **options)


async def refusal(describe_page: Callable[..., Any], **options: Any) -> str:
    async with serving(describe_page) as url:
        with pytest.raises(Failure) as caught:
            await asked(url, **options)
        return str(caught.value).replace(url, "URL")


async def test_a_server_is_asked_page_by_page(folder: Path) -> None:
    described = describe(described_server())
    parts = parts_of(described)
    assert len(parts) == 4

    def page(after: str | None = None) -> dict[str, Any]:
        number = 0 if after is None else int(after)
        return {"items": parts[number : number + 1], "next": str(number + 1) if number < 3 else None}

    (folder / "app.json").write_bytes(msgspec.json.encode(described))
    async with serving(page) as url:
        for command in ("client", "types"):
            assert await run(folder, command, url) == await run(folder, command, "app.json")


async def test_a_server_that_offers_its_description_is_asked(folder: Path) -> None:
    server = described_server()
    (folder / "app.json").write_bytes(msgspec.json.encode(describe(server)))
    server.offer_description()

    @server.on("open")
    async def greet(peer: Peer) -> None:  # the command has no handler for it, and does not say so
        await peer.of("chat").emit("welcome")

    async with server.listen("127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.port}/"
        for command in ("client", "types"):
            assert await run(folder, command, url) == await run(folder, command, "app.json")


class Cup(msgspec.Struct):
    drink: str


class News(Protocol):
    async def served(self, cup: Cup) -> None: ...


def described_server() -> Server:
    def brew(cup: Cup) -> None: ...

    server = Server()
    server.on("brew", brew)
    server.of("chat").on("say", lambda text: None)
    server.declare(News)
    return server


async def test_headers_are_sent(folder: Path) -> None:
    server = Server()
    server.of("wsrpc").on("describe", lambda after=None: {"items": [], "next": None})

    @server.on_handshake
    def check(handshake: Any) -> None:
        if handshake.headers.get("authorization") != "Bearer t:1" or handshake.headers.get("x-a") != "b":
            handshake.reject(401, "log in")

    async with server.listen("127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.port}/"
        headers = ["--header", "Authorization: Bearer t:1", "--header", "X-A:b"]
        assert "Made by" in (await run(folder, "client", url, *headers))[0]
        said = await failure(folder, "client", url)
        assert said.startswith(f"{url}: could not connect: the server refused the connection with HTTP 401: log in")


async def test_options_that_cannot_work(folder: Path) -> None:
    assert "--header is for the URL" in (await run(folder, "client", "app:server", "--header", "a: b", status=2))[1]
    assert 'expected "NAME: VALUE"' in (await run(folder, "client", "ws://a", "--header", "a", status=2))[1]
    assert "--check compares with a file" in (await run(folder, "client", "app:server", "--check", status=2))[1]


async def test_a_server_that_does_not_offer_it(folder: Path) -> None:
    async with Server().listen("127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.port}/"
        assert await failure(folder, "client", url) == (
            f"{url} does not offer its description: call server.offer_description() there"
        )


async def test_no_server(folder: Path) -> None:
    async with Server().listen("127.0.0.1", 0) as listener:
        url = f"ws://127.0.0.1:{listener.port}/"
    said = await failure(folder, "client", url)
    assert said.startswith(f"{url}: ") and "Connect" in said
    assert "http://a" in await failure(folder, "types", "http://a")


async def test_a_server_that_refuses() -> None:
    def page(after: str | None = None) -> None:
        raise RpcError("not for you", code="forbidden")

    assert await refusal(page) == "URL refuses to describe itself: not for you"


async def test_a_description_that_changes_is_asked_for_again() -> None:
    calls: list[str | None] = []

    def page(after: str | None = None) -> dict[str, Any]:
        calls.append(after)
        if len(calls) == 2:
            raise changed()
        return {
            "items": [{"definition": {"name": f"d{len(calls)}", "schema": {}}}],
            "next": None if len(calls) > 3 else "x",
        }

    async with serving(page) as url:
        assert (await asked(url))["$defs"] == {"d3": {}, "d4": {}}
    assert calls == [None, "x", None, "x"]

    def never(after: str | None = None) -> None:
        raise changed()

    assert await refusal(never) == "URL: the description changed 5 times while it was asked for"


def changed() -> RpcError:
    """What `offer_description` rejects a cursor with that is no longer valid."""
    return made_here(RemoteError("the description has changed", DESCRIPTION_CHANGED))


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"items": []},
        {"items": 1, "next": None},
        {"items": [1], "next": None},
        {"items": [{"definition": {"name": 1, "schema": {}}}], "next": None},
        {"items": [], "next": 5},
    ],
)
async def test_an_answer_of_another_shape(answer: Any) -> None:
    assert (await refusal(lambda after=None: answer)).startswith(
        "URL answers with something other than a description: "
    )


async def test_pages_without_an_end() -> None:
    def circle(after: str | None = None) -> dict[str, Any]:
        return {"items": [], "next": {"a": "b", "b": "a"}.get(after or "", "a")}

    never_ends = "URL: the description never ends, because its pages name each other as the next one"
    assert await refusal(circle) == never_ends


async def test_more_pages_and_bytes_than_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def page(after: str | None = None) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return {"items": [{"more": "passed over"}], "next": str(calls)}

    monkeypatch.setattr(asking, "MOST_PAGES", 20)
    assert (await refusal(page)).startswith("URL: the description is larger than ") and calls == 21
    large = {"items": [{"definition": {"name": "a", "schema": {"description": "x" * 2_000_000}}}]}
    monkeypatch.setattr(asking, "MOST_PAGES", 10_000)
    calls = 0

    def large_page(after: str | None = None) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        return {**large, "next": str(calls)}

    assert (await refusal(large_page)).startswith("URL: the description is larger than 16,777,216 bytes")
    assert calls == 9


async def test_a_description_that_doubles_on_each_level() -> None:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(38):
        schema = {"type": ["array", "array"], "items": schema}
    event = {"event": "add", "kind": "value", "result": schema}
    async with serving(lambda after=None: {"items": [{"event": event}], "next": None}) as url:
        for command, code in (("describe", 1), ("types", 2), ("client", 2)):
            ended = await command_process.run(command, url)
            assert (ended.code, ended.out) == (code, "")
            assert ended.err.endswith(
                "event 'add': 'type' in a schema is text, or a list of different texts, got a list\n"
            )


def test_a_description_of_which_no_text_can_be_made_in_time() -> None:
    release = threading.Event()
    with pytest.raises(InvalidDescription, match=r"it is so complex that reading it takes more than 0\.01 s"):
        written(lambda: str(release.wait()), seconds=0.01)
    release.set()


async def test_a_server_that_does_not_answer() -> None:
    async def page(after: str | None = None) -> None:
        await asyncio.Event().wait()

    assert await refusal(page, seconds=0.3) == "URL did not describe itself within 0.3 s"


async def test_a_server_whose_pages_take_too_long_in_all() -> None:
    """No single answer is late."""
    asked_for = 0

    def page(after: str | None = None) -> dict[str, Any]:
        nonlocal asked_for
        asked_for += 1
        return {"items": [], "next": str(asked_for)}

    async with serving(page) as url, Client(url) as client:
        with pytest.raises(Failure, match=r"did not describe itself within 0\.01 s$"):
            await describes(client, url, seconds=0.01)
