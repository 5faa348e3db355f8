"""Every program in examples/ is run, as its reader would run it."""

from __future__ import annotations

import asyncio
import json
import os
import re
from asyncio.subprocess import STDOUT, Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import programs
import pytest
from programs import AIOHTTP, PYTHON, ROOT, UVICORN, Screen, free_port, listening, printed_by, refused, talking
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.typing import Subprotocol

from wsrpc import Client, RemoteError, Server

EXAMPLES = ROOT / "examples"


async def start(name: str, *arguments: str, cwd: Path | None = None) -> Process:
    return await programs.start(*PYTHON, str(EXAMPLES / name), *arguments, cwd=cwd)


async def run(name: str, *arguments: str, cwd: Path | None = None) -> list[str]:
    """The lines that a program prints."""
    return (await printed_by(await start(name, *arguments, cwd=cwd))).splitlines()


@asynccontextmanager
async def serving(name: str, *arguments: str, port: int = 0) -> AsyncGenerator[tuple[Screen, str]]:
    """Start a server, whose last argument is its port. Yields its screen and its URL."""
    process = await start(name, *arguments, str(port))
    async with listening(process) as url:
        yield Screen(process), url


@asynccontextmanager
async def running(name: str, *arguments: str, interrupt: bool = True) -> AsyncGenerator[Screen]:
    """Start a client that runs until Ctrl-C; or, without `interrupt`, until the end of what is typed."""
    async with talking(await start(name, *arguments), interrupt=interrupt) as screen:
        yield screen


ALONE = {"demo.py": r"(.*\n)+"}  # test_make_demo_runs_the_main_job has the lines
"""The programs that need no other, with what they print."""


@pytest.mark.parametrize("name", ALONE)
async def test_an_example_that_needs_nothing_else_runs(name: str) -> None:
    assert re.fullmatch(ALONE[name], "".join(f"{line}\n" for line in await run(name)))


async def test_the_list_of_examples_is_complete() -> None:
    listed = re.findall(r"\]\((\w[\w./]*)\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert [name for name in listed if not (EXAMPLES / name).is_file()] == []
    there = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "__pycache__"}
    assert {name.split("/")[0] for name in listed} == there
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ALONE)


async def test_an_upload_continues_and_is_saved(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "file").write_bytes(content)
    command = ["-m", "wsrpc", "serve", "server:app", "--port", str(free_port())]
    env = {"UPLOADS": str(tmp_path / "uploads")}
    process = await programs.start(*PYTHON, *command, cwd=EXAMPLES / "upload", env=env, stderr=STDOUT)
    async with listening(process, UVICORN) as site:
        url = f"{site}/ws".replace("http", "ws", 1)
        arguments = "upload/client.py", str(tmp_path / "file"), "--url", url
        *_, sent, complete = await run(*arguments)
        assert (sent, complete) == ("sent 300000 of 300000 bytes", "complete")
        [saved] = (tmp_path / "uploads" / "saved").iterdir()
        [received] = (tmp_path / "uploads" / "received").glob("*/*")
        assert saved.read_bytes() == content and saved.samefile(received)
        saved.unlink()
        part = received.rename(received.with_suffix(".part"))
        os.truncate(part, 100_000)
        _, first, *_, complete = await run(*arguments)
        assert (first, complete) == ("sent 100000 of 300000 bytes", "complete")
        assert saved.read_bytes() == content and not part.exists()


def http(url: str, method: str = "GET", data: bytes | None = None) -> str:
    with urlopen(Request(url, data, method=method)) as response:
        return str(response.read().decode())


@asynccontextmanager
async def web_application(pattern: str, *command: str, cwd: Path) -> AsyncGenerator[str]:
    """Serve until the end of the block. Yields the address."""
    process = await programs.start(PYTHON[0], *command, cwd=cwd, stderr=STDOUT)
    async with listening(process, pattern) as url:
        yield url.removeprefix("http://")


async def test_an_aiohttp_application_has_pages_and_a_websocket() -> None:
    async with AsyncExitStack() as stack:
        application = web_application(AIOHTTP, "app.py", str(free_port()), cwd=EXAMPLES / "aiohttp_app")
        address = await stack.enter_async_context(application)
        ada = await stack.enter_async_context(running("aiohttp_app/client.py", "Ada", address))
        assert await ada.lines(2) == ["connected: Ada", "1 + 2 is 3"]
        bob = await stack.enter_async_context(running("aiohttp_app/client.py", "Bob", address))
        assert await bob.lines(2) == ["connected: Ada, Bob", "1 + 2 is 3"]
        assert await ada.line() == "Bob is here"
        assert await asyncio.to_thread(http, f"http://{address}/announce", "POST", b"lunch is ready") == "2 heard it\n"
        assert [await ada.line(), await bob.line()] == ["lunch is ready"] * 2


