"""The end of a connection: close codes, their checks, and the `CloseInfo` that `close` handlers get.

Source: RFC 6455, section 7.4, and the IANA registry of close codes. The codes 44xx are wsrpc's own.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

MAX_REASON = 123
"""Maximum bytes of UTF-8 in a close reason. (A control frame has at most 125 bytes, two of them for the code.)"""


class CloseCode(IntEnum):
    """Names of the close codes."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS = 1005
    """The Close frame had no code. This code is never sent."""
    ABNORMAL = 1006
    """The connection dropped without a Close frame. This code is never sent."""
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015
    """This code is never sent."""
    UNAUTHORIZED = 3000
    """By default, the client does not dial again, as after HTTP status 401."""
    FORBIDDEN = 3003
    """By default, the client does not dial again, as after HTTP status 403."""
    TIMEOUT = 3008
    COUNT_MISMATCH = 4400
    """The two sides disagree about the number of messages in the session."""
    SLOW_CONSUMER = 4408
    FENCED = 4409
    """The session continues on another connection."""
    REPLACED = 4410
    """Another connection now has the peer's address (`Handshake.address`). By default, the client does not dial again.
    """
    CREDENTIALS_EXPIRED = 4411
    """The time in `Handshake.expires` has passed. The client dials again with fresh credentials, and its session can
    resume."""
    RESUMES = 4412
    """From a client that is about to resume the session on another connection. Browsers cannot drop a connection, and
    the session would end with any other code."""


_MAY_SEND = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


RESUMABLE = frozenset({CloseCode.GOING_AWAY, CloseCode.ABNORMAL, CloseCode.CREDENTIALS_EXPIRED, CloseCode.RESUMES})
"""Close codes after which the session may resume on another connection.

Cloudflare and Caddy send 1001 to both sides when they restart. A wsrpc client that ends a session says so before.
"""


UNINFORMATIVE = frozenset({CloseCode.NORMAL, CloseCode.NO_STATUS})
"""Close codes that tell a client nothing except that its session is over."""
NO_REDIAL = frozenset({CloseCode.POLICY_VIOLATION, CloseCode.UNAUTHORIZED, CloseCode.FORBIDDEN, CloseCode.REPLACED})
"""Close codes after which a client does not dial again by default. (For pages, see browser/src/backoff.ts.)"""


_NAMED = frozenset(CloseCode)


def counted(code: int, *, ours: bool) -> int:
    """Return the code under which statistics count a close, which is 0 for a code that the remote peer has made up.

    So a peer cannot add entries or metrics. ``ours``: this side has closed with this code.
    """
    return code if ours or code in _NAMED else 0


class CloseInfo(msgspec.Struct, frozen=True):
    """Description of how a connection ended, for `close` handlers.

    Attributes:
        code: the close code from the side that closed first. 1005 means that the Close frame had no code. 1006 means
            that the connection dropped without a Close frame.
        reason: the close reason from the side that closed first.
        was_clean: whether the closing handshake was completed.
        user_closed: whether `close()` was called on this side.
        will_reconnect: whether another connection follows, because the client dials again or another transport was
            bound.
    """

    code: int
    reason: str = ""
    was_clean: bool = False
    user_closed: bool = False
    will_reconnect: bool = False


def _may_send(code: int) -> bool:
    return code in _MAY_SEND or 3000 <= code <= 4999


def check_close(code: int | None, reason: str) -> int:
    """Check that RFC 6455 allows an endpoint to send a close code and a reason.

    Returns:
        The code that `CloseInfo` will have on both sides: 1005 for None, which sends a Close frame without a code.

    Raises:
        TypeError: the code is not a number, or the reason is not a string.
        ValueError: the code may not be sent, there is a reason without a code, or the reason has more than 123 bytes in
            UTF-8.
    """
    value: Any = reason
    if not isinstance(value, str):
        raise TypeError(f"a close reason is text, got {reason!r}")
    value = code
    if value is not None and not isinstance(value, int):
        raise TypeError(f"a close code is a number such as 1000, or None for no code; got {code!r}")
    if code is None:
        if reason:
            raise ValueError(f"a close reason needs a code in front of it: close(1000, {reason[:MAX_REASON]!r})")
        return CloseCode.NO_STATUS
    if not _may_send(code):
        raise ValueError(
            f"close code {code} may not be sent: expected 1000-1003, 1007-1014 or 3000-4999 (1000 is a normal close), "
            "or None for no code"
        )
    size = len(reason.encode())
    if size > MAX_REASON:
        raise ValueError(f"a close reason has at most {MAX_REASON} bytes of UTF-8, got {size}")
    return code


def sendable(code: int | None, reason: str) -> tuple[int | None, str]:
    """Return a code and a reason that can be sent in a Close frame. For codes and reasons that are not from the user.

    The arguments may come from a remote peer. The reason is cut to 123 bytes of valid UTF-8. The code 1005, which means
    that there is no code, becomes None. Any other code that may not be sent becomes 1011.
    """
    if code is None or code == CloseCode.NO_STATUS:
        return None, ""
    cut = reason.encode(errors="replace")[:MAX_REASON].decode(errors="ignore")
    return (code if _may_send(code) else CloseCode.INTERNAL_ERROR), cut
