"""Secrets that a client dials with are in no line of the log and in no exception's text, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import ssl
import traceback
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from dialings import DIALINGS, Dialing
from raw_websocket import RawServer, accept_response, raw_server
from served import LIMITS
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Reconnect

SECRET = "s3cr3t-of-mine"
BASIC = b64encode(f"user:{SECRET}".encode()).decode()
SECRETS = (SECRET, BASIC)
LAST = Reconnect(initial=0.001, max=0.001, stop=stop_after_attempt(2))

dialings = pytest.mark.parametrize("dialing", DIALINGS, ids=repr)


class Capture(logging.Handler):
    """Each record, as a handler that writes everything would write it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text += f"{self.format(record)} {record.msg!r} {record.args!r}\n"


@pytest.fixture
def log() -> Iterator[Capture]:
    """Of ``wsrpc`` at DEBUG; loggers of libraries below it keep their level."""
    capture = Capture()
    logger = logging.getLogger("wsrpc")
    before = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(capture)
    yield capture
    logger.removeHandler(capture)
    logger.setLevel(before)


def all_text_of(error: BaseException) -> str:
    """Of an exception, its traceback, and those that it comes from."""
    texts = traceback.format_exception(error)
    waiting: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while waiting:
        found = waiting.pop()
        if found is None or found in seen:
            continue
        seen.append(found)
        texts += [str(found), repr(found), repr(found.args)]
        waiting += [found.__cause__, None if found.__suppress_context__ else found.__context__]
        waiting.append(getattr(found, "last_error", None))
    return "\n".join(texts)


def secretive(url: str, dialing: Dialing, **options: Any) -> Client:
    url = url.replace("://", f"://user:{SECRET}@") + f"a?{SECRET}&access_token={SECRET}"
    given: dict[str, Any] = {
        "headers": {"X-Api-Key": SECRET, "Cookie": f"session={SECRET}"},
        "subprotocols": [f"bearer.{SECRET}", "json"],
        "limits": LIMITS.replace(open_timeout=0.3),
        "reconnect": LAST,
        **options,
    }
    return Client(url, dial=dialing.dial, **given)


Answer = Callable[[RawServer], Awaitable[object]]


def saying(answer: str) -> Answer:
    """``answer`` is what the server sends, each character one byte."""

    async def say(server: RawServer) -> None:
        sock = await server.accept_tcp()
        loop = asyncio.get_running_loop()
        head = await loop.sock_recv(sock, 1 << 16)
        said = answer.replace("ECHO", f"bearer.{SECRET}, json").replace("TOKEN", f"bearer.{SECRET}x")
        if said.startswith("101"):
            said = accept_response(head, "MORE").decode().replace("MORE", said[4:])
        await loop.sock_sendall(sock, said.encode("latin-1"))
        sock.close()

    return say


ANSWERS: dict[str, Callable[[RawServer], Awaitable[object]]] = {
    "closes": saying(""),
    "garbage": saying("SSH-2.0-OpenSSH_9.6\r\n"),
    "half an answer": saying("HTTP/1.1 101 Swi"),
    "refuses": saying("HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno"),
    "is busy": saying("HTTP/1.1 503 Later\r\nContent-Length: 2\r\n\r\nno"),
    "redirects": saying("HTTP/1.1 302 Found\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n"),
    "redirects to itself": saying("HTTP/1.1 302 Found\r\nLocation: \r\nContent-Length: 0\r\n\r\n"),
    "no accept key": saying("HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"),
    "wrong accept key": saying(
        "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n"
    ),
    "all subprotocols": saying("101 Sec-WebSocket-Protocol: ECHO"),
    "another subprotocol": saying("101 Sec-WebSocket-Protocol: TOKEN"),
    "bytes behind a subprotocol": saying("101 Sec-WebSocket-Protocol: TOKEN\xff"),
    "says nothing": lambda server: server.accept_tcp(),
}


async def attempts_fail(client: Client, log: Capture) -> None:
    try:
        with pytest.raises((ConnectionError, ValueError, ssl.SSLError, TypeError)) as caught:
            await client.connect()
        text = all_text_of(caught.value) + repr(client) + log.text
        assert [secret for secret in SECRETS if secret in text] == [], text
    finally:
        await client.close()


@dialings
@pytest.mark.parametrize("answer", ANSWERS)
async def test_a_server_that_refuses_or_is_broken(dialing: Dialing, answer: str, log: Capture) -> None:
    async with raw_server() as server:

        async def answer_all() -> None:
            while True:
                with suppress(OSError):
                    await ANSWERS[answer](server)

        limits = LIMITS.replace(open_timeout=0.05 if answer == "says nothing" else 8.0)
        for auth in (None, SECRET):
            answering = asyncio.create_task(answer_all())
            await attempts_fail(secretive(server.url, dialing, auth=auth, limits=limits), log)
            answering.cancel()
            await asyncio.wait([answering])


RAW = "\x9b31mred\xff" * 100
"""What a terminal takes for a command, if it is written as it is."""

