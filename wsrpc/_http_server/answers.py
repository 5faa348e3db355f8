"""Responses of `HttpRoutes`: values and errors as JSON, the status of each error, and server-sent events."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from math import ceil
from typing import Any

import msgspec

from .. import errors
from .._base.closing import CloseCode
from .._base.http_statuses import STATUSES as ERROR_STATUSES
from .._base.request_headers import refusal_headers
from .requests import HeaderList, HttpResponse, text_refusal

EVENT_STREAM: HeaderList = [("content-type", "text/event-stream"), ("x-content-type-options", "nosniff")]
COMMENT = b":\n\n"
LARGEST_RESPONSE = 1 << 20
"""About the maximum bytes of a response that ends, and of the events that wait for a slow reader."""

CUT = b"event: cut\ndata: null\n\n"
"""The last server-sent event of a response that the server ends because it closes. The reader continues elsewhere. (The
AI SDK takes a response without it for a whole one, and reports data that it does not know as an error.)"""

NO_RESULT = "this event has items, an upload or a conversation: only items have URLs, with runs= and keep="

CHALLENGE = ("www-authenticate", "Bearer")
"""What RFC 9110 requires of each response with the status 401."""

STATUS_OF_CLASS: dict[type[errors.WsrpcError], int] = {
    errors.BadArguments: 400,
    errors.UnexpectedChannel: 400,
    errors.UnknownEvent: 404,
    errors.ItemsGone: 410,
    errors.KeyReused: 422,
    errors.NotRead: 409,
    errors.Overloaded: 503,
    errors.Draining: 503,
    errors.HandlerTimeout: 504,
    errors.RequestTimeout: 504,
}
"""The status for each class of error. Others have that of their code."""

GRPC = {"unauthenticated": 401, "permission_denied": 403, "already_exists": 409, "resource_exhausted": 429}
STATUS_OF_CODE: dict[Any, int] = {code: status for status, (code, _) in ERROR_STATUSES.items()} | GRPC
"""The status for the code of an `RpcError`, by the names of HTTP and of gRPC."""

PASSING_CLOSES = (CloseCode.GOING_AWAY, CloseCode.ABNORMAL, CloseCode.SERVICE_RESTART, CloseCode.TRY_AGAIN_LATER)
STATUS_OF_CLOSE: dict[int, int] = {
    **dict.fromkeys((CloseCode.UNAUTHORIZED, CloseCode.CREDENTIALS_EXPIRED), 401),
    **dict.fromkeys((*PASSING_CLOSES, CloseCode.INTERNAL_ERROR, CloseCode.SLOW_CONSUMER), 503),
}
"""The status for the code of a close. With all others, a handler has closed the connection: it refuses, with 403."""


def event_of(data: bytes, id: str | None, kind: str = "") -> bytes:
    """Return a server-sent event."""
    named = f"event: {kind}\n" if kind else ""
    placed = f"id: {id}\n" if id else ""
    return b"%sdata: %s\n\n" % (f"{named}{placed}".encode(), data)


def encode(value: object) -> bytes:
    """Return a value as JSON.

    Raises:
        BadResult: JSON does not have it, but the codec of the server has, such as a dict with tuples as its keys.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise errors.BadResult(f"JSON cannot have this result: {exc}") from None


def json_response(status: int, value: Any, more: Iterable[tuple[str, str]] = ()) -> HttpResponse:
    headers = [("content-type", "application/json"), ("x-content-type-options", "nosniff"), *more]
    if status == 401 and all(name != CHALLENGE[0] for name, _ in headers):
        headers.append(CHALLENGE)
    return HttpResponse(status, headers, encode(value))


def json_refusal(exc: errors.HandshakeRejected) -> HttpResponse:
    """Return a refusal as JSON, whatever the client accepts: most clients accept anything, or do not say what.

    If the application has set the type of its body, that is sent as it is.
    """
    if "content-type" in exc.headers:
        return text_refusal(exc)
    code, _ = ERROR_STATUSES.get(exc.status, (f"status_{exc.status}", ""))
    more = [pair for pair in refusal_headers(exc.headers) if pair[0] != "content-type"]
    return json_response(exc.status, {"error": {"message": reason(exc) or code, "code": code}}, more)


def reason(exc: errors.HandshakeRejected) -> str:
    return exc.body.strip().replace("\n", ": ")


def failure(error: errors.WsrpcError, *, of_caller: bool = False) -> HttpResponse:
    status = 429 if of_caller and isinstance(error, errors.Overloaded) else status_of(error)
    seconds = (error.retry_after if isinstance(error, errors.RemoteError) else None) or 1
    is_safe = status == 429 or (status == 503 and error.outcome in ("not_sent", "not_run"))
    return json_response(status, error_of(error), [("retry-after", str(ceil(seconds)))] if is_safe else [])


def error_of(error: errors.WsrpcError) -> dict[str, Any]:
    """Return an error as JSON has it."""
    words = re.sub("(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    shown: dict[str, Any] = {"message": str(error), "code": f"wsrpc.{words}"}
    if isinstance(error, errors.UnexpectedChannel):
        shown["message"] = NO_RESULT
    if isinstance(error, errors.RemoteError):
        shown = {"message": error.message, "code": error.code}
        with suppress(errors.BadResult):  # JSON may not have the rest
            encode(rest := {**error.fields, "data": error.data})
            shown |= rest | shown
    return {"error": {name: value for name, value in shown.items() if value is not None}}


def status_of(error: errors.WsrpcError) -> int:
    """Return the status for an error."""
    if isinstance(error, errors.ItemsGone) and error.first is None:
        return 404
    for kind, status in STATUS_OF_CLASS.items():
        if isinstance(error, kind):
            return status
    if isinstance(error, errors.ConnectionLost):
        status = STATUS_OF_CLOSE.get(error.code, 403)
        is_refusal = status != 503 and error.code != CloseCode.CREDENTIALS_EXPIRED
        return status if is_refusal or error.outcome == "not_sent" else 500  # the handler may have run
    if isinstance(error, errors.RemoteError) and not str(error.code).startswith("wsrpc."):
        return STATUS_OF_CODE.get(error.code, 400)
    return 500
