"""Frames have the same effect as on the `websockets` library's own protocol, whatever a client sends, and however it
is cut: the same messages, and the same bytes in return."""

from __future__ import annotations

import asyncio
import itertools

from hypothesis import example, given
from hypothesis import strategies as st
from raw_websocket import CLOSE, CONT, build_frame
from recorder import Recorder
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from wsrpc import Limits
from wsrpc._net.websocket import WebSocketConnection
from wsrpc._net.websocket_output import OpeningResult
from wsrpc.transport import ConnectionInfo

LIMITS = Limits(ping_interval=None)
"""No message exceeds them: the library applies its limit to control frames, too, as part of the message around them."""


class Wire(asyncio.Transport):
    """The transport of asyncio, which keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.eof = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.eof = True

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def compression() -> PerMessageDeflate:
    return PerMessageDeflate(True, True, 12, 12, {"memLevel": 5})


class StrictDeflate(PerMessageDeflate):
    """Refuses the first reserved bit on a continuation frame, as the library does from version 16.1 on."""

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        if frame.opcode is Opcode.CONT and frame.rsv1:
            raise ProtocolError("RSV1 bit set in continuation frame")
        return super().decode(frame, max_size=max_size)


def the_library(compressed: bool) -> ServerProtocol:
    library = ServerProtocol(state=State.OPEN, max_size=None)
    library.extensions = [StrictDeflate(True, True, 12, 12, {})] if compressed else []
    return library


def by_the_library(data: bytes, compressed: bool) -> tuple[list[tuple[bytes, bool]], bytes, bool]:
    """Return the messages, the bytes in return, and whether these are the last."""
    library = the_library(compressed)
    library.receive_data(data)
    messages: list[tuple[bytes, bool]] = []
    parts: list[bytes] = []
    text = True
    for frame in library.events_received():
        assert isinstance(frame, Frame)
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            text = text if frame.opcode is Opcode.CONT else frame.opcode is Opcode.TEXT
            parts.append(bytes(frame.data))
            if frame.fin:
                messages.append((b"".join(parts), text))
                parts.clear()
    answers = library.data_to_send()
    return messages, shortened(b"".join(answers)), b"" in answers


def shortened(answers: bytes) -> bytes:
    """Return ``answers`` without the reason of a Close frame with 1002: a frame may break several rules."""
    before, code, _ = answers.rpartition(b"\x03\xea")
    return before[:-1] + code if code else answers


async def by_a_connection(pieces: list[bytes], compressed: bool) -> tuple[list[tuple[bytes, bool]], bytes, bool]:
    wire, inbox = Wire(), Recorder()
    opened = OpeningResult(client=False, info=ConnectionInfo(), compression=compression() if compressed else None)
    connection = WebSocketConnection(wire, opened, LIMITS)
    connection.start(inbox)
    for piece in pieces:
        connection.data_received(piece)
    return inbox.messages, wire.written, wire.eof


payloads = st.one_of(st.binary(max_size=20), st.sampled_from([0, 124, 125, 126, 200, 512, 513]).map(bytes))
closes = st.builds(
    lambda code, reason: code.to_bytes(2, "big") + reason,
    st.sampled_from([999, 1000, 1004, 1005, 1006, 1011, 1015, 2999, 3000, 4999, 5000]),
    st.sampled_from([b"", b"bye", b"\xff", "ä".encode(), b"x" * 123]),
)
rarely = st.integers(0, 9).map(lambda number: number == 0)
rsv = st.sampled_from([0, 0, 0, 0, 4, 1])
valid = st.builds(
    lambda opcode, payload, fin, compressed: Frame(opcode, payload, fin).serialize(
        mask=True, extensions=[compression()] if compressed and fin and opcode in (1, 2) else []
    ),
    st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.CONT]),
    payloads,
    st.booleans(),
    st.booleans(),
)
others = st.builds(
    lambda opcode, payload, fin, rsv, unmasked: build_frame(opcode, payload, masked=not unmasked, fin=fin, rsv=rsv),
    st.sampled_from([0, 1, 2, 3, 9, 9, 9, 10, 11]),
    payloads,
    st.booleans(),
    rsv,
    rarely,
)
COMPRESSED_START = Frame(Opcode.TEXT, b"hello", fin=False).serialize(mask=True, extensions=[compression()])
close_frames = st.builds(
    lambda payload, fin, rsv: build_frame(CLOSE, payload, masked=True, fin=fin, rsv=rsv),
    st.one_of(closes, st.binary(max_size=2)),
    rarely.map(lambda unlikely: not unlikely),
    rsv,
)


@given(
    st.lists(st.one_of(valid, others), max_size=8),
    st.lists(close_frames, max_size=1),
    st.booleans(),
    st.lists(st.integers(0, 2**16), max_size=5),
)
@example([COMPRESSED_START, build_frame(CONT, b"", masked=True, rsv=4)], [], True, [])
def test_whatever_a_client_sends(frames: list[bytes], close: list[bytes], compressed: bool, cuts: list[int]) -> None:
    data = b"".join(frames)
    if close:
        # Finish the message first: a Close frame within one is a violation for the library, but not for RFC 6455, 5.4.
        data += build_frame(CONT, b"", masked=True) if in_message(data, compressed) else b""
        data += close[0]
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
    pieces = [data[begin:end] for begin, end in itertools.pairwise(places)]
    messages, answers, ended = asyncio.run(by_a_connection(pieces, compressed))
    assert (messages, shortened(answers), ended) == by_the_library(data, compressed)


def in_message(data: bytes, compressed: bool) -> bool:
    """Whether the library expects a continuation behind ``data``."""
    library = the_library(compressed)
    library.receive_data(data + build_frame(CONT, b"", masked=True))
    frames = [frame for frame in library.events_received() if isinstance(frame, Frame)]
    return bool(frames) and frames[-1].opcode is Opcode.CONT and library.close_sent is None