UPGRADE = "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade"
RUDE = {
    "status line": f"{RAW}\r\n",
    "status": f"HTTP/1.1 {RAW}\r\n\r\n",
    "reason": f"HTTP/1.1 400 {RAW}\r\nContent-Length: 0\r\n\r\n",
    "body": f"HTTP/1.1 400 No\r\nContent-Length: {len(RAW)}\r\n\r\n{RAW}",
    "a header": f"HTTP/1.1 400 No\r\nX-Y: {RAW}\x1b\r\nContent-Length: 0\r\n\r\n",
    "upgrade": f"{UPGRADE}: {RAW}\r\n\r\n",
    "accept key": f"{UPGRADE}: websocket\r\nSec-WebSocket-Accept: {RAW}\r\n\r\n",
    "extension": f"101 Sec-WebSocket-Extensions: {RAW}",
    "parameter": f"101 Sec-WebSocket-Extensions: permessage-deflate; a{'b' * 2000}",
    "subprotocol": f"101 Sec-WebSocket-Protocol: {RAW}",
}


@dialings
@pytest.mark.parametrize("through", ["server", "proxy"])
@pytest.mark.parametrize("answer", RUDE)
async def test_errors_show_what_a_server_said_in_one_short_line(dialing: Dialing, answer: str, through: str) -> None:
    said = RUDE[answer]
    async with raw_server() as server:

        async def answer_all() -> None:
            while True:
                with suppress(OSError):
                    await saying(said)(server)

        answering = asyncio.create_task(answer_all())
        client = secretive(server.url, dialing)
        if through == "proxy":
            client = secretive("wss://192.0.2.1/", dialing, proxy=f"http://127.0.0.1:{server.port}")
        try:
            with pytest.raises(ConnectionError) as caught:
                await client.connect()
        finally:
            await client.close()
            answering.cancel()
            await asyncio.wait([answering])
    error: BaseException | None = caught.value
    while error is not None:
        text = str(error)
        assert text.isprintable() and len(text) <= 1100, repr(text)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@dialings
async def test_nobody_there(dialing: Dialing, log: Capture) -> None:
    await attempts_fail(secretive("ws://127.0.0.1:1/", dialing), log)


@dialings
async def test_tls_with_what_speaks_none(dialing: Dialing, log: Capture) -> None:
    async with raw_server() as server:

        async def answer_all() -> None:
            while True:
                (await server.accept_tcp()).send(b"HTTP/1.1 400 Bad\r\n\r\n")

        answering = asyncio.create_task(answer_all())
        await attempts_fail(secretive(server.url.replace("ws://", "wss://"), dialing), log)
        answering.cancel()
        await asyncio.wait([answering])


@dialings
@pytest.mark.parametrize("scheme", ["http", "socks5"])
@pytest.mark.parametrize("answer", ["garbage", "HTTP/1.1 407 Who?\r\nContent-Length: 0\r\n\r\n", None])
async def test_a_proxy_that_refuses_or_is_broken(
    dialing: Dialing, scheme: str, answer: str | None, log: Capture
) -> None:
    async with raw_server() as server:

        async def answer_all() -> None:
            while answer is not None:
                with suppress(OSError):
                    await (ANSWERS.get(answer) or saying(answer))(server)

        port = 1 if answer is None else server.port
        answering = asyncio.create_task(answer_all())
        proxy = f"{scheme}://user:{SECRET}@127.0.0.1:{port}"
        await attempts_fail(secretive("ws://192.0.2.1/", dialing, proxy=proxy), log)
        await attempts_fail(secretive("wss://192.0.2.1/", dialing, proxy=proxy), log)
        answering.cancel()
        await asyncio.wait([answering])


@dialings
@pytest.mark.parametrize(
    "options",
    [
        {"url": f"ws://user:{SECRET}/@x/"},
        {"url": f"ws://x:{SECRET}/"},
        {"url": f"ws://x/?{SECRET} "},
        {"url": f"ws://x/?{SECRET}#{SECRET}"},
        {"url": f"http://user:{SECRET}@x/?{SECRET}"},
        {"url": f"user:{SECRET}@x"},
        {"url": f"wss://[{SECRET}]/?{SECRET}"},
        {"url": b"ws://" + SECRET.encode()},
        {"url": lambda: b"ws://" + SECRET.encode()},
        {"url": lambda: f"ws:///?{SECRET}"},
        {"proxy": f"ftp://user:{SECRET}@127.0.0.1:1"},
        {"proxy": f"http://user:{SECRET}@127.0.0.1:{SECRET}"},
        {"proxy": f"user:{SECRET}@127.0.0.1"},
        {"subprotocols": [f"bearer.{SECRET}=="]},
        {"subprotocols": [f"bearer.{SECRET}\r\nX-Evil: 1"]},
        {"subprotocols": f"bearer.{SECRET}"},
        {"subprotocols": [SECRET.encode()]},
        {"headers": {"X-Token": f"{SECRET}\n"}},
        {"headers": lambda: [("X-Token", SECRET)]},
        {"auth": f"{SECRET}\r\n"},
        {"auth": lambda: [SECRET]},
    ],
    ids=lambda options: next(iter(options)),
)
async def test_options_that_are_not_valid(dialing: Dialing, options: dict[str, Any], log: Capture) -> None:
    try:
        client = Client(**{"url": "ws://127.0.0.1:1/", **options}, dial=dialing.dial, reconnect=LAST)
    except (TypeError, ValueError) as exc:
        client, text = None, all_text_of(exc)
        assert SECRET not in text
    if client is not None:
        await attempts_fail(client, log)
    given = {"url": "ws://127.0.0.1:1/", "limits": LIMITS, **options}
    if "auth" not in options and not any(map(callable, options.values())):
        with pytest.raises((TypeError, ValueError)) as caught:
            await dialing.dial(**given)
        assert SECRET not in all_text_of(caught.value)


def test_the_text_of_the_last_error_is_there() -> None:
    assert "why" in str(ConnectFailed(2, OSError("why")))
