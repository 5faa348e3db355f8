"""`Client(reconnect=...)`: what it comes back from, when, and what ends it."""

from __future__ import annotations

import asyncio
import logging

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import raw_server
from tenacity import RetryCallState, stop_after_attempt, wait_none
from tenacity.wait import wait_base

import wsrpc._client.sleep
from wsrpc import (
    Client,
    CloseInfo,
    ConnectFailed,
    ConnectionLost,
    HandshakeRejected,
    Limits,
    Peer,
    Reconnect,
    ReconnectInfo,
    Server,
    SessionLost,
    is_transient,
)
from wsrpc._client.client import core_of
from wsrpc.testing import Clock, Line

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0, replay=0)  # sessions end with their connections
AT_ONCE = Reconnect(initial=0.001, max=0.001)
NEVER = Reconnect(initial=1e6, max=1e6)


def echoing() -> Server:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    return server


class Recorded(wait_base):
    """Waits for nothing, and remembers the attempt numbers that it was asked for."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, retry_state: RetryCallState) -> float:
        self.numbers.append(retry_state.attempt_number)
        return 0.0


async def test_the_count_grows_over_drops() -> None:
    wait = Recorded()
    server = echoing()
    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS, reconnect=Reconnect(wait=wait))
        back: asyncio.Queue[ReconnectInfo] = asyncio.Queue()
        client.on_reconnect(back.put_nowait)
        async with client:
            for _ in range(3):
                client.peer.info.underlying.transport.abort()
                await back.get()
    assert wait.numbers == [1, 2, 3]


async def test_it_gives_up_when_the_strategy_says_so() -> None:
    reconnect = Reconnect(wait=wait_none(), stop=stop_after_attempt(3))
    client = Client("ws://127.0.0.1:1/", limits=LIMITS, reconnect=reconnect)
    with pytest.raises(ConnectFailed) as caught:
        await client.connect()
    assert caught.value.attempts == 3
    assert isinstance(caught.value.last_error, OSError)
    assert client.state == "closed"
    await client.close()


async def test_giving_up_after_a_drop_ends_what_waited(caplog: pytest.LogCaptureFixture) -> None:
    urls: list[str] = []
    server = echoing()
    reconnect = Reconnect(initial=0.001, max=0.001, stop=stop_after_attempt(4))
    client = Client(lambda: urls[-1], limits=LIMITS, reconnect=reconnect)
    told: list[Exception] = []
    client.on("error", lambda peer, error: told.append(error))
    async with server.listen() as listener:
        urls.append(listener.url)
        await client.connect()
        urls.append("ws://127.0.0.1:1/")
        client.peer.info.underlying.transport.abort()
        await client.peer.wait_closed()
        with pytest.raises(ConnectionLost) as caught:
            await client.request("echo", 1)
        assert caught.value.outcome == "not_sent"
        with pytest.raises(ConnectFailed) as failed:
            await client.wait_connected()
        assert failed.value.attempts == 3  # the drop was the first of four
        assert told == [failed.value]
    assert messages(caplog, logging.ERROR) == [f"the client gives up: {failed.value}"]
    await client.close()


async def test_a_classifier_of_ones_own() -> None:
    """A server that says 403 while it starts is no reason to give up, here."""
    server = echoing()
    refusals = 2

    async with server.listen() as listener, raw_server() as raw:

        def url() -> str:
            return raw.url if refusals > 0 else listener.url

        async def refuse() -> None:
            nonlocal refusals
            while refusals > 0:
                await raw.refuse("403 Not yet")
                refusals -= 1

        refusing = asyncio.create_task(refuse())
        retry = lambda error: is_transient(error) or isinstance(error, HandshakeRejected)  # noqa: E731 - as users write it
        client = Client(url, limits=LIMITS, reconnect=Reconnect(initial=0.001, max=0.001, retry=retry))
        async with client:
            assert await client.request("echo", 1) == 1
        await refusing


async def test_a_classifier_that_says_no_to_a_close_code() -> None:
    server = echoing()
    endings: asyncio.Queue[CloseInfo] = asyncio.Queue()

    def worth_it(error: BaseException) -> bool:
        return not (isinstance(error, ConnectionLost) and error.code == 4401)

    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS, reconnect=Reconnect(retry=worth_it))
        client.on("close", lambda peer, info: endings.put_nowait(info))
        async with client:
            await server.peers[0].close(4401, "your token has run out")
            info = await endings.get()
            assert (info.code, info.will_reconnect, client.state) == (4401, False, "closed")
            with pytest.raises(ConnectionLost, match="token"):
                await client.request("echo", 1)


async def test_after_1008_it_does_not_come_back_until_it_is_told_to(caplog: pytest.LogCaptureFixture) -> None:
    server = echoing()
    endings: asyncio.Queue[CloseInfo] = asyncio.Queue()
    parked = asyncio.Event()

    @server.on("park")
    async def park() -> None:
        parked.set()
        await asyncio.Event().wait()

    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS)
        client.on("close", lambda peer, info: endings.put_nowait(info))
        await client.connect()
        pending = asyncio.create_task(client.request("park"))
        await parked.wait()
        await server.peers[0].close(1008, "do not come back")
        info = await endings.get()
        assert (info.code, info.reason, info.will_reconnect) == (1008, "do not come back", False)
        assert client.state == "closed"
        calls = [(pending, "unknown"), (client.request("echo", 1), "not_sent"), (client.wait_connected(), "not_sent")]
        for call, outcome in calls:
            with pytest.raises(ConnectionLost) as caught:
                await call
            lost = caught.value
            assert (lost.code, lost.reason, lost.outcome) == (1008, "do not come back", outcome)
        with pytest.raises(ConnectionLost, match="1008 do not come back"):
            client.emit_nowait("echo", 1)
        (text,) = messages(caplog, logging.ERROR)
        why = "the connection ended (1008 do not come back), and Reconnect(retry=) allows no other attempt"
        assert text == f"the client gives up: {why}"
        await client.connect()
        assert await client.request("echo", 1) == 1
        await client.close()


async def test_1008_while_it_opens_is_what_connect_raises() -> None:
    server = echoing()
    opened: list[Peer] = []

    @server.on("open")
    async def refuse(peer: Peer) -> None:
        opened.append(peer)
        await peer.close(1008, "members only")

    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS)
        never = asyncio.Event()
        client.on("open", never.wait)
        with pytest.raises(ConnectionLost, match="1008 members only"):
            await client.connect()
        assert client.state == "closed"
        await client.close()
    assert len(opened) == 1


async def test_a_classifier_may_come_back_after_1008_all_the_same() -> None:
    server = echoing()
    back: asyncio.Queue[ReconnectInfo] = asyncio.Queue()

    def worth_it(error: BaseException) -> bool:
        return is_transient(error) or (isinstance(error, ConnectionLost) and error.code == 1008)

    async with server.listen() as listener:
        reconnect = Reconnect(initial=0.001, max=0.001, retry=worth_it)
        async with Client(listener.url, limits=LIMITS, reconnect=reconnect) as client:
            client.on_reconnect(back.put_nowait)
            await server.peers[0].close(1008, "for now")
            await back.get()
            assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1006, 1007, 1009, 1011, 1012, 1013, 3000, 4401, 4408])
def test_other_close_codes_are_no_reason_to_stay_away(code: int) -> None:
    assert is_transient(ConnectionLost(code)) and not is_transient(ConnectionLost(1008))


@pytest.mark.parametrize("mistake", [LookupError("a mistake"), asyncio.CancelledError("a mistake")])
async def test_a_classifier_that_fails_ends_the_client(
    mistake: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    server = echoing()

    def broken(error: BaseException) -> bool:
        raise mistake

    async with server.listen() as listener:
        client = Client(listener.url, limits=LIMITS, reconnect=Reconnect(retry=broken))
        async with client:
            client.peer.info.underlying.transport.abort()
            await client.peer.wait_closed()
            assert client.state == "closed"
            with pytest.raises((LookupError, RuntimeError), match="a mistake"):
                await client.wait_connected()
    assert "gives up: " in caplog.text
    assert "a mistake" in caplog.text


async def test_a_refusal_after_it_was_once_stopped_is_that_refusal() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS, reconnect=Reconnect(stop=stop_after_attempt(1)))
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("503 Later")
        with pytest.raises(ConnectFailed):
            await connecting
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("401 No")
        with pytest.raises(HandshakeRejected):
            await connecting


async def test_a_timeout_that_is_no_reason_to_go_on_is_raised_as_it_is() -> None:
    """Not as that of ``connect_timeout``, which has not passed."""

    def auth() -> str:
        raise TimeoutError("no token")

    client = Client("ws://127.0.0.1:1/", auth=auth, reconnect=Reconnect(retry=lambda error: False))
    with pytest.raises(TimeoutError, match="no token"):
        await client.connect()
    assert client.state == "closed"


async def test_retry_after_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS, reconnect=AT_ONCE)
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("503 Later", "come back later", "Retry-After: 3600")
        await turns_until(lambda: client.state == "waiting")
        assert "HTTP 503: come back later; next attempt in 3600.0 s" in caplog.text
        await client.close()
        with pytest.raises(ConnectionLost):
            await connecting


async def test_a_fatal_refusal_says_status_and_body() -> None:
    async with raw_server() as raw:
        client = Client(raw.url, limits=LIMITS)
        connecting = asyncio.create_task(client.connect())
        await raw.refuse("401 No", "who are you?", "WWW-Authenticate: Bearer")
        with pytest.raises(HandshakeRejected, match=r"HTTP 401: who are you\?") as caught:
            await connecting
        assert (caught.value.status, caught.value.body) == (401, "who are you?")
        assert caught.value.headers["www-authenticate"] == "Bearer"
        await client.close()


# ---------------------------------------------------------------- a machine that was asleep


class Sleep:
    """The clock that counts time asleep: a test moves it on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asleep = 0.0
        real = wsrpc._client.sleep.clock
        monkeypatch.setattr(wsrpc._client.sleep, "clock", lambda: real() + self.asleep)
        monkeypatch.setattr(wsrpc._client.sleep, "LOOK_EVERY", 0.01)


