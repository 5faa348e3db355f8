"""Plausible mistakes in calls of public functions: each gives one sentence with what is expected and what came."""

from __future__ import annotations

import asyncio
import inspect
import math
import re
import ssl
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from tenacity.asyncio import retry_if_exception as async_retry

import wsrpc
from wsrpc import Client, KeepLatest, Limits, Reconnect, Retry, Router, RpcError, Server
from wsrpc.codecs import MsgpackCodec
from wsrpc.testing import connect

URL = "ws://localhost"


async def handler(x: int) -> int:
    return x


def shown(text: str) -> str:
    """``text`` without addresses, and with the short names of local functions."""
    return re.sub(r"<function \S*?(<lambda>|\w+) at 0x\w+>", r"<function \1 at …>", text)


REGISTERING: list[tuple[Callable[[Any], object], str]] = [
    (lambda on: on.on(), 'the event\'s name comes first: @server.on("add"), not @server.on; got no name'),
    (lambda on: on.on(handler), 'the event\'s name comes first: @server.on("add"), not @server.on; got <function'),
    (lambda on: on.on(5), "an event's name is a string, got 5"),
    (lambda on: on.on("x", 5), "a handler is a function, got 5"),
    (lambda on: on.on("x")(None), "the decorator of 'x' got None, not a function: on('x', None) removes a handler"),
    (lambda on: on.on("x", print, timeout="1"), "timeout= is a number of seconds, more than 0, or None for no limit;"),
    (lambda on: on.use(5), "use takes a function of (ctx, call_next), got 5"),
    (lambda on: on.use(lambda: 1), "middleware is an async function of (ctx, call_next), <function <lambda> at …> "),
]


@pytest.mark.parametrize(("mistake", "text"), REGISTERING)
@pytest.mark.parametrize("make", [Server, lambda: Client(URL).peer, lambda: Router().of("chat")])
def test_registering(make: Callable[[], Any], mistake: Callable[[Any], object], text: str) -> None:
    with pytest.raises(TypeError) as caught:
        mistake(make())
    assert shown(str(caught.value)).startswith(text)


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    return wraps(function)(lambda *args: function(*args))


class Chat:
    def say(self, text: str) -> str:
        return text.upper()

    async def middleware(self, ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx)

    def observer(self, ctx: Any) -> Any:
        yield

    @staticmethod
    def shout(text: str) -> str:
        return text.upper()

    @classmethod
    def sing(cls, text: str) -> str:
        return text.upper()

    def __call__(self, text: str) -> str:
        return text.upper()


METHODS: list[tuple[Callable[[Any], object], str]] = [
    (lambda on: on.on("say", Chat.say), "Chat(...).say"),
    (lambda on: on.on("say")(Chat.say), "Chat(...).say"),
    (lambda on: on.once("say", Chat.say), "Chat(...).say"),
    (lambda on: on.on("say", partial(Chat.say)), "Chat(...).say"),
    (lambda on: on.on("say", logged(Chat.say)), "Chat(...).say"),
    (lambda on: on.on("sing", Chat.sing.__func__), "Chat(...).sing"),  # type: ignore[attr-defined]
    (lambda on: on.on("open", Chat.say), "Chat(...).say"),
    (lambda on: on.use(Chat.middleware), "Chat(...).middleware"),
    (lambda on: on.use(Chat.observer), "Chat(...).observer"),
]


@pytest.mark.parametrize(("mistake", "instead"), METHODS)
@pytest.mark.parametrize("make", [Server, Client, lambda: Client(URL).peer, Router, lambda: Server().of("chat")])
def test_methods_without_their_object(make: Callable[[], Any], mistake: Callable[[Any], object], instead: str) -> None:
    with pytest.raises(TypeError) as caught:
        mistake(make())
    assert f": a method needs its object: register {instead} of an object, or make Chat a wsrpc." in str(caught.value)


