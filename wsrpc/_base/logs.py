"""Logging: each log line is short and single even if it quotes the remote peer, and the number of lines is limited."""

from __future__ import annotations

import logging
import re
import secrets
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypedDict, Unpack

from ..errors import LONGEST_LINE, one_line, short
from .buckets import TokenBucket

_PASSWORD = re.compile(r"(?<=://)[^\s/?#]*@")
_WORD = re.compile(r"\S+")

FIELDS = ("peer", "address", "principal", "remote", "url", "program", "origin", "event", "trace")
"""What each record has besides its text, for format strings and JSON. Where nothing fits, the value is None."""
_EXTRA = "wsrpc_fields"

SEARCHED = 4 * LONGEST_LINE
"""Number of characters that are searched for URLs. The rest of a text is never shown."""


def for_log(value: object) -> object:
    """Return ``value`` for a log line. Numbers are returned unchanged, all other values as one short line of text.

    Queries and passwords of URLs, which exceptions often quote, are removed.
    """
    if isinstance(value, int | float):
        return value
    try:
        text = str(value)
    except Exception:  # a user's `__str__`
        return one_line(value)
    # Before the text is cut. Otherwise a password whose end is cut off would be shown.
    seen = _PASSWORD.sub("…@", text[:SEARCHED])
    if "?" in seen:
        seen = _WORD.sub(_without_query, seen)
    return one_line(seen + text[SEARCHED:])


def _without_query(word: re.Match[str]) -> str:
    # Word by word, because one regular expression for the whole text took quadratic time.
    before, mark, query = word[0].partition("?")
    is_url = "://" in before or before.startswith("/")
    return f"{before}?…" if mark and ("=" in query or (is_url and query)) else word[0]


def sanitize(record: logging.LogRecord, *, omit_none: bool = False) -> bool:
    """Filter that makes a log record safe.

    The record and its traceback may quote text from the remote peer. It also gets all `FIELDS`: otherwise a format
    string with one of them would fail for most records. ``omit_none`` removes those that are None. They are not passed
    as ``extra=``, because `logging` raises KeyError if the user's record factory sets one of them, too.

    Formatters print ``exc_text`` if it is set. ``exc_info`` is kept for handlers that need the exception.
    """
    if not isinstance(record.args, tuple):
        record.msg, record.args = record.getMessage(), ()
    record.msg = for_log(record.msg)
    record.args = tuple(map(for_log, record.args))
    fields = vars(record).pop(_EXTRA, {})
    for name in FIELDS:
        value = getattr(record, name, None) if fields.get(name) is None else fields[name]
        setattr(record, name, None if value is None else for_log(value))
        if value is None and omit_none:
            delattr(record, name)
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        record.exc_text = "\n".join(_traceback(record.exc_info[1], set()))
    return True


CAUSE = "The above exception was the direct cause of the following exception:"
CONTEXT = "During handling of the above exception, another exception occurred:"
LONGEST_CHAIN, MOST_MEMBERS, DEEPEST_GROUP = 20, 15, 10
"""Maximum number of exceptions that are shown: in a chain of causes, in a group, and of nested groups."""


def _traceback(exc: BaseException, seen: set[int], depth: int = 0) -> Iterator[str]:
    """Yield the lines of a traceback. Unlike in Python's tracebacks, each exception text and each note is one line."""
    chain: list[tuple[BaseException, str]] = []
    found: BaseException | None = exc
    how = ""
    while found is not None and id(found) not in seen and len(chain) < LONGEST_CHAIN:
        seen.add(id(found))
        chain.append((found, how))
        how = CAUSE if found.__cause__ is not None else CONTEXT
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    indent = "  " * depth
    shown: Any
    for shown, how in reversed(chain):
        yield from (f"{indent}{line}" for line in _exception(shown))
        if issubclass(type(shown), BaseExceptionGroup) and depth < DEEPEST_GROUP:
            members: tuple[BaseException, ...] = shown.exceptions
            for number, member in enumerate(members[:MOST_MEMBERS], 1):
                yield f"{indent}  ---------------- {number} of {len(members)} ----------------"
                yield from _traceback(member, seen, depth + 1)
        if how:
            yield from ("", f"{indent}{how}", "")


def _exception(exc: BaseException) -> Iterator[str]:
    if exc.__traceback__ is not None:
        yield "Traceback (most recent call last):"
        for entry in traceback.format_tb(exc.__traceback__):
            yield from entry.rstrip("\n").split("\n")
    kind = type(exc)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    text = for_log(exc)
    yield name if text == "" else f"{name}: {text}"
    for note in getattr(exc, "__notes__", ()):
        yield f"{for_log(note)}"


class SafeLogger(logging.LoggerAdapter[logging.Logger]):
    """Logger for code that changes state: it raises nothing that filters and handlers of the application raise.

    Otherwise, such a mistake would leave a client, a session or a call between two states. It is reported instead.
    """

    def log(self, level: int, msg: object, *args: object, stacklevel: int = 1, **options: Any) -> None:
        try:
            self.logger.log(level, msg, *args, stacklevel=stacklevel + 1, **options)
        except BaseException as exc:
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise
            if _failures.spend():
                _LoggingFailed(exc)


