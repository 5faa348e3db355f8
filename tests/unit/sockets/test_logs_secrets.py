"""What never stands in the log: payloads, tokens, the queries and passwords of URLs; and who is named in each line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from waiting import until
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed

from wsrpc import Client, Context, Handshake, Limits, Peer, Reconnect, Server
from wsrpc._base.logs import for_log
from wsrpc._net.dialing.urls import shown_url
from wsrpc.errors import HandshakeRejected, RequestTimeout, WsrpcError
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

SECRET = "s3cr3t-of-mine"
LIMITS = Limits(close_timeout=2.0, message_bytes=4096)
AT_ONCE = Reconnect(initial=0.001, max=0.001)
WITHOUT_PEER = (
    "refused the origin",
    "refused a connection because",
    "on_handshake refused",
    "draining",
    "opening handshake failed",
)
"""Lines about what has no peer, or not one."""


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "wsrpc")


def check(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that is secret was written, not even in a record's attributes, and each line says which peer's it is."""
    assert SECRET not in caplog.text
    for record in caplog.records:
        text = record.getMessage()
        assert SECRET not in str(dict(vars(record), exc_info=None))
        if record.name == "wsrpc" and not text.startswith(WITHOUT_PEER):
            assert len(record.peer) == 16 and hasattr(record, "remote"), text  # type: ignore[attr-defined]
        assert text.isprintable()


