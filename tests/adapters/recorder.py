"""A receiver that writes down what its transport tells it, and objects to what the contract forbids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from waiting import until

from wsrpc import CloseInfo
from wsrpc.transport import Transport


class Recorder:
    """``log`` has one entry a call. ``on_message`` is called for each message, inside `receive`."""

    def __init__(self, on_message: Callable[[bytes], None] | None = None) -> None:
        self.log: list[str] = []
        self.messages: list[tuple[bytes, bool]] = []
        self.reads = 0
        self.paused = False
        self.lost: CloseInfo | None = None
        self.wrong: list[str] = []
        self.on_message = on_message

    @classmethod
    def of(cls, transport: Transport) -> Recorder:
        """Start ``transport`` with a new recorder."""
        recorder = cls()
        transport.start(recorder)
        return recorder

    @property
    def texts(self) -> list[str]:
        return [payload.decode() for payload, text in self.messages if text]

    def _note(self, what: str) -> None:
        if self.lost is not None:
            self.wrong.append(f"{what} after connection_lost")
        self.log.append(what)

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        if not isinstance(payload, (bytes, bytearray)):
            self.wrong.append(f"a payload that is {type(payload)}")
        if not isinstance(text, bool):
            self.wrong.append(f"text={text!r}")
        self.messages.append((bytes(payload), text))
        self._note("receive")
        if self.on_message is not None:
            self.on_message(bytes(payload))

    def read_ended(self) -> None:
        self.reads += 1
        self._note("read_ended")

    def pause_sending(self) -> None:
        if self.paused:
            self.wrong.append("paused twice")
        self.paused = True
        self._note("pause_sending")

    def resume_sending(self) -> None:
        if not self.paused:
            self.wrong.append("resumed without a pause")
        self.paused = False
        self._note("resume_sending")

    def connection_lost(self, info: CloseInfo, /) -> None:
        self._note("connection_lost")
        self.lost = info

    async def count(self, messages: int) -> None:
        """Wait for so many messages in all."""
        await until(lambda: len(self.messages) >= messages)

    async def end(self) -> CloseInfo:
        """Wait for the end of the connection, check that all was in order, and return how it ended."""
        await until(lambda: "connection_lost" in self.log)
        for _ in range(10):  # whatever still comes would come in the next turns
            await asyncio.sleep(0)
        assert self.wrong == []
        assert self.log.count("connection_lost") == 1
        assert self.log[-1] == "connection_lost"
        assert self.lost is not None
        return self.lost


PIECE = b"x" * 60_000


async def fill(transport: Transport, recorder: Recorder) -> int:
    """Send until the transport says stop; returns how many messages that were, each with its number."""
    count = 0
    while not recorder.paused:
        transport.send(b"%04d" % count + PIECE)
        count += 1
        assert count < 2000, "nobody reads, and the transport still has not paused"
        await asyncio.sleep(0)
    return count
