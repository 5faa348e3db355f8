"""`ProcessLoop`: the event loop of one simulated process."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Protocol

TIMERS_FIRST = 0.3
"""Probability that arrived data wait until timers and ready callbacks have run."""
THREAD_DELAY = 0.01
"""Maximum seconds until a function for an executor runs."""


class NotSimulated(RuntimeError):
    """The program has used something that a simulation does not have, such as a file descriptor."""


class Sockets(Protocol):
    """The network, as one process uses it. The methods are those of an event loop. `ProcessSockets` has them."""

    async def look_up(self, host: Any, port: Any) -> list[Any]: ...

    async def connect(self, sock: socket.socket, address: Any) -> None: ...

    async def create_connection(self, create: Callable[[], Any], host: Any, port: Any, **options: Any) -> Any: ...

    def listen(self, create: Callable[[], Any], host: Any, port: Any) -> asyncio.AbstractServer: ...

    def close(self) -> None: ...


class _Timeouts(selectors.BaseSelector):
    """Reports how long the event loop would wait, and has nothing that could become ready."""

    def __init__(self) -> None:
        self.waits: Callable[[float | None], object] = lambda _: None
        self._keys: dict[int, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if self._keys:  # the first one is the event loop's own
            raise NotSimulated("in a simulation, an event loop waits for no file descriptor")
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[fd] = key = selectors.SelectorKey(fileobj, fd, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj if isinstance(fileobj, int) else fileobj.fileno())

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.waits(timeout)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys


class ProcessLoop(asyncio.SelectorEventLoop):
    """Event loop of one process. It runs one turn at a time, when the simulation calls `turn`. Time is virtual.

    Callbacks of one process run in the order in which asyncio promises to run them. What is random is when a process
    gets a turn, how long that takes, when something arrives, and the order of what has arrived before the same turn: an
    operating system reports sockets in any order. asyncio handles them before the timers that are due, uvloop after.

    Args:
        clock: returns the monotonic time of the process.
        wake: called when something is to be done in the next turn, from outside of a turn.
    """

    def __init__(self, clock: Callable[[], float], wake: Callable[[], None], random: Random, sockets: Sockets) -> None:
        self._clock, self._wake, self._random, self._sockets = clock, wake, random, sockets
        selector = _Timeouts()
        super().__init__(selector)
        selector.waits = self._waits
        self._arrived: list[tuple[object, Callable[[], object]]] = []
        """What has arrived since the last turn, each with its source. Callbacks of one source keep their order."""
        self.set_debug(False)  # it would measure real time
        self.idle_until: float | None = 0.0
        """The time until which nothing is to be done, as of the last turn. None if there is no timer."""

    def time(self) -> float:
        return self._clock()

    def turn(self) -> None:
        """Run what is ready, once."""
        self.run_forever()

    def _waits(self, timeout: float | None) -> None:
        self.stop()
        waits = 0.0 if self._arrived else timeout  # after a turn in which something runs, there is another one
        self.idle_until = None if waits is None else self.time() + waits
        if timeout == 0 and self._random.random() < TIMERS_FIRST:
            return
        while self._arrived:
            source, _ = self._random.choice(self._arrived)
            index = next(index for index, each in enumerate(self._arrived) if each[0] is source)
            self.call_soon(self._arrived.pop(index)[1])

    # ------------------------------------------------------------ what comes from outside

    def arrive(self, callback: Callable[[], object], source: object) -> None:
        """Call a function in the next turn, after what has arrived from the same source before."""
        self._arrived.append((source, callback))

    # In typeshed, the types of these functions and of their arguments belong together, which Any does not say.

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:  # type: ignore[override]
        handle = self.call_soon(callback, *args, context=context)
        self._wake()
        return handle

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run a function a moment later, in the thread of the simulation."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as exc:
                future.set_exception(exc)

        self.call_later(self._random.uniform(0.0, THREAD_DELAY), run)
        return future

    # ------------------------------------------------------------ the network

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        return await self._sockets.look_up(host, port)

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        await self._sockets.connect(sock, address)

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        return await self._sockets.create_connection(protocol_factory, host, port, **options)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        return self._sockets.listen(protocol_factory, host, port)

    def remove_reader(self, fd: Any) -> bool:
        """Raise the error of an event loop that waits for no file descriptors."""
        raise NotImplementedError
