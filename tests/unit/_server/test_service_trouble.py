"""`Service`: what must not get past a factory or `on_open`, and who else may have the messages."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
import weakref
from contextlib import suppress

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, raw_client
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

import wsrpc
from wsrpc import CloseInfo, Handshake, Limits, Peer, Router, RpcError, Server, Service
from wsrpc.testing import ScriptedTransport, connect, memory_transports
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


class Vault(Service):
    """Guarded, or so it is hoped, by `on_open`."""

    reached = 0
    ended: list[CloseInfo]

    def __init__(self) -> None:
        self.ended = []

    @wsrpc.method
    def take(self) -> None:
        type(self).reached += 1

    def on_close(self, info: CloseInfo) -> None:
        self.ended.append(info)


class Other(Service):
    @wsrpc.method
    def other(self) -> None:
        """Nothing."""


async def cancelled() -> None:
    """What waits for a task that somebody else has cancelled."""
    waiting = asyncio.get_running_loop().create_future()
    waiting.cancel()
    await waiting


@pytest.mark.parametrize("where", ["factory", "on_open"])
async def test_a_guard_that_fails_by_a_cancelled_error_lets_nobody_in(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Vault] = []

    class Guarded(Vault):
        async def on_open(self) -> None:
            if where == "on_open":
                await cancelled()

    async def make(peer: Peer) -> Guarded:
        if where == "factory":
            await cancelled()
        guarded = Guarded()
        made.append(guarded)
        return guarded

    server = Server(limits=Limits(close_timeout=1000.0))
    server.add_service(Guarded, make)
    async with server.listen() as listener, open_websocket(listener.url) as websocket:
        with suppress(ConnectionClosed):  # so soon
            await websocket.send('{"a":["take"],"i":1}')
        await websocket.wait_closed()
        assert (websocket.close_code, websocket.close_reason) == (1011, "internal error")
    assert Guarded.reached == 0
    assert [len(vault.ended) for vault in made] == ([1] if where == "on_open" else [])
    [text] = messages(caplog, logging.ERROR)
    assert "failed" in text and where in text


async def serve(connection: RawConnection) -> None:
    """Nothing."""


class Listening(Service):
    def on_message(self, message: str | bytes) -> None:
        """Nothing."""


class Reading(Service):
    def on_json(self, value: int) -> None:
        """Nothing."""


@pytest.mark.parametrize("service", [Vault, Listening, Reading])
async def test_a_connection_goes_to_a_raw_function_or_to_a_service(service: type[Service]) -> None:
    server = Server()
    server.serve_raw(serve)
    with pytest.raises(ValueError, match=r"^<function serve at .*> serves every connection of this server already$"):
        server.add_service(service)
    server = Server()
    server.add_service(service)
    expected = (
        f"^serve_raw serves every connection, and {service.__qualname__} serves them already: use another Server$"
    )
    with pytest.raises(ValueError, match=expected):
        server.serve_raw(serve)


async def test_a_handler_does_not_take_the_place_of_a_method() -> None:
    server = Server()
    server.add_service(Vault)
    server.add_service(Other, channel="side")
    router = Router()
    router.on("take", print)
    for register in (
        lambda: server.on("take", lambda: None),
        lambda: server.of("side").on("other", lambda: None),
        lambda: server.include(router),
    ):
        with pytest.raises(ValueError, match=r"^'(take|other)' is a method of a service, .*: take another name for "):
            register()
    server.of("side").on("take", lambda: "another event")
    server.on("take", None)
    server.on("take", lambda: "that was removed")


@pytest.mark.parametrize(("service", "style"), [(Listening, "on_message"), (Reading, "on_json")])
async def test_a_raw_function_does_not_take_a_services_messages(service: type[Service], style: str) -> None:
    server = Server()
    server.add_service(service)
    with pytest.raises(
        ValueError, match=rf"^{service.__name__}\.{style} gets every message, so .* would never be called"
    ):
        server.on_raw(print)


class Raises(Service):
    def on_message(self, message: str) -> None:
        raise KeyError("secret")


class RaisesLater(Service):
    async def on_json(self, value: object) -> None:
        raise KeyError("secret")


@pytest.mark.parametrize("service", [Raises, RaisesLater])
@pytest.mark.parametrize("ends", [False, True])
async def test_an_error_handler_may_end_the_connection_of_a_service_that_raises(
    service: type[Service], ends: bool
) -> None:
    server = Server()
    server.add_service(service)
    told: list[BaseException] = []

    @server.on("error")
    async def error(peer: Peer, error: BaseException) -> None:
        told.append(error)
        if ends:
            await peer.close(1011, "internal error")

    transport = ScriptedTransport()
    await server.accept(transport)
    transport.feed("1")
    await turns_until(lambda: told)
    await turns_until(lambda: transport.closed is not None or not ends)
    assert [type(each) for each in told] == [KeyError]
    assert (transport.closed is not None) is ends
    if transport.closed is not None:
        assert (transport.closed.code, transport.closed.reason) == (1011, "internal error")
    await server.close()


async def test_a_server_that_closes_does_not_wait_for_factories(caplog: pytest.LogCaptureFixture) -> None:
    asked = asyncio.Event()

    async def make(peer: Peer) -> Vault:
        asked.set()
        await asyncio.get_running_loop().create_future()
        return Vault()

    server = Server(limits=Limits(open_handlers=3600.0))
    server.add_service(make)
    async with server.listen() as listener, open_websocket(listener.url) as websocket:
        await asked.wait()
        async with asyncio.timeout(8):
            await server.close()
        await websocket.wait_closed()
        assert (websocket.close_code, websocket.close_reason) == (1012, "the server is closing")
    assert messages(caplog) == []


@pytest.mark.parametrize("admits", [True, False])
async def test_credentials_that_expire_while_a_factory_runs_close_the_connection(admits: bool) -> None:
    server = Server()
    go_on = asyncio.Event()
    opened: list[Peer] = []
    made: list[weakref.ref[Peer]] = []

    @server.on_handshake
    def check(handshake: Handshake) -> None:
        handshake.expires = time.time() + (0 if admits else 3600)

    class Late(Service):
        def on_open(self) -> None:
            opened.append(self.peer)

    async def make(peer: Peer) -> Late:
        made.append(weakref.ref(peer))
        await go_on.wait()
        if not admits:
            raise RpcError("no")
        return Late()

    server.add_service(Late, make)
    async with server.listen() as listener, raw_client(listener.port) as raw:
        await turns_until(lambda: made)
        go_on.set()
        frame = await raw.next_of(CLOSE)
        expected = (4411, "the credentials have expired") if admits else (1008, "no")
        assert (frame.code, frame.reason) == expected
        await raw.send(raw.close_frame(frame.code))
        raw.drop()
        await turns_until(lambda: server.stats().closed)
        assert server.stats().closed == {expected[0]: 1}
        assert opened == []

        def collected() -> bool:
            gc.collect()
            return made[0]() is None

        await turns_until(collected)  # it does not wait for the time at which the credentials expire


@pytest.mark.parametrize("slowly", [False, True])
async def test_each_connection_of_a_peer_that_is_bound_again_ends_once(slowly: bool) -> None:
    told: list[object] = []

    class Desk(Service):
        async def on_open(self) -> None:
            told.append("open")
            if slowly:
                await asyncio.sleep(0)

        def on_close(self, info: CloseInfo) -> None:
            told.append(info.code)

    class Plain(Service):
        def on_close(self, info: CloseInfo) -> None:
            told.append(-info.code)

    server = Server()
    server.add_service(Desk)
    server.add_service(Plain)
    async with connect(server):
        [peer] = server.peers
    await turns_until(lambda: len(told) == 3)
    ours, theirs = memory_transports()
    peer.bind(ours)
    await peer.wait_opened()
    await peer.close(4001)
    await turns_until(lambda: len(told) == 6)
    assert told == ["open", -1000, 1000, "open", -4001, 4001]
    del theirs


class Serving(Service):
    async def serve(self, connection: RawConnection) -> None:
        await connection.receive()


@pytest.mark.parametrize("service", [Vault, Serving])
async def test_an_object_serves_one_connection(service: type[Service], caplog: pytest.LogCaptureFixture) -> None:
    shared = service()
    server = Server()
    server.add_service(service, lambda: shared)
    async with server.listen() as listener, open_websocket(listener.url):
        async with open_websocket(listener.url) as other:
            await other.wait_closed()
            assert (other.close_code, other.close_reason) == (1011, "internal error")
    assert f"the factory of {service.__qualname__} returned an object that serves <" in caplog.text
    assert ": make a new one for each connection" in caplog.text


async def test_an_on_open_that_takes_too_long_is_named(caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Vault):
        async def on_open(self) -> None:
            await asyncio.get_running_loop().create_future()

    server = Server(limits=Limits(open_handlers=0.01, close_timeout=0.1))
    server.add_service(Slow)
    server.add_service(Other)
    async with connect(server) as client:
        await client.request("take")
    [text] = messages(caplog)
    assert text.startswith(f"the handler of 'open' {Slow.__qualname__}.on_open has not finished within 0.01 s: ")


async def test_what_does_not_fit_on_json_is_said_of_it() -> None:
    class Sums(Service):
        def on_json(self, value: list[int]) -> None:
            """Nothing."""

    told: asyncio.Queue[object] = asyncio.Queue()
    server = Server()
    server.add_service(Sums)
    server.on("error", lambda peer, error: told.put_nowait(error))
    async with server.listen() as listener, open_websocket(listener.url) as websocket:
        await websocket.send('{"a":1}')
        assert str(await told.get()) == "handler: argument 'value' (1st): expected array, got object"
