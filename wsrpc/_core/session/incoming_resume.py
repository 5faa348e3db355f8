"""`IncomingResume`: a connection whose client wants to resume a session, until its first message names the session."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

from ..._base.closing import NO_REDIAL, CloseCode, CloseInfo
from ...errors import ConnectionLost
from ...handshake import Handshake
from ...transport import Transport
from ..wire.control import Alive, Gone, Hello, Probe, Resume, Resumed, announce, read_control, write_control
from .connection import Connection, ignore_end
from .sessions import ClosedSession, Sessions

NAMING_TIMEOUT = 30.0
"""Seconds within which the client must name the session, otherwise the connection is dropped. It does not get a new
session: over a slow network the client might take its first message for the answer, and end the session that it has."""


Within = Callable[[asyncio.Timeout], AbstractContextManager[object]]
"""Returns a context manager in which a call waits. It can end the wait by the timeout, as a server that closes does."""


class IncomingResume:
    """A connection whose client wants to resume a session, until its first message names the session.

    If the first message names no session, all messages that arrive are kept for a new session; see `hand_over`.

    Args:
        elsewhere: resumes a session of another process, and returns when the connection has ended, by raising
            `ConnectionLost`. It returns why the session cannot resume. None without a cluster.
    """

    def __init__(
        self,
        sessions: Sessions,
        transport: Transport,
        handshake: Handshake,
        elsewhere: Callable[[Resume, IncomingResume], Awaitable[str]] | None = None,
    ) -> None:
        self._sessions = sessions
        self._elsewhere = elsewhere
        self.handshake = handshake
        self.connection = Connection(transport)
        self.connection.owner = self
        self._early: list[tuple[bytes | bytearray, bool]] = []
        self._decided: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        """The result is the `Peer` whose session has resumed, a `ClosedSession`, the `GoneWhy` of a session that cannot
        resume, "new" for one that begins now, or None if the client names no session. It is a `Resume` if the session
        belongs to another process."""
        self._asked: Resume | None = None

    async def wait(self, naming: Within, deciding: Within) -> Any | None:
        """Return the `Peer` whose session has resumed. None for a new session.

        Args:
            naming: until the client has named its session.
            deciding: after that, while another process has the session.

        Raises:
            ConnectionLost: the connection has ended, or is closed because the session was closed, or is dropped.
        """
        self.connection.start_receiving(self._receive, ignore_end)
        patience = asyncio.timeout(NAMING_TIMEOUT)
        try:
            with naming(patience):
                async with patience:
                    found = await asyncio.shield(self._decided)
        except TimeoutError:
            if not self._decided.done():
                raise self._drop("the client has not named its session in time, or the server is closing") from None
            found = self._decided.result()
        if isinstance(found, Resume):
            assert self._elsewhere is not None
            connected = asyncio.timeout(None)  # until the server closes
            try:
                with deciding(connected):
                    async with connected:
                        found = await self._elsewhere(found, self)
            except TimeoutError:
                raise self._drop("the server is closing") from None
        if isinstance(found, ClosedSession):
            info = found.closed_with
            self.connection.stop_receiving()
            await self.connection.close(info.code, info.reason)
            # A client that asks again gets a new session. But a code after which a client does not dial again must
            # arrive, so after an unclean end the closed session stays. (With other codes, the client would be refused
            # again and again, because some HTTP servers never report a clean end.)
            if info.code not in NO_REDIAL or ((ended := self.connection.ended) is not None and ended.was_clean):
                self._sessions.remove_closed(found.sid)
            raise ConnectionLost(info.code, info.reason, "not_sent")
        if found is not None and not isinstance(found, str):
            return found
        if (ended := self.connection.ended) is not None:
            raise ConnectionLost(ended.code, ended.reason, "not_sent")
        if found is not None:
            self._refuse(found)
        return None

    def _drop(self, reason: str) -> ConnectionLost:
        """Drop the connection without a close code, so that the session can resume on another one."""
        self.connection.stop_receiving()
        self.connection.transport.abort()
        return ConnectionLost(CloseCode.ABNORMAL, reason, "not_sent")

    def hand_over(self) -> None:
        """Pass the messages that have arrived to the session that the connection belongs to now."""
        early, self._early = self._early, []
        for payload, text in early:
            self.connection.receive(payload, text)
        self.connection.transport.resume_receiving()

    def _receive(self, payload: bytes | bytearray, text: bool, /) -> None:
        if not self._decided.done():
            asked = read_control(payload) if text else None
            if isinstance(asked, Resume):
                self._decide(asked)
                return
            if isinstance(asked, Probe):  # the client tests this connection, and still uses another one
                if not self.connection.above_high_water:
                    self.connection.send_control(Alive())
                return
            self._decided.set_result(None)
        self._keep(len(self._early), bytes(payload), text)

    def _keep(self, place: int, payload: bytes, text: bool) -> None:
        """Keep a message for `hand_over`. Until then, little more is read, and so no ping is answered."""
        if not self._early:
            self.connection.transport.pause_receiving()
        self._early.insert(place, (payload, text))

    def _decide(self, asked: Resume) -> None:
        found = self._sessions.resume(asked, self.connection, self.handshake)
        self._asked = asked
        self._decided.set_result(asked if found == "elsewhere" and self._elsewhere is not None else found)

    def _refuse(self, why: str) -> None:
        """Answer that the session is over, or begins. The request is the hello of a new session.

        Raises:
            ConnectionLost: the client has left. A new session would take the address of its next connection.
        """
        if any(text and isinstance(read_control(payload), Gone) for payload, text in self._early):
            raise self._drop("the client has left")
        asked = self._asked
        assert asked is not None
        hello = Hello(asked.v, asked.features, asked.limits, asked.program, asked.contract)
        answer: Gone | Resumed = Gone(why)
        if why == "new":
            hello.sid, hello.token = asked.sid, asked.token
            answer = Resumed(0, 0, asked.token, announce(self.handshake.limits))
        self.connection.send(write_control(answer), True)
        self._keep(0, write_control(hello), True)

    # ------------------------------------------------------------ what the connection reports

    def update_full(self) -> None:
        """Do nothing, because nothing is sent yet."""

    def connection_lost(self, connection: Connection, info: CloseInfo, /) -> None:
        """Stop waiting: the connection has ended."""
        connection.stop_receiving()
        if not self._decided.done():
            self._decided.set_result(None)
