"""`ClusterClient`, its peers and its rooms, for programs without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, Unpack

from .._base.misuse import no_parentheses, shown_as
from .._base.names import UNTYPED
from .._core.api.options import AwayOptions, ChannelCallOptions, ChannelEventOptions, SubmitOptions
from .._core.api.outgoing import OutgoingCall
from .._core.api.proxy import make_emitter
from .._core.wire.codecs import Codec
from .._log.contract import Store
from .._server.broadcast import EmitReport
from .._server.rooms.room import Members
from .._server.skipping import readable_again
from .._values.convert import DecHook
from ..cluster._away.submitted_call import SubmittedCall, WaitingCall, WaitingCalls
from ..cluster._cluster import ClusterClient as AsyncClusterClient
from ..cluster._cluster_peer import ClusterPeer as AsyncClusterPeer
from ..cluster._cluster_peer import ClusterPeerChannel as AsyncClusterPeerChannel
from ..cluster._cluster_room import ClusterRoom as AsyncClusterRoom
from ..cluster._cluster_room import ClusterRoomChannel as AsyncClusterRoomChannel
from ..cluster.engine import Engine
from ..errors import EngineLost
from ..limits import Limits
from ..stats import ClusterStats
from ._blocking_client import Root
from ._blocking_peer import Caller
from ._delegate import Delegate, SameAttribute, inner_of
from ._handlers import check_plain
from ._loop_thread import CallBridge

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")
F = TypeVar("F", bound=Callable[[OutgoingCall], Iterator[None] | None])

SkipAddressed: TypeAlias = "ClusterPeer | Iterable[ClusterPeer] | None"


class AwayCaller(Caller):
    """The methods of `Caller`, with ``deliver_within`` for requests."""

    __slots__ = ()

    def request(  # pyright: ignore[reportIncompatibleMethodOverride]  # it has one more option
        self, event: str, /, *args: Any, returns: TypeForm[T] = UNTYPED, **options: Unpack[AwayOptions]
    ) -> T:
        """Send a request, and return its response; see `wsrpc.cluster.ClusterPeer.request`."""
        call: Any = Caller.request
        answer: T = call(self, event, *args, returns=returns, **options)
        return answer

    @shown_as("submit")
    def submit(self, event: str, /, *args: Any, deliver_within: float, **options: Unpack[SubmitOptions]) -> None:
        """Submit a request, and return when it is stored; see `wsrpc.cluster.ClusterPeer.submit`."""
        self._await(self._inner.submit, event, *args, deliver_within=deliver_within, **options)

    @shown_as("submitted")
    def submitted(self, event: str, /, *, key: str, timeout: float | None = None) -> SubmittedCall:
        """Return the state of the call with a key; see `wsrpc.cluster.ClusterPeer.submitted`."""
        call: SubmittedCall = self._await(self._inner.submitted, event, key=key, timeout=timeout)
        return call

    @shown_as("withdraw")
    def withdraw(self, event: str, /, *, key: str, timeout: float | None = None) -> SubmittedCall:
        """Withdraw a call, unless it was handed over; see `wsrpc.cluster.ClusterPeer.withdraw`."""
        call: SubmittedCall = self._await(self._inner.withdraw, event, key=key, timeout=timeout)
        return call


class ClusterPeer(AwayCaller):
    """Peer with an address, connected to any process of the cluster; see `wsrpc.cluster.ClusterPeer`.

    `ClusterClient.peer` returns it.
    """

    __slots__ = ()

    _inner: AsyncClusterPeer

    address: SameAttribute[str] = SameAttribute()
    """The peer's address, as `Handshake.address` has set it."""

    def of(self, name: str) -> ClusterPeerChannel:
        """Return a named channel of the peer."""
        return ClusterPeerChannel(self._inner.of(name), self._bridge)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Close the connection of the peer, whichever process has it; see `wsrpc.cluster.ClusterPeer.close`."""
        self._await(self._inner.close, code, reason)

    def waiting(self, *, timeout: float | None = None) -> list[WaitingCall]:
        """Return the calls to this peer that have not ended; see `wsrpc.cluster.ClusterPeer.waiting`."""
        return self._await(self._inner.waiting, timeout=timeout)


class ClusterPeerChannel(AwayCaller):
    """Named channel of a `ClusterPeer`. `ClusterPeer.of` returns it."""

    __slots__ = ()

    _inner: AsyncClusterPeerChannel

    address: SameAttribute[str] = SameAttribute()
    """The peer's address."""
    name: SameAttribute[str] = SameAttribute()
    """The channel's name."""


class ClusterEmitter(Delegate):
    """`emit`, `request` and `emitter`, for a room and its channels."""

    __slots__ = ()

    def emit(
        self, event: str, /, *args: Any, skip: SkipAddressed = None, **options: Unpack[ChannelCallOptions]
    ) -> EmitReport:
        """Emit an event to every member of the room; see `wsrpc.cluster.ClusterRoom.emit`."""
        report: EmitReport = self._await(self._inner.emit, event, *args, skip=inner_of(skip), **options)
        return report

    def request(
        self,
        event: str,
        /,
        *args: Any,
        within: float = 60.0,
        returns: TypeForm[T] = UNTYPED,
        **options: Unpack[ChannelEventOptions],
    ) -> T:
        """Send a request to every member, and return the first response; see `wsrpc.cluster.ClusterRoom.request`."""
        answer: T = self._await(self._inner.request, event, *args, within=within, returns=returns, **options)
        return answer

    def emitter(self, contract: TypeForm[T], /, *, skip: SkipAddressed = None) -> T:
        """Return an object whose methods emit the events of a contract; see `wsrpc.cluster.ClusterRoom.emitter`."""
        made: T = make_emitter(contract, self, blocking=True, skip=readable_again(skip))
        return made


