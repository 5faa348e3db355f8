"""`Cluster`: makes several servers act as one. `ClusterClient`: calls the peers of a cluster without a server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Self
from weakref import WeakValueDictionary

from .._base.misuse import check_number
from .._base.names import check_address, check_name
from .._base.scheduler import spawn_later
from .._core.api.calls import Message, pass_on
from .._core.api.outgoing import OutgoingRegistrar
from .._core.handlers.registry import Registry
from .._core.wire.codecs import Codec
from .._core.wire.messages import RequestOptions
from .._core.wire.settings import Settings, make_settings
from .._keyed.runs import Runs
from .._log.contract import Store
from .._log.kept import encoder_of
from .._log.link import StoreLink
from .._server.broadcast import BroadcastGroup
from .._server.operating.operations import rebalancing_of
from .._server.peers import Peers
from .._server.rooms.room_log import RoomLog
from .._server.rooms.room_options import check_keep
from .._server.rooms.rooms import Rooms
from .._values.convert import DecHook
from ..errors import EngineLost, EngineRefused, WsrpcError
from ..limits import Limits
from ..stats import ClusterStats
from ._away.submitted_call import WaitingCalls
from ._cluster_peer import ClusterPeer
from ._cluster_room import ClusterRoom
from ._cluster_sender import ClusterSender
from ._membership import ADAPTER, ClusterMembership, NodeHandler
from ._operations import ClusterOperations
from ._rebalancing import keep_even
from .engine import Engine

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ClusterView:
    """Base class of `Cluster` and `ClusterClient`: the peers and the processes of a cluster."""

    def __init__(self, engine: Engine, name: str) -> None:
        value: Any = engine
        if not callable(getattr(value, "connect", None)):
            raise TypeError(f"a cluster takes an engine, such as NatsEngine(url) or RedisEngine(url), got {value!r}")
        value = name
        if not isinstance(value, str):
            raise TypeError(f"name= is the name of the application, got {value!r}")
        if not NAME.fullmatch(name):
            raise ValueError(f"name= is 1 to 64 letters, digits, '-' and '_' of ASCII, got {name!r}")
        self._engine = engine
        self._name = name
        self._membership: ClusterMembership | None = None
        self._operating: ClusterOperations | None = None
        self._why_not_joined = "the server is not open"
        self._node_handlers: dict[str, NodeHandler] = {}
        """Of adapters, by name."""

    @property
    def name(self) -> str:
        """The name of the application, which is the same in all processes of the cluster."""
        return self._name

    def _joined(self) -> ClusterMembership:
        """Return the membership of this process.

        Raises:
            EngineLost: this process has not joined the cluster.
        """
        if self._membership is None:
            raise EngineLost(self._why_not_joined)
        return self._membership

    def _deliver(self, address: str, message: Message, options: RequestOptions) -> Coroutine[Any, Any, Any]:
        """Make a call that has waited for a peer."""
        return pass_on(self._joined().registry.passing_on, ClusterSender(address, self._joined), message, options)

    @property
    def connected(self) -> bool:
        """Whether the engine can be reached. If not, this process cannot reach other processes."""
        return self._membership is not None and self._membership.connected

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of the known processes of the cluster, this process first, also those with a `ClusterClient`.

        Each process gets a generated name when it joins. A process is removed if no message arrives from it for 5
        seconds.
        """
        return () if self._membership is None else self._membership.directory.nodes

    def locate(self, address: str) -> str | None:
        """Return the name of the process to which the peer with this address is connected.

        Returns None if no such peer is known. The address is looked up in a table of this process; nothing is sent.
        """
        return None if self._membership is None else self._membership.directory.claims.locate(address)

    def peer(self, address: str) -> ClusterPeer:
        """Return the peer with this address. It may be connected to any process, or to none.

        Raises:
            TypeError, ValueError: ``address`` is not a valid address.
        """
        check_address("an address", address)
        return ClusterPeer(address, self._joined)

    async def _ask_node(self, node: str, name: str, payload: bytes) -> bytes | None:
        """Let the handler of an adapter answer at a node. Return None if there is no such node, or no answer."""
        membership = self._joined()
        if node not in self.nodes and not membership.node.knows_others:
            await membership.node.wait_known()
        try:
            peer = await membership.links.reach(node)
            return await peer.request(ADAPTER, name, payload, returns=bytes)
        except WsrpcError:
            return None

    def _join_with(self, membership: ClusterMembership, server: object = None) -> ClusterMembership:
        self._membership, self._operating = membership, ClusterOperations(membership, server)
        return membership

    @property
    def _operations(self) -> ClusterOperations:
        self._joined()
        assert self._operating is not None
        return self._operating

    async def waiting(self) -> AsyncGenerator[WaitingCalls]:
        """Yield the addresses to which calls wait, each with their number and the age of the oldest.

        `ClusterPeer.waiting` lists the calls to one address. It reads the store page by page. An address that gets a
        call meanwhile may be yielded twice.

        Raises:
            ValueError: this `Server` or `ClusterClient` has no ``store``.
            Overloaded: the store has not answered within 10 seconds.
            EngineLost: this process has not joined the cluster.
        """
        async for each in self._joined().away.lasting().addresses():
            yield each

    def stats(self) -> ClusterStats | None:
        """Return a snapshot of this process's counters, or None while this process is not part of the cluster."""
        return None if self._membership is None else self._membership.stats()


