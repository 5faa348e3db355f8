"""Exit codes of the command, and the sentence for each error."""

from __future__ import annotations

import ssl
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

__all__ = ["NOT_SENT", "OUTPUT_CLOSED", "REMOTE", "TIMEOUT", "UNKNOWN", "USAGE", "Failure", "UsageError", "explained"]

REMOTE = 1
"""The remote peer has refused or failed, or its answer cannot be used."""
USAGE = 2
"""The command line is wrong, or a file cannot be read or written."""
NOT_SENT = 3
"""There is no connection, or the message cannot be sent. Nothing has run, so the command can be repeated."""
UNKNOWN = 4
"""The connection ended before the answer. The handler may have run."""
TIMEOUT = 5
"""There was no answer in time, and the request was cancelled."""
OUTPUT_CLOSED = 141
"""Nobody reads the output any more. It is what the shell shows of a program that SIGPIPE has ended."""


class Failure(Exception):
    """The command fails. The text says what was expected, what came and what to do; ``code`` is the exit code."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class UsageError(Failure):
    """The command line, or what it names, cannot be used."""

    def __init__(self, text: str) -> None:
        super().__init__(text, USAGE)


def explained(error: BaseException) -> tuple[int, str]:
    """Return the exit code for ``error``, and one line that says what has happened."""
    if isinstance(error, Failure):
        return error.code, one_line(error)
    if isinstance(error, RemoteError):
        return REMOTE, _rejection(error)
    if isinstance(error, UnexpectedChannel):
        return REMOTE, "the answer is a channel, not a value: read it with `wsrpc stream`"
    if isinstance(error, (BadResult, ChannelClosed, StreamOverflow)):
        return REMOTE, one_line(error)
    if isinstance(error, RequestTimeout):
        return TIMEOUT, one_line(error)
    if isinstance(error, (ConnectFailed, HandshakeRejected, ssl.SSLError)):
        return NOT_SENT, _no_connection(error)
    if isinstance(error, ConnectionLost):
        return (NOT_SENT if error.outcome == "not_sent" else UNKNOWN), one_line(error)
    if isinstance(error, (MessageTooBig, QueueFull, TooManyRequests)):
        return NOT_SENT, one_line(error)
    if isinstance(error, (ValueError, TypeError)):
        return USAGE, one_line(error)
    if isinstance(error, OSError):
        return NOT_SENT, f"could not connect: {_of_system(error)}"
    if isinstance(error, ProtocolError):
        return UNKNOWN, one_line(error)
    return UNKNOWN, f"a mistake in wsrpc, which --verbose shows: {named(error)}"


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
    except (TypeError, ValueError, RecursionError):  # whatever a codec has decoded
        return short(value)


def _no_connection(error: BaseException) -> str:
    cause: BaseException | None = error
    attempts = 1
    if isinstance(error, ConnectFailed):
        cause, attempts = error.last_error, error.attempts
    times = "" if attempts <= 1 else f" in {attempts} attempts"
    if cause is None:
        return f"could not connect{times}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        hint = "name its authority with --cacert FILE"
        return f"could not connect{times}: the server's certificate is not valid, {cause.verify_message}; {hint}"
    if isinstance(cause, HandshakeRejected):
        hint = " (a token comes from --token or WSRPC_TOKEN)" if cause.status in (401, 403) else ""
        return f"could not connect{times}: {one_line(cause)}{hint}"
    if isinstance(cause, OSError):
        return f"could not connect{times}: {_of_system(cause)}"
    return f"could not connect{times}: {one_line(cause) or type(cause).__name__}"


def _of_system(error: OSError) -> str:
    if isinstance(error, TimeoutError) and error.errno is None:
        return "there was no answer in time"
    return one_line(error.strerror or error)
