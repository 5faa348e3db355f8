"""`Quotas`: what a user may do on all connections together."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import msgspec
import pytest
from core_driver import Blocked
from tenacity import wait_fixed
from waiting import settled, until

from wsrpc import (
    Client,
    ConnectionLost,
    Handshake,
    HandshakeRejected,
    Limits,
    Overloaded,
    Quotas,
    Rate,
    Reconnect,
    Server,
    Stream,
)
from wsrpc._server.quotas import quotas
from wsrpc.cluster import Cluster, MemoryEngine
from wsrpc.store import Acquired, Appended, LogState, MemoryStore, Page, StoreFull, StoreLost
from wsrpc.testing import Line, Simulation, connect, memory_transports, simulate

ABOVE = "above the quota"
TOO_MANY = "more than {} connections: close one, or try again later"


def quoted(*quotas: Quotas, **options: Any) -> Server:
    server = Server(quotas=quotas, **options)
    server.on("add", lambda a, b: a + b)
    return server


async def allowed(client: Client, tries: int) -> int:
    """Return how many of so many requests are answered."""
    answers = await asyncio.gather(*(client.request("add", 1, 2) for _ in range(tries)), return_exceptions=True)
    assert all(each == 3 or isinstance(each, Overloaded) for each in answers), answers
    return answers.count(3)


async def come(stack: AsyncExitStack, server: Server, *principals: object) -> list[Client]:
    return [await stack.enter_async_context(connect(server, principal=each)) for each in principals]


async def is_refused(server: Server, why: str = "429", **options: Any) -> None:
    with pytest.raises(HandshakeRejected, match=why):
        await connect(server, **options).__aenter__()


# ---------------------------------------------------------------- requests per second


async def test_a_client_that_connects_again_has_what_it_had_left() -> None:
    server = quoted(Quotas(requests=200))
    done = 0
    for _ in range(20):
        async with connect(server, principal="ada") as client:
            done += await allowed(client, 15)
    assert done == 200 and server.stats().ignored == {ABOVE: 100}
    async with connect(server, principal="bob") as other:
        assert await allowed(other, 210) == 200
    await asyncio.sleep(0.5)
    async with connect(server, principal="ada") as client:
        assert await allowed(client, 150) == 100
    assert server.stats().ignored == {ABOVE: 160}


async def test_all_connections_of_a_user_have_one_bucket_and_each_its_own_rate() -> None:
    server = quoted(Quotas(requests=10), Quotas(by=lambda _: "all", requests=25), limits=Limits(rate=6))
    async with AsyncExitStack() as stack:
        clients = await come(stack, server, "ada", "ada", "bob", "cleo", None)
        # A message that its own rate refuses takes nothing from the others.
        assert [await allowed(each, 8) for each in clients] == [6, 4, 6, 6, 3]
    assert server.stats().ignored == {ABOVE: 9, "above the rate": 6}
    assert server.stats().refused_by_principal == {
        "ada": {ABOVE: 4, "above the rate": 2},
        "bob": {"above the rate": 2},
        "cleo": {"above the rate": 2},
        "unknown": {ABOVE: 5},
    }


async def test_what_one_limit_refuses_takes_nothing_from_the_others() -> None:
    """The limits that were asked before it had counted the request."""
    server = quoted(Quotas(requests=10), Quotas(by=lambda _: "all", requests=25), limits=Limits(rate=10))
    server.on("rated", lambda: 1, rate=2)
    async with AsyncExitStack() as stack:
        clients = await come(stack, server, "bob", "cleo", "dan", "ada")
        assert [await allowed(each, 30) for each in clients] == [10, 10, 5, 0]
        client = clients[-1]
        await asyncio.sleep(
            0.2
        )  # 5 tokens for all; with two new tokens, each other limit has 10 again if it has given none
        assert await allowed(client, 30) == 5
        await asyncio.sleep(1)
        asked = await asyncio.gather(*(client.request("rated") for _ in range(9)), return_exceptions=True)
        assert asked.count(1) == 2 and await allowed(client, 30) == 8


SLOWLY = Rate(20, per=60, burst=5)
AT: dict[str, Callable[[], Server]] = {
    "a connection": lambda: quoted(limits=Limits(rate=SLOWLY)),
    "a user": lambda: quoted(Quotas(requests=SLOWLY)),
    "an event": lambda: Server(),
}


@pytest.mark.parametrize("at", AT)
async def test_twenty_a_minute_with_bursts_of_five(at: str) -> None:
    """Who is refused learns when to ask again."""
    server = AT[at]()
    if at == "an event":
        server.on("add", lambda a, b: a + b, rate=SLOWLY)
    async with connect(server, principal="ada") as client:
        assert await allowed(client, 9) == 5
        for _ in range(4):
            with pytest.raises(
                Overloaded, match=r"more than 20 .* per 60 s, or 5 at once.*, ask again later"
            ) as caught:
                await client.request("add", 1, 2)
            wait = caught.value.retry_after
            assert wait is not None and wait == caught.value.fields["retry_after"] == pytest.approx(3, abs=0.01)
            await asyncio.sleep(wait)
            assert await allowed(client, 9) == 1
        await asyncio.sleep(60)
        assert await allowed(client, 9) == 5


async def test_events_count_and_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    server, said = quoted(Quotas(requests=3)), list[int]()
    server.on("say", said.append)
    async with connect(server, principal=7) as client:
        for number in range(5):
            await client.emit("say", number)
        with pytest.raises(Overloaded) as caught:
            await client.request("add", 1, 2)
        await asyncio.sleep(1)
        assert await allowed(client, 1) == 1
    why = "more than 3 requests and events per second on all your connections"
    assert str(caught.value) == f"{why}, ask again later"
    assert said == [0, 1, 2] and server.stats().ignored == {ABOVE: 3}
    [warning] = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert f"{why} (Quotas.requests of 7; further ones are only counted" in warning


@pytest.mark.parametrize(
    ("quotas", "rate", "kind"),
    [
        (Quotas(requests=2), None, ABOVE),
        (Quotas(running=1), None, ABOVE),
        (Quotas(connections=9), 2, "above the rate"),
    ],
)
async def test_a_user_that_comes_again_and_again_is_logged_once_a_minute(
    quotas: Quotas, rate: float | None, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(quotas=quotas)
    server.on("add", partial(asyncio.sleep, 0), rate=rate)

    async def flood(principal: str) -> int:
        for _ in range(9):
            async with connect(server, principal=principal) as client:
                await asyncio.gather(*(client.request("add") for _ in range(5)), return_exceptions=True)
        return sum(f" {principal!r};" in each.message for each in caplog.records if each.levelname == "WARNING")

    assert [await flood(each) for each in ("ada", "bob", "ada")] == [1, 1, 1]
    await asyncio.sleep(61)
    assert await flood("ada") == 2 and server.stats().ignored[kind] > 100


# ---------------------------------------------------------------- running handlers


async def test_handlers_of_all_connections_count_until_they_exit() -> None:
    server, blocked = quoted(Quotas(running=2)), Blocked()
    server.on("wait", blocked)
    async with AsyncExitStack() as stack:
        first, second, other = await come(stack, server, "ada", "ada", "bob")
        tasks = [asyncio.create_task(each.request("wait")) for each in (first, second)]
        await until(lambda: server.stats().active == 2)
        for client in (first, second):
            with pytest.raises(Overloaded, match="2 handlers run already in this process on all your connections, ask"):
                await client.request("add", 1, 2)
        assert await other.request("add", 1, 2) == 3
        tasks.pop(0).cancel()
        await until(lambda: server.stats().active == 1)
        assert await second.request("add", 1, 2) == 3
        blocked.go.set()
        await asyncio.gather(*tasks)
        assert await first.request("add", 1, 2) == 3


async def test_a_handler_that_outlives_the_connections_of_its_user_counts() -> None:
    server = quoted(Quotas(running=1))

    @server.on("stubborn")
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(60)

    async with connect(server, principal="ada") as first:
        asking = asyncio.create_task(first.request("stubborn"))
        await until(lambda: server.stats().active)
        closing = asyncio.create_task(first.close())
        await until(lambda: not server.peers)
        async with connect(server, principal="ada") as second:
            assert await allowed(second, 1) == 0
            await asyncio.gather(asking, closing, asyncio.sleep(120), return_exceptions=True)
            assert await allowed(second, 1) == 1


# ---------------------------------------------------------------- connections


async def test_connections_are_refused_with_429_until_one_ends(caplog: pytest.LogCaptureFixture) -> None:
    server = quoted(Quotas(connections=2))
    async with connect(server, principal="ada"):
        async with connect(server, principal="ada"):
            with pytest.raises(HandshakeRejected) as caught:
                await connect(server, principal="ada").__aenter__()
            async with connect(server, principal="bob"), connect(server), connect(server), connect(server):
                assert server.stats().refused == {429: 1} and server.stats().peers == 6
        async with connect(server, principal="ada") as client:
            assert await client.request("add", 1, 2) == 3
    refused = caught.value
    assert (refused.status, refused.body, refused.headers["retry-after"]) == (429, TOO_MANY.format(2) + "\n", "1")
    [text] = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert (
        text.startswith("Quotas.connections of 'ada' refused <Handshake ")
        and "('ada'): 429 more than 2 connections" in text
    )


async def test_a_refused_connection_and_one_that_never_opens_leave_nothing_behind() -> None:
    server = quoted(Quotas(by=lambda _: "all", connections=3), Quotas(connections=1))

    def asked(principal: str) -> Handshake:
        handshake = Handshake("/", {})
        handshake.principal = principal
        return handshake

    for _ in range(9):  # nobody keeps the handshake
        await server.handshake(asked("ada"))
    async with connect(server, principal="ada"):
        for _ in range(9):  # the second quota refuses what the first has counted
            with pytest.raises(HandshakeRejected):
                await server.handshake(asked("ada"))
        opening = [asked("bob"), asked("cleo")]
        for each in opening:
            await server.handshake(each)
        with pytest.raises(HandshakeRejected, match="more than 3 connections"):
            await server.handshake(asked("dan"))
        del each
        opening.pop()
        await server.handshake(asked("dan"))


@pytest.mark.parametrize("fails", [False, True])
async def test_a_session_that_resumes_is_not_refused_and_a_detached_one_counts(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A client whose session has ended needs a connection of its own. Perhaps the function fails for it."""
    caplog.set_level(logging.INFO, "wsrpc")
    names = ["ada"] * 6
    server = quoted(Quotas(by=lambda _: names.pop(), connections=1))
    line = Line(server)
    async with Client("ws://server/", dial=line.dial, reconnect=Reconnect(wait=wait_fixed(0.1))) as client:
        [peer] = server.peers
        line.cut(half_open=True)  # the server has not noticed
        await client.wait_connected()
        assert await client.request("add", 1, 2) == 3 and server.peers == (peer,)
        line.down = True
        line.cut()
        await settled()
        await is_refused(server)
        await peer.close()
        async with connect(server):
            if fails:
                names.clear()
            line.down = False
            await until(
                lambda: "1011 internal error" in caplog.text or f"1012 {TOO_MANY.format(1)}" in caplog.text, 0.11
            )
    assert server.stats().refused == ({429: 1, 500: 1} if fails else {429: 2})
    assert ("refused a connection because quotas= failed" in caplog.text) is fails
    caplog.clear()


