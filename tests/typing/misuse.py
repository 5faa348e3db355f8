"""Mistakes that a type checker must find: on each line marked ``# error``, and on no other. It is never run."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import Any, Protocol

import tenacity

import wsrpc
from wsrpc import (
    AnonymousChannel,
    Client,
    CloseInfo,
    ConnectionLost,
    Context,
    Handshake,
    Key,
    Limits,
    Peer,
    Retry,
    RpcError,
    Server,
    Stream,
)
from wsrpc.blocking import Client as BlockingClient
from wsrpc.cluster import Cluster
from wsrpc.transport import ConnectionInfo

server = Server()
client = Client("ws://127.0.0.1:8080")


@server.on("add")
def add(a: int, b: int = 0) -> int:
    return a + b


@client.on("name")
async def name() -> str:
    return "Ada"


async def handlers_keep_their_signatures() -> None:
    add("1", 2)  # error
    add(1, c=2)  # error
    text: str = add(1, 2)  # error
    number: int = await name()  # error
    forgotten: str = name()  # error
    print(text, number, forgotten)


async def results_have_the_type_that_was_asked_for(peer: Peer) -> None:
    text: str = await client.request("add", 1, 2, returns=int)  # error
    sure: int = await peer.request("find", returns=int | None)  # error
    items: list[int] = await client.of("shop").request("items", returns=list[str])  # error
    forgotten: int = client.request("add", 1, 2, returns=int)  # error
    print(text, sure, items, forgotten)


async def arguments_travel_by_position(peer: Peer) -> None:
    await client.request("add", a=1, b=2)  # error
    await peer.emit("log", level="high")  # error
    peer.emit_nowait("log", timeout=1)  # error
    await client.request("add", timeout="soon")  # error
    await client.request(5)  # error
    await client.request("add", returns=5)  # error


def registering() -> None:
    server.on("add", add, timeout="soon")  # error
    server.once("add", add, timeout=[5])  # error
    server.on()  # error
    server.use()  # error
    server.on_raw()  # error
    client.on_reconnect()  # error
    with client:  # error
        pass
    for _ in client.stream("count"):  # error
        pass


async def asking_again(channel: AnonymousChannel) -> None:
    await client.request("add", 1, retry=3)  # error
    await client.request("add", 1, retry=Retry(), idempotent="yes")  # error
    text: str = await client.request("add", 1, returns=int, retry=Retry())  # error
    await client.emit("log", retry=Retry())  # error
    await channel.request("add", 1, retry=Retry())  # error
    Retry(3)  # error
    Retry(wait=1.0)  # error
    Retry(stop=tenacity.stop_after_attempt)  # error
    Retry(retry=lambda: True)  # error
    print(text)


async def offline(channel: AnonymousChannel) -> None:
    Client("ws://127.0.0.1", offline="drop")  # error
    await client.emit("log", offline=True)  # error
    await client.request("add", offline="drop")  # error
    await channel.emit("log", offline="fail")  # error
    channel.emit_nowait("log", offline="fail")  # error
    await channel.request("add", returns=int, offline="fail")  # error
    channel.events("log", offline="fail")  # error


async def reading_events(channel: AnonymousChannel) -> None:
    channel.stream("log")  # error
    client.events(5)  # error
    client.events("log", keep="last")  # error
    client.events("log", timeout=5)  # error
    client.events("log", returns=5)  # error
    text: str = await client.wait_for("log", returns=int)  # error
    await client.wait_for("log", timeout="5")  # error
    client.items()  # error
    server.events("log")  # error
    print(text)


def options_exist_or_do_not() -> None:
    Server(orgins=["https://example.com"])  # error
    Client("ws://127.0.0.1", reconnect=True)  # error
    Client(8080)  # error
    Client("ws://127.0.0.1", auth=lambda: 5)  # error
    Limits(mesage=1024)  # error
    Limits(message="4 MiB")  # error
    server.on("add", add, threaded=True)  # error
    server.on("add", "add")  # error
    server.on(add)  # error
    server.of("shop").on("add", add, thread="yes")  # error


async def what_is_not_there(ctx: Context, info: CloseInfo) -> None:
    await server.request("add", 1, 2)  # error
    server.of("shop").of("more")  # error
    print(info.kode, ctx.request)  # error
    info.code = 1000  # error
    await server.emit("news", skip="me")  # error
    raise RpcError("no", kode="x")  # error


async def middleware_takes_two_arguments(ctx: Context) -> Any: ...


async def middleware_asks_a_context(ctx: str, call_next: object) -> Any: ...


server.use(middleware_takes_two_arguments)  # error
server.use(middleware_asks_a_context)  # error
server.handler_context = lambda ctx: 5  # error


class HalfATransport:
    info = ConnectionInfo()
    unsent = 0

    def send(self, payload: bytes, text: bool = True, /) -> None: ...


class HalfACodec:
    name = "half"
    text = True

    def encode(self, message: Any, /) -> bytes:
        return b""


async def halves() -> None:
    await server.accept(HalfATransport())  # error
    await client.bind(HalfATransport())  # error
    Server(codec=HalfACodec())  # error


def states(lost: ConnectionLost) -> None:
    if client.state == "online":  # error
        print("never")
    if lost.outcome == "perhaps":  # error
        print("never")


VISITS = Key[int]("visits")


async def identity(peer: Peer, handshake: Handshake) -> None:
    peer.state[VISITS] = "many"  # error
    peer.set(VISITS, "many")  # error
    text: str = peer.state[VISITS]  # error
    number: int = peer.get(VISITS)  # error
    print(text, number, peer.get(VISITS, "none"))  # error
    await server.peer("0123").emit("news")  # error
    Server(trusted_proxies=[10])  # error
    Server(origins=5)  # error
    handshake.response_headers["X-Number"] = 5  # error
    handshake.limits = None  # error
    peer.limits = 4096  # error


@server.on_handshake  # error
def not_a_gate(peer: Peer) -> None: ...


@server.on_handshake  # error
def not_a_gate_either() -> None: ...
async def rooms_take_what_they_say(peer: Peer) -> None:
    Server(slow="drop")  # error
    server.room("prices", allow=True)  # error
    room = server.room("lobby")
    room.add("somebody")  # error
    await room.emit("joined", skip="me")  # error
    await room.emit("joined", skip=[peer.id])  # error
    room.emit_nowait("joined", skip=5)  # error
    await room.emit_nowait("joined")  # error
    await room.send_raw(7)  # error


def descriptions_are_of_servers(server: Server) -> None:
    from wsrpc.schema import describe
    from wsrpc.typescript import declarations

    describe(server.of("chat"))  # error
    declarations(server)  # error


async def clusters_take_what_they_say(peer: Peer) -> None:
    Server(cluster="nats://localhost")  # error
    Cluster("nats://localhost", name="shop")  # error
    cluster = server.cluster
    cluster.peer("ada").events("said")  # error
    cluster.peer("ada").wait_for("said")  # error
    cluster.peer("ada").on("said", print)  # error
    cluster.peer(5)  # error
    total: str = await cluster.peer("ada").request("add", returns=int)  # error
    await server.room("lobby").emit("said", total, skip="user/42")  # error


class Chat(Protocol):
    async def say(self, text: str, *, urgent: bool = False) -> int: ...

    @wsrpc.method("is-it-open")
    async def is_open(self, hour: int) -> bool: ...

    def history(self, since: int) -> Stream[str]: ...

    async def upload(self, name: str, chunks: AsyncIterable[bytes]) -> int: ...


class ChatEvents(Protocol):
    async def said(self, who: str, text: str) -> None: ...

    def typing(self, who: str) -> None: ...


async def contracts_are_kept_to(chat: Chat, peer: Peer) -> None:
    await chat.say(5)  # error
    await chat.say()  # error
    await chat.say("hi", True)  # error
    await chat.say("hi", urgent="yes")  # error
    await chat.say("hi", loud=True)  # error
    await chat.shout("hi")  # error
    await chat.is_open("noon")  # error
    await chat.is_open()  # error
    text: str = await chat.say("hi")  # error
    forgotten: int = chat.say("hi")  # error
    await chat.history(0)  # error
    for _ in chat.history(0):  # error
        pass
    async for line in chat.history(0):
        line.append("x")  # error
    await chat.upload("a.txt", [b"not async"])  # error
    await chat.upload("a.txt")  # error
    number: int = client.proxy(Chat)  # error
    await client.proxy(Chat).say(5)  # error
    await wsrpc.with_options(chat, timeout=2).say(5)  # error
    await wsrpc.with_options(chat, timeout="soon").say("hi")  # error
    wsrpc.with_options(chat, retries=3)  # error
    wsrpc.with_options(chat, offline="drop")  # error
    wsrpc.with_options(chat, 2)  # error
    events: ChatEvents = peer.proxy(Chat)  # error
    print(text, forgotten, number, events)


async def contracts_of_events_are_kept_to() -> None:
    everyone = server.room("lobby").of("chat").emitter(ChatEvents)
    await everyone.said("Ada")  # error
    await everyone.said("Ada", 5)  # error
    await everyone.typing("Ada")  # error
    everyone.shouted("Ada")  # error
    server.proxy(Chat)  # error
    server.room("lobby").proxy(Chat)  # error
    server.implement(Chat)  # error
    server.emitter(ChatEvents, skip="me")  # error
    client.proxy(5)  # error


class WrongImplementation:
    async def say(self, text: int, *, urgent: bool = False) -> int:
        return text


async def greet(chat: Chat) -> int:
    return await chat.say("hello")


async def what_does_not_implement_a_contract() -> None:
    await greet(WrongImplementation())  # error
    await greet(client)  # error


def blocking(client: BlockingClient) -> None:
    text: str = client.request("add", 1, 2, returns=int)  # error
    client.request("add", a=1)  # error
    client.on("add", add, thread=True)  # error
    items: list[str] = [*client.stream("count", returns=int)]  # error
    print(text, items)
