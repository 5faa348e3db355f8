"""Telling the other side that something is over here: cancellations and aborts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from msgspec import UnsetType

from .._protocol.messages import ChannelAbort
from .._protocol.rejections import reason_to_wire, without_data
from ..errors import MessageTooBig, RpcError
from .pending import MAX_REMEMBERED

__all__ = ["Notices"]

NOT_ENCODABLE = "they cannot be encoded"
"""What the other side is told of that; the encoder's own words may be a secret."""


class Replies(Protocol):
    """What notices leave by."""

    encode: Callable[[Any], bytes]

    def reply(self, payload: bytes, /) -> None: ...


class Notices:
    """Sends the notices of one peer."""

    __slots__ = ("_aborted", "_out", "_warn")

    def __init__(self, out: Replies, warn: Callable[..., None]) -> None:
        self._out = out
        self._warn = warn
        self._aborted: dict[int, None] = {}

    def abort_channel(self, h: int, reason: object) -> None:
        """Tell the other side that channel ``h`` is over, once: an abort is never answered, but events may follow."""
        if h in self._aborted:
            return
        self._aborted[h] = None
        if len(self._aborted) > MAX_REMEMBERED:
            del self._aborted[next(iter(self._aborted))]
        self.send(partial(ChannelAbort, h), reason)

    def send(self, notice: Callable[[Any, int | UnsetType], object], reason: object) -> None:
        """Send a cancellation or an abort; where its reason cannot travel, without that."""
        try:
            self._out.reply(self._out.encode(notice(*reason_to_wire(reason))))
        except MessageTooBig as exc:
            self._send_shortly(notice, without_data(reason, exc) if isinstance(reason, RpcError) else None)
        except Exception as exc:
            # It cannot be encoded, for which a user's enc_hook may raise anything. That somebody stops matters more.
            self._warn("the reason of a cancellation or an abort cannot be encoded, and was left out", exc_info=exc)
            self._send_shortly(notice, without_data(reason, NOT_ENCODABLE) if isinstance(reason, RpcError) else None)

    def _send_shortly(self, notice: Callable[[Any, int | UnsetType], object], reason: RpcError | None) -> None:
        try:
            self._out.reply(self._out.encode(notice(*reason_to_wire(reason))))
        except MessageTooBig:
            return  # even that, to a side that takes next to nothing
        except Exception:
            if reason is None:
                raise
            self._send_shortly(notice, None)  # not even its message or code can be encoded

    def forget_aborted(self, h: int) -> None:
        """Channel ``h`` is a new one."""
        self._aborted.pop(h, None)

    def connection_lost(self) -> None:
        """No channel outlives its connection."""
        self._aborted.clear()
