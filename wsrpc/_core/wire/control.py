"""Control messages: messages between two wsrpc peers that ws-wrapper does not define. Plain peers ignore them.

Each control message is one JSON text message ``{"ws-wrapper": false, "wsrpc": {...}}`` with exactly these two keys. It
has less than 4 KiB, and is JSON whatever the codec. JavaScript (4.3.1, observed) and Go ignore messages with ``false``.

The client sends `Hello` before anything else, and does not wait for the answer. When the server has read the hello, it
sends `Welcome` before its next message. A plain peer never answers. After the two messages, each side knows the
features and the limits of the other side. `LimitsChanged` announces new limits. A consumer sends `CreditMessage` to
allow a producer to send a number of items. A server that is about to close sends `Drain`. Its client answers with the
same message when it sends no further requests and events of its own.

If both sides can resume, the welcome names the session. Each side counts its messages, the client from its hello on and
the server from its welcome on, and sends `Ack` with the number of messages that have arrived. On the next connection,
the client sends `Resume` in place of `Hello`, and nothing else until the server has answered with `Resumed` or `Gone`.
If no welcome has arrived, it asks by the name and the token of its hello, and the welcome follows the `Resumed`.

A web page cannot send pings. It asks with `Probe` whether the connection is alive, and its server answers with `Alive`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from ...limits import LEAST, Limits

LARGEST = 4096
"""Bytes of the largest control message."""

BATCHES = "batches"
"""The feature of a consumer that accepts several items of a stream in one message."""
CONTEXT = "context"
"""The feature of a peer that accepts a `CallContext` with events and requests."""
CREDIT = "credit"
DRAIN = "drain"
MSGPACK = "msgpack"
PARTS = "parts"
"""The feature of a peer that joins the parts of a large message, in a session that can resume."""
PROBE = "probe"
"""The feature of a server that answers a `Probe`."""
RESUME = "resume"

KEY = "sec-websocket-key"
"""Header of a handshake. By its value, both sides know a connection before its hello has arrived."""


class Announced(Struct, frozen=True):
    """The limits of the sender of a hello or welcome. The other side does not exceed them."""

    message: int = 2**53
    running: int = 2**53
    waiting: int = 2**53
    waiting_bytes: int = 2**53
    values: int = 2**53
    running_bytes: int = 2**53

    def objection(self) -> str | None:
        """Return the limit that is so small that peers could not communicate. None if all limits are large enough."""
        for name, least in LEAST_ANNOUNCED:
            if (value := getattr(self, name)) < least:
                return f"the limit {name!r} is announced as {value}, and must be at least {least}"
        return None


LEAST_ANNOUNCED = [
    ("message", LEAST["message_bytes"][0]),
    *((name, LEAST[name][0]) for name in ("running", "waiting", "values")),
    ("waiting_bytes", 0),
    ("running_bytes", 1),
]
"""Each announced limit, with its smallest sensible value."""


class Hello(Struct, tag_field="t", tag="hello", omit_defaults=True):
    """The first message of a client: its version of this protocol, features, limits, program and contract."""

    v: int
    features: list[str]
    limits: Announced
    program: str = ""
    contract: str = ""
    sid: str = ""
    """A random name for the session, by which the client resumes it if no welcome arrives. Without a dot."""
    token: str = ""
    """The secret for that `Resume`."""


class Welcome(Struct, tag_field="t", tag="welcome", omit_defaults=True):
    """The answer to a hello, or the message after a `Gone`. If both sides can resume, it names the session."""

    features: list[str]
    limits: Announced
    sid: str = ""
    token: str = ""
    """The secret with which the client resumes the session."""
    ttl: float = 0.0
    """Seconds for which the session is kept without a connection."""
    program: str = ""
    contract: str = ""


class LimitsChanged(Struct, tag_field="t", tag="limits"):
    """The limits of the sender have changed since its hello or welcome."""

    limits: Announced


class CreditMessage(Struct, tag_field="t", tag="credit"):
    """Grants ``n`` items of ``bytes`` bytes on channel ``h``, in total since the channel was opened."""

    h: int
    n: int
    bytes: int


class Drain(Struct, tag_field="t", tag="drain"):
    """From a server: the server closes after at most ``after_ms``. From its client, with 0: the client sends no further
    requests and events of its own."""

    after_ms: int


class Deprecated(Struct, tag_field="t", tag="deprecated"):
    """The receiver has called an event that it should not call any more. Sent once for each event."""

    event: str
    """With its named channel: ``chat:say``."""
    why: str


class Ack(Struct, tag_field="t", tag="ack"):
    """``n`` counted messages of ``bytes`` bytes have arrived in this session in total."""

    n: int
    bytes: int


class Resume(Struct, tag_field="t", tag="resume", omit_defaults=True):
    """The first message of a client that resumes a session: the fields of a hello, and the fields of the session."""

    v: int
    features: list[str]
    limits: Announced
    sid: str
    """The name in the welcome, or without a welcome the name in the hello."""
    token: str
    gen: int
    """Higher with each attempt to resume the session."""
    rx: int
    """Number of the counted messages that have arrived, as in an `Ack`."""
    bytes: int
    program: str = ""
    contract: str = ""


class Resumed(Struct, tag_field="t", tag="resumed"):
    """The session resumes. Both sides send again all messages after the other side's ``rx``."""

    rx: int
    bytes: int
    token: str
    """The secret for the next `Resume`."""
    limits: Announced