def serve_nodes(cluster: Cluster, name: str, handler: NodeHandler) -> None:
    """Answer what `ask_node` asks at other nodes, for an adapter. A later handler with this name replaces it."""
    cluster._node_handlers[name] = handler  # pyright: ignore[reportPrivateUsage]  # of the same module


async def ask_node(cluster: Cluster, node: str, name: str, payload: bytes) -> bytes | None:
    """Ask the handler of an adapter at another node. Return None if there is no such node, or no answer.

    Cancelling cancels the handler, too.

    Raises:
        EngineLost: the server is not open.
    """
    return await cluster._ask_node(node, name, payload)  # pyright: ignore[reportPrivateUsage]  # of the same module


def membership_of(cluster: ClusterView) -> ClusterMembership:
    """Return the inside of a `Cluster` that was joined."""
    return cluster._joined()  # pyright: ignore[reportPrivateUsage]  # of the same module


class Cluster(ClusterView):
    """Several processes of an application that together behave like one server.

    In each process, create one `Cluster` with the same engine and name, and pass it to one server:
    ``Server(cluster=Cluster(NatsEngine(url), name="shop"))``. The process joins the cluster when the server opens, and
    leaves when the server is closed. In a cluster, `Server.room` reaches a room's members in all processes, and `peer`
    reaches any peer with a `Handshake.address`. While the engine cannot be reached, the server still serves its own
    clients.

    wsrpc trusts every program that can publish to the engine, so protect the engine with authentication and TLS.

    Args:
        engine: the message broker, which all processes can reach.
        name: the name of the application, which consists of 1 to 64 ASCII letters, digits, ``-`` and ``_``.
            Applications with different names can share an engine.
        rebalance: after another server has joined the cluster, and none has joined or left for 30 seconds, this process
            moves idle wsrpc clients, at most so many per second, until all servers have as many, within 10 %. Each
            client moves at most once: it is told, closed with 1012, and dials again. Pass it in each process. None: no
            client moves.

    Raises:
        TypeError, ValueError: an argument is not valid.
    """

    def __init__(self, engine: Engine, *, name: str = "wsrpc", rebalance: int | None = None) -> None:
        super().__init__(engine, name)
        value: Any = rebalance
        text = "rebalance= is the number of clients to move per second, a whole number from 1"
        if not isinstance(value, int | None):
            raise TypeError(f"{text}; got {value!r}")
        if value is not None:
            check_number(text, value, 1)
        self._rebalance = rebalance

    def _join(
        self, settings: Settings, registry: Registry, rooms: Rooms, runs: Runs, peers: Peers
    ) -> ClusterMembership:
        if self._membership is not None and not self._membership.scheduler.has_ended:
            raise RuntimeError("this Cluster belongs to another server already: make one for each server")

        def exited() -> None:
            self._membership = None

        parts = settings, registry, runs, self._deliver, rooms, exited, peers, self._node_handlers
        joined = self._join_with(ClusterMembership(self._engine, self._name, *parts), rooms.server)
        if self._rebalance is not None:
            rebalancing = rebalancing_of(rooms.server)
            runs.link.spawn(keep_even(joined, rebalancing, self._rebalance, lambda: self._membership is joined))
        return joined

    def __repr__(self) -> str:
        return f"<Cluster {self._name!r}{'' if self.connected else ' not connected'}, {len(self.nodes)} nodes>"


