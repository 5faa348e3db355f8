"""Profiles, without Go and JavaScript: what is refused, what is never said.

Go itself is in interop/test_go_strictness.py, and ws-wrapper 3 in interop/test_js_streams.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from core_driver import turns
from leftovers import nothing_left as nothing_left
from stream_driver import PLAIN, welcome

from wsrpc import BadArguments, Client, Context, Limits, MessageTooBig, RemoteError, Server
from wsrpc.codecs import JsonCodec, MsgpackCodec
from wsrpc.testing import ScriptedTransport

pytestmark = pytest.mark.usefixtures("nothing_left")

HUGE = 10**400


def test_options_that_do_not_go_together() -> None:
    make: Any
    for make in (Server, Client):
        with pytest.raises(ValueError, match=r'^profile= is "go" .*, "ws-wrapper-3" or None, got \'rust\'$'):
            make(profile="rust")
        for profile in ("go", "ws-wrapper-3"):
            with pytest.raises(ValueError, match=rf"^profile='{profile}' speaks JSON in text messages"):
                make(profile=profile, codec=MsgpackCodec())
            make(profile=profile, codec=JsonCodec(enc_hook=str))
            make(profile=profile, enc_hook=str)


async def test_nothing_but_the_protocol_is_said() -> None:
    transport = ScriptedTransport()
    async with Client(transport=transport, profile="go", extensions=True) as client:
        await client.emit("hi", 1)
        transport.expect({"a": ["hi", 1]})
        # Nor is another's hello answered.
        transport.feed({"ws-wrapper": False, "wsrpc": {"t": "hello", "v": 1, "features": [], "limits": {}}})
        assert transport.take() == []


async def test_raw_messages_are_refused() -> None:
    server = Server(profile="go")
    async with Client(transport=ScriptedTransport(), profile="go") as client:
        for target in (client, server, server.room("lobby")):
            for data in ("text", b"bytes", '{"ws-wrapper":false}'):
                with pytest.raises(ValueError, match=r"raw messages cannot be sent: emit an event instead$"):
                    await target.send_raw(data)
        with pytest.raises(ValueError, match="raw messages cannot be sent"):
            client.send_raw_nowait("text")
    await server.close()


async def test_an_empty_name_is_refused() -> None:
    """Go takes a message with such a name for no event, so a request would wait for its timeout."""
    transport = ScriptedTransport()
    async with Client(transport=transport, profile="go") as client:
        with pytest.raises(ValueError, match='Go ignores an event whose name is ""'):
            await client.request("")
        with pytest.raises(ValueError, match="give it a name"):
            await client.of("room").emit("", 1)
        assert transport.take() == [] and client.peer.pending == 0


async def test_numbers_that_no_double_holds_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    transport = ScriptedTransport()
    async with Client(transport=transport, profile="go") as client:
        client.on("number", lambda k: HUGE if k else [2**1023, 1.7e308, -1e300, "9" * 400, {"1e999": "e999"}])
        transport.feed({"i": 1, "a": ["number", 1]}, {"i": 2, "a": ["number", 0]})
        rejected, resolved = transport.take()
        assert (rejected["i"], rejected["e"]["code"]) == (1, "wsrpc.internal")
        assert "is a number of 401 digits, and Go, which reads numbers as doubles" in caplog.text
        assert resolved["d"][3:] == ["9" * 400, {"1e999": "e999"}]
        # Arguments are read one by one over there, each as what its handler takes.
        await client.emit("big", HUGE)
        transport.expect({"a": ["big", HUGE]})


async def test_larger_messages_are_refused() -> None:
    for limits, most in [(None, 32 * 1024), (Limits(sent_message=1000), 1000), (Limits(sent_message=50_000), 50_000)]:
        transport = ScriptedTransport()
        async with Client(transport=transport, profile="go", limits=limits) as client:
            room = most - len('{"a":["x",""]}')
            await client.emit("x", "y" * room)
            assert len(transport.take()) == 1
            for send in (client.emit, client.request):
                with pytest.raises(MessageTooBig, match=rf"has \d+ bytes encoded, and at most {most} may be sent "):
                    await send("x", "y" * (room + 1))
            with pytest.raises(MessageTooBig):
                client.emit_nowait("x", "y" * (room + 1))
            assert transport.take() == []
            client.on("blob", lambda n: "y" * n)
            transport.feed({"i": 1, "a": ["blob", most]})
            (rejected,) = transport.take()
            assert rejected["i"] == 1
            assert f"at most {most} may be sent" in rejected["e"]["message"]


async def test_what_go_says_of_a_wrong_number_of_arguments() -> None:
    for profile, wanted in [("go", BadArguments), (None, RemoteError)]:
        transport = ScriptedTransport()
        options: Any = {"profile": profile, "extensions": False}
        async with Client(transport=transport, **options) as client:
            asked = asyncio.create_task(client.request("add", 1, 2, 3))
            await asyncio.sleep(0)
            (request,) = transport.take()
            transport.feed({"i": request["i"], "e": {"message": "incorrect number of arguments"}, "_": 1})
            with pytest.raises(RemoteError) as raised:
                await asked
            assert type(raised.value) is wanted
            assert ("add() was sent 3 arguments" in str(raised.value)) is (profile == "go")
            assert ("variadic (...), do not call it" in str(raised.value)) is (profile == "go")


# ---------------------------------------------------------------- profile="ws-wrapper-3"


def with_channels(app: Client | Server) -> list[str]:
    """Handlers of each kind that is answered with a channel. Return the names of those that run."""
    ran: list[str] = []

    async def stream() -> AsyncIterator[int]:
        ran.append("stream")
        yield 1

    async def upload(items: AsyncIterator[int]) -> int:
        ran.append("upload")
        return sum([item async for item in items])

    async def iterator() -> Any:
        return iter([1, 2])

    async def by_hand(ctx: Context) -> Any:
        return ctx.channel()

    for handler in (stream, upload, iterator, by_hand):
        app.on(handler.__name__, handler)
    app.once("once", stream)
    app.on("value", lambda: 5)
    return ran


@pytest.mark.parametrize("event", ["stream", "upload", "once", "iterator", "by_hand"])
@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("features", PLAIN, ids=repr)
async def test_ws_wrapper_3_is_told_that_it_has_no_channels(
    event: str, middleware: bool, features: tuple[str, ...] | None
) -> None:
    transport = ScriptedTransport()
    async with Client(transport=transport, profile="ws-wrapper-3") as client:
        ran = with_channels(client)
        if middleware:
            client.use(lambda ctx, call_next: call_next(ctx))
        transport.take()  # hello
        if features is not None:
            transport.feed(welcome(*features))
        transport.feed({"i": 1, "a": [event]})
        await turns()
        [rejected] = transport.take()
        assert rejected["i"] == 1 and rejected["e"]["code"] == "wsrpc.no_channels"
        assert rejected["e"]["message"].startswith(f"'{event}' is answered with a stream or another channel, and ws-")
        transport.feed({"i": 2, "a": ["value"]})
        await turns()
        transport.expect({"i": 2, "d": 5})
        assert ran == [] and (client.peer.channels, client.peer.active) == (0, 0)


async def test_wsrpc_peers_of_that_server_have_streams() -> None:
    server = Server(profile="ws-wrapper-3")
    with_channels(server)
    async with server.listen() as listener, Client(listener.url) as client:
        async with client.stream("stream") as items:
            assert [item async for item in items] == [1]
        async with Client(listener.url, extensions=False) as plain:
            with pytest.raises(RemoteError, match="ws-wrapper 3 has none: call a handler that returns a value"):
                async with plain.stream("stream") as items:
                    await anext(items)
            assert await plain.request("value") == 5
        async with client.stream("once") as items:
            assert [item async for item in items] == [1], "no request that is rejected uses it up"
