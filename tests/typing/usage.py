"""Code as users write it, which must type-check under mypy --strict and pyright strict. It is never run.

``assert_type`` says what a checker must make of an expression.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
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
    CloseInfo,
    ConnectionLost,
    Context,
    HandlerFailed,
    Handshake,
    KeepLatest,
    Key,
    Limits,
    Peer,
    Reconnect,
    ReconnectInfo,
    RemoteError,
    Retry,
    Room,
    Router,
    RpcError,
    Server,
    Stream,
    current_context,
    current_peer,
    is_transient,
    with_options,
)
from wsrpc.blocking import Client as BlockingClient
from wsrpc.blocking import ClusterClient as BlockingClusterClient
from wsrpc.blocking import Stream as BlockingStream
from wsrpc.cluster import Cluster, ClusterClient, ClusterPeer
from wsrpc.codecs import Codec, JsonCodec, MsgpackCodec
from wsrpc.engine import Engine
from wsrpc.errors import PeerError
from wsrpc.stats import ClusterStats
from wsrpc.testing import Clock, FaultProxy, MemoryEngine, ScriptedTransport, connect, memory_transports, pair
from wsrpc.transport import ConnectionInfo, Receiver, Transport
from wsrpc.types import RESERVED_EVENTS, ClientState, EmitReport, Message, PeerState, RawConnection, ServerChannel


@dataclass
class Item:
    name: str
    price: float = 0.0


class Box(msgspec.Struct):
    items: list[Item]


class Where(TypedDict):
    street: str
    city: str


# ---------------------------------------------------------------- handlers keep their signatures

server = Server(limits=Limits(message=1024, timeout=None), origins=["https://example.com"], lax=True)
client = Client("ws://127.0.0.1:8080/ws")
router = Router()


@server.on("add")
def add(a: int, b: int = 0) -> int:
    return a + b


@server.on("whoami")
async def whoami(peer: Peer, ctx: Context) -> str:
    assert_type(peer.state, PeerState)
    assert_type(ctx.event, str)
    return str(ctx.state["user"])


@server.on("slow", thread=True)
def slow(path: str) -> bytes:
    return path.encode()


@server.once("hello", lax=False, timeout=None)
async def hello(*names: str) -> None: ...


@server.of("shop").on("order", ordered=True, timeout=5)
async def order(box: Box, where: Where, at: datetime | None = None) -> UUID:
    print(box.items[0].price, where["city"], at)
    return UUID(int=0)


@client.on("ask")
def ask(question: str, answers: list[Literal["yes", "no"]]) -> str:
    return answers[0]


@router.on("ping")
def ping() -> Literal["pong"]:
    return "pong"


@router.of("shop").on("count")
async def count(peer: Peer) -> int:
    return peer.active


async def handlers_are_still_functions(peer: Peer, ctx: Context) -> None:
    assert_type(add(1, b=2), int)
    assert_type(await whoami(peer, ctx), str)
    assert_type(slow("a"), bytes)
    assert_type(ask("?", ["yes"]), str)
    assert_type(ping(), Literal["pong"])
    assert_type(await order(Box([Item("tea")]), {"street": "a", "city": "b"}), UUID)


class Shop:
    def __init__(self) -> None:
        self.stock: dict[str, int] = {}

    def take(self, item: str, amount: int) -> int:
        return self.stock.setdefault(item, 0) - amount


def registering_by_calls(channel: Channel, everywhere: ServerChannel, peer: Peer) -> None:
    assert_type(server.on("add", add)(1, 2), int)
    assert_type(client.on("take", Shop().take)("tea", 1), int)
    server.on("add", None)
    server.once("add", None)
    server.on("max", max)
    channel.on("name", lambda: "Ada")
    everywhere.once("add", add, lax=True)
    peer.on("add", add, ordered=True)
    server.include(router)
    client.include(router, channel="more")


# ---------------------------------------------------------------- calling


async def calling(peer: Peer, channel: Channel) -> None:
    for caller in (client, peer, channel, client.of("shop"), peer.of("shop", ordered=True)):
        assert_type(await caller.request("add", 1, 2), Any)
        assert_type(await caller.request("add", 1, 2, returns=int), int)
        await caller.emit("log", "text", 1, None, {"a": [1]})
        caller.emit_nowait("log")
    assert_type(await client.request("find", "tea", returns=int | None), int | None)
    assert_type(await client.request("items", returns=list[Item]), list[Item])
    assert_type(await client.request("box", returns=Box), Box)
    assert_type(await client.request("where", returns=Where), Where)
    assert_type(await peer.request("when", returns=datetime, timeout=None), datetime)
    assert_type(await channel.request("pair", returns=tuple[int, str], timeout=0.5), tuple[int, str])
    assert_type(await client.request("nothing", returns=None), None)

    task = asyncio.create_task(client.request("add", 1, returns=int))
    task.cancel("no longer needed")
    first, second = await asyncio.gather(client.request("a", returns=int), client.request("b", returns=str))
    assert_type(first, int)
    assert_type(second, str)


async def reading_events(peer: Peer, channel: Channel, anonymous: AnonymousChannel) -> None:
    for reader in (client, peer, channel, anonymous):
        assert_type(reader.events("said"), Stream[Any])
        assert_type(reader.events("said", returns=str, keep="newest"), Stream[str])
        assert_type(await reader.wait_for("ready"), Any)
        assert_type(await reader.wait_for("ready", returns=int, timeout=5), int)
    async with client.events("moved", returns=tuple[str, float]) as moves:
        async for name, x in moves:
            assert_type(name, str)
            assert_type(x, float)
    both = await asyncio.gather(client.wait_for("a", returns=int), client.request("b", returns=str))
    assert_type(both, tuple[int, str])


async def reading_items(channel: Channel, anonymous: AnonymousChannel) -> None:
    for reader in (channel, anonymous):
        assert_type(reader.items(), Stream[Any])
        assert_type(reader.items(returns=Item), Stream[Item])
        async for item in reader:
            assert_type(item, Any)


async def asking_again(peer: Peer, channel: Channel) -> None:
    for caller in (client, peer, channel):
        assert_type(await caller.request("add", 1, retry=Retry()), Any)
        assert_type(await caller.request("add", 1, returns=int, retry=Retry(), idempotent=True, timeout=10), int)
    numbers = Retry(attempts=5, initial=0.5, max=10)
    strategies = Retry(
        wait=tenacity.wait_fixed(1) + tenacity.wait_random(0, 1),
        stop=tenacity.stop_after_attempt(5) | tenacity.stop_after_delay(10),
        retry=tenacity.retry_if_exception_type(wsrpc.Overloaded),
    )
    function = Retry(retry=lambda error: isinstance(error, RemoteError) and error.code == "busy")
    await asyncio.gather(*(client.request("add", 1, retry=retry) for retry in (numbers, strategies, function)))


async def offline(peer: Peer, channel: Channel) -> None:
    live = Client("ws://127.0.0.1:8080/ws", offline="fail")
    for caller in (live, peer, channel):
        await caller.emit("position", 1, 2, offline="queue")
        caller.emit_nowait("position", 1, 2, offline="fail")
        assert_type(await caller.request("add", 1, 2, returns=int, offline="fail"), int)
        assert_type(await caller.open_channel("chat", offline="fail"), AnonymousChannel)
        async with caller.stream("numbers", returns=int, offline=None) as numbers:
            async for number in numbers:
                assert_type(number, int)


async def errors() -> None:
    try:
        await client.request("add")
    except HandlerFailed as error:
        assert_type(error.error_id, str | None)
    except RemoteError as error:
        assert_type(error.message, str)
        assert_type(error.code, str | int | None)
        assert_type(error.data, Any)
        print(error.fields["stack"])
    except ConnectionLost as error:
        assert_type(error.outcome, Literal["not_sent", "unknown"])
    except (TimeoutError, ConnectionError, wsrpc.WsrpcError):
        pass
    raise RpcError("sold out", code="sold_out", data={"left": 0}, fields={"retry_after": 5})


# ---------------------------------------------------------------- around handlers


@server.use
async def timing(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
    ctx.args = [*ctx.args, "more"]
    return await call_next(ctx)


@server.of("shop").use
async def members(ctx: Context, call_next: Callable[[Context], Awaitable[Any]]) -> Any:
    assert_type(ctx.channel_name, str | None)
    assert_type(ctx.id, int | None)
    assert_type(ctx.peer, Peer)
    if ctx.cancel_reason is None:
        return await call_next(ctx)
    raise RpcError("members only")


router.use(timing)
client.use(timing)
server.handler_context = lambda ctx: asyncio.timeout(5)


@asynccontextmanager
async def traced(ctx: Context) -> AsyncGenerator[None]:
    yield


traced_server = Server(handler_context=traced, expose_errors=lambda error: isinstance(error, ValueError))


def inside_a_handler() -> None:
    assert_type(current_context(), Context)
    print(current_context().event, current_peer())


# ---------------------------------------------------------------- lifecycle


@server.on("open")
async def opened(peer: Peer) -> None:
    assert_type(peer.info, ConnectionInfo)
    print(peer.info.path, peer.info.query.get("token"), peer.info.headers["user-agent"], peer.id)
    peer.set("user", "Ada")
    peer.limits = peer.limits.replace(message=4096)
    print(peer.get("user"), peer.connected, peer.pending, peer.ignored["foreign"])
    await peer.close(CloseCode.POLICY_VIOLATION, "no")
    await peer.wait_closed()


@client.on("close")
def closed(peer: Peer, info: CloseInfo) -> None:
    assert_type(info.code, int)
    print(info.reason, info.was_clean, info.user_closed, info.will_reconnect)


@server.on("error")
def failed(peer: Peer, error: Exception) -> None: ...


@server.on("message")
async def seen(peer: Peer, message: Message) -> None:
    print(message.describe(redact=lambda event, args: ("…",) if event == "login" else args))
    await message.processed()


@client.on_reconnect
async def again(info: ReconnectInfo) -> None:
    assert_type(info.downtime, float)
    assert_type(info.attempts, int)


@client.on_reconnect
async def again_without_info() -> None: ...


client.on_reconnect(lambda info: print(info.resumed))
client.on_reconnect(lambda: print("again"))
client.on_reconnect(lambda info, name="again": print(name, info))
server.on_handshake(lambda handshake: handshake.reject(503))
server.on_join(lambda peer, room: peer.principal == room)
server.on_raw(lambda peer, message: print(peer.id, message))
client.on_raw(lambda peer, message: print(peer.id, message))


@server.on_raw
async def take_raw(peer: Peer, message: str) -> None: ...


# ---------------------------------------------------------------- who it is

ITEM = Key[Item]("item")
VISITS: Key[int] = Key("visits")


@server.on_handshake
async def gate(handshake: Handshake) -> None:
    assert_type(handshake.bearer_token, str | None)
    assert_type(handshake.remote, tuple[str, int] | None)
    if handshake.query.get("name") is None:
        handshake.reject(401, "who are you?", {"WWW-Authenticate": "Bearer"})
    handshake.principal = handshake.query["name"]
    handshake.state[ITEM] = Item("first")
    handshake.state["anything"] = 5
    handshake.limits = handshake.limits.replace(message=4096)
    handshake.response_headers["X-Served-By"] = "me"


def no_pages(handshake: Handshake) -> bool:
    return False


Server(origins=["https://example.com"], trusted_proxies=["10.0.0.0/8"], compression=True)
Server(origins=no_pages)
Server(origins=wsrpc.ANY_ORIGIN)


async def with_types(peer: Peer, ctx: Context) -> None:
    assert_type(peer.state[ITEM], Item)
    assert_type(ctx.state[ITEM], Item)
    assert_type(peer.state.get(ITEM), Item | None)
    assert_type(peer.get(ITEM), Item | None)
    assert_type(peer.get(VISITS, 0), int)
    assert_type(peer.state.setdefault(VISITS, 0), int)
    assert_type(peer.state.pop(VISITS), int)
    peer.state[VISITS] += 1
    peer.set(ITEM, Item("second"))
    peer.set("anything", "else")
    assert ITEM in peer.state
    del peer.state[ITEM]
    print(peer.state["user"].name, peer.get("user", "nobody"), peer.principal)
    found = server.peer("0123")
    assert_type(found, Peer | None)
    if found is not None:
        await found.emit("news")


# ---------------------------------------------------------------- serving and dialing


def whole_program() -> None:
    server.run("0.0.0.0", 8080, path="/ws", ssl=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    server.run(lifespan=around)


PRICES: Key[dict[str, float]] = Key("prices")


@asynccontextmanager
async def around(server: Server) -> AsyncGenerator[None]:
    server.state[PRICES] = {}
    yield


@router.on("where")
async def where(peer: Peer, ctx: Context) -> int:
    assert_type(peer.server, Server)
    assert_type(ctx.server, Server)
    assert_type(peer.server.state, PeerState)
    assert_type(peer.server.state[PRICES], dict[str, float])
    return peer.server.emit_nowait("here", skip=peer).sent


class Broadcasting(wsrpc.Service):
    @wsrpc.method
    async def say(self, text: str) -> None:
        assert_type(self.server, Server)
        assert_type(self.channel, Server | ServerChannel)
        assert_type(await self.channel.emit("said", text, skip=self.peer), EmitReport)
        assert_type(self.channel.emit_nowait("said", text), EmitReport)


async def opened_and_closed() -> None:
    await server.open()
    await server.close()


async def serving(peer: Peer) -> None:
    async with server.listen("127.0.0.1", 0, path="/ws") as listener:
        assert_type(listener.url, str)
        assert_type(listener.port, int)
        report = await server.emit("news", "text", skip=peer)
        assert_type(report, EmitReport)
        assert_type(report.errors, tuple[PeerError, ...])
        assert_type(report.dropped, int)
        await server.of("shop").emit("closing", 5)
        await server.emit("news", skip=[peer])
        await server.emit("news", skip={peer})
        await server.emit("news", skip=server.room("lobby"))
        assert_type(server.of("shop").emit_nowait("closing", 5, skip=(peer, peer)), EmitReport)
        await server.send_raw(b"bytes", skip=peer)
        assert_type(server.peers, tuple[Peer, ...])
        await server.serve_forever()
    await server.close()


@server.on_join
async def may_join(peer: Peer, room: str) -> bool:
    return room in peer.state["rooms"]


async def rooms(peer: Peer) -> None:
    Server(slow="drop_oldest", room_from=lambda info: info.path)
    lobby = server.room("lobby")
    assert_type(lobby, Room)
    server.room("prices", allow=lambda peer: peer.state["plan"] == "pro", slow=KeepLatest(symbol_of))
    server.room("news", allow=asks_somebody, slow=KeepLatest())
    lobby.add(peer)
    assert_type(await lobby.emit("joined", peer.id, skip=peer), EmitReport)
    assert_type(await lobby.of("chat").emit("line", "hi"), EmitReport)
    assert_type(lobby.emit_nowait("joined", peer.id, skip=peer), EmitReport)
    assert_type(lobby.of("chat").emit_nowait("line", "hi"), EmitReport)
    assert_type(await lobby.send_raw("text"), EmitReport)
    assert_type(len(lobby), int)
    assert_type(list(lobby), list[Peer])
    assert_type(peer in lobby, bool)
    assert_type(peer.rooms, tuple[Room, ...])
    assert_type(server.rooms, tuple[Room, ...])
    assert_type(peer.dropped, int)
    await peer.home_room.emit("said", "text")
    assert_type(await may_join(peer, "lobby"), bool)


async def asks_somebody(peer: Peer) -> bool:
    return True


def symbol_of(symbol: str, price: float) -> str:
    return symbol


async def fetch_token() -> str:
    return "token"


async def dialing() -> None:
    plain = Client(
        lambda: "wss://example.com/ws",
        headers={"X-Trace": "1"},
        auth=fetch_token,
        subprotocols=["json"],
        ssl=ssl.create_default_context(),
        proxy=None,
        unix="/run/x.sock",
        reconnect=Reconnect(initial=1, max=10, wait=tenacity.wait_fixed(3), retry=lambda error: is_transient(error)),
        connect_timeout=None,
        limits=Limits().replace(message=1024),
    )
    async with plain as same:
        assert_type(same, Client)
        assert_type(plain.peer, Peer)
        assert_type(plain.state, ClientState)
    await plain.connect()
    await plain.wait_connected()
    await plain.close(1000, "bye")
    by_hand = Client(reconnect=None)
    await by_hand.bind(await wsrpc.dial("ws://127.0.0.1", limits=Limits()))


# ---------------------------------------------------------------- bring your own


class Prefixed(JsonCodec):
    """Every message begins with the name of a tenant."""

    name = "prefixed"

    def __init__(self) -> None:
        super().__init__(enc_hook=str)
        plain_encode, plain_decode = self.encode, self.decode
        self.encode = lambda message: b"acme:" + plain_encode(message)
        self.decode = lambda payload: plain_decode(payload.removeprefix(b"acme:"))


codecs: list[Codec] = [JsonCodec(), MsgpackCodec(enc_hook=str), Prefixed()]


class Tube:
    """A transport of one's own, without wsrpc as a base class."""

    def __init__(self) -> None:
        self.info = ConnectionInfo(target="/tube", remote=("::1", 1))
        self.unsent = 0
        self.largest = 1024
        self.receiver: Receiver | None = None

    def start(self, receiver: Receiver, /) -> None:
        receiver.receive(b"{}", True)
        receiver.read_ended()
        self.receiver = receiver

    def send(self, payload: bytes, text: bool = True, /) -> None:
        if self.receiver is None:
            raise ConnectionLost(1006, "not started", "not_sent")

    def flush(self) -> None: ...

    async def drain(self) -> None: ...

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        if self.receiver is not None:
            self.receiver.connection_lost(CloseInfo(1005 if code is None else code, reason, was_clean=True))

    def abort(self) -> None: ...

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None: ...

    def pause_receiving(self) -> None: ...

    def resume_receiving(self) -> None: ...


