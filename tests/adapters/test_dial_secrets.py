"""Secrets that a client dials with are in no line of the log and in no exception's text, whatever goes wrong."""

from __future__ import annotations

import asyncio
import logging
import ssl
import traceback
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import product
from typing import Any

import pytest
from raw_websocket import accept_response
from served import LIMITS
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Reconnect, dial

SECRET = "s3cr3t-of-mine"
BASIC = b64encode(f"user:{SECRET}".encode()).decode()
SECRETS = (SECRET, BASIC)
TRUSTING = ssl.create_default_context()
LAST = Reconnect(initial=0.001, max=0.001, stop=stop_after_attempt(2))


def errors_of(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, and those that it comes from."""
    while error is not None:
        yield error
        yield from errors_of(getattr(error, "last_error", None))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def all_text_of(error: BaseException) -> str:
    return "".join([*traceback.format_exception(error), *(f"{each} {each!r}" for each in errors_of(error))])


def secretive(url: str, **options: Any) -> Client:
    url = url.replace("://", f"://user:{SECRET}@") + f"a?{SECRET}&access_token={SECRET}"
    given: dict[str, Any] = {
        "headers": {"X-Api-Key": SECRET, "Cookie": f"session={SECRET}"},
        "subprotocols": [f"bearer.{SECRET}", "json"],
        "reconnect": LAST,
        "ssl": TRUSTING if url.startswith("wss:") else None,
    }
    return Client(url, dial=dial, **given, **options)


RAW = "\x9b31mred\xff" * 100
"""What a terminal takes for a command, if it is written as it is."""

UPGRADE = "HTTP/1.1 101 Yes\r\nConnection: Upgrade\r\nUpgrade"
NOBODY, NOTHING = "nobody is there", "says nothing"
ANSWERS = {
    NOBODY: "",
    NOTHING: "",
    "closes": "",
    "refuses": "HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\nno",
    "asks who it is": "HTTP/1.1 407 Who?\r\nContent-Length: 0\r\n\r\n",
    "wrong accept key": f"{UPGRADE}: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
    "all subprotocols": f"101 Sec-WebSocket-Protocol: bearer.{SECRET}, json",
    "bytes behind a subprotocol": f"101 Sec-WebSocket-Protocol: bearer.{SECRET}x\xff",
    "rude status line": f"{RAW}\r\n",
    "rude body": f"HTTP/1.1 400 No\r\nContent-Length: {len(RAW)}\r\n\r\n{RAW}",
    "rude accept key": f"{UPGRADE}: websocket\r\nSec-WebSocket-Accept: {RAW}\r\n\r\n",
    "rude subprotocol": f"101 Sec-WebSocket-Protocol: {RAW}",
}
"""What a server or a proxy sends, each character one byte; 101 and a header are completed to open the connection."""


@asynccontextmanager
async def answering(answer: str) -> AsyncGenerator[int]:
    """Answer each connection with one of `ANSWERS`; gives the port."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            head, said = await reader.read(1 << 16), ANSWERS[answer]
            if answer == NOTHING:
                await reader.read()
            elif said.startswith("101"):
                opens = b"Sec-WebSocket-Key" in head
                said = accept_response(head, "MORE").decode().replace("MORE", said[4:]) if opens else "garbage"
            writer.write(said.encode("latin-1"))
            writer.close()

    async with await asyncio.start_server(say, "127.0.0.1", 0) as server:
        yield 1 if answer == NOBODY else server.sockets[0].getsockname()[1]


async def attempts_fail(client: Client, caplog: pytest.LogCaptureFixture) -> BaseException:
    caplog.set_level(logging.DEBUG, "wsrpc")
    with pytest.raises((ConnectionError, ValueError, ssl.SSLError, TypeError)) as caught:
        await client.connect()
    logged = [(record.msg, record.args) for record in caplog.records if record.name.startswith("wsrpc")]
    text = f"{all_text_of(caught.value)} {client!r} {logged}"
    assert [secret for secret in SECRETS if secret in text] == [], text
    await client.close()
    return caught.value


THROUGH = [*product(ANSWERS, ["", "http"]), *product(list(ANSWERS)[:3], ["socks5"])]


@pytest.mark.parametrize(("answer", "through"), THROUGH)
async def test_bad_answers(answer: str, through: str, caplog: pytest.LogCaptureFixture) -> None:
    """Errors show what it said in one short line, and no secret."""
    options: dict[str, Any] = {"limits": LIMITS.replace(open_timeout=0.05 if answer == NOTHING else 60.0)}
    async with answering(answer) as port:
        where = f"127.0.0.1:{port}"
        if through:
            options["proxy"], where = f"{through}://user:{SECRET}@{where}", "192.0.2.1"
        for scheme, auth in (("ws", None), ("wss", SECRET)):
            client = secretive(f"{scheme}://{where}/", auth=auth, **options)
            texts = [str(error) for error in errors_of(await attempts_fail(client, caplog))]
            assert all(text.isprintable() and len(text) <= 1100 for text in texts), repr(texts)


WRONG: list[dict[str, Any]] = [
    *({"url": f"ws://user:{SECRET}/@x/"}, {"url": f"ws://x:{SECRET}/"}, {"url": f"wss://[{SECRET}]/?{SECRET}"}),
    *({"url": lambda: f"ws:///?{SECRET}"}, {"proxy": f"ftp://user:{SECRET}@127.0.0.1:1"}),
    *({"proxy": f"http://user:{SECRET}@127.0.0.1:{SECRET}"}, {"subprotocols": [f"bearer.{SECRET}=="]}),
    *({"subprotocols": f"bearer.{SECRET}"}, {"subprotocols": [SECRET.encode()]}),
    *({"headers": {"X-Token": f"{SECRET}\n"}}, {"headers": lambda: [("X-Token", SECRET)]}, {"auth": f"{SECRET}\r\n"}),
]


@pytest.mark.parametrize("options", WRONG, ids=lambda options: next(iter(options)))
async def test_wrong_options(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    given = {"url": "ws://127.0.0.1:1/", "limits": LIMITS, **options}
    try:
        await attempts_fail(Client(**given, dial=dial, reconnect=LAST), caplog)
    except (TypeError, ValueError) as exc:
        assert SECRET not in all_text_of(exc)  # noqa: PT017 - whether it raises depends on the option
    if "auth" not in options and not any(map(callable, options.values())):
        with pytest.raises((TypeError, ValueError)) as caught:
            await dial(**given)
        assert SECRET not in all_text_of(caught.value)


def test_the_text_of_the_last_error_is_there() -> None:
    assert "why" in str(ConnectFailed(2, OSError("why")))
