"""`BrokerConnection`: a connection to an engine, on a connection of a broker's library."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from wsrpc import MessageTooBig
from wsrpc.cluster.engine import FEW, PROBE, RESPONSE_TIMEOUT, EngineListener
from wsrpc.errors import EngineLost, one_line

T = TypeVar("T")

LARGEST_WRITE = 256 * 1024
"""Maximum number of bytes that are written at once. A single message can be larger."""

LATE_ANSWER_TIMEOUT = 0.25
"""Seconds of further waiting for a late answer. The answer may have arrived, but be unread because this process was
busy."""


class Broker(Protocol):
    """A connection of a broker's library, as a `BrokerConnection` uses it.

    It passes messages to `BrokerConnection.received`, and reports its end, or an error, to `BrokerConnection.end`. An
    exception of any method ends the connection. Several calls of ``confirm`` may run at once, also beside calls of
    other methods. Each other method runs once at a time. ``write`` and ``subscribe`` are cancelled only before
    ``drop``.
    """

    @property
    def largest(self) -> int:
        """Bytes of the largest payload."""
        ...

    @property
    def unsent(self) -> int:
        """Bytes that the operating system has not accepted yet."""
        ...

    async def write(self, messages: list[tuple[str, bytes]], /) -> None:
        """Publish messages. Return when at most half of `FEW` bytes are unsent, which leaves room for a `confirm`."""

    async def confirm(self) -> None:
        """Wait until the broker has confirmed that it has received everything that was written before."""

    async def subscribe(self, subject: str, /) -> None:
        """Subscribe, and wait until the broker has confirmed the subscription."""

    async def is_received(self, subject: str, payload: bytes, /) -> bool:
        """Publish a message, and return whether any connection got it. It may run beside ``write``."""
        ...

    async def drop(self) -> None:
        """End the connection at once, without sending what is unsent. Wait until its socket and tasks have ended."""


class BrokerConnection:
    """A connection to an engine; see `wsrpc.cluster.engine`. It collects published messages, and watches the broker."""

    def __init__(self, listener: EngineListener) -> None:
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._broker: Broker | None = None
        self._out: list[tuple[str, bytes]] = []
        self._size = 0
        """Bytes of the messages in ``_out``, and of the messages that are being written."""
        self._published = asyncio.Event()
        """Set while there is something to write."""
        self._written = asyncio.Event()
        """Set each time that messages were written, and at the end."""
        self._changing = asyncio.Lock()
        """Held while a subscription changes, or the broker is asked, so that it gets one command after the other."""
        self._messages_received = 0
        """Number of received messages."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._over: asyncio.Future[str] = self._loop.create_future()
        """The result says why the connection has ended."""
        self._closing: asyncio.Task[None] | None = None
        self._cleared: asyncio.Task[None] | None = None
        """Cancels the other tasks and drops the broker's connection, after the end."""

    async def open(self, connecting: Awaitable[Broker]) -> None:
        """Start to use the connection of the library that ``connecting`` makes.

        Raises:
            EngineLost: the broker cannot be reached, or does not answer within `RESPONSE_TIMEOUT`.
        """
        try:
            async with asyncio.timeout(RESPONSE_TIMEOUT):
                self._broker = await connecting
        except TimeoutError:
            raise EngineLost(f"no response within {RESPONSE_TIMEOUT:g} s") from None
        self._start(self._write(self._broker))
        self._start(self._watch(self._broker))

    def _start(self, coroutine: Any) -> asyncio.Task[Any]:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (exc := task.exception()) is not None:
            self.end(error_text(exc))

    # ------------------------------------------------------------ publishing

    @property
    def largest(self) -> int:
        return self._broker.largest if self._broker is not None else 0

    @property
    def unsent(self) -> int:
        return self._size + (self._broker.unsent if self._broker is not None else 0)

    def publish(self, subject: str, payload: bytes, /) -> None:
        if self._over.done() or self._closing is not None:
            raise EngineLost(self._why())
        if len(payload) > self.largest:
            raise MessageTooBig(f"the engine takes at most {self.largest} bytes in one message, got {len(payload)}")
        self._out.append((subject, payload))
        self._size += len(payload)
        self._published.set()

    def _why(self) -> str:
        return self._over.result() if self._over.done() else "closed"

    async def _write(self, broker: Broker) -> None:
        while True:
            await self._published.wait()
            batch, size = self._next_batch()
            await broker.write(batch)
            self._size -= size
            self._written.set()

    def _next_batch(self) -> tuple[list[tuple[str, bytes]], int]:
        size = count = 0
        for _, payload in self._out:
            if count and size + len(payload) > LARGEST_WRITE:
                break
            size += len(payload)
            count += 1
        batch = self._out[:count]
        del self._out[:count]
        if not self._out:
            self._published.clear()
        return batch, size

    async def drain(self) -> None:
        while self.unsent > FEW and not self._over.done():
            self._written.clear()
            await self._written.wait()

    # ------------------------------------------------------------ receiving

    def received(self, subject: str, payload: bytes) -> None:
        """Count a message, and pass it to the listener."""
        if not self._over.done():
            self._messages_received += 1
            self._listener.received(subject, payload)

    async def subscribe(self, subject: str, /) -> None:
        await self._change(lambda broker: broker.subscribe(subject))

    async def is_received(self, subject: str, payload: bytes, /) -> bool:
        return await self._change(lambda broker: broker.is_received(subject, payload))

    async def _change(self, change: Callable[[Broker], Awaitable[T]]) -> T:
        # In a task of its own, because the libraries must not be cancelled while they wait for an answer.
        broker = self._broker
        if broker is None or self._over.done() or self._closing is not None:
            raise EngineLost(self._why())

        async def alone() -> T:
            async with self._changing:
                return await change(broker)

        task: asyncio.Task[T] = self._start(alone())
        await asyncio.wait((task, self._over), return_when=asyncio.FIRST_COMPLETED)
        if self._over.done():
            raise EngineLost(self._over.result())
        if (exc := task.exception()) is not None:
            raise EngineLost(error_text(exc)) from exc
        return task.result()

    # ------------------------------------------------------------ the end

    async def _watch(self, broker: Broker) -> None:
        """Ask the broker again and again for a confirmation. End the connection if nothing arrives in time."""
        while True:
            await asyncio.sleep(PROBE)
            asked = self._start(broker.confirm())
            while not asked.done():
                heard = self._messages_received
                await asyncio.wait((asked,), timeout=RESPONSE_TIMEOUT)
                await asyncio.wait((asked,), timeout=LATE_ANSWER_TIMEOUT)
                if not asked.done() and self._messages_received == heard:
                    self.end(f"no response within {RESPONSE_TIMEOUT:g} s")

    def end(self, reason: str) -> None:
        """End the connection, and notify the listener. Idempotent."""
        if self._over.done():
            return
        self._over.set_result(reason)
        self._written.set()
        self._loop.call_soon(self._listener.lost, reason)
        self._cleared = self._loop.create_task(self._clear())

    async def _clear(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if self._broker is not None:
            await self._broker.drop()
        while tasks:  # more than once, because Python 3.11's `wait_for` may lose a cancellation
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=LATE_ANSWER_TIMEOUT)

    async def close(self) -> None:
        if self._closing is None:
            self._closing = self._loop.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if not self._over.done():
            finishing = self._start(self._finish())
            await asyncio.wait((finishing, self._over), timeout=RESPONSE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            self.end("closed")
        if self._cleared is not None:
            await self._cleared

    async def _finish(self) -> None:
        """Wait until the broker has received everything that was published."""
        while self._size:
            self._written.clear()
            await self._written.wait()
        if self._broker is not None:
            await self._broker.confirm()


def error_text(exc: BaseException) -> str:
    """Return the text of an exception as one line."""
    if isinstance(exc, EngineLost):
        return exc.reason
    return one_line(exc) or type(exc).__name__


def refuse_options(engine: str, options: Iterable[str], set_here: frozenset[str]) -> None:
    """Refuse options of a library that an engine sets itself.

    Raises:
        TypeError: ``options`` contains one of them.
    """
    if refused := sorted(set_here.intersection(options)):
        raise TypeError(f"{engine} sets {', '.join(refused)} itself: a connection that is lost is over")


def addresses_of(url: str) -> list[tuple[str, int | None]]:
    """Return the hosts of a URL, which are separated by commas, and their ports if it has them.

    Raises:
        ValueError: ``url`` is not a URL. The text does not quote it, because it may contain a password.
    """
    with suppress(ValueError):
        hosts = urlsplit(url if "://" in url else f"//{url}").netloc.rpartition("@")[2].split(",")
        return [(parts.hostname or "localhost", parts.port) for parts in (urlsplit(f"//{host}") for host in hosts)]
    raise ValueError("not a valid URL (it is not shown, because it may contain a password)")


def host_of(url: str) -> str:
    """Return the hosts and ports of a URL, or its path, without the user, the password and the query.

    Raises:
        ValueError: ``url`` is not a URL; see `addresses_of`.
    """
    hosts = ", ".join(host if port is None else f"{host}:{port}" for host, port in addresses_of(url))
    return urlsplit(url).path if url.startswith("unix:") else hosts
