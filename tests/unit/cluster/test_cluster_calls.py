"""Calls to a peer: directly, by its address at its own server, and from another process. All are alike.

How each call ends is in the table of `tests/unit/test_calls.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any

import pytest
from cluster_servers import NarrowEngine, Servers, servers, sessions_of
from waiting import pause, settled, until

from wsrpc import (
    AnonymousChannel,
    Client,
    CloseInfo,
    Context,
    Handshake,
    Limits,
    OutgoingCall,
    Reconnect,
    Retry,
    current_peer,
)
from wsrpc._core.api.peer import current_of
from wsrpc._core.session import replay
from wsrpc.cluster._cluster import membership_of
from wsrpc.cluster._nodes.directory import Delta
from wsrpc.cluster._nodes.node import BEAT
from wsrpc.cluster._nodes.wire import Close, Open, connection_name, encode
from wsrpc.cluster.engine import RESPONSE_TIMEOUT
from wsrpc.errors import (
    BadArguments,
    BadResult,
    ChannelClosed,
    ConnectionLost,
    EngineLost,
    HandlerFailed,
    MessageTooBig,
    PeerNotFound,
    RemoteError,
    RequestTimeout,
    ReservedEvent,
    RpcError,
    UnexpectedChannel,
    UnknownEvent,
    WsrpcError,
)
from wsrpc.testing import Line, MemoryTransport, ScriptedTransport

ROUTES = ("here", "there")
"""The server of the peer calls it by its address, or another one does."""

MUCH = "x" * 200_000

ITEMS: dict[str, Callable[[int], Any]] = {
    "int": int,
    "str": lambda number: "é\x01" * 5000 + str(number),
    "bytes": lambda number: bytes([number % 256]) * 1000,
    "large": lambda number: MUCH,
}


class Callee:
    """A client, what others may call there, and what it saw."""

    def __init__(self, **options: Any) -> None:
        self.client = client = Client(**{"reconnect": None, **options})
        self.seen: list[Any] = []
        self.asked: list[int] = []
        for handler in (self.echo, self.note, self.reject, self.throw, self.fail, self.park, self.items):
            client.on(handler.__name__, handler)
        for handler in (self.endless, self.last, self.talk):
            client.on(handler.__name__, handler)
        client.on("add", lambda a, b: a + b)
        client.on("value", lambda: 5)
        client.on("large", lambda: MUCH)
        client.on("who", lambda: type(current_peer()).__name__)
        client.on("context", self.context)
        client.of("chat").on("say", str.upper)
        client.of("chat").on("items", self.items)

    def echo(self, *values: Any) -> Any:
        self.seen.append(values)
        return values

    def note(self, number: int) -> None:
        self.seen.append(number)

    def context(self, ctx: Context) -> tuple[dict[str, str], float | None]:
        self.seen.append(dict(ctx.metadata))
        return dict(ctx.metadata), ctx.remaining

    def ask(self, number: int) -> int:
        self.asked.append(number)
        return number + 1

    def reject(self) -> None:
        raise RpcError("no", "mine", {"why": [1, 2]}, {"extra": 3})

    def throw(self) -> None:
        raise RpcError.of_value("just text")

    def fail(self, number: int = 0) -> None:
        raise ValueError("not for others")

    async def park(self) -> None:
        self.seen.append("parked")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as exc:
            self.seen.append(("cancelled", *exc.args))
            raise

    async def items(self, of: str, count: int) -> AsyncIterator[Any]:
        for number in range(count):
            yield ITEMS[of](number)

    async def endless(self) -> AsyncIterator[int]:
        number = 0
        try:
            while True:
                yield number
                number += 1
        finally:
            self.seen.append(("closed at", number))

    async def last(self, items: AsyncIterator[Any]) -> tuple[int, Any]:
        got = [item async for item in items]
        return len(got), got[-1] if got else None

    async def talk(self, channel: AnonymousChannel, name: str) -> None:
        channel.on("ask", self.ask)
        channel.on("park", self.park)
        self.seen.append(await channel.request("name", name))
        await channel.emit("hello", name)
        async for text in channel.events("said", returns=str):
            self.seen.append(text)
            if text == "bye":
                return


class World:
    def __init__(self, made: Servers, callee: Callee, route: str, line: Line | None = None) -> None:
        self.made = made
        self.callee = callee
        self.at = 1 if route == "here" else 0
        self.engine = made.engine
        self.line: Any = line

    @property
    def peer(self) -> Any:
        """The callee, as the caller has it."""
        return self.made[self.at].cluster.peer("ada")

    async def detach(self) -> None:
        """Take the callee's connection away, until the line is up."""
        self.line.down = True
        self.line.cut()
        await until(lambda: self.made.peer(1, "ada").detached)

    async def nothing_is_open(self) -> None:
        await until(
            lambda: self.made.peer(1, "ada").anonymous_channels == self.callee.client.peer.anonymous_channels == 0
        )


