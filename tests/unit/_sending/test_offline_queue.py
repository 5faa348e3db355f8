"""`wsrpc._sending.offline`: messages that wait for a connection."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import pytest

from wsrpc import Limits, MessageTooBig, QueueFull
from wsrpc._protocol.messages import Raw
from wsrpc._sending.offline import OfflineQueue
from wsrpc._session.session import Session
from wsrpc._session.waiting import WaitingMessage
from wsrpc.codecs import JsonCodec

Told = Callable[[Exception | None], None]


class Outbox(OfflineQueue):
    """The queue for messages that are given as payloads."""

    def __init__(self, max_messages: int) -> None:
        self.queued = 0
        self.lines: list[tuple[object, ...]] = []
        limits = Limits(offline=max_messages)
        super().__init__(JsonCodec(), limits, self.count, lambda *line: self.lines.append(line))

    def count(self) -> None:
        self.queued += 1

    def let_wait(self, payload: bytes, told: Told | None = None) -> WaitingMessage:
        return self.keep(Raw(payload, True), cast("Session", Line(nothing)), told)

    def send_all(self, send: Callable[[bytes, bool], None]) -> None:
        self.flush(cast("Session", Line(send)), 2**31, accept_all)


class Line(NamedTuple):
    """A session that has a connection."""

    send: Callable[[bytes, bool], None]
    waiting: None = None


def nothing(payload: bytes, text: bool) -> None: ...


def accept_all(payload: bytes, raw: bool) -> MessageTooBig | None:
    return None


def flushed(outbox: Outbox) -> list[bytes]:
    taken: list[bytes] = []
    outbox.send_all(lambda payload, _: taken.append(payload))
    return taken


def test_it_leaves_in_order_and_once() -> None:
    outbox = Outbox(10)
    for number in range(5):
        outbox.let_wait(b"%d" % number)
    assert len(outbox) == 5
    assert flushed(outbox) == [b"0", b"1", b"2", b"3", b"4"]
    assert len(outbox) == 0
    assert flushed(outbox) == []


def test_a_ticket_takes_a_message_back() -> None:
    outbox = Outbox(10)
    tickets = [outbox.let_wait(b"%d" % number) for number in range(3)]
    assert len(set(tickets)) == 3
    assert tickets[1].take_back()
    assert not tickets[1].take_back()
    assert flushed(outbox) == [b"0", b"2"]
    assert not tickets[0].take_back()


def test_the_bound_of_messages() -> None:
    outbox = Outbox(2)
    outbox.let_wait(b"1")
    ticket = outbox.let_wait(b"2")
    with pytest.raises(QueueFull, match=r"2 messages \(2 bytes\).*Limits.offline=2"):
        outbox.let_wait(b"3")
    ticket.take_back()
    outbox.let_wait(b"3")
    assert flushed(outbox) == [b"1", b"3"]


def test_the_bound_of_bytes() -> None:
    most = Limits(offline=10).offline_bytes
    outbox = Outbox(10)
    outbox.let_wait(b"x" * (most - 2))
    outbox.let_wait(b"45")
    with pytest.raises(QueueFull):
        outbox.let_wait(b"6")
    outbox.let_wait(b"")
    assert flushed(outbox) == [b"x" * (most - 2), b"45", b""]
    outbox.let_wait(b"x" * most)
    with pytest.raises(QueueFull):
        Outbox(10).let_wait(b"x" * (most + 1))


def test_the_sender_learns_when_its_message_leaves() -> None:
    outbox = Outbox(10)
    told: list[str] = []
    outbox.let_wait(b"1", lambda error: told.append("1"))
    outbox.let_wait(b"2")
    outbox.let_wait(b"3", lambda error: told.append("3")).take_back()
    outbox.send_all(lambda payload, _: told.append(f"send {payload.decode()}"))
    assert told == ["send 1", "1", "send 2"]


def _note(told: list[bytes], payload: bytes, error: Exception | None) -> None:
    told.append(payload)


def test_what_could_not_be_sent_stays_in_place() -> None:
    outbox = Outbox(3)
    told: list[bytes] = []
    for payload in (b"11", b"22", b"33"):
        outbox.let_wait(payload, partial(_note, told, payload))

    def send(payload: bytes, text: bool) -> None:
        if payload == b"22":
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        outbox.send_all(send)
    assert told == [b"11"]
    assert len(outbox) == 2
    outbox.let_wait(b"44")
    with pytest.raises(QueueFull):
        outbox.let_wait(b"5")
    assert flushed(outbox) == [b"22", b"33", b"44"]


def test_a_sender_may_take_the_next_one_back_meanwhile() -> None:
    outbox = Outbox(3)
    tickets: list[WaitingMessage] = []

    def take_back(error: Exception | None) -> None:
        tickets[1].take_back()

    tickets.append(outbox.let_wait(b"1", take_back))
    tickets.append(outbox.let_wait(b"2"))
    tickets.append(outbox.let_wait(b"3"))
    assert flushed(outbox) == [b"1", b"3"]


def test_clear() -> None:
    outbox = Outbox(2)
    outbox.let_wait(b"12")
    outbox.let_wait(b"34")
    outbox.discard()
    outbox.discard()
    assert outbox.lines == [("%d %s that waited for a connection %s not sent", 2, "events", "were")]
    assert len(outbox) == 0
    outbox.let_wait(b"1234")
    assert flushed(outbox) == [b"1234"]
