"""`HoldingTransport`: keeps what is sent in a session while that has no link."""

from __future__ import annotations

from ..transport import ConnectionInfo, Receiver

__all__ = ["HoldingTransport"]


class HoldingTransport:
    """Stands in for a connection: what is sent is kept, in order, and sent on the session's next link."""

    def __init__(self, info: ConnectionInfo) -> None:
        self.info = info
        self.largest = 0
        self.held: list[tuple[bytes, bool]] = []

    @property
    def unsent(self) -> int:
        """Bytes that are held."""
        return sum(len(payload) for payload, _ in self.held)

    def start(self, receiver: Receiver, /) -> None:
        """Nothing arrives here."""

    def send(self, payload: bytes, text: bool = True, /) -> None:
        """Keep a message."""
        self.held.append((payload, text))

    def flush(self) -> None:
        """Nothing can be written yet."""

    async def drain(self) -> None:
        """Nothing is ever full here."""

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """There is no connection to close."""

    def abort(self) -> None:
        """There is no connection to drop."""

    def send_piece(self, payload: bytes, text: bool, last: bool, /) -> None:
        """Pieces are for raw connections, which have no session."""
        raise AssertionError("a session sends whole messages")

    def pause_receiving(self) -> None:
        """Nothing arrives here."""

    def resume_receiving(self) -> None:
        """Nothing arrives here."""
