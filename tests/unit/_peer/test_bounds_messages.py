"""Messages beyond their bounds, on real connections: only that connection ends, as docs/reference/limits.md says."""

from __future__ import annotations

import asyncio
import tracemalloc
import zlib

import pytest
from beside import AMPLE, beside, closed, refused, request, said
from core_driver import Blocked
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_websocket import CLOSE, CONT, TEXT, build_frame, raw_client

from wsrpc import Client, MessageTooBig, RequestTimeout, Server

MEBI = 1024 * 1024

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_a_message_that_is_too_big_closes_with_1009() -> None:
    async with beside(AMPLE.replace(message=1000)) as world, raw_client(world.port) as raw:
        await raw.send(request(raw, 1, "echo", "x" * 900))
        assert (await said(raw))["i"] == 1
        # Its head is enough: nothing of it is waited for, or kept.
        await raw.send(build_frame(TEXT, b"", masked=True, size=2**40))
        await closed(raw, 1009)
        await world.ends(1009)


async def test_of_fragments_too_the_reason_names_the_limit_of_the_message() -> None:
    async with beside(AMPLE.replace(message=1000)) as world, raw_client(world.port) as raw:
        await raw.send(raw.frame(TEXT, b"x" * 600, fin=False), raw.frame(CONT, b"x" * 500))
        reason = "frame with 500 bytes after reading 600 bytes exceeds limit of 1000 bytes"
        assert (await raw.next_of(CLOSE)).reason == reason
        await world.ends(1009)


async def test_another_wsrpc_side_refuses_to_send_what_is_too_big() -> None:
    async with beside(AMPLE.replace(message=1000)) as world, Client(world.url, limits=AMPLE) as client:
        assert await client.request("echo") == []
        with pytest.raises(MessageTooBig):
            await client.request("echo", "x" * 1000)
        assert await client.request("echo", 1) == [1]


async def test_a_message_larger_than_may_be_sent_is_refused_here() -> None:
    small = AMPLE.replace(sent_message=1000)
    async with beside(small) as world, Client(world.url, limits=small, extensions=False) as client:
        with pytest.raises(MessageTooBig, match=r"^the message has 10\d\d bytes encoded, and at most 1000 may be sent"):
            await client.request("echo", "x" * 1000)
        assert await client.request("echo", "x" * 900) == ["x" * 900]
    async with beside(small) as world, raw_client(world.port) as raw:
        await raw.send(request(raw, 1, "echo", "x" * 1000))
        assert "at most 1000 may be sent" in (await said(raw))["e"]["message"]
        await world.goes_on()


@pytest.mark.parametrize("compression", [False, True])
async def test_compression_is_off_unless_asked_for_and_what_it_hides_counts(compression: bool) -> None:
    limits = AMPLE.replace(message=1000)
    server = Server(limits=limits, compression=True) if compression else Server(limits=limits)
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    async with beside(limits, server) as world, raw_client(world.port, "/", offer) as raw:
        await world.newest()
        squeezer = zlib.compressobj(wbits=-15)
        small = squeezer.compress(b"x" * 2000) + squeezer.flush(zlib.Z_SYNC_FLUSH)
        assert len(small) < 100
        await raw.send(raw.frame(TEXT, small[:-4], rsv=4))
        await closed(raw, 1009 if compression else 1002)
        await world.ends(1009 if compression else 1002)


async def test_too_many_values_are_rejected_before_they_are_decoded() -> None:
    async with beside(AMPLE) as world, raw_client(world.port) as raw:
        nested = b'{"i":1,"a":["echo"' + b",[]" * 1_000_000 + b"]}"
        tracemalloc.start()
        try:
            await raw.send(raw.frame(TEXT, nested), request(raw, 2, "echo"))
            await refused(raw, 1, "wsrpc.bad_arguments")
            assert tracemalloc.get_traced_memory()[1] < 30 * MEBI, "decoding it takes 80 MB"
        finally:
            tracemalloc.stop()
        assert await said(raw) == {"i": 2, "d": []}
        await world.goes_on()


async def test_nesting_that_is_too_deep_is_rejected() -> None:
    async with beside(AMPLE.replace(depth=5)) as world, raw_client(world.port) as raw:
        await raw.send(request(raw, 1, "echo", [[[]]]))
        assert (await said(raw))["d"] == [[[[]]]]
        await raw.send(request(raw, 2, "echo", [[[[]]]]), request(raw, 3, "echo"))
        await refused(raw, 2, "wsrpc.bad_arguments")
        assert await said(raw) == {"i": 3, "d": []}
        await world.goes_on()


async def test_nesting_of_more_than_512_closes_with_1007() -> None:
    async with beside(AMPLE) as world, raw_client(world.port) as raw:
        deepest = "[" * 510 + "]" * 510
        await raw.send(raw.frame(TEXT, f'{{"i":1,"a":["echo",{deepest}]}}'))
        await refused(raw, 1, "wsrpc.bad_arguments")
        await raw.send(raw.frame(TEXT, f'{{"i":2,"a":["echo",[{deepest}]]}}'))
        await closed(raw, 1007)
        await world.ends(1007)


async def test_too_many_arguments_are_rejected() -> None:
    async with beside(AMPLE) as world, raw_client(world.port) as raw:
        await raw.send(request(raw, 1, "echo", *range(65)), request(raw, 2, "echo", *range(64)))
        await refused(raw, 1, "wsrpc.bad_arguments")
        assert await said(raw) == {"i": 2, "d": [*range(64)]}
        await world.goes_on()


async def test_a_name_that_is_too_long_is_rejected() -> None:
    async with beside(AMPLE.replace(name=10)) as world, raw_client(world.port) as raw:
        on_channel = raw.frame(TEXT, '{"i":2,"c":"12345678901","a":["echo"]}')
        await raw.send(request(raw, 1, "12345678901"), on_channel, request(raw, 3, "echo"))
        await refused(raw, 1, "wsrpc.bad_arguments")
        await refused(raw, 2, "wsrpc.bad_arguments")
        assert await said(raw) == {"i": 3, "d": []}
        await world.goes_on()


async def test_what_begins_like_a_message_and_is_none_closes_with_1007() -> None:
    async with beside(AMPLE) as world, raw_client(world.port) as raw:
        await raw.send(*(raw.frame(TEXT, "{ nonsense") for _ in range(10)), request(raw, 1, "echo"))
        assert await said(raw) == {"i": 1, "d": []}
        await raw.send(raw.frame(TEXT, "{ nonsense"))
        await closed(raw, 1007)
        await world.ends(1007)


# ---------------------------------------------------------------- requests from here


async def test_a_request_that_is_not_answered_in_time_fails_and_is_cancelled() -> None:
    async with beside(AMPLE.replace(timeout=0.05)) as world, raw_client(world.port) as raw:
        peer = await world.newest()
        with pytest.raises(RequestTimeout):
            await peer.request("never")
        asked, cancelled = await said(raw), await said(raw)
        assert asked["a"] == ["never"] and cancelled["i"] == asked["i"] and "x" in cancelled
        assert peer.pending == 0
        await world.goes_on()


async def test_open_handlers_hold_things_back_for_so_long() -> None:
    server = Server(limits=AMPLE.replace(open_handlers=0.05))
    work = Blocked()
    async with beside(AMPLE, server) as world:
        server.on("open", work)
        async with Client(world.url, limits=AMPLE) as client:
            assert await client.request("echo", 1) == [1], "although the handler has not ended"
            assert len(work.started) == 1 and not work.finished
            await world.goes_on()
            work.go.set()
            await turns_until(lambda: work.finished)
        server.on("open", None)
        await asyncio.sleep(0)
