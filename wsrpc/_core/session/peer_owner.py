"""`PeerOwner`: the object to which a peer reports. `PeerOptions`: the options of a peer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from ..._base.closing import CloseInfo
from ..wire.settings import Settings
from .session_end import NO_DECISION, Decision, SessionEnd

if TYPE_CHECKING:
    from ..handlers.registry import Registry

Unfinished = tuple[str, str, Awaitable[Any]]
"""A call of a lifecycle handler that takes time: the event, the handler's name, and what to await."""


class PeerOptions(msgspec.Struct, frozen=True):
    """Options of a peer. They never change."""

    settings: Settings
    dialer: bool
    """Whether this side dials. Its requests have odd ids, and it says hello first."""
    own: Registry
    """Handlers of this peer alone."""
    shared: Registry
    """Handlers of the server, for all its peers."""
    keeps_offline: bool = False
    """Whether messages that are sent without a connection wait for the next one."""
    fails_offline: bool = False
    """Whether a message without ``offline=`` fails instead of waiting for the next connection."""
    can_resume: bool = False
    """Whether sessions can resume on another connection: a client dials again, a server finds them."""


class PeerOwner:
    """The object to which a peer reports: its client, or its entry in the table of a server.

    This class does nothing, for a peer without client and server. Other owners override what they need.
    """

    __slots__ = ()

    def message_queued(self) -> None:
        """A message of the user waits for a connection."""

    def opening_handlers(self, event: Literal["open", "on_reconnect"], /) -> list[Unfinished]:
        """Call the owner's own handlers of ``event``, and return those that are not finished."""
        return []

    def opened(self) -> None:
        """A connection is open, and its handlers are done."""

    def greeted(self) -> None:
        """It is known what the remote peer supports: it has said hello, or is a plain peer."""

    def decide(self, info: CloseInfo, /) -> Decision:
        """The connection has ended. Decide what follows, without doing it yet.

        `session_detached` or `session_over` follows with the decision, if the session has not ended meanwhile.
        """
        return NO_DECISION

    def session_detached(self, decision: Decision, /) -> None:
        """The session waits for another connection."""

    def resumed(self) -> None:
        """The session has resumed on another connection."""

    def session_over(self, end: SessionEnd, /) -> None:
        """A session has ended."""

    def closed_between_sessions(self, info: CloseInfo, /) -> None:
        """This side has closed the peer, which has no session."""

    def will_reconnect(self) -> bool:
        """Return whether there will be another connection: `CloseInfo.will_reconnect`."""
        return False

    def session_released(self) -> None:
        """Everything that belongs to the session has ended. The `close` handlers are called now, or soon."""

    def release(self) -> None:
        """Keep the peer alive no more: nothing of its session remains."""

    def close_handler(self) -> Callable[[CloseInfo], Coroutine[Any, Any, None]] | None:
        """Return the owner's own handler of `close`."""
        return None
