"""Who may connect to a server: the rule of origins, then the user's `on_handshake`."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from ._log import address_text
from .errors import HandshakeRejected
from .handshake import Handshake, HandshakeFunction

__all__ = ["ANY_ORIGIN", "Entrance", "Origins"]

logger = logging.getLogger("wsrpc")


class _AnyOrigin:
    def __repr__(self) -> str:
        return "ANY_ORIGIN"


ANY_ORIGIN: Final = _AnyOrigin()
"""``Server(origins=ANY_ORIGIN)``: pages of any site may connect, with their visitors' cookies."""

Origins = Iterable[str] | Callable[[Handshake], bool] | _AnyOrigin
"""What may be in a browser's ``Origin`` besides the server's own host: a list, a function that decides, or anything."""

DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}


class Entrance:
    """Lets connections in, or not. `check` is asked for each, by whatever listens."""

    def __init__(self, origins: Origins) -> None:
        if isinstance(origins, str):
            raise TypeError(f"origins is a list of origins, got text: origins=[{origins!r}]")
        self._origins: frozenset[str] | Callable[[Handshake], bool] | _AnyOrigin
        if isinstance(origins, _AnyOrigin) or callable(origins):
            self._origins = origins
        else:
            self._origins = frozenset(origins)
        self.function: HandshakeFunction | None = None
        self.refused: Counter[int] = Counter()
        """How many were, by HTTP status."""
        self.closed = False
        """Whether nobody may connect any more."""

    @property
    def is_async(self) -> bool:
        """Whether `check` has to be awaited."""
        function = self.function
        return any(map(inspect.iscoroutinefunction, (function, type(function).__call__)))

    def check(self, handshake: Handshake) -> Awaitable[None] | None:
        """Let ``handshake`` pass, with what the user's function does to it; an awaitable if that is async.

        Raises:
            HandshakeRejected: it may not; 503 once the server closes; 500 for whatever else the user's function raises.
        """
        try:
            if self.closed:
                raise HandshakeRejected(503, "draining\n", {"Retry-After": "1"})
            self._check_origin(handshake)
            if self.function is None:
                return None
            result = self.function(handshake)
        except Exception as exc:
            raise self._refusal(handshake, exc) from exc
        return self._finish(handshake, result) if inspect.isawaitable(result) else None

    async def _finish(self, handshake: Handshake, result: Awaitable[Any]) -> None:
        try:
            async with asyncio.timeout(handshake.limits.open_timeout):
                await result
        except Exception as exc:
            raise self._refusal(handshake, exc) from exc

    def _check_origin(self, handshake: Handshake) -> None:
        origin = handshake.origin
        allowed = self._origins
        if origin is None or isinstance(allowed, _AnyOrigin):
            return
        if callable(allowed):
            if not allowed(handshake):
                logger.warning("refused the origin %r, as origins= says", origin, extra=_about(handshake))
                raise HandshakeRejected(403, "this origin is not allowed\n")
        elif origin not in allowed and not _same_host(origin, handshake.host):
            logger.warning(
                "refused the origin %r; to allow it: Server(origins=[%r])", origin, origin, extra={"origin": origin}
            )
            raise HandshakeRejected(403, "this origin is not allowed\n")

    def _refusal(self, handshake: Handshake, exc: Exception) -> HandshakeRejected:
        if isinstance(exc, HandshakeRejected):
            self.refused[exc.status] += 1
            return exc
        self.refused[500] += 1
        logger.error(
            "on_handshake failed, for %s from %s",
            handshake.path,
            handshake.remote,
            exc_info=exc,
            extra=_about(handshake),
        )
        return HandshakeRejected(500, "internal error\n")


def _about(handshake: Handshake) -> dict[str, object]:
    return {"origin": handshake.origin, "remote": address_text(handshake.remote)}


def _same_host(origin: str, host: str) -> bool:
    scheme, _, theirs = origin.lower().partition("://")
    port = f":{DEFAULT_PORTS.get(scheme, '')}"
    return theirs.removesuffix(port) == host.lower().removesuffix(port) and theirs != ""
