"""Plausible mistakes in calls of public functions: each gives one sentence with what is expected and what came."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any, Never

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left

import wsrpc
from wsrpc import AnonymousChannel, Client, KeepLatest, Limits, Peer, Reconnect, Retry, Router, RpcError, Server
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


# ---------------------------------------------------------------- making and configuring

FUNCTION = "{name}= is a function, or None; got 5"
FLAG = "{name}= is True or False, got 'x'"
SLOW = 'slow= is "close", "drop_newest", "drop_oldest" or wsrpc.KeepLatest(); got \'drop\''
SECONDS = "{name}= is a number of seconds, more than 0, or None for no limit; got "

LATEST = "KeepLatest(key) takes a plain function of the event's arguments, got "
BOTH: list[tuple[str, Any, str]] = [
    ("limits", 5, "limits= takes a wsrpc.Limits, got 5"),
    ("limits", {"running": 5}, "limits= takes a wsrpc.Limits, got {'running': 5}"),
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
    *((Client, {"url": URL, name: wrong}, text) for name, wrong, text in BOTH),
    (Server, {"trusted_proxies": 5}, "trusted_proxies= takes a list of addresses and networks, got 5"),
    (Server, {"handler_context": 5}, "handler_context= is a function of the context, got 5"),
    (Server, {"slow": "drop"}, SLOW),
    (Server().room, {"name": "x", "slow": "drop"}, SLOW),
    (Server, {"origins": "https://a.b"}, "origins= takes a list of origins, got text: use origins=['https://a.b']"),
    *(
        (Server, {"detached": wrong}, f"detached= is a number of seconds, 0.001 or more; got {wrong!r}")
        for wrong in ("5", True, None, 0, float("nan"))
    ),
    *(
        (Client, {"url": URL, "connect_timeout": wrong}, SECONDS.format(name="connect_timeout") + repr(wrong))
        for wrong in ("1", True, 0, -1, float("nan"))
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
    (Router, {"lax": "x"}, FLAG.format(name="lax")),
    (Server().listen, {"sock": 5}, "sock= is a socket.socket that is bound, got 5"),
    (wsrpc.method, {"ordered": "x"}, FLAG.format(name="ordered")),
    (MsgpackCodec, {"enc_hook": 5}, FUNCTION.format(name="enc_hook")),
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


@pytest.mark.parametrize("kind", [Server, Client, Router])
def test_parts(kind: Any) -> None:
    made: Any = kind()
    mistakes: list[tuple[Callable[[], Any], str]] = [
        (lambda: made.include(5), "include() takes a wsrpc.Router, got 5"),
        (lambda: made.include(Server()), "include() takes a wsrpc.Router, got <Server open, 0 peers>"),
        (lambda: made.of(5), "a channel's name is a non-empty string, got 5"),
        (lambda: made.of("chat", ordered=1), "ordered= is True or False, got 1"),
    ]
    for call, text in mistakes[2 if kind is Router else 0 :]:
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
        ("path", "ws", "a path begins with a slash, got 'ws'"),
        ("path", "", "a path begins with a slash, got ''"),
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
    ({"timeout": True}, TIMEOUT + "True"),
    ({"timeout": -1}, TIMEOUT + "-1"),
    ({"timeout": [1]}, TIMEOUT + "[1]"),
    ({"timeout": float("nan")}, TIMEOUT + "nan"),
    ({"returns": 5}, RETURNS + "5: "),
    ({"returns": Never}, ""),
    ({"returns": list[asyncio.Event]}, ""),
    ({"returns": Peer}, ""),
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
        client_offline = Client(URL)
        with pytest.raises((TypeError, ValueError)):
            await client_offline.request("work", **options)
        assert client_offline.peer.pending == client.peer.pending == 0
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
        everybody: list[Any] = [server, server.of("room"), server.room("lobby")]
        for caller in everybody:
            with pytest.raises(TypeError, match=r"text.*'hi'|'hi'.*text"):
                await caller.emit("hi", text="hello")


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
        for one in (client, client.peer, server.peers[0]):
            with pytest.raises(TypeError) as caught:
                await call(one)
            assert str(caught.value) == text
        with pytest.raises(TypeError, match=r"^an event's name is a string, got 5$"):
            client.emit_nowait(5)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^an event's name is a string, got 5$"):
            await anext(client.stream(5))  # type: ignore[arg-type]
        for drain in ("5", True, -1):
            wrong: Any = drain
            for closing in (server.close(wrong), asyncio.to_thread(server.run, drain=wrong)):
                with pytest.raises((TypeError, ValueError), match=r"^drain= is a number of seconds, 0 or more; got "):
                    await closing
        assert client.connected


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


async def test_a_tls_context_with_ws_is_not_tried_again() -> None:
    asked = 0

    def url() -> str:
        nonlocal asked
        asked += 1
        return "ws://127.0.0.1:1/"

    client = Client(url, ssl=ssl.create_default_context())
    async with asyncio.timeout(8):
        with pytest.raises(ValueError, match="wss://"):
            await client.connect()
    assert asked == 1
    await client.close()


# ---------------------------------------------------------------- lifecycle handlers


@pytest.mark.parametrize("event", ["open", "connect", "close", "disconnect", "error", "message"])
@pytest.mark.parametrize("options", [{"thread": True}, {"ordered": True}, {"lax": True}, {"lax": False}])
def test_options_that_do_not_apply_to_lifecycle_events(event: str, options: dict[str, Any]) -> None:
    for target in (Server(), Client(), Router()):
        with pytest.raises(TypeError, match=f"'{event}' reports on the connection"):
            target.on(event, lambda: None, **options)
    # On a channel that is an ordinary name.
    Server().of("room").on(event, lambda: None, thread=True)


@pytest.mark.parametrize("event", ["open", "close", "error", "message"])
async def test_a_second_lifecycle_handler_from_elsewhere_warns(event: str, caplog: pytest.LogCaptureFixture) -> None:
    def one() -> None:
        pass

    def two() -> None:
        pass

    server = Server()
    server.on(event, one)
    server.on(event, one)
    assert messages(caplog) == []
    server.on(event, two)
    [text] = messages(caplog)
    lines = [function.__code__.co_firstlineno for function in (one, two)]
    assert f"'{event}'" in text
    assert text.index(f"{__file__}:{lines[0]}") < text.index(f"{__file__}:{lines[1]}")
    assert caplog.records[0].levelno == logging.WARNING
    caplog.clear()
    server.on(event, None)
    server.on(event, one)
    server.once(event, two)  # for the next one only: it replaces nothing
    assert messages(caplog) == []


async def test_a_server_channel_tells_whether_it_is_closed_and_why() -> None:
    server = Server()
    room = server.of("room")
    assert (room.closed, room.close_reason) == (False, None)
    room.close("bored")
    room.close("again")
    assert (room.closed, room.close_reason) == (True, "bored")
    assert not server.of("room").closed
