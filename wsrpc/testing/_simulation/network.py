"""`Network`: names, ports, the paths between processes, and the connections on them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from .loops import NotSimulated
from .paths import Path
from .processes import Process, Surroundings
from .streams import Pipe, SimulatedSocket, StreamTransport

LATENCIES = [0.0002, 0.001, 0.01, 0.05]
WINDOWS = [1 << 16, 1 << 18, 1 << 20, 1 << 22]


class Port(asyncio.AbstractServer):
    """A port on which a process listens."""

    def __init__(self, ports: dict[Any, Port], process: Process, create: Callable[[], Any], name: Any) -> None:
        self.process, self.create, self.name = process, create, name
        self.life = process.life
        self._ports = ports
        self.sockets = (SimulatedSocket(name),)

    @property
    def is_open(self) -> bool:
        return self.process.alive and self.process.life == self.life

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self.process.loop

    def is_serving(self) -> bool:
        return self._ports.get(self.name) is self

    def close(self) -> None:
        if self.is_serving():
            del self._ports[self.name]

    async def start_serving(self) -> None:
        """Do nothing: it serves from the beginning."""

    async def serve_forever(self) -> None:
        await asyncio.Event().wait()

    async def wait_closed(self) -> None:
        """Return at once: the connections have their own ends."""


class Network:
    """All processes reach each other by their names."""

    def __init__(self, around: Surroundings) -> None:
        self.events = around.events
        self._around = around
        self._random = around.random_of("network")
        self._names: dict[str, list[Process]] = {}
        self._processes: dict[str, Process] = {}
        """By address."""
        self._ports: dict[tuple[str, int], Port] = {}
        self._paths: dict[tuple[str, str], Path] = {}
        self._connections: dict[Pipe, None] = {}
        """Both directions of each connection."""
        self._silent: list[object] = []
        """References to what waits for a process without power, so that Python does not collect it."""
        self._weak: dict[str, float] = {}
        """By the name of a process: the bytes after which its connections break."""
        self._next_port = 40000

    def add(self, process: Process, *names: str) -> None:
        """Add a process, with the names by which it is reached."""
        process.sockets = ProcessSockets(self, process)
        self._processes[process.address] = process
        for name in dict.fromkeys(names):
            self._names.setdefault(name, []).append(process)

    def clear(self) -> None:
        """Drop ports, connections and data in transit."""
        self._ports.clear()
        self._connections.clear()
        self._silent.clear()
        self._paths.clear()
        for process in self._processes.values():
            process.sockets.close()

    def path(self, source: Process, target: Process) -> Path:
        key = source.name, target.name
        if (path := self._paths.get(key)) is None:
            random = self._around.random_of(f"path {key}")
            latency = 0.00001 if source is target else random.choice(LATENCIES)
            path = self._paths[key] = Path(key, self._around.events, random, latency)
        return path

    def paths(self) -> list[Path]:
        return [*self._paths.values()]

    def connections(self) -> list[Pipe]:
        return [*self._connections]

    def paths_of(self, process: Process) -> list[Path]:
        """Return the paths to and from a process that are in use. Those to a store or an engine always are."""
        used = {pipe.path for pipe in self._connections}
        connected = {name for path in used for name in path.name}
        found = [path for path in self._paths.values() if process.name in path.name]
        return [path for path in found if path in used or not connected.issuperset(path.name)]

    def weaken(self, process: Process, size: float) -> None:
        """Break each connection of a process after it has sent some bytes. ``inf``: never."""
        self._weak[process.name] = size
        for pipe in self._connections:
            if pipe.source.process is process:
                pipe.carries = size

    def killed(self, process: Process, *, silently: bool) -> None:
        """Reset the connections of a process. ``silently``: without a reset, because its machine has no power."""
        for pipe in [each for each in self._connections if each.source.process is process]:
            self._connections.pop(pipe)
            self._connections.pop(pipe.sink.out, None)
            self._silent.append(pipe)
            if not silently:
                pipe.reset()
        process.sockets.close()

    # ------------------------------------------------------------ what processes ask

    def look_up(self, host: Any) -> list[str]:
        """Return the addresses of a name, in any order.

        Raises:
            socket.gaierror: there is no such process.
        """
        if host in self._processes:
            return [host]
        found = [each.address for each in self._names.get(host, ())]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"there is no process {host!r} in the simulation")
        self._random.shuffle(found)
        return found

    def name_of(self, address: str) -> str:
        """Return the name of the process with an address."""
        return self._processes[address].name if address in self._processes else address

    def free_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def listen(self, process: Process, create: Callable[[], Any], port: int) -> Port:
        name = process.address, port or self.free_port()
        if name in self._ports and self._ports[name].is_open:
            raise OSError(98, "Address already in use")
        self._ports[name] = made = Port(self._ports, process, create, name)
        return made

    async def dial(self, process: Process, address: tuple[str, int]) -> StreamTransport:
        """Connect to a port. Cancelling is safe.

        Raises:
            ConnectionRefusedError: nobody listens there.
        """
        answered: asyncio.Future[StreamTransport | None] = process.loop.create_future()
        target, life = self._processes[address[0]], process.life
        there, back = self.path(process, target), self.path(target, process)

        def answer(result: StreamTransport | None) -> None:
            if not answered.done():
                answered.set_result(result)
            elif result is not None:  # the dial was cancelled
                result.abort()

        def ask() -> None:
            if target.powerless:
                self._silent.append(answered)
                return
            port = self._ports.get(address)
            result = None if port is None or not port.is_open else self._join(process, port, there, back)
            back.travel(lambda: process.call(partial(answer, result), life))

        there.travel(ask)
        transport = await answered
        if transport is None:
            raise ConnectionRefusedError(111, f"Connect call failed {address}")
        return transport

    def _join(self, process: Process, port: Port, there: Path, back: Path) -> StreamTransport:
        name = process.address, self.free_port()
        drop = self._connections.pop
        near = StreamTransport(process, name, port.name, lambda: drop(near.out, None))
        far = StreamTransport(port.process, port.name, name, lambda: drop(far.out, None))
        window = self._random.choice(WINDOWS)
        near.out = far.into = Pipe(near, far, there, window)
        far.out = near.into = Pipe(far, near, back, window)
        self._connections[near.out] = self._connections[far.out] = None
        for pipe in (near.out, far.out):
            pipe.carries = self._weak.get(pipe.source.process.name, inf)
        port.process.call(lambda: far.start(port.create()), source=far)
        return near


class ProcessSockets:
    """The network, as the event loop of one process uses it."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network, self._process = network, process
        self._dialed: dict[socket.socket, StreamTransport] = {}
        """Sockets that are connected, and that no protocol uses yet. They only stand for the connections."""

    async def look_up(self, host: Any, port: Any) -> list[Any]:
        kind = socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, ""
        return [(*kind, (address, port)) for address in self._network.look_up(host)]

    async def connect(self, sock: socket.socket, address: Any) -> None:
        for closed in [each for each in self._dialed if each.fileno() < 0]:  # another address was faster
            self._dialed.pop(closed).abort()
        self._dialed[sock] = await self._network.dial(self._process, address)

    async def create_connection(self, create: Callable[[], Any], host: Any, port: Any, **options: Any) -> Any:
        if options.get("ssl") is not None:
            raise NotSimulated("in a simulation, there is no TLS")
        sock = options.get("sock")
        if sock is None:
            transport = await self._network.dial(self._process, (self._network.look_up(host)[0], port))
        else:
            transport = self._dialed.pop(sock)
            sock.close()
        protocol = create()
        transport.start(protocol)
        return transport, protocol

    def close(self) -> None:
        """Close the sockets that no protocol uses."""
        for sock in self._dialed:
            sock.close()
        self._dialed.clear()

    def listen(self, create: Callable[[], Any], host: Any, port: Any) -> Port:
        return self._network.listen(self._process, create, port or 0)