async def own_transports() -> None:
    tube: Transport = Tube()
    assert_type(await server.accept(tube), Peer | RawConnection)
    async with Client(transport=Tube(), codec=codecs[0]) as over_tube:
        await over_tube.emit("x")


# ---------------------------------------------------------------- testing


async def testing() -> None:
    async with connect(server, path="/ws?token=x", headers={"Origin": "null"}) as in_memory:
        assert_type(in_memory, Client)
        assert_type(in_memory.get(VISITS), int | None)
        assert_type(in_memory.get(VISITS, 0), int)
        in_memory.set(VISITS, 1)
        assert_type(in_memory.peer.info.query.get_all("token"), list[str])
        print("open" in RESERVED_EVENTS)
    async with connect(server, client=client, state={"user": "ada"}, principal="ada"):
        pass
    clock = Clock()
    async with connect(server, state={PRICES: {}}, clock=clock):
        pass
    async with pair(clock=clock, limits=Limits(timeout=1)) as (left, right):
        assert_type(left, Peer)
        right.on("add", add)
        clock.advance(1)
    dialed, accepted = memory_transports(path="/ws")
    dialed.hold()
    accepted.release()
    scripted = ScriptedTransport()
    await Client().bind(scripted)
    scripted.feed({"a": ["log"]}, "text", b"binary")
    scripted.expect({"i": 1, "d": None})
    assert_type(scripted.take(), list[Any])
    async with FaultProxy("ws://127.0.0.1:8080/ws", seed=1) as proxy:
        assert_type(proxy, FaultProxy)
        assert_type(proxy.url, str)
        proxy.drop()
        async with proxy.cut_after(100, direction="up"), proxy.silence("down"), proxy.delay(0.1, jitter=0.1):
            assert_type(proxy.connections + proxy.bytes_up, int)