HOST = "host= is a name or an address, without the port, which is port=; got "
LISTEN = "use `async with server.listen"
ASYNC_RETRY: Any = async_retry(lambda error: asyncio.sleep(0, True))
FOR_CLIENTS = ssl.create_default_context()
FOR_SERVERS = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
OPTIONS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (Server, {"limits": 5}, "limits= takes a wsrpc.Limits, got 5"),
    (Server, {"codec": 5}, "codec= takes a codec such as wsrpc.codecs.JsonCodec(), got 5"),
    (Server, {"dec_hook": 5}, "dec_hook= is a function, or None; got 5"),
    (Server, {"compression": "x"}, "compression= is True or False, got 'x'"),
    (Server, {"expose_errors": "x"}, "expose_errors= is True, False or a function of the exception, got 'x'"),
    (Server, {"log_payloads": 5}, "log_payloads= is True, False or a plain function(direction, event, args), got 5"),
    (Server, {"trusted_proxies": 5}, "trusted_proxies= takes a list of addresses and networks, got 5"),
    (Server, {"slow": "drop"}, 'slow= is "close", "drop_newest", "drop_oldest" or wsrpc.KeepLatest(); got \'drop\''),
    (Server, {"origins": "https://a.b"}, "origins= takes a list of origins, got text: use origins=['https://a.b']"),
    (Server, {"detached_timeout": 0}, "detached_timeout= is a number of seconds, 0.001 or more; got 0"),
    (Client, {"url": 5}, "a URL begins with ws:// or wss:// and names a host, got int"),
    (Client, {"url": URL, "ssl": False}, "ssl= is an ssl.SSLContext, or None for the default one; got False"),
    (Client, {"profile": "node"}, "profile= is \"go\" (ws-server-wrapper-go) or None, got 'node'"),
    (Server, {"profile": "node"}, "profile= is \"go\" (ws-server-wrapper-go) or None, got 'node'"),
    (Client, {"profile": "go", "codec": MsgpackCodec()}, "profile='go' speaks JSON in text messages"),
    (Server, {"profile": "go", "codec": MsgpackCodec()}, "profile='go' speaks JSON in text messages"),
    (Client, {"connect_timeout": 0}, "connect_timeout= is a number of seconds, more than 0, or None for no limit; "),
    (Client, {"headers": "X: y"}, "headers= is a mapping of names to values, or a function that returns one, got str"),
    (Client, {"headers": {"A b": "x"}}, "the name of a header is a word such as 'X-Served-By', got 'A b'"),
    (Client, {"auth": ("a", "b")}, "auth= is a token, as text, or a function that returns it, got tuple"),
    (Client, {"url": "ws://a,ws://b"}, "a URL names one host: give several URLs as a list, got 'ws://a,ws://b'"),
    (Client, {"url": []}, "url= is a URL that begins with ws:// or wss://, or a sequence of them, got an empty"),
    (Client, {"url": [URL, "localhost"]}, "a URL begins with ws:// or wss:// and names a host, got 'localhost'"),
    (Client, {"dial": 5}, "dial= is an async function that opens a connection, such as wsrpc.dial; got 5"),
    (Client, {"reconnect": False}, "reconnect= takes a wsrpc.Reconnect or None, got False"),
    (Client, {"auth": "tok\n"}, "the header 'Authorization' has a character that cannot be sent, such as a line"),
    (Client, {"url": "wss://localhost", "ssl": True}, "ssl= is an ssl.SSLContext, or None for the default one; got T"),
    (Client, {"url": URL, "ssl": FOR_CLIENTS}, "ssl= goes with a wss:// URL, got 'ws://localhost'"),
    (Client, {"url": "wss://localhost", "ssl": FOR_SERVERS}, "ssl= is a context for servers: a client's is made with "),
    (Reconnect, {"initial": -1}, "Reconnect(initial="),
    (Reconnect, {"wait": 3.0}, "Reconnect(wait="),
    (Reconnect, {"retry": OSError()}, "Reconnect(retry="),
    (Reconnect, {"retry": ASYNC_RETRY}, "Reconnect(retry="),
    (Server().run, {"drain_timeout": math.nan}, "drain_timeout= is a number of seconds, 0 or more; got nan"),
    (Server().listen, {"unix": "socket", "reuse_port": True}, "reuse_port= goes with host and port"),
    *((Server().listen, {"healthz": path}, "healthz= is a path such as") for path in ("healthz", "/health z", "/a?a")),
    (KeepLatest, {"key": "x"}, "KeepLatest(key) takes a plain function of the event's arguments, got 'x'"),
    (Limits, {"depth": "5"}, "Limits.depth is a whole number, got '5'"),
    (Retry, {"attempts": True}, "Retry(attempts=) counts the first one, too: 1 or more; got True"),
    (RpcError, {"message": "no", "fields": 5}, "fields= takes a mapping of names to values, got 5"),
    *(
        (Server().listen, {name: wrong}, text)
        for name, wrong, text in [
            *(("host", host, f"{HOST}'{host}'") for host in ("127.0.0.1:8080", "ws://localhost", "[::1]", "[::1]:80")),
            ("path", "ws", "a path begins with a slash, got 'ws'"),
            ("ssl", FOR_CLIENTS, "ssl= is a context for clients: a server's is made with ssl.create_default_context("),
            ("healthz", 5, "healthz= is a path such as '/healthz', or None; got 5"),
        ]
    ),
]