def that_resumes() -> Handshake:
    return Handshake("/", {"Wsrpc-Resume": "1"})


@pytest.mark.parametrize("options", [{"extensions": False}, {"limits": Limits(replay_bytes=0)}])
async def test_a_client_that_asks_to_resume_counts_where_no_session_resumes(options: dict[str, Any]) -> None:
    """With one header, nothing of `Quotas` applied to a client."""
    server = quoted(Quotas(by=lambda _: "all", connections=1, requests=5), **options)
    headers = that_resumes().headers
    async with connect(server, headers=headers) as client:
        assert await allowed(client, 9) == 5
        await is_refused(server, headers=headers)


async def test_connections_that_name_no_session_are_few_and_keep_nobody_out() -> None:
    """300 connections of a user with a quota of 2 stayed for 30 s."""
    server = quoted(Quotas(by=lambda _: "ada", connections=1), Quotas(by=lambda _: "all", connections=4))
    line, silent = Line(server), list[asyncio.Task[Any]]()

    async def open_silent(number: int) -> None:
        for _ in range(number):
            handshake = that_resumes()
            await server.handshake(handshake)
            silent.append(asyncio.create_task(server.accept(memory_transports()[1], handshake)))
        await settled()
        assert [task.done() for task in silent[-3:]] == [False] * 3 and all(task.done() for task in silent[:-3])

    async with Client("ws://server/", dial=line.dial, reconnect=Reconnect(initial=0.001)) as client:
        [peer] = server.peers
        await open_silent(9)
        for half_open in (True, False):
            line.cut(half_open=half_open)
            await client.wait_connected()
            assert await client.request("add", 1, 2) == 3 and server.peers == (peer,)
        assert sum(not task.done() for task in silent) == 2  # each attempt of the client was one of three
        await open_silent(9)
    async with connect(server):  # they keep out nobody without a session, either
        await server.close()
    assert {type(end) for end in await asyncio.gather(*silent, return_exceptions=True)} == {ConnectionLost}