def describing(client: Client) -> str:
    from wsrpc.schema import Description, ParameterSchema, describe
    from wsrpc.typescript import declarations

    assert_type(describe(Server()), Description)
    description = describe(client)
    for event in description.events:
        assert_type(event.parameters, tuple[ParameterSchema, ...])
        assert_type(event.result, dict[str, Any] | None)
    return declarations(description)


clustered = Server(cluster=Cluster(MemoryEngine(), name="shop"))


@clustered.cluster.on_gap
def missing(room: Room) -> None:
    for peer in room:
        peer.emit_nowait("reload")


@clustered.cluster.on_gap
async def missing_later(room: Room) -> None:
    await room.emit("reload")


clustered.cluster.on_gap(lambda room: print(room.name))
clustered.cluster.on_gap(lambda room, text="gap": print(text, room))


async def cluster_wide(peer: Peer) -> None:
    cluster = clustered.cluster
    assert_type(cluster, Cluster)
    assert_type(cluster.nodes, tuple[str, ...])
    assert_type(cluster.locate("user/42"), str | None)
    assert_type(peer.address, str | None)
    ada = cluster.peer("user/42")
    assert_type(ada, ClusterPeer)
    assert_type(await ada.request("add", 1, 2, returns=int), int)
    assert_type(await ada.of("chat").request("history", returns=list[str]), list[str])
    async with ada.stream("log", returns=Where) as lines:
        assert_type(lines, Stream[Where])
    assert_type(await ada.open_channel("talk"), AnonymousChannel)
    report = await clustered.room("lobby").emit("said", "hi", skip=[peer, ada])
    assert_type(report.nodes, tuple[str, ...])
    assert_type((await clustered.room("lobby").members()).addresses, tuple[str, ...])
    assert_type(clustered.stats().cluster, ClusterStats | None)
    async with ClusterClient(MemoryEngine(), name="shop") as shop:
        assert_type(shop, ClusterClient)
        assert_type(await shop.room("lobby").of("chat").emit("said", "hi", skip=shop.peer("user/1")), EmitReport)
        await shop.peer("user/1").emit("said", "hi")


