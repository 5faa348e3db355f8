"""What an editor shows for contracts: completion and hover, asked of pyright's language server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from wsrpc import Server
from wsrpc.python_client import client_module
from wsrpc.schema import describe

ROOT = Path(__file__).parent.parent

BY_PROXY = '''
from typing import Protocol

from wsrpc import Client, Stream


class Chat(Protocol):
    async def say(self, text: str, *, urgent: bool = False) -> int:
        """Say something to everybody."""
        ...

    def history(self, since: int) -> Stream[str]: ...


async def main(client: Client) -> None:
    chat = client.of("chat").proxy(Chat)
    await chat.say("hi")
    chat.
'''

BY_GENERATED_CLIENT = """
from api import chat as chat_of
from wsrpc import Client


async def main(client: Client) -> None:
    chat = chat_of(client)
    await chat.say("hi")
    chat.
"""


class LanguageServer:
    """Client of a language server, by JSON-RPC over its standard streams."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._last = 0

    async def request(self, method: str, params: Any) -> Any:
        """Send a request and return its result. What the server asks meanwhile is answered."""
        self._last += 1
        self._send({"id": self._last, "method": method, "params": params})
        while True:
            message = await self._receive()
            if "method" not in message and message["id"] == self._last:
                assert "error" not in message, message["error"]
                return message["result"]
            if "method" in message and "id" in message:
                self._send({"id": message["id"], "result": _answer(message)})

    def notify(self, method: str, params: Any) -> None:
        self._send({"method": method, "params": params})

    def _send(self, message: dict[str, Any]) -> None:
        payload = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._in.write(b"Content-Length: %d\r\n\r\n%b" % (len(payload), payload))

    async def _receive(self) -> dict[str, Any]:
        length = 0
        while (line := await self._out.readline()) != b"\r\n":
            assert line, "pyright's language server ended"
            name, _, value = line.decode().partition(":")
            length = int(value) if name.lower() == "content-length" else length
        message: dict[str, Any] = json.loads(await self._out.readexactly(length))
        return message


def _answer(message: dict[str, Any]) -> Any:
    """Return what an editor answers to a request of the language server."""
    if message["method"] != "workspace/configuration":
        return None
    settings = {"python": {"pythonPath": sys.executable}, "python.analysis": {"extraPaths": [str(ROOT)]}}
    return [settings.get(each.get("section", "")) for each in message["params"]["items"]]


@asynccontextmanager
async def language_server(folder: Path) -> AsyncGenerator[LanguageServer]:
    """Start pyright's language server for the files of ``folder``, on the Node that comes with it."""
    errors = folder / "errors.txt"
    with errors.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pyright.langserver", "--stdio"),
            env={**os.environ, "PYRIGHT_PYTHON_GLOBAL_NODE": "0"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # it starts Node, which has to end with it
        )
    try:
        server = LanguageServer(process)
        try:
            await server.request(
                "initialize",
                {
                    "processId": os.getpid(),
                    "rootUri": folder.as_uri(),
                    "workspaceFolders": [{"uri": folder.as_uri(), "name": "user"}],
                    "capabilities": {
                        "workspace": {"configuration": True, "workspaceFolders": True},
                        "textDocument": {"hover": {"contentFormat": ["plaintext"]}},
                    },
                },
            )
        except (AssertionError, ConnectionError) as exc:
            pytest.fail(f"pyright's language server cannot be started: {exc}\n{errors.read_text('utf-8')}")
        server.notify("initialized", {})
        yield server
        await server.request("shutdown", None)
        server.notify("exit", None)
        await process.wait()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


class Document:
    """A file that is open in the editor."""

    def __init__(self, server: LanguageServer, file: Path) -> None:
        self._server = server
        self._uri = file.as_uri()
        self._lines = file.read_text("utf-8").splitlines()
        opened = {"uri": self._uri, "languageId": "python", "version": 1, "text": "\n".join(self._lines)}
        server.notify("textDocument/didOpen", {"textDocument": opened})

    async def ask(self, what: str, after: str) -> Any:
        """Ask about the place behind the last ``after``."""
        line = max(number for number, text in enumerate(self._lines) if after in text)
        place = {"line": line, "character": self._lines[line].index(after) + len(after)}
        return await self._server.request(
            f"textDocument/{what}", {"textDocument": {"uri": self._uri}, "position": place}
        )


def server_with_a_chat() -> Server:
    server = Server()

    @server.of("chat").on("say")
    async def say(text: str, urgent: bool = False) -> int:
        """Say something to everybody."""
        return len(text) + urgent

    @server.of("chat").on("history")
    def history(since: int) -> list[str]:
        return []

    return server


@pytest.mark.timeout(120)
@pytest.mark.parametrize("text", [BY_PROXY, BY_GENERATED_CLIENT], ids=["proxy", "generated client"])
async def test_an_editor_shows_the_members_of_a_contract(text: str, tmp_path: Path) -> None:
    (tmp_path / "api.py").write_text(client_module(describe(server_with_a_chat())), "utf-8")
    (tmp_path / "user.py").write_text(text, "utf-8")
    async with language_server(tmp_path) as server:
        document = Document(server, tmp_path / "user.py")
        found = await document.ask("completion", "    chat.")
        shown = await document.ask("hover", "chat.sa")
    assert {item["label"] for item in found["items"] if not item["label"].startswith("__")} == {"say", "history"}
    hover = shown["contents"]["value"]
    assert all(
        part in hover for part in ("def say(", "text: str", "urgent: bool", "-> CoroutineType[Any, Any, int]")
    ), hover
    assert "Say something to everybody." in hover
