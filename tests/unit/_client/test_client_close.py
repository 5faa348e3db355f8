"""`Client.close`, from everywhere, and what calls say that are no good."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT, raw_server
from session_story import refuse

from wsrpc import Client, CloseInfo, ConnectionLost, Limits, Peer, Reconnect, Server
from wsrpc.testing import memory_transports

clean = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0, replay=0)  # sessions end with their connections
AT_ONCE = Reconnect(initial=0.001, max=0.001)
NEVER = Reconnect(initial=100_000.0, max=100_000.0)

UNSENDABLE = [(1005, ""), (1006, ""), (1015, ""), (2000, ""), (5000, ""), (1000, "ü" * 62)]


@asynccontextmanager
async def dialed(server: Server | None = None, **options: Any) -> AsyncGenerator[tuple[Client, Server]]:
    server = server or Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    async with server.listen() as listener:
        client = Client(listener.url, **{"limits": LIMITS} | options)
        await client.connect()
        try:
            yield client, server
        finally:
            await client.close()


@clean
async def test_both_sides_learn_code_and_reason() -> None:
    infos: dict[str, CloseInfo] = {}
    ended = asyncio.Event()
    server = Server(limits=LIMITS)

    @server.on("close")
    def server_close(peer: Peer, info: CloseInfo) -> None:
        infos["server"] = info
        ended.set()

    async with dialed(server) as (client, _):
        client.on("close", lambda peer, info: infos.update(client=info))
        await client.close(4321, "enough")
        await ended.wait()
    assert (infos["client"].code, infos["client"].reason, infos["client"].was_clean) == (4321, "enough", True)
    assert infos["client"].user_closed and not infos["client"].will_reconnect
    assert (infos["server"].code, infos["server"].reason, infos["server"].was_clean) == (4321, "enough", True)
    assert not infos["server"].user_closed


@clean
async def test_close_without_a_code() -> None:
    infos: dict[str, CloseInfo] = {}
    ended = asyncio.Event()
    server = Server(limits=LIMITS)

    @server.on("close")
    def server_close(peer: Peer, info: CloseInfo) -> None:
        infos["server"] = info
        ended.set()

    async with dialed(server) as (client, _):
        client.on("close", lambda peer, info: infos.update(client=info))
        with pytest.raises(ValueError, match="a close reason needs a code"):
            await client.close(None, "why")
        assert client.connected
        await client.close(None)
        await ended.wait()
        with pytest.raises(ConnectionLost) as caught:
            await client.request("echo", 1)
    assert infos["client"] == CloseInfo(1005, was_clean=True, user_closed=True)
    assert infos["server"] == CloseInfo(1005, was_clean=True)
    assert (caught.value.code, caught.value.outcome) == (1005, "not_sent")


@clean
@pytest.mark.parametrize(("code", "reason"), UNSENDABLE)
async def test_a_close_that_may_not_be_sent_is_a_local_error(code: int, reason: str) -> None:
    async with dialed() as (client, _):
        with pytest.raises(ValueError):
            await client.close(code, reason)
        assert client.connected
        assert await client.request("echo", 1) == 1


@clean
async def test_what_was_accepted_leaves_before_the_close_frame() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS, extensions=False)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        await client.emit("a", "x" * 100_000)
        client.emit_nowait("b")
        sending = asyncio.create_task(client.emit("c"))
        request = asyncio.create_task(client.request("d"))
        await asyncio.sleep(0)
        closing = asyncio.create_task(client.close(1000, "bye"))
        frames = [await peer.next_frame() for _ in range(5)]
        assert [frame.opcode for frame in frames] == [TEXT] * 4 + [CLOSE]
        await peer.send(peer.close_frame(1000, "bye"))
        peer.drop()
        await closing
        await sending
        with pytest.raises(ConnectionLost) as caught:
            await request
        assert caught.value.outcome == "unknown"


@clean
async def test_what_waited_offline_is_flushed_before_the_close_frame() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS, extensions=False)
        for number in range(10):
            await client.emit("n", number)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        closing = asyncio.create_task(client.close())
        frames = [await peer.next_frame() for _ in range(11)]
        assert [frame.opcode for frame in frames] == [TEXT] * 10 + [CLOSE]
        await peer.send(peer.close_frame())
        peer.drop()
        await closing


@clean
async def test_what_was_accepted_while_open_handlers_run_is_flushed_before_the_close_frame() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS.replace(close_timeout=0.2), extensions=False)
        running = asyncio.Event()

        @client.on("open")
        async def opened(peer: Peer) -> None:
            running.set()
            await asyncio.Event().wait()

        await client.emit("before")
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await running.wait()
        await client.emit("meanwhile")
        closing = asyncio.create_task(client.close())
        frames = [await peer.next_frame() for _ in range(3)]
        assert [frame.opcode for frame in frames] == [TEXT, TEXT, CLOSE]
        await peer.send(peer.close_frame())
        peer.drop()
        await closing
        with pytest.raises(ConnectionLost):
            await connecting


@clean
async def test_close_while_dialing() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS, extensions=False)
        connecting = asyncio.create_task(client.connect())
        await raw.accept_tcp()
        request = asyncio.create_task(client.request("x"))
        await asyncio.sleep(0)
        await client.close()
        for task in (connecting, request):
            with pytest.raises(ConnectionLost) as caught:
                await task
            assert caught.value.outcome == "not_sent"
        assert client.state == "closed"


@clean
async def test_close_while_waiting_for_the_next_attempt() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS, reconnect=NEVER)
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("503 Later")
        await turns_until(lambda: client.state == "waiting")
        await client.close()
        with pytest.raises(ConnectionLost):
            await connecting


@clean
async def test_close_after_a_drop_before_the_next_attempt() -> None:
    async with dialed(reconnect=NEVER) as (client, _):
        infos: list[CloseInfo] = []
        client.on("close", lambda peer, info: infos.append(info))
        client.peer.info.underlying.transport.abort()
        await client.peer.wait_closed()
        await client.close()
        assert [info.user_closed for info in infos] == [False]
        assert client.state == "closed"


@clean
async def test_close_while_open_handlers_run() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS.replace(close_timeout=0.2), extensions=False)
        running, cancelled = asyncio.Event(), asyncio.Event()

        @client.on("open")
        async def opened(peer: Peer) -> None:
            running.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await running.wait()
        closing = asyncio.create_task(client.close())
        assert (await peer.next_of(CLOSE)).code == 1000
        await peer.send(peer.close_frame())
        peer.drop()
        await closing
        await cancelled.wait()
        with pytest.raises(ConnectionLost):
            await connecting


@clean
@pytest.mark.parametrize("where", ["open", "close", "event", "request", "on_reconnect", "message"])
async def test_close_from_within_a_handler(where: str) -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS, reconnect=AT_ONCE)
        done = asyncio.Event()

        async def close() -> None:
            try:
                await client.close(4000, where)
            finally:  # a handler that ends with its connection is cancelled, which here is its own doing
                done.set()

        if where in ("open", "connect"):
            client.on("open", lambda peer: close())
        elif where == "close":
            client.on("close", lambda peer, info: close())
        elif where == "on_reconnect":
            client.on_reconnect(lambda info: close())
        elif where == "message":
            client.on("message", lambda peer, view: close())
        else:
            client.on("now", close)
        if where == "open":
            with pytest.raises(ConnectionLost):
                await client.connect()
        else:
            await client.connect()
            (peer,) = server.peers
            if where in ("close", "on_reconnect"):
                client.peer.info.underlying.transport.abort()
            elif where == "request":
                with pytest.raises(ConnectionLost):
                    await peer.request("now")
            else:
                await peer.emit("now")
        async with asyncio.timeout(8):
            await done.wait()
        await client.close()
        assert client.state == "closed"


@clean
async def test_close_twice_and_at_once() -> None:
    async with dialed() as (client, _):
        infos: list[CloseInfo] = []
        client.on("close", lambda peer, info: infos.append(info))
        await asyncio.gather(client.close(4001, "one"), client.close(4002, "two"))
        await client.close(4003, "three")
        assert [(info.code, info.user_closed) for info in infos] == [(4001, True)]


@clean
async def test_close_without_ever_connecting() -> None:
    client = Client("ws://127.0.0.1:1/")
    await client.close()
    await client.close()
    assert client.state == "closed"


@clean
async def test_cancelling_close_is_safe() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS, extensions=False)
        connecting = asyncio.create_task(client.connect())
        peer = await raw.accept()
        await connecting
        closing = asyncio.create_task(client.close())
        assert (await peer.next_of(CLOSE)).code == 1000
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await peer.send(peer.close_frame())
        peer.drop()
        await client.peer.wait_closed()
        await client.close()
        assert client.state == "closed"


@clean
async def test_close_towards_somebody_who_never_answers() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS.replace(close_timeout=0.05))
        connecting = asyncio.create_task(client.connect())
        await raw.accept()
        await connecting
        async with asyncio.timeout(8):
            await client.close()
        assert client.state == "closed"


@clean
async def test_close_cancels_handlers_that_do_not_end() -> None:
    async with dialed(limits=LIMITS.replace(close_timeout=0.1)) as (client, server):
        started, ended = asyncio.Event(), asyncio.Event()

        @client.on("for ever")
        async def for_ever() -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        (peer,) = server.peers
        await peer.emit("for ever")
        await started.wait()
        await client.close()
        assert ended.is_set()


@clean
async def test_leaving_the_block_closes_also_after_an_exception() -> None:
    closed: asyncio.Queue[CloseInfo] = asyncio.Queue()
    server = Server(limits=LIMITS)
    server.on("close", lambda peer, info: closed.put_nowait(info))
    async with server.listen() as listener:
        with pytest.raises(RuntimeError, match="mine"):
            async with Client(listener.url, limits=LIMITS) as client:
                raise RuntimeError("mine")
        assert client.state == "closed"
        assert (await closed.get()).code == 1000


@clean
async def test_after_close_calls_say_not_sent() -> None:
    async with dialed() as (client, _):
        await client.close()
        with pytest.raises(ConnectionLost) as caught:
            await client.request("echo", 1)
        assert caught.value.outcome == "not_sent"
        with pytest.raises(ConnectionLost):
            await client.emit("x")
        with pytest.raises(ConnectionLost):
            client.emit_nowait("x")
        with pytest.raises(ConnectionLost):
            await client.of("side").request("x")


@clean
async def test_connect_after_close_opens_it_again() -> None:
    async with dialed() as (client, _):
        for number in range(3):
            await client.close()
            await client.connect()
            assert await client.request("echo", number) == number


def test_one_client_in_two_runs_of_asyncio() -> None:
    urls: list[str] = []
    client = Client(lambda: urls[-1], limits=LIMITS, reconnect=AT_ONCE)
    client.on("name", lambda: "Ada")
    opened: list[str] = []
    client.on("open", lambda peer: opened.append(peer.id))

    async def main(number: int) -> None:
        server = Server(limits=LIMITS)
        server.on("echo", lambda value: value)
        async with server.listen() as listener:
            urls.append(listener.url)
            async with client:
                assert await client.request("echo", number) == number
                (peer,) = server.peers
                assert await peer.request("name") == "Ada"
                client.peer.info.underlying.transport.abort()
                await client.peer.wait_closed()
                assert await client.request("echo", "again", timeout=5) == "again"

    for number in range(2):
        asyncio.run(main(number))
    assert len(opened) == 4


def test_a_run_that_was_left_in_the_middle_does_not_spoil_the_next() -> None:
    urls: list[str] = []
    client = Client(lambda: urls[-1], limits=LIMITS)

    async def leave() -> None:
        async with raw_server() as raw:
            urls.append(raw.url)
            connecting = asyncio.create_task(client.connect())
            await raw.accept_tcp()
            asyncio.create_task(client.wait_connected()).add_done_callback(lambda task: None)
            connecting.cancel()
            await asyncio.wait([connecting])

    async def use() -> None:
        server = Server(limits=LIMITS)
        server.on("echo", lambda value: value)
        async with server.listen() as listener:
            urls.append(listener.url)
            async with client:
                assert await client.request("echo", 1) == 1

    asyncio.run(leave())
    asyncio.run(use())


# ---------------------------------------------------------------- calls that are no good


@clean
@pytest.mark.parametrize("method", ["request", "emit", "emit_nowait"])
async def test_keyword_arguments_are_refused(method: str) -> None:
    async with dialed() as (client, _):
        for caller in (client, client.peer, client.of("side")):
            with pytest.raises(TypeError, match=r"user.*by position"):
                await getattr(caller, method)("echo", 1, user="x")  # `emit_nowait` raises at once


@clean
async def test_a_call_from_another_thread_names_the_way() -> None:
    async with dialed() as (client, _):
        errors: list[BaseException] = []

        def work() -> None:
            for call in (
                lambda: client.emit_nowait("x"),
                lambda: client.request("x").send(None),
                lambda: client.emit("x").send(None),
                lambda: client.of("side").emit_nowait("x"),
            ):
                try:
                    call()
                except BaseException as exc:
                    errors.append(exc)

        await asyncio.to_thread(work)
        assert [type(error) for error in errors] == [RuntimeError] * 4
        assert all("run_coroutine_threadsafe" in str(error) for error in errors)
        assert client.peer.pending == 0
        assert await client.request("echo", 1) == 1


@clean
async def test_the_way_that_it_names_works() -> None:
    async with dialed() as (client, _):
        loop = asyncio.get_running_loop()
        results: list[int] = []

        def work() -> None:
            results.append(asyncio.run_coroutine_threadsafe(client.request("echo", 7), loop).result(8))

        thread = threading.Thread(target=work)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert results == [7]


@clean
async def test_nothing_is_complained_of_when_everything_ends_at_once(caplog: pytest.LogCaptureFixture) -> None:
    # "never retrieved" and "never awaited" would come as warnings, which are errors, or through asyncio's logger.
    server = Server(limits=LIMITS)

    @server.on("wait")
    async def wait() -> None:
        await asyncio.Event().wait()

    async with dialed(server, limits=LIMITS.replace(close_timeout=0.5)) as (client, _):
        tasks = [asyncio.create_task(client.request("wait")) for _ in range(20)]
        tasks += [asyncio.create_task(client.request("wait", timeout=0.0001 * number)) for number in range(1, 20)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        closing = asyncio.create_task(client.close())
        for task in tasks[1::3]:
            task.cancel("too late")
        await closing
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, BaseException) for result in results)
        del results, tasks, closing
        gc.collect()
    assert [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR] == []


@clean
async def test_a_request_on_a_closed_client_leaves_nothing_that_keeps_it_alive() -> None:
    client = Client(limits=LIMITS)
    await client.close()
    with suppress(ConnectionLost):
        await client.request("too late")
    gone = weakref.ref(client)
    del client
    gc.collect()
    assert gone() is None


async def test_a_close_while_an_event_is_handled_before_the_close_handlers() -> None:
    infos: list[CloseInfo] = []
    may_end = asyncio.Event()
    async with dialed(reconnect=NEVER) as (client, server):
        client.on("news", lambda: may_end.wait(), ordered=True)
        client.on("close", lambda peer, info: infos.append(info))
        [peer] = server.peers
        for _ in range(2):
            await peer.emit("news")
        await peer.close(1001, "restart")
        await turns_until(lambda: not client.connected)
        assert infos == []
        closing = asyncio.create_task(client.close())
        await turns_until(lambda: client.state in ("closing", "closed"))
        may_end.set()
        await closing
    [info] = infos
    assert (info.code, info.user_closed, info.will_reconnect) == (1001, True, False)


async def test_close_waits_for_a_connection_that_has_refused_a_message() -> None:
    """Such a connection takes no more messages, and has not told of its end yet."""
    client, server = Client(), Server()
    endings: list[CloseInfo] = []
    client.on("close", lambda peer, info: endings.append(info))
    dialed, accepted = memory_transports()
    await asyncio.gather(client.bind(dialed), server.accept(accepted))
    refuse(dialed)
    await client.emit("news")  # waits for another connection
    assert not client.peer.connected and client.peer.transport is dialed
    await client.close(4000, "enough")
    assert [(info.code, info.user_closed) for info in endings] == [(4000, True)]
    await server.close()