@pytest.mark.parametrize("headers", [{}, that_resumes().headers])
async def test_raw_connections_count(headers: Mapping[str, str]) -> None:
    server = Server(quotas=Quotas(by=lambda _: "all", connections=1))

    @server.serve_raw
    async def serve(connection: Any) -> None:
        await connection.wait_closed()

    line = Line(server)
    first = await line.dial("ws://server/", headers=headers)
    with pytest.raises(HandshakeRejected):
        await line.dial("ws://server/", headers=headers)
    await until(lambda: bool(server.raw_connections))
    first.abort()
    await until(lambda: not server.raw_connections)
    (await line.dial("ws://server/")).abort()
    await server.close()


# ---------------------------------------------------------------- whose


ADDRESSES: list[tuple[str | None, str | None, bool]] = [
    ("192.0.2.1", "192.0.2.1", True),
    ("192.0.2.1", "192.0.2.2", False),
    ("2001:db8::1", "2001:db8::ffff:2", True),
    ("2001:db8::1", "2001:db8:0:1::1", False),
    (None, None, False),
]


@pytest.mark.parametrize(("one", "other", "same"), ADDRESSES)
async def test_addresses_count_together_by_network(one: str | None, other: str | None, same: bool) -> None:
    server = quoted(Quotas(by="address", connections=1))
    asked = [Handshake("/", {}, remote=None if each is None else (each, 1)) for each in (one, other)]
    await server.handshake(asked[0])
    if not same:
        await server.handshake(asked[1])
        return
    with pytest.raises(HandshakeRejected):
        await server.handshake(asked[1])