GoneWhy = Literal["expired", "auth", "elsewhere", "limits", "closed"]
"""Why a session cannot be resumed.

- ``"expired"``: the session does not exist any more, or the token is wrong.
- ``"auth"``: the token is right, but the connection has another principal.
- ``"elsewhere"``: the name belongs to a session of another server, or of another process.
- ``"limits"``: the connection has other limits than the session, which has ended.
- ``"closed"``: from the client, which is about to close.
"""


class Gone(Struct, tag_field="t", tag="gone"):
    """The session is over. A welcome for a new session follows, as if the client had sent a hello.

    From a client, the message means: the client closes the connection, and the session ends with the connection. It is
    needed because some ASGI servers report a Close frame like a drop.
    """

    why: str
    """A `GoneWhy`, or a reason of a later version."""


class Probe(Struct, tag_field="t", tag="probe"):
    """From a client that cannot ping: is the connection alive?"""


class Alive(Struct, tag_field="t", tag="alive"):
    """Answers a probe."""


Control = (
    Hello | Welcome | LimitsChanged | CreditMessage | Drain | Deprecated | Ack | Resume | Resumed | Gone | Probe | Alive
)
UNCOUNTED = (Ack, Hello, Welcome, Resume, Resumed, Gone, Probe, Alive)
"""The control messages that are not counted in a session. They start or resume a session, acknowledge messages, or are
about one connection."""


class UnknownControl:
    """A control message of a later version."""


class _Control(Struct, forbid_unknown_fields=True):
    ours: bool = msgspec.field(name="ws-wrapper")
    wsrpc: Any


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Control).decode


def announce(limits: Limits) -> Announced:
    """Return the limits that the other side must know."""
    return Announced(
        limits.message_bytes, limits.running, limits.waiting, limits.waiting_bytes, limits.values, limits.running_bytes
    )


def write_control(message: Control) -> bytes:
    """Return the JSON text of a control message."""
    return _encode(_Control(False, message))


def read_control(payload: bytes | bytearray) -> Any:
    """Return the control message in a text, or an `UnknownControl`. None if the text is a user's message."""
    if len(payload) >= LARGEST or b'"wsrpc"' not in payload:
        return None
    try:
        control = _decode(payload)
    except (msgspec.DecodeError, RecursionError):
        return None
    if control.ours or control.wsrpc.__class__ is not dict:
        return None
    try:
        return msgspec.convert(control.wsrpc, Control)
    except msgspec.ValidationError:
        return UnknownControl()
