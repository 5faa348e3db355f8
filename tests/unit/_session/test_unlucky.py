"""Sessions that go on, in unlucky moments: a refusal, an end or a timer that comes between two steps."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from leftovers import timers_due, turns_until
from session_story import SOON, story

import wsrpc._session.client
import wsrpc._session.ledger
import wsrpc._session.sessions
from wsrpc import AnonymousChannel, Client, CloseInfo, ConnectFailed, ConnectionLost, Peer, Server, Service
from wsrpc.testing import Line, MemoryTransport, memory_transports

pytestmark = pytest.mark.usefixtures("nothing_left")


# ---------------------------------------------------------------- a connection that is full, and then refuses


async def test_messages_of_a_channel_that_wait_for_room_are_not_overtaken_at_the_drop() -> None:
    async with story() as s:
        heard, opened = list[int](), list[AnonymousChannel]()

        @s.server.on("talk")
        async def talk(channel: AnonymousChannel) -> None:
            opened.append(channel)
            await channel.wait_closed()

        ours = await s.client.open_channel("talk")
        [theirs] = opened
        ours.on("word", lambda n, filling: heard.append(n))
        s.ends[1].hold()
        sent = 0
        while not s.peer.stats().slow:
            theirs.emit_nowait("word", sent, "x" * 16_000)
            sent += 1
        waiting = [asyncio.create_task(theirs.emit("word", sent + n, "")) for n in range(2)]
        await turns(5)
        assert not any(task.done() for task in waiting)
        s.line.down = True
        s.ends[1].abort()
        late = asyncio.create_task(theirs.emit("word", sent + 2, ""))  # its first step comes right after the drop
        await turns_until(lambda: s.client.peer.detached)
        await s.repair()
        await asyncio.gather(*waiting, late)
        await turns_until(lambda: heard == [*range(sent + 3)])


# ---------------------------------------------------------------- ends and timers


@pytest.mark.parametrize("how", ["closed", "another is bound", "expired"])
async def test_nothing_is_left_of_a_resume_whose_session_has_ended(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsrpc._session.client, "ANSWER_TIMEOUT", 0.05)
    server, heard = Server(detached=0.02 if how == "expired" else 60.0), list[int]()
    server.on("n", heard.append)
    silent: list[MemoryTransport] = []

    async def dial_nobody(url: str, **dialing: Any) -> MemoryTransport:
        silent.append(memory_transports()[0])
        return silent[-1]

    async with story(server=server) as s:
        vars(s.line)["dial"] = dial_nobody  # the answer to the resume does not come
        s.line.cut()
        await turns_until(lambda: silent)
        if how == "closed":
            await s.client.close()
        elif how == "another is bound":
            ours, theirs = memory_transports()
            await asyncio.gather(server.accept(theirs), s.client.bind(ours))
        else:
            await turns_until(lambda: s.client.state != "resuming")
        await timers_due(wsrpc._session.client.ANSWER_TIMEOUT)
        del vars(s.line)["dial"]
        if how == "closed":
            assert s.client.state == "closed"
        if how == "expired":  # a connection without an answer has become that of the next session
            for transport in silent:
                transport.abort()
            await turns_until(lambda: s.line.connections[1:])
        await s.client.connect()
        await s.client.emit("n", 1)
        await turns_until(lambda: heard == [1])


@pytest.mark.parametrize("where", ["connected", "detached", "resuming"])
async def test_closing_the_peer_of_a_client_ends_the_client_also_without_a_connection(where: str) -> None:
    async with story() as s:
        client, peer = s.client, s.client.peer
        s.server.on("wait", asyncio.Event().wait)
        parked = asyncio.create_task(client.request("wait"))
        await s.settled()
        if where != "connected":
            await s.cut()
        if where == "resuming":
            s.line.down = False
            while client.state != "resuming":  # noqa: ASYNC110 - for some turns of the loop
                await asyncio.sleep(0)
        dialed = len(s.line.connections)
        await peer.close(4000, "bye")
        assert client.state == "closed"
        assert [(info.code, info.user_closed, info.will_reconnect) for info in s.closed] == [(4000, True, False)]
        for waiting in (parked, client.wait_connected()):
            with pytest.raises(ConnectionLost):
                await waiting
        s.line.down = False
        await turns(50)
        assert len(s.line.connections) == dialed
        await client.connect()
        assert client.connected


@pytest.mark.parametrize("why", ["another connection is bound", "the client gives up"])
async def test_a_client_that_leaves_says_so_to_servers_that_hear_of_no_close_frame(why: str) -> None:
    """As those of some ASGI servers. They would keep the session for a client that does not come back."""
    server = Server()
    line = Line(server)
    gone = why == "the client gives up"
    client = Client("ws://server/", dial=line.dial, reconnect=SOON, connect_timeout=0.1 if gone else 30)
    if gone:
        client.on("open", asyncio.Event().wait)
    async with asyncio.timeout(10):
        connecting = asyncio.create_task(client.connect())
        await turns_until(lambda: line.connections)
        ours, _ = line.connections[-1]
        await turns(20)

        async def close(code: int | None = None, reason: str = "") -> None:
            await turns(10)
            ours.abort()

        vars(ours)["close"] = close
        if gone:
            with pytest.raises(ConnectFailed):
                await connecting
            await turns_until(lambda: not server.peers)
        else:
            await connecting
            dialed, accepted = memory_transports()
            await asyncio.gather(client.bind(dialed), server.accept(accepted))
            await turns_until(lambda: len(server.peers) == 1)
        assert server.stats().detached == 0
        await client.close()
        await server.close()


# ---------------------------------------------------------------- the first message


class Listening:
    """A client that says and hears control messages."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.heard: list[Any] = []
        transport.start(self)

    def say(self, **fields: Any) -> None:
        self.transport.send(json.dumps({"ws-wrapper": False, "wsrpc": fields}).encode())

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.heard.append(json.loads(payload))

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None: ...


async def test_a_resume_that_comes_too_late_does_not_share_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsrpc._session.sessions, "FIRST_MESSAGE", 0.01)
    making, made = asyncio.Event(), asyncio.Event()

    class Greeter(Service):
        def on_open(self) -> None:
            pass

    async def make(peer: Peer) -> Greeter:
        if peer.info.headers.get("wsrpc-resume"):
            making.set()
            await made.wait()
        return Greeter()

    server = Server()
    server.add_service(Greeter, make)
    line = Line(server)
    async with asyncio.timeout(20):
        first = Listening(await line.dial("ws://server/"))
        first.say(t="hello", v=1, features=["resume"], limits={})
        await turns_until(lambda: first.heard)
        first.say(t="ack", n=0, bytes=0)
        await turns(5)
        (peer,) = server.peers
        first.transport.abort()
        await turns_until(lambda: peer.detached)
        late = Listening(await line.dial("ws://server/", headers={"Wsrpc-Resume": "1"}))
        await making.wait()
        named = {name: first.heard[0]["wsrpc"][name] for name in ("sid", "token")}
        late.say(t="resume", v=1, features=["resume"], limits={}, gen=1, rx=0, bytes=0, **named)
        await turns(5)
        made.set()
        await turns_until(lambda: len(server.peers) == 2)
        assert peer.detached and late.heard == []
        await server.close()
