"""What a server listens on: one port, and all of them together."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Port", "Ports"]


class Port(Protocol):
    """Something that accepts connections for a server, as long as that is not closed."""

    @property
    def url(self) -> str:
        """Where a client on this machine finds it."""
        ...

    @property
    def port(self) -> int:
        """The TCP port; 0 if there is none."""
        ...

    def stop(self) -> None:
        """Accept no further connections; those that have a peer stay. Idempotent."""
        ...

    async def wait_closed(self) -> None:
        """Drop what is left, and wait until every connection is over. Cancelling is safe; then some may not be."""
        ...


class Ports:
    """All ports of one server, which end with it."""

    def __init__(self) -> None:
        self._open: set[Port] = set()
        self._telling: set[Port] = set()

    def __bool__(self) -> bool:
        return bool(self._open)

    def add(self, port: Port) -> None:
        """A port that has been opened."""
        self._open.add(port)

    def keep_telling(self, port: Port) -> None:
        """Leave ``port`` open while the server drains: to tell a balancer that it does."""
        self._telling.add(port)

    def stop(self, *, draining: bool) -> None:
        """Accept no further connections; those ports that tell of the draining stay open for that, while it goes on."""
        for port in self._open:
            if not draining or port not in self._telling:
                port.stop()

    async def wait_closed(self) -> None:
        """Wait until every connection that came by them is over."""
        for port in self._open:
            await port.wait_closed()
        self._open.clear()
        self._telling.clear()
