"""The life of a connection between Python and JavaScript: drops, closing, coming back, foreign messages."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from interop.agents import Agent
from interop.peers import DIALERS, LIBRARIES, Agents, Link, listen_again_and_again, serve, text_of, until
from wsrpc import Client, CloseInfo, ConnectionLost, Context, Limits, Peer, Reconnect, ReconnectInfo, Server, dial

pytestmark = pytest.mark.asyncio(loop_scope="session")

LONG_REASON = "ü" * 61 + "!"  # 123 bytes
FOREIGN = ["hello", "", "null", "42", '"text"', '[1,["log"]]', '{"ws-wrapper":false,"a":["log","no"]}']


async def busy(link: Link) -> tuple[list[asyncio.Task[Any]], list[asyncio.Task[Any]]]:
    """Requests that nobody will answer: three of Python's, then three of JavaScript's."""
    ours = [asyncio.create_task(link.peer.request("hang", timeout=None)) for _ in range(3)]
    theirs = [link.start_asking("hang", k)[1] for k in range(3)]
    await link.journal("started", at_least=3)
    assert [await link.seen.started.get() for _ in range(3)] == [0, 1, 2]
    assert (link.peer.pending, link.peer.active) == (3, 3)
    return ours, theirs


async def check_ended(
    link: Link, work: tuple[list[asyncio.Task[Any]], list[asyncio.Task[Any]]], code: int, reason: str = ""
) -> None:
    """Python's requests fail, its handlers are cancelled, nothing is left."""
    ours, theirs = work
    for task in ours:
        with pytest.raises(ConnectionLost) as raised:
            await task
        assert (raised.value.code, raised.value.reason, raised.value.outcome) == (code, reason, "unknown")
    for _ in theirs:
        argument, cancel_reason = await link.seen.cancelled.get()
        assert isinstance(cancel_reason, ConnectionLost)
        assert argument is cancel_reason
        assert (cancel_reason.code, cancel_reason.reason) == (code, reason)
    await until(lambda: link.peer.active == 0)
    assert link.peer.pending == 0
    assert not link.peer.connected
    with pytest.raises(ConnectionLost) as raised:
        await link.peer.request("add", 1, 2)
    assert raised.value.outcome == "not_sent"
    with pytest.raises(ConnectionLost):
        await link.peer.emit("log")
    # JavaScript leaves its own requests pending for ever (ws-server-wrapper rejects them): nobody waits.
    for task in theirs:
        task.cancel()
    await asyncio.wait(theirs)


@pytest.mark.parametrize("who", ["javascript", "python"])
async def test_an_abrupt_drop(link: Link, who: str) -> None:
    work = await busy(link)
    if who == "javascript":
        await link.call("terminate")
    else:
        link.transport.abort()
    info = await link.closed
    assert (info.code, info.was_clean, info.user_closed, info.will_reconnect) == (1006, False, False, False)
    await check_ended(link, work, 1006, info.reason)
    (closed,) = await link.journal("close")
    assert (closed["code"], closed["clean"]) == (1006, False)