# ---------------------------------------------------------------- contracts


class Line(msgspec.Struct):
    who: str
    text: str


class Shelf(Protocol):
    async def put(self, item: Item, /) -> int: ...


class Chat(Protocol):
    async def say(self, text: str, *, urgent: bool = False) -> int: ...

    @wsrpc.method("is-it-open")
    async def is_open(self, hour: int | None = None) -> bool: ...

    @wsrpc.method
    async def count(self, *words: str) -> int: ...

    def history(self, since: int) -> Stream[Line]: ...

    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> int: ...

    def translate(self, texts: AsyncIterable[str], *, to: str = "en") -> Stream[str]: ...

    async def talk(self, topic: str) -> AnonymousChannel: ...


class ChatEvents(Protocol):
    async def said(self, who: str, text: str) -> None: ...

    def typing(self, who: str) -> None: ...


class WholeApplication(Protocol):
    shelf: Shelf

    @property
    def chat(self) -> Chat: ...

    async def ping(self) -> Literal["pong"]: ...


async def chunks() -> AsyncGenerator[bytes]:
    yield b""


async def talking_by_contract(peer: Peer, channel: Channel, other: ClusterPeer) -> None:
    for caller in (client, peer, channel, client.of("chat"), peer.of("chat"), other, other.of("chat")):
        assert_type(caller.proxy(Chat), Chat)
    chat = client.of("chat").proxy(Chat)
    assert_type(await chat.say("hi"), int)
    assert_type(await chat.say(text="hi", urgent=True), int)
    assert_type(await chat.is_open(), bool)
    assert_type(await chat.is_open(hour=5), bool)
    assert_type(await chat.count("a", "b"), int)
    async with chat.history(0) as lines:
        assert_type(lines, Stream[Line])
        async for line in lines:
            assert_type(line.text, str)
    assert_type(await chat.upload("a.txt", chunks()), int)
    async for text in chat.translate(texts(), to="de"):
        assert_type(text, str)
    async with await chat.talk("tea") as talk:
        assert_type(talk, AnonymousChannel)
    assert_type(await wsrpc.with_options(chat, timeout=2).say("hi"), int)
    assert_type(wsrpc.with_options(chat, timeout=None, retry=Retry(), idempotent=True, offline="queue"), Chat)
    await greet(chat)
    first, second = await asyncio.gather(chat.say("a"), chat.is_open())
    assert_type(first, int)
    assert_type(second, bool)


