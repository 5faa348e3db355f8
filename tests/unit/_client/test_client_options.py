"""`Client`: options that are functions, asked at each attempt, which raise or give what makes no sense."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from leftovers import nothing_left as nothing_left
from tenacity import stop_after_attempt

from wsrpc import Client, ConnectFailed, Limits, Reconnect, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
AT_ONCE = Reconnect(initial=0.001, max=0.001)


class Odd(BaseException):
    """As pytest's own outcomes are, and other libraries' cancellations."""


def cancelled() -> str:
    raise asyncio.CancelledError("what fetched the token was cancelled")


async def cancelled_later() -> str:
    await asyncio.sleep(0)
    return cancelled()


def odd() -> str:
    raise Odd("odd")


async def odd_later() -> str:
    await asyncio.sleep(0)
    raise Odd("odd")


@pytest.mark.parametrize("raises", [cancelled, cancelled_later, odd, odd_later])
@pytest.mark.parametrize("option", ["url", "headers", "auth"])
async def test_whatever_it_raises_is_an_attempt_that_failed(option: str, raises: Callable[[], Any]) -> None:
    options: dict[str, Any] = {"url": "ws://127.0.0.1:1/", option: raises}
    thrice = Reconnect(initial=0, max=0, stop=stop_after_attempt(3))
    client = Client(**options, reconnect=thrice, limits=LIMITS)
    with pytest.raises(ConnectFailed, match=raises.__name__) as caught:
        await client.connect()
    assert caught.value.attempts == 3
    assert client.state == "closed"
    await client.close()


@pytest.mark.parametrize("option", ["headers", "auth"])
@pytest.mark.parametrize("value", ["secret\n", "sec\r\nX-Other: ret", "secret\0", "secret €"])
async def test_what_no_header_can_have_is_refused_and_not_in_the_log(
    option: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A token that was read from a file, with the line break at its end."""
    given: Any = {"X-Key": value} if option == "headers" else value
    options: dict[str, Any] = {option: lambda: given}
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        client = Client(listener.url, **options, reconnect=AT_ONCE, connect_timeout=0.1, limits=LIMITS)
        with pytest.raises(ConnectFailed, match="X-Key" if option == "headers" else "Authorization") as caught:
            await client.connect()
        assert isinstance(caught.value.last_error, ValueError)
        assert "sec" not in str(caught.value)
        await client.close()
    assert "could not connect" in caplog.text
    assert "sec" not in caplog.text


@pytest.mark.parametrize("token", [b"secret", 5])
async def test_a_token_that_is_no_text_is_refused(token: Any, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(limits=LIMITS)
    async with server.listen() as listener:
        client = Client(listener.url, auth=lambda: token, reconnect=AT_ONCE, connect_timeout=0.1, limits=LIMITS)
        with pytest.raises(ConnectFailed, match="auth= is a token, as text") as caught:
            await client.connect()
        assert isinstance(caught.value.last_error, TypeError)
        await client.close()
    assert "secret" not in caplog.text
