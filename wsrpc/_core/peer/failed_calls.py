"""What a failed call means: the error for its caller, and what is logged or counted."""

from __future__ import annotations

import logging

from ..._base.names import RESERVED_EVENTS
from ...errors import (
    BadArguments,
    BadResult,
    ChannelClosed,
    ConnectionLost,
    RemoteError,
    RpcError,
    UnknownEvent,
    channel_of_item,
    is_made_here,
    made_here,
    parts_of,
    text_for_log,
    ungrouped,
)
from ..handlers.invocation import Invocation
from ..sending.answers import Answers
from ..wire.rejections import BAD_ITEM

_MISFITS: dict[type[Exception], str] = {
    BadArguments: "wrong arguments",
    UnknownEvent: "unknown event",
    BadResult: "wrong item",
}


def error_for_caller(answers: Answers, invocation: Invocation, raised: BaseException) -> RpcError | None:
    """Return the error for the caller of a handler that ``raised``. Log what the caller must not get.

    None if the handler has not failed: it noticed the end of its connection or channel before it was cancelled.
    """
    exc, parts, session = ungrouped(raised), parts_of(raised), invocation.dispatcher.writer.session
    ends = () if session.state.accepts_messages else (ConnectionLost, ChannelClosed)
    if parts and all(isinstance(each, ends) or invocation.notices_end(each) for each in parts):
        answers.log(logging.INFO, "%s was left: %s", invocation.label, parts[0], call=invocation.log_fields)
        return None
    channel = invocation.delivered_channel
    if isinstance(exc, BadResult) and channel_of_item(exc) is channel is not None:
        # The caller sent a wrong value. The error is not `BadArguments`, which says that the handler did not run.
        _count_misfit(answers, invocation, exc)
        raised = made_here(RemoteError(str(exc), BAD_ITEM))
    error = answers.for_caller(raised, invocation)
    if invocation.id is None:
        if isinstance(error, BadArguments) or (isinstance(exc, UnknownEvent) and is_made_here(exc)):
            _count_misfit(answers, invocation, error)
        elif error is exc:
            call = invocation.log_fields
            answers.log(logging.ERROR, "handling %s failed: %s", invocation.label, error, call=call)
    elif (
        isinstance(error, BadArguments | UnknownEvent)
        and is_made_here(error)
        and invocation.event not in RESERVED_EVENTS
        and channel is None
        and invocation.state.answerable
        and not session.over
    ):
        _count_misfit(answers, invocation, error)
    return error


def _count_misfit(answers: Answers, invocation: Invocation, error: Exception) -> None:
    """Count a message that does not fit its handler, or has none. Log the first one for its event."""
    kind = next(kind for error_type, kind in _MISFITS.items() if isinstance(error, error_type))
    why = text_for_log(error) if isinstance(error, RpcError) else error
    dropped = invocation.id is None
    answers.host.count_misfit(kind, invocation.full_event, why, call=invocation.log_fields, dropped=dropped)
