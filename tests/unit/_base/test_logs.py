"""What stands in the log: each line is true, says which peer and what was handled, and does not repeat itself."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from typing import Any

import pytest
from core_driver import Blocked, Driven, messages, said_in, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from pythonjsonlogger.json import JsonFormatter

from wsrpc import Client, Handshake, HandshakeRejected, Limits, RpcError, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
PATIENCE = 8
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


# ---------------------------------------------------------------- connections


async def test_both_sides_say_when_a_connection_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)
    async with asyncio.timeout(PATIENCE), server.listen() as listener:
        async with Client(f"{listener.url}rpc?token=secret", limits=LIMITS) as client:
            await client.emit("unknown")
            await turns_until(lambda: bool(messages(caplog)))
            [peer] = server.peers
            ours, theirs = peer.info.remote, client.peer.info.remote
            assert ours is not None and theirs is not None
            await client.close(4001, "that was all")
            await peer.wait_closed()
    for id_, how, (host, port) in ((client.peer.id, "to", theirs), (peer.id, "from", ours)):
        lines = [each for each in caplog.records if each.name == "wsrpc" and getattr(each, "peer", None) == id_]
        first, *warnings, last = [(record.levelno, record.getMessage()) for record in lines]
        assert first == (logging.INFO, f"peer {id_} connected {how} {host}:{port}, path /rpc")
        assert last == (logging.INFO, f"peer {id_} at {host}:{port} disconnected: 4001 that was all")
        end = f" (peer {id_} at {host}:{port})"
        assert [(level, text.endswith(end)) for level, text in warnings] == [(logging.WARNING, True)] * (how == "from")


# ---------------------------------------------------------------- fields


async def fail() -> None:
    raise KeyError("k")


async def test_the_fields_of_a_record_say_which_peer_and_which_event(caplog: pytest.LogCaptureFixture) -> None:
    """In the JSON of any formatter. A record has every field, also one that is about no peer."""
    caplog.set_level(logging.INFO, "wsrpc")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("{levelname}{message}", style="{"))
    server = Server(limits=LIMITS, origins=["https://shop.example"])
    server.of("shop").on("buy", fail)
    server.on("echo", lambda value: value)
    server.on("two", lambda a, b: None)

    @server.on_handshake
    def name(handshake: Handshake) -> None:
        handshake.address = "device-7"

    logging.getLogger("wsrpc").addHandler(handler)
    try:
        async with asyncio.timeout(PATIENCE), server.listen() as listener:
            with pytest.raises(HandshakeRejected):
                await Client(listener.url, headers={"Origin": "https://evil.example"}, reconnect=None).connect()
            async with Client(listener.url, limits=LIMITS) as client:
                for call in (
                    client.of("shop").request("buy", metadata={"traceparent": TRACE}),
                    client.request("a\nb", metadata={"tenant": "ada"}),
                    client.request("echo", 1, 2),
                ):
                    with pytest.raises(RpcError):
                        await call
                for event in ("two", "mistyped"):
                    await client.emit(event, metadata={"traceparent": TRACE})
                assert await client.request("echo", 1) == 1
                [peer] = server.peers
    finally:
        logging.getLogger("wsrpc").removeHandler(handler)
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [each for each in found if not {"peer", "address", "remote", "origin", "event", "trace"} <= set(each)] == []
    ours = [each for each in found if each["peer"] == peer.id]
    host, port = peer.info.remote or ("", 0)
    assert {(each["address"], each["remote"]) for each in ours} == {("device-7", f"{host}:{port}")}
    assert {each["address"] for each in found if each not in ours} == {None}
    assert [each["event"] for each in ours] == [None, "shop:buy", r"a\nb", "two", "mistyped", None]
    assert [each["trace"] for each in ours] == [None, TRACE, None, TRACE, TRACE, None]
    failed = ours[1]
    assert failed["levelname"] == "ERROR" and failed["message"].startswith("handling shop:buy #") and failed["exc_info"]
    [(refused, *nobody)] = [[each["origin"], each["peer"], each["event"]] for each in found if each["origin"]]
    assert refused == "https://evil.example" and nobody == [None, None]


async def test_a_record_factory_of_the_user_may_set_fields_of_the_same_names(caplog: pytest.LogCaptureFixture) -> None:
    before = logging.getLogRecordFactory()

    def factory(*args: Any, **options: Any) -> logging.LogRecord:
        record = before(*args, **options)
        vars(record).update(event="of the user", trace="of the user")
        return record

    logging.setLogRecordFactory(factory)
    try:
        d = Driven()
        d.peer.on("fail", fail)
        await d.fed({"i": 1, "a": ["fail"]})
    finally:
        logging.setLogRecordFactory(before)
    [record] = [vars(record) for record in caplog.records if record.levelno == logging.ERROR]
    assert (record["peer"], record["event"], record["trace"]) == (d.peer.id, "fail", "of the user")


# ---------------------------------------------------------------- events that reach nobody


def add(a: int, b: int) -> int:
    return a + b


@pytest.mark.parametrize(
    ("dropped", "counted", "says"),
    [
        ([["mistyped"], ["another"]], "unknown event", "No event listener for 'mistyped'"),
        ([["add", 1, "2"], ["add"]], "wrong arguments", "event 'add' was dropped: add(): argument 'b' (2nd): expected"),
        ([["wait"], ["wait"]], "event dropped, too many wait", "an event was dropped"),
    ],
)
async def test_the_first_of_its_kind_is_a_warning_and_further_ones_are_counted(
    dropped: list[list[Any]], counted: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On each connection."""
    for _ in range(2):
        d = Driven(limits=Limits(running=1, waiting=1))
        blocked = Blocked()
        d.peer.on("add", add)
        d.peer.on("wait", blocked)
        if counted.endswith("wait"):
            d.feed({"a": ["wait", 1]}, {"a": ["wait", 2]})
        d.feed(*({"a": args} for _ in range(5) for args in dropped))
        await turns()
        [text] = messages(caplog)
        assert says in text and "peer.ignored" in text
        assert d.ignored == {counted: 10}
        blocked.go.set()
        await turns()
        d.assert_empty()
        caplog.clear()


# ---------------------------------------------------------------- events without a handler


@pytest.mark.parametrize("kind", ["event", "request"])
@pytest.mark.parametrize(
    ("channel", "event", "text"),
    [
        (None, "ad", "No event listener for 'ad'"),
        ("chat", "add", "No event listener for 'add' on channel 'chat'"),
        ("caht", "say", "Channel 'caht' does not exist"),
    ],
)
async def test_the_log_names_the_event_without_a_handler(
    kind: str, channel: str | None, event: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    driven = Driven()
    driven.peer.on("add", lambda: None)
    driven.peer.of("chat").on("say", lambda: None)
    caplog.clear()
    where = {} if channel is None else {"c": channel}
    if kind == "event":
        assert await driven.fed({**where, "a": [event]}) == []
        line, level = f"{text} (further ones are only counted in peer.ignored)", logging.WARNING
    else:
        [answer] = await driven.fed({**where, "i": 1, "a": [event]})
        assert answer["e"]["message"] == text
        line, level = f"a request was refused: {text} (further ones are not logged)", logging.INFO
    assert [(said_in(record), record.levelno) for record in caplog.records] == [(line, level)]
