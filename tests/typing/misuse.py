"""Mistakes that a type checker must find: on each line marked ``# error``, and on no other. It is never run."""

from __future__ import annotations

from typing import Any

import tenacity

from wsrpc import (
    AnonymousChannel,
    Client,
    CloseInfo,
    Cluster,
    ConnectionInfo,
    ConnectionLost,
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


def blocking(client: BlockingClient) -> None:
    text: str = client.request("add", 1, 2, returns=int)  # error
    client.request("add", a=1)  # error
    client.on("add", add, thread=True)  # error
    items: list[str] = [*client.stream("count", returns=int)]  # error
    print(text, items)