async def test_on_wake_it_dials_at_once_instead_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = Sleep(monkeypatch)
    urls = ["ws://127.0.0.1:1/"]
    async with echoing().listen() as listener:
        client = Client(lambda: urls[-1], limits=LIMITS, reconnect=NEVER, connect_timeout=None)
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: client.state == "waiting")
        urls.append(listener.url)
        sleep.asleep += 20.0
        await connecting
        assert await client.request("echo", 1) == 1
        await client.close()


async def test_on_wake_in_the_turn_in_which_the_connection_ends_it_dials_at_once() -> None:
    back: asyncio.Queue[ReconnectInfo] = asyncio.Queue()
    async with asyncio.timeout(8), echoing().listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=NEVER) as client:
            client.on_reconnect(back.put_nowait)
            client.peer.info.underlying.transport.abort()
            while client.state == "connected":  # noqa: ASYNC110 - which turn it is matters
                await asyncio.sleep(0)
            core_of(client).woke(20.0)  # before the task that waits for the delay has begun
            await back.get()


async def test_on_wake_a_connection_of_before_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = Sleep(monkeypatch)
    back: asyncio.Queue[ReconnectInfo] = asyncio.Queue()
    endings: list[CloseInfo] = []
    async with echoing().listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=NEVER) as client:
            client.on_reconnect(back.put_nowait)
            client.on("close", lambda peer, info: endings.append(info))
            sleep.asleep += 3600.0
            await back.get()
            assert [(info.code, info.will_reconnect) for info in endings] == [(1006, True)]
            assert "asleep for 36" in endings[0].reason
            assert await client.request("echo", 1) == 1


