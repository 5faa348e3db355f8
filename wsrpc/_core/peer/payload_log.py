"""`PayloadLog`: the log of messages for ``log_payloads=``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from msgspec import UNSET

from ..._base.logs import logger
from ...errors import BoundedRepr
from ..session.parts import MARK
from ..session.peer_host import PeerHost
from ..wire.codecs import Codec
from ..wire.counting import SMALL, decode_any
from ..wire.messages import WireMessage, channel_id

VALUES_SHOWN = 400
NAME_SHOWN = 100
"""Characters of values and of a name in a line of the log."""
MOST_NAMES = 10_000
"""Number of requests and channels whose names are remembered, because an answer has only an id."""

HIDDEN = "…"


class PayloadLog:
    """Logs the messages of one connection in both directions, each as one line of limited length.

    The line has no arguments if the user's function ``redact`` fails, or if the request of the message is not known.
    """

    def __init__(self, host: PeerHost) -> None:
        settings = host.settings
        codecs = (settings.codec,) if settings.binary is None else (settings.codec, settings.binary)
        self._codecs: dict[bool, Codec] = {codec.text: codec for codec in codecs}
        self._values = settings.limits.values
        self._redact = settings.log_payloads if callable(settings.log_payloads) else None
        self._log = host.log
        self._asked: dict[Any, str] = {}
        """Names of requests, by direction and id."""
        self._opened: dict[int, str] = {}
        """Names of the requests that opened anonymous channels. Empty if two have the same id."""

    def receiving(
        self, receive: Callable[[bytes | bytearray, bool], None]
    ) -> Callable[[bytes | bytearray, bool], None]:
        """Return a function that logs each message, then calls ``receive`` with it.

        A part of a message is not logged: ``receive`` joins the parts, and passes their message to this function, too.
        """

        def log_and_receive(payload: bytes | bytearray, text: bool, /) -> None:
            if logger.logger.isEnabledFor(logging.DEBUG) and (text or not payload.startswith(MARK)):
                self._write("in", payload, text)
            receive(payload, text)

        return log_and_receive

    def sending(self, send: Callable[[bytes, bool], None]) -> Callable[[bytes, bool], None]:
        """Return a function that calls ``send`` with each message, then logs it."""

        def send_and_log(payload: bytes, text: bool, /) -> None:
            send(payload, text)
            if logger.logger.isEnabledFor(logging.DEBUG):
                self._write("out", payload, text)

        return send_and_log

    def _write(self, direction: Literal["in", "out"], payload: bytes | bytearray, text: bool) -> None:
        try:
            codec = self._codecs[text]
            # `Receiver` checks this, too. A message that must not be decoded is not decoded here either.
            if len(payload) > SMALL and codec.objection(payload, self._values) is not None:
                line = None
            else:
                line = self._line(direction, decode_any(codec.decode, payload))
        except Exception:
            # The message cannot be decoded, or a `repr` of the user fails. `Receiver` handles the message.
            line = None
        verb = "received" if direction == "in" else "sent"
        if line is None:
            self._log(logging.DEBUG, "%s %d bytes that are no event, request or response", verb, len(payload))
        else:
            shown, event = line
            self._log(logging.DEBUG, "%s %s", verb, shown, call=lambda: {"event": event})

    def _line(self, direction: Literal["in", "out"], message: WireMessage) -> tuple[str, str | None] | None:
        """Return a message as a line, and the event that it is about, as far as this is known."""
        out = direction == "out"
        a: Any = message.a
        i: Any = message.i
        h = channel_id(message.h)
        number = "" if i is UNSET else f" #{i}"
        if message.ours is False:
            return None
        values: list[Any]
        if a is not UNSET:
            event, *values = a
            if event.__class__ is not str:
                return None
            name = event[:NAME_SHOWN]
            label = name if message.c is None or h is not None else f"{message.c[:NAME_SHOWN]}:{name}"
            of = label
            if h is not None:
                of = self._opened.get(h, "")
                label = f"{of or '?'}/{name}"
            if i is not UNSET:
                _remember(self._asked, (out, i), of)
            kind = "event" if i is UNSET else "request"
        elif message.x is not UNSET:
            kind, values = "cancellation" if h is None else "abort", [message.x]
            of = self._asked.get((out, i), "") if h is None else self._opened.get(h, "")
            label = of
        elif i is not UNSET:
            kind, values = "response", [] if message.d is UNSET else [message.d]
            of = self._asked.pop((not out, i), "")
            label = of
            if message.e is not UNSET:
                kind, values = "rejection", [message.e]
            elif message.h:
                kind = "channel"
                _remember(self._opened, i, "" if self._opened.get(i, of) != of else of)
        else:
            return None
        return f"{kind} {label or '?'}{number} ({self._shown(direction, of, values)})", label or None

    def _shown(self, direction: Literal["in", "out"], name: str, values: list[Any]) -> str:
        shown: Any = values
        if self._redact is not None:
            if not name:
                return HIDDEN
            try:
                shown = self._redact(direction, name, values)
            except Exception as exc:
                # The text of the exception may quote what has to be hidden.
                return f"{HIDDEN} redact failed: {type(exc).__name__}"
        parts: Any = shown if shown.__class__ in (list, tuple) else [shown]
        text = ", ".join(map(_PayloadRepr().repr, parts[:20]))
        return text if len(text) <= VALUES_SHOWN else f"{text[:VALUES_SHOWN]}…"


def _remember(names: dict[Any, str], key: object, name: str) -> None:
    names[key] = name
    if len(names) > MOST_NAMES:
        del names[next(iter(names))]


class _PayloadRepr(BoundedRepr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = 10

    def repr_bytes(self, x: str | bytes, level: int) -> str:
        return repr(x) if len(x) <= 40 else f"<{len(x)} bytes>"
