"""`Server.run`: a whole program around a server, which ends at a signal."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext, suppress
from typing import Any, TypeVar, cast

from .._base.logs import logger
from .._base.signals import handle_signal
from .._core.handlers.accepted import accepted
from .ports import Listening

S = TypeVar("S")


def run(
    server: S,
    listening: Listening,
    serve_forever: Callable[[], Awaitable[None]],
    close: Callable[[float], Coroutine[Any, Any, None]],
    *,
    drain_timeout: float,
    lifespan: Callable[[S], Any] | None,
) -> None:
    """Serve until a signal. Ctrl-C closes at once. SIGTERM drains for ``drain_timeout`` seconds, and a second SIGTERM
    closes at once. A signal that arrives while ``lifespan`` is entered cancels the entering.

    ``lifespan(server)`` is entered before the port is opened, and exited when the server is closed. ``serve_forever``
    and ``close`` are methods of the server. The argument of ``close`` is the time to drain, in seconds.

    Raises:
        RuntimeError: called inside an event loop.
        TypeError: ``lifespan`` is not a function of the server that returns an async context manager.
    """
    if lifespan is not None and accepted("lifespan=", ("server",), lifespan, may_yield=True) != 1:
        raise TypeError(f"lifespan= takes a function of the server, but {lifespan!r} takes no argument")
    if _inside_a_loop():
        raise RuntimeError("run() starts an event loop of its own: inside one, use `async with server.listen(...)`")

    ended_early = False

    async def main() -> None:
        closings: list[asyncio.Task[None]] = []
        beginning = asyncio.current_task()

        def terminate() -> None:
            nonlocal ended_early
            if beginning is not None:
                ended_early = True
                _report("SIGTERM: ending before the server listens")
                beginning.cancel()
                return
            _report("SIGTERM: closing" if closings else "SIGTERM: draining; another one closes at once")
            closings.append(asyncio.get_running_loop().create_task(close(0.0 if closings else drain_timeout)))

        _listen_to_sigterm(terminate)
        async with nullcontext() if lifespan is None else _enter(lifespan, server), listening:
            beginning = None
            _report(f"listening on {listening.url}", ", Ctrl-C ends it")
            await serve_forever()
            await asyncio.gather(*closings)

    with _sigterm_restored():
        try:
            with suppress(KeyboardInterrupt):
                asyncio.run(main())
        except asyncio.CancelledError:
            if not ended_early:
                raise
    logger.info("stopped")


def _enter(lifespan: Callable[[S], Any], server: S) -> AbstractAsyncContextManager[object]:
    given = lifespan(server)
    if not isinstance(given, AbstractAsyncContextManager):
        if inspect.iscoroutine(given):
            given.close()
        raise TypeError(
            "lifespan= takes a function that returns an async context manager, such as one decorated with "
            f"@contextlib.asynccontextmanager, but {lifespan!r} returned {given!r}"
        )
    return cast("AbstractAsyncContextManager[object]", given)


def _report(text: str, hint: str = "") -> None:
    """Log ``text``, or write it to stderr where the log does not show it."""
    if logger.hasHandlers() and logger.isEnabledFor(logging.INFO):
        logger.info("%s", text)
    else:
        sys.stderr.write(f"{text}{hint}\n")


def _listen_to_sigterm(terminate: Callable[[], None]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return  # Python delivers signals in the main thread only
    handle_signal(asyncio.get_running_loop(), signal.SIGTERM, terminate)


@contextmanager
def _sigterm_restored() -> Generator[None]:
    """Restore the handler of SIGTERM afterwards. (A closing event loop does not restore it.)"""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None: the handler was not installed from Python, and cannot be restored from Python.
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