class _LoggingFailed:
    """Raises an exception as it is dropped, which is at once: Python reports it by `sys.unraisablehook`.

    The log cannot report it, nor the event loop, which logs it.
    """

    def __init__(self, exc: BaseException) -> None:
        self._exc = exc

    def __del__(self) -> None:
        raise self._exc


def safe_logger(name: str) -> SafeLogger:
    """Return the logger with this name, with a filter that makes text from the remote peer safe.

    In messages and tracebacks, the filter escapes line ends and other unsafe characters, and shortens long text.
    """
    found = logging.getLogger(name)
    found.addFilter(sanitize)  # adding it again has no effect
    return SafeLogger(found)


logger = safe_logger("wsrpc")


def address_text(address: tuple[str, int] | None) -> str | None:
    """Return ``host:port`` for a log line, or only the host if a proxy did not name the port."""
    if address is None:
        return None
    host, port = one_line(address[0], LONGEST_HOST), address[1]
    if port == 0:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


LONGEST_HOST = 100


def logged_principal(principal: object) -> object:
    """Return a principal for the field of a record. It may be any object of the application."""
    return principal if principal is None or isinstance(principal, str | int) else short(principal)


HOUR = 3600.0
MOST_LOGGED = 1000
"""Number of lines of which it is known that they were logged. Others may be logged again."""


class LogBudget:
    """Limit of log lines that remote peers cause: ``most`` at once, then ``per_second``. Omitted lines are counted."""

    __slots__ = ("_bucket", "_logged", "_omitted")

    def __init__(self, most: int, per_second: float) -> None:
        self._bucket = TokenBucket(most, per_second)
        self._logged: dict[tuple[object, ...], None] = {}
        self._omitted = 0

    def is_new(self, *line: object) -> bool:
        """Return whether a line is to be logged that is written once, such as for each reason and client."""
        if line in self._logged:
            return False
        if len(self._logged) >= MOST_LOGGED:
            del self._logged[next(iter(self._logged))]
        self._logged[line] = None
        return True

    def spend(self) -> bool:
        """Spend the budget for one line. Return False if the line must be omitted."""
        if self._bucket.spend(time.monotonic()):
            return True
        self._omitted += 1
        return False

    def pop_omitted(self) -> int:
        """Return the number of lines that were omitted since the last call."""
        count, self._omitted = self._omitted, 0
        return count

    def log(self, level: int, text: str, /, *args: object, fields: Mapping[str, object], **options: Any) -> None:
        """Write a line that belongs to no peer, if the budget allows it."""
        if self.spend():
            if omitted := self.pop_omitted():
                logger.warning(OMITTED, omitted)
            logger.log(level, text, *args, **options, extra={_EXTRA: fields}, stacklevel=2)


OMITTED = "%d log lines were left out: too many in a short time"
OF_ONE_PEER = (100, 1.0)
OF_ONE_SERVER = (1000, 100.0)
"""Budgets for lines at WARNING and ERROR. (One connection can cause 40,000 of them, with tracebacks, in a second.)"""

_handshakes = LogBudget(*OF_ONE_SERVER)
_of_clients = LogBudget(*OF_ONE_SERVER)
"""Knows the lines that the clients of this process share."""
_failures = LogBudget(*OF_ONE_PEER)
"""Budget for reports of lines that could not be written."""


def quieten(record: logging.LogRecord) -> bool:
    """Filter of the log of the `websockets` library. Its tracebacks quote requests, and every port scan causes one."""
    if record.getMessage() != "opening handshake failed":
        return True
    record.exc_info = record.exc_text = None
    if not _handshakes.spend():
        return False
    if omitted := _handshakes.pop_omitted():
        record.msg, record.args = f"{record.msg}; {OMITTED}", (omitted,)
    return True


CallFields = Callable[[], Mapping[str, object]]
"""Returns the `FIELDS` of a record about a call. Called only if the record is written."""


class LogOptions(TypedDict, total=False):
    """What a line of a `PeerLog` can have besides its text."""

    exc_info: BaseException | None
    call: CallFields | None


