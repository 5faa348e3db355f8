"""Exit codes of the command, and the sentence for each error."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

import msgspec

from ..errors import (
    BadResult,
    ChannelClosed,
    ConnectFailed,
    ConnectionLost,
    HandlerTimeout,
    HandshakeRejected,
    MessageTooBig,
    PeerNotFound,
    ProtocolError,
    QueueFull,
    RemoteError,
    RequestTimeout,
    StreamOverflow,
    TooManyRequests,
    UnexpectedChannel,
    named,
    one_line,
    short,
)

REMOTE = 1
"""The remote peer has refused or failed, or its answer cannot be used."""
USAGE = 2
"""The command line is wrong, or a file cannot be read or written."""
NOT_SENT = 3
"""There is no connection, or the message cannot be sent. No handler has run, so the command can be repeated."""
UNKNOWN = 4
"""The connection ended before the answer. The handler may have run."""
TIMEOUT = 5
"""There was no answer in time, and the request was cancelled."""
OUTPUT_CLOSED = 141
"""The reader of the output has left. A shell reports this code for a program that SIGPIPE has ended."""
NO_CHANNEL = " is not a channel but "
"""Part of the error for a request that asked for a stream, or sent one, and was answered with a value."""


class Failure(Exception):
    """Failure of the command.

    The text says what was expected, what came and what to do; ``code`` is the exit code, and ``details`` are further
    lines.
    """

    def __init__(self, text: str, code: int, details: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.details = details


class UsageError(Failure):
    """Failure because of the command line, or because of a file or a server that the command line names."""

    def __init__(self, text: str, details: str = "") -> None:
        super().__init__(text, USAGE, details)


def explained(error: BaseException) -> tuple[int, str]:
    """Return the exit code for ``error``, and one line that explains it."""
    if isinstance(error, Failure):
        return error.code, one_line(error)
    if isinstance(error, PeerNotFound):
        return NOT_SENT, f"no peer has the address or the id {short(error.address)}"
    if isinstance(error, ConnectionLost):
        return (NOT_SENT if error.outcome == "not_sent" else UNKNOWN), one_line(error)
    for kinds, code, text_of in _EXPLANATIONS:
        if isinstance(error, kinds):
            return code, text_of(error)
    return UNKNOWN, f"this is a bug in wsrpc: {named(error)}; --verbose shows where"


def _rejection(error: RemoteError) -> str:
    text = one_line(error)
    code: Any = error.code
    if code is not None and not str(code).startswith("wsrpc."):
        text += f" [{short(code) if code.__class__ is int else one_line(code, 100)}]"
    if isinstance(error, HandlerTimeout):
        text += " (the handler was stopped at its time limit)"
    if error.data is not None and not error.plain:
        text += f", with the data {_as_json(error.data)}"
    return text


def _as_json(value: Any) -> str:
    try:
        return one_line(msgspec.json.encode(value).decode())
    except (TypeError, ValueError, RecursionError):  # the data is any value that a codec has decoded
        return short(value)


def _no_connection(error: BaseException) -> str:
    cause: BaseException | None = error
    attempts = 1
    if isinstance(error, ConnectFailed):
        cause, attempts = error.last_error, error.attempts
    times = "" if attempts <= 1 else f" in {attempts} attempts"
    if cause is None:
        return f"could not connect{times}"
    said, hint = one_line(cause) or named(cause), ""
    if isinstance(cause, ssl.SSLCertVerificationError):
        said = f"the server's certificate is not valid, {cause.verify_message}"
        hint = "; name its authority with --cacert FILE"
    elif isinstance(cause, OSError):
        said = _of_system(cause)
    if isinstance(cause, HandshakeRejected) and cause.status in (401, 403):
        hint = " (a token comes from --token or WSRPC_TOKEN)"
    return f"could not connect{times}: {'; '.join([said, *getattr(cause, '__notes__', ())])}{hint}"


def _of_system(error: OSError) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "there was no response in time"
    if error.errno and str(error.strerror).startswith("Connect call failed"):  # asyncio's text, with a Python tuple
        return os.strerror(error.errno)
    if isinstance(error, ssl.SSLError):
        return f"the TLS handshake failed: {one_line((error.reason or str(error)).replace('_', ' ').lower())}"
    return one_line(error.strerror or error) or "the server closed the connection"


def _bad_result(error: BaseException) -> str:
    if NO_CHANNEL in str(error):
        return f"{one_line(error).partition(':')[0]}: use `wsrpc call`, without an upload"
    return one_line(error)


_EXPLANATIONS: tuple[tuple[Any, int, Callable[[Any], str]], ...] = (
    (RemoteError, REMOTE, _rejection),
    (UnexpectedChannel, REMOTE, lambda _: "the response is a channel, not a value: read it with `wsrpc stream`"),
    (BadResult, REMOTE, _bad_result),
    ((ChannelClosed, StreamOverflow), REMOTE, one_line),
    (RequestTimeout, TIMEOUT, one_line),
    ((ConnectFailed, HandshakeRejected, ssl.SSLError), NOT_SENT, _no_connection),
    ((MessageTooBig, QueueFull, RecursionError, TooManyRequests), NOT_SENT, one_line),
    ((ValueError, TypeError), USAGE, one_line),
    (OSError, NOT_SENT, _no_connection),
    (ProtocolError, UNKNOWN, one_line),
)
"""Classes of errors, with the exit code and the function that explains the error. The first class that fits counts."""
