"""The sessions of a server that can go on over another connection, and the first message of such a connection."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from contextlib import suppress
from hmac import compare_digest
from typing import TYPE_CHECKING, cast

from msgspec import Struct

from .._base.closing import CloseInfo
from .._protocol.control import Gone, GoneWhy, Hello, Resume, Resumed, announce, read_control, write_control
from ..errors import ConnectionLost
from ..handshake import Handshake
from ..transport import Receiver, Transport

if TYPE_CHECKING:
    from .entrance import Gate
    from .peers import ServedPeer

__all__ = ["FIRST_MESSAGE", "FirstMessage", "Sessions", "means_to_resume"]

FIRST_MESSAGE = 5.0
"""Seconds that a client has to say which session it means. After them it gets a new one."""
OVERHEAD = 8 * 1024
"""Bytes that a session without a connection takes besides its messages, about. So their number is bounded, too."""
NO_TOKEN = hashlib.sha256(b"").digest()


def means_to_resume(headers: Mapping[str, str]) -> bool:
    """Return whether a request announces that its connection is to go on with a session."""
    return headers.get("wsrpc-resume") == "1"


class Entry(Struct, eq=False):
    """One session. Its tokens are kept as hashes, so that nobody who reads the memory can resume it."""

    served: ServedPeer
    presented: bytes
    """The token that the client has last presented, which it may present again if the answer was lost."""
    issued: bytes
    """The newest one."""
    gen: int = 0
    """The highest that the client has said."""
    held: int | None = None
    """Bytes that count for it while it has no connection."""


class Sessions:
    """The sessions of a server that can go on over another connection.

    Those without a connection take at most ``limit`` bytes together. When they take more, the oldest end.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[str, Entry] = {}
        self._detached: dict[str, Entry] = {}
        """Those without a connection, the oldest first."""
        self._held = 0

    def __len__(self) -> int:
        return len(self._entries)

    def name(self, served: ServedPeer) -> tuple[str, str]:
        """Return the name and the token of a new session, that of ``served``."""
        sid, token = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
        hashed = _hash(token)
        self._entries[sid] = Entry(served, hashed, hashed)
        return sid, token

    def forget(self, sid: str) -> None:
        """Forget a session, which is over. Idempotent."""
        self._entries.pop(sid, None)
        self.attached(sid)

    def resume(self, asked: Resume, transport: Transport, handshake: Handshake) -> ServedPeer | GoneWhy:
        """Go on with a session over ``transport``. Return its peer, or why that is not possible.

        A request that is refused changes nothing in the session.
        """
        entry = self._entries.get(asked.sid)
        hashed = _hash(asked.token)
        # As much work without such a session as with one.
        newest = compare_digest(hashed, NO_TOKEN if entry is None else entry.issued)
        before = compare_digest(hashed, NO_TOKEN if entry is None else entry.presented)
        if entry is None or not (newest or before) or asked.gen <= entry.gen:
            return "expired"
        served = entry.served
        if not _same(handshake.principal, served.peer.principal):
            return "auth"
        if not served.core.resumable:
            return "expired"
        entry.gen = asked.gen
        entry.presented = hashed
        token = secrets.token_urlsafe(32)
        entry.issued = _hash(token)
        core = served.core
        core.fence()  # before anything is counted: what the old connection still delivers must not count
        resumption = core.session.resumption
        assert resumption is not None
        received = resumption.received
        link = core.link_for(transport)
        answer = Resumed(received.n, received.bytes, token, announce(core.limits))
        try:
            transport.send(write_control(answer), True)
        except ConnectionLost:  # it has dropped already, so the client comes again
            self.detached(asked.sid)
            return served
        self.attached(asked.sid)
        served.peer.state.update(handshake.state)
        core.go_on(link, asked.rx, asked.bytes, asked.limits)
        served.expire_at(handshake.expires)
        return served

    # ------------------------------------------------------------ the bound

    def detached(self, sid: str) -> None:
        """Count a session that has no connection any more."""
        entry = self._entries.get(sid)
        if entry is not None and entry.held is None:
            self._detached[sid] = entry
            entry.held = OVERHEAD + entry.served.out.kept
            self._held += entry.held
            self._keep_bound()

    def held(self, sid: str, size: int) -> None:
        """Count ``size`` more bytes that wait in a session without a connection."""
        entry = self._detached.get(sid)
        if entry is not None and entry.held is not None:
            entry.held += size
            self._held += size
            self._keep_bound()

    def attached(self, sid: str) -> None:
        """Stop counting a session: it has a connection, or is over. Idempotent."""
        entry = self._detached.pop(sid, None)
        if entry is not None and entry.held is not None:
            self._held -= entry.held
            entry.held = None

    def _keep_bound(self) -> None:
        while self._held > self._limit:
            oldest = next(iter(self._detached.values()))
            oldest.served.core.end_session("too many sessions without a connection")


class FirstMessage:
    """Receiver of a connection whose first message says whether a session goes on with it.

    If none does, what arrives is kept for `hand_over`.
    """

    def __init__(self, sessions: Sessions, transport: Transport, handshake: Handshake) -> None:
        self._sessions = sessions
        self._transport = transport
        self._handshake = handshake
        self._early: list[tuple[bytes | bytearray, bool]] = []
        self._next: Receiver | None = None
        self._ended: CloseInfo | None = None
        self._decided: asyncio.Future[ServedPeer | None] = asyncio.get_running_loop().create_future()

    async def wait(self, gate: Gate) -> ServedPeer | None:
        """Return the peer whose session goes on, or None for a new one. That is at once when ``gate`` is closed.

        Raises:
            ConnectionLost: the connection has ended.
        """
        self._transport.start(self)
        patience = asyncio.timeout(FIRST_MESSAGE)
        try:
            with gate.deciding(patience):
                async with patience:
                    served = await asyncio.shield(self._decided)
        except TimeoutError:
            if not self._decided.done():
                self._new_session()  # even if it asks for another one from now on
            served = self._decided.result()
        if served is None and self._ended is not None:
            raise ConnectionLost(self._ended.code, self._ended.reason, "not_sent")
        return served

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
            link = found.core.link
            self._decided.set_result(found)
            if link is not None:
                self._next = cast("Receiver", link)  # pyright takes the bound callables for methods
            return
        with suppress(ConnectionLost):  # it has dropped already, which is about to be reported
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


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _same(principal: object, other: object) -> bool:
    """Return whether two principals are the same. One that cannot be compared is not."""
    try:
        return principal is other or bool(principal == other)
    except Exception:  # of the user's class: then nobody knows
        return False
