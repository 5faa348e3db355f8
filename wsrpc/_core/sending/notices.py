"""Cancellations and aborts, which tell the remote peer that something is over on this side."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec import UnsetType

from ...errors import MessageTooBig, RpcError
from ..wire.rejections import reason_to_wire, shortened, without_data
from .session_writer import SessionWriter

NOT_ENCODABLE = "they cannot be encoded"
"""What the remote peer is told of such a reason. The encoder's own words may contain a secret."""

Notice = Callable[[Any, int | UnsetType], object]
"""Makes the message from the fields of its error or reason."""


def send_notice(writer: SessionWriter, notice: Notice, reason: object, warn: Callable[..., None]) -> None:
    """Send a cancellation or an abort. If its reason cannot be sent, send it without.

    Args:
        warn: writes a line into the log.
    """
    try:
        send_error(writer, notice, reason)
    except MessageTooBig:
        return  # `Limits.sent_message_bytes` lets next to nothing through
    except Exception as exc:
        # A user's enc_hook may raise anything. That the remote peer learns of the end matters more.
        warn("the reason of a cancellation or an abort cannot be encoded, and was left out", exc_info=exc)
        try:
            send_error(writer, notice, without_data(reason, NOT_ENCODABLE) if isinstance(reason, RpcError) else None)
        except Exception:  # not even its message or code can be encoded
            with suppress(MessageTooBig):
                send_error(writer, notice, None)


def send_error(writer: SessionWriter, notice: Notice, reason: object) -> None:
    """Send what holds an error or a reason, shortened as far as the remote peer needs it.

    Raises:
        MessageTooBig: this side may send next to nothing (`Limits.sent_message_bytes`).
        Exception: it cannot be encoded.
    """
    try:
        writer.reply(writer.terms.encode(notice(*reason_to_wire(reason))))
    except MessageTooBig as exc:
        for smaller in shortened(reason, exc):
            with suppress(MessageTooBig):
                writer.reply(writer.terms.encode(notice(*reason_to_wire(smaller))))
                return
        raise
