"""`RawConnection`: receiving, whole messages and pieces."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from leftovers import nothing_left as nothing_left
from raw_driver import raw_connection
from raw_websocket import BINARY, CLOSE, CONT, PING, TEXT, RawPeer

from wsrpc import ConnectionLost, Limits, MessageTooBig
from wsrpc.errors import ProtocolError
from wsrpc.types import RawConnection

pytestmark = pytest.mark.usefixtures("nothing_left")

Frame = tuple[int, str | bytes, bool]
"""Opcode, payload, and whether it ends the message."""

MORE, END = False, True


def parts(opcode: int, *payloads: str | bytes) -> list[Frame]:
    """A message in several frames."""
    last = len(payloads) - 1
    return [(CONT if number else opcode, payload, number == last) for number, payload in enumerate(payloads)]


async def send(raw: RawPeer, *frames: Frame) -> None:
    await raw.send(*(raw.frame(opcode, payload, fin=fin) for opcode, payload, fin in frames))


async def all_pieces(connection: RawConnection) -> list[str | bytes]:
    return [piece async for piece in connection.pieces()]


# ---------------------------------------------------------------- one message after another


class Move(msgspec.Struct):
    to: tuple[int, int]


GRÜSSE: list[Frame] = [(TEXT, b"gr\xc3", MORE), (PING, b"", END), (CONT, b"\xbc\xc3\x9fe", END)]
TOO_BIG = (MessageTooBig, "max_size is 10")
NO_TEXT = (ProtocolError, "expected a text message, got a binary message of 1 bytes")
NO_BYTES = (ProtocolError, "expected a binary message, got a text message of 1 characters")

RECEIVED: list[tuple[list[Frame], str, dict[str, Any], Any]] = [
    ([(TEXT, "grüße", END)], "receive", {}, "grüße"),
    ([(BINARY, b"\x00\xff", END)], "receive", {}, b"\x00\xff"),
    (GRÜSSE, "receive", {}, "grüße"),
    (parts(TEXT, "x" * 6, "x" * 6, "x"), "receive", {"max_size": 10}, TOO_BIG),
    ([(BINARY, "3", END)], "receive_text", {}, NO_TEXT),
    ([(TEXT, "3", END)], "receive_bytes", {}, NO_BYTES),
    ([(BINARY, "7", END)], "receive_json", {"returns": int}, 7),
    ([(TEXT, '{"to":[1,2]}', END)], "receive_json", {"returns": Move}, Move((1, 2))),
    ([(TEXT, "{broken", END)], "receive_json", {}, (ProtocolError, "expected a JSON value")),
    ([(TEXT, '"7"', END)], "receive_json", {"returns": int}, (ProtocolError, "Expected `int`, got `str`")),
    ([(TEXT, "[" * 5 + "]" * 5, END)], "receive_json", {}, (ProtocolError, "nested more than 4 deep")),
    ([(TEXT, "[" + "1," * 5000 + "1]", END)], "receive_json", {}, (ProtocolError, "values")),
]


@pytest.mark.parametrize(("frames", "method", "options", "expected"), RECEIVED)
async def test_what_is_received_and_an_error_lets_the_connection_go_on(
    frames: list[Frame], method: str, options: dict[str, Any], expected: Any
) -> None:
    async with raw_connection(Limits(depth=4, values=1000)) as (connection, raw):
        await send(raw, *frames, (TEXT, "next", END))
        if isinstance(expected, tuple):
            with pytest.raises(expected[0], match=expected[1]):
                await getattr(connection, method)(**options)
        else:
            assert await getattr(connection, method)(**options) == expected
        assert await connection.receive() == "next"


@pytest.mark.parametrize(
    ("frames", "code"),
    [(parts(BINARY, bytes(600), bytes(600)), 1009), ([(TEXT, b"\xff", END)], 1007), (parts(TEXT, b"\xc3", b""), 1007)],
)
async def test_more_than_the_limit_and_what_is_not_utf8_close(frames: list[Frame], code: int) -> None:
    async with raw_connection(Limits(message_bytes=1000)) as (connection, raw):
        await send(raw, *frames)
        in_pieces = code == 1007 and len(frames) > 1
        receiving = asyncio.create_task(all_pieces(connection) if in_pieces else connection.receive())
        assert (await raw.next_of(CLOSE)).code == code
        raw.drop()
        with pytest.raises(ConnectionLost) as caught:
            await receiving
        assert caught.value.code == code


async def test_the_size_of_messages_may_change() -> None:
    async with raw_connection(Limits(message_bytes=1000)) as (connection, raw):
        with pytest.raises(ValueError, match=r"max_size= must .* Limits\.message_bytes, which is 1000 here, got"):
            await connection.receive(max_size=1001)
        connection.limits = connection.limits.replace(message_bytes=5000)
        await send(raw, (TEXT, "x" * 4000, END))
        assert len(await connection.receive(max_size=5000)) == 4000
        connection.limits = connection.limits.replace(message_bytes=600)
        with pytest.raises(ValueError, match=r"connection\.limits"):
            connection.limits = connection.limits.replace(depth=3)
        await send(raw, (TEXT, "x" * 601, END))
        assert (await raw.next_of(CLOSE)).code == 1009


# ---------------------------------------------------------------- pieces


async def test_pieces_come_as_they_arrive_text_cut_between_characters() -> None:
    first, second, *more = parts(TEXT, b"a\xc3", b"\xbc", b"z", b"")
    async with raw_connection() as (connection, raw):
        await send(raw, first)
        pieces = aiter(connection.pieces())
        assert await anext(pieces) == "a"
        await send(raw, second, *more, (BINARY, b"whole", END), (TEXT, "", END))
        assert [piece async for piece in pieces] == ["ü", "z"]
        assert [await all_pieces(connection) for _ in range(2)] == [[b"whole"], [""]]


async def test_a_message_in_pieces_may_have_any_size() -> None:
    """The operating system holds the sender back, so that little of it is here at once."""
    async with raw_connection(Limits(message_bytes=1000, high_water_bytes=4000)) as (connection, raw):
        sending = asyncio.create_task(send(raw, *parts(BINARY, *[bytes(1000)] * 20_000, b"end")))
        async with aclosing(aiter(connection.pieces())) as pieces:  # type: ignore[type-var]
            total = len(await anext(pieces))
            await asyncio.sleep(0)
            assert not sending.done()
            async for piece in pieces:
                total += len(piece)
        await sending
        assert total == 20_000_003


async def test_what_is_left_of_pieces_is_skipped() -> None:
    """So the beginning of a message that is too large can be read. Who goes on with the pieces is told."""
    async with raw_connection() as (connection, raw):
        await send(raw, *parts(TEXT, "a", "b"), (TEXT, "c", END), *parts(TEXT, "d", "e", "f"), (TEXT, "g", END))
        got: list[str | bytes] = []
        async for piece in connection.pieces():
            got.append(piece)
            if piece == "b":  # the last one
                got.append(await connection.receive())
        assert got == ["a", "b", "c"]
        pieces = aiter(connection.pieces())
        assert await anext(pieces) == "d"
        assert await connection.receive() == "g"
        with pytest.raises(RuntimeError, match="another message was received meanwhile"):
            await anext(pieces)


async def test_closing_reads_on_but_keeps_nothing() -> None:
    async with raw_connection(Limits(high_water_bytes=1000)) as (connection, raw):
        closing = asyncio.create_task(connection.close(1000, "enough"))
        await raw.next_of(CLOSE)
        await send(raw, *[(BINARY, bytes(900), END)] * 100)
        await raw.send(raw.close_frame(1000))
        raw.drop()
        await closing
        assert connection.ended is not None and connection.ended.user_closed
        assert [message async for message in connection] == []


# ---------------------------------------------------------------- the end


@pytest.mark.parametrize(("end", "midway"), [((4321, "bye"), False), (None, False), (None, True)])
async def test_what_came_before_the_end_is_received_after_it(end: tuple[int, str] | None, midway: bool) -> None:
    """A loop over messages ends with a connection that was closed, and raises for one that dropped."""
    async with raw_connection() as (connection, raw):
        await send(raw, (TEXT, "one", END), (BINARY, b"two", END), *[(TEXT, "thr", MORE)] * midway)
        if end is not None:
            await raw.send(raw.close_frame(*end))
        raw.drop()
        info = await connection.wait_closed()
        assert (info.code, info.was_clean, info.user_closed) == (1006 if end is None else 4321, end is not None, False)
        assert end is None or info.reason == "bye"
        assert connection.closed and connection.ended == info
        messages = aiter(connection)
        assert [await anext(messages), await anext(messages)] == ["one", b"two"]
        with pytest.raises(ConnectionLost if end is None else StopAsyncIteration):
            await anext(messages)
        for again in (connection.receive(), all_pieces(connection)):
            with pytest.raises(ConnectionLost) as caught:
                await again
            assert (caught.value.code, caught.value.reason) == (info.code, info.reason)