@pytest.mark.parametrize(("make", "options", "text"), OPTIONS)
def test_options(make: Callable[..., Any], options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make(**options)
    assert shown(str(caught.value)).startswith(text)


class LoopOfWindows(asyncio.SelectorEventLoop):
    """An event loop without Unix sockets, as those of Windows are."""

    create_unix_connection = asyncio.AbstractEventLoop.create_unix_connection
    create_unix_server = asyncio.AbstractEventLoop.create_unix_server


@pytest.mark.parametrize(
    "begin",
    [
        lambda: wsrpc.dial("ws://localhost/", unix="/nowhere"),
        lambda: Client("ws://localhost/", dial=partial(wsrpc.dial, unix="/nowhere")).__aenter__(),
        lambda: Server().listen(unix="/nowhere").__aenter__(),
    ],
    ids=["dial", "client", "server"],
)
def test_unix_sockets_that_the_system_has_not(begin: Callable[[], Any]) -> None:
    """The error had no text, and a client repeated the attempt."""
    with pytest.raises(ValueError, match="asyncio does not have on Windows: use a host and a port"):
        with asyncio.Runner(loop_factory=LoopOfWindows) as runner:
            runner.run(begin())


ANY_SERVER: Any = Server
ANY_CLIENT: Any = Client
CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: ANY_SERVER().on("x", print, thread="x"), "thread= is True or False, got 'x'"),
    (lambda: ANY_SERVER().include(5), "include() takes a wsrpc.Router, got 5"),
    (lambda: ANY_SERVER().of(5), "a channel's name is a non-empty string, got 5"),
    (lambda: ANY_SERVER().of("c" * 257), "a channel's name has at most 256 bytes of UTF-8, got 257: 'ccc"),
    (lambda: ANY_CLIENT().of("é" * 129), "a channel's name has at most 256 bytes of UTF-8, got 258: 'é"),
    (lambda: Router().of("c" * 257), "a channel's name has at most 256 bytes of UTF-8, got 257: 'ccc"),
    (lambda: ANY_SERVER().on("n" * 257, print), "an event's name has at most 256 bytes of UTF-8, got 257: 'nnn"),
    (lambda: wsrpc.method("é" * 129), "an event's name has at most 256 bytes of UTF-8, got 258: 'é"),
    (lambda: ANY_SERVER().room(""), "a room's name is a non-empty string, got ''"),
    (lambda: ANY_SERVER().listen().url, f"not listening: {LISTEN}"),
    (lambda: ANY_SERVER().close(-1), "drain_timeout= is a number of seconds, 0 or more; got -1"),
    (lambda: ANY_SERVER().run(), "run() starts an event loop of its own: inside one, use `async with"),
    (lambda: ANY_CLIENT().connect(), "this client has no url to dial: give Client(url), or bind"),
    (lambda: ANY_CLIENT().start(), "this client has no url to dial: give Client(url), or bind"),
    (wsrpc.current_context, "no handler is running here: current_context() works inside handlers"),
]


