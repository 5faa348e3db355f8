"""Cancellations and aborts, which tell the remote peer that something is over on this side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UnsetType

from .._protocol.rejections import reason_to_wire, without_data
from ..errors import MessageTooBig, RpcError
from .outbound import Outbound

__all__ = ["send_notice"]

NOT_ENCODABLE = "they cannot be encoded"
"""What the remote peer is told of such a reason. The encoder's own words may contain a secret."""

Notice = Callable[[Any, int | UnsetType], object]
"""Makes the message from the fields of its reason."""


def send_notice(out: Outbound, notice: Notice, reason: object, warn: Callable[..., None]) -> None:
    """Send a cancellation or an abort. If its reason cannot be sent, send it without.

    Args:
        warn: writes a line into the log.
    """
    try:
        out.reply(out.terms.encode(notice(*reason_to_wire(reason))))
    except MessageTooBig as exc:
        _send_briefly(out, notice, without_data(reason, exc) if isinstance(reason, RpcError) else None)
    except Exception as exc:
        # A user's enc_hook may raise anything. That the remote peer learns of the end matters more.
        warn("the reason of a cancellation or an abort cannot be encoded, and was left out", exc_info=exc)
        _send_briefly(out, notice, without_data(reason, NOT_ENCODABLE) if isinstance(reason, RpcError) else None)


def _send_briefly(out: Outbound, notice: Notice, reason: RpcError | None) -> None:
    try:
        out.reply(out.terms.encode(notice(*reason_to_wire(reason))))
    except MessageTooBig:
        return  # the remote peer takes next to nothing
    except Exception:
        if reason is None:
            raise
        _send_briefly(out, notice, None)  # not even its message or code can be encoded