class ClusterRoom(ClusterEmitter):
    """Room of a cluster, for a program without a server. `ClusterClient.room` returns it."""

    __slots__ = ()

    _inner: AsyncClusterRoom

    name: SameAttribute[str] = SameAttribute()
    """The name of the room."""

    def of(self, name: str) -> ClusterRoomChannel:
        """Return a named channel of this room. The channel emits to all members."""
        return ClusterRoomChannel(self._inner.of(name), self._bridge)

    def send_raw(self, data: str | bytes, *, skip: SkipAddressed = None) -> EmitReport:
        """Send a raw message to the raw connections; see `wsrpc.cluster.ClusterRoom.send_raw`."""
        return self._await(self._inner.send_raw, data, skip=inner_of(skip))

    def members(self) -> Members:
        """Return the members in all processes; see `wsrpc.cluster.ClusterRoom.members`."""
        return self._await(self._inner.members)


class ClusterRoomChannel(ClusterEmitter):
    """Named channel of a `ClusterRoom`. `ClusterRoom.of` returns it."""

    __slots__ = ()

    _inner: AsyncClusterRoomChannel

    name: SameAttribute[str] = SameAttribute()
    """The channel's name."""


class ClusterClient(Root):
    """Client that can call the peers of a cluster, and emit events to its rooms.

    Its methods and options are those of `wsrpc.cluster.ClusterClient`. For programs without a server, such as
    scripts and cron jobs:

    ``with ClusterClient(RedisEngine(url), name="shop") as shop: shop.room("lobby").emit("news", "...")``

    Entering the block waits until the engine is reached and the processes of the cluster are known. Leaving the block
    waits until all sent messages are written. In place of the block, you can call `connect` and `close`. You can join
    again afterwards.

    Make one at the top of a module, and call `connect` before each use: the first call in each process joins the
    cluster. The process may fork before that and after `close`, and not in between.
    """

    _inner: AsyncClusterClient

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
        inner = AsyncClusterClient(
            engine,
            name=name,
            limits=limits,
            codec=codec,
            dec_hook=dec_hook,
            store=store,
            connect_timeout=connect_timeout,
        )

        def over() -> Exception:
            return EngineLost("the ClusterClient is used outside of its block: use `with`, or call connect()")

        self._connecting = Lock()
        closing = inner.close
        name = "ClusterClient"
        super().__init__(inner, CallBridge(name, f"wsrpc.cluster.{name}", closing, over, opens_first=True, steps=False))

    def __enter__(self) -> Self:
        """Join the cluster.

        Raises:
            EngineLost: the engine was not reached within ``connect_timeout``.
            EngineRefused: the engine refuses the user or the password.
        """
        self._enter(self._inner.__aenter__)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> None:
        """Join the cluster. Returns at once if this process has joined. Threads may call this at the same time.

        Raises:
            EngineLost, EngineRefused: as for `wsrpc.cluster.ClusterClient.connect`. You can call this again.
            RuntimeError: the process has forked since it was connected.
        """
        self._bridge.check()  # first: in a forked child, nobody may ever release the lock
        with self._connecting:
            if not self._inner.nodes:
                self._enter(self._inner.connect)

    def close(self) -> None:
        """Leave the cluster, and return when all sent messages are written. Idempotent."""
        self._close(self._inner.close)

    @no_parentheses("@client.use_outgoing")
    def use_outgoing(self, function: F, /) -> F:
        """Run a plain ``function(call)`` around calls and events; see `wsrpc.cluster.ClusterClient.use_outgoing`.

        It runs in the client's own thread, so it must not wait.

        Raises:
            TypeError: the function is an ``async def``, or has no valid form.
        """
        check_plain(function, "a function of use_outgoing")
        self._apply(self._inner.use_outgoing, function)
        return function

    name: SameAttribute[str] = SameAttribute()
    """The name of the application, which is the same in all processes of the cluster."""
    connected: SameAttribute[bool] = SameAttribute()
    """Whether the engine can be reached. If not, this process cannot reach other processes."""
    nodes: SameAttribute[tuple[str, ...]] = SameAttribute()
    """The names of the known processes of the cluster; see `wsrpc.cluster.ClusterClient.nodes`."""

    def locate(self, address: str) -> str | None:
        """Return the name of the process to which the peer with this address is connected, or None."""
        return self._inner.locate(address)

    def peer(self, address: str) -> ClusterPeer:
        """Return the peer with this address. It may be connected to any process, or to none."""
        return ClusterPeer(self._inner.peer(address), self._bridge)

    def waiting(self) -> list[WaitingCalls]:
        """Return the addresses to which calls wait, each with their number; see `ClusterClient.waiting`."""

        async def read() -> list[WaitingCalls]:
            return [found async for found in self._inner.waiting()]

        return self._await(read)

    def room(self, name: str, *, keep: float | None = None) -> ClusterRoom:
        """Return the room with this name, which emits to its members in all processes; see `ClusterClient.room`."""
        return ClusterRoom(self._inner.room(name, keep=keep), self._bridge)

    def stats(self) -> ClusterStats | None:
        """Return a snapshot of this process's counters, or None while this process is not part of the cluster."""
        return self._inner.stats()
