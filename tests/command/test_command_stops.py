"""`wsrpc` is interrupted, or nobody reads what it prints: it ends soon, and so does what it began on the server."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from asyncio.subprocess import PIPE, Process
from time import monotonic
from typing import Any, NamedTuple

import pytest
from command_process import Ended, bash, end, serving, start
from raw_websocket import raw_server

from wsrpc._command import describing, generating

CLOSING = 5.0
"""Seconds that a closing handshake may take (`Limits.close_timeout`). An interrupted command does not wait for it."""
HUNG = ("hang", "interrupted")


async def interrupted(process: Process, number: int = signal.SIGINT) -> Ended:
    began = monotonic()
    process.send_signal(number)
    code = await process.wait()  # also if stdin is still open
    assert monotonic() - began < CLOSING
    ended = await end(process)
    assert code == 128 + number
    return ended


# ---------------------------------------------------------------- signals


class Place(NamedTuple):
    """Where a command is interrupted: when the server has seen ``started``, and the command has printed lines."""

    command: str
    started: str
    said: str
    """The text on stderr; only its beginning, if it does not end with a newline."""
    ended: tuple[str, Any] | None = None
    """What the server has seen in the end."""
    lines: tuple[bytes, ...] = ()
    """How the lines begin."""
    given: bytes = b""
    number: int = signal.SIGINT


STOP = "interrupted: "
UPLOADS = f"{STOP}the upload to total was cancelled after 2 items\n"
PLACES = {
    "an answer": Place("call hang", "hang", "stopped by SIGHUP: hang was cancelled\n", HUNG, number=signal.SIGHUP),
    "items": Place("stream ticks 2", "", f"{STOP}ticks was stopped after 2 items\n", ("ticks", None), (b"0\n", b"1\n")),
    "input to upload": Place("call total -", "total,total 1,total 3", UPLOADS, ("total", None), given=b"1\n2\n"),
    "a handler that reads no items": Place("call idle -", "idle", STOP, ("idle", None), given=b"1\n" * 2000),
    "events": Place("listen", "", f"{STOP}1 event has come\n", lines=(b'{"',)),
    "the description": Place("describe", "describe", STOP),
}


@pytest.mark.parametrize("place", PLACES)
async def test_while_it_waits_for(place: str) -> None:
    words, began, said, ended, lines, given, number = PLACES[place]
    (command, *more), started = words.split(), [each for each in began.split(",") if each]
    async with serving() as played:

        async def describe(after: str | None = None) -> None:
            played.started.put_nowait("describe")
            await asyncio.Event().wait()

        played.server.of("wsrpc").on("describe", describe)
        process = await start(command, played.url, *more, stdin=PIPE)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(given)
        assert [await played.started.get() for _ in started] == started
        if command == "listen":
            await (await played.peers.get()).emit("said", "hi")
        for line in lines:
            assert (await process.stdout.readline()).startswith(line)
        _, out, err = await interrupted(process, number)
        assert out == "" and err.startswith(f"wsrpc: {said}") and err.count("\n") == 1
        assert ended is None or await played.ended.get() == ended


@pytest.mark.parametrize("command", ["call", "listen"])
async def test_while_it_dials(command: str) -> None:
    async with raw_server() as server:
        process = await start(command, server.url, "add")
        await server.accept_tcp()
        said = f"wsrpc: interrupted: there was no connection yet to '{server.url}'\n"
        assert await interrupted(process) == (130, "", said)


async def test_while_it_waits_between_two_attempts() -> None:
    async with raw_server() as server:
        process = await start("call", server.url, "add", "--retry", "1000")
        await server.refuse("503 Service Unavailable")
        await interrupted(process)


@pytest.mark.parametrize(
    ("command", "module", "function"), [("describe", describing, "signatures"), ("types", generating, "declarations")]
)
async def test_while_it_makes_a_text_of_the_description(command: str, module: Any, function: str) -> None:
    """A signal that came just before the main thread began to wait was handled at its next timer, after 18 s.

    Here another thread gets the signal, so that it cannot interrupt the wait of the main thread either.
    """

    def never(*_: object, **__: object) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        print("begun", flush=True)
        threading.Event().wait()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        setattr(module, function, never)

    async with serving() as played:
        played.server.offer_description()
        process = await start(command, played.url, prepare=prepare)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"begun\n"
        await interrupted(process)


@pytest.mark.parametrize("command", ["call", "listen"])
async def test_a_server_that_answers_nothing_delays_no_end(command: str) -> None:
    """Not even a Close frame."""
    async with raw_server() as server:
        process = await start(command, server.url, "add")
        await server.accept()
        await interrupted(process)


async def test_while_nobody_reads_its_output() -> None:
    async with serving() as played:
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as output:
            process = await start("stream", played.url, "ticks", "10000000", stdout=writer)
            os.close(writer)
            await asyncio.to_thread(output.read, 1)
            await interrupted(process)
        assert await played.ended.get() == ("ticks", None)


async def test_a_signal_that_is_ignored_stays_ignored() -> None:
    async with serving() as played:
        process = await start("call", played.url, "hang", prepare=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        assert await played.started.get() == "hang"
        process.send_signal(signal.SIGHUP)
        ended = await interrupted(process, signal.SIGTERM)
        assert ended == (143, "", "wsrpc: stopped by SIGTERM: hang was cancelled\n")


# ---------------------------------------------------------------- output that nobody reads


async def test_head_ends_a_stream() -> None:
    async with serving() as played:
        script = 'wsrpc stream "$1" ticks 100000 | head -1; echo "${PIPESTATUS[@]}"'
        assert await bash(script, played.url) == (0, "0\n141 0\n", "")
        assert await played.ended.get() == ("ticks", None)


@pytest.mark.parametrize(("words", "line"), [(["stream", "ticks", "1"], b"0\n"), (["listen"], b'{"')])
async def test_it_ends_when_its_reader_has_left_and_nothing_more_comes(words: list[str], line: bytes) -> None:
    async with serving() as played:
        process = await start(words[0], played.url, *words[1:])
        if words == ["listen"]:
            await (await played.peers.get()).emit("said", "hi")
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(line)
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert await process.wait() == 141


CLOSED = "stdout is closed, so the output cannot be written\n"
FULL = "cannot write to stdout: No space left on device\n"


@pytest.mark.parametrize(
    ("command", "code", "out", "said"),
    [
        ('call "$1" total - <&-', 2, "", "stdin is closed: there is nothing to upload\n"),
        ('call "$1" add 2 3 <&-', 0, "5\n", ""),
        ('call "$1" add 2 3 >&-', 2, "", CLOSED),
        ('emit "$1" note >&- <&-', 0, "", ""),
        ('call "$1" add 2 3 2>&-', 0, "5\n", ""),
        ('call "$1" add 2 3 >/dev/full', 2, "", FULL),
        ("--help >/dev/full", 2, "", FULL),
    ],
)
async def test_stdin_stdout_or_stderr_are_closed(command: str, code: int, out: str, said: str) -> None:
    async with serving() as played:
        assert await bash(f"wsrpc {command}", played.url) == (code, out, said and f"wsrpc: {said}")
