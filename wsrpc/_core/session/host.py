"""`Host`: what the parts of a peer ask of the peer. `SessionListener`: what a session reports to its peer."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Literal, Protocol

from ..._base.closing import CloseInfo
from ..._base.logs import CallFields, PeerLog
from ..._base.scheduler import Scheduler
from ..wire.codecs import NegotiatedCodec
from ..wire.control import Announced, CreditMessage, Drain
from ..wire.settings import Settings
from .connection import Connection
from .session_end import SessionEnd


class Host(Protocol):
    """What the parts of a peer ask of the peer. They know no other object above them. `PeerHost` implements it."""

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
    def current(self) -> SessionListener:
        """The inside of the current session.

        A session is the current one from its making until another session replaces it. So the current session may not
        have started yet, and it may be over.
        """
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        """Run a coroutine in a task."""
        ...

    def keep(self, task: asyncio.Task[None], /) -> None:
        """Let the peer wait for a task before it ends."""

    def ignore(self, kind: str, /) -> None:
        """Count a message of the remote peer that makes no sense."""

    def count(self, kind: str, text: object, times: int = 1, /, *, call: CallFields | None = None) -> None:
        """Count events that do not reach a handler unchanged. The first event of each kind is logged."""

    def message_queued(self) -> None:
        """A message of the user waits for a connection from now on."""

    def count_dropped(self, broadcasts: int, /) -> None:
        """Count broadcasts that were not sent, because the remote peer reads too slowly."""

    def metadata_not_sent(self) -> None:
        """Count the metadata of one message that was sent without it: the remote peer does not accept metadata."""

    def request_expired(self, pending: Any, /) -> None:
        """End a request whose deadline is over."""

    def opening_handlers(self, event: Literal["open", "on_reconnect"], /) -> list[tuple[str, str, Awaitable[Any]]]:
        """Call the owner's handlers of ``event``. Return the calls that have not finished."""
        ...

    # ------------------------------------------------------------ reports

    def connection_ended(self, connection: Connection, /) -> None:
        """The session has dropped the connection."""


class SessionListener(Protocol):
    """What a session reports, and what it asks for. `PeerSession` of ``_core.peer`` implements it."""

    def objection(self, payload: bytes, /) -> Exception | None:
        """Return the error for an encoded message that the remote peer would not accept. None if it may be sent."""

    def backlog(self) -> int:
        """Return about how many bytes unfinished work takes: calls, channels, and messages that wait or are unread."""
        ...

    def drop_backlog(self, session: Any, /) -> None:
        """Drop what readers and handlers still hold of ``session``, which is over."""

    def in_progress(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """Return a function that waits for the present requests, handlers and channels. None if there are none."""

    # ------------------------------------------------------------ reports

    def give_up(self, payload: bytes, /) -> tuple[bytes, bool]:
        """Tell the sender of a message that it will not arrive. Return what is sent instead, and whether it is text."""
        ...

    def opened(self) -> None:
        """The handlers of the opening are done or overdue."""

    def agree(self, announced: Announced, codec: NegotiatedCodec | None, common: frozenset[str], /) -> None:
        """Apply what both sides support. See `Terms.agreed`."""

    def greeting_changed(self) -> None:
        """It is known whether the remote peer is a wsrpc peer, or a message has waited long enough for that."""

    def control_received(self, message: CreditMessage | Drain, /) -> None:
        """A control message has arrived that is not about the session."""

    def may_send_changed(self) -> None:
        """Something has changed that decides whether a message may leave at once: see `SessionWriter.may_send`."""

    def room_changed(self) -> None:
        """The session has become full, or has room again, or has another connection or none, or this side drains."""

    def fail(self, code: int, reason: str, /) -> None:
        """The session has to end because of what the remote peer did."""

    def keeps_session(self, info: CloseInfo, /) -> bool:
        """The connection has ended. Return whether the session may wait for another one. Nothing changes yet."""
        ...

    def session_detached(self, info: CloseInfo, /) -> None:
        """The connection has ended, and the session waits for another one."""

    def session_resuming(self, connection: Connection, limits: Announced, /) -> bool:
        """The session has another connection. Messages that had not arrived were sent again; waiting messages follow.

        Returns:
            whether the user's messages are sent. If not, they wait for the `open` handlers, or for another session.
        """
        ...

    def session_resumed(self) -> None:
        """The session has resumed: the waiting messages were sent, and messages are received."""

    def session_over(self, end: SessionEnd, /) -> None:
        """The session is over. Called once."""
