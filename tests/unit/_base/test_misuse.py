"""Plausible mistakes in calls of public functions: each gives one sentence with what is expected and what came."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left

import wsrpc
from wsrpc import AnonymousChannel, Client, KeepLatest, Limits, Peer, Reconnect, Retry, Router, RpcError, Server
from wsrpc.testing import connect

URL = "ws://localhost"


async def handler(x: int) -> int:
    return x


def registrars() -> dict[str, Any]:
    """What handlers can be registered on."""
    return {"server": Server(), "peer": Client(URL).peer, "router's channel": Router().of("chat")}


# ---------------------------------------------------------------- registering

FIRST = 'the event\'s name comes first: @server.{method}("add"), not @server.{method}; got '

REGISTERING: dict[str, tuple[Callable[[Any], object], str]] = {
    "on()": (lambda on: on.on(), FIRST.format(method="on") + "no name"),
    "on without parentheses": (lambda on: on.on(handler), FIRST.format(method="on") + "<function handler at …>"),
    "a number as name": (lambda on: on.on(5), "an event's name is a string, got 5"),
    "a number as handler": (lambda on: on.on("x", 5), "a handler is a function, got 5"),
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


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((Server, name) for name in ("use", "on_raw", "on_handshake", "serve_raw", "on_join")),
        (Client, "on_reconnect"),
    ],
)
def test_decorators_without_options_with_parentheses(kind: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name}\(\) got no function: write @\w+\.{name} without parentheses, or"):
        getattr(kind(), name)()


# ---------------------------------------------------------------- making and configuring

FUNCTION = "{name}= is a function, or None; got 5"
FLAG = "{name}= is True or False, got 'x'"
SLOW = 'slow= is "close", "drop_newest", "drop_oldest" or wsrpc.KeepLatest(); got \'drop\''
SECONDS = "{name}= is a number of seconds, more than 0, or None for no limit; got "

LATEST = "KeepLatest(key) takes a plain function of the event's arguments, got "
BOTH: list[tuple[str, Any, str]] = [
    ("limits", 5, "limits= takes a wsrpc.Limits, got 5"),
    ("codec", 5, "codec= takes a codec such as wsrpc.codecs.JsonCodec(), got 5"),
    ("dec_hook", 5, FUNCTION.format(name="dec_hook")),
    ("enc_hook", 5, FUNCTION.format(name="enc_hook")),
    ("lax", "x", FLAG.format(name="lax")),
    ("compression", "x", FLAG.format(name="compression")),
    ("extensions", "x", FLAG.format(name="extensions")),
    ("expose_errors", "x", "expose_errors= is True, False or a function of the exception, got 'x'"),
    ("log_payloads", 5, "log_payloads= is True, False or a plain function(direction, event, args), got 5"),
]
MAKING: list[tuple[Any, dict[str, Any], str]] = [
    *((Server, {name: wrong}, text) for name, wrong, text in BOTH),
    (Client, {"url": URL, "limits": 5}, "limits= takes a wsrpc.Limits, got 5"),
    (Server, {"trusted_proxies": 5}, "trusted_proxies= takes a list of addresses and networks, got 5"),
    (Server, {"handler_context": 5}, "handler_context= is a function of the context, got 5"),
    (Server, {"slow": "drop"}, SLOW),
    (Server().room, {"name": "x", "slow": "drop"}, SLOW),
    (Server, {"origins": "https://a.b"}, "origins= takes a list of origins, got text: use origins=['https://a.b']"),
    *(
        (Server, {"detached": wrong}, f"detached= is a number of seconds, 0.001 or more; got {wrong!r}")
        for wrong in ("5", True, 0, float("nan"))
    ),
    *(
        (Client, {"url": URL, "connect_timeout": wrong}, SECONDS.format(name="connect_timeout") + repr(wrong))
        for wrong in ("1", True, 0, float("nan"))
    ),
    (Client, {"url": 5}, "a url is text, or a function that returns it, got int"),
    (Client, {"url": "localhost"}, "a URL begins with ws:// or wss:// and names a host, got 'localhost'"),
    (Client, {"dial": 5}, "dial= is an async function that opens a connection, such as wsrpc.dial; got 5"),
    (Client, {"reconnect": False}, "reconnect= takes a wsrpc.Reconnect or None, got False"),
    (
        Client,
        {"url": URL, "ssl": ssl.create_default_context()},
        "ssl= goes with a wss:// URL, got 'ws://localhost'",
    ),
    (Server().listen, {"sock": 5}, "sock= is a socket.socket that is bound, got 5"),
    (Server().include, {"router": 5}, "include() takes a wsrpc.Router, got 5"),
    (Server().of, {"name": 5}, "a channel's name is a non-empty string, got 5"),
    (KeepLatest, {"key": "x"}, LATEST + "'x'"),
    (
        KeepLatest,
        {"key": handler},
        "KeepLatest(key) takes a plain function of the event's arguments, got <function handler at …>",
    ),
    (Limits, {"depth": "5"}, "Limits.depth is a whole number, got '5'"),
    (Retry, {"attempts": 1.5}, "Retry(attempts=) is a whole number, got 1.5"),
    (Retry, {"attempts": True}, "Retry(attempts=) counts the first one, too: 1 or more; got True"),
    (Reconnect, {"max": True}, "Reconnect(max=) is a number of seconds, 0 or more; got True"),
    (RpcError, {"message": "no", "fields": 5}, "fields= takes a mapping of names to values, got 5"),
]


@pytest.mark.parametrize(("make", "options", "text"), MAKING)
def test_making(make: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make(**options)
    assert shown(str(caught.value)) == text


PORT = "port= is a number from 0 (a free one) to 65535, got "


@pytest.mark.parametrize(
    ("name", "wrong", "text"),
    [
        ("host", 5, "host= is a name or an address such as '127.0.0.1', or None for all; got 5"),
        ("port", "8080", PORT + "'8080'"),
        ("port", -1, PORT + "-1"),
        ("port", 65536, PORT + "65536"),
        ("path", "ws", "a path begins with a slash, got 'ws'"),
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
def test_listening(name: str, wrong: Any, text: str) -> None:
    for method in (Server().listen, Server().run):
        with pytest.raises((TypeError, ValueError)) as caught:
            method(**{name: wrong})
        assert str(caught.value) == text


# ---------------------------------------------------------------- statements


async def with_(thing: Any) -> None:
    with thing:
        pass


async def async_with(thing: Any) -> None:
    async with thing:
        pass


async def for_(thing: Any) -> None:
    for _ in thing:
        pass


async def url_of(listening: Any) -> object:
    return listening.url


LISTEN = "use `async with server.listen"


@pytest.mark.parametrize(
    ("statement", "thing", "text"),
    [
        (async_with, lambda: Server(), f"a Server is not a context manager: {LISTEN}"),
        (with_, lambda: Server(), f"a Server is not a context manager: {LISTEN}"),
        (with_, lambda: Server().listen(), f"listen() opens a block: {LISTEN}"),
        (asyncio.gather, lambda: Server().listen(), f"listen() opens a block: {LISTEN}"),
        (url_of, lambda: Server().listen(), f"not listening: {LISTEN}"),
        (with_, lambda: Client(URL), "a client dials and closes asynchronously: use `async with client:`"),
        (for_, lambda: Client(URL).stream("x"), "the items of a stream arrive over time: use `async for`"),
        (with_, lambda: Client(URL).stream("x"), "a stream is opened and closed asynchronously: use `async with`"),
        (asyncio.gather, lambda: Client().connect(), "this client has no url to dial: give Client(url), or bind"),
    ],
)
async def test_statements(statement: Callable[[Any], Any], thing: Callable[[], Any], text: str) -> None:
    with pytest.raises((TypeError, RuntimeError, ValueError)) as caught:
        await statement(thing())
    assert str(caught.value).startswith(text)


async def test_a_program_inside_of_an_event_loop() -> None:
    with pytest.raises(RuntimeError, match=r"^run\(\) starts an event loop of its own: inside one, use `async with"):
        Server().run()


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
    ({"timeout": -1}, TIMEOUT + "-1"),
    ({"timeout": float("nan")}, TIMEOUT + "nan"),
    ({"returns": 5}, RETURNS + "5: "),
    ({"returns": Peer}, ""),
    ({"returns": "int"}, RETURNS + "'int': "),
    ({"send": "text"}, SEND + "str"),
    ({"retry": 3}, "retry= takes a wsrpc.Retry, got 3"),
    ({"idempotent": True}, "idempotent= says what retry= may ask again: give retry=wsrpc.Retry(), too"),
    ({"offline": "x"}, 'offline= is "queue" (wait for the next connection) or "fail" (refuse), got \'x\''),
    ({"name": 5}, "request('work') got name as keyword argument: arguments travel by position, without names, and "),
]

NO_KEYWORDS = [
    ("client", "emit", "offline="),
    ("client", "request", "returns=, timeout=, send=, retry=, idempotent= and offline="),
    ("client", "stream", "returns=, timeout=, send= and offline="),
    ("channel", "emit_nowait", "none"),
    ("channel", "request", "returns=, timeout= and send="),
    ("channel", "open_channel", "timeout="),
]


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("options", "text"), REQUESTING)
async def test_requesting(options: dict[str, Any], text: str) -> None:
    ran: list[None] = []
    server = Server()
    server.on("work", lambda: ran.append(None))
    async with asyncio.timeout(8), connect(server) as client:
        callers: list[Any] = [client, client.of("chat"), server.peers[0], Client(URL)]
        for caller in callers:
            with pytest.raises((TypeError, ValueError)) as caught:
                await caller.request("work", **options)
            assert str(caught.value).startswith(text)
        assert client.peer.pending == 0
        await client.request("work")
    assert len(ran) == 1


@pytest.mark.usefixtures("nothing_left")
async def test_an_argument_with_a_name_is_refused_with_the_options_of_the_method() -> None:
    server = Server()

    @server.on("talk")
    async def talk(channel: AnonymousChannel) -> None:
        await channel.wait_closed()

    async with asyncio.timeout(8), connect(server) as client, await client.open_channel("talk") as channel:
        callers: dict[str, Any] = {"client": client, "channel": channel}
        for caller, method, options in NO_KEYWORDS:
            with pytest.raises(TypeError) as caught:
                await getattr(callers[caller], method)("work", name=5)
            assert str(caught.value).endswith(f"options of {method}() itself ({options})")
        everybody: list[Any] = [server, server.of("room"), server.room("lobby")]
        for each in everybody:
            with pytest.raises(TypeError, match=r"text.*'hi'|'hi'.*text"):
                await each.emit("hi", text="hello")


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("call", "text"),
    [
        *(
            (lambda one, method=method: getattr(one, method)(5), "an event's name is a string, got 5")
            for method in ("emit", "request", "open_channel")
        ),
        (lambda one: one.close("x"), "a close code is a number such as 1000, or None for no code; got 'x'"),
        (lambda one: one.close(1000, 5), "a close reason is text, got 5"),
    ],
)
async def test_calling(call: Callable[[Any], Any], text: str) -> None:
    server = Server()
    async with asyncio.timeout(8), connect(server) as client:
        for one in (client, server.peers[0]):
            with pytest.raises(TypeError) as caught:
                await call(one)
            assert str(caught.value) == text
        for drain in ("5", True, -1):
            wrong: Any = drain
            for closing in (server.close(wrong), asyncio.to_thread(server.run, drain=wrong)):
                with pytest.raises((TypeError, ValueError), match=r"^drain= is a number of seconds, 0 or more; got "):
                    await closing
        assert client.connected


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda client, server: client.request("x"), "request"),
        (lambda client, server: client.emit("x"), "emit"),
        (lambda client, server: server.emit("x"), "Broadcaster.emit"),
        (lambda client, server: client.close(), "Client.close"),
    ],
)
async def test_a_call_that_is_not_awaited_is_named(call: Callable[..., Any], name: str) -> None:
    server = Server()
    async with asyncio.timeout(8), connect(server) as client:
        with pytest.warns(RuntimeWarning, match=rf"^coroutine '{name}' was never awaited"):
            call(client, server)  # thrown away at once, which is when Python warns
        assert client.connected and client.peer.pending == 0


async def test_a_tls_context_with_ws_is_not_tried_again() -> None:
    asked: list[str] = []
    client = Client(lambda: asked.append(URL) or URL, ssl=ssl.create_default_context())
    async with asyncio.timeout(8):
        with pytest.raises(ValueError, match="wss://"):
            await client.connect()
    assert len(asked) == 1
    await client.close()


# ---------------------------------------------------------------- lifecycle handlers


@pytest.mark.parametrize("options", [{"thread": True}, {"ordered": True}, {"lax": True}, {"lax": False}])
def test_options_that_do_not_apply_to_lifecycle_events(options: dict[str, Any]) -> None:
    for target in (Server(), Client(), Router()):
        with pytest.raises(TypeError, match="'open' reports on the connection"):
            target.on("open", lambda: None, **options)
    # On a channel that is an ordinary name.
    Server().of("room").on("open", lambda: None, thread=True)


async def test_a_second_lifecycle_handler_from_elsewhere_warns(caplog: pytest.LogCaptureFixture) -> None:
    def one() -> None:
        pass

    def two() -> None:
        pass

    server = Server()
    server.on("open", one)
    server.on("open", one)
    assert messages(caplog) == []
    server.on("open", two)
    [text] = messages(caplog)
    lines = [function.__code__.co_firstlineno for function in (one, two)]
    assert "'open'" in text
    assert text.index(f"{__file__}:{lines[0]}") < text.index(f"{__file__}:{lines[1]}")
    assert caplog.records[0].levelno == logging.WARNING
    caplog.clear()
    server.on("open", None)
    server.on("open", one)
    server.once("open", two)  # for the next one only: it replaces nothing
    assert messages(caplog) == []
