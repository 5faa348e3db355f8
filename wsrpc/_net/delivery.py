"""Delivery of a connection's messages to the receiver of its transport."""

from __future__ import annotations

from collections.abc import Callable

from ..transport import Receiver


class Delivery:
    """Passes messages to a transport's receiver: joins fragments, and keeps messages that arrive before `start`.

    If the receiver has a method ``receive_piece``, it gets the frames of a fragmented message as they arrive.

    Args:
        pause: a function that stops reading from the network. It is called when the first message has to be kept.
    """

    __slots__ = ("_early", "_fragments", "_keeps", "_pause", "_receive_piece", "_text", "receiver", "stopped")

    def __init__(self, pause: Callable[[], object]) -> None:
        self._pause = pause
        self._keeps = True
        """Whether messages that arrive before `start` are kept."""
        self._early: list[tuple[bytes | bytearray, bool]] | None = None
        self._fragments: bytearray | None = None
        """The part of a message that has arrived. Empty if the receiver gets pieces. None between messages."""
        self._text = True
        """Whether that message is text."""
        self._receive_piece: Callable[[bytes, bool, bool], None] | None = None
        self.receiver: Receiver | None = None
        self.stopped = False
        """Whether all further messages are dropped, because the connection was aborted."""

    @property
    def in_message(self) -> bool:
        """Whether the next data frame must be a continuation of a message."""
        return self._fragments is not None

    @property
    def fragment_bytes(self) -> int:
        """The number of bytes of a fragmented message that wait for the rest of the message."""
        return len(self._fragments or b"")

    def start(self, receiver: Receiver) -> None:
        """Pass all messages to ``receiver`` from now on, beginning with the messages that were kept."""
        self.receiver = receiver
        early, self._early = self._early, None
        for payload, text in early or ():
            if not self.stopped:
                receiver.receive(payload, text)
        self._receive_piece = getattr(receiver, "receive_piece", None)
        if self._receive_piece is not None and self._fragments is not None:
            fragments, self._fragments = self._fragments, bytearray()
            self._receive_piece(bytes(fragments), self._text, False)

    def waits(self) -> bool:
        """Return whether the receiver waits for something of the remote peer."""
        return bool(getattr(self.receiver, "waits", bool)())

    def keep_no_more(self) -> None:
        """Drop messages that arrive from now on before `start`."""
        self._keeps = False

    def ignore_rest(self) -> None:
        """Drop all further messages, because the connection was aborted."""
        self.stopped = True

    def stop(self) -> None:
        """Drop the reference to the receiver, because the connection has ended."""
        self.receiver = self._receive_piece = None

    def frame(self, payload: bytes, text: bool, last: bool) -> None:
        """Handle the next data frame. For a continuation, ``text`` is ignored."""
        if self.stopped:
            return
        if self._fragments is None:
            self._text = text
            if last:
                self.receive(payload, text)
                return
            self._fragments = bytearray()
        if self._receive_piece is not None:
            self._receive_piece(payload, self._text, last)
        else:
            self._fragments += payload
        if last:
            fragments, self._fragments = self._fragments, None
            if self._receive_piece is None:
                self.receive(fragments, self._text)

    def receive(self, payload: bytes | bytearray, text: bool) -> None:
        """Handle a message that was not fragmented, or whose fragments were joined."""
        if self.receiver is not None:
            self.receiver.receive(payload, text)
        elif self._keeps and not self.stopped:
            if self._early is None:
                self._early = []
                self._pause()
            self._early.append((payload, text))
