"""`Host`: what the parts of a peer ask of it. `SessionReceiver`: what its session reports to it, besides."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, Protocol

from ..._base.closing import CloseInfo
from ..._base.logs import PeerLog
from ..._base.scheduler import Scheduler
from ..wire.codecs import NegotiatedCodec
from ..wire.control import Announced, CreditMessage, Drain
from ..wire.settings import Settings
from .connection import Connection
from .session_end import SessionEnd


class Host(Protocol):
    """What the parts of a peer ask of it: their only way up. `PeerHost` of ``_core.peer`` implements it."""

    @property
    def settings(self) -> Settings: ...

    @property
    def loop(self) -> Scheduler: ...

    @property
    def log(self) -> PeerLog: ...

    @property
    def ignored(self) -> Counter[str]:
        """Numbers of messages that were not handled, by kind."""
        ...

    @property
    def current(self) -> SessionReceiver:
        """The inside of the present session, of the next one, or of the last one."""
        ...

    def accepts_raw(self) -> bool:
        """Return whether this side wants raw messages, binary ones among them."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        """Run a coroutine in a task."""
        ...

    def keep(self, task: asyncio.Task[None], /) -> None:
        """Wait for a task before the peer ends."""

    def ignore(self, kind: str, /) -> None:
        """Count something of the remote peer that makes no sense."""

    def count(self, kind: str, text: object, times: int = 1, /) -> None:
        """Count events that do not reach a handler as they came. The first of a kind is worth a line in the log."""

    def message_queued(self) -> None:
        """Note that a message of the user begins to wait for a connection."""

    def count_dropped(self, broadcasts: int, /) -> None:
        """Count broadcasts that were not sent, because the remote peer reads too slowly."""

    def request_expired(self, pending: Any, /) -> None:
        """End a request whose deadline is over."""

    def opening_handlers(self, event: Literal["open", "on_reconnect"], /) -> list[tuple[str, str, Awaitable[Any]]]:
        """Call the handlers of ``event`` that are not the user's own `open` handlers. Return those not finished."""
        ...

    # ------------------------------------------------------------ reports

    def connection_ended(self, connection: Connection, /) -> None:
        """The connection is the session's no more."""


class SessionReceiver(Protocol):
    """What a session reports to, and what it asks for. `PeerSession` of ``_core.peer`` implements it."""

    def objection(self, payload: bytes, raw: bool, /) -> Exception | None:
        """Return the error for an encoded message that the remote peer would not accept. None if it may be sent."""

    def backlog(self) -> int:
        """Return the bytes of what is not done yet, about: what has begun, is being worked on, waits or is unread."""
        ...

    def drop_backlog(self, session: Any, /) -> None:
        """Drop what is still read or worked on, although ``session`` is over."""

    def in_progress(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """Return a function that waits for the requests, handlers and channels that there are now. None if none are."""

    # ------------------------------------------------------------ reports

    def opened(self) -> None:
        """The handlers of the opening are done or overdue."""

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str], /) -> None:
        """Use what both sides support. See `Terms.agreed`."""

    def control_received(self, message: CreditMessage | Drain, /) -> None:
        """Take a control message that is not about the session."""

    def may_send_changed(self) -> None:
        """Something has changed that decides whether a message may leave at once: see `SessionWriter.may_send`."""

    def room_changed(self) -> None:
        """The session has become full, or has room again, or has another connection or none, or this side drains."""

    def fail(self, code: int, reason: str, /) -> None:
        """The session has to end because of what the remote peer did."""

    def session_detached(self, info: CloseInfo, /) -> None:
        """The connection has ended, and the session waits for another one."""

    def session_resuming(self, connection: Connection, limits: Announced, /) -> bool:
        """The session has another connection. What the remote peer has missed was sent again, what waits was not.

        Returns:
            whether the user's messages leave. Else they wait for the `open` handlers, or for another session.
        """
        ...

    def session_resumed(self) -> None:
        """The session has resumed: what has waited was sent, and messages are let in."""

    def session_over(self, end: SessionEnd, /) -> None:
        """The session is over. Called once."""
