"""What one handler does reaches nobody else: context variables, results, exceptions of all kinds."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from typing import Any

import pytest
from core_driver import Driven, messages, rejection, turns
from leftovers import nothing_left as nothing_left

from wsrpc import Client, Context, Limits, Peer, Reconnect, RemoteError, Router, Server, current_peer
from wsrpc.testing import ScriptedTransport, connect, pair

pytestmark = pytest.mark.usefixtures("nothing_left")

PATIENCE = 8
LIMITS = Limits(close_timeout=2.0)

user: ContextVar[str] = ContextVar("user", default="nobody")

WAYS = ["inline", "async", "inline awaitable"]


def serving() -> Server:
    server = Server(limits=LIMITS)
    server.on("login", lambda name: (user.set(name), user.get())[1])

    @server.on("fail after login")
    def fail(name: str) -> None:
        user.set(name)
        raise ValueError(name)

    async def whoami() -> str:
        return user.get()

    server.on("inline", lambda: user.get())
    server.on("async", whoami)
    server.on("inline awaitable", lambda: whoami())
    return server


# ---------------------------------------------------------------- context variables


async def test_an_event_that_outlives_its_session_is_handled_in_the_context_of_the_code_that_connected() -> None:
    client, transport = Client(limits=LIMITS.replace(running=1)), ScriptedTransport()
    gate, seen = asyncio.Event(), list[str]()

    async def note() -> None:
        await gate.wait()
        seen.append(user.get())

    async def connect_as(name: str) -> None:
        user.set(name)
        await client.bind(transport)

    client.on("note", note)
    await asyncio.create_task(connect_as("ada"))
    transport.feed({"a": ["note"]}, {"a": ["note"]})
    await turns()
    transport.lose()
    await turns()
    gate.set()
    await turns()
    assert seen == ["ada", "ada"]
    await client.close()


@pytest.mark.parametrize("way", WAYS)
async def test_what_an_inline_handler_sets_is_gone_with_it(way: str) -> None:
    async with asyncio.timeout(PATIENCE):
        async with serving().listen() as listener:
            async with Client(listener.url, limits=LIMITS) as client:
                assert await client.request("login", "ada") == "ada"
                assert await client.request(way) == "nobody"
                with pytest.raises(RemoteError):
                    await client.request("fail after login", "ada")
                assert await client.request(way) == "nobody"
                # Also in one read.
                assert [*await asyncio.gather(client.request("login", "ada"), client.request(way))] == ["ada", "nobody"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("network", [True, False])
async def test_what_an_inline_handler_sets_is_not_seen_on_other_connections(way: str, network: bool) -> None:
    server = serving()
    async with asyncio.timeout(PATIENCE):
        if network:
            async with server.listen() as listener:
                async with Client(listener.url, limits=LIMITS) as one, Client(listener.url, limits=LIMITS) as two:
                    await one.request("login", "ada")
                    assert [*await asyncio.gather(one.request("login", "ada"), two.request(way))] == ["ada", "nobody"]
                async with Client(listener.url, limits=LIMITS) as later:
                    assert await later.request(way) == "nobody"
        else:
            async with connect(server) as one, connect(server) as two:
                await one.request("login", "ada")
                assert [*await asyncio.gather(one.request("login", "ada"), two.request(way))] == ["ada", "nobody"]
            async with connect(server) as later:
                assert await later.request(way) == "nobody"
            await server.close()
    assert user.get() == "nobody"


async def test_a_read_that_a_script_makes_leaves_the_callers_context_alone() -> None:
    d = Driven()

    @d.peer.on("login")
    def login(name: str) -> None:
        user.set(name)

    d.feed({"i": 1, "a": ["login", "ada"]})
    d.expect({"i": 1, "d": None})
    assert user.get() == "nobody"
    with pytest.raises(RuntimeError):
        current_peer()


@pytest.mark.parametrize("event", ["open", "message", "error", "close"])
async def test_what_a_lifecycle_handler_sets_is_gone_with_it(event: str) -> None:
    d = Driven(bind=False)
    seen: list[str] = []

    def login() -> None:
        seen.append(user.get())
        user.set("ada")

    d.peer.on(event, login)
    d.peer.on("whoami", lambda: seen.append(user.get()))
    for _ in range(2):
        d.rebind()
        d.feed({"a": ["whoami"]}, {"a": []}, {"a": ["whoami"]})
        d.transport.lose()
    await turns()
    assert set(seen) == {"nobody"}
    assert user.get() == "nobody"


async def test_what_was_set_before_the_connection_is_seen_by_its_handlers() -> None:
    server = serving()
    async with asyncio.timeout(PATIENCE):
        token = user.set("whoever accepted")
        try:
            async with connect(server) as client:
                for way in WAYS:
                    assert await client.request(way) == "whoever accepted"
        finally:
            user.reset(token)
            await server.close()


# ---------------------------------------------------------------- a handler that binds another connection


@pytest.mark.parametrize("kind", ["result", "error", "async result", "async error"])
async def test_a_result_goes_out_on_the_connection_that_asked_or_not_at_all(kind: str) -> None:
    d = Driven()
    other = ScriptedTransport()

    def move(peer: Peer) -> int:
        peer.bind(other)
        if "error" in kind:
            raise ValueError("after all")
        return 42

    async def move_async(peer: Peer) -> int:
        return move(peer)

    d.peer.on("move", move_async if "async" in kind else move)
    d.peer.on("echo", lambda value: value)
    d.feed({"i": 5, "a": ["move"]})
    await turns()
    assert other.take() == []
    assert d.peer.transport is other
    other.feed({"i": 5, "a": ["echo", "mine"]})
    await turns()
    other.expect({"i": 5, "d": "mine"})
    d.assert_empty()


async def test_a_handler_that_binds_before_its_first_await_is_cancelled() -> None:
    d = Driven()
    other = ScriptedTransport()
    ended = asyncio.get_running_loop().create_future()

    @d.peer.on("move")
    async def move(peer: Peer) -> None:
        peer.bind(other)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set_result("cancelled")
            raise

    async with asyncio.timeout(PATIENCE):
        d.feed({"i": 5, "a": ["move"]})
        assert await ended == "cancelled"
    await turns()
    assert other.take() == []
    d.assert_empty()


# ---------------------------------------------------------------- exceptions that are no Exception


class Odd(BaseException):
    """What is no Exception, as some libraries have it."""


ODD = [
    Odd("odd"),
    pytest.fail.Exception("a test failed"),
    BaseExceptionGroup("group", [asyncio.CancelledError()]),
    BaseExceptionGroup("group", [Odd()]),
    GeneratorExit(),
]


@pytest.mark.parametrize("error", ODD, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("way", ["inline", "async", "async later", "thread", "middleware", "ordered"])
async def test_what_is_no_exception_is_answered_like_one(
    way: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):

        def inline() -> None:
            raise error

        async def at_once() -> None:
            raise error

        async def later() -> None:
            await asyncio.sleep(0)
            raise error

        async def middleware(ctx: Context, call_next: Any) -> Any:
            if ctx.event == "work":
                raise error
            return await call_next(ctx)

        right.on("echo", lambda value: value)
        if way == "middleware":
            right.use(middleware)
        right.on(
            "work",
            {"async": at_once, "async later": later}.get(way, inline),
            thread=way == "thread",
            ordered=way == "ordered",
        )
        with pytest.raises(RemoteError) as caught:
            await left.request("work", timeout=None)
        assert caught.value.code == "wsrpc.internal"
        await left.emit("work")
        assert await left.request("echo", "still there") == "still there"
    assert sum("handling work" in text for text in messages(caplog, logging.ERROR)) == 2


@pytest.mark.parametrize("event", ["open", "close", "message", "error"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(
    "error", [ValueError("odd"), Odd("odd"), asyncio.CancelledError("odd")], ids=["plain", "odd", "cancelled"]
)
async def test_a_lifecycle_handler_that_raises_what_is_no_exception_harms_no_connection(
    event: str, kind: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def sync() -> None:
        raise error

    async def later() -> None:
        await asyncio.sleep(0)
        raise error

    server = serving()
    server.on(event, sync if kind == "sync" else later)
    async with asyncio.timeout(PATIENCE):
        async with server.listen() as listener:
            for _ in range(2):
                async with Client(listener.url, limits=LIMITS, reconnect=None) as client:
                    if event == "error":  # handlers of which are told of malformed messages
                        assert client.peer.transport is not None
                        client.peer.transport.send(b"{")
                    assert await client.request("login", "ada", timeout=None) == "ada"
                    (peer,) = server.peers
                await peer.wait_closed()
    assert sum(f"handler of '{event}'" in text for text in messages(caplog, logging.ERROR)) >= 2


# ---------------------------------------------------------------- middleware


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1])
async def test_a_middleware_that_goes_on_twice_fails_and_the_handler_runs_once(before: int, after: int) -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        ran: list[int] = []

        async def through(ctx: Context, call_next: Any) -> Any:
            return await call_next(ctx)

        async def twice(ctx: Context, call_next: Any) -> Any:
            await call_next(ctx)
            return await call_next(ctx)

        for middleware in (*[through] * before, twice, *[through] * after):
            right.use(middleware)
        right.on("e", ran.append)
        with pytest.raises(RemoteError) as caught:
            await left.request("e", 1)
        assert caught.value.code == "wsrpc.internal"
        assert ran == [1]


async def test_a_middleware_that_keeps_call_next_cannot_run_the_handler_again() -> None:
    async with asyncio.timeout(PATIENCE), pair() as (left, right):
        ran: list[int] = []
        kept: list[tuple[Context, Any]] = []

        @right.use
        async def keep(ctx: Context, call_next: Any) -> Any:
            kept.append((ctx, call_next))
            return await call_next(ctx)

        right.on("e", ran.append)
        await left.request("e", 1)
        ctx, call_next = kept[0]
        with pytest.raises(RuntimeError, match="call_next twice"):
            await call_next(ctx)
        assert ran == [1]


async def test_arguments_of_a_context_cannot_be_changed_by_accident() -> None:
    d = Driven()

    @d.peer.use
    async def change(ctx: Context, call_next: Any) -> Any:
        assert ctx.args == (1, 2)
        with pytest.raises(TypeError):
            ctx.args[0] = 9  # type: ignore[index]
        assert not hasattr(ctx.args, "append")
        ctx.args = [*ctx.args, 3]
        assert ctx.args == (1, 2, 3)
        ctx.args = (7, 8)
        return await call_next(ctx)

    d.peer.on("add", lambda a, b: a + b)
    assert await d.fed({"i": 1, "a": ["add", 1, 2]}) == [{"i": 1, "d": 15}]


async def test_a_channel_of_a_router_can_be_ordered() -> None:
    router, server = Router(), Server()
    running, most = 0, 0

    @router.of("room", ordered=True).on("work")
    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    server.include(router)
    async with asyncio.timeout(PATIENCE):
        async with connect(server) as client:
            await asyncio.gather(*(client.of("room").request("work") for _ in range(3)))
        await server.close()
    assert most == 1


# ---------------------------------------------------------------- whose handler is it


async def test_current_peer_works_in_all_lifecycle_handlers() -> None:
    d = Driven(bind=False)
    seen: list[tuple[str, bool]] = []

    def note(event: str) -> Any:
        def sync(*_: Any) -> None:
            seen.append((event, current_peer() is d.peer))

        return sync

    for event in ("open", "message", "error", "close"):
        d.peer.on(event, note(event))
    d.peer.bind(d.transport)
    d.feed({"i": 0.5, "a": ["e"]}, "{")
    d.transport.lose()
    assert seen == [
        ("open", True),
        ("message", True),
        ("error", True),
        ("message", True),
        ("error", True),
        ("close", True),
    ]
    with pytest.raises(RuntimeError):
        current_peer()


async def test_current_peer_works_in_async_lifecycle_handlers_to_their_end() -> None:
    d = Driven(bind=False)
    seen: set[tuple[str, bool]] = set()

    def note(event: str) -> Any:
        async def later(*_: Any) -> None:
            await asyncio.sleep(0)
            seen.add((event, current_peer() is d.peer))

        return later

    for event in ("open", "message", "error", "close"):
        d.peer.on(event, note(event))
    d.peer.bind(d.transport)
    await turns()
    d.feed({"i": 0.5, "a": ["e"]}, "{")
    await turns()
    d.transport.lose()
    await turns()
    assert seen == {("open", True), ("message", True), ("error", True), ("close", True)}


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_current_peer_works_in_on_reconnect(kind: str) -> None:
    server = serving()
    async with asyncio.timeout(PATIENCE):
        async with server.listen() as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=Reconnect(initial=0.001, max=0.001)) as client:
                found = asyncio.get_running_loop().create_future()

                def sync() -> None:
                    try:
                        found.set_result(current_peer())
                    except RuntimeError as exc:
                        found.set_result(exc)

                async def later() -> None:
                    sync()

                client.on_reconnect(lambda info: sync() if kind == "sync" else later())
                (peer,) = server.peers
                await peer.close(1012)
                assert await found is client.peer


async def test_rejections_name_no_secrets_of_odd_exceptions() -> None:
    d = Driven()

    def fail() -> None:
        raise Odd("the password")

    d.peer.on("fail", fail)
    error = rejection(await d.fed({"i": 1, "a": ["fail"]}), 1)
    assert "password" not in str(error)