async def test_the_memory_for_users_without_a_connection_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has left before all others is forgotten, and none with a connection."""
    monkeypatch.setattr(quotas, "MOST_IDLE", 2)
    server = quoted(Quotas(by=lambda handshake: handshake.path, requests=1))

    async def answered(*users: str) -> list[int]:
        found = list[int]()
        for user in users:
            async with connect(server, path=f"/{user}") as client:
                found.append(await allowed(client, 2))
        return found

    assert await answered(*"abaca") == [1, 1, 0, 1, 0]
    async with connect(server, path="/a"):
        assert await answered(*"bdea") == [1, 1, 1, 0]


BROKEN: list[tuple[Quotas, object]] = [
    (Quotas(running=1), ["a", "list"]),
    (Quotas(by=lambda handshake: 5, running=1), None),  # type: ignore[arg-type, return-value]
    (Quotas(by=lambda handshake: handshake.query["no"], running=1), None),
]


@pytest.mark.parametrize(("quotas", "principal"), BROKEN)
async def test_what_has_no_name_is_refused(quotas: Quotas, principal: object, caplog: pytest.LogCaptureFixture) -> None:
    server = quoted(Quotas(by=lambda handshake: "all", connections=1), quotas)
    for _ in range(2):  # the first connection does not count
        await is_refused(server, "500: internal error", principal=principal)
    assert "refused a connection because quotas= failed" in caplog.text
    caplog.clear()


MISTAKES: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (Quotas, ValueError, "limits nothing"),
    (lambda: Quotas(by="user", running=1), ValueError, "by= is"),  # type: ignore[arg-type]
    (lambda: Quotas(connections=0), ValueError, "connections= is at least 1"),
    (lambda: Quotas(connections=1.5), TypeError, "connections= is a number"),  # type: ignore[arg-type]
    (lambda: Server(quotas=5), TypeError, "quotas= is"),  # type: ignore[arg-type]
    (lambda: Server(quotas=[Limits()]), TypeError, "quotas= is"),  # type: ignore[list-item]
]


@pytest.mark.parametrize(("make", "error", "text"), MISTAKES)
def test_mistakes_are_refused(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


# ---------------------------------------------------------------- several processes


class Outage(MemoryStore):
    """A store that fails, does not answer, or renews no lease, as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.failure: Exception | None = None
        self.unrenewed = list[Exception]()
        """What the next attempts to renew a lease raise."""
        self.answers, self.renews = asyncio.Event(), asyncio.Event()
        self.restart()

    def restart(self) -> None:
        """Forget all logs."""
        super().__init__()
        self.answers.set()
        self.renews.set()

    async def read(self, *args: Any, **options: Any) -> Page | None:
        page = await super().read(*args, **options)
        if self.failure is not None:
            raise self.failure
        return page

    async def acquire(self, *args: Any) -> Acquired:
        self.steps += 1
        if self.failure is not None:
            raise self.failure
        acquired = await super().acquire(*args)
        await self.answers.wait()
        return acquired

    async def hold(self, *args: Any) -> Mapping[str, LogState]:
        await self.renews.wait()
        if self.unrenewed:
            raise self.unrenewed.pop()
        return await super().hold(*args)

    async def append(self, *args: Any, **options: Any) -> Appended:
        if self.failure is not None:
            raise self.failure
        return await super().append(*args, **options)


class Missing(MemoryStore):
    """A store that from some time on misses the processes of before, and a second later knows that they ended."""

    def __init__(self) -> None:
        super().__init__()
        self.since = float("inf")
        self.missed = set[str]()

    async def acquire(self, subject: str, process: str, has: int, wants: int, most: int, /) -> Acquired:
        acquired = await super().acquire(subject, process, has, wants, most)
        passed = asyncio.get_running_loop().time() - self.since
        if math.isnan(passed):
            raise StoreLost("away")
        if passed < 0:
            self.missed.add(process)
        if passed < 0 or acquired.count == wants:
            return acquired
        if passed < 1:
            return Acquired(acquired.count, known_in=1 - passed)
        await self.release({each: each for each in self.missed})
        return await super().acquire(subject, process, has, wants, most)

    async def hold(self, *_: Any) -> Mapping[str, LogState]:
        await asyncio.Event().wait()
        return {}


class Deaf(MemoryEngine):
    """Carries nothing while ``deaf``."""

    deaf = False

    def deliver(self, subject: str, payload: bytes) -> None:
        if not self.deaf:
            super().deliver(subject, payload)


def by_url(handshake: Handshake) -> None:
    handshake.principal, handshake.address = handshake.path, handshake.query.get("device")


NUMBERS = count()


@asynccontextmanager
async def three(
    store: MemoryStore | None, most: int = 5, engine: MemoryEngine | None = None, *more: Quotas
) -> AsyncGenerator[list[Server]]:
    """Three servers of a cluster. The principal is the path of the URL, and the address its parameter ``device``."""
    engine, quotas = engine or MemoryEngine(), (Quotas(connections=most), *more)
    servers = [quoted(*quotas, cluster=Cluster(engine, name="shop"), store=store) for _ in range(3)]
    for server in servers:
        server.on_handshake(by_url)
        await server.open()
    try:
        yield servers
    finally:
        for server in servers:
            await server.close()


