"""Accepts or refuses handshakes: trusted proxies, allowed origins and the user's `on_handshake`."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from math import inf
from typing import Any, cast

from ..._base.logs import LogBudget, address_text, logged_principal, logger
from ..._base.misuse import check_has_run
from ..._base.names import check_address
from ..._base.state import PeerState
from ..._core.handlers.callables import location
from ..._core.handlers.lifecycle import ends_the_task
from ...errors import HandshakeRejected, one_line, short, ungrouped
from ...handshake import REFUSED_HEADER, Handshake, HandshakeFunction
from ...headers import ResponseHeaders, check_response_header
from ...limits import Limits
from ...stats import RefusedByPrincipal, add_to
from .origins import OriginRule, Origins
from .proxies import TrustedProxies

OWN_HEADERS = frozenset({"connection", "upgrade", "content-length", "transfer-encoding"})
"""Response headers that belong to the handshake itself, besides ``Sec-WebSocket-…``."""
ATTRIBUTES = vars(Handshake("/", {})).keys()
LONGEST_REASON = 80


class Acceptance:
    """Whether a server accepts connections, and how many it has refused.

    `close` also ends the user's functions that decide on a connection.
    """

    def __init__(self, refused_by_principal: RefusedByPrincipal) -> None:
        self.closed = False
        self.refused: Counter[int] = Counter()
        """Counts of refused handshakes, by HTTP status."""
        self.quotas_unchecked = 0
        """Number of connections that were accepted without an answer of the store of `Quotas`."""
        self.refusals: dict[str, int] = {}
        """The same counts, by reason."""
        self.refused_by_principal = refused_by_principal
        """See `ServerStats.refused_by_principal`."""
        self._deciding: set[asyncio.Timeout] = set()

    @contextmanager
    def deciding(self, patience: asyncio.Timeout) -> Generator[None]:
        """Make the timeout ``patience`` of a user's function expire when no further connections are accepted."""
        self._deciding.add(patience)
        try:
            yield
        finally:
            self._deciding.discard(patience)

    def refuse(self, refusal: HandshakeRejected) -> HandshakeRejected:
        """Count a refusal, and return it to be raised, with the header that no proxy sends."""
        refusal.headers = ResponseHeaders(refusal.headers) | {REFUSED_HEADER: "1"}
        self.refused[refusal.status] += 1
        add_to(self.refusals, _reason(refusal))
        return refusal

    def close(self) -> None:
        """Accept no further connections."""
        self.closed = True
        for patience in self._deciding:
            if not patience.expired():
                patience.reschedule(asyncio.get_running_loop().time())


