"""`RawConnection`: receiving, whole messages and pieces."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from leftovers import turns_until
from raw_driver import raw_connection, raw_serving
from raw_websocket import BINARY, CLOSE, CONT, PING, TEXT

from wsrpc import ConnectionLost, Limits, MessageTooBig, Server
from wsrpc.errors import ProtocolError
from wsrpc.testing import memory_transports
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")


async def test_text_is_str_and_binary_is_bytes_in_order() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "grüße"), raw.frame(BINARY, b"\x00\xff"), raw.frame(TEXT), raw.frame(BINARY))
        assert [await connection.receive() for _ in range(4)] == ["grüße", b"\x00\xff", "", b""]


async def test_fragments_are_one_message_also_around_pings() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(
            raw.frame(TEXT, "grü".encode()[:3], fin=False), raw.frame(PING), raw.frame(CONT, b"\xbc\xc3\x9fe")
        )
        assert await connection.receive() == "grüße"


async def test_what_came_before_the_end_is_received_after_it() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one"), raw.frame(TEXT, "two"), raw.close_frame(4321, "bye"))
        raw.drop()
        info = await connection.wait_closed()
        assert (info.code, info.reason, info.was_clean, info.user_closed) == (4321, "bye", True, False)
        assert connection.closed
        assert [await connection.receive(), await connection.receive()] == ["one", "two"]
        with pytest.raises(ConnectionLost) as caught:
            await connection.receive()
        assert (caught.value.code, caught.value.reason) == (4321, "bye")


async def test_no_code_and_a_drop_differ() -> None:
    for code, clean in ((1005, True), (1006, False)):
        async with raw_connection() as (connection, raw):
            if code == 1005:
                await raw.send(raw.close_frame(None))
            raw.drop()
            info = await connection.wait_closed()
            assert (info.code, info.was_clean) == (code, clean)
            assert connection.ended == info


async def test_a_loop_over_messages_ends_with_a_connection_that_was_closed_and_raises_for_one_that_dropped() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one"), raw.frame(BINARY, b"two"), raw.close_frame(1001))
        raw.drop()
        assert [message async for message in connection] == ["one", b"two"]
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one"))
        raw.drop()
        messages = aiter(connection)
        assert await anext(messages) == "one"
        with pytest.raises(ConnectionLost):
            await anext(messages)


@pytest.mark.parametrize("fragmented", [False, True])
async def test_more_than_max_size_is_an_error_and_the_connection_goes_on(fragmented: bool) -> None:
    async with raw_connection() as (connection, raw):
        if fragmented:
            frames = [raw.frame(TEXT, "x" * 6, fin=False), raw.frame(CONT, "x" * 6, fin=False), raw.frame(CONT, "x")]
        else:
            frames = [raw.frame(TEXT, "x" * 13)]
        await raw.send(*frames, raw.frame(TEXT, "y" * 10))
        with pytest.raises(MessageTooBig, match="max_size is 10"):
            await connection.receive(max_size=10)
        assert await connection.receive(max_size=10) == "y" * 10


async def test_the_last_fragment_counts_too() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "x" * 6, fin=False), raw.frame(CONT, "x" * 6), raw.frame(TEXT, "next"))
        with pytest.raises(MessageTooBig):
            await connection.receive(max_size=10)
        assert await connection.receive() == "next"


@pytest.mark.parametrize("fragmented", [False, True])
async def test_more_than_the_limit_closes_with_1009(fragmented: bool) -> None:
    async with raw_connection(Limits(message=1000)) as (connection, raw):
        frames = [raw.frame(BINARY, bytes(600), fin=False), raw.frame(CONT, bytes(600))]
        await raw.send(*(frames if fragmented else [raw.frame(BINARY, bytes(1001))]))
        receiving = asyncio.create_task(connection.receive())
        assert (await raw.next_of(CLOSE)).code == 1009
        raw.drop()
        with pytest.raises(ConnectionLost) as caught:
            await receiving
        assert caught.value.code == 1009


async def test_max_size_is_within_the_limit() -> None:
    async with raw_connection(Limits(message=1000)) as (connection, _):
        for size in (1001, -1):
            with pytest.raises(ValueError, match=r"Limits\.message, which is 1000 here, got"):
                await connection.receive(max_size=size)


async def test_the_wrong_kind_is_an_error_and_the_connection_goes_on() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one"), raw.frame(BINARY, b"two"), raw.frame(TEXT, "3"), raw.frame(BINARY, b"4"))
        with pytest.raises(ProtocolError, match="expected a binary message, got a text message of 3 characters"):
            await connection.receive_bytes()
        with pytest.raises(ProtocolError, match="expected a text message, got a binary message of 3 bytes"):
            await connection.receive_text()
        assert (await connection.receive_text(), await connection.receive_bytes()) == ("3", b"4")


async def test_text_that_is_not_utf8_closes_with_1007(caplog: pytest.LogCaptureFixture) -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, b"\xff"))
        receiving = asyncio.create_task(connection.receive())
        assert (await raw.next_of(CLOSE)).code == 1007
        raw.drop()
        with pytest.raises(ConnectionLost, match="1007"):
            await receiving
    assert "not UTF-8" in caplog.text


async def test_one_task_receives_at_a_time() -> None:
    async with raw_connection() as (connection, raw):
        first = asyncio.create_task(connection.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task receives"):
            await connection.receive()
        await raw.send(raw.frame(TEXT, "hi"))
        assert await first == "hi"


async def test_cancelling_receive_loses_nothing_not_even_in_the_midst_of_a_message() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one ", fin=False), raw.frame(CONT, "two ", fin=False))
        receiving = asyncio.create_task(connection.receive())
        await turns_until(lambda: connection._unfinished)
        receiving.cancel()
        await asyncio.wait([receiving])
        await raw.send(raw.frame(CONT, "three"))
        assert await connection.receive() == "one two three"


# ---------------------------------------------------------------- pieces


async def test_pieces_come_as_they_arrive_text_cut_between_characters() -> None:
    text = "aü".encode()
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, text[:2], fin=False))
        pieces = aiter(connection.pieces())
        assert await anext(pieces) == "a"
        await raw.send(raw.frame(CONT, text[2:], fin=False), raw.frame(CONT, b"z", fin=False), raw.frame(CONT))
        assert [piece async for piece in pieces] == ["ü", "z"]
        await raw.send(raw.frame(BINARY, b"whole"), raw.frame(TEXT))
        assert [piece async for piece in connection.pieces()] == [b"whole"]
        assert [piece async for piece in connection.pieces()] == [""]


async def test_a_message_in_pieces_may_have_any_size() -> None:
    async with raw_connection(Limits(message=1000, high_water=4000)) as (connection, raw):

        async def send() -> None:
            await raw.send(raw.frame(BINARY, bytes(1000), fin=False))
            for _ in range(2000):
                await raw.send(raw.frame(CONT, bytes(1000), fin=False))
            await raw.send(raw.frame(CONT, b"end"))

        sending = asyncio.create_task(send())
        total, most = 0, 0
        async for piece in connection.pieces():
            total += len(piece)
            most = max(most, connection._link.feed._size)
        await sending
        assert total == 2_001_003
        assert most < 4000 + 2 * 256 * 1024  # one read of the operating system, and what it had read ahead


async def test_what_is_left_of_pieces_is_skipped() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one", fin=False))
        async for piece in connection.pieces():
            assert piece == "one"
            break
        await raw.send(raw.frame(CONT, "rest", fin=False), raw.frame(CONT, "rest"), raw.frame(TEXT, "next"))
        assert await connection.receive() == "next"


async def test_pieces_that_are_overtaken_say_so() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one", fin=False), raw.frame(CONT, "two"), raw.frame(TEXT, "next"))
        pieces = aiter(connection.pieces())
        await anext(pieces)
        assert await connection.receive() == "next"
        with pytest.raises(RuntimeError, match="another message was received meanwhile"):
            await anext(pieces)


async def test_a_drop_within_the_message_is_raised() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, "one", fin=False))
        raw.drop()
        with pytest.raises(ConnectionLost):
            [piece async for piece in connection.pieces()]


async def test_pieces_that_are_not_utf8_close_with_1007() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, b"\xc3", fin=False), raw.frame(CONT, b""))

        async def read() -> None:
            async for _ in connection.pieces():
                pass

        reading = asyncio.create_task(read())
        assert (await raw.next_of(CLOSE)).code == 1007
        raw.drop()
        with pytest.raises(ConnectionLost, match="1007"):
            await reading


# ---------------------------------------------------------------- back-pressure


async def test_while_nobody_receives_the_other_side_is_slowed_down() -> None:
    limits = Limits(high_water=1000)
    ours, theirs = memory_transports(limits=limits)
    server = Server(limits=limits)
    done = asyncio.Event()

    async def idle(connection: object) -> None:
        await done.wait()

    server.serve_raw(idle)
    await server.accept(theirs)
    [connection] = server.raw_connections
    for _ in range(100):
        ours.send(bytes(100), False)
        await asyncio.sleep(0)
    assert connection._link.feed._size <= 1000 + 164
    assert ours.unsent > 7000
    for _ in range(100):
        assert await connection.receive() == bytes(100)
    done.set()
    await server.close()


async def test_a_flood_of_empty_messages_is_bounded() -> None:
    async with raw_connection(Limits(high_water=1000)) as (connection, raw):
        await raw.send(*[raw.frame(TEXT)] * 20_000)
        assert len(connection._link.feed._pieces) < 16_000
        for _ in range(20_000):
            await connection.receive()


async def test_closing_reads_on_but_keeps_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "wsrpc")
    async with raw_connection(Limits(high_water=1000)) as (connection, raw):
        await raw.send(*[raw.frame(BINARY, bytes(900))] * 100)
        await turns_until(lambda: connection._link.feed._paused)
        kept = len(connection._link.feed._pieces)
        closing = asyncio.create_task(connection.close(1000, "enough"))
        await raw.next_of(CLOSE)
        await raw.send(*[raw.frame(BINARY, bytes(900))] * 100, raw.close_frame(1000))
        raw.drop()
        await closing
        assert len(connection._link.feed._pieces) == kept
        assert connection.ended is not None and connection.ended.user_closed
        for _ in range(kept):
            assert await connection.receive() == bytes(900)
        with pytest.raises(ConnectionLost):
            await connection.receive()


# ---------------------------------------------------------------- JSON


class Move(msgspec.Struct):
    to: tuple[int, int]


async def test_json_of_text_and_of_binary_messages_decoded_and_converted() -> None:
    async with raw_connection() as (connection, raw):
        await raw.send(raw.frame(TEXT, '{"a":[1,null]}'), raw.frame(BINARY, b"7"), raw.frame(TEXT, '{"to":[1,2]}'))
        assert await connection.receive_json() == {"a": [1, None]}
        assert await connection.receive_json(returns=int) == 7
        assert await connection.receive_json(returns=Move) == Move((1, 2))


@pytest.mark.parametrize(
    ("text", "returns", "why"),
    [
        ("", Any, "expected a JSON value"),
        ("{broken", Any, "expected a JSON value"),
        ('"7"', int, "Expected `int`, got `str`"),
        ('{"to":[1]}', Move, r"at `\$\.to`"),
        ("[" * 5 + "]" * 5, Any, "nested more than 4 deep"),
        ("[" * 100_000, Any, "got more than 1000 values, or than 250 arrays"),
        ("[" + "1," * 50_000 + "1]", Any, "values"),
        (b"\xff", Any, "expected a JSON value"),
    ],
)
async def test_what_is_no_such_json_is_an_error_and_the_connection_goes_on(text: Any, returns: Any, why: str) -> None:
    async with raw_connection(Limits(depth=4, values=1000)) as (connection, raw):
        await raw.send(raw.frame(BINARY if isinstance(text, bytes) else TEXT, text), raw.frame(TEXT, "1"))
        with pytest.raises(ProtocolError, match=why):
            await connection.receive_json(returns=returns)
        assert await connection.receive_json() == 1
        with pytest.raises(TypeError):
            await connection.receive_json(returns=5)  # type: ignore[call-overload]
        await raw.send(raw.frame(TEXT, "[1,2,3]"))
        with pytest.raises(MessageTooBig):
            await connection.receive_json(max_size=3)


# ---------------------------------------------------------------- limits, and the end


async def test_the_size_of_messages_may_change() -> None:
    async with raw_connection(Limits(message=1000)) as (connection, raw):
        connection.limits = connection.limits.replace(message=5000)
        await raw.send(raw.frame(TEXT, "x" * 4000))
        assert len(await connection.receive(max_size=5000)) == 4000
        connection.limits = connection.limits.replace(message=600)
        with pytest.raises(ValueError, match=r"max_size= must be from 0 to Limits\.message, which is 600"):
            await connection.receive(max_size=601)
        wrong: Any
        for wrong, error in ((connection.limits.replace(depth=3), ValueError), (5, TypeError)):
            with pytest.raises(error, match=r"connection\.limits"):
                connection.limits = wrong
        await raw.send(raw.frame(TEXT, "x" * 601))
        assert (await raw.next_of(CLOSE)).code == 1009


async def test_the_beginning_of_a_message_that_is_too_large_can_be_read_in_pieces() -> None:
    async with raw_connection() as (connection, raw):
        frames = [raw.frame(TEXT, "ab", fin=False), raw.frame(CONT, "cd", fin=False), raw.frame(CONT, "ef")]
        await raw.send(*frames, raw.frame(TEXT, "next"))
        beginning = ""
        async for piece in connection.pieces():
            assert isinstance(piece, str)
            beginning += piece
            if len(beginning) >= 3:
                break
        assert beginning == "abcd"
        assert await connection.receive() == "next"


async def test_a_function_waits_for_the_end_while_other_tasks_use_its_connection() -> None:
    handed_over: asyncio.Queue[RawConnection] = asyncio.Queue()

    async def hand_over(connection: RawConnection) -> None:
        handed_over.put_nowait(connection)
        await connection.wait_closed()

    async with raw_serving(hand_over) as (server, raw):
        connection = await handed_over.get()
        await raw.send(raw.frame(TEXT, "hi"))
        await connection.send(await connection.receive())
        assert (await raw.next_frame()).payload == b"hi"
        await raw.send(raw.close_frame(1000))
        assert (await raw.next_of(CLOSE)).code == 1000
        await turns_until(lambda: server.raw_connections == ())