async def texts() -> AsyncIterator[str]:
    yield ""


async def greet(chat: Chat) -> int:
    return await chat.say("hello")


async def channels_of_a_contract() -> None:
    whole = client.proxy(WholeApplication)
    assert_type(await whole.ping(), Literal["pong"])
    assert_type(await whole.shelf.put(Item("tea")), int)
    assert_type(await whole.chat.say("hi"), int)
    assert_type(await wsrpc.with_options(whole.chat, timeout=1).say("hi"), int)


class ChatImplementation:
    """Implements `Chat` for wsrpc: methods may be plain or async generators, and take what is injected."""

    async def say(self, text: str, *, urgent: bool = False) -> int:
        return len(text) + urgent

    def is_open(self, hour: int | None = None) -> bool:
        return hour is None

    @wsrpc.method(timeout=5)
    async def count(self, *words: str) -> int:
        return len(words)

    async def history(self, since: int, peer: Peer) -> AsyncIterator[Line]:
        yield Line(peer.id, str(since))

    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> int:
        return sum([len(chunk) async for chunk in chunks])

    async def translate(self, texts: AsyncIterable[str], *, to: str = "en") -> AsyncIterator[str]:
        async for text in texts:
            yield f"{to}: {text}"

    async def talk(self, topic: str, channel: AnonymousChannel) -> None:
        await channel.emit("topic", topic)