async def test_event_handlers_survive_a_drop(link: Link) -> None:
    """Nobody waits for an answer that could get lost, so what they began is finished."""
    started, goes_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        await goes_on.wait()
        done.set()

    link.app.on("work", work)
    await link.tell("work")
    await started.wait()
    await link.call("terminate")
    await link.closed
    assert link.peer.active == 1
    goes_on.set()
    await done.wait()
    await until(lambda: link.peer.active == 0)


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        ((), 1000, ""),
        ((1000, "bye"), 1000, "bye"),
        ((4001, "enough"), 4001, "enough"),
        ((3000, LONG_REASON), 3000, LONG_REASON),
        ((None,), 1005, ""),
    ],
)
async def test_python_closes(link: Link, sent: tuple[Any, ...], code: int, reason: str) -> None:
    work = await busy(link)
    closing = asyncio.create_task(link.close(*sent))
    info = await link.closed
    assert (info.code, info.reason, info.was_clean) == (code, reason, True)
    assert (info.user_closed, info.will_reconnect) == (True, False)
    await check_ended(link, work, code, reason)
    await closing
    (closed,) = await link.journal("close")
    assert (closed["code"], closed["reason"], closed["clean"]) == (code, reason, True)


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        ({}, 1005, ""),
        ({"code": 1000, "reason": "bye"}, 1000, "bye"),
        ({"code": 4001, "reason": "enough"}, 4001, "enough"),
        ({"code": 3000, "reason": LONG_REASON}, 3000, LONG_REASON),
    ],
)
async def test_javascript_closes(link: Link, sent: dict[str, Any], code: int, reason: str) -> None:
    work = await busy(link)
    await link.call("close", **sent)
    info = await link.closed
    assert (info.code, info.reason, info.was_clean) == (code, reason, True)
    assert (info.user_closed, info.will_reconnect) == (False, False)
    await check_ended(link, work, code, reason)
    (closed,) = await link.journal("close")
    assert (closed["code"], closed["reason"], closed["clean"]) == (code, reason, True)


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000])
async def test_codes_that_may_not_be_sent(link: Link, code: int) -> None:
    with pytest.raises(ValueError, match=f"close code {code} may not be sent"):
        await link.close(code)
    with pytest.raises(ValueError, match="at most 123 bytes"):
        await link.close(1000, LONG_REASON + "!")
    assert await link.peer.request("add", 1, 2) == 3


async def test_what_was_sent_arrives_before_the_close(link: Link) -> None:
    text = "x" * 10_000
    for k in range(100):
        await link.peer.emit("log", k, text)
    await link.close()
    entries = await link.journal("event", at_least=100)
    assert [entry["args"] for entry in entries] == [[k, text] for k in range(100)]


async def test_what_javascript_sent_is_handled_before_its_close(link: Link) -> None:
    text = "x" * 10_000
    commands = [link.tell("log", k, text) for k in range(100)]
    await asyncio.gather(*commands, link.call("close", code=4001))
    assert (await link.closed).code == 4001
    events = [link.seen.events.get_nowait() for _ in range(100)]
    assert events == [(None, [k, text]) for k in range(100)]


@pytest.mark.parametrize("library", DIALERS)
async def test_a_python_server_leaves(agents: Agents, library: str) -> None:
    async with agents.link(library, "python-serves") as link:
        work = await busy(link)
        await link.app.close()
        await check_ended(link, work, 1012, "the server is closing")
        (closed,) = await link.journal("close")
        assert (closed["code"], closed["reason"]) == (1012, "the server is closing")


@pytest.mark.parametrize("library", DIALERS)
async def test_a_python_server_drains(agents: Agents, library: str) -> None:
    """What is in the air is answered, what a handler asks JavaScript meanwhile, too; what is new is refused."""
    async with agents.link(library, "python-serves") as link:
        go_on = asyncio.Event()

        async def question(ctx: Context) -> int:
            link.seen.started.put_nowait("question")
            await go_on.wait()
            answer: int = await ctx.peer.request("add", 1, 2)
            return answer

        link.app.on("question", question)
        _, in_the_air = link.start_asking("question")
        assert await link.seen.started.get() == "question"
        assert isinstance(link.app, Server)
        closing = asyncio.create_task(link.app.close(drain=60))
        await until(lambda: "draining" in repr(link.app))
        refused = await link.ask_in_vain("add", 1, 2)
        assert "ask again on another connection" in text_of(refused)
        await link.tell("log", "still heard")
        go_on.set()
        assert (await in_the_air)["resolved"] == 3
        await closing
        assert await link.seen.events.get() == (None, ["still heard"])
        (closed,) = await link.journal("close")
        assert (closed["code"], closed["reason"], closed["clean"]) == (1012, "the server is closing", True)


