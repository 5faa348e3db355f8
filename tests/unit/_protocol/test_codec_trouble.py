"""A codec of the user's that goes wrong harms one connection and is in the log; caches keep nobody alive."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from core_driver import Driven, messages, start, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, TEXT, raw_client

from wsrpc import Client, ConnectionLost, Limits, Server
from wsrpc.codecs import JsonCodec
from wsrpc.testing import connect

clean = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
PATIENCE = 8
MARK = 9_007_199_254_740


class Bug(RuntimeError):
    pass


def bug(*_: object) -> Any:
    raise Bug("the codec's own")


DEEP = '{"i":1,"a":["echo","' + "x" * 100 + '"]}'
BROKEN = '{"i":1,"a":["echo","\\ud800"]}'

TROUBLE = [
    pytest.param({"claims": bug}, BROKEN, id="claims raises"),
    pytest.param({"outline": bug}, BROKEN, id="outline raises"),
    pytest.param({"outline": lambda payload: {"i": 1}}, BROKEN, id="outline returns nonsense"),
    pytest.param({"nests_deeper": bug}, DEEP, id="nests_deeper raises"),
    pytest.param({"decode": lambda payload: {"i": 1, "a": ["echo"]}}, DEEP, id="decode returns nonsense"),
    pytest.param({"decode": lambda payload: None}, DEEP, id="decode returns None"),
    pytest.param({"encode": bug}, DEEP, id="encode raises, also for rejections"),
    pytest.param({"encode": bug}, '{"i":1,"a":["async"]}', id="encode raises, also for rejections, in a task"),
]


def serving(codec: JsonCodec | None = None) -> Server:
    server = Server(limits=LIMITS, codec=codec)
    server.on("echo", lambda *args: list(args))

    async def later() -> int:
        await asyncio.sleep(0)
        return 1

    server.on("async", later)
    return server


class Selective(JsonCodec):
    """Goes wrong as another codec does, but only for messages that have a mark: what others send is fine."""

    def __init__(self, methods: dict[str, Callable[..., Any]], mark: bytes) -> None:
        super().__init__()
        for name, method in methods.items():
            setattr(self, name, self._choose(getattr(self, name), method, mark))

    def _choose(self, plain: Callable[..., Any], odd: Callable[..., Any], mark: bytes) -> Callable[..., Any]:
        def choose(first: Any, *more: Any) -> Any:
            seen = first if isinstance(first, bytes | bytearray) else repr(first).encode()
            return odd(first, *more) if mark in seen else plain(first, *more)

        return choose


@clean
@pytest.mark.parametrize(("methods", "payload"), TROUBLE)
async def test_only_the_connection_that_meets_it_is_closed(
    methods: dict[str, Callable[..., Any]], payload: str, caplog: pytest.LogCaptureFixture
) -> None:
    # The id is the mark, because answers have it, too. Nobody else's message has so long a number.
    payload = payload.replace('"i":1', f'"i":{MARK}')
    server = serving(Selective(methods, str(MARK).encode()))
    async with asyncio.timeout(PATIENCE):
        async with server.listen() as listener:
            async with Client(listener.url, limits=LIMITS, reconnect=None) as bystander:
                async with raw_client(listener.port) as raw:
                    await turns_until(lambda: len(server.peers) == 2)
                    await raw.send(raw.frame(TEXT, payload.encode()))
                    frame = await raw.next_of(CLOSE)
                    assert frame.code in (1007, 1011)
                    await raw.send(raw.close_frame())
                    raw.drop()
                assert await bystander.request("echo", 1) == [1]
                assert len(server.peers) == 1
    assert messages(caplog, logging.WARNING)


@clean
async def test_decode_that_raises_means_no_message_and_a_request_is_still_answered() -> None:
    d = Driven(codec=Selective({"decode": bug}, b""))
    sent = await d.fed({"i": 1, "a": ["echo"]})
    assert [message["i"] for message in sent] == [1]
    assert sent[0]["e"]["code"] == "wsrpc.bad_arguments"
    assert d.ignored == {"unreadable": 1}
    assert d.peer.connected


@clean
@pytest.mark.parametrize("again", ["raises", "returns nonsense"])
async def test_decode_that_goes_wrong_the_second_time_for_what_had_to_wait(
    again: str, caplog: pytest.LogCaptureFixture
) -> None:
    plain = JsonCodec().decode
    seen: set[bytes] = set()

    def decode(payload: bytes | bytearray) -> Any:
        if bytes(payload) in seen:
            return bug() if again == "raises" else None
        seen.add(bytes(payload))
        return plain(payload)

    d = Driven(codec=Selective({"decode": decode}, b""), limits=Limits(running=1))
    go_on = asyncio.Event()

    @d.peer.on("wait")
    async def wait() -> None:
        await go_on.wait()

    d.feed({"i": 1, "a": ["wait"]}, {"i": 2, "a": ["wait"]})
    await turns()
    go_on.set()
    await turns()
    sent = d.take()
    assert {"i": 1, "d": None} in sent
    # The second one gets an answer, or its connection ends; and the place is free again.
    assert any(message["i"] == 2 for message in sent) or d.close_code is not None
    assert messages(caplog, logging.WARNING)
    d.assert_empty()


@clean
async def test_a_message_handler_with_a_codec_that_decodes_once(caplog: pytest.LogCaptureFixture) -> None:
    plain = JsonCodec().decode
    calls = 0

    def decode(payload: bytes | bytearray) -> Any:
        nonlocal calls
        calls += 1
        return plain(payload) if calls == 1 else bug()

    d = Driven(codec=Selective({"decode": decode}, b""))
    d.peer.on("message", lambda peer, message: message.args)
    d.peer.on("echo", lambda: "fine")
    assert await d.fed({"i": 1, "a": ["echo"]}) == [{"i": 1, "d": "fine"}]
    [line] = messages(caplog)
    assert "the handler of 'message'" in line


@clean
async def test_requests_of_a_connection_that_the_codec_ends_fail() -> None:
    plain = JsonCodec().decode
    d = Driven(codec=Selective({"decode": lambda payload: None if b'"d"' in payload else plain(payload)}, b""))
    asking = start(d.peer.request("slow"))
    await turns()
    [sent] = d.take()
    d.feed({"i": sent["i"], "d": 1})
    with pytest.raises(ConnectionLost):
        await asking
    assert d.close_code == 1011


# ---------------------------------------------------------------- caches


class Custom:
    def __init__(self, value: object) -> None:
        self.value = value


class Application:
    """What a hook that is a method belongs to."""

    def __init__(self) -> None:
        self.client = Client(dec_hook=self.decode, enc_hook=self.encode, limits=LIMITS)
        self.client.on("take", self.take)

    def decode(self, tp: type[Any], value: Any) -> Any:
        return Custom(value)

    def encode(self, value: Any) -> Any:
        assert isinstance(value, Custom)
        return value.value

    def take(self, thing: Custom) -> object:
        return thing.value


@clean
async def test_no_cache_keeps_an_application_whose_hook_is_a_method() -> None:
    server = serving()
    gone: list[weakref.ref[object]] = []

    async def use() -> None:
        application = Application()
        gone.extend((weakref.ref(application), weakref.ref(application.client)))
        async with connect(server, client=application.client) as client:
            assert await client.request("echo", Custom(1)) == [1]
            assert (await client.request("echo", 5, returns=list[Custom]))[0].value == 5
            assert isinstance(await client.request("echo", 1, returns=Custom), Custom)
            (peer,) = server.peers
            assert await peer.request("take", 7) == 7

    async with asyncio.timeout(PATIENCE):
        await use()
        await server.close()
        await turns()
        gc.collect()
        assert [ref() for ref in gone] == [None, None]


@clean
async def test_an_ordered_handler_that_was_replaced_is_gone() -> None:
    async with asyncio.timeout(PATIENCE):
        server = Server()
        gone: list[weakref.ref[object]] = []

        def register(n: int) -> None:
            def work() -> int:
                return n

            gone.append(weakref.ref(work))
            server.on("work", work, ordered=True)

        async with connect(server) as client:
            for n in range(5):
                register(n)
                assert await client.request("work") == n
            await turns()
            gc.collect()
            assert sum(ref() is not None for ref in gone) == 1
        await server.close()
