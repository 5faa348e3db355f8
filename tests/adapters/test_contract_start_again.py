"""The transport contract: the receiver of the first message of a connection starts the transport with another receiver.

That is how a session goes on over another connection: its first message says for which peer the connection is.
"""

from __future__ import annotations

import pytest
from core_driver import turns
from flavours import FLAVOURS, Flavour
from leftovers import turns_until
from recorder import Recorder

from wsrpc import CloseInfo, Limits
from wsrpc.transport import Transport

LIMITS = Limits(close_timeout=1.0)

flavours = pytest.mark.parametrize("flavour", FLAVOURS, ids=repr)


class First:
    """A receiver that starts the transport with another one when its first message comes, and passes on the rest."""

    def __init__(self, transport: Transport, other: Recorder) -> None:
        self.transport = transport
        self.other = other
        self.got: list[bytes] = []
        self.lost = False

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.got.append(bytes(payload))
        if len(self.got) == 1:
            self.transport.start(self.other)
        else:
            self.other.receive(payload, text)

    def read_ended(self) -> None:
        if self.got:
            self.other.read_ended()

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None:
        self.lost = True


@flavours
@pytest.mark.parametrize("early", [True, False], ids=["kept", "live"])
async def test_a_transport_is_started_again_in_receive(flavour: Flavour, early: bool) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        other = Recorder.of(theirs)
        recorder = Recorder()
        first = First(ours, recorder)
        if not early:
            ours.start(first)
        for text in (b"1", b"2", b"3"):
            theirs.send(text)
        if early:
            await turns(50)
            ours.start(first)
        ours.send(b"a")
        await recorder.count(2)
        await other.count(1)
        before = list(first.got)
        theirs.send(b"4")
        theirs.send(b"5")
        await recorder.count(4)
        ours.send(b"b")
        await other.count(2)
        assert recorder.texts == ["2", "3", "4", "5"] and other.texts == ["a", "b"]
        assert first.got == before, "what comes later does not pass through the first receiver"
        await theirs.close(4000, "bye")
        info = await recorder.end()
        assert not first.lost and recorder.log[-2:].count("read_ended") == 1
        assert "close code" in flavour.cannot or (info.code, info.reason, info.was_clean) == (4000, "bye", True)


class Pauses(First):
    """A receiver that stops the transport when its first message comes, and keeps the rest."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.got.append(bytes(payload))
        self.transport.pause_receiving()

    def read_ended(self) -> None: ...


@flavours
@pytest.mark.parametrize("early", [True, False], ids=["kept", "live"])
async def test_a_transport_that_was_paused_is_started_again(flavour: Flavour, early: bool) -> None:
    async with flavour.pair(LIMITS) as (ours, theirs):
        recorder = Recorder()
        first = Pauses(ours, recorder)
        if not early:
            ours.start(first)
        theirs.send(b"1")
        if early:
            await turns(50)
            ours.start(first)
        await turns_until(lambda: first.got == [b"1"])
        theirs.send(b"2")
        await turns(50)
        # An ASGI server that was asked for the next message before gives that one.
        assert first.got in ([b"1"], [b"1", b"2"])
        theirs.send(b"3")
        await turns(50)
        before = list(first.got)
        ours.start(recorder)
        ours.resume_receiving()
        await turns_until(lambda: len(before) + len(recorder.texts) == 3)
        assert [*before, *(text.encode() for text in recorder.texts)] == [b"1", b"2", b"3"]
        assert first.got == before
