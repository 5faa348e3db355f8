"""What the lines of a connection say about it: the peer, its address and its URL."""

from __future__ import annotations

import io
import json
import logging

import pytest
from core_driver import messages
from leftovers import nothing_left as nothing_left
from pythonjsonlogger.json import JsonFormatter
from waiting import until

from wsrpc import Client, Handshake, HandshakeRejected, Limits, Reconnect, RpcError, Server

pytestmark = pytest.mark.usefixtures("nothing_left")

LIMITS = Limits(close_timeout=60.0)
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


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
        async with server.listen() as listener:
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


async def test_each_line_of_a_client_says_once_which_url_it_is_about(caplog: pytest.LogCaptureFixture) -> None:
    """Without the query, which may have a token. A program may have a client for each of several servers."""
    caplog.set_level(logging.INFO, "wsrpc")
    server = Server(limits=LIMITS)
    server.on("nothing", lambda: None)
    async with server.listen() as listener:
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
            await until(lambda: any("could not connect" in text for text in messages(caplog)))
        gone = Client(url, reconnect=None)
        gone.start()
        await until(lambda: gone.state == "closed")
        await gone.close()
    about = [record for record in caplog.records if vars(record)["url"] is not None]
    kinds = ["a message waits", "connected to", "'mistyped'", "handling fail", "ended", "could not connect", "gives up"]
    assert all(any(kind in record.getMessage() for record in about) for kind in kinds), messages(caplog, logging.INFO)
    assert {record.getMessage().count(url) for record in about} == {1}
    assert {vars(record)["url"] for record in about} == {url, f"{url}…"} and "hidden-7c" not in caplog.text
    ids = {client.peer.id, gone.peer.id}
    assert [record for record in caplog.records if vars(record)["peer"] in ids and record not in about] == []
