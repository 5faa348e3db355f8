"""The sessions of a server that can go on over another connection, and the first message of such a connection."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from contextlib import suppress
from hmac import compare_digest
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import cast

from msgspec import Struct, field

from .._base.closing import CloseInfo
from .._entrance.entrance import Gate
from .._peer.core import PeerCore
from .._protocol.control import Gone, GoneWhy, Hello, Resume, Resumed, announce, read_control, write_control
from ..errors import ConnectionLost
from ..handshake import Handshake
from ..transport import Receiver, Transport

__all__ = ["FIRST_MESSAGE", "RESUME_HEADER", "FirstMessage", "ResumableSessions"]

FIRST_MESSAGE = 5.0
"""Seconds that a client has to say which session it means. After them it gets a new one."""
RESUME_HEADER = "wsrpc-resume"
"""Header of a request whose connection is to go on with a session: it is ``1``."""
NO_TOKEN = hashlib.sha256(b"").digest()


class ResumableSession(Struct, eq=False):
    """One session. Its tokens are kept as hashes, so that nobody who reads the memory can resume it."""

    core: PeerCore
    goes_on: Callable[[Handshake], None]
    """Called with the handshake of each connection over which the session goes on."""
    presented: bytes
    """The token that the client has last presented, which it may present again if the answer was lost."""
    issued: bytes
    """The newest one."""
    gen: int = 0
    """The highest that the client has said."""
    memory: int = 0
    """Bytes that count for it while it has no connection."""
    holder: Holder | None = None
    """The client that these bytes count for. None while the session has a connection."""


class Holder(Struct, eq=False):
    """The sessions of one client that have no connection, the oldest first, and the bytes that they take."""

    key: object
    sessions: dict[str, ResumableSession] = field(default_factory=dict[str, ResumableSession])
    memory: int = 0


def _memory(of: ResumableSession | Holder) -> int:
    return of.memory


class ResumableSessions:
    """The sessions of a server that can go on over another connection.

    Each is kept for ``kept_for`` seconds without a connection. Those without one take at most ``limit`` bytes together.
    When they take more, the client whose sessions take most loses the largest one: no client can end the sessions of
    another one that takes less.
    """

    def __init__(self, kept_for: float, limit: int) -> None:
        self.kept_for = kept_for
        self._limit = limit
        self._here = secrets.token_urlsafe(6)
        """Begins the names of these sessions. A session whose name begins otherwise belongs to another process."""
        self._entries: dict[str, ResumableSession] = {}
        self._holders: dict[object, Holder] = {}
        """The clients that have sessions without a connection."""
        self._held = 0
        """Bytes that these sessions take together."""
        self._ending = False
        """Whether sessions are being ended to keep the bound."""

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, core: PeerCore, goes_on: Callable[[Handshake], None]) -> tuple[str, str]:
        """Return the name and the token of a new session, the present one of ``core``."""
        sid, token = f"{self._here}.{secrets.token_urlsafe(16)}", secrets.token_urlsafe(32)
        hashed = _hash(token)
        self._entries[sid] = ResumableSession(core, goes_on, hashed, hashed)
        return sid, token

    def forget(self, sid: str) -> None:
        """Forget a session, which is over. Idempotent."""
        self.attached(sid)
        self._entries.pop(sid, None)

    def resume(self, asked: Resume, transport: Transport, handshake: Handshake) -> PeerCore | GoneWhy:
        """Go on with a session over ``transport``. Return its peer, or why that is not possible.

        A request that is refused changes nothing in the session.
        """
        here, dot, _ = asked.sid.partition(".")
        if dot and here != self._here:
            return "elsewhere"
        entry = self._entries.get(asked.sid)
        hashed = _hash(asked.token)
        # As much work without such a session as with one.
        newest = compare_digest(hashed, NO_TOKEN if entry is None else entry.issued)
        before = compare_digest(hashed, NO_TOKEN if entry is None else entry.presented)
        if entry is None or not (newest or before) or asked.gen <= entry.gen:
            return "expired"
        core, resumption = entry.core, entry.core.resumption
        if not _same(handshake.principal, core.peer.principal):
            return "auth"
        if resumption is None or not core.resumable:
            return "expired"
        entry.gen = asked.gen
        entry.presented = hashed
        token = secrets.token_urlsafe(32)
        entry.issued = _hash(token)
        resumption.fence()  # before anything is counted: what the old connection still delivers must not count
        received = resumption.received
        link = core.link_for(transport)
        answer = Resumed(received.n, received.bytes, token, announce(core.limits))
        try:
            transport.send(write_control(answer), True)
        except ConnectionLost:  # it has dropped already, so the client comes again
            self.detached(asked.sid)
            return core
        self.attached(asked.sid)
        resumption.go_on(link, asked.rx, asked.bytes, asked.limits)
        if core.link is link:  # else the session has just ended
            entry.goes_on(handshake)
        return core

    # ------------------------------------------------------------ the bound

    def detached(self, sid: str) -> None:
        """Count a session that has no connection any more."""
        entry = self._entries.get(sid)
        if entry is not None and entry.holder is None:
            key = _holder_key(entry.core)
            holder = entry.holder = self._holders.setdefault(key, Holder(key))
            holder.sessions[sid] = entry
            self._count(entry, holder, entry.core.memory())
            self._keep_bound()

    def recount(self, sid: str) -> None:
        """Count a session without a connection anew: more or less waits in it. Idempotent."""
        entry = self._entries.get(sid)
        if entry is not None and entry.holder is not None:
            self._count(entry, entry.holder, entry.core.memory())
            self._keep_bound()

    def attached(self, sid: str) -> None:
        """Stop counting a session: it has a connection, or is over. Idempotent."""
        entry = self._entries.get(sid)
        if entry is not None and entry.holder is not None:
            holder, entry.holder = entry.holder, None
            self._count(entry, holder, 0)
            del holder.sessions[sid]
            if not holder.sessions:
                del self._holders[holder.key]

    def _count(self, entry: ResumableSession, holder: Holder, held: int) -> None:
        more = held - entry.memory
        entry.memory = held
        holder.memory += more
        self._held += more

    def _keep_bound(self) -> None:
        if self._ending:  # a `close` handler has sent something
            return
        self._ending = True
        try:
            while self._held > self._limit:
                # With 15,000 clients, or as many sessions of one, which fill 256 MiB, this took 1.4 ms.
                most = max(self._holders.values(), key=_memory)
                largest = max(most.sessions.values(), key=_memory)
                largest.core.end_session("too many sessions without a connection")
        finally:
            self._ending = False


def _holder_key(core: PeerCore) -> object:
    """Return what is the same for all sessions of one client: its principal's hash, or else its network."""
    principal = core.peer.principal
    if principal is not None:
        with suppress(Exception):  # of the user's class
            return "principal", hash(principal)
    info = core.history.info
    if info is None or info.remote is None:
        return None
    host = info.remote[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
        return IPv6Network((int(address), 64), strict=False)  # which one client has
    return str(address)


class FirstMessage:
    """Receiver of a connection whose first message says whether a session goes on with it.

    If none does, what arrives is kept for `hand_over`.
    """

    def __init__(self, sessions: ResumableSessions, transport: Transport, handshake: Handshake) -> None:
        self._sessions = sessions
        self._transport = transport
        self._handshake = handshake
        self._early: list[tuple[bytes | bytearray, bool]] = []
        self._next: Receiver | None = None
        self._ended: CloseInfo | None = None
        self._decided: asyncio.Future[PeerCore | None] = asyncio.get_running_loop().create_future()

    async def wait(self, gate: Gate) -> PeerCore | None:
        """Return the peer whose session goes on, or None for a new one, and for none if ``gate`` closes meanwhile.

        Raises:
            ConnectionLost: the connection has ended.
        """
        self._transport.start(self)
        patience = asyncio.timeout(FIRST_MESSAGE)
        try:
            with gate.deciding(patience):
                async with patience:
                    core = await asyncio.shield(self._decided)
        except TimeoutError:
            if not self._decided.done():
                self._new_session()  # a resume that comes later is out of place
            core = self._decided.result()
        if core is None and self._ended is not None:
            raise ConnectionLost(self._ended.code, self._ended.reason, "not_sent")
        return core

    def hand_over(self, receiver: Receiver) -> None:
        """Give what has arrived, and what arrives from now on, to ``receiver``."""
        self._next = receiver
        early, self._early = self._early, []
        for payload, text in early:
            receiver.receive(payload, text)
        self._transport.resume_receiving()

    # ------------------------------------------------------------ callbacks of the transport

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        if self._next is not None:
            self._next.receive(payload, text)
            return
        if not self._decided.done():
            asked = read_control(payload) if text else None
            if isinstance(asked, Resume):
                self._decide(asked)
                return
            self._new_session()
        self._early.append((bytes(payload), text))

    def _new_session(self) -> None:
        """Keep what has arrived for a new session. Little more arrives until there is one."""
        self._transport.pause_receiving()
        self._decided.set_result(None)

    def _decide(self, asked: Resume) -> None:
        found = self._sessions.resume(asked, self._transport, self._handshake)
        if not isinstance(found, str):
            # Nobody: the session has just ended, and its connection is being closed.
            self._next = cast("Receiver", found.link or _Nobody())
            self._decided.set_result(found)
            return
        with suppress(ConnectionLost):  # it has just ended, and its end comes here
            self._transport.send(write_control(Gone(found)), True)
        self._early.append((write_control(Hello(asked.v, asked.features, asked.limits)), True))
        self._new_session()

    def read_ended(self) -> None:
        if self._next is not None:
            self._next.read_ended()

    def pause_sending(self) -> None:
        if self._next is not None:
            self._next.pause_sending()

    def resume_sending(self) -> None:
        if self._next is not None:
            self._next.resume_sending()

    def connection_lost(self, info: CloseInfo, /) -> None:
        if self._next is not None:
            self._next.connection_lost(info)
            return
        self._ended = info
        if not self._decided.done():
            self._decided.set_result(None)


class _Nobody:
    """Receiver of a connection that is being closed: ignores everything."""

    def receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        pass

    def read_ended(self) -> None:
        pass

    def pause_sending(self) -> None:
        pass

    def resume_sending(self) -> None:
        pass

    def connection_lost(self, info: CloseInfo, /) -> None:
        pass


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _same(principal: object, other: object) -> bool:
    """Return whether two principals are the same. One that cannot be compared is not."""
    try:
        return principal is other or bool(principal == other)
    except Exception:  # of the user's class: then nobody knows
        return False
