"""What may stand in a log: one line each, and nothing that opens a door."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

__all__ = ["PeerLog", "address_text", "for_log", "logger", "quieten"]

logger = logging.getLogger("wsrpc")

_PASSWORD = re.compile(r"(://)[^\s/?#]*@")
_QUERY = re.compile(r"(://[^\s?#]*)?\?(?(1)\S+|[^\s?=]+=\S*)")


def for_log(value: object) -> object:
    """``value`` for a line of the log: numbers as they are, anything else as text.

    Without line breaks and the like, or whoever chooses a name or a close reason could write lines of his own; and
    without the queries and passwords of URLs, which errors like to quote.
    """
    if isinstance(value, int | float):
        return value
    text = _QUERY.sub(r"\1?…", _PASSWORD.sub(r"\1…@", str(value)))
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def address_text(address: tuple[str, int] | None) -> str | None:
    """``host:port`` as a log has it."""
    return None if address is None else f"{address[0]}:{address[1]}"


def quieten(record: logging.LogRecord) -> bool:
    """A filter for the library's log: its tracebacks quote the request, and every port scan makes one."""
    if record.getMessage() == "opening handshake failed":
        record.exc_info = record.exc_text = None
    return True


class PeerLog:
    """The log of one peer: each line has its id in ``extra``, and where the other side is (or was).

    ``errors`` counts the lines of that level, and ``on_error`` is told of each.
    """

    __slots__ = ("errors", "id", "on_error", "remote")

    def __init__(self, id: str) -> None:
        self.id = id
        self.remote: tuple[str, int] | None = None
        self.errors = 0
        self.on_error: Callable[[], None] | None = None

    def __call__(self, level: int, text: str, /, *args: object, exc_info: BaseException | None = None) -> None:
        if level >= logging.ERROR:
            self.errors += 1
            if self.on_error is not None:
                self.on_error()
        if logger.isEnabledFor(level):
            about = {"peer": self.id, "remote": address_text(self.remote)}
            logger.log(level, for_log(text), *map(for_log, args), exc_info=exc_info, extra=about, stacklevel=2)
