"""The transport contract: the other side breaks the rules."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

import pytest
from flavours import KINDS_OVER_SOCKETS, OVER_SOCKETS, OverSockets, kinds_over_sockets, over_sockets, unable
from raw_websocket import BINARY, CLOSE, CONT, PING, TEXT, RawPeer, build_frame
from recorder import Recorder

from wsrpc import Limits

HASTY = Limits(close_timeout=0.02, ping_interval=None, message_bytes=1000)


def wrong_mask(raw: RawPeer) -> bytes:
    return build_frame(TEXT, b"x", masked=not raw.client)


def length(raw: RawPeer, kind: int, claimed: bytes) -> bytes:
    """A frame with five bytes, whose header has the length in the form ``kind``, 126 or 127."""
    mask = bytes(4) if raw.client else b""
    return bytes((0x80 | TEXT, kind | (0x80 if raw.client else 0))) + claimed + mask + b"12345"


Answers = list[bytes | int]
"""Payloads of pongs, and the code of the Close frame, in order."""

BEHIND_CLOSE = "violation behind a close"
SENDABLE = (1000, 1003, 1014, 3000, 4999)
UNSENDABLE = (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)

ROWS: dict[str, tuple[Callable[[RawPeer], bytes], Answers]] = {
    "mask": (wrong_mask, [1002]),
    "reserved opcode 3": (lambda raw: raw.frame(0x3, "x"), [1002]),
    "reserved bit 1": (lambda raw: raw.frame(TEXT, "x", rsv=4), [1002]),
    "ping in fragments": (lambda raw: raw.frame(PING, "x", fin=False), [1002]),
    "long ping": (lambda raw: raw.frame(PING, "x" * 126), [1002]),
    "continuation of nothing": (lambda raw: raw.frame(CONT, "x"), [1002]),
    "message in a message": (lambda raw: raw.frame(TEXT, "x", fin=False) + raw.frame(BINARY, "y"), [1002]),
    "close frame of one byte": (lambda raw: raw.frame(CLOSE, b"\x03"), [1002]),
    **{f"close code {code}": (partial(RawPeer.close_frame, code=code), [1002]) for code in UNSENDABLE},
    "close reason that is not UTF-8": (lambda raw: raw.frame(CLOSE, b"\x03\xe8\xff\xff"), [1007]),
    "close reason that breaks off": (lambda raw: raw.frame(CLOSE, b"\x03\xe8\xc3"), [1007]),
    "close reason with half of a character": (lambda raw: raw.frame(CLOSE, b"\x0f\xa0\xed\xa0\x80"), [1007]),
    "long close frame": (lambda raw: raw.frame(CLOSE, b"\x0f\xa0" + b"x" * 124), [1002]),
    "close frame without FIN": (lambda raw: raw.frame(CLOSE, b"\x03\xe8", fin=False), [1002]),
    "length in the long form": (lambda raw: length(raw, 126, b"\0\5"), [1002]),
    "length in the longest form": (lambda raw: length(raw, 127, bytes(6) + b"\xff\xff"), [1002]),
    "highest bit of a length": (lambda raw: length(raw, 127, b"\x80" + bytes(7)), [1002]),
    "violation behind a ping": (lambda raw: raw.frame(PING, "p") + raw.frame(0x3, "x"), [b"p", 1002]),
    "ping behind a violation": (lambda raw: raw.frame(0x3, "x") + raw.frame(PING, "p"), [1002]),
    "large message behind a ping": (lambda raw: raw.frame(PING, "p") + raw.frame(TEXT, "x" * 1001), [b"p", 1009]),
    "close in a message": (lambda raw: raw.frame(TEXT, "x", fin=False) + raw.close_frame(4000), [4000]),
    **{f"close code {code}": (partial(RawPeer.close_frame, code=code, reason="why"), [code]) for code in SENDABLE},
    "ping behind a close": (lambda raw: raw.close_frame(4000) + raw.frame(PING, "p"), [4000]),
    BEHIND_CLOSE: (lambda raw: raw.close_frame(4000) + raw.frame(0x3, "x"), [4000]),
}
"""Frames that break the rules of RFC 6455, or close, and what is answered."""

PARSES = OVER_SOCKETS[0], OVER_SOCKETS[1]
"""A client and a server on `wsrpc._net`, to which other libraries hand their sockets over."""


@pytest.mark.parametrize("flavour", PARSES, ids=repr)
@pytest.mark.parametrize("row", ROWS)
async def test_what_breaks_the_rules_is_answered_alike(flavour: OverSockets, row: str) -> None:
    violation, answers = ROWS[row]
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "in order"))
        await recorder.count(1)
        await raw.send(violation(raw), raw.frame(TEXT, "not looked at"))
        answered: Answers = []
        while not answered or isinstance(answered[-1], bytes):
            frame = await raw.next_frame()
            answered.append(frame.code if frame.opcode == CLOSE else frame.payload)
        assert answered == answers
        # The raw peer does nothing more; that must not keep the connection.
        assert (await recorder.end()).code == (4000 if row == BEHIND_CLOSE else answers[-1])
        assert recorder.texts == ["in order"]


@over_sockets
async def test_messages_that_come_together_with_a_violation(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "in order"), raw.frame(0x3, "x"), raw.frame(TEXT, "not looked at"))
        assert (await recorder.end()).code == (1006 if "violation" in flavour.cannot else 1002)
        assert recorder.texts == ["in order"] or ("before a violation" in flavour.cannot and not recorder.texts)


@kinds_over_sockets
async def test_a_message_of_exactly_the_limit_passes(flavour: OverSockets) -> None:
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "x" * 1000), raw.frame(BINARY, "x" * 400, fin=False))
        await raw.send(raw.frame(CONT, "y" * 600), raw.frame(TEXT, ""))
        await recorder.count(3)
        assert [len(payload) for payload, _ in recorder.messages] == [1000, 1000, 0]


HEAD = "the head of a huge frame"
TOO_MUCH: dict[str, Callable[[RawPeer], bytes]] = {
    "a frame": lambda raw: raw.frame(TEXT, "x" * 1001),
    "fragments": lambda raw: raw.frame(TEXT, "x" * 600, fin=False) + raw.frame(CONT, "x" * 401),
    HEAD: lambda raw: build_frame(BINARY, b"", masked=raw.client, size=2**62)[:14],
}


TOO_LARGE = [
    (each, what) for each in KINDS_OVER_SOCKETS for what in TOO_MUCH if what != HEAD or "too large" not in each.cannot
]


@pytest.mark.parametrize(("flavour", "what"), TOO_LARGE, ids=str)
async def test_a_larger_message_closes_with_1009_as_soon_as_that_is_known(flavour: OverSockets, what: str) -> None:
    assert await end_of_too_much(flavour, TOO_MUCH[what]) == 1009


@unable("too large")
async def test_it_closes_at_the_server_s_own_limit(flavour: OverSockets) -> None:
    code = await end_of_too_much(flavour, lambda raw: TOO_MUCH[HEAD](raw) + bytes(17_000_000))
    assert code == (1006 if "close code" in flavour.cannot else 1009)


async def end_of_too_much(flavour: OverSockets, build: Callable[[RawPeer], bytes]) -> int:
    """What is sent closes the connection with 1009, and is not delivered. Returns the code that is told here."""
    async with flavour.raw(HASTY) as (transport, raw):
        recorder = Recorder.of(transport)
        await raw.send(raw.frame(TEXT, "small"))
        await recorder.count(1)
        sending = asyncio.create_task(raw.send(build(raw)))
        assert (await raw.next_of(CLOSE)).code == 1009
        sending.cancel()
        await asyncio.wait([sending])
        raw.drop()
        code = (await recorder.end()).code
        assert recorder.texts == ["small"]
        return code
