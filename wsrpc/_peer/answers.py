"""Answering requests: what a caller gets of what a handler gave or raised."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from .._base.closing import CloseCode
from .._handlers.compiled import ArgumentsRefused
from .._protocol.messages import Rejection, Resolution
from .._protocol.rejections import error_to_wire, text_for_peer, without_data
from .._sending.outbound import Outbound
from ..errors import HandlerFailed, MessageTooBig, RemoteError, RpcError, check_code, is_made_here
from .running import Log, bad_arguments

__all__ = ["Answers"]


class Answers:
    """Every request gets one, whatever goes wrong: a value that cannot be sent becomes a rejection, and so on.

    ``expose_errors``: whether the text of unexpected exceptions is for the caller; else it gets an id, under which the
    log has the traceback.
    """

    def __init__(
        self,
        out: Outbound,
        *,
        log: Log,
        expose_errors: bool | Callable[[BaseException], bool],
        fail: Callable[[int, str], None],
    ) -> None:
        self._out = out
        self._log = log
        self._expose_errors = expose_errors
        self._fail = fail

    def reject(self, i: int, error: RpcError) -> None:
        try:
            self._out.reply(self._out.terms.encode(Rejection(i, *error_to_wire(error))))
            return
        except MessageTooBig as exc:
            error = without_data(error, exc)
        except Exception as exc:
            # The error's own data cannot be encoded, or its text not be made: the request still gets an answer.
            error = self._internal(exc, f"request #{i}")
        try:
            self._out.reply(self._out.terms.encode(Rejection(i, *error_to_wire(error))))
        except Exception:
            # A codec that cannot encode even that can answer nobody: the caller must not wait for ever.
            self._fail(CloseCode.INTERNAL_ERROR, "the codec cannot encode a rejection")

    def resolve(self, i: int, value: object, label: str) -> None:
        """Answer request ``i``; if ``value`` cannot be sent, with an error."""
        try:
            self._out.reply(self._out.terms.encode(Resolution(i, value)))
        except Exception as exc:
            # A user's enc_hook may raise anything.
            self.reject(i, self.for_caller(exc, label))

    def sendable(self, error: RpcError, label: str) -> RpcError:
        """``error``, or what the caller gets in its place if it cannot be encoded."""
        try:
            self._out.terms.encode(Rejection(1, *error_to_wire(error)))
        except MessageTooBig:
            return error  # a shorter one is sent, as `reject` does
        except Exception as exc:
            return self._internal(exc, label)
        return error

    def for_caller(self, exc: BaseException, label: str) -> RpcError:
        """What the caller gets for an exception; what it does not get goes to the log."""
        if isinstance(exc, ArgumentsRefused):
            return bad_arguments(exc)
        if isinstance(exc, RpcError):
            if is_made_here(exc):
                return exc
            if not isinstance(exc, RemoteError):
                try:
                    check_code(exc.code)  # it may be a class's, or have been assigned
                except ValueError as mistake:
                    mistake.__cause__ = exc
                    return self._internal(mistake, label)
                return exc
        if isinstance(exc, MessageTooBig):
            self._log(logging.ERROR, "what %s gave was not sent: %s", label, exc)
            return RpcError(f"what the handler gave is too big: {exc}")
        return self._internal(exc, label)

    def _internal(self, exc: BaseException, label: str) -> RpcError:
        error_id = secrets.token_hex(4)
        self._log(logging.ERROR, "handling %s failed [%s]", label, error_id, exc_info=exc)
        expose = self._expose_errors
        try:
            if expose is True or (callable(expose) and expose(exc)):
                return RpcError(text_for_peer(exc))
        except Exception as problem:
            # The predicate or the exception's own text failed: the caller still gets an answer.
            self._log(logging.ERROR, "expose_errors failed [%s]", error_id, exc_info=problem)
        return HandlerFailed("internal error", fields={"error_id": error_id})
