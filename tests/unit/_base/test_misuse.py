"""Plausible mistakes in calls of public functions: each gives one sentence with what is expected and what came."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left

import wsrpc
from wsrpc import AnonymousChannel, Client, Limits, Peer, Reconnect, Retry, Router, RpcError, Server
from wsrpc.codecs import MsgpackCodec
from wsrpc.testing import connect

URL = "ws://localhost"


async def handler(x: int) -> int:
    return x


def registrars() -> dict[str, Any]:
    """One of everything that handlers can be registered on."""
    return {
        "server": Server(),
        "server's channel": Server().of("chat"),
        "client": Client(URL),
        "client's channel": Client(URL).of("chat"),
        "peer": Client(URL).peer,
        "router": Router(),
        "router's channel": Router().of("chat"),
    }


# ---------------------------------------------------------------- registering

FIRST = 'the event\'s name comes first: @server.{method}("add"), not @server.{method}; got '
NO_FUNCTION = "{name}() got no function: write @{usage} without parentheses, or {name}(function)"

REGISTERING: dict[str, tuple[Callable[[Any], object], str]] = {
    "on()": (lambda on: on.on(), FIRST.format(method="on") + "no name"),
    "once()": (lambda on: on.once(), FIRST.format(method="once") + "no name"),
    "on without parentheses": (lambda on: on.on(handler), FIRST.format(method="on") + "<function handler at …>"),
    "once without parentheses": (lambda on: on.once(handler), FIRST.format(method="once") + "<function handler at …>"),
    "a number as name": (lambda on: on.on(5), "an event's name is a string, got 5"),
    "None as name": (lambda on: on.on(None, handler), "an event's name is a string, got None"),
    "a number as handler": (lambda on: on.on("x", 5), "a handler is a function, got 5"),
    "two names": (lambda on: on.on("x", "y"), "a handler is a function, got 'y'"),
    "a decorated number": (lambda on: on.on("x")(5), "a handler is a function, got 5"),
    "a decorated None": (
        lambda on: on.on("x")(None),
        "the decorator of 'x' got None, not a function: on('x', None) removes a handler",
    ),
    "lax": (lambda on: on.on("x", handler, lax="no"), "lax= is True or False, got 'no'"),
    "ordered": (lambda on: on.on("x", handler, ordered=1), "ordered= is True or False, got 1"),
    "thread": (lambda on: on.on("x", print, thread="yes"), "thread= is True or False, got 'yes'"),
    "timeout": (
        lambda on: on.on("x", handler, timeout="1"),
        "timeout= is a number of seconds, more than 0, or None for no limit; got '1'",
    ),
    "no middleware": (lambda on: on.use(5), "use takes a function of (ctx, call_next), got 5"),
    "middleware of nothing": (
        lambda on: on.use(lambda: None),
        "middleware is an async function of (ctx, call_next), <function <lambda> at …> does not take both",
    ),
}


def shown(text: str) -> str:
    """``text`` without addresses, and with the short names of local functions."""
    return re.sub(r"<function \S*?(<lambda>|\w+) at 0x\w+>", r"<function \1 at …>", text)


@pytest.mark.parametrize("mistake", REGISTERING)
@pytest.mark.parametrize("where", registrars())
def test_registering(where: str, mistake: str) -> None:
    call, text = REGISTERING[mistake]
    with pytest.raises(TypeError) as caught:
        call(registrars()[where])
    assert shown(str(caught.value)) == text


@pytest.mark.parametrize("where", registrars())
def test_decorators_without_options_with_parentheses(where: str) -> None:
    registrar = registrars()[where]
    usages = ["use"]
    usages += ["on_raw"] if hasattr(registrar, "on_raw") else []
    usages += ["on_reconnect"] if where == "client" else []
    usages += ["on_handshake", "serve_raw", "on_join"] if where == "server" else []
    for name in usages:
        with pytest.raises(
            TypeError, match=rf"^{name}\(\) got no function: write @\w+\.{name} without parentheses, or"
        ):
            getattr(registrar, name)()


async def test_a_coroutine_in_place_of_its_function() -> None:
    coroutine = handler(1)
    with pytest.raises(TypeError, match=r"the result of calling the function: leave out the parentheses$"):
        Server().on("x", coroutine)  # type: ignore[call-overload]
    coroutine.close()


# ---------------------------------------------------------------- making and configuring

FUNCTION = "{name}= is a function, or None; got 5"
FLAG = "{name}= is True or False, got 'x'"
SECONDS = "{name}= is a number of seconds, more than 0, or None for no limit; got "

MAKING: dict[str, tuple[Callable[[], object], str]] = {
    **{
        f"{kind.__name__} {name}": (lambda make=make, name=name, wrong=wrong: make(**{name: wrong}), text)  # type: ignore[misc]
        for kind, make in ((Server, Server), (Client, lambda **options: Client(URL, **options)))
        for name, wrong, text in (
            ("limits", 5, "limits= takes a wsrpc.Limits, got 5"),
            ("codec", 5, "codec= takes a codec such as wsrpc.codecs.JsonCodec(), got 5"),
            ("dec_hook", 5, FUNCTION.format(name="dec_hook")),
            ("enc_hook", 5, FUNCTION.format(name="enc_hook")),
            ("lax", "x", FLAG.format(name="lax")),
            ("compression", "x", FLAG.format(name="compression")),
            ("extensions", "x", FLAG.format(name="extensions")),
            ("expose_errors", "x", "expose_errors= is True, False or a function of the exception, got 'x'"),
            (
                "log_payloads",
                5,
                "log_payloads= is True, False or a plain function(direction, event, args), got 5",
            ),
        )
    },
    "Server trusted_proxies": (
        lambda: Server(trusted_proxies=5),  # type: ignore[arg-type]
        "trusted_proxies= takes a list of addresses and networks, got 5",
    ),
    "Server handler_context": (
        lambda: Server(handler_context=5),  # type: ignore[arg-type]
        "handler_context= is a function of the context, got 5",
    ),
    "Client url": (lambda: Client(5), "a url is text, or a function that returns it, got int"),  # type: ignore[arg-type]
    "Client without scheme": (
        lambda: Client("localhost"),
        "a URL begins with ws:// or wss:// and names a host, got 'localhost'",
    ),
    "Client dial": (
        lambda: Client(URL, dial=5),  # type: ignore[arg-type]
        "dial= is an async function that opens a connection, such as wsrpc.dial; got 5",
    ),
    "Client reconnect": (
        lambda: Client(URL, reconnect=False),  # type: ignore[arg-type]
        "reconnect= takes a wsrpc.Reconnect or None, got False",
    ),
    **{
        f"Client connect_timeout={wrong!r}": (
            lambda wrong=wrong: Client(URL, connect_timeout=wrong),  # type: ignore[misc]
            SECONDS.format(name="connect_timeout") + repr(wrong),
        )
        for wrong in ("1", True, 0, -1, float("nan"))
    },
    "Router lax": (lambda: Router(lax="x"), FLAG.format(name="lax")),  # type: ignore[arg-type]
    "include": (lambda: Server().include(5), "include() takes a wsrpc.Router, got 5"),  # type: ignore[arg-type]
    "include of a server": (
        lambda: Client(URL).include(Server()),  # type: ignore[arg-type]
        "include() takes a wsrpc.Router, got <Server open, 0 peers>",
    ),
    "of": (lambda: Server().of(5), "a channel's name is a non-empty string, got 5"),  # type: ignore[arg-type]
    "ordered channel": (
        lambda: Client(URL).of("chat", ordered=1),  # type: ignore[arg-type]
        "ordered= is True or False, got 1",
    ),
    "ordered channel of a router": (
        lambda: Router().of("chat", ordered=1),  # type: ignore[arg-type]
        "ordered= is True or False, got 1",
    ),
    "method": (lambda: wsrpc.method(ordered="x"), FLAG.format(name="ordered")),  # type: ignore[call-overload]
    "MsgpackCodec": (
        lambda: MsgpackCodec(enc_hook=5),  # type: ignore[arg-type]
        FUNCTION.format(name="enc_hook"),
    ),
    "Limits": (lambda: Limits(depth="5"), "Limits.depth is a whole number, got '5'"),  # type: ignore[arg-type]
    "Retry": (lambda: Retry(attempts=1.5), "Retry(attempts=) is a whole number, got 1.5"),  # type: ignore[arg-type]
    "Retry attempts": (lambda: Retry(attempts=True), "Retry(attempts=) counts the first one, too: 1 or more; got True"),
    "Reconnect": (lambda: Reconnect(max=True), "Reconnect(max=) is a number of seconds, 0 or more; got True"),
    "RpcError": (
        lambda: RpcError("no", fields=5),  # type: ignore[arg-type]
        "fields= takes a mapping of names to values, got 5",
    ),
}


@pytest.mark.parametrize("mistake", MAKING)
def test_making(mistake: str) -> None:
    call, text = MAKING[mistake]
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    assert str(caught.value) == text


PORT = "port= is a number from 0 (a free one) to 65535, got "


@pytest.mark.parametrize("method", ["listen", "run"])
@pytest.mark.parametrize(
    ("name", "wrong", "text"),
    [
        ("host", 5, "host= is a name or an address such as '127.0.0.1', or None for all; got 5"),
        ("port", "8080", PORT + "'8080'"),
        ("port", True, PORT + "True"),
        ("port", -1, PORT + "-1"),
        ("port", 65536, PORT + "65536"),
        ("path", 5, "path= is text that begins with a slash, or None for any path; got 5"),
        ("ssl", True, "ssl= is an ssl.SSLContext with the server's certificate, or None; got True"),
        (
            "ssl",
            ssl.create_default_context(),
            "ssl= is a context for clients: a server's is made with "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)",
        ),
        ("unix", 5, "unix= is the path of a Unix socket, got 5"),
        ("healthz", 5, "healthz= is a path such as '/healthz', or None; got 5"),
        ("reuse_port", "x", "reuse_port= is True or False, got 'x'"),
    ],
)
def test_listening(method: str, name: str, wrong: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(Server(), method)(**{name: wrong})
    assert str(caught.value) == text


def test_listening_on_what_is_no_socket() -> None:
    with pytest.raises(TypeError, match=r"^sock= is a socket\.socket that is bound, got 5$"):
        Server().listen(sock=5)  # type: ignore[arg-type]


# ---------------------------------------------------------------- statements


async def test_what_is_used_in_another_statement() -> None:
    server: Any = Server()
    client: Any = Client(URL)
    with pytest.raises(TypeError, match=r"^a Server is not a context manager: use `async with server\.listen"):
        async with server:
            pass
    with pytest.raises(TypeError, match=r"^a Server is not a context manager: use `async with server\.listen"):
        with server:
            pass
    with pytest.raises(TypeError, match=r"^listen\(\) opens a block: use `async with server\.listen"):
        with server.listen():
            pass
    with pytest.raises(TypeError, match=r"^listen\(\) opens a block: use `async with server\.listen"):
        await server.listen()
    with pytest.raises(TypeError, match=r"^a client dials and closes asynchronously: use `async with client:`$"):
        with client:
            pass
    with pytest.raises(TypeError, match=r"^the items of a stream arrive over time: use `async for`$"):
        for _ in client.stream("x"):
            pass
    with pytest.raises(TypeError, match=r"^a stream is opened and closed asynchronously: use `async with`$"):
        with client.stream("x"):
            pass
    with pytest.raises(RuntimeError, match=r"^not listening: use `async with server\.listen"):
        _ = server.listen().url
    with pytest.raises(RuntimeError, match=r"^run\(\) starts an event loop of its own: inside one, use `async with"):
        server.run()
    with pytest.raises(ValueError, match=r"^this client has no url to dial: give Client\(url\), or bind"):
        await Client().connect()


@pytest.mark.parametrize("function", [wsrpc.current_peer, wsrpc.current_context])
def test_asking_for_a_handler_s_call_outside_of_one(function: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError) as caught:
        function()
    assert str(caught.value) == f"no handler is running here: {function.__name__}() works inside handlers"


# ---------------------------------------------------------------- calling

RETURNS = "returns= is a type that a response can have, got "
TIMEOUT = "timeout= is a number of seconds, 0 or more, or None for no limit; got "
SEND = "send= takes an iterable or async iterable whose items are sent one by one, got "

REQUESTING = [
    ({"timeout": "1"}, TIMEOUT + "'1'"),
    ({"timeout": True}, TIMEOUT + "True"),
    ({"timeout": -1}, TIMEOUT + "-1"),
    ({"timeout": [1]}, TIMEOUT + "[1]"),
    ({"returns": 5}, RETURNS + "5: "),
    ({"returns": "int"}, RETURNS + "'int': "),
    ({"returns": [int]}, RETURNS + "[<class 'int'>]: "),
    ({"send": 5}, SEND + "int"),
    ({"send": "text"}, SEND + "str"),
    ({"retry": 3}, "retry= takes a wsrpc.Retry, got 3"),
    ({"idempotent": True}, "idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too"),
    ({"offline": "x"}, 'offline= is "queue" (wait for the next connection) or "fail" (refuse), got \'x\''),
    ({"name": 5}, "request('work') got name as keyword argument: arguments travel by position, without names, and "),
]

NO_KEYWORDS = [
    ("emit", "offline="),
    ("emit_nowait", "offline="),
    ("request", "returns=, timeout=, send=, retry=, idempotent= and offline="),
    ("open_channel", "timeout= and offline="),
    ("stream", "returns=, timeout=, send= and offline="),
]
NO_KEYWORDS_ON_A_CHANNEL = [
    ("emit", "none"),
    ("emit_nowait", "none"),
    ("request", "returns=, timeout= and send="),
    ("open_channel", "timeout="),
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("options", "text"), REQUESTING)
async def test_requesting(options: dict[str, Any], text: str) -> None:
    ran: list[None] = []
    server = Server()
    server.on("work", lambda: ran.append(None))
    async with asyncio.timeout(8), connect(server) as client:
        callers: list[Any] = [client, client.of("chat"), server.peers[0]]
        for caller in callers:
            with pytest.raises((TypeError, ValueError)) as caught:
                await caller.request("work", **options)
            assert str(caught.value).startswith(text)
        await client.request("work")
    assert len(ran) == 1


@pytest.mark.usefixtures("nothing_left")
async def test_an_argument_with_a_name_is_refused_with_the_options_of_the_method() -> None:
    server = Server()

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.wait_closed()

    async with asyncio.timeout(8), connect(server) as client, await client.open_channel("talk") as channel:
        tables: list[tuple[Any, list[tuple[str, str]]]] = [(client, NO_KEYWORDS), (channel, NO_KEYWORDS_ON_A_CHANNEL)]
        for caller, table in tables:
            for method, options in table:
                with pytest.raises(TypeError) as caught:
                    await getattr(caller, method)("work", name=5)
                assert str(caught.value).endswith(f"options of {method}() itself ({options})")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("method", ["emit", "emit_nowait", "request", "open_channel", "stream"])
async def test_the_name_of_what_is_sent(method: str) -> None:
    async with asyncio.timeout(8), connect(Server()) as client:

        async def call() -> None:
            result: Any = getattr(client, method)(5)
            await (anext(result) if method == "stream" else result)

        with pytest.raises(TypeError, match=r"^an event's name is a string, got 5$"):
            await call()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("x",), "a close code is a number such as 1000, or None for no code; got 'x'"),
        ((1000, 5), "a close reason is text, got 5"),
    ],
)
async def test_closing(arguments: tuple[Any, ...], text: str) -> None:
    server = Server()
    async with asyncio.timeout(8), connect(server) as client:
        for one in (client, client.peer, server.peers[0]):
            with pytest.raises(TypeError) as caught:
                await one.close(*arguments)
            assert str(caught.value) == text
        assert client.connected


@pytest.mark.parametrize("drain", ["5", True, -1])
async def test_draining(drain: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        await Server().close(drain)
    assert str(caught.value) == f"drain= is a number of seconds, 0 or more; got {drain!r}"
    with pytest.raises((TypeError, ValueError)) as caught:
        Server().run(drain=drain)
    assert str(caught.value) == f"drain= is a number of seconds, 0 or more; got {drain!r}"


@pytest.mark.parametrize("detached", ["5", True, None, 0, float("nan")])
def test_the_time_that_sessions_are_kept(detached: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Server(detached=detached)
    assert str(caught.value) == f"detached= is a number of seconds, 0.001 or more; got {detached!r}"


@pytest.mark.usefixtures("nothing_left")
async def test_middleware_that_is_a_plain_function(caplog: pytest.LogCaptureFixture) -> None:
    server = Server()

    def forgot(ctx: wsrpc.Context, call_next: Any) -> str:
        return "x"

    server.use(forgot)  # type: ignore[type-var]
    server.on("work", lambda: None)
    async with asyncio.timeout(8), connect(server) as client:
        with pytest.raises(wsrpc.HandlerFailed):
            await client.request("work")
    assert re.search(r"middleware is an `async def`, but \S+forgot is not and returned 'x'", caplog.text)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda client, server: client.request("x"), "request"),
        (lambda client, server: client.of("chat").request("x"), "request"),
        (lambda client, server: client.request("x", send=[1]), "request"),
        (lambda client, server: client.request("x", retry=Retry()), "request"),
        (lambda client, server: client.emit("x"), "emit"),
        (lambda client, server: server.peers[0].emit("x"), "emit"),
        (lambda client, server: server.emit("x"), "Broadcaster.emit"),
        (lambda client, server: client.open_channel("x"), "Caller.open_channel"),
        (lambda client, server: client.close(), "Client.close"),
    ],
)
async def test_a_call_that_is_not_awaited_is_named(call: Callable[..., Any], name: str) -> None:
    server = Server()
    async with asyncio.timeout(8), connect(server) as client:
        with pytest.warns(RuntimeWarning, match=rf"^coroutine '{name}' was never awaited"):
            call(client, server)  # thrown away at once, which is when Python warns
        assert client.connected and client.peer.pending == 0


# ---------------------------------------------------------------- what is none


@pytest.mark.usefixtures("nothing_left")
async def test_what_only_looks_like_a_mistake() -> None:
    """Callables of all kinds are middleware, and a stream may still be sent or returned."""
    server = Server()
    seen: list[str] = []

    class Noting:
        async def __call__(self, ctx: wsrpc.Context, call_next: Any) -> Any:
            seen.append(ctx.event)
            return await call_next(ctx)

    server.use(Noting())
    server.use(lambda ctx, call_next: call_next(ctx))

    @server.on("count")
    async def count() -> AsyncIterator[int]:
        yield 1
        yield 2

    @server.on("sum")
    async def total(numbers: AsyncIterator[int]) -> int:
        return sum([number async for number in numbers])

    @server.on("relay")
    async def relay(peer: Peer) -> Any:
        return peer.stream("count")

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.wait_closed()

    async with asyncio.timeout(8), connect(server) as client:
        client.on("count", count)
        assert await client.request("sum", send=client.stream("count")) == 3
        async with client.stream("relay") as numbers:
            assert [number async for number in numbers] == [1, 2]
    assert seen == ["sum", "count", "relay"] or seen == ["count", "sum", "relay"]
