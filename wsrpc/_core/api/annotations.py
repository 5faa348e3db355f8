"""Classes of higher layers, for annotations. Nothing of this module exists when a program runs.

Users read a `Server` and its `Room` objects off a peer, a connection or a context, and type checkers must know these
types. This module alone imports them upwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..._server.rooms.room import Room
    from ..._server.server import Server

    __all__ = ["Room", "Server"]
