"""`Answers`: sends the responses to requests, and decides which error a caller gets for an exception of a handler."""

from __future__ import annotations

import logging
import secrets
from functools import partial

from ..._base.closing import CloseCode
from ..._base.logs import CallFields
from ..._base.misuse import check_has_run
from ...errors import HandlerFailed, MessageTooBig, RemoteError, RpcError, check_code, is_made_here, ungrouped
from ..handlers.arguments import CallRefused
from ..handlers.invocation import Invocation
from ..session.peer_host import PeerHost
from ..wire.messages import Rejection, Resolution
from ..wire.rejections import error_to_wire, text_for_peer
from .notices import send_error
from .session_writer import SessionWriter


class Answers:
    """Answers the requests of one session, and counts events that do not reach a handler.

    Every request gets an answer. If its value cannot be sent, the request is rejected. If the error cannot be sent
    either, a plainer error is sent. If the codec cannot encode the plainer error, the connection ends.

    With `Settings.expose_errors`, the caller gets the text of an unexpected exception. Otherwise the caller gets an id,
    and the log has the traceback with this id.
    """

    def __init__(self, writer: SessionWriter, host: PeerHost) -> None:
        self._writer = writer
        self.host = host
        self.log = host.log
        self.ignored = host.ignored
        self._expose_errors = host.settings.expose_errors

    def reject(self, i: int, error: RpcError) -> None:
        """Reject request ``i`` with ``error``, or with a plainer error if ``error`` cannot be sent."""
        rejection = partial(Rejection, i)
        try:
            send_error(self._writer, rejection, error)
        except Exception as exc:
            try:
                # The data of the error cannot be encoded, or its text cannot be made. The request still gets an answer.
                send_error(self._writer, rejection, self._internal(exc, f"request #{i}"))
            except Exception:
                # This codec can encode no answer at all, and the caller must not wait without a limit.
                self._writer.session.fail(CloseCode.INTERNAL_ERROR, "the codec cannot encode a rejection")

    def resolve(self, i: int, value: object, invocation: Invocation) -> None:
        """Resolve request ``i``, or reject it if ``value`` cannot be sent."""
        try:
            self._writer.reply(self._writer.terms.encode(Resolution(i, value)))
        except Exception as exc:
            # A user's enc_hook may raise anything.
            self.reject(i, self.for_caller(exc, invocation))

    def sendable(self, error: RpcError, invocation: Invocation) -> RpcError:
        """Return ``error``, or if it cannot be encoded, the error that the caller gets in its place."""
        try:
            self._writer.terms.encode(Rejection(1, *error_to_wire(error)))
        except MessageTooBig:
            return error  # `reject` shortens it
        except Exception as exc:
            return self._internal(exc, invocation.label, invocation.log_fields)
        return error

    def for_caller(self, raised: BaseException, invocation: Invocation) -> RpcError:
        """Return the error that the caller gets for an exception. The log gets the rest."""
        exc = ungrouped(raised)
        if isinstance(exc, CallRefused):
            return exc.error
        if isinstance(exc, RpcError):
            if is_made_here(exc):
                return exc
            if not isinstance(exc, RemoteError):
                try:
                    check_code(exc.code)  # a class may define it, or a user may have assigned it
                except ValueError as mistake:
                    mistake.__cause__ = exc
                    return self._internal(mistake, invocation.label, invocation.log_fields)
                return exc
        if isinstance(exc, MessageTooBig):
            text, call = "what %s gave was not sent: %s", invocation.log_fields
            self.log(logging.ERROR, text, invocation.label, exc, call=call)
            return RemoteError(f"what the handler gave is too big: {exc}", "wsrpc.result_too_big")
        return self._internal(raised, invocation.label, invocation.log_fields)

    def _internal(self, exc: BaseException, label: str, call: CallFields | None = None) -> RpcError:
        error_id = secrets.token_hex(4)
        self.log(logging.ERROR, "handling %s failed [%s]", label, error_id, exc_info=exc, call=call)
        expose = self._expose_errors
        try:
            exposed = expose(exc) if callable(expose) else expose
            check_has_run("expose_errors", exposed)
            if exposed:
                return RpcError(text_for_peer(exc))
        except Exception as problem:
            # The user's predicate failed, or the text of the exception cannot be made. The caller still gets an answer.
            self.log(logging.ERROR, "expose_errors failed [%s]", error_id, exc_info=problem, call=call)
        return HandlerFailed("internal error", fields={"error_id": error_id})
