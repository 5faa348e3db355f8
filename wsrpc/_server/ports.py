"""Ports on which a server listens, and `Listening`, the ``async with`` block around a port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

from .._base.misuse import refusing


class Port(Protocol):
    """Port that accepts connections for a server. The listeners of wsrpc and of its adapters have these methods."""

    @property
    def url(self) -> str:
        """The URL at which clients on this machine reach the server."""
        ...

    @property
    def port(self) -> int:
        """The TCP port, or 0 on a Unix socket."""
        ...

    def stop(self) -> None:
        """Accept no more connections. Connections that have a peer stay open. Calling `stop` again has no effect."""
        ...

    async def wait_closed(self) -> None:
        """Drop the connections that have no peer, and wait until all connections have ended.

        Cancelling is safe. Some connections may then still be open.
        """
        ...


class OpenPort(NamedTuple):
    """Open port, and the function that closes its server. The function has no effect if the server was opened again."""

    port: Port
    close: Callable[[], Awaitable[None]]


class Listening:
    """Async context manager in which the server listens: ``async with server.listen(...) as listener``."""

    def __init__(self, open_port: Callable[[], Awaitable[OpenPort]]) -> None:
        self._open_port = open_port
        self._opened: OpenPort | None = None

    @property
    def url(self) -> str:
        """The URL at which clients on this machine reach the server. For a Unix socket, clients use only the path of
        this URL.

        Raises:
            RuntimeError: the block has not been entered.
        """
        return self._port().url

    @property
    def port(self) -> int:
        """The TCP port, or 0 for a Unix socket.

        Raises:
            RuntimeError: the block has not been entered.
        """
        return self._port().port

    def _port(self) -> Port:
        if self._opened is None:
            raise RuntimeError("not listening: use `async with server.listen(...) as listener`")
        return self._opened.port

    if not TYPE_CHECKING:
        __enter__ = __exit__ = __await__ = refusing(
            "listen() opens a block: use `async with server.listen(...) as listener:`"
        )

    async def __aenter__(self) -> Self:
        self._opened = await self._open_port()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        if self._opened is not None:
            await self._opened.close()

    def __repr__(self) -> str:
        return f"<Listening {'not yet' if self._opened is None else f'at {self._opened.port.url}'}>"