@pytest.mark.parametrize(("call", "text"), CALLS)
async def test_calls_and_statements(call: Callable[[], Any], text: str) -> None:
    async def outcome() -> None:
        result = call()
        if inspect.isawaitable(result):
            await result

    with pytest.raises((TypeError, RuntimeError, ValueError)) as caught:
        await outcome()
    assert str(caught.value).startswith(text)


# ---------------------------------------------------------------- calling

RETURNS = "returns= is a type that a response can have, got "
TIMEOUT = "timeout= is a number of seconds, 0 or more, or None for no limit; got "
SEND = "send= takes an iterable or async iterable whose items are sent one by one, got "

REQUESTING: list[tuple[dict[str, Any], str]] = [
    ({"timeout": "1"}, TIMEOUT + "'1'"),
    ({"timeout": math.nan}, TIMEOUT + "nan"),
    ({"returns": 5}, RETURNS + "5: "),
    ({"send": "text"}, SEND + "str"),
    ({"retry": 3}, "retry= takes a wsrpc.Retry, got 3"),
    ({"idempotent": True}, "idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too"),
    ({"offline": "x"}, 'offline= is "queue" (wait for the next connection) or "fail" (refuse), got \'x\''),
]
CALLING: list[tuple[Callable[[Any], Any], str]] = [
    *((partial(lambda one, options: one.request("work", **options), options=each), text) for each, text in REQUESTING),
    (lambda one: one.close("x"), "a close code is a number such as 1000, or None for no code; got 'x'"),
    (lambda one: one.close(1000, 5), "a close reason is text, got 5"),
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("call", "text"), CALLING)
async def test_calling(call: Callable[[Any], Any], text: str) -> None:
    ran: list[None] = []
    server = Server()
    server.on("work", lambda: ran.append(None))
    async with connect(server) as client:
        with pytest.raises((TypeError, ValueError)) as caught:
            await call(client)
        assert str(caught.value).startswith(text)
        assert client.peer.pending == 0
        await client.request("work")
    assert len(ran) == 1


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", [5, None])
async def test_whoever_emits_gives_an_event_a_name(name: Any) -> None:
    """A server and a room took None for a raw message."""
    server = Server()
    async with connect(server) as client:
        [peer] = server.peers

        async def call(emit: Callable[..., Any]) -> None:
            if inspect.isawaitable(made := emit(name, "text")):
                await made

        rooms = server.room("plain"), server.room("kept", keep=60)
        for room in rooms:
            room.add(peer)
        for one in (client, peer, server, *rooms):
            emitter: Any
            for emitter in (one, one.of("channel")):
                for emit in (emitter.emit, emitter.emit_nowait):
                    with pytest.raises(TypeError, match=f"^an event's name is a string, got {name}$"):
                        await call(emit)
        assert client.connected


# ---------------------------------------------------------------- lifecycle handlers


@pytest.mark.parametrize("options", [{"thread": True}, {"ordered": True}])
def test_options_that_do_not_apply_to_lifecycle_events(options: dict[str, Any]) -> None:
    for target in (Server(), Client(), Router()):
        with pytest.raises(TypeError, match="'open' reports on the connection"):
            target.on("open", lambda: None, **options)
    # On a channel that is an ordinary name.
    Server().of("room").on("open", lambda: None, thread=True)
