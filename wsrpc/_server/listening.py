"""`Listening`: what `Server.listen` gives, and the program around it that `Server.run` is."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from .._base.misuse import refusing
from .._handlers.registry import accepted
from .ports import Port

__all__ = ["Listening", "run"]

logger = logging.getLogger("wsrpc")


class Serves(Protocol):
    """What `run` needs of the server."""

    async def serve_forever(self) -> None: ...

    async def close(self, drain: float = 0.0) -> None: ...


Close = Callable[[], Awaitable[None]]
"""Closes the server, unless what was begun has ended already."""


class Listening:
    """``async with server.listen(...)``: listens inside the block; ``url`` and ``port`` say where."""

    def __init__(self, begin: Callable[[], Awaitable[tuple[Port, Close]]]) -> None:
        self._begin = begin
        self._listener: Port | None = None
        self._close: Close

    @property
    def url(self) -> str:
        """Where a client on this machine finds the server; of a Unix socket only the path counts."""
        return self._begun().url

    @property
    def port(self) -> int:
        """The TCP port; 0 for a Unix socket."""
        return self._begun().port

    def _begun(self) -> Port:
        if self._listener is None:
            raise RuntimeError("not listening: use `async with server.listen(...) as listener`")
        return self._listener

    if not TYPE_CHECKING:
        __enter__ = __exit__ = __await__ = refusing(
            "listen() opens a block: use `async with server.listen(...) as listener:`"
        )

    async def __aenter__(self) -> Self:
        self._listener, self._close = await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._close()

    def __repr__(self) -> str:
        return f"<Listening {'not yet' if self._listener is None else f'at {self._listener.url}'}>"


def run(server: Serves, listening: Listening, drain: float, lifespan: Callable[[Any], Any] | None) -> None:
    """Serve until a signal: Ctrl-C closes at once; SIGTERM drains for ``drain`` seconds, a second one closes at once.
    While ``lifespan`` is entered either of them cancels that.

    What ``lifespan(server)`` gives is entered before the port is opened, and left when the server is closed.

    Raises:
        RuntimeError: inside a running event loop.
        TypeError: ``lifespan`` is no function of the server that gives an async context manager.
    """
    if lifespan is not None and accepted("lifespan=", ("server",), lifespan) != 1:
        raise TypeError(f"lifespan= takes a function of the server, but {lifespan!r} takes no argument")
    if _inside_a_loop():
        raise RuntimeError("run() starts an event loop of its own: inside one, `async with server.listen(...)`")

    ended_early = False

    async def main() -> None:
        closings: list[asyncio.Task[None]] = []
        beginning = asyncio.current_task()

        def terminate() -> None:
            nonlocal ended_early
            if beginning is not None:
                ended_early = True
                _say("SIGTERM: ending before it listens")
                beginning.cancel()
                return
            _say("SIGTERM: closing" if closings else "SIGTERM: finishing what was begun; another one closes at once")
            closing: Coroutine[Any, Any, None] = server.close() if closings else server.close(drain)
            closings.append(asyncio.get_running_loop().create_task(closing))

        _listen_to_sigterm(terminate)
        async with _around(server, lifespan), listening:
            beginning = None
            _say(f"listening on {listening.url}", ", Ctrl-C ends it")
            await server.serve_forever()
            await asyncio.gather(*closings)

    with _sigterm_restored():
        try:
            with suppress(KeyboardInterrupt):
                asyncio.run(main())
        except asyncio.CancelledError:
            if not ended_early:
                raise
    logger.info("stopped")


def _around(server: Serves, lifespan: Callable[[Any], Any] | None) -> AbstractAsyncContextManager[object]:
    if lifespan is None:
        return nullcontext()
    given = lifespan(server)
    if not isinstance(given, AbstractAsyncContextManager):
        if inspect.iscoroutine(given):
            given.close()
        raise TypeError(
            "lifespan= takes a function that gives an async context manager, such as one decorated with "
            f"@contextlib.asynccontextmanager, but {lifespan!r} gave {given!r}"
        )
    return cast("AbstractAsyncContextManager[object]", given)


def _say(text: str, hint: str = "") -> None:
    """Into the log, or on stderr where that shows no such line."""
    if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:
        sys.stderr.write(f"{text}{hint}\n")


def _listen_to_sigterm(told: Callable[[], None]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # signals are not this thread's
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(signal.SIGTERM, told)
    except NotImplementedError:  # on Windows

        def interrupted(number: int, frame: object) -> None:
            loop.call_soon_threadsafe(told)

        signal.signal(signal.SIGTERM, interrupted)


@contextmanager
def _sigterm_restored() -> Generator[None]:
    """Afterwards whoever handled SIGTERM before does so again; the event loop, when it closes, forgets."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None: it was not installed from Python, so that nothing here could put it back.
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
