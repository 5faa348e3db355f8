"""Notices: cancellations and aborts, by which the remote peer learns that a call or a channel has ended here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from msgspec import UnsetType

from ...errors import MessageTooBig, RpcError
from ..wire.rejections import reason_to_wire, shortened, without_data
from .session_writer import SessionWriter

NOT_ENCODABLE = "they cannot be encoded"
"""Text for the remote peer in place of the data of a reason. The text of the encoder's error may contain a secret."""

Notice = Callable[[Any, int | UnsetType], object]
"""Makes a message from the fields of its error or reason."""


def send_notice(writer: SessionWriter, notice: Notice, reason: object, warn: Callable[..., None]) -> None:
    """Send a cancellation or an abort, without its reason if the reason cannot be encoded.

    Args:
        warn: writes a line into the log.
    """
    try:
        send_error(writer, notice, reason)
    except MessageTooBig:
        return  # `Limits.sent_message_bytes` allows almost no message
    except Exception as exc:
        # A user's enc_hook may raise anything. The remote peer must learn of the end, even without its reason.
        warn("the reason of a cancellation or an abort cannot be encoded, and was left out", exc_info=exc)
        try:
            send_error(writer, notice, without_data(reason, NOT_ENCODABLE) if isinstance(reason, RpcError) else None)
        except Exception:  # its message or code cannot be encoded either
            with suppress(MessageTooBig):
                send_error(writer, notice, None)


def send_error(writer: SessionWriter, notice: Notice, reason: object) -> None:
    """Send a message with an error or a reason, which is shortened as far as the limit of the remote peer requires.

    Raises:
        MessageTooBig: this side may send almost no message (`Limits.sent_message_bytes`).
        Exception: the error cannot be encoded.
    """
    try:
        writer.reply(writer.terms.encode(notice(*reason_to_wire(reason))))
    except MessageTooBig as exc:
        for smaller in shortened(reason, exc):
            with suppress(MessageTooBig):
                writer.reply(writer.terms.encode(notice(*reason_to_wire(smaller))))
                return
        raise