@pytest.mark.parametrize("server_slept", [True, False])
async def test_on_wake_the_session_goes_on_if_the_server_still_has_it(
    monkeypatch: pytest.MonkeyPatch, server_slept: bool
) -> None:
    sleep, clock = Sleep(monkeypatch), Clock()
    server, back, endings = Server(), asyncio.Queue[ReconnectInfo](), list[CloseInfo]()
    release = asyncio.Event()

    server.on("echo", lambda what: what)

    @server.on("wait")
    async def wait() -> str:
        await release.wait()
        return "done"

    line = Line(server, clock=clock)
    async with asyncio.timeout(20), Client("ws://server/", dial=line.dial, reconnect=NEVER) as client:
        client.on_reconnect(back.put_nowait)
        client.on("close", lambda peer, info: endings.append(info))
        assert await client.request("echo", 1) == 1
        waiting = asyncio.create_task(client.request("wait", timeout=None))
        await turns_until(lambda: len(server.peers) == 1 and server.peers[0].active == 1)
        if not server_slept:
            line.connections[-1][1].vanish()  # nobody answered its pings
            await turns_until(lambda: server.peers[0].detached)
            clock.advance(61.0)
        sleep.asleep += 3600.0
        info = await back.get()
        assert info.resumed == server_slept
        if server_slept:
            assert endings == []
            release.set()
            assert await waiting == "done"
        else:
            assert [ending.will_reconnect for ending in endings] == [True]
            with pytest.raises(SessionLost, match="no such session any more"):
                await waiting
        assert await client.request("echo", 2) == 2
    await server.close()


async def test_a_short_sleep_drops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = Sleep(monkeypatch)
    async with echoing().listen() as listener:
        async with Client(listener.url, limits=LIMITS, reconnect=NEVER) as client:
            transport = client.peer.transport
            sleep.asleep += 30.0  # the other side waits for 40
            looked = asyncio.get_running_loop().time() + 0.1
            while asyncio.get_running_loop().time() < looked:
                assert await client.request("echo", 1) == 1
            assert client.peer.transport is transport
