"""A server that was closed is opened again: what was registered stays, what belonged to its connections is gone."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import ask, handshake

from wsrpc import (
    Client,
    ConnectionLost,
    Handshake,
    HandshakeRejected,
    Key,
    Limits,
    Peer,
    Reconnect,
    RpcError,
    Server,
    Service,
    dial,
    method,
)
from wsrpc.testing import connect, memory_transports
from wsrpc.types import RawConnection

LIMITS = Limits(close_timeout=2.0)
NAME = Key[str]("name")

afterwards = pytest.mark.usefixtures("nothing_left")


def echo_server(**options: Any) -> Server:
    server = Server(**{"limits": LIMITS} | options)
    server.on("echo", lambda value: value)
    return server


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def health(port: int) -> int:
    return status(await ask(port, b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"))


@afterwards
async def test_what_was_registered_stays() -> None:
    server = echo_server()

    class Greeter(Service):
        @method
        def greet(self) -> str:
            name: str = self.peer.state["name"]
            return f"Hello, {name}"

    server.add_service(Greeter)

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        if "name" not in handshake.query:
            handshake.reject(401)
        handshake.state["name"] = handshake.query["name"]

    prices = server.room("prices", allow=lambda peer: True)
    feed = server.of("feed")
    feed.on("double", lambda value: 2 * value)
    heard: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
    for turn in range(3):
        async with server.listen() as listener:
            async with Client(f"{listener.url}?name=Ada", limits=LIMITS) as client:
                client.of("feed").on("news", lambda value: heard.put_nowait(("feed", value)))
                client.on("price", lambda value: heard.put_nowait(("price", value)))
                assert await client.request("echo", turn) == turn
                assert await client.request("greet") == "Hello, Ada"
                assert await client.of("feed").request("double", turn) == 2 * turn
                await client.of("rooms").request("join", "prices")
                assert (await feed.emit("news", turn)).sent == 1
                assert (await prices.emit("price", turn)).sent == 1
                assert [await heard.get(), await heard.get()] == [("feed", turn), ("price", turn)]
            with pytest.raises(HandshakeRejected):
                await Client(listener.url, limits=LIMITS).connect()


@afterwards
async def test_peers_rooms_and_numbers_are_new() -> None:
    server = echo_server()
    declared = server.room("declared", slow="drop_newest")
    old: list[Peer] = []
    for turn in range(2):
        async with server.listen() as listener:
            assert (server.peers, server.rooms, len(declared)) == ((), (declared,), 0)
            stats = server.stats()
            assert (stats.accepted, stats.closed, stats.refused, stats.messages_in, stats.errors) == (0, {}, {}, 0, 0)
            assert server.healthy and await health(listener.port) == 200
            assert repr(server) == "<Server open, 0 peers>"
            async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
                await client.request("echo", 1)
                [peer] = server.peers
                old.append(peer)
                server.room("lobby").add(peer)
                declared.add(peer)
                await asyncio.gather(server.close(), client.peer.wait_closed())
        assert not server.healthy and repr(server) == "<Server closed>"
        # Until it is opened again the numbers are those of the end.
        assert (server.stats().accepted, server.stats().closed) == (1, {1012: 1})
        assert server.peers == () and server.peer(old[turn].id) is None
    assert old[0] is not old[1] and old[0].id != old[1].id
    with pytest.raises(ConnectionLost):
        declared.add(old[0])


@afterwards
async def test_uptime_begins_anew() -> None:
    server = echo_server()
    async with server.listen():
        before = server.stats().uptime
    await server.open()
    assert 0 <= server.stats().uptime < before + LIMITS.close_timeout
    await server.close()


@afterwards
async def test_the_state_of_the_application_stays() -> None:
    server = echo_server()
    server.state[NAME] = "the one"
    async with server.listen():
        pass
    async with server.listen():
        assert server.state[NAME] == "the one"


@afterwards
async def test_one_listening_can_be_entered_again() -> None:
    listening = echo_server().listen()
    for _ in range(2):
        async with listening as listener, Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", "x") == "x"


@afterwards
async def test_nobody_is_let_in_before() -> None:
    server = echo_server()
    async with server.listen():
        pass
    with pytest.raises(HandshakeRejected) as caught:
        await server.handshake(Handshake("/", {}))
    assert caught.value.status == 503
    dialed, accepted = memory_transports()
    with pytest.raises(ConnectionLost):
        await server.accept(accepted)
    await dialed.close()
    await server.open()
    async with connect(server) as client:
        assert await client.request("echo", 1) == 1
    await server.close()


@afterwards
async def test_opening_what_is_open_changes_nothing() -> None:
    server = echo_server()
    async with connect(server) as client:
        peers = server.peers
        await server.open()
        assert server.peers == peers
        assert await client.request("echo", 1) == 1


@afterwards
async def test_closing_twice_and_opening_twice() -> None:
    server = echo_server()
    await asyncio.gather(server.close(), server.close())
    await server.close()
    await asyncio.gather(server.open(), server.open())
    async with connect(server) as client:
        assert await client.request("echo", 1) == 1
    await server.close()


@afterwards
async def test_not_while_it_is_closing() -> None:
    server = echo_server()
    started, go_on = asyncio.Event(), asyncio.Event()

    @server.on("work")
    async def work() -> None:
        started.set()
        await go_on.wait()

    async with server.listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
            await client.emit("work")
            await started.wait()
            closing = asyncio.create_task(server.close())
            await client.peer.wait_closed()
            for _ in range(2):
                with pytest.raises(RuntimeError, match=r"still closing: await server\.close\(\)"):
                    await server.open()
                with pytest.raises(RuntimeError, match="still closing"):
                    async with server.listen():
                        pytest.fail("it listens")
            go_on.set()
            await closing
    async with server.listen() as listener, Client(listener.url, limits=LIMITS) as client:
        assert await client.request("echo", 1) == 1


class SlowPort:
    """A port that takes its time to open."""

    url, port = "ws://nowhere", 0

    def __init__(self) -> None:
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()
        self.stopped = self.closed = False

    async def begin(self) -> SlowPort:
        self.asked.set()
        await self.go_on.wait()
        return self

    def stop(self) -> None:
        self.stopped = True

    async def wait_closed(self) -> None:
        self.closed = True


@afterwards
async def test_a_close_while_a_port_is_being_opened() -> None:
    server = echo_server()
    port = SlowPort()

    async def serve() -> None:
        async with server.listening(port.begin):
            pytest.fail("it listens")

    serving = asyncio.create_task(serve())
    await port.asked.wait()
    await server.close()
    port.go_on.set()
    with pytest.raises(RuntimeError, match="closed before it could listen"):
        await serving
    assert port.stopped and port.closed and not server.healthy


@afterwards
async def test_two_ports_at_once_end_with_the_first_that_is_left() -> None:
    server = echo_server()
    async with server.listen() as first:
        async with server.listen() as second:
            for listener in (first, second):
                async with Client(listener.url, limits=LIMITS) as client:
                    assert await client.request("echo", 1) == 1
        assert not server.healthy
        with pytest.raises(OSError):
            await ask(first.port, handshake())


@afterwards
async def test_leaving_an_older_block_does_not_close_what_was_opened_since() -> None:
    server = echo_server()
    async with server.listen() as newer_is_wanted:
        assert newer_is_wanted.port
        await server.close()
        newer = server.listen()
        await newer.__aenter__()
    async with Client(newer.url, limits=LIMITS) as client:
        assert await client.request("echo", 1) == 1
    await newer.__aexit__(None, None, None)


@afterwards
async def test_waiting_for_the_end_is_for_the_present_one() -> None:
    server = echo_server()
    await server.close()
    await server.serve_forever()  # it has ended
    async with server.listen():
        waiting = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


@afterwards
async def test_raw_connections() -> None:
    server = Server(limits=LIMITS)

    @server.serve_raw
    async def echo(connection: RawConnection) -> None:
        async for message in connection:
            await connection.send(message)

    for _ in range(2):
        async with server.listen() as listener:
            assert not server.raw_connections and server.stats().accepted == 0
            connection = await dial(listener.url, limits=LIMITS)
            await turns_until(lambda: server.raw_connections)
            [served] = server.raw_connections
            ended = asyncio.create_task(served.wait_closed())
            await server.close()
            assert (await ended).code == 1012
            connection.abort()


@afterwards
async def test_who_waits_in_on_handshake_at_the_end_is_refused_and_the_next_one_is_not() -> None:
    server = echo_server()
    asked, decided = asyncio.Event(), asyncio.Event()

    @server.on_handshake
    async def gate(handshake: Handshake) -> None:
        asked.set()
        await decided.wait()

    waiting = asyncio.create_task(server.handshake(Handshake("/", {})))
    await asked.wait()
    await server.close()
    await server.open()
    with pytest.raises(HandshakeRejected) as caught:
        await waiting
    assert caught.value.status == 503
    assert server.stats().refused == {}, "it was of the run before"
    decided.set()
    async with connect(server) as client:
        assert await client.request("echo", 1) == 1
    await server.close()


def test_in_another_event_loop() -> None:
    server = echo_server()

    async def serve() -> Any:
        async with server.listen() as listener, Client(listener.url, limits=LIMITS) as client:
            return await client.request("echo", "x")

    for _ in range(3):
        assert asyncio.run(serve()) == "x"
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(serve())))
    thread.start()
    thread.join(20)
    assert found == ["x"]


def test_after_an_event_loop_that_ended_without_closing_it() -> None:
    server = echo_server()
    lobby = server.room("lobby")
    left: list[Peer] = []

    async def leave() -> None:
        _, accepted = memory_transports()
        peer = await server.accept(accepted)
        assert isinstance(peer, Peer)
        lobby.add(peer)
        left.append(peer)

    async def serve() -> None:
        async with server.listen() as listener:
            assert server.peers == () and len(lobby) == 0
            async with Client(listener.url, limits=LIMITS) as client:
                assert await client.request("echo", "x") == "x"
                assert (await server.emit("news")).sent == 1

    asyncio.run(leave())
    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    thread.join(20)
    assert left and server.stats().accepted == 1, "the thread did all of it"


@pytest.mark.parametrize("raw", [False, True])
def test_connections_of_an_event_loop_that_ended_are_in_nobody_s_way(raw: bool) -> None:
    """As those of a test that was interrupted, for the next one in another thread."""
    server = Server() if raw else echo_server()
    if raw:

        @server.serve_raw
        async def serve(connection: RawConnection) -> None:
            await connection.receive()

    async def leave() -> None:
        await server.accept(memory_transports()[1])

    async def use() -> None:
        dialed, accepted = memory_transports()
        await server.accept(accepted)
        assert len(server.peers) + len(server.raw_connections) == 1
        assert (await server.emit("news")).sent == (0 if raw else 1)
        await dialed.close()

    async def close() -> None:
        await server.close()
        await server.close()
        assert server.peers == () and server.raw_connections == () and not server.healthy
        await server.open()
        assert server.healthy

    for step in (leave, use, leave, close, close):
        failures: list[BaseException] = []

        def run(step: Any = step, failures: list[BaseException] = failures) -> None:
            try:
                asyncio.run(step())
            except BaseException as exc:
                failures.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join(20)
        assert not failures, (step, failures)


def test_after_an_event_loop_that_ended_while_it_was_closing() -> None:
    server = echo_server(limits=Limits(close_timeout=0.05))

    async def leave() -> None:
        started = asyncio.Event()

        @server.on("stick")
        async def stick() -> None:
            started.set()
            await asyncio.Event().wait()

        async with connect(server) as client:
            await client.emit("stick")
            await started.wait()
            closing = asyncio.create_task(server.close(drain=60))
            await asyncio.sleep(0)
            assert repr(server) == "<Server draining, 1 peers>"
            closing.cancel()
            raise RpcError("the program fails")

    with pytest.raises(RpcError):
        asyncio.run(leave())

    async def serve() -> None:
        async with server.listen() as listener, Client(listener.url, limits=LIMITS) as client:
            assert await client.request("echo", "x") == "x"

    asyncio.run(serve())


def test_run_twice() -> None:
    server = echo_server()
    closings: list[asyncio.Task[None]] = []
    answers: list[Any] = []

    @server.on("stop")
    async def stop() -> None:
        closings.append(asyncio.create_task(server.close()))

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]

    async def use() -> None:
        keen = Reconnect(initial=0.01, max=0.05)
        async with Client(f"ws://127.0.0.1:{port}", limits=LIMITS, reconnect=keen) as client:
            answers.append(await client.request("echo", "x"))
            ended = client.peer.wait_closed()
            await client.emit("stop")
            await ended

    for _ in range(2):
        thread = threading.Thread(target=asyncio.run, args=(use(),))
        thread.start()
        server.run("127.0.0.1", port)
        thread.join(20)
    assert answers == ["x", "x"] and len(closings) == 2
