"""`Delivery`: messages reach the receiver whole, in order, and none before there is one."""

from __future__ import annotations

import pytest

from wsrpc import CloseInfo
from wsrpc._transports.delivery import Delivery


class Whole:
    """A receiver of whole messages."""

    def __init__(self) -> None:
        self.got: list[tuple[object, ...]] = []

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        self.got.append((bytes(payload), text))

    def read_ended(self) -> None: ...

    def pause_sending(self) -> None: ...

    def resume_sending(self) -> None: ...

    def connection_lost(self, info: CloseInfo, /) -> None: ...


class Pieces(Whole):
    """A receiver that takes the frames of a message."""

    def receive_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        assert isinstance(payload, bytes)
        self.got.append((payload, text, last))


def test_reading_is_paused_for_the_first_message_that_comes_early() -> None:
    paused: list[int] = []
    delivery = Delivery(lambda: paused.append(1))
    delivery.frame(b"a", True, True)
    delivery.frame(b"b", False, True)
    assert paused == [1]
    receiver = Whole()
    delivery.start(receiver)
    delivery.frame(b"c", True, True)
    assert receiver.got == [(b"a", True), (b"b", False), (b"c", True)]
    assert paused == [1]


@pytest.mark.parametrize("early", range(4))
def test_fragments_are_joined_wherever_the_receiver_starts(early: int) -> None:
    delivery = Delivery(lambda: None)
    receiver = Whole()
    frames = [(b"on", False, False), (b"e ", True, False), (b"two", True, True), (b"next", True, True)]
    for number, frame in enumerate(frames):
        if number == early:
            delivery.start(receiver)
        assert delivery.in_message is (0 < number < 3)
        delivery.frame(*frame)
        assert delivery.held == (2, 4, 0, 0)[number]
    assert receiver.got == [(b"one two", False), (b"next", True)]


@pytest.mark.parametrize("early", range(3))
def test_a_receiver_of_pieces_gets_what_came_before_it_as_one(early: int) -> None:
    delivery = Delivery(lambda: None)
    receiver = Pieces()
    for number, frame in enumerate([(b"on", False, False), (b"e ", True, False), (b"two", True, True)]):
        if number == early:
            delivery.start(receiver)
        delivery.frame(*frame)
    assert delivery.takes_pieces and not delivery.in_message
    whole = [(b"on", False, False), (b"e ", False, False), (b"two", False, True)]
    assert receiver.got == (whole if early < 2 else [(b"one ", False, False), whole[2]])
    delivery.frame(b"next", True, True)
    assert receiver.got[-1] == (b"next", True)


def test_it_lets_go_of_the_receiver_at_the_end() -> None:
    delivery = Delivery(lambda: None)
    delivery.start(Pieces())
    delivery.stop()
    assert delivery.receiver is None and not delivery.takes_pieces
