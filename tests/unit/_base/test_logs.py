"""What stands in the log: each line is true, says which peer and what was handled, and does not repeat itself."""

from __future__ import annotations

import asyncio
import difflib
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, said_in, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until

from wsrpc import Client, ConnectionLost, Context, Limits, Reconnect, RemoteError, Server, dial
from wsrpc._base.logs import OF_ONE_PEER
from wsrpc._handlers import suggestions
from wsrpc._handlers.registry import Registry
from wsrpc.testing import connect
from wsrpc.types import RawConnection

clean = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)
PATIENCE = 8


PROGRAM = """
import logging, wsrpc
logging.basicConfig({level})
wsrpc.Server().run(port=0)
"""

# ---------------------------------------------------------------- where it listens


@clean
@pytest.mark.parametrize("level", ["", "level=logging.INFO"])
async def test_a_program_says_once_where_it_listens(level: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM.format(level=level)), stderr=asyncio.subprocess.PIPE, env=environment
    )
    try:
        assert process.stderr is not None
        line = await process.stderr.readline()
        assert b"listening on ws://127.0.0.1:" in line
        process.send_signal(signal.SIGINT)
        _, rest = await process.communicate()
        assert b"listening" not in rest
        assert process.returncode == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


# ---------------------------------------------------------------- connections


@clean
async def test_both_sides_say_when_a_connection_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)
    async with asyncio.timeout(PATIENCE):
        async with server.listen() as listener:
            async with Client(f"{listener.url}rpc?token=secret", limits=LIMITS) as client:
                await turns_until(lambda: server.peers)
                (peer,) = server.peers
                ours, theirs = peer.info.remote, client.peer.info.remote
                assert ours is not None and theirs is not None
                await client.close(4001, "that was all")
                await peer.wait_closed()
    for id_, how, (host, port) in ((client.peer.id, "to", theirs), (peer.id, "from", ours)):
        lines = [
            (record.levelno, record.getMessage())
            for record in caplog.records
            if record.name == "wsrpc" and getattr(record, "peer", None) == id_
        ]
        assert lines == [
            (logging.INFO, f"peer {id_} connected {how} {host}:{port}, path /rpc"),
            (logging.INFO, f"peer {id_} at {host}:{port} disconnected: 4001 that was all"),
        ]
    assert messages(caplog) == []


@clean
async def test_a_raw_connection_is_named_likewise_and_one_without_an_address_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)

    @server.serve_raw
    async def serve(connection: RawConnection) -> None:
        await connection.receive()

    async with asyncio.timeout(PATIENCE), server.listen() as listener:
        transport = await dial(listener.url, limits=LIMITS)
        await turns_until(lambda: server.raw_connections)
        [connection] = server.raw_connections
        remote = connection.info.remote
        assert remote is not None
        transport.abort()
        await turns_until(lambda: not server.raw_connections)
    said = "\n".join(messages(caplog, logging.DEBUG))
    assert f"raw peer {connection.id} connected from {remote[0]}:{remote[1]}, path /" in said
    assert f"raw peer {connection.id} at {remote[0]}:{remote[1]} disconnected: 1006" in said
    async with connect(Server(), path="/in/memory?token=secret") as client:
        assert client.peer.connected
    assert "connected from an unknown address, path /in/memory" in caplog.text
    assert "secret" not in caplog.text


@clean
async def test_a_drop_says_what_happened_and_nothing_about_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)
    again = asyncio.Event()
    async with asyncio.timeout(PATIENCE):
        async with server.listen() as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=AT_ONCE) as client:
                client.on_reconnect(lambda info: again.set())
                client.peer.info.underlying.transport.abort()
                await again.wait()
    [warning] = messages(caplog)
    assert warning.startswith("the connection ended (1006")
    assert "next attempt in" in warning
    everything = "\n".join(messages(caplog, logging.DEBUG))
    for words in ("been sent", "was sent", "may have run"):
        assert words not in everything


@clean
async def test_the_log_tells_each_side_of_the_outcome() -> None:
    server = Server(limits=LIMITS)
    started = asyncio.Event()

    @server.on("slow")
    async def slow() -> None:
        started.set()
        await asyncio.Event().wait()

    async with asyncio.timeout(PATIENCE):
        async with server.listen() as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
                asking = asyncio.create_task(client.request("slow"))
                await started.wait()
                client.peer.info.underlying.transport.abort()
                with pytest.raises(ConnectionLost, match="may have run"):
                    await asking
                with pytest.raises(ConnectionLost, match="nothing was sent"):
                    await client.request("slow")