async def test_foreign_messages_from_javascript_are_ignored(link: Link) -> None:
    for data in FOREIGN:
        await link.call("send_raw", data=data)
        await link.call("send_raw", data=data, binary=True)
    # With this codec a message is text, so this is none, whatever it looks like.
    await link.call("send_raw", data='{"a":["log","no"]}', binary=True)
    await link.quiet()
    assert link.peer.ignored["foreign"] == 2 * len(FOREIGN) + 1
    assert link.peer.ignored["malformed"] == 0
    await link.call("send_raw", data="{}")
    await link.call("send_raw", data='{"a":["log",')
    await link.quiet()
    assert link.peer.ignored["foreign"] == 2 * len(FOREIGN) + 2
    assert link.peer.ignored["malformed"] == 1
    await link.call("send_raw", data='{"a":["log","yes"],"unknown":1}')
    assert await link.seen.events.get() == (None, ["yes"])
    assert link.peer.connected


async def test_what_javascript_may_send_never_closes_the_connection(link: Link) -> None:
    half = "\ud83d"  # an emoji that `slice` has cut; the command travels as an escape, too
    for number in range(15):
        await link.tell("log", half)
        await link.tell("log", *range(65))
        await link.tell(half)
        await link.tell("n" * 300)
        await link.call("send_raw", data='{"type":"ping"}')  # a heartbeat of the application's own
        await link.call("send_raw", data=f'{{"c":{number},"a":"b"}}')
    refused = await link.ask_in_vain("echo", half)
    assert "does not decode" in text_of(refused)
    refused = await link.ask_in_vain("args", *range(65))
    assert "at most 64" in text_of(refused)
    await link.quiet()
    counted = {kind: link.peer.ignored[kind] for kind in ("too many arguments", "name too long", "foreign")}
    assert counted == {"too many arguments": 15, "name too long": 15, "foreign": 30}
    assert link.peer.ignored["unreadable"] == 31
    assert link.peer.ignored["malformed"] == 0
    assert link.seen.events.empty()


async def test_foreign_messages_from_python_are_ignored(link: Link) -> None:
    for data in FOREIGN:
        link.transport.send(data.encode(), True)
        link.transport.send(data.encode(), False)
    link.transport.send(b"\x00\xff\xfe", False)
    link.transport.send(b'{"a":["log",', True)
    link.transport.send(b"{}", True)
    link.transport.send(b'{"a":["log","yes"]}', True)
    (entry,) = await link.journal("event")
    assert entry["args"] == ["yes"]
    assert await link.peer.request("add", 1, 2) == 3


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_client_comes_back(library: str) -> None:
    """JavaScript's server process ends, another one takes its port: handlers and what was queued are there."""
    client_closed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    came_back: asyncio.Future[ReconnectInfo] = asyncio.get_running_loop().create_future()
    async with Agent.start(library) as first:
        bound = await listen_again_and_again(first)
        client = Client(bound["url"], reconnect=Reconnect(initial=0.05, max=0.2), proxy=None)
        serve(client)

        @client.on("close")
        def note(peer: Peer, info: CloseInfo) -> None:
            if not client_closed.done():  # it is closed again, in the end
                client_closed.set_result(info.will_reconnect)

        client.on_reconnect(came_back.set_result)
        await client.connect()
        peer = client.peer
        pending = asyncio.create_task(client.request("hang", timeout=None))
        await first.call("events", kind="started", at_least=1)
    try:
        with pytest.raises(ConnectionLost) as raised:
            await pending
        assert (raised.value.code, raised.value.outcome) == (1006, "unknown")
        assert await client_closed is True
        assert not client.connected
        await client.emit("log", "while you were away")
        queued = asyncio.create_task(client.of("math").request("add", 1, 2))
        async with Agent.start(library) as second:
            await second.call("listen", port=bound["port"], path="/ws")
            info = await came_back
            assert (info.resumed, info.attempts >= 1, info.downtime > 0) == (False, True, True)
            assert (client.connected, client.peer) == (True, peer)
            assert await queued == 3
            (entry,) = await second.call("events", kind="event", at_least=1)
            assert entry["args"] == ["while you were away"]
            assert await client.request("ask", "add", 1, 2) == 3
            for channel in (None, "math"):
                answer = await second.call("request", event="add", args=[3, 4], channel=channel)
                assert answer["resolved"] == 7
            await client.close(4001, "enough")
            (closed,) = await second.call("events", kind="close", at_least=1)
            assert (closed["code"], closed["reason"]) == (4001, "enough")
    finally:
        await client.close()