class PeerLog:
    """The log of one peer: each line carries the peer's id, its addresses and its program in ``extra``.

    ``url`` is what a client dials, without secrets. ``address`` is the application's name for the peer, ``principal``
    its user, and ``program`` what the peer says of its program. ``errors`` counts the lines at ERROR, and ``on_error``
    is called for each. ``budget`` is the budget of the server.
    """

    __slots__ = (
        "_budget",
        "_omitted",
        "_on_error",
        "_quiet",
        "_servers_budget",
        "address",
        "errors",
        "id",
        "principal",
        "program",
        "remote",
        "url",
    )

    def __init__(
        self,
        remote: tuple[str, int] | None = None,
        on_error: Callable[[], None] | None = None,
        budget: LogBudget | None = None,
        address: str | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.remote = remote
        self.url: str | None = None
        self.address = address
        self.principal: object = None
        self.program: str | None = None
        self.errors = 0
        self._quiet = False
        self._on_error = on_error
        self._servers_budget = budget
        self._budget: LogBudget | None = None
        self._omitted = 0

    def quieten(self) -> None:
        """From now on, write lines at DEBUG instead of INFO."""
        self._quiet = True

    @property
    def place(self) -> str:
        """The URL of a client, or the present or last remote address and who is there, as text for a log line."""
        name = self.principal if self.address is None else self.address
        of = "" if name is None else f" ({short(name)})"
        return self.url or f"{address_text(self.remote) or 'an unknown address'}{of}"

    def shows(self, level: int) -> bool:
        """Return whether a line at this level would be written, or would cause a line about omitted lines."""
        if self._quiet and level == logging.INFO:
            level = logging.DEBUG
        return self._omitted > 0 or logger.logger.isEnabledFor(level)

    def __call__(self, level: int, text: str, /, *args: object, **options: Unpack[LogOptions]) -> None:
        self._log(level, text, args, options)

    def warn(self, text: str, /, *args: object, **options: Unpack[LogOptions]) -> None:
        """Write a line at WARNING."""
        self._log(logging.WARNING, text, args, options)

    def once(
        self, text: str, about: object, /, *args: object, call: CallFields | None = None, answered: bool = False
    ) -> None:
        """Write a line at WARNING about the first of several events of this peer, as further ones are only counted.

        If the log is quiet, as that of a peer which is there for one request, all peers of its client share the line,
        which is at DEBUG if the request was ``answered``: its sender knows.
        """
        client = short(self.address or self.principal or (self.remote and self.remote[0]))
        is_passed_on = call is not None and call().get("address") is not None  # between the nodes of a cluster
        if self._quiet and answered and not is_passed_on:
            self._log(logging.DEBUG, text, (about, *args), {"call": call})
        elif not self._quiet or self._servers_budget is None or self._servers_budget.is_new(text, about, client):
            self._log(logging.WARNING, text, (about, *args), {"call": call})

    def hourly(self, now: float, text: str, about: object, /, *args: object, call: CallFields | None = None) -> None:
        """Write a line at WARNING, once in an hour for all peers of a server, or all clients of a URL.

        Args:
            now: the time of the event loop, in seconds.
        """
        budget = self._servers_budget or (_of_clients if self.url else self._own_budget())
        if budget.is_new(text, about, self.url, now // HOUR):
            self._log(logging.WARNING, text, (about, *args), {"call": call})

    def note(self, text: str, /, *args: object) -> None:
        """Write a line at INFO that the remote peer can cause at any time, within the budget of warnings."""
        if self.shows(logging.INFO):
            if self._has_room():
                self._log(logging.INFO, text, args, {})
            else:
                self._omitted += 1

    def _log(self, level: int, text: str, args: tuple[object, ...], options: LogOptions) -> None:
        if self._quiet and level == logging.INFO:
            level = logging.DEBUG
        if level >= logging.ERROR:
            self.errors += 1
            if self._on_error is not None:
                self._on_error()
        if level >= logging.WARNING and not self._has_room():
            self._omitted += 1
            return
        if self._omitted and level >= logging.INFO:
            omitted, self._omitted = self._omitted, 0
            self._write(logging.WARNING, OMITTED, (omitted,), {})
        self._write(level, text, args, options)

    def _own_budget(self) -> LogBudget:
        if self._budget is None:
            self._budget = LogBudget(*OF_ONE_PEER)
        return self._budget

    def _has_room(self) -> bool:
        return self._own_budget().spend() and (self._servers_budget is None or self._servers_budget.spend())

    def _write(self, level: int, text: str, args: tuple[object, ...], options: LogOptions) -> None:
        if logger.logger.isEnabledFor(level):
            remote = address_text(self.remote)
            fields: dict[str, object] = {"peer": self.id, "address": self.address, "remote": remote, "url": self.url}
            if self.principal is not None:
                fields["principal"] = logged_principal(self.principal)
            if self.program is not None:
                fields["program"] = self.program
            if (call := options.get("call")) is not None:
                fields.update(call())
            # Most log formats show no attributes. A warning should name the peer, and a line of a client its URL.
            least = logging.WARNING if self.url is None else logging.INFO
            if level >= least and self.id not in args:
                place, address = self.url or remote, fields["address"]
                who = self.id if place is None else f"{self.id} at {place}"
                # A node of a cluster passes calls on to peers with addresses.
                text, args = f"{text} (peer %s)", (*args, who if address == self.address else f"{who}, for {address}")
            logger.log(level, text, *args, exc_info=options.get("exc_info"), extra={_EXTRA: fields}, stacklevel=4)
