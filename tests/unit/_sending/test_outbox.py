"""`wsrpc._sending.outbox`: what waits for a connection."""

from __future__ import annotations

import pytest

from wsrpc import QueueFull
from wsrpc._sending.offline import Outbox


def flushed(outbox: Outbox) -> list[bytes]:
    taken: list[bytes] = []
    outbox.flush(lambda payload, _: taken.append(payload))
    return taken


def test_it_leaves_in_order_and_once() -> None:
    outbox = Outbox(10, 1000)
    for number in range(5):
        outbox.put(b"%d" % number)
    assert len(outbox) == 5
    assert flushed(outbox) == [b"0", b"1", b"2", b"3", b"4"]
    assert len(outbox) == 0
    assert flushed(outbox) == []


def test_a_ticket_takes_a_message_back() -> None:
    outbox = Outbox(10, 1000)
    tickets = [outbox.put(b"%d" % number) for number in range(3)]
    assert len(set(tickets)) == 3
    assert outbox.remove(tickets[1])
    assert not outbox.remove(tickets[1])
    assert flushed(outbox) == [b"0", b"2"]
    assert not outbox.remove(tickets[0])


def test_the_bound_of_messages() -> None:
    outbox = Outbox(2, 1000)
    outbox.put(b"1")
    ticket = outbox.put(b"2")
    with pytest.raises(QueueFull, match=r"2 messages \(2 bytes\).*Limits.offline=2"):
        outbox.put(b"3")
    outbox.remove(ticket)
    outbox.put(b"3")
    assert flushed(outbox) == [b"1", b"3"]


def test_the_bound_of_bytes() -> None:
    outbox = Outbox(10, 5)
    outbox.put(b"123")
    outbox.put(b"45")
    with pytest.raises(QueueFull):
        outbox.put(b"6")
    outbox.put(b"")
    assert flushed(outbox) == [b"123", b"45", b""]
    outbox.put(b"12345")
    with pytest.raises(QueueFull):
        Outbox(10, 5).put(b"123456")


def test_the_sender_is_told_when_its_message_leaves() -> None:
    outbox = Outbox(10, 1000)
    told: list[str] = []
    outbox.put(b"1", lambda error: told.append("1"))
    outbox.put(b"2")
    outbox.remove(outbox.put(b"3", lambda error: told.append("3")))
    outbox.flush(lambda payload, _: told.append(f"send {payload.decode()}"))
    assert told == ["send 1", "1", "send 2"]


def test_what_could_not_be_sent_stays_in_place() -> None:
    outbox = Outbox(3, 6)
    told: list[bytes] = []
    for payload in (b"11", b"22", b"33"):
        outbox.put(payload, lambda error, payload=payload: told.append(payload))  # type: ignore[misc]

    def send(payload: bytes, text: bool | None) -> None:
        if payload == b"22":
            raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        outbox.flush(send)
    assert told == [b"11"]
    assert len(outbox) == 2
    outbox.put(b"44")
    with pytest.raises(QueueFull):
        outbox.put(b"5")
    assert flushed(outbox) == [b"22", b"33", b"44"]


def test_a_sender_may_take_the_next_one_back_meanwhile() -> None:
    outbox = Outbox(3, 100)
    tickets: list[int] = []

    def take_back(error: Exception | None) -> None:
        outbox.remove(tickets[1])

    tickets.append(outbox.put(b"1", take_back))
    tickets.append(outbox.put(b"2"))
    tickets.append(outbox.put(b"3"))
    assert flushed(outbox) == [b"1", b"3"]


def test_clear() -> None:
    outbox = Outbox(2, 4)
    outbox.put(b"12")
    outbox.put(b"34")
    assert outbox.clear() == 2
    assert outbox.clear() == 0
    assert len(outbox) == 0
    outbox.put(b"1234")
    assert flushed(outbox) == [b"1234"]