async def test_a_fastapi_application_has_a_websocket_beside_its_routes() -> None:
    command = ["-m", "uvicorn", "app:app", "--port", "0", "--ws", "wsrpc_adapters.uvicorn:WebSocketProtocol"]
    async with AsyncExitStack() as stack:
        application = web_application(UVICORN, *command, cwd=EXAMPLES / "fastapi_app")
        address = await stack.enter_async_context(application)
        url = f"ws://{address}/ws"
        stranger = await start("fastapi_app/client.py", "secret-9", "1", "--url", url)
        await refused(stranger, "refused: unknown token (401)\n")

        ada = await stack.enter_async_context(running("fastapi_app/client.py", "secret-1", "0", "--url", url))
        assert await ada.line() == "3 apples left"
        bob = await stack.enter_async_context(running("fastapi_app/client.py", "secret-2", "2", "--url", url))
        assert await bob.line() == "1 apples left"
        assert await ada.line() == "Bob bought 2 apples"
        eve = await stack.enter_async_context(running("fastapi_app/client.py", "secret-2", "2", "--url", url))
        assert await eve.line() == "only 1 left [sold_out]"
        stock = f"http://{address}/stock"
        assert await asyncio.to_thread(http, f"{stock}/apples?count=5", "PUT") == '{"apples":6}'
        assert [await ada.line(), await bob.line()] == ["there are 6 apples now"] * 2


async def test_the_client_of_the_fastapi_application_ends_when_the_server_bans_it() -> None:
    server = Server()
    server.on("buy", lambda what, count: 3)
    async with server.listen() as listener:
        banned = await start("fastapi_app/client.py", "secret-1", "0", "--url", listener.url)
        assert await Screen(banned).line() == "3 apples left"
        await server.peers[0].close(1008, "banned")
        await refused(banned, "the client has given up: 1008 banned\n")


async def test_the_readme_of_ws_server_wrapper_go() -> None:
    async with serving("from_other_libraries/go_server.py") as (screen, url):
        assert await run("from_other_libraries/go_client.py", "Ada", url) == [
            *("connected!", "hello 5", "I am Ada and ok", "True"),
            *[f"update: [{topic}] {text}" for topic in ("go", "feed", "news") for text in ("first", "second", "third")],
            "closed: 1000 by this program",
        ]
        assert await screen.line() == "chat: Ada was here"


async def test_the_readme_of_commands_and_listen_channels() -> None:
    async with serving("from_other_libraries/command_server.py") as (_, url), AsyncExitStack() as stack:
        clients = [Client(url, auth=token) for token in ("valid", "other")]
        welcomes = [client.wait_for("welcome", returns=str) for client in clients]
        thanks = [client.events("thanks", returns=str) for client in clients]
        for client in clients:
            await stack.enter_async_context(client)
        sessions = [(await welcome).removeprefix("Hello ") for welcome in welcomes]
        for client in clients:
            await client.of("rooms").request("join", "test")
        await clients[0].of("rooms").request("join", "restricted")
        with pytest.raises(RemoteError, match="not allowed"):
            await clients[1].of("rooms").request("join", "restricted")
        await clients[1].emit("thank", "restricted")
        direct = clients[1].wait_for("direct", returns=str)
        await clients[0].request("tell", sessions[1], "hello")
        assert await direct == "hello"
        await clients[1].request("thank", "test")
        assert [await anext(each) for each in thanks] == ["Thank you for listening!"] * 2
        assert [await anext(thanks[0])] == ["Thank you for listening!"], "one of each channel"


async def test_the_readme_of_eyesore_ws() -> None:
    async with serving("from_other_libraries/connector_server.py") as (screen, url):
        async with open_websocket(url, subprotocols=[Subprotocol("xml"), Subprotocol("json")]) as websocket:
            assert websocket.subprotocol == "json"
            assert websocket.response is not None and websocket.response.headers["X-Served-By"] == "connector"
            await websocket.send("{}")
            assert await websocket.recv() == "{}"
            await websocket.close(4001, "bye")
        assert await screen.line() == "closed: True 4001 bye 1"
        async with open_websocket(f"{url}?size=small") as websocket:
            await websocket.send(b"x" * 2000)
            with pytest.raises(ConnectionClosedError):
                await websocket.recv()
            assert websocket.close_code == 1009
        with pytest.raises(InvalidStatus) as refused:
            await open_websocket(f"{url}?token=expired").__aenter__()
        assert refused.value.response.headers.get_all("Set-Cookie") == ["user=; Max-Age=0", "id=; Max-Age=0"]


async def test_the_readme_of_seehuhn_websocket() -> None:
    async with serving("from_other_libraries/echo_server.py") as (_, url):
        async with open_websocket(f"{url}api/ws", subprotocols=[Subprotocol("echo")]) as websocket:
            assert websocket.subprotocol == "echo"
            for message in ("hello", b"", "é" * 100_000):
                await websocket.send(message)
                assert await websocket.recv() == message
        with pytest.raises(InvalidStatus):
            await open_websocket(f"{url}secret").__aenter__()


async def test_the_rooms_of_kwiscale() -> None:
    def message(sender: str, text: str, to: str = "this room") -> dict[str, str]:
        return {"sender": sender, "text": text, "to": to}

    async with serving("from_other_libraries/room_server.py") as (screen, url), AsyncExitStack() as stack:
        paths = ["/chat/general", "/chat/general", "/chat/administrators"]
        ada, bob, eve = [await stack.enter_async_context(open_websocket(url.rstrip("/") + path)) for path in paths]

        async def hears(websocket: ClientConnection, *messages: dict[str, str]) -> None:
            assert [json.loads(await websocket.recv()) for _ in messages] == list(messages)

        here = message("ada", "hello")
        await ada.send(json.dumps(here))
        await hears(ada, here, message("server", "sent"))
        await hears(bob, here)
        there = message("bob", "psst", "/chat/administrators")
        await bob.send(json.dumps(there))
        await hears(bob, message("server", "sent"))
        await hears(eve, there)
        await bob.close()
        assert await screen.line() == "a client left /chat/general"
