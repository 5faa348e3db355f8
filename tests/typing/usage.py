"""Code as users write it, which must type-check under mypy --strict and pyright strict. It is never run.

``assert_type`` says what a checker must make of an expression.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, TypedDict, assert_type
from uuid import UUID

import msgspec
import tenacity

import wsrpc
from wsrpc import (
    AnonymousChannel,
    Channel,
    Client,
    CloseCode,
    ConnectionLost,
    Context,
    Handshake,
    KeepLatest,
    Key,
    Limits,
    OutgoingCall,
    Peer,
    Reconnect,
    RemoteError,
    Retry,
    Router,
    RpcError,
    Server,
    Stream,
    current_context,
    is_transient,
    with_options,
)
from wsrpc.blocking import Client as BlockingClient
from wsrpc.blocking import ClusterClient as BlockingClusterClient
from wsrpc.blocking import Stream as BlockingStream
from wsrpc.cluster import Cluster, ClusterClient, ClusterPeer, MemoryEngine
from wsrpc.cluster.engine import Engine
from wsrpc.codecs import Codec, JsonCodec, MsgpackCodec
from wsrpc.errors import PeerError
from wsrpc.testing import FaultProxy, connect, pair
from wsrpc.transport import ConnectionInfo, Transport
from wsrpc.types import EmitReport, RawConnection, ServerChannel


@dataclass
class Item:
    name: str
    price: float = 0.0


class Box(msgspec.Struct):
    items: list[Item]


class Where(TypedDict):
    street: str


# ---------------------------------------------------------------- handlers keep their signatures

server = Server(limits=Limits(message_bytes=1024, request_timeout=None), origins=["https://example.com"])
client = Client("ws://127.0.0.1:8080/ws")
router = Router()


@server.on("whoami")
async def whoami(peer: Peer, ctx: Context) -> str:
    assert_type(ctx.channel_name, str | None)
    return str(ctx.state["user"])


@server.on("slow", thread=True)
def slow(path: str) -> bytes:
    return path.encode()


@server.of("shop").on("order", ordered=True, timeout=5)
async def order(box: Box, where: Where, at: datetime | None = None) -> UUID:
    print(box.items[0].price, where["street"], at)
    return UUID(int=0)


async def handlers_are_still_functions(peer: Peer, ctx: Context) -> None:
    assert_type(await whoami(peer, ctx), str)
    assert_type(slow("a"), bytes)
    assert_type(await order(Box([Item("tea")]), {"street": "a"}), UUID)


def registering_by_a_call() -> None:
    assert_type(client.on("slow", slow)("tea"), bytes)


# ---------------------------------------------------------------- calling


async def calling(peer: Peer, channel: Channel) -> None:
    for caller in (client, peer, channel, peer.of("shop", ordered=True)):
        assert_type(await caller.request("add", 1, 2), Any)
        assert_type(await caller.request("add", 1, returns=int, retry=Retry(), idempotent=True, timeout=10), int)
        await caller.emit("log", "text", 1, None, {"a": [1]}, offline="queue")
        caller.emit_nowait("log", offline="fail")
        assert_type(await caller.open_channel("chat", offline="fail"), AnonymousChannel)
        async with caller.stream("numbers", returns=int, offline=None) as numbers:
            async for number in numbers:
                assert_type(number, int)
    assert_type(await client.request("items", returns=list[Item]), list[Item])
    assert_type(await channel.request("pair", returns=tuple[int, str], timeout=0.5), tuple[int, str])
    assert_type(await client.request("nothing", returns=None), None)


async def reading(peer: Peer, channel: Channel, anonymous: AnonymousChannel) -> None:
    for reader in (client, peer, channel, anonymous):
        assert_type(reader.events("said"), Stream[Any])
        assert_type(reader.events("said", returns=str, keep="newest"), Stream[str])
        assert_type(await reader.wait_for("ready"), Any)
    async with client.events("moved", returns=tuple[str, float]) as moves:
        async for name, x in moves:
            assert_type((name, x), tuple[str, float])
    both = await asyncio.gather(client.wait_for("a", returns=int, timeout=5), client.request("b", returns=str))
    assert_type(both, tuple[int, str])
    for source in (channel, anonymous):
        assert_type(source.items(returns=Item), Stream[Item])
        async for item in source:
            assert_type(item, Any)


PATIENT = Retry(wait=tenacity.wait_fixed(1), retry=tenacity.retry_if_exception_type(wsrpc.Overloaded))


async def errors() -> None:
    try:
        await client.request("add")
    except RemoteError as error:
        assert_type(error.code, str | int | None)
    except ConnectionLost as error:
        assert_type(error.outcome, Literal["not_sent", "not_run", "ran", "unknown"])
    raise RpcError("sold out", code="sold_out", data={"left": 0}, fields={"retry_after": 5})


# ---------------------------------------------------------------- around handlers


@server.use
async def timing(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
    assert_type(current_context(), Context)
    ctx.args = [*ctx.args, "more"]
    return await call_next(ctx)


@server.use
def watching(ctx: Context) -> Iterator[None]:
    assert_type(ctx.is_handled, bool)
    yield


router.use(watching)


@client.use_outgoing
def adding(call: OutgoingCall) -> None:
    assert_type(call.peer, Peer | None)
    call.metadata["tenant"] = "acme"


@server.use_outgoing
def measuring(call: OutgoingCall) -> Iterator[None]:
    assert_type(call.args, tuple[Any, ...])
    yield


# ---------------------------------------------------------------- lifecycle


@server.on("open")
async def opened(peer: Peer) -> None:
    assert_type(peer.info, ConnectionInfo)
    await peer.close(CloseCode.POLICY_VIOLATION, "no")


client.on_reconnect(lambda info, name="again": print(name, info))


server.on_handshake(lambda handshake: handshake.reject(503))
server.on_join(lambda peer, room: peer.principal == room)
server.on_drain(asyncio.Event().set)


# ---------------------------------------------------------------- who it is

ITEM = Key[Item]("item")
VISITS: Key[int] = Key("visits")
PLACES = Key[dict[str, list[int]]]("places")
SEEN = Key[defaultdict[str, set[str]]]("seen")


@server.on_handshake
async def gate(handshake: Handshake) -> None:
    if handshake.query.get("name") is None:
        handshake.reject(401, "who are you?", {"WWW-Authenticate": "Bearer"})
    handshake.principal = handshake.query["name"]
    handshake.state[ITEM] = Item("first")
    handshake.state["anything"] = 5
    handshake.response_headers["X-Served-By"] = "me"


async def with_types(peer: Peer) -> None:
    assert_type(peer.state[ITEM], Item)
    assert_type(peer.state.get(ITEM), Item | None)
    assert_type(peer.state.get(VISITS, 0), int)
    assert_type(peer.state.setdefault(VISITS, 0), int)
    peer.state[VISITS] += 1
    peer.state[SEEN] = defaultdict(set)
    peer.state[PLACES] = defaultdict(list)
    assert_type(peer.state.pop(PLACES, defaultdict(list)), dict[str, list[int]])
    del peer.state[ITEM]
    print(peer.state["user"].name, peer.state.get("user", "nobody"))
    assert_type(server.peer("0123"), Peer | None)


# ---------------------------------------------------------------- serving and dialing


class Broadcasting(wsrpc.Service):
    @wsrpc.method
    async def say(self, text: str) -> None:
        assert_type(self.server.state[VISITS], int)
        assert_type(await self.channel.emit("said", text, skip=self.peer), EmitReport)


class Numbers(wsrpc.Service):
    async def on_json(self, value: list[int]) -> None:
        await self.connection.send_json(sum(value))
        assert_type(await self.server.room("all").send_json(value, skip=self.connection), EmitReport)


async def serving(peer: Peer) -> None:
    async with server.listen("127.0.0.1", 0, path="/ws"):
        assert_type((await server.emit("news", "text", skip=peer)).errors, tuple[PeerError, ...])
        assert_type(server.of("shop").emit_nowait("closing", 5, skip=(peer, peer)), EmitReport)


def symbol_of(symbol: str, price: float) -> str:
    return symbol


async def rooms(peer: Peer) -> None:
    lobby = server.room("lobby", allow=lambda peer: peer.state["plan"] == "pro", slow=KeepLatest(symbol_of))
    assert_type(await lobby.of("chat").emit("line", "hi"), EmitReport)
    assert_type(lobby.emit_nowait("joined", peer.id, skip=peer), EmitReport)


async def dialing() -> None:
    plain = Client(
        lambda: "wss://example.com/ws",
        headers={"X-Trace": "1"},
        auth=lambda: asyncio.sleep(0, "token"),
        subprotocols=["json"],
        proxy=None,
        reconnect=Reconnect(initial=1, max=10, wait=tenacity.wait_fixed(3), retry=lambda error: is_transient(error)),
        offline="fail",
    )
    async with plain as same:
        assert_type(same, Client)
        assert_type(plain.peer, Peer)


# ---------------------------------------------------------------- bring your own


codecs: list[Codec] = [JsonCodec(), MsgpackCodec(enc_hook=str)]


async def own_transports(tube: Transport) -> None:
    assert_type(await server.accept(tube), Peer | RawConnection)
    async with Client(codec=codecs[0]) as over_tube:
        await over_tube.bind(tube)


# ---------------------------------------------------------------- testing


async def testing() -> None:
    async with connect(server, path="/ws?token=x", headers={"Origin": "null"}, state={VISITS: 1}) as in_memory:
        assert_type(in_memory, Client)
    async with pair(limits=Limits(request_timeout=1)) as (left, _):
        assert_type(left, Peer)
    async with FaultProxy("ws://127.0.0.1:8080/ws") as proxy:
        assert_type(proxy, FaultProxy)


clustered = Server(cluster=Cluster(MemoryEngine(), name="shop"))


async def cluster_wide(peer: Peer) -> None:
    ada = clustered.cluster.peer("user/42")
    assert_type(await ada.of("chat").request("history", returns=list[str]), list[str])
    async with ada.stream("log", returns=Where) as lines:
        assert_type(lines, Stream[Where])
    assert_type(await ada.of("door").request("open", key="k", deliver_within=5, returns=str, timeout=1), str)
    report = await clustered.room("lobby").emit("said", "hi", skip=[peer, ada])
    assert_type(report.nodes, tuple[str, ...])
    async with ClusterClient(MemoryEngine(), name="shop") as shop:
        assert_type(await shop.room("lobby").of("chat").emit("said", "hi", skip=shop.peer("user/1")), EmitReport)


# ---------------------------------------------------------------- contracts


class Chat(Protocol):
    async def say(self, text: str, *, urgent: bool = False) -> int: ...

    @wsrpc.method
    async def count(self, *words: str) -> int: ...

    def history(self, since: int) -> Stream[Item]: ...

    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> int: ...

    def translate(self, texts: AsyncIterable[str], *, to: str = "en") -> Stream[str]: ...


class ChatEvents(Protocol):
    async def said(self, who: str, text: str) -> None: ...

    def typing(self, who: str) -> None: ...


class WholeApplication(Protocol):
    chat: Chat


async def talking_by_contract(peer: Peer, channel: Channel, other: ClusterPeer) -> None:
    for caller in (client, peer, channel, other, other.of("chat")):
        assert_type(caller.proxy(Chat), Chat)
    chat = client.proxy(WholeApplication).chat
    assert_type(await chat.count("a", "b"), int)
    async with chat.history(0) as items:
        assert_type(items, Stream[Item])
    async for text in chat.translate(texts(), to="de"):
        assert_type(text, str)
    assert_type(await with_options(chat, timeout=2).say(text="hi", urgent=True), int)
    assert_type(with_options(chat, timeout=None, retry=Retry(), idempotent=True, offline="queue"), Chat)
    await greet(chat)


async def texts() -> AsyncIterator[str]:
    yield ""


class Speaker(Protocol):
    async def say(self, text: str) -> int: ...


async def greet(speaker: Speaker) -> int:
    return await speaker.say("hello")


class ChatImplementation:
    """Implements `Chat` for wsrpc: methods may be plain or async generators, and take what is injected."""

    async def say(self, text: str, *, urgent: bool = False) -> int:
        return len(text) + urgent

    @wsrpc.method(timeout=5)
    async def count(self, *words: str) -> int:
        return len(words)

    async def history(self, since: int, peer: Peer) -> AsyncIterator[Item]:
        yield Item(peer.id, since)


async def implementing(peer: Peer, channel: Channel, everywhere: ServerChannel) -> None:
    implementation = ChatImplementation()
    for registrar in (server, client, peer, router, channel, everywhere):
        registrar.implement(Chat, implementation)
    assert_type(await implementation.count("a"), int)


async def events_of_a_contract(peer: Peer) -> None:
    server.declare(ChatEvents)
    for source in (server, server.of("chat"), server.room("lobby"), server.room("lobby").of("chat"), peer, client):
        assert_type(source.emitter(ChatEvents), ChatEvents)
    everyone = server.room("lobby").emitter(ChatEvents, skip=peer)
    await everyone.said("Ada", text="hi")
    everyone.typing("Ada")
    await with_options(client.emitter(ChatEvents), offline="fail").said("Ada", "hi")


# ---------------------------------------------------------------- blocking


class BlockingChat(Protocol):
    def say(self, text: str) -> int: ...
    def history(self, since: int) -> BlockingStream[str]: ...
    def upload(self, name: str, chunks: Iterable[bytes]) -> int: ...


def blocking(client: BlockingClient, engine: Engine) -> None:
    @client.on("add", ordered=True)
    def add(a: int, b: int = 0) -> int:
        return a + b

    assert_type(add(1), int)
    assert_type(client.of("shop").request("names", returns=list[str], timeout=5, retry=Retry()), list[str])
    assert_type(client.request("total", send=range(3), returns=int), int)
    with client.stream("countdown", 3, returns=int) as numbers:
        assert_type(next(numbers), int)
        assert_type([*numbers], list[int])
    with client.open_channel("talk") as channel:
        assert_type(channel.wait_for("said", returns=str), str)
    for line in client.events("line", returns=str):
        assert_type(line, str)
    chat = client.of("chat").proxy(BlockingChat)
    assert_type([*chat.history(1)], list[str])
    chat.upload("a", [b"b"])
    with_options(chat, timeout=1).say("x")
    with BlockingClusterClient(engine, name="shop") as shop:
        assert_type(shop.room("lobby").emit("news", "hi").nodes, tuple[str, ...])
        assert_type(shop.peer("user/1").request("ask", returns=int, key="k", deliver_within=5), int)
