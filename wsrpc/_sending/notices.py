"""Cancellations and aborts: what tells the remote peer that something is over on this side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from msgspec import UnsetType

from .._protocol.messages import ChannelAbort
from .._protocol.rejections import reason_to_wire, without_data
from ..errors import MessageTooBig, RpcError
from .outbound import Outbound
from .pending import MAX_REMEMBERED

__all__ = ["Aborts", "Notices"]

NOT_ENCODABLE = "they cannot be encoded"
"""What the other side is told of that; the encoder's own words may be a secret."""


class Notices:
    """Sends cancellations and aborts through ``out``; ``warn`` writes a line into the log."""

    __slots__ = ("_out", "_warn")

    def __init__(self, out: Outbound, warn: Callable[..., None]) -> None:
        self._out = out
        self._warn = warn

    def send(self, notice: Callable[[Any, int | UnsetType], object], reason: object) -> None:
        """Send a cancellation or an abort; where its reason cannot travel, without that."""
        try:
            self._out.reply(self._out.terms.encode(notice(*reason_to_wire(reason))))
        except MessageTooBig as exc:
            self._send_shortly(notice, without_data(reason, exc) if isinstance(reason, RpcError) else None)
        except Exception as exc:
            # It cannot be encoded, for which a user's enc_hook may raise anything. That somebody stops matters more.
            self._warn("the reason of a cancellation or an abort cannot be encoded, and was left out", exc_info=exc)
            self._send_shortly(notice, without_data(reason, NOT_ENCODABLE) if isinstance(reason, RpcError) else None)

    def _send_shortly(self, notice: Callable[[Any, int | UnsetType], object], reason: RpcError | None) -> None:
        try:
            self._out.reply(self._out.terms.encode(notice(*reason_to_wire(reason))))
        except MessageTooBig:
            return  # even that, to a peer that takes next to nothing
        except Exception:
            if reason is None:
                raise
            self._send_shortly(notice, None)  # not even its message or code can be encoded


class Aborts:
    """The aborts of one session: each channel is aborted once, because an abort is never answered.

    Events on a channel that this side has aborted may still follow.
    """

    __slots__ = ("_channels", "_notices")

    def __init__(self, notices: Notices) -> None:
        self._notices = notices
        self._channels: dict[int, None] = {}

    def send(self, h: int, reason: object) -> None:
        """Tell the remote peer that channel ``h`` is over."""
        if h in self._channels:
            return
        self._channels[h] = None
        if len(self._channels) > MAX_REMEMBERED:
            del self._channels[next(iter(self._channels))]
        self._notices.send(partial(ChannelAbort, h), reason)

    def forget(self, h: int) -> None:
        """Channel ``h`` is a new one."""
        self._channels.pop(h, None)