class HandshakeChecks:
    """Accepts or refuses connections. Listeners and adapters call `check` for each handshake."""

    def __init__(self, origins: Origins, trusted_proxies: Iterable[str], budget: LogBudget) -> None:
        self._budget = budget
        self._proxies = TrustedProxies(trusted_proxies)
        self._origins = OriginRule(origins, budget, knows_proxies=bool(self._proxies))
        self._function: HandshakeFunction | None = None
        self._where = ""
        self._warned = False

    def use(self, function: HandshakeFunction) -> None:
        """Call ``function`` for each handshake from now on."""
        where = location(function)
        if self._function is not None and where != self._where:
            logger.warning("on_handshake from %s is replaced by the one from %s", self._where, where)
        self._function, self._where = function, where

    def warn_of_any_origin(self) -> None:
        """Warn once if pages of any origin may connect."""
        if self._origins.allows_any and not self._warned:
            self._warned = True
            logger.warning("origins=ANY_ORIGIN: pages of any site may connect, with the cookies of their visitors")

    def check(self, handshake: Handshake, acceptance: Acceptance) -> Awaitable[None] | None:
        """Check ``handshake``, and call the user's function with it. Return an awaitable if the function is async.

        Raises:
            HandshakeRejected: the handshake is refused. The status is 500 for any other error of the user's function,
                and 503 if ``acceptance`` is closed.
        """
        seconds = handshake.limits.open_timeout
        self.warn_of_any_origin()
        if acceptance.closed:  # an application's own HTTP server may still listen
            raise acceptance.refuse(_closing())
        asked = "origins="
        try:
            if self._proxies:
                self._apply_proxies(handshake)
            self._origins.check(handshake)
            asked = "on_handshake"
            if self._function is not None:
                result = self._function(handshake)
                if inspect.isawaitable(result):
                    return self._finish(handshake, acceptance, result, seconds)
                _check_result(result)
            _complete(handshake)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as exc:  # also a CancelledError of something else than this task
            raise self.refusal(handshake, acceptance, exc, asked) from None
        return None

    async def _finish(
        self, handshake: Handshake, acceptance: Acceptance, result: Awaitable[Any], seconds: float
    ) -> None:
        patience = asyncio.timeout(seconds)
        with acceptance.deciding(patience):
            try:
                async with patience:
                    _check_result(await result)
                _complete(handshake)
            except BaseException as exc:
                if ends_the_task(exc):
                    raise
                if not (patience.expired() and isinstance(exc, TimeoutError)):
                    raise self.refusal(handshake, acceptance, exc) from None
                if acceptance.closed:
                    raise acceptance.refuse(_closing()) from None
                text = "on_handshake did not finish within %g s, for %s"
                self._budget.log(logging.ERROR, text, seconds, handshake, fields=_about(handshake))
                raise acceptance.refuse(HandshakeRejected(503, "the handshake timed out\n")) from None

    def refusal(
        self, handshake: Handshake, acceptance: Acceptance, exc: BaseException, asked: str = "on_handshake"
    ) -> HandshakeRejected:
        """Return the refusal because of ``exc``, which ``asked`` raised. Count it, and log it.

        If this method raised it, the traceback would refer to ``exc``, and all that the handshake has would wait for
        the garbage collector.
        """
        if isinstance(refusal := ungrouped(exc), HandshakeRejected):
            try:
                _check_refusal(refusal)
                _check_response_headers(handshake)
                budget = self._budget if asked == "on_handshake" else None  # of origins= there is a line already
                return reported(refusal, asked, handshake, acceptance, budget)
            except (TypeError, ValueError) as mistake:
                exc = mistake
        text = "refused a connection because %s failed, for %s"
        self._budget.log(logging.ERROR, text, asked, handshake, exc_info=exc, fields=_about(handshake))
        return acceptance.refuse(HandshakeRejected(500, "internal error\n"))

    def _apply_proxies(self, handshake: Handshake) -> None:
        seen = self._proxies.client_behind(handshake.remote, handshake.headers)
        if seen is not None:
            handshake.remote = seen.remote
            handshake.secure = handshake.secure if seen.secure is None else seen.secure
            handshake.host = seen.host or handshake.host


def reported(
    refusal: HandshakeRejected,
    by: str,
    handshake: Handshake,
    acceptance: Acceptance,
    budget: LogBudget | None,
    *,
    is_new: bool | None = None,
) -> HandshakeRejected:
    """Count a refusal, and return it. With ``budget``, log it if ``is_new``, or the first for each reason and client.

    It gets the headers that ``on_handshake`` has added, if it has no others with their names.

    The log names a client by the address or principal that ``on_handshake`` has set, because many can have one host.
    """
    usual = {"Retry-After": "1"} if refusal.status == 429 else {}
    refusal.headers = ResponseHeaders(usual) | handshake.response_headers | refusal.headers
    acceptance.refuse(refusal)
    acceptance.refused_by_principal.add(handshake.principal, {str(refusal.status): 1})
    names = (each for each in (handshake.address, handshake.principal) if each is not None)
    name = next(map(short, names), None)
    reason = _reason(refusal)
    if budget is not None and is_new is None:  # a client may choose the reason, of which few are counted one by one
        counted = reason if reason in acceptance.refusals else "others"
        is_new = budget.is_new(counted, name or (handshake.remote and handshake.remote[0]))
    if budget is not None and is_new:
        of = f" ({name})" if name else ""
        text = "%s refused %s%s: %s (further ones of this client are only counted, in server.stats().refusals)"
        budget.log(logging.WARNING, text, by, handshake, of, reason, fields=_about(handshake))
    return refusal


def _reason(refusal: HandshakeRejected) -> str:
    """Return the status and the first line of a response."""
    line = refusal.body.strip().partition("\n")[0]
    return one_line(f"{refusal.status} {line}".rstrip(), LONGEST_REASON)


