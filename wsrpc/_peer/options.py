"""`PeerOptions`: the options of a peer, which never change."""

from __future__ import annotations

import msgspec

from .._handlers.registry import Registry
from .._protocol.settings import Settings


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