def saw(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return any(text in record.getMessage() for record in caplog.records)


@asynccontextmanager
async def both(server: Server, **options: Any) -> AsyncGenerator[tuple[Client, Peer]]:
    """Client and peer, connected with secrets in each place that may have some."""
    async with server.listen(path="/ws") as listener:
        url = listener.url.replace("://", f"://user:{SECRET}@") + f"?access_token={SECRET}&room=a"
        options = {"headers": {"Cookie": f"session={SECRET}"}, "auth": SECRET, "reconnect": AT_ONCE, **options}
        async with Client(url, limits=LIMITS, subprotocols=[f"bearer.{SECRET}"], **options) as client:
            await until(lambda: server.peers)
            yield client, server.peers[0]


class Checked(msgspec.Struct):
    text: str

    def __post_init__(self) -> None:
        raise ValueError(f"Expected another text than {self.text}")


def checked(value: Checked) -> None: ...


async def test_what_is_said_between_two_peers(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)

    @server.on("fail")
    def fail(value: str) -> None:
        raise LookupError("a text of the handler's own")

    @server.on("ask back")
    async def ask_back(ctx: Context, value: str) -> object:
        return await ctx.peer.request("nobody handles this", value, timeout=1)

    server.on("echo", lambda value: value)
    server.on("cannot be sent", lambda value: {value: object()})

    def typed(size: Literal["s", "m"] = "s", count: int = 0) -> None: ...

    server.on("typed", typed)
    server.on("checked", checked)
    async with both(server) as (client, peer):
        client.on("stuck", lambda value: asyncio.Event().wait())
        calls: list[tuple[Any, ...]] = [
            (event, SECRET) for event in ("fail", "ask back", "cannot be sent", "nobody handles this", "typed")
        ]
        for event, *args in (*calls, ("typed", "s", SECRET), ("checked", {"text": SECRET}), ("echo", SECRET, SECRET)):
            await client.emit(event, *args)
            with pytest.raises(WsrpcError):
                await client.request(event, *args)
        with pytest.raises(RequestTimeout):
            await peer.request("stuck", SECRET, timeout=0.001)
        await client.of("no such\r\nchannel").emit("x", SECRET)
        assert await client.request("echo", SECRET) == SECRET
        at = peer.info.headers["host"]
    check(caplog)
    assert {vars(record)["url"] for record in caplog.records} == {None, f"ws://…@{at}/ws…"}
    assert saw(caplog, "event 'typed' was dropped: typed(): argument 'size' (1st) does not fit")
    assert saw(caplog, "handling fail failed")


async def test_what_is_no_message(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)
    server.on("echo", lambda value: value)
    async with server.listen() as listener:
        for payloads in (
            [f'{{"i": 1, "a": ["echo", "{SECRET}"'] * 12,
            [f'["{SECRET}"]', SECRET, f'{{"a": "{SECRET}"}}', *[f'{{"i": "{SECRET}", "a": ["echo"]}}'] * 9],
            [f'{{"a": ["echo", "{SECRET * 1000}"]}}'],
            ['{"a": ["' + SECRET + '", ' + "[" * 600 + "]" * 600 + "]}"] * 9,
        ):
            async with open_websocket(f"{listener.url}?token={SECRET}") as websocket:
                with suppress(ConnectionClosed):
                    for payload in payloads:
                        await websocket.send(payload)
        await until(lambda: not server.peers)
    check(caplog)
    assert saw(caplog, "closing the connection with 1007")


async def test_handshakes_that_fail(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)

    @server.on_handshake
    def gate(handshake: Handshake) -> None:
        if handshake.path == "/bug":
            raise LookupError("a text of the function's own")
        handshake.reject(401, "who are you?")

    async with server.listen() as listener:
        for path, headers in (("", {}), ("bug", {}), ("", {"Origin": "https://elsewhere.example"})):
            url = f"{listener.url}{path}?token={SECRET}"
            client = Client(url, headers={**headers, "Cookie": SECRET}, reconnect=None)
            with pytest.raises((HandshakeRejected, ConnectionError)):
                await client.connect()
            await client.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(f"POST /?token={SECRET} HTTP/1.1\r\nX-{SECRET}\r\n\r\n".encode())
        await reader.read()
        writer.close()
    check(caplog)
    assert saw(caplog, "refused the origin") and saw(caplog, "on_handshake failed, for")
    refusals = [record for record in caplog.records if record.getMessage().startswith(("refused", "a connection is"))]
    assert all(vars(record)["remote"].startswith("127.0.0.1:") for record in refusals)


async def test_a_refusal_that_repeats_the_url(caplog: pytest.LogCaptureFixture) -> None:
    """At first, and on the way back. tests/adapters/test_dial_secrets.py has other attempts that fail."""

    async def dial(url: str, **options: Any) -> Any:
        raise HandshakeRejected(503, f"Cannot GET /{url.partition('//')[2].partition('/')[2]}")

    url = f"ws://user:{SECRET}@127.0.0.1:1/ws?token={SECRET}"
    client = Client(url, dial=dial, limits=LIMITS, reconnect=AT_ONCE, connect_timeout=0.1)
    client.emit_nowait("first", SECRET)
    with pytest.raises(WsrpcError):
        await client.connect()
    transport = ScriptedTransport()
    await client.bind(transport)
    transport.lose()
    await until(lambda: len(caplog.records) > 5)
    await client.close()
    check(caplog)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (5, 5),
        ("a\nb\u2028c\x00", r"a\nb\u2028c\x00"),
        ("wss://user:pa@ss@host/path?a=b&c=d (why?)", "wss://…@host/path?… (why?)"),
        ("'wss://u:secret@h/p?secret', then what?", "'wss://…@h/p?… then what?"),
        ("://" * 100, "://" * 100),
        (ValueError("http://u:p@proxy isn't valid"), "http://…@proxy isn't valid"),
    ],
)
def test_a_line_is_one_line_without_what_opens_doors(value: object, line: object) -> None:
    assert for_log(value) == line


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("ws://u:p@h:1/ws", "ws://…@h:1/ws"),
        ("wss://u@[::1]:1/ws?token=t#f", "wss://…@[::1]:1/ws…"),
        *((f"ws://u:{password}@h/ws", "ws://…") for password in ("p@w", "p/w", "p?w", "p#w", "1/w")),
        ("ws://u:p@h/ws?mail=a@b", "ws://…"),
        ("ws://h/p@w", "ws://…"),
        ("u:p@h", "…"),
    ],
)
def test_a_url_is_shown_if_its_user_is_certain(url: str, shown: str) -> None:
    assert shown_url(url) == repr(shown)
