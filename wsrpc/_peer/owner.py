"""`PeerOwner`: what a peer reports to."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from .._base.closing import CloseInfo
from .._base.logs import PeerLog
from .._handlers.lifecycle import Unfinished
from .._handlers.registry import Registry
from .._protocol.settings import Settings
from .._session.connection import Connection
from .._session.sessions import Sessions
from ..errors import SessionLost
from ..handshake import Handshake


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

    @property
    def takes_raw(self) -> bool:
        """Whether this side has a function for raw messages."""
        return self.own.takes_raw or self.shared.takes_raw


class PeerOwner:
    """The client, or the entry of a server's table, that a peer belongs to. The peer reports to it.

    Subclasses override the methods that they need.
    """

    __slots__ = ("address", "peer", "rooms", "server")

    in_origin = True
    """False if a redirect to another origin led to the present connection. Its session then ends with it."""

    def __init__(self, server: Any = None) -> None:
        self.server = server
        """The `Server` that the peer belongs to. Its class, and that of rooms, lie in a higher layer."""
        self.peer: Any = None
        """The `Peer` itself, whose class lies in a higher layer."""
        self.address: str | None = None
        """The application's name for the client, as `Handshake.address` has set it."""
        self.rooms: dict[Any, bool] = {}
        """The rooms that the peer is in, and whether it joined each by its own request."""

    def log_for(self, id: str) -> PeerLog:
        """Make the log of the peer with that id."""
        return PeerLog(id)

    def queued(self) -> None:
        """A message begins to wait for a connection."""

    def open_handlers(self) -> list[Unfinished]:
        """Call the owner's own handlers of `open`, and return those that are not finished."""
        return []

    def reconnect_handlers(self) -> list[Unfinished]:
        """Call the `on_reconnect` handlers, after the `open` handlers, and return those that are not finished."""
        return []

    def opened(self) -> None:
        """A connection is open, and its handlers are done."""

    def session_over(self, info: CloseInfo, replaced: bool, lost: SessionLost | None = None) -> CloseInfo:
        """A session has ended, ``replaced`` by another one or not. Return what the `close` handlers get.

        Args:
            lost: what its pending calls get, if it might have resumed on another connection.
        """
        return info

    @property
    def sessions(self) -> Sessions | None:
        """The sessions of a server that can resume on another connection. None on a client."""
        return None

    def use_handshake(self, handshake: Handshake) -> None:
        """On a server: the session resumes on another connection, with this handshake."""

    def keep_session(self, info: CloseInfo) -> bool:
        """Prepare for another connection of the session, which has none now. Return False to end the session."""
        return False

    def resumed(self) -> None:
        """The session has resumed on another connection."""

    def asked_in_vain(self) -> None:
        """On a client: the session is over, and the connection on which it was to be resumed is closed."""

    def not_resumed(self, connection: Connection, first: tuple[bytes | bytearray, bool] | None) -> None:
        """On a client: the session has not resumed on ``connection``, and is over, but a new one can begin there.

        Args:
            first: the message that has told so, which belongs to the new one. None if it was a `Gone`.
        """

    def all_ended(self) -> None:
        """Everything that belongs to the session has ended. The `close` handlers are called, or will be soon."""

    def close_handler(self) -> Callable[[CloseInfo], Coroutine[Any, Any, None]] | None:
        """Return the owner's own handler of `close`."""
        return None
