"""`Host`: what the parts of a session ask of the peer that they belong to."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

from .._base.scheduler import Scheduler
from .._protocol.settings import Settings


class Host(Protocol):
    """What the parts of a session ask of the peer that they belong to. `PeerCore` of ``_peer`` implements it."""

    @property
    def settings(self) -> Settings: ...

    @property
    def loop(self) -> Scheduler: ...

    def takes_raw(self) -> bool:
        """Return whether this side wants raw messages, binary ones among them."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], /) -> None:
        """Run a coroutine in a task."""

    def warn(self, text: str, /, *args: object) -> None:
        """Write a line into the log."""

    def ignore(self, kind: str, /) -> None:
        """Count something of the remote peer that makes no sense."""

    def fail(self, code: int, reason: str, /) -> None:
        """End the connection because of the remote peer."""