class Speaker(Protocol):
    async def say(self, text: str) -> int: ...


async def say_hello(speaker: Speaker) -> int:
    return await speaker.say("hello")


async def implementing(peer: Peer, channel: Channel, everywhere: ServerChannel) -> None:
    implementation = ChatImplementation()
    for registrar in (server, client, peer, router, channel, everywhere, router.of("chat")):
        registrar.implement(Chat, implementation)
    assert_type(await implementation.count("a"), int)
    await say_hello(implementation)
    await say_hello(client.proxy(Chat))


async def events_of_a_contract(peer: Peer, channel: Channel) -> None:
    server.declare(ChatEvents)
    client.declare(ChatEvents)
    server.of("chat").declare(ChatEvents)
    for source in (server, server.of("chat"), server.room("lobby"), server.room("lobby").of("chat"), peer, client):
        assert_type(source.emitter(ChatEvents), ChatEvents)
    assert_type(server.room("lobby").emitter(ChatEvents, skip=peer), ChatEvents)
    everyone = channel.emitter(ChatEvents)
    await everyone.said("Ada", text="hi")
    everyone.typing("Ada")
    await wsrpc.with_options(client.emitter(ChatEvents), offline="fail").said("Ada", "hi")
    async for who, text in client.of("chat").events("said", returns=tuple[str, str]):
        assert_type(who, str)
        assert_type(text, str)


