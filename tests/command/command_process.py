"""The command `wsrpc` in processes, against a server on loopback in the test's process.

`start` forks the test's process, which has imported the command already: that takes a tenth of the time of a new
Python. Tests of what a new Python does (imports, shells, terminals) use `COMMAND`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
import warnings
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from programs import ROOT

from wsrpc import Context, Peer, RpcError, Server, UnknownEvent
from wsrpc.__main__ import run as run_command

# What the command would import once its arguments are known.
from wsrpc._command import calling, comparing, completion, describing, generating, listening, operating  # noqa: F401

COMMAND = [sys.executable, "-W", "error", "-m", "wsrpc"]
PATIENCE = 60.0
"""Seconds until a command counts as one that never ends."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a command: nothing of what its user may have set."""
    kept = {name: value for name, value in os.environ.items() if name not in ("WSRPC_TOKEN", "NO_COLOR", "TERM")}
    return {**kept, "PYTHONPATH": str(ROOT), "TERM": "xterm", **(extra or {})}


class Ended(NamedTuple):
    """What a command has left."""

    code: int
    out: str
    err: str


async def start(
    *words: str, stdin: int = DEVNULL, env: Mapping[str, str] | None = None, prepare: Any = lambda: None, **more: Any
) -> Process:
    """Start the command. ``prepare`` is called in its process."""

    def become_the_command() -> None:
        # Instead of the execution of a program, which the parent awaits: it goes on when the files are closed.
        try:
            os.closerange(3, 1 << 16)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run below nohup
            prepare()
            os.environ.clear()
            os.environ.update(environment(env))
            encoding = os.environ.get("PYTHONIOENCODING")
            sys.stdin, sys.stdout = open(0), open(1, "w", encoding=encoding)  # noqa: SIM115
            sys.stderr = open(2, "w", encoding=encoding, errors="backslashreplace")  # noqa: SIM115
            sys.orig_argv[:], sys.argv[:] = [*COMMAND, *words], ["wsrpc", *words]
            sys.dont_write_bytecode = True  # a test replaces an app.py within a second
            run_command()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test may have threads; the command uses none of them
        options = {"stdin": stdin, "stdout": PIPE, "stderr": PIPE, **more}
        return await asyncio.create_subprocess_exec("wsrpc", preexec_fn=become_the_command, **options)


async def end(process: Process, given: bytes | None = None) -> Ended:
    """Wait for the end of a command. Whatever it says is a line of its own, and never a traceback."""
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate(given)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    text = err.decode()
    assert "Traceback" not in text and all(line.startswith("wsrpc: ") for line in text.splitlines()), text
    return Ended(process.returncode, (out or b"").decode(), text)


async def run(*arguments: str, given: bytes | None = None, **options: Any) -> Ended:
    return await end(await start(*arguments, stdin=DEVNULL if given is None else PIPE, **options), given)


async def bash(script: str, *arguments: str) -> Ended:
    """Run a script in which ``wsrpc`` is the command, and ``$1`` and so on are the arguments."""
    words = ["bash", "-c", f'wsrpc() {{ {" ".join(COMMAND)} "$@"; }}\n{script}', "bash", *arguments]
    return await end(await asyncio.create_subprocess_exec(*words, env=environment(), stdout=PIPE, stderr=PIPE))


async def prints(*arguments: str, given: bytes | None = None, **options: Any) -> str:
    """What a command prints that does well, and has nothing to say."""
    ended = await run(*arguments, given=given, **options)
    assert (ended.code, ended.err) == (0, ""), ended
    return ended.out


async def refusal(code: int, *arguments: str, given: bytes | None = None, **options: Any) -> str:
    """The one sentence of a command that ends with ``code`` and prints nothing else."""
    ended = await run(*arguments, given=given, **options)
    assert (ended.code, ended.out) == (code, "") and ended.err.count("\n") == 1, ended
    return ended.err.removeprefix("wsrpc: ").rstrip("\n")


@dataclass
class Played:
    """A server with a handler of each kind, and what they have seen."""

    server: Server
    url: str = ""
    started: asyncio.Queue[str] = field(default_factory=asyncio.Queue[str])
    """The names of handlers that have begun, as they begin."""
    ended: asyncio.Queue[tuple[str, Any]] = field(default_factory=asyncio.Queue[tuple[str, Any]])
    """The names of handlers that were cancelled, with the reason, and those of streams that are over, with None."""
    heard: asyncio.Queue[list[Any]] = field(default_factory=asyncio.Queue[list[Any]])
    """The arguments of each event `note`."""
    peers: asyncio.Queue[Peer] = field(default_factory=asyncio.Queue[Peer])


def played() -> Played:
    server = Server()
    found = Played(server)
    server.on("open", found.peers.put_nowait)

    @server.on("add")
    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    @server.on("echo")
    def echo(value: Any) -> Any:
        return value

    @server.on("args")
    def args(*args: Any) -> list[Any]:
        return list(args)

    @server.of("chat").on("ask")
    def ask() -> list[Any]:
        return []

    @server.on("fail")
    def fail() -> None:
        raise RpcError("no money\n\x1b[31mleft", code="broke", data={"cents": 5})

    @server.on("crash")
    def crash() -> None:
        raise OSError("the database is on fire")

    @server.on("hang")
    async def hang(ctx: Context) -> None:
        found.started.put_nowait("hang")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            found.ended.put_nowait(("hang", ctx.cancel_reason))
            raise

    @server.on("countdown")
    async def countdown(start: int) -> AsyncIterator[int]:
        for number in range(start, 0, -1):
            yield number

    @server.on("ticks")
    async def ticks(items: int) -> AsyncIterator[int]:
        """So many items, and then nothing."""
        try:
            for number in range(items):
                yield number
            await asyncio.Event().wait()
        finally:
            found.ended.put_nowait(("ticks", None))

    @server.on("total")
    async def total(items: AsyncIterator[int]) -> int:
        result = 0
        found.started.put_nowait("total")
        try:
            async for item in items:
                result += item
                found.started.put_nowait(f"total {result}")
        except asyncio.CancelledError:
            found.ended.put_nowait(("total", None))
            raise
        return result

    @server.on("idle")
    async def idle(items: AsyncIterator[int]) -> None:
        found.started.put_nowait("idle")
        try:
            await asyncio.Event().wait()
        finally:
            found.ended.put_nowait(("idle", None))

    @server.on("sent")
    async def sent(items: AsyncIterator[Any]) -> list[Any]:
        return [item async for item in items]

    @server.on("size")
    async def size(items: AsyncIterator[bytes]) -> int:
        return sum([len(item) async for item in items])

    @server.on("doubled")
    async def doubled(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    @server.on("note")
    def note(*args: Any) -> None:
        found.heard.put_nowait(list(args))

    @server.of("chat").on("say")
    def say(text: str, urgent: bool = False) -> str:
        """Say something.

        To all who listen."""
        found.heard.put_nowait([text, urgent])
        return text.upper()

    return found


@asynccontextmanager
async def serving(**listen: Any) -> AsyncGenerator[Played]:
    """`played`, listening on loopback."""
    found = played()
    async with found.server.listen("127.0.0.1", 0, **listen) as listener:
        found.url = f"{'wss' if listen.get('ssl') else 'ws'}://localhost:{listener.port}"
        yield found


async def round_trips(peer: Peer) -> None:
    """After two round trips, the two know that sessions can go on, and what was sent before has arrived."""
    for _ in range(2):
        with suppress(UnknownEvent):
            await peer.request("none")
