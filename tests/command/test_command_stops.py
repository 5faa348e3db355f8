"""`wsrpc` is interrupted, or nobody reads what it prints: it ends soon, and so does what it began on the server."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from subprocess import PIPE
from time import monotonic

import pytest
from command_process import COMMAND, Ended, end, environment, run, serving, start
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets

SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM"), (signal.SIGHUP, 129, "")]
CLOSING = 5.0
"""Seconds that a closing handshake may take (`Limits.close_timeout`). An interrupted command does not wait for it."""


async def interrupted(process: Process, number: int = signal.SIGINT) -> Ended:
    began = monotonic()
    process.send_signal(number)
    ended = await end(process)
    assert monotonic() - began < CLOSING
    return ended


async def bash(script: str, *arguments: str) -> Ended:
    """Run a script in which ``wsrpc`` is the command, and ``$1`` and so on are the arguments."""
    function = f'wsrpc() {{ {" ".join(COMMAND)} "$@"; }}\n'
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", function + script, "bash", *arguments), env=environment(), stdout=PIPE, stderr=PIPE
    )
    return await end(process)


# ---------------------------------------------------------------- signals


async def test_while_it_dials() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}"
        for command in ("call", "stream", "emit", "listen"):
            process = await start(command, url, "add")
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            with accepted:
                said = f"wsrpc: interrupted: there was no connection yet to '{url}'\n"
                assert await interrupted(process) == (130, "", said)


async def test_while_it_waits_between_two_attempts() -> None:
    accepted = asyncio.Event()

    async def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        process = await start("call", f"ws://{host}:{port}", "add", "--retry", "1000")
        await accepted.wait()
        assert (await interrupted(process)).code == 130


@pytest.mark.parametrize(("number", "code", "said"), SIGNALS)
async def test_while_it_waits_for_an_answer(number: int, code: int, said: str) -> None:
    async with serving() as played:
        process = await start("call", played.url, "hang")
        assert await played.started.get() == "hang"
        ended = await interrupted(process, number)
        assert (ended.code, ended.out) == (code, "") and ended.err.startswith(f"wsrpc: {said}")
        assert ended.err.endswith(": hang was cancelled\n")
        assert await played.ended.get() == ("hang", "interrupted")


async def test_while_it_reads_a_stream() -> None:
    async with serving() as played:
        process = await start("stream", played.url, "ticks", "2")
        assert process.stdout is not None
        assert [await process.stdout.readline() for _ in range(2)] == [b"0\n", b"1\n"]
        assert await interrupted(process) == (130, "", "wsrpc: interrupted: ticks was stopped after 2 items\n")
        assert await played.ended.get() == ("ticks", None)


async def test_while_it_waits_for_items_to_upload() -> None:
    async with serving() as played:
        process = await start("upload", played.url, "total", "-", stdin=PIPE)
        assert process.stdin is not None
        process.stdin.write(b"1\n2\n")
        while await played.started.get() != "total 3":
            pass
        said = "wsrpc: interrupted: the upload to total was cancelled after 2 items\n"
        process.send_signal(signal.SIGINT)
        assert await played.ended.get() == ("total", None)
        assert await process.wait() == 130  # and stdin is still open
        assert await end(process) == (130, "", said)


async def test_while_the_handler_reads_no_items() -> None:
    async with serving() as played:
        begun = asyncio.Event()

        async def slow(items: AsyncIterator[int]) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                played.ended.put_nowait(("slow", None))

        played.server.on("slow", slow)
        reader, writer = os.pipe()
        with os.fdopen(reader), os.fdopen(writer, "wb") as items:
            process = await start("upload", played.url, "slow", "-", stdin=reader)
            await begun.wait()
            items.write(b"1\n" * 2000)
            items.flush()
            assert (await interrupted(process)).code == 130
        assert await played.ended.get() == ("slow", None)


async def test_while_it_listens() -> None:
    async with serving() as played:
        process = await start("listen", played.url)
        peer = await played.peers.get()
        await peer.emit("said", "hi")
        assert process.stdout is not None
        assert b'"said"' in await process.stdout.readline()
        assert await interrupted(process) == (130, "", "wsrpc: interrupted: 1 event has come\n")


async def test_while_it_asks_for_the_description() -> None:
    async with serving() as played:

        async def describe(after: str | None = None) -> None:
            played.started.put_nowait("describe")
            await asyncio.Event().wait()

        played.server.of("wsrpc").on("describe", describe)
        process = await start("describe", played.url)
        assert await played.started.get() == "describe"
        assert (await interrupted(process)).code == 130


SLOW = """
import sys, threading
from wsrpc._command import describing, generating
from wsrpc.__main__ import run

def never(*_, **__):
    print("begun", flush=True)
    threading.Event().wait()