@asynccontextmanager
async def world(route: str, options: dict[str, Any] | None = None, **server: Any) -> AsyncIterator[World]:
    async with servers(2, **server) as made:
        callee = Callee(**(options or {}))
        await made.join(1, "ada", callee.client)
        yield World(made, callee, route)


@asynccontextmanager
async def on_a_line(route: str, pause: float = 0.001) -> AsyncIterator[World]:
    """A callee whose connection can be taken away, and who dials again after a pause."""
    async with servers(2) as made:
        line = Line(made[1])
        callee = Callee(url="ws://server/?who=ada", dial=line.dial, reconnect=Reconnect(initial=pause, max=pause))
        async with callee.client as client:
            await until(lambda: made[0].cluster.locate("ada") and current_of(client.peer).session.state.resumes)
            yield World(made, callee, route, line)


@pytest.fixture(params=ROUTES)
def route(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=[{}, {"extensions": False}], ids=["wsrpc", "plain"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


# ---------------------------------------------------------------- requests


async def test_a_handler_cannot_tell_who_calls(route: str, kind: dict[str, Any]) -> None:
    json: list[Any] = [None, 0, False, "", "é\u2028\x00", 2**53, -1.5, [], {}, [None, [1, "a"], {"k": [True]}]]
    async with world(route, kind) as w:
        for values in (json, []):
            assert await w.peer.request("echo", *values) == values
        assert w.callee.seen == [tuple(json), ()]
        rich: tuple[Any, ...]
        for rich in ((b"\x00\xff", list[bytes]), (Decimal("1.50"), list[Decimal]), ({1: "a"}, list[dict[int, str]])):
            assert await w.peer.request("echo", rich[0], returns=rich[1]) == [rich[0]]
        assert await w.peer.request("who") == "Peer"
        assert await w.peer.of("chat").request("say", "hi", returns=str) == "HI"
        assert await w.peer.request("add", 1, 2, retry=Retry(), idempotent=True) == 3


async def test_the_context_of_a_call_arrives(route: str) -> None:
    async with world(route) as w:
        metadata = {"tenant": "acme"}
        [got, remaining] = await w.peer.request("context", metadata=metadata, timeout=5)
        assert got == metadata and 0 < remaining <= 5
        assert await w.peer.request("context") == [{}, None]
        await w.peer.emit("context", metadata=metadata)
        w.peer.emit_nowait("context", metadata=metadata)
        assert await w.peer.request("context", timeout=None) == [{}, None]
        assert w.callee.seen == [metadata, {}, metadata, metadata, {}]


CHANNEL = "of\x00any\x01name"
PASSED_ON: list[tuple[Callable[[Any], Any], str]] = [
    (lambda peer: peer.request("nobody"), "nobody"),
    (lambda peer: peer.open_channel("nothing"), "nothing"),
    (lambda peer: peer.of("chat").request("nobody"), "chat:nobody"),
    (lambda peer: anext(peer.of(CHANNEL).stream("nobody")), f"{CHANNEL}:nobody"),
]


@pytest.mark.parametrize("fails", [False, True])
async def test_the_log_of_a_node_shows_event_and_address_of_a_call_that_it_passes_on(
    fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It had the name of the channel between the nodes as the event, and no address."""
    async with world("there") as w:
        if fails:  # a function of an adapter

            async def broken(call: OutgoingCall, call_next: Any) -> Any:
                raise KeyError(call.event)

            membership_of(w.made[1].cluster).registry.passing_on.append(broken)
        for call, _ in PASSED_ON:
            with pytest.raises(HandlerFailed if fails else UnknownEvent):
                await call(w.peer)
    found = [each for each in caplog.records if getattr(each, "address", None) == "ada"]
    assert [getattr(each, "event", None) for each in found] == [repr(event)[1:-1] for _, event in PASSED_ON]
    for record, (_, event) in zip(found, PASSED_ON, strict=True):
        text = record.getMessage()
        assert text.endswith(", for ada)"), text
        shown = repr(event)[1:-1]
        assert f"handling {shown} #" in text if fails else f"request {event!r} was refused" in text


ERRORS: list[tuple[Callable[[Any], Any], type[Exception], str]] = [
    (lambda peer: peer.request("fail"), HandlerFailed, "internal error"),
    (lambda peer: peer.request("nobody"), UnknownEvent, "No event listener for 'nobody'"),
    (lambda peer: peer.request("fail", "one"), BadArguments, "."),
    (lambda peer: peer.request("value", returns=str), BadResult, "."),
    (lambda peer: anext(peer.stream("value")), BadResult, "not a channel but int"),
    (lambda peer: peer.request("echo", object()), TypeError, "."),
    (lambda peer: peer.emit("open"), ReservedEvent, "reserved"),
    (lambda peer: peer.emit("note", 1, offline="fail"), ValueError, "offline= is for requests"),
    (lambda peer: peer.emit_nowait("note", 1, offline="fail"), ValueError, "offline= is for requests"),
]


async def test_errors_are_those_of_the_handler(route: str, kind: dict[str, Any]) -> None:
    async with world(route, kind | {"limits": Limits(message_bytes=2000)}) as w:
        with pytest.raises(RemoteError) as caught:
            await w.peer.request("reject")
        error = caught.value
        assert (type(error), error.message, error.code, error.data) == (RemoteError, "no", "mine", {"why": [1, 2]})
        assert dict(error.fields) == {"extra": 3}
        with pytest.raises(RemoteError) as caught:
            await w.peer.request("throw")
        assert caught.value.plain and caught.value.data == "just text"
        for call, expected, text in ERRORS:
            with pytest.raises(expected, match=text) as found:
                await call(w.peer)
            assert found.type is expected
            assert not isinstance(found.value, HandlerFailed) or found.value.error_id
        if "extensions" not in kind:  # JavaScript answers null with a channel, and does not tell its limits
            with pytest.raises(UnexpectedChannel):
                await w.peer.request("talk", "x")
            with pytest.raises(MessageTooBig):
                await w.peer.request("echo", "x" * 3000)
        assert w.callee.seen == []
        await w.nothing_is_open()


async def asked(client: ScriptedTransport) -> int:
    """Return the id of the request that comes next."""
    came: list[int] = []

    def has_come() -> bool:
        came.extend(message["i"] for message in client.pop_sent() if "a" in message)
        return bool(came)

    await until(has_come)
    return came[0]


async def join_script(made: Servers) -> ScriptedTransport:
    """Connect a client to server 1, which is played by the test."""
    client = ScriptedTransport()
    handshake = Handshake("/", {})
    handshake.address = "eve"
    await made[1].accept(client, handshake)
    await until(lambda: made[0].cluster.locate("eve"))
    return client


@pytest.mark.parametrize("code", ["ConnectionLost", "left"])
async def test_a_client_cannot_speak_for_its_node(code: str) -> None:
    """Its errors, and its reasons for ending a channel, are its own, whatever their codes."""
    forged = {"message": "forged", "code": f"wsrpc.node.{code}", "data": [1006, "gone", "not_sent"]}
    async with servers(2) as made:
        client = await join_script(made)
        peer = made[0].cluster.peer("eve")
        call = asyncio.create_task(peer.request("forge"))
        client.feed({"i": await asked(client), "e": forged, "_": 1})
        with pytest.raises(RemoteError) as caught:
            await call
        opening = asyncio.create_task(peer.open_channel("talk"))
        i = await asked(client)
        client.feed({"i": i, "h": 1})
        channel = await opening
        client.feed({"h": i, "x": forged, "_": 1})
        await until(lambda: channel.closed)
        for error in (caught.value, channel.close_reason):
            assert isinstance(error, RemoteError) and (error.message, error.code) == ("forged", None)
        await client.close()


async def test_events_and_requests_keep_their_order(route: str, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        for number in range(0, 90, 3):
            await w.peer.emit("note", number)
            w.peer.emit_nowait("note", number + 1)
            await w.peer.request("note", number + 2)
        await asyncio.gather(*(asyncio.create_task(w.peer.request("note", number)) for number in range(90, 300)))
        assert w.callee.seen == list(range(300))


# ---------------------------------------------------------------- streams and conversations


async def test_a_stream_waits_for_its_reader(route: str, kind: dict[str, Any]) -> None:
    many = 500 if kind else 5000  # without extensions, each item waits for an answer
    async with world(route, kind) as w:
        async with w.peer.stream("endless", returns=int) as numbers:
            assert [await anext(numbers) for _ in range(5)] == [*range(5)]
            for _ in range(200):  # nobody reads
                await asyncio.sleep(0)
            for expected in range(5, many):
                assert await anext(numbers) == expected
        await until(lambda: w.callee.seen)
        [(_, made)] = w.callee.seen
        assert many <= made + 1 < many + 3000, "the producer keeps to the reader's pace"
        await w.nothing_is_open()


async def test_all_items_arrive_whatever_their_size(route: str, kind: dict[str, Any]) -> None:
    """The bytes of an item are others on each way: credit is counted in each by itself."""
    many, large = (100, 20) if kind else (1200, 100)  # without extensions, each item waits for an answer
    async with world(route, kind) as w:
        for of, count in (("int", 0), ("int", many), ("str", large), ("bytes", many // 2)):
            items = [ITEMS[of](number) for number in range(count)]
            async with w.peer.of("chat").stream("items", of, count, returns=bytes if of == "bytes" else Any) as stream:
                assert [each async for each in stream] == items
            if of != "bytes":
                assert await w.peer.request("last", send=items) == [count, items[-1] if items else None]
        await w.nothing_is_open()


async def test_a_conversation(route: str, kind: dict[str, Any]) -> None:
    async with world(route, kind) as w:
        async with await w.peer.open_channel("talk", "Ada") as channel:
            channel.on("name", lambda name: f"I am {name}")
            assert await channel.wait_for("hello", returns=str) == "Ada"
            assert await channel.request("ask", 1) == 2
            call = asyncio.create_task(channel.request("park"))
            await until(lambda: "parked" in w.callee.seen)
            call.cancel("enough")
            await until(lambda: len(w.callee.seen) == 3)
            for text in ("one", "two", "bye"):
                await channel.emit("said", text)
            await channel.wait_closed()
        assert w.callee.seen == ["I am Ada", "parked", ("cancelled", "enough"), "one", "two", "bye"]
        await w.nothing_is_open()


@pytest.mark.parametrize("caller", [1, 0], ids=ROUTES)
async def test_answers_that_come_with_the_end_of_a_channel_arrive(caller: int) -> None:
    """JavaScript waits for the answer to the last item, too; and a handler may end after its last answer."""
    async with servers(2) as made:
        client = await join_script(made)
        peer = made[caller].cluster.peer("eve")
        reading = asyncio.create_task(anext(peer.stream("items"), None))
        h = await asked(client)
        client.feed({"i": h, "h": h})
        await until(lambda: any(message.get("a") == ["start"] for message in client.pop_sent()))
        client.feed({"h": h, "i": 1, "a": ["next", {"done": True}]})
        assert await reading is None
        await until(lambda: {"i": 1, "d": None} in client.pop_sent())

        opening = asyncio.create_task(peer.open_channel("talk"))
        h = await asked(client)
        client.feed({"i": h, "h": h})
        channel = await opening
        asking = asyncio.create_task(channel.request("last"))
        i = await asked(client)
        late = asyncio.create_task(channel.request("late"))
        await asked(client)
        client.feed({"i": i, "d": "yes"}, {"h": h, "x": "bye"})
        assert await asking == "yes"
        with pytest.raises(ChannelClosed, match="bye"):
            await late
        await channel.wait_closed()
        await client.close()


async def test_a_named_channel_of_any_name() -> None:
    async with world("there") as w:
        for name in ("a\0b\1c", "a\1b\0c"):
            w.callee.client.of(name).on("items", w.callee.items)
            w.callee.client.of(name).on("name", lambda name=name: name)
            assert await w.peer.of(name).request("name") == name
            assert [each async for each in w.peer.of(name).stream("items", "int", 2)] == [0, 1]


# ---------------------------------------------------------------- who is gone, or elsewhere


LOST = {
    "closed": "the connection ended (1000)",
    "dropped": "the connection ended (1006",
    "its process": "the connection ended (1012 the server is closing)",
    "its process is not heard of": "has ended, or cannot reach the engine); requests in flight may have run",
}
"""Ways in which a peer leaves, and what the caller reads."""


@pytest.mark.parametrize("how", LOST)
async def test_the_peer_leaves(how: str) -> None:
    async with world("there", {"limits": Limits(replay_bytes=0)}) as w:
        call = asyncio.create_task(w.peer.request("park"))
        await until(lambda: w.callee.seen)
        if how == "closed":
            await w.callee.client.close()
        elif how == "dropped":
            w.callee.client.peer.transport.abort()  # type: ignore[union-attr]
        elif how == "its process":
            await w.made.pop().close()
        else:
            here, gone = membership_of(w.made[0].cluster), membership_of(w.made[1].cluster).node.id
            here.directory.drop(gone, here.node.now, silent=True)
        with pytest.raises(ConnectionLost) as caught:
            await call
        if how == "its process is not heard of":
            await asyncio.sleep(BEAT)  # until it is heard of again
        assert caught.value.outcome == "unknown" and LOST[how] in str(caught.value)
        assert "this side" not in str(caught.value)
        if how == "its process is not heard of":
            return  # it comes back
        await until(lambda: w.made[0].cluster.locate("ada") is None)
        for emit in (w.peer.request, w.peer.emit, w.peer.emit_nowait):
            with pytest.raises(PeerNotFound, match="no node of the cluster has a peer with the address 'ada'") as none:
                await emit("note", 1)
            assert none.value.outcome == "not_sent" and none.value.address == "ada"


@pytest.mark.parametrize("detached", [False, True])
async def test_a_peer_is_closed_from_any_process(route: str, detached: bool) -> None:
    """Also one that has lost its connection: its client is told when it comes back."""
    async with on_a_line(route) as w:
        ended, peer, client = list[CloseInfo](), w.peer, w.callee.client
        client.on("close", lambda peer, info: ended.append(info))
        if detached:
            await w.detach()
        await peer.close(1008, "kicked")
        assert w.made[1].peers == ()
        w.line.down = False
        await until(lambda: client.state == "closed" and w.made[0].cluster.locate("ada") is None)
        assert [(info.code, info.reason) for info in ended] == [(1008, "kicked")]
        with pytest.raises(PeerNotFound) as none:
            await peer.close()
        assert none.value.address == "ada"


CALLS: dict[str, Callable[..., Any]] = {
    "request": lambda peer, **options: peer.request("echo", 1, **options),
    "on a channel": lambda peer, **options: peer.of("chat").request("say", "hi", **options),
    "upload": lambda peer, **options: peer.request("last", send=range(3), **options),
    "stream": lambda peer, **options: anext(peer.stream("items", "int", 3, **options)),
    "conversation": lambda peer, **options: peer.open_channel("talk", "x", **options),
    "retry": lambda peer, **options: peer.request("echo", 1, retry=Retry(attempts=2), **options),
}


async def test_a_call_to_a_peer_that_is_detached(route: str) -> None:
    """Through another process, it said that the handler may have run, although nothing was sent."""
    async with on_a_line(route) as w:
        channel = await w.peer.open_channel("talk", "")
        channel.on("name", str.upper)
        assert await channel.request("ask", 1) == 2
        await w.detach()

        async def ends(call: Callable[..., Any]) -> None:
            began = asyncio.get_running_loop().time()
            with pytest.raises(RequestTimeout) as late:
                await call(w.peer, timeout=0.2)
            assert late.value.outcome == "not_sent" and 0 < late.value.timeout <= 0.2
            assert asyncio.get_running_loop().time() - began >= 0.2
            with pytest.raises(ConnectionLost) as lost:
                async with asyncio.timeout(0.21):
                    await call(w.peer, timeout=60, offline="fail")
            assert lost.value.outcome == "not_sent" and not isinstance(lost.value, PeerNotFound)

        await asyncio.gather(*map(ends, CALLS.values()))
        with pytest.raises(RequestTimeout) as late:
            await channel.request("ask", 2, timeout=0.2)
        assert late.value.outcome == "not_sent"
        waits = asyncio.create_task(w.peer.request("echo", 2, timeout=60, offline="queue"))
        await until(lambda: w.made.peer(1, "ada").pending == 1)
        w.line.down = False
        assert await waits == [2] and await channel.request("ask", 3, timeout=60) == 4
        assert w.callee.seen == ["", (2,)] and w.callee.asked == [1, 3], "nothing that was not sent came later"
        channel.close()


async def test_a_report_counts_although_the_process_was_blocked_when_it_was_due() -> None:
    async with on_a_line("there", pause=10) as w:
        await w.detach()
        asyncio.get_running_loop().call_later(0.01, pause, 0.8)
        with pytest.raises(RequestTimeout) as late:
            await w.peer.request("echo", 1, timeout=0.1)
        assert late.value.outcome == "not_sent"


async def test_a_call_whose_process_does_not_say_in_time_whether_it_was_sent() -> None:
    async with world("there") as w:
        w.engine.freeze()
        with pytest.raises(RequestTimeout, match=r"within 0\.1 s") as late:
            await w.peer.request("echo", 1, timeout=0.1)
        assert late.value.outcome == "unknown"
        w.engine.thaw()


CANCELLED: dict[str, Callable[[Any, Any], Any]] = {
    "request": lambda peer, channel: peer.request("park"),
    "request on a channel": lambda peer, channel: channel.request("park"),
    "upload": lambda peer, channel: peer.request("last", send=iter(int, 1)),
    "stream": lambda peer, channel: anext(peer.stream("endless")),
    "conversation": lambda peer, channel: peer.open_channel("talk", "bob"),
}


@pytest.mark.parametrize("call", CANCELLED)
async def test_a_call_is_cancelled_that_comes_together_with_its_cancellation(call: str) -> None:
    """The process of the callee had sent the call, and had not told the callee of the cancellation."""
    async with world("there") as w:
        async with await w.peer.open_channel("talk", "ada") as channel:
            channel.on("name", lambda name: name)
            await channel.wait_for("hello")
            w.engine.freeze()
            task = asyncio.create_task(CANCELLED[call](w.peer, channel))
            await until(lambda: sessions_of(w.made[0])[0].pending)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            w.engine.thaw()
            assert await channel.request("ask", 1) == 2
            await until(lambda: w.callee.client.peer.active == 1)  # the conversation


async def test_an_upload_that_is_cancelled_in_any_turn_ends_at_its_peer() -> None:
    """Also between the answer of the peer and the turn in which its node joins the two channels."""
    async with world("there") as w:
        for turn in range(40):
            uploading = asyncio.create_task(w.peer.request("last", send=iter(int, 1)))
            for _ in range(turn):
                await asyncio.sleep(0)
            uploading.cancel()
            await asyncio.wait((uploading,))
            assert await w.peer.request("echo", turn) == [turn]
            await settled()
            assert not w.callee.client.peer.active


async def test_a_close_that_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with world("there") as w:
        with pytest.raises(ValueError, match="close code 1006 may not be sent"):
            await w.peer.close(1006)
        claims = membership_of(w.made[0].cluster).directory.claims
        with monkeypatch.context() as patch:  # the peer has left, and this node has not heard so
            patch.setattr(claims, "locate", lambda address: w.made[1].cluster.nodes[0])
            with pytest.raises(PeerNotFound, match="'eve'"):
                await w.made[0].cluster.peer("eve").close()
        await w.made.engine_goes()
        with pytest.raises(EngineLost):
            await w.peer.close()
        assert w.callee.client.connected
        w.engine.down = False


async def test_a_peer_that_has_moved_is_looked_up_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's node has heard of the new place while its request was on the way to the old one."""
    async with world("there") as w:
        server = await w.made.add()
        await w.made.meet()
        claims = membership_of(w.made[0].cluster).directory.claims
        stale: list[str] = []
        real = claims.locate
        monkeypatch.setattr(claims, "locate", lambda address: stale.pop() if stale else real(address))
        stale[:] = [server.cluster.nodes[0]] * 2
        assert await w.peer.request("add", 20, 22) == 42
        stale[:] = [server.cluster.nodes[0]] * 2
        with pytest.raises(PeerNotFound):  # the source was closed when the first request failed
            await w.peer.request("last", send=(number for number in range(10)))


async def test_an_upload_goes_on_although_the_node_of_the_peer_has_no_room_for_handlers() -> None:
    """What asks for its first items was handled there like an event, which is dropped when too many wait."""
    async with servers(1) as made:
        server = await made.add(limits=Limits(running=1, waiting=1))
        server.on("park", asyncio.Event().wait)
        callee = Callee()
        client = await made.join(1, "ada", callee.client)
        parked = [asyncio.ensure_future(client.request("park")) for _ in range(2)]
        await until(lambda: server.stats().waiting)
        assert await made[0].cluster.peer("ada").request("last", send=range(3)) == [3, 2]
        for each in parked:
            each.cancel()
        await asyncio.gather(*parked, return_exceptions=True)


@pytest.mark.parametrize("code", [1000, 1008, 4410])
async def test_messages_that_somebody_makes_up_do_not_part_two_nodes(code: int) -> None:
    """When a session ended that somebody had begun for another node, the two had no session, and no other one was
    dialed. With a close code after which clients do not dial again, they had none until one was restarted."""
    async with world("there") as w:
        members = [membership_of(server.cluster) for server in w.made]
        lower, higher = sorted(members, key=lambda member: member.node.id)
        real, conn = higher.links.peer(lower.node.id), connection_name(lower.node.id, higher.node.id, 77)
        w.engine.deliver(f"shop.{higher.node.id}", encode(Open(conn, {})))
        transports: Any = higher.node.connections._transports
        assert conn in transports
        await until(lambda: conn not in transports and higher.links.peer(lower.node.id) is real)
        assert await w.peer.request("add", 1, 2) == 3
        [conn] = transports = lower.node.connections._transports
        w.engine.deliver(f"shop.{lower.node.id}", encode(Close(conn, 0, code, "made up")))
        await until(lambda: transports and conn not in transports)
        assert await w.peer.request("add", 1, 2) == 3


async def test_the_engine_is_down() -> None:
    async with world("there") as w:
        parked = asyncio.create_task(w.peer.request("park"))
        await until(lambda: w.callee.seen)
        await w.made.engine_goes()
        eve = w.made[0].cluster.peer("eve")  # perhaps somebody has it, whom nobody here has heard of
        for call in (
            *(lambda: w.peer.request("add", 1, 2), lambda: w.peer.emit("note", 1)),
            *(lambda: w.peer.emit_nowait("note", 1), lambda: eve.request("add", 1, 2)),
        ):
            with pytest.raises(EngineLost) as caught:
                await call()
            assert caught.value.outcome == "not_sent"
        assert await w.made[1].cluster.peer("ada").request("add", 1, 2) == 3, "local traffic goes on"
        w.engine.largest = 64 * 1024
        await w.made.engine_comes()
        for size in (200_000, 30_000):  # what it does not take in one message travels in pieces
            assert await w.peer.request("echo", "x" * size) == ["x" * size]
        w.callee.seen[1:] = []
        parked.cancel("enough")  # what was in flight went on
        await until(lambda: w.callee.seen == ["parked", ("cancelled", "enough")])


async def test_nothing_is_lost_where_the_engine_loses_messages() -> None:
    async with world("there") as w:
        nodes = [membership_of(server.cluster).node for server in w.made]
        dialed = sum(node.connections.dialed for node in nodes)
        w.engine.loss = 0.02

        async def emit() -> None:
            for number in range(200):
                await w.peer.emit("note", number)
                await w.peer.request("add", number, 1)

        async def read() -> list[int]:
            return [number async for number in w.peer.stream("items", "int", 2000, returns=int)]

        _, numbers, sent = await asyncio.gather(emit(), read(), w.peer.request("last", send=range(2000)))
        w.engine.loss = 0.0
        assert sum(node.connections.dialed for node in nodes) > dialed + 3, "messages were lost"
        assert (w.callee.seen, numbers, sent) == (list(range(200)), list(range(2000)), [2000, 1999])


async def test_a_timeout_counts_while_the_node_of_the_peer_has_not_connected() -> None:
    """A call waits for that for a while, but not for longer than its timeout."""
    async with servers(1) as made:
        await until(lambda: made[0].cluster.connected)
        directory = membership_of(made[0].cluster).directory
        now = asyncio.get_running_loop().time()
        directory.delta_received(Delta("0", 1, claims={"ada": 1}), now)  # the lowest name: it would have to dial
        peer = made[0].cluster.peer("ada")
        for timeout in (0, 0.05):
            with pytest.raises(RequestTimeout) as caught:
                await peer.request("add", 1, 2, timeout=timeout)
            assert (caught.value.outcome, caught.value.timeout) == ("not_sent", timeout)
        assert asyncio.get_running_loop().time() - now < RESPONSE_TIMEOUT
        with pytest.raises(ConnectionLost, match="no connection to node 0"):
            await peer.request("add", 1, 2, timeout=60)
        waiting = asyncio.create_task(peer.request("add", 1, 2, timeout=60))
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        directory.drop("0", now, silent=True)
        with pytest.raises(ConnectionLost, match="no connection to node 0"):
            await waiting
        assert asyncio.get_running_loop().time() - now < RESPONSE_TIMEOUT, "it has left: nobody waits for it"
        with pytest.raises(ConnectionLost, match="node 0 is gone"):
            await membership_of(made[0].cluster).links.reach("0")


async def talk(peer: Any) -> None:
    channel = await peer.open_channel("talk", "bob")
    channel.on("name", str.upper)
    await channel.emit("said", MUCH)
    await channel.wait_closed()
    await channel.emit("said", "bye")


async def read_all(peer: Any) -> list[Any]:
    return [item async for item in peer.stream("items", "large", 2)]


TOO_MUCH: dict[str, tuple[Callable[[Any], Any], type[Exception] | None, str]] = {
    "an event": (lambda peer: peer.emit("echo", MUCH), None, ""),
    "a request": (lambda peer: peer.request("echo", MUCH), MessageTooBig, "not_sent"),
    "a response": (lambda peer: peer.request("large"), RemoteError, "ran"),
    "an item": (read_all, RemoteError, "ran"),
    "an item of an upload": (lambda peer: peer.request("last", send=[1, MUCH]), MessageTooBig, "unknown"),
    "an event in a conversation": (talk, ChannelClosed, "unknown"),
}
"""What is too much for the engine, and the error of its sender."""


@pytest.mark.parametrize("case", TOO_MUCH)
async def test_a_message_that_costs_each_connection_to_the_engine_is_given_up(
    case: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It was sent again without an end, and nothing else arrived. What else is in flight goes on."""
    call, error, outcome = TOO_MUCH[case]
    async with world("there", engine=NarrowEngine()) as w:
        parked = asyncio.create_task(w.peer.request("park"))
        await until(lambda: w.callee.seen == ["parked"])
        if error is None:
            await call(w.peer)
        else:
            with pytest.raises(error) as caught:
                await call(w.peer)
            assert isinstance(caught.value, WsrpcError) and caught.value.outcome == outcome
            assert error is ChannelClosed or "was given up" in str(caught.value)
        await w.peer.emit("note", 1)
        await until(lambda: w.callee.seen[-1] == 1, limit=1.7)  # the pauses after four losses of the engine
        assert await w.peer.request("add", 1, 2) == 3 and not parked.done()
        stats = [server.stats().cluster for server in w.made]
        assert 0 < sum(each.engines_lost for each in stats if each is not None) <= replay.LOSSES
        assert caplog.text.count("was given up") == 1 and (MUCH,) not in w.callee.seen
        parked.cancel()


async def test_an_item_that_only_messagepack_can_express(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends its stream, and neither the session between the nodes nor the client's."""
    send: Any = MemoryTransport._send  # what a client of another make may send

    def send_evil(self: Any, payload: bytes, text: bool, last: bool) -> None:
        send(self, bytes(payload).replace(b"\xa4EVIL", b"\x81\xc0\x01"), text, last)  # a key that is null

    async def items() -> AsyncIterator[Any]:
        yield 1
        yield "EVIL"
        await asyncio.Event().wait()

    async with world("there") as w:
        w.callee.client.on("items", items)
        monkeypatch.setattr(MemoryTransport, "_send", send_evil)
        async with w.peer.stream("items") as stream:
            assert await anext(stream) == 1
            with pytest.raises(RemoteError, match="an item cannot be passed on"):
                await anext(stream)
        assert await w.peer.request("add", 1, 2) == 3
        await until(lambda: w.made.peer(1, "ada").anonymous_channels == 0)


# ---------------------------------------------------------------- slow peers


@asynccontextmanager
async def slow_peer(**limits: int) -> AsyncIterator[tuple[World, MemoryTransport]]:
    """A peer that does not read what its server sends, from when the test holds its line on."""
    async with world(
        "there", limits=Limits(close_timeout=2.0, ping_interval=None, high_water_bytes=10_000, **limits)
    ) as w:
        transport = w.made.peer(1, "ada").transport
        assert isinstance(transport, MemoryTransport)
        yield w, transport


async def test_a_slow_peer_does_not_hold_up_what_comes_from_other_processes() -> None:
    """What waits for it is bounded, as in a room: then its connection is closed with 4408."""
    async with slow_peer(hard_cap_bytes=200_000) as (w, transport):
        codes: list[int] = []
        w.callee.client.on("close", lambda peer, info: codes.append(info.code))
        await w.made.join(1, "other", Callee().client)
        cluster, other = w.made[0].cluster, w.made[0].cluster.peer("other")
        transport.hold()
        for _ in range(15):
            await w.peer.emit("note", "x" * 10_000)
        assert await other.request("add", 20, 22) == 42
        assert w.made.is_quiet(), "events do not wait in the session between the two processes"
        assert len(w.made[1].peers) == 2
        for _ in range(15):
            await w.peer.emit("note", "x" * 10_000)
        assert await other.request("add", 20, 22) == 42
        await until(lambda: cluster.locate("ada") is None)
        transport.release()
        await until(lambda: codes == [4408])


async def test_events_to_a_slow_peer_do_not_overtake_requests_to_it() -> None:
    async with slow_peer() as (w, transport):
        transport.hold()
        await w.peer.emit("note", "x" * 20_000)
        calls = []
        for number in range(5):
            calls.append(asyncio.create_task(w.peer.request("echo", number)))
            await until(lambda: w.made.peer(1, "ada").pending == len(calls))
            await w.peer.emit("echo", "event", number)
        transport.release()
        await asyncio.gather(*calls)
        await until(lambda: len(w.callee.seen) == 10)
        assert w.callee.seen == [entry for number in range(5) for entry in ((number,), ("event", number))]
        assert not membership_of(w.made[1].cluster).forwarder._waiting


async def test_events_on_a_channel_to_a_slow_peer_are_bounded() -> None:
    """They do not wait in the session between the two processes, and end the channel at the peer's hard cap."""
    async with slow_peer(hard_cap_bytes=200_000) as (w, transport):
        channel = await w.peer.open_channel("talk", "x")
        transport.hold()
        await w.peer.emit("note", "x" * 20_000)
        request = asyncio.create_task(channel.request("ask", 1))
        await until(lambda: w.made.peer(1, "ada").pending)
        for _ in range(15):
            await channel.emit("note", "x" * 10_000)
        await until(lambda: sum(link.active for link in sessions_of(w.made[1])) == 1)
        assert not channel.closed
        for _ in range(15):
            with suppress(ChannelClosed):
                await channel.emit("note", "x" * 10_000)
        with pytest.raises(ChannelClosed, match="slow consumer"):
            await request
        assert len(w.made[1].peers) == 1
        transport.release()
        assert await w.peer.request("add", 1, 2) == 3