def blocking_calls_have_the_types_that_were_asked_for(client: BlockingClient) -> None:
    total: int = client.request("add", 1, 2, returns=int)
    anything = client.request("add", 1, 2)
    names: list[str] = client.of("shop").request("names", returns=list[str], timeout=5, retry=Retry())
    with client.stream("countdown", 3, returns=int) as numbers:
        first: int = next(numbers)
        rest: list[int] = [*numbers]
    sent: int = client.request("total", send=range(3), returns=int)
    with client.open_channel("talk") as channel:
        text: str = channel.wait_for("said", returns=str)
    for line in client.events("line", returns=str):
        upper: str = line.upper()
        print(upper)
    chat = client.of("chat").proxy(BlockingChat)
    length: int = chat.say("hi")
    lines: list[str] = [*chat.history(1)]
    chat.upload("a", [b"b"])
    with_options(chat, timeout=1).say("x")
    print(total, anything, names, first, rest, sent, text, length, lines)


def blocking_handlers(client: BlockingClient) -> None:
    @client.on("add", ordered=True)
    def add(a: int, b: int = 0) -> int:
        return a + b

    one: int = add(1)
    print(one)


class BlockingChat(Protocol):
    def say(self, text: str) -> int: ...
    def history(self, since: int) -> BlockingStream[str]: ...
    def upload(self, name: str, chunks: Iterable[bytes]) -> int: ...


def blocking_cluster(engine: Engine) -> None:
    with BlockingClusterClient(engine, name="shop") as shop:
        nodes: tuple[str, ...] = shop.room("lobby").emit("news", "hi").nodes
        answer: int = shop.peer("user/1").request("ask", returns=int)
        print(nodes, answer)
