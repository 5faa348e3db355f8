"""Mistakes that a type checker must find: on each line marked ``# error``, and on no other. It is never run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import tenacity
from usage import Chat, ChatEvents, client, server

import wsrpc
from wsrpc import (
    AnonymousChannel,
    Client,
    CloseInfo,
    Context,
    Handshake,
    Key,
    Limits,
    Peer,
    Retry,
    RpcError,
    Server,
)
from wsrpc.blocking import Client as BlockingClient
from wsrpc.cluster import Cluster
from wsrpc.transport import ConnectionInfo


@server.on("add")
def add(a: int, b: int = 0) -> int:
    return a + b


async def handlers_keep_their_signatures() -> None:
    add("1", 2)  # error
    text: str = add(1, 2)  # error
    print(text)


async def calls(peer: Peer, channel: AnonymousChannel) -> None:
    text: str = await client.request("add", 1, 2, returns=int)  # error
    sure: int = await peer.request("find", returns=int | None)  # error
    items: list[int] = await client.of("shop").request("items", returns=list[str])  # error
    forgotten: int = client.request("add", 1, 2, returns=int)  # error
    await client.request("add", a=1, b=2)  # error
    peer.emit_nowait("log", timeout=1)  # error
    await client.request("add", timeout="soon")  # error
    await client.request("add", returns=5)  # error
    await client.request("add", 1, retry=3)  # error
    await client.emit("log", retry=Retry())  # error
    await client.emit("log", offline=True)  # error
    await client.request("add", offline="drop")  # error
    await channel.request("add", 1, retry=3)  # error
    client.events("log", keep="last")  # error
    read: str = await client.wait_for("log", returns=int)  # error
    client.items()  # error
    server.events("log")  # error
    print(text, sure, items, forgotten, read)


def registering() -> None:
    server.on("add", add, timeout="soon")  # error
    server.on("add", add, threaded=True)  # error
    server.on("add", "add")  # error
    server.on(add)  # error
    server.use()  # error
    server.serve_raw()  # error
    with client:  # error
        pass
    for _ in client.stream("count"):  # error
        pass


def options_exist_or_do_not() -> None:
    Server(orgins=["https://example.com"])  # error
    Server(origins=5)  # error
    Server(slow="drop")  # error
    Server(cluster="nats://localhost")  # error
    Cluster("nats://localhost", name="shop")  # error
    Client("ws://127.0.0.1", reconnect=True)  # error
    Client("ws://127.0.0.1", auth=lambda: 5)  # error
    Limits(mesage=1024)  # error
    Retry(3)  # error
    Retry(stop=tenacity.stop_after_attempt)  # error
    Retry(retry=lambda: True)  # error


async def what_is_not_there(ctx: Context, info: CloseInfo) -> None:
    await server.request("add", 1, 2)  # error
    server.of("shop").of("more")  # error
    print(info.kode, ctx.request)  # error
    info.code = 1000  # error
    if client.state == "online":  # error
        print("never")
    raise RpcError("no", kode="x")  # error


async def middleware_takes_two_arguments(ctx: Context) -> Any: ...


async def middleware_asks_a_context(ctx: str, call_next: object) -> Any: ...


def middleware_yields_nothing(ctx: Context) -> Iterator[int]:
    yield 1


server.use(middleware_takes_two_arguments)  # error
server.use_outgoing(middleware_takes_two_arguments)  # error
server.use(middleware_yields_nothing)  # error
server.use(middleware_asks_a_context)  # error


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


VISITS = Key[int]("visits")
PLACES = Key[defaultdict[str, list[int]]]("places")


async def identity(peer: Peer, handshake: Handshake) -> None:
    peer.state[VISITS] = "many"  # error
    peer.state.setdefault(PLACES, {"a": [1]})  # error
    text: str = peer.state[VISITS]  # error
    number: int = peer.state.get(VISITS)  # error
    print(text, number, peer.state.get(VISITS, "none"))  # error
    await server.peer("0123").emit("news")  # error
    handshake.response_headers["X-Number"] = 5  # error
    handshake.limits = None  # error


@server.on_handshake  # error
def not_a_gate(peer: Peer) -> None: ...


async def rooms_and_clusters(peer: Peer) -> None:
    server.room("prices", allow=True)  # error
    room = server.room("lobby")
    room.add("somebody")  # error
    await room.emit("joined", skip=[peer.id])  # error
    await room.emit_nowait("joined")  # error
    await room.send_raw(7)  # error
    ada = server.cluster.peer("ada")
    await server.peers[0].request("open", key="k", deliver_within=5)  # error
    ada.events("said")  # error
    total: str = await ada.request("add", returns=int)  # error
    print(total)


def descriptions_are_of_servers() -> None:
    from wsrpc.codegen.typescript import declarations
    from wsrpc.schema import describe

    describe(server.of("chat"))  # error
    declarations(server)  # error


async def contracts_are_kept_to(chat: Chat, peer: Peer) -> None:
    await client.proxy(Chat).say(5)  # error
    await chat.say("hi", loud=True)  # error
    await chat.shout("hi")  # error
    text: str = await chat.say("hi")  # error
    await chat.history(0)  # error
    for _ in chat.history(0):  # error
        pass
    async for line in chat.history(0):
        line.append("x")  # error
    await chat.upload("a.txt", [b"not async"])  # error
    number: int = client.proxy(Chat)  # error
    await wsrpc.with_options(chat, timeout=2).say(5)  # error
    wsrpc.with_options(chat, retries=3)  # error
    events: ChatEvents = peer.proxy(Chat)  # error
    print(text, number, events)


async def contracts_of_events_are_kept_to() -> None:
    everyone = server.room("lobby").of("chat").emitter(ChatEvents)
    await everyone.said("Ada", 5)  # error
    await everyone.typing("Ada")  # error
    server.proxy(Chat)  # error
    server.implement(Chat)  # error
    server.emitter(ChatEvents, skip="me")  # error


class WrongImplementation:
    async def say(self, text: int, *, urgent: bool = False) -> int:
        return text


async def greet(chat: Chat) -> int:
    return await chat.say("hello")


async def what_does_not_implement_a_contract() -> None:
    await greet(WrongImplementation())  # error


def blocking(client: BlockingClient) -> None:
    text: str = client.request("add", 1, 2, returns=int)  # error
    client.request("add", a=1)  # error
    client.on("add", add, thread=True)  # error
    items: list[str] = [*client.stream("count", returns=int)]  # error
    print(text, items)