async def opened(stack: AsyncExitStack, servers: list[Server], user: str, tries: int) -> list[AsyncExitStack]:
    """Try so many connections of a user at once, on all servers in turn. Return those that opened."""

    async def attempt(server: Server) -> AsyncExitStack | None:
        own = AsyncExitStack()
        try:
            await own.enter_async_context(connect(server, path=f"/{user}?device={next(NUMBERS)}"))
        except HandshakeRejected as exc:
            if exc.status != 429:
                raise
            return None
        stack.push_async_callback(own.aclose)
        return own

    found = await asyncio.gather(*(attempt(servers[number % len(servers)]) for number in range(tries)))
    return [each for each in found if each is not None]


@pytest.mark.parametrize(("shared", "most"), [(True, 5), (False, 15)])
async def test_a_user_opens_500_connections_on_three_servers(
    shared: bool, most: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if each is another device. Each server names the user once, and asks the store once for all that wait."""
    store = Outage()
    async with three(store if shared else None) as servers, AsyncExitStack() as stack:
        assert len(await opened(stack, servers, "ada", 500)) == most
        assert store.steps == (len(servers) if shared else 0)
        assert len(await opened(stack, servers, "bob", 3)) == 3
        refused = Counter[int]()
        for server in servers:
            refused.update(here := server.stats().refused)
            assert server.stats().refused_by_principal == {"/ada": {"429": here[429]}}
        assert refused == {429: 500 - most}
        said = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
        assert len(said) == 3 and all("Quotas.connections of '/ada' refused" in each for each in said), said


@pytest.mark.parametrize(("first", "second", "shared"), [(0, 0, False), (0, 0, True), (0, 1, True)])
async def test_a_client_that_was_killed_comes_back_at_its_quota_if_it_has_its_address(
    first: int, second: int, shared: bool
) -> None:
    """Its session waits for it for a minute, and counted, so a device at its quota was refused for so long."""
    async with three(MemoryStore() if shared else None, most=2) as servers:

        async def come(number: int, device: str) -> tuple[Line, Client]:
            line = Line(servers[number])
            client = Client(f"ws://{device}/ada?device={device}", dial=line.dial)
            client.on("ping", lambda: "pong")
            await client.__aenter__()
            return line, client

        lines = [await come(first, "lamp"), await come(first, "fan")]
        await until(lambda: servers[2].cluster.locate("lamp") is not None)
        for device in ("heater", "lamp"):  # the second has a connection
            await is_refused(servers[second], "more than 2 connections", path=f"/ada?device={device}")
        lines[0][0].down = True
        lines[0][0].cut()
        lines.append(await come(second, "lamp"))
        assert await servers[second].cluster.peer("lamp").request("ping", offline="fail", timeout=5) == "pong"
        for _, client in lines:
            await client.close()


async def test_connections_count_until_they_or_their_servers_end() -> None:
    async with three(MemoryStore()) as servers, AsyncExitStack() as stack:
        first = await opened(stack, servers[:1], "ada", 3)
        assert len(await opened(stack, servers[1:2], "ada", 5)) == 2
        await first[0].aclose()
        await settled()
        assert len(await opened(stack, servers[2:], "ada", 5)) == 1
        await servers[0].close()
        assert len(await opened(stack, servers[2:], "ada", 5)) == 2


@pytest.mark.parametrize("noticed", ["before", "while its process is asked"])
async def test_a_connection_waits_until_the_store_knows_whether_a_process_was_killed(noticed: str) -> None:
    """Otherwise it was refused for as long as a client needs to come back, or for a lease."""
    store, engine, loop = Missing(), Deaf(), asyncio.get_running_loop()
    async with three(store, 5, engine) as servers, AsyncExitStack() as stack:
        holders = [f"/ada?device=d{number}" for number in range(5)]
        for path in holders:
            await stack.enter_async_context(connect(servers[0], path=path))
        await settled()
        if noticed == "before":
            store.since = loop.time()
            assert len(await opened(stack, servers[1:], "ada", 7)) == 5
            assert not await opened(stack, servers[1:], "ada", 2)
        else:
            engine.deaf, store.since = True, loop.time() + 0.5
            await stack.enter_async_context(connect(servers[1], path=holders[0]))
            engine.deaf = False


async def test_a_store_that_is_lost_while_a_connection_waits_for_it_refuses_nobody() -> None:
    store, loop = Missing(), asyncio.get_running_loop()
    async with three(store, 5, Deaf()) as servers, AsyncExitStack() as stack:
        await opened(stack, servers[:1], "ada", 5)
        await settled()
        store.since = loop.time()
        opening = asyncio.create_task(opened(stack, servers[1:2], "ada", 1))
        await settled(0.5)
        store.since = float("nan")  # from now on it raises an error
        assert len(await opening) == 1 and servers[1].stats().quotas_unchecked == 1


@pytest.mark.parametrize("lost", ["for another one", "with its log", "with everything", "as in a copy of before"])
async def test_a_connection_that_the_store_has_forgotten_counts_again_after_a_lease(lost: str) -> None:
    store = Outage()
    async with three(store, most=1) as servers, AsyncExitStack() as stack:
        assert len(await opened(stack, servers[:1], "ada", 1)) == 1
        if "another" in lost:
            store.renews.clear()
            await asyncio.sleep(store.lease)
            [other] = await opened(stack, servers[1:2], "ada", 1)
            store.renews.set()
            await asyncio.sleep(store.lease)
            await other.aclose()
        elif "log" in lost:
            [(key, log)] = store._logs.items()
            await store.append(key, log.new.id, "other", 1, [], end=b"", free=True)
        elif "copy" in lost:  # all connections to the store are lost, and there are others before a step has failed
            store._acquired.clear()
            store.failure = StoreLost("down")
            store.wake_readers()
            await settled()
            store.failure = None
        else:
            store.restart()
            store.failure = StoreLost("down")
            store.unrenewed.append(OSError("a store of the user's own"))
            await asyncio.sleep(store.lease)
            store.failure = None
        await asyncio.sleep(store.lease)
        assert not await opened(stack, servers[2:], "ada", 1)


async def test_connections_count_once_after_an_outage() -> None:
    """Not also in the log that their process had before, whose lease has not lapsed."""
    store = Outage()
    async with three(store, most=2) as servers, AsyncExitStack() as stack:
        await opened(stack, servers[:1], "ada", 1)
        store.failure = StoreLost("down")
        store.wake_readers()
        await settled()
        store.failure = None
        await settled(store.lease / 3)
        assert len(await opened(stack, servers[1:2], "ada", 3)) == 1


async def test_what_the_store_grants_too_late_counts_for_nobody() -> None:
    store = Outage()
    async with three(store, most=1) as servers, AsyncExitStack() as stack:
        store.answers.clear()
        [late] = await opened(stack, servers[:1], "ada", 1)
        await late.aclose()
        store.answers.set()
        assert len(await opened(stack, servers[1:2], "ada", 1)) == 1


FAILURES: list[Callable[[Outage], None]] = [
    lambda store: setattr(store, "failure", StoreLost("down")),
    lambda store: setattr(store, "failure", StoreFull("no room")),
    lambda store: setattr(store, "failure", OSError("a store of the user's own")),
    lambda store: store.answers.clear(),
]


@pytest.mark.parametrize("fail", FAILURES)
async def test_without_an_answer_of_the_store_each_process_counts_for_itself(
    fail: Callable[[Outage], None], caplog: pytest.LogCaptureFixture
) -> None:
    """And later all together."""
    store = Outage()
    async with three(store) as servers, AsyncExitStack() as stack:
        assert len(await opened(stack, servers[:1], "ada", 3)) == 3
        fail(store)
        later = [await opened(stack, [each], "ada", 7) for each in servers[:2]]
        assert [len(each) for each in later] == [each.stats().quotas_unchecked for each in servers[:2]] == [2, 5]
        store.failure = None
        store.answers.set()
        await asyncio.sleep(store.lease)
        assert not await opened(stack, servers[2:], "ada", 3)
        for each in (*later[0], *later[1]):
            await each.aclose()
        assert len(await opened(stack, servers[2:], "ada", 3)) == 2
    caplog.clear()


async def test_a_session_that_resumes_on_another_server_counts_once() -> None:
    async with three(MemoryStore(), 1) as servers, AsyncExitStack() as stack:
        lines = [Line(each) for each in servers]
        at = 0
        client = Client(
            "ws://server/ada",
            dial=lambda *args, **options: lines[at].dial(*args, **options),
            reconnect=Reconnect(initial=0.001),
        )
        await stack.enter_async_context(client)
        peers = servers[0].peers
        for at in (1, 2, 0):
            for line in lines:
                line.cut(half_open=at == 2)
            await client.wait_connected()
            assert await client.request("add", 1, 2) == 3
            assert servers[0].peers == peers and not await opened(stack, servers, "ada", 3)
        await client.close()
        await until(lambda: not servers[0].peers)
        await settled()
        assert await opened(stack, servers[1:2], "ada", 1)


# ---------------------------------------------------------------- rates of several processes


class Overheard:
    """Listens to the messages of all nodes."""

    def __init__(self) -> None:
        self.spent = list[Any]()

    def received(self, subject: str, payload: bytes, /) -> None:
        message = msgspec.msgpack.decode(payload)
        if message["t"] == "spent":
            self.spent += message["spent"]

    def lost(self, reason: str, /) -> None: ...


RATED_NAME = "rated" * 50


@asynccontextmanager
async def sharing(
    at: str = "", rate: float | Rate = 20
) -> AsyncGenerator[tuple[MemoryEngine, Overheard, Callable[..., Any]]]:
    """Three servers at which a user has this rate of requests, or of calls of an event with a long name.

    The function connects a user to the servers with these numbers.
    """
    engine, overheard = MemoryEngine(), Overheard()
    quotas = () if at == "event" else (Quotas(requests=rate),)
    async with three(None, 99, engine, *quotas) as servers, AsyncExitStack() as stack:
        for server in servers:
            server.on(RATED_NAME, lambda: 1, rate=rate if at == "event" else None)
            server.on("other", lambda: 2, rate=9)
        await (await engine.connect(overheard)).subscribe("shop.all")
        await until(lambda: all(server.stats().cluster.nodes == 3 for server in servers))  # type: ignore[union-attr]

        async def join(user: str, digits: str) -> list[Client]:
            asked = (connect(servers[int(digit)], path=f"/{user}") for digit in digits)
            clients = [await stack.enter_async_context(each) for each in asked]
            await settled()  # so that no request is due together with what the servers tell each other
            return clients

        yield engine, overheard, join


async def pass_time(seconds: float, clients: list[Client], tries: float) -> list[int]:
    """Let each client make ``tries`` requests every 0.05 s. Return how many of each are answered."""
    found, owed = [0] * len(clients), 0.0
    for _ in range(round(seconds / 0.05)):
        await asyncio.sleep(0.05)
        owed += tries
        asked = [client.request(RATED_NAME) for client in clients for _ in range(int(owed))]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for number in range(len(clients)):
            found[number] += answers[number * int(owed) : (number + 1) * int(owed)].count(1)
        owed -= int(owed)
    return found


@pytest.mark.parametrize("at", ["", "event"])
async def test_the_rate_of_a_user_holds_for_all_processes_together(at: str) -> None:
    async with sharing(at) as (_, _, join):
        ada, bob, cleo = await join("ada", "012"), await join("bob", "0"), await join("cleo", "0112")
        flood = await pass_time(2, ada, 2)
        assert sum(flood) < 3 * 20 + 3 * 20  # each process has a full bucket, and hears of the others later
        flood = await pass_time(10, ada, 2)
        assert 170 <= sum(flood) <= 225 and min(flood) > 40
        assert await pass_time(4, bob, 0.75) == [60]  # 15 per second, at one process
        # One connection leaves some tokens to the others, and when they stop, it gets all.
        assert await pass_time(4, cleo, 0.125) == [10] * 4
        assert sum(await pass_time(4, cleo[:1], 2)) >= 70
        before = await pass_time(4, cleo[:1] + cleo[3:], 2)
        assert sum(before) <= 100 and min(before) >= 20
        if at:
            assert [await cleo[0].request("other") for _ in range(9)] == [2] * 9


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("before", [0.0, 0.25])
async def test_a_user_that_goes_to_another_process_has_no_full_bucket_there(before: float, leaves: bool) -> None:
    async with sharing() as (_, overheard, join):
        ada = await join("ada", "0")
        await pass_time(before, [], 0)
        assert await pass_time(0.05, ada, 30) == [20]
        if leaves:  # before its process tells the others what it has spent
            await ada[0].close()
        await pass_time(0.3, [], 0)
        # Each of the three processes keeps a third for itself, and what is new since then comes on top of it.
        assert await pass_time(0.05, await join("ada", "1"), 30) == [9]
        assert await pass_time(0.05, await join("bob", "1"), 30) == [20]
        assert overheard.spent and not any("ada" in str(each) for each in overheard.spent)


@pytest.mark.parametrize("at", ["", "event"])
async def test_who_spends_slowly_at_one_process_has_no_full_bucket_at_another(at: str) -> None:
    """Other processes forgot the few requests of users that they did not know, and had no bucket of an event."""
    async with sharing(at, Rate(20, per=3600)) as (_, _, join):
        assert await pass_time(10, await join("ada", "0"), 1 / 20) == [10]
        await pass_time(0.3, [], 0)
        assert await pass_time(0.05, await join("ada", "1"), 30) == [10]


@pytest.mark.parametrize("at", ["", "event"])
async def test_twenty_a_minute_hold_for_all_processes_together(at: str) -> None:
    async with sharing(at, SLOWLY) as (_, _, join):
        ada, bob = await join("ada", "012"), await join("bob", "2")
        assert 5 <= sum(await pass_time(0.5, ada, 1)) <= 15
        assert 180 <= sum(await pass_time(600, ada, 1 / 8)) <= 215
        assert await pass_time(60, bob, 1 / 60) == [20]


async def test_nothing_is_told_of_users_that_do_little_and_without_an_engine_each_process_counts() -> None:
    async with sharing() as (engine, overheard, join):
        ada = await join("ada", "012")
        assert await pass_time(10, ada, 1 / 32) == [6] * 3 and not overheard.spent
        engine.down = True
        engine.cut()
        assert sum(await pass_time(10, ada, 2)) > 3 * 195
        engine.down = False


GARBAGE: list[Any] = [
    [[0, "x", "requests", 1]],
    [[99, "x" * 24, "requests", 1]],
    [[1, "x" * 999, "requests", 1]],
    [[1, "x" * 24, "requests", float("nan")]],
    [[1, "x" * 24, "requests", -5]],
    [[1, "x" * 24, "requests", 2**63]],
    [[1, "x" * 24, "bytes", 5], [0, "x" * 24, "'no' such", 5], [1, "x" * 24, "", 5]],
    [[1, "x" * 24, "requests", 1]] * 1001,
    "text",
]


async def test_what_a_program_invents_about_rates_harms_nobody_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(quotas, "MOST_IDLE", 20)
    async with sharing() as (engine, overheard, join):
        ada = await join("ada", "0")
        assert await pass_time(0.3, ada, 2) == [12]
        [[number, name, what, amount]] = overheard.spent
        assert (number, what) == (1, "requests") and 0 < amount < 12
        connection = await engine.connect(Overheard())

        def invent(spent: Any, node: str = "program") -> None:
            message = {"t": "spent", "node": node, "spent": spent}
            connection.publish("shop.all", msgspec.msgpack.encode(message))

        for spent in GARBAGE:
            invent(spent)
        for other in range(100):
            invent([[1, f"{other:024}", "requests", 5]])
        assert await pass_time(0.5, ada, 1) == [10]
        for number in range(9):
            invent([[1, name, "requests", 2**53]], f"program{number}")
        await pass_time(0.05, [], 0)
        assert sum(await pass_time(2, ada, 2)) >= 20 // 3 + 2 * 20 // 3
        await pass_time(4, ada, 2)
        assert sum(await pass_time(2, ada, 2)) >= 35
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


# ---------------------------------------------------------------- one event


RATED: list[tuple[tuple[Quotas, ...], list[int]]] = [
    ((), [2, 2, 2]),
    ((Quotas(connections=9),), [2, 0, 2]),
    ((Quotas(by=lambda _: None, connections=9), Quotas(by=lambda _: "all", connections=9)), [2, 0, 0]),
    ((Quotas(requests=20),), [2, 0, 2]),  # those that the rate refuses take nothing from 20 = 2 + 9 + 9
]


@pytest.mark.parametrize("kind", ["def", "async", "stream"])
@pytest.mark.parametrize(("quotas", "found"), RATED)
async def test_the_rate_of_one_event(
    quotas: tuple[Quotas, ...], found: list[int], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    server, ran = quoted(*quotas), list[int]()

    def add(a: int, b: int) -> int:
        ran.append(a)
        return a + b

    async def add_later(a: int, b: int) -> int:
        return add(a, b)

    async def items(a: int, b: int) -> AsyncGenerator[int]:
        yield add(a, b)

    handlers: dict[str, Any] = {"def": add, "async": add_later, "thread": add, "stream": items}
    server.on("rated", handlers[kind], thread=kind == "thread", rate=2)

    async def calls(client: Client) -> int:
        """The number of calls, of three, that are answered."""
        done = 0
        for _ in range(3):
            with suppress(Overloaded):
                if kind == "stream":
                    assert [each async for each in client.stream("rated", 1, 2)] == [3]
                else:
                    assert await client.request("rated", 1, 2) == 3
                done += 1
        return done

    async with AsyncExitStack() as stack:
        clients = await come(stack, server, "a", "a", "b")
        assert [await calls(each) for each in clients] == found
        for each in clients:
            await each.emit("rated", 1, 2)  # dropped, without an error in the log
        assert [await allowed(each, 9) for each in clients] == [9, 9, 9]
        await asyncio.sleep(0.5)
        assert await calls(clients[0]) == 1
    refused = 3 * 3 - sum(found) + 3 + 2
    assert len(ran) == sum(found) + 1 and server.stats().ignored == {"above the rate": refused}
    assert {each.levelno for each in caplog.records} == {logging.WARNING}
    assert "more than 2 calls per second of this event (rate= of " in caplog.text


async def test_the_rate_of_one_event_outlives_the_connections_of_a_user() -> None:
    server, ran = quoted(Quotas(connections=1)), list[float]()
    server.on("rated", ran.append, rate=0.1)  # one in ten seconds
    for wait in (0, 5, 6):
        await asyncio.sleep(wait)
        async with connect(server, principal="ada") as client:
            with suppress(Overloaded):
                await client.request("rated", wait)
    assert ran == [0, 6]


# ---------------------------------------------------------------- what arrives


# 600,000 bytes come on two connections. Below a rate, each reads 64 KiB every 5 s, so that it is not taken for dead.
@pytest.mark.parametrize(("rate", "least", "most"), [(100_000, 4, 6), (2_000, 20, 40)])
def test_reading_pauses_while_more_bytes_arrive_than_are_allowed(rate: float, least: float, most: float) -> None:
    took: dict[str, float] = {}

    async def serve() -> None:
        server = Server(quotas=Quotas(bytes=rate))
        server.on_handshake(lambda handshake: setattr(handshake, "principal", handshake.query.get("user")))

        @server.on("upload")
        async def upload(items: Stream[bytes]) -> int:
            return sum([len(each) async for each in items])

        async with server.listen(port=80):
            await asyncio.Event().wait()

    async def use(name: str, query: str, items: int) -> None:
        began = asyncio.get_running_loop().time()
        async with Client(f"ws://shop:80/{query}", proxy=None, reconnect=None) as client:
            assert await client.request("upload", send=[b"x" * 10_000] * items) == 10_000 * items
            took[name] = asyncio.get_running_loop().time() - began

    def world(simulation: Simulation) -> None:
        simulation.process("shop", serve, serves=True)
        simulation.process("one", partial(use, "one", "?user=ada", 30))
        simulation.process("other", partial(use, "other", "?user=ada", 30))
        simulation.process("nobody", partial(use, "nobody", "", 60))

    simulate(world, seed=1, faults=())
    assert least < max(took["one"], took["other"]) < most and took["nobody"] < 2, took