def _about(handshake: Handshake) -> dict[str, object]:
    principal = logged_principal(handshake.principal)
    return {"remote": address_text(handshake.remote), "address": handshake.address, "principal": principal}


REOPEN = "`await server.open()` opens a closed server again"
"""Note of the errors that a program gets which connects to its own server."""


def _closing() -> HandshakeRejected:
    refusal = HandshakeRejected(503, "the server is closing\n", {"Retry-After": "1"})
    refusal.add_note(REOPEN)
    return refusal


def _check_refusal(rejected: HandshakeRejected) -> None:
    """Check that the refusal that a user's function raised can be sent.

    Raises:
        TypeError, ValueError: the refusal cannot be sent. The error message says why.
    """
    status: Any = rejected.status
    body: Any = rejected.body
    if not isinstance(status, int) or not 400 <= status <= 599:
        raise ValueError(f"the status of a refusal must be from 400 to 599, got {status!r}")
    if not isinstance(body, str):
        raise TypeError(f"the body of a refusal must be text, got {type(body).__name__}")
    try:
        body.encode()
    except UnicodeEncodeError:  # its own text has the characters, which cannot be logged either
        raise ValueError("the body of a refusal has lone surrogates, which cannot be sent") from None
    for name, value in ResponseHeaders(rejected.headers).pairs():
        check_response_header(name, value)


def _check_result(result: object) -> None:
    """Check the return value of a user's function. A value was probably meant as a decision, such as a refusal.

    Raises:
        TypeError: the value is not None.
    """
    check_has_run("on_handshake", result)
    if result is not None:
        got = type(result).__name__
        raise TypeError(
            f"on_handshake returns None, got {got}: to refuse a connection, call handshake.reject(401, ...)"
        )


def _seconds(expires: float) -> float:
    """Return a time as a float.

    Raises:
        ValueError: the time is not between the years 2001 and 2286, so it is probably a duration or in milliseconds.
    """
    with suppress(OverflowError):
        seconds = float(expires)
        if 1e9 <= seconds < 1e10 or seconds == inf:
            return seconds
    text = "handshake.expires is a time in seconds since the epoch, such as time.time() + 3600"
    raise ValueError(f"{text}, got {short(expires)}")


def _complete(handshake: Handshake) -> None:
    """Check the attributes of ``handshake`` that the user's function may have set, and complete ``handshake``.

    Raises:
        AttributeError, TypeError, ValueError: an attribute is not valid. The error message says which.
    """
    if unknown := vars(handshake).keys() - ATTRIBUTES:
        raise AttributeError(f"handshake.{min(unknown)} does not exist: for values of your own, use handshake.state")
    limits: Any = handshake.limits
    if not isinstance(limits, Limits):
        raise TypeError(f"handshake.limits must be a wsrpc.Limits, got {limits!r}")
    expires: Any = handshake.expires
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, (int, float))):
        raise TypeError(f"handshake.expires is a time in seconds since the epoch, as time.time(), got {expires!r}")
    if expires is not None:
        handshake.expires = _seconds(expires)
    if handshake.address is not None:
        check_address("handshake.address", handshake.address)
    state: Any = handshake.state
    if not isinstance(state, PeerState):
        if not isinstance(state, Mapping):
            raise TypeError(f"handshake.state must be a mapping, got {type(state).__name__}")
        given = cast("Mapping[str, Any]", state)
        handshake.state = PeerState()
        for key in given:  # a `Key` is kept under its name
            handshake.state[key] = given[key]
    _check_response_headers(handshake)


def _check_response_headers(handshake: Handshake) -> None:
    """Check the headers that the user's function has added.

    Raises:
        TypeError, ValueError: one of them cannot be sent, or belongs to the handshake.
    """
    added: Any = handshake.response_headers
    if added.__class__ is not ResponseHeaders:
        handshake.response_headers = ResponseHeaders() | added
    for name in handshake.response_headers:
        if name in OWN_HEADERS or name.startswith("sec-websocket-"):
            raise ValueError(f"on_handshake cannot set the header {name!r}: it belongs to the handshake itself")