describing.signatures = generating.declarations = never
run()
"""


async def test_while_it_makes_a_text_of_the_description() -> None:
    async with serving() as played:
        played.server.offer_description()
        for command in ("describe", "types"):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", SLOW, command, played.url), env=environment(), stdout=PIPE, stderr=PIPE
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"begun\n"
            assert (await interrupted(process)).code == 130


@asynccontextmanager
async def frozen() -> AsyncGenerator[tuple[str, asyncio.Event]]:
    """The URL of a server that accepts connections and reads nothing, not even a Close frame; set at a connection."""
    connected = asyncio.Event()

    async def accept(connection: ServerConnection) -> None:
        connection.transport.pause_reading()
        connected.set()
        await connection.wait_closed()

    server = await serve_websockets(accept, "127.0.0.1", 0, close_timeout=0)
    try:
        host, port = next(iter(server.sockets)).getsockname()
        yield f"ws://{host}:{port}", connected
    finally:
        for connection in server.connections:
            connection.transport.abort()
        server.close()
        await server.wait_closed()


async def test_a_server_that_answers_nothing_delays_no_end() -> None:
    for command in ("call", "stream", "listen"):
        async with frozen() as (url, connected):
            process = await start(command, url, "add")
            await connected.wait()
            assert (await interrupted(process)).code == 130


async def test_while_nobody_reads_its_output() -> None:
    async with serving() as played:
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as output:
            process = await asyncio.create_subprocess_exec(
                *(*COMMAND, "stream", played.url, "ticks", "10000000"), env=environment(), stdout=writer, stderr=PIPE
            )
            os.close(writer)
            await asyncio.to_thread(output.read, 1)
            assert (await interrupted(process)).code == 130
        assert await played.ended.get() == ("ticks", None)


async def test_a_signal_that_is_ignored_stays_ignored() -> None:
    async with serving() as played:
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", "trap '' HUP; exec \"$@\"", "bash", *COMMAND, "call", played.url, "hang"),
            env=environment(),
            stdout=PIPE,
            stderr=PIPE,
        )
        assert await played.started.get() == "hang"
        process.send_signal(signal.SIGHUP)
        ended = await interrupted(process, signal.SIGTERM)
        assert ended == (143, "", "wsrpc: stopped by SIGTERM: hang was cancelled\n")


async def test_without_a_terminal() -> None:
    async with serving() as played:
        process = await asyncio.create_subprocess_exec(
            *(*COMMAND, "call", played.url, "add", "2", "3"),
            env={name: value for name, value in environment().items() if name != "TERM"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        assert await end(process) == (0, "5\n", "")


# ---------------------------------------------------------------- output that nobody reads


async def test_head_ends_a_stream() -> None:
    async with serving() as played:
        script = 'wsrpc stream "$1" ticks 100000 | head -1; echo "${PIPESTATUS[@]}"'
        assert await bash(script, played.url) == (0, "0\n141 0\n", "")
        assert await played.ended.get() == ("ticks", None)


async def test_a_stream_ends_when_its_reader_has_left_and_no_item_comes() -> None:
    async with serving() as played:
        process = await start("stream", played.url, "ticks", "1")
        assert process.stdout is not None
        assert await process.stdout.readline() == b"0\n"
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert await played.ended.get() == ("ticks", None)
        assert await process.wait() == 141


async def test_head_ends_listening() -> None:
    async with serving() as played:
        listening = asyncio.create_task(bash('wsrpc listen "$1" | head -1; echo "${PIPESTATUS[@]}"', played.url))
        await (await played.peers.get()).emit("said", "hi")
        ended = await listening
        assert ended.code == 0 and '"said"' in ended.out and ended.out.endswith("\n141 0\n") and ended.err == ""


async def test_stdin_stdout_or_stderr_are_closed() -> None:
    async with serving() as played:
        nothing = "wsrpc: stdin is closed: there is nothing to upload\n"
        assert await bash('wsrpc upload "$1" total - <&-', played.url) == (2, "", nothing)
        assert await bash('wsrpc call "$1" add 2 3 <&-', played.url) == (0, "5\n", "")
        closed = "wsrpc: stdout is closed, so the output cannot be written\n"
        assert await bash('wsrpc call "$1" add 2 3 >&-', played.url) == (2, "", closed)
        assert await bash('wsrpc emit "$1" note >&- <&-', played.url) == (0, "", "")
        assert await bash('wsrpc call "$1" add 2 3 2>&-', played.url) == (0, "5\n", "")
        assert await bash('wsrpc call "$1" none 2>&-', played.url) == (1, "", "")
        full = "wsrpc: cannot write to stdout: No space left on device\n"
        assert await bash('wsrpc call "$1" add 2 3 >/dev/full', played.url) == (2, "", full)
        assert await bash("wsrpc --help >/dev/full") == (2, "", full)
        assert await bash("wsrpc call --help >/dev/full") == (2, "", full)


async def test_a_directory_cannot_be_uploaded() -> None:
    async with serving() as played:
        ended = await run("upload", played.url, "total", "--send", "/")
        assert (ended.code, ended.err) == (2, "wsrpc: cannot read /: Is a directory\n")