@pytest.mark.parametrize("library", DIALERS)
async def test_a_javascript_client_comes_back(agents: Agents, library: str) -> None:
    """Its wrapper keeps its handlers, and answers on the new connection what was asked on the old one."""
    async with agents.link(library, "python-serves") as link:
        asked: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        async def question(ctx: Context) -> None:
            asked.set_result(ctx.id)
            await asyncio.get_running_loop().create_future()

        link.app.on("question", question)
        left = asyncio.create_task(link.peer.request("ask", "question"))
        number = await asked
        await link.call("terminate")
        with pytest.raises(ConnectionLost):
            await left
        await link.closed
        arrived: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        link.app.once("open", arrived.set_result)
        again = await link.agent.call("connect", url=link.url, peer=link.js)
        assert again["peer"] == link.js
        peer, transport = await arrived, (await arrived).transport
        assert peer is not link.peer
        assert transport is not None
        assert await peer.request("ask", "add", 1, 2) == 3
        assert await link.ask("add", 3, 4, channel="math") == 7
        # JavaScript still waits for its question. Its answer to ours then comes to a peer that did not ask.
        transport.send(json.dumps({"i": number, "d": "late"}).encode())
        await until(lambda: peer.ignored["response to no request"] == 1)
        assert await peer.request("ask", "add", 1, 2) == 3
        assert (peer.pending, peer.active) == (0, 0)


@pytest.mark.parametrize("library", LIBRARIES)
async def test_binding_another_connection(agents: Agents, library: str) -> None:
    """A client over connections of one's own: the new one ends the old one, handlers stay."""
    agent, url = await agents.get(library)
    client = Client()
    serve(client)
    async with client:
        await client.bind(await dial(url, limits=Limits(), proxy=None))
        first = (await agent.call("state"))["peers"] - 1
        pending = asyncio.create_task(client.request("hang"))
        await agent.call("events", kind="started", peer=first, at_least=1)
        await client.bind(await dial(url, limits=Limits(), proxy=None))
        with pytest.raises(ConnectionLost) as raised:
            await pending
        assert (raised.value.code, raised.value.outcome) == (1001, "unknown")
        (closed,) = await agent.call("events", kind="close", peer=first, at_least=1)
        assert (closed["code"], closed["clean"]) == (1001, True)
        assert await client.request("ask", "add", 1, 2) == 3
        answer = await agent.call("request", peer=first + 1, event="add", args=[1, 2])
        assert answer["resolved"] == 3


@pytest.mark.parametrize("library", DIALERS)
@pytest.mark.parametrize(
    ("offered", "chosen"), [([], ""), (["v2", "v1"], "v2"), (["bearer.hidden", "v1"], "v1"), (["v1", "bearer.x"], "v1")]
)
async def test_subprotocols_that_javascript_offers(
    agents: Agents, library: str, offered: list[str], chosen: str
) -> None:
    """A browser and `ws` end the connection if they offer some and get none."""
    agent, _ = await agents.get(library)
    async with Server().listen("127.0.0.1", 0, path="/ws") as listener:
        connected = await agent.call("connect", url=listener.url, protocols=offered)
        assert connected["protocol"] == chosen
        await agent.call("close", peer=connected["peer"])
        await agent.call("events", kind="close", peer=connected["peer"], at_least=1)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("extensions", [True, False])
async def test_a_message_listener_sees_hello(agents: Agents, library: str, extensions: bool) -> None:
    agent, _ = await agents.get(library)
    await agent.call("set", messages=True)
    try:
        async with agents.link(library, "js-serves", extensions=extensions) as link:
            await link.peer.emit("log")
            first, *_ = await link.journal("message", 1)
            assert ('"ws-wrapper":false' in str(first)) == extensions
    finally:
        await agent.call("set", messages=False)
