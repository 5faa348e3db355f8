"""What stands in the log: each line is true, says which peer and what was handled, and does not repeat itself."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from core_driver import Blocked, Driven, messages, turns
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from pythonjsonlogger.json import JsonFormatter

from wsrpc import Client, Handshake, HandshakeRejected, Limits, Peer, Reconnect, RpcError, Server
from wsrpc.testing import connect

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=2.0)
PATIENCE = 8
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


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
        handshake.address, handshake.principal = "device-7", "ada"

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
    named = {(each["address"], each["principal"], each["remote"]) for each in ours}
    assert named == {("device-7", "ada", f"{host}:{port}")}
    assert {(each["address"], each["principal"]) for each in found if each not in ours} == {(None, None)}
    assert f"connected from {host}:{port} ('device-7'), path /" in ours[0]["message"]
    assert f"at {host}:{port} ('device-7') disconnected: 1000" in ours[-1]["message"]
    assert [each["event"] for each in ours] == [None, "shop:buy", r"a\nb", "echo", "two", "mistyped", None]
    assert [each["trace"] for each in ours] == [None, TRACE, None, None, TRACE, TRACE, None]
    failed = ours[1]
    assert failed["levelname"] == "ERROR" and failed["message"].startswith("handling shop:buy #") and failed["exc_info"]
    [(refused, *nobody)] = [[each["origin"], each["peer"], each["event"]] for each in found if each["origin"]]
    assert refused == "https://evil.example" and nobody == [None, None]


@dataclass
class User:
    name: str


@pytest.mark.parametrize(
    ("principal", "shown", "field"),
    [
        ("ada", "'ada'", "ada"),
        (7, "7", 7),
        ("a\nb", r"'a\nb'", r"a\nb"),
        (User("ada"), "User(name='ada')", "User(name='ada')"),
        ("a" * 9999, "'aaaa", "aaaa"),
        (None, "", None),
    ],
)
async def test_lines_of_a_connection_name_its_user(
    principal: object, shown: str, field: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server()

    @server.on("log in")
    def log_in(peer: Peer) -> None:
        peer.principal = "bob"

    async with connect(server, principal=principal) as client:
        [id] = [peer.id for peer in server.peers]
        await client.request("log in")
    began, ended = (record for record in caplog.records if vars(record)["peer"] == id)
    text, found = began.getMessage(), vars(began)["principal"]
    assert f"an unknown address ({shown}" in text if shown else f"{id} connected from an unknown address, path" in text
    assert (found == field or str(found).startswith("aaaa")) and len(text) < 400 and len(str(found)) < 1100
    assert "an unknown address ('bob') disconnected" in ended.getMessage() and vars(ended)["principal"] == "bob"


async def test_each_line_of_a_client_says_once_which_url_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    """Without the query, which may have a token. A program may have a client for each of several servers."""
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)
    server.on("nothing", lambda: None)
    async with asyncio.timeout(PATIENCE), server.listen() as listener:
        url = f"{listener.url}ws"
        client = Client(f"{url}?token=hidden-7c", limits=LIMITS, reconnect=Reconnect(initial=0.001, max=0.001))
        client.on("fail", fail)
        client.emit_nowait("nothing")  # "a message waits"
        async with client:
            [peer] = server.peers
            await peer.emit("mistyped")
            with pytest.raises(RpcError):
                await peer.request("fail")
            await peer.close(1012)
            await client.wait_connected()
            await server.close()
            await turns_until(lambda: any("could not connect" in text for text in messages(caplog)))
        gone = Client(url, reconnect=None)
        gone.start()
        await turns_until(lambda: gone.state == "closed")
        await gone.close()
    about = [record for record in caplog.records if vars(record)["url"] is not None]
    kinds = ["a message waits", "connected to", "'mistyped'", "handling fail", "ended", "could not connect", "gives up"]
    assert all(any(kind in record.getMessage() for record in about) for kind in kinds), messages(caplog, logging.INFO)
    assert {record.getMessage().count(url) for record in about} == {1}
    assert {vars(record)["url"] for record in about} == {url, f"{url}…"} and "hidden-7c" not in caplog.text
    ids = {client.peer.id, gone.peer.id}
    assert [record for record in caplog.records if vars(record)["peer"] in ids and record not in about] == []


# ---------------------------------------------------------------- events that reach nobody


class Cup(msgspec.Struct):
    drink: str
    size: Annotated[int, msgspec.Meta(ge=1)]


def pour(cup: Cup) -> None: ...


def add(a: int, b: int) -> int:
    return a + b


async def test_the_first_of_its_kind_is_a_warning_and_further_ones_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On each connection."""
    for _ in range(2):
        d = Driven(limits=Limits(running=1, waiting=1))
        blocked = Blocked()
        d.peer.on("wait", blocked)
        d.feed({"a": ["wait", 1]}, {"a": ["wait", 2]})
        d.feed(*[{"a": ["wait"]}] * 10)
        await turns()
        [text] = messages(caplog)
        assert "an event was dropped" in text and "peer.ignored" in text
        assert d.ignored == {"event dropped, too many wait": 10}
        blocked.go.set()
        await turns()
        d.assert_empty()
        caplog.clear()


MISFITS: list[tuple[dict[str, Any], str, str]] = [
    ({"a": ["mistyped"]}, "mistyped: unknown event", "event 'mistyped' was dropped: No event listener"),
    ({"a": ["say"], "c": "chat"}, "chat:say: unknown event", "event 'chat:say' was dropped: Channel 'chat' does not"),
    ({"i": 1, "a": ["another"]}, "another: unknown event", "request 'another' was refused: No event listener"),
    (
        {"a": ["add", 1, "2"]},
        "add: wrong arguments",
        "event 'add' was dropped: add(): argument 'b' (2nd): expected int",
    ),
    (
        {"i": 1, "a": ["pour", {"drink": "SECRET"}]},
        "pour: wrong arguments",
        "request 'pour' was refused: pour(): argument 'cup' (1st): Object missing required field `size`",
    ),
    (
        {"i": 1, "a": ["fill", {"drink": "SECRET", "size": 0}]},
        "fill: wrong arguments",
        "request 'fill' was refused: fill(): argument 'cup'.size: expected int >= 1",
    ),
    ({"i": 1, "a": ["sub", 1]}, "sub: wrong arguments", "request 'sub' was refused: sub(): missing argument 'b'"),
]


async def test_each_event_that_does_not_fit_is_logged_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    """For each connection."""
    for _ in range(2):
        d = Driven()
        d.peer.on("add", add)
        d.peer.on("sub", add)
        d.peer.on("pour", pour)
        d.peer.on("fill", pour)
        for _ in range(3):
            await d.fed(*(message for message, _, _ in MISFITS))
        texts = messages(caplog)
        assert [text.startswith(said) for text, (_, _, said) in zip(texts, MISFITS, strict=True)] == [True] * 7
        assert all(text.endswith(" (further ones are only counted, in peer.stats().misfits)") for text in texts)
        assert d.peer.stats().misfits == {key: 3 for _, key, _ in MISFITS}
        assert d.ignored == {"unknown event": 6, "wrong arguments": 3}, "the requests were answered"
        caplog.clear()


async def test_no_peer_fills_the_memory_with_names_of_events(caplog: pytest.LogCaptureFixture) -> None:
    d = Driven()
    d.feed(*({"a": [f"{number}" + "x" * 200]} for number in range(100)))
    assert len(messages(caplog)) == 33
    assert len(d.peer.stats().misfits) == 33 and max(map(len, d.peer.stats().misfits)) < 250
    assert d.peer.stats().misfits["other events: unknown event"] == 68