class ClusterClient(ClusterView, OutgoingRegistrar):
    """Client that can call the peers of a cluster, and emit events to its rooms.

    For programs without a server, such as scripts and cron jobs:

    ``async with ClusterClient(RedisEngine(url), name="shop") as shop: await shop.room("lobby").emit("news", "...")``

    Entering the block waits until the engine is reached and the processes of the cluster are known. Leaving the block
    waits until all sent messages are written. In place of the block, you can call `connect` and `close`. You can join
    again afterwards, also in another event loop.

    Args:
        engine: the same engine as in the servers' `Cluster`.
        name: the same name as in the servers' `Cluster`.
        limits: the limits for messages between this program and the servers. `Limits.request_timeout` is the default
            timeout of requests.
        codec: as for `Client`.
        dec_hook: as for `Client`.
        store: the store in which calls wait for a peer that is away; see `ClusterPeer.request`. If this program may end
            before the peer connects, pass the store that the servers use.
        connect_timeout: the maximum time to reach the engine, in seconds. None for no limit.

    Raises:
        TypeError, ValueError: an argument is not valid.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        name: str = "wsrpc",
        limits: Limits | None = None,
        codec: Codec | None = None,
        dec_hook: DecHook | None = None,
        store: Store | None = None,
        connect_timeout: float | None = 5.0,
    ) -> None:
        super().__init__(engine, name)
        self._settings = make_settings(limits, codec)
        self._registry = Registry(dec_hook=dec_hook)
        self._runs = Runs(StoreLink(store))
        self._room_logs: dict[str, RoomLog] = {}
        """The logs of rooms with ``keep=``. No room has members here."""
        self._connect_timeout = connect_timeout
        self._connecting = asyncio.Lock()
        self._why_not_joined = "the ClusterClient is used outside of its block: use `async with`, or call connect()"
        self._exiting: asyncio.Task[None] | None = None
        """Task that leaves the cluster."""

    async def __aenter__(self) -> Self:
        """Join the cluster. Cancelling is safe.

        Raises:
            EngineLost: the engine was not reached within ``connect_timeout``.
            EngineRefused: the engine refuses the user or the password.
            RuntimeError: another process has another `wsrpc.store.FORMAT`.
        """
        await self.connect()
        return self

    async def connect(self) -> None:
        """Join the cluster. Returns at once if this program has joined. After an error, you can call it again.

        The program stays in the cluster until `close`, also while the engine cannot be reached. Cancelling is safe.

        Raises:
            EngineLost: the engine was not reached within ``connect_timeout``.
            EngineRefused: the engine refuses the user or the password.
            RuntimeError: another process has another `wsrpc.store.FORMAT`.
        """
        async with self._connecting:
            if self._membership is None:
                await self._enter()

    async def _enter(self) -> None:
        self._runs.open()
        parts = self._settings, self._registry, self._runs, self._deliver
        membership = self._join_with(ClusterMembership(self._engine, self._name, *parts))
        engine = membership.node.engine
        try:
            async with asyncio.timeout(self._connect_timeout):
                await engine.decided.wait()
                if isinstance(engine.failure, EngineRefused):
                    raise engine.failure
                await membership.node.wait_known()
                await membership.node.check_fits()
        except BaseException as exc:
            await self._exit()
            if isinstance(exc, TimeoutError):
                why = "" if engine.failure is None else f": {engine.failure.reason}"
                raise EngineLost(f"not reached within {self._connect_timeout:g} s{why}") from engine.failure
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave the cluster, and return when all sent messages are written. Idempotent.

        Cancelling is safe: the program still leaves.
        """
        await self._exit()
        if not self._connecting.locked():
            self._connecting = asyncio.Lock()  # a lock for which somebody has waited belongs to the event loop

    async def _exit(self) -> None:
        membership, self._membership = self._membership, None
        if membership is not None:
            self._exiting = spawn_later(self._leave(membership))  # in a task, so that cancelling only stops the waiting
        if self._exiting is not None:
            await asyncio.shield(self._exiting)

    async def _leave(self, membership: ClusterMembership) -> None:
        await self._runs.close(self._settings.limits.close_timeout)
        await membership.close()

    def room(self, name: str, *, keep: float | None = None) -> ClusterRoom:
        """Return the room with this name, which emits to its members in all processes.

        Args:
            keep: the same as for the room on the servers; see `Server.room`. Without it, the members of a room that has
                ``keep=`` on the servers get no events from this program, and are told that they have missed some. It
                needs ``store=``.

        Raises:
            TypeError, ValueError: ``name`` is not a valid room name, or ``keep`` is not valid.
        """
        check_name("a room's name", name)
        if keep is None:
            return ClusterRoom(name, None, self._joined)
        check_keep(keep)
        if not self._runs.link.is_shared:
            raise ValueError("keep= needs the store of the servers: ClusterClient(..., store=...)")
        if (log := self._room_logs.get(name)) is None:
            nobody = BroadcastGroup(self._settings.codec, "close", (), lambda _: None)
            to_bytes = encoder_of(self._settings.codec)
            log = self._room_logs[name] = RoomLog(name, nobody, self._runs.link, keep, to_bytes, WeakValueDictionary())
        if log.keep != keep:
            raise ValueError(f"room {name!r} has keep={log.keep!r} already, which differs from {keep!r}")
        return ClusterRoom(name, None, self._joined, log)

    def __repr__(self) -> str:
        return f"<ClusterClient {self._name!r}{'' if self.connected else ' not connected'}, {len(self.nodes)} nodes>"