@clean
async def test_texts_about_a_connection_say_nothing_of_messages() -> None:
    d = Driven()
    reasons: list[object] = []

    @d.peer.on("work")
    async def work(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            reasons.append(ctx.cancel_reason)

    d.feed({"i": 1, "a": ["work"]})
    await turns()
    d.transport.lose()
    await turns()
    with pytest.raises(ConnectionLost) as no_info:
        _ = Client().peer.info
    client = Client()
    await client.close()
    with pytest.raises(ConnectionLost) as no_connection:
        await client.wait_connected()
    ended, *never = str(reasons[0]), str(no_info.value), str(no_connection.value)
    assert ended.startswith("the connection ended (")
    assert all(text.startswith("there is no connection (") for text in never)
    assert all("message" not in text for text in (ended, *never))


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("way", ["inline", "async", "thread", "ordered"])
@pytest.mark.parametrize("channel", [None, "chat"])
async def test_a_failure_names_event_channel_and_request(
    way: str, channel: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    d = Driven()
    target = d.peer if channel is None else d.peer.of(channel)

    def work() -> None:
        raise ValueError("mine")

    async def work_async() -> None:
        raise ValueError("mine")

    target.on("work", work_async if way == "async" else work, thread=way == "thread", ordered=way == "ordered")
    where = {} if channel is None else {"c": channel}
    d.feed({"i": 7, "a": ["work"], **where}, {"a": ["work"], **where})
    async with asyncio.timeout(PATIENCE):
        await turns_until(lambda: len(messages(caplog, logging.ERROR)) == 2 and not d.peer.active)
    [answer] = d.take()
    name = "work" if channel is None else "chat:work"
    request, event = sorted((record for record in caplog.records if record.levelno == logging.ERROR), key=len_of)[::-1]
    assert request.getMessage().startswith(f"handling {name} #7 failed [")
    assert event.getMessage().startswith(f"handling {name} failed [")
    for record in (request, event):
        assert record.exc_info is not None and "mine" in str(record.exc_info[1])
        assert record.peer == d.peer.id  # type: ignore[attr-defined]
    # The caller has the number that the line has.
    number = said_in(request).partition("[")[2].rstrip("]")
    assert number in str(answer["e"])


def len_of(record: logging.LogRecord) -> int:
    return len(record.getMessage())


async def test_a_failing_middleware_is_not_logged_as_the_handlers_failure(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()

    @d.peer.use
    async def fail(ctx: Context, call_next: Any) -> Any:
        raise ValueError("mine")

    def innocent() -> None:
        pytest.fail("it ran")

    d.peer.on("work", innocent)
    await d.fed({"i": 7, "a": ["work"]}, {"a": ["nobody handles this"]})
    [request, event] = messages(caplog, logging.ERROR)
    assert request.startswith("handling work #7 failed") and "innocent" not in request
    assert event.startswith("handling nobody handles this failed")


# ---------------------------------------------------------------- events that reach nobody


async def test_the_first_unknown_event_is_a_warning_and_further_ones_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    d = Driven()
    d.feed({"a": ["mistyped"]})
    [text] = messages(caplog)
    assert "mistyped" in text and "peer.ignored" in text
    assert caplog.records[-1].peer == d.peer.id  # type: ignore[attr-defined]
    for _ in range(3):
        d.feed({"a": ["mistyped"]}, {"a": ["another"]}, {"c": "nowhere", "a": ["mistyped"]})
    await turns()
    assert len(messages(caplog)) == 1
    assert d.ignored == {"unknown event": 10}
    # The request for one is answered, and nobody else's matter.
    sent = await d.fed({"i": 1, "a": ["mistyped"]})
    assert sent[0]["e"]["code"] == "wsrpc.unknown_event"
    assert len(messages(caplog)) == 1
    assert d.ignored == {"unknown event": 10}


async def test_the_first_event_that_is_dropped_because_too_many_wait_is_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    d = Driven(limits=Limits(running=1, waiting=1))
    blocked = Blocked()
    d.peer.on("work", blocked)
    d.feed({"a": ["work", 1]}, {"a": ["work", 2]})
    await turns()
    assert messages(caplog) == []
    for n in range(3):
        d.feed({"a": ["work", 3 + n]})
    [text] = messages(caplog)
    assert "dropped" in text and "wait" in text
    assert d.ignored == {"event dropped, too many wait": 3}
    blocked.go.set()
    await turns()
    assert blocked.finished == [(1,), (2,)]
    d.assert_empty()


async def test_each_kind_and_each_connection_has_its_own_first_one(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    async with asyncio.timeout(PATIENCE):
        for _ in range(2):
            async with connect(server) as client:
                await client.emit("mistyped")
                with pytest.raises(RemoteError):
                    await client.request("mistyped")
        await server.close()
    lines = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(lines) == 2
    assert len({record.peer for record in lines}) == 2  # type: ignore[attr-defined]


async def test_nothing_is_logged_where_nothing_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.on("echo", lambda value: value)
    async with asyncio.timeout(PATIENCE):
        async with connect(server) as client:
            await client.emit("echo", 1)
            assert await client.request("echo", 1) == 1
            with pytest.raises(RemoteError):
                await client.request("mistyped")
        await server.close()
    assert messages(caplog) == []


# ---------------------------------------------------------------- names that were meant


def registered() -> Driven:
    """A peer with handlers of its own and of its server, on the main channel and on two others."""
    shared = Registry()
    shared.add(None, "add", lambda: None)
    shared.add("chat", "say", lambda: None)
    shared.add("chat", "history", lambda: None, once=True)
    driven = Driven(shared=shared)
    driven.peer.on("subtract", lambda: None)
    driven.peer.of("files").on("read", lambda: None)
    return driven


@pytest.mark.parametrize("kind", ["event", "request"])
@pytest.mark.parametrize(
    ("channel", "event", "text"),
    [
        (None, "ad", "No event listener for 'ad'; did you mean 'add'?"),
        (None, "substract", "No event listener for 'substract'; did you mean 'subtract'?"),
        (None, "say", "No event listener for 'say'; the channel 'chat' has a handler for it"),
        (None, "read", "No event listener for 'read'; the channel 'files' has a handler for it"),
        (None, "xyz", "No event listener for 'xyz'"),
        (None, "add" * 30, f"No event listener for '{'add' * 30}'"),
        ("chat", "add", "No event listener for 'add' on channel 'chat'; the main channel has a handler for it"),
        ("chat", "histry", "No event listener for 'histry' on channel 'chat'; did you mean 'history'?"),
        ("chat", "read", "No event listener for 'read' on channel 'chat'; the channel 'files' has a handler for it"),
        ("caht", "say", "Channel 'caht' does not exist; did you mean the channel 'chat'?"),
        ("other", "say", "Channel 'other' does not exist; the channel 'chat' has a handler for it"),
    ],
)
async def test_the_log_names_the_event_that_was_meant_and_the_caller_does_not_get_it(
    kind: str, channel: str | None, event: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    driven = registered()
    caplog.clear()
    where = {} if channel is None else {"c": channel}
    if kind == "event":
        assert await driven.fed({**where, "a": [event]}) == []
        line, level = f"{text} (further ones are only counted in peer.ignored)", logging.WARNING
    else:
        [answer] = await driven.fed({**where, "i": 1, "a": [event]})
        assert answer["e"]["message"] == text.partition(";")[0]
        line, level = f"a request was refused: {text} (further ones are not logged)", logging.INFO
    assert [(said_in(record), record.levelno) for record in caplog.records] == [(line, level)]


@pytest.mark.parametrize("budget", ["used up", "free"])
async def test_a_flood_of_unknown_events_compares_names_at_most_once(
    budget: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []
    real = difflib.get_close_matches

    def counting(name: str, *others: Any, **options: Any) -> list[str]:
        compared.append(name)
        return real(name, *others, **options)

    monkeypatch.setattr(suggestions, "get_close_matches", counting)
    driven = registered()
    if budget == "used up":
        for _ in range(OF_ONE_PEER[0]):
            driven.peer._core.log.warn("one of too many lines")
    driven.feed(*({"a": [f"add{number}"]} for number in range(500)))
    driven.feed(*({"i": number, "a": [f"add{number}"]} for number in range(1, 500)))
    await turns()
    # The line about requests is at INFO, which this log does not show.
    assert compared == ([] if budget == "used up" else ["add0"])
    assert driven.ignored == {"unknown event": 500}
    assert sum("unknown" in text or "listener" in text for text in messages(caplog)) == len(compared)


async def test_the_channel_by_which_clients_join_rooms_is_named_too(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.room("lobby", allow=lambda peer: True)
    async with connect(server) as client:
        await client.emit("join", "lobby")
        await turns_until(lambda: server.peers[0].ignored)
    [line] = messages(caplog)
    assert line.startswith("No event listener for 'join'; the channel 'rooms' has a handler for it (")


async def test_the_text_of_a_warning_names_the_peer_and_its_address(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    async with server.listen() as listener, Client(listener.url) as client:
        await client.emit("unknown")
        await turns_until(lambda: bool(messages(caplog)))
        [peer] = server.peers
        assert peer.info.remote is not None
        host, port = peer.info.remote
        [text] = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert text.endswith(f" (peer {peer.id} at {host}:{port})")
