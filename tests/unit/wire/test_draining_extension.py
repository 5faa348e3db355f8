"""What two wsrpc peers say to each other when one drains, message by message, and what nonsense does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from core_driver import Blocked, Driven, redialing, rejection, start
from leftovers import nothing_left as nothing_left
from stream_driver import control, hello, welcome
from waiting import settled

from wsrpc import ConnectionLost, Peer, Server
from wsrpc._core.handlers.lifecycle import Closers
from wsrpc._server.peers import served_peer
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

LONG = 60.0
QUIET = control("drain", after_ms=0)


def drain(after_ms: Any = 20_000) -> dict[str, Any]:
    return control("drain", after_ms=after_ms)


# ---------------------------------------------------------------- the server's side


class Leaving:
    """A server with one connection, whose other side the test plays."""

    def __init__(self) -> None:
        self.server = Server()
        self.line = ScriptedTransport()
        self.work = Blocked()
        self.server.on("work", self.work)
        self.server.on("echo", lambda value: value)

    async def fed(self, *fed: Any) -> list[Any]:
        self.line.feed(*fed)
        await settled()
        return self.line.pop_sent()

    async def leaves(self) -> list[Any]:
        """What is said when the server begins to drain."""
        self.closing = start(self.server.close(drain_timeout=LONG))
        await settled()
        return self.line.pop_sent()

    async def is_over(self) -> int:
        """The code of the end."""
        await self.closing
        assert self.line.closed is not None
        return self.line.closed.code


@asynccontextmanager
async def accepted(*features: str) -> AsyncGenerator[Leaving]:
    it = Leaving()
    await it.server.accept(it.line)
    if features:
        await it.fed(hello(*features))
    yield it
    await it.server.close()


async def test_the_server_says_when_it_closes_and_closes_once_the_client_is_quiet() -> None:
    async with accepted("drain") as it:
        [said] = await it.leaves()
        assert said == drain(said["wsrpc"]["after_ms"])
        assert 0 < said["wsrpc"]["after_ms"] <= LONG * 1000
        assert await it.fed({"i": 1, "a": ["echo", "crossed"]}) == [{"i": 1, "d": "crossed"}]
        assert it.line.closed is None, "more may be on its way"
        it.line.feed(QUIET)
        assert await it.is_over() == 1012


async def test_a_quiet_client_s_work_ends_first() -> None:
    async with accepted("drain") as it:
        await it.fed({"i": 1, "a": ["work"]})
        await it.leaves()
        await it.fed({"i": 3, "a": ["work"]}, {"a": ["work", 1]}, QUIET, {"a": ["work", 2]})
        assert it.work.started == [(), (), (1,), (2,)] and it.line.closed is None
        assert rejection(await it.fed({"i": 5, "a": ["echo", 1]}), 5)["code"] == "wsrpc.draining"
        await it.fed({"i": 3, "a": ["work"]}, {"i": 3, "x": "enough"})
        assert it.server.peers[0].ignored["duplicate id"] == 1
        it.work.go.set()
        assert await it.is_over() == 1012
        assert {"i": 1, "d": []} in it.line.pop_sent()


async def test_all_that_wait_for_a_quiet_client_go_on() -> None:
    """A server that closes, and others, one of which gives up."""
    async with accepted("drain") as it:
        served = served_peer(it.server.peers[0])
        assert served is not None
        await it.leaves()
        first, gives_up, last = [start(served.wait_idle(Closers())) for _ in range(3)]
        await settled()
        gives_up.cancel()
        await it.fed(QUIET)
        assert await it.is_over() == 1012
        assert first.done() and gives_up.cancelled() and last.done()


async def test_a_hello_that_was_on_its_way_is_still_in_time() -> None:
    async with accepted() as it:
        await it.fed({"i": 1, "a": ["work"]})
        assert await it.leaves() == []
        answer, said, value = await it.fed(hello("drain"), {"i": 3, "a": ["echo", 1]})
        assert (answer["wsrpc"]["t"], said["wsrpc"]["t"], value) == ("welcome", "drain", {"i": 3, "d": 1})
        await it.fed(QUIET)
        it.work.go.set()
        assert await it.is_over() == 1012


@pytest.mark.parametrize("after", [-1, 2**53, True], ids=repr)
async def test_nonsense_changes_nothing(after: Any) -> None:
    async with accepted("drain") as it:
        assert await it.fed(drain(after), drain(0), drain(5)) == []
        assert sum(it.server.peers[0].ignored.values()) == 3
        await it.leaves()
        await it.fed({"i": 1, "a": ["work"]}, drain(after))
        assert await it.fed({"i": 2, "a": ["echo", 1]}) == [{"i": 2, "d": 1}], "not quiet yet"
        await it.fed(QUIET, QUIET, QUIET)
        it.work.go.set()
        assert await it.is_over() == 1012
    d = await connected()
    assert await d.fed(drain(after), control("drain")) == []
    assert sum(d.ignored.values()) == 2
    assert await d.fed(drain(), *[drain()] * 100) == [QUIET]
    assert d.ignored["control message out of place"] == 100


@pytest.mark.parametrize("features", [None, (), ("credit",)], ids=["no welcome", "nothing", "others"])
async def test_a_drain_that_was_not_agreed_on_is_ignored(features: tuple[str, ...] | None) -> None:
    d = redialing(extensions=True)
    await d.fed(*([] if features is None else [welcome(*features)]))
    d.take()
    assert await d.fed(drain()) == []
    await d.peer.emit("e")
    d.expect({"a": ["e"]})
    assert d.ignored == {"control message out of place": 1}


# ---------------------------------------------------------------- the client's side


async def connected() -> Driven:
    """A client whose server knows what draining is, and that will dial again."""
    d = redialing(extensions=True)
    await d.fed(welcome("drain", "credit"))
    d.take()
    return d


async def asked(d: Driven) -> list[Any]:
    _, i = await d.asks("work")
    return [{"i": i, "d": 1}]


async def opening(d: Driven) -> list[Any]:
    start(d.peer.open_channel("talk"))
    await settled()
    h = d.take()[-1]["i"]
    return [{"i": h, "h": 1}, {"h": h, "x": {"message": "closed", "code": "wsrpc.closed"}, "_": 1}]


async def reading(d: Driven) -> list[Any]:
    task, i = await d.asks("work")
    task.cancel()
    opened, *ends = await opening(d)
    await d.fed({"i": i, "d": 1}, opened)
    return ends


async def emit_nowait(peer: Peer) -> None:
    peer.emit_nowait("new")


WORK = {"nothing": None, "asked": asked, "opening": opening, "reading": reading}
NEW: dict[str, Callable[[Peer], Awaitable[Any]]] = {
    "request": lambda peer: peer.request("new"),
    "named": lambda peer: peer.of("chat").request("new"),
    "event": lambda peer: peer.emit("new"),
    "event at once": emit_nowait,
    "stream": lambda peer: anext(peer.stream("new")),
    "upload": lambda peer: peer.request("new", send=[1]),
    "conversation": lambda peer: peer.open_channel("new"),
}
LASTING = {"stream", "upload", "conversation"}


@pytest.mark.parametrize("new", NEW)
@pytest.mark.parametrize("after", [1500, 999, None])
@pytest.mark.parametrize("work", WORK)
async def test_where_new_messages_go(work: str, after: int | None, new: str) -> None:
    """A request that would have ended a stream waited until the server had closed."""
    d = await connected()
    begun = WORK[work]
    ends = [] if begun is None else await begun(d)
    told = await d.fed(control("drain") if after is None else drain(after))
    waits = begun is None or (after is not None and after < 1000)
    assert told == ([QUIET] if waits and after is not None else [])
    going = asyncio.ensure_future(NEW[new](d.peer))
    await settled()
    sent = [message for message in d.take() if "new" in message.get("a", ())]
    assert len(sent) == (after is None or not (waits or new in LASTING))
    for part in ends[:-1]:
        assert QUIET not in await d.fed(part) or waits
    said = await d.fed(*ends[-1:])
    if after is not None:
        assert (QUIET in said) == (not waits), "also if what is new has not ended"
        assert d.peer.connected
        d.transport.lose()
        d.rebind()
        await settled()
        again = [message for message in d.take() if "new" in message.get("a", ())]
        assert len(again) == 1 - len(sent)
    going.cancel()
    await d.peer.close()
    await asyncio.gather(going, return_exceptions=True)


async def test_no_time_is_left_at_some_point_and_the_server_may_say_so_again() -> None:
    d = await connected()
    work, _ = await d.asks("work")
    assert await d.fed(drain(9000)) == []
    await asyncio.sleep(3)
    there, _ = await d.asks("there")
    assert await d.fed(drain(4000)) == []
    await asyncio.sleep(2.9)
    too, _ = await d.asks("there, too")
    await asyncio.sleep(0.2)
    assert d.take() == [QUIET]
    late = start(d.peer.request("late"))
    await settled()
    d.expect()
    await asyncio.sleep(10)
    assert await d.fed(drain(0)) == [] and d.ignored["control message out of place"] == 1
    d.transport.lose()
    d.rebind()
    await settled()
    assert [message["a"] for message in d.take()[1:]] == [["late"]]
    late.cancel()
    await asyncio.gather(work, there, too, late, return_exceptions=True)


async def test_open_handlers_may_still_ask() -> None:
    d = redialing(extensions=True, bind=False)
    go_on = asyncio.Event()

    async def load(peer: Peer) -> None:
        await go_on.wait()
        await peer.request("who am I?")

    d.peer.on("open", load)
    d.peer.bind(d.transport)
    d.take()
    assert await d.fed(welcome("drain"), drain()) == []
    kept = start(d.peer.emit("kept"))
    go_on.set()
    await settled()
    [asked] = d.take()
    assert asked["a"] == ["who am I?"]
    assert await d.fed({"i": asked["i"], "d": 1}) == [QUIET], "nothing else was sent before or after"
    await kept


async def test_a_peer_that_keeps_nothing_gets_an_error() -> None:
    d = Driven(dialer=True, extensions=True)
    await d.fed(welcome("drain"), drain())
    for attempt in (d.peer.emit("e"), d.peer.request("q"), d.peer.of("chat").request("q"), d.peer.open_channel("c")):
        with pytest.raises(ConnectionLost, match="draining") as lost:
            await attempt
        assert (lost.value.code, lost.value.outcome) == (1012, "not_sent")
    with pytest.raises(ConnectionLost, match="draining"):
        d.peer.emit_nowait("e")
    d.expect()
    d.assert_empty()
